"""The systems that are compared: each two gateways and a Redis of its own, all running at once."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any, Self

import psutil

from wsdemo.redis.server import BundledServer

PYTHON = sys.executable
START_S = 20.0


@dataclass
class System:
    """One way to do the work: how to start a gateway of it, and what runs of it.

    `command` has {id}, {port} and {redis} in it.
    """

    name: str
    command: list[str]
    gateways: int = 2
    ports: list[int] = field(default_factory=list)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    server: BundledServer | None = None

    def __enter__(self) -> Self:
        self.server = BundledServer().start()
        try:
            for n in range(1, self.gateways + 1):
                self._start_gateway(f"gateway-{n:02}")
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start_gateway(self, gateway_id: str) -> None:
        assert self.server is not None
        port = _free_port()
        values = {"id": gateway_id, "port": port, "redis": self.server.url}
        process = subprocess.Popen([word.format(**values) for word in self.command])
        self.processes.append(process)
        self.ports.append(port)
        _await_door(self.name, process, port)

    def cpu_s(self) -> float:
        """Return the CPU time that the gateways have used, user and system, in seconds."""
        times = [psutil.Process(process.pid).cpu_times() for process in self.processes]
        return sum(t.user + t.system for t in times)

    def memory_bytes(self) -> int:
        """Return the memory that is the gateways' own (USS where the system tells, else RSS)."""
        total = 0
        for process in self.processes:
            info = psutil.Process(process.pid)
            total += info.memory_full_info().uss
        return total

    def __exit__(self, *exc_info: object) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self.server is not None:
            self.server.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _await_door(name: str, process: subprocess.Popen[bytes], port: int) -> None:
    """Wait until somebody listens on the port."""
    gives_up_at = time.monotonic() + START_S
    while time.monotonic() < gives_up_at:
        if process.poll() is not None:
            raise RuntimeError(f"{name} ended with exit code {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), 0.2).close()
            return
        except OSError:
            time.sleep(0.02)
    raise RuntimeError(f"{name} did not listen on port {port} within {START_S:g} s")


class Driver:
    """The load process of one system."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [PYTHON, "-m", "benchmarks.load"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def do(self, action: str, **plan: Any) -> dict[str, Any]:
        """Carry out one plan and return what came of it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": action, **plan}) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("the load process has ended")
        result: dict[str, Any] = json.loads(answer)
        return result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def wsdemo(*flags: str) -> System:
    """Ours, as shipped; at INFO it would write a line a message."""
    command = [PYTHON, "-m", "wsdemo.gateway", "--id", "{id}", "--port", "{port}"]
    return System("wsdemo", [*command, "--redis", "{redis}", "--log-level", "warning", *flags])


def plain() -> System:
    """The plain port."""
    command = [PYTHON, "-m", "benchmarks.plain", "--id", "{id}", "--port", "{port}"]
    return System("plain port", [*command, "--redis", "{redis}"])


def echo() -> System:
    """The floor without Redis: one process that sends back what it hears."""
    command = [PYTHON, "-m", "benchmarks.floors", "--port", "{port}"]
    return System("echo", command, gateways=1)

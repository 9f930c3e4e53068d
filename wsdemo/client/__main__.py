"""python -m wsdemo.client: a user at a prompt.

At a terminal, a half-typed line survives an incoming message. Lines that come through a pipe are
carried out in order, and at their end the client waits for the answers that are still due.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

from wsdemo.client.connection import Client, ClientClosed, ConnectFailed, Receipt
from wsdemo.command_line import Parser
from wsdemo.events import Event, Kind
from wsdemo.protocol import Status
from wsdemo.settings import redacted
from wsdemo.streams import LAST_WORDS_S, LineHandler, LineWriter, open_standard_streams
from wsdemo.user_ids import RULE, is_fit

PROGRAM: Final = "wsdemo.client"
DEFAULT_GATEWAY: Final = "ws://localhost:8080/ws"
STUCK_S: Final = 5.0
"""How long the end waits for a reader of stdout who takes not a byte."""
ROOM_CHARS: Final = 1 << 16
"""Output that waits for its reader; beyond it, nothing more is taken in."""
ROOM_POLL_S: Final = 0.05
READ_AHEAD: Final = 100
"""Lines of a pipe that wait for their turn; beyond it, the pipe is read no further."""
HELP: Final = """\
  send <user> <message>   send a message
  status                  where we are connected
  help                    this list
  quit                    leave"""

ANSWERS: Final = {
    Status.OFFLINE: "User not found",
    Status.UNREACHABLE: "the gateway of that user does not answer; try again",
    Status.BUSY: "not sent: the gateway cannot route at the moment; try again",
    Status.UNKNOWN: "no answer: it may or may not have arrived",
}

Say = Callable[[str], None]
Room = Callable[[], Awaitable[None]]
"""Waits until what was said before has nearly all been read."""


def parser() -> Parser:
    """Return the command line, with the demo's flags."""
    result = Parser(PROGRAM, description="A user at a prompt.")
    result.add_argument("-user", "--user", required=True, help="who you are")
    result.add_argument(
        "-gateway",
        "--gateway",
        action="append",
        metavar="URL",
        help=f"repeat it for a failover list ({DEFAULT_GATEWAY})",
    )
    result.add_argument(
        "--token-file",
        default="",
        metavar="FILE",
        help="proof of who you are, where gateways want one (WSDEMO_TOKEN); read at each attempt",
    )
    return result


def printable(text: str) -> str:
    """Escape what could move the cursor, colour the screen, or turn the line around."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class Prompt:
    """Carries out what is typed, and tells what happens."""

    def __init__(self, client: Client, say: Say, room: Room) -> None:
        self._client = client
        self._say = say
        self._room = room

    async def run(self, lines: AsyncIterator[str]) -> None:
        """Carry out lines until `quit` or their end."""
        async for line in lines:
            word, _, rest = line.strip().partition(" ")
            match word:
                case "":
                    pass
                case "send":
                    await self._send(rest)
                case "status":
                    self._status()
                case "help":
                    self._say(HELP)
                case "quit" | "exit":
                    return
                case _:
                    self._say(f"unknown command {printable(word)!r}; try help")

    async def _send(self, rest: str) -> None:
        to, _, content = rest.strip().partition(" ")
        if not to or not content.strip():
            self._say("usage: send <user> <message>")
            return
        await self._room()
        self._report(await self._client.send(to, content.strip()))

    def _report(self, receipt: Receipt) -> None:
        to = printable(receipt.to)
        if receipt.status is Status.ROUTED:
            self._say(f"[Client] sent to {to} ({1000 * receipt.latency_s:.1f} ms)")
            return
        why = receipt.error if receipt.status is Status.REFUSED else None
        text = why or ANSWERS.get(receipt.status or Status.UNKNOWN, "")
        self._say(f"[Client] {to}: {text}")

    def _status(self) -> None:
        client = self._client
        where = f"{client.gateway_id or '?'} ({redacted(client.gateway)})"
        self._say(f"[Client] {client.user} is {client.state}, gateway {where}")

    async def tell_messages(self) -> None:
        """Print what comes in, until the client is closed."""
        async for message in self._client:
            await self._room()
            self._say(f"[Message] {printable(message.sender)}: {printable(message.content)}")
        self._say(f"[Client] {self._client.closed_because}")

    def tell_event(self, event: Event) -> None:
        """Print what happens to the connection."""
        if event.kind is Kind.REGISTERED:
            self._say(f"[Client] {event.user} registered on {event.gateway or 'the gateway'}")
        elif event.kind is Kind.WS_CLOSE:
            self._say(f"[Client] connection lost ({printable(event.reason)}); reconnecting")


async def piped_lines() -> AsyncIterator[str]:
    """Yield the lines of a stdin that is not a terminal."""
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[str] = asyncio.Queue()
    room = threading.Semaphore(READ_AHEAD)

    def read() -> None:
        # Not through sys.stdin: its lock, held by a thread that waits, is fatal at exit.
        with contextlib.suppress(RuntimeError):  # The loop is closed: nobody wants lines any more.
            with (
                contextlib.suppress(OSError),  # What cannot be read has ended.
                open(0, encoding="utf-8", errors="replace", closefd=False) as stdin,
            ):
                while line := stdin.readline():
                    room.acquire()
                    loop.call_soon_threadsafe(lines.put_nowait, line)
            loop.call_soon_threadsafe(lines.put_nowait, "")

    # A thread, because a regular file cannot be waited for by an event loop; a daemon, because
    # whoever is replaced or presses Ctrl-C leaves without waiting for a line.
    threading.Thread(target=read, name="stdin", daemon=True).start()
    while line := await lines.get():
        room.release()
        yield line


async def typed_lines() -> AsyncIterator[str]:
    """Yield what is typed at a terminal."""
    try:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.patch_stdout import patch_stdout
    except ImportError:
        # Without it, an incoming message may land in the middle of what is being typed.
        async for line in piped_lines():
            yield line
        return
    session: PromptSession[str] = PromptSession("> ")
    with patch_stdout():
        while True:
            try:
                yield await session.prompt_async()
            except (EOFError, KeyboardInterrupt):
                return


def token_of(path: str) -> Callable[[], str]:
    """Return what reads the token: from a file, or the environment. An argument could be read by
    everybody who lists processes.
    """
    if not path:
        return lambda: os.environ.get("WSDEMO_TOKEN", "")
    return lambda: Path(path).read_text(encoding="utf-8").strip()


class Output:
    """What the user reads. Heartbeats go on, whether it is read or not.

    At a terminal the prompt is drawn by others, around whatever is printed. Otherwise a thread
    writes; who does not read holds up what would be written next, and at last the socket.
    """

    def __init__(self, at_terminal: bool) -> None:
        self._writer = None if at_terminal else LineWriter(1, encoding=sys.stdout.encoding)

    def say(self, text: str) -> None:
        if self._writer is not None:
            self._writer.add_now(text)
            return
        with contextlib.suppress(OSError):  # Nobody is there to be told that nobody is there.
            print(text, flush=True)

    async def room(self) -> None:
        """Wait until what was said before has nearly all been read."""
        # Nothing tells when a thread has written.
        while self._writer is not None and self._writer.waiting > ROOM_CHARS:  # noqa: ASYNC110
            await asyncio.sleep(ROOM_POLL_S)

    def end(self, patience_s: float) -> str:
        """Wait for the reader, as long as it reads; return what has become of unread output."""
        writer = self._writer
        if writer is None:
            return ""
        while not writer.flush(patience_s) and not writer.stuck:
            pass
        if writer.stuck:
            return "nobody reads it"
        lost = writer.problem.strerror if writer.problem is not None else "nobody has read it"
        return str(lost) if writer.dropped else ""


async def talk(
    user: str, gateways: Sequence[str], token: Callable[[], str], output: Output
) -> None:
    """Connect, and be at the prompt until the user or the gateways have had enough."""
    say = output.say
    client = Client(user, gateways, token=token, emit=lambda event: prompt.tell_event(event))
    prompt = Prompt(client, say, output.room)
    async with client:
        if sys.stdin.isatty():
            say(HELP)
        lines = typed_lines() if at_terminal() else piped_lines()
        messages = asyncio.create_task(prompt.tell_messages(), name="messages")
        commands = asyncio.create_task(prompt.run(lines), name="commands")
        try:
            await asyncio.wait([messages, commands], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (messages, commands):
                task.cancel()
        with contextlib.suppress(asyncio.CancelledError, ClientClosed):
            await asyncio.gather(messages, commands)


def at_terminal() -> bool:
    """Say whether somebody types and reads there."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    open_standard_streams()
    command = parser()
    arguments = command.read(argv)
    if not is_fit(arguments.user):  # Which of the others it takes, the gateway says.
        command.fail(f"user id {arguments.user!r:.80} is not valid: {RULE}")
    gateways = arguments.gateway or [DEFAULT_GATEWAY]
    token = token_of(arguments.token_file)
    try:
        token()
    except (OSError, ValueError) as problem:
        command.fail(
            f"token file {arguments.token_file}: {getattr(problem, 'strerror', None) or problem}"
        )
    log = LineHandler(LineWriter(2, encoding=sys.stderr.encoding))
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[log])
    output = Output(at_terminal())
    # prompt_toolkit reads the terminal through the loop; that is tried on asyncio's own.
    try:
        asyncio.run(talk(arguments.user, gateways, token, output))
    except (ConnectFailed, ValueError) as problem:
        output.end(LAST_WORDS_S)
        command.fail(str(problem))
    except KeyboardInterrupt:
        output.end(LAST_WORDS_S)
        raise SystemExit(130) from None
    if unread := output.end(STUCK_S):
        command.fail(f"not all output could be written: {unread}")


if __name__ == "__main__":
    main()

"""python -m wsdemo.client: a user at a prompt.

At a terminal, a half-typed line survives an incoming message. Lines that come through a pipe are
carried out in order, and at their end the client waits for the answers that are still due.

Exit code: 0 after `quit`, the end of the input, or when a gateway has closed for good; 2 for a
mistake on the command line, or when no gateway accepted us at the start; 1 when lines of the output
could not be written; 128 plus the number of the signal that ended it (SIGINT, SIGTERM, SIGHUP, and
SIGPIPE when the output has no reader any more).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import logging
import os
import signal
import ssl
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from typing import Any, Final, TextIO

import platformdirs

from wsdemo.addresses import without_secrets
from wsdemo.client.client import DEVICE, DEVICE_RULE, Client
from wsdemo.client.connection import ClientClosed, ConnectFailed, State
from wsdemo.client.items import Item, Member, Message, Missed, WatchEnded
from wsdemo.client.output import Output
from wsdemo.client.positions import FilePosition, PositionError
from wsdemo.client.receipts import Receipt
from wsdemo.client.rooms import RequestRefused
from wsdemo.client.tokens import TokenFile, TokenUnavailable
from wsdemo.command_line import Parser
from wsdemo.events import Event, Kind
from wsdemo.protocol import Status
from wsdemo.settings import redacted
from wsdemo.streams import LineHandler, LineWriter, open_standard_streams
from wsdemo.terminal import mended
from wsdemo.user_ids import RULE, is_fit

PROGRAM: Final = "wsdemo.client"
DEFAULT_GATEWAY: Final = "ws://localhost:8080/ws"
READ_AHEAD: Final = 100
"""Lines of a pipe that are read ahead; beyond it, the pipe is read no further."""
SAY_TRYING_S: Final = 0.5
"""When there is no connection after this long, the prompt says which gateway is tried."""
SIGPIPE_CODE: Final = 141
LAST_WORDS_S: Final = 0.5
"""How long the exit waits until the last lines are read."""
HELP: Final = """\
  send <user> <message>      send a message
  join <room>                join a room, and see who is in it
  leave <room>               leave it
  publish <room> <message>   send a message to all who are in a room
  watch <user> ...           be told when users come and go
  unwatch <user> ...         be told no more
  status                     where we are connected
  help                       this list
  quit                       leave"""

ANSWERS: Final = {
    Status.OFFLINE: "User not found",
    Status.UNREACHABLE: "the gateway of that user does not answer; try again",
    Status.BUSY: "not sent: the gateway cannot route at the moment; try again",
    Status.UNKNOWN: "no answer: it may or may not have arrived",
}
DURABLE_ANSWERS: Final = {
    Status.STORED: "stored for",
    Status.DUPLICATE: "was stored before for",
    Status.ROUTED: "sent to",
}


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
        help="proof of who you are, where gateways want one (WSDEMO_TOKEN); read again at each "
        "attempt, and before the token in use ends",
    )
    result.add_argument(
        "--cafile",
        default="",
        metavar="FILE",
        help="certificates (PEM) to believe behind wss://, in place of those that this machine "
        "believes: your own authority's, or a gateway's that signed its own",
    )
    result.add_argument(
        "--durable",
        action="store_true",
        help="read what was stored while you were away, and send messages that are stored; "
        "the gateways must run with --durable",
    )
    result.add_argument(
        "--position",
        default="",
        metavar="FILE",
        help="where a durable client keeps how far you have read "
        "(a file for each user, device and list of gateways, in the folder for state of programs)",
    )
    result.add_argument(
        "--device",
        default="",
        metavar="NAME",
        help="the name of this device, where a user may have several; it keeps its name",
    )
    return result


class Prompt:
    """Carries out commands, and prints what happens.

    Args:
        position: where a durable client keeps how far it has read. Then what is sent is stored.
    """

    def __init__(
        self, client: Client, output: Output, position: FilePosition | None = None
    ) -> None:
        self._client = client
        self._position = position
        self._durable = position is not None
        self._output = output
        self._say = output.say
        self._told: set[str] = set()
        """Failures that were printed already since we were last registered."""
        self._last_trouble = ""

    async def run(self, lines: AsyncGenerator[str, None]) -> None:
        """Carry out lines until `quit` or their end."""
        async for line in lines:
            await self._output.room()
            word, rest = _first_word(mended(line))
            match word.removeprefix("/"):
                case "":
                    pass
                case "send":
                    await self._send(rest)
                case "publish":
                    await self._publish(rest)
                case "join" | "leave" | "watch" | "unwatch" as what:
                    await self._ask(what, rest.split())
                case "status":
                    self._say(f"[Client] {self._status()}")
                case "help":
                    self.help()
                case "quit" | "exit":
                    return
                case _:
                    self._say(f"unknown command '{word}'; try help")

    def help(self) -> None:
        for line in HELP.splitlines():
            self._say(line)

    async def _send(self, rest: str) -> None:
        to, content = _first_word(rest)
        if not to or not content.strip():
            self._say("usage: send <user> <message>")
            return
        self._report(await self._client.send(to, content, durable=self._durable))

    async def _publish(self, rest: str) -> None:
        room, content = _first_word(rest)
        if not room or not content.strip():
            self._say("usage: publish <room> <message>")
            return
        self._report(await self._client.publish(room, content))

    async def _ask(self, what: str, names: list[str]) -> None:
        """Join or leave a room, watch or no longer watch users."""
        is_about_users = what in ("watch", "unwatch")
        if not names or (len(names) > 1 and not is_about_users):
            self._say(f"usage: {what} " + ("<user> ..." if is_about_users else "<room>"))
            return
        client = self._client
        try:
            match what:
                case "join":
                    joined = await client.join(names[0])
                    who = ", ".join(joined.members)
                    self._say(f"[Client] joined {names[0]}; there are {joined.count}: {who}")
                case "leave":
                    await client.leave(names[0])
                    self._say(f"[Client] left {names[0]}")
                case "watch":
                    await client.watch(names)
                case _:
                    await client.unwatch(names)
        except (RequestRefused, ClientClosed) as problem:
            self._say(f"[Client] {what} {' '.join(names)}: {problem}")
        except TimeoutError:
            self._say(f"[Client] {what} {' '.join(names)}: no answer; try again")

    def _report(self, receipt: Receipt) -> None:
        said = DURABLE_ANSWERS.get(receipt.status or Status.UNKNOWN)
        if said is not None:
            self._say(f"[Client] {said} {receipt.to} ({1000 * receipt.latency_s:.1f} ms)")
            return
        why = receipt.error if receipt.status is Status.REFUSED else None
        text = why or ANSWERS.get(receipt.status or Status.UNKNOWN, "")
        self._say(f"[Client] {receipt.to}: {text}")

    def _status(self) -> str:
        client = self._client
        text = f"{client.user} is {client.state}"
        if client.state is State.REGISTERED:
            text += f", gateway {client.gateway_id or '?'} ({redacted(client.gateway)})"
        elif client.state is not State.CLOSED:
            text += f", trying {redacted(client.gateway)}"
            text += f" ({self._last_trouble})" if self._last_trouble else ""
        return text

    async def tell_items(self) -> None:
        """Print what comes in, until the client is closed.

        A message is done when its line is written: a prompt that is killed before shows it again.
        """
        while True:
            try:
                item = await self._client.next_item()
            except ClientClosed:
                break
            except PositionError as problem:
                self._say(f"[Client] {problem}; messages may come again")
                continue
            await self._output.room()
            lost = self._output.lost
            self._say(_line_of(item))
            if self._durable:
                await self._output.written()
                if self._output.lost > lost or self._output.is_gone:
                    return  # It is not done: it will be shown at the next start.
        self._say(f"[Client] {self._client.closed_because}")

    def tell_position(self) -> None:
        """Print where it is kept how far the user has read."""
        if self._position is not None:
            self._say(f"[Client] how far you have read is kept in {self._position.path}")

    def tell_trying(self) -> None:
        """Print which gateway is tried, unless a failure was printed already."""
        if self._client.state is State.CONNECTING and not self._told:
            self._say(f"[Client] trying {redacted(self._client.gateway)} ...")

    def tell_event(self, event: Event) -> None:
        """Print what changes about the connection; the same failure only once."""
        match event.kind:
            case Kind.REGISTERED:
                self._told.clear()
                self._last_trouble = ""
                self._say(f"[Client] {event.user} registered on {event.gateway or 'the gateway'}")
            case Kind.WS_CLOSE:
                self._last_trouble = event.reason
                self._say(f"[Client] connection lost ({event.reason}); reconnecting")
            case Kind.WS_FAIL:
                self._last_trouble = event.reason
                if event.reason not in self._told:
                    self._told.add(event.reason)
                    self._say(f"[Client] {event.reason}; trying again")
            case Kind.TOKEN if event.ok:
                self._say("[Client] there is a token again")
            case Kind.TOKEN:
                self._last_trouble = event.reason
                self._say(f"[Client] {event.reason}; looking again")
            case _:
                pass


def _line_of(item: Item) -> str:
    match item:
        case Message(room=""):
            return f"[Message] {item.sender}: {item.content}"
        case Message():
            return f"[{item.room}] {item.sender}: {item.content}"
        case Missed():
            return "[Client] " + _gap_of(item)
        case Member():
            verb = "joined" if item.state == "join" else "left"
            why = f" ({item.reason})" if item.reason else ""
            return f"[{item.room}] {item.user} {verb}{why}"
        case WatchEnded():
            return f"[{item.room}] is not watched any more ({item.reason})"
        case _:
            why = f" ({item.reason})" if item.reason else ""
            return f"[Presence] {item.user} is {item.state}{why}"


def _gap_of(gap: Missed) -> str:
    if gap.room:
        return f"messages of {gap.room} may be missing here"
    if gap.count is None:
        return "earlier messages may be missing here"
    return f"{gap.count} earlier message{'s are' if gap.count != 1 else ' is'} missing here"


def _first_word(line: str) -> tuple[str, str]:
    """Return the first word of a line, and the rest.

    Any space ends the word, also that of a Japanese keyboard. Of the rest only the blanks at both
    ends do not count: a text may begin with a space of its own.
    """
    words = line.split(maxsplit=1)
    if not words:
        return "", ""
    rest = line.lstrip()[len(words[0]) :]
    return words[0], rest[1:].lstrip(" \t").rstrip(" \t\r\n")


class Leaving:
    """The request to exit, and its exit code: from a signal, or because the output has no reader.

    Belongs to the task in which it was made.
    """

    def __init__(self) -> None:
        self.code = 0
        self._told = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()

    def listen(self) -> None:
        """Handle signals from now on, except those that our parent process has set to ignore."""
        if sys.platform == "win32":
            return  # Its loops cannot handle signals; Ctrl-C is a KeyboardInterrupt.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._loop.add_signal_handler(number, self.on_signal, number)

    def on_signal(self, number: int) -> None:
        """Exit with a close frame; at a second signal, without one."""
        if self._told.is_set() and self._task is not None:
            self._task.cancel()
        self.code = 128 + number
        self._told.set()

    def nobody_reads(self) -> None:
        """Exit as a program that SIGPIPE ends."""
        if not self._told.is_set():
            self.code = SIGPIPE_CODE
            self._told.set()

    async def unless_told(self, work: Coroutine[Any, Any, None], grace_s: float = 0.0) -> None:
        """Run this until it ends, or until the request to exit and then `grace_s` more."""
        task = asyncio.create_task(work)
        told = asyncio.create_task(self._told.wait())
        try:
            await asyncio.wait([task, told], return_when=asyncio.FIRST_COMPLETED)
            if not task.done() and grace_s:
                await asyncio.wait([task], timeout=grace_s)
        finally:
            task.cancel()
            told.cancel()
            await asyncio.wait([task, told])
        if not task.cancelled():
            task.result()


async def piped_lines() -> AsyncGenerator[str, None]:
    """Yield the lines of a stdin that is not a terminal."""
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[str] = asyncio.Queue()
    room = threading.Semaphore(READ_AHEAD)

    # A byte order mark is no part of the first command.
    encoding = "utf-8-sig"
    if _is_terminal(sys.stdin):
        encoding = sys.stdin.encoding

    def read() -> None:
        # Not through sys.stdin: its lock, held by a thread that waits, is fatal at exit.
        with contextlib.suppress(RuntimeError):  # The loop is closed: lines are not needed.
            with (
                contextlib.suppress(OSError),  # An input that cannot be read has ended.
                open(0, encoding=encoding, errors="surrogateescape", closefd=False) as stdin,
            ):
                if sys.platform != "win32":
                    os.set_blocking(0, True)  # Or a pipe that is empty for now looks like its end.
                while line := stdin.readline():
                    room.acquire()
                    loop.call_soon_threadsafe(lines.put_nowait, line)
            loop.call_soon_threadsafe(lines.put_nowait, "")

    # A thread, because an event loop cannot wait for a regular file; a daemon, because the exit
    # must not wait for a line.
    threading.Thread(target=read, name="stdin", daemon=True).start()
    while line := await lines.get():
        room.release()
        yield line


async def typed_lines(output: Output, leaving: Leaving) -> AsyncGenerator[str, None]:
    """Yield what is typed at a terminal."""
    try:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.patch_stdout import patch_stdout
    except ImportError:
        # Without it, an incoming message may land in the middle of what is being typed.
        async for line in piped_lines():
            yield line
        return
    await output.written()
    session: PromptSession[str] = PromptSession("> ", enable_suspend=True)
    with patch_stdout():
        output.through = sys.stdout
        try:
            while True:
                # Signals are ours; the keys are the terminal's.
                yield await session.prompt_async(handle_sigint=False)
        except KeyboardInterrupt:
            leaving.on_signal(signal.SIGINT)
        except (EOFError, OSError):
            pass  # The end of the input, or of the terminal.
        finally:
            output.through = None


def _is_terminal(*streams: TextIO | None) -> bool:
    return all(stream is not None and stream.isatty() for stream in streams)


def token_of(path: str) -> str | TokenFile:
    """Return the source of the token: a file, or the environment. Everybody who lists processes
    could read an argument.
    """
    return TokenFile(path) if path else os.environ.get("WSDEMO_TOKEN", "")


def position_of(arguments: argparse.Namespace, gateways: Sequence[str]) -> FilePosition | None:
    """Return where a durable prompt keeps its position: one file for each user, device and list of
    gateways, unless the command line names one.
    """
    if arguments.position:
        return FilePosition(arguments.position)
    if not arguments.durable:
        return None
    who = "\n".join([arguments.user, arguments.device, *sorted(map(without_secrets, gateways))])
    name = hashlib.sha256(who.encode(errors="surrogatepass")).hexdigest()[:32]
    return FilePosition(platformdirs.user_state_path("wsdemo", False) / f"{name}.json")


async def talk(
    user: str,
    gateways: Sequence[str],
    token: str | Callable[[], str],
    tls: ssl.SSLContext | None = None,
    position: FilePosition | None = None,
    device: str = "",
) -> int:
    """Connect, and run the prompt until its end; return the exit code.

    Args:
        position: where a durable client keeps how far it has read; None for a plain client.

    Raises:
        ConnectFailed: no gateway accepted us at the start.
        PositionError: the position cannot be used.
        ValueError: an address cannot work.
    """
    leaving = Leaving()
    output = Output(leaving.nobody_reads)
    client = Client(
        user,
        gateways,
        durable=position is not None,
        position=position,
        device=device,
        token=token,
        tls=tls,
        emit=lambda event: prompt.tell_event(event),
    )
    prompt = Prompt(client, output, position)
    leaving.listen()
    try:
        try:
            await leaving.unless_told(_converse(client, prompt, output, leaving))
        finally:
            await client.close()
            await leaving.unless_told(output.written(), LAST_WORDS_S)
    except asyncio.CancelledError:
        pass  # The second signal: exit without a close frame.
    return leaving.code or (1 if output.lost else 0)


async def _converse(client: Client, prompt: Prompt, output: Output, leaving: Leaving) -> None:
    """Connect, then carry out lines and print messages until either ends."""
    at_terminal = _is_terminal(sys.stdin, sys.stdout)
    trying = asyncio.get_running_loop().call_later(
        0.0 if at_terminal else SAY_TRYING_S, prompt.tell_trying
    )
    try:
        await client.start()
    finally:
        trying.cancel()
    prompt.tell_position()
    if at_terminal:
        prompt.help()
    async with contextlib.aclosing(
        typed_lines(output, leaving) if at_terminal else piped_lines()
    ) as lines:
        tasks = [
            asyncio.create_task(prompt.tell_items(), name="items"),
            asyncio.create_task(prompt.run(lines), name="commands"),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.result()


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    _die_of_ctrl_c()
    open_standard_streams()
    command = parser()
    arguments = command.read(argv)
    if not is_fit(arguments.user):  # Which of the others it takes, the gateway says.
        command.fail(f"user id {arguments.user!r:.80} is not valid: {RULE}")
    gateways = arguments.gateway or [DEFAULT_GATEWAY]
    if not DEVICE.fullmatch(arguments.device):
        command.fail(f"--device {arguments.device!r:.80}: {DEVICE_RULE}")
    if arguments.position and not arguments.durable:
        command.fail("--position is for --durable")
    position = position_of(arguments, gateways)
    log = LineHandler(LineWriter(2, encoding=sys.stderr.encoding))
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[log])
    token = token_of(arguments.token_file)
    tls = None
    try:
        if isinstance(token, TokenFile):
            token()
        if arguments.cafile:
            tls = ssl.create_default_context(cafile=arguments.cafile)
    except TokenUnavailable as problem:
        command.fail(str(problem))
    except OSError as problem:  # Among them, that there is no certificate in it.
        command.fail(f"certificates {arguments.cafile}: {problem.strerror or problem}")
    try:
        # prompt_toolkit reads the terminal through the loop; that is tried on asyncio's own.
        code = asyncio.run(talk(arguments.user, gateways, token, tls, position, arguments.device))
    except (ConnectFailed, PositionError, ValueError) as problem:
        command.fail(str(problem))
    except KeyboardInterrupt:  # Where the loop does not hear of it.
        code = 128 + signal.SIGINT
    _die_of_ctrl_c()
    raise SystemExit(code)


def _die_of_ctrl_c() -> None:
    """Let Ctrl-C end the process at once, without a traceback, while there is no connection."""
    if sys.platform != "win32" and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


if __name__ == "__main__":
    main()

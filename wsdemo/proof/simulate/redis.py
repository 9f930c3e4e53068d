"""What is Redis, when there is none?

fakeredis, which runs the shipped Lua on the virtual clock, behind a server of our own that speaks
RESP over simulated connections: the gateways reach it through their own `RedisLink` and
`Subscription`, and redis-py's `Connection`, unchanged. That fakeredis and the real server agree on
every script is the claim of a test of its own.

One thing more than a server: whoever wants to know hears of each command after its execution.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

import hiredis
import redis
from fakeredis import FakeServer
from fakeredis._core import Database
from fakeredis._socket import FakeSocket

from wsdemo.proof.simulate.hosts import Host
from wsdemo.proof.simulate.network import End, Network

PORT: Final = 6379
VERSION: Final = (7, 2)
DATABASE: Final = 0
COLLECT_SELDOM: Final = """
local collect, calls = collectgarbage, 0
collectgarbage = function()
  calls = calls + 1
  if calls % 1000 == 0 then collect() end
end
"""

Fields = Sequence[bytes]
OnCommand = Callable[[Fields, Any], None]
"""Hears of a command and its reply, after its execution. The end of a connection is no command."""


class ReplyError(Exception):
    """A command was refused; the text begins with the code."""


class _Database(Database):
    """The data of a server whose clock is virtual: what fakeredis reads from the real one is
    ignored.
    """

    def __init__(self, lock: Any, clock: Callable[[], float]) -> None:
        self._clock = clock
        super().__init__(lock)

    @property
    def time(self) -> float:
        return self._clock()

    @time.setter
    def time(self, now: float) -> None:
        """It is not settable."""


def server_with(clock: Callable[[], float]) -> FakeServer:
    """Make a server whose time is that of a clock (Unix seconds)."""
    server = FakeServer(version=VERSION)
    server.dbs = defaultdict(lambda: _Database(server.lock, clock))
    return server


class Mouth(FakeSocket):
    """One client, as fakeredis sees it. Replies and messages go to `say` at once."""

    def __init__(
        self,
        server: FakeServer,
        number: int,
        say: Callable[[Any], None],
        heard: OnCommand,
        instead: Mapping[bytes, bytes],
    ) -> None:
        self._number = number
        self._instead = instead
        self._say = say
        self._heard = heard
        super().__init__(server, DATABASE, client_class=redis.Redis)

    def __hash__(self) -> int:
        # Subscribers are kept in sets: their order must not depend on where objects lie in memory.
        return self._number

    def __eq__(self, other: object) -> bool:
        return self is other

    def time(self) -> list[bytes]:
        """Answer TIME by the clock of the server."""
        seconds, micros = divmod(round(self._server.dbs[DATABASE].time * 1e6), 1_000_000)
        return [b"%d" % seconds, b"%d" % micros]

    def _get_server_runtime(self, server: FakeServer) -> Any:
        """fakeredis collects Lua's garbage after each script; now and then is enough."""
        is_new = not hasattr(server, "_lua_runtime")
        runtime = super()._get_server_runtime(server)
        if is_new:
            runtime.execute(COLLECT_SELDOM)
        return runtime

    def put_response(self, msg: Any) -> None:
        self._say(msg)

    def _decode_error(self, error: Any) -> Any:
        return ReplyError(error.value)

    def eval(self, script: bytes, numkeys: int, *keys_and_args: bytes) -> Any:
        """Run a script. fakeredis takes a shebang for Lua, so it is made a comment."""
        script = self._instead.get(script, script)
        if not script.startswith(b"#!"):
            return super().eval(script, numkeys, *keys_and_args)
        self.script_load(script)
        return super().eval(b"--" + script, numkeys, *keys_and_args)

    def execute(self, fields: Fields) -> None:
        """Execute one command; its replies go to `say`."""
        replies: list[Any] = []
        say, self._say = self._say, replies.append
        try:
            self._process_command(list(fields))
        finally:
            self._say = say
        for reply in replies:
            say(reply)
        self._heard(fields, replies[0] if replies else None)


class _Visitor(asyncio.Protocol):
    """One connection to the server."""

    def __init__(self, server: MemoryRedis) -> None:
        self._server = server
        self._commands = _Commands()
        self._mouth: Mouth
        self._transport: End

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(End, transport)
        self._mouth = self._server.mouth(self._say)
        self._server.visitors.append(self)

    def data_received(self, data: bytes) -> None:
        for fields in self._commands.feed(data):
            if self._transport.is_closing():
                return
            self._mouth.execute(fields)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.visitors.remove(self)
        self._mouth.kill()

    def _say(self, reply: Any) -> None:
        self._transport.write(resp(reply))

    @property
    def listens(self) -> bool:
        """Whether this is a subscriber."""
        return bool(self._mouth._pubsub)

    def hang_up(self) -> None:
        """End the connection, as CLIENT KILL does: the server forgets it at once."""
        self._mouth.kill()
        self._transport.abort()


class MemoryRedis:
    """The server: `start`, then find it at `host.name`, port 6379.

    Args:
        heard: hears of every command.
    """

    def __init__(self, network: Network, heard: OnCommand) -> None:
        self._network = network
        self._heard = heard
        self.instead: dict[bytes, bytes] = {}
        """Text of a script -> the text that is executed in its place."""
        self._numbers = 0
        self._server = server_with(self._now)
        self.host: Host
        self.visitors: list[_Visitor] = []

    def _now(self) -> float:
        return self.host.wall.time()

    def start(self) -> None:
        """Run on a host of its own."""
        self.host = self._network.host("redis")
        self._network.listen(self.host, PORT, lambda: _Visitor(self))
        self._control = self.host.context.copy().run(self.mouth, _ignore)

    def stop(self, keep_data: bool) -> None:
        """Die as by SIGKILL. With `keep_data`, what was stored is there after the next `start`;
        the cache of scripts and all subscriptions are gone in any case.
        """
        self._network.kill(self.host)
        for visitor in self.visitors:
            visitor._mouth.kill()
        self.visitors.clear()
        old, self._server = self._server, server_with(self._now)
        if keep_data:
            self._server.dbs[DATABASE].swap(old.dbs[DATABASE])

    def mouth(self, say: Callable[[Any], None]) -> Mouth:
        """Make a client; the first one is number 1."""
        self._numbers += 1
        return Mouth(self._server, self._numbers, say, self._heard, self.instead)

    def execute(self, *fields: bytes | str) -> Any:
        """Execute a command at once, on a connection that no accident touches.

        Raises:
            ReplyError: it was refused.
        """
        replies: list[Any] = []
        self._control._say = replies.append
        words = [field if isinstance(field, bytes) else field.encode() for field in fields]
        self.host.context.copy().run(self._control.execute, words)
        if isinstance(replies[0], ReplyError):
            raise replies[0]
        return replies[0]

    def repeat(self, fields: Fields) -> None:
        """Execute a command once more; nobody reads the reply."""
        self._control._say = _ignore
        self.host.context.copy().run(self._control.execute, fields)

    def hang_up(self, listeners: bool) -> None:
        """CLIENT KILL TYPE pubsub, or TYPE normal."""
        for visitor in list(self.visitors):
            if visitor.listens is listeners:
                visitor.hang_up()

    def entry(self, key: str) -> tuple[dict[str, str], bool]:
        """Return a hash as it is now, and whether it has a TTL; looks at the data, and asks nobody.

        Expired entries are not there.
        """
        database = self._server.dbs[DATABASE]
        item = database.get(key.encode())
        if item is None:
            return {}, False
        fields = {name.decode(): value.decode() for name, value in item.value.items()}
        return fields, item.expireat is not None

    def keys(self) -> dict[str, bool]:
        """Return all keys, and whether each has a TTL."""
        database = self._server.dbs[DATABASE]
        return {key.decode(): database[key].expireat is not None for key in list(database)}


class _Commands:
    """Cuts a stream of bytes into commands (RESP arrays of bulk strings)."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader(notEnoughData=None)

    def feed(self, data: bytes) -> list[Fields]:
        self._reader.feed(data)
        commands: list[Fields] = []
        while (command := self._reader.gets()) is not None:
            commands.append(command)
        return commands


def resp(value: Any) -> bytes:
    """Write a reply in RESP2."""
    match value:
        case None:
            return b"$-1\r\n"
        case ReplyError():
            return b"-%b\r\n" % str(value).encode()
        case int():
            return b":%d\r\n" % value
        case str():
            return resp(value.encode())
        case bytes():
            return b"$%d\r\n%b\r\n" % (len(value), value)
        case list() | tuple():
            return b"*%d\r\n%b" % (len(value), b"".join(map(resp, value)))
        case _:
            raise TypeError(f"no way to say {value!r} in RESP2")


def _ignore(reply: Any) -> None:
    """Nobody waits for this reply."""

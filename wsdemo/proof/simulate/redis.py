"""Redis server: how do simulated gateways reach a Redis, when there is none?

fakeredis behind a server of our own that speaks RESP over simulated connections. The gateways reach
it through their own `RedisLink` and `Subscription`, and redis-py's `Connection`, unchanged.

It does one thing more than a server: it reports each command after its execution.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any, Final, cast

from wsdemo.proof.simulate.connection import SimulatedTransport
from wsdemo.proof.simulate.fake_redis import (
    DATABASE,
    FakeRedisClient,
    Fields,
    OnCommand,
    ReplyError,
    SimulatedServer,
    server_with,
)
from wsdemo.proof.simulate.hosts import SimulatedHost
from wsdemo.proof.simulate.network import SimulatedNetwork
from wsdemo.proof.simulate.resp import CommandParser, resp

REDIS_HOST: Final = "redis"
REDIS_PORT: Final = 6379
HINT: Final = b'{"type":"stored"'
"""What a gateway is told that has the recipient of a durable message begins with this."""


class _ServedConnection(asyncio.Protocol):
    """One connection to the server."""

    def __init__(self, server: SimulatedRedis) -> None:
        self._server = server
        self._commands = CommandParser()
        self._client: FakeRedisClient
        self._transport: SimulatedTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(SimulatedTransport, transport)
        self._client = self._server.new_client(self._send)
        self._server.connections.append(self)

    def data_received(self, data: bytes) -> None:
        for fields in self._commands.feed(data):
            if self._transport.is_closing():
                return
            self._client.execute(fields)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.remove(self)
        self.forget()

    def _send(self, reply: Any) -> None:
        if self._server.loses_hints and is_hint(reply):
            return
        self._transport.write(resp(reply))

    @property
    def subscribes(self) -> bool:
        """Whether this is a subscriber."""
        return self._client.subscribes

    def forget(self) -> None:
        """End its subscriptions."""
        self._client.kill()

    def hang_up(self) -> None:
        """End the connection, as CLIENT KILL does: the server forgets it at once."""
        self.forget()
        self._transport.abort()


class SimulatedRedis:
    """The server: `start`, then find it at `redis:6379`.

    Args:
        on_command: called with every command.
        replacements: text of a script -> the text that is executed in its place.
    """

    def __init__(
        self,
        network: SimulatedNetwork,
        on_command: OnCommand,
        replacements: Mapping[bytes, bytes],
    ) -> None:
        self._network = network
        self._on_command = on_command
        self._replacements = replacements
        self._clients = 0
        self._rng = random.Random("runs of Redis")
        self._server = self._new_server()
        self._control: FakeRedisClient
        self.host: SimulatedHost
        self.connections: list[_ServedConnection] = []
        self.loses_hints = False
        """Whether no gateway hears that a message was stored."""

    def _new_server(self) -> SimulatedServer:
        return server_with(self._now, self._rng.randbytes(20).hex())

    def _now(self) -> float:
        return self.host.clock.time()

    def start(self) -> None:
        """Run on a host of its own."""
        self.host = self._network.host(REDIS_HOST)
        self._network.listen(self.host, REDIS_PORT, lambda: _ServedConnection(self))
        self._control = self.host.context.copy().run(self.new_client, _ignore)

    def stop(self, keep_data: bool) -> None:
        """End as by SIGKILL. With `keep_data`, what was stored is there after the next `start`;
        the cache of scripts and all subscriptions are gone in any case.
        """
        self._network.kill(self.host)
        for connection in self.connections:
            connection.forget()
        self.connections.clear()
        old, self._server = self._server, self._new_server()
        if keep_data:
            self._server.dbs[DATABASE].swap(old.dbs[DATABASE])

    def copy(self, *prefixes: str) -> dict[bytes, Any]:
        """Return a copy of what is stored under keys with one of these prefixes."""
        database = self._server.dbs[DATABASE]
        starts = tuple(prefix.encode() for prefix in prefixes)
        return {key: deepcopy(database[key]) for key in list(database) if key.startswith(starts)}

    def put_back(self, copied: Mapping[bytes, Any], *prefixes: str) -> None:
        """Let what is stored under these prefixes be what it was when it was copied."""
        database = self._server.dbs[DATABASE]
        starts = tuple(prefix.encode() for prefix in prefixes)
        for key in [key for key in list(database) if key.startswith(starts)]:
            del database[key]
        for key, item in copied.items():
            database[key] = item

    def new_client(self, send: Callable[[Any], None]) -> FakeRedisClient:
        """Make a client; the first one is number 1."""
        self._clients += 1
        return FakeRedisClient(
            self._server, self._clients, send, self._on_command, self._replacements
        )

    def execute(self, *words: str) -> Any:
        """Execute a command at once, on a connection that no fault touches.

        Raises:
            ReplyError: it was refused.
        """
        replies: list[Any] = []
        self._run([word.encode() for word in words], replies.append)
        if isinstance(replies[0], ReplyError):
            raise replies[0]
        return replies[0]

    def repeat(self, fields: Fields) -> None:
        """Execute a command once more; nobody reads the reply."""
        self._run(fields, _ignore)

    def _run(self, fields: Fields, send: Callable[[Any], None]) -> None:
        self.host.context.copy().run(self._control.execute, fields, send)

    def hang_up(self, subscribers: bool) -> None:
        """CLIENT KILL TYPE pubsub, or TYPE normal."""
        for connection in list(self.connections):
            if connection.subscribes is subscribers:
                connection.hang_up()

    def entry(self, key: str) -> tuple[dict[str, str], bool]:
        """Return a hash as it is now, and whether it has a TTL; no command is executed for it.

        Expired entries are not there.
        """
        item = self._server.dbs[DATABASE].get(key.encode())
        if item is None:
            return {}, False
        fields = {name.decode(): value.decode() for name, value in item.value.items()}
        return fields, item.expireat is not None

    def keys(self) -> dict[str, bool]:
        """Return all keys, and whether each has a TTL."""
        database = self._server.dbs[DATABASE]
        return {key.decode(): database[key].expireat is not None for key in list(database)}


def is_hint(reply: Any) -> bool:
    """Say whether a published message only says that there is something to read."""
    return isinstance(reply, list) and reply[:1] == [b"message"] and reply[2].startswith(HINT)


def _ignore(reply: Any) -> None:
    """Nobody waits for this reply."""

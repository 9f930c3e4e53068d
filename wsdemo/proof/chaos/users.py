"""What do users do while everything breaks around them?

They talk all the time, each with numbered messages; they move to another gateway, vanish without a
goodbye, leave and come back, log in twice. `Talker` is the real client with its failover list.
`Plain` is a user as the Go demo has them: no ids, no attempts counted, a reconnect that knows no
close codes. Whatever they do or are told goes into the history.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from wsdemo.client import Client
from wsdemo.client.connection import ClientClosed, ConnectFailed, State
from wsdemo.events import Event, Kind
from wsdemo.proof.history import (
    Closed,
    Left,
    Phase,
    Pinged,
    Ponged,
    Received,
    Record,
    Registered,
    Sent,
    Violation,
)
from wsdemo.protocol import Status
from wsdemo.rig.wire import Wire
from wsdemo.settings import ClientSettings

Note = Callable[[Record], None]

PATIENCE: Final = ClientSettings(
    connect_timeout_s=1.0,
    register_timeout_s=1.5,
    close_timeout_s=0.3,
    ack_timeout_s=2.0,
    backoff_base_s=0.05,
    backoff_cap_s=0.3,
    pong_within_at_least_s=2.0,
)
"""Of a client in a hurry: production waits up to 5 s where this one waits 0.3 s."""
TALK_EVERY_S: Final = 0.35
ROAM_EVERY_S: Final = 3.0
MARK: Final = "nobody-else-may-read-this:"
"""What the content of every message begins with, so that it is recognised where it must not be."""
MOUTHS: Final = 2
"""Messages that one user has on their way at the same time."""
COME_BACK_S: Final = 10.0
MOVE_S: Final = 2.0
_PHASES: Final = {Status.ROUTED: Phase.OK, Status.UNKNOWN: Phase.UNKNOWN}


class Doors:
    """How one user reaches each gateway: through wires of her own. `start`, `stop`."""

    def __init__(self, ports: Mapping[str, int], rng: random.Random) -> None:
        self.wires = {name: Wire("127.0.0.1", port, rng) for name, port in ports.items()}

    async def start(self) -> Self:
        for wire in self.wires.values():
            await wire.start()
        return self

    async def stop(self) -> None:
        await asyncio.gather(*(wire.stop() for wire in self.wires.values()))

    def url(self, gateway: str) -> str:
        return f"ws://127.0.0.1:{self.wires[gateway].port}/ws"

    def urls(self, first: str) -> list[str]:
        """Return a failover list that begins with this gateway."""
        names = sorted(self.wires)
        start = names.index(first)
        return [self.url(name) for name in [*names[start:], *names[:start]]]


class Talker:
    """A user with the real client; usually one session, for a moment two.

    Args:
        peers: whom she may write to; she is among them.
        note, clock: the history, and the clock that it is on.
        complain: hears of what a user must never live through.
    """

    def __init__(
        self,
        name: str,
        doors: Doors,
        peers: Sequence[str],
        rng: random.Random,
        note: Note,
        clock: Callable[[], float],
        complain: Callable[[Violation], None],
    ) -> None:
        self.name = name
        self.doors = doors
        self.online = False
        """Whether she wants to be there."""
        self.clients: list[Client] = []
        self.roaming = True
        self._peers = [peer for peer in peers if peer != name]
        self._rng = rng
        self._note = note
        self._clock = clock
        self._complain = complain
        self._acting = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._said_closed: set[str] = set()
        self._numbers = itertools.count(1)

    # --- life ----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Register, and begin to talk and to roam."""
        await self.come()
        for _ in range(MOUTHS):
            self._own(self._talk())
        self._own(self._roam())

    async def stop(self) -> None:
        """Say goodbye and stop."""
        self._stopping = True
        self.online = self.roaming = False
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._close_all()

    def _own(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name=self.name)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        """Say so when one of her doings has broken down: a mute user proves nothing."""
        self._tasks.discard(task)
        if not task.cancelled() and (problem := task.exception()) is not None:
            text = f"{self.name} has broken down: {problem!r}"
            self._complain(Violation("user", self._clock(), text))

    # --- sessions ------------------------------------------------------------------------------

    @property
    def registered(self) -> list[Client]:
        """Her sessions that believe to be there."""
        return [client for client in self.clients if client.state is State.REGISTERED]

    async def come(self, first: str = "") -> None:
        """Register somewhere, for as long as it takes."""
        self.online = True
        while not self._stopping:
            client = self._client(first or self._rng.choice(sorted(self.doors.wires)))
            self.clients.append(client)
            try:
                await client.start(COME_BACK_S)
            except ConnectFailed:
                self.clients.remove(client)
                self._note(Registered(t=self._clock(), user=self.name, phase=Phase.FAIL))
                if self.clients:
                    return  # Told to leave before it was there: another of hers was later.
                continue
            self._own(self._listen(client))
            return

    def _client(self, first: str) -> Client:
        return Client(
            self.name,
            self.doors.urls(first),
            settings=PATIENCE,
            rng=random.Random(self._rng.random()),
            clock=self._clock,
            emit=self._heard,
        )

    def _heard(self, event: Event) -> None:
        t, user = self._clock(), self.name
        match event.kind:
            case Kind.WS_OPEN:
                self._note(Registered(t=t, user=user, phase=Phase.INVOKE))
            case Kind.PING:
                self._note(Pinged(t=t, user=user, conn=event.conn_id))
            case Kind.PONG:
                self._note(Ponged(t=t, user=user, conn=event.conn_id))
            case Kind.SEND:
                self._note(
                    Sent(
                        t=t,
                        user=user,
                        phase=Phase.INVOKE,
                        id=event.msg_id,
                        to=event.peer,
                        conn=event.conn_id,
                    )
                )
            case Kind.ACK:
                self._answered(event.msg_id, Status(event.reason))
            case Kind.REGISTERED:
                self._note(
                    Registered(
                        t=t, user=user, phase=Phase.OK, conn=event.conn_id, gateway=event.gateway
                    )
                )
            case Kind.WS_CLOSE:
                self._ended(event.conn_id, event.close_code)
            case _:
                pass

    def _answered(self, msg_id: str, status: Status, *, told: bool = True) -> None:
        self._note(
            Sent(
                t=self._clock(),
                user=self.name,
                phase=_PHASES.get(status, Phase.FAIL),
                id=msg_id,
                status=status.value,
                told=told,
            )
        )

    def _ended(self, conn: str, code: int | None) -> None:
        """Take note of the end of a session, once."""
        if not conn or conn in self._said_closed:
            return
        self._said_closed.add(conn)
        self._note(Closed(t=self._clock(), user=self.name, conn=conn, code=code or 0))

    async def _listen(self, client: Client) -> None:
        async for message in client:
            self._note(
                Received(
                    t=self._clock(),
                    user=self.name,
                    conn=client.conn_id,
                    id=message.id or message.content.removeprefix(MARK),
                    sender=message.sender,
                )
            )

    # --- talking -------------------------------------------------------------------------------

    async def _talk(self) -> None:
        while True:
            await asyncio.sleep(self._rng.expovariate(1 / TALK_EVERY_S))
            if client := next(iter(self.registered), None):
                await self.say(client, self._rng.choice(self._peers))

    async def say(self, client: Client, to: str) -> Status:
        """Send one message; return what became of it."""
        receipt = await client.send(to, f"{MARK}{next(self._numbers)}")
        assert receipt.status is not None
        if receipt.status is Status.UNKNOWN and receipt.error:
            # The client has given up; no gateway has said so.
            self._answered(receipt.id, receipt.status, told=False)
        return receipt.status

    # --- roaming -------------------------------------------------------------------------------

    async def _roam(self) -> None:
        ways = (self.move, self.move, self.vanish, self.leave, self.log_in_twice)
        while True:
            await asyncio.sleep(self._rng.expovariate(1 / ROAM_EVERY_S))
            await self.look_after_sessions()
            if self.roaming:
                await self._rng.choice(ways)()

    async def look_after_sessions(self) -> None:
        """Let go of sessions that were told to leave; come back if none is left."""
        async with self._acting:
            for client in [one for one in self.clients if one.state is State.CLOSED]:
                self._ended(client.conn_id, client.close_code)
                self.clients.remove(client)
                if not self.clients and self.online and not self._stopping:
                    text = (
                        f"{self.name} has no session left, and never asked for that: the last one "
                        f"was told {client.closed_because!r}"
                    )
                    self._complain(Violation("P8", self._clock(), text))
            if self.online and not self.clients and not self._stopping:
                await self.come()

    async def move(self, to: str = "") -> None:
        """Leave for another gateway, with a goodbye."""
        async with self._acting:
            for client in self.registered[:1]:
                there = to or self._rng.choice(sorted(self.doors.wires))
                self._means_to_end(client)
                # It goes on trying; or it has been told meanwhile that another one is there.
                with contextlib.suppress(TimeoutError, ClientClosed):
                    await client.move(self.doors.url(there), MOVE_S)

    async def vanish(self) -> None:
        """Lose the connection without a goodbye; the client comes back by itself."""
        for client in self.registered[:1]:
            self._means_to_end(client)
            client.abort()

    def _means_to_end(self, client: Client) -> None:
        if client.state is State.REGISTERED:
            self._note(Left(t=self._clock(), user=self.name, conn=client.conn_id))

    async def leave(self) -> None:
        """Go, and come back after a while."""
        async with self._acting:
            self.online = False
            await self._close_all()
            await asyncio.sleep(self._rng.uniform(0.2, 1.0))
            await self.come()

    async def log_in_twice(self, *gateways: str) -> None:
        """Log in at another device, or at several at the same moment; the older one is told."""
        async with self._acting:
            places = gateways or (self._rng.choice(sorted(self.doors.wires)),)
            await asyncio.gather(*(self.come(place) for place in places))

    async def _close_all(self) -> None:
        clients, self.clients = self.clients, []
        for client in clients:
            self._means_to_end(client)
        await asyncio.gather(*(client.close() for client in clients))
        for client in clients:
            # Unless it was told otherwise before: `close_code` may be of an earlier attempt.
            self._ended(client.conn_id, None)


class Plain:
    """A user of the Go demo: no ids, no attempts, and back again whatever the close code said."""

    def __init__(
        self,
        name: str,
        doors: Doors,
        peers: Sequence[str],
        rng: random.Random,
        note: Note,
        clock: Callable[[], float],
        complain: Callable[[Violation], None],
        heartbeat_s: float,
    ) -> None:
        self.name = name
        self.doors = doors
        self.online = False
        self.conn = ""
        """The session that she has; '' while she has none."""
        self._peers = [peer for peer in peers if peer != name]
        self._rng = rng
        self._note = note
        self._clock = clock
        self._complain = complain
        self._heartbeat_s = heartbeat_s
        self._numbers = itertools.count(1)
        self._fresh: dict[str, float] = {}
        self._heard_at = 0.0
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self.online = True
        self._task = asyncio.create_task(self._keep(), name=f"{self.name} (plain)")
        self._task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (problem := task.exception()) is not None:
            text = f"{self.name} has broken down: {problem!r}"
            self._complain(Violation("user", self._clock(), text))

    async def stop(self) -> None:
        self.online = False
        if self.conn:
            self._note(Left(t=self._clock(), user=self.name, conn=self.conn))
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _keep(self) -> None:
        for gateway in itertools.cycle(self._rng.sample(sorted(self.doors.wires), 3)):
            with contextlib.suppress(OSError, TimeoutError, WebSocketException):
                async with asyncio.timeout(PATIENCE.connect_timeout_s):
                    connection = await connect(
                        self.doors.url(gateway),
                        ping_interval=None,
                        compression=None,
                        close_timeout=PATIENCE.close_timeout_s,
                        proxy=None,
                    )
                try:
                    await self._converse(connection)
                finally:
                    self._lost(connection)
            await asyncio.sleep(self._rng.uniform(0.02, 0.3))

    def _lost(self, connection: ClientConnection) -> None:
        connection.transport.abort()
        conn, self.conn = self.conn, ""
        if conn:
            code = connection.close_code or 0
            self._note(Closed(t=self._clock(), user=self.name, conn=conn, code=code))

    async def _converse(self, connection: ClientConnection) -> None:
        self._note(Registered(t=self._clock(), user=self.name, phase=Phase.INVOKE))
        async with asyncio.timeout(PATIENCE.register_timeout_s):
            await connection.send(json.dumps({"type": "register", "userId": self.name}))
            while (answer := json.loads(await connection.recv()))["type"] != "registered":
                pass
        self.conn, gateway = answer["connId"], answer["gatewayId"]
        t = self._heard_at = self._clock()
        self._note(Registered(t=t, user=self.name, phase=Phase.OK, conn=self.conn, gateway=gateway))
        mouths = [asyncio.create_task(work(connection)) for work in (self._beat, self._talk)]
        try:
            while True:
                self._take(json.loads(await connection.recv()))
        finally:
            for mouth in mouths:
                mouth.cancel()
            await asyncio.gather(*mouths, return_exceptions=True)

    def _take(self, answer: dict[str, Any]) -> None:
        t = self._heard_at = self._clock()
        if answer["type"] == "message":
            msg_id = answer.get("id") or answer["content"].removeprefix(MARK)
            self._note(
                Received(t=t, user=self.name, conn=self.conn, id=msg_id, sender=answer["from"])
            )
        elif answer["type"] == "pong":
            self._note(Ponged(t=t, user=self.name, conn=self.conn))
        elif answer["type"] == "error" and answer.get("code") == Status.UNKNOWN.value:
            # It does not say which one: any that was sent a moment ago.
            for msg_id in self._fresh:
                self._note(
                    Sent(
                        t=t,
                        user=self.name,
                        phase=Phase.UNKNOWN,
                        id=msg_id,
                        status=Status.UNKNOWN.value,
                    )
                )

    async def _beat(self, connection: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            while self._clock() - self._heard_at < 3 * self._heartbeat_s:
                self._note(Pinged(t=self._clock(), user=self.name, conn=self.conn))
                await connection.send('{"type":"ping"}')
                await asyncio.sleep(self._heartbeat_s)
        connection.transport.abort()

    async def _talk(self, connection: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                await asyncio.sleep(self._rng.expovariate(1 / TALK_EVERY_S))
                await self._say(connection, self._rng.choice(self._peers))

    async def _say(self, connection: ClientConnection, to: str) -> None:
        msg_id = f"{self.name}/{next(self._numbers)}"
        t = self._clock()
        self._fresh = {one: at for one, at in self._fresh.items() if t - at < 2.0} | {msg_id: t}
        self._note(
            Sent(
                t=t,
                user=self.name,
                phase=Phase.INVOKE,
                id=msg_id,
                to=to,
                conn=self.conn,
                asks=False,
            )
        )
        content = f"{MARK}{msg_id}"
        await connection.send(json.dumps({"type": "message", "to": to, "content": content}))

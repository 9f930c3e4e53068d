"""Users: what do users with the real client do while faults are active?

They send numbered messages all the time. They move to another gateway, lose their connection
without a close frame, leave and come back, and log in twice. All that they do and are answered goes
into the history. `plain_users` has users as those of the Go demo.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, Self

from wsdemo.client import Client, Message
from wsdemo.client.connection import ClientClosed, ConnectFailed, State
from wsdemo.events import Event, Kind
from wsdemo.proof import scribe
from wsdemo.proof.application import is_plain
from wsdemo.proof.history import (
    Closed,
    Left,
    Phase,
    Received,
    Record,
    Registered,
    Violation,
)
from wsdemo.proof.promises import Promise
from wsdemo.protocol import Code, Status
from wsdemo.rig.wire import Wire
from wsdemo.settings import ClientSettings
from wsdemo.tasks import end

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
"""Shorter waits than in production, which waits up to 5 s where this client waits 0.3 s."""
TALK_EVERY_S: Final = 0.35
ROAM_EVERY_S: Final = 3.0
MARK: Final = "nobody-else-may-read-this:"
"""The begin of the content of each message, so that it is found where it must not be."""
SENDERS: Final = 2
"""How many messages of one user may be on their way at the same time."""
COME_BACK_S: Final = 10.0
MOVE_S: Final = 2.0
HUSH_S: Final = 5.0
"""How long the last answers may take when a user falls silent."""


class UserRoutes:
    """The TCP relays through which one user reaches each gateway. `start`, `stop`."""

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


class ClientUser:
    """A user with the real client. Usually it has one session, for short times two.

    Args:
        name: its user; or a device of its user, as `alice/phone`.
        peers: the users to whom it may write; it is one of them.
        note, clock: append to the history, and the clock of the history.
        complain: called with anything that must never happen to a user.
    """

    def __init__(
        self,
        name: str,
        routes: UserRoutes,
        peers: Sequence[str],
        rng: random.Random,
        note: Note,
        clock: Callable[[], float],
        complain: Callable[[Violation], None],
    ) -> None:
        self.name = name
        self.routes = routes
        self.online = False
        """Whether this user wants to be online."""
        self.clients: list[Client] = []
        self.roaming = True
        self.account, _, self.device = name.partition("/")
        """To whom messages are sent; and the name of the device, where users have several."""
        self._peers = [peer for peer in peers if peer != self.account]
        self._rng = rng
        self._note = note
        self._clock = clock
        self._complain = complain
        self._acting = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._talking: list[asyncio.Task[None]] = []
        self._is_silent = False
        self._stopping = False
        self._said_closed: set[str] = set()
        self._numbers = itertools.count(1)

    # --- life ----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Register, and begin to send and to move."""
        await self.come()
        self._talking = [self._own(self._talk()) for _ in range(SENDERS)]
        self._own(self._roam())

    async def stop(self) -> None:
        """Leave, and stop."""
        self._stopping = True
        self.online = self.roaming = False
        await end(*self._tasks)
        await self._close_all()

    async def hush(self) -> None:
        """Say nothing more, and stay. What was said is still answered."""
        self.roaming, self._is_silent = False, True
        if self._talking:
            await asyncio.wait(self._talking, timeout=HUSH_S)

    def _own(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=self.name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        """Complain when a task of this user has failed: a silent user proves nothing."""
        self._tasks.discard(task)
        if not task.cancelled() and (problem := task.exception()) is not None:
            text = f"{self.name} has failed: {problem!r}"
            self._complain(Violation("user", self._clock(), text))

    # --- sessions ------------------------------------------------------------------------------

    @property
    def registered(self) -> list[Client]:
        """The sessions that believe to be registered."""
        return [client for client in self.clients if client.state is State.REGISTERED]

    async def come(self, first: str = "") -> None:
        """Register somewhere; try until it succeeds."""
        self.online = True
        while not self._stopping:
            client = self._client(first or self._rng.choice(sorted(self.routes.wires)))
            self.clients.append(client)
            began = self._clock()
            try:
                await client.start(COME_BACK_S)
            except ConnectFailed:
                self.clients.remove(client)
                self._note(Registered(t=self._clock(), user=self.name, phase=Phase.FAIL))
                if self.clients and self._clock() - began < COME_BACK_S:
                    return  # It was superseded before it was registered: another session was newer.
                # Otherwise no gateway has answered in time. Its register may have been executed
                # all the same, and have ended the other session: so it has to come back.
                continue
            self._own(self._listen(client))
            return

    def _client(self, first: str) -> Client:
        return Client(
            self.account,
            self.routes.urls(first),
            device=self.device,
            settings=PATIENCE,
            rng=random.Random(self._rng.random()),
            clock=self._clock,
            emit=self._heard,
        )

    def _heard(self, event: Event) -> None:
        # Messages of plain users have no id on the wire: `_listen` finds it in the content.
        if event.kind is Kind.ARRIVE or not is_plain(event.msg_id):
            return
        record = scribe.record_of(event, t=self._clock(), user=self.name)
        if isinstance(record, Closed):
            self._ended(record.conn, record.code)
        elif record is not None:
            self._note(record)

    def _ended(self, conn: str, code: int = 0) -> None:
        """Record the end of a session, once."""
        if conn and conn not in self._said_closed:
            self._said_closed.add(conn)
            self._note(Closed(t=self._clock(), user=self.name, conn=conn, code=code))

    async def _listen(self, client: Client) -> None:
        async for message in client:
            self._note_received(client, message)

    def _note_received(self, client: Client, message: Message) -> None:
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
        while not self._is_silent:
            await asyncio.sleep(self._rng.expovariate(1 / TALK_EVERY_S))
            if client := next(iter(self.registered), None):
                await self.act(client)

    async def act(self, client: Client) -> None:
        """Do one thing that users do all the time."""
        await self.say(client, self._rng.choice(self._peers))

    async def say(self, client: Client, to: str) -> Status:
        """Send one message; return its status."""
        receipt = await client.send(to, f"{MARK}{next(self._numbers)}")
        assert receipt.status is not None
        if receipt.status is Status.UNKNOWN and receipt.error:
            # The client has stopped waiting; no gateway has answered.
            t, status = self._clock(), receipt.status
            self._note(
                scribe.answer(t=t, user=self.name, msg_id=receipt.id, status=status, told=False)
            )
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
        """Forget sessions that were closed for good; register again if none is left."""
        async with self._acting:
            closed = [one for one in self.clients if one.state is State.CLOSED]
            # Whom a backend has sent away (and the history says so) logs in again later. An older
            # session may have been replaced just before.
            wanted = any(one.close_code == Code.DISCONNECTED for one in closed)
            for client in closed:
                self._ended(client.conn_id, client.close_code or 0)
                self.clients.remove(client)
                if not (self.clients or wanted or self._stopping) and self.online:
                    text = (
                        f"{self.name} has no session left, and did not want that: the last one "
                        f"was told {client.closed_because!r}"
                    )
                    self._complain(Violation(Promise.P8, self._clock(), text))
            if self.online and not self.clients and not self._stopping:
                await self.come()

    async def move(self, to: str = "") -> None:
        """Move to another gateway, with a close frame."""
        async with self._acting:
            for client in self.registered[:1]:
                there = to or self._rng.choice(sorted(self.routes.wires))
                self._note_left(client)
                # It goes on trying, or it has been superseded.
                with contextlib.suppress(TimeoutError, ClientClosed):
                    await client.move(self.routes.url(there), MOVE_S)

    async def vanish(self) -> None:
        """Lose the connection without a close frame; the client reconnects by itself."""
        for client in self.registered[:1]:
            self._note_left(client)
            client.abort()

    def _note_left(self, client: Client) -> None:
        if client.state is State.REGISTERED:
            self._note(Left(t=self._clock(), user=self.name, conn=client.conn_id))

    async def leave(self) -> None:
        """Leave, and come back after a while."""
        async with self._acting:
            self.online = False
            await self._close_all()
            await asyncio.sleep(self._rng.uniform(0.2, 1.0))
            await self.come()

    async def log_in_twice(self, *gateways: str) -> None:
        """Log in with one more session, or with several at once. The older one is superseded."""
        async with self._acting:
            places = gateways or (self._rng.choice(sorted(self.routes.wires)),)
            await asyncio.gather(*(self.come(place) for place in places))

    async def _close_all(self) -> None:
        clients, self.clients = self.clients, []
        for client in clients:
            self._note_left(client)
        await asyncio.gather(*(client.close() for client in clients))
        for client in clients:
            # `close_code` may be of an earlier attempt, so it is not used here.
            self._ended(client.conn_id)

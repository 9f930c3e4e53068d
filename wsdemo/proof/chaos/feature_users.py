"""Users of optional features: who sends durable messages, meets in rooms and watches others?

They do all that other users do, and these things as well. Each session is a process of its own. Its
position in the inbox is in a file, or it has none, and goes on from what was acknowledged.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from wsdemo.client import (
    Client,
    ClientClosed,
    FilePosition,
    Message,
    Position,
    PositionStore,
    RequestRefused,
)
from wsdemo.proof.application import ObservedApplication, RoomView, durable_id, room_id
from wsdemo.proof.chaos.users import MARK, PATIENCE, ClientUser, Note, UserRoutes
from wsdemo.proof.history import DurableSent, InboxOpened, Phase, Record, RoomSaid, Violation
from wsdemo.proof.mix import FeatureMix
from wsdemo.protocol import Status

ROOMS: Final = ("lobby", "den")
"""All want to be in the lobby, which is too small for all of them, and half of them in the den."""
ROOM_MEMBERS: Final = 16
HISTORY: Final = (0, 5)
"""How many earlier messages of a room a process asks for."""
WATCHED: Final = 3
LOOK_S: Final = 0.05
ASK_S: Final = 1e6
"""A wish is asked for until it is answered, or the process ends."""
CONTENT_BYTES: Final = (5, 5, 5, 500)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the users of features know of the cluster.

    Args:
        mix: the features that they use.
        directory: where positions are kept.
        is_online: says whether Redis has an entry of a user.
    """

    mix: FeatureMix
    directory: Path
    is_online: Callable[[str], bool]


class ObservedPosition:
    """The position of one process, as its client loads and saves it.

    Args:
        kept: where it outlives the process; None: this process begins without one.
        on_loaded: called in a thread with the offset that was loaded.
    """

    def __init__(self, kept: PositionStore | None, on_loaded: Callable[[str], None]) -> None:
        self._kept = kept
        self._on_loaded = on_loaded
        self.is_dead = False
        """Whether the process was killed: it saves nothing more."""

    def load(self) -> Position | None:
        position = self._kept.load() if self._kept is not None else None
        self._on_loaded(position.offset if position is not None else "")
        return position

    def save(self, position: Position) -> None:
        if self._kept is not None and not self.is_dead:
            self._kept.save(position)


class UserProcess:
    """One process of a user: its client, its application, and where it keeps its position."""

    def __init__(self, application: ObservedApplication, position: ObservedPosition | None) -> None:
        self.application = application
        self.position = position
        self.is_dead = False
        self.rooms: set[str] = set()
        """All rooms that it has ever joined."""
        self.taken = asyncio.Event()
        """Set whenever the application was given a durable message."""

    @property
    def name(self) -> str:
        return self.application.process


class FeatureUser(ClientUser):
    """A user whose clients use the optional features.

    Args:
        around: what it knows of the cluster; the others as for `ClientUser`.
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
        around: Surroundings,
    ) -> None:
        super().__init__(name, routes, peers, rng, note, clock, complain)
        self.is_slow = False
        """Whether its application takes nothing that has arrived."""
        self._around = around
        self._processes: dict[Client, UserProcess] = {}
        self._made = 0
        self._ids = 0
        self._rooms = ROOMS if rng.random() < 0.5 else ROOMS[:1]

    # --- processes -----------------------------------------------------------------------------

    def process_of(self, client: Client) -> UserProcess:
        """Return the process of a client."""
        return self._processes[client]

    def applications(self) -> list[ObservedApplication]:
        """Return the applications of the processes that believe to be registered."""
        return [self._processes[client].application for client in self.registered]

    def _client(self, first: str) -> Client:
        self._made += 1
        process = f"{self.name}#{self._made}"
        application = ObservedApplication(self.name, process, self._make, self._around.is_online)
        position = self._position(process) if self._around.mix.durable else None
        client = Client(
            self.account,
            self.routes.urls(first),
            device=self.device,
            durable=position is not None,
            position=position,
            settings=PATIENCE,
            rng=random.Random(self._rng.random()),
            clock=self._clock,
            emit=self._heard,
        )
        self._processes[client] = UserProcess(application, position)
        return client

    def _position(self, process: str) -> ObservedPosition:
        loop = asyncio.get_running_loop()
        file = FilePosition(self._around.directory / self.name.replace("/", " "))
        opened = partial(self._make, InboxOpened, user=self.name, process=process)

        def on_loaded(offset: str) -> None:
            # Here, in a thread, nothing may be recorded: records are in the order of their times.
            loop.call_soon_threadsafe(lambda: opened(after=offset))

        return ObservedPosition(file if self._rng.random() < 0.5 else None, on_loaded)

    def _make(self, record: Callable[..., Record], **fields: Any) -> None:
        """Make a record, now."""
        self._note(record(t=self._clock(), **fields))

    async def _listen(self, client: Client) -> None:
        process = self._processes[client]
        self._enter(client, process)
        async for item in client.items():
            if process.is_dead:
                return
            if isinstance(item, Message) and not item.room and not item.offset:
                self._note_received(client, item)
            else:
                process.application.take(item)
                if isinstance(item, Message) and item.offset:
                    process.taken.set()
            await self._until_quick(process)

    async def _until_quick(self, process: UserProcess) -> None:
        while self.is_slow and not process.is_dead:  # noqa: ASYNC110 - a fault sets it
            await asyncio.sleep(LOOK_S)

    async def kill(self, client: Client) -> None:
        """End a process as SIGKILL does, and start another one."""
        async with self._acting:
            process = self._processes[client]
            process.is_dead = True
            if process.position is not None:
                process.position.is_dead = True
            self._note_left(client)
            conn = client.conn_id
            client.abort()
            self._ended(conn)
            if client in self.clients:
                self.clients.remove(client)
            await client.close()
            if self.online:
                # Also beside another session: the dead process may have replaced it a moment ago.
                await self.come()

    # --- durable messages ----------------------------------------------------------------------

    async def act(self, client: Client) -> None:
        mix, what = self._around.mix, self._rng.random()
        if mix.durable and what < 0.4:
            await self.store(client, self._rng.choice(self._peers))
        elif mix.rooms and what < 0.6:
            await self._in_rooms(client)
        else:
            await super().act(client)

    async def store(self, client: Client, to: str) -> Status:
        """Send one durable message; return its status."""
        process = self._processes[client].name
        self._ids += 1
        msg_id = durable_id(process, self._ids)
        sent = partial(self._make, DurableSent, user=self.name, id=msg_id, to=to, process=process)
        sent(phase=Phase.INVOKE)
        content = MARK + "x" * self._rng.choice(CONTENT_BYTES)
        receipt = await client.send(to, content, durable=True, id=msg_id)
        assert receipt.status is not None
        is_stored = receipt.status in {Status.STORED, Status.DUPLICATE}
        sent(phase=Phase.OK if is_stored else Phase.UNKNOWN, status=receipt.status.value)
        return receipt.status

    # --- rooms and the presence of others ------------------------------------------------------

    def _enter(self, client: Client, process: UserProcess) -> None:
        """Want to be in rooms, and to be told of others."""
        if self._around.mix.rooms:
            for room in self._rooms:
                self.join(client, room)
        if self._around.mix.watch:
            self._own(self._watch(client, process.application))

    async def _watch(self, client: Client, application: ObservedApplication) -> None:
        others = self._rng.sample(self._peers, WATCHED)
        with contextlib.suppress(RequestRefused, ClientClosed):
            await client.watch(others, ASK_S)
            application.watches = True

    def join(self, client: Client, room: str) -> None:
        """Join a room, unless it is there already. Who was there before has heard some of its
        messages, and asks for none of them again.
        """
        process = self._processes[client]
        if room not in process.application.views:
            view = process.application.views[room] = RoomView()
            history = 0 if room in process.rooms else self._rng.choice(HISTORY)
            process.rooms.add(room)
            self._own(self._join(client, room, view, history))

    async def _join(self, client: Client, room: str, view: RoomView, history: int) -> None:
        application = self._processes[client].application
        try:
            view.joined(await client.join(room, history, ASK_S))
        except (RequestRefused, ClientClosed):
            application.forget_room(room, view)

    async def leave_room(self, client: Client, room: str) -> None:
        """Leave a room."""
        application = self._processes[client].application
        application.forget_room(room, application.views[room])
        with contextlib.suppress(RequestRefused, ClientClosed):
            await client.leave(room, ASK_S)

    async def publish(self, client: Client, room: str) -> None:
        """Say something in a room."""
        self._ids += 1
        msg_id = room_id(self._processes[client].name, self._ids)
        self._make(RoomSaid, user=self.name, room=room, id=msg_id)
        await client.publish(room, MARK, id=msg_id)

    async def _in_rooms(self, client: Client) -> None:
        """Say something in a room, leave it, or join it."""
        room = self._rng.choice(self._rooms)
        view = self._processes[client].application.views.get(room)
        if view is None:
            if self.roaming:
                self.join(client, room)
        elif view.members is not None and self.name in view.members:
            if self.roaming and self._rng.random() < 0.1:
                await self.leave_room(client, room)
            else:
                await self.publish(client, room)

"""Clients: how does one device of a user connect, talk, move and leave?

A device is the product's `Client`, unchanged, on a machine of its own. What it observes becomes
records of the history.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Final

from wsdemo.client import (
    Client,
    PositionStore,
    RequestRefused,
)
from wsdemo.client.connection import ClientClosed, ConnectFailed
from wsdemo.client.connection import State as ClientState
from wsdemo.events import Event, Kind
from wsdemo.proof.application import ObservedApplication, RoomView, durable_id, is_plain, room_id
from wsdemo.proof.history import (
    Closed,
    DurableSent,
    Left,
    Phase,
    RoomSaid,
    user_of_device,
)
from wsdemo.proof.scribe import answer, id_with_sender, record_of
from wsdemo.proof.simulate.gateways import PORT
from wsdemo.proof.simulate.hosts import SimulatedHost
from wsdemo.proof.simulate.records import HistoryRecorder
from wsdemo.protocol import Code, Status

PATIENCE_S: Final = 1e6
"""A device tries to connect until it is told to stop."""
_FINE: Final = frozenset({Code.NORMAL, Code.REPLACED})
"""Close codes after which a client may give up; any other end for good is a bug."""


class Device:
    """One client of a user.

    Args:
        gateways: names of those to which it may connect.
        host: its machine.
        position: of the process that reads the inbox of its user; None when it does not.
    """

    def __init__(
        self,
        recorder: HistoryRecorder,
        user: str,
        gateways: Sequence[str],
        host: SimulatedHost,
        *,
        position: PositionStore | None = None,
    ) -> None:
        self.user, self.host = user, host
        self._recorder = recorder
        urls = [_url(name) for name in gateways]
        host.rng.shuffle(urls)
        self.client: Client
        self._is_online: Callable[[str], bool] = lambda user: False
        self._application = ObservedApplication(
            user, host.name, recorder.note, lambda user: self._is_online(user)
        )
        self._numbers = 0
        """Of the messages that it gave an id."""
        self._left_rooms: set[str] = set()
        """A room that it has left is not joined again."""
        self.is_slow = False
        """Whether its application takes nothing that has arrived."""
        host.context.copy().run(self._make, urls, position)
        self.given_up = False
        """Whether its user has closed it."""
        self._moves_to = ""
        """The gateway to which it is moving; '' when it is not."""
        self._told: set[str] = set()
        """Messages for which a gateway has given an answer."""
        host.spawn(self._live(), f"device of {user}")

    def _make(self, urls: list[str], position: PositionStore | None) -> None:
        host = self.host
        user, _, device = self.user.partition("/")
        self.client = Client(
            user,
            urls,
            device=device,
            durable=position is not None,
            position=position,
            rng=host.rng,
            new_id=host.new_id,
            clock=host.loop.time,
            time_of_day=host.clock.time,
            emit=self._observe,
        )

    async def _live(self) -> None:
        try:
            await self.client.start(timeout_s=PATIENCE_S)
            async for item in self.client.items():
                self._application.take(item)
                while self.is_slow:  # noqa: ASYNC110 - in virtual time, asking costs nothing
                    await asyncio.sleep(0.5)
        except ConnectFailed:
            pass  # Another device was faster; `ended` says so.

    @property
    def views(self) -> dict[str, RoomView]:
        """The rooms that it is in, or wants to be in."""
        return self._application.views

    @property
    def ended(self) -> bool:
        """Whether this device will never be connected again."""
        return self.given_up or self.host.dead or self.client.state is ClientState.CLOSED

    @property
    def wrong_end(self) -> str:
        """Why its client has given up, if it should not have; '' otherwise."""
        if self.given_up or self.host.dead or not self.ended:
            return ""
        return "" if self.client.close_code in _FINE else self.client.closed_because

    @property
    def registered(self) -> bool:
        return self.client.state is ClientState.REGISTERED and not self.host.dead

    def _do(self, work: Coroutine[Any, Any, None], what: str) -> None:
        self.host.spawn(work, f"{self.user}: {what}")

    def send(self, to: str) -> None:
        """Send a message; others may be under way."""
        self._do(self._send(to), "send")

    async def _send(self, to: str) -> None:
        receipt = await self.client.send(to, "hello")
        # The client observes answers of gateways. That no answer came is known only here.
        if receipt.status is Status.UNKNOWN and receipt.id not in self._told:
            self._recorder.add(
                answer(
                    t=self._recorder.now,
                    user=self.user,
                    msg_id=unique_id(self.user, receipt.id),
                    to=to,
                    status=receipt.status,
                    told=False,
                )
            )

    def store(self, to: str, content: str) -> None:
        """Send a durable message; others may be under way."""
        self._numbers += 1
        self._do(self._store(to, content, durable_id(self.host.name, self._numbers)), "store")

    async def _store(self, to: str, content: str, msg_id: str) -> None:
        sent = partial(
            self._recorder.note,
            DurableSent,
            user=self.user,
            id=msg_id,
            to=to,
            process=self.host.name,
        )
        sent(phase=Phase.INVOKE)
        receipt = await self.client.send(to, content, durable=True, id=msg_id)
        assert receipt.status is not None
        is_stored = receipt.status in {Status.STORED, Status.DUPLICATE}
        phase = Phase.OK if is_stored else Phase.UNKNOWN
        sent(phase=phase, status=receipt.status.value)

    def join(self, room: str) -> None:
        """Join a room, unless that was done before."""
        gone = self._left_rooms | self._application.put_out  # To join anew is to hear again.
        if room not in self.views and room not in gone:
            self.views[room] = RoomView()
            self._do(self._join(room, self.views[room]), f"join {room}")

    async def _join(self, room: str, view: RoomView) -> None:
        history = self.host.rng.choice((0, 5))
        try:
            view.joined(await self.client.join(room, history, PATIENCE_S))
        except (RequestRefused, ClientClosed):
            self._application.forget_room(room, view)

    def leave_room(self, room: str) -> None:
        """Leave a room for good. (What was told before the leave may come after it.)"""
        self._application.forget_room(room, self.views[room])
        self._left_rooms.add(room)
        self._do(self._leave_room(room), f"leave {room}")

    async def _leave_room(self, room: str) -> None:
        with contextlib.suppress(RequestRefused, ClientClosed):
            await self.client.leave(room, PATIENCE_S)

    def publish(self, room: str) -> None:
        """Say something in a room."""
        self._numbers += 1
        msg_id = room_id(self.host.name, self._numbers)
        self._recorder.note(RoomSaid, user=self.user, room=room, id=msg_id)
        self._do(self._publish(room, msg_id), "publish")

    async def _publish(self, room: str, msg_id: str) -> None:
        await self.client.publish(room, "hello", id=msg_id)

    def watch(self, users: Sequence[str], is_online: Callable[[str], bool]) -> None:
        """Be told when these users come and go."""
        self._is_online = is_online
        self._do(self._watch(users), "watch")

    async def _watch(self, users: Sequence[str]) -> None:
        with contextlib.suppress(RequestRefused, ClientClosed):
            await self.client.watch(users, PATIENCE_S)
            self._application.watches = True

    def look_at_watches(self) -> None:
        """Record what was told last of each user that is watched."""
        self._application.look_at_watches()

    def move(self, gateway: str) -> None:
        """Go to another gateway."""
        self._do(self._move(gateway), "move")

    async def _move(self, gateway: str) -> None:
        self._note_leaving()
        self._moves_to = gateway
        # When it fails, the client goes on trying, or it is over.
        try:
            with contextlib.suppress(TimeoutError, ClientClosed):
                await self.client.move(_url(gateway))
        finally:
            self._moves_to = ""

    def leave(self) -> None:
        """Log out."""
        self.given_up = True
        if self.registered:
            self._note_leaving()
            # A client that is told to close does not observe it as the end of a connection.
            conn = self.client.conn_id
            self._recorder.note(Closed, user=self.user, conn=conn, code=Code.NORMAL)
        self._do(self.client.close(), "leave")

    def break_off(self) -> None:
        """Lose the connection; the client dials again."""
        self._note_leaving()
        self.host.loop.call_soon(self.client.abort, context=self.host.context)

    def note_vanished(self) -> None:
        """Record that its connection ends without a close frame."""
        if self.client.conn_id:
            self._recorder.note(Left, user=self.user, conn=self.client.conn_id)
            self._recorder.note(Closed, user=self.user, conn=self.client.conn_id)

    def _note_leaving(self) -> None:
        """Record that a session which ends now ends because its user wants it."""
        if self.client.conn_id and not self.host.dead:
            self._recorder.note(Left, user=self.user, conn=self.client.conn_id)

    def _observe(self, event: Event) -> None:
        if self.host.dead or not is_plain(event.msg_id):
            return
        if event.kind is Kind.ACK:
            self._told.add(event.msg_id)
        self._recorder.add(record_of(event, t=self._recorder.now, user=self.user, id_of=unique_id))
        if event.kind is Kind.REGISTERED and self._moves_to not in ("", event.gateway):
            # It was registering when it was told to move: this session ends at once.
            self._note_leaving()


def unique_id(sender: str, msg_id: str) -> str:
    """Return the id of a message in a history; a recipient does not know which device has sent."""
    return id_with_sender(user_of_device(sender), msg_id)


def _url(gateway: str) -> str:
    return f"ws://{gateway}:{PORT}/ws"

"""Clients: how does one device of a user connect, talk, move and leave?

A device is the product's `Client`, unchanged, on a machine of its own. What it observes becomes
records of the history.
"""

from __future__ import annotations

import contextlib
from collections.abc import Coroutine, Sequence
from typing import Any, Final

from wsdemo.client import Client
from wsdemo.client.connection import ClientClosed, ConnectFailed
from wsdemo.client.connection import State as ClientState
from wsdemo.events import Event, Kind
from wsdemo.proof.history import Closed, Left
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
    """

    def __init__(
        self, recorder: HistoryRecorder, user: str, gateways: Sequence[str], host: SimulatedHost
    ) -> None:
        self.user, self.host = user, host
        self._recorder = recorder
        urls = [_url(name) for name in gateways]
        host.rng.shuffle(urls)
        self.client: Client
        host.context.copy().run(self._make, urls)
        self.given_up = False
        """Whether its user has closed it."""
        self._moves_to = ""
        """The gateway to which it is moving; '' when it is not."""
        self._told: set[str] = set()
        """Messages for which a gateway has given an answer."""
        host.spawn(self._live(), f"device of {user}")

    def _make(self, urls: list[str]) -> None:
        host = self.host
        self.client = Client(
            self.user,
            urls,
            rng=host.rng,
            new_id=host.new_id,
            clock=host.loop.time,
            time_of_day=host.clock.time,
            emit=self._observe,
        )

    async def _live(self) -> None:
        try:
            await self.client.start(timeout_s=PATIENCE_S)
            async for _ in self.client:
                pass  # What arrives is recorded as the client observes it.
        except ConnectFailed:
            pass  # Another device was faster; `ended` says so.

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
                    msg_id=id_with_sender(self.user, receipt.id),
                    to=to,
                    status=receipt.status,
                    told=False,
                )
            )

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
        if self.host.dead:
            return
        if event.kind is Kind.ACK:
            self._told.add(event.msg_id)
        self._recorder.add(
            record_of(event, t=self._recorder.now, user=self.user, id_of=id_with_sender)
        )
        if event.kind is Kind.REGISTERED and self._moves_to not in ("", event.gateway):
            # It was registering when it was told to move: this session ends at once.
            self._note_leaving()


def _url(gateway: str) -> str:
    return f"ws://{gateway}:{PORT}/ws"

"""Users: how do the clients of a cluster connect, lose heartbeats and leave?

Each user is a real client with a random generator of its own, which does not depend on the order of
connecting. Its events reach the recorder through a tap that can be closed: a user who has vanished
reports nothing. A device of a user is a user of its own here, and in the trace: `alice/phone`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
import time
from collections.abc import Callable, Sequence
from typing import Final

from wsdemo.client import BackoffRule, Client, PositionStore
from wsdemo.events import Emit, Event, Kind
from wsdemo.lab.cluster.crowd import Heartbeats
from wsdemo.lab.cluster.hosts import EventTap
from wsdemo.lab.errors import LabRefused
from wsdemo.lab.trace.recorder import Recorder
from wsdemo.rig.wire import Bundle
from wsdemo.settings import ClientSettings

AT_A_TIME: Final = 100
"""So many users connect at the same time."""


def label_of(user: str, device: str = "") -> str:
    """Return what the lab and its figures call a device of a user. No user has '/' in the name."""
    return f"{user}/{device}" if device else user


def user_of(label: str) -> tuple[str, str]:
    """Return the user and the device that are called so."""
    user, _, device = label.partition("/")
    return user, device


class Population:
    """The users of a cluster, by their labels.

    Args:
        settings: of their clients.
        recorder: gets their events.
        rng: returns a random generator for each name.
        backoff: of their clients, when it is not the usual one (wall seconds).
    """

    def __init__(
        self,
        settings: ClientSettings,
        recorder: Recorder,
        rng: Callable[[str], random.Random],
        backoff: BackoffRule | None = None,
    ) -> None:
        self.clients: dict[str, Client] = {}
        self._settings = settings
        self._recorder = recorder
        self._rng = rng
        self._backoff = backoff
        self._taps: dict[str, EventTap] = {}
        self._heartbeats: dict[str, Heartbeats] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._crowd = 0

    def require_new(self, user: str, drop_pings: float) -> None:
        """Refuse a user who is connected already, and a loss that is not a probability.

        Raises:
            LabRefused: one of the two.
        """
        if user in self.clients:
            raise LabRefused(f"{user} is here already, at {self.clients[user].gateway_id}")
        if not 0 <= drop_pings <= 1:
            raise LabRefused(f"drop_pings is a probability, not {drop_pings!r}")

    async def connect(
        self,
        user: str,
        urls: Sequence[str],
        drop_pings: float,
        *,
        device: str = "",
        durable: bool = False,
        position: PositionStore | None = None,
    ) -> Client:
        """Connect a user to the first of these addresses; the others are for failover."""
        label = label_of(user, device)
        tap = self._taps[label] = EventTap(_emit_as(label, self._recorder.emit))
        heartbeats = Heartbeats(label, self._rng(f"{label} heartbeats"), tap, time.monotonic)
        heartbeats.loss = drop_pings
        self._heartbeats[label] = heartbeats
        client = Client(
            user,
            urls,
            device=device,
            durable=durable,
            position=position,
            settings=self._settings,
            emit=tap,
            backoff=self._backoff,
            rng=self._rng(label),
            should_ping=heartbeats,
        )
        self.clients[label] = client
        try:
            await client.start()
        except BaseException:
            self.clients.pop(label, None)
            raise
        return client

    def next_numbers(self, users: int) -> range:
        """Return numbers for so many more users; the first one of all is 1."""
        first, self._crowd = self._crowd + 1, self._crowd + users
        return range(first, first + users)

    def drop_pings(self, user: str, probability: float, following: int) -> None:
        """From now on heartbeats of a user get lost: so many following ones, or each by chance.

        Raises:
            LabRefused: a number is out of its range.
        """
        if not 0 <= probability <= 1 or following < 0:
            raise LabRefused("a probability lies between 0 and 1, and a count is not negative")
        heartbeats = self._heartbeats[user]
        heartbeats.loss, heartbeats.lose_next = probability, following

    async def disconnect(self, user: str) -> None:
        """Close the connection of a user with a close frame."""
        await self.clients.pop(user).close()

    def vanish(self, user: str, wire: Bundle) -> None:
        """Cut a user off in both directions without any notice; her client does not report it."""
        client = self.clients.pop(user)
        self._taps[user].close()
        wire.drop()
        self._recorder.emit(
            Event(
                Kind.WS_CLOSE,
                time.monotonic(),
                user,
                user=user,
                gateway=client.gateway_id,
                conn_id=client.conn_id,
                reason="vanished",
            )
        )
        # The wire drops the close frame of the client as well.
        task = asyncio.create_task(client.close(), name=f"{user} vanishes")
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def stop(self) -> None:
        """Disconnect all users. Idempotent."""
        clients, self.clients = list(self.clients.values()), {}
        await asyncio.gather(*(client.close() for client in clients))
        if self._leaving:
            await asyncio.wait(self._leaving)


def _emit_as(label: str, emit: Emit) -> Emit:
    """Return what takes the events of a client, and gives them the label of its device."""
    if not user_of(label)[1]:
        return emit
    return lambda event: emit(dataclasses.replace(event, lane=label, user=label))

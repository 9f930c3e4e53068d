"""Load: which messages and moves do many users make? They send, they move, they lose heartbeats; a
seed decides all of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from wsdemo.client import Client, MessagesMissed
from wsdemo.client.connection import ClientClosed
from wsdemo.events import Emit, Event, Kind
from wsdemo.lab.errors import LabRefused
from wsdemo.tasks import end


class Heartbeats:
    """Decides whether a heartbeat is sent: `should_ping` of a client.

    Args:
        user: whose they are.
        rng: decides about each.
        emit: hears of the lost ones.
        clock: monotonic seconds.
    """

    def __init__(
        self, user: str, rng: random.Random, emit: Emit, clock: Callable[[], float]
    ) -> None:
        self.loss = 0.0
        """The probability that a heartbeat is lost."""
        self.lose_next = 0
        """So many of the next heartbeats are lost for certain."""
        self._user, self._rng, self._emit, self._clock = user, rng, emit, clock

    def __call__(self) -> bool:
        lost = self.lose_next > 0 or self._rng.random() < self.loss
        if lost:
            self.lose_next = max(0, self.lose_next - 1)
            self._emit(
                Event(Kind.DROP, self._clock(), self._user, user=self._user, reason="heartbeat")
            )
        return not lost


@dataclass(slots=True)
class Life:
    """What a crowd did: messages sent by outcome, messages received, moves."""

    users: int
    seconds: float
    """Production seconds."""
    sent: Counter[str] = field(default_factory=Counter)
    received: int = 0
    gaps: int = 0
    """How often a durable user was told that messages may be missing."""
    moves: int = 0
    moves_failed: int = 0

    def __repr__(self) -> str:
        by = ", ".join(f"{count:,} {status}" for status, count in self.sent.most_common())
        gaps = f" (gaps told: {self.gaps:,})" if self.gaps else ""
        failed = f" ({self.moves_failed} failed)" if self.moves_failed else ""
        return (
            f"{self.users:,} users, {self.seconds:g} s: {sum(self.sent.values()):,} messages sent "
            f"({by or 'none'}), {self.received:,} received{gaps}, {self.moves:,} moves{failed}"
        )


async def live(
    clients: Sequence[Client],
    gateways: Mapping[str, str],
    *,
    seconds: float,
    talk_every_s: float | None,
    hop_every_s: float | None,
    scale: float,
    seed: int,
) -> Life:
    """Let users talk to each other and move between gateways for a while.

    Args:
        gateways: id -> URL of where they may move.
        seconds: for how long, in production seconds.
        talk_every_s, hop_every_s: mean production seconds between two of a user's messages or
            moves, exponentially distributed; None for never.
        scale: production seconds per second.
        seed: of all their decisions; each user has randomness of its own.

    Raises:
        LabRefused: a duration is not positive.
    """
    for what, value in {"seconds": seconds, "talk": talk_every_s, "hop": hop_every_s}.items():
        if value is not None and not 0 < value < float("inf"):
            raise LabRefused(f"{what}: {value!r} is not a positive number of production seconds")
    life = Life(len(clients), seconds)
    ends_at = asyncio.get_running_loop().time() + seconds / scale
    listeners = [asyncio.create_task(_listen(client, life), name="listener") for client in clients]
    try:
        async with asyncio.TaskGroup() as group:
            for client in clients:
                rng = random.Random(f"{seed}:{client.user}:life")
                if talk_every_s is not None and len(clients) > 1:
                    group.create_task(
                        _talk(client, clients, rng, talk_every_s / scale, ends_at, life)
                    )
                if hop_every_s is not None and len(gateways) > 1:
                    group.create_task(
                        _hop(client, gateways, rng, hop_every_s / scale, ends_at, life)
                    )
    finally:
        await end(*listeners)
    return life


async def _listen(client: Client, life: Life) -> None:
    """Count what arrives. Behind a gap, of which a durable user is told, go on."""
    with contextlib.suppress(ClientClosed):
        while True:
            try:
                await client.receive()
            except MessagesMissed:
                life.gaps += 1
            else:
                life.received += 1


async def _next_turn(rng: random.Random, every_s: float, ends_at: float) -> bool:
    """Wait until the next action is due; False when the time is over before."""
    now = asyncio.get_running_loop().time()
    pause_s = rng.expovariate(1 / every_s)
    await asyncio.sleep(min(pause_s, max(0.0, ends_at - now)))
    return now + pause_s < ends_at


async def _talk(
    client: Client,
    clients: Sequence[Client],
    rng: random.Random,
    every_s: float,
    ends_at: float,
    life: Life,
) -> None:
    while await _next_turn(rng, every_s, ends_at):
        other = rng.choice(clients)
        if other is not client:
            receipt = await client.send(other.user, "hello")
            life.sent[str(receipt.status)] += 1


async def _hop(
    client: Client,
    gateways: Mapping[str, str],
    rng: random.Random,
    every_s: float,
    ends_at: float,
    life: Life,
) -> None:
    while await _next_turn(rng, every_s, ends_at):
        there = rng.choice([url for name, url in gateways.items() if name != client.gateway_id])
        life.moves += 1
        with contextlib.suppress(TimeoutError):
            try:
                await client.move(there)
                continue
            except ClientClosed:
                life.moves_failed += 1
                return
        life.moves_failed += 1

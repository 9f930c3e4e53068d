"""Deterministic scheduling: how is a rare race made to happen every time?

A director stands between a gateway and its presence, and makes a verb of a user wait until it is
released. The gateway does not notice it: it gets the director in place of the real presence.

A verb can be stopped in two places: before it starts, and before it writes, when it has read its
clock (or has read Redis) and not written yet. An operating system can stop a process there, as
between any two lines. The second place needs a `HeldLink` under the presence.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from enum import StrEnum
from typing import Any, Final, Literal, NamedTuple

from wsdemo.presence import Claim, Presence, Refresh, Registration, Release, Renewal
from wsdemo.redis.interface import Link
from wsdemo.redis.link import Arg
from wsdemo.redis.scripts import Script

Verb = Literal["mint", "register", "refresh", "release"]

READS: Final = frozenset({"HGET", "HMGET", "HGETALL", "PTTL", "EXISTS"})
"""Commands that change nothing: they belong to the read of a verb."""


class Before(StrEnum):
    """Where a verb can be made to wait."""

    START = "start"
    WRITE = "write"


class Place(NamedTuple):
    """One verb of one user, at one of its two places."""

    user: str
    verb: Verb
    before: Before = Before.START


class Gates:
    """The places at which verbs have to wait."""

    def __init__(self) -> None:
        self._shut: dict[Place, asyncio.Event] = {}
        self._waiting: Counter[Place] = Counter()
        self._changed = asyncio.Event()

    def shut(self, place: Place) -> None:
        """From now on, a verb that arrives here waits."""
        self._shut.setdefault(place, asyncio.Event())

    def open(self, place: Place) -> None:
        """Release the verbs that wait here, and do not stop later ones."""
        gate = self._shut.pop(place, None)
        if gate is not None:
            gate.set()

    def let_through(self, place: Place) -> None:
        """Release the verbs that wait here; later ones wait again."""
        self.open(place)
        self.shut(place)

    def open_all(self, holds: Callable[[Place], bool] = lambda place: True) -> None:
        """Open all gates, or those at places of a kind."""
        for place in [place for place in self._shut if holds(place)]:
            self.open(place)

    def is_shut(self, place: Place) -> bool:
        return place in self._shut

    def waiting(self, place: Place) -> int:
        """Return how many verbs wait here."""
        return self._waiting[place]

    @property
    def places(self) -> list[Place]:
        """The places that are shut now."""
        return list(self._shut)

    async def arrive(self, place: Place) -> bool:
        """Wait while this place is shut; return whether it was."""
        gate = self._shut.get(place)
        if gate is None:
            return False
        self._waiting[place] += 1
        self.changed()
        try:
            await gate.wait()
        finally:
            self._waiting[place] -= 1
        return True

    def changed(self) -> None:
        """Tell `until` to look at its condition again."""
        self._changed.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until a condition holds that only changes at these gates can make true."""
        while not holds():
            self._changed.clear()
            await self._changed.wait()


_acting: ContextVar[tuple[str, Verb] | None] = ContextVar("acting", default=None)
"""The user and the verb for which the current task calls Redis."""


@contextmanager
def _acts(user: str, verb: Verb) -> Iterator[None]:
    token = _acting.set((user, verb))
    try:
        yield
    finally:
        _acting.reset(token)


class HeldVerbs:
    """A presence whose verbs of chosen users wait.

    Args:
        gates: shared with the `HeldLink` of this presence, if it has one.
    """

    def __init__(self, presence: Presence, gates: Gates | None = None) -> None:
        self._presence = presence
        self.gates = gates or Gates()
        self._done: dict[tuple[str, Verb], asyncio.Event] = {}
        self._answered: Counter[tuple[str, Verb]] = Counter()
        self.late_s = 0.0
        """Every release that is not held is delayed by so much."""

    def hold(self, user: str, verb: Verb = "release") -> None:
        """From now on, this verb of this user waits before it starts."""
        self.gates.shut(Place(user, verb))
        self._done[user, verb] = asyncio.Event()

    def let_go(self, user: str | None = None, verb: Verb | None = None) -> None:
        """Release what waits, and hold no more of it: one verb of a user, all of hers, or
        everybody's.
        """
        self.gates.open_all(lambda place: user in (None, place.user) and verb in (None, place.verb))

    def holds(self, user: str, verb: Verb = "release") -> bool:
        """Say whether this verb of this user waits from now on."""
        return self.gates.is_shut(Place(user, verb))

    def waiting(self, user: str, verb: Verb = "release") -> int:
        """Return how many of this verb of this user wait before they start."""
        return self.gates.waiting(Place(user, verb))

    def is_done(self, user: str, verb: Verb = "release") -> bool:
        """Say whether a verb that was held has been answered."""
        done = self._done.get((user, verb))
        return done is not None and done.is_set()

    async def done(self, user: str, verb: Verb = "release") -> None:
        """Wait until a verb that was held has been answered by Redis."""
        await self._done[user, verb].wait()

    def answered(self, user: str, verb: Verb) -> int:
        """Return how often this verb of this user has been answered, held or not."""
        return self._answered[user, verb]

    # --- the four verbs ----------------------------------------------------------------------

    async def mint(self, user: str) -> int:
        held = await self.gates.arrive(Place(user, "mint"))
        try:
            # A mint reads a token and writes no entry, so it never waits at the link.
            return await self._presence.mint(user)
        finally:
            self._answer(user, "mint", held)

    async def register(self, claim: Claim) -> Registration:
        held = await self.gates.arrive(Place(claim.user, "register"))
        try:
            with _acts(claim.user, "register"):
                return await self._presence.register(claim)
        finally:
            self._answer(claim.user, "register", held)

    async def refresh(self, renewals: Sequence[Renewal]) -> Sequence[Refresh | Exception]:
        """Renew at once what is not held. The batch is answered when its last renewal is. A gateway
        waits for that, so it renews no other lease again until the held one is released.
        """
        if not any(self._is_held(renewal.claim.user) for renewal in renewals):
            return await self._refresh(renewals)
        parts = await asyncio.gather(*(self._refresh([renewal]) for renewal in renewals))
        return [result for part in parts for result in part]

    async def _refresh(self, renewals: Sequence[Renewal]) -> Sequence[Refresh | Exception]:
        users = [renewal.claim.user for renewal in renewals]
        held = await self.gates.arrive(Place(users[0], "refresh")) if users else False
        try:
            with _acts(users[0] if users else "", "refresh"):
                return await self._presence.refresh(renewals)
        finally:
            for user in users:
                self._answer(user, "refresh", held)

    def _is_held(self, user: str) -> bool:
        return any(self.gates.is_shut(Place(user, "refresh", before)) for before in Before)

    async def release(self, claim: Claim) -> Release:
        held = await self.gates.arrive(Place(claim.user, "release"))
        if self.late_s and not held:
            await asyncio.sleep(self.late_s)
        try:
            with _acts(claim.user, "release"):
                return await self._presence.release(claim)
        finally:
            self._answer(claim.user, "release", held)

    def _answer(self, user: str, verb: Verb, held: bool) -> None:
        self._answered[user, verb] += 1
        if held and (user, verb) in self._done:
            self._done[user, verb].set()
        self.gates.changed()


class HeldLink:
    """A link to Redis on which a chosen verb waits before it writes.

    Only the three ways in which presence uses a link are here.
    """

    def __init__(self, link: Link, gates: Gates) -> None:
        self._link = link
        self._gates = gates

    async def call(self, *args: Arg) -> Any:
        if args[0] not in READS:
            await self._arrive()
        return await self._link.call(*args)

    async def run(self, script: Script, keys: Sequence[str], *args: Arg) -> Any:
        await self._arrive()
        return await self._link.run(script, keys, *args)

    def start_script(self, script: Script, keys: Sequence[str], *args: Arg) -> asyncio.Future[Any]:
        return asyncio.ensure_future(self.run(script, keys, *args))

    async def _arrive(self) -> None:
        acting = _acting.get()
        if acting is not None:
            await self._gates.arrive(Place(*acting, Before.WRITE))

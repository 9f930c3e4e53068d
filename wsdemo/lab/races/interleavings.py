"""Interleavings: what do the real scripts do in every possible order?

Each order is played by the same classes that gateways use, over a real link to a real server: a
policy for gateway-01, one for gateway-02, and a director that lets one step happen at a time. No
gateways and no sockets, so some hundred orders take a second; `replay` plays one of them with
gateways and clients.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Final, TypeVar

from wsdemo.lab.cluster.directors import Gates, HeldLink, HeldVerbs
from wsdemo.lab.errors import fails_in_short
from wsdemo.lab.races.models import QUIET_S, STEP_S
from wsdemo.lab.races.orders import (
    NEW,
    OLD,
    THREAD_OF,
    USER,
    Action,
    Exploration,
    Order,
    Played,
    all_orders,
)
from wsdemo.lab.races.stage import HandClock, Stage
from wsdemo.presence import Claim, Presence, Refresh, Register, Registration, Release, Renewal
from wsdemo.redis.link import RedisLink
from wsdemo.redis.server import find_server
from wsdemo.rig.policies import OF_PRESENCE, policy_named
from wsdemo.settings import Keyspace, Limits, Timing
from wsdemo.tasks import end

SKEWS: Final = (0.0, -10.0, 10.0)
"""By how much gateway-02's clock is wrong, in seconds."""

OLD_CLAIM: Final = Claim(USER, "old-connection", OLD)
NEW_CLAIM: Final = Claim(USER, "new-connection", NEW)

T = TypeVar("T")


@fails_in_short
def explore(
    policy: str,
    skew_s: float = 0.0,
    *,
    orders: Iterable[Order] | None = None,
    redis: str | None = None,
) -> Exploration:
    """Play every order under a policy.

    Args:
        policy: the name of one of `wsdemo.rig.policies`.
        skew_s: by how many seconds gateway-02's clock is ahead.
        orders: by default all that are feasible.
        redis: address of a Redis to use; by default the search of `wsdemo.redis.server`.

    Raises:
        ValueError: there is no such policy.
        ServerError: there is no Redis.
    """
    (only,) = explore_all([policy], [skew_s], orders=orders, redis=redis)
    return only


@fails_in_short
def explore_all(
    policies: Sequence[str] = OF_PRESENCE,
    skews: Sequence[float] = SKEWS,
    *,
    orders: Iterable[Order] | None = None,
    redis: str | None = None,
) -> list[Exploration]:
    """Play every order under every policy and skew, on one server; otherwise as `explore`."""
    for policy in policies:
        policy_named(policy)
    chosen = all_orders() if orders is None else tuple(orders)
    cases = [(policy, skew_s) for policy in policies for skew_s in skews]
    return in_a_thread(_explore_all(cases, chosen, redis))


def in_a_thread(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, also where a loop is running already, as in a cell."""
    found: list[T] = []
    problems: list[BaseException] = []

    def run() -> None:
        try:
            found.append(asyncio.run(work))
        except BaseException as problem:
            problems.append(problem)

    thread = threading.Thread(target=run, name="explore", daemon=True)
    thread.start()
    thread.join()
    if problems:
        raise problems[0]
    return found[0]


async def _explore_all(
    cases: Sequence[tuple[str, float]], orders: tuple[Order, ...], redis: str | None
) -> list[Exploration]:
    server = await asyncio.to_thread(find_server, redis)
    link = RedisLink(server.url, Limits())
    try:
        await link.start()
        return [await _explore(policy, skew_s, orders, link) for policy, skew_s in cases]
    finally:
        await link.stop()
        await asyncio.to_thread(server.stop)


async def _explore(
    policy: str, skew_s: float, orders: tuple[Order, ...], link: RedisLink
) -> Exploration:
    """Play the orders concurrently: the commands of one turn of the loop are sent in one write."""
    prefix = f"orders:{secrets.token_hex(4)}:"
    keyspaces = [Keyspace(f"{prefix}{number}:") for number in range(len(orders))]
    try:
        played = await asyncio.gather(
            *(
                _Play(policy, skew_s, link, keyspace).play(order)
                for order, keyspace in zip(orders, keyspaces, strict=True)
            )
        )
    finally:
        keys = [key for k in keyspaces for key in (k.presence(USER), k.fence(USER))]
        await link.call("DEL", *keys)
    return Exploration(policy, skew_s, tuple(played))


class _Play:
    """One order of one policy, in a keyspace of its own."""

    def __init__(self, policy: str, skew_s: float, link: RedisLink, keyspace: Keyspace) -> None:
        self._policy, self._skew_s = policy, skew_s
        self._link, self._keyspace = link, keyspace
        self._clocks = {OLD: HandClock(), NEW: HandClock(skew_s)}
        self._old, self._new = (self._directed(name) for name in (OLD, NEW))
        self._stage = Stage({OLD: self._old, NEW: self._new}, self._clocks)

    def _directed(self, gateway: str) -> HeldVerbs:
        gates = Gates()
        link: Any = HeldLink(self._link, gates)
        make, clock = policy_named(self._policy).make, self._clocks[gateway]
        presence = make(link, self._keyspace, Timing(), clock)
        return HeldVerbs(presence, gates)

    async def play(self, order: Sequence[Action]) -> Played:
        old, _ = await _register(self._old, OLD_CLAIM)
        self._stage.pass_time(QUIET_S - STEP_S)
        self._stage.hold()
        threads = {thread: self._begin(thread, old) for thread in {THREAD_OF[a] for a in order}}
        try:
            for thread in threads:
                await self._stage.begun(thread)
            entries = []
            for action in order:
                await self._stage.step(action)
                entries.append(await self._entry())
            answers = {thread: await task for thread, task in threads.items()}
        finally:
            await end(*threads.values())
        rejected = frozenset(thread for thread, accepted in answers.items() if not accepted)
        return Played(tuple(order), self._policy, self._skew_s, tuple(entries), rejected)

    def _begin(self, thread: str, old: Claim) -> asyncio.Task[bool]:
        verbs: dict[str, Callable[[], Coroutine[Any, Any, bool]]] = {
            "heartbeat": lambda: _refresh(self._old, old),
            "clean-up": lambda: _released(self._old, old),
            "re-register": lambda: _accepted(self._new, NEW_CLAIM),
        }
        return asyncio.create_task(verbs[thread](), name=thread)

    async def _entry(self) -> dict[str, str]:
        flat = await self._link.call("HGETALL", self._keyspace.presence(USER))
        words = [part.decode() for part in flat]
        return dict(zip(words[::2], words[1::2], strict=True))


async def _register(presence: Presence, claim: Claim) -> tuple[Claim, Registration]:
    token = await presence.mint(claim.user)
    claim = Claim(claim.user, claim.conn_id, claim.gateway_id, token)
    return claim, await presence.register(claim)


async def _accepted(presence: Presence, claim: Claim) -> bool:
    _, registration = await _register(presence, claim)
    return registration.outcome is Register.OK


async def _released(presence: Presence, claim: Claim) -> bool:
    return await presence.release(claim) is Release.REMOVED


async def _refresh(presence: Presence, claim: Claim) -> bool:
    (result,) = await presence.refresh([Renewal(claim, Timing().presence_ttl_ms)])
    if isinstance(result, Exception):
        raise result
    return result in (Refresh.OK, Refresh.RECLAIMED)

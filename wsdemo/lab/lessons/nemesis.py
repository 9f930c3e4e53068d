"""Nemesis: how is a schedule of users and faults written, played on a gateway, and judged?

A schedule is a list of steps. It is played on three running gateways with a real Redis. At its end
everything that was held is let go, and the invariants are checked on what clients have seen.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from websockets.exceptions import WebSocketException

from wsdemo.lab.errors import LabRefused
from wsdemo.lab.lessons.own_world import (
    HOLES,
    NAMES,
    LevelFailed,
    RunningGateway,
    TrialPace,
    TrialUser,
    TrialWorld,
    pace_now,
    subscribes,
)
from wsdemo.lab.yours import GatewaySkeleton
from wsdemo.redis.server import BundledServer
from wsdemo.rig.names import unknown
from wsdemo.rig.wire import Strand

MOST_STEPS: Final = 40
MOST_BEATS: Final = 12
CHANNEL: Final = "channel"
"""What a gateway hears from others; it can be held like one of the five methods."""
HOLDABLE: Final = (*(hole for hole in HOLES if hole != "drain"), CHANNEL)
QUIET_S: Final = 0.1

LOSS: Final = "no silent loss"
TWICE: Final = "no duplicate"
ONE: Final = "at most one session"
REASON: Final = "no session ends without a reason"
PRESENCE: Final = "no wrong presence"
GHOST: Final = "ghost time is bounded"
INVARIANTS: Final = (LOSS, TWICE, ONE, REASON, PRESENCE, GHOST)


class ScheduledStep(NamedTuple):
    """One step of a schedule."""

    kind: str
    user: str = ""
    gateway: str = ""
    what: str = ""
    number: int = 1

    def __str__(self) -> str:
        told = [repr(one) for one in (self.user, self.gateway, self.what) if one]
        number = [str(self.number)] if self.number != 1 or self.kind == "rest" else []
        return f"{self.kind}({', '.join([*told, *number])})"


@dataclass(frozen=True)
class Schedule:
    """Steps, in order: `Schedule().connect("alice", "gateway-01").kill("gateway-01")`.

    Each method returns a schedule with one more step. At the end of every schedule everything is
    let go by itself, and there is time for repairs.
    """

    steps: tuple[ScheduledStep, ...] = field(default=())

    def connect(self, user: str, gateway: str) -> Schedule:
        """The user logs in; an older session of hers stays open."""
        return self._then(ScheduledStep("connect", _name(user), _gateway(gateway)))

    def leave(self, user: str) -> Schedule:
        """The user's newest session says goodbye."""
        return self._then(ScheduledStep("leave", _name(user)))

    def move(self, user: str, gateway: str) -> Schedule:
        """The user leaves and logs in at a gateway, which may be the same."""
        return self._then(ScheduledStep("move", _name(user), _gateway(gateway)))

    def send(self, user: str, to: str, number: int = 1) -> Schedule:
        """The user writes messages; they are counted until the end."""
        if not 1 <= number <= MOST_STEPS:
            raise LabRefused(f"{number!r} is not a number of messages (1 to {MOST_STEPS})")
        return self._then(ScheduledStep("send", _name(user), "", _name(to), number))

    def hold(self, gateway: str, what: str) -> Schedule:
        """From now on register, refresh, release or route wait at a gateway before they begin; or
        the channel: what other gateways have published waits on the wire."""
        if what not in HOLDABLE:
            raise LabRefused(unknown("thing to hold", what, HOLDABLE))
        return self._then(ScheduledStep("hold", "", _gateway(gateway), what))

    def freeze(self) -> Schedule:
        """From now on Redis answers nobody."""
        return self._then(ScheduledStep("freeze"))

    def let_go(self, gateway: str = "", what: str = "") -> Schedule:
        """What was held at a gateway goes on; without arguments everything, also Redis."""
        if gateway and what not in HOLDABLE:
            raise LabRefused(unknown("thing to let go", what, HOLDABLE))
        return self._then(ScheduledStep("let_go", "", _gateway(gateway) if gateway else "", what))

    def kill(self, gateway: str) -> Schedule:
        """A gateway ends as by SIGKILL."""
        return self._then(ScheduledStep("kill", "", _gateway(gateway)))

    def drain(self, gateway: str) -> Schedule:
        """A gateway begins to stop, as after SIGTERM."""
        return self._then(ScheduledStep("drain", "", _gateway(gateway)))

    def rest(self, beats: int = 1) -> Schedule:
        """Time passes; a lease lasts three heartbeats."""
        if not 1 <= beats <= MOST_BEATS:
            raise LabRefused(f"{beats!r} is not a number of heartbeats (1 to {MOST_BEATS})")
        return self._then(ScheduledStep("rest", number=beats))

    def __len__(self) -> int:
        return len(self.steps)

    def __str__(self) -> str:
        return "\n".join(str(step) for step in self.steps)

    def _then(self, step: ScheduledStep) -> Schedule:
        if len(self.steps) == MOST_STEPS:
            raise LabRefused(f"a schedule has at most {MOST_STEPS} steps")
        return Schedule((*self.steps, step))


def _name(user: str) -> str:
    if not isinstance(user, str) or not user.isidentifier():
        raise LabRefused(f"{user!r} is not the name of a user, such as 'alice'")
    return user


def _gateway(name: str) -> str:
    if name not in NAMES:
        raise LabRefused(unknown("gateway", name, NAMES))
    return name


class Violated(NamedTuple):
    """An invariant that does not hold, and what was seen."""

    invariant: str
    seen: str
    rows: tuple[dict[str, Any], ...] = ()


@dataclass(slots=True)
class WrittenMessage:
    """A message of a schedule, and what its sender was told."""

    text: str
    sender: TrialUser
    to: str
    status: str

    @property
    def told(self) -> str:
        """What the sender believes at the end: a bounce comes after `routed`."""
        number = next((m["id"] for m in self.sender.heard if m.get("text") == self.text), "")
        acks = [m for m in self.sender.heard if m.get("type") == "ack" and m.get("id") == number]
        return str(acks[-1]["status"]) if acks else self.status


class Play:
    """A schedule while it is played in a world.

    Args:
        seed: which gateway takes which part; None: as it is written.
    """

    def __init__(self, world: TrialWorld, seed: int | None) -> None:
        parts = NAMES if seed is None else random.Random(seed).sample(NAMES, len(NAMES))
        self._world = world
        self._at = dict(zip(NAMES, parts, strict=True))
        self._sessions: dict[str, list[TrialUser]] = {}
        self._sent: list[WrittenMessage] = []
        self._left: set[TrialUser] = set()
        self._gone: set[str] = set()
        self._killed: set[str] = set()
        self._drains: list[asyncio.Task[Any]] = []
        self._strands: dict[str, list[Strand]] = {}
        """Whose channel is held, and which connections that are."""
        self._unrenewed_since: float | None = None
        """Since when leases are not renewed somewhere."""
        self._slow = False
        """Whether entries may have been left behind: then a lease has to run out at the end."""
        self._lapsed = False
        """Whether leases may have run out of users who are connected."""
        self.found: list[Violated] = []

    async def run(self, schedule: Schedule) -> list[Violated]:
        """Play all steps, let everything go, and check the invariants."""
        for step in schedule.steps:
            await self._step(step)
        await self._settle()
        self._check_messages()
        self._check_sessions()
        await self._check_presence()
        return self.found

    # --- steps -----------------------------------------------------------------------------------

    async def _step(self, step: ScheduledStep) -> None:
        act: dict[str, Callable[[ScheduledStep], Any]] = {
            "connect": self._connect,
            "leave": self._leave,
            "move": self._move,
            "send": self._send,
            "hold": self._hold,
            "freeze": self._freeze,
            "let_go": self._let_go,
            "kill": self._kill,
            "drain": self._drain,
            "rest": self._rest,
        }
        await act[step.kind](step)

    def _gateway(self, name: str) -> RunningGateway:
        return self._world.gateways[self._at[name]]

    async def _connect(self, step: ScheduledStep) -> None:
        at = self._gateway(step.gateway)
        if at.name in self._gone:
            return
        user = TrialUser(step.user, at, self._world)
        self._world.users.append(user)
        try:
            answer = await user.register()
        except (OSError, WebSocketException):
            return
        if answer is not None:
            self._sessions.setdefault(step.user, []).append(user)

    async def _leave(self, step: ScheduledStep) -> None:
        if user := self._newest(step.user):
            self._left.add(user)
            await user.leave()
            await self._quiet()

    async def _move(self, step: ScheduledStep) -> None:
        await self._leave(step)
        await self._connect(step)

    async def _send(self, step: ScheduledStep) -> None:
        sender = self._newest(step.user)
        for _ in range(step.number if sender else 0):
            assert sender is not None
            text = f"{len(self._sent) + 1}"
            status = await sender.send(step.what, text, 3 * self._world.pace.heartbeat_s)
            sender.heard.append({"text": text, "id": sender.last_id})
            self._sent.append(WrittenMessage(text, sender, step.what, status))
            if status == "offline" and self._newest(step.what) and not self._is_excused():
                seen = f"{step.what} is registered; a message to her was told offline."
                self._violated(PRESENCE, seen)

    def _is_excused(self) -> bool:
        """Say whether a user who is online may be told offline for a while."""
        since = self._unrenewed_since
        return self._lapsed or (
            since is not None and self._now() - since > 1.5 * self._world.pace.heartbeat_s
        )

    async def _hold(self, step: ScheduledStep) -> None:
        at = self._gateway(step.gateway)
        if step.what == CHANNEL:
            held = self._strands.setdefault(at.name, [])
            held += at.to_redis.strands(subscribes)
            for strand in held:
                strand.hold("down")
        elif step.what not in at.held:
            at.hold(step.what)
        if step.what in ("register", "refresh"):
            self._slow = True
            self._unrenewed_since = self._unrenewed_since or self._now()

    async def _freeze(self, step: ScheduledStep) -> None:
        self._slow = self._lapsed = True
        for wire in self._world.each_wire():
            wire.hold()

    async def _let_go(self, step: ScheduledStep) -> None:
        if step.gateway:
            self._let_one_go(self._gateway(step.gateway), step.what)
        else:
            for one in self._world.gateways.values():
                for what in (*list(one.held), CHANNEL):
                    self._let_one_go(one, what)
                if one.name not in self._killed:
                    one.to_redis.release()
        await self._quiet()

    def _let_one_go(self, at: RunningGateway, what: str) -> None:
        if what in at.held:
            at.let_go(what)
        if what == CHANNEL:
            for strand in self._strands.pop(at.name, []):
                strand.release()

    async def _kill(self, step: ScheduledStep) -> None:
        at = self._gateway(step.gateway)
        self._gone.add(at.name)
        self._killed.add(at.name)
        self._slow = True
        await at.kill()

    async def _drain(self, step: ScheduledStep) -> None:
        at = self._gateway(step.gateway)
        if at.name not in self._gone:
            self._gone.add(at.name)
            stop = self._world.in_time(at, at.gateway.stop(), "drain")
            self._drains.append(asyncio.create_task(stop))
            await self._quiet()

    async def _rest(self, step: ScheduledStep) -> None:
        await asyncio.sleep(step.number * self._world.pace.heartbeat_s)

    def _newest(self, name: str) -> TrialUser | None:
        """Return the session that a user wants to be connected by, if it is open."""
        user = next(iter(reversed(self._sessions.get(name, []))), None)
        return user if user and user not in self._left and user.close_code is None else None

    async def _quiet(self) -> None:
        """Wait until nothing travels any more, but for the heartbeats."""
        ends_at, seen = self._now() + self._world.pace.patience_s, -1
        while seen != self._world.activity and self._now() < ends_at:
            seen = self._world.activity
            await asyncio.sleep(QUIET_S)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    async def _settle(self) -> None:
        """Let everything go on, and give what has to repair itself the time that it may take."""
        await self._let_go(ScheduledStep("let_go"))
        for drain in self._drains:
            await asyncio.wait([drain])
            if drain.exception() is not None:
                self._violated(REASON, "A drain did not come to its end.")
        pace = self._world.pace
        await asyncio.sleep(2 * pace.heartbeat_s + (pace.ttl_s if self._slow else 0.0))
        await self._quiet()

    # --- invariants ------------------------------------------------------------------------------

    def _violated(self, invariant: str, seen: str) -> None:
        rows = tuple(self._world.rows)
        self.found.append(Violated(invariant, seen, rows))

    def _check_messages(self) -> None:
        for sent in self._sent:
            got = sum(user.texts.count(sent.text) for user in self._sessions.get(sent.to, []))
            if got > 1:
                self._violated(TWICE, f"A message to {sent.to} arrived {got} times.")
            # Who was told routed by a gateway that was killed after it, or has left, hears no more.
            excused = self._killed or sent.sender.close_code is not None
            if not got and sent.told == "routed" and not excused:
                seen = f"A message to {sent.to} was told routed, and never arrived."
                self._violated(LOSS, seen)

    def _check_sessions(self) -> None:
        for name, users in self._sessions.items():
            still = [user for user in users if user.close_code is None and user not in self._left]
            if len(still) > 1:
                self._violated(ONE, f"{name} has {len(still)} sessions that are open.")
            last = users[-1]
            ended = last.close_code is not None and last not in self._left
            if ended and last.at.name not in self._gone:
                seen = f"The newest session of {name} was closed with {last.close_code}."
                self._violated(REASON, seen)

    async def _check_presence(self) -> None:
        """Write to each user from each gateway that is left; from her own it needs no Redis."""
        for name in self._sessions:
            user = self._newest(name)
            free = [one for one in self._world.gateways.values() if one.name not in self._gone]
            others = [one for one in free if user is None or one is not user.at]
            if others:
                await self._probe(name, user, others[0])

    async def _probe(self, name: str, user: TrialUser | None, at: RunningGateway) -> None:
        probe = TrialUser(f"probe_{name}", at, self._world)
        self._world.users.append(probe)
        if await probe.register() is None:
            return
        status = await self._answer(probe, name)
        if user is not None and (status != "routed" or not await user.gets("probe")):
            self._violated(PRESENCE, f"{name} is connected; a message to her was told {status}.")
        elif user is None and status in ("routed", "unreachable"):
            self._violated(GHOST, f"{name} is gone; a message to her was told {status}.")

    async def _answer(self, probe: TrialUser, name: str) -> str:
        """Write until there is an answer that says something."""
        ends_at, status = self._now() + 2 * self._world.pace.patience_s, "unknown"
        while status in ("unknown", "") and self._now() < ends_at:
            status = await probe.send(name, "probe")
        return status


async def play(
    schedule: Schedule,
    kind: Callable[..., GatewaySkeleton],
    seed: int | None = None,
    pace: TrialPace | None = None,
) -> Violated | None:
    """Play a schedule on three gateways of a class; return the first invariant that was violated.

    Raises:
        LevelFailed: a gateway did not start.
    """
    server = BundledServer()
    starting = asyncio.ensure_future(asyncio.to_thread(server.start))
    try:
        await asyncio.shield(starting)
        async with TrialWorld.of(kind, server, pace or pace_now()) as world:
            await world.start()
            found = await Play(world, seed).run(schedule)
    finally:
        # A thread cannot be interrupted: what it has started meanwhile is stopped.
        await asyncio.wait([starting])
        await asyncio.to_thread(server.stop)
    return found[0] if found else None


__all__ = ["INVARIANTS", "LevelFailed", "Schedule", "Violated", "play"]

"""Lesson 15: how far does a gateway come that a learner wrote, in five levels of faults?

A level stops at the first thing that is wrong: what was seen, and one hint. What is seen is what
clients see, so any keys and scripts in Redis will do.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from websockets.exceptions import WebSocketException

from wsdemo.lab.errors import LabRefused
from wsdemo.lab.lessons.own_world import (
    MEND,
    SLOW,
    HoleCall,
    LevelFailed,
    TrialPace,
    TrialUser,
    TrialWorld,
    pace_now,
    subscribes,
)
from wsdemo.lab.lessons.question import Judgement, NotJudged, Question
from wsdemo.lab.trial import run_apart
from wsdemo.lab.yours import GatewaySkeleton
from wsdemo.redis.server import BundledServer, ServerError
from wsdemo.rig.waiting import wait_until

if TYPE_CHECKING:
    from wsdemo.drawing.style import Picture

QUESTION: Final = Question(
    "A tutorial's gateway: register sets a key with a lease, refresh sets it anew, release deletes "
    "it, a message is published. Each level has faults of its own. Which one stops it?",
    {
        1: "It delivers, in order and across gateways: that is what tutorials try.",
        2: "It has a lease, and each heartbeat renews it.",
        3: "Its release deletes whatever is there, whoever it belongs to by then.",
        4: "It would be stopped there too; but something comes before.",
        5: "It would be stopped there too; but something comes before.",
    },
)

LEVELS: Final = (
    "delivers",
    "presence is a lease",
    "survives a late clean-up",
    "survives a frozen Redis",
    "drains without a loss",
)
MESSAGES: Final = 10
ROWS: Final = 40
"""So much of what happened last is kept."""

# --- what each level says when it is not passed ----------------------------------------------

PUBLISH: Final = (
    "The gateway of the recipient reads JSON from its channel. Does `route` find out which gateway "
    "that is, and publish the envelope there?"
)
TWICE: Final = "A message is either delivered here or published, never both."
NOBODY: Final = 'When there is no such user, `route` has to return "offline".'
KEEPS_OWN: Final = "Her lease has run out although she is connected. What must `refresh` renew?"
COUNT: Final = "PUBLISH returns how many have heard it. What does zero mean?"
NO_LEASE: Final = (
    "Nobody is left who could release her. An entry needs an end of its own: a time to live."
)
LEFT: Final = "She has said goodbye. `release` has to remove her entry."
WHOSE: Final = (
    "The entry was not the one of the session that ended. Whose entry may a release remove?"
)
BETWEEN: Final = (
    "Between reading the entry and deleting it, another gateway wrote. Both have to be one step: "
    "a script."
)
WHICH: Final = (
    "She came back to the same gateway. The name of a gateway does not say which of its sessions "
    "an entry belongs to."
)
STOLEN: Final = (
    "The older session has taken the entry back. Of two sessions the newer one wins, and "
    "`refresh` of the older one returns False."
)
TWO: Final = "`refresh` of the older session has to return False: it has been replaced."
LOCAL: Final = "Both are connected to this gateway, and it knows it without Redis."
DEADLINE: Final = (
    "`self.redis` waits for ever. Each call of it needs a deadline, of `redis_timeout_s`: "
    "asyncio.timeout raises, and the skeleton tells the sender."
)
CLOSED_HER: Final = (
    "When Redis does not answer, nothing is known. It is no reason to close a user's connection: "
    "let `refresh` raise, or return True."
)
LOST_ENTRY: Final = (
    "Her lease ran out while Redis was frozen. She is still connected, so `refresh` has to put the "
    "entry back, not only make it longer."
)
NOT_READ: Final = (
    "They were on their way to this gateway when it stopped reading. What has been published has "
    "to be delivered before the sockets are closed: `caught_up`."
)
STALE_ENTRY: Final = "The gateway is gone and says so nowhere: `drain` has to release its users."
GOODBYE: Final = (
    "`drain` has to close each socket with code 1012: then a client knows that another gateway "
    "will serve it at once."
)
ANSWERS: Final = "Does the gateway still answer its users?"
NO_END: Final = "`drain` has to return when all is done; then the skeleton ends the rest."


# --- the levels --------------------------------------------------------------------------------


def need(holds: object, seen: str, hint: str) -> None:
    """Go on when something holds, else stop the level."""
    if not holds:
        raise LevelFailed(seen, hint)


async def delivers(world: TrialWorld) -> None:
    """Level 1: messages of the protocol, within a gateway and across two."""
    alice, bob = await world.user("alice", 1), await world.user("bob", 2)
    carol = await world.user("carol", 1)
    texts = [f"across {n}" for n in range(5)]
    for text in texts:
        status = await alice.send("bob", text)
        seen = f"alice at {alice.at.name} wrote to bob at {bob.at.name}; the answer was "
        need(status == "routed", seen + (f'"{status}".' if status else "silence."), PUBLISH)
    need(await bob.gets(texts[-1]), "bob at gateway-02 got nothing from alice.", PUBLISH)
    need(bob.texts == texts, f"bob got {bob.texts}.", TWICE)
    await carol.send("alice", "local")
    need(await alice.gets("local"), "carol and alice are at one gateway; nothing came.", PUBLISH)
    status = await alice.send("nobody", "Are you there?")
    seen = f'alice wrote to a user who does not exist; the answer was "{status}".'
    need(status == "offline", seen, NOBODY)
    need(alice.texts == ["local"], f"alice got {alice.texts}.", TWICE)


async def is_a_lease(world: TrialWorld) -> None:
    """Level 2: who is connected stays listed; who left or whose gateway died does not."""
    alice, bob = await world.user("alice", 1), await world.user("bob", 3)
    await world.user("carol", 2)
    dave = await world.user("dave", 1)
    await dave.leave()
    await done(world, dave, "release")
    status = await bob.send("dave", "Are you there?")
    need(status == "offline", f'dave has left; a message to him was "{status}".', LEFT)
    world.new_part()
    await world.gateways["gateway-02"].kill()
    status = await bob.send("carol", "Are you there?")
    seen = "gateway-02 was killed with carol on it; a message to her was told routed."
    need(status != "routed", seen, COUNT)
    await asyncio.sleep(2 * world.pace.ttl_s)
    status = await bob.send("carol", "Are you still there?")
    seen = f'Two leases after the death of gateway-02, a message to carol was "{status}".'
    need(status == "offline", seen, NO_LEASE)
    await arrives(bob, alice, "still", "alice stayed connected for two leases, and", KEEPS_OWN)


async def survives_a_late_cleanup(world: TrialWorld) -> None:
    """Level 3: a release comes too late, in three ways; and an older session lives on."""
    bob = await world.user("bob", 3)
    with refreshes_held(world):
        await late_release(world, bob, "alice", 2, WHOSE)
        await late_reply(world, bob, "erin", BETWEEN)
        await late_release(world, bob, "dave", 1, WHICH)
    world.new_part()
    old, new = await world.user("carol", 1), await world.user("carol", 2)
    # The older session comes to its heartbeat, and the newer one cannot put right what that did.
    with refreshes_held(world, "gateway-02"):
        await asyncio.sleep(1.5 * world.pace.heartbeat_s)
        await arrives(bob, new, "newer", "carol logged in twice; to the newer session", STOLEN)
    closed = await happens(world, lambda: old.close_code is not None)
    need(closed, "carol logged in twice, and both sessions stay open.", TWO)


async def late_release(
    world: TrialWorld, bob: TrialUser, name: str, back_at: int, hint: str
) -> None:
    """Let a release wait until its user has come back."""
    world.new_part()
    user = await world.user(name, 1)
    first = world.gateways["gateway-01"]
    first.hold("release")
    await user.leave()
    again = await world.user(name, back_at)
    first.let_go("release")
    await done(world, user, "release")
    seen = f"{name} came back to {again.at.name}. Then gateway-01 released her old session, and"
    await arrives(bob, again, "late", seen, hint)


async def late_reply(world: TrialWorld, bob: TrialUser, name: str, hint: str) -> None:
    """Let the first command of a release pass, and hold its reply until the user has moved."""
    world.new_part()
    user = await world.user(name, 1)
    wire = world.gateways["gateway-01"].to_redis
    wire.hold("down")
    await user.leave()
    await happens(world, lambda: ("release", name) in user.at.begun)
    await asyncio.sleep(0.1 * world.pace.heartbeat_s)
    again = await world.user(name, 2)
    wire.release("down")
    await done(world, user, "release")
    seen = f"{name} moved while gateway-01 was in the middle of its release, and"
    await arrives(bob, again, "between", seen, hint)


async def survives_a_frozen_redis(world: TrialWorld) -> None:
    """Level 4: Redis does not answer for longer than a lease."""
    alice, carol = await world.user("alice", 1), await world.user("carol", 1)
    bob = await world.user("bob", 2)
    for wire in world.each_wire():
        wire.hold()
    await asyncio.sleep(world.pace.ttl_s + world.pace.heartbeat_s)
    seen = "Redis is frozen, and a gateway closed the connection of a user."
    need(all(one.close_code is None for one in (alice, carol, bob)), seen, CLOSED_HER)
    await carol.say(type="ping")
    need(await carol.hears(type="pong"), "Redis is frozen; carol's ping got no pong.", DEADLINE)
    await carol.send("alice", "local")
    seen = "Redis is frozen; carol's message to alice at the same gateway did not come."
    need(await alice.gets("local"), seen, LOCAL)
    status = await bob.send("alice", "frozen")
    seen = "Redis is frozen; bob's message to another gateway got no answer at all."
    need(status, seen, DEADLINE)
    need(status != "routed", "Redis is frozen; bob's message was told routed.", DEADLINE)
    for wire in world.each_wire():
        wire.release()
    back = await routed_again(world, bob, alice)
    need(back, "Redis answers again; alice is connected, and nobody can reach her.", LOST_ENTRY)
    seen = "Redis answers again, and a gateway closed the connection of a user."
    need(all(one.close_code is None for one in (alice, carol, bob)), seen, CLOSED_HER)


async def routed_again(world: TrialWorld, bob: TrialUser, alice: TrialUser) -> bool:
    """Send until a message arrives, and say whether one did."""
    ends_at = asyncio.get_running_loop().time() + world.pace.patience_s + world.pace.ttl_s
    number = 0
    while asyncio.get_running_loop().time() < ends_at:
        number += 1
        status = await bob.send("alice", f"thawed {number}")
        if status == "routed" and await alice.gets(f"thawed {number}"):
            return True
        await asyncio.sleep(world.pace.heartbeat_s / 2)
    return False


async def drains_without_a_loss(world: TrialWorld) -> None:
    """Level 5: a gateway stops while messages are on the way to it."""
    alice, bob = await world.user("alice", 1), await world.user("bob", 2)
    first = world.gateways["gateway-01"]
    heard = [*first.to_redis.strands(subscribes)]
    for strand in heard:
        strand.hold("down")
    texts = [f"on the way {n}" for n in range(MESSAGES)]
    for text in texts:
        need(await bob.send("alice", text) == "routed", f"{text}: not routed.", PUBLISH)
    stopping = asyncio.create_task(world.in_time(first, first.gateway.stop(), "drain"))
    try:
        await asyncio.sleep(world.pace.heartbeat_s / 2)
        for strand in heard:
            strand.release()
        await drained(world, alice, bob, texts, stopping)
    finally:
        stopping.cancel()  # It goes on only when the level has ended early, by an interrupt too.
        await asyncio.wait([stopping])
        stopping.cancelled() or stopping.exception()


async def drained(
    world: TrialWorld,
    alice: TrialUser,
    bob: TrialUser,
    texts: list[str],
    stopping: asyncio.Task[Any],
) -> None:
    """Look at what came of a drain."""
    over = await happens(world, lambda: alice.close_code is not None or stopping.done())
    await asyncio.wait([stopping], timeout=world.pace.patience_s)
    need(over and stopping.done(), "The drain of gateway-01 does not come to an end.", NO_END)
    if problem := stopping.exception():
        if isinstance(problem, LevelFailed):
            raise problem
        raise LevelFailed(f"`drain` raised {type(problem).__name__}: {problem}.", NO_END)
    lost = len(texts) - len([text for text in texts if text in alice.texts])
    seen = f"gateway-01 drained; {lost} of {len(texts)} messages that were told routed are lost."
    need(not lost, seen, NOT_READ)
    status = await bob.send("alice", "Are you there?")
    seen = f'gateway-01 is gone, alice not back yet; a message to her was "{status}".'
    need(status == "offline", seen, STALE_ENTRY)
    seen = f"gateway-01 drained; alice's socket was closed with {alice.close_code}."
    need(alice.close_code == 1012, seen, GOODBYE)
    again = await world.user("alice", 3)
    await arrives(bob, again, "after", "alice came back to gateway-03, and", STALE_ENTRY)


async def arrives(bob: TrialUser, to: TrialUser, text: str, seen: str, hint: str) -> None:
    """Send a message; stop the level when it does not arrive."""
    status = await bob.send(to.name, text)
    came = status == "routed" and await to.gets(text)
    need(came, f'{seen} a message to {to.name} was "{status}" and did not arrive.', hint)


async def happens(world: TrialWorld, holds: Callable[[], Any]) -> bool:
    """Wait for something, and say whether it came."""
    with contextlib.suppress(TimeoutError):
        await wait_until("it", holds, world.pace.patience_s)
        return True
    return False


async def done(world: TrialWorld, user: TrialUser, hole: str) -> None:
    """Wait until a gateway has finished a call for a user, and its commands are executed."""

    def calls() -> list[HoleCall]:
        return [one for one in user.at.calls if (one.name, one.user) == (hole, user.name)]

    await happens(world, calls)


@contextlib.contextmanager
def refreshes_held(world: TrialWorld, *names: str) -> Iterator[None]:
    """Let no refresh begin for a while, at these gateways or at all: it would put right what is to
    be seen.
    """
    held = [world.gateways[name] for name in names or world.gateways]
    for one in held:
        one.hold("refresh")
    try:
        yield
    finally:
        for one in held:
            one.let_go("refresh")


PLAYS: Final[tuple[Callable[[TrialWorld], Awaitable[None]], ...]] = (
    delivers,
    is_a_lease,
    survives_a_late_cleanup,
    survives_a_frozen_redis,
    drains_without_a_loss,
)

# --- the judge ---------------------------------------------------------------------------------


class Attempt(NamedTuple):
    """How far a gateway came: so many levels, and why not one more."""

    passed: int
    seen: str = ""
    hint: str = ""
    rows: tuple[dict[str, Any], ...] = ()

    @property
    def stopped_at(self) -> int:
        """The level that stopped it; 0 when none did."""
        return 0 if self.passed == len(LEVELS) else self.passed + 1

    def figure(self, title: str = "Level {level}: {seen}") -> Picture:
        """Draw the last that happened before the level was stopped.

        Args:
            title: a template; known facts: level, seen.

        Raises:
            LabRefused: it was not stopped.
        """
        from wsdemo.lab.lessons.own_counterexample import counterexample

        if not self.rows:
            raise LabRefused("Nothing stopped this gateway: there is no counterexample to draw.")
        return counterexample(self.stopped_at, self.seen, self.rows, title)


def levels(attempts: Mapping[str, Attempt], **options: Any) -> Picture:
    """Draw how far each gateway came."""
    from wsdemo.lab.figures.levels import levels as draw

    return draw({name: one.passed for name, one in attempts.items()}, LEVELS, **options)


def try_to_break(kind: Callable[..., GatewaySkeleton]) -> Attempt:
    """Let a gateway go through the levels until one stops it.

    Raises:
        NotJudged: it is no gateway, or there is no Redis to be started.
        NotImplementedError: nothing is written yet.
    """
    kind = inspect.unwrap(kind)
    if not (inspect.isclass(kind) and issubclass(kind, GatewaySkeleton)):
        raise NotJudged("It must be a class that extends GatewaySkeleton.")
    server = BundledServer()
    try:
        server.start()
    except ServerError as problem:
        raise NotJudged(f"There is no Redis to try it with: {problem}") from None
    try:
        return run_apart(_climb(kind, server), "own gateway")
    finally:
        server.stop()


async def _climb(kind: Callable[..., GatewaySkeleton], server: BundledServer) -> Attempt:
    for level in range(1, len(LEVELS) + 1):
        failed = await play_level(kind, server, level)
        if failed is not None and MEND not in failed.hint:
            # A machine that is busy must not be what stops a gateway.
            failed = await play_level(kind, server, level, SLOW)
        if failed is not None:
            return failed
    return Attempt(len(LEVELS))


async def play_level(
    kind: Callable[..., GatewaySkeleton],
    server: BundledServer,
    level: int,
    pace: TrialPace | None = None,
) -> Attempt | None:
    """Play one level; return why it was not passed.

    Raises:
        NotImplementedError: what the first level needs is not written yet.
    """
    server.restart()
    async with TrialWorld.of(kind, server, pace or pace_now()) as world:
        try:
            await world.start()
            await PLAYS[level - 1](world)
        except LevelFailed as problem:
            failed = problem
        except (OSError, WebSocketException) as problem:
            failed = LevelFailed(f"It ended with {type(problem).__name__}: {problem}.", ANSWERS)
        else:
            return None
        fault = await world.fault_of_code()
        if isinstance(fault, NotImplementedError):
            if level == 1:
                raise fault
            fault = LevelFailed(f"`{fault}` is not written yet.", MEND)
        told = fault or failed
        return Attempt(level - 1, str(told), told.hint, tuple(world.rows[-ROWS:]))


def judge_gateway(kind: Any, seed: int | None = None) -> Judgement:
    """Say how far a gateway comes, and show the counterexample that stopped it."""
    attempt = try_to_break(kind)
    bars = "■" * attempt.passed + "□" * (len(LEVELS) - attempt.passed)
    if not attempt.stopped_at:
        return Judgement(True, f"{bars} All five levels.", levels({"yours": attempt}))
    level = f"Level {attempt.stopped_at}, {LEVELS[attempt.passed]}"
    evidence = attempt.figure() if attempt.rows else ""
    return Judgement(False, f"{bars} {level}: {attempt.seen} {attempt.hint}", evidence)

"""How does one chaos run go, and was everything in it allowed?

Users talk while the nemesis breaks things. In the middle of it and at its end everything is
healed, and must come right within the time that table 2.2 promises: every user is registered, and
Redis names that very session. Then comes a calm, in which nothing is broken and nobody moves: a
message between any two is routed and arrives, each ping has its pong, and gateways have as many
sessions, descriptors and things to do as there ought to be. In the end everybody leaves, and
nothing may be left.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import psutil

from wsdemo.proof import history as h
from wsdemo.proof.chaos.faults import catalogue as _catalogue  # noqa: F401  (fills FAULTS)
from wsdemo.proof.chaos.nemesis import FAULTS, NOT_ARRANGED, Injection, Nemesis, due
from wsdemo.proof.chaos.users import PATIENCE, Talker
from wsdemo.proof.chaos.watch import Memory, Sample, Watch, believers, peaks, slopes
from wsdemo.proof.chaos.witness import OUTCOMES
from wsdemo.proof.chaos.world import LIMITS, TIMING, World
from wsdemo.proof.history import Violation
from wsdemo.protocol import Code
from wsdemo.redis.connection import BACKOFF_CAP_S
from wsdemo.rig.process import PROGRAM

PROMISED_S: Final = TIMING.presence_ttl_s + TIMING.heartbeat_s
"""The slowest line of table 2.2, a stale entry (TTL), and the refresh that follows it (H)."""
ALLOWANCE_S: Final = 12.0
"""What a busy machine gets on top before a run is red: a handshake, or the start of a process,
takes its time whatever the scale. The report shows the measured time beside the promise."""
CALM_S: Final = 2.5
"""How long a calm is: two heartbeats of everybody, and the longest time that an answer may take."""
RAGES: Final = 2
REST_S: Final = PROMISED_S + CALM_S + 0.5
"""About how long it takes to heal, to look and to be calm."""
END_S: Final = REST_S + 2.0
"""What is left of the time for the last rest, and for leaving."""
NOTHING_LEFT_S: Final = 5.0
COUNT_S: Final = 2.0
"""How long gateways may take until everything that was under way is over."""
POLL_S: Final = 0.05
NO_NAME: Final = "(half an entry)"
GROWTH_KIB_PER_MIN: Final = 20 * 1024
"""A leak of a kilobyte a message would grow by this much at some 350 messages a second; what a
young process still grows by itself, for the minute that a run in CI lasts, stays below."""
GROWTH_BYTES: Final = 48 * 1024 * 1024
"""What a gateway may need at any time beside what it needs when it is idle; a slow consumer alone
may cost it three megabytes, and hostile envelopes a few more."""
LATE_SHARE: Final = 0.2
"""A machine that keeps us waiting for more of its time than this is too slow for a run."""
NOT_ARRANGED_SHARE: Final = 0.2
"""Of all faults, no more may fail to be arranged."""

NEAR_S: Final = TIMING.presence_ttl_s
"""For the tally: for so long before and after it, a fault is to blame for what is lost."""
BOUNDS: Final = h.Bounds(
    answer_s=LIMITS.redis_timeout_s + 1.0,
    arrive_s=LIMITS.redis_timeout_s + 1.0,
    # Less than a heartbeat: the answer to the next ping must not pass for that to this one.
    pong_s=0.8 * TIMING.heartbeat_s,
    settle_s=PROMISED_S + BACKOFF_CAP_S,
    aftermath_s=PROMISED_S,
    register_s=PATIENCE.register_timeout_s,
)
SIGNALLED: Final = frozenset(
    {
        *("gateway drained", "SIGTERM twice", "SIGTERM during the start"),
        *("wall clock set", "log on a full disk"),
    }
)
"""Faults that tell a gateway to go, some of them so that another one can take its place."""

FROZEN: Final = frozenset(
    {"gateway stopped, shortly", "gateway a zombie", "CPU throttled", "client half-open", h.MACHINE}
)
CAUSES: Final[h.Causes] = {
    0: None,
    1006: None,
    Code.RESTART: SIGNALLED,
    Code.HEARTBEAT_TIMEOUT: FROZEN,
    Code.STALE: None,
    Code.PRESENCE_LOST: frozenset({"wrong type"}),
}
"""What explains the end of a session, beside its user and a newer session. No fault explains 1011,
4008, 4011 or any code that is not here: those are for clients of the faults' own."""
STATUSES: Final = ("routed", "offline", "unreachable", "busy", "unknown")
WANTED_COUNTERS: Final = (
    *("bounces_sent", "bounces_received", "kicks_sent", "kicks_received", "subscription_gaps"),
    *("probes_lost", "malformed_envelopes", "malformed_presence", "slow_consumers", "stalls"),
    *("heartbeat_timeouts", "registers_failed", "refreshes_failed", "releases_failed"),
)
"""Of the counters of gateways, those that a run must have moved."""
WANTED: Final = (
    *OUTCOMES,
    *(f"answer {status}" for status in STATUSES),
    *(f"counter {name}" for name in WANTED_COUNTERS),
)
"""What has to happen in a run beside its faults; it goes on for a while to see all of it."""
COMES_OF: Final[Mapping[str, frozenset[str]]] = {
    "counter probes_lost": frozenset({"subscriber half-open"}),
    "counter malformed_envelopes": frozenset({"hostile publishes"}),
    "counter malformed_presence": frozenset({"foreign presence entries"}),
    "counter slow_consumers": frozenset({"slow consumer"}),
    "counter stalls": frozenset({"gateway a zombie"}),
    "counter heartbeat_timeouts": frozenset({"client half-open"}),
    "refresh closed": frozenset({"late commands"}),
    "register stale": frozenset({"late register"}),
    "refresh superseded": frozenset({"subscriber half-open"}),
    "refresh reclaimed": frozenset({"FLUSHALL", "DEL of one presence key"}),
}
"""What only certain faults bring about, each of them: it is wanted in a run that had one."""
EXCEPTIONS: Final = ("unhandled_errors",)
"""Counters of gateways that must stay at zero."""

Progress = Callable[[str], None]


@dataclass(slots=True)
class Outcome:
    """What came of a run. Times in seconds since its begin."""

    seed: int
    seconds: float
    rages: int = RAGES
    users: int = 0
    history: list[h.Record] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    injections: list[Injection] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    memory: list[Memory] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    """Of the scripts, as the witness saw them."""
    counters: Counter[str] = field(default_factory=Counter)
    """Of all gateways."""
    seen: Counter[str] = field(default_factory=Counter)
    gaps: int = 0
    blind: int = 0
    """Gaps of the witness after which it could not ask for all entries."""
    unjudged: int = 0
    """Releases that it did not judge, because they ran before it had asked."""
    rests: list[float] = field(default_factory=list)
    """Of each heal, how long it took until everything was right; NaN when it never was."""
    pairs: int = 0
    """Messages between any two users after a heal; all of them arrived, or it is red."""
    idle_bytes: int = 0
    """The memory of a gateway without users."""
    log_lines: int = 0
    """How much gateways have written; all of it was read."""
    tally: h.Tally = field(default_factory=h.Tally)
    took_s: float = 0.0
    finished: bool = False

    @property
    def green(self) -> bool:
        """Whether everything that happened was allowed, and everything wanted happened."""
        return self.finished and not self.violations

    @property
    def converged_s(self) -> float:
        """The longest time from a heal until everything was right; NaN when it never was."""
        return math.nan if any(map(math.isnan, self.rests)) else max(self.rests, default=math.nan)

    @property
    def late_s(self) -> float:
        """For how long, in all, the machine kept somebody waiting who was ready to run."""
        total = until = 0.0
        for record in self.history:
            if isinstance(record, h.Late):
                total += record.t - max(until, record.t - record.for_s)
                until = record.t
        return total

    @property
    def peaks(self) -> dict[str, int]:
        """The most memory that each process had (bytes)."""
        return peaks(self.memory)

    @property
    def slopes(self) -> dict[str, float]:
        """How much each process grew, KiB a minute."""
        return slopes(self.memory)


async def run(
    seconds: float,
    seed: int,
    progress: Progress = lambda line: None,
    *,
    program: Sequence[str] = PROGRAM,
    rages: int = RAGES,
) -> Outcome:
    """Run once.

    Args:
        seconds: about how long; the faults that are due all come, however short that is.
        progress: is told, about four times a second, how far it is.
        program: what Python runs as a gateway; tests pass one with a mistake in it.
        rages: how often things go wrong for a while. With none, there is a calm only: what is
            found then is wrong without any fault.
    """
    outcome = Outcome(seed, seconds, rages)
    world = World(seed, program=program)
    async with _unhandled(world), world:
        outcome.users, outcome.idle_bytes = len(world.users), world.idle_bytes
        watch = Watch(world)
        nemesis = Nemesis(world, world.rng("nemesis"))
        watching = asyncio.create_task(watch.run(), name="watch")
        telling = asyncio.create_task(
            _tell(world, watch, nemesis, seconds, progress), name="progress"
        )
        try:
            await _live(world, watch, nemesis, outcome)
        finally:
            for task in (watching, telling):
                task.cancel()
            await asyncio.gather(watching, telling, return_exceptions=True)
            _collect(outcome, world, watch, nemesis)
    outcome.took_s = world.clock()
    outcome.finished = True
    # Only now have the logs been read to their ends.
    outcome.log_lines = sum(log.read for _, log in world.logs)
    outcome.violations = judge(outcome, [*world.complaints, *_troubles(world)])
    return outcome


async def _live(world: World, watch: Watch, nemesis: Nemesis, outcome: Outcome) -> None:
    """Rage and rest, as often as is wanted, and leave."""
    rages = outcome.rages
    first = world.rng("due").sample(due(world.seed), len(due(world.seed)))
    ends_s = outcome.seconds - END_S
    for n in range(rages):
        for talker in world.talkers.values():
            talker.roaming = True
        left_s = ends_s - world.clock() - (rages - n - 1) * REST_S
        until_s = world.clock() + left_s / (rages - n)
        if n < rages - 1:
            await nemesis.rage(first[n::rages], until_s)
        else:
            await nemesis.rage(first[n::rages], until_s, lambda: not _missed(world, watch, nemesis))
        await _rest(world, nemesis, outcome)
    if not rages:
        await _rest(world, nemesis, outcome)
    await _leave(world)


@contextlib.asynccontextmanager
async def _unhandled(world: World) -> AsyncIterator[None]:
    """Take note of exceptions that nobody has caught, in this process: of a client, say."""
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()

    def complain(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        text = f"{context.get('message')}: {context.get('exception')!r}"
        world.complain(Violation("exception", world.clock(), text))

    loop.set_exception_handler(complain)
    try:
        yield
    finally:
        loop.set_exception_handler(before)


def _troubles(world: World) -> list[Violation]:
    """Return what stands in the logs and must not: tracebacks, the content of messages."""
    found = [
        Violation("log", world.clock(), f"{name} wrote:\n" + "\n".join(trouble))
        for name, log in world.logs
        for trouble in log.troubles
    ]
    words = world.forbidden_in(world.server.log_tail(ALL_LINES))
    return [*found, *(Violation("log", world.clock(), f"Redis wrote {word!r}") for word in words)]


def _collect(outcome: Outcome, world: World, watch: Watch, nemesis: Nemesis) -> None:
    outcome.history = world.history
    outcome.injections, outcome.samples = nemesis.injections, watch.samples
    outcome.memory, outcome.counters = watch.memory, watch.counters
    outcome.outcomes, outcome.gaps = world.witness.ledger.outcomes, world.witness.gaps
    outcome.blind, outcome.unjudged = world.witness.blind, world.witness.ledger.unjudged
    outcome.seen = world.seen


async def _tell(
    world: World, watch: Watch, nemesis: Nemesis, seconds: float, progress: Progress
) -> None:
    while True:
        active = ", ".join(one.fault.name for one in nemesis.active) or "calm"
        late = world.clock() > seconds - END_S
        missed = _missed(world, watch, nemesis) if late else []
        still = [one.text.removesuffix(" never happened") for one in missed]
        missing = f"; still waiting for {', '.join(still)}" if still else ""
        progress(
            f"{world.clock():5.1f} of {seconds:g} s, seed {world.seed}: "
            f"{len(nemesis.injections)} faults, {len(world.history):,} records, "
            f"{len(world.complaints)} complaints; {active}{missing}"
        )
        await asyncio.sleep(0.25)


# --- after a heal ------------------------------------------------------------------------------


async def _rest(world: World, nemesis: Nemesis, outcome: Outcome) -> None:
    """See that everything comes right, and that it stays so for a while."""
    nemesis.healed()
    for name, gateway in world.gateways.items():
        if not gateway.running:
            text = f"{name} has ended by itself: {list(gateway.log)[-3:]}"
            world.complain(Violation("died", world.clock(), text))
    outcome.rests.append(await _settle(world))
    if not math.isnan(outcome.rests[-1]):
        outcome.pairs += await _stay_calm(world)


async def _settle(world: World) -> float:
    """Wait until all is right, look, and return how long it took (s)."""
    healed = world.clock()
    for talker in world.talkers.values():
        talker.roaming = False
    deadline = healed + PROMISED_S + ALLOWANCE_S
    right_at = await _right(world, deadline)
    # A look before the promised time would prove nothing; and who is right stays so.
    await asyncio.sleep(max(0.0, healed + PROMISED_S - world.clock()))
    still_right_at = await _right(world, deadline)
    if math.isnan(right_at + still_right_at):
        text = f"not everything was right {deadline - healed:g} s after the heal"
        world.complain(Violation("P8", world.clock(), text))
    await _look(world)
    return right_at - healed


async def _right(world: World, deadline: float) -> float:
    """Return when all was right; NaN if it was not before the deadline."""
    while world.clock() < deadline:
        await _look_after(world)
        if await _all_right(world):
            return world.clock()
        await asyncio.sleep(POLL_S)
    return float("nan")


async def _look_after(world: World) -> None:
    """Let talkers prune what was told to leave. Bounded: who is being registered keeps its lock."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1.0):
            users = world.talkers.values()
            await asyncio.gather(*(talker.look_after_sessions() for talker in users))


async def _entries(world: World) -> dict[str, str]:
    """Return the session in each entry that there is in Redis; `NO_NAME` if it names none."""
    keys = await world.active_names()
    conns = await asyncio.gather(*(world.admin.hget(key, "connId") for key in keys))
    return {key.partition(":")[2]: conn or NO_NAME for key, conn in zip(keys, conns, strict=True)}


async def _all_right(world: World) -> bool:
    entries = await _entries(world)
    believed = {user.name: believers(user) for user in world.users}
    return believed == {name: [conn] for name, conn in entries.items()}


async def _look(world: World) -> None:
    entries = await _entries(world)
    for user in world.users:
        mine = believers(user)
        world.note(
            h.Looked(
                t=world.clock(),
                user=user.name,
                online=user.online,
                conn=mine[-1] if mine else "",
                believers=tuple(mine),
                owner=entries.pop(user.name, ""),
            )
        )
    for name, conn in entries.items():
        world.note(h.Looked(t=world.clock(), user=name, online=False, owner=conn))


async def _stay_calm(world: World) -> int:
    """Let everybody write to everybody, and count; return how many messages that were."""
    begin = world.clock()
    world.note(h.Calm(t=begin, begins=True))
    names = [user.name for user in world.users]

    async def write_to_all(talker: Talker) -> None:
        for name in names:
            for client in talker.registered[:1]:
                await talker.say(client, name)

    await asyncio.gather(*(write_to_all(talker) for talker in world.talkers.values()))
    await asyncio.sleep(max(0.0, begin + CALM_S - world.clock()))
    await _count(world)
    world.note(h.Calm(t=world.clock(), begins=False))
    return len(world.talkers) * len(names)


async def _count(world: World, *busy: str) -> None:
    """Count what gateways have, until it is as it ought to be, or the time for that is over.

    Args:
        busy: gauges that are zero as well, when nobody says anything.
    """
    deadline = world.clock() + COUNT_S
    for name in world.gateways:
        while True:
            found = await _counts(world, name, (*IDLE_GAUGES, *busy))
            if not h.counted([*world.history, *found]) or world.clock() > deadline:
                break
            await asyncio.sleep(POLL_S)
        for one in found:
            world.note(one)


IDLE_GAUGES: Final = ("outbox_frames", "admission_waiting", "releases_owed", "repairs")
"""What gateways have to do, and have not when nothing is wrong."""
ALL_LINES: Final = 1_000_000


async def _counts(world: World, name: str, idle: Sequence[str]) -> list[h.Counted]:
    gateway = world.gateways[name]
    try:
        page = (await gateway.get("/metrics"))[1]
        open_ones = psutil.Process(gateway.pid).num_fds()
    except (OSError, ValueError, TimeoutError, psutil.Error) as problem:
        text = f"{name} could not be counted: {problem!r}"
        world.complain(Violation("counted", world.clock(), text))
        return []
    gauges = {
        words[0].removeprefix("wsdemo_"): round(float(words[1]))
        for line in page.splitlines()
        if not line.startswith("#") and len(words := line.split()) == 2 and "{" not in line
    }
    t = world.clock()
    return [
        h.Counted(t=t, gateway=name, what="sessions", count=gauges["connections"]),
        # The connection that asks is one of them.
        h.Counted(t=t, gateway=name, what="sockets", count=gauges["sockets"] - 1),
        h.Counted(t=t, gateway=name, what="descriptors", count=open_ones - world.idle_descriptors),
        *(h.Counted(t=t, gateway=name, what=one, count=gauges[one], wanted=0) for one in idle),
    ]


async def _in_time(world: World, limit_s: float, look: Callable[[], Any]) -> Any:
    """Look until nothing is found any more, for a while; return what is still found."""
    deadline = world.clock() + limit_s
    while world.clock() < deadline:
        found = look()
        if inspect.isawaitable(found):
            found = await found
        if not found:
            break
        await asyncio.sleep(POLL_S)
    return found


# --- nothing is left ---------------------------------------------------------------------------


async def _leave(world: World) -> None:
    """Let everybody go, then the gateways, and see what is left."""
    await _forever(world)
    await world.stop_users()
    await _nothing(world, "keys left", world.active_names)
    await _count(world, "redis_pending")
    await asyncio.gather(*(world.drain(name) for name in world.gateways))
    await _nothing(world, "channels left", lambda: world.admin.pubsub_channels("gateway:*"))
    await _nothing(world, "processes left", _processes)


async def _forever(world: World) -> None:
    """No key may live for ever."""
    async for key in world.admin.scan_iter("*"):
        if await world.admin.pttl(key) == -1:
            text = f"{key} has no TTL"
            world.complain(Violation("P4", world.clock(), text))


async def _nothing(world: World, what: str, look: Callable[[], Any]) -> None:
    left = await _in_time(world, NOTHING_LEFT_S, look)
    world.seen[what] += len(left)
    if left:
        world.complain(Violation("nothing left", world.clock(), f"{what}: {left}"))


def _processes() -> list[str]:
    children = psutil.Process().children(recursive=True)
    lines = [" ".join(child.cmdline()) for child in children if child.status() != "zombie"]
    return [line for line in lines if "wsdemo.gateway" in line]


# --- the verdict -------------------------------------------------------------------------------


def judge(outcome: Outcome, complaints: list[Violation]) -> list[Violation]:
    """Return everything that was not allowed, and everything that never happened."""
    outcome.tally = h.tally(outcome.history, near_s=NEAR_S)
    return [
        *complaints,
        *allowed(outcome.history),
        *_grown(outcome),
        *_raised_by_gateways(outcome),
        *_too_slow(outcome),
        *_not_arranged(outcome),
        *_sometimes(outcome),
    ]


def allowed(history: h.History) -> list[Violation]:
    """Check a recorded history, at the scale of these runs."""
    return [
        *h.well_formed(history),
        *h.owners(history, ttl_s=TIMING.presence_ttl_s),
        *h.messages(history),
        *h.convergence(history, online_s=PROMISED_S, offline_s=PROMISED_S),
        *h.kept(history, BOUNDS, CAUSES),
    ]


def _grown(outcome: Outcome) -> list[Violation]:
    slow = [
        Violation("memory", outcome.took_s, f"{process} grows by {slope:,.0f} KiB a minute")
        for process, slope in outcome.slopes.items()
        if slope > GROWTH_KIB_PER_MIN
    ]
    most = outcome.idle_bytes + GROWTH_BYTES
    return slow + [
        Violation("memory", outcome.took_s, f"{process} had {peak:,} bytes, and may have {most:,}")
        for process, peak in outcome.peaks.items()
        if peak > most
    ]


def _raised_by_gateways(outcome: Outcome) -> list[Violation]:
    return [
        Violation("exception", outcome.took_s, f"gateways have counted {count} {name}")
        for name in EXCEPTIONS
        if (count := outcome.counters[name])
    ]


def _too_slow(outcome: Outcome) -> list[Violation]:
    """Say so when the machine, and no gateway, was too slow: such a run has shown little."""
    if outcome.late_s <= LATE_SHARE * outcome.took_s:
        return []
    text = f"it was late for {outcome.late_s:.1f} of {outcome.took_s:.0f} s: too slow for this"
    return [Violation("machine", outcome.took_s, text)]


def _not_arranged(outcome: Outcome) -> list[Violation]:
    failed = [one for one in outcome.injections if one.not_arranged and not one.for_good]
    if len(failed) <= NOT_ARRANGED_SHARE * len(outcome.injections):
        return []
    text = f"{len(failed)} of {len(outcome.injections)} faults could not be arranged"
    return [Violation("sometimes", outcome.took_s, text)]


def _sometimes(outcome: Outcome) -> list[Violation]:
    if not outcome.rages:
        return []
    never = {one.fault.name for one in outcome.injections if one.for_good}
    names = [one.name for one in due(outcome.seed) if one.name not in never]
    arranged = _arranged(outcome.history)
    seen = arranged + h.happened(outcome.history) + _seen(outcome.history, outcome.counters)
    return h.sometimes(arranged, names) + h.sometimes(seen, wanted(arranged))


def _arranged(history: h.History) -> Counter[str]:
    """Count the faults that could be arranged."""
    counts = h.happened(history)
    return Counter(
        {
            fault.name: count
            for fault in FAULTS
            if (count := counts[fault.name] - counts[f"{NOT_ARRANGED}{fault.name}"]) > 0
        }
    )


def wanted(faults: Mapping[str, int]) -> list[str]:
    """Return what has to happen in a run that had these faults, beside them."""
    return [name for name in WANTED if name not in COMES_OF or COMES_OF[name] & faults.keys()]


def _missed(world: World, watch: Watch, nemesis: Nemesis) -> list[Violation]:
    """Return what a run wants to see and has not yet seen, but for faults: those come anyway."""
    seen = world.witness.ledger.outcomes + _seen(world.history, watch.counters)
    return h.sometimes(seen, wanted(nemesis.counts))


def _seen(history: h.History, counters: Mapping[str, int]) -> Counter[str]:
    """Count, by the names of `WANTED`, what senders were told and what gateways have counted."""
    answers = (r.status for r in history if isinstance(r, h.Sent) and r.status)
    seen = Counter(f"answer {status}" for status in answers)
    return seen + Counter({f"counter {name}": count for name, count in counters.items()})

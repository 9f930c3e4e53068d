"""Deterministic simulation: did a cluster keep its promises for hours that pass in seconds?

A run repeats three parts: ordinary use, faults, and a calm at the end of which the cluster must
have recovered. The production timings are not scaled: time is virtual. All of it follows from the
seed, so a run that failed can be repeated exactly.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context, parent_process
from typing import Final

from wsdemo.proof.history import (
    Bounds,
    Calm,
    Causes,
    Near,
    Record,
    Tally,
    Violation,
    check,
    convergence,
    devices,
    happened,
    held,
    inboxes,
    kept,
    late,
    owners,
    sometimes,
    tally,
    well_formed,
)
from wsdemo.proof.simulate.cluster import SimulatedCluster
from wsdemo.proof.simulate.faults import ALL_FAULTS, FaultInjector, faults_of
from wsdemo.proof.simulate.inboxes import OUTCOMES as INBOX_OUTCOMES
from wsdemo.proof.simulate.loop import VirtualTimeLoop
from wsdemo.proof.simulate.offer import PLAIN, Offer
from wsdemo.proof.simulate.rooms import OUTCOMES as ROOM_OUTCOMES
from wsdemo.protocol import Code
from wsdemo.redis.connection import BACKOFF_CAP_S
from wsdemo.settings import ClientSettings, Limits, Timing

_T, _C, _L = Timing(), ClientSettings(), Limits()

ORDINARY_S: Final = 27.0
FAULTS_S: Final = 70.0

ONLINE_S: Final = (
    # On a half-open connection a heartbeat stays unanswered; then the client dials.
    _T.heartbeat_s + _C.pong_within_s(_T.heartbeat_s) + _C.backoff_cap_s + 5.0
)
"""After a heal, every user who wants to be online is, within this time, with one session."""
OFFLINE_S: Final = _T.presence_ttl_s + _T.tick_s
"""After a heal, users who have left have no entry after this time: a TTL since their last message
or heartbeat."""
AFTERMATH_S: Final = _T.ws_ping_interval_s + _T.ws_ping_timeout_s + 5.0
"""How long after a fault a message may still be given to a half-open socket, or to a session that
was superseded and has not been told: pings end the former, refreshes the latter."""
SETTLE_S: Final = max(ONLINE_S, OFFLINE_S) + 3.0
CALM_S: Final = _T.heartbeat_s + 2.0
"""Long enough for every client to ask for a pong."""
BOUNDS: Final = Bounds(
    answer_s=_L.redis_timeout_s + 1.0,
    arrive_s=1.0,
    pong_s=1.0,
    settle_s=SETTLE_S,
    aftermath_s=AFTERMATH_S,
    register_s=_C.register_timeout_s,
    # A gateway may dial this much later than Redis is back; its bounces and releases wait for that.
    near=Near(after_s=BACKOFF_CAP_S + 1.0),
)
DELAYS: Final = frozenset(
    {"client delay", "client hold", "client freeze", "gateway freeze"}
    | {"redis delay", "redis hold", "redis link hold", "swizzle-clog"}
)
"""Faults that may delay a message on its way from Redis to its recipient."""
CAUSES: Final[Causes] = dict.fromkeys(
    (0, 1006, Code.RESTART, Code.HEARTBEAT_TIMEOUT, Code.STALE, Code.SLOW_CONSUMER, Code.TRY_LATER)
)
"""Close codes that a fault may explain. Any fault: for many it is not known whom they concern."""

OUTCOMES: Final = frozenset(
    {
        "mint ok",
        "register ok",
        "register stale",
        "refresh ok",
        "refresh superseded",
        "refresh closed",
        "refresh reclaimed",
        "release removed",
        "release other owner",
        "release no entry",
        "route routed",
        "route offline",
        "route no_subscriber",
    }
)
"""What the scripts answer. (`malformed` needs a foreign writer, and a simulation has none.)"""


def outcomes_of(offer: Offer) -> frozenset[str]:
    """Return what the scripts of a cluster answer."""
    durable = INBOX_OUTCOMES if offer.durable else frozenset()
    if offer.devices > 1:
        of_devices = {f"devices_{name}" for name in durable if not name.startswith("trial")}
        return DEVICES_OUTCOMES | of_devices | {name for name in durable if "trial" in name}
    return OUTCOMES | durable | (ROOM_OUTCOMES if offer.rooms else frozenset())


DEVICES_OUTCOMES: Final = frozenset(
    {"mint ok"}
    | {f"devices_register {outcome}" for outcome in ("ok", "stale")}
    | {f"devices_refresh {outcome}" for outcome in ("ok", "superseded", "closed", "reclaimed")}
    | {f"devices_release {outcome}" for outcome in ("removed", "other owner", "no entry")}
    | {f"devices_route {outcome}" for outcome in ("routed", "offline", "no_subscriber")}
)


@dataclass(slots=True)
class Run:
    """One seed's run: `ok`, or what was violated."""

    seed: int
    minutes: float
    history: list[Record]
    violations: list[Violation]
    outcomes: Counter[str]
    wall_s: float
    offer: Offer = PLAIN

    @property
    def ok(self) -> bool:
        return not self.violations

    @property
    def faults(self) -> Counter[str]:
        """How often each fault struck."""
        counts = happened(self.history)
        return Counter({name: counts[name] for name in ALL_FAULTS if counts[name]})

    @property
    def messages(self) -> Tally:
        return tally(self.history)

    def __repr__(self) -> str:
        what = "ok" if self.ok else f"{len(self.violations)} violations, first {self.violations[0]}"
        return f"<Run of seed {self.seed}: {self.minutes:g} min in {self.wall_s:.1f} s, {what}>"


def simulate(
    seed: int = 1,
    minutes: float = 10.0,
    *,
    policy: str = "fenced",
    mutants: Mapping[str, str] | None = None,
    offer: Offer = PLAIN,
) -> Run:
    """Run a cluster for a while; may be called where an event loop is running already.

    Args:
        seed: the same seed has the same history.
        minutes: of virtual time, at least; a round is not interrupted.
        policy: presence of the gateways: "fenced", or "go-demo".
        mutants: name of a shipped script -> the text that Redis executes in its place.
        offer: the optional features of the gateways, which the users then use.

    Raises:
        ValueError: an argument cannot work.
    """
    if not 0 < minutes < float("inf"):
        raise ValueError(f"{minutes!r} is not a positive number of minutes")
    result: list[Run | BaseException] = []

    def work() -> None:
        try:
            result.append(_simulate(seed, minutes, policy, mutants, offer))
        except BaseException as problem:
            result.append(problem)

    # A thread has no running loop, even when its caller (a notebook's kernel) does.
    thread = threading.Thread(target=work, name=f"simulation of seed {seed}")
    thread.start()
    thread.join()
    if isinstance(result[0], BaseException):
        raise result[0]
    return result[0]


def _simulate(
    seed: int, minutes: float, policy: str, mutants: Mapping[str, str] | None, offer: Offer
) -> Run:
    started = time.perf_counter()
    with _collecting_by_hand():
        loop = VirtualTimeLoop()
        cluster = SimulatedCluster(loop, seed, policy=policy, mutants=mutants, offer=offer)
        try:
            loop.run_until_complete(_live(cluster, seed, 60.0 * minutes))
        finally:
            _close(loop)
    return Run(
        seed,
        loop.time() / 60.0,
        cluster.recorder.history,
        _violations(cluster),
        cluster.observer.outcomes,
        time.perf_counter() - started,
        offer,
    )


def _violations(cluster: SimulatedCluster) -> list[Violation]:
    history = cluster.recorder.history
    if cluster.offer.devices > 1:
        return [
            *well_formed(history),
            *owners(history),
            *convergence(history, online_s=ONLINE_S, offline_s=OFFLINE_S),
            *devices(history, near=Near(after_s=AFTERMATH_S)),
            *inboxes(history),
            *held(history, cluster.offer.devices),
            *cluster.recorder.problems,
        ]
    violations = check(history, online_s=ONLINE_S, offline_s=OFFLINE_S, aftermath_s=AFTERMATH_S)
    return [
        *violations,
        *kept(history, BOUNDS, CAUSES),
        *late(history, BOUNDS, DELAYS),
        *cluster.recorder.problems,
    ]


async def _live(cluster: SimulatedCluster, seed: int, seconds: float) -> None:
    """Repeat ordinary use, faults and calm, until the time is over."""
    injector, users, note = FaultInjector(cluster, seed), cluster.users, cluster.recorder.note
    await cluster.start()
    while cluster.loop.time() < seconds:
        users.calm = False
        await asyncio.sleep(ORDINARY_S)
        await injector.inject(FAULTS_S)
        users.calm = True
        await asyncio.sleep(SETTLE_S)
        cluster.look()
        note(Calm, begins=True)
        await asyncio.sleep(CALM_S)
        note(Calm, begins=False)
        gc.collect()
    await cluster.stop()


@contextlib.contextmanager
def _collecting_by_hand() -> Iterator[None]:
    """Let the garbage collector run when the simulation says so, and never else.

    Finalizers close connections, so when they run must follow from the seed as well.
    """
    collecting = gc.isenabled()
    gc.disable()
    gc.freeze()  # Objects that existed before are not ours to collect, and most of all objects.
    try:
        yield
    finally:
        gc.unfreeze()
        if collecting:
            gc.enable()


def _close(loop: VirtualTimeLoop) -> None:
    """End what a failed run has left, so that its warnings do not appear in another run."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks, timeout=1.0))
    loop.close()
    gc.collect()


# --- many seeds ------------------------------------------------------------------------------


@dataclass(slots=True)
class Report:
    """The results of many runs."""

    offer: Offer = PLAIN
    seeds: int = 0
    virtual_h: float = 0.0
    wall_s: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    sent: Counter[str] = field(default_factory=Counter)
    delivered: int = 0
    lost: dict[str, Counter[str]] = field(
        default_factory=lambda: {"in faults": Counter(), "in calm": Counter()}
    )
    records: int = 0
    failures: dict[int, list[str]] = field(default_factory=dict)
    """Seed -> its violations, in words."""

    def add(self, part: Report) -> None:
        """Add the report of other runs."""
        self.seeds += part.seeds
        self.virtual_h += part.virtual_h
        self.faults += part.faults
        self.outcomes += part.outcomes
        self.sent += part.sent
        self.delivered += part.delivered
        self.records += part.records
        for when, counts in part.lost.items():
            self.lost[when] += counts
        self.failures |= part.failures

    @property
    def missing(self) -> list[str]:
        """Return the faults and outcomes of scripts that have never happened."""
        counts = self.faults + self.outcomes
        wanted = {*faults_of(self.offer), *outcomes_of(self.offer)}
        return [violation.text for violation in sometimes(counts, wanted)]


def report_of(run: Run) -> Report:
    """Return the report of one run."""
    messages = run.messages
    return Report(
        offer=run.offer,
        seeds=1,
        virtual_h=run.minutes / 60.0,
        wall_s=run.wall_s,
        faults=run.faults,
        outcomes=run.outcomes,
        sent=messages.sent,
        delivered=messages.delivered,
        lost={"in faults": messages.lost_in_faults, "in calm": messages.lost_in_calm},
        records=len(run.history),
        failures={} if run.ok else {run.seed: [str(violation) for violation in run.violations]},
    )


def _one(task: tuple[int, float, Offer]) -> Report:
    seed, minutes, offer = task
    return report_of(simulate(seed, minutes, offer=offer))


def _end_with_parent() -> None:
    """End this worker when the process that started it ends, however that ends; a pool does not."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def simulate_many(
    seeds: Sequence[int], minutes: float = 10.0, *, processes: int = 1, offer: Offer = PLAIN
) -> Iterator[Report]:
    """Run many seeds, in several processes; yield the report so far after each of them."""
    started = time.perf_counter()
    total = Report(offer=offer)
    spawning = get_context("spawn")
    with ProcessPoolExecutor(processes, spawning, initializer=_end_with_parent) as pool:
        for part in pool.map(_one, [(seed, minutes, offer) for seed in seeds]):
            total.add(part)
            total.wall_s = time.perf_counter() - started
            yield total

"""Verdict: was everything in a chaos run allowed, and did it see everything that it should?"""

from __future__ import annotations

from collections import Counter
from typing import Final

from wsdemo.proof import history as h
from wsdemo.proof.chaos.bounds import (
    ASKED_S,
    BOUNDS,
    GROWTH_BYTES,
    GROWTH_KIB_PER_MIN,
    LATE_SHARE,
    NEAR_S,
    NOT_ARRANGED_SHARE,
    PROMISED_S,
    WITNESS_LAG_S,
)
from wsdemo.proof.chaos.cluster import GRACE_S, TIMING, ProcessCluster
from wsdemo.proof.chaos.faults import FAULTS
from wsdemo.proof.chaos.nemesis import NOT_ARRANGED, ProcessNemesis, due
from wsdemo.proof.chaos.result import ChaosResult
from wsdemo.proof.chaos.sampling import Sampler
from wsdemo.proof.chaos.wanted import seen, wanted
from wsdemo.proof.history import Violation
from wsdemo.protocol import Code

SIGNALLED: Final = frozenset(
    {
        *("gateway drained", "SIGTERM twice", "SIGTERM during the start"),
        *("wall clock set", "log on a full disk"),
    }
)
"""Faults that send SIGTERM to a gateway, some of them so that another one can take its place."""

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
"""Which faults explain which close code. No fault explains 1011, 4008, 4011 or another code that is
not here: only connections that belong to a fault may be closed with those."""
KILLED: Final = frozenset({"gateway killed, back at once", "gateway killed, away"})
CAUSES_OF_WORKERS: Final[h.Causes] = {**CAUSES, Code.RESTART: SIGNALLED | KILLED}
"""The same for gateways of several workers: these drain when their parent is killed."""
DELAYS: Final = frozenset(one.name for one in FAULTS if one.touches != {h.REDIS})
"""Faults that may delay a message on its way from Redis to its recipient: all that do not only
concern the server."""
EXCEPTIONS: Final = ("unhandled_errors",)
"""Counters of gateways that must stay at zero."""


def judge(result: ChaosResult, complaints: list[Violation]) -> list[Violation]:
    """Return all that was not allowed, and all that was wanted and never happened."""
    result.tally = h.tally(result.history, near_s=NEAR_S)
    return [
        *complaints,
        *_judged(result),
        *_grown(result),
        *_raised_by_gateways(result),
        *_too_slow(result),
        *_not_arranged(result),
        *_sometimes(result),
    ]


def _judged(result: ChaosResult) -> list[Violation]:
    if result.mix.devices > 1:
        return allowed_for_devices(result.history, result.mix.devices)
    several = result.deployment.workers > 1
    return allowed(result.history, CAUSES_OF_WORKERS if several else CAUSES)


def allowed(history: h.History, causes: h.Causes = CAUSES) -> list[Violation]:
    """Check a recorded history, at the scale of chaos runs.

    Args:
        causes: which faults explain which close code.
    """
    return [
        *h.well_formed(history),
        *h.owners(history, ttl_s=TIMING.presence_ttl_s),
        *h.messages(history),
        *h.inboxes(history, WITNESS_LAG_S),
        *h.rooms(history, BOUNDS.arrive_s),
        *h.backends(history, BOUNDS, WITNESS_LAG_S),
        *h.watches(history, GRACE_S, PROMISED_S, ASKED_S),
        *h.convergence(history, online_s=PROMISED_S, offline_s=PROMISED_S),
        *h.kept(history, BOUNDS, causes),
        *h.late(history, BOUNDS, DELAYS),
    ]


def allowed_for_devices(history: h.History, most: int = 2) -> list[Violation]:
    """Check a recorded history of users with several devices: each message is for all of them.

    Args:
        most: how many devices a user may have.
    """
    return [
        *h.well_formed(history),
        *h.owners(history, ttl_s=TIMING.presence_ttl_s),
        *h.convergence(history, online_s=PROMISED_S, offline_s=PROMISED_S),
        *h.devices(history, BOUNDS.arrive_s),
        *h.inboxes(history, WITNESS_LAG_S),
        *h.held(history, most, WITNESS_LAG_S),
        *h.backends(history, BOUNDS, WITNESS_LAG_S),
        *h.answers(history, BOUNDS),
        *h.pongs(history, BOUNDS),
        *h.closes(history, BOUNDS, CAUSES),
        *h.denied(history, BOUNDS),
        *h.counted(history),
    ]


def _grown(result: ChaosResult) -> list[Violation]:
    slow = [
        Violation("memory", result.took_s, f"{process} grows by {slope:,.0f} KiB a minute")
        for process, slope in result.slopes.items()
        if slope > GROWTH_KIB_PER_MIN
    ]
    most = result.idle_bytes + GROWTH_BYTES
    return slow + [
        Violation("memory", result.took_s, f"{process} had {peak:,} bytes, and may have {most:,}")
        for process, peak in result.peaks.items()
        if peak > most
    ]


def _raised_by_gateways(result: ChaosResult) -> list[Violation]:
    return [
        Violation("exception", result.took_s, f"gateways have counted {count} {name}")
        for name in EXCEPTIONS
        if (count := result.counters[name])
    ]


def _too_slow(result: ChaosResult) -> list[Violation]:
    """Complain when the machine, and not a gateway, was too slow. Such a run shows little."""
    if result.late_s <= LATE_SHARE * result.took_s:
        return []
    text = f"it was too busy for {result.late_s:.1f} of {result.took_s:.0f} s"
    return [Violation("machine", result.took_s, text)]


def _not_arranged(result: ChaosResult) -> list[Violation]:
    failed = [one for one in result.injections if one.not_arranged and not one.for_good]
    if len(failed) <= NOT_ARRANGED_SHARE * len(result.injections):
        return []
    text = f"{len(failed)} of {len(result.injections)} faults could not be arranged"
    return [Violation("sometimes", result.took_s, text)]


def _sometimes(result: ChaosResult) -> list[Violation]:
    if not result.rounds:
        return []
    never = {one.fault.name for one in result.injections if one.for_good}
    names = [
        one.name for one in due(result.seed, result.mix, result.deployment) if one.name not in never
    ]
    arranged = _arranged(result.history)
    everything = arranged + h.happened(result.history) + seen(result.history, result.counters)
    needed = wanted(arranged, result.mix, result.deployment)
    return h.sometimes(arranged, names) + h.sometimes(everything, needed)


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


def missed(cluster: ProcessCluster, sampler: Sampler, nemesis: ProcessNemesis) -> list[Violation]:
    """Return what a run has to see and has not seen yet, except faults: those come anyway."""
    outcomes = cluster.witness.monitor_log.outcomes + seen(cluster.history, sampler.counters)
    return h.sometimes(outcomes, wanted(nemesis.counts, cluster.mix, cluster.deployment))

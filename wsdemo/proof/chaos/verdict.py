"""Verdict: was everything in a chaos run allowed, and did it see everything that it should?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final

from wsdemo.proof import history as h
from wsdemo.proof.chaos.bounds import (
    BOUNDS,
    GROWTH_BYTES,
    GROWTH_KIB_PER_MIN,
    LATE_SHARE,
    NEAR_S,
    NOT_ARRANGED_SHARE,
    PROMISED_S,
)
from wsdemo.proof.chaos.cluster import TIMING, ProcessCluster
from wsdemo.proof.chaos.faults import FAULTS
from wsdemo.proof.chaos.monitor_log import OUTCOMES
from wsdemo.proof.chaos.nemesis import NOT_ARRANGED, ProcessNemesis, due
from wsdemo.proof.chaos.result import ChaosResult
from wsdemo.proof.chaos.sampling import Sampler
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
STATUSES: Final = ("routed", "offline", "unreachable", "busy", "unknown")
WANTED_COUNTERS: Final = (
    *("bounces_sent", "bounces_received", "kicks_sent", "kicks_received", "subscription_gaps"),
    *("probes_lost", "malformed_envelopes", "malformed_presence", "slow_consumers", "stalls"),
    *("heartbeat_timeouts", "registers_failed", "refreshes_failed", "releases_failed"),
)
"""The counters of gateways that a run must have increased."""
WANTED: Final = (
    *OUTCOMES,
    *(f"answer {status}" for status in STATUSES),
    *(f"counter {name}" for name in WANTED_COUNTERS),
)
"""What must happen in a run besides its faults. A run goes on for a while to see all of it."""
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
"""What only these faults cause, each of them: it is wanted in a run that had one of them."""
EXCEPTIONS: Final = ("unhandled_errors",)
"""Counters of gateways that must stay at zero."""


def judge(result: ChaosResult, complaints: list[Violation]) -> list[Violation]:
    """Return all that was not allowed, and all that was wanted and never happened."""
    result.tally = h.tally(result.history, near_s=NEAR_S)
    return [
        *complaints,
        *allowed(result.history),
        *_grown(result),
        *_raised_by_gateways(result),
        *_too_slow(result),
        *_not_arranged(result),
        *_sometimes(result),
    ]


def allowed(history: h.History) -> list[Violation]:
    """Check a recorded history, at the scale of chaos runs."""
    return [
        *h.well_formed(history),
        *h.owners(history, ttl_s=TIMING.presence_ttl_s),
        *h.messages(history),
        *h.convergence(history, online_s=PROMISED_S, offline_s=PROMISED_S),
        *h.kept(history, BOUNDS, CAUSES),
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
    names = [one.name for one in due(result.seed) if one.name not in never]
    arranged = _arranged(result.history)
    seen = arranged + h.happened(result.history) + _seen(result.history, result.counters)
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
    """Return what must happen in a run that had these faults, besides them."""
    return [name for name in WANTED if name not in COMES_OF or COMES_OF[name] & faults.keys()]


def missed(cluster: ProcessCluster, sampler: Sampler, nemesis: ProcessNemesis) -> list[Violation]:
    """Return what a run has to see and has not seen yet, except faults: those come anyway."""
    seen = cluster.witness.monitor_log.outcomes + _seen(cluster.history, sampler.counters)
    return h.sometimes(seen, wanted(nemesis.counts))


def _seen(history: h.History, counters: Mapping[str, int]) -> Counter[str]:
    """Count, by the names of `WANTED`, the answers to messages and what gateways have counted."""
    answers = (r.status for r in history if isinstance(r, h.Sent) and r.status)
    seen = Counter(f"answer {status}" for status in answers)
    return seen + Counter({f"counter {name}": count for name, count in counters.items()})

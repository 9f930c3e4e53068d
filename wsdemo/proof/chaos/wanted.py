"""Sometimes: what must a chaos run have seen, besides its faults?

A run in which nothing happened proves nothing. So each outcome of a script, each answer and some
counters of gateways are wanted of every run, or of every run that had a fault which causes them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final

from wsdemo.gateway.api.documents import APP
from wsdemo.proof import history as h
from wsdemo.proof.chaos.deployment import USUAL, Deployment, DeploymentKind
from wsdemo.proof.chaos.group_witness import PLANNED, UNPLANNED
from wsdemo.proof.chaos.monitor_log import OUTCOMES
from wsdemo.proof.mix import PLAIN_MIX, FeatureMix

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
WANTED_OF: Final[Mapping[str, tuple[str, ...]]] = {
    "durable": (
        *("send stored", "send duplicate", "send trimmed", "read answered"),
        *("ack taken", "ack refused", "gap told"),
        *("counter inbox_resumes_yes", "counter inbox_resumes_no", "counter inbox_hints_read"),
        *("counter inbox_pages_failed", "counter inbox_sends_busy"),
    ),
    "rooms": (
        *("room_join joined", "room_join moved", "room_join same", "room_join full"),
        *("room_join stale", "room_leave left", "room_leave nothing", "room_sweep swept"),
        *("room_log whole", "room_log lately", "counter room_publishes_routed"),
        *("counter room_sweeps_lapsed", "counter room_sweeps_wrong"),
    ),
    "watch": (
        *("counter watch_events_online", "counter watch_events_offline"),
        *("counter watch_reads_online", "counter watch_reads_offline"),
    ),
}
"""What must happen where gateways have an optional feature."""
WANTED_OF_BACKEND: Final = ("backend routed", "backend kicked", "backend online")
"""What a backend must have been answered, where gateways have any feature."""
WANTED_AT: Final[Mapping[DeploymentKind, tuple[str, ...]]] = {
    DeploymentKind.SERVER: (),
    DeploymentKind.WORKERS: ("counter worker_restarts",),
    DeploymentKind.SENTINEL: (PLANNED, UNPLANNED),
    DeploymentKind.CLUSTER: (PLANNED, UNPLANNED, "counter redis_moved"),
}
"""What must happen in one of these deployments."""
COMES_OF: Final[Mapping[str, frozenset[str]]] = {
    "counter probes_lost": frozenset({"subscriber half-open"}),
    "counter malformed_envelopes": frozenset({"hostile publishes"}),
    "counter malformed_presence": frozenset({"foreign presence entries"}),
    "counter slow_consumers": frozenset({"slow consumer"}),
    "counter stalls": frozenset({"gateway a zombie"}),
    "counter heartbeat_timeouts": frozenset({"client half-open"}),
    "send trimmed": frozenset({"slow application, its inbox full"}),
    "room_join stale": frozenset({"late join"}),
    "refresh closed": frozenset({"late commands"}),
    "register stale": frozenset({"late register"}),
    "refresh superseded": frozenset({"subscriber half-open"}),
    "refresh reclaimed": frozenset({"FLUSHALL", "DEL of one presence key"}),
    UNPLANNED: frozenset(
        {"shard killed", "shard frozen", "shard in a minority", "primary killed", "primary frozen"}
    ),
    PLANNED: frozenset({"shard failed over", "buckets moved", "primary replaced, coordinated"}),
    "counter worker_restarts": frozenset({"worker killed"}),
    "counter redis_moved": frozenset({"shard failed over", "buckets moved"}),
}
"""What only these faults cause, each of them: it is wanted in a run that had one of them."""


def wanted(
    faults: Mapping[str, int], mix: FeatureMix = PLAIN_MIX, deployment: Deployment = USUAL
) -> list[str]:
    """Return what must happen in a run that had these faults, besides them."""
    of_features = [name for one, names in WANTED_OF.items() if getattr(mix, one) for name in names]
    of_features += WANTED_OF_BACKEND if mix != PLAIN_MIX else ()
    return [
        name
        for name in (*WANTED, *of_features, *WANTED_AT[deployment.kind])
        if name not in COMES_OF or COMES_OF[name] & faults.keys()
    ]


def seen(history: h.History, counters: Mapping[str, int]) -> Counter[str]:
    """Count, by the names of what is wanted, the answers to messages, gaps, and what gateways have
    counted.
    """
    answers = (r.status for r in history if isinstance(r, h.Sent) and r.status)
    found = Counter(f"answer {status}" for status in answers)
    found["gap told"] = sum(isinstance(record, h.GapTold) for record in history)
    for record in history:
        match record:
            case h.Sent(gateway="", status="routed", user=user) if user == APP:
                found["backend routed"] += 1
            case h.Disconnected(conns=conns) if conns:
                found["backend kicked"] += 1
            case h.PresenceTold(conns=conns) if conns:
                found["backend online"] += 1
            case _:
                pass
    return found + Counter({f"counter {name}": count for name, count in counters.items()})

"""Convergence in chaos: how long after each fault was everything right, and what is promised?"""

from __future__ import annotations

from collections import defaultdict

from wsdemo.proof.chaos.cluster import TIMING
from wsdemo.proof.chaos.fault import FaultType
from wsdemo.proof.chaos.measures import converged_after_s
from wsdemo.proof.chaos.nemesis import InjectedFault
from wsdemo.proof.chaos.result import ChaosResult
from wsdemo.proof.history import REDIS
from wsdemo.redis.connection import BACKOFF_CAP_S


def promised_s(fault: FaultType) -> float:
    """Return the bound X after this fault (s, at the scale of these runs).

    After a fault of Redis, all sessions are refreshed within a heartbeat after gateways have
    noticed that it is back. Their pauses between attempts (`BACKOFF_CAP_S`) are not scaled. After
    all other faults, everything is right when the leases of ended sessions have expired.
    """
    if REDIS in fault.touches:
        return TIMING.heartbeat_s + BACKOFF_CAP_S
    return TIMING.presence_ttl_s


def convergences(result: ChaosResult) -> dict[str, list[float]]:
    """Return for each fault the times from its heals until everything was right (s).

    A heal is left out if another fault touched Redis before everything was right: nothing can
    become right while Redis does not work.
    """
    found: dict[str, list[float]] = defaultdict(list)
    for one in result.injections:
        took_s = converged_after_s(result.samples, one.healed)
        if took_s is not None and not _was_broken_again(result, one, took_s):
            found[one.fault.name].append(took_s)
    return found


def _was_broken_again(result: ChaosResult, one: InjectedFault, took_s: float) -> bool:
    return any(
        REDIS in other.fault.touches
        and other is not one
        and other.began < one.healed + took_s
        and other.healed > one.healed
        for other in result.injections
    )

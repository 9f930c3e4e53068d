"""Worker faults: what if one of several processes of a gateway is killed or stopped?"""

from __future__ import annotations

import json
import os
import signal
from typing import Final

from wsdemo.gateway.workers.parent import LONGEST_PAUSE_S
from wsdemo.proof.chaos.cluster import TIMING
from wsdemo.proof.chaos.deployment import DeploymentKind
from wsdemo.proof.chaos.fault import GATEWAY, FaultType, NotArranged, Scene, Steps, fault
from wsdemo.proof.chaos.faults.arrange import page, until
from wsdemo.settings import Limits

LAST_LINES: Final = 12
"""How much of the log is told when a worker is not back."""
WORKERS: Final = (DeploymentKind.WORKERS,)
STARTS_IN_VAIN: Final = 2
"""So often a worker may find no Redis, because of another fault."""
START_S: Final = 5.0
BACK_S: Final = START_S + (1 + STARTS_IN_VAIN) * (
    LONGEST_PAUSE_S + Limits().redis_connect_timeout_s
)
"""How long a worker may take to be there again. Where workers die again and again, as here, the
parent soon makes its longest pause before each start.
"""


async def _pids(scene: Scene) -> list[int]:
    """Return the workers of a gateway that serve users now.

    Raises:
        NotArranged: the gateway does not say.
    """
    status, text = await page(scene, "/stats")
    if status != 200:
        raise NotArranged(f"{scene.gateway} does not answer")
    return [int(worker["pid"]) for worker in json.loads(text)["workers"] if worker["pid"]]


async def _one(scene: Scene) -> int:
    if not (pids := await _pids(scene)):
        raise NotArranged(f"{scene.gateway} has no worker now")
    return scene.rng.choice(pids)


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        raise NotArranged("that worker has just ended") from None


@fault("worker killed", 198, lasts_s=1.0, touches=(GATEWAY,), at=WORKERS)
async def worker_killed(scene: Scene) -> Steps:
    """Its users register anew; the parent starts another one."""
    victim = await _one(scene)
    _signal(victim, signal.SIGKILL)
    yield
    count = scene.cluster.deployment.workers

    async def are_back() -> bool:
        status, text = await page(scene, "/stats")
        pids = {worker["pid"] for worker in json.loads(text)["workers"]} if status == 200 else set()
        return len(pids) == count and victim not in pids

    try:
        await until(are_back, f"all workers of {scene.gateway}", BACK_S)
    except TimeoutError as problem:
        log = list(scene.cluster.gateways[scene.gateway].log)[-LAST_LINES:]
        raise TimeoutError(f"{problem}; its log ends: {' | '.join(log)}") from None


@fault("worker frozen", 199, lasts_s=1.25 * TIMING.presence_ttl_s, touches=(GATEWAY,), at=WORKERS)
async def worker_frozen(scene: Scene) -> Steps:
    """It is stopped for longer than a lease, and goes on; the others serve their users."""
    victim = await _one(scene)
    _signal(victim, signal.SIGSTOP)
    try:
        yield
    finally:
        _signal(victim, signal.SIGCONT)


FAULTS: Final[tuple[FaultType, ...]] = (worker_killed, worker_frozen)

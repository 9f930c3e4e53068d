"""Chaos run: users send messages while a nemesis injects faults; then everything is healed and
checked.

There are two rounds of this. How a heal is checked is in `heal`, and how the whole run is judged in
`verdict`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

from wsdemo.proof.chaos.bounds import END_S, REST_S, ROUNDS
from wsdemo.proof.chaos.cluster import ProcessCluster
from wsdemo.proof.chaos.deployment import USUAL, Deployment
from wsdemo.proof.chaos.heal import leave, rest
from wsdemo.proof.chaos.nemesis import ProcessNemesis, due
from wsdemo.proof.chaos.result import ChaosResult
from wsdemo.proof.chaos.sampling import Sampler
from wsdemo.proof.chaos.verdict import judge, missed
from wsdemo.proof.history import Violation
from wsdemo.proof.mix import PLAIN_MIX, FeatureMix
from wsdemo.rig.process import PROGRAM
from wsdemo.tasks import end

ALL_LINES: Final = 1_000_000
Progress = Callable[[str], None]


async def run(
    seconds: float,
    seed: int,
    progress: Progress = lambda line: None,
    *,
    program: Sequence[str] = PROGRAM,
    rounds: int = ROUNDS,
    mix: FeatureMix = PLAIN_MIX,
    deployment: Deployment = USUAL,
) -> ChaosResult:
    """Run chaos once.

    Args:
        seconds: about how long. All faults that are due come, even if this is too short for them.
        progress: receives a line about the progress, about four times a second.
        program: what Python runs as a gateway; tests pass one with a mistake in it.
        rounds: how many periods with faults there are. With none, there is a calm period only:
            then everything that is found is wrong without any fault.
        mix: the optional features of the gateways, which the users then use.
        deployment: what the Redis is, and how many workers each gateway has.
    """
    result = ChaosResult(seed, seconds, rounds, mix, deployment)
    cluster = ProcessCluster(seed, program=program, mix=mix, deployment=deployment)
    async with _unhandled(cluster), cluster:
        result.users, result.idle_bytes = len(cluster.users), cluster.idle_bytes
        sampler = Sampler(cluster)
        nemesis = ProcessNemesis(cluster, cluster.rng("nemesis"))
        sampling = asyncio.create_task(sampler.run(), name="sampler")
        telling = asyncio.create_task(
            _tell(cluster, sampler, nemesis, seconds, progress), name="progress"
        )
        try:
            await _live(cluster, sampler, nemesis, result)
        finally:
            await end(sampling, telling)
            _collect(result, cluster, sampler, nemesis)
    result.took_s = cluster.clock()
    result.finished = True
    # Only now the logs have been read to their ends.
    result.log_lines = sum(log.read for _, log in cluster.logs)
    result.violations = judge(result, [*cluster.complaints, *_troubles(cluster)])
    return result


async def _live(
    cluster: ProcessCluster, sampler: Sampler, nemesis: ProcessNemesis, result: ChaosResult
) -> None:
    """Inject faults and heal, a given number of times; then let all users leave."""
    rounds = result.rounds
    must_come = due(cluster.seed, cluster.mix, cluster.deployment)
    first = cluster.rng("due").sample(must_come, len(must_come))
    ends_s = result.seconds - END_S
    for n in range(rounds):
        for user in cluster.client_users.values():
            user.roaming = True
        if cluster.backend is not None:
            cluster.backend.is_active = True
        left_s = ends_s - cluster.clock() - (rounds - n - 1) * REST_S
        until_s = cluster.clock() + left_s / (rounds - n)
        if n < rounds - 1:
            await nemesis.inject_until(first[n::rounds], until_s)
        else:
            await nemesis.inject_until(
                first[n::rounds], until_s, lambda: not missed(cluster, sampler, nemesis)
            )
        await rest(cluster, nemesis, result)
    if not rounds:
        await rest(cluster, nemesis, result)
    await leave(cluster)


@contextlib.asynccontextmanager
async def _unhandled(cluster: ProcessCluster) -> AsyncIterator[None]:
    """Record exceptions that nobody has caught in this process, for example of a client."""
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()

    def complain(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        text = f"{context.get('message')}: {context.get('exception')!r}"
        cluster.complain(Violation("exception", cluster.clock(), text))

    loop.set_exception_handler(complain)
    try:
        yield
    finally:
        loop.set_exception_handler(before)


def _troubles(cluster: ProcessCluster) -> list[Violation]:
    """Return what is in the logs and must not be: tracebacks, the content of messages."""
    found = [
        Violation("log", cluster.clock(), f"{name} wrote:\n" + "\n".join(trouble))
        for name, log in cluster.logs
        for trouble in log.troubles
    ]
    words = [
        word
        for server in cluster.servers
        for word in cluster.forbidden_in(server.log_tail(ALL_LINES))
    ]
    return [*found, *(Violation("log", cluster.clock(), f"Redis wrote {word!r}") for word in words)]


def _collect(
    result: ChaosResult, cluster: ProcessCluster, sampler: Sampler, nemesis: ProcessNemesis
) -> None:
    result.history = cluster.history
    result.injections, result.samples = nemesis.injections, sampler.samples
    result.memory, result.counters = sampler.memory, sampler.counters
    result.outcomes, result.gaps = cluster.witness.monitor_log.outcomes, cluster.witness.gaps
    result.blind, result.unjudged = cluster.witness.blind, cluster.witness.monitor_log.unjudged
    result.seen = cluster.seen


async def _tell(
    cluster: ProcessCluster,
    sampler: Sampler,
    nemesis: ProcessNemesis,
    seconds: float,
    progress: Progress,
) -> None:
    while True:
        active = ", ".join(one.fault.name for one in nemesis.active) or "calm"
        late = cluster.clock() > seconds - END_S
        waiting_for = missed(cluster, sampler, nemesis) if late else []
        still = [one.text.removesuffix(" never happened") for one in waiting_for]
        missing = f"; still waiting for {', '.join(still)}" if still else ""
        progress(
            f"{cluster.clock():5.1f} of {seconds:g} s, seed {cluster.seed}: "
            f"{len(nemesis.injections)} faults, {len(cluster.history):,} records, "
            f"{len(cluster.complaints)} complaints; {active}{missing}"
        )
        await asyncio.sleep(0.25)

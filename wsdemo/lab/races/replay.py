"""Replay: does an order that ends wrong in a model also end wrong on running gateways?

Two real gateways, a real client that moves from one to the other. Her heartbeat, her clean-up and
her new registration are begun by the gateways themselves, as always; a director stops each one
before it reads and before it writes, and releases them in the requested order.

Every order can be replayed. The only condition is that a verb may be delayed for any time after a
gateway has begun it, as by a garbage collection, a slow network, or a laptop that sleeps. Two
things differ from production, so that only the order decides: the gateways' wall clocks are set by
the replay, one second for each step, and leases are so long that none expires.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from wsdemo.client import Client
from wsdemo.lab.cluster.cluster import Cluster
from wsdemo.lab.cluster.directors import Gates, HeldLink, HeldVerbs, Place
from wsdemo.lab.errors import fails_in_short
from wsdemo.lab.races.interleavings import in_a_thread
from wsdemo.lab.races.models import QUIET_S, STEP_S
from wsdemo.lab.races.orders import NEW, OLD, THREAD_OF, USER, Action, Played
from wsdemo.lab.races.stage import HandClock, Stage
from wsdemo.presence import Presence
from wsdemo.redis.interface import Link
from wsdemo.rig.policies import policy_named
from wsdemo.settings import GatewaySettings, Timing
from wsdemo.tasks import end

if TYPE_CHECKING:
    import pandas as pd

TIMING: Final = Timing(heartbeat_s=6.0, presence_ttl_s=1800.0)
"""Production seconds. With the scaled clock a heartbeat comes within a tenth of a second, and a
lease lasts longer than any replay.
"""


@dataclass(frozen=True)
class Replayed:
    """An order as it happened on running gateways."""

    played: Played
    trace: pd.DataFrame
    """Everything that gateways and client reported."""

    def agrees_with(self, other: Played) -> bool:
        """Say whether the entry named the same gateway after every step."""
        return _names(self.played) == _names(other)

    def __repr__(self) -> str:
        return f"<Replayed on running gateways: {self.played!r}>"

    def _repr_html_(self) -> str:
        return self.played._repr_html_()


@fails_in_short
def replay(
    order: Sequence[Action], policy: str, skew_s: float = 0.0, *, redis: str | None = None
) -> Replayed:
    """Play one order on two running gateways; otherwise as `interleavings.explore`."""

    async def run() -> Replayed:
        import pandas as pd

        entries, trace = [], pd.DataFrame()
        async for _, entry, cluster in replay_steps(order, policy, skew_s, redis=redis):
            entries.append(entry)
            trace = cluster.trace()
        return Replayed(Played(tuple(order), policy, skew_s, tuple(entries)), trace)

    policy_named(policy)
    return in_a_thread(run())


async def replay_steps(
    order: Sequence[Action], policy: str, skew_s: float = 0.0, *, redis: str | None = None
) -> AsyncIterator[tuple[Action, dict[str, str], Cluster]]:
    """Play one order on two running gateways; yield each step, alice's entry after it, the lab."""
    policy_named(policy)
    clocks = {OLD: HandClock(), NEW: HandClock(skew_s)}
    async with _StagedCluster(policy, clocks, redis) as cluster:
        alice = await cluster.connect(USER, to=OLD)
        stage = Stage(cluster.directors, clocks)
        stage.pass_time(QUIET_S - STEP_S)
        stage.hold()
        async with _on_her_way(cluster, alice, stage, {THREAD_OF[action] for action in order}):
            for action in order:
                await stage.step(action)
                yield action, await cluster.record(USER), cluster


@contextlib.asynccontextmanager
async def _on_her_way(
    cluster: Cluster, alice: Client, stage: Stage, threads: set[str]
) -> AsyncIterator[None]:
    """alice has pinged gateway-01 and moves to gateway-02; all that follows from it is held."""
    # Neither a second heartbeat nor a second attempt may change the result of the order.
    cluster.directors[NEW].gates.shut(Place(USER, "refresh"))
    cluster.directors[OLD].gates.shut(Place(USER, "mint"))
    if "heartbeat" in threads:
        await stage.begun("heartbeat")
    moving = asyncio.create_task(alice.move(cluster.urls[NEW]))
    try:
        for thread in sorted(threads - {"heartbeat"}):
            await stage.begun(thread)
        yield
    finally:
        await end(moving)


class _StagedCluster(Cluster):
    """Two gateways whose verbs can be stopped before they write, and whose clocks stand still."""

    def __init__(self, policy: str, clocks: Mapping[str, HandClock], redis: str | None) -> None:
        super().__init__(len(clocks), timing=TIMING, redis=redis)
        self.policy = policy
        self._hand_clocks = clocks

    def _directed(self, link: Link, settings: GatewaySettings) -> Presence:
        name, gates = settings.gateway_id, Gates()
        held: Any = HeldLink(link, gates)
        presence = policy_named(self.policy).make(
            held, settings.keyspace, settings.timing, self._hand_clocks[name]
        )
        director = self.directors[name] = HeldVerbs(presence, gates)
        return director


def _names(played: Played) -> list[str]:
    return [entry.get("gwId", "half" if entry else "") for entry in played.entries]

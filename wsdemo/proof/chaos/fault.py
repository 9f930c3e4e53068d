"""Fault: what does one entry of the catalogue consist of?

`fault(...)` makes an entry out of a function that begins the fault, yields, and heals it. Nothing
is registered by that: each module of `faults` lists its entries, and `faults/__init__.py` joins
these lists.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final

from wsdemo.proof.chaos.cluster import ProcessCluster
from wsdemo.proof.chaos.deployment import USUAL, Deployment, DeploymentKind
from wsdemo.proof.history import REDIS, USERS
from wsdemo.proof.mix import FeatureMix

GATEWAY: Final = "gateway"
"""One gateway, which the nemesis chooses."""
ALL_GATEWAYS: Final = "all gateways"
ANYWHERE: Final = tuple(DeploymentKind)
"""In every deployment."""
ONE_PROCESS: Final = (DeploymentKind.SERVER, DeploymentKind.SENTINEL, DeploymentKind.CLUSTER)
"""Where a gateway is one process."""
ONE_SERVER: Final = (DeploymentKind.SERVER, DeploymentKind.WORKERS)
"""Where there is one Redis."""
HEAL_S: Final = 25.0
"""How long the begin and the heal of a fault may take together, before the run gives up."""

__all__ = [
    "ALL_GATEWAYS",
    "ANYWHERE",
    "GATEWAY",
    "HEAL_S",
    "ONE_PROCESS",
    "ONE_SERVER",
    "REDIS",
    "USERS",
    "FaultType",
    "NotArranged",
    "Scene",
    "Steps",
    "fault",
]


class NotArranged(Exception):
    """The precondition of a fault could not be reached, so the fault has shown nothing.

    Args:
        what: the precondition that was missing.
        for_good: this machine can never reach it.
    """

    def __init__(self, what: str, *, for_good: bool = False) -> None:
        super().__init__(what)
        self.for_good = for_good


@dataclass(frozen=True, slots=True)
class Scene:
    """What a fault is applied to."""

    cluster: ProcessCluster
    rng: random.Random
    gateway: str
    """The gateway that it touches. If it touches none: one that no other fault touches."""


Steps = AsyncIterator[None]
"""What the function of a fault returns: it yields once, between begin and heal."""


@dataclass(frozen=True, slots=True)
class FaultType:
    """An entry of the catalogue.

    `does` begins the fault up to its `yield`, and heals it after that. `rows` are the rows of
    docs/faults.md. `touches` are the places that it breaks, and `needs` those that no other fault
    may touch at the same time.
    """

    name: str
    rows: tuple[int, ...]
    does: Callable[[Scene], contextlib.AbstractAsyncContextManager[None]]
    lasts_s: float
    touches: frozenset[str]
    needs: frozenset[str]
    features: frozenset[str] = frozenset()
    """The optional features without which it makes no sense: names of fields of `FeatureMix`."""
    at: frozenset[DeploymentKind] = frozenset({DeploymentKind.SERVER})
    """The deployments that can have it."""

    def fits(self, mix: FeatureMix, deployment: Deployment = USUAL) -> bool:
        """Say whether gateways with these features, in this deployment, can have this fault."""
        has_features = all(getattr(mix, feature) for feature in self.features)
        return has_features and deployment.kind in self.at


def fault(
    name: str,
    *rows: int,
    lasts_s: float = 1.0,
    touches: tuple[str, ...] = (),
    needs: tuple[str, ...] = (),
    features: tuple[str, ...] = (),
    at: tuple[DeploymentKind, ...] = (DeploymentKind.SERVER,),
) -> Callable[[Callable[[Scene], Steps]], FaultType]:
    """Make an entry out of a function that begins the fault, yields, and heals it."""

    def entry(does: Callable[[Scene], Steps]) -> FaultType:
        begun = contextlib.asynccontextmanager(does)
        return FaultType(
            name,
            rows,
            begun,
            lasts_s,
            frozenset(touches),
            frozenset(needs),
            frozenset(features),
            frozenset(at),
        )

    return entry

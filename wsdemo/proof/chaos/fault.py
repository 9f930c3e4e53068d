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
from wsdemo.proof.history import REDIS, USERS

GATEWAY: Final = "gateway"
"""One gateway, which the nemesis chooses."""
ALL_GATEWAYS: Final = "all gateways"
HEAL_S: Final = 25.0
"""How long the begin and the heal of a fault may take together, before the run gives up."""

__all__ = [
    "ALL_GATEWAYS",
    "GATEWAY",
    "HEAL_S",
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


def fault(
    name: str,
    *rows: int,
    lasts_s: float = 1.0,
    touches: tuple[str, ...] = (),
    needs: tuple[str, ...] = (),
) -> Callable[[Callable[[Scene], Steps]], FaultType]:
    """Make an entry out of a function that begins the fault, yields, and heals it."""

    def entry(does: Callable[[Scene], Steps]) -> FaultType:
        begun = contextlib.asynccontextmanager(does)
        return FaultType(name, rows, begun, lasts_s, frozenset(touches), frozenset(needs))

    return entry

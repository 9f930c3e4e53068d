"""Interleavings: in how many orders can three commands run, and which of them end wrong?

Three threads of two steps each, as the two gateways of a moved user run them: gateway-01 renews
her lease, gateway-01 cleans up after her, gateway-02 registers her. Each first reads (its clock, or
Redis), then it writes. Between the two, the other threads may run: an order says when.

Everything here is pure: orders, results, and how they compare. Orders are played by `interleavings`
(the real scripts on a real server), `models` (a function and a dict) or `replay` (running
gateways).
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Literal

from wsdemo.lab.trace.frames import REDIS, normal

if TYPE_CHECKING:
    import pandas as pd

Action = Literal["h_ts", "h_set", "c_read", "c_del", "r_ts", "r_set"]
Order = tuple[Action, ...]

USER: Final = "alice"
OLD: Final = "gateway-01"
NEW: Final = "gateway-02"

THREADS: Final[dict[str, tuple[Action, Action]]] = {
    "heartbeat": ("h_ts", "h_set"),
    "clean-up": ("c_read", "c_del"),
    "re-register": ("r_ts", "r_set"),
}
"""The concurrent threads: each reads, then writes."""

CALM: Final[Order] = tuple(action for thread in THREADS.values() for action in thread)
"""The order without a race: one thread after the other."""

THREAD_OF: Final[dict[Action, str]] = {
    action: thread for thread, actions in THREADS.items() for action in actions
}
WRITES: Final = frozenset(actions[1] for actions in THREADS.values())
GATEWAY_OF: Final = {"heartbeat": OLD, "clean-up": OLD, "re-register": NEW}

_WORDS: Final[dict[Action, str]] = {
    "h_ts": "gateway-01 reads its clock for alice's heartbeat",
    "h_set": "gateway-01 refreshes alice's entry",
    "c_read": "gateway-01 decides to clean up after alice",
    "c_del": "gateway-01 deletes alice's entry",
    "r_ts": "gateway-02 reads its clock for alice's registration",
    "r_set": "gateway-02 registers alice",
}
_OWN_WORDS: Final[dict[str, dict[Action, str]]] = {
    "check-then-delete": {
        "c_read": "gateway-01 looks whose entry alice's is",
        "c_del": "gateway-01 deletes alice's entry if it was its own",
    },
    "timestamp": {
        "c_read": "gateway-01 notes when it last heard alice, to clean up",
        "c_del": "gateway-01 deletes alice's entry if it is not newer",
    },
    "fenced": {
        "h_ts": "gateway-01 takes alice's token for her heartbeat",
        "c_read": "gateway-01 takes alice's token to clean up",
        "c_del": "gateway-01 deletes alice's entry if it is its own session's",
        "r_ts": "gateway-02 gets a new token for alice from Redis",
    },
}


def merges(*threads: Sequence[Action]) -> Iterator[Order]:
    """Iterate over all orders in which each thread keeps its own."""
    if not any(threads):
        yield ()
    for i, thread in enumerate(threads):
        if thread:
            rest = [other[1:] if j == i else other for j, other in enumerate(threads)]
            for order in merges(*rest):
                yield (thread[0], *order)


def is_feasible(order: Sequence[Action]) -> bool:
    """Say whether this order is possible: alice pings gateway-01 before she leaves it."""
    if "h_ts" not in order or "r_ts" not in order:
        return True
    return order.index("h_ts") < order.index("r_ts")


def all_orders(
    threads: Iterable[str] = tuple(THREADS), *, feasible: bool = True
) -> tuple[Order, ...]:
    """Return every order of some threads, those that cannot happen only when `feasible` is off.

    Raises:
        ValueError: there is no such thread.
    """
    names = list(threads)
    for name in names:
        if name not in THREADS:
            raise ValueError(f"there is no thread {name!r}; there are: {', '.join(THREADS)}")
    orders = merges(*(THREADS[name] for name in names))
    return tuple(order for order in orders if is_feasible(order) or not feasible)


def distance(one: Sequence[Action], other: Sequence[Action]) -> int:
    """Return how many swaps of neighbours lead from one order to the other."""
    place = {action: i for i, action in enumerate(other)}
    row = [place[action] for action in one]
    return sum(row[j] < row[i] for i in range(len(row)) for j in range(i + 1, len(row)))


# --- how it ended ------------------------------------------------------------------------------


class OrderEnd(StrEnum):
    """What the entry of alice is at the end. She is connected to gateway-02."""

    CORRECT = "correct"
    LOST = "lost"
    """No entry, or an incomplete one that names no gateway."""
    DEAD = "dead gateway"
    """The entry names gateway-01, which she has left."""


def end_of(entry: Mapping[str, Any]) -> OrderEnd:
    """Return what an entry means, at the end."""
    return {NEW: OrderEnd.CORRECT, OLD: OrderEnd.DEAD}.get(entry.get("gwId", ""), OrderEnd.LOST)


@dataclass(frozen=True, slots=True)
class Played:
    """One order, and its results."""

    order: Order
    policy: str
    skew_s: float
    entries: tuple[Mapping[str, str], ...]
    """alice's entry after each step."""
    rejected: frozenset[str] = frozenset()
    """The threads whose write was rejected."""

    @property
    def end(self) -> OrderEnd:
        return end_of(self.entries[-1])

    def words(self) -> list[str]:
        """Return the order as sentences, with what Redis said after each write."""
        return [
            f"{number} {self._sentence(action)}{self._outcome(number - 1)}"
            for number, action in enumerate(self.order, 1)
        ]

    def _sentence(self, action: Action) -> str:
        return _OWN_WORDS.get(self.policy, {}).get(action) or _WORDS[action]

    def _outcome(self, step: int) -> str:
        action = self.order[step]
        if action not in WRITES:
            return ""
        refused = "rejected; " if THREAD_OF[action] in self.rejected else ""
        return f" → {refused}Redis: {named(self.entries[step])}"

    def trace(self) -> pd.DataFrame:
        """Return the order as a trace: an arrow starts at a gateway's read, and ends at its write.
        One step a (production) second.
        """

        import pandas as pd

        rows: list[dict[str, Any]] = []
        for step, action in enumerate(self.order):
            thread = THREAD_OF[action]
            row = {
                "seq": step + 1,
                "lane": GATEWAY_OF[thread],
                "user": USER,
                "gateway": GATEWAY_OF[thread],
            }
            if action in WRITES:
                looked = self.order.index(THREADS[thread][0])
                rows.append(row | self._arrow(thread, looked + 1.0, step + 1.0))
            else:
                rows.append(row | {"t": step + 1.0, "kind": "look", "reason": thread})
        return normal(pd.DataFrame(rows))

    def _arrow(self, thread: str, t: float, t_recv: float) -> dict[str, Any]:
        arrow = {"t": t, "t_recv": t_recv, "peer": REDIS, "kind": _KINDS[thread]}
        if thread in self.rejected:
            arrow |= {"kind": "presence_reject", "ok": False, "reason": _REASONS[thread]}
        return arrow

    def __str__(self) -> str:
        return "\n".join([*self.words(), f"The end: {self.end.value}."])

    def __repr__(self) -> str:
        return f"<{self.policy}, skew {self.skew_s:+g} s: {' '.join(self.order)} -> {self.end}>"

    def _repr_html_(self) -> str:
        items = "".join(f"<li>{html.escape(line.partition(' ')[2])}</li>" for line in self.words())
        return f"<ol>{items}</ol><p>The end: <b>{self.end.value}</b>.</p>"


_KINDS: Final = {
    "heartbeat": "presence_refresh",
    "clean-up": "presence_del",
    "re-register": "presence_set",
}
_REASONS: Final = {
    "heartbeat": "superseded",
    "clean-up": "other owner",
    "re-register": "stale register",
}


def named(entry: Mapping[str, str]) -> str:
    """Return whom an entry names, in words."""
    if not entry:
        return "nobody"
    return entry.get("gwId") or "half an entry"


@dataclass(frozen=True)
class Exploration:
    """The results of every order under one policy.

    Args:
        played: each order once.
        by: who played them, for captions.
    """

    policy: str
    skew_s: float
    played: tuple[Played, ...]
    by: str = "the real scripts on a real server"

    @property
    def orders(self) -> tuple[Order, ...]:
        return tuple(one.order for one in self.played)

    @property
    def wrong(self) -> tuple[Played, ...]:
        """The orders after which the entry is not right."""
        return tuple(one for one in self.played if one.end is not OrderEnd.CORRECT)

    def __getitem__(self, order: Sequence[Action]) -> Played:
        for one in self.played:
            if one.order == tuple(order):
                return one
        raise KeyError(f"this order was not played: {' '.join(order)}")

    def count(self, end: OrderEnd) -> int:
        """Return how many orders ended so."""
        return sum(one.end is end for one in self.played)

    def table(self) -> pd.DataFrame:
        """Return a row for each order: its end, and what Redis named after each step."""

        import pandas as pd

        return pd.DataFrame(
            {
                "order": [" ".join(one.order) for one in self.played],
                "end": [one.end.value for one in self.played],
                "Redis named": [
                    " → ".join(named(entry) for entry in one.entries) for one in self.played
                ],
                "rejected": [", ".join(sorted(one.rejected)) for one in self.played],
            }
        )

    def minimal(self) -> tuple[Played, Played] | None:
        """Return the minimal failing order, and the nearest good one. The failing order is the one
        that needs the fewest swaps of neighbours to become a good one; among several, the one that
        is nearest to the calm order in which one thing follows the other. None when all orders end
        well, or none does.
        """
        good = [one for one in self.played if one.end is OrderEnd.CORRECT]
        calm = [action for action in CALM if action in self.played[0].order]
        pairs = [
            (distance(bad.order, near.order), distance(bad.order, calm), i, j)
            for i, bad in enumerate(self.wrong)
            for j, near in enumerate(good)
        ]
        if not pairs:
            return None
        _, _, i, j = min(pairs)
        return self.wrong[i], good[j]

    def __repr__(self) -> str:
        return (
            f"<Exploration of {self.policy}, gateway-02's clock {self.skew_s:+g} s: "
            f"{len(self.wrong)} of {len(self.played)} orders end wrong "
            f"({self.count(OrderEnd.LOST)} lost, {self.count(OrderEnd.DEAD)} at the dead gateway); "
            f"by {self.by}>"
        )


def summary(explorations: Iterable[Exploration]) -> pd.DataFrame:
    """Return a row for each exploration, and how its orders ended."""

    import pandas as pd

    rows = [
        {
            "policy": one.policy,
            "skew (s)": one.skew_s,
            "orders": len(one.played),
            "wrong": len(one.wrong),
            "lost": one.count(OrderEnd.LOST),
            "dead gateway": one.count(OrderEnd.DEAD),
        }
        for one in explorations
    ]
    columns = ["policy", "skew (s)", "orders", "wrong", "lost", "dead gateway"]
    return pd.DataFrame(rows, columns=columns)


@dataclass(frozen=True)
class Agreement:
    """Whether two ways of playing the same orders end the same."""

    one: Exploration
    other: Exploration
    differ: tuple[tuple[Played, Played], ...]

    def __bool__(self) -> bool:
        return not self.differ

    def __repr__(self) -> str:
        of = len(self.one.played)
        mine, theirs = self.one.policy, self.other.policy
        if not self.differ:
            return f"{mine} agrees with {theirs} on all {of} orders"
        one, other = self.differ[0]
        return (
            f"{mine} differs from {theirs} on {len(self.differ)} of {of} orders, first on "
            f"{' '.join(one.order)}: {one.end.value}, not {other.end.value}"
        )


def compare(one: Exploration, other: Exploration) -> Agreement:
    """Say on which orders two explorations end differently.

    Raises:
        ValueError: they are not of the same orders.
    """
    if set(one.orders) != set(other.orders):
        raise ValueError("these explorations are of different orders: explore the same ones")
    pairs = [(mine, other[mine.order]) for mine in one.played]
    return Agreement(one, other, tuple((a, b) for a, b in pairs if a.end is not b.end))

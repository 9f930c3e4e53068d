"""Trace: which columns does it have, and which of its rows are arrows between lanes?

A row whose `peer` names a lane and that has a `t_recv` is an arrow; a row with a peer that was
never received is a lost message; a row without peer happened on its own lane.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import pandas as pd

COLUMNS: Final[dict[str, Any]] = {
    "seq": 0,
    "t": 0.0,
    "lane": "",
    "kind": "",
    "msg_id": "",
    "user": "",
    "gateway": "",
    "peer": "",
    "t_recv": math.nan,
    "ok": True,
    "ts_claimed": math.nan,
    "ts_current": math.nan,
    "clock_error_s": math.nan,
    "reason": "",
    "conn_id": "",
    "token": 0,
}
"""The columns of a trace, and what stands in a field that does not apply."""

REDIS: Final = "redis"
NOT_LOST: Final = frozenset({"pttl", "scan", "ws_open", "ws_close"})
_WORDS: Final = ("lane", "kind", "msg_id", "user", "gateway", "peer", "reason", "conn_id")
_TIMES: Final = ("t", "t_recv", "ts_claimed", "ts_current", "clock_error_s")


def normal(trace: pd.DataFrame) -> pd.DataFrame:
    """Return a copy with every column, defaults in the gaps, in the order of time."""

    import pandas as pd

    out = pd.DataFrame(index=range(len(trace)))
    for name, default in COLUMNS.items():
        known = name in trace.columns
        out[name] = trace[name].to_numpy() if known else [default] * len(trace)
    for name in _WORDS:
        out[name] = out[name].astype(object).where(out[name].notna(), "").map(str)
    for name in _TIMES:
        out[name] = pd.to_numeric(out[name], errors="coerce").astype(float)
    out["ok"] = [bool(value) if value == value and value is not None else True for value in out.ok]
    out["token"] = pd.to_numeric(out["token"], errors="coerce").fillna(0).astype("int64")
    out["seq"] = pd.to_numeric(out["seq"], errors="coerce").fillna(0).astype("int64")
    out = out[out["t"].notna()]
    return out.sort_values(["t", "seq"], kind="stable").reset_index(drop=True)


def empty() -> pd.DataFrame:
    """Return a trace in which nothing happened."""

    import pandas as pd

    return normal(pd.DataFrame(columns=list(COLUMNS)))


def window(trace: pd.DataFrame, t0: float | None, t1: float | None) -> pd.DataFrame:
    """Return the rows that begin between t0 and t1."""
    low = -math.inf if t0 is None else t0
    high = math.inf if t1 is None else t1
    return trace[(trace["t"] >= low) & (trace["t"] <= high)].reset_index(drop=True)


def span(trace: pd.DataFrame) -> tuple[float, float]:
    """Return when the first thing began and the last thing ended."""
    if trace.empty:
        return 0.0, 0.0
    ends = trace["t_recv"].where(trace["t_recv"].notna(), trace["t"])
    return float(trace["t"].min()), float(max(ends.max(), trace["t"].max()))


def gateways(trace: pd.DataFrame) -> list[str]:
    """Return the gateways that occur, in order."""
    return sorted({name for name in trace["gateway"] if name})


def users(trace: pd.DataFrame) -> list[str]:
    """Return the users that occur as lanes of their own or in presence, in order of appearance."""
    not_users = {REDIS, "", *gateways(trace)}
    own_lane = [
        (int(seq), lane)
        for seq, lane, user in zip(trace.index, trace["lane"], trace["user"], strict=True)
        if lane == user and lane not in not_users
    ]
    in_presence = [
        (int(seq), user)
        for seq, user, kind in zip(trace.index, trace["user"], trace["kind"], strict=True)
        if kind.startswith("presence_") and user not in not_users
    ]
    return list(dict.fromkeys(name for _, name in sorted(own_lane + in_presence)))


def is_lane(trace: pd.DataFrame) -> set[str]:
    """Return the names that are lanes: where something was seen, or Redis, or a gateway."""
    return {name for name in {REDIS, *trace["lane"], *gateways(trace)} if name}


def arrows(trace: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that go from one lane to another, with a column `lost`."""
    lanes = is_lane(trace)
    received = trace["t_recv"].notna()
    gone = ~received & (~trace["ok"] | (trace["kind"] == "drop")) & ~trace["kind"].isin(NOT_LOST)
    to_lane = trace["peer"].isin(lanes) & (trace["peer"] != trace["lane"])
    out = trace[to_lane & (received | gone)].copy()
    out["lost"] = out["t_recv"].isna()
    return out.reset_index(drop=True)


def moments(trace: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that happened on one lane only."""
    moving = set(arrows(trace)["seq"]) if not trace.empty else set()
    return trace[~trace["seq"].isin(moving)].reset_index(drop=True)


def seen_at(row: Any) -> float:
    """Return when a row took effect: at its arrival, if it travelled."""
    return float(row.t if math.isnan(row.t_recv) else row.t_recv)

"""Latency: how long was each message on its way, and on which part of it?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from wsdemo.lab.trace import frames

if TYPE_CHECKING:
    import pandas as pd

LOCAL: Final = "same gateway"
ACROSS: Final = "across gateways"
STAGES: Final = {
    "to_gateway_s": "client → gateway",
    "to_redis_s": "gateway → Redis",
    "from_redis_s": "Redis → gateway",
    "to_client_s": "gateway → client",
}
"""The stages of the path, in order. The work of a gateway belongs to the stage after it."""


def latencies(trace: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each message that arrived, in the order in which they were sent.

    Columns: msg_id, sender, recipient, way (`LOCAL`, or `ACROSS` when Redis was asked), latency_s
    (from the sender's client to the recipient's) and those of `STAGES`, whose sum it is; NaN for a
    stage that was not on the way. Seconds of the trace: messages travel at their own pace, no
    matter how fast the clock of the laboratory is.
    """

    import pandas as pd

    trace = frames.normal(trace)
    arrived = trace[(trace["msg_id"] != "") & trace["t_recv"].notna()]
    sent, asked, told, delivered = (
        arrived[arrived["kind"] == kind].drop_duplicates("msg_id").set_index("msg_id")
        for kind in ("message", "route", "publish", "deliver")
    )
    ids = sent.index.intersection(delivered.index, sort=False)
    sent, delivered = sent.loc[ids], delivered.loc[ids]
    in_redis, out_of_redis = asked["t_recv"].reindex(ids), told["t_recv"].reindex(ids)
    return pd.DataFrame(
        {
            "sender": sent["lane"],
            "recipient": delivered["peer"],
            "way": in_redis.notna().map({True: ACROSS, False: LOCAL}),
            "latency_s": delivered["t_recv"] - sent["t"],
            "to_gateway_s": sent["t_recv"] - sent["t"],
            "to_redis_s": in_redis - sent["t_recv"],
            "from_redis_s": out_of_redis - in_redis,
            "to_client_s": delivered["t_recv"] - out_of_redis.fillna(sent["t_recv"]),
        },
        index=pd.Index(ids, name="msg_id"),
    ).reset_index()


def moves(trace: pd.DataFrame, scale: float = 1.0) -> pd.DataFrame:
    """Return a row for each register that found an entry of another gateway.

    Columns: user, gap_s (production seconds since the last accepted write of the old gateway),
    skew_s (by how much the new gateway's clock was slower than the old one's), rejected. Clocks
    are right until a row of the trace has a `clock_error_s` (production seconds; a `fault`).

    Args:
        scale: production seconds per second of the trace.
    """

    import pandas as pd

    ahead: dict[str, float] = {}
    last: dict[str, tuple[str, float]] = {}
    rows = []
    for row in frames.normal(trace).itertuples():
        if not math.isnan(row.clock_error_s):
            ahead[row.lane] = row.clock_error_s
        elif row.kind in ("presence_set", "presence_refresh", "presence_reject"):
            register = row.kind == "presence_set" or row.reason == "stale register"
            before = last.get(row.user)
            if register and before is not None and before[0] != row.gateway:
                skew_s = ahead.get(before[0], 0.0) - ahead.get(row.gateway, 0.0)
                rows.append((row.user, (row.t - before[1]) * scale, skew_s, not row.ok))
            if row.ok:
                last[row.user] = (row.gateway, row.t)
        elif row.kind == "presence_del" and row.ok:
            last.pop(row.user, None)
    return pd.DataFrame(rows, columns=["user", "gap_s", "skew_s", "rejected"])

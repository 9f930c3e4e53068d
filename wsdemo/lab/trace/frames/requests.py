"""Requests: what did clients ask for, of which only the two ends of a connection know?

A trace has what gateways did for a client, but no row for the frame that made them do it. These
arrows are put together from what its two ends saw: she opened a socket and was registered, she
closed one and her gateway saw it, she sent a message and read what became of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import pandas as pd

from wsdemo.lab.trace.frames.columns import normal

ASKS: Final = "client_register"
LEAVES: Final = "client_leave"
HEARS: Final = "answer"
_WRITTEN: Final = ("presence_set", "presence_reject")


def requests(trace: pd.DataFrame) -> pd.DataFrame:
    """Return arrows of clients, with the columns of a trace: what each asked for, and was told.

    * `ASKS`: from the opening of a socket to the gateway, as it asks presence;
    * `LEAVES`: a client closed its connection, and its gateway saw it;
    * `HEARS`: from a gateway to the sender of a message that was not handed on.
    """
    import pandas as pd

    rows = [*_asked(trace), *_left(trace), *_heard(trace)]
    return normal(pd.DataFrame(rows)) if rows else trace.iloc[0:0].copy()


def _asked(trace: pd.DataFrame) -> list[dict[str, Any]]:
    opened: dict[str, float] = {}
    out = []
    for row in trace.itertuples():
        if row.kind == "ws_open" and row.lane == row.user:
            opened[row.user] = row.t
        elif row.kind in _WRITTEN and row.user in opened:
            out.append(_arrow(ASKS, row.user, row, opened.pop(row.user), row.t))
    return out


def _left(trace: pd.DataFrame) -> list[dict[str, Any]]:
    closed = trace[(trace["kind"] == "ws_close") & (trace["conn_id"] != "")]
    at_gateway = {row.conn_id: row for row in closed.itertuples() if row.lane == row.gateway}
    out = []
    for row in closed[closed["lane"] == closed["user"]].itertuples():
        seen = at_gateway.get(row.conn_id)
        if seen is not None and row.reason.startswith("closed with 1000"):
            out.append(_arrow(LEAVES, row.user, seen, min(row.t, seen.t), seen.t))
    return out


def _heard(trace: pd.DataFrame) -> list[dict[str, Any]]:
    routed = trace[trace["kind"] == "route"]
    route_of = {row.msg_id: row for row in routed.itertuples()}
    out = []
    for row in trace[(trace["kind"] == "ack") & ~trace["ok"]].itertuples():
        route = route_of.get(row.msg_id)
        if route is not None:
            told = {"msg_id": row.msg_id, "reason": row.reason, "ok": False}
            out.append(
                _arrow(HEARS, row.user, route, route.t_recv, row.t)
                | {"lane": route.gateway, "peer": row.user, **told}
            )
    return out


def _arrow(kind: str, user: str, at: Any, t: float, t_recv: float) -> dict[str, Any]:
    return {
        "seq": at.seq,
        "t": t,
        "lane": user,
        "kind": kind,
        "user": user,
        "gateway": at.gateway,
        "peer": at.gateway,
        "t_recv": t_recv,
        "conn_id": at.conn_id,
    }

"""Verdicts: what did presence answer to each write, and what was the effect for the user?"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from wsdemo.lab.trace.frames.columns import seen_at
from wsdemo.lab.trace.frames.stays import Stay, belief, named_at, truth

if TYPE_CHECKING:
    import pandas as pd


def verdicts(
    trace: pd.DataFrame, *, scale: float = 1.0, ttl_s: float | None = None
) -> pd.DataFrame:
    """Return what presence said to each write, and what that meant for the user.

    Columns: t, user, gateway and conn_id of the writer, owner (the gateway that Redis named
    just before; empty: none), verb (register, refresh, release), ok, reason, and `effect`, which
    is known from truth and belief just before:

    * saved: a late write of an old connection was rejected, while Redis named the gateway at
      which the user lived on a newer one; without the comparison she would have been lost;
    * lost: a release of an old connection was accepted, which until then was so;
    * refused: a register was rejected although the user was nowhere else;
    * empty: it made no difference.

    The reason of a release that removed nothing is "other owner" or "no entry"; in the second case
    the lease had run out, or it was released before: no rule has saved anybody.
    """

    import pandas as pd

    named = named_at(trace)
    # A stay without an end in the trace goes on after its last row.
    stays = _by_user(truth(trace, math.inf))
    listed = _by_user(belief(trace, scale=scale, ttl_s=ttl_s, until=math.inf))
    rows = []
    for row in trace[trace["kind"].isin(_VERBS)].itertuples():
        t = seen_at(row)
        verb = _VERBS[row.kind] or _REJECTED.get(row.reason, "register")
        # A rejection was caused by the newer session, even if its client has not been told yet.
        early = {} if row.ok else named
        home = next(
            (
                stay
                for stay in stays.get(row.user, ())
                if min(stay.start, early.get(stay.conn_id, stay.start)) <= t < stay.end
            ),
            None,
        )
        said = next((s.gateway for s in listed.get(row.user, ()) if s.start < t <= s.end), "")
        rows.append(
            {
                "t": t,
                "user": row.user,
                "gateway": row.gateway,
                "conn_id": row.conn_id,
                "owner": said,
                "verb": verb,
                "ok": row.ok,
                "reason": "" if row.ok else row.reason,
                "effect": ""
                if row.reason == NO_ENTRY
                else _effect(verb, row.ok, row.conn_id, home, said),
            }
        )
    columns = ["t", "user", "gateway", "conn_id", "owner", "verb", "ok", "reason", "effect"]
    return pd.DataFrame(rows, columns=columns).sort_values("t", ignore_index=True)


NO_ENTRY: Final = "no entry"
"""A release was not rejected by a rule: there was nothing to remove."""
OTHER_OWNER: Final = "other owner"
"""A release was rejected: the entry is another session's."""

_VERBS: Final = {
    "presence_set": "register",
    "presence_refresh": "refresh",
    "presence_del": "release",
    "presence_reject": "",
}
_REJECTED: Final = {
    OTHER_OWNER: "release",
    NO_ENTRY: "release",
    "superseded": "refresh",
    "closed": "refresh",
}
"""Which verb is rejected for which reason; all other reasons belong to registers."""


def is_release(reason: str) -> bool:
    """Say whether a write that was rejected for this reason was a release."""
    return _REJECTED.get(reason) == "release"


def _by_user(stays: Iterable[Stay]) -> dict[str, list[Stay]]:
    out: dict[str, list[Stay]] = {}
    for stay in stays:
        out.setdefault(stay.user, []).append(stay)
    return out


def _effect(verb: str, ok: bool, conn_id: str, home: Stay | None, said: str) -> str:
    if verb == "register":
        return "refused" if not ok and home is None else ""
    if home is None or home.conn_id == conn_id or said != home.gateway:
        return ""
    if not ok:
        return "saved"
    return "lost" if verb == "release" else ""

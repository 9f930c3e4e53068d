"""What does a recorded trace say about who was where, who believed what, and how long it took?

Everything here takes the trace as a DataFrame and returns new frames; nothing is changed in
place. Times are those of the trace (measured seconds) unless a name says otherwise. A trace has a
row for each observed event, with the columns of `COLUMNS`. A row whose `peer` names a lane and
that has a `t_recv` is an arrow; a row with a peer that was never received is a lost message; a
row without peer happened on its own lane.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

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
    "reason": "",
    "conn_id": "",
    "token": 0,
}
"""The columns of a trace, and what stands in a field that does not apply."""

REDIS: Final = "redis"
NOT_LOST: Final = frozenset({"pttl", "scan", "ws_open", "ws_close"})
_WORDS: Final = ("lane", "kind", "msg_id", "user", "gateway", "peer", "reason", "conn_id")
_TIMES: Final = ("t", "t_recv", "ts_claimed", "ts_current")


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


class Stay(NamedTuple):
    """A user was at a gateway (truth), or was believed to be there, from `start` to `end`."""

    user: str
    start: float
    end: float
    gateway: str
    """Empty: at none."""
    conn_id: str = ""


def truth(trace: pd.DataFrame, until: float | None = None) -> list[Stay]:
    """Return where each user's socket really was: what the clients saw, and crashes.

    A stay begins with `registered` on the user's lane. It ends with `ws_close` of that connection
    at either of its ends (who says goodbye does not report it), with the next `registered`, or
    with the `crash` of the gateway: a socket does not outlive its process. Between stays the user
    is nowhere, which is no row.
    """
    end = span(trace)[1] if until is None else until
    open_: dict[str, Stay] = {}
    out: list[Stay] = []

    def close(user: str, t: float) -> None:
        stay = open_.pop(user, None)
        if stay is not None and t > stay.start:
            out.append(stay._replace(end=t))

    for row in trace.itertuples():
        if row.kind == "crash":
            for user in [u for u, stay in open_.items() if stay.gateway == row.lane]:
                close(user, row.t)
        elif row.kind == "registered" and row.lane == row.user and row.ok:
            t = _seen(row)
            close(row.user, t)
            open_[row.user] = Stay(row.user, t, end, row.gateway or row.peer, row.conn_id)
        elif row.kind == "ws_close":
            stay = open_.get(row.user)
            unnamed = row.conn_id == "" and row.lane == row.user
            if stay is not None and (unnamed or row.conn_id == stay.conn_id):
                close(row.user, row.t)
    for user in list(open_):
        close(user, end)
    return sorted(out, key=lambda stay: (stay.user, stay.start))


def belief(
    trace: pd.DataFrame,
    *,
    scale: float = 1.0,
    ttl_s: float | None = None,
    until: float | None = None,
) -> list[Stay]:
    """Return where Redis said each user was.

    A stay begins with an accepted `presence_set` (or a refresh that reclaimed the entry, or a
    sampled lease) and ends with an accepted `presence_del`, with the next gateway's set, when
    Redis crashes, or when the lease runs out. Any other refresh renews what is there: without a
    token it has compared nothing, and cannot know whose it is; where nothing is left, it raises
    half an entry, which names nobody.

    Commands are recorded when they were answered, and two that were on their way together may be
    answered the other way round. So a release of an older connection that is answered before the
    newer one is told was executed before it; and one with a token never removes another's entry.

    The lease is known from sampled `pttl` rows
    (production milliseconds in `ts_current`) and, when `ttl_s` (production seconds) is given,
    from each renewal.
    """
    end = span(trace)[1] if until is None else until
    book, told = _Book(scale, end), _told_at(trace)
    for row in trace.itertuples():
        t = _seen(row)
        book.expire(row.user, t)
        match row.kind:
            case "presence_set" | "presence_refresh" if row.ok and row.user:
                if row.kind == "presence_refresh" and not book.knows(row):
                    continue  # It renewed what names no gateway.
                lease = math.inf if ttl_s is None else t + ttl_s / scale
                if row.kind == "presence_set" or row.reason == "reclaimed" or row.token:
                    book.say(row.user, t, row.gateway or row.lane, row.conn_id, lease)
                else:
                    book.renew(row.user, lease)
            case "presence_del" if row.ok:
                owner = book.owner(row.user)
                others = owner not in ("", row.conn_id) and row.conn_id != ""
                if not others or not (row.token or t < told.get(owner, -math.inf)):
                    book.forget(row.user, t)
            case "pttl":
                book.sample(row, t)
            case "crash" if row.lane == REDIS:
                book.forget_all(t)
    return book.closed()


class _Book:
    """What Redis says, while a trace is read from its beginning to its end."""

    def __init__(self, scale: float, end: float) -> None:
        self._scale, self._end = scale, end
        self._now: dict[str, tuple[Stay, float]] = {}
        self._done: list[Stay] = []

    def knows(self, refresh: Any) -> bool:
        """Say whether a refresh found, or made, an entry that names a gateway."""
        return refresh.user in self._now or refresh.reason != "ok"

    def say(self, user: str, t: float, gateway: str, conn_id: str, lease: float) -> None:
        stay = self._now[user][0] if user in self._now else None
        if stay is None or stay.gateway != gateway:
            self.forget(user, t)
            stay = Stay(user, t, self._end, gateway, conn_id)
        self._now[user] = (stay._replace(conn_id=conn_id or stay.conn_id), lease)

    def owner(self, user: str) -> str:
        return self._now[user][0].conn_id if user in self._now else ""

    def renew(self, user: str, lease: float) -> None:
        if user in self._now:
            self._now[user] = (self._now[user][0], lease)

    def sample(self, row: Any, t: float) -> None:
        left_ms = row.ts_current
        if math.isnan(left_ms):
            return
        if left_ms > 0 and row.gateway:
            self.say(row.user, t, row.gateway, row.conn_id, t + left_ms / 1000 / self._scale)
        else:
            self.forget(row.user, t)

    def expire(self, user: str, t: float) -> None:
        known = self._now.get(user)
        if known is not None and known[1] <= t:
            self.forget(user, known[1])

    def forget(self, user: str, t: float) -> None:
        known = self._now.pop(user, None)
        if known is not None and t > known[0].start:
            self._done.append(known[0]._replace(end=t))

    def forget_all(self, t: float) -> None:
        for user in list(self._now):
            self.expire(user, t)
            self.forget(user, t)

    def closed(self) -> list[Stay]:
        for user, (_, lease) in list(self._now.items()):
            self.forget(user, min(lease, self._end))
        return sorted(self._done, key=lambda stay: (stay.user, stay.start))


def _seen(row: Any) -> float:
    """When the thing took effect: at its arrival, if it travelled."""
    return float(row.t if math.isnan(row.t_recv) else row.t_recv)


class Gap(NamedTuple):
    """Truth and belief differed from `start` to `end`."""

    user: str
    start: float
    end: float
    real: str
    """The gateway where the user really was; empty: nowhere."""
    said: str
    """The gateway that Redis named; empty: none."""


def gaps(real: Iterable[Stay], said: Iterable[Stay], least_s: float = 0.0) -> list[Gap]:
    """Return when truth and belief about a user differed for longer than `least_s`.

    They never change at the same instant: a record is written before its owner is told. `least_s`
    leaves such moments out.
    """
    at: dict[str, tuple[list[Stay], list[Stay]]] = {}
    for which, stays in enumerate((real, said)):
        for stay in stays:
            at.setdefault(stay.user, ([], []))[which].append(stay)
    out: list[Gap] = []
    for user, (true, told) in at.items():
        edges = sorted({edge for stay in (*true, *told) for edge in (stay.start, stay.end)})
        out += _joined(
            Gap(user, a, b, where(true, (a + b) / 2), where(told, (a + b) / 2))
            for a, b in itertools.pairwise(edges)
        )
    kept = [gap for gap in out if gap.real != gap.said and gap.end - gap.start > least_s]
    return sorted(kept, key=lambda gap: (gap.user, gap.start))


def where(stays: Iterable[Stay], t: float) -> str:
    """Return the gateway at time t according to one user's stays; empty for none."""
    return next((stay.gateway for stay in stays if stay.start <= t < stay.end), "")


def _joined(pieces: Iterable[Gap]) -> list[Gap]:
    out: list[Gap] = []
    for piece in pieces:
        if out and out[-1].end == piece.start and out[-1][3:] == piece[3:]:
            out[-1] = out[-1]._replace(end=piece.end)
        else:
            out.append(piece)
    return out


def named_at(trace: pd.DataFrame) -> dict[str, float]:
    """Return, for each connection, when Redis first named it."""
    writes = (trace["kind"] == "presence_set") & trace["ok"]
    seen = trace[(writes | (trace["kind"] == "pttl")) & (trace["conn_id"] != "")]
    times = seen["t_recv"].where(seen["t_recv"].notna(), seen["t"])
    return {str(conn): float(t) for conn, t in times.groupby(seen["conn_id"]).min().items()}


def _told_at(trace: pd.DataFrame) -> dict[str, float]:
    """Return, for each connection, when its user was told that she is registered."""
    told = trace[(trace["kind"] == "registered") & (trace["conn_id"] != "")]
    return {str(row.conn_id): _seen(row) for row in told.itertuples()}


def lies(
    trace: pd.DataFrame, real: Sequence[Stay], said: Iterable[Stay], least_s: float = 0.0
) -> list[Gap]:
    """Return when Redis was wrong about a user for longer than `least_s`.

    It is not while she arrives: her entry is written, and she is about to be told.
    """
    named = named_at(trace)
    arrivals = {(stay.user, stay.start, stay.gateway): stay.conn_id for stay in real}
    out = []
    for gap in gaps(real, said):
        arrived = arrivals.get((gap.user, gap.end, gap.said))
        end = gap.end if arrived is None else named.get(arrived, gap.start)
        if end - gap.start > least_s:
            out.append(gap._replace(end=min(end, gap.end)))
    return out


def departures(trace: pd.DataFrame) -> dict[str, float]:
    """Return when each user left who left for good: by a goodbye, or by shutting the lid.

    Who was dropped is not among them, and who is on her way to another gateway neither.
    """
    dropped = set(trace[trace["kind"] == "cleanup"]["conn_id"])
    closed = trace[trace["kind"] == "ws_close"]
    reasons = {
        str(row.conn_id): str(row.reason)
        for row in closed[closed["lane"] == closed["user"]].itertuples()
    }
    goodbyes = set(closed["conn_id"]) - dropped - reasons.keys()
    last = {stay.user: stay for stay in truth(trace)}
    return {
        user: stay.end
        for user, stay in last.items()
        if stay.conn_id in goodbyes or reasons.get(stay.conn_id) == "vanished"
    }


def verdicts(
    trace: pd.DataFrame, *, scale: float = 1.0, ttl_s: float | None = None
) -> pd.DataFrame:
    """Return what presence said to each write, and what that meant for the user.

    Columns: t, user, gateway, verb (register, refresh, release), ok, reason, and `effect`, which
    is known from truth and belief just before:

    * saved: a late write of an old connection was rejected, while Redis named the gateway at
      which the user lived on a newer one; without the comparison she would have been lost;
    * lost: a release of an old connection was accepted, which until then was so;
    * refused: a register was rejected although the user was nowhere else;
    * empty: it made no difference.

    The reason of a release that found nothing to remove is "no entry": nothing was compared.
    """

    import pandas as pd

    named = named_at(trace)
    # What goes on at the end of the trace goes on at its last row, too.
    stays = _by_user(truth(trace, math.inf))
    listed = _by_user(belief(trace, scale=scale, ttl_s=ttl_s, until=math.inf))
    rows = []
    for row in trace[trace["kind"].isin(_VERBS)].itertuples():
        t = _seen(row)
        verb = _VERBS[row.kind] or _REJECTED.get(row.reason, "register")
        # Whoever is rejected was so because of the newer one, even if that is yet to be told.
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
        found = row.ok or verb != "release" or bool(said)
        rows.append(
            {
                "t": t,
                "user": row.user,
                "gateway": row.gateway,
                "verb": verb,
                "ok": row.ok,
                "reason": "" if row.ok else row.reason if found else NO_ENTRY,
                "effect": _effect(verb, row.ok, row.conn_id, home, said),
            }
        )
    columns = ["t", "user", "gateway", "verb", "ok", "reason", "effect"]
    return pd.DataFrame(rows, columns=columns).sort_values("t", ignore_index=True)


NO_ENTRY: Final = "no entry"
"""A release was not rejected by a rule: there was nothing to remove."""

_VERBS: Final = {
    "presence_set": "register",
    "presence_refresh": "refresh",
    "presence_del": "release",
    "presence_reject": "",
}
_REJECTED: Final = {"not owner": "release", "superseded": "refresh", "closed": "refresh"}
"""Which verb is rejected for which reason; the others are registers."""


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

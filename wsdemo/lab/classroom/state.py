"""State snapshot: what is known at a moment, after all events of the observer stream until then?

`static/model.js` answers the same in a browser. Here it serves two ends: the feed compares what
Redis answers with what boards have been told; and when the oldest batches are dropped, one batch
with their state takes their place, so that a board which joins late ends in the right state.
"""

from __future__ import annotations

from typing import Any, Final

from wsdemo.lab.classroom.translator import BoardEvent

AWAY_KEPT: Final = 1_000
"""So many users are remembered who have neither a connection nor an entry."""

Batch = dict[str, Any]
EntryRow = list[Any]
"""User, gateway, connection, when the lease ends; no gateway means no entry."""

_GATEWAY: Final = {
    "ready": "up",
    "drain": "draining",
    "stopped": "stopped",
    "crash": "crashed",
    "freeze": "frozen",
    "thaw": "up",
}
_AGAIN: Final = {
    "down": ("unready",),
    "up": ("ready",),
    "unready": ("ready", "unready"),
    "draining": ("drain",),
    "stopped": ("stopped",),
    "crashed": ("crash",),
    "frozen": ("freeze",),
}
"""The events that lead to each state of a gateway."""


class BoardState:
    """What a board knows that has heard everything so far."""

    def __init__(self) -> None:
        self.t = 0.0
        self.gateways: dict[str, str] = {}
        self.redis = "up"
        self.known = True
        """Whether Redis can be asked: without that, no entry is known."""
        self.connections: dict[str, tuple[str, str]] = {}
        """Connection -> its user and its gateway."""
        self.entries: dict[str, tuple[str, str, float]] = {}
        """User -> gateway, connection and end of the lease, as Redis says."""
        self.held: list[Any] = []
        self.messages = 0
        self._names: dict[str, str] = {}
        """Students -> the names that they are shown by."""
        self._away: dict[str, None] = {}
        """Users with neither connection nor entry, the latest last."""
        self._question: BoardEvent | None = None
        self._votes: BoardEvent | None = None
        self._answer: BoardEvent | None = None

    def apply(self, batch: Batch) -> None:
        """Take a batch; unknown kinds change nothing."""
        for event in batch.get("e", ()):
            self.apply_event(event)
        self.apply_entries(batch.get("b", ()))
        self.held = batch.get("held", self.held)
        self.messages = batch.get("n", self.messages)
        self.t = max(self.t, batch["t"])

    # --- one method for each subject ---------------------------------------------------------

    def apply_event(self, event: BoardEvent) -> None:
        """Take one event."""
        kind = event["k"]
        if "c" in event and "u" in event and kind != "saw":
            self._session(kind, event)
        elif kind in ("redis_down", "redis_up", "beliefs_unknown", "beliefs_known"):
            self._redis(kind)
        elif kind in ("freeze", "thaw") and event["g"] == "redis":
            self.redis = "frozen" if kind == "freeze" else "up"
        elif kind in _GATEWAY or kind == "unready":
            self._gateway(kind, event["g"])
        else:
            self._class(kind, event)

    def apply_entries(self, rows: list[EntryRow]) -> None:
        """Take what Redis has answered."""
        for user, gateway, connection, ends in rows:
            if gateway:
                self.entries[user] = (gateway, connection, ends)
                self._away.pop(user, None)
            else:
                self.entries.pop(user, None)
                self._maybe_away(user)

    def _session(self, kind: str, event: BoardEvent) -> None:
        user, gateway, connection = event["u"], event["g"], event["c"]
        if kind == "set":
            self.connections[connection] = (user, gateway)
            self.entries[user] = (gateway, connection, event["x"])
            self._away.pop(user, None)
        elif kind == "close":
            self.connections.pop(connection, None)
            self._maybe_away(user)
        elif kind == "reclaim" and user in self.entries:
            self.entries[user] = (gateway, connection, self.entries[user][2])
        elif kind == "del":
            self.entries.pop(user, None)
            self._maybe_away(user)

    def _gateway(self, kind: str, name: str) -> None:
        if kind == "unready":
            if self.gateways.setdefault(name, "down") == "up":
                self.gateways[name] = "unready"
            return
        self.gateways[name] = _GATEWAY[kind]
        if kind in ("stopped", "crash"):
            ended = [(c, user) for c, (user, at) in self.connections.items() if at == name]
            for connection, user in ended:
                del self.connections[connection]
                self._maybe_away(user)

    def _redis(self, kind: str) -> None:
        if kind.startswith("redis"):
            self.redis = "down" if kind == "redis_down" else "up"
        else:
            self.known = kind == "beliefs_known"
        if kind != "beliefs_known":
            users, self.entries = list(self.entries), {}
            for user in users:
                self._maybe_away(user)

    def _class(self, kind: str, event: BoardEvent) -> None:
        if kind == "seat":
            self._names[event["u"]] = event["n"]
            self._maybe_away(event["u"])
        elif kind == "ask":
            self._question, self._votes, self._answer = event, None, None
        elif kind == "vote":
            self._votes = event
        elif kind == "reveal":
            self._answer = event

    def _maybe_away(self, user: str) -> None:
        """Remember a user who may have neither connection nor entry, and forget the oldest."""
        self._away.pop(user, None)
        self._away[user] = None
        if len(self._away) > 2 * AWAY_KEPT:
            connected = {name for name, _ in self.connections.values()}
            away = [u for u in self._away if u not in connected and u not in self.entries]
            self._away = dict.fromkeys(away[-AWAY_KEPT:])
            for name in away[:-AWAY_KEPT]:
                self._names.pop(name, None)

    # --- the way back ------------------------------------------------------------------------

    def snapshot(self) -> Batch:
        """Return one batch that leads from nothing to this state. Its events have happened
        before, and say so (`again`): they are not news.
        """
        events: list[BoardEvent] = [{"k": "cut"}]
        for name, state in self.gateways.items():
            events += [{"k": kind, "g": name} for kind in _AGAIN[state]]
        events += self._redis_again()
        events += [{"k": "seat", "u": user, "n": name} for user, name in self._names.items()]
        events += self._users_again()
        if not self.known:
            events.append({"k": "beliefs_unknown"})
        events += filter(None, (self._question, self._votes, self._answer))
        return {
            "type": "batch",
            "t": self.t,
            "e": [{**event, "t": self.t, "again": True} for event in events],
            "b": self._entries_again(),
            "held": self.held,
            "n": self.messages,
        }

    def _redis_again(self) -> list[BoardEvent]:
        again = {"down": {"k": "redis_down"}, "frozen": {"k": "freeze", "g": "redis"}}
        return [again[self.redis]] if self.redis in again else []

    def _users_again(self) -> list[BoardEvent]:
        """Return registers for all connections, and an end for users who have none."""
        events: list[BoardEvent] = []
        connected = {user for user, _ in self.connections.values()}
        for user in dict.fromkeys([*self._away, *self.entries]):
            if user not in connected and user not in self._names:
                events.append(self._set(user, "", "away"))
                events.append({"k": "close", "u": user, "g": "", "c": "away"})
        for connection, (user, gateway) in self.connections.items():
            events.append(self._set(user, gateway, connection))
        return events

    def _set(self, user: str, gateway: str, connection: str) -> BoardEvent:
        return {"k": "set", "u": user, "g": gateway, "c": connection, "x": self.t}

    def _entries_again(self) -> list[EntryRow]:
        users = {user for user, _ in self.connections.values()} | self._away.keys()
        gone = [[user, "", "", 0.0] for user in sorted(users - self.entries.keys())]
        return gone + [[user, *entry] for user, entry in self.entries.items()]

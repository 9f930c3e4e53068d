"""MONITOR: who owned each user in Redis, as the commands that Redis executes show it?

Inside a script, MONITOR shows each call that the script makes. So the outcome of a script, and each
change of an owner with its token, can be read from these lines.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from wsdemo.proof.chaos.device_log import DeviceLog
from wsdemo.proof.chaos.feature_log import FeatureLog, KeptFeatures, kept_in
from wsdemo.proof.chaos.script_calls import SeenCall, owner_of, script_call
from wsdemo.proof.history import Forgotten, Happened, Owner, Record, Released

WHOLE: Final = frozenset({"gwId", "connId", "ts", "epoch"})
"""The fields of a complete entry (P4)."""
PRESENCE: Final = "presence:"

OUTCOMES: Final = (
    *("mint ok", "register ok", "register stale", "release removed", "release kept"),
    *("refresh ok", "refresh reclaimed", "refresh superseded", "refresh closed"),
    *("route published", "route offline"),
)
"""All outcomes of the scripts of presence and routing that their calls show."""


@dataclass(frozen=True, slots=True)
class Seen:
    """An entry, as the witness has read it."""

    user: str
    conn: str
    gateway: str
    token: int | None
    whole: bool
    ttl_s: float


UNSEEN: Final = "unseen"
"""The verb of a change that happened in a gap."""


class MonitorLog:
    """What the lines of MONITOR say about owners. It gets line by line, and does no I/O.

    Args:
        note: receives a record of each change.
        clock: the clock of the history (s).
    """

    def __init__(self, note: Callable[[Record], None], clock: Callable[[], float]) -> None:
        self.features = FeatureLog(note, clock)
        """What happens to inboxes and rooms."""
        self._devices = DeviceLog(self)
        self.outcomes: Counter[str] = Counter()
        """How often each script had which outcome."""
        self.unjudged = 0
        """Releases that were not judged, because they came in the last milliseconds of a gap."""
        self.known: dict[str, Snapshot] = {}
        """What the witness has read, by the word that marks this read in MONITOR."""
        self._owner: dict[str, str] = {}
        self._until: dict[str, float] = {}
        """When the entry of each user expires; MONITOR does not show that."""
        self._note = note
        self._clock = clock
        self._fences: dict[str, dict[str, str]] = {}
        self._doubtful: set[str] = set()
        """Users whose entry may have changed in a gap."""
        self._call: SeenCall | None = None

    def feed(self, line: str) -> None:
        """Read one line, without the `+` of a simple string."""
        _, _, rest = line.partition(" [")
        source, _, text = rest.partition('] "')
        words = text.rstrip().removesuffix('"').split('" "')
        if source.endswith("lua"):
            if self._call is not None:
                self._call.made.append(words)
                self.features.called(self._call, words)
            return
        self.settle()
        if self.known and (seen := self.known.pop(words[-1], None)) is not None:
            self._know(seen.entries)
            self.features.know(seen.kept)
            return
        verb = words[0].upper()
        if verb in ("EVALSHA", "EVAL") and len(words) > 3:
            self._call = script_call(words)
        elif verb in ("FLUSHALL", "FLUSHDB"):
            self.forget()
        elif verb in ("DEL", "SET", "UNLINK") and words[1].startswith(PRESENCE):
            user = owner_of(words[1])
            for name in self.known_of(user) or [user]:
                self._gone(name, verb.lower(), "")

    def settle(self) -> None:
        """Judge the last script: the next line shows that it has ended."""
        call, self._call = self._call, None
        if call is None or not call.made:
            return  # A script that made no call did not run: Redis did not know it (NOSCRIPT).
        judge = {
            "mint": self._minted,
            "register": self._registered,
            "refresh": self._refreshed,
            "release": self._released,
            "route": self._routed,
        }.get(call.script)
        if judge is not None:
            self._happened(f"{call.script} {judge(call)}")
        if of_device := self._devices.judge(call):
            self._happened(of_device)
        for outcome in self.features.judge(call):
            self._happened(f"{call.script} {outcome}")
        self._mirror(call)

    def owner(self, user: str) -> str:
        """Return the session in the entry of a user; '' when there is none."""
        live = self._until.get(user, 0.0) > self._clock()
        return self._owner.get(user, "") if live else ""

    def forget(self) -> None:
        """Record that all data are lost."""
        self._owner.clear()
        self._fences.clear()
        self._note(Forgotten(t=self._clock()))
        self.features.forget()

    def forget_user(self, user: str) -> None:
        """Record that the last writes about one user may be lost."""
        self._owner.pop(user, None)
        self._fences.pop(user, None)
        self._note(Forgotten(t=self._clock(), user=user))

    def restart(self) -> None:
        """Record that Redis is a new process from here on."""
        self.settle()
        self.features.restart()

    def gap(self) -> None:
        """Remember that some lines are missing from here on."""
        self.settle()
        self._doubtful = set(self._owner)
        self.known.clear()

    def _know(self, entries: Sequence[Seen]) -> None:
        """Compare all entries with what is known, and record each change that was not seen."""
        seen = {entry.user: entry for entry in entries}
        for user in [user for user in self._owner if user not in seen]:
            self._gone(user, UNSEEN, "")
        for user, entry in seen.items():
            if self._owner.get(user) != entry.conn:
                self._owner[user] = entry.conn
                self._note(
                    Owner(
                        t=self._clock(),
                        user=user,
                        conn=entry.conn,
                        gateway=entry.gateway,
                        token=entry.token,
                        complete=entry.whole,
                        verb=UNSEEN,
                    )
                )
            self._until[user] = self._clock() + entry.ttl_s
        self._doubtful.clear()

    def _happened(self, name: str) -> None:
        self.outcomes[name] += 1
        if self.outcomes[name] == 1:
            self._note(Happened(t=self._clock(), name=name))

    # --- one script each -----------------------------------------------------------------------

    def _minted(self, call: SeenCall) -> str:
        return "ok" if call.first("HSET") else "refused"

    def _registered(self, call: SeenCall) -> str:
        if (written := call.first("HSET", PRESENCE)) is not None:
            self._owned(call, written)
            return "ok"
        return "stale" if len(call.made) > 1 else "refused"

    def _refreshed(self, call: SeenCall) -> str:
        written = call.first("HSET", PRESENCE)
        if written is None:
            return self._not_refreshed(call)
        if call.first("DEL", PRESENCE) is not None:
            self._owned(call, written)
            return "reclaimed"
        if self._owner.get(call.user) != call.args[0]:
            # A session that is refreshed is the owner: its register was in a gap.
            self._owned(call, ["HSET", call.user, *(word for key in WHOLE for word in (key, ""))])
        self._doubtful.discard(call.user)
        return "ok"

    def _not_refreshed(self, call: SeenCall) -> str:
        if call.first("HMGET", "fence:") is None:
            return "refused"
        conn, token = call.args[0], call.args[2]
        fence = self._fences.get(call.user, {})
        newer = int(fence.get("top", "0")) > int(token)
        closed = fence.get("closed") == f"{token}:{conn}"
        return "closed" if closed and not newer else "superseded"

    def _released(self, call: SeenCall) -> str:
        conn = call.args[0]
        removed = call.first("DEL", PRESENCE) is not None
        if removed:
            doubtful = call.user in self._doubtful
            self.unjudged += doubtful
            self._gone(call.user, "unseen, release" if doubtful else "release", conn)
        self._note(Released(t=self._clock(), user=call.user, conn=conn))
        return "removed" if removed else "kept"

    def _routed(self, call: SeenCall) -> str:
        if call.first("HMGET") is None:
            return "expired"
        published = call.first("PUBLISH") or call.first("SPUBLISH")
        return "published" if published else "offline"

    # --- several devices (see `DeviceLog`) -------------------------------------------------------

    def own(
        self, name: str, conn: str, gateway: str, token: int, *, verb: str, by: str, ttl_s: float
    ) -> None:
        """Take note that a session owns a device."""
        if self._owner.get(name) != conn:
            self._owner[name] = conn
            self._note(
                Owner(
                    t=self._clock(),
                    user=name,
                    conn=conn,
                    gateway=gateway,
                    token=token,
                    verb=verb,
                    by=by,
                )
            )
        self._doubtful.discard(name)
        self._until[name] = self._clock() + ttl_s

    def end(self, name: str, verb: str, by: str) -> None:
        """Take note that nobody owns a device any more, if somebody did."""
        if name in self._owner or verb == "release":
            doubtful = name in self._doubtful
            self.unjudged += doubtful
            self._gone(name, f"unseen, {verb}" if doubtful else verb, by)

    def release(self, name: str, conn: str) -> None:
        """Take note that a session was released, whether or not it owned its device."""
        self._note(Released(t=self._clock(), user=name, conn=conn))

    def known_of(self, user: str) -> list[str]:
        """Return the devices of a user that have an owner."""
        return [name for name in self._owner if name.partition("/")[0] == user]

    def fence_of(self, user: str) -> dict[str, str]:
        """Return the fields of a fence, as far as they were seen."""
        return self._fences.get(user, {})

    def unix_s(self) -> float:
        """Return the wall-clock time, by which Redis names the ends of leases."""
        return time.time()

    # --- changes of owners -------------------------------------------------------------------

    def _owned(self, call: SeenCall, written: list[str]) -> None:
        conn, gateway, token = call.args[:3]
        whole = set(written[2::2]) >= WHOLE and call.first("PEXPIRE", PRESENCE) is not None
        self._owner[call.user] = conn
        self._doubtful.discard(call.user)
        self._note(
            Owner(
                t=self._clock(),
                user=call.user,
                conn=conn,
                gateway=gateway,
                token=int(token),
                complete=whole,
                verb=call.script,
                by=conn,
            )
        )

    def _gone(self, user: str, verb: str, by: str) -> None:
        self._owner.pop(user, None)
        self._doubtful.discard(user)
        self._note(Owner(t=self._clock(), user=user, verb=verb, by=by))

    def _mirror(self, call: SeenCall) -> None:
        if (lease := call.first("PEXPIRE", PRESENCE)) is not None:
            self._until[call.user] = self._clock() + int(lease[2]) / 1000
        for made in call.made:
            if made[0] == "HSET" and made[1].startswith("fence:"):
                self._fences.setdefault(call.user, {}).update(
                    zip(made[2::2], made[3::2], strict=False)
                )


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the witness has read at one moment: all presence entries, and what features keep."""

    entries: list[Seen]
    kept: KeptFeatures


def snapshot_in(reply: bytes) -> Snapshot:
    """Read what the script `ENTRIES` returns."""
    told = json.loads(reply)
    return Snapshot(_seen_in(told["entries"] or []), kept_in(told))


def _seen_in(rows: Sequence[Sequence[Any]]) -> list[Seen]:
    """Return the entries. An incomplete entry has no owner (fault 79)."""
    found = []
    for conn, gateway, token, ts, ttl_ms, key in rows:
        if conn:
            whole = bool(gateway and token and ts) and int(ttl_ms) > 0
            user = key.removeprefix(PRESENCE)
            number = int(token) if token and str(token).isdigit() else None
            found.append(Seen(user, conn, gateway or "", number, whole, int(ttl_ms) / 1000))
    return found

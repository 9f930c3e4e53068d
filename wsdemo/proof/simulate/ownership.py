"""Presence ownership: who owns each user in Redis, and which command has changed that?

It gets every command that the simulated Redis has executed, reads the entries, and records each
change of an owner. It also counts what the scripts answered, so that a run can say which outcomes
it has seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

from wsdemo.inbox.devices import DEVICES_ACK, DEVICES_READ, DEVICES_SEND
from wsdemo.inbox.store import ACK, READ, SEND, TRIAL
from wsdemo.presence.devices import DEVICES_SCRIPTS
from wsdemo.presence.store import SCRIPTS
from wsdemo.proof.history import Forgotten, Happened, Owner, Released
from wsdemo.proof.simulate.fake_redis import Fields
from wsdemo.proof.simulate.records import HistoryRecorder
from wsdemo.protocol import BadEnvelope, Direct, decode_envelope
from wsdemo.rooms.store import ROOM_SCRIPTS
from wsdemo.router import DEVICES_ROUTE, ROUTE
from wsdemo.settings import Keyspace

KEYSPACE: Final = Keyspace()
_PREFIX: Final = KEYSPACE.presence("")
_SCRIPTS: Final = (
    *SCRIPTS,
    ROUTE,
    *DEVICES_SCRIPTS[1:],  # The mint is the same.
    DEVICES_ROUTE,
    *(SEND, READ, ACK, TRIAL),
    *(DEVICES_SEND, DEVICES_READ, DEVICES_ACK),
    *ROOM_SCRIPTS,
)
_DEVICE_AT: Final = {"devices_read": 15, "devices_ack": 10}
"""Which word of a command of the inbox names the device."""
_NAME_OF_SHA: Final = {script.sha.encode(): script.name for script in _SCRIPTS}
_NAME_OF_TEXT: Final = {script.text.encode(): script.name for script in _SCRIPTS}

Entry = tuple[dict[str, str], bool]
"""The fields of a presence entry, and whether it has a TTL."""


OutcomesOf = Callable[[Fields, Any], Iterable[str]]
"""Takes a script's command and its reply, and returns what the outcome was, in words."""


class Ownership(NamedTuple):
    """Who owns a user: session, gateway, fencing token; and whether the entry is whole."""

    conn: str = ""
    gateway: str = ""
    token: int | None = None
    whole: bool = True


class OwnershipObserver:
    """Records who owns each user.

    Args:
        entry: returns what is stored under a key.
        fenced: whether a whole entry has a fencing token.
        now: the time of Redis (Unix seconds).
    """

    def __init__(
        self,
        recorder: HistoryRecorder,
        users: Iterable[str],
        entry: Callable[[str], Entry],
        fenced: bool,
        now: Callable[[], float],
    ) -> None:
        self._recorder = recorder
        self._users = tuple(users)
        self._entry = entry
        self._needed = {"gwId", "connId", "ts"} | ({"epoch"} if fenced else set())
        self._now = now
        self._owners: dict[str, Ownership] = {}
        self.outcomes: Counter[str] = Counter()
        """What the scripts answered, e.g. "refresh reclaimed"."""
        self.on_script: Callable[[str, Fields], None] = _ignore
        """Called with each script that a gateway has run: its name, the whole command."""
        self.of_features: Mapping[str, OutcomesOf] = {}
        """Who notes what the scripts of optional features do, by their names."""
        self.on_forgotten: Callable[[], None] = lambda: None
        """Called when Redis has lost everything."""

    def owner(self, user: str) -> Ownership:
        """Return who owns a user, or a device of a user, now."""
        name, _, device = user.partition("/")
        fields, expires = self._entry(KEYSPACE.presence(name))
        if device:
            return self._owner_of_device(fields.get(f"s:{device}", ""), expires)
        if not fields:
            return Ownership()
        token = int(fields["epoch"]) if fields.get("epoch") else None
        whole = self._needed <= fields.keys() and expires
        return Ownership(fields.get("connId", ""), fields.get("gwId", ""), token, whole)

    def _owner_of_device(self, text: str, expires: bool) -> Ownership:
        gateway, conn, token, until_ms, *_ = [*text.split(" "), "", "", "", ""]
        if not conn or int(until_ms) <= 1000 * self._now():
            return Ownership()
        return Ownership(conn, gateway, int(token), expires)

    def on_command(self, fields: Fields, reply: Any) -> None:
        """Take note of a command that Redis has executed."""
        match fields[0].upper():
            case b"EVALSHA":
                self._executed(_NAME_OF_SHA.get(fields[1], ""), fields, reply)
            case b"EVAL":
                self._executed(_NAME_OF_TEXT.get(fields[1], ""), fields, reply)
            case b"FLUSHALL":
                self.forgotten()
            case b"DEL" | b"HSET" | b"PEXPIRE":
                self._look(self._users, fields[0].decode().lower(), "")
            case _:
                pass

    def forgotten(self) -> None:
        """Redis has lost everything."""
        self._recorder.note(Forgotten)
        self.on_forgotten()
        self._look(self._users, "loss", "")

    def _executed(self, name: str, fields: Fields, reply: Any) -> None:
        """Take note of a script; without a name, it is of another policy than the shipped one."""
        if isinstance(reply, Exception):
            return
        if not name:
            self._look(self._users, "script", "")
            return
        if (outcomes_of := self.of_features.get(name)) is not None:
            for outcome in outcomes_of(fields, reply):
                self._count(f"{name} {outcome}")
            self.on_script(name, fields)
            return
        self._count(f"{name} {_outcome(name, reply)}")
        self.on_script(name, fields)
        if name.startswith("devices_"):
            self._look_at_devices(name.removeprefix("devices_"), fields)
        if name in {"register", "refresh", "release"}:
            user, conn = fields[3].decode().removeprefix(_PREFIX), fields[5].decode()
            if name == "release":
                self._recorder.note(Released, user=user, conn=conn)
            self._look([user], name, conn)

    def _look_at_devices(self, verb: str, fields: Fields) -> None:
        """Record what a script has done with one device, and with the others of its user."""
        if verb == "route":
            return
        name, conn = _device_of_script(verb, fields), fields[5].decode()
        user = name.partition("/")[0]
        if verb == "release":
            self._recorder.note(Released, user=name, conn=conn)
        self._look([name], verb, conn)
        self._look([other for other in self._users if other.startswith(f"{user}/")], "evict", conn)

    def _count(self, outcome: str) -> None:
        self.outcomes[outcome] += 1
        if self.outcomes[outcome] == 1:
            self._recorder.note(Happened, name=outcome)

    def _look(self, users: Iterable[str], verb: str, by: str) -> None:
        """Record the owners that have changed."""
        for user in users:
            now = self.owner(user)
            if now == self._owners.get(user, Ownership()):
                continue
            self._owners[user] = now
            self._recorder.note(
                Owner,
                user=user,
                conn=now.conn,
                gateway=now.gateway,
                token=now.token,
                complete=now.whole,
                verb=verb,
                by=by,
            )


def _device_of_script(verb: str, fields: Fields) -> str:
    user = fields[3].decode().removeprefix(_PREFIX)
    return f"{user}/{fields[8 if verb == 'release' else 12].decode()}"


def user_of_script(name: str, fields: Fields) -> str:
    """Return for whom a gateway has had a script executed: who registers, or who sends."""
    if name in {"devices_register", "devices_refresh", "devices_release"}:
        return _device_of_script(name.removeprefix("devices_"), fields)
    if name in _DEVICE_AT:
        return f"{fields[3].decode().partition(':')[2]}/{fields[_DEVICE_AT[name]].decode()}"
    if name not in {"route", "devices_route"}:
        return fields[3].decode().partition(":")[2]
    try:
        envelope = decode_envelope(fields[4] + b"}")
    except BadEnvelope:
        return ""
    return envelope.sender if isinstance(envelope, Direct) else ""


def _outcome(name: str, reply: Any) -> str:
    match name:
        case "mint" | "trial":
            return "ok"
        case "release" | "devices_release":
            return {1: "removed", 0: "no entry", -1: "other owner"}[reply]
        case _:
            return str(reply[0].decode())


def _ignore(name: str, fields: Fields) -> None:
    """Nobody wants to know."""

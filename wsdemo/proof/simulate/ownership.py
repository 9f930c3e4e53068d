"""Presence ownership: who owns each user in Redis, and which command has changed that?

It gets every command that the simulated Redis has executed, reads the entries, and records each
change of an owner. It also counts what the scripts answered, so that a run can say which outcomes
it has seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from wsdemo.presence.store import SCRIPTS
from wsdemo.proof.history import Forgotten, Happened, Owner, Released
from wsdemo.proof.simulate.fake_redis import Fields
from wsdemo.proof.simulate.records import HistoryRecorder
from wsdemo.protocol import BadEnvelope, Direct, decode_envelope
from wsdemo.router import ROUTE
from wsdemo.settings import Keyspace

KEYSPACE: Final = Keyspace()
_PREFIX: Final = KEYSPACE.presence("")
_SCRIPTS: Final = (*SCRIPTS, ROUTE)
_NAME_OF_SHA: Final = {script.sha.encode(): script.name for script in _SCRIPTS}
_NAME_OF_TEXT: Final = {script.text.encode(): script.name for script in _SCRIPTS}

Entry = tuple[dict[str, str], bool]
"""The fields of a presence entry, and whether it has a TTL."""


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
    """

    def __init__(
        self,
        recorder: HistoryRecorder,
        users: Iterable[str],
        entry: Callable[[str], Entry],
        fenced: bool,
    ) -> None:
        self._recorder = recorder
        self._users = tuple(users)
        self._entry = entry
        self._needed = {"gwId", "connId", "ts"} | ({"epoch"} if fenced else set())
        self._owners: dict[str, Ownership] = {}
        self.outcomes: Counter[str] = Counter()
        """What the scripts answered, e.g. "refresh reclaimed"."""
        self.on_script: Callable[[str, Fields], None] = _ignore
        """Called with each script that a gateway has run: its name, the whole command."""

    def owner(self, user: str) -> Ownership:
        """Return who owns a user now."""
        fields, expires = self._entry(KEYSPACE.presence(user))
        if not fields:
            return Ownership()
        token = int(fields["epoch"]) if fields.get("epoch") else None
        whole = self._needed <= fields.keys() and expires
        return Ownership(fields.get("connId", ""), fields.get("gwId", ""), token, whole)

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
        self._look(self._users, "loss", "")

    def _executed(self, name: str, fields: Fields, reply: Any) -> None:
        """Take note of a script; without a name, it is of another policy than the shipped one."""
        if isinstance(reply, Exception):
            return
        if not name:
            self._look(self._users, "script", "")
            return
        self._count(f"{name} {_outcome(name, reply)}")
        self.on_script(name, fields)
        if name in {"register", "refresh", "release"}:
            user, conn = fields[3].decode().removeprefix(_PREFIX), fields[5].decode()
            if name == "release":
                self._recorder.note(Released, user=user, conn=conn)
            self._look([user], name, conn)

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


def user_of_script(name: str, fields: Fields) -> str:
    """Return for whom a gateway has had a script executed: who registers, or who sends."""
    if name != "route":
        return fields[3].decode().partition(":")[2]
    try:
        envelope = decode_envelope(fields[4] + b"}")
    except BadEnvelope:
        return ""
    return envelope.sender if isinstance(envelope, Direct) else ""


def _outcome(name: str, reply: Any) -> str:
    match name:
        case "mint":
            return "ok"
        case "release":
            return {1: "removed", 0: "no entry", -1: "other owner"}[reply]
        case _:
            return str(reply[0].decode())


def _ignore(name: str, fields: Fields) -> None:
    """Nobody wants to know."""

"""Scripts of optional features: what do the inboxes and the registers of rooms hold, and why?

A part of what the witness reads in MONITOR. It gets each script that has ended, with the calls that
it has made, and records what was stored and who is in which room.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote

from wsdemo.proof.chaos.device_log import device_name
from wsdemo.proof.chaos.script_calls import SeenCall
from wsdemo.proof.history import (
    InboxAcknowledged,
    InboxesLost,
    InboxStored,
    InboxTrimmed,
    Record,
    RoomRegister,
    RunChanged,
)

INBOX: Final = "inbox:"
ROOM: Final = "room:"
VERBS: Final = {"room_join": "join", "room_leave": "leave", "room_sweep": "sweep"}
MOST_MEMBERS: Final = 6
"""Which argument of a join says how many members a room may have."""
DEVICE_OF_ACK: Final = 4
"""Which argument of an acknowledgement names the device, where users may have several."""
UNSEEN_CHANGE: Final = "unseen"
"""The verb of a change that happened in a gap."""

Register = Mapping[str, str]
"""What Redis says of the members of a room, by member."""


@dataclass(frozen=True, slots=True)
class KeptFeatures:
    """What Redis holds for optional features at one moment."""

    stored: list[tuple[str, str, str]] = field(default_factory=list)
    """Whose inbox, which offset, and the id of the message."""
    rooms: dict[str, dict[str, str]] = field(default_factory=dict)


class FeatureLog:
    """What scripts of inboxes and rooms have done.

    Args:
        note, clock: see `MonitorLog`.
    """

    def __init__(self, note: Callable[[Record], None], clock: Callable[[], float]) -> None:
        self._note = note
        self._clock = clock
        self._stored: set[str] = set()
        """The ids of all messages that are known to have been stored."""
        self._rooms: dict[str, dict[str, str]] = defaultdict(dict)
        self._is_used = False
        """Whether anything was ever stored in an inbox."""
        self._judges: dict[str, Callable[[SeenCall], Iterator[str]]] = {
            "send": self._sent,
            "read": self._read,
            "ack": self._acknowledged,
            "room_join": self._joined,
            "room_leave": self._left,
            "room_sweep": self._swept,
            "room_log": self._read_log,
        }

    def called(self, call: SeenCall, made: list[str]) -> None:
        """Take note of one call of a script that still runs. What is stored is recorded at once:
        its sender may be told before Redis executes the next command.
        """
        if call.script == "send" and made[0] == "XADD":
            self._store(call.user, made[2], unquote(call.keys[3].rpartition(":")[2]))
        if call.script == "send" and made[0] == "XDEL":
            self._note(InboxTrimmed(t=self._clock(), user=call.user, offset=made[2]))

    def judge(self, call: SeenCall) -> Iterator[str]:
        """Record what a script has done, and yield its outcome, in words."""
        judge = self._judges.get(call.script)
        if judge is not None:
            yield from judge(call)

    def listed(self, room: str) -> tuple[str, ...]:
        """Return who is in a room, as far as the commands of Redis show it."""
        register = self._rooms[room].items()
        return tuple(sorted(member for member, text in register if text.startswith("in ")))

    def forget(self) -> None:
        """Record that all data are lost."""
        self._rooms.clear()
        if self._is_used:
            self._note(InboxesLost(t=self._clock()))

    def restart(self) -> None:
        """Record that Redis is a new process."""
        if self._is_used:
            self._note(RunChanged(t=self._clock()))

    def know(self, kept: KeptFeatures) -> None:
        """Compare what Redis holds with what is known, and record each change that was not seen."""
        for user, offset, msg_id in kept.stored:
            if msg_id not in self._stored:
                self._store(user, offset, msg_id)
        for room in self._rooms.keys() | kept.rooms.keys():
            self._change(room, kept.rooms.get(room, {}), UNSEEN_CHANGE)

    # --- inboxes -------------------------------------------------------------------------------

    def _store(self, user: str, offset: str, msg_id: str) -> None:
        self._is_used = True
        self._stored.add(msg_id)
        self._note(InboxStored(t=self._clock(), user=user, id=msg_id, offset=offset))

    def _sent(self, call: SeenCall) -> Iterator[str]:
        if call.first("XADD") is None:
            # A late message ends with the look at the clock, a duplicate with the look at its id;
            # later calls lead to a write that is refused.
            yield {"TIME": "expired", "GET": "duplicate"}.get(call.made[-1][0], "refused")
            return
        yield "stored"
        if call.first("XDEL"):
            yield "trimmed"

    def _read(self, call: SeenCall) -> Iterator[str]:
        looks = (call.first(verb, "inboxmeta:") for verb in ("HMGET", "HGETALL"))
        yield "answered" if any(looks) else "superseded"

    def _acknowledged(self, call: SeenCall) -> Iterator[str]:
        if not call.first("HSET"):
            yield "refused"
            return
        yield "taken"
        if len(call.args) > DEVICE_OF_ACK:
            name = device_name(call.user, call.args[DEVICE_OF_ACK])
            self._note(InboxAcknowledged(t=self._clock(), user=name, offset=call.args[2]))

    # --- rooms ---------------------------------------------------------------------------------

    def _joined(self, call: SeenCall) -> Iterator[str]:
        before = self._rooms[call.user].get(call.args[0], "")
        wrote = self._written(call)
        if wrote:
            yield "joined" if call.first("PUBLISH") else "moved"
            return
        state, *stamp = [*before.split(" ")[:3], "", ""][:3]
        known, said = _stamp(stamp), _stamp(call.args[1:3])
        if known > said or (known == said and state == "out"):
            yield "stale"
        elif known == said:
            yield "same"
        else:
            is_full = len(self.listed(call.user)) >= int(call.args[MOST_MEMBERS])
            yield "full" if is_full else "refused"

    def _left(self, call: SeenCall) -> Iterator[str]:
        yield "left" if self._written(call) and call.first("PUBLISH") else "nothing"

    def _swept(self, call: SeenCall) -> Iterator[str]:
        yield "swept" if self._written(call) else "nothing"

    def _read_log(self, call: SeenCall) -> Iterator[str]:
        yield "lately" if call.first("XREVRANGE") else "whole"

    def _written(self, call: SeenCall) -> bool:
        """Take the changes of a register out of the calls of a script; say whether it wrote any."""
        register, wrote = dict(self._rooms[call.user]), False
        for made in call.made:
            if made[1:2] != call.keys[:1]:
                continue
            if made[0] == "HDEL":
                register.pop(made[2], None)
            elif made[0] == "HSET":
                register[made[2]], wrote = made[3], True
        self._change(call.user, register, VERBS[call.script])
        return wrote

    def _change(self, room: str, now: Register, verb: str) -> None:
        before = self._rooms[room]
        for member in sorted(before.keys() | now.keys()):
            if before.get(member) != now.get(member):
                self._note_register(room, member, now.get(member, ""), verb)
        self._rooms[room] = dict(now)

    def _note_register(self, room: str, member: str, text: str, verb: str) -> None:
        state, *stamp = [*text.split(" ")[:3], "", ""][:3]
        token, seq = _stamp(stamp)
        self._note(
            RoomRegister(
                t=self._clock(),
                room=room,
                member=member,
                state=state,
                token=token,
                seq=seq,
                verb=verb,
            )
        )


def _stamp(words: list[str]) -> tuple[int, int]:
    """Return the stamp of a register; that of nothing is the lowest."""
    token, seq = words
    return int(token or 0), int(seq or 0)


def kept_in(told: Mapping[str, Any]) -> KeptFeatures:
    """Read what a script of the witness tells of inboxes and rooms; an empty table is no list."""
    stored = [
        (key.removeprefix(INBOX), offset, json.loads(head + "}")["id"])
        for key, offset, head in told["stored"] or []
    ]
    rooms = {
        key.removeprefix(ROOM): dict(zip(pairs[::2], pairs[1::2], strict=True))
        for key, pairs in told["rooms"] or []
    }
    return KeptFeatures(stored, rooms)

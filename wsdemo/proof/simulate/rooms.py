"""Rooms: what does Redis say of their members?

The observer gets each script of the rooms that the simulated Redis has executed, reads the
registers, and records what has changed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, Final

from wsdemo.proof.history import RoomRegister
from wsdemo.proof.simulate.fake_redis import Fields
from wsdemo.proof.simulate.ownership import KEYSPACE, Entry, OutcomesOf
from wsdemo.proof.simulate.records import HistoryRecorder

ROOMS: Final = ("lobby", "den")
_PREFIX: Final = KEYSPACE.key("room", "")
OUTCOMES: Final = frozenset(
    {
        "room_join joined",
        "room_join moved",
        "room_join same",
        "room_join stale",
        "room_join full",
        "room_leave left",
        "room_leave nothing",
        "room_sweep swept",
        "room_sweep nothing",
        "boots ok",
        "boots lapsed",
        "room_log whole",
        "room_log lately",
    }
)
"""What the scripts answer."""


class RoomsObserver:
    """Records the registers of the members of all rooms.

    Args:
        entry: returns what is stored under a key.
    """

    def __init__(self, recorder: HistoryRecorder, entry: Callable[[str], Entry]) -> None:
        self._recorder = recorder
        self._entry = entry
        self._registers: dict[str, dict[str, str]] = defaultdict(dict)
        self.of_scripts: dict[str, OutcomesOf] = {
            "room_join": self._joined,
            "room_leave": self._left,
            "room_sweep": self._swept,
            "boots": self._beaten,
            "room_log": self._read_log,
            "room_list": _no_outcome,
            "room_say": _no_outcome,
        }
        """By the names of the scripts."""

    def forgotten(self) -> None:
        """Redis has lost everything."""
        self._registers.clear()

    def listed(self, room: str) -> tuple[str, ...]:
        """Return who is in a room now, as Redis says; the lapsed who are not swept, too."""
        members, _ = self._entry(KEYSPACE.key("room", room))
        return tuple(sorted(name for name, text in members.items() if text.startswith("in ")))

    def _joined(self, fields: Fields, reply: Any) -> Iterator[str]:
        self._look(fields, "join")
        yield reply[0].decode()

    def _left(self, fields: Fields, reply: Any) -> Iterator[str]:
        self._look(fields, "leave")
        yield "left" if reply else "nothing"

    def _swept(self, fields: Fields, reply: Any) -> Iterator[str]:
        self._look(fields, "sweep")
        yield "swept" if reply else "nothing"

    def _beaten(self, fields: Fields, reply: Any) -> Iterator[str]:
        yield reply[0].decode()

    def _read_log(self, fields: Fields, reply: Any) -> Iterator[str]:
        yield "whole" if reply[0] else "lately"

    def _look(self, fields: Fields, verb: str) -> None:
        room = fields[3].decode().removeprefix(_PREFIX)
        if room not in ROOMS:
            return
        before, (now, _) = self._registers[room], self._entry(KEYSPACE.key("room", room))
        for member in sorted(before.keys() | now.keys()):
            if before.get(member) != now.get(member):
                state, token, seq = [*now.get(member, "").split(" "), "", ""][:3]
                stamp = {"token": int(token), "seq": int(seq)} if state else {}
                self._recorder.note(
                    RoomRegister, room=room, member=member, state=state, verb=verb, **stamp
                )
        self._registers[room] = now


def _no_outcome(fields: Fields, reply: Any) -> Iterator[str]:
    yield "done"

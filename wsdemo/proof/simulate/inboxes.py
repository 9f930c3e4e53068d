"""Durable inbox: what has Redis stored for each user, and what has it lost?

It gets each script of the inbox that the simulated Redis has executed, and records what was stored.
The positions of clients are kept here as well: on disks, which outlive the processes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, Final

from wsdemo.client import Position
from wsdemo.proof.history import (
    InboxAcknowledged,
    InboxesLost,
    InboxOpened,
    InboxStored,
    InboxTrimmed,
    RunChanged,
)
from wsdemo.proof.simulate.fake_redis import Fields
from wsdemo.proof.simulate.offer import Offer
from wsdemo.proof.simulate.ownership import KEYSPACE, Entry, OutcomesOf, user_of_script
from wsdemo.proof.simulate.records import HistoryRecorder
from wsdemo.redis.deadline import EXPIRED

INBOX_KEYS: Final = tuple(KEYSPACE.key(kind, "") for kind in ("inbox", "inboxmeta", "inboxid"))
"""What the keys of inboxes begin with."""
OUTCOMES: Final = frozenset(
    {
        "send stored",
        "send duplicate",
        "send trimmed messages",
        "send trimmed bytes",
        "read recovered",
        "read reset",
        "read superseded",
        "read page",
        "read nothing",
        "ack taken",
        "ack refused",
        "trial ok",
    }
)
"""What the scripts answer. (page: there is more than was read.)"""


class InboxObserver:
    """Records what happens to inboxes.

    Args:
        offer: without durable messages nothing is recorded.
        trusted: gateways take a new run of Redis for the old one.
        entry: returns what is stored under a key.
    """

    def __init__(
        self,
        recorder: HistoryRecorder,
        offer: Offer,
        trusted: bool,
        entry: Callable[[str], Entry],
    ) -> None:
        self._recorder = recorder
        self._is_used = offer.durable
        self._trusted = trusted
        self._entry = entry
        self.of_scripts: dict[str, OutcomesOf] = {
            f"{kind}{name}": judge
            for kind in ("", "devices_")
            for name, judge in (
                ("send", self._sent),
                ("read", self._read),
                ("ack", self._acknowledged),
            )
        }
        """By the names of the scripts."""
        self.of_scripts["devices_ack"] = self._acknowledged_by_device

    def _sent(self, fields: Fields, reply: Any) -> Iterator[str]:
        if reply[0] == EXPIRED:
            yield "expired"
            return
        outcome, _, offset, _, _, by_number, by_bytes, *_ = reply
        yield outcome.decode()
        user = fields[4].decode().removeprefix(INBOX_KEYS[0])
        if by_number or by_bytes:
            meta, _ = self._entry(KEYSPACE.key("inboxmeta", user))
            self._recorder.note(InboxTrimmed, user=user, offset=meta["trimmed"])
        if outcome == b"stored":
            msg_id = json.loads(fields[7] + b"}")["id"]
            self._recorder.note(InboxStored, user=user, id=msg_id, offset=offset.decode())
        if by_number:
            yield "trimmed messages"
        if by_bytes:
            yield "trimmed bytes"

    def _read(self, fields: Fields, reply: Any) -> Iterator[str]:
        yield reply[0].decode()
        if reply[0] != b"superseded":
            rows = reply[4]
            if not rows:
                yield "nothing"
            elif rows[-1][0] != reply[3]:
                yield "page"

    def _acknowledged(self, fields: Fields, reply: Any) -> Iterator[str]:
        yield "refused" if reply < 0 else "taken"

    def _acknowledged_by_device(self, fields: Fields, reply: Any) -> Iterator[str]:
        if reply >= 0:
            name, offset = user_of_script("devices_ack", fields), fields[8].decode()
            self._recorder.note(InboxAcknowledged, user=name, offset=offset)
        yield from self._acknowledged(fields, reply)

    def lost(self, user: str = "") -> None:
        """Redis has lost the inbox of a user, or ('') something of all inboxes."""
        if self._is_used:
            self._recorder.note(InboxesLost, user=user)

    def restarted(self) -> None:
        """Redis is a new process."""
        if self._is_used and not self._trusted:
            self._recorder.note(RunChanged)


class SimulatedDisk:
    """The position of one user, where it outlives the processes that read the inbox."""

    def __init__(self) -> None:
        self._position: Position | None = None

    def load(self) -> Position | None:
        return self._position

    def save(self, position: Position) -> None:
        self._position = position


class ReadingProcess:
    """The position of one process, as its client loads and saves it.

    Args:
        disk: where it is kept; None: this process begins without one.
    """

    def __init__(
        self, recorder: HistoryRecorder, user: str, process: str, disk: SimulatedDisk | None
    ) -> None:
        self._recorder = recorder
        self._user, self._process = user, process
        self._disk = disk or SimulatedDisk()

    def load(self) -> Position | None:
        position = self._disk.load()
        after = "" if position is None else position.offset
        self._recorder.note(InboxOpened, user=self._user, process=self._process, after=after)
        return position

    def save(self, position: Position) -> None:
        self._disk.save(position)

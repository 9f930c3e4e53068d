"""Node link: what is different on the connection to one server of a cluster?

It is a `RedisLink`, with three additions. A refusal that says "elsewhere" or "not now" goes to the
lanes (`lanes`). A server that is a replica is kept: it knows the map, and says where a slot is. And
it connects in the background, since the others work meanwhile.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from typing import Any, Final, NamedTuple, Protocol

from wsdemo.redis.deadline import NO_DEADLINE
from wsdemo.redis.lanes import REDIRECTIONS, Lanes, Parcel
from wsdemo.redis.link import NO_NOTE, RedisLink, Trial, _Pending
from wsdemo.redis.origin import ANYWHERE, ARGUMENT_BYTES, origin_of
from wsdemo.redis.outcome import CommandError, Outcome, Trouble
from wsdemo.redis.scripts import Script, bulk
from wsdemo.redis.slots import SLOTS
from wsdemo.settings import Limits

IN_TIME: Final = SLOTS
"""The bit of a note that says that the command has a deadline, and an origin."""
ADDED_BYTES: Final = len(NO_DEADLINE) + ARGUMENT_BYTES
"""The length of these two."""
NUMBER_BITS: Final = 15
"""A note on a command is its slot; above that, `IN_TIME`; and above that, its number."""
SLOT_MASK: Final = SLOTS - 1
_ASKING: Final = b"*1\r\n$6\r\nASKING\r\n"


class Sendable(NamedTuple):
    """What is needed to send a command."""

    command: bytes
    """In RESP; without the deadline and the origin, if it has them."""
    script: Script | None
    """The script that it runs."""
    in_time: bool = False
    """Whether it has them. Each server gets its own."""


class NodeHost(Protocol):
    """The cluster link, as the link to one of its servers sees it."""

    lanes: Lanes

    def look_soon(self, address: str = "") -> None:
        """Ask for the map."""
        ...

    def trial_for(self, address: str) -> Trial | None:
        """Return a trial whose keys this server has; None when it has none."""
        ...

    def node_changed(self, node: NodeLink, up: bool) -> None:
        """Note that a server is there, or no longer."""
        ...

    def node_trouble(self, node: NodeLink, trouble: Trouble) -> None:
        """Note why a server cannot be used."""
        ...


class NodeLink(RedisLink):
    """The command connection to one server of a cluster."""

    __slots__ = ("_host", "_origin", "address")

    added_args = 2
    """The deadline, and the origin of what is published (`wsdemo.redis.origin`)."""

    def __init__(
        self,
        host: NodeHost,
        address: str,
        url: str,
        limits: Limits,
        scripts: Iterable[Script],
        rng: random.Random | None = None,
    ) -> None:
        super().__init__(
            url,
            limits,
            lambda up: host.node_changed(self, up),
            scripts,
            on_trouble=lambda trouble: host.node_trouble(self, trouble),
            rng=rng,
        )
        self._host = host
        self._origin = bulk(ANYWHERE)
        self.address = address

    # --- life --------------------------------------------------------------------------------

    @property
    def started(self) -> bool:
        """Whether it is to be connected."""
        return self._keeper is not None

    def late_by(self) -> float:
        """Return for how long the oldest unanswered command waits; 0 when there is none."""
        return self._now() - (self._pending[0][0] - self._timeout_s) if self._pending else 0.0

    def ask_time(self) -> None:
        """Ask for the clock of this server: a command has come to it too late."""
        self._ask_time()

    def keep_deadlines(self) -> None:
        super().keep_deadlines()
        self.ask_first(self._hear_run, "INFO", "server")

    def _hear_run(self, reply: Any) -> None:
        self._origin = bulk(origin_of(reply))
        self._until_ends = -math.inf

    def until(self, deadline: float) -> bytes:
        return super().until(deadline) + self._origin

    # --- does it work? -----------------------------------------------------------------------

    def _try(self, whole: bool = True) -> None:
        self._trial = self._host.trial_for(self.address)
        self._asks_role = self._asks_role or self._trial is None
        super()._try(whole)

    def check(self) -> None:
        self._trial = self._trial or self._host.trial_for(self.address)
        super().check()

    def _judge(self, reply: Any) -> Trouble | None:
        if isinstance(reply, CommandError) and reply.code in REDIRECTIONS:
            return None  # The slot of the trial is elsewhere. That is no fault of this server.
        trouble = super()._judge(reply)
        return None if trouble is not None and trouble.outcome is Outcome.READONLY else trouble

    # --- replies -----------------------------------------------------------------------------

    def _reply(self, reply: Any) -> None:
        lanes = self._host.lanes
        if not lanes.open or not self._pending:
            super()._reply(reply)
            return
        entry = self._pending[0]
        lane = lanes.open.get(entry[4] & SLOT_MASK) if entry[4] >= 0 else None
        if lane is None or _is_forgotten(entry, reply):
            super()._reply(reply)
            return
        lane.unanswered -= 1
        if type(reply) is not CommandError:
            lanes.executed(lane, entry[4] >> NUMBER_BITS)
        super()._reply(reply)
        lanes.advance(lane)

    def _refused(self, entry: _Pending, reply: CommandError) -> None:
        deadline, callback, script, command, note = entry
        if reply.code not in REDIRECTIONS:
            super()._refused(entry, reply)
            return
        if note == NO_NOTE:  # A trial, or a command without a key: it knows what that means.
            self._settle(entry, reply)
            self._host.look_soon()
            return
        in_time = bool(note & IN_TIME)
        if in_time:
            command = command[:-ADDED_BYTES]
        sendable = Sendable(command, script, in_time)
        parcel = Parcel(note >> NUMBER_BITS, deadline, callback, sendable, reply)
        self._host.lanes.refused(note & SLOT_MASK, self.address, parcel)

    def _broken(self, why: str) -> None:
        super()._broken(why)
        self._host.lanes.recount()

    # --- for the lanes -----------------------------------------------------------------------

    def unanswered(self, slot: int) -> int:
        """Return how many commands of a slot have no answer yet."""
        return sum(
            entry[4] >= 0 and entry[4] & SLOT_MASK == slot
            for entries in (self._pending, self._missing, self._held)
            for entry in entries
        )

    def unanswered_slots(self) -> set[int]:
        """Return the slots of which a command has no answer yet."""
        return {
            entry[4] & SLOT_MASK
            for entries in (self._pending, self._missing, self._held)
            for entry in entries
            if entry[4] >= 0
        }

    def send_again(self, slot: int, parcel: Parcel, *, asking: bool) -> None:
        """Send a command behind all others; after ASKING, if so told."""
        number, deadline, callback, (command, script, in_time), *_ = parcel
        if in_time:
            command += self.until(deadline)
        if asking:
            self._put_entry((deadline, _ignore, None, _ASKING, NO_NOTE))
        self._put_entry((deadline, callback, script, command, note_of(slot, number, in_time)))


def note_of(slot: int, number: int, in_time: bool) -> int:
    """Return the note on a command."""
    return number << NUMBER_BITS | slot | (IN_TIME if in_time else 0)


def _ignore(reply: Any) -> None:
    """Take the reply to ASKING. An error shows in the command behind it."""


def _is_forgotten(entry: _Pending, reply: Any) -> bool:
    """Say whether the server has forgotten the script: the command is sent again, and waits on."""
    return type(reply) is CommandError and reply.code == "NOSCRIPT" and entry[2] is not None

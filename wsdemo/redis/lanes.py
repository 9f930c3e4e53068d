"""Redirection and order: how do commands that a cluster has refused stay in their order?

A server of a cluster refuses a command whose slot is elsewhere (MOVED, ASK), is between two servers
(TRYAGAIN), or has no primary at the moment (CLUSTERDOWN, LOADING, MASTERDOWN, READONLY). Such a
command was not executed, so it may be sent again. Sent again at once, it could be overtaken: those
behind it on the same connection may still be refused, while new ones already go to the right
server.

So the first refusal of a slot opens its *lane*, a queue. New commands of the slot wait there. When
no server has an unanswered command of the slot, the lane sends all that it has, in the order in
which they were first submitted, and closes. A look at the map that finds a new owner opens a lane
too, as long as the old owner has something unanswered.

Some rules make this safe:

* What got no answer may have been executed. It never comes here.
* A refusal of a whole slot may end in the middle of a pipeline: the next command is executed.
  The refused one was overtaken then, and fails.
* What no server takes before its deadline fails with `LinkDown`, and not with the refusal: the
  command is right, and the cluster is not there.
"""

from __future__ import annotations

import random
from bisect import insort
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple, Protocol

from wsdemo.redis.link import Callback, LinkBusy, LinkDown, settle
from wsdemo.redis.outcome import CommandError
from wsdemo.redis.slots import endpoint

ELSEWHERE: Final = "MOVED"
ASK: Final = "ASK"
BETWEEN: Final = "TRYAGAIN"
OF_ONE_KEY: Final = frozenset({ASK, BETWEEN})
"""Refusals that say something about the keys of a command, and not about its whole slot."""
REDIRECTIONS: Final = frozenset(
    {ELSEWHERE, ASK, BETWEEN, "CLUSTERDOWN", "LOADING", "MASTERDOWN", "READONLY"}
)
"""Refusals after which a command may be sent again."""

PAUSE_S: Final = 0.02
"""Between two attempts at a slot that nobody serves at the moment."""
SETTLE_S: Final = 0.05
"""What was refused with MOVED waits so long. The channels of its slot have just lost their
subscribers, who are on their way to the new server. A message sent at once would find nobody."""
JITTER: Final = 0.2


class Parcel(NamedTuple):
    """A command in a lane. Parcels are ordered by their number."""

    number: int
    """Its place in the order of all commands."""
    deadline: float
    callback: Callback
    command: Any
    """What a server needs in order to send it; the lanes do not look at it."""
    refusal: CommandError | None = None
    """Why it was refused the last time; None when it was never sent."""
    target: str = ""
    """The address to which ASK has sent it; '' when it is for the owner of the slot."""


class LaneNode(Protocol):
    """A server, as the lanes see it."""

    @property
    def open(self) -> bool:
        """Whether commands have a way to it."""
        ...

    def unanswered(self, slot: int) -> int:
        """Return how many commands of a slot it has not answered yet."""
        ...

    def send_again(self, slot: int, parcel: Parcel, *, asking: bool) -> None:
        """Send a command behind all others; after ASKING, if so told."""
        ...


class LaneShards(Protocol):
    """The servers of a cluster, as the lanes see them."""

    def all_nodes(self) -> Iterable[LaneNode]:
        """Return each server to which a command may be under way."""
        ...

    def owner_node(self, slot: int) -> LaneNode | None:
        """Return the server that has a slot, if it is known."""
        ...

    def node_at(self, address: str) -> LaneNode:
        """Return the server at an address."""
        ...

    def moved(self, slot: int, address: str) -> None:
        """Take the word of a server that another one has the slot now."""
        ...

    def look_soon(self) -> None:
        """Ask for the map."""
        ...


class LaneTimer(Protocol):
    """The clock of an event loop."""

    def time(self) -> float:
        """Return the time in seconds."""
        ...

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> Any:
        """Call something after so many seconds."""
        ...


class Lane:
    """The commands of one slot that wait, in their order."""

    __slots__ = ("parcels", "pauses", "slot", "unanswered", "wait_s")

    def __init__(self, slot: int, unanswered: int, wait_s: float) -> None:
        self.slot = slot
        self.unanswered = unanswered
        """How many commands of the slot the servers have not answered yet."""
        self.parcels: list[Parcel] = []
        self.wait_s = wait_s
        """How long to wait when all is answered."""
        self.pauses = False
        """Whether a timer will continue."""


class Lanes:
    """The lanes of one cluster link, by slot.

    Args:
        most: how many commands may wait in all lanes together.
    """

    def __init__(
        self, shards: LaneShards, timer: LaneTimer, most: int, rng: random.Random | None = None
    ) -> None:
        self.open: dict[int, Lane] = {}
        """The lanes that there are; usually none."""
        self.waiting = 0
        """How many commands wait in them."""
        self.refusals: dict[str, int] = dict.fromkeys(sorted(REDIRECTIONS), 0)
        """How many commands were refused, by the code of the refusal."""
        self.overtaken = 0
        """How many of them failed because a later one was executed."""
        self._shards = shards
        self._timer = timer
        self._most = most
        self._rng = rng or random.Random()

    # --- what comes in -----------------------------------------------------------------------

    def hold(self, slot: int, parcel: Parcel) -> None:
        """Let a new command wait in the lane of its slot.

        Raises:
            LinkBusy: too many wait.
        """
        if self.waiting >= self._most:
            raise LinkBusy("too many commands are waiting for Redis")
        self._put(self.open[slot], parcel)

    def refused(self, slot: int, asked: str, parcel: Parcel) -> None:
        """Take back a command that the server at `asked` has refused."""
        refusal = parcel.refusal
        assert refusal is not None
        self.refusals[refusal.code] += 1
        lane = self.open.get(slot) or self._open(slot)
        lane.wait_s = max(lane.wait_s, _wait_s(refusal))
        target = _named(refusal, asked) if refusal.code == ASK else ""
        self._put(lane, parcel._replace(target=target))
        if refusal.code == ELSEWHERE:
            self._shards.moved(slot, _named(refusal, asked))
        elif refusal.code != ASK:
            self._shards.look_soon()
        self.advance(lane)

    def executed(self, lane: Lane, number: int) -> None:
        """Note that a server has executed this command. Those before it in the lane, which the
        server had refused for the slot as a whole, would now come too late.
        """
        kept: list[Parcel] = []
        failed: list[Parcel] = []
        for parcel in lane.parcels:
            late = parcel.number < number and _of_whole_slot(parcel.refusal)
            (failed if late else kept).append(parcel)
        if failed:
            lane.parcels = kept
            self.overtaken += len(failed)
            self._fail(failed, "a later command was executed")

    def owner_changed(self, slots: Iterable[int]) -> None:
        """Open lanes for slots that have another owner now, where the old one has still to answer
        something. It may refuse that.
        """
        for slot in slots:
            if slot not in self.open and self._unanswered(slot):
                self._open(slot).wait_s = SETTLE_S

    def recount(self) -> None:
        """Count anew what is unanswered, after a connection was lost."""
        for lane in list(self.open.values()):
            lane.unanswered = self._unanswered(lane.slot)
            self.advance(lane)

    def close(self, why: str) -> None:
        """Fail all that wait."""
        lanes = list(self.open.values())
        self.open.clear()
        for lane in lanes:
            parcels, lane.parcels = lane.parcels, []
            self._fail(parcels, why)

    def _open(self, slot: int) -> Lane:
        lane = self.open[slot] = Lane(slot, self._unanswered(slot), 0.0)
        return lane

    def _unanswered(self, slot: int) -> int:
        return sum(node.unanswered(slot) for node in self._shards.all_nodes())

    def _put(self, lane: Lane, parcel: Parcel) -> None:
        insort(lane.parcels, parcel, key=_number)
        self.waiting += 1

    # --- what goes out -----------------------------------------------------------------------

    def advance(self, lane: Lane) -> None:
        """Go on, if every server has answered all that it had for this slot."""
        if lane.unanswered > 0 or lane.pauses or self.open.get(lane.slot) is not lane:
            return
        if lane.wait_s > 0:
            self._pause(lane, lane.wait_s)
        else:
            self._send(lane)

    def _pause(self, lane: Lane, seconds: float) -> None:
        lane.pauses = True
        seconds *= self._rng.uniform(1 - JITTER, 1 + JITTER)
        self._timer.call_later(seconds, self._resume, lane)

    def _resume(self, lane: Lane) -> None:
        lane.pauses = False
        if self.open.get(lane.slot) is not lane:
            return
        lane.wait_s = 0.0
        # Keys may have moved on during the pause: the owner of the slot knows where to.
        lane.parcels = [parcel._replace(target="") for parcel in lane.parcels]
        self._send(lane)

    def _send(self, lane: Lane) -> None:
        """Send all and close; or wait on, when there is nobody to send to."""
        self._fail_late(lane)
        owner = self._shards.owner_node(lane.slot)
        targets = [self._target(parcel, owner) for parcel in lane.parcels]
        if not all(target is not None and target.open for target in targets):
            self._shards.look_soon()
            self._pause(lane, PAUSE_S)
            return
        del self.open[lane.slot]
        parcels, lane.parcels = lane.parcels, []
        self.waiting -= len(parcels)
        for parcel, target in zip(parcels, targets, strict=True):
            assert target is not None
            target.send_again(lane.slot, parcel, asking=bool(parcel.target))

    def _target(self, parcel: Parcel, owner: LaneNode | None) -> LaneNode | None:
        return self._shards.node_at(parcel.target) if parcel.target else owner

    def _fail_late(self, lane: Lane) -> None:
        now = self._timer.time()
        late = [parcel for parcel in lane.parcels if parcel.deadline <= now]
        if late:
            lane.parcels = [parcel for parcel in lane.parcels if parcel.deadline > now]
            self._fail(late, "no server of the cluster took it in time")

    def _fail(self, parcels: list[Parcel], why: str) -> None:
        self.waiting -= len(parcels)
        for parcel in parcels:
            reason = f"{why}: {parcel.refusal}" if parcel.refusal else why
            settle(parcel.callback, LinkDown(reason))


def _number(parcel: Parcel) -> int:
    return parcel.number


def _of_whole_slot(refusal: CommandError | None) -> bool:
    return refusal is not None and refusal.code not in OF_ONE_KEY


def _wait_s(refusal: CommandError) -> float:
    if refusal.code == ASK:
        return 0.0
    return SETTLE_S if refusal.code == ELSEWHERE else PAUSE_S


def _named(refusal: CommandError, asked: str) -> str:
    """Return the address that a redirection names: `MOVED 3999 127.0.0.1:6381`."""
    return endpoint(str(refusal).split()[2], asked)

"""Message outcome: what was each message answered, and who received it?"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from wsdemo.proof.history.bounds import DEFINITELY_NOT
from wsdemo.proof.history.circumstances import fault_spans
from wsdemo.proof.history.records import Fault, History, Phase, Received, Sent


@dataclass(slots=True)
class TrackedMessage:
    """One message: when it left, its answers, and who received it."""

    left: Sent
    number: int
    answer: Sent | None = None
    """The last answer."""
    answered_at: int = -1
    """The position of the last answer in the history."""
    first: Sent | None = None
    """The first answer that its gateway gave."""
    no: Sent | None = None
    """The last answer that promised that it was not, and will not be, delivered."""
    received: list[Received] = field(default_factory=list)

    @property
    def status(self) -> str:
        return self.answer.status if self.answer is not None else "unknown"


def tracked_messages(history: History) -> dict[str, TrackedMessage]:
    """Return all messages of a history by their ids, in the order in which they left."""
    tracked: dict[str, TrackedMessage] = {}
    for at, record in enumerate(history):
        match record:
            case Sent(phase=Phase.INVOKE, id=msg_id):
                tracked[msg_id] = TrackedMessage(record, len(tracked))
            case Sent(id=msg_id) if msg_id in tracked:
                message = tracked[msg_id]
                message.answer, message.answered_at = record, at
                if message.first is None and record.told:
                    message.first = record
                message.no = record if record.status in DEFINITELY_NOT else message.no
            case Received(id=msg_id) if msg_id in tracked:
                tracked[msg_id].received.append(record)
            case _:
                pass
    return tracked


@dataclass(slots=True)
class Tally:
    """How many messages had which outcome. Keys are values of `Status`."""

    sent: Counter[str] = field(default_factory=Counter)
    """By the last answer."""
    delivered: int = 0
    lost_in_faults: Counter[str] = field(default_factory=Counter)
    """Not delivered, by the last answer, while a fault was active or near."""
    lost_in_calm: Counter[str] = field(default_factory=Counter)
    """The same, far from any fault: to users who were moving or leaving."""


def tally(history: History, *, near_s: float = 10.0) -> Tally:
    """Count the outcomes of messages.

    A loss counts as `lost_in_faults` up to `near_s` seconds before and after a fault.
    """
    counts = Tally()
    faults = [(span.begin, span.end) for span in fault_spans(history)]
    for message in tracked_messages(history).values():
        counts.sent[message.status] += 1
        if message.received:
            counts.delivered += 1
            continue
        t = message.left.t
        near = any(begin - near_s <= t <= end + near_s for begin, end in faults)
        (counts.lost_in_faults if near else counts.lost_in_calm)[message.status] += 1
    return counts


def by_fault(history: History) -> dict[str, Counter[str]]:
    """Count, for each fault, the outcomes of the messages that left while it was active.

    Keys are "delivered", and for the others the last answer. A message counts for every fault that
    was active.
    """
    open_faults: Counter[str] = Counter()
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    tracked = tracked_messages(history)
    for record in history:
        if isinstance(record, Fault):
            open_faults[record.name] += 1 if record.begins else -1
        elif isinstance(record, Sent) and record.phase is Phase.INVOKE:
            message = tracked[record.id]
            for name, times in open_faults.items():
                if times > 0:
                    counts[name]["delivered" if message.received else message.status] += 1
    return dict(counts)

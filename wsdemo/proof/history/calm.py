"""Calm period: was everything right while no fault was active?

In a calm period no fault excuses anything. The numbers that gateways report are checked here too.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from wsdemo.proof.history.bounds import Bounds
from wsdemo.proof.history.circumstances import Circumstances, session_spans
from wsdemo.proof.history.records import (
    Calm,
    Closed,
    Counted,
    History,
    Phase,
    Pinged,
    Ponged,
    Record,
    Registered,
    Sent,
)
from wsdemo.proof.history.tracked import TrackedMessage, tracked_messages
from wsdemo.proof.history.violation import Violation


def calm(history: History, bounds: Bounds) -> list[Violation]:
    """Check that in each calm period everything is right.

    Each message to a user who is online is routed and arrives; one to a user who is offline is
    called offline; each ping has its pong. All of this is within its bound, and no session begins
    or ends. A calm period without a message and a ping proves nothing, and neither does a history
    without a calm period.
    """
    c, tracked, spans = Circumstances(history), tracked_messages(history), session_spans(history)
    periods = list(_calms(history))
    violations = [] if periods else [Violation("calm", 0.0, "there never was a calm")]
    for begin, end in periods:
        within = [record for record in history if begin <= record.t <= end]
        said = [r for r in within if isinstance(r, Sent) and r.phase is Phase.INVOKE]
        asked = [r for r in within if isinstance(r, Pinged)]
        if not said or not asked:
            violations.append(Violation("calm", begin, "a calm in which nobody said anything"))
        violations += _began_or_ended(within)
        online = {u for u, times in spans.items() if any(a <= begin < b for a, b in times)}
        for sent in said:
            violations += _not_right(tracked[sent.id], sent.to in online, end, c, bounds)
        violations += _unponged(within, end, c, bounds)
    return violations


def _calms(history: History) -> Iterator[tuple[float, float]]:
    begin: float | None = None
    for record in history:
        if isinstance(record, Calm):
            if record.begins:
                begin = record.t
            elif begin is not None:
                yield begin, record.t
                begin = None


def _began_or_ended(within: History) -> Iterator[Violation]:
    for record in within:
        if isinstance(record, Closed):
            what = f"ended with {record.code}"
        elif isinstance(record, Registered) and record.phase is Phase.OK:
            what = "began"
        else:
            continue
        text = f"a session of {record.user} {what}, and nothing was wrong"
        yield Violation("calm", record.t, text, (record,))


def _not_right(
    message: TrackedMessage, is_online: bool, end: float, c: Circumstances, bounds: Bounds
) -> Iterator[Violation]:
    left, first, answer = message.left, message.first, message.answer
    wanted = "routed" if is_online else "offline"
    deadline = c.due(left.t, bounds.answer_s)
    if left.asks and deadline <= end:
        evidence = tuple(r for r in (left, first, answer) if r is not None)
        if first is None or first.t > deadline:
            text = f"{left.id} had no answer within {bounds.answer_s:g} s, and nothing was wrong"
            yield Violation("calm", left.t, text, evidence)
        elif answer is not None and {first.status, answer.status} != {wanted}:
            if first.status == "unknown" and c.late(left.t, first.t):
                return  # Given up because the machine was busy; that does not excuse a "no".
            text = f"{left.id} to {left.to} was {answer.status}, and nothing was wrong"
            yield Violation("calm", left.t, text, evidence)
    deadline = c.due(left.t, bounds.arrive_s)
    if is_online and deadline <= end and not any(r.t <= deadline for r in message.received):
        text = f"{left.id} to {left.to} did not arrive within {bounds.arrive_s:g} s"
        yield Violation("calm", left.t, f"{text}, and nothing was wrong", (left,))


def _unponged(within: History, end: float, c: Circumstances, bounds: Bounds) -> Iterator[Violation]:
    waiting: dict[str, list[Pinged]] = defaultdict(list)
    for record in within:
        if isinstance(record, Pinged):
            waiting[record.conn].append(record)
        elif isinstance(record, Ponged) and waiting[record.conn]:
            ping = waiting[record.conn].pop(0)
            if record.t > c.due(ping.t, bounds.pong_s):
                yield _too_late(ping, bounds)
    for pings in waiting.values():
        yield from (_too_late(p, bounds) for p in pings if c.due(p.t, bounds.pong_s) <= end)


def _too_late(ping: Pinged, bounds: Bounds) -> Violation:
    text = f"a ping of {ping.user} had no pong within {bounds.pong_s:g} s, and nothing was wrong"
    return Violation("calm", ping.t, text, (ping,))


# --- numbers -----------------------------------------------------------------------------------


def present(history: Iterable[Record]) -> Counter[str]:
    """Return how many sessions each gateway has at the end of these records."""
    gateways: dict[str, str] = {}
    for record in history:
        _follow(record, gateways)
    return Counter(gateways.values())


def counted(history: History) -> list[Violation]:
    """Check that each number that was read at a gateway is what it should be."""
    gateways: dict[str, str] = {}
    violations = []
    for record in history:
        _follow(record, gateways)
        if isinstance(record, Counted):
            wanted = record.wanted
            if wanted is None:
                wanted = Counter(gateways.values())[record.gateway]
            if record.count != wanted:
                text = (
                    f"{record.gateway} has {record.count} {record.what}, and should have {wanted}"
                )
                violations.append(Violation("counted", record.t, text, (record,)))
    return violations


def _follow(record: Record, gateways: dict[str, str]) -> None:
    """Keep the gateway of each session that exists."""
    match record:
        case Registered(phase=Phase.OK, conn=conn, gateway=gateway):
            gateways[conn] = gateway
        case Closed(conn=conn):
            gateways.pop(conn, None)
        case _:
            pass

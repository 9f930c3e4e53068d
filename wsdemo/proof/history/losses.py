"""Loss: does each message that was `routed` and did not arrive have a reason?"""

from __future__ import annotations

from collections.abc import Iterator

from wsdemo.proof.history.bounds import Bounds, Causes, Near
from wsdemo.proof.history.circumstances import Circumstances, session_spans
from wsdemo.proof.history.closes import unexplained_ends
from wsdemo.proof.history.records import REDIS, USERS, History
from wsdemo.proof.history.tracked import TrackedMessage, tracked_messages
from wsdemo.proof.history.violation import Violation

# --- far from every fault ----------------------------------------------------------------------


def unexplained(
    history: History, *, near_s: float = 10.0, aftermath_s: float = 10.0
) -> list[Violation]:
    """Check that each message that was `routed` far from any fault, to a user who stayed, arrived.

    A message is far from a fault that begins more than `near_s` after it, or that has ended more
    than `aftermath_s` before it. What a fault leaves (a half-open socket, or a superseded session
    whose kick was lost) takes messages until a heartbeat or a refresh finds it.
    A user stays who has exactly one session from `near_s` before until `near_s` after the message
    left. The history must go on for that long as well.
    """
    violations = []
    for message in _promised(history, near_s, aftermath_s, lost=True):
        left = message.left
        assert message.answer is not None
        text = f"{left.id} to {left.to} got lost, and nothing had happened"
        violations.append(Violation("lost", left.t, text, (left, message.answer)))
    return violations


def nothing_to_lose(history: History, near_s: float, aftermath_s: float) -> Iterator[Violation]:
    """Complain when no message had to arrive: then `unexplained` has tested nothing."""
    ways = (_promised(history, near_s, aftermath_s, lost=lost) for lost in (False, True))
    if not any(True for way in ways for _ in way):
        yield Violation("lost", 0.0, "nothing to lose: no message was far from every fault")


def _promised(
    history: History, near_s: float, aftermath_s: float, *, lost: bool
) -> Iterator[TrackedMessage]:
    """Iterate over the messages that had to arrive (see `unexplained`): those that got lost, or
    those that did arrive.
    """
    spans = session_spans(history)
    c = Circumstances(history)
    ends_at = history[-1].t if history else 0.0
    for message in tracked_messages(history).values():
        left, t = message.left, message.left.t
        if bool(message.received) is lost or message.status != "routed":
            continue
        if t + near_s > ends_at:
            continue
        if c.fault(t, t, Near(near_s, aftermath_s), _places(message, c)):
            continue
        around = [(a, b) for a, b in spans[left.to] if a <= t + near_s and b >= t - near_s]
        if len(around) == 1 and around[0][0] <= t - near_s and around[0][1] >= t + near_s:
            yield message


def _places(message: TrackedMessage, c: Circumstances) -> set[str]:
    """Return the places at which a fault can lose a message."""
    left = message.left
    conns = c.of_user.get(left.to, ())
    return c.at(left.conn, *conns) | {left.user, left.to, REDIS, USERS}


# --- anywhere ----------------------------------------------------------------------------------


def lost(history: History, bounds: Bounds, causes: Causes) -> list[Violation]:
    """Check that each message that was `routed` and did not arrive has a reason near in time.

    A reason is a fault at one of the two users, at their gateways or at Redis, or the end of a
    session of the recipient. An end that has no reason itself (`closes`) explains nothing.
    """
    c = Circumstances(history)
    wrong = {id(record) for record in unexplained_ends(history, c, bounds, causes)}
    violations = []
    for message in tracked_messages(history).values():
        if message.status != "routed" or message.received:
            continue
        if not _has_reason(message, c, bounds, wrong):
            left = message.left
            assert message.answer is not None
            text = f"{left.id} to {left.to} was routed and got lost, without a reason"
            violations.append(Violation("lost", left.t, text, (left, message.answer)))
    return violations


def _has_reason(message: TrackedMessage, c: Circumstances, bounds: Bounds, wrong: set[int]) -> bool:
    left, near = message.left, bounds.near
    since, until = left.t, message.answer.t if message.answer is not None else left.t
    if c.due(until, bounds.arrive_s) > c.ends_at:
        return True  # It may still be on its way.
    return c.fault(since, until, near, _places(message, c)) or any(
        end.t - near.before_s <= until and since <= end.t + near.after_s and id(end) not in wrong
        for conn in c.of_user.get(left.to, ())
        for end in c.ends.get(conn, ())
    )

"""Presence events: was each watcher told the truth, once, and not too soon? (W1 to W3)"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from wsdemo.proof.history.bounds import Near
from wsdemo.proof.history.circumstances import Circumstances
from wsdemo.proof.history.records import (
    REDIS,
    USERS,
    History,
    Owner,
    Phase,
    Registered,
    WatchLooked,
    WatchTold,
)
from wsdemo.proof.history.violation import Violation

TOLERANCE_S: Final = 0.1
"""What is told travels for so long, while there is no fault."""
ONLINE: Final = "online"
OFFLINE: Final = "offline"


def watches(
    history: History, grace_s: float = 5.0, aftermath_s: float = 60.0, login_s: float | None = None
) -> list[Violation]:
    """Check what watchers were told; a history without any is right.

    W1: when somebody looks, long after a heal, what was told last is what Redis says. W2: nobody is
    told the same state twice in a row. W3: far from all faults, a user who is called offline has
    been away for the grace.

    A new session is told the state as it is, without a grace. So W3 does not judge the first state
    of a watch, nor what is told soon after the last login of the watcher.

    Args:
        login_s: how long after its login a session may take to ask; None: a grace.
    """
    violations = [
        *_last_states(history),
        *_repeated(history),
        *_too_soon(
            history, grace_s, grace_s if login_s is None else login_s, Near(0.0, aftermath_s)
        ),
    ]
    return sorted(violations, key=lambda violation: violation.t)


def _last_states(history: History) -> Iterator[Violation]:
    """W1."""
    for record in history:
        if isinstance(record, WatchLooked) and (record.state == ONLINE) is not record.is_there:
            truth = "there" if record.is_there else "away"
            text = f"{record.user} was told last that {record.of} is {record.state or 'nothing'}"
            yield Violation("W1", record.t, f"{text}, who is {truth}", (record,))


def _repeated(history: History) -> Iterator[Violation]:
    """W2."""
    told: dict[tuple[str, str], WatchTold] = {}
    for record in history:
        if isinstance(record, WatchTold):
            before = told.get((record.process, record.of))
            if before is not None and before.state == record.state:
                text = f"{record.user} was told twice that {record.of} is {record.state}"
                yield Violation("W2", record.t, text, (before, record))
            told[record.process, record.of] = record


def _too_soon(history: History, grace_s: float, login_s: float, near: Near) -> Iterator[Violation]:
    """W3."""
    circumstances = Circumstances(history)
    owners: dict[str, Owner] = {}
    logins: dict[str, float] = {}
    known: set[tuple[str, str]] = set()
    for record in history:
        match record:
            case Owner(user=user):
                owners[user] = record
            case Registered(phase=Phase.OK, user=user, t=t):
                logins[user] = t
            case WatchTold(user=user, process=process, of=of, state=state, t=t):
                is_first = (process, of) not in known
                known.add((process, of))
                is_new_session = t - logins.get(user, t) <= login_s
                if state != OFFLINE or is_first or is_new_session:
                    continue
                owner = owners.get(of)
                conns = (*circumstances.of_user[user], *circumstances.of_user[of])
                places = circumstances.at(*conns) | {user, of, REDIS, USERS}
                if owner is None or circumstances.fault(t - grace_s, t, near, places):
                    continue
                # An entry that has ended by itself has no record of its end.
                came_back = bool(owner.conn) and record.is_there and t - owner.t > TOLERANCE_S
                is_early = not owner.conn and t - owner.t < grace_s - TOLERANCE_S
                if came_back or is_early:
                    text = f"{user} was told that {of} is offline, and {of} was not away for long"
                    yield Violation("W3", t, text, (owner, record))
            case _:
                pass

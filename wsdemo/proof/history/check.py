"""History check: was everything in this run allowed, and did it test enough?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

from wsdemo.proof.history.answers import answers, denied, pongs
from wsdemo.proof.history.bounds import Bounds, Causes
from wsdemo.proof.history.calm import calm, counted
from wsdemo.proof.history.closes import closes
from wsdemo.proof.history.convergence import convergence
from wsdemo.proof.history.inboxes import inboxes
from wsdemo.proof.history.losses import lost, nothing_to_lose, unexplained
from wsdemo.proof.history.messages import messages
from wsdemo.proof.history.owners import owners
from wsdemo.proof.history.records import Fault, Happened, History, Phase, Sent
from wsdemo.proof.history.rooms import rooms
from wsdemo.proof.history.violation import Violation
from wsdemo.proof.history.watches import watches


def check(
    history: History,
    *,
    online_s: float,
    offline_s: float,
    ttl_s: float = 90.0,
    near_s: float = 10.0,
    aftermath_s: float = 10.0,
) -> list[Violation]:
    """Run all checks except `kept` and `sometimes`, which is a claim about many runs."""
    return [
        *well_formed(history),
        *owners(history, ttl_s=ttl_s),
        *messages(history),
        *unexplained(history, near_s=near_s, aftermath_s=aftermath_s),
        *nothing_to_lose(history, near_s, aftermath_s),
        *inboxes(history),
        *rooms(history),
        *watches(history),
        *convergence(history, online_s=online_s, offline_s=offline_s),
    ]


def kept(history: History, bounds: Bounds, causes: Causes) -> list[Violation]:
    """Run all checks of what users may expect who are not touched by a fault."""
    return [
        *answers(history, bounds),
        *pongs(history, bounds),
        *lost(history, bounds, causes),
        *closes(history, bounds, causes),
        *denied(history, bounds),
        *calm(history, bounds),
        *counted(history),
    ]


def well_formed(history: History) -> list[Violation]:
    """Check that time does not run backwards, and that no message id was used twice."""
    violations = []
    for before, now in pairwise(history):
        if now.t < before.t:
            text = "a record is older than the one before it"
            violations.append(Violation("history", now.t, text, (before, now)))
    ids = Counter(r.id for r in history if isinstance(r, Sent) and r.phase is Phase.INVOKE)
    for msg_id, count in ids.items():
        if count > 1:
            violations.append(Violation("history", 0.0, f"{msg_id} was sent {count} times"))
    return violations


def happened(history: History) -> Counter[str]:
    """Count by name what happened: faults that began, and `Happened` records."""
    names: Counter[str] = Counter()
    for record in history:
        if isinstance(record, Happened) or (isinstance(record, Fault) and record.begins):
            names[record.name] += 1
    return names


def sometimes(counts: Counter[str], wanted: Iterable[str]) -> list[Violation]:
    """Check that everything that a run has to test has occurred in it at least once."""
    return [
        Violation("sometimes", 0.0, f"{name} never happened")
        for name in sorted(set(wanted))
        if not counts[name]
    ]

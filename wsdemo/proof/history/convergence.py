"""Convergence: did everything become right again after each heal? (P7, P8, X)"""

from __future__ import annotations

from collections.abc import Iterator

from wsdemo.proof.history.records import Fault, Healed, History, Looked, Phase, Registered
from wsdemo.proof.history.violation import Violation
from wsdemo.proof.promises import Promise


def convergence(history: History, *, online_s: float, offline_s: float) -> list[Violation]:
    """Check that after each heal everything came right: P7, P8 and X.

    The bound X is `online_s` for a user who wants to be online, and `offline_s` for one who does
    not. Only looks that are later than X after a heal, and before the next fault, are judged. Such
    a look must find one of two things. Either the session of the client is the owner in Redis, and
    no other session believes to be the owner; or the user is offline, and there is neither an entry
    nor a believer.

    A heal proves nothing, and is a violation, if somebody who had registered before it was not
    looked at in time. A history without a heal is a violation as well.
    """
    violations: list[Violation] = []
    users: dict[str, float] = {}
    for record in history:
        if isinstance(record, Registered) and record.phase is Phase.OK:
            users.setdefault(record.user, record.t)
    if not any(isinstance(record, Healed) for record in history):
        violations.append(Violation(Promise.P8, 0.0, "nothing was ever healed"))
    for heal, looks in _after_heals(history):
        late = [
            look for look in looks if look.t >= heal.t + (online_s if look.online else offline_s)
        ]
        if not late:
            text = f"nobody looked {max(online_s, offline_s):g} s after the heal"
            violations.append(Violation(Promise.P8, heal.t, text, (heal,)))
        unseen = {user for user, t in users.items() if t <= heal.t} - {look.user for look in late}
        if late and unseen:
            text = f"nobody looked at {', '.join(sorted(unseen))} after the heal"
            violations.append(Violation(Promise.P8, heal.t, text, (heal,)))
        for look in late:
            violations += _found(heal, look)
    return violations


def _after_heals(history: History) -> Iterator[tuple[Healed, list[Looked]]]:
    """Iterate over heals, each with the looks between it and the next fault."""
    heal: Healed | None = None
    looks: list[Looked] = []
    for record in history:
        match record:
            case Looked() if heal is not None:
                looks.append(record)
            case Healed() | Fault(begins=True) if heal is not None:
                yield heal, looks
                heal = None
            case _:
                pass
        if isinstance(record, Healed):
            heal, looks = record, []
    if heal is not None:
        yield heal, looks


def _found(heal: Healed, look: Looked) -> Iterator[Violation]:
    after_s = look.t - heal.t
    if not look.online:
        if look.owner or look.believers:
            what = f"an entry of {look.owner}" if look.owner else f"believers {look.believers}"
            text = f"{look.user} is gone, but {after_s:.1f} s after the heal there is {what}"
            yield Violation(Promise.P7, look.t, text, (heal, look))
        return
    if not look.conn:
        text = f"{look.user} wants to be online, and is not {after_s:.1f} s after the heal"
        yield Violation(Promise.X, look.t, text, (heal, look))
        return
    if look.owner != look.conn:
        text = (
            f"{look.user} is connected as {look.conn}, but {after_s:.1f} s after the heal Redis "
            f"says {look.owner or 'nobody'}"
        )
        yield Violation(Promise.P8, look.t, text, (heal, look))
    if set(look.believers) != {look.conn}:
        text = f"{look.user} is {look.conn}; these believe to own it: {sorted(look.believers)}"
        yield Violation(Promise.P8, look.t, text, (heal, look))

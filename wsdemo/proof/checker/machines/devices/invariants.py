"""Invariants of several devices: is each of them exactly a user of today's scripts?

So all that the machine of presence shows holds for each device. What is new is checked beside it:
the limit, who has to go for it, what the fence may forget, and where messages go.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from wsdemo.proof.checker.machines.devices.states import (
    FENCE,
    FRESH,
    LATER,
    PRESENCE,
    DeviceScenario,
    shadow_keys,
)
from wsdemo.proof.checker.runner import Data, fields_of, held
from wsdemo.proof.checker.subject import Invariant
from wsdemo.proof.promises import Promise

ALL: Final = tuple(Promise(f"P{n}") for n in range(1, 9))

ANSWERS: Final = Invariant("N0", (Promise.P8,), "no script fails")
SAME_ANSWER: Final = Invariant(
    "N1", ALL, "a device gets the answer that today's scripts would give to it"
)
SAME_ENTRIES: Final = Invariant(
    "N2", ALL, "the devices that are there are those of today's scripts, each with its session"
)
LIMIT: Final = Invariant("N3", (Promise.P8,), "no more devices are there than allowed")
OLDEST_GOES: Final = Invariant(
    "N4", (Promise.P8,), "only for the limit one has to go, and it is the one that came first"
)
STAYS_AWAY: Final = Invariant("N5", (Promise.P3,), "a session that had to go does not come back")
SHOWS_NEWEST: Final = Invariant(
    "N6", (Promise.P4,), "the entry of the user shows the newest session"
)
ENDS: Final = Invariant(
    "N7", (Promise.P4, Promise.P6), "who is accepted gets a lease, and no key is there for ever"
)
MINTS: Final = Invariant("N8", (Promise.P5,), "the last token is not lowered")
REMEMBERS: Final = Invariant("N9", (Promise.P6,), "the fence remembers no more than it may")
ROUTED: Final = Invariant(
    "N10", (Promise.P8,), "a message goes once to each gateway, and names all sessions there"
)
BELIEVERS: Final = Invariant(
    "E1", (Promise.P8,), "in the end those who believe that they are there are those who are"
)

INVARIANTS: Final = (
    *(ANSWERS, SAME_ANSWER, SAME_ENTRIES, LIMIT, OLDEST_GOES, STAYS_AWAY, SHOWS_NEWEST),
    *(ENDS, MINTS, REMEMBERS, ROUTED, BELIEVERS),
)


class LiveDevice(NamedTuple):
    """A session that is there."""

    gateway: str
    conn: str
    token: int


def live(data: Data) -> dict[str, LiveDevice]:
    """Return the session of each device whose lease has not ended."""
    entries = {}
    for field, value in fields_of(data, PRESENCE).items():
        words = value.split(" ")
        if field.startswith("s:") and words[3] in (LATER, FRESH):
            entries[field[2:]] = LiveDevice(words[0], words[1], int(words[2]))
    return entries


def in_shadow(shadow: Data, devices: tuple[str, ...]) -> dict[str, LiveDevice]:
    """Return what today's scripts say of each device."""
    found = {}
    for device in devices:
        six = fields_of(shadow, shadow_keys(device)[0])
        if six:
            found[device] = LiveDevice(six["gwId"], six["connId"], int(six["epoch"]))
    return found


def is_forgotten(data: Data, device: str, token: int) -> bool:
    """Whether the fence stands for this device by `low` only, and this token is not above it."""
    fence = fields_of(data, FENCE)
    return bool(device) and f"top:{device}" not in fence and token <= int(fence.get("low", 0))


def broken_by_data(
    before: Data, data: Data, shadow: Data, of: DeviceScenario, said: tuple[str, str]
) -> list[Invariant]:
    """Return what is wrong with what Redis holds after a script that gave an answer."""
    there, fence = live(data), fields_of(data, FENCE)
    broken = [SAME_ENTRIES] * (there != in_shadow(shadow, of.devices))
    broken += [LIMIT] * (len(there) > of.most)
    six = fields_of(data, PRESENCE)
    newest = max(there.values(), key=lambda entry: (entry.token, entry.conn), default=None)
    if newest is not None and said[1] in ("ok", "reclaimed", "1"):
        shown = (six.get("gwId"), six.get("connId"), six.get("epoch"))
        broken += [SHOWS_NEWEST] * (shown != (newest.gateway, newest.conn, str(newest.token)))
    broken += [ENDS] * any(not kept.ends for _, kept in data)
    mint = int(fence.get("mint", 0))
    broken += [MINTS] * (mint < int(fields_of(before, FENCE).get("mint", 0)) and bool(fence))
    names = {name.partition(":")[2] for name in fence if name.startswith(("top:", "floor:"))}
    over = said == ("register", "ok") and len(names) > of.remembered and not names <= set(there)
    return broken + [REMEMBERS] * over


def has_lease(data: Data, given: frozenset[str], device: str, conn: str) -> bool:
    """Whether an accepted session got a lease, and the fence a life."""
    kept = held(data, PRESENCE)
    value = "" if kept is None else {r[0]: r[1] for r in kept.value}.get(f"s:{device}", "")
    words = value.split(" ")
    return len(words) > 4 and words[1] == conn and words[3] == FRESH and given >= {PRESENCE, FENCE}

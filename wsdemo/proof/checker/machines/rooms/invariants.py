"""Invariants of a room: what must hold after each command, and when everything is repaired?"""

from __future__ import annotations

import json
from typing import Final, NamedTuple

from wsdemo.proof.checker.machines.rooms.states import (
    BOOTS,
    LATER,
    OUT,
    PAST,
    ROOM,
    RoomVerb,
    Stamp,
)
from wsdemo.proof.checker.runner import Data, ScriptReply, fields_of, held
from wsdemo.proof.checker.subject import Invariant
from wsdemo.proof.promises import RoomPromise

ANSWERS: Final = Invariant("G0", (RoomPromise.R1,), "no script fails")
UPWARDS: Final = Invariant("G1", (RoomPromise.R1,), "an entry changes only to a higher stamp")
OLDER_CHANGES_NOTHING: Final = Invariant(
    "G2", (RoomPromise.R1, RoomPromise.R2), "an older command changes nothing, and tells nobody"
)
STAYS_OUT: Final = Invariant(
    "G3", (RoomPromise.R2,), "who has left or was swept does not come back by an older join"
)
NEWER_COUNTS: Final = Invariant("G4", (RoomPromise.R1,), "a newer command counts, if there is room")
EVENTS: Final = Invariant(
    "G5", (RoomPromise.R3,), "each event is a change, and all add up to the list"
)
ANSWER: Final = Invariant(
    "G6", (RoomPromise.R3,), "the answer says what has changed, and how many are there"
)
LIMIT: Final = Invariant(
    "G7", (RoomPromise.R3,), "a room is full only when it is, and never too full"
)
SWEPT: Final = Invariant(
    "G8", (RoomPromise.R4,), "a sweep takes out those whose gateway is gone, and nobody else"
)
BEATS: Final = Invariant(
    "G9", (RoomPromise.R4,), "a beat says who is gone, and whether its own process was given up"
)
LISTED: Final = Invariant(
    "G10", (RoomPromise.R3,), "a list has all members, and the mark is published"
)
ENDS: Final = Invariant("G11", (RoomPromise.R4,), "no key is there for ever")
REMEMBERED: Final = Invariant(
    "G12", (RoomPromise.R2,), "of each member who is out is known since when, and of nobody else"
)
TRUTH: Final = Invariant("E1", (RoomPromise.R4, RoomPromise.R5), "in the end the list is the truth")

INVARIANTS: Final = (
    *(ANSWERS, UPWARDS, OLDER_CHANGES_NOTHING, STAYS_OUT, NEWER_COUNTS, EVENTS, ANSWER, LIMIT),
    *(SWEPT, BEATS, LISTED, ENDS, REMEMBERED, TRUTH),
)


class MemberRegister(NamedTuple):
    """The entry of a member."""

    is_in: bool
    stamp: Stamp
    boot: str = ""
    conn: str = ""


def entries(data: Data) -> dict[str, MemberRegister]:
    """Return the entry of each member, of those who left as well."""
    found = {}
    for member, value in fields_of(data, ROOM).items():
        state, token, seq, *more = value.split(" ")
        found[member] = MemberRegister(state == "in", (int(token), int(seq)), *more[1:3])
    return found


def members(data: Data) -> frozenset[str]:
    """Return who is in the room."""
    return frozenset(member for member, entry in entries(data).items() if entry.is_in)


def swept(data: Data, boots: frozenset[str]) -> dict[str, Stamp]:
    """Return whom a SWEEP of these processes removes, and by which join they are there."""
    found = entries(data).items()
    return {name: entry.stamp for name, entry in found if entry.is_in and entry.boot in boots}


def just_before(stamp: Stamp) -> Stamp:
    """Return the highest stamp below this one."""
    token, seq = stamp
    return token, seq - 1


def told_after(told: frozenset[str], reply: ScriptReply) -> tuple[frozenset[str], bool]:
    """Apply events; return who is in the room by them, and whether each was a change."""
    for _, text in reply.heard:
        event = json.loads(text)
        user, comes = event["user"], event["state"] == "join"
        if (user in told) == comes:
            return told, False
        told = told | {user} if comes else told - {user}
    return told, True


class Said(NamedTuple):
    """A JOIN or a LEAVE that was executed."""

    verb: RoomVerb
    member: str
    stamp: Stamp
    most: int
    out: Stamp
    """The highest stamp by which this user is out, that has to be remembered."""
    before: Data
    told: frozenset[str]
    reply: ScriptReply


def broken_by_command(said: Said) -> list[Invariant]:
    """Return what a JOIN or a LEAVE breaks."""
    before, after = entries(said.before), entries(said.reply.data)
    old, new = before.get(said.member), after.get(said.member)
    broken = [UPWARDS] * (old is not None and (new is None or new.stamp < old.stamp))
    broken += [STAYS_OUT] * (
        said.verb is RoomVerb.JOIN
        and said.stamp < said.out
        and new is not None
        and new.is_in
        and new.stamp == said.stamp
    )
    if _is_older(said, old):
        answer = ("stale",) if said.verb is RoomVerb.JOIN else 0
        same = before == after and not said.reply.heard and said.reply.answer == answer
        broken += [OLDER_CHANGES_NOTHING] * (not same)
    else:
        broken += _broken_by_newer(said, old, new)
    told, are_changes = told_after(said.told, said.reply)
    broken += [EVENTS] * (not are_changes or told != members(said.reply.data))
    return broken + broken_by_keys(said.reply)


def _is_older(said: Said, old: MemberRegister | None) -> bool:
    if old is None:
        return False
    if said.verb is RoomVerb.LEAVE:
        return said.stamp <= old.stamp
    return said.stamp < old.stamp or (said.stamp == old.stamp and not old.is_in)


def _broken_by_newer(
    said: Said, old: MemberRegister | None, new: MemberRegister | None
) -> list[Invariant]:
    was_in, answer = old is not None and old.is_in, said.reply.answer
    after = members(said.reply.data)
    if said.verb is RoomVerb.LEAVE:
        right = new is not None and not new.is_in and new.stamp == said.stamp
        return [NEWER_COUNTS] * (not right) + [ANSWER] * (answer != int(was_in))
    here = members(said.before)
    is_full = not was_in and len(here - {said.member}) >= said.most
    broken = [LIMIT] * (is_full != (answer[0] == "full") or len(after) > said.most)
    if is_full:
        return broken
    same = old is not None and old.stamp == said.stamp
    word = "same" if same else "moved" if was_in else "joined"
    broken += [ANSWER] * (answer != (word, len(after)))
    right = new is not None and new.is_in and new.stamp == said.stamp
    return broken + [NEWER_COUNTS] * (not right)


def broken_by_keys(reply: ScriptReply) -> list[Invariant]:
    """Return what is wrong with the two keys of a room."""
    broken = [ENDS] * any(not kept.ends for _, kept in reply.data)
    out = {member for member, entry in entries(reply.data).items() if not entry.is_in}
    return broken + [REMEMBERED] * (out != set(fields_of(reply.data, OUT)))


def broken_by_sweep(
    before: Data, told: frozenset[str], boots: frozenset[str], reply: ScriptReply
) -> list[Invariant]:
    """Return what a SWEEP breaks."""
    gone = swept(before, boots)
    out = {member: MemberRegister(False, just_before(stamp)) for member, stamp in gone.items()}
    after, are_changes = told_after(told, reply)
    right = entries(reply.data) == entries(before) | out and reply.answer == len(gone)
    broken = [SWEPT] * (not right)
    broken += [EVENTS] * (not are_changes or after != members(reply.data))
    return broken + broken_by_keys(reply)


def broken_by_beat(before: Data, boot: str, reply: ScriptReply) -> list[Invariant]:
    """Return what a beat breaks."""
    held_before = fields_of(before, BOOTS)
    after = {**held_before, boot: LATER}
    word = "ok" if held_before.get(boot) == LATER else "lapsed"
    gone = {name for name, end in after.items() if end == PAST}
    state, lapsed, live = reply.answer
    right = (state, set(lapsed), set(live)) == (word, gone, set(after) - gone)
    kept = held(reply.data, BOOTS)
    right = right and fields_of(reply.data, BOOTS) == after
    return [BEATS] * (not right) + [ENDS] * (kept is None or not kept.ends)


def broken_by_list(before: Data, told: frozenset[str], reply: ScriptReply) -> list[Invariant]:
    """Return what a LIST breaks."""
    count, *rest = reply.answer
    there = set(rest[::2])
    same = fields_of(before, ROOM) == fields_of(reply.data, ROOM)
    right = (
        there == members(before)
        and count == len(there)
        and [text for _, text in reply.heard] == ["mark"]
        and same
    )
    return [LISTED] * (not right) + [EVENTS] * (there != told)

"""Presence events: when is a watcher told that a user has come or gone, and what?

Pure: what is known of a user, and an event, a reading of presence or a time, give what is known
next and what is to be done. There is no I/O and no clock here.

Events come by Pub/Sub, so each of them may be lost, and nothing at all is published when a lease
ends. Therefore the truth is what Redis says when it is asked (a reading), and an event only says
when to look. A user who is gone may be back in a moment, so nobody is told of it before the grace
has passed and a reading has found nobody (W3).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Annotated, Final, NamedTuple

import msgspec

from wsdemo.protocol import Code


class UserState(StrEnum):
    """Whether a user has an entry in Redis."""

    ONLINE = "online"
    OFFLINE = "offline"


class WatchReason(StrEnum):
    """Why a user came or went."""

    LOGIN = "login"
    MOVED = "moved"
    """A newer session took the place of an older one."""
    RECLAIMED = "reclaimed"
    """Redis had lost the entry, and the session has put it back."""
    BYE = "bye"
    """The client said goodbye."""
    LOST = "lost"
    """The connection ended without a word, or took nothing more."""
    DRAINED = "drained"
    """The gateway stopped, and told the client to come back."""
    REPLACED = "replaced"
    EVICTED = "evicted"
    """Too many devices, or an operator ended the session."""
    EXPIRED = "expired"
    """A reading found nobody: the lease had ended, or the event was lost."""
    UNKNOWN = "unknown"


_REASONS: Final[dict[Code | None, WatchReason]] = {
    None: WatchReason.LOST,
    Code.NORMAL: WatchReason.BYE,
    Code.RESTART: WatchReason.DRAINED,
    Code.HEARTBEAT_TIMEOUT: WatchReason.LOST,
    Code.SLOW_CONSUMER: WatchReason.LOST,
    Code.STALE: WatchReason.REPLACED,
    Code.REPLACED: WatchReason.REPLACED,
    Code.DISCONNECTED: WatchReason.EVICTED,
}


def reason_of(code: Code | None) -> WatchReason:
    """Return why a session ended whose connection was closed with this code; None: it was lost.

    What a client did wrong is no business of those who watch its user: that is `unknown`.
    """
    return _REASONS.get(code, WatchReason.UNKNOWN)


# --- what happens ----------------------------------------------------------------------------


_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
"""What a script can count to."""


class PresenceEvent(msgspec.Struct, frozen=True, gc=False):
    """What a script has published: an entry was written or removed."""

    state: UserState
    reason: WatchReason
    token: _Count
    """The fencing token of the session that the change is about."""
    at: _Count
    """When, in Unix milliseconds, by the clock of Redis."""


class Reading(NamedTuple):
    """What Redis said when it was asked."""

    token: int | None
    """The fencing token of the user's entry; None: there is no entry."""
    at: int
    """When, as in an event."""
    asked: int
    """How many events had been heard when the question was sent (`Known.heard`)."""


class Told(NamedTuple):
    """What watchers are told."""

    state: UserState
    reason: WatchReason
    at: int


# --- what is known ---------------------------------------------------------------------------


class Absence(NamedTuple):
    """A user seems to be gone. It is told when `due_s` has come and a reading finds nobody."""

    due_s: float
    """On the gateway's monotonic clock."""
    reason: WatchReason
    at: int


@dataclass(frozen=True, slots=True)
class Known:
    """What is known about one watched user."""

    told: Told | None = None
    """What the watchers were told last; None: nothing yet, they wait for the first reading."""
    token: int = 0
    """The highest fencing token that was seen."""
    absence: Absence | None = None
    heard: int = 0
    """How many events have been heard and taken."""


class WatchStep(NamedTuple):
    """What comes of an event, of a reading or of a time."""

    known: Known
    tell: Told | None = None
    """Tell this to all who watch the user."""
    read: bool = False
    """Ask Redis now."""


def on_event(known: Known, event: PresenceEvent, now: float, grace_s: float) -> WatchStep:
    """Return what comes of an event. One that is older than what is known says nothing."""
    if event.token < known.token:
        return WatchStep(known)
    known = replace(known, token=event.token, heard=known.heard + 1)
    told = Told(event.state, event.reason, event.at)
    if event.state is UserState.ONLINE:
        return _online(known, told)
    return _offline(known, told, now, grace_s)


def on_reading(known: Known, reading: Reading, now: float, grace_s: float) -> WatchStep:
    """Return what comes of a reading.

    It comes on another connection than the events. If one came since Redis was asked, nobody can
    say which of the two is newer, so Redis is asked again.
    """
    if reading.asked != known.heard:
        return WatchStep(known, read=True)
    if reading.token is None:
        told = Told(UserState.OFFLINE, WatchReason.EXPIRED, reading.at)
        return _offline(known, told, now, grace_s, is_sure=True)
    known = replace(known, token=max(known.token, reading.token))
    return _online(known, Told(UserState.ONLINE, WatchReason.UNKNOWN, reading.at))


def on_due(known: Known, now: float) -> WatchStep:
    """Return what comes of a time at which an absence may be due: Redis is asked."""
    absence = known.absence
    return WatchStep(known, read=absence is not None and now >= absence.due_s)


def _online(known: Known, told: Told) -> WatchStep:
    known = replace(known, absence=None)
    if known.told is not None and known.told.state is UserState.ONLINE:
        return WatchStep(known)
    return WatchStep(replace(known, told=told), told)


def _offline(
    known: Known, told: Told, now: float, grace_s: float, *, is_sure: bool = False
) -> WatchStep:
    """Return what comes of a user who seems to be gone; `is_sure` when Redis itself has said so."""
    if known.told is None:
        # Nothing has been told yet, so there is nothing to take back: no grace is needed.
        first = told._replace(reason=WatchReason.UNKNOWN) if is_sure else told
        return WatchStep(replace(known, told=first), first)
    if known.told.state is UserState.OFFLINE:
        return WatchStep(known)
    absence = known.absence
    if absence is None:
        return WatchStep(replace(known, absence=Absence(now + grace_s, told.reason, told.at)))
    if not is_sure:
        # A newer session has gone as well, and its login was not heard: its reason is the true one.
        newer = absence._replace(reason=told.reason, at=told.at)
        return WatchStep(replace(known, absence=newer))
    if now < absence.due_s:
        return WatchStep(known)
    gone = Told(UserState.OFFLINE, absence.reason, absence.at)
    return WatchStep(replace(known, told=gone, absence=None), gone)


_event_decoder: Final = msgspec.json.Decoder(PresenceEvent)


def decode_event(data: bytes) -> PresenceEvent | None:
    """Decode what was published on a channel of watchers; None when no script of ours did so."""
    try:
        return _event_decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def told_text(user: str, told: Told) -> bytes:
    """Return a `presence` message as a watcher reads it."""
    return msgspec.json.encode(
        {
            "type": "presence",
            "user": user,
            "state": told.state.value,
            "reason": told.reason.value,
            "at": told.at,
        }
    )

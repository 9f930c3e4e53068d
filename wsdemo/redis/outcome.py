"""Errors of Redis: what does one say about the server, and what helps?

A reply such as WRONGTYPE is about its command: the server is fine. READONLY or MISCONF are about
the server: every later write would fail as well. One table says which is which, and what helps:
another connection, time, or a person. Code above the link uses `Outcome`, and compares no text of
Redis.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Iterator, Mapping
from enum import Enum, StrEnum
from typing import Final, NamedTuple

from redis.exceptions import RedisError

from wsdemo.addresses import without_secrets


class Cure(Enum):
    """What helps."""

    NONE = "none is needed"
    """The command was wrong; the server is not."""
    WAIT = "wait"
    """This server may accept writes later: keep the connection and ask again."""
    DIAL = "dial anew"
    """A new connection to the same address may reach another server, or this one in another
    state."""


class Outcome(StrEnum):
    """Why a command, or a connection, did not succeed."""

    OWN = "own"
    """The command's own failure: WRONGTYPE, a wrong argument, an error of a script."""
    READONLY = "readonly"
    LOADING = "loading"
    MASTERDOWN = "masterdown"
    CLUSTERDOWN = "clusterdown"
    MISCONF = "misconf"
    """Redis cannot save its data, and is configured to refuse writes then."""
    NOREPLICAS = "noreplicas"
    OOM = "oom"
    """No memory for new keys. Existing ones can still be refreshed, read and removed."""
    BUSY = "busy"
    """A script runs for too long; everything else is refused meanwhile."""
    MAXCLIENTS = "maxclients"
    NOPERM = "noperm"
    NOAUTH = "noauth"
    WRONGPASS = "wrongpass"
    UNKNOWN_COMMAND = "unknown_command"
    """A command that this server does not have; some proxies, for example, have no scripts."""
    TOO_OLD = "too_old"
    """It cannot read our scripts, whose first line declares flags."""
    OTHER_SLOT = "other_slot"
    """A cluster, in which our keys are not on one server."""
    NO_SERVICE = "no_service"
    """Sentinels that do not know the service whose primary is asked for."""
    UNFIT = "unfit"
    """It refuses what must work, with a text that we do not know (a proxy's, for example)."""
    UNREACHABLE = "unreachable"
    """No connection: no server there, no answer in time, or it broke."""

    @property
    def cure(self) -> Cure:
        return CURES[self]

    @property
    def passes(self) -> bool:
        """Whether such a server may accept us later, without a change of our settings."""
        return self not in _FOR_GOOD


CURES: Final[Mapping[Outcome, Cure]] = {
    Outcome.OWN: Cure.NONE,
    Outcome.READONLY: Cure.DIAL,
    Outcome.LOADING: Cure.DIAL,
    Outcome.MASTERDOWN: Cure.DIAL,
    Outcome.CLUSTERDOWN: Cure.DIAL,
    Outcome.MISCONF: Cure.WAIT,
    Outcome.NOREPLICAS: Cure.WAIT,
    Outcome.OOM: Cure.WAIT,
    Outcome.BUSY: Cure.WAIT,
    Outcome.MAXCLIENTS: Cure.DIAL,
    Outcome.NOPERM: Cure.DIAL,  # Rights may have been given since; scripts are loaded anew.
    Outcome.NOAUTH: Cure.DIAL,
    Outcome.WRONGPASS: Cure.DIAL,
    Outcome.UNKNOWN_COMMAND: Cure.DIAL,
    Outcome.TOO_OLD: Cure.DIAL,
    Outcome.OTHER_SLOT: Cure.DIAL,
    Outcome.NO_SERVICE: Cure.DIAL,
    Outcome.UNFIT: Cure.DIAL,
    Outcome.UNREACHABLE: Cure.DIAL,
}

_FOR_GOOD: Final = frozenset(
    {
        Outcome.NOPERM,
        Outcome.NOAUTH,
        Outcome.WRONGPASS,
        Outcome.UNKNOWN_COMMAND,
        Outcome.TOO_OLD,
        Outcome.OTHER_SLOT,
        Outcome.NO_SERVICE,
        # A server may come later, too, but a person at a terminal wants to know at once.
        Outcome.UNREACHABLE,
    }
)

_BY_CODE: Final[Mapping[str, Outcome]] = {
    "READONLY": Outcome.READONLY,
    "LOADING": Outcome.LOADING,
    "MASTERDOWN": Outcome.MASTERDOWN,
    "CLUSTERDOWN": Outcome.CLUSTERDOWN,
    "TRYAGAIN": Outcome.CLUSTERDOWN,
    "MOVED": Outcome.OTHER_SLOT,
    "ASK": Outcome.OTHER_SLOT,
    "CROSSSLOT": Outcome.OTHER_SLOT,
    "MISCONF": Outcome.MISCONF,
    "NOREPLICAS": Outcome.NOREPLICAS,
    "OOM": Outcome.OOM,
    "BUSY": Outcome.BUSY,
    "UNKILLABLE": Outcome.BUSY,
    "NOPERM": Outcome.NOPERM,
    "NOAUTH": Outcome.NOAUTH,
    "DENIED": Outcome.NOAUTH,  # Protected mode: no password is set, and we are not local.
    "WRONGPASS": Outcome.WRONGPASS,
}

_BY_TEXT: Final[tuple[tuple[re.Pattern[str], Outcome], ...]] = (
    (re.compile(r"max number of clients"), Outcome.MAXCLIENTS),
    # Within a script, Valkey and Redis 7.0 have no code of their own for a missing right.
    (re.compile(r"ACL failure in script|The user executing the script can't"), Outcome.NOPERM),
    (re.compile(r"(unknown|unsupported) (redis )?command", re.IGNORECASE), Outcome.UNKNOWN_COMMAND),
    (re.compile(r"AUTH <password> called without|invalid password"), Outcome.WRONGPASS),
    (re.compile(r"invalid username-password"), Outcome.WRONGPASS),
    (re.compile(r"Error compiling script"), Outcome.TOO_OLD),
    (re.compile(r"No such master with that name"), Outcome.NO_SERVICE),
)
"""For errors whose first word says nothing (ERR)."""


def classify(text: str) -> Outcome:
    """Say what an error reply means; `text` is all of it, without the sign before it."""
    outcome = _BY_CODE.get(text.partition(" ")[0])
    if outcome is not None:
        return outcome
    for pattern, meant in _BY_TEXT:
        if pattern.search(text):
            return meant
    return Outcome.OWN


class CommandError(Exception):
    """Redis answered a command with an error; `code` is its first word (NOSCRIPT, OOM, ...)."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.code = message.partition(" ")[0]

    @property
    def outcome(self) -> Outcome:
        return classify(str(self))


class Trouble(NamedTuple):
    """Why a connection cannot be used."""

    outcome: Outcome
    words: str
    """One line for people: Redis' own text where there is one. Contains no password."""

    def __str__(self) -> str:
        return self.words


class Refused(Exception):
    """A server was reached, and cannot be used now."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(trouble.words)
        self.trouble = trouble


def trouble_of(problem: BaseException) -> Trouble:
    """Return what a failure to connect, or a refusal of what must work, means."""
    if isinstance(problem, Refused):
        return problem.trouble
    if isinstance(problem, CommandError):
        return _refusal(text_of(problem))
    for cause in _causes(problem):
        # redis-py removes the code from the text of Redis, and keeps it as an attribute.
        code = getattr(cause, "status_code", None)
        if isinstance(cause, RedisError) and code:
            return _refusal(f"{code} {text_of(problem)}")
        # Event loops have texts of their own for a socket that cannot be connected.
        if isinstance(cause, OSError) and not isinstance(cause, ssl.SSLError):
            number = cause.errno or 0
            if number > 0:
                return Trouble(Outcome.UNREACHABLE, os.strerror(number).lower())
    return Trouble(Outcome.UNREACHABLE, text_of(problem))


def _causes(problem: BaseException | None) -> Iterator[BaseException]:
    while problem is not None:
        yield problem
        problem = problem.__cause__ or problem.__context__


def _refusal(words: str) -> Trouble:
    outcome = classify(words)
    if outcome is Outcome.TOO_OLD:
        words = f"{words} (Redis 7.0 or newer is needed)"
    if outcome is Outcome.OTHER_SLOT:
        words = f"{words} (it is a cluster: its address begins with redis+cluster://)"
    return Trouble(Outcome.UNFIT if outcome is Outcome.OWN else outcome, words)


def text_of(problem: BaseException) -> str:
    """Return what an exception says, as one line and without secrets."""
    if isinstance(problem, TimeoutError) and not str(problem):
        return "no answer in time"
    text = " ".join(str(problem).split()).rstrip(".")
    return without_secrets(text) or type(problem).__name__

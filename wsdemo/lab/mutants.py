"""Would the model checker notice if a script were wrong?

A mutant is a shipped script with one mistake that somebody might make, or might let pass in a
review. The checker has to kill each of them, with the invariant named here and in the scenario
named here; a mutant that survives means that the checker is blind, not that the script is right.
`EQUIVALENT` are changes of which it can be shown that they change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from wsdemo.lab.checker.machine import SHIPPED
from wsdemo.lab.checker.report import Result
from wsdemo.lab.checker.search import check
from wsdemo.lab.checker.states import Clients, Clock, Scenario


class MutantError(Exception):
    """The piece that a mutant replaces is not (or not only once) in the script any more."""


class Change(NamedTuple):
    """A piece of a script's text that stands there once, and what takes its place."""

    script: str
    piece: str
    replacement: str = ""


@dataclass(frozen=True, slots=True)
class Mutant:
    """A mistake.

    Args:
        breaks: the invariant that shows it.
        scenario: what has to happen for it to show.
    """

    name: str
    breaks: str
    changes: tuple[Change, ...]
    scenario: Scenario

    def scripts(self) -> dict[str, str]:
        """Return the texts of the scripts that it changes.

        Raises:
            MutantError: it does not fit the shipped scripts.
        """
        texts: dict[str, str] = {}
        for change in self.changes:
            text = texts.get(change.script, SHIPPED[change.script])
            if text.count(change.piece) != 1:
                raise MutantError(
                    f"{self.name}: {change.script}.lua has this {text.count(change.piece)} times, "
                    f"not once: {change.piece!r}"
                )
            texts[change.script] = text.replace(change.piece, change.replacement)
        return texts

    def check(self) -> Result:
        """Search for an order that shows it, and stop at the first."""
        return check(self.scenario, self.scripts(), first=True)

    def __str__(self) -> str:
        return self.name


# --- what has to happen ------------------------------------------------------------------------

CALM: Final = Scenario(duplicates=0, expiries=0)
EXPIRY: Final = Scenario(duplicates=0)
LATE: Final = Scenario(expiries=0)
LATE_AND_EXPIRY: Final = Scenario()
LOSS: Final = Scenario(duplicates=0, expiries=0, losses=1)
CLOCK: Final = Scenario(duplicates=0, expiries=0, clock=Clock.FREE)
CLOCK_AND_LOSS: Final = Scenario(duplicates=0, expiries=0, losses=1, clock=Clock.FREE)
THREE_AND_CLOCK: Final = Scenario(sessions=3, duplicates=0, expiries=0, clock=Clock.FREE)
ONE_CLIENT: Final = Scenario(duplicates=0, clients=Clients.ONE)
SEVERAL_CLIENTS: Final = Scenario(duplicates=0, clients=Clients.SEVERAL)

# --- pieces ------------------------------------------------------------------------------------

_TOP: Final = "math.max(number(fence[1]), owner_token) > token"
_CLOSED: Final = "fence[2] == ARGV[3] .. ':' .. conn"
_SETS_CLOSED: Final = "number(fence[2]) == token or number(fence[2]) == 0"
_MINTED: Final = (
    "math.max(now, (tonumber(fence[1] or 0) or 0) + 1, (tonumber(fence[2] or 0) or 0) + 1)"
)
_LATE: Final = "token < top or number(fence[2]) >= token"
_TIED: Final = "owner[2] and owner_token == token and owner[2] > conn"
_GIVEN_UP: Final = "inst ~= '' and owner[4] == inst and owner[2] ~= conn and number(owner[5]) > att"
_IS_OWNER: Final = "if owner[2] == conn then"
_IS_MINE: Final = "redis.call('HGET', KEYS[1], 'connId') == conn"
_TAKES: Final = (
    "'epoch', ARGV[3], 'inst', inst, 'att', ARGV[7])\nredis.call('PEXPIRE', KEYS[1], ARGV[4])"
)
_RECLAIMS: Final = (
    "'epoch', ARGV[3], 'inst', ARGV[6], 'att', ARGV[7])\nredis.call('PEXPIRE', KEYS[1], ARGV[4])"
)
_RENEWS: Final = (
    "  redis.call('PEXPIRE', KEYS[1], ARGV[4])\n  redis.call('PEXPIRE', KEYS[2], ARGV[5])"
)
_LOST: Final = "-- The entry was lost"
_OVERTAKEN: Final = "-- Somebody newer has registered"


def _one(
    name: str, breaks: str, scenario: Scenario, script: str, piece: str, replacement: str = ""
) -> Mutant:
    return Mutant(f"{script}: {name}", breaks, (Change(script, piece, replacement),), scenario)


MUTANTS: Final[tuple[Mutant, ...]] = (
    # Who may write.
    _one("deletes unconditionally, as the demo", "W1", CALM, "release", _IS_MINE, "true"),
    _one("never deletes", "W4c", CALM, "release", _IS_MINE, "false"),
    _one(
        "compares tokens, not connections",
        *("W1", CLOCK_AND_LOSS, "release"),
        *(_IS_MINE, "redis.call('HGET', KEYS[1], 'epoch') == ARGV[2]"),
    ),
    _one(
        "compares gateways, not connections",
        "W3",
        ONE_CLIENT,
        "refresh",
        _IS_OWNER,
        "if owner[1] == ARGV[2] then",
    ),
    _one(
        "compares tokens, not connections",
        "W3",
        CLOCK_AND_LOSS,
        "refresh",
        _IS_OWNER,
        "if owner[3] == ARGV[3] then",
    ),
    _one("lets everybody renew", "W3", CALM, "refresh", _IS_OWNER, "if owner[2] then"),
    # Order.
    _one("does not look at top", "W4b", LATE, "register", _LATE, "number(fence[2]) >= token"),
    _one("does not look at the floor", "W4", LATE, "register", _LATE, "token < top"),
    _one(
        "turns away its own copy",
        "W8",
        LATE,
        "register",
        _LATE,
        "token <= top or number(fence[2]) >= token",
    ),
    _one("does not look at top", "W2", CALM, "refresh", _TOP, "false"),
    _one("an equal top is newer", "W8", EXPIRY, "refresh", _TOP, _TOP.replace(">", ">=")),
    _one("forgets top", "W4b", LATE, "register", "'top', ARGV[3], 'mint', text(", "'mint', text("),
    _one(
        "forgets top when it reclaims",
        "W4b",
        Scenario(duplicates=0, losses=1),
        "refresh",
        "'top', ARGV[3], 'mint', text(",
        "'mint', text(",
    ),
    _one("equal tokens are no tie", "W2", CLOCK_AND_LOSS, "register", _TIED, "false"),
    _one("equal tokens are no tie", "L1", CLOCK_AND_LOSS, "refresh", f"({_TIED})", "false"),
    # After the end.
    _one("does not look whether it is closed", "W4", LATE, "refresh", _CLOSED, "false"),
    _one("closes nothing", "W4", LATE, "release", _SETS_CLOSED, "false"),
    _one(
        "closes tokens, not sessions",
        "W8",
        CLOCK_AND_LOSS,
        "refresh",
        _CLOSED,
        "fence[2] and string.match(fence[2], '^%d+') == ARGV[3]",
    ),
    Mutant(
        "closed is a high-water mark",
        "W8",
        (
            Change("refresh", _CLOSED, "number(string.match(fence[2] or '0', '^%d+')) >= token"),
            Change("release", _SETS_CLOSED, "true"),
        ),
        EXPIRY,
    ),
    _one(
        "sets no floor",
        "W4",
        LATE,
        "release",
        "'floor', text(math.max(number(fence[1]), token)),\n           ",
        "",
    ),
    _one(
        "may lower the floor",
        "W4",
        LATE,
        "release",
        "text(math.max(number(fence[1]), token))",
        "text(token)",
    ),
    _one(
        "removes the fence as well",
        "W4",
        LATE,
        "release",
        "redis.call('DEL', KEYS[1])",
        "redis.call('DEL', KEYS[1], KEYS[2])",
    ),
    _one(
        "writes tokens with too few digits",
        "W4",
        LATE,
        "release",
        "string.format('%.0f', n)",
        "tostring(n)",
    ),
    # Tokens.
    _one("asks the clock only", "W5", CLOCK, "mint", _MINTED, "now"),
    _one("counts, and asks no clock", "W5", LOSS, "mint", "math.max(now, ", "math.max("),
    _one(
        "may give the last token again",
        "W5",
        CLOCK,
        "mint",
        "(tonumber(fence[1] or 0) or 0) + 1",
        "(tonumber(fence[1] or 0) or 0)",
    ),
    _one(
        "forgets what it gave out", "W5", CLOCK, "mint", "redis.call('HSET', KEYS[1], 'mint', text)"
    ),
    _one(
        "lowers the last token",
        "W5",
        CLOCK,
        "release",
        "text(math.max(number(fence[3]), token))",
        "text(token)",
    ),
    _one(
        "does not keep its token in mind",
        "W5b",
        CLOCK_AND_LOSS,
        "release",
        ",\n           'mint', text(math.max(number(fence[3]), token))",
    ),
    _one(
        "lowers the last token",
        "W5",
        THREE_AND_CLOCK,
        "register",
        "text(math.max(number(fence[3]), token))",
        "ARGV[3]",
    ),
    # The entry.
    _one(
        "writes into nothing, as the demo",
        "W0",
        EXPIRY,
        "refresh",
        _IS_OWNER,
        f"redis.call('HSET', KEYS[1], 'ts', now)\n{_IS_OWNER}",
    ),
    _one(
        "never brings an entry back",
        "L2",
        EXPIRY,
        "refresh",
        _LOST,
        f"do return {{'ok'}} end\n{_LOST}",
    ),
    _one(
        "takes a lost entry for the end",
        "W8",
        EXPIRY,
        "refresh",
        _LOST,
        f"do return {{'closed'}} end\n{_LOST}",
    ),
    _one(
        "brings half an entry back",
        "W0",
        EXPIRY,
        "refresh",
        "'epoch', ARGV[3], 'inst', ARGV[6], 'att', ARGV[7])",
        "'epoch', ARGV[3])",
    ),
    _one(
        "forgets the client when it reclaims",
        "W0",
        ONE_CLIENT,
        "refresh",
        "'inst', ARGV[6]",
        "'inst', ''",
    ),
    _one(
        "confuses gateway and connection",
        "W0",
        CALM,
        "register",
        "'gwId', ARGV[2], 'connId', conn",
        "'gwId', conn, 'connId', ARGV[2]",
    ),
    # Lives.
    _one("gives no lease", "W3", CALM, "register", _TAKES, _TAKES.partition("\n")[0]),
    _one(
        "gives no lease when it reclaims",
        "W3",
        EXPIRY,
        "refresh",
        _RECLAIMS,
        _RECLAIMS.partition("\n")[0],
    ),
    _one("does not renew the lease", "W3", CALM, "refresh", _RENEWS, _RENEWS.partition("\n")[2]),
    _one("does not renew the fence", "W3", CALM, "refresh", _RENEWS, _RENEWS.partition("\n")[0]),
    _one(
        "prolongs another's lease",
        "W3b",
        CALM,
        "refresh",
        _OVERTAKEN,
        f"redis.call('PEXPIRE', KEYS[1], ARGV[4])\n{_OVERTAKEN}",
    ),
    _one(
        "prolongs another's lease",
        "W1",
        CALM,
        "release",
        "-- A refresh of this session",
        "redis.call('PEXPIRE', KEYS[1], ARGV[3])\n-- A refresh of this session",
    ),
    _one(
        "the fence is there for ever", "W6", CALM, "mint", "redis.call('PEXPIRE', KEYS[1], ARGV[1])"
    ),
    _one(
        "the fence is there for ever",
        "W6",
        LOSS,
        "release",
        "redis.call('PEXPIRE', KEYS[2], ARGV[3])",
    ),
    # Clients that count.
    _one("forgets that clients dial again", "W3c", ONE_CLIENT, "register", _GIVEN_UP, "false"),
    _one(
        "confuses clients that count",
        "W8",
        SEVERAL_CLIENTS,
        "register",
        "owner[4] == inst and ",
        "",
    ),
    _one(
        "the earlier attempt wins",
        "W3c",
        ONE_CLIENT,
        "register",
        "number(owner[5]) > att",
        "number(owner[5]) < att",
    ),
    # Answers.
    _one(
        "does not say whom to kick",
        "W7",
        CALM,
        "register",
        "return {'ok', owner[1] or '', owner[2], text(owner_token)}",
        "return {'ok', '', '', '0'}",
    ),
    _one(
        "kicks the winner itself",
        "W7",
        LATE,
        "register",
        "if owner[2] and owner[2] ~= conn then",
        "if owner[2] then",
    ),
    _one("says that it removed", "W4c", CALM, "release", "return 0", "return 1"),
)


@dataclass(frozen=True, slots=True)
class Equivalent:
    """A change that nobody can notice, and why."""

    name: str
    why: str
    change: Change

    def scripts(self) -> Mapping[str, str]:
        """Return the text of the script that it changes."""
        return Mutant(self.name, "", (self.change,), LATE_AND_EXPIRY).scripts()

    def __str__(self) -> str:
        return self.name


EQUIVALENT: Final[tuple[Equivalent, ...]] = (
    Equivalent(
        "mint: does not look at top",
        "register and refresh never leave `mint` below `top`",
        Change("mint", ", (tonumber(fence[2] or 0) or 0) + 1)", ")"),
    ),
    Equivalent(
        "register: does not raise mint",
        "mint looks at `top` as well, which register writes",
        Change("register", ", 'mint', text(math.max(number(fence[3]), token))", ""),
    ),
    Equivalent(
        "register: does not look at the owner's token",
        "`top` is never below it, as long as the fence outlives the entry, which W3 demands",
        Change("register", "math.max(number(fence[1]), owner_token)", "number(fence[1])"),
    ),
    Equivalent(
        "register: does not remove the entry before it",
        "it writes every field that an entry of ours has; the DEL is for what others put there",
        Change("register", "redis.call('DEL', KEYS[1])\n", ""),
    ),
    Equivalent(
        "refresh: does not remove the entry before it",
        "as register",
        Change("refresh", "redis.call('DEL', KEYS[1])\n", ""),
    ),
    Equivalent(
        "register: an equal attempt is a later one",
        "two sessions of one client never have the same attempt number",
        Change("register", "number(owner[5]) > att", "number(owner[5]) >= att"),
    ),
)
"""Kept in the scripts on purpose: two checks that each would be enough, and a clean slate."""

"""Mutants of the presence scripts: which mistakes must the model checker notice?

`EQUIVALENT` are changes that cannot make a difference, each with the reason.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from wsdemo.proof.checker.machines.presence.states import Clients, Clock, Scenario, Verb
from wsdemo.proof.checker.mutants import Change, Equivalent, Mutant

# --- scenarios ------------------------------------------------------------------------

CALM: Final = Scenario(duplicates=0, expiries=0)
EXPIRY: Final = Scenario(duplicates=0)
LATE: Final = Scenario(expiries=0)
LOSS: Final = Scenario(duplicates=0, expiries=0, losses=1)
LOSS_AND_EXPIRY: Final = Scenario(duplicates=0, losses=1)
CLOCK: Final = Scenario(duplicates=0, expiries=0, clock=Clock.FREE)
CLOCK_AND_LOSS: Final = Scenario(duplicates=0, expiries=0, losses=1, clock=Clock.FREE)
CLOCK_OF_THREE: Final = Scenario(sessions=3, duplicates=0, expiries=0, clock=Clock.FREE)
CLOCK_OF_THREE_AND_EXPIRY: Final = Scenario(sessions=3, duplicates=0, clock=Clock.FREE)
ONE_CLIENT: Final = Scenario(duplicates=0, clients=Clients.ONE)
SEVERAL_CLIENTS: Final = Scenario(duplicates=0, clients=Clients.SEVERAL)

# --- pieces that are replaced more than once -----------------------------------------------------

_MAX_FLOOR: Final = "text(math.max(number(fence[1]), token))"
_MAX_MINT: Final = "text(math.max(number(fence[3]), token))"
_MAX_TOP: Final = "math.max(number(fence[1]), owner_token)"
_OVERTAKEN: Final = f"{_MAX_TOP} > token"
_LATE: Final = "token < top or number(fence[2]) >= token"
_TIED: Final = "owner[2] and owner_token == token and owner[2] > conn"
_GIVEN_UP: Final = "inst ~= '' and owner[4] == inst and owner[2] ~= conn and number(owner[5]) > att"
_IS_OWNER: Final = "if owner[2] == conn then"
_IS_MINE: Final = "if owner == conn then"
_IS_CLOSED: Final = "fence[2] == ARGV[3] .. ':' .. conn"
_MAY_CLOSE: Final = "number(fence[2]) == token or number(fence[2]) == 0"
_WRITES_TOP: Final = "'top', ARGV[3], "
_LEASES: Final = "redis.call('PEXPIRE', KEYS[1], ARGV[4])"
_KEEPS_FENCE: Final = "redis.call('PEXPIRE', KEYS[2], ARGV[5])"
_TAKES: Final = "'inst', inst, 'att', ARGV[7])\n"
_RECLAIMS: Final = "'inst', ARGV[6], 'att', ARGV[7])\n"
_BEFORE_ORDER: Final = "-- Somebody newer has registered"
_BEFORE_CLOSED: Final = "-- A refresh of this session"
_BEFORE_RECLAIM: Final = "-- The entry was lost"


def _one(
    script: str, name: str, breaks: str, scenario: Scenario, piece: str, replacement: str = ""
) -> Mutant:
    return Mutant(f"{script}: {name}", breaks, (Change(script, piece, replacement),), scenario)


_mint, _register, _refresh, _release = (partial(_one, script.value) for script in Verb)


MUTANTS: Final[tuple[Mutant, ...]] = (
    # Whose is the entry?
    _release("deletes unconditionally, as the demo", "S1", CALM, _IS_MINE, "if true then"),
    _release("never deletes", "S4c", CALM, _IS_MINE, "if false then"),
    _release(
        "compares tokens, not connections",
        *(
            "S1",
            CLOCK_AND_LOSS,
            _IS_MINE,
            "if redis.call('HGET', KEYS[1], 'epoch') == ARGV[2] then",
        ),
    ),
    _refresh(
        "compares tokens, not connections",
        *("S3", CLOCK_AND_LOSS, _IS_OWNER, "if owner[3] == ARGV[3] then"),
    ),
    _refresh(
        "compares gateways, not connections",
        *("S3", ONE_CLIENT, _IS_OWNER, "if owner[1] == ARGV[2] then"),
    ),
    _refresh("lets everybody renew", "S3", CALM, _IS_OWNER, "if owner[2] then"),
    # Who is newer?
    _register("does not look at top", "S4b", LATE, _LATE, "number(fence[2]) >= token"),
    _register("does not look at the floor", "S4", LATE, _LATE, "token < top"),
    _register("turns its own copy away", "S8", LATE, _LATE, _LATE.replace("<", "<=")),
    _register("does not write top", "S4b", LATE, _WRITES_TOP),
    _register("equal tokens are no tie", "S2", CLOCK_AND_LOSS, _TIED, "false"),
    _refresh("does not look at top", "S2b", CALM, _OVERTAKEN, "false"),
    _refresh("an equal top is newer", "S8", EXPIRY, _OVERTAKEN, f"{_MAX_TOP} >= token"),
    _refresh("does not write top when it reclaims", "S4b", LOSS_AND_EXPIRY, _WRITES_TOP),
    _refresh("equal tokens are no tie", "E1", CLOCK_AND_LOSS, f"({_TIED})", "false"),
    # Is it over?
    _refresh("does not look whether it is closed", "S4", LATE, _IS_CLOSED, "false"),
    _refresh(
        "looks whether a token is closed, not a session",
        *("S8", CLOCK_AND_LOSS, _IS_CLOSED, "string.match(fence[2] or '', '^%d+') == ARGV[3]"),
    ),
    _release("closes nothing", "S4", LATE, _MAY_CLOSE, "false"),
    _release("does not write the floor", "S4", LATE, f"'floor', {_MAX_FLOOR},\n           "),
    _release("may lower the floor", "S4", LATE, _MAX_FLOOR, "text(token)"),
    _release("removes the fence as well", "S4", LATE, "'DEL', KEYS[1]", "'DEL', KEYS[1], KEYS[2]"),
    _release("writes too few digits", "S4", LATE, "string.format('%.0f', n)", "tostring(n)"),
    Mutant(
        "refresh, release: closed is a high-water mark",
        "S8",
        (
            Change("refresh", _IS_CLOSED, "number(string.match(fence[2] or '', '^%d+')) >= token"),
            Change("release", _MAY_CLOSE, "true"),
        ),
        EXPIRY,
    ),
    # Is the token larger?
    _mint("asks the clock, and not the fence", "S5", CLOCK, "math.max(now, ", "math.max(now) -- "),
    _mint("asks the fence, and not the clock", "S5", LOSS, "math.max(now, ", "math.max("),
    _mint(
        "gives the last token again",
        "S5",
        CLOCK,
        "(fence[1] or 0) or 0) + 1",
        "(fence[1] or 0) or 0)",
    ),
    _mint("does not write what it gave", "S5", CLOCK, "redis.call('HSET', KEYS[1], 'mint', text)"),
    _register("may lower the last token", "S5", CLOCK_OF_THREE, _MAX_MINT, "ARGV[3]"),
    _refresh("may lower the last token", "S5", CLOCK_OF_THREE_AND_EXPIRY, _MAX_MINT, "ARGV[3]"),
    _release("may lower the last token", "S5", CLOCK_OF_THREE, _MAX_MINT, "text(token)"),
    _release(
        "does not raise the last token", "S5b", CLOCK_AND_LOSS, f",\n           'mint', {_MAX_MINT}"
    ),
    # Is the entry whole, and there?
    _refresh(
        "writes into nothing, as the demo",
        *("S0", EXPIRY, _IS_OWNER, f"redis.call('HSET', KEYS[1], 'ts', now)\n{_IS_OWNER}"),
    ),
    _refresh("brings half an entry back", "S0", EXPIRY, f", {_RECLAIMS}", ")\n"),
    _refresh("forgets the client", "S0", ONE_CLIENT, "'inst', ARGV[6]", "'inst', ''"),
    _refresh(
        "says ok, and brings nothing back",
        *("E2", EXPIRY, _BEFORE_RECLAIM, f"do return {{'ok'}} end\n{_BEFORE_RECLAIM}"),
    ),
    _refresh(
        "takes a lost entry for the end",
        *("E3", EXPIRY, _BEFORE_RECLAIM, f"do return {{'closed'}} end\n{_BEFORE_RECLAIM}"),
    ),
    _register(
        "confuses gateway and connection",
        *("S0", CALM, "'gwId', ARGV[2], 'connId', conn", "'gwId', conn, 'connId', ARGV[2]"),
    ),
    # For how long?
    _register("gives no lease", "S3", CALM, _TAKES + _LEASES, _TAKES),
    _register("does not keep the fence", "S3", CALM, _KEEPS_FENCE),
    _refresh("does not renew the lease", "S3", CALM, f"'ts', now)\n  {_LEASES}", "'ts', now)"),
    _refresh("does not keep the fence", "S3", CALM, f"  {_KEEPS_FENCE}\n  return", "  return"),
    _refresh(
        "does not keep the fence when it reclaims",
        *("S3", EXPIRY, f"{_KEEPS_FENCE}\nreturn", "return"),
    ),
    _refresh("gives no lease when it reclaims", "S3", EXPIRY, _RECLAIMS + _LEASES, _RECLAIMS),
    _refresh(
        "prolongs the lease of another",
        *("S3b", CALM, _BEFORE_ORDER, f"{_LEASES}\n{_BEFORE_ORDER}"),
    ),
    _release(
        "prolongs the lease of another",
        *("S1", CALM, _BEFORE_CLOSED, f"redis.call('PEXPIRE', KEYS[1], ARGV[3])\n{_BEFORE_CLOSED}"),
    ),
    _mint("keeps the fence for ever", "S6", CALM, "redis.call('PEXPIRE', KEYS[1], ARGV[1])"),
    _release("keeps the fence for ever", "S6", LOSS, "redis.call('PEXPIRE', KEYS[2], ARGV[3])"),
    # Which attempt of a client?
    _register("forgets that clients dial again", "S3c", ONE_CLIENT, _GIVEN_UP, "false"),
    _register(
        "lets the earlier attempt win", "S3c", ONE_CLIENT, "(owner[5]) > att", "(owner[5]) < att"
    ),
    _register("takes all clients for one", "S8", SEVERAL_CLIENTS, "owner[4] == inst and "),
    # Is the answer right?
    _refresh("takes overtaken for closed", "S8", CALM, "return {'superseded'", "return {'closed'"),
    _register(
        "does not say whom to kick", "S7", CALM, "'ok', owner[1] or '', owner[2]", "'ok', '', ''"
    ),
    _register(
        "says to kick the winner", "S7", LATE, "if owner[2] and owner[2] ~= conn", "if owner[2]"
    ),
    _release("says that it removed what it did not", "S4c", CALM, "and -1 or 0", "and 1 or 1"),
    _release("takes another's entry for none", "S4c", CALM, "owner and -1 or 0", "0"),
    _release("takes none for another's entry", "S4c", EXPIRY, "owner and -1 or 0", "-1"),
)


EQUIVALENT: Final[tuple[Equivalent, ...]] = (
    Equivalent(
        "mint: does not look at top",
        "register and refresh never leave `mint` below `top`",
        Change("mint", ", (tonumber(fence[2] or 0) or 0) + 1)", ")"),
        CALM,
    ),
    Equivalent(
        "register: does not raise mint",
        "mint looks at `top` as well, which register writes",
        Change("register", f", 'mint', {_MAX_MINT}"),
        CALM,
    ),
    Equivalent(
        "register: does not look at the owner's token",
        "`top` is never below it, as long as the fence outlives the entry, which S3 demands",
        Change("register", _MAX_TOP, "number(fence[1])"),
        CALM,
    ),
    Equivalent(
        "register: does not remove the entry before it",
        "it writes every field that an entry of ours has; the DEL is for what others put there",
        Change("register", "redis.call('DEL', KEYS[1])\n"),
        CALM,
    ),
    Equivalent(
        "refresh: does not remove the entry before it",
        "as register",
        Change("refresh", "redis.call('DEL', KEYS[1])\n"),
        CALM,
    ),
    Equivalent(
        "register: an equal attempt is a later one",
        "two sessions of one client never have the same attempt number",
        Change("register", "(owner[5]) > att", "(owner[5]) >= att"),
        CALM,
    ),
)
"""These pieces stay in the scripts on purpose, although one of two checks would be enough."""

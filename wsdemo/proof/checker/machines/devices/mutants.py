"""Mutants of the scripts for several devices: which mistakes must be noticed?"""

from __future__ import annotations

from functools import partial
from typing import Final

from wsdemo.proof.checker.machines.devices.scenarios import (
    ALONE,
    CALM,
    EXPIRY,
    FORGETFUL,
    FULL,
    FULL_AND_EXPIRY,
    LATE,
    ONE_CLIENT,
    SAME,
    SAME_AND_EXPIRY,
    THREE,
    TIED,
)
from wsdemo.proof.checker.machines.devices.states import DeviceScenario
from wsdemo.proof.checker.mutants import Change, Mutant


def _one(
    script: str,
    name: str,
    breaks: str,
    scenario: DeviceScenario,
    piece: str,
    replacement: str = "",
) -> Mutant:
    change = Change(f"devices_{script}", piece, replacement)
    return Mutant(f"{script}: {name}", breaks, (change,), scenario)


_register, _refresh, _release, _route = (
    partial(_one, name) for name in ("register", "refresh", "release", "route")
)

_FENCED: Final = """\
redis.call('HSET', KEYS[2], floor, \
text(math.max(number(redis.call('HGET', KEYS[2], floor)), entry.token)),
             field('closed', device), text(entry.token) .. ':' .. entry.conn)"""
_LOWERED: Final = (
    "redis.call('HSET', KEYS[2], 'low', "
    "text(math.max(tops[first], number(redis.call('HGET', KEYS[2], 'low')))))\n"
)
_FORGOTTEN_IN_REFRESH: Final = (
    "\n    or device ~= '' and not fence[1] and token <= number(fence[4]) then"
)
_TOP: Final = "math.max(number(fence[1]), owner.token or 0)"
_CLOSED: Final = "fence[2] == ARGV[3] .. ':' .. conn"
_RELEASE_FLOOR: Final = (
    "field('floor', device), text(math.max(number(fence[1]), token)), 'mint', text(mint)"
)
_MINT: Final = "text(math.max(number(fence[3]), token))"

MUTANTS: Final[tuple[Mutant, ...]] = (
    # Who has to go?
    _register("the evicted is not fenced", "N5", FULL, _FENCED, ""),
    _register(
        "the evicted is fenced, but not closed",
        "N1",
        FULL,
        ",\n             field('closed', device), text(entry.token) .. ':' .. entry.conn)",
        ")",
    ),
    _register(
        "the newest is evicted",
        "N4",
        THREE,
        "is_newer(live[first], entry)",
        "is_newer(entry, live[first])",
    ),
    _register(
        "one device more than allowed",
        "N4",
        FULL,
        "while count > tonumber(ARGV[9]) do",
        "while count > tonumber(ARGV[9]) + 1 do",
    ),
    _register(
        "one device fewer than allowed",
        "N4",
        CALM,
        "while count > tonumber(ARGV[9]) do",
        "while count >= tonumber(ARGV[9]) do",
    ),
    _register(
        "a device that dials again counts twice",
        "N0",
        ALONE,
        "if not owner.conn then count = count + 1 end",
        "count = count + 1",
    ),
    _register(
        "the evicted is not named",
        "N4",
        FULL,
        "note_evicted(evict(live, first))",
        "evict(live, first)",
    ),
    _register(
        "the evicted stays in the entry",
        "N2",
        FULL,
        "redis.call('HDEL', KEYS[1], 's:' .. device)\n  redis.call('HSET', KEYS[2], floor",
        "redis.call('HSET', KEYS[2], floor",
    ),
    _refresh("reads a time that is none", "N0", CALM, "now_ms + ARGV[4]", "now_ms + ARGV[12]"),
    _refresh(
        "reclaimed beyond the limit",
        "N3",
        FULL_AND_EXPIRY,
        "if not owner.conn and count >= tonumber(ARGV[9]) then return {'closed'} end",
    ),
    # Whose fence is it?
    _register(
        "one fence for all: a newer phone shuts out the web",
        "N1",
        CALM,
        "field('top', device), field('floor', device), 'mint', 'low')",
        "'top', field('floor', device), 'mint', 'low')",
    ),
    _register(
        "top is written for all devices",
        "N1",
        CALM,
        "redis.call('HSET', KEYS[2], field('top', device), ARGV[3]",
        "redis.call('HSET', KEYS[2], 'top', ARGV[3]",
    ),
    _register("late registers are welcome", "N1", LATE, "if late or forgotten", "if forgotten"),
    _register("the floor is not asked", "N1", LATE, " or number(fence[2]) >= token"),
    _register("equal tokens are no tie", "N1", TIED, "forgotten or tied or", "forgotten or"),
    _register(
        "the later attempt of a client does not count",
        "N1",
        ONE_CLIENT,
        "tied or given_up then",
        "tied then",
    ),
    _register(
        "the owner before is not named",
        "N1",
        SAME,
        "reply[2], reply[3], reply[4] = owner.gateway, owner.conn, text(owner.token)",
        "reply[2] = ''",
    ),
    _refresh("top is not asked", "N1", SAME, f"if {_TOP} > token", "if (owner.token or 0) > token"),
    _refresh("released is not remembered", "N1", LATE, _CLOSED, "false"),
    _refresh("everybody renews", "E1", SAME, "if owner.conn == conn then", "if owner.conn then"),
    _refresh(
        "a lost entry is the end",
        "N1",
        EXPIRY,
        "announce(ARGV[11], 'online', 'reclaimed'",
        "do return {'closed'} end\nannounce(ARGV[11], 'online', 'reclaimed'",
    ),
    _release(
        "a release removes whoever is there",
        "N1",
        SAME,
        "if owner.conn ~= conn then return",
        "if not owner.conn then return",
    ),
    _release(
        "all devices are released",
        "N2",
        CALM,
        "redis.call('HDEL', KEYS[1], 's:' .. device)\nlive[device] = nil\nshow(live)",
        "redis.call('DEL', KEYS[1])",
    ),
    _release("the floor is not written", "N1", LATE, f"{_RELEASE_FLOOR}", "'mint', text(mint)"),
    _release(
        "closes nothing",
        "N1",
        LATE,
        "if number(fence[2]) == token or number(fence[2]) == 0 then",
        "if false then",
    ),
    _release("another's entry is none", "N1", SAME, "return owner.conn and -1 or 0", "return 0"),
    # What may be forgotten?
    _register(
        "does not ask what was forgotten", "N1", FORGETFUL, "if late or forgotten or", "if late or"
    ),
    _register(
        "forgets without a word",
        "N1",
        FORGETFUL,
        _LOWERED,
    ),
    _register(
        "forgets nothing", "N9", FORGETFUL, "while names > tonumber(ARGV[10]) do", "while false do"
    ),
    _register(
        "forgets who is there", "N1", FORGETFUL, "if not live[name] and (not first", "if (not first"
    ),
    _refresh("does not ask what was forgotten", "N1", FORGETFUL, _FORGOTTEN_IN_REFRESH, " then"),
    # Is the entry right, and for how long?
    _register(
        "an expired owner counts",
        "N1",
        SAME_AND_EXPIRY,
        "elseif entry and entry.till > now_ms then",
        "elseif entry then",
    ),
    _register(
        "the oldest is shown",
        "N6",
        CALM,
        "if not newest or is_newer(entry, newest) then newest = entry end",
        "if not newest or is_newer(newest, entry) then newest = entry end",
    ),
    _register("the fence is kept for ever", "N7", CALM, "redis.call('PEXPIRE', KEYS[2], ARGV[5])"),
    _register("the last token is lowered", "N8", CALM, f"'mint', {_MINT}", "'mint', ARGV[3]"),
    _refresh(
        "the lease is not renewed",
        "N7",
        CALM,
        "  write(live, device, own)\n  show(live)\n",
        "  show(live)\n",
    ),
    _refresh(
        "the life of the entry is the shortest",
        "N7",
        CALM,
        "till = math.max(till, entry.till)",
        "till = now_ms + 1000",
    ),
    # Where do messages go?
    _route(
        "expired devices are routed to",
        "N10",
        EXPIRY,
        "elseif entry and entry.till > now_ms then",
        "elseif entry then",
    ),
    _route(
        "one device of each gateway",
        "N10",
        THREE,
        "table.insert(at[entry.gateway],",
        "at[entry.gateway][1] = (",
    ),
    _route(
        "nobody is left out of the count",
        "N10",
        CALM,
        "of, is_found = of + 1, true",
        "is_found = true",
    ),
)

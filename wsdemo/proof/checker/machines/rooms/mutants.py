"""Mutants of the scripts of rooms: which mistakes must be noticed?"""

from __future__ import annotations

from functools import partial
from typing import Final

from wsdemo.proof.checker.machines.rooms.scenarios import (
    BUSY,
    CALM,
    DEATH,
    DEATH_AND_LATE,
    FORGET,
    FULL,
    GHOST,
    LATE,
    LOSS,
    SLEEP,
)
from wsdemo.proof.checker.machines.rooms.states import RoomScenario
from wsdemo.proof.checker.mutants import Change, Equivalent, Mutant


def _one(
    script: str, name: str, breaks: str, scenario: RoomScenario, piece: str, replacement: str = ""
) -> Mutant:
    return Mutant(f"{script}: {name}", breaks, (Change(script, piece, replacement),), scenario)


_join, _leave, _sweep, _list, _boots = (
    partial(_one, name) for name in ("room_join", "room_leave", "room_sweep", "room_list", "boots")
)

_OLDER_JOIN: Final = (
    "if old_token > token or old_token == token and (old_seq > seq or old_seq == seq and "
    "state == 'out') then"
)
_OLDER_LEAVE: Final = (
    "if old_token > token or old_token == token and old_seq >= seq then return 0 end"
)
_ENDS_IN_JOIN: Final = "for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, 2 * ARGV[8]) end"
_ENDS_IN_LEAVE: Final = "for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, 2 * ARGV[5]) end"
_ENDS_IN_SWEEP: Final = "for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, 2 * ARGV[3]) end"
_IS_OUT: Final = "redis.call('HSET', KEYS[1], member, 'out ' .. ARGV[2] .. ' ' .. ARGV[3])"
_SWEPT: Final = "redis.call('HSET', KEYS[1], member, 'out ' .. token .. ' ' .. before)"
_NOTED: Final = "redis.call('ZADD', KEYS[2], now_ms, member)"

MUTANTS: Final[tuple[Mutant, ...]] = (
    # Which word is newer?
    _leave("a clean-up removes whoever is there", "G2", CALM, _OLDER_LEAVE, ""),
    _leave(
        "a clean-up asks only for the token",
        "G1",
        BUSY,
        " or old_token == token and old_seq >= seq",
        "",
    ),
    _leave(
        "a clean-up asks only for the seq",
        "G1",
        CALM,
        _OLDER_LEAVE,
        "if old_seq >= seq then return 0 end",
    ),
    _join("a late join is welcome", "G3", LATE, _OLDER_JOIN, "if false then"),
    _join("a join asks only for the token", "G1", BUSY, _OLDER_JOIN, "if old_token > token then"),
    _join("a join asks only for the seq", "G6", CALM, _OLDER_JOIN, "if old_seq > seq then"),
    _join(
        "a copy of a join is older than itself",
        "G6",
        BUSY,
        "old_seq == seq and state == 'out'",
        "old_seq == seq",
    ),
    _join(
        "an argument more than there are", "G0", CALM, "table.concat(ARGV, ' ', 2, 6)", "ARGV[11]"
    ),
    # Is it remembered who left?
    _leave(
        "leaving is not remembered",
        "G4",
        LATE,
        f"{_IS_OUT}\n{_NOTED}",
        "redis.call('HDEL', KEYS[1], member)",
    ),
    _leave("it is not noted since when", "G12", CALM, _NOTED),
    _join("who is back counts as gone", "G12", CALM, "redis.call('ZREM', KEYS[2], member)"),
    _join(
        "who left long ago is not forgotten", "G6", FORGET, "  redis.call('HDEL', KEYS[1], name)\n"
    ),
    _join(
        "everybody who left is forgotten",
        "G1",
        LATE,
        "now_ms - ARGV[8], 'LIMIT'",
        "now_ms, 'LIMIT'",
    ),
    # What is told, and what is answered?
    _join(
        "a move is told as a join",
        "G6",
        CALM,
        "if state == 'in' then return {'moved', members} end",
    ),
    _join(
        "nobody is told of a join",
        "G5",
        CALM,
        "redis.call('PUBLISH', ARGV[9],",
        "local _ = (ARGV[9] ..",
    ),
    _join("who left is counted", "G6", CALM, " - redis.call('ZCARD', KEYS[2])", ""),
    _join(
        "a copy of a join is a move",
        "G6",
        BUSY,
        "if state == 'in' and old_token == token and old_seq == seq then "
        "return {'same', members} end",
    ),
    _join(
        "a room may have one member more",
        "G7",
        FULL,
        "members >= tonumber(ARGV[7])",
        "members > tonumber(ARGV[7])",
    ),
    _join(
        "a member cannot move in a full room",
        "G7",
        RoomScenario(CALM.sessions, most=1),
        "if state == 'out' and members",
        "if members",
    ),
    _leave(
        "a leave is told twice",
        "G6",
        BUSY,
        "if state ~= 'in' then return 0 end",
        "if state ~= 'in' and old_token < 0 then return 0 end",
    ),
    _leave(
        "nobody is told of a leave",
        "G5",
        CALM,
        "if state ~= 'in' then return 0 end",
        "do return state == 'in' and 1 or 0 end",
    ),
    _list(
        "who left is listed",
        "G10",
        CALM,
        "if string.sub(all[i + 1], 1, 3) == 'in ' then",
        "if true then",
    ),
    _list("the mark is not published", "G10", CALM, "redis.call('PUBLISH', ARGV[1], ARGV[2])"),
    # What becomes of those whose gateway is gone?
    _sweep("asks for no gateway", "G8", DEATH, "if boot and dead[boot] then", "if boot then"),
    _sweep(
        "forgets whom it took out",
        "G3",
        DEATH_AND_LATE,
        f"{_SWEPT}\n    {_NOTED}",
        "redis.call('HDEL', KEYS[1], member)",
    ),
    _sweep(
        "remembers a stamp that is too high",
        "E1",
        SLEEP,
        "tonumber(seq) - 1",
        "tonumber(seq)",
    ),
    _sweep("remembers no stamp", "G3", DEATH_AND_LATE, "token .. ' ' .. before", "'0 0'"),
    _sweep("it is not noted since when", "G12", DEATH, _NOTED),
    _sweep("tells nobody", "G5", DEATH, "redis.call('PUBLISH', ARGV[1],", "local _ = (ARGV[1] .."),
    _sweep("takes out nobody", "G8", DEATH, f"{_SWEPT}\n    {_NOTED}"),
    _sweep(
        "takes the gateway for the process",
        "G8",
        DEATH,
        "'^in (%d+) (%d+) %S+ (%S+)'",
        "'^in (%d+) (%d+) (%S+)'",
    ),
    _boots("one who slept is not told", "G9", SLEEP, "state = 'lapsed'", "state = 'ok'"),
    _boots(
        "one who is unknown is welcome",
        "G9",
        LOSS,
        "if not till or tonumber(till)",
        "if till and tonumber(till)",
    ),
    _boots(
        "a beat does not count",
        "G9",
        SLEEP,
        "string.format('%.0f', now_ms + ARGV[2])",
        "string.format('%.0f', now_ms - 1)",
    ),
    _boots("the lapsed are live", "G9", SLEEP, "'(' .. now_ms, '+inf'", "'-inf', '+inf'"),
    # For how long?
    _join("the room is kept for ever", "G11", CALM, _ENDS_IN_JOIN),
    _leave("who left is kept for ever", "G11", CALM, _ENDS_IN_LEAVE),
    _sweep("who was swept is kept for ever", "G11", DEATH, _ENDS_IN_SWEEP),
    _boots(
        "processes are kept for ever",
        "G11",
        LOSS,
        "redis.call('PEXPIRE', KEYS[1], ARGV[2] + 2 * ARGV[3])",
    ),
)

EQUIVALENT: Final = (
    Equivalent(
        "room_leave: a leave of its own stamp counts",
        "no join has the stamp of a leave, and a copy of a leave writes what is there",
        Change("room_leave", "old_seq >= seq", "old_seq > seq"),
        BUSY,
    ),
    Equivalent(
        "room_join: a join that was left comes back",
        "no join has the stamp of a leave: gateways count both together",
        Change("room_join", " or old_seq == seq and state == 'out'"),
        GHOST,
    ),
)
"""These pieces stay on purpose: they hold also for a gateway that counts differently."""

"""Do rooms keep R1 to R5, whatever comes late, twice or never, and whoever dies or sleeps?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from tests.examples import seeds
from tests.rooms.world import CONFIGURATIONS, Violation, player
from wsdemo.redis.scripts import Script
from wsdemo.redis.server import BundledServer
from wsdemo.rooms.store import ROOM_SCRIPTS
from wsdemo.settings import Keyspace

TEXTS = {script.name: script.text for script in ROOM_SCRIPTS}

MUTANTS = {
    "a clean-up removes whoever is there": (
        "room_leave",
        "if old_token > token or old_token == token and old_seq >= seq then return 0 end",
        "",
    ),
    "a clean-up asks only for the token": (
        "room_leave",
        " or old_token == token and old_seq >= seq ",
        " ",
    ),
    "a leave outranks a newer session": (
        "room_leave",
        "old_token > token or old_token == token and",
        "old_token == token and",
    ),
    "leaving is not remembered": (
        "room_leave",
        "redis.call('HSET', KEYS[1], member, 'out ' .. ARGV[2] .. ' ' .. ARGV[3])\n"
        "redis.call('ZADD', KEYS[2], now_ms, member)",
        "redis.call('HDEL', KEYS[1], member)",
    ),
    "the stamp of a leave is not remembered": (
        "room_leave",
        "'out ' .. ARGV[2] .. ' ' .. ARGV[3]",
        "'out 0 0'",
    ),
    "who left and was counted is not counted out": (
        "room_leave",
        "redis.call('ZADD', KEYS[2], now_ms, member)\n",
        "",
    ),
    "who was not there leaves again": (
        "room_leave",
        "if state ~= 'in' then return 0 end",
        "",
    ),
    "a late join is welcome": (
        "room_join",
        "if old_token > token or old_token == token and"
        " (old_seq > seq or old_seq == seq and state == 'out') then",
        "if false then",
    ),
    "a late join of the same session is welcome": (
        "room_join",
        "or old_token == token and (old_seq > seq or old_seq == seq and state == 'out') then",
        "then",
    ),
    "an older session outranks a newer one": (
        "room_join",
        "if old_token > token or old_token == token",
        "if old_token == token",
    ),
    "a move is told as a join": (
        "room_join",
        "if state == 'in' then return {'moved', members} end",
        "",
    ),
    "a join that is said again is told again": (
        "room_join",
        "if state == 'in' and old_token == token and old_seq == seq then"
        " return {'same', members} end\n",
        "if old_token == token and old_seq == seq then state = 'out' end\n",
    ),
    "who left is counted": ("room_join", " - redis.call('ZCARD', KEYS[2])", ""),
    "who comes back is still out": ("room_join", "redis.call('ZREM', KEYS[2], member)\n", ""),
    "a full room takes one more": (
        "room_join",
        "members >= tonumber(ARGV[7])",
        "members > tonumber(ARGV[7])",
    ),
    "the sweeper asks for no gateway": (
        "room_sweep",
        "if boot and dead[boot] then",
        "if boot then",
    ),
    "the sweeper forgets": (
        "room_sweep",
        "redis.call('HSET', KEYS[1], member, 'out ' .. token .. ' ' .. before)\n"
        "    redis.call('ZADD', KEYS[2], now_ms, member)",
        "redis.call('HDEL', KEYS[1], member)",
    ),
    "the sweeper remembers the stamp of the join": (
        "room_sweep",
        "tonumber(seq) - 1",
        "tonumber(seq)",
    ),
    "who was swept is counted": (
        "room_sweep",
        "    redis.call('ZADD', KEYS[2], now_ms, member)\n",
        "",
    ),
    "the sweeper tells nobody": (
        "room_sweep",
        "redis.call('PUBLISH', ARGV[1], '{",
        "tostring('{",
    ),
    "one who slept is not told": ("boots", "state = 'lapsed'", "state = 'ok'"),
    "the dead count as alive": ("boots", "'(' .. now_ms, '+inf'", "'-inf', '+inf'"),
    "a list names those who left": (
        "room_list",
        "if string.sub(all[i + 1], 1, 3) == 'in ' then",
        "if true then",
    ),
}
"""Name to script, piece and replacement."""


@pytest.fixture
def client(shared_server: BundledServer) -> Iterator[Any]:
    with redis.Redis.from_url(shared_server.url, decode_responses=True) as made:
        yield made


@pytest.fixture
def prefix(client: Any, keyspace: Keyspace) -> Iterator[str]:
    yield keyspace.prefix
    names = ("room:lobby", "roomout:lobby", "boots")
    client.delete(*(f"{keyspace.prefix}{name}" for name in names))


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_rooms_keep_their_promises_in_random_histories(client: Any, prefix: str, name: str) -> None:
    """R1, R2 and R3 after each step; R4 and R5 in the end."""
    play, count = player(client, prefix), Counter[str]()
    for seed in seeds(60, fast=30):
        try:
            count += play(name, seed)
        except Violation as problem:
            pytest.fail(f"{name}, seed {seed}: {problem}")
    needed = {"swept", "said again", "given up", "join stale", "leave left 0", "leave left 1"}
    rare = {what for what in needed if not count[what]}
    assert not rare, f"these never happened: {rare}"


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_mistake_in_a_script_of_rooms_is_found(client: Any, prefix: str, mutant: str) -> None:
    script, piece, replacement = MUTANTS[mutant]
    assert TEXTS[script].count(piece) == 1, "the piece stands in the script once"
    wrong = Script(script, TEXTS[script].replace(piece, replacement))
    play = player(client, prefix, {script: wrong})
    for seed in range(1, 31):
        for name in CONFIGURATIONS:
            try:
                play(name, seed)
            except Violation:
                return
    pytest.fail("nothing has noticed it")

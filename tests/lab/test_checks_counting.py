"""Lesson 00b: does it lose additions as it says, and does its check name what is wrong?"""

from __future__ import annotations

import pytest
import redis

from tests.lab.readable import assert_no_text_covers_another, assert_no_text_is_clipped
from wsdemo.lab import check
from wsdemo.lab.figures.lost_updates import lost_updates
from wsdemo.lab.lessons.counting import together
from wsdemo.redis.server import BundledServer

COUNT = "local n = redis.call('INCR', KEYS[1])\n{expire}\nreturn n"
FIRST = "if n == 1 then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end"
COUNTERS = {
    "it knows no time": (COUNT.format(expire=""), "stays over it for ever"),
    "a lease": (
        COUNT.format(expire="redis.call('PEXPIRE', KEYS[1], ARGV[1])"),
        "began the time anew",
    ),
    "seconds": (COUNT.format(expire=FIRST.replace("PEXPIRE", "EXPIRE")), "takes milliseconds"),
    "says nothing": (COUNT.format(expire=FIRST).replace("return n", ""), "What is returned?"),
    "writes again": (
        "local n = tonumber(redis.call('GET', KEYS[1]) or 0) + 1\n"
        "redis.call('SET', KEYS[1], n)\n" + FIRST + "\nreturn n",
        "took the TTL away",
    ),
    "one key for all": (
        COUNT.format(expire=FIRST).replace("KEYS[1]", "'check:everybody'"),
        "no TTL",
    ),
    "no Lua": ("one line", "Redis says:"),
}
WINDOWS = [
    COUNT.format(expire=FIRST),
    COUNT.format(expire="redis.call('PEXPIRE', KEYS[1], ARGV[1], 'NX')"),
    "redis.call('SET', KEYS[1], 0, 'NX', 'PX', ARGV[1])\nreturn redis.call('INCR', KEYS[1])",
]


@pytest.mark.parametrize("source", WINDOWS)
def test_every_way_to_count_in_a_window_is_accepted(source: str) -> None:
    """Also those that are not the solution of the lesson."""
    verdict = check("ex00b", source)
    assert verdict, verdict.hint


@pytest.mark.parametrize("name", COUNTERS)
def test_a_wrong_way_to_count_gets_its_hint(name: str) -> None:
    """What goes wrong for a user is named, and never the line to write."""
    source, words = COUNTERS[name]
    verdict = check("ex00b", source)
    assert verdict.verdict == "wrong" and words in verdict.hint


def test_a_script_of_comments_is_not_written_yet() -> None:
    """As in the learner's copy."""
    assert "not written" in check("ex00b", "-- change one line\n").hint


def test_two_commands_lose_additions_and_a_script_loses_none(shared_server: BundledServer) -> None:
    """As lesson 00b shows it."""

    def two(client: redis.Redis, key: str) -> int:
        n = int(client.get(key) or 0)
        client.set(key, n + 1)
        return n + 1

    def one(client: redis.Redis, key: str) -> int:
        return int(client.eval("return redis.call('INCR', KEYS[1])", 1, key))

    apart, atomic = together(two, shared_server.url), together(one, shared_server.url)
    assert len(apart) == len(atomic) == 1001
    assert apart[-1] < atomic[-1] == 1000
    fig = lost_updates({"two": apart, "one": atomic})
    assert fig.wsdemo_facts["lost"] == 1000 - apart[-1]
    assert_no_text_covers_another({"lost": fig})
    assert_no_text_is_clipped({"lost": fig})

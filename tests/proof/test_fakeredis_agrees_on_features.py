"""The simulation runs the scripts of inboxes and rooms on fakeredis, too: streams and sorted sets
must do there what they do on the real server.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import redis
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.examples import examples
from tests.presence.test_fakeredis_agrees import TTL_TOLERANCE_MS, Fake, Real
from wsdemo.inbox.store import ACK, COUNT, READ, SEND
from wsdemo.proof.simulate.fake_redis import ReplyError
from wsdemo.redis.deadline import NEVER_MS
from wsdemo.redis.scripts import Script
from wsdemo.redis.server import BundledServer
from wsdemo.rooms.store import BOOTS, JOIN, LEAVE, LIST, LOG, PUBLISH, SAY, SWEEP

LIFE_MS = 100_000
PRESENCE, INBOX, META = "presence:bob", "inbox:bob", "inboxmeta:bob"
ROOM, OUT, ROOM_LOG, LOG_META = "room:den", "roomout:den", "roomlog:den", "roomlogmeta:den"
IDS = ("inboxid:bob:alice:1", "inboxid:bob:alice:2", "inboxid:bob:carol:1")
HASHES, STREAMS, TEXTS = (PRESENCE, META, ROOM, LOG_META), (INBOX, ROOM_LOG), IDS
CHANNEL = "room:den"

Step = tuple[Script | str, Sequence[str], Sequence[Any]]
"""A script or a command of Redis, its keys and its arguments."""

any_of = st.sampled_from
CONNS, RUNS = any_of(["c1", "c1", "c2"]), any_of(["r1", "r1", "r2"])
BIRTHS, BOOT_IDS = any_of(["b1", "b1", "b1", "b2"]), any_of(["x", "y"])
OFFSETS = any_of(["0-0", "1-7", "1-7", "1-8", "2-7", "2-7", "3-7", "4-7", "9-9"])
EPOCHS = any_of(["", "b1.r1", "b1.r1", "b1.r2", "b2.r1"])
DEADLINES = any_of([NEVER_MS, NEVER_MS, NEVER_MS, 1])
MARKS = any_of(["7", "7", "7", "8"])
MEMBERS = any_of(["bob", "carol", "dave phone"])
STAMPS = st.tuples(any_of([1, 2]), any_of([1, 2, 2**53]))


def steps(script: Script, keys: Sequence[str], *arguments: Any) -> st.SearchStrategy[Step]:
    parts = [one if isinstance(one, st.SearchStrategy) else st.just(one) for one in arguments]
    return st.tuples(st.just(script), st.just(keys), st.tuples(*parts))


def sends(id_key: str) -> st.SearchStrategy[Step]:
    keys, heads = (
        (PRESENCE, INBOX, META, id_key),
        any_of(['{"id":"m"', '{"id":"longer than others"']),
    )
    limits = (3, 60, LIFE_MS, LIFE_MS // 2)
    return steps(SEND, keys, heads, MARKS, BIRTHS, RUNS, *limits, "", "gw1", DEADLINES)


def joins(stamp: tuple[int, int]) -> st.SearchStrategy[Step]:
    keys, rest = (ROOM, OUT), (2, LIFE_MS, CHANNEL, "den")
    join = steps(JOIN, keys, MEMBERS, *stamp, "gw1", BOOT_IDS, CONNS, *rest)
    return join | steps(LEAVE, keys, MEMBERS, *stamp, "left", LIFE_MS, CHANNEL, "den")


INBOX_STEPS = st.one_of(
    any_of(IDS).flatmap(sends),
    any_of(IDS).flatmap(sends),
    steps(
        READ,
        (PRESENCE, INBOX, META),
        CONNS,
        any_of([1, 9]),
        EPOCHS,
        OFFSETS,
        2,
        40,
        BIRTHS,
        RUNS,
        LIFE_MS,
    ),
    steps(ACK, (PRESENCE, INBOX, META), CONNS, EPOCHS, OFFSETS, RUNS),
    steps(COUNT, (INBOX, META)),
    any_of(
        [
            ("HSET", (PRESENCE,), ("gwId", "gw2", "connId", "c1", "epoch", "5")),
            ("HSET", (PRESENCE,), ("gwId", "gw *", "connId", "c2", "epoch", "5")),
            *(("DEL", (key,), ()) for key in (PRESENCE, INBOX, META, IDS[0])),
            ("FLUSHALL", (), ()),
        ]
    ),
)
ROOM_STEPS = st.one_of(
    STAMPS.flatmap(joins),
    STAMPS.flatmap(joins),
    steps(SWEEP, (ROOM,), CHANNEL, "den", BOOT_IDS),
    steps(LIST, (ROOM, OUT), CHANNEL, "mark", LIFE_MS, any_of([0, 1])),
    steps(BOOTS, ("boots",), BOOT_IDS, any_of([0, LIFE_MS]), LIFE_MS),
    steps(SAY, (ROOM_LOG, LOG_META), '{"id":"m"', MARKS, BIRTHS, 3, LIFE_MS, CHANNEL, DEADLINES),
    steps(PUBLISH, (ROOM,), '{"id":"m"}', CHANNEL, DEADLINES),
    steps(LOG, (ROOM_LOG, LOG_META), any_of(["b1", "b2", ""]), OFFSETS, 2),
    any_of([("DEL", (key,), ()) for key in (ROOM, OUT, ROOM_LOG, "boots")]),
)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = BundledServer()
    server.start()
    try:
        yield server.url
    finally:
        server.stop()


def run(server: Real | Fake, step: Step) -> Any:
    what, keys, arguments = step
    if not isinstance(what, Script):
        return server.execute(what, *keys, *arguments)
    return server.execute("EVAL", what.text, len(keys), *keys, *arguments)


def comparable(step: Step, reply: Any) -> Any:
    """Leave out of a reply what has no order, and the texts of errors."""
    if isinstance(reply, redis.ResponseError | ReplyError):
        return "error"
    if step[0] in (LIST, BOOTS):
        return [reply[0], sorted(map(str, reply[1:]))]
    return b"OK" if reply is True else reply


def raw(server: Real | Fake, *words: str) -> Any:
    """Return the reply to a command as a script sees it: no client changes it."""
    return server.execute("EVAL", "return redis.call(unpack(ARGV))", 0, *words)


def state(server: Real | Fake) -> dict[str, Any]:
    """Return all that is stored, without the times in it; and the lives of keys (ms)."""
    found: dict[str, Any] = {}
    for key in HASHES:
        found[key] = sorted(zip(*[iter(raw(server, "HGETALL", key))] * 2, strict=True))
    for key in STREAMS:
        found[key] = raw(server, "XRANGE", key, "-", "+")
    for key in TEXTS:
        found[key] = raw(server, "GET", key)
    for key in (OUT, "boots"):
        found[key] = sorted(raw(server, "ZRANGE", key, "0", "-1"))
    lives = {f"ttl of {key}": raw(server, "PTTL", key) for key in list(found)}
    return found | lives


def agree(url: str, one: st.SearchStrategy[Step], count: settings) -> None:
    @count
    @given(history=st.lists(one, min_size=1, max_size=25))
    def both_play(history: list[Step]) -> None:
        real, fake = Real(url), Fake()
        with contextlib.closing(real):
            real.execute("FLUSHALL")
            for server in (real, fake):
                server.execute("HSET", PRESENCE, "gwId", "gw2", "connId", "c1", "epoch", "5")
            for step in history:
                name = step[0].name if isinstance(step[0], Script) else step[0]
                theirs, ours = (comparable(step, run(server, step)) for server in (real, fake))
                assert theirs == ours, f"{name}: real {theirs}, fake {ours}"
                same(name, state(real), state(fake))

    both_play()


def same(name: str, real: dict[str, Any], fake: dict[str, Any]) -> None:
    for what, value in real.items():
        if what.startswith("ttl"):
            assert abs(value - fake[what]) < TTL_TOLERANCE_MS, f"{what} after {name}"
            assert (value < 0) == (fake[what] < 0), f"{what} after {name}"
        else:
            assert value == fake[what], f"{what} after {name}"


def test_fakeredis_and_the_real_server_agree_on_every_script_of_inboxes(url: str) -> None:
    """Differential: after every command of a random history, replies and data agree."""
    agree(url, INBOX_STEPS, examples(150))


def test_fakeredis_and_the_real_server_agree_on_every_script_of_rooms(url: str) -> None:
    """Differential: after every command of a random history, replies and data agree."""
    agree(url, ROOM_STEPS, examples(150))


def test_the_comparison_detects_a_stream_that_is_trimmed_less(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails when the two servers do not run the same ack script."""
    wrong = ACK.text.replace("number(ARGV[3]) + 1))", "number(ARGV[3])))")
    assert wrong != ACK.text

    def execute(fake: Fake, *words: str | int) -> Any:
        return honest(fake, *(wrong if word == ACK.text else word for word in words))

    honest = Fake.execute
    monkeypatch.setattr(Fake, "execute", execute)
    with pytest.raises(AssertionError, match="ack"):
        agree(url, INBOX_STEPS, examples(300, shrinks=False, phases=[Phase.generate]))

"""The simulation runs the shipped scripts on fakeredis: it must do what the real server does."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Final

import pytest
import redis
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.examples import examples
from wsdemo.presence.store import MINT, REFRESH, REGISTER, RELEASE
from wsdemo.proof.simulate.fake_redis import FakeRedisClient, ReplyError, SimulatedServer
from wsdemo.redis.deadline import NEVER_MS
from wsdemo.redis.scripts import Script
from wsdemo.redis.server import BundledServer
from wsdemo.router import ROUTE

TTL_MS, FENCE_TTL_MS = 90_000, 3_600_000
TTL_TOLERANCE_MS = 5_000
"""The two servers are asked one after the other, on a machine that may be busy."""
PRESENCE, FENCE = "presence:bob", "fence:bob"
CONNS = ("c1", "c2", "c3")
TOKENS = (0, 5, 10, 10, 20, 1_700_000_000_000_000)

Command = tuple[Any, ...]
"""A script and its arguments, or a command of Redis."""


def _write(script: Script) -> st.SearchStrategy[Command]:
    return st.tuples(
        st.just(script),
        st.sampled_from(CONNS),
        st.sampled_from(("gw1", "gw2")),
        st.sampled_from(TOKENS),
        st.sampled_from((TTL_MS, 1_000_000)),
        st.just(FENCE_TTL_MS),
        st.sampled_from(("", "i1", "i2")),
        st.integers(0, 2),
    )


_ROUTE: Final[Command] = (ROUTE, '{"type":"direct"', "", NEVER_MS)
_LATE_ROUTE: Final[Command] = (ROUTE, '{"type":"direct"', "", 1)

COMMANDS: st.SearchStrategy[Command] = st.one_of(
    st.just((MINT, FENCE_TTL_MS)),
    _write(REGISTER),
    _write(REFRESH),
    st.tuples(
        st.just(RELEASE), st.sampled_from(CONNS), st.sampled_from(TOKENS), st.just(FENCE_TTL_MS)
    ),
    st.just(_ROUTE),
    st.just(_LATE_ROUTE),
    # What else happens to the keys: they are deleted, expire, or are written by another program.
    st.sampled_from(
        [
            ("DEL", PRESENCE),
            ("DEL", FENCE),
            ("FLUSHALL",),
            ("HSET", PRESENCE, "ts", "1700000000"),
            ("HSET", PRESENCE, "gwId", "gw *", "connId", "c1"),
            ("HSET", PRESENCE, "gwId", "gw1", "connId", "c2", "epoch", "nonsense"),
            ("SET", PRESENCE, "x"),
            ("SCRIPT", "FLUSH"),
        ]
    ),
)


class Real:
    """The bundled server."""

    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(url, protocol=2)

    def execute(self, *words: str | int) -> Any:
        try:
            return self._client.execute_command(*words)
        except redis.ResponseError as problem:
            return problem

    def close(self) -> None:
        self._client.close()


class Fake:
    """fakeredis, as the simulation runs it."""

    def __init__(self) -> None:
        self._replies: list[Any] = []
        self.server = SimulatedServer(version=(7, 2))
        self._client = FakeRedisClient(
            self.server, 1, self._replies.append, lambda fields, reply: None, {}
        )

    def execute(self, *words: str | int) -> Any:
        self._replies.clear()
        self._client.execute([str(word).encode() for word in words])
        return self._replies[0]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = BundledServer()
    server.start()
    try:
        yield server.url
    finally:
        server.stop()


def _run(server: Real | Fake, command: Command) -> Any:
    script, *arguments = command
    if not isinstance(script, Script):
        return server.execute(script, *arguments)
    keys = {MINT: [FENCE], ROUTE: [PRESENCE]}.get(script, [PRESENCE, FENCE])
    return server.execute("EVAL", script.text, len(keys), *keys, *arguments)


def _comparable(command: Command, reply: Any) -> Any:
    """Leave out of a reply what the clocks of two servers cannot agree on, and error texts."""
    if isinstance(reply, redis.ResponseError | ReplyError):
        return "error"
    if command[0] is MINT:
        return int(reply) > 1_700_000_000_000_000
    if isinstance(reply, list):
        return [_rough(item) for item in reply]
    return b"OK" if reply is True else reply


def _rough(value: bytes) -> bytes:
    """Tokens that a clock has made are all the same; those that a test made are not."""
    text = value.decode(errors="replace")
    return b"now" if text.isdigit() and int(text) > 1_700_000_000_000_000 else value


def _state(server: Real | Fake) -> dict[str, Any]:
    """Return both hashes without their times, and their TTLs (ms)."""
    state: dict[str, Any] = {}
    for key in (PRESENCE, FENCE):
        reply = server.execute("HGETALL", key)
        if isinstance(reply, list):
            pairs = dict(zip(reply[::2], reply[1::2], strict=True))
        else:
            pairs = dict(reply) if isinstance(reply, dict) else {b"type": b"wrong"}
        state[key] = {
            field: b"now" if field == b"ts" else _rough(value) for field, value in pairs.items()
        }
        state[f"ttl of {key}"] = server.execute("PTTL", key)
    return state


def _agree(url: str, count: settings) -> None:
    @count
    @given(history=st.lists(COMMANDS, min_size=1, max_size=25))
    def both_play(history: list[Command]) -> None:
        real, fake = Real(url), Fake()
        with contextlib.closing(real):
            real.execute("FLUSHALL")
            for command in history:
                name = command[0].name if isinstance(command[0], Script) else command[0]
                replies = [_comparable(command, _run(server, command)) for server in (real, fake)]
                assert replies[0] == replies[1], f"{name}: real {replies[0]}, fake {replies[1]}"
                _same(name, _state(real), _state(fake))

    both_play()


def _same(name: str, real: dict[str, Any], fake: dict[str, Any]) -> None:
    for what, value in real.items():
        if what.startswith("ttl"):
            assert abs(value - fake[what]) < TTL_TOLERANCE_MS, f"{what} after {name}"
            assert (value < 0) == (fake[what] < 0), f"{what} after {name}"
        else:
            assert value == fake[what], f"{what} after {name}"


def test_fakeredis_and_the_real_server_agree_on_every_script(url: str) -> None:
    """Differential: after every command of a random history, replies, hashes and TTLs agree."""
    _agree(url, examples(150))


def test_the_comparison_detects_a_difference(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It fails when the two servers do not run the same release script."""
    wrong = RELEASE.text.replace("== conn then\n  redis.call('DEL'", "then\n  redis.call('DEL'")
    assert wrong != RELEASE.text

    def execute(fake: Fake, *words: str | int) -> Any:
        return honest(fake, *(wrong if word == RELEASE.text else word for word in words))

    honest = Fake.execute
    monkeypatch.setattr(Fake, "execute", execute)
    with pytest.raises(AssertionError, match="release"):
        _agree(url, examples(150, shrinks=False, phases=[Phase.generate]))


def test_fakeredis_counts_subscribers_like_the_real_server(url: str) -> None:
    """A route reports whether anybody is subscribed: `routed`, or `no_subscriber`."""
    real, fake = Real(url), Fake()
    with contextlib.closing(real):
        real.execute("FLUSHALL")
        for server in (real, fake):
            server.execute("HSET", PRESENCE, "gwId", "gw1", "connId", "c1", "epoch", "7")
            reply = _run(server, _ROUTE)
            assert reply == [b"no_subscriber", b"gw1", b"c1"]
        client = redis.Redis.from_url(url, protocol=2)
        ear = client.pubsub()
        ear.subscribe("gateway:gw1")
        assert ear.get_message(timeout=5.0)["type"] == "subscribe"
        heard: list[Any] = []
        listener = FakeRedisClient(fake.server, 2, heard.append, lambda fields, reply: None, {})
        listener.execute([b"SUBSCRIBE", b"gateway:gw1"])
        replies = [_run(server, _ROUTE) for server in (real, fake)]
        assert replies[0] == replies[1] == [b"routed", b"gw1", b"c1"]
        message = ear.get_message(timeout=5.0)
        assert message is not None
        assert heard[-1] == [b"message", b"gateway:gw1", message["data"]]
        ear.close()
        client.close()

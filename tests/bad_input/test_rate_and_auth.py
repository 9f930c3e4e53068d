"""Rate limit and tokens: what if a client sends too much, too little, or as another user?

Bad input 67 to 77. What is too much for one connection is refused or ends it; nobody else waits
meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
from typing import Any

import pytest

from tests.bad_input.conftest import Start, inputs
from tests.bad_input.test_fields import said
from tests.bad_input.test_frames import in_pieces
from tests.bad_input.test_handshake import ask
from tests.gateway.cluster import USUAL, Raw, frame, request
from tests.gateway.test_auth import BAD, GOOD, NOW, SECRET
from tests.waiting import until
from wsdemo.settings import Timing

pytestmark = pytest.mark.both_loops

PING = said(type="ping")
PONG = {"type": "pong"}
RATE_LIMITED = {"type": "error", "error": "Rate limited", "code": "rate_limited"}


@inputs({"no byte": b"", "a WebSocket ping": frame(b"", opcode=9), "a pong": frame(opcode=10)})
async def test_a_client_that_does_not_register_is_closed_with_4001(
    start: Start, case: bytes
) -> None:
    """At the deadline, whatever it sends below the protocol of messages (bad input 67)."""
    gateway = await start(register_deadline_s=0.1)
    async with await Raw.open(gateway) as raw:
        raw.writer.write(case)
        assert await raw.closed() == 4001


@inputs(
    {
        "register": frame(said(type="register", userId="mallory", inst="i" * 60)),
        "a long frame": frame(b"x" * 60_000),
        "fragments": in_pieces(b" " * 200, 1),
    }
)
async def test_single_bytes_do_not_extend_the_deadline_to_register(
    start: Start, case: bytes
) -> None:
    """4001: an unfinished frame does not count as a register (bad input 68)."""
    gateway = await start(register_deadline_s=0.1)
    async with await Raw.open(gateway) as raw:
        rest = iter(case)

        def drip() -> bool:
            if closed.done():  # On a busy machine it may be so between two bytes.
                return True
            byte = next(rest, None)
            assert byte is not None, "the frame has ended, and nobody was let go"
            raw.writer.write(bytes([byte]))
            return bool(gateway.stats()["sockets"] == 1)

        closed = asyncio.ensure_future(raw.closed())
        await until("it is let go", drip, every_s=0.02)
        assert await closed == 4001


FLOODS = {
    "pings": (PING, PONG),
    "messages": (said(type="message", to="mallory", content="x"), None),
    "messages to nobody": (said(type="message", to="nobody", content="x"), None),
    "nonsense": (b"nonsense", None),
    "registers": (said(type="register", userId="mallory"), None),
}


@inputs(FLOODS)
async def test_a_client_above_its_rate_is_warned_and_then_closed_with_4008(
    start: Start, case: tuple[bytes, Any]
) -> None:
    """ "Rate limited" at most once a second; 4008 if the client does not stop (bad input 69)."""
    text, answer = case
    gateway = await start(messages_per_s=1.0, message_burst=5, rate_patience_s=0.1)
    async with await Raw.register(gateway, "mallory") as raw:
        raw.writer.write(frame(text) * 30)
        closed = False

        def goes_on() -> bool:
            if not closed:
                raw.frame(text)
            return bool(gateway.stats()["sockets"] == 1)

        heard: list[Any] = []
        going_on = asyncio.ensure_future(until("it is let go", goes_on))
        async with asyncio.timeout(10):
            while True:
                opcode, payload = await raw.hear()
                if opcode == 8:
                    closed = True
                    break
                heard.append(json.loads(payload))
        assert int.from_bytes(payload[:2], "big") == 4008
        await going_on
    assert heard.count(RATE_LIMITED) == 1
    others = [message for message in heard if message != RATE_LIMITED]
    assert len(others) <= 6, "the burst, less the register, and what drips in"
    if answer is not None:
        assert all(message == answer for message in others)


@inputs({f"{size} bytes each": size for size in (1, 2, 4)})
async def test_a_message_in_many_fragments_counts_once(start: Start, case: int) -> None:
    """For the rate limit as for its recipient (bad input 70)."""
    gateway = await start(messages_per_s=1.0, message_burst=5)
    async with await Raw.register(gateway, "mallory") as raw:
        for _ in range(3):
            raw.writer.write(in_pieces(PING, case))
            assert await raw.answer() == PONG
    assert gateway.counters.rate_limited == 0


@inputs(BAD | {"half of a frame's size": "x" * 60_000})
async def test_every_bad_token_gets_the_same_answer(
    start: Start, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The same code and text, after the same delay (bad input 71)."""
    gateway = await start(
        time_of_day=lambda: NOW, settings={"auth_secret": SECRET}, auth_delay_s=0.05
    )
    loop = asyncio.get_running_loop()
    with caplog.at_level(logging.DEBUG):
        async with await Raw.open(gateway) as raw:
            began = loop.time()
            raw.frame(said(type="register", userId="alice", token=case))
            opcode, payload = await raw.hear()
        assert loop.time() - began >= 0.048  # uvloop's clock and timers count milliseconds.
    assert (opcode, payload) == (8, (4504).to_bytes(2, "big") + b"authentication failed")
    assert gateway.counters.registers_unauthenticated == 1
    assert gateway.counters.registers_ok == 1, "the neighbour"
    ours = [r.getMessage() for r in caplog.records if r.name.startswith("wsdemo")]
    assert not case or not any(case in line for line in ours)


@inputs({"20": 20, "60": 60})
async def test_a_flood_of_registers_from_one_address_is_refused_with_429(
    start: Start, case: int
) -> None:
    """Each as another user. One address may have so many connections; the rest get 429 or nothing
    (bad input 72).
    """
    gateway = await start(settings={"limit_loopback": True}, connections_per_ip=6)
    let_in = 0
    async with contextlib.AsyncExitStack() as stack:
        for n in range(case):
            raw = await stack.enter_async_context(await Raw.connect(gateway))
            raw.writer.write(request(USUAL))
            head = await _head(raw)
            if head == 101:
                let_in += 1
                raw.frame(said(type="register", userId=f"user-{n}"))
                assert (await raw.answer())["type"] == "registered"
            else:
                assert head in {429, 0}
        assert let_in == 5, "and the neighbour"
        assert len(gateway.registry) == 6


async def _head(raw: Raw) -> int:
    """Return the status that a handshake was answered with; 0 when it was not."""
    try:
        return int((await raw.head()).split()[1])
    except (asyncio.IncompleteReadError, ConnectionError):
        return 0


@inputs(
    {
        "a good token": f"/ws?token={GOOD}",
        "a bad one": "/ws?token=WRONG-TOKEN",
        "under another name": f"/ws?access_token={GOOD}",
    }
)
async def test_a_token_in_the_url_is_ignored(
    start: Start, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    """URLs end up in logs and histories. It is not read, and our log does not have it either
    (bad input 73).
    """
    gateway = await start(time_of_day=lambda: NOW, settings={"auth_secret": SECRET})
    with caplog.at_level(logging.DEBUG):
        async with await Raw.connect(gateway) as raw:
            raw.writer.write(request(USUAL, f"GET {case} HTTP/1.1"))
            assert await _head(raw) == 101
            raw.frame(said(type="register", userId="alice"))
            assert await raw.closed() == 4504
    token = case.partition("=")[2]
    ours = [r.getMessage() for r in caplog.records if r.name.startswith("wsdemo")]
    assert not any(token in line for line in ours)


@inputs({"ten": 10, "a hundred": 100, "three hundred": 300})
async def test_at_most_five_connections_from_one_address_wait_to_register(
    start: Start, case: int
) -> None:
    """The next one gets 429, a crowd not even that. Pages are still shown (bad input 74)."""
    gateway = await start(settings={"limit_loopback": True})
    async with contextlib.AsyncExitStack() as stack:
        silent = [await stack.enter_async_context(await Raw.connect(gateway)) for _ in range(case)]
        for raw in silent:
            raw.writer.write(request(USUAL))
        statuses = [await _head(raw) for raw in silent]
    # Five that got no further than connecting count as well, so none of ten is let in at once.
    assert statuses.count(101) <= 5
    assert set(statuses) <= {101, 429, 0}
    assert gateway.counters.connections_refused >= case - 5
    await until("they are forgotten", lambda: gateway.stats()["sockets"] == 1)
    assert (await ask(gateway, request(USUAL)))[0] == 101


@inputs(
    {
        "silence": b"",
        "a pong that nobody asked for": frame(opcode=10),
        "half of a pong": frame(b"x", opcode=10)[:4],
        "a heartbeat, once": frame(PING),
    }
)
async def test_a_client_that_answers_no_ping_is_closed_with_4009(start: Start, case: bytes) -> None:
    """If it still reads. The library of its neighbour answers pings, so the neighbour stays
    (bad input 75).
    """
    quick = dataclasses.replace(Timing(), ws_ping_interval_s=0.1, ws_ping_timeout_s=0.1)
    gateway = await start(timing=quick)
    async with await Raw.register(gateway, "mallory") as raw:
        raw.writer.write(case)
        assert await raw.closed() == 4009
    await until("no session", lambda: gateway.registry.by_user("mallory") is None)
    assert gateway.counters.heartbeat_timeouts == 1


@inputs({"large": "x" * 15_000, "small": "x"})
async def test_a_slow_consumer_is_dropped_and_delays_nobody(start: Start, case: str) -> None:
    """Its outbox overflows or its write deadline ends; the others receive everything meanwhile
    (bad input 76).
    """
    gateway = await start(
        write_deadline_s=0.5,
        outbox_messages=64,
        outbox_bytes=262_144,
        write_high_water_bytes=4_096,
        messages_per_s=1e6,
        message_burst=1_000_000,
    )
    async with (
        await Raw.register(gateway, "stalled") as stalled,
        await Raw.register(gateway, "alice") as alice,
        await Raw.register(gateway, "bob") as bob,
    ):
        stalled.writer.transport.pause_reading()  # type: ignore[attr-defined]
        to_stalled = frame(said(type="message", to="stalled", content=case))
        for n in range(2_000):
            alice.writer.write(to_stalled * (20 if len(case) > 1 else 200))
            alice.frame(said(type="message", to="bob", content=str(n)))
            assert (await bob.answer())["content"] == str(n)
            if gateway.registry.by_user("stalled") is None:
                break
        await until("it is dropped", lambda: gateway.registry.by_user("stalled") is None)
        alice.frame(said(type="message", to="bob", content="still here"))
        assert (await bob.answer())["content"] == "still here"
    assert gateway.counters.slow_consumers == 1


@inputs({"absent names": "user-%d", "impossible names": "no name %d", "one name": "nobody"})
async def test_messages_to_unknown_users_count_for_the_rate(start: Start, case: str) -> None:
    """An invalid name costs as much as an absent user, and as a present one (bad input 77)."""
    gateway = await start(messages_per_s=1.0, message_burst=20, rate_patience_s=60.0)
    async with await Raw.register(gateway, "mallory") as raw:
        for n in range(100):
            to = case % n if "%" in case else case
            raw.frame(said(type="message", to=to, content="", id=str(n)))
        answers = [await raw.answer() for _ in range(100)]
    statuses = [answer["status"] for answer in answers]
    assert set(statuses) == {"offline", "busy"}
    assert 19 <= statuses.count("offline") <= 30, "the burst, and what drips in"

"""Several devices: what does a gateway answer to bad names of them? (bad input 160 to 168)"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.bad_input.conftest import Start, inputs
from tests.bad_input.test_fields import NOT_TEXT, said
from tests.bad_input.test_json import INVALID, PING, PONG, answer_to
from tests.gateway.cluster import Raw
from tests.waiting import until
from wsdemo.gateway.server import Gateway
from wsdemo.presence.devices import REMEMBERED
from wsdemo.settings import Keyspace

WITH = {"devices": 2}
NOT_DEVICES = {
    "17 characters": "x" * 17,
    "a megabyte": "x" * 10_000,
    "a space": "a b",
    "a slash": "a/b",
    "a colon": "a:b",
    "a quote": 'a"b',
    "a line feed": "phone\n",
    "NUL": "a\0",
    "no ASCII": "é",
    "a pattern": "*",
}


async def refused(raw: Raw, device: Any) -> None:
    """A register with this name is refused, and the next one is not."""
    raw.frame(said(type="register", userId="mallory", device=device))
    assert await raw.answer() == INVALID
    raw.frame(said(type="register", userId="mallory", device="x" * 16))
    assert (await raw.answer())["device"] == "x" * 16


@inputs({name: value for name, value in NOT_TEXT.items() if value is not None})
async def test_a_device_that_is_no_text(start: Start, case: Any) -> None:
    """The client may say it better (bad input 160)."""
    async with await Raw.open(await start(settings=WITH)) as raw:
        await refused(raw, case)


@inputs(NOT_DEVICES)
async def test_a_device_that_no_client_can_have(start: Start, case: str) -> None:
    """The client may say it better (bad input 161)."""
    async with await Raw.open(await start(settings=WITH)) as raw:
        await refused(raw, case)


@inputs(NOT_TEXT | NOT_DEVICES | {"a name": "phone"})
async def test_a_device_to_a_gateway_for_one(one: Gateway, case: Any) -> None:
    """It is no field of its (bad input 162)."""
    async with await Raw.open(one) as raw:
        raw.frame(said(type="register", userId="mallory", device=case))
        answer = await raw.answer()
        assert answer["type"] == "registered" and "device" not in answer
        raw.frame(PING)
        assert await raw.answer() == PONG


@inputs({name: value for name, value in NOT_TEXT.items() if name not in ("true", "false")})
@pytest.mark.parametrize("devices", [1, 2])
async def test_an_echo_that_is_neither_true_nor_false(
    start: Start, case: Any, devices: int
) -> None:
    """Whether users may have several devices or not (bad input 163)."""
    running = await start(settings={"devices": devices})
    message = said(type="message", to="mallory", content="x", id="7", echo=case)
    assert await answer_to(running, message) == INVALID | {"id": "7"}


@pytest.mark.parametrize("devices", [1, 2])
async def test_an_echo_without_another_device(start: Start, devices: int) -> None:
    """The message is delivered like any other, once (bad input 164)."""
    running = await start(settings={"devices": devices})
    async with await Raw.register(running, "mallory") as raw:
        raw.frame(said(type="message", to="mallory", content="x", id="7", echo=True))
        message = {"type": "message", "from": "mallory", "content": "x", "id": "7"}
        assert await raw.answer() == message
        assert await raw.answer() == {"type": "ack", "id": "7", "status": "routed"}
        raw.frame(PING)
        assert await raw.answer() == PONG


async def test_a_second_register_as_another_device(start: Start) -> None:
    """The answer says which device the connection is (bad input 165)."""
    running = await start(settings=WITH)
    async with await Raw.open(running) as raw:
        for device in ("phone", "laptop", "x" * 17):
            raw.frame(said(type="register", userId="mallory", device=device))
            assert (await raw.answer())["device"] == "phone"
        assert len(running.registry) == 2, "the neighbour, and one device"


@inputs(
    {
        "empty": "",
        "too few words": "gateway-01 c1 7",
        "words": "gateway-01 c1 seven 9999999999999 0 ",
        "a channel of all": "broadcast c1 7 9999999999999 0 ",
        "a channel": "a:b c1 7 9999999999999 0 ",
        "a quote": 'gateway-01 c"1 7 9999999999999 0 ',
        "a huge token": f"gateway-01 c1 {10**30} 9999999999999 0 ",
        "ended": "gateway-01 c1 7 1 0 ",
    }
)
async def test_an_entry_of_a_device_that_is_none(
    start: Start, redis_db: Any, keyspace: Keyspace, case: str
) -> None:
    """It gets nothing, and the other devices get all (bad input 166)."""
    running = await start(settings=WITH)
    async with await Raw.register(running, "mallory") as raw:
        await redis_db.hset(keyspace.presence("mallory"), "s:wrong", case)
        await redis_db.hset(
            keyspace.presence("mallory"), 's:"]}', "gateway-01 c1 7 99999999999999 0 "
        )
        async with await Raw.register(running, "bob") as bob:
            bob.frame(said(type="message", to="mallory", content="x", id="7"))
            assert await bob.answer() == {"type": "ack", "id": "7", "status": "routed"}
        assert (await raw.answer())["content"] == "x"
        assert running.counters.malformed_envelopes == 0


@pytest.mark.parametrize("devices", [1, 2])
async def test_copies_that_cannot_be_ours(
    start: Start, redis_db: Any, keyspace: Keyspace, devices: int
) -> None:
    """Dropped and counted, and those for other sessions reach nobody (bad input 167)."""
    running = await start(settings={"devices": devices})
    channel = keyspace.gateway_channel("gateway-01")
    right = {"type": "copies", "from": "x", "to": "mallory", "content": "x", "of": 1}
    wrong = ([["c1"]], [["c1", "7", ""]], [[7, 7, ""]], "c1", None, {"c1": 7}, [["c1", 7, None]])
    async with await Raw.register(running, "mallory") as raw:
        for sessions in wrong:
            await redis_db.publish(channel, json.dumps(right | {"toConns": sessions}))
        await until("all are counted", lambda: running.counters.malformed_envelopes == len(wrong))
        neighbour = running.registry.by_user("neighbour-0")
        assert neighbour is not None
        for conn in ("nobody", neighbour.conn_id):
            await redis_db.publish(channel, json.dumps(right | {"toConns": [[conn, 7, ""]]}))
        await until("both are refused", lambda: running.counters.bounces_sent == 2)
        raw.frame(PING)
        assert await raw.answer() == PONG


async def test_a_client_with_ever_new_names(
    start: Start, redis_db: Any, keyspace: Keyspace
) -> None:
    """As many are connected as may be, and the fence remembers a few more (bad input 168)."""
    running = await start(settings=WITH)
    sockets = []
    for n in range(12):
        sockets.append(await Raw.open(running))
        sockets[-1].frame(said(type="register", userId="mallory", device=f"d{n}"))
        assert (await sockets[-1].answer())["type"] == "registered"
    fields = await redis_db.hkeys(keyspace.fence("mallory"))
    assert len([name for name in fields if name.startswith("top:")]) <= 2 * REMEMBERED
    assert len(running.registry) == 3, "the neighbour, and two devices"
    for raw in sockets:
        await raw.leave()

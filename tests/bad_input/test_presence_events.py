"""Presence events: what if a client asks to watch what it may not, or what is nothing?

Bad input 190 to 199, with `--watch`.
"""

from __future__ import annotations

import json
import time
from typing import Any

import jwt
import pytest

from tests.bad_input.conftest import Start, inputs
from tests.bad_input.test_fields import NOT_REGISTERED, NOT_TEXT, UNKNOWN, said
from tests.bad_input.test_json import INVALID, PING, PONG, answer_to
from tests.gateway.cluster import Raw
from tests.processes import User
from wsdemo.features import WatchSettings
from wsdemo.gateway.server import Gateway
from wsdemo.settings import Keyspace

pytestmark = pytest.mark.both_loops

SECRET = b"a secret for the tests, 32 bytes or more"
FORBIDDEN = {"type": "error", "error": "Not allowed", "code": "forbidden"}
TOO_MANY = {"type": "error", "error": "Too many watched users", "code": "too_many_watched"}
RATE_LIMITED = {"type": "error", "error": "Rate limited", "code": "rate_limited"}


def watching(**more: Any) -> dict[str, Any]:
    """Return settings with which users may be watched."""
    return {"watch": WatchSettings(watch_grace_s=0.01, **more)}


@pytest.fixture
async def one(start: Start) -> Gateway:
    """gateway-01, with `--watch`."""
    return await start(settings=watching())


NO_LISTS: dict[str, Any] = {
    **{name: value for name, value in NOT_TEXT.items() if name != "a list"},
    "text": "bob",
    "no text in it": [7],
    "null in it": ["bob", None],
    "a list in it": [["bob"]],
}


@inputs(
    {name: said(type="watch", users=value) for name, value in NO_LISTS.items()}
    | {f"unwatch, {name}": said(type="unwatch", users=value) for name, value in NO_LISTS.items()}
    | {
        "none": said(type="watch"),
        "another field": said(type="watch", user="bob"),
        "unwatch, none": said(type="unwatch"),
    }
)
async def test_users_that_are_no_list_of_texts_are_invalid(one: Gateway, case: bytes) -> None:
    """And nothing is watched (bad input 190)."""
    assert await answer_to(one, case) == INVALID
    assert _watched(one) == 0


@inputs(
    {
        "empty": "",
        "a space": " ",
        "a space in it": "bob smith",
        "a line feed": "bob\n",
        "NUL": "bob\0",
        "a pattern": "bob*",
        "a quote": 'bob"',
        "another script": "bøb",
        "65 characters": "b" * 65,
        "10,000 characters": "b" * 10_000,
    }
)
async def test_a_user_who_cannot_exist_is_not_watched(one: Gateway, case: str) -> None:
    """Nor are those who are named beside it (bad input 191)."""
    assert await answer_to(one, said(type="watch", users=["bob", case])) == INVALID
    assert _watched(one) == 0


@inputs({"in one message": [101], "one more": [100, 1], "many more": [100, 90, 5_000]})
async def test_more_users_than_the_limit_are_not_watched(one: Gateway, case: list[int]) -> None:
    """Those who are watched stay so (bad input 192)."""
    names = (f"u{n}" for n in range(10_000))
    async with await Raw.register(one, "mallory") as raw:
        for n, count in enumerate(case):
            raw.frame(said(type="watch", users=[next(names) for _ in range(count)]))
            if n or count > 100:
                assert await raw.answer() == TOO_MANY
            else:
                assert [(await raw.answer())["state"] for _ in range(count)] == ["offline"] * count
        assert _watched(one) == (100 if case[0] == 100 else 0)


@inputs(
    {
        "many users": [["a", "b", "c"], ["d"]],
        "the same user": [["a"], ["a"], ["a"], ["a"]],
        "the same user, with goodbyes": [["a"], ["-a"], ["a"], ["-a"], ["a"], ["-a"], ["a"]],
    }
)
async def test_watching_too_often_is_refused(start: Start, case: list[list[str]]) -> None:
    """Whether it would change anything or not (bad input 193)."""
    slow = watching(watches_per_s=0.001, watch_burst=3, watched_users=3)
    one = await start(settings=slow)
    async with await Raw.register(one, "mallory") as raw:
        for n, users in enumerate(case):
            if users[0].startswith("-"):
                raw.frame(said(type="unwatch", users=[users[0][1:]]))
                continue
            raw.frame(said(type="watch", users=users))
            if n == len(case) - 1:
                assert await raw.answer() == RATE_LIMITED
            else:
                assert [(await raw.answer())["state"] for _ in users] == ["offline"] * len(users)
        raw.frame(PING)
        assert await raw.answer() == PONG


@inputs(
    {
        "no claim": ({}, ["bob"]),
        "another user": ({"watch": ["bob"]}, ["carol"]),
        "one of two": ({"watch": ["bob"]}, ["bob", "carol"]),
        "nobody": ({"watch": []}, ["bob"]),
        "an impossible user": ({"watch": ["bob"]}, ["no such user!"]),
        "another case": ({"watch": ["BOB"]}, ["bob"]),
        "text": ({"watch": "*"}, ["bob"]),
        "true": ({"watch": True}, ["bob"]),
        "an object": ({"watch": {"bob": True}}, ["bob"]),
        "no text in it": ({"watch": [7, None, ["bob"]]}, ["bob"]),
        "a pattern of 10,000": ({"watch": ["*" * 10_000]}, ["bob"]),
        "another claim": ({"rooms": ["*"]}, ["bob"]),
    }
)
async def test_who_is_not_permitted_is_not_watched(
    start: Start, case: tuple[dict[str, Any], list[str]]
) -> None:
    """Whether there is such a user or not (bad input 194)."""
    claims, users = case
    one = await start(settings={**watching(), "auth_secret": SECRET})
    known = {"sub": "mallory", "exp": int(time.time()) + 60, **claims}
    token = jwt.encode(known, SECRET, algorithm="HS256")
    async with await Raw.open(one) as raw:
        raw.frame(said(type="register", userId="mallory", token=token))
        assert (await raw.answer())["type"] == "registered"
        raw.frame(said(type="watch", users=users, id="7"))
        assert await raw.answer() == {**FORBIDDEN, "id": "7"}
    assert _watched(one) == 0


@inputs({kind: said(type=kind, users=["bob"]) for kind in ("watch", "unwatch")})
async def test_a_watch_before_the_register_is_refused(one: Gateway, case: bytes) -> None:
    """ "Not registered" (bad input 195)."""
    async with await Raw.open(one) as raw:
        raw.frame(case)
        assert await raw.answer() == NOT_REGISTERED


@inputs({"nobody": ["bob"], "an impossible user": ["no such user!"], "twice": ["bob", "bob"]})
async def test_the_end_of_no_watch_has_no_answer(one: Gateway, case: list[str]) -> None:
    """The pong is the next thing (bad input 196)."""
    async with await Raw.register(one, "mallory") as raw:
        raw.frame(said(type="unwatch", users=case))
        raw.frame(PING)
        assert await raw.answer() == PONG


@inputs({"as a gateway says it": said(type="presence", user="bob", state="online")})
async def test_an_event_of_a_client_is_an_unknown_type(one: Gateway, case: bytes) -> None:
    """Nobody is told of it (bad input 197)."""
    assert await answer_to(one, case) == UNKNOWN


@inputs({"a number": 7, "empty": "", "65 characters": "i" * 65, "null": None, "a list": ["7"]})
async def test_a_wrong_id_is_not_repeated(one: Gateway, case: Any) -> None:
    """The error is that of the message (bad input 198)."""
    assert await answer_to(one, said(type="watch", users=[], id=case)) == INVALID


GOOD: dict[str, Any] = {"state": "online", "reason": "login", "token": 2**50, "at": 1}


def event(**changes: Any) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


@inputs(
    {
        "nothing": b"",
        "no JSON": b"online",
        "not UTF-8": b"\xff\xfe",
        "a list": b"[]",
        "empty": b"{}",
        "an unknown state": event(state="away"),
        "an unknown reason": event(reason="bored"),
        "a token of a wrong type": event(token="7"),
        "a negative token": event(token=-1),
        "a token above all": event(token=2**53 + 1),
        "a token of 400 digits": b'{"token":%b}' % (b"9" * 400),
        "a time of a wrong type": event(at=None),
        "a time of a fraction": event(at=1.5),
        "an old token": event(state="offline", token=3),
        "1 MB": event(reason="x" * 1_000_000),
        "a depth of 50,000": b"[" * 50_000,
        "an envelope of a gateway": b'{"type":"kick","user":"bob","connId":"x","token":1}',
    }
)
async def test_what_is_no_event_is_ignored(
    one: Gateway, redis_db: Any, keyspace: Keyspace, case: bytes
) -> None:
    """The next one is read (bad input 199)."""
    channel = keyspace.channel("watch", "bob")
    key = keyspace.presence("bob")
    await redis_db.hset(key, mapping={"gwId": "gateway-99", "connId": "c", "epoch": "9"})
    async with await User.register("alice", one.url) as alice:
        await alice.say(type="watch", users=["bob"])
        assert (await alice.hear())["state"] == "online"
        await redis_db.delete(key)
        await redis_db.publish(channel, case)
        await redis_db.publish(channel, event(state="offline", reason="bye"))
        heard = await alice.hear()
        assert (heard["state"], heard["reason"], heard["at"]) == ("offline", "bye", 1)


def _watched(one: Gateway) -> float:
    """How many users are watched there."""
    return one._gauges()["watched_users"][1]()

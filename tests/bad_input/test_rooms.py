"""Rooms: how does a gateway refuse what breaks their rules? (bad input 170 to 189)"""

from __future__ import annotations

from typing import Any

import jwt
import pytest

from tests.bad_input.conftest import Start, inputs
from tests.bad_input.test_fields import NOT_TEXT, TOO_LARGE, UNKNOWN, said
from tests.bad_input.test_json import INVALID, answer_to
from tests.gateway.cluster import Raw
from wsdemo.features import RoomSettings, WatchSettings
from wsdemo.gateway.server import Gateway
from wsdemo.settings import Keyspace

NOT_MEMBER = {"type": "error", "error": "You are not in this room", "code": "not_member"}
FORBIDDEN = {"type": "error", "error": "You may not enter this room", "code": "forbidden"}
SECRET = b"a secret of more than thirty-two bytes"
NO_ROOM = {
    **{name: {"room": value} for name, value in NOT_TEXT.items()},
    "none": {},
    "empty": {"room": ""},
    "a space": {"room": " "},
    "white space inside": {"room": "a b"},
    "a pattern": {"room": "lobby*"},
    "braces": {"room": "{lobby}"},
    "a quote": {"room": 'lobby"'},
    "a backslash": {"room": "lobby\\"},
    "a line feed": {"room": "lobby\n"},
    "NUL": {"room": "lobby\0"},
    "not ASCII": {"room": "l\N{LATIN SMALL LETTER O WITH DIAERESIS}bby"},
    "too long": {"room": "x" * 65},
    "a kilobyte": {"room": "x" * 1024},
    "a slash": {"room": "a/b"},
}
RESERVED = ("gateway-01", "gateway-", "__nowhere__", "____")


@pytest.fixture
async def roomy(start: Start) -> Gateway:
    """A gateway with rooms."""
    return await start(settings={"rooms": RoomSettings()})


async def after_joining(gateway: Gateway, case: bytes) -> dict[str, Any]:
    """Mallory is in the lobby, says it, and still hears what is published there."""
    async with await Raw.register(gateway, "mallory") as raw:
        raw.frame(said(type="join", room="lobby"))
        assert (await raw.answer())["type"] == "joined"
        raw.frame(case)
        answer = await raw.answer()
        raw.frame(said(type="publish", room="lobby", content="still here"))
        assert (await raw.answer())["content"] == "still here"
    return answer


@inputs(
    {
        f"{kind}, {name}": said(type=kind, **fields)
        for kind in ("join", "leave", "publish")
        for name, fields in NO_ROOM.items()
    }
)
async def test_a_room_that_cannot_be_is_refused(roomy: Gateway, case: bytes) -> None:
    """ "Invalid message format" (bad input 170)."""
    assert await answer_to(roomy, case) == INVALID


@inputs({f"{kind}, {n}": said(type=kind, room=n) for kind in ("join", "publish") for n in RESERVED})
async def test_a_reserved_name_is_no_room(roomy: Gateway, case: bytes) -> None:
    """ "Invalid message format" (bad input 171)."""
    assert await answer_to(roomy, case) == INVALID


@inputs(
    {
        name: said(type="join", room="lobby", members=value)
        for name, value in {**NOT_TEXT, "a text": "true"}.items()
        if type(value) is not bool
    }
)
async def test_a_wish_for_members_that_is_no_truth_value_is_refused(
    roomy: Gateway, case: bytes
) -> None:
    """ "Invalid message format" (bad input 172)."""
    assert await answer_to(roomy, case) == INVALID


@inputs({kind: said(type=kind, room="lobby") for kind in ("leave", "publish")})
async def test_who_is_not_in_the_room_is_told_so(roomy: Gateway, case: bytes) -> None:
    """The same answer whether there is such a room or not (bad input 173)."""
    assert await answer_to(roomy, case) == {**NOT_MEMBER, "room": "lobby"}
    async with await Raw.register(roomy, "alice") as alice:
        alice.frame(said(type="join", room="lobby"))
        await alice.answer()
        assert await answer_to(roomy, case) == {**NOT_MEMBER, "room": "lobby"}


@inputs(
    {name: said(type="publish", room="lobby", content=value) for name, value in NOT_TEXT.items()}
)
async def test_content_for_a_room_that_is_no_text_is_refused(roomy: Gateway, case: bytes) -> None:
    """ "Invalid message format" (bad input 174)."""
    assert await after_joining(roomy, case) == INVALID


@inputs(
    {
        "one byte too many": "x" * (16 * 1024 + 1),
        "of two bytes each": "\N{LATIN SMALL LETTER E WITH ACUTE}" * (8 * 1024 + 1),
    }
)
async def test_content_for_a_room_that_is_too_large_is_refused(roomy: Gateway, case: str) -> None:
    """ "Message too large", with its `id`; the limit itself passes (bad input 175)."""
    message = said(type="publish", room="lobby", content=case, id="7")
    assert await after_joining(roomy, message) == {**TOO_LARGE, "id": "7"}
    largest = said(type="publish", room="lobby", content="x" * 16 * 1024)
    assert (await after_joining(roomy, largest))["content"] == "x" * 16 * 1024


@inputs(
    {
        "a line feed": "a\nb",
        "NUL": "\0",
        "an escape sequence": "\x1b[2J",
        "HTML": "<script>alert(1)</script>",
        "nothing": "",
        "JSON": '","from":"admin","x":"',
        "another script": "\N{HIRAGANA LETTER A}\N{PILE OF POO}",
    }
)
async def test_content_for_a_room_is_delivered_unchanged(roomy: Gateway, case: str) -> None:
    """And the gateway says who has sent it (bad input 176)."""
    told = await after_joining(
        roomy, said(type="publish", room="lobby", content=case, **{"from": "x"})
    )
    assert (told["content"], told["from"]) == (case, "mallory")


@inputs(
    {
        name: {"id": value}
        for name, value in {**NOT_TEXT, "empty": "", "65 characters": "x" * 65}.items()
        if value is not None
    }
)
async def test_an_id_of_a_publish_that_is_none_is_refused(
    roomy: Gateway, case: dict[str, Any]
) -> None:
    """ "Invalid message format" without an id (bad input 177)."""
    case = {"type": "publish", "room": "lobby", "content": "x", **case}
    assert await after_joining(roomy, said(**case)) == INVALID


@inputs({kind: said(type=kind, room="lobby", content="x") for kind in ("join", "leave", "publish")})
async def test_a_room_before_the_register_is_refused(roomy: Gateway, case: bytes) -> None:
    """ "Not registered" (bad input 178)."""
    async with await Raw.open(roomy) as raw:
        raw.frame(case)
        answer = await raw.answer()
        assert answer == {"type": "error", "error": "Not registered", "code": "not_registered"}


@inputs({kind: said(type=kind, room="lobby", content="x") for kind in ("join", "leave", "publish")})
async def test_a_room_on_a_gateway_without_rooms_is_unknown(one: Gateway, case: bytes) -> None:
    """ "Unknown message type" (bad input 179)."""
    assert await answer_to(one, case) == UNKNOWN


@inputs({kind: said(type=kind, room="lobby") for kind in ("joined", "left", "member", "members")})
async def test_what_only_a_gateway_says_of_rooms_is_unknown(roomy: Gateway, case: bytes) -> None:
    """ "Unknown message type" (bad input 180)."""
    assert await answer_to(roomy, case) == UNKNOWN


@inputs(
    {
        "no claim": {},
        "another room": {"rooms": ["staff", "lobby-?"]},
        "another case": {"rooms": ["Lobby"]},
        "no list": {"rooms": "lobby"},
        "no texts": {"rooms": [7, None, ["lobby"], {"lobby": 1}, True]},
        "a pattern that is too long": {"rooms": ["*" * 200]},
        "the 65th pattern": {"rooms": [*["x"] * 64, "lobby"]},
        "a broken pattern": {"rooms": ["[lobby", "[", "[!", "[z-a]obby"]},
        "patterns of stars": {"rooms": [("*a" * 60) + "b"] * 60},
        "the other claim": {"watch": ["*"]},
    }
)
async def test_a_room_that_the_token_does_not_permit_is_refused(
    start: Start, case: dict[str, Any]
) -> None:
    """ "You may not enter this room" (bad input 181)."""
    guarded = await start(settings={"rooms": RoomSettings(), "auth_secret": SECRET})
    token = jwt.encode({"sub": "mallory", "exp": 4_000_000_000, **case}, SECRET, "HS256")
    async with await Raw.open(guarded) as raw:
        raw.frame(said(type="register", userId="mallory", token=token))
        assert (await raw.answer())["type"] == "registered"
        raw.frame(said(type="join", room="lobby"))
        assert await raw.answer() == {**FORBIDDEN, "room": "lobby"}


NO_ROOMS: dict[str, dict[str, Any]] = {
    "nothing": {"rooms": None},
    "a text": {"rooms": "lobby"},
    "an empty list": {"rooms": []},
    "a number in it": {"rooms": ["lobby", 7]},
    "an empty name": {"rooms": [""]},
    "a reserved name": {"rooms": ["gateway-01"]},
    "a long name": {"rooms": ["x" * 65]},
    "more than a session may watch": {"rooms": [f"r{n}" for n in range(51)]},
    "users as well": {"rooms": ["lobby"], "users": ["bob"]},
}


@inputs(
    {
        f"{kind}, {name}": said(type=kind, **fields)
        for kind in ("watch", "unwatch")
        for name, fields in NO_ROOMS.items()
    }
)
async def test_what_names_no_room_to_watch_is_refused(start: Start, case: bytes) -> None:
    """ "Invalid message format", and nothing is watched (bad input 187)."""
    running = await start(settings={"rooms": RoomSettings(), "watch": WatchSettings()})
    assert await answer_to(running, case) == INVALID
    gauges = {m.name: m.samples[0].value for m in running.metrics() if m.type == "gauge"}
    assert gauges["wsdemo_room_watchers"] == gauges["wsdemo_watched_users"] == 0


async def test_a_room_to_watch_where_there_are_no_rooms_is_refused(start: Start) -> None:
    """ "Invalid message format": it has no `users` (bad input 188)."""
    running = await start(settings={"watch": WatchSettings()})
    assert await answer_to(running, said(type="watch", rooms=["lobby"])) == INVALID


async def test_each_room_to_watch_may_be_refused_by_itself(start: Start) -> None:
    """By the token, by the number, by the rate; the others are watched (bad input 189)."""
    few = RoomSettings(rooms_per_session=2, join_burst=4, joins_per_s=0.01)
    settings = {"rooms": few, "watch": WatchSettings(), "auth_secret": SECRET}
    running = await start(settings=settings)
    token = jwt.encode({"sub": "mallory", "exp": 4_000_000_000, "rooms": ["r*"]}, SECRET, "HS256")
    async with await Raw.open(running) as raw:
        raw.frame(said(type="register", userId="mallory", token=token))
        assert (await raw.answer())["type"] == "registered"
        for rooms in (["lobby", "r1"], ["r2", "r2"], ["r3", "r4"], ["r5"]):
            raw.frame(said(type="watch", rooms=rooms, id="w-1"))
        answers = [await raw.answer() for _ in range(6)]
        told = {answer["room"]: answer.get("code", answer["type"]) for answer in answers}
        assert told == {
            "lobby": "forbidden",
            "r1": "members",
            "r2": "members",
            "r3": "too_many_rooms",
            "r4": "too_many_rooms",
            "r5": "rate_limited",
        }


async def test_joining_and_leaving_in_turns_has_a_rate(start: Start) -> None:
    """ "Rate limited"; each is told to all members. Nobody is closed (bad input 182)."""
    few = RoomSettings(joins_per_s=0.01, join_burst=4, rooms_per_session=4)
    running = await start(settings={"rooms": few})
    async with await Raw.register(running, "mallory") as raw:
        for kind in ("join", "leave", "join", "leave", "join", "leave"):
            raw.frame(said(type=kind, room="lobby"))
        codes: list[str] = []
        while len(codes) < 2:
            answer = await raw.answer()
            if answer["type"] == "error":
                codes.append(answer["code"])
        assert codes == ["rate_limited", "not_member"]


async def test_more_rooms_than_a_session_may_have_are_refused(start: Start) -> None:
    """ "You are in too many rooms" (bad input 183)."""
    running = await start(settings={"rooms": RoomSettings(rooms_per_session=3)})
    async with await Raw.register(running, "mallory") as raw:
        for n in range(4):
            raw.frame(said(type="join", room=f"room-{n}"))
        answers = [await raw.answer() for _ in range(4)]
        assert sum(answer["type"] == "joined" for answer in answers) == 3
        assert "too_many_rooms" in [answer.get("code") for answer in answers]


@inputs(
    {
        "no JSON": b"hello",
        "a wrong type": b'{"type":"direct","from":"x","content":"x","to":"mallory"}',
        "content that is no text": b'{"type":"message","room":"lobby","from":"x","content":7}',
        "no UTF-8": b'{"type":"message","room":"lobby","from":"x","content":"\xff"}',
        "no UTF-8 in another field": b'{"type":"member","room":"","user":"","state":"","x":"\xff"}',
        "a lone surrogate": b'{"type":"message","room":"lobby","from":"x","content":"\\ud800"}',
        "a megabyte": b'{"type":"mark","boot":"%b","n":1}' % (b"x" * 2**20),
        "nested deep": b"[" * 100_000,
        "a mark of nobody": b'{"type":"mark","boot":"x","n":1}',
    }
)
async def test_what_others_publish_for_a_room_breaks_nothing(
    roomy: Gateway, case: bytes, redis_db: Any, keyspace: Keyspace
) -> None:
    """Dropped, and counted unless it is a mark; the next message is read (bad input 184)."""
    async with await Raw.register(roomy, "mallory") as raw:
        raw.frame(said(type="join", room="lobby"))
        await raw.answer()
        await redis_db.publish(keyspace.channel("room", "lobby"), case)
        raw.frame(said(type="publish", room="lobby", content="next"))
        assert (await raw.answer())["content"] == "next"
        malformed = roomy.stats()["counters"]["malformed_envelopes"]
        assert malformed == (0 if b'"boot":"x","' in case else 1)


@inputs(
    {
        f"history is {name}": {"history": value}
        for name, value in NOT_TEXT.items()
        if value not in (7, None)
    }
    | {
        "history below 1": {"history": -1},
        "a part of a message": {"history": 1.5},
        "an epoch alone": {"epoch": "x"},
        "an offset alone": {"offset": "1-1"},
    }
    | {f"epoch is {n}": {"epoch": v, "offset": "1-1"} for n, v in NOT_TEXT.items() if v is not None}
    | {f"offset is {n}": {"epoch": "x", "offset": v} for n, v in NOT_TEXT.items() if v is not None}
    | {
        f"offset {value}": {"epoch": "x", "offset": value}
        for value in ("", "1", "-1", "1-", "a-1", "1-1-1", "1-1 ", "+", "1-" + "9" * 20, "\u0661-1")
    }
    | {
        "a long epoch": {"epoch": "x" * 65, "offset": "1-1"},
        "no epoch": {"epoch": "", "offset": "1-1"},
    }
)
async def test_a_wish_for_history_that_cannot_be_is_refused(
    start: Start, case: dict[str, Any]
) -> None:
    """ "Invalid message format" (bad input 185)."""
    roomy = await start(settings={"rooms": RoomSettings(room_history=10)})
    assert await answer_to(roomy, said(type="join", room="lobby", **case)) == INVALID


@inputs(
    {
        "a register of another form": {"x": "in"},
        "numbers that are none": {"x": "in a b gw boot c"},
        "too many words": {"x": "in 1 2 gw boot c d"},
        "nothing": {"x": ""},
        "a member that is no user": {"x y z": "in 1 2 gw boot c", '"': "in 1 2 gw boot c"},
    }
)
async def test_entries_of_others_in_a_room_are_nobody(
    roomy: Gateway, case: dict[str, str], redis_db: Any, keyspace: Keyspace
) -> None:
    """They are in no list, and break none (bad input 186)."""
    await redis_db.hset(keyspace.key("room", "lobby"), mapping=case)
    async with await Raw.register(roomy, "mallory") as raw:
        raw.frame(said(type="join", room="lobby"))
        answer = await raw.answer()
        assert answer["members"] == ["mallory"]
        raw.frame(said(type="publish", room="lobby", content="next"))
        while (answer := await raw.answer())["type"] != "message":
            pass
        assert answer["content"] == "next"

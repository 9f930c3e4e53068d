"""Message fields: how does a gateway refuse JSON with wrong fields? (bad input 46 to 66)"""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from tests.bad_input.conftest import Start, inputs
from tests.bad_input.test_json import INVALID, PONG, answer_to
from tests.gateway.cluster import Raw
from tests.waiting import until
from wsdemo.gateway.server import Gateway

NOT_A_COUNT: tuple[Any, ...] = ("1", 1.5, -1, 2**53, None, [], True)
UNKNOWN = {"type": "error", "error": "Unknown message type", "code": "unknown_type"}
NO_USER_ID = {
    "type": "error",
    "error": "UserID is required for registration",
    "code": "user_id_required",
}
NO_RECIPIENT = {"type": "error", "error": "Recipient is required", "code": "recipient_required"}
NOT_FOUND = {"type": "error", "error": "User not found", "code": "offline"}
NOT_REGISTERED = {"type": "error", "error": "Not registered", "code": "not_registered"}
TOO_LARGE = {"type": "error", "error": "Message too large", "code": "too_large"}


def said(**fields: Any) -> bytes:
    """Return a message of these fields."""
    return json.dumps(fields, ensure_ascii=False).encode()


NOT_TEXT: dict[str, Any] = {
    "null": None,
    "a number": 7,
    "zero": 0,
    "true": True,
    "false": False,
    "a list": ["ping"],
    "an empty list": [],
    "an object": {"ping": 1},
}


@inputs(
    {name: said(type=value) for name, value in NOT_TEXT.items()}
    | {"none": b"{}", "empty": said(type=""), "another field": said(kind="ping")}
)
async def test_a_missing_or_wrong_type_is_answered_with_invalid(one: Gateway, case: bytes) -> None:
    """ "Invalid message format" (bad input 46)."""
    assert await answer_to(one, case) == INVALID


@inputs(
    {
        name: said(type=name, to="mallory", content="x")
        for name in ("dance", "PING", "Ping", "ping ", " ping", "pïng", "messages", "\0", "null")
    }
    | {"60,000 letters": said(type="x" * 60_000), "HTML": said(type="<script>alert(1)</script>")}
)
async def test_an_unknown_type_is_answered_without_repeating_it(one: Gateway, case: bytes) -> None:
    """ "Unknown message type", and nothing of what the client sent (bad input 47)."""
    assert await answer_to(one, case) == UNKNOWN


@inputs(
    {
        "none": b'{"type":"register"}',
        "empty": said(type="register", userId=""),
        "a space": said(type="register", userId=" "),
        "white space": said(type="register", userId="\t\r\n\u3000"),
        "another case": said(type="register", userid="mallory"),
    }
)
async def test_register_without_user_id_is_refused_and_may_be_repeated(
    one: Gateway, case: bytes
) -> None:
    """With the text of the Go demo (bad input 48)."""
    async with await Raw.open(one) as raw:
        raw.frame(case)
        assert await raw.answer() == NO_USER_ID
        raw.frame(said(type="register", userId="mallory"))
        assert (await raw.answer())["type"] == "registered"


@inputs(
    {f"userId {name}": said(type="register", userId=value) for name, value in NOT_TEXT.items()}
    | {
        f"{field} {name}": said(type="register", userId="mallory", **{field: value})
        for field in ("token", "inst")
        for name, value in NOT_TEXT.items()
    }
    | {
        f"att {value!r}": said(type="register", userId="mallory", att=value)
        for value in NOT_A_COUNT
    }
    | {"inst of 65": said(type="register", userId="mallory", inst="i" * 65)}
)
async def test_register_with_a_field_of_a_wrong_type_is_answered_with_invalid(
    one: Gateway, case: bytes
) -> None:
    """ "Invalid message format"; the client may try again (bad input 49)."""
    async with await Raw.open(one) as raw:
        raw.frame(case)
        assert await raw.answer() == INVALID
        raw.frame(said(type="register", userId="mallory"))
        assert (await raw.answer())["type"] == "registered"


FORBIDDEN: dict[str, str] = {
    "65 letters": "a" * 65,
    "30,000 letters": "a" * 30_000,
    "64 letters and more bytes": "é" * 40,
    "NUL": "a\0b",
    "a line feed": "a\nb",
    "a line feed at the end": "alice\n",
    "a carriage return": "a\rb",
    "a space": "a b",
    "a space at the end": "alice ",
    "*": "a*",
    "?": "a?",
    "[": "[ab]",
    ":": "a:b",
    "/": "a/b",
    "..": "../a",
    "{}": "{a}",
    "%": "%61",
    "a quote": 'a"b',
    "a backslash": "a\\b",
    "ESC": "\x1b[31ma",
    "DEL": "a\x7f",
    "U+0085": "a\x85",
    "bidi override": "a\u202eb",
    "zero width": "a\u200bb",
    "é (NFC)": "\u00e9",
    "é (NFD)": "e\u0301",
    "Cyrillic а": "\u0430lice",
    "full width": "ａlice",
    "an emoji": "🎉",
    "a digit that is not ASCII": "a٣",
}


async def register_closes(gateway: Gateway, name: str) -> int:
    async with await Raw.open(gateway) as raw:
        raw.frame(said(type="register", userId=name))
        return await raw.closed()


@inputs(FORBIDDEN)
async def test_invalid_user_id_is_closed_with_4513(one: Gateway, case: str) -> None:
    """It would become part of a key, a channel or a log line (bad input 50)."""
    assert await register_closes(one, case) == 4513
    assert len(one.registry) == 1


@inputs(
    {
        name: name
        for name in (
            "*",
            "gateway-01",
            "gateway-",
            "gateway-99x",
            "__probe__",
            "____",
            "__x__",
            "@",
            "@app",
        )
    }
)
async def test_reserved_user_id_is_closed_with_4513(one: Gateway, case: str) -> None:
    """It would look like a gateway, or like one of our own probes (bad input 51)."""
    assert await register_closes(one, case) == 4513
    assert len(one.registry) == 1


@inputs(
    {
        "the same again": (said(type="register", userId="mallory"), "registered"),
        "the same with an attempt": (said(type="register", userId="mallory", att=2), "registered"),
        "another": (said(type="register", userId="eve"), 4505),
        "the neighbour": (said(type="register", userId="neighbour-0"), 4505),
        "one that is not allowed": (said(type="register", userId="a b"), 4505),
        "one that is taken": (said(type="register", userId="gateway-01"), 4505),
        "another case": (said(type="register", userId="Mallory"), 4505),
    }
)
async def test_a_second_register_is_confirmed_or_closed_with_4505(
    one: Gateway, case: tuple[bytes, Any]
) -> None:
    """The same user is confirmed again; for another one: 4505, and the first one is gone
    (bad input 52).
    """
    again, expected = case
    async with await Raw.register(one, "mallory") as raw:
        raw.frame(again)
        if expected == "registered":
            assert (await raw.answer())["type"] == "registered"
            assert len(one.registry) == 2
            return
        assert await raw.closed() == expected
    await until("only the neighbour is left", lambda: len(one.registry) == 1)


@inputs(
    {
        "to oneself": said(type="message", to="mallory", content="x"),
        "to the neighbour": said(type="message", to="neighbour-0", content="x"),
        "to nobody": said(type="message", to="nobody", content="x"),
        "with an id": said(type="message", to="neighbour-0", content="x", id="7"),
        "empty": said(type="message", to="neighbour-0"),
    }
)
async def test_a_message_before_register_is_refused(one: Gateway, case: bytes) -> None:
    """ "Not registered", with its id if it had one; then it may register (bad input 53)."""
    msg_id = json.loads(case).get("id")
    async with await Raw.open(one) as raw:
        raw.frame(case)
        assert await raw.answer() == NOT_REGISTERED | ({"id": msg_id} if msg_id else {})
        raw.frame(said(type="register", userId="mallory"))
        assert (await raw.answer())["type"] == "registered"
    assert one.counters.messages_received == 0


@inputs(
    {
        "none": said(type="message", content="x"),
        "empty": said(type="message", to="", content="x"),
        "null": said(type="message", to=None, content="x"),
        "with an id": said(type="message", to="", content="x", id="42"),
    }
)
async def test_a_message_without_recipient_is_refused(one: Gateway, case: bytes) -> None:
    """ "Recipient is required", with its id if it had one (bad input 54)."""
    msg_id = json.loads(case).get("id")
    assert await answer_to(one, case) == NO_RECIPIENT | ({"id": msg_id} if msg_id else {})


NOBODY = {name: value for name, value in NOT_TEXT.items() if value is not None} | FORBIDDEN


@inputs(NOBODY | {"absent": "nobody", "another case": "Mallory", "a gateway": "gateway-01"})
@pytest.mark.parametrize("msg_id", [None, "42"], ids=["", "id"])
async def test_an_invalid_recipient_gets_the_same_answer_as_an_absent_one(
    one: Gateway, case: Any, msg_id: str | None
) -> None:
    """To the letter, with an id and without: the answer does not tell the rules for names
    (bad input 55).
    """
    fields = {"type": "message", "to": case, "content": "x"}
    if msg_id is None:
        assert await answer_to(one, said(**fields)) == NOT_FOUND
    else:
        offline = {"type": "ack", "id": msg_id, "status": "offline"}
        assert await answer_to(one, said(**fields, id=msg_id)) == offline


@inputs({"once": 1, "a hundred times": 100})
async def test_a_message_to_oneself_is_delivered(one: Gateway, case: int) -> None:
    """Like any other (bad input 56)."""
    async with await Raw.register(one, "mallory") as raw:
        for n in range(case):
            raw.frame(said(type="message", to="mallory", content=str(n)))
        heard = [(await raw.answer())["content"] for _ in range(case)]
    assert heard == [str(n) for n in range(case)]


@inputs(
    {name: (said(type="message", to="mallory", content=value), INVALID)
     for name, value in NOT_TEXT.items()}
    | {
        "none": (
            said(type="message", to="mallory"),
            {"type": "message", "from": "mallory", "content": ""},
        ),
        "null, with an id": (
            said(type="message", to="mallory", content=None, id="7"),
            INVALID | {"id": "7"},
        ),
    }
)  # fmt: skip
async def test_content_of_another_type_is_answered_with_invalid(
    one: Gateway, case: tuple[bytes, Any]
) -> None:
    """ "Invalid message format"; without content it is empty, as in the Go demo (bad input 57)."""
    text, expected = case
    assert await answer_to(one, text) == expected


@inputs(
    {
        "16,385 bytes": said(type="message", to="neighbour-0", content="x" * 16_385),
        "60,000 bytes": said(type="message", to="neighbour-0", content="x" * 60_000),
        "5,462 characters of three bytes": said(
            type="message", to="neighbour-0", content="日" * 5_462
        ),
        "16,385 escapes": b'{"type":"message","to":"neighbour-0","content":"%b"}'
        % (b"\\n" * 16_385),
        "with an id": said(type="message", to="neighbour-0", content="x" * 16_385, id="7"),
        "to nobody": said(type="message", to="nobody", content="x" * 16_385),
    }
)
async def test_too_large_content_is_refused(one: Gateway, case: bytes) -> None:
    """ "Message too large", counted in UTF-8 bytes; the recipient gets nothing (bad input 58)."""
    msg_id = json.loads(case).get("id")
    assert await answer_to(one, case) == TOO_LARGE | ({"id": msg_id} if msg_id else {})


CONTENTS: dict[str, str] = {
    "nothing": "",
    "NUL": "a\0b",
    "all control characters": "".join(map(chr, range(32))) + "\x7f\x85",
    "CR LF": "a\r\nX-Forged: 1\r\n",
    "a forged line of a log": "x\n2026/01/01 [Gateway] User root registered",
    "ANSI": "\x1b]0;title\x07\x1b[2J\x1b[31mred",
    "a script": "<script>alert(1)</script>",
    "an image": '"><img src=x onerror=alert(1)>',
    "quotes and backslashes": 'a"b\\c\\"',
    "JSON": '","to":"neighbour-0","x":"',
    "an envelope": '"}{"type":"kick","user":"neighbour-0","connId":"x","token":1}',
    "Lua": "]] redis.call('FLUSHALL') --",
    "orders for Redis": "\r\n*1\r\n$8\r\nFLUSHALL\r\n",
    "all of Unicode's planes": "é日本🎉\U0010ffff",
    "line separators": "\u2028\u2029",
    "bidi": "\u202eevil",
    "not a character": "\ufffe\uffff",
    "16 KiB": "x" * 16_384,
    "16 KiB of escapes": "\n" * 16_384,
    "16 KiB of characters": "日" * 5_461,
    "percent signs": "%s %d %(x)s {0}",
}


@inputs(CONTENTS)
async def test_content_is_delivered_unchanged_and_not_logged(
    start: Start, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    """To a user of the same gateway, and through Redis to a user of another (bad input 59)."""
    here, there = await start(), await start("gateway-02")
    with caplog.at_level(logging.DEBUG):
        async with (
            await Raw.register(here, "mallory") as mallory,
            await Raw.register(here, "alice") as alice,
            await Raw.register(there, "bob") as bob,
        ):
            for to, recipient in (("alice", alice), ("bob", bob)):
                mallory.frame(said(type="message", to=to, content=case))
                heard = await recipient.answer()
                assert heard == {"type": "message", "from": "mallory", "content": case}
    ours = [r.getMessage() for r in caplog.records if r.name.startswith("wsdemo")]
    assert any("mallory" in line for line in ours), "the log says who, or this test shows nothing"
    assert not case or not any(case in line for line in ours), "and never what"


@inputs(
    {
        "the neighbour": {"from": "neighbour-0"},
        "a gateway": {"from": "gateway-01"},
        "nobody": {"from": None},
        "not a name": {"from": ["x"]},
        "other fields of an envelope": {"fromGw": "x", "fromConn": "x", "toConn": "x", "epoch": 1},
    }
)
async def test_a_sender_given_by_the_client_is_ignored(one: Gateway, case: dict[str, Any]) -> None:
    """The gateway knows the sender (bad input 60)."""
    answer = await answer_to(one, said(type="message", to="mallory", content="x", **case))
    assert answer == {"type": "message", "from": "mallory", "content": "x"}


@inputs(
    {
        name: said(type=name, id="7", userId="mallory", to="neighbour-0", content="x")
        for name in (
            *("registered", "error", "ack", "pong", "resumed", "resume"),
            *("direct", "broadcast", "kick", "bounce", "probe", "takeover"),
        )
    }
)
async def test_types_that_only_gateways_send_are_unknown_types(one: Gateway, case: bytes) -> None:
    """ "Unknown message type", also for what gateways send to one another (bad input 61)."""
    assert await answer_to(one, case) == UNKNOWN


@inputs(
    {name: value for name, value in NOT_TEXT.items() if value is not None}
    | {"empty": "", "65 letters": "i" * 65, "30,000 letters": "i" * 30_000}
)
async def test_an_invalid_message_id_is_refused_and_not_repeated(one: Gateway, case: Any) -> None:
    """ "Invalid message format" without an id, and the message is not sent (bad input 62)."""
    message = said(type="message", to="neighbour-0", content="x", id=case)
    assert await answer_to(one, message) == INVALID
    assert one.counters.messages_received == 0


@inputs(
    {
        "60,000 letters": said(type="ping", payload="x" * 60_000),
        "a list of 20,000": said(type="ping", payload=[1] * 20_000),
        "an id": said(type="ping", id="7"),
        "content": said(type="ping", to="neighbour-0", content="x"),
    }
)
async def test_a_pong_repeats_nothing_of_its_ping(one: Gateway, case: bytes) -> None:
    """The same pong for every ping (bad input 65)."""
    assert await answer_to(one, case) == PONG


@inputs({"one": 1, "ten": 10})
async def test_a_ping_before_register_does_not_extend_the_deadline(start: Start, case: int) -> None:
    """It is answered, and the deadline to register stays (bad input 66)."""
    gateway = await start(register_deadline_s=0.3)
    async with await Raw.open(gateway) as raw:
        for _ in range(case):
            raw.frame(said(type="ping"))
            assert await raw.answer() == PONG
        assert await raw.closed() == 4001

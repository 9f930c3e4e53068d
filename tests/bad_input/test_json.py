"""JSON: how does a gateway refuse a text that is not JSON, or not a message? (bad input 37 to 45)

The answer is one error frame, always the same, and the connection stays: developers of clients make
such mistakes. Too many of them end it.
"""

from __future__ import annotations

import json

from tests.bad_input.conftest import Start, inputs
from tests.gateway.cluster import Raw
from tests.waiting import until
from wsdemo.gateway.server import Gateway

INVALID = {"type": "error", "error": "Invalid message format", "code": "invalid"}
PONG = {"type": "pong"}
PING = b'{"type":"ping"}'


async def answer_to(gateway: Gateway, said: bytes) -> dict[str, object]:
    """A registered user says it; return the answer, and make sure that the connection stays."""
    async with await Raw.register(gateway, "mallory") as raw:
        raw.frame(said)
        answer = await raw.answer()
        raw.frame(PING)
        assert await raw.answer() == PONG
    return answer


def message(content: str) -> bytes:
    """Return a message with this as the JSON of its content."""
    return b'{"type":"message","to":"mallory","content":%b}' % content.encode()


@inputs(
    {
        "nothing": b"",
        "spaces": b" \t\r\n",
        "a word": b"hello",
        "NUL": b"\0",
        "cut short": b'{"type":"ping"',
        "cut within a string": b'{"type":"pi',
        "text behind it": b'{"type":"ping"} x',
        "NUL behind it": b'{"type":"ping"}\0',
        "two documents": PING + PING,
        "two lines": PING + b"\n" + PING,
        "a comment": b'{"type":"ping"} // hi',
        "a comment within": b'{"type":/* hi */"ping"}',
        "single quotes": b"{'type':'ping'}",
        "no quotes": b"{type:ping}",
        "a trailing comma": b'{"type":"ping",}',
        "a leading comma": b'{,"type":"ping"}',
        "a semicolon": b'{"type":"ping";"x":1}',
        "a raw line feed": message('"\n"'),
        "a raw NUL": message('"\0"'),
        "a raw tab": b'{"type":"ping\t"}',
        "an unknown escape": message('"\\x41"'),
        "half of an escape": message('"\\u00"'),
        "a byte order mark": b"\xef\xbb\xbf" + PING,
        "a no-break space": b"\xc2\xa0" + PING,
        "XML": b'<message type="ping"/>',
        "a request of HTTP": b"GET / HTTP/1.1\r\n\r\n",
    }
)
async def test_text_that_is_not_json_is_answered_with_invalid(one: Gateway, case: bytes) -> None:
    """RFC 8259 to the letter: exactly one document (bad input 37)."""
    assert await answer_to(one, case) == INVALID


@inputs(
    {
        text.decode(): text
        for text in (b"[]", b'["ping"]', b'"ping"', b'""', b"7", b"-0.5", b"1e5", b"null", b"true")
    }
    | {"a list of messages": b"[%b,%b]" % (PING, PING)}
)
async def test_json_that_is_no_object_is_answered_with_invalid(one: Gateway, case: bytes) -> None:
    """Valid JSON, but not a message (bad input 38)."""
    assert await answer_to(one, case) == INVALID


DEEP = 30_000


@inputs(
    {
        "lists": b"[" * DEEP + b"]" * DEEP,
        "lists without an end": b"[" * 65_000,
        "objects": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
        "in a field that nobody reads": b'{"type":"ping","x":' + b"[" * DEEP + b"]" * DEEP + b"}",
        "in a field that somebody reads": message("[" * DEEP + "]" * DEEP),
        "as the type": b'{"type":' + b"[" * DEEP + b"]" * DEEP + b"}",
        "lists and objects": b'{"type":"ping","x":' + b'[{"a":' * 9_000,
    }
)
async def test_deeply_nested_json_is_answered_with_invalid(one: Gateway, case: bytes) -> None:
    """Also where Python's parser raises RecursionError (bad input 39)."""
    assert await answer_to(one, case) == INVALID


@inputs(
    {
        "4,301 digits": b'{"type":"ping","x":%b}' % (b"9" * 4_301),
        "60,000 digits": b'{"type":"ping","x":%b}' % (b"9" * 60_000),
        "negative": b'{"type":"ping","x":-%b}' % (b"9" * 5_000),
        "as the type": b'{"type":%b}' % (b"9" * 5_000),
        "as the content": message("9" * 5_000),
        "as a key's number": b'{"type":"register","userId":"mallory","att":%b}' % (b"9" * 5_000),
        "alone": b"9" * 5_000,
        "leading zeros": b'{"type":"ping","x":007}',
        "hexadecimal": b'{"type":"ping","x":0x10}',
        "a leading plus": b'{"type":"ping","x":+1}',
        "a leading point": b'{"type":"ping","x":.5}',
    }
)
async def test_a_number_that_is_too_long_or_not_json_is_answered_with_invalid(
    one: Gateway, case: bytes
) -> None:
    """Also where Python's parser raises ValueError (bad input 40)."""
    assert await answer_to(one, case) == INVALID


@inputs(
    {
        f"{number} {where}": template % number.encode()
        for number in ("NaN", "Infinity", "-Infinity", "1e999", "-1e999")
        for where, template in {
            "in a field that nobody reads": b'{"type":"ping","x":%b}',
            "as the content": b'{"type":"message","to":"mallory","content":%b}',
            "within a list": b'{"type":"ping","x":[1,{"y":%b}]}',
            "in a message": b'{"type":"message","to":"mallory","content":"x","x":%b}',
        }.items()
    }
)
async def test_a_number_that_is_not_finite_is_answered_with_invalid(
    one: Gateway, case: bytes
) -> None:
    """Python's JSON parser would accept them all (bad input 41)."""
    assert await answer_to(one, case) == INVALID


@inputs(
    {
        "ping and register": b'{"type":"ping","type":"register","userId":"mallory"}',
        "the same twice": b'{"type":"ping","type":"ping"}',
        "two recipients": b'{"type":"message","to":"mallory","to":"neighbour-0","content":"x"}',
        "two contents": b'{"type":"message","to":"mallory","content":"x","content":"y"}',
        "two recipients and no content": b'{"type":"message","to":"mallory","to":"neighbour-0"}',
        "two ids": b'{"type":"message","to":"mallory","content":"x","id":"1","id":"2"}',
        "one of them escaped": b'{"type":"ping","\\u0074ype":"ping"}',
        "deep inside": b'{"type":"ping","x":{"y":1,"y":2}}',
        "in a field that nobody reads": b'{"type":"ping","x":1,"x":1}',
        "two users": b'{"type":"register","userId":"mallory","userId":"neighbour-0"}',
    }
)
async def test_a_duplicate_key_is_answered_with_invalid(one: Gateway, case: bytes) -> None:
    """Otherwise, a reader of the first and a reader of the last value would disagree
    (bad input 42).
    """
    assert await answer_to(one, case) == INVALID


def keys(count: int) -> bytes:
    """Return a ping with this many keys."""
    return json.dumps({"type": "ping"} | {str(n): 0 for n in range(count - 1)}).encode()


@inputs(
    {
        "33": keys(33),
        "5,000": keys(5_000),
        "33 deep inside": b'{"type":"ping","x":%b}' % keys(33),
    }
)
async def test_too_many_keys_are_answered_with_invalid(one: Gateway, case: bytes) -> None:
    """32 at most (bad input 43)."""
    assert await answer_to(one, case) == INVALID


@inputs(
    {
        f"{name} {where}": template % text
        for name, text in {
            "a high one": b"\\ud800",
            "a low one": b"\\udc00",
            "in the wrong order": b"\\udc00\\ud800",
            "two high ones": b"\\ud800\\ud800",
            "a high one and a letter": b"\\ud83dx",
            "a pair and one more": b"\\ud83d\\ude00\\ud83d",
        }.items()
        for where, template in {
            "as the content": b'{"type":"message","to":"mallory","content":"%b"}',
            "as the id": b'{"type":"message","to":"mallory","content":"","id":"%b"}',
            "as the recipient": b'{"type":"message","to":"%b","content":""}',
            "in a field that nobody reads": b'{"type":"ping","x":["%b"]}',
            "as a key": b'{"type":"ping","%b":1}',
            "as the user": b'{"type":"register","userId":"%b"}',
            "as the type": b'{"type":"%b"}',
        }.items()
    }
)
async def test_a_lone_surrogate_is_answered_with_invalid(one: Gateway, case: bytes) -> None:
    """JSON can escape one, UTF-8 cannot carry it: it would break its recipient (bad input 44)."""
    assert await answer_to(one, case) == INVALID


MORE = b'"x":1,"y":[{"z":null}],"from":"neighbour-0","":"","TYPE":"register"'


@inputs(
    {
        "ping": (b'{"type":"ping",%b}' % MORE, PONG),
        "ping, more first": (b'{%b,"type":"ping"}' % MORE, PONG),
        "register": (b'{"type":"register","userId":"mallory",%b}' % MORE, "registered"),
        "message": (
            b'{"type":"message","to":"mallory","content":"hi",%b}' % MORE,
            {"type": "message", "from": "mallory", "content": "hi"},
        ),
        "32 keys": (keys(32), PONG),
        "spaces": (b' {\n\t"type" : "ping" , "x" : { } }\r\n', PONG),
        "an escaped type": (b'{"type":"p\\u0069ng"}', PONG),
    }
)
async def test_unknown_fields_are_ignored(one: Gateway, case: tuple[bytes, object]) -> None:
    """So that a client may be newer than its gateway (bad input 45)."""
    said, expected = case
    answer = await answer_to(one, said)
    assert expected in (answer, answer["type"])


@inputs({"nonsense": b"nonsense", "a list": b"[]", "NaN": b'{"type":"ping","x":NaN}'})
async def test_too_many_invalid_messages_end_the_connection(start: Start, case: bytes) -> None:
    """Each gets its answer, and the one beyond the limit 4502."""
    gateway = await start(max_malformed=3)
    async with await Raw.register(gateway, "mallory") as raw:
        for _ in range(4):
            raw.frame(case)
        assert [await raw.answer() for _ in range(4)] == [INVALID] * 4
        assert await raw.closed() == 4502
    assert gateway.counters.malformed_messages == 4


async def test_old_invalid_messages_do_not_count(start: Start) -> None:
    """The limit holds for a window of time, not for the life of a connection."""
    gateway = await start(max_malformed=3, malformed_window_s=0.05)
    async with await Raw.register(gateway, "mallory") as raw:
        session = gateway.registry.by_user("mallory")
        assert session is not None
        for _ in range(3):
            # One after the other, each when the one before it is out of the window.
            for _ in range(2):
                raw.frame(b"nonsense")
                assert await raw.answer() == INVALID
            last = gateway._clock()
            await until("that is long ago", lambda: gateway._clock() - last > 0.05)
        raw.frame(b'{"type":"ping"}')
        assert await raw.answer() == PONG

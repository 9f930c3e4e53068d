"""Server API: what does a backend get that does not know the key, or makes a mistake?"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.bad_input.conftest import Start, inputs
from tests.gateway.api import BEARER, JSON_TYPE, KEY, Backend, head, once, post
from tests.processes import http_get
from wsdemo.features import ApiSettings
from wsdemo.gateway.api.http import MAX_BODY_BYTES, MAX_CONNECTIONS, UNAUTHORIZED
from wsdemo.gateway.server import Gateway

PUBLISH = "/api/publish"
MESSAGE = {"to": "bob", "content": "Hi", "id": "1"}


@pytest.fixture
async def api(start: Start) -> Gateway:
    """gateway-01 with a server API, which lets strangers wait for a moment only."""
    return await start(auth_delay_s=0.001, settings={"api": ApiSettings(api_key=KEY)})


async def said_to_all_strangers(api: Gateway, request: bytes) -> None:
    """The same bytes, and nothing after them."""
    async with await Backend.connect(api) as stranger:
        stranger.say(request)
        assert await stranger.rest() == UNAUTHORIZED


async def refused(api: Gateway, request: bytes, status: int, code: str) -> None:
    """One answer with a status and a code; and the gateway goes on to answer."""
    assert (await once(api, request)).told == (status, code)
    assert (await once(api, head("GET /api/presence/bob"))).status == 200


@inputs(
    {
        "none": head("GET /api/presence", key=None),
        "another": head("GET /api/presence", key=f"Bearer {'x' * 32}"),
        "a part": head("GET /api/presence", key=BEARER[:-1]),
        "more": head("GET /api/presence", key=f"{BEARER}0"),
        "no scheme": head("GET /api/presence", key=KEY.decode()),
        "another scheme": head("GET /api/presence", key=f"Basic {KEY.decode()}"),
        "lower case": head("GET /api/presence", key=f"bearer {KEY.decode()}"),
        "empty": head("GET /api/presence", key="Bearer "),
        "two": head("GET /api/presence", {"authorization": BEARER}),
        "not ASCII": head("GET /api/presence", key="Bearer é"),
    }
)
async def test_without_the_key_everybody_gets_the_same_401(api: Gateway, case: bytes) -> None:
    """The answer says nothing about the key (bad input 200)."""
    await said_to_all_strangers(api, case)


@inputs(
    {
        "an unknown path": head("GET /nothing", key=None),
        "the description": head("GET /openapi.json", key=None),
        "another method": head("DELETE /api/publish", key=None),
        "a large body": head("POST /api/publish", {"Content-Length": "9999999"}, key=None),
        "chunks": head("POST /api/publish", {"Transfer-Encoding": "chunked"}, key=None),
    }
)
async def test_without_the_key_nothing_else_is_told(api: Gateway, case: bytes) -> None:
    """Neither 404 nor 405 nor a size (bad input 201)."""
    await said_to_all_strangers(api, case)


@inputs(
    {
        "a word": b"hello\r\n\r\n",
        "zeros": b"\0" * 8 + b"\r\n\r\n",
        "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\n\n",
        "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "two lengths": post(PUBLISH, MESSAGE, {"content-length": "1"}),
        "a negative length": head("POST /api/publish", {"Content-Length": "-1"}),
        "a length that is no number": head("POST /api/publish", {"Content-Length": "one"}),
        "a huge length": head("POST /api/publish", {"Content-Length": "9" * 30}),
        "no host": f"GET / HTTP/1.1\r\nAuthorization: {BEARER}\r\n\r\n".encode(),
        "two hosts": head("GET /api/presence", {"host": "y"}),
        "a huge header": head("GET /api/presence", {"X": "x" * 40_000}),
        "many headers": head("GET /api/presence", {f"X{n}": "x" * 50 for n in range(1000)}),
        "a header without a colon": head("GET / HTTP/1.1\r\nnothing"),
        "a header on two lines": head("GET /api/presence", {"X": "a\r\nb"}),
        "a space in the path": head("GET /api/presence/a b"),
        "Latin-1 in the path": head("GET /api/presence/é"),
    }
)
async def test_a_head_that_cannot_be_read_has_shown_no_key(api: Gateway, case: bytes) -> None:
    """So its sender is a stranger as well (bad input 202)."""
    await said_to_all_strangers(api, case)


@inputs({"nothing": b"", "a part": b"GET /api", "all but the end": head("GET /api/x")[:-2]})
async def test_a_head_that_does_not_come_is_not_waited_for(
    api: Gateway, case: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody holds a connection without the key (bad input 203)."""
    monkeypatch.setattr("wsdemo.gateway.api.http.HEAD_S", 0.1)
    async with await Backend.connect(api) as slow:
        slow.say(case)
        assert await slow.rest() == b""


@inputs({"nothing": 1_000, "all but one byte": 1})
async def test_a_body_that_does_not_come_is_not_waited_for(
    api: Gateway, case: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection ends with the answer (bad input 204)."""
    monkeypatch.setattr("wsdemo.gateway.api.http.BODY_S", 0.1)
    request = post(PUBLISH, MESSAGE)
    start, _, body = request.partition(b"\r\n\r\n")
    await refused(api, start + b"\r\n\r\n" + body[: max(0, len(body) - case)], 408, "too_slow")


@inputs(
    {
        path: path
        for path in (
            *("/", "/api", "/api/", "/api/publish/", "/api//publish", "/API/publish", "/ws"),
            *("/api/presence/", "/api/presence/a/b", "/api/rooms", "/api/inbox/", "/health"),
            *("/api/presence/../publish", "/openapi.json/", "//openapi.json", "/api/presence#a"),
        )
    }
)
async def test_an_unknown_path_is_404(api: Gateway, case: str) -> None:
    """Also one that is nearly known (bad input 205)."""
    await refused(api, head(f"GET {case}"), 404, "not_found")


@inputs(
    {
        f"{method} {path}": (method, path, allow)
        for method, path, allow in (
            *((method, PUBLISH, "POST") for method in ("GET", "HEAD", "PUT", "OPTIONS", "post")),
            *((method, "/api/presence/bob", "GET, HEAD") for method in ("POST", "DELETE", "TRACE")),
            ("POST", "/openapi.json", "GET, HEAD"),
        )
    }
)
async def test_another_method_is_405(api: Gateway, case: tuple[str, str, str]) -> None:
    """With the methods that there are (bad input 206)."""
    method, path, allow = case
    async with await Backend.connect(api) as backend:
        backend.say(head(f"{method} {path}"))
        reply = await backend.hear(is_head=method == "HEAD")
    assert (reply.status, reply.headers["allow"]) == (405, allow)
    assert method == "HEAD" or reply.document["code"] == "method"


@inputs(
    {
        "chunked": head(f"POST {PUBLISH}", {**JSON_TYPE, "Transfer-Encoding": "chunked"})
        + b"2\r\n{}\r\n0\r\n\r\n",
        "a chunk that is none": head(f"POST {PUBLISH}", {"Transfer-Encoding": "chunked"}) + b"zz",
    }
)
async def test_a_body_in_chunks_is_not_read(api: Gateway, case: bytes) -> None:
    """Only a length says without doubt where it ends (bad input 207)."""
    await refused(api, case, 411, "length_required")


@inputs({"a byte more": MAX_BODY_BYTES + 1, "a gigabyte": 2**30})
async def test_a_large_body_is_refused_by_its_length(api: Gateway, case: int) -> None:
    """Not a byte of it has to come (bad input 208)."""
    request = head(f"POST {PUBLISH}", {**JSON_TYPE, "Content-Length": str(case)})
    await refused(api, request, 413, "too_large")


@inputs({"a byte more": "x" * 16_385, "in UTF-8": "é" * 8_193})
async def test_large_content_is_refused(api: Gateway, case: str) -> None:
    """The limit is that of a user's message (bad input 209)."""
    await refused(api, post(PUBLISH, {**MESSAGE, "content": case}), 413, "too_large")
    allowed = post(PUBLISH, {**MESSAGE, "content": case[:-1]})
    assert (await once(api, allowed)).status == 200


@inputs({"1.0": b"HTTP/1.0"})
async def test_another_version_is_505(api: Gateway, case: bytes) -> None:
    """Its connections would end otherwise (bad input 210)."""
    await refused(api, head("GET /api/presence").replace(b"HTTP/1.1", case), 505, "http_version")


@inputs(
    {
        "nothing": b"",
        "no JSON": b"{",
        "two documents": b"{}{}",
        "a list": b"[]",
        "a text": b'"a"',
        "a number": b"1",
        "null": b"null",
        "a key twice": b'{"to":"bob","to":"eve","content":"Hi"}',
        "NaN": b'{"to":NaN}',
        "infinity": b'{"to":-Infinity}',
        "a huge number": b'{"to":1e999}',
        "half a surrogate pair": b'{"to":"bob","content":"\\ud800"}',
        "not UTF-8": b'{"to":"\xff"}',
        "a byte order mark": b"\xef\xbb\xbf{}",
        "very deep": b'{"to":' + b"[" * 30_000 + b"]" * 30_000 + b"}",
        "a line feed in a text": b'{"to":"a\nb"}',
        "many keys": json.dumps({str(n): n for n in range(100)}).encode(),
    }
)
async def test_a_body_that_is_no_json_object_is_refused(api: Gateway, case: bytes) -> None:
    """Strictly: two readers must not understand it differently (bad input 211)."""
    await refused(api, post(PUBLISH, case), 400, "bad_json")


@inputs(
    {
        "text": {"Content-Type": "text/plain"},
        "a form": {"Content-Type": "application/x-www-form-urlencoded"},
        "empty": {"Content-Type": ""},
        "nearly": {"Content-Type": "application/json2"},
    }
)
async def test_a_body_of_another_type_is_refused(api: Gateway, case: dict[str, str]) -> None:
    """It may be meant for something else (bad input 212)."""
    await refused(api, post(PUBLISH, MESSAGE, case), 415, "media_type")


@inputs(
    {
        "no content": {"to": "bob"},
        "content null": {**MESSAGE, "content": None},
        "content a number": {**MESSAGE, "content": 5},
        "content an object": {**MESSAGE, "content": {}},
        "to a list": {**MESSAGE, "to": ["bob"]},
        "durable a text": {**MESSAGE, "durable": "true"},
        "durable a number": {**MESSAGE, "durable": 1},
        "unknown": {**MESSAGE, "colour": "red"},
        "another case": {"To": "bob", "content": "Hi"},
        "a room that is durable": {"room": "r", "content": "Hi", "durable": True},
    }
)
async def test_a_wrong_field_is_refused(api: Gateway, case: dict[str, Any]) -> None:
    """A field that is not known may be a mistake in writing (bad input 213)."""
    await refused(api, post(PUBLISH, case), 400, "invalid")


@inputs({"both": {**MESSAGE, "room": "r"}, "neither": {"content": "Hi"}, "nothing at all": {}})
async def test_a_message_goes_to_a_user_or_to_a_room(api: Gateway, case: dict[str, Any]) -> None:
    """Not to both, not to nobody (bad input 214)."""
    await refused(api, post(PUBLISH, case), 400, "invalid")


@inputs({"empty": "", "129 characters": "x" * 129})
async def test_a_name_has_1_to_128_characters(api: Gateway, case: str) -> None:
    """In a body and in a path (bad input 215)."""
    await refused(api, post(PUBLISH, {**MESSAGE, "to": case}), 400, "invalid")
    await refused(api, post("/api/disconnect", {"user": case}), 400, "invalid")
    told = (await once(api, head(f"GET /api/presence/{case}"))).told
    assert told == ((400, "invalid") if case else (404, "not_found"))


@inputs({name: name for name in ("a b", "{x}", "*", "a\n", "\u202e", "é", "@app", "x" * 100)})
async def test_an_impossible_name_is_absent(api: Gateway, case: str) -> None:
    """It is asked for in Redis by no pattern, and in no key (bad input 216)."""
    reply = await once(api, post(PUBLISH, {**MESSAGE, "to": case}))
    assert reply.told == (200, {"status": "offline", "id": "1"})
    assert (await once(api, post("/api/disconnect", {"user": case}))).told == (
        200,
        {"status": "offline", "sessions": []},
    )


@inputs({"empty": "", "65 characters": "x" * 65, "a number": 5, "a list": ["1"]})
async def test_an_impossible_id_is_refused(api: Gateway, case: Any) -> None:
    """As in a message of a user (bad input 217)."""
    await refused(api, post(PUBLISH, {**MESSAGE, "id": case}), 400, "invalid")


@inputs(
    {
        "a user": "alice",
        "nobody": "",
        "only the sign": "@",
        "a line feed": "@app\n",
        "a quotation mark": '@a"b',
        "a space": "@a b",
        "long": "@" + "a" * 64,
        "null": None,
    }
)
async def test_a_backend_cannot_speak_as_a_user(api: Gateway, case: Any) -> None:
    """Its names begin with @, and no user's does (bad input 218)."""
    await refused(api, post(PUBLISH, {**MESSAGE, "from": case}), 400, "invalid")


@inputs(
    {
        "code 1000": {"code": 1000},
        "code 4509": {"code": 4509},
        "a code as text": {"code": "4515"},
        "a code with a part": {"code": 4515.5},
        "a long reason": {"reason": "x" * 101},
        "a reason of two lines": {"reason": "a\nb"},
        "a line feed at its end": {"reason": "a\n"},
        "not ASCII": {"reason": "é"},
    }
)
async def test_a_goodbye_is_one_of_an_operator(api: Gateway, case: dict[str, Any]) -> None:
    """It has to fit into a close frame (bad input 219)."""
    await refused(api, post("/api/disconnect", {"user": "bob", **case}), 400, "invalid")


@inputs({text: text for text in ("%", "%4", "a%zz", "%ff", "%c3", "%ed%a0%80", "%+1", "%c3%28")})
async def test_a_path_is_percent_encoded_utf_8(api: Gateway, case: str) -> None:
    """What cannot be decoded is no name (bad input 220)."""
    await refused(api, head(f"GET /api/presence/{case}"), 400, "bad_target")


@inputs(
    {
        query: query
        for query in (
            *("count=0", "count=1001", "count=-1", "count=x", "count=", "count=1.5", "size=5"),
            *(
                "cursor=x",
                "cursor=-1",
                "cursor=",
                f"cursor={'9' * 20}",
                "cursor=0%0A",
                "cursor=%ff",
            ),
            *("count=1&count=2", "count", "&".join(f"x{n}=1" for n in range(20)), "count=5&&"),
        )
    }
)
async def test_a_wrong_query_is_refused(api: Gateway, case: str) -> None:
    """Nothing is guessed (bad input 221)."""
    told = await once(api, head(f"GET /api/presence?{case}"))
    assert told.status == 400
    assert told.document["code"] in {"invalid", "bad_target"}


@inputs(
    {
        "a query": head("GET /api/presence/bob?count=5"),
        "a body": head("GET /api/presence/bob", {"Content-Length": "2"}) + b"{}",
        "a query of a POST": post(f"{PUBLISH}?to=bob", MESSAGE),
    }
)
async def test_what_is_not_taken_is_refused(api: Gateway, case: bytes) -> None:
    """Who sends it expects something of it (bad input 222)."""
    await refused(api, case, 400, "invalid")


@inputs({"one connection": True, "many connections": False})
async def test_too_many_requests_are_refused(start: Start, case: bool) -> None:
    """All who know the key share one rate (bad input 223)."""
    settings = ApiSettings(api_key=KEY, api_requests_per_s=0.01, api_burst=2)
    api = await start(settings={"api": settings})
    request = head("GET /api/presence/bob")
    if case:
        async with await Backend.connect(api) as backend:
            replies = [await backend.ask(request) for _ in range(3)]
    else:
        replies = [await once(api, request) for _ in range(3)]
    assert [reply.status for reply in replies] == [200, 200, 429]
    assert replies[-1].headers["retry-after"] == "1"


@inputs({"one more": 1})
async def test_too_many_connections_are_hung_up_on(api: Gateway, case: int) -> None:
    """Those that are there are served (bad input 224)."""
    many = [await Backend.connect(api) for _ in range(MAX_CONNECTIONS)]
    assert (await many[-1].get("/api/presence/bob")).status == 200
    for _ in range(case):
        async with await Backend.connect(api) as late:
            late.say(head("GET /api/presence/bob"))
            assert await late.rest() == b""
    assert (await many[0].get("/api/presence/bob")).status == 200
    for backend in many:
        async with backend:
            pass


@inputs(
    {
        target: target
        for target in ("http://x/api/presence", "*", "x:80", "api/presence", "?/api/presence")
    }
)
async def test_a_target_is_a_path(api: Gateway, case: str) -> None:
    """This is no proxy (bad input 225)."""
    await refused(api, head(f"GET {case}"), 404, "not_found")


@inputs({host: host for host in ("example.org", "127.0.0.1:1", "")})
async def test_a_foreign_host_is_answered(api: Gateway, case: str) -> None:
    """A page that was led here does not know the key (bad input 226)."""
    request = head("GET /api/presence/bob", {"Host": case})
    assert (await once(api, request)).status == 200


@inputs({"ten": 10})
async def test_pipelined_requests_are_answered_in_order(api: Gateway, case: int) -> None:
    """One at a time; a mistake among them does not shift the others (bad input 227)."""
    async with await Backend.connect(api) as backend:
        for n in range(case):
            backend.say(head(f"GET /api/presence/u{n}") + head("GET /nothing"))
        for n in range(case):
            assert (await backend.hear()).document["user"] == f"u{n}"
            assert (await backend.hear()).told == (404, "not_found")


@inputs(
    {"a WebSocket": {"Upgrade": "websocket", "Connection": "Upgrade"}, "h2c": {"Upgrade": "h2c"}}
)
async def test_an_upgrade_is_not_made(api: Gateway, case: dict[str, str]) -> None:
    """The answer is one of HTTP/1.1 (bad input 228)."""
    websocket = {"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
    reply = await once(api, head("GET /ws", {**case, **websocket}))
    assert reply.told == (404, "not_found")


@inputs({path: path for path in (PUBLISH, "/api/presence", "/openapi.json")})
async def test_the_port_of_users_has_none_of_it(api: Gateway, case: str) -> None:
    """Not even with the key (bad input 229)."""
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
        writer.write(head(f"GET {case}"))
        assert (await reader.read()).startswith(b"HTTP/1.1 404 ")
        writer.close()
        await writer.wait_closed()
    assert (await http_get(api.port, case))[0] == 404

"""Handshake: how does a gateway refuse a wrong HTTP request? (bad input 1 to 20)

Whatever is asked, an answer of HTTP or none at all, and the connection is closed. "Closed, no
bytes" is for clients that do not speak HTTP: an answer would only help a scanner. Who does, and
says something malformed, is told so (RFC 9112, sections 3.2, 5.1, 5.2 and 6.3).
"""

from __future__ import annotations

import asyncio
import contextlib
import random

from tests.bad_input.conftest import Start, inputs
from tests.gateway.cluster import USUAL, Raw, frame, request
from wsdemo.gateway.server import Gateway


async def ask(gateway: Gateway, *said: bytes) -> tuple[int, bytes]:
    """Say it, in one packet or several; return the status and all bytes of the answer.

    Status 0: closed without a byte.

    A connection that becomes a WebSocket is not closed by the gateway: its answer ends with its
    head.
    """
    raw = await Raw.connect(gateway)
    try:
        for part in said:
            raw.writer.write(part)
            with contextlib.suppress(ConnectionError):  # The gateway has read enough to answer.
                await raw.writer.drain()
        answer = b""
        with contextlib.suppress(asyncio.IncompleteReadError):
            answer = await raw.head()
        if not answer:
            return 0, await raw.rest()
        status = int(answer.split()[1])
        return status, answer if status == 101 else answer + await raw.rest()
    finally:
        await raw.leave()


PLAIN = {"Host": "localhost"}


@inputs(
    {
        "a browser's address bar": request(PLAIN | {"Accept": "text/html"}),
        "a key and no upgrade": request(USUAL, without="Upgrade"),
    }
)
async def test_a_request_without_upgrade_is_answered_with_426(one: Gateway, case: bytes) -> None:
    """With what is needed (RFC 9110, section 7.8; RFC 6455, section 4.4) (bad input 1)."""
    status, answer = await ask(one, case)
    assert status == 426
    for said in (
        b"Upgrade: websocket",
        b"Connection: Upgrade, close",
        b"Sec-WebSocket-Version: 13",
    ):
        assert answer.count(b"\r\n" + said + b"\r\n") == 1, said
    assert answer.count(b"\r\nConnection:") == 1


@inputs(
    {
        path: request(USUAL, f"GET {path} HTTP/1.1")
        for path in ("/", "/w", "/ws/", "/WS", "//ws", "/ws/../ws", "/%77s", "*", "ws", "/ws%00")
    }
)
async def test_a_path_other_than_ws_is_answered_with_404(one: Gateway, case: bytes) -> None:
    """It must be /ws to the letter (bad input 2)."""
    assert (await ask(one, case))[0] == 404


@inputs(
    {
        method: request(USUAL, f"{method} /ws HTTP/1.1")
        for method in ("POST", "HEAD", "PUT", "DELETE", "OPTIONS", "get", "CONNECT", "\x7f")
    }
)
async def test_a_method_other_than_get_is_answered_with_405(one: Gateway, case: bytes) -> None:
    """With the method that is allowed (bad input 3)."""
    status, answer = await ask(one, case)
    assert status == 405
    assert b"\r\nAllow: GET\r\n" in answer


@inputs(
    {
        "upgrade": request(USUAL, "GET /ws HTTP/1.0"),
        "no upgrade": request(PLAIN, "GET /ws HTTP/1.0"),
    }
)
async def test_http_1_0_is_answered_with_505(one: Gateway, case: bytes) -> None:
    """Upgrade is a feature of HTTP/1.1 (bad input 4)."""
    assert (await ask(one, case))[0] == 505


@inputs(
    {
        "preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "line of HTTP/2.0": request(USUAL, "GET /ws HTTP/2.0"),
        "line of HTTP/0.9": b"GET /ws\r\n",
        "version in small letters": request(USUAL, "GET /ws http/1.1"),
        "version with more behind it": request(USUAL, "GET /ws HTTP/1.1 x"),
    }
)
async def test_another_http_version_is_closed_without_a_byte(one: Gateway, case: bytes) -> None:
    """The client could not read an answer (bad input 5)."""
    assert await ask(one, case) == (0, b"")


CLIENT_HELLO = bytes.fromhex("160301020001 0001fc0303") + random.Random(6).randbytes(502)
USUAL_BYTES = request(USUAL)


@inputs(
    {
        "TLS on the plain port": CLIENT_HELLO + b"\r\n",
        "64 KiB of junk": random.Random(0).randbytes(65_536),
        "bare line feeds": USUAL_BYTES.replace(b"\r\n", b"\n"),
        "an empty line first": b"\r\n" + USUAL_BYTES,
        "Latin-1 in the path": request(USUAL, "GET /ws?\xe9 HTTP/1.1"),
        "Latin-1 in the method": request(USUAL, "G\xc9T /ws HTTP/1.1"),
        "a WebSocket frame": b"\x81\x82\0\0\0\0hi\r\n",
        "an order for Redis": b"*1\r\n$4\r\nPING\r\n",
    }
)
async def test_bytes_that_are_not_http_are_closed_without_a_byte(one: Gateway, case: bytes) -> None:
    """Above the debug level, the log does not mention them (bad input 6)."""
    assert await ask(one, case) == (0, b"")


MALFORMED = {
    "one bare line feed": USUAL_BYTES.replace(b"\r\nUpgrade", b"\nUpgrade"),
    "NUL in a header": request(USUAL | {"X": "a\0b"}),
    "NUL in a header's name": request(USUAL | {"X\0": "a"}),
    "a folded header": USUAL_BYTES[:-2] + b" folded\r\n\r\n",
    "a folded header, by a tab": USUAL_BYTES[:-2] + b"\tfolded\r\n\r\n",
    "a header without a colon": USUAL_BYTES[:-2] + b"colon\r\n\r\n",
    "a header without a name": USUAL_BYTES[:-2] + b": x\r\n\r\n",
    "a space before the colon": USUAL_BYTES[:-2] + b"X : x\r\n\r\n",
    "a space before the host's colon": request(USUAL | {"Host ": "x"}),
    "a page with a folded header": b"GET /health HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n",
}


@inputs(MALFORMED)
async def test_a_malformed_header_is_answered_with_400(one: Gateway, case: bytes) -> None:
    """Once, in one packet or byte by byte (bad input, not in the list)."""
    for chunks in ([case], [bytes([byte]) for byte in case]):
        status, answer = await ask(one, *chunks)
        assert status == 400
        assert answer.count(b"HTTP/1.1 ") == 1 and answer.endswith(b"\r\n\r\nMalformed request.\n")


KEY = "Sec-WebSocket-Key"
AGAIN = USUAL_BYTES[:-2] + f"{KEY}: {USUAL[KEY]}\r\n\r\n".encode()


@inputs(
    {
        "none": request(USUAL, without=KEY),
        "empty": request(USUAL | {KEY: ""}),
        "not base64": request(USUAL | {KEY: "?" * 24}),
        "too short": request(USUAL | {KEY: "c2hvcnQ="}),
        "too long": request(USUAL | {KEY: "A" * 32}),
        "not padded": request(USUAL | {KEY: "A" * 22}),
        "twice": AGAIN,
        "twice, and different": USUAL_BYTES[:-2] + f"{KEY.lower()}: {'A' * 22}==\r\n\r\n".encode(),
    }
)
async def test_an_invalid_websocket_key_is_answered_with_400(one: Gateway, case: bytes) -> None:
    """It must be 16 bytes in base64 (bad input 7)."""
    assert (await ask(one, case))[0] == 400


VERSION = "Sec-WebSocket-Version"


@inputs(
    {
        "none": request(USUAL, without=VERSION),
        "twice": USUAL_BYTES[:-2] + b"sec-websocket-version: 13\r\n\r\n",
        **{
            version or "empty": request(USUAL | {VERSION: version})
            for version in ("", "8", "13, 8", "013", "13.0", "thirteen", "9" * 5000)
        },
    }
)
async def test_a_websocket_version_other_than_13_is_answered_with_400(
    one: Gateway, case: bytes
) -> None:
    """With the version that is spoken (RFC 6455, section 4.2.2) (bad input 8)."""
    status, answer = await ask(one, case)
    assert status == 400
    assert answer.count(b"\r\nSec-WebSocket-Version: 13\r\n") == 1


@inputs(
    {
        "no Upgrade": request(USUAL, without="Upgrade"),
        "no Connection": request(USUAL, without="Connection"),
        "Upgrade to h2c": request(USUAL | {"Upgrade": "h2c"}),
        "two other Upgrades": request(USUAL | {"Upgrade": "h2c, websockets"}),
        "a version of it": request(USUAL | {"Upgrade": "websocket/13"}),
        "Connection: close": request(USUAL | {"Connection": "close"}),
        "Connection: upgraded": request(USUAL | {"Connection": "upgraded"}),
        "an empty Upgrade": request(USUAL | {"Upgrade": ""}),
        "an empty Connection": request(USUAL | {"Connection": ""}),
        "an Upgrade that is no list": request(USUAL | {"Upgrade": ";"}),
    }
)
async def test_wrong_upgrade_or_connection_headers_are_answered_with_426_or_400(
    one: Gateway, case: bytes
) -> None:
    """400 where the header is malformed; an empty one is (bad input 9)."""
    malformed = any(line in case for line in (b"Upgrade: \r", b"Connection: \r", b"Upgrade: ;\r"))
    assert (await ask(one, case))[0] == (400 if malformed else 426)


@inputs(
    {
        "a second one": request(USUAL | {"Upgrade": "websocket, h2c"}),
        "the second one": request(USUAL | {"Upgrade": "h2c,WebSocket"}),
        "on a line of its own": USUAL_BYTES[:-2] + b"upgrade: h2c\r\n\r\n",
        "nothing beside it": request(USUAL | {"Upgrade": "websocket, "}),
        "itself": request(USUAL | {"Upgrade": "websocket, websocket"}),
        "capitals": request(USUAL | {"Upgrade": "WEBSOCKET", "Connection": "UPGRADE"}),
        "no space": request(USUAL).replace(b"Upgrade: ", b"Upgrade:"),
        "tabs": request(USUAL | {"Upgrade": "\twebsocket\t", "Connection": "\tUpgrade\t"}),
        "other options": request(USUAL | {"Connection": "keep-alive ,upgrade,\tHTTP2-Settings"}),
        "options on two lines": request(USUAL | {"connection": "keep-alive"}),
    }
)
async def test_upgrade_and_connection_are_lists_in_any_case(one: Gateway, case: bytes) -> None:
    """101: their words are not case-sensitive (bad input, not in the list)."""
    status, answer = await ask(one, case)
    assert status == 101
    assert answer.count(b"\r\nUpgrade: websocket\r\n") == 1


ORIGIN = "Origin"


@inputs(
    {
        origin or "empty": request(USUAL | {ORIGIN: origin})
        for origin in (
            *("http://evil.example", "https://evil.example:443", "null", "", "*", "localhost"),
            *("http://localhost.evil.example", "http://localhost:8888.evil.example"),
            *("http://evil.example/http://localhost", "http://localhost@evil.example"),
            *("http://xlocalhost", "http://127.0.0.1.evil.example", "http://127.0.0.2"),
            *("http://[::1", "http://localhost:", "http://localhost:123456", "file://", "HTTP://X"),
        )
    }
)
async def test_an_origin_that_is_not_allowed_is_answered_with_403(
    one: Gateway, case: bytes
) -> None:
    """The whole origin is compared, not its beginning (bad input 10)."""
    assert (await ask(one, case))[0] == 403


@inputs(
    {
        "the same": USUAL_BYTES[:-2] + b"Origin: http://localhost\r\n" * 2 + b"\r\n",
        "a good one first": USUAL_BYTES[:-2]
        + b"Origin: http://localhost\r\norigin: http://evil.example\r\n\r\n",
        "a good one last": USUAL_BYTES[:-2]
        + b"Origin: http://evil.example\r\nOrigin: http://localhost\r\n\r\n",
    }
)
async def test_several_origins_are_answered_with_400(one: Gateway, case: bytes) -> None:
    """A request has at most one Origin header (bad input 11)."""
    assert (await ask(one, case))[0] == 400


@inputs(
    {
        host or "empty": request(USUAL | {"Host": host})
        for host in (
            "",
            "evil.example",
            "LOCALHOST",
            "[::1]",
            "[::1]:8080",
            "a_b:",
            "xn--bcher-kva",
        )
    }
)
async def test_any_host_header_is_accepted(one: Gateway, case: bytes) -> None:
    """101. There is one site; Origin decides what a foreign page may do, see bad input 10
    (bad input 12).
    """
    assert (await ask(one, case))[0] == 101


@inputs(
    {
        "none": request(USUAL, without="Host"),
        "no header at all": request({}),
        "none, for a page": request({"Accept": "*/*"}, "GET /health HTTP/1.1"),
        "twice": USUAL_BYTES[:-2] + b"host: b\r\n\r\n",
        "twice the same": USUAL_BYTES[:-2] + b"Host: localhost:8080\r\n\r\n",
        "twice, for a page": b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        **{
            host: request(USUAL | {"Host": host})
            for host in ("a b", "a,b c", "user@a", "http://a", "a/b", "[::1", "::1", "a:b", "\xe9")
        },
    }
)
async def test_a_missing_or_second_host_header_is_answered_with_400(
    one: Gateway, case: bytes
) -> None:
    """For a page as well (RFC 9112, section 3.2) (bad input, not in the list)."""
    assert (await ask(one, case))[0] == 400


async def test_http_1_0_needs_no_host_header(one: Gateway) -> None:
    """A health check of old times is answered."""
    assert (await ask(one, b"GET /health HTTP/1.0\r\n\r\n"))[0] == 200


@inputs(
    {
        "8,193": request(USUAL, "GET /" + "w" * 8_192 + " HTTP/1.1"),
        "60,000": request(USUAL, "GET /" + "w" * 60_000 + " HTTP/1.1"),
        "no end": b"GET /" + b"w" * 9_000,
        "a long query": request(USUAL, "GET /ws?" + "w" * 8_192 + " HTTP/1.1"),
        "a long method": request(USUAL, "G" * 8_192 + " /ws HTTP/1.1"),
    }
)
async def test_a_too_long_request_line_is_answered_with_414(one: Gateway, case: bytes) -> None:
    """Its length has a limit (bad input 13)."""
    assert (await ask(one, case))[0] == 414


@inputs(
    {
        "a long line": request(USUAL | {"X": "x" * 8_192}),
        "a line without an end": USUAL_BYTES[:-2] + b"X: " + b"x" * 9_000,
        "a long name": request(USUAL | {"X" * 8_192: ""}),
        "129 headers": request(USUAL | {f"X{n}": "" for n in range(129 - len(USUAL))}),
        "1,000 headers": request(USUAL | {f"X{n}": "" for n in range(1_000)}),
    }
)
async def test_too_many_or_too_long_headers_are_answered_with_431(
    one: Gateway, case: bytes
) -> None:
    """Their number and their length have limits (bad input 14)."""
    assert (await ask(one, case))[0] == 431


@inputs(
    {
        "POST with a body": request(USUAL | {"Content-Length": "3"}, "POST /ws HTTP/1.1") + b"abc",
        "GET with a length": request(USUAL | {"Content-Length": "3"}),
        "GET with a negative length": request(USUAL | {"Content-Length": "-1"}),
        "GET with a length that is none": request(USUAL | {"Content-Length": "x"}),
        "two lengths": request(USUAL | {"Content-Length": "0"})[:-2] + b"content-length: 3\r\n\r\n",
        "chunks": request(USUAL | {"Transfer-Encoding": "chunked"}) + b"0\r\n\r\n",
        "a page with a body": request(PLAIN | {"Content-Length": "3"}, "GET /health HTTP/1.1"),
    }
)
async def test_a_request_with_a_body_is_answered_with_400_and_closed(
    one: Gateway, case: bytes
) -> None:
    """Doubt about where a body ends is what request smuggling needs (bad input 15)."""
    status, answer = await ask(one, case)
    assert status == 400
    assert answer.count(b"HTTP/1.1 ") == 1


EXTENSIONS, SUBPROTOCOL = "Sec-WebSocket-Extensions", "Sec-WebSocket-Protocol"


@inputs(
    {
        "unknown": (EXTENSIONS, "x-unknown", 101),
        "bad parameters": (EXTENSIONS, "permessage-deflate; server_max_window_bits=99", 101),
        "malformed": (EXTENSIONS, ";;; ===", 101),
        "8,000 bytes of it": (EXTENSIONS, "permessage-deflate, " * 400, 101),
        "a subprotocol": (SUBPROTOCOL, "chat", 101),
        "a malformed subprotocol": (SUBPROTOCOL, ", ;,", 400),
    }
)
async def test_extensions_and_subprotocols_are_declined(
    one: Gateway, case: tuple[str, str, int]
) -> None:
    """101 without them, and 400 for a malformed list of subprotocols (bad input 16). A malformed
    list of extensions is not even read: a gateway has no extension that it could agree on.
    """
    name, value, expected = case
    status, answer = await ask(one, request(USUAL | {name: value}))
    assert status == expected
    assert f"\r\n{name}:".encode() not in answer


@inputs(
    {
        target: (request(USUAL, f"GET {target} HTTP/1.1"), status)
        for target, status in {
            "http://localhost/ws": 101,
            "http://localhost:8080/ws?x=http://y": 101,
            "HTTPS://evil.example/ws": 101,
            "ws://localhost/ws": 101,
            "wss://[::1]:443/ws": 101,
            "http://localhost/": 404,
            "http://localhost": 404,
            "http://localhost?/ws": 404,
            "http://localhost/WS": 404,
            "localhost:80": 404,
            "ftp://localhost/ws": 404,
            "http://[/ws": 400,
            "http:///ws": 400,
            "http://user@localhost/ws": 400,
        }.items()
    }
)
async def test_an_absolute_url_as_target_means_its_path(
    one: Gateway, case: tuple[bytes, int]
) -> None:
    """RFC 9112, section 3.2.2. A gateway is not a proxy, so the host in it does not matter
    (bad input 17).
    """
    said, expected = case
    assert (await ask(one, said))[0] == expected


@inputs(
    {
        "an expectation": request(USUAL | {"Expect": "100-continue"}),
        "a query": request(USUAL, "GET /ws?token=%20&x=/ws HTTP/1.1"),
        "a question mark": request(USUAL, "GET /ws? HTTP/1.1"),
        "a line of 8,192 bytes": request(USUAL, f"GET /ws?{'w' * (8_192 - 19)} HTTP/1.1"),
        "no body, said twice": request(USUAL | {"Content-Length": "0", "content-length": "0"}),
        "a byte beyond ASCII": request(USUAL | {"Cookie": "n=\xe9"}),
        "a cookie of 8,000 bytes": request(USUAL | {"Cookie": "c" * 8_000}),
    }
)
async def test_an_unusual_but_valid_handshake_is_accepted(one: Gateway, case: bytes) -> None:
    """101 (bad input, not in the list)."""
    assert (await ask(one, case))[0] == 101


@inputs(
    {
        "nothing": b"",
        "one byte": b"G",
        "half of a line": b"GET /w",
        "a line": b"GET /ws HTTP/1.1\r\n",
        "all but the last byte": USUAL_BYTES[:-1],
        "a header without end": USUAL_BYTES[:-2] + b"X: x",
    }
)
async def test_an_unfinished_handshake_is_closed_at_its_deadline(start: Start, case: bytes) -> None:
    """Without a byte (bad input 18)."""
    gateway = await start(handshake_timeout_s=0.1)
    raw = await Raw.connect(gateway)
    raw.writer.write(case)
    with contextlib.suppress(ConnectionResetError):
        assert await raw.rest() == b""
    await raw.leave()


@inputs(
    {
        "registered": ({"connections_per_ip": 3, "unregistered_per_ip": 9}, True, 429),
        "not registered": ({"connections_per_ip": 9, "unregistered_per_ip": 2}, False, 429),
        "in all": ({"max_connections": 3}, True, 503),
    }
)
async def test_too_many_connections_are_answered_with_429_or_503(
    start: Start, case: tuple[dict[str, int], bool, int]
) -> None:
    """429 when one address has too many, 503 when all together have; both with Retry-After
    (bad input 19).
    """
    limits, registers, expected = case
    gateway = await start(settings={"limit_loopback": True}, **limits)
    async with contextlib.AsyncExitStack() as stack:
        for n in range(2):
            raw = await stack.enter_async_context(await Raw.open(gateway))
            if registers:
                raw.frame(b'{"type":"register","userId":"user-%d"}' % n)
                assert (await raw.answer())["type"] == "registered"
        status, answer = await ask(gateway, USUAL_BYTES)
        assert status == expected
        assert b"\r\nRetry-After: 1\r\n" in answer
        assert gateway.counters.connections_refused == 1


PAGES = ("/health", "/stats", "/ready", "/metrics")
READS = {
    f"{method} {page} HTTP/{version}": 200
    for page in PAGES
    for method in ("GET", "HEAD")
    for version in ("1.0", "1.1")
}
WRITES = {
    f"{method} {page} HTTP/1.1": 405
    for page in PAGES
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE", "get")
}
ONE_LINERS = {line: (request(PLAIN, line), status) for line, status in (READS | WRITES).items()}
HEALTH = request(PLAIN, "GET /health HTTP/1.1")


@inputs(
    ONE_LINERS
    | {
        "a second request in the same packet": (HEALTH + HEALTH, 200),
        "a frame in the same packet": (HEALTH + frame(b"hi"), 200),
        "a goodbye in the same packet": (HEALTH + frame(opcode=8), 200),
    }
)
async def test_a_page_answers_get_and_head_and_405_to_other_methods(
    one: Gateway, case: tuple[bytes, int]
) -> None:
    """In both versions of HTTP; 405 names the methods that are allowed (bad input 20)."""
    said, expected = case
    status, answer = await ask(one, said)
    assert status == expected
    assert answer.count(b"HTTP/1.1 ") == 1, "one answer, and then we hang up"
    assert (b"\r\nAllow: GET, HEAD\r\n" in answer) == (expected == 405)
    if said.startswith(b"HEAD"):
        assert answer.endswith(b"\r\n\r\n"), "a HEAD has no body"

"""Handshake: does the fast path give the same answers as the general parser?"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame
from websockets.http11 import Request
from websockets.protocol import OPEN
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from tests.examples import examples
from tests.gateway.cluster import USUAL, request
from wsdemo.gateway.handshake import (
    Usual,
    acceptance,
    chosen_of,
    refusal,
    usual_request,
)

KEY = USUAL["Sec-WebSocket-Key"]


def select(_: ServerProtocol, offers: Sequence[Subprotocol]) -> Subprotocol | None:
    """The client's first choice that is known."""
    return next((offer for offer in offers if offer in {"wsdemo.v1", "chat"}), None)


def general(data: bytes) -> tuple[ServerProtocol, bytes]:
    """What the library says to the same bytes, and its state afterwards."""
    ws = ServerProtocol(select_subprotocol=select)
    ws.receive_data(data)
    for event in ws.events_received():
        if isinstance(event, Request):
            ws.send_response(ws.accept(event))
    return ws, b"".join(ws.data_to_send())


def undated(answer: bytes) -> bytes:
    return re.sub(rb"Date: [^\r]+\r\n", b"Date\r\n", answer)


BROWSER = USUAL | {
    "Connection": "keep-alive, Upgrade",
    "Origin": "http://localhost",
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64)",
    "Accept-Encoding": "gzip, deflate",
    "Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits",
    "Cookie": "a=b; c=d",
    "Pragma": "",
}
OFFERS = BROWSER | {"Sec-WebSocket-Protocol": "graphql-ws, wsdemo.v1,bearer.a.b.c"}


def short(found: Usual) -> bytes:
    """The answer of the fast path."""
    return acceptance(found.key, chosen_of(found.offers, {"chat"}))


@pytest.mark.parametrize(
    "headers", [USUAL, BROWSER, OFFERS], ids=["library", "browser", "subprotocols"]
)
def test_the_fast_path_answers_like_the_general_parser(headers: dict[str, str]) -> None:
    """Byte for byte, except the date; bytes after the request are left."""
    data = request(headers)
    found = usual_request(data + b"\x81\x80")
    assert found is not None and found[:2] == (KEY.encode(), len(data))
    assert found.origin == headers.get("Origin")
    ws, answer = general(data)
    assert ws.state is OPEN
    assert undated(short(found)) == undated(answer)
    assert (b"\r\nSec-WebSocket-Protocol: wsdemo.v1\r\n" in answer) == (headers is OFFERS)
    assert re.search(rb"Date: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT\r\n", short(found))


UNUSUAL = {
    "not whole yet": request(USUAL)[:-1],
    "another path": request(USUAL, "GET /health HTTP/1.1"),
    "a query": request(USUAL, "GET /ws?x HTTP/1.1"),
    "another method": request(USUAL, "POST /ws HTTP/1.1"),
    "an older protocol": request(USUAL, "GET /ws HTTP/1.0"),
    "no upgrade": request({k: v for k, v in USUAL.items() if k != "Upgrade"}),
    "no key": request({k: v for k, v in USUAL.items() if k != "Sec-WebSocket-Key"}),
    "a short key": request(USUAL | {"Sec-WebSocket-Key": "c2hvcnQ="}),
    "another version": request(USUAL | {"Sec-WebSocket-Version": "8"}),
    "a header twice": request(USUAL)[:-2] + b"sec-websocket-key: x\r\n\r\n",
    "a folded line": request(USUAL)[:-2] + b" folded\r\n\r\n",
    "a body": request(USUAL | {"Content-Length": "3"}),
    "a bare line feed": request(USUAL).replace(b"\r\nUpgrade", b"\nUpgrade"),
    "a byte beyond ASCII": request(USUAL | {"X": "é"}),
    "a very long header": request(USUAL | {"X": "x" * 3000}),
    "no host": request(USUAL, without="Host"),
    "a host twice": request(USUAL)[:-2] + b"host: localhost:8080\r\n\r\n",
    "a host that is none": request(USUAL | {"Host": "a b"}),
    "an empty subprotocol": request(USUAL | {"Sec-WebSocket-Protocol": ""}),
    "a subprotocol of two words": request(USUAL | {"Sec-WebSocket-Protocol": "a b"}),
    "a malformed subprotocol": request(USUAL | {"Sec-WebSocket-Protocol": ",;"}),
    "129 headers": request(USUAL | {f"X{n}": "" for n in range(129 - len(USUAL))}),
    "nothing": b"",
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_an_unusual_request_is_left_to_the_general_parser(name: str) -> None:
    """None does not mean refused: the library decides."""
    assert usual_request(UNUSUAL[name]) is None


tokens = st.sampled_from([*BROWSER, "Sec-WebSocket-Protocol"]) | st.text("abcXYZ-_ :\t", max_size=8)
values = (
    st.sampled_from([*BROWSER.values(), "WebSocket", "upgrade", "Upgrade, keep-alive", "12"])
    | st.sampled_from(["chat, wsdemo.v1", "wsdemo.v1,chat", "a,,chat", "bearer.x", "chat,chat"])
    | st.text(st.characters(max_codepoint=255), max_size=12)
    | st.binary(min_size=16, max_size=16).map(lambda raw: base64.b64encode(raw).decode())
)


@examples(600)
@given(st.lists(st.tuples(tokens, values), max_size=4), st.permutations(list(USUAL.items())))
def test_a_handshake_on_the_fast_path_is_accepted_by_the_general_parser(
    changes: list[tuple[str, str]], usual: list[tuple[str, str]]
) -> None:
    """With changed, added and shuffled headers, the fast path never accepts what the library
    refuses, or answers differently; and a frame after the handshake is read the same."""
    lines = ["GET /ws HTTP/1.1", *(f"{name}: {value}" for name, value in [*usual, *changes])]
    data = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
    found = usual_request(data)
    if found is None:
        return
    ws, answer = general(data)
    assert ws.state is OPEN
    assert undated(short(found)) == undated(answer)
    assert found[1] == len(data) or b"\r\n\r\n" in data[: found[1]]
    ws.receive_data(b"\x81\x82\0\0\0\0hi")
    assert [bytes(e.data) for e in ws.events_received() if isinstance(e, Frame)] == [b"hi"]


@pytest.mark.parametrize("status", [429, 503])
def test_a_refusal_on_the_fast_path_equals_that_of_the_general_parser(status: int) -> None:
    """Byte for byte, except the date: a load balancer's test must not see a difference."""
    body, headers = "Too many connections.\n", {"Retry-After": "1"}
    ws = ServerProtocol()
    ws.receive_data(request(USUAL))
    for event in ws.events_received():
        assert isinstance(event, Request)
        response = ws.reject(status, body)
        response.headers.update(headers)
        ws.send_response(response)
    answer = b"".join(ws.data_to_send())
    assert undated(refusal(status, body, headers)) == undated(answer)

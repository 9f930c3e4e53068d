"""The rules of the door, without a browser: `python -m pytest test_classroom.py`."""

from __future__ import annotations

import json
import re
import socket

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from wsdemo.lab import Lab
from wsdemo.lab.classroom import classroom, to_html
from wsdemo.lab.classroom.seats import Refused, Seats, plain_name, user_id
from wsdemo.lab.classroom.web import BadRequest, Frames, Unwanted, parse


@pytest.fixture(scope="module")
def room():
    with Lab(gateways=2, scale=6) as lab:
        yield classroom(lab)
    assert lab.leaks() == []  # A lab that is closed closes its classroom.


def origin(room):
    return f"http://127.0.0.1:{room.port}"


def ws(room, path, **options):
    options.setdefault("origin", origin(room))
    return connect(f"ws://127.0.0.1:{room.port}{path}", proxy=None, **options)


def seat(room, name="Zoë"):
    desk = ws(room, "/desk").__enter__()
    desk.send(json.dumps({"type": "join", "code": room.seats.code, "name": name}))
    return desk, json.loads(desk.recv(5))


def raw(room, head: str) -> bytes:
    with socket.create_connection(("127.0.0.1", room.port)) as end:
        end.sendall(head.encode())
        end.settimeout(8)
        return end.recv(4096)


# --- the door -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421),
        ("GET / HTTP/1.1\r\n\r\n", 421),
        ("GET / HTTP/1.1\r\nHost: {host}\r\nHost: {host}\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: {host}\r\n\r\n", 405),
        ("GET / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 5\r\n\r\nhello", 400),
        ("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n", 400),
        ("GET /static/../room.py HTTP/1.1\r\nHost: {host}\r\n\r\n", 404),
        ("GET /static/%2e%2e/room.py HTTP/1.1\r\nHost: {host}\r\n\r\n", 404),
        ("GET /room.py HTTP/1.1\r\nHost: {host}\r\n\r\n", 404),
        ("GET / HTTP/1.1\r\nHost: {host}\r\nX: " + "x" * 9000 + "\r\n\r\n", 431),
        ("\x16\x03\x01 hello\r\n\r\n", 400),
        ("GET /qr.svg HTTP/1.1\r\nHost: {host}\r\n\r\n", 403),
        ("GET /board?ticket=guess HTTP/1.1\r\nHost: {host}\r\n\r\n", 403),
        ("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n", 200),
    ],
)
def test_what_the_door_answers(room, head, status):
    answer = raw(room, head.replace("{host}", f"127.0.0.1:{room.port}"))
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())


def test_pages_of_others_get_no_websocket(room):
    for other in ("http://evil.example", "null", f"http://127.0.0.1:{room.port}.evil.example", None):
        with pytest.raises(InvalidStatus) as refused, ws(room, "/desk", origin=other):
            pass
        assert refused.value.response.status_code == 403


def test_a_ticket_is_good_once(room):
    path = room.board_url().split("/board")[1]
    head = f"GET /board{path} HTTP/1.1\r\nHost: 127.0.0.1:{room.port}\r\n\r\n"
    first, second = raw(room, head), raw(room, head)
    assert b" 303 " in first and b"HttpOnly; SameSite=Strict" in first
    assert b" 403 " in second


def test_students_see_and_do_not_press(room):
    with ws(room, f"/feed?k={room.seats.code}") as board:
        assert json.loads(board.recv(5))["role"] == "viewer"
        board.send('{"type":"do","what":"crash","g":"gateway-01"}')
        while (answer := json.loads(board.recv(5)))["type"] != "failed":
            pass
    assert answer["why"] == "only the teacher may do that"
    assert "gateway-01" in room.lab.cluster.hosts


def test_a_board_without_the_code_is_closed(room):
    with ws(room, "/feed?k=WRONG") as board, pytest.raises(ConnectionClosed) as closed:
        board.recv(5)
    assert closed.value.rcvd.code == 4504


# --- the seat -----------------------------------------------------------------------------------


def test_nobody_is_somebody_else(room):
    desk, me = seat(room)
    with ws(room, f"/gw/gateway-01/ws?seat={me['seat']}") as gateway:
        gateway.send('{"type":"register","userId":"somebody"}')
        with pytest.raises(ConnectionClosed) as closed:
            gateway.recv(5)
    assert closed.value.rcvd.code == 4513
    with pytest.raises(InvalidStatus), ws(room, "/gw/gateway-01/ws?seat=guess"):
        pass
    desk.close()


@pytest.mark.parametrize(
    ("said", "code"),
    [('{"type":"ping"}', 4001), ("x" * 3000, 1009), (b"\0\1", 1003)],
)
def test_frames_that_no_page_sends(room, said, code):
    desk, me = seat(room)
    with ws(room, f"/gw/gateway-02/ws?seat={me['seat']}") as gateway:
        gateway.send(said)
        with pytest.raises(ConnectionClosed) as closed:
            gateway.recv(5)
    assert closed.value.rcvd.code == code
    room.seats.remove(me["user"])
    desk.close()


def test_the_gateways_own_words_pass(room):
    desk, me = seat(room, "Ivan")
    with ws(room, f"/gw/gateway-02/ws?seat={me['seat']}") as gateway:
        gateway.send(json.dumps({"type": "register", "userId": me["user"]}))
        assert json.loads(gateway.recv(5))["gatewayId"] == "gateway-02"
        gateway.send('{"type":"message","to":"nobody","content":"?","id":"1"}')
        assert json.loads(gateway.recv(5)) == {"type": "ack", "id": "1", "status": "offline"}
        room.lab.drain("gateway-02")
        with pytest.raises(ConnectionClosed) as closed:
            gateway.recv(5)
    assert closed.value.rcvd.code == 1012
    room.lab.start_gateway("gateway-02")
    with ws(room, f"/gw/gateway-02/ws?seat={me['seat']}") as gateway:
        gateway.send(json.dumps({"type": "register", "userId": me["user"]}))
        gateway.recv(5)
        room.lab.crash("gateway-02")
        with pytest.raises(ConnectionClosed) as closed:
            gateway.recv(5)
    assert closed.value.rcvd is None  # 1006 in a browser
    desk.close()


def test_wrong_codes_are_counted():
    seats = Seats(lambda user: False)
    for _ in range(6):
        with pytest.raises(Refused, match="not the code"):
            seats.sit("AAAAAA", "Ann", "10.0.0.1")
    with pytest.raises(Refused, match="wait a minute"):
        seats.sit(seats.code, "Ann", "10.0.0.1")
    assert seats.sit(seats.code, "Ann", "10.0.0.2").user == "ann"


@pytest.mark.parametrize(
    ("written", "shown", "user"),
    [
        ("Zoë", "Zoë", "zoe"),
        ("<b>bold</b>", "<b>bold</b>", "b-bold-b"),
        ("a\u202egnp\u0000\n", "a gnp", "a-gnp"),
        ("gateway-01", "gateway-01", "s-gateway-01"),
        ("__probe__", "__probe__", "probe"),
        ("redis", "redis", "s-redis"),
        ("x" * 300, "x" * 20, "x" * 20),
        ("  ", "", ""),
        ("\u200b\u200d", "", ""),
    ],
)
def test_names(written, shown, user):
    assert plain_name(written) == shown
    if shown:
        assert user_id(shown) == user


def test_two_of_a_name():
    seats = Seats(lambda user: user == "ann")
    assert [seats.sit(seats.code, "Ann", "a").user for _ in range(2)] == ["ann-2", "ann-3"]


# --- bytes --------------------------------------------------------------------------------------


def test_frames_come_out_whole_however_they_are_cut():
    mask, said = b"\1\2\3\4", b'{"type":"ping"}' * 20
    payload = bytes(b ^ mask[i % 4] for i, b in enumerate(said))
    frame = bytes([0x81, 0x80 | 126]) + len(said).to_bytes(2, "big") + mask + payload
    for step in (1, 7, 1000):
        frames, got = Frames(), []
        for at in range(0, len(frame) * 2, step):
            got += frames.feed((frame * 2)[at : at + step])
        assert got == [(1, said, frame)] * 2


@pytest.mark.parametrize("data", [b"\x81\x01x", b"\xc1\x80\0\0\0\0", b"\x01\x80\0\0\0\0", b"\x80\x80\0\0\0\0", b"\x81\xff"])
def test_frames_of_no_browser(data):
    with pytest.raises(Unwanted):
        Frames().feed(data)


@pytest.mark.parametrize("head", [b"\r\n\r\n", b"GET / HTTP/1.0\r\n\r\n", b"GET / HTTP/1.1\r\nno colon\r\n\r\n", b"G\xff\r\n\r\n"])
def test_heads_of_no_browser(head):
    with pytest.raises(BadRequest):
        parse(head, "")


def test_what_a_board_hears_is_what_the_schema_says(room):
    jsonschema = pytest.importorskip("jsonschema")
    from wsdemo.lab.classroom.room import STATIC

    schema = json.loads((STATIC / "observer.schema.json").read_text())
    judge = jsonschema.Draft202012Validator(schema)
    with ws(room, f"/feed?k={room.seats.code}") as board:
        kinds = set()
        while (document := json.loads(board.recv(5)))["type"] != "live":
            judge.validate(document)
            kinds |= {event["k"] for event in document.get("e", ())}
    assert {"ready", "seat", "set", "close", "msg", "crash", "drain", "stopped"} <= kinds
    assert not judge.is_valid({"type": "batch", "t": 1, "e": [{"t": 1, "k": "msg", "u": "a"}]})


# --- the file -----------------------------------------------------------------------------------


def test_a_saved_run_asks_nobody_for_anything():
    with Lab(gateways=2, policy="seed") as lab:
        bob, alice = lab.connect("bob"), lab.connect("alice")
        lab.hold_cleanup("alice", at="gateway-01")
        alice.move("gateway-02")
        lab.let_go("alice", at="gateway-01")
        bob.send("alice", "hello")
        page = to_html(lab, "<late & clean>")
    assert "&lt;late &amp; clean&gt;" in page and "http://www.w3.org/2000/svg" in page
    rest = page.replace("http://www.w3.org/2000/svg", "")
    assert "http://" not in rest and "https://" not in rest
    assert not re.search(r"^(import|export) ", page, re.MULTILINE)

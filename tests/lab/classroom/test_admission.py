"""Admission: what gets whoever is no student of this class, or does what no page does?

A class network is not trusted. Each row of the table in docs/teaching.md has its bytes here.
"""

from __future__ import annotations

import contextlib
import json

import psutil
import pytest
from websockets.exceptions import InvalidStatus

from tests.lab.classroom.visitors import (
    close_code,
    closing,
    dial,
    fetch,
    frame,
    handshake,
    hear,
    origin,
    press,
    read_all,
    redeem,
    say,
    student,
    teacher,
    upgraded,
    websocket,
)
from wsdemo.lab.classroom import listener, tickets
from wsdemo.lab.classroom.room import Classroom
from wsdemo.lab.classroom.seats import NotAdmitted, Seats

pytestmark = pytest.mark.xdist_group("clock")

LINE = "GET / HTTP/1.1\r\n"
HOST = "Host: {host}\r\n"
END = "\r\n"


def status(answer: bytes) -> int:
    assert answer.startswith(b"HTTP/1.1 "), answer
    return int(answer[9:12])


# --- requests --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        pytest.param(LINE + HOST + END, 200, id="a-page"),
        pytest.param(LINE + "Host: evil.example\r\n" + END, 421, id="host-of-another-site"),
        pytest.param(LINE + "Host: {host}.evil.example\r\n" + END, 421, id="host-that-begins-well"),
        pytest.param(LINE + "Host: 127.0.0.1\r\n" + END, 421, id="host-without-the-port"),
        pytest.param(LINE + END, 421, id="no-host"),
        pytest.param(LINE + HOST + HOST + END, 400, id="host-twice"),
        pytest.param(LINE + HOST + "hOST: {host}\r\n" + END, 400, id="host-twice-in-two-cases"),
        pytest.param(LINE + HOST + "X: 1\r\nX: 2\r\n" + END, 400, id="a-header-twice"),
        pytest.param("POST / HTTP/1.1\r\n" + HOST + END, 405, id="post"),
        pytest.param("PUT / HTTP/1.1\r\n" + HOST + END, 405, id="put"),
        pytest.param("OPTIONS / HTTP/1.1\r\n" + HOST + END, 405, id="options"),
        pytest.param(LINE + HOST + "Content-Length: 5\r\n\r\nhello", 400, id="a-body"),
        pytest.param(
            LINE + HOST + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, id="a-chunked-body"
        ),
        pytest.param("GET / HTTP/1.0\r\n" + HOST + END, 400, id="http-1.0"),
        pytest.param("GET /\r\n" + END, 400, id="http-0.9"),
        pytest.param("GET http://{host}/ HTTP/1.1\r\n" + HOST + END, 400, id="absolute-address"),
        pytest.param("GET  / HTTP/1.1\r\n" + HOST + END, 400, id="two-spaces"),
        pytest.param("GET / HTTP/1.1 \r\n" + HOST + END, 400, id="a-space-at-the-end"),
        pytest.param(LINE + HOST + "X : 1\r\n" + END, 400, id="a-space-before-the-colon"),
        pytest.param(LINE + HOST + " folded\r\n" + END, 400, id="a-folded-header"),
        pytest.param(LINE + HOST + "X: a\nY: b\r\n" + END, 400, id="a-bare-line-feed"),
        pytest.param(LINE + HOST + "X: \x00\r\n" + END, 400, id="a-zero-byte"),
        pytest.param(LINE + HOST + "no colon\r\n" + END, 400, id="no-colon"),
        pytest.param(LINE + HOST + "X: \xff\r\n" + END, 400, id="not-ascii"),
        pytest.param("\x16\x03\x01 hello\r\n\r\n", 400, id="tls"),
        pytest.param("\r\n\r\n", 400, id="nothing"),
        pytest.param("GET /?" + "a=1&" * 9 + " HTTP/1.1\r\n" + HOST + END, 400, id="long-query"),
        pytest.param("GET /board?k=1&k=2 HTTP/1.1\r\n" + HOST + END, 400, id="a-field-twice"),
        pytest.param(LINE + HOST + "X: " + "x" * 9000 + "\r\n" + END, 431, id="head-over-8-kib"),
        pytest.param("GET /" + "x" * 9000 + " HTTP/1.1\r\n" + HOST + END, 431, id="long-address"),
        pytest.param("GET /static/../room.py HTTP/1.1\r\n" + HOST + END, 404, id="dot-dot"),
        pytest.param(
            "GET /static/%2e%2e/room.py HTTP/1.1\r\n" + HOST + END, 404, id="dot-dot-in-%"
        ),
        pytest.param("GET /static//etc/passwd HTTP/1.1\r\n" + HOST + END, 404, id="two-slashes"),
        pytest.param("GET //[ HTTP/1.1\r\n" + HOST + END, 404, id="half-an-ipv6-address"),
        pytest.param("GET /room.py HTTP/1.1\r\n" + HOST + END, 404, id="a-file-of-the-package"),
        pytest.param("GET /student.html HTTP/1.1\r\n" + HOST + END, 404, id="a-page-by-its-file"),
        pytest.param("GET /desk HTTP/1.1\r\n" + HOST + END, 404, id="a-feed-without-upgrade"),
        pytest.param("GET /qr.svg HTTP/1.1\r\n" + HOST + END, 403, id="qr-code-without-cookie"),
        pytest.param("GET /board?ticket=x HTTP/1.1\r\n" + HOST + END, 403, id="a-guessed-ticket"),
    ],
)
def test_a_request_gets_its_status(room: Classroom, head: str, expected: int) -> None:
    """Only what a browser sends gets a page; everything else is refused, and the room goes on."""
    assert status(fetch(room, head)) == expected
    assert status(fetch(room, LINE + HOST + END)) == 200


def test_a_head_request_gets_no_body(room: Classroom) -> None:
    """The same headers as a GET has, and nothing behind them."""
    whole = fetch(room, LINE + HOST + END)
    head = fetch(room, LINE.replace("GET", "HEAD") + HOST + END)
    assert whole.startswith(head)
    assert head.endswith(b"\r\n\r\n")
    assert len(whole) > len(head)


def test_a_head_that_is_not_whole_in_time_is_hung_up_on(
    room: Classroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when a byte comes now and then: the time is that of the whole head."""
    monkeypatch.setattr(listener, "HEAD_S", 0.3)
    with dial(room) as slow, dial(room) as silent:
        slow.sendall(LINE.encode())
        assert read_all(slow) == b""
        assert read_all(silent) == b""


def test_each_page_may_load_only_from_the_room(room: Classroom) -> None:
    """No inline script, no other site, no referrer that would carry the code away."""
    for path in ("/", "/board"):
        head = fetch(room, f"GET {path} HTTP/1.1\r\n" + HOST + END).decode().lower()
        assert "content-security-policy: default-src 'none'; script-src 'self';" in head
        assert f"connect-src 'self' ws://127.0.0.1:{room.port} " in head
        assert "referrer-policy: no-referrer" in head
        assert "x-content-type-options: nosniff" in head


# --- WebSockets ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/desk", "/feed", "/gw/gateway-01/ws"])
@pytest.mark.parametrize(
    "page",
    [
        pytest.param("http://evil.example", id="another-site"),
        pytest.param("http://127.0.0.1", id="another-port"),
        pytest.param("https://127.0.0.1:{port}", id="another-scheme"),
        pytest.param("http://127.0.0.1:{port}.evil.example", id="a-site-that-begins-well"),
        pytest.param("null", id="null"),
        pytest.param("", id="no-origin"),
    ],
)
def test_pages_of_others_get_no_websocket(room: Classroom, path: str, page: str) -> None:
    """A page that a student has open elsewhere cannot speak in the student's name."""
    asked = handshake(room, path, page=page.replace("{port}", str(room.port)))
    assert status(fetch(room, asked)) == 403


def test_the_teachers_cookie_is_of_no_use_to_a_page_of_another_port(room: Classroom) -> None:
    """A browser sends it to all ports of a machine, and along with what pages of them ask."""
    cookie = redeem(room)
    asked = handshake(room, "/feed", page="http://127.0.0.1:8888")
    asked = asked.replace(b"\r\n\r\n", f"\r\nCookie: {cookie}\r\n\r\n".encode())
    assert status(fetch(room, asked)) == 403
    head = fetch(room, "GET /board HTTP/1.1\r\n" + HOST + f"Cookie: {cookie}\r\n" + END)
    assert b"frame-ancestors 'none'" in head
    code = fetch(room, "GET /qr.svg HTTP/1.1\r\n" + HOST + f"Cookie: {cookie}\r\n" + END)
    assert b"Cross-Origin-Resource-Policy: same-origin" in code


@pytest.mark.parametrize("path", ["/desk", "/feed"])
def test_only_a_get_request_becomes_a_websocket(room: Classroom, path: str) -> None:
    """Whatever else it says."""
    asked = handshake(room, path).replace(b"GET ", b"HEAD ")
    assert status(fetch(room, asked)) == 404


@pytest.mark.parametrize("path", ["/desk", "/feed"])
def test_a_broken_handshake_is_refused(room: Classroom, path: str) -> None:
    """The library says with which status; a WebSocket it is not."""
    asked = handshake(room, path).replace(b"Sec-WebSocket-Key: AAAA", b"Sec-WebSocket-Key: ")
    assert status(fetch(room, asked)) in (400, 426)


def test_a_board_without_the_code_is_closed(room: Classroom) -> None:
    """With a code of its own, which its page explains."""
    for path in ("/feed", "/feed?k=", "/feed?k=WRONG"):
        with websocket(room, path) as board:
            assert closing(board)[0] == 4504


def test_a_feed_understands_only_json_objects(room: Classroom) -> None:
    """Everything else ends it: there is no page that says such things."""
    key_twice = '{"type":"join","type":"vote"}'
    for said in (b"\0\1", "[]", "nonsense", "[" * 4000, key_twice):
        with websocket(room, "/desk") as feed:
            feed.send(said)
            assert closing(feed)[0] == 1003
    with websocket(room, "/desk") as feed:
        feed.send("x" * 5000)
        assert closing(feed)[0] == 1009
    with upgraded(room, "/desk") as end:
        end.sendall(frame("{}", masked=False))
        assert close_code(read_all(end)) == 1002


# --- codes and tickets -----------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def seats(clock: Clock | None = None, limit: int = 60) -> Seats:
    return Seats(lambda user: False, limit, clock or Clock())


def test_after_six_wrong_codes_an_address_waits_a_minute() -> None:
    """With the right code as well; other addresses do not wait."""
    clock = Clock()
    all_seats = seats(clock)
    for _ in range(6):
        with pytest.raises(NotAdmitted, match="not the code"):
            all_seats.join("AAAAAA", "Ann", "10.0.0.1")
    with pytest.raises(NotAdmitted, match="wait a minute"):
        all_seats.join(all_seats.code, "Ann", "10.0.0.1")
    assert all_seats.join(all_seats.code, "Ann", "10.0.0.2").user == "ann"
    clock.now += 60
    assert all_seats.join(all_seats.code, "Bob", "10.0.0.1").user == "bob"


def test_after_sixty_wrong_codes_of_all_addresses_everybody_waits() -> None:
    """Whoever has many addresses guesses no faster than 60 a minute."""
    all_seats = seats()
    for n in range(60):
        assert not all_seats.is_code("AAAAAA", f"10.0.0.{n}")
    with pytest.raises(NotAdmitted, match="wait a minute"):
        all_seats.is_code(all_seats.code, "10.0.1.1")


def test_a_code_may_be_typed_as_it_is_read_aloud() -> None:
    """In small letters, with a space or a hyphen in it; anything else is wrong."""
    all_seats = seats()
    code = all_seats.code
    assert all(
        all_seats.is_code(typed, "10.0.0.1")
        for typed in (code.lower(), f"{code[:3]} {code[3:]}", f"{code[:3]}-{code[3:]}")
    )
    assert not all_seats.is_code("\ud800 ☃", "10.0.0.1")
    assert not all_seats.is_code("", "10.0.0.1")


def test_a_wrong_code_is_told_so_and_the_page_may_try_again(room: Classroom) -> None:
    """On the same connection, with words."""
    with websocket(room, "/desk") as feed:
        say(feed, type="vote", q="x", o="y")
        assert hear(feed, "no")["why"] == "join the class first"
        say(feed, type="join", code="WRONG", name="Ann")
        assert hear(feed, "no")["why"] == "that is not the code of this class"
        say(feed, type="join", seat="a-seat-of-yesterday")
        assert hear(feed, "no")["why"].startswith("this class is over")
        say(feed, type="join", code=room.code, name="\u200b")
        assert hear(feed, "no")["why"] == "a name has at least one letter or digit"
        say(feed, type="join", code=room.code, name="Ann")
        assert hear(feed, "seated")["name"] == "Ann"


def test_a_ticket_opens_the_board_once(room: Classroom) -> None:
    """Its cookie can be read by no script, and goes to no other site."""
    path = room.board_url().partition(f":{room.port}")[2]
    head = f"GET {path} HTTP/1.1\r\n" + HOST + END
    first, second = fetch(room, head), fetch(room, head)
    assert status(first) == 303
    assert b"\r\nLocation: board\r\n" in first
    assert b"; HttpOnly; SameSite=Strict; Max-Age=" in first
    # Behind a proxy, it goes to the folder of this room, and to no other one of the same host.
    assert b"Path=" not in first
    assert status(second) == 403
    assert b"Set-Cookie" not in second


def test_a_ticket_opens_nothing_after_ten_minutes(
    room: Classroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cell shows the room again, with a new one."""
    monkeypatch.setattr(tickets, "TICKET_S", -0.001)
    path = room.board_url().partition(f":{room.port}")[2]
    assert status(fetch(room, f"GET {path} HTTP/1.1\r\n" + HOST + END)) == 403


def test_a_ticket_and_a_cookie_are_good_only_on_the_teachers_machine(room: Classroom) -> None:
    """Who has photographed the link gets nothing, and does not use it up."""
    path = room.board_url().partition(f":{room.port}")[2]
    head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{room.port}\r\n\r\n".encode()
    with dial(room, from_address="127.0.0.2") as elsewhere:
        elsewhere.sendall(head)
        assert status(read_all(elsewhere)) == 403
    cookie = redeem(room)
    assert status(fetch(room, head)) == 303
    with contextlib.ExitStack() as stack:
        asked = handshake(room, "/feed").replace(
            b"\r\n\r\n", f"\r\nCookie: {cookie}\r\n\r\n".encode()
        )
        end = stack.enter_context(dial(room, from_address="127.0.0.2"))
        end.sendall(asked)
        assert close_code(read_all(end).partition(b"\r\n\r\n")[2]) == 4504


def test_a_student_sees_the_board_and_cannot_press_its_buttons(room: Classroom) -> None:
    """The code of the class opens it; the words say who may press."""
    with websocket(room, f"/feed?k={room.code}") as board:
        hello = hear(board, "hello")
        assert (hello["role"], hello["room"]) == ("viewer", {})
        hear(board, "live")
        answer = press(board, "crash", g="gateway-01")
        assert answer == {"type": "failed", "why": "only the teacher may do that"}
    assert "gateway-01" in room.lab.cluster.hosts


def test_the_teacher_is_told_address_and_code(room: Classroom) -> None:
    """They stand on the projector; the QR code as well."""
    cookie = redeem(room)
    with websocket(room, "/feed", additional_headers={"Cookie": cookie}) as board:
        hello = hear(board, "hello")
    assert hello["room"] == {"url": f"127.0.0.1:{room.port}", "code": room.code}
    asked = f"GET /qr.svg HTTP/1.1\r\nHost: 127.0.0.1:{room.port}\r\nCookie: {cookie}\r\n\r\n"
    assert b"<svg" in fetch(room, asked)
    with teacher(room):
        pass


# --- seats -----------------------------------------------------------------------------------


def test_nobody_registers_as_somebody_else(room: Classroom) -> None:
    """A seat is one user id, on each connection."""
    with student(room, "Ann") as ann:
        for said in ('{"type":"register","userId":"bob"}', '{"type":"register"}'):
            with websocket(room, ann.path("gateway-01")) as gateway:
                gateway.send(said)
                assert closing(gateway) == (4513, "this seat is somebody else's")
        with ann.at("gateway-01") as gateway:
            say(gateway, type="register", userId="bob")
            assert closing(gateway)[0] == 4513


@pytest.mark.parametrize("seat", ["", "guess", "%00", "%ED%A0%80"])
def test_without_a_seat_there_is_no_way_to_a_gateway(room: Classroom, seat: str) -> None:
    """The secret of a seat cannot be guessed."""
    with pytest.raises(InvalidStatus) as refused, websocket(room, f"/gw/gateway-01/ws?seat={seat}"):
        pass
    assert refused.value.response.status_code == 403


def test_a_gateway_that_does_not_run_is_said_so(room: Classroom) -> None:
    """A page tries the next one."""
    with student(room, "Ann") as ann:
        for name in ("gateway-99", "", "../gateway-01"):
            with pytest.raises(InvalidStatus) as refused, websocket(room, ann.path(name)):
                pass
            assert refused.value.response.status_code == 503


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(frame('{"type":"ping"}'), 4001, id="message-before-register"),
        pytest.param(frame("nonsense"), 4001, id="no-json-before-register"),
        pytest.param(
            frame('{"type":"register","userId":"bob","userId":"{user}"}'), 4001, id="two-user-ids"
        ),
        pytest.param(frame(b"\0\1", opcode=2), 1003, id="binary"),
        pytest.param(frame('{"type":"reg', fin=False), 1009, id="first-piece"),
        pytest.param(frame("ister", opcode=0), 1009, id="later-piece"),
        pytest.param(frame("x" * 2049), 1009, id="over-2-kib"),
        pytest.param(frame("x" * 70_000)[:200], 1009, id="size-of-eight-bytes"),
        pytest.param(frame("{}", masked=False), 1002, id="unmasked"),
        pytest.param(b"\xc1\x80\0\0\0\0", 1002, id="reserved-bit"),
        pytest.param(b"\x83\x80\0\0\0\0", 1002, id="unknown-opcode"),
        pytest.param(frame("x" * 126, opcode=9), 1002, id="long-ping"),
        pytest.param(b"\x09\x80\0\0\0\0", 1009, id="a-ping-in-pieces"),
    ],
)
def test_a_frame_that_no_page_sends_ends_the_connection(
    room: Classroom, data: bytes, code: int
) -> None:
    """Before it reaches the gateway, however its bytes are cut."""
    with student(room, "Ann") as ann:
        for step in (len(data), 1):
            with upgraded(room, ann.path("gateway-01")) as end:
                with contextlib.suppress(ConnectionError):
                    for at in range(0, len(data), step):
                        end.sendall(data[at : at + step])
                assert close_code(read_all(end)) == code


# --- where it listens ------------------------------------------------------------------------


def test_nothing_listens_beyond_loopback_unless_asked(room: Classroom) -> None:
    """And never at all addresses at once."""
    listening = {
        end.laddr.ip
        for end in psutil.Process().net_connections("tcp")
        if end.status == psutil.CONN_LISTEN and end.laddr.port == room.port
    }
    assert listening == {"127.0.0.1"}


def test_a_page_of_the_room_is_what_a_browser_needs(room: Classroom) -> None:
    """Each file that the two pages name is there, with a type that a browser accepts."""
    for path in ("/", "/board"):
        page = fetch(room, f"GET {path} HTTP/1.1\r\n" + HOST + END).decode()
        names = [part.partition('"')[0] for part in page.split('="static/')[1:]]
        assert names
        for name in names:
            answer = fetch(room, f"GET /static/{name} HTTP/1.1\r\n" + HOST + END)
            kind = b"text/css" if name.endswith(".css") else b"text/javascript"
            assert status(answer) == 200
            assert b"\r\nContent-Type: " + kind in answer


def test_an_answer_of_the_room_is_json(room: Classroom) -> None:
    """What a page hears is one document a message."""
    with student(room, "Ann") as ann:
        assert json.loads(ann.feed.recv(5))["type"] == "class"
        assert origin(room) == room.url

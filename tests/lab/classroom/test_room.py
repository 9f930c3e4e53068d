"""Class room of a lab: how is it opened, closed and shown, and what does it leave behind?"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest
from websockets.exceptions import ConnectionClosed

from tests.lab.classroom.visitors import (
    closing,
    dial,
    fetch,
    handshake,
    hear,
    press,
    say,
    student,
    teacher,
    upgraded,
    websocket,
)
from wsdemo.lab import Lab
from wsdemo.lab.classroom import network
from wsdemo.lab.classroom.invitation import qr_svg
from wsdemo.lab.classroom.network import PublicUrl, address_of
from wsdemo.lab.classroom.room import Classroom
from wsdemo.lab.errors import LabClosed, LabRefused, UnknownOption

pytestmark = pytest.mark.xdist_group("clock")


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab(gateways=2, scale=6, freezable=["gateway-02"]) as lab:
        yield lab
    assert lab.leaks() == []


# --- opening ---------------------------------------------------------------------------------


def test_the_same_call_again_returns_the_open_room(lab: Lab) -> None:
    """A cell can be run again, and nobody loses a seat."""
    room = lab.classroom(seats=30)
    with student(room, "Ann"):
        assert lab.classroom(seats=30) is room
        with pytest.raises(LabRefused, match=r"open room with other options \(.*seats=30"):
            lab.classroom(seats=31)
        assert room.students == ["ann"]
    room.close()
    other = lab.classroom(seats=31)
    assert other is not room
    assert other.code != room.code


def test_an_option_that_cannot_work_is_refused_in_words(lab: Lab) -> None:
    """Before anything listens, and the nearest name of a misspelt one is told."""
    with pytest.raises(UnknownOption, match="did you mean 'host'"):
        lab.classroom(hots="lan")  # type: ignore[call-arg]
    with pytest.raises(UnknownOption, match="did you mean 'height'"):
        lab.board(heigth="1px")  # type: ignore[call-arg]
    for options, why in (
        ({"host": "0.0.0.0"}, "would listen in every network"),
        ({"host": "::"}, "would listen in every network"),
        ({"host": "example"}, 'host is "127.0.0.1"'),
        ({"host": "192.0.2.77"}, "cannot listen at 127.0.0.1 and 192.0.2.77"),
        ({"port": -1}, "port is a number"),
        ({"port": "80"}, "port is a number"),
        ({"port": True}, "port is a number"),
        ({"seats": 0}, "1 to 180 seats"),
        ({"seats": 1000}, "1 to 180 seats"),
        ({"public_url": "hub.example"}, "public_url is where a proxy"),
        ({"public_url": "https://hub.example/?a=b"}, "public_url is where a proxy"),
        ({"public_url": "https://hub.example:x/"}, "public_url is where a proxy"),
        ({"public_url": 7}, "public_url is a text"),
    ):
        with pytest.raises(LabRefused, match=why.replace("(", r"\(")):
            lab.classroom(**options)


def test_a_port_that_is_taken_is_said_so_and_the_next_try_works(lab: Lab) -> None:
    """The lab has no room then."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(LabRefused, match=f"cannot listen at 127.0.0.1, port {port}"):
            lab.classroom(port=port)
    assert lab.classroom(port=port).port == port


def test_a_lab_on_the_kernels_loop_has_no_room() -> None:
    """A cell that computes would stop every student."""
    with Lab(gateways=1, loop="kernel") as lab:
        with pytest.raises(LabRefused, match='loop="kernel"'):
            lab.classroom()


def test_a_room_of_another_address_listens_there_and_on_loopback_only(lab: Lab) -> None:
    """Not at all addresses; and its pages are known by both names."""
    room = lab.classroom(host="127.0.0.3")
    listening = {
        end.laddr.ip
        for end in psutil.Process().net_connections("tcp")
        if end.status == psutil.CONN_LISTEN and end.laddr.port == room.port
    }
    assert listening == {"127.0.0.1", "127.0.0.3"}
    assert room.url == f"http://127.0.0.3:{room.port}"
    for host in ("127.0.0.1", "127.0.0.3", "localhost", "LOCALHOST"):
        head = f"GET / HTTP/1.1\r\nHost: {host}:{room.port}\r\n\r\n"
        assert fetch(room, head).startswith(b"HTTP/1.1 200 ")
    with student(room, "Ann") as ann:
        page = f"http://127.0.0.3:{room.port}"
        with websocket(room, ann.path("gateway-01"), origin=page):
            pass


def test_lan_is_an_address_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a network, it is loopback."""
    assert address_of("lan") == network.lan_address()
    mine = {end.address for ends in psutil.net_if_addrs().values() for end in ends}
    assert network.lan_address() in mine

    def no_way_out(*_: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("wsdemo.lab.classroom.network.socket.socket", no_way_out)
    monkeypatch.setattr("wsdemo.lab.classroom.network.psutil.net_if_addrs", dict)
    assert network.lan_address() == "127.0.0.1"


def test_a_public_url_adds_one_host_and_one_origin(lab: Lab) -> None:
    """Those of the proxy; students are sent there."""
    room = lab.classroom(public_url="https://Hub.example/user/ann/proxy/8090/")
    assert room.url == "https://Hub.example/user/ann/proxy/8090/"
    assert room.board_url().startswith(f"{room.url}board?ticket=")
    for host, status in (("hub.example", 200), ("other.example", 421)):
        head = f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"
        assert int(fetch(room, head)[9:12]) == status
    with websocket(room, "/desk", origin="https://hub.example") as feed:
        say(feed, type="join", code=room.code, name="Ann")
        assert hear(feed, "seated")
    # All students of a proxy have its address, so the limit for one address is no limit there.
    with ExitStack() as stack:
        for _ in range(121):
            stack.enter_context(dial(room))
        head = "GET / HTTP/1.1\r\nHost: hub.example\r\n\r\n"
        assert fetch(room, head).startswith(b"HTTP/1.1 200 ")
    assert PublicUrl.of("") is None


# --- showing ---------------------------------------------------------------------------------


def test_a_cell_shows_address_code_and_qr_code(lab: Lab) -> None:
    """And a link to the board that works once; a closed room shows that it is closed."""
    room = lab.classroom()
    shown = room._repr_html_()
    assert f"127.0.0.1:{room.port}" in shown
    assert f"{room.code[:3]} {room.code[3:]}" in shown
    assert "<svg" in shown
    assert "/board?ticket=" in shown
    assert room.code in repr(room)
    room.close()
    assert "closed" in repr(room)
    assert "closed" in room._repr_html_()


def test_without_segno_there_is_no_qr_code_and_everything_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The code is typed then."""
    assert qr_svg("http://127.0.0.1/").startswith("<svg")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert qr_svg("http://127.0.0.1/") == ""


def test_a_run_is_saved_by_the_room_and_by_the_lab(lab: Lab, tmp_path: Path) -> None:
    """A lab without a room says that it infers; after the room was closed, its record is used."""
    alone = lab.save_html(tmp_path / "alone.html", title="Alone")
    assert "inferred" in alone.read_text(encoding="utf-8")
    room = lab.classroom()
    saved = room.save(tmp_path / "run.html", "The hour")
    assert "<title>The hour</title>" in saved.read_text(encoding="utf-8")
    room.close()
    later = lab.save_html(tmp_path / "later.html")
    assert "inferred" not in later.read_text(encoding="utf-8")


def test_a_board_is_shown_in_a_cell_with_and_without_a_room(lab: Lab) -> None:
    """As high as asked for."""
    alone, with_room = lab.board(height="300px"), None
    try:
        assert alone.height == "300px"
        lab.classroom()
        with_room = lab.board()
        assert with_room.height == "640px"
    finally:
        for board in filter(None, (alone, with_room)):
            board.close()


# --- students --------------------------------------------------------------------------------


def test_a_seat_survives_a_reload_and_students_start_at_the_gateways_in_turn(lab: Lab) -> None:
    """The browser keeps the secret of the seat."""
    room = lab.classroom()
    with student(room, "Ann") as ann, student(room, "Bob") as bob:
        assert ann.seated["gateways"][0] != bob.seated["gateways"][0]
        with websocket(room, "/desk") as again:
            say(again, type="join", seat=ann.secret)
            assert hear(again, "seated") == ann.seated
    assert room.students == ["ann", "bob"]


def test_a_student_is_told_what_redis_says_and_when_nobody_knows(lab: Lab) -> None:
    """The gateway, and what is left of the lease; while Redis is away, that it is not known."""
    room = lab.classroom()
    with student(room, "Ann") as ann, ann.at("gateway-02"):
        while (mine := hear(ann.feed, "you"))["gateway"] != "gateway-02":
            pass
        assert mine["known"]
        assert 0 < mine["left"] <= ann.seated["ttl"]
        lab.redis.stop()
        while hear(ann.feed, "you")["known"]:
            pass
        lab.redis.restart()


def test_what_a_page_saw_is_on_the_board_and_nonsense_is_not(lab: Lab) -> None:
    """The student's own word: the close code, and how long it was away."""
    room = lab.classroom()
    with student(room, "Ann") as ann:
        for code, away in ((1, 1), (1006, -1), ("1006", 1), (True, 1), (1006, 1e308), (1006, "x")):
            say(ann.feed, type="saw", code=code, away=away)
        for away_s in ("Infinity", "NaN", "9" * 400):
            ann.feed.send('{"type":"saw","code":1006,"away":' + away_s + "}")
        say(ann.feed, type="saw", code=1006, away=1.234)
        lab.wait_until("it is told", lambda: '"saw"' in str(room.feed.history))
    events = [event for text in room.feed.history for event in json.loads(text).get("e", ())]
    saw = [(event["u"], event["c"], event["s"]) for event in events if event["k"] == "saw"]
    assert saw == [("ann", 1006, 1.23)]


SECRET = "the-content-of-a-message-4711"


def test_what_users_write_to_each_other_is_on_no_board(lab: Lab) -> None:
    """Neither on a viewer's nor on the teacher's, nor in the past, which is also what a saved run
    has, nor on other students' feeds: that they wrote, yes; what, no.
    """
    room = lab.classroom()
    carol = lab.connect("carol")
    with ExitStack() as stack:
        ann = stack.enter_context(student(room, "Ann"))
        bob = stack.enter_context(student(room, "Bob"))
        boards = [
            stack.enter_context(teacher(room)),
            stack.enter_context(websocket(room, f"/feed?k={room.code}")),
        ]
        one = stack.enter_context(ann.at("gateway-01"))
        other = stack.enter_context(bob.at("gateway-02"))
        for to, status in ((bob.user, "routed"), ("nobody", "offline"), ("carol", "routed")):
            say(one, type="message", to=to, content=SECRET, id=to)
            assert hear(one, "ack")["status"] in (status, "local", "delivered")
        assert hear(other, "message")["content"] == SECRET
        assert carol.receive().content == SECRET
        carol.send(ann.user, SECRET)
        lab.wait_until("the feed has told of it", lambda: told_messages(room) == 4)
        room.ask("mine", "The last word?", ["yes", "no"])
        for board in boards:
            heard = ""
            while '"ask"' not in heard:
                heard += str(board.recv(5))
            assert '"msg"' in heard
            assert SECRET not in heard
        assert SECRET not in str(room.feed.history)
        heard = ""
        while "The last word?" not in heard:
            heard += str(bob.feed.recv(5))
        assert SECRET not in heard


def told_messages(room: Classroom) -> int:
    return "".join(room.feed.history).count('"k":"msg"')


# --- closing ---------------------------------------------------------------------------------


def with_nobody(stack: ExitStack, lab: Lab, room: Classroom) -> None:
    pass


def with_students_connected(stack: ExitStack, lab: Lab, room: Classroom) -> None:
    for n in range(6):
        one = stack.enter_context(student(room, f"student {n}"))
        stack.enter_context(one.at(f"gateway-0{1 + n % 2}"))
    stack.enter_context(teacher(room))


def with_a_frozen_gateway(stack: ExitStack, lab: Lab, room: Classroom) -> None:
    with_students_connected(stack, lab, room)
    lab.freeze("gateway-02")
    (first, *_) = room.seats.by_user.values()
    asked = stack.enter_context(dial(room))  # It waits for a handshake that does not come.
    asked.sendall(handshake(room, f"/gw/gateway-02/ws?seat={first.secret}"))


def with_redis_killed(stack: ExitStack, lab: Lab, room: Classroom) -> None:
    with_students_connected(stack, lab, room)
    lab.redis.stop()


def with_redis_frozen(stack: ExitStack, lab: Lab, room: Classroom) -> None:
    with_students_connected(stack, lab, room)
    lab.redis.freeze()


def in_the_middle_of_a_relay(stack: ExitStack, lab: Lab, room: Classroom) -> None:
    ann = stack.enter_context(student(room, "Ann"))
    end = stack.enter_context(upgraded(room, ann.path("gateway-01")))
    end.sendall(b"\x81")  # Half a frame.
    stack.enter_context(dial(room)).sendall(b"GET / HT")  # Half a head.


def with_a_clean_up_held(stack: ExitStack, lab: Lab, room: Classroom) -> None:
    board = stack.enter_context(teacher(room))
    ann = stack.enter_context(student(room, "Ann"))
    with ann.at("gateway-01"):
        press(board, "hold", g="gateway-01", u=ann.user)
    lab.wait_until("it waits", lambda: any(held.waiting for held in lab.cluster.held))


def with_a_gateway_crashed(stack: ExitStack, lab: Lab, room: Classroom) -> None:
    with_students_connected(stack, lab, room)
    lab.crash("gateway-01")


STATES = [
    with_nobody,
    with_students_connected,
    with_a_frozen_gateway,
    with_redis_killed,
    pytest.param(with_redis_frozen, marks=pytest.mark.slow),
    in_the_middle_of_a_relay,
    with_a_clean_up_held,
    with_a_gateway_crashed,
]


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("first", ["room", "lab"])
def test_a_room_that_closes_leaves_nothing_behind(
    state: Callable[[ExitStack, Lab, Classroom], None], first: str
) -> None:
    """No task, no connection, no unhandled failure, in whatever state it was."""
    with ExitStack() as stack:
        lab = Lab(gateways=2, scale=6, freezable=["gateway-02"])
        room = lab.classroom()
        state(stack, lab, room)
        if first == "room":
            room.close()
            room.close()
            assert not room._listener.connections
        lab.close()
        assert lab.leaks() == []
        with pytest.raises(OSError):
            dial(room)
        assert "lab" not in {thread.name for thread in threading.enumerate()}


def test_everybody_is_told_that_the_class_is_over(lab: Lab) -> None:
    """Pages say so, and do not call it a broken network."""
    room = lab.classroom()
    with student(room, "Ann") as ann, teacher(room) as board:
        room.close()
        assert closing(ann.feed) == (1001, "the class is over")
        assert closing(board) == (1001, "the class is over")


def test_an_answer_just_before_the_end_is_shown_and_recorded(lab: Lab) -> None:
    """A cell may reveal and close at once."""
    room = lab.classroom()
    room.ask("mine", "How many?", ["1", "2"])
    with teacher(room) as board:
        room.reveal("2")
        room.close()
        heard = []
        with suppress(ConnectionClosed):
            while True:
                heard.append(str(board.recv(10)))
    for told in ("".join(heard), "".join(room.feed.history)):
        assert '"k":"reveal"' in told


def test_a_closed_room_refuses_in_words_and_keeps_what_it_recorded(lab: Lab) -> None:
    """Votes and students can still be read."""
    room = lab.classroom()
    with student(room, "Ann") as ann:
        room.ask("mine", "How many?", ["1", "2"])
        lab.wait_until("it is recorded", lambda: '"seat"' in str(room.feed.history))
        room.close()
        assert room.students == [ann.user]
        assert room.votes == {}
        with pytest.raises(LabRefused, match="this room is closed"):
            room.ask("q04")
        with pytest.raises(LabRefused, match="this room is closed"):
            room.reveal("nothing")
        assert '"seat"' in str(room.feed.history)
    lab.close()
    with pytest.raises(LabClosed):
        room.ask("q04")
    with pytest.raises(LabClosed):
        lab.classroom()


def test_a_later_lab_closes_the_room_of_the_one_before() -> None:
    """There is one lab at a time."""
    with Lab(gateways=1, scale=6) as first:
        room = first.classroom()
        with student(room, "Ann") as ann:
            with Lab(gateways=1, scale=6):
                assert closing(ann.feed)[0] == 1001
        assert not room.is_open
    assert first.leaks() == []

"""Limits of a class room: what happens to the 61st student, the 401st connection, and who is fast?

Rates slow down and never drop; numbers are refused in words.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.lab.classroom.visitors import (
    dial,
    fetch,
    frame,
    handshake,
    hear,
    read_all,
    say,
    student,
    upgraded,
    websocket,
)
from wsdemo.lab import Lab
from wsdemo.lab.classroom import channel, listener, observers
from wsdemo.lab.classroom.http import HEAD_BYTES
from wsdemo.lab.classroom.rate_limit import FOLLOWED, FailureLimit, Throttle
from wsdemo.lab.classroom.room import Classroom
from wsdemo.lab.classroom.seats import NotAdmitted, Seats

pytestmark = pytest.mark.xdist_group("clock")

PAGE = "GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


# --- numbers ---------------------------------------------------------------------------------


def test_the_61st_student_is_refused_in_words() -> None:
    """Those who have a seat keep it."""
    seats = Seats(lambda user: False)
    for n in range(60):
        seats.join(seats.code, f"student {n}", "10.0.0.1")
    with pytest.raises(NotAdmitted, match="all 60 seats are taken"):
        seats.join(seats.code, "Ann", "10.0.0.1")
    (first, *_) = seats.by_user.values()
    assert seats.find(first.secret) is first


def test_a_full_room_says_so_to_the_page_and_closed_admission_as_well() -> None:
    """A seat that is known opens both."""
    with Lab(gateways=1, scale=6) as lab:
        room = lab.classroom(seats=1)
        with student(room, "Ann") as ann, websocket(room, "/desk") as feed:
            say(feed, type="join", code=room.code, name="Bob")
            assert hear(feed, "no")["why"] == "all 1 seats are taken"
            room.admit(False)
            say(feed, type="join", code=room.code, name="Bob")
            assert hear(feed, "no")["why"] == "the teacher admits nobody at the moment"
            say(feed, type="join", seat=ann.secret)
            assert hear(feed, "seated")["user"] == ann.user
        room.admit(True)
        with websocket(room, "/desk") as feed:
            say(feed, type="join", code=room.code, name="Bob")
            assert hear(feed, "no")["why"] == "all 1 seats are taken"
    assert lab.leaks() == []


@contextlib.contextmanager
def connected(room: Classroom, *addresses: str, seat: str = "") -> Iterator[list[socket.socket]]:
    """Connections from these addresses: silent ones, or pages of a student."""
    with contextlib.ExitStack() as stack:
        ends = [stack.enter_context(dial(room, address)) for address in addresses]
        for end in ends if seat else ():
            joining = frame(json.dumps({"type": "join", "seat": seat}))
            end.sendall(handshake(room, "/desk") + joining)
        for end in ends if seat else ():
            said = b""
            while b'"seated"' not in said:
                said += (part := end.recv(4096))
                assert part, said
        yield ends


def test_the_121st_connection_of_an_address_is_refused_and_others_are_not(room: Classroom) -> None:
    """As soon as one of the 120 ends, the next is served."""
    with (
        student(room, "Many") as many,
        connected(room, *["127.0.0.2"] * 120, seat=many.secret) as ends,
    ):
        with dial(room, "127.0.0.2") as one_more:
            assert read_all(one_more).startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert fetch(room, PAGE).startswith(b"HTTP/1.1 200 ")
        ends[0].close()
        deadline = time.monotonic() + 5
        while True:
            with dial(room, "127.0.0.2") as next_one:
                next_one.sendall(PAGE.replace("{host}", f"127.0.0.1:{room.port}").encode())
                answer = read_all(next_one)
            if answer.startswith(b"HTTP/1.1 200 "):
                break
            assert time.monotonic() < deadline


def test_the_401st_connection_in_all_is_refused(
    room: Classroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has many addresses cannot use up the descriptors of the kernel."""
    monkeypatch.setattr(listener, "CONNECTIONS", 20)
    addresses = [f"127.0.0.{2 + n % 4}" for n in range(19)]
    with student(room, "Many") as many, connected(room, *addresses, seat=many.secret):
        with dial(room, "127.0.0.9") as one_more:
            assert read_all(one_more).startswith(b"HTTP/1.1 503 ")
    deadline = time.monotonic() + 5
    while not fetch(room, PAGE).startswith(b"HTTP/1.1 200 "):
        assert time.monotonic() < deadline


@pytest.mark.parametrize("addresses", [1, 4], ids=["one-address", "four-addresses"])
def test_who_opens_many_connections_and_joins_nowhere_makes_place_for_others(
    room: Classroom, addresses: int
) -> None:
    """Also for those who have the same address: behind one proxy, all have."""
    attackers = [f"127.0.0.{2 + n % addresses}" for n in range(120 * addresses)]
    with student(room, "Early") as early, connected(room, *attackers):
        for address in ("127.0.0.2", "127.0.0.9"):
            with connected(room, *[address] * 3, seat=early.secret):
                pass
        assert fetch(room, PAGE).startswith(b"HTTP/1.1 200 ")
        say(early.feed, type="vote", q="x", o="y")
        hear(early.feed, "you")  # The feed of a student is not given up for anybody.
    wanted = len(room._listener.connections) == sum(room._listener._counts.values())
    assert wanted, "each connection is counted once"


def test_a_flood_of_pings_is_slowed_like_everything_else(room: Classroom) -> None:
    """Each is answered: without a limit, whoever does not read would fill the memory, and keep the
    loop of all gateways busy.
    """
    with upgraded(room, "/desk") as flood:
        flood.setblocking(False)
        pings = frame(b"x" * 125, opcode=9) * 2000
        with contextlib.suppress(BlockingIOError):
            flood.send(pings)
        with student(room, "Patient"):
            pass  # The room goes on.
        answered = 0
        with contextlib.suppress(BlockingIOError):
            while part := flood.recv(65536):
                answered += len(part)
    assert 0 < answered <= 2 * HEAD_BYTES < len(pings)


def test_many_pages_of_a_student_are_as_fast_as_one(room: Classroom) -> None:
    """Otherwise 120 connections would write 360 lines a second into the recording."""
    with student(room, "Fast") as fast, websocket(room, "/desk") as second:
        say(second, type="join", seat=fast.secret)
        hear(second, "seated")
        pages = [p for p in room._students._pages if p.seat and p.seat.user == fast.user]
        assert len(pages) == 2 and pages[0].throttle is pages[1].throttle


# --- who does not read -----------------------------------------------------------------------


def test_a_board_that_does_not_read_is_hung_up_on(
    room: Classroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection is reset, and the room keeps nothing for it."""
    monkeypatch.setattr(channel, "UNREAD_BYTES", 100_000)
    with websocket(room, f"/feed?k={room.code}") as witness:
        hear(witness, "live")
        with dial(room) as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.sendall(handshake(room, f"/feed?k={room.code}"))
            room.lab.wait_until("two boards are served", lambda: len(boards(room)) == 2)
            text = json.dumps({"type": "batch", "t": 0, "n": 0, "x": "x" * 60_000})

            def published() -> bool:
                publish(room, text)
                hear(witness, "batch")
                return len(boards(room)) == 1

            room.lab.wait_until("the deaf board is gone", published)
        hear(witness, "batch")


def boards(room: Classroom) -> set[observers.BoardChannel]:
    return room._observers.boards


def publish(room: Classroom, text: str) -> None:
    room._loop.call(lambda: room._observers.publish(text))


def test_a_board_that_joins_late_gets_a_long_past_whole(
    room: Classroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit on what it has not read is one on live batches: the past comes as fast as it
    reads, and what happens meanwhile comes behind it, in order.
    """
    monkeypatch.setattr(channel, "UNREAD_BYTES", 100_000)
    past = [json.dumps({"type": "past", "n": n, "x": "x" * 10_000}) for n in range(1500)]
    monkeypatch.setattr(type(room.feed), "history", property(lambda feed: past))
    with websocket(room, f"/feed?k={room.code}", max_size=None, max_queue=16) as board:
        hear(board, "hello")
        publish(room, '{"type":"late"}')
        # Fifteen megabytes are more than the two kernels hold, so the end is not sent yet.
        assert [hear(board, "past")["n"] for _ in range(1500)] == list(range(1500))
        hear(board, "late")
        hear(board, "live")


def test_a_board_that_reads_the_past_too_slowly_is_hung_up_on(
    room: Classroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What happens meanwhile is kept for it, and not without end."""
    monkeypatch.setattr(observers, "UNREAD_BYTES", 100_000)
    past = [json.dumps({"type": "past", "x": "x" * 10_000}) for _ in range(1500)]
    monkeypatch.setattr(type(room.feed), "history", property(lambda feed: past))
    before = len(boards(room))
    with websocket(room, f"/feed?k={room.code}", max_size=None, max_queue=16) as board:
        hear(board, "hello")
        room.lab.wait_until("it is served", lambda: len(boards(room)) == before + 1)
        for _ in range(3):
            publish(room, json.dumps({"type": "late", "x": "x" * 60_000}))
        room.lab.wait_until("it is gone", lambda: len(boards(room)) == before)


def test_a_page_that_is_silent_is_asked_and_one_that_is_gone_is_dropped(
    room: Classroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A phone that left the network sends no FIN."""
    monkeypatch.setattr(channel, "PING_S", 0.2)
    with websocket(room, "/desk") as answers:
        with upgraded(room, "/desk") as silent:
            with pytest.raises(ConnectionError):
                read_all(silent)  # A ping, and then a reset.
        say(answers, type="join", code="WRONG", name="Ann")
        assert hear(answers, "no")


# --- rates -----------------------------------------------------------------------------------


def test_a_burst_passes_and_then_everything_waits_its_turn() -> None:
    """With a clock that stands still, each one waits one interval longer."""
    clock = Clock()
    throttle = Throttle(4, 12, clock)
    assert [throttle.delay_s() for _ in range(12)] == [0.0] * 12
    assert [throttle.delay_s() for _ in range(3)] == pytest.approx([0.25, 0.5, 0.75])
    clock.now += 60
    assert [throttle.delay_s() for _ in range(12)] == [0.0] * 12


@given(st.lists(st.floats(0, 5), min_size=1, max_size=60))
def test_no_rate_is_exceeded_and_nobody_waits_longer_than_the_others_need(
    pauses_s: list[float],
) -> None:
    """In every window there are at most the burst and the rate times its length."""
    clock = Clock()
    throttle = Throttle(4, 12, clock)
    passed: list[float] = []
    for pause_s in pauses_s:
        clock.now += pause_s
        clock.now += throttle.delay_s()  # Who waits reads nothing meanwhile.
        passed.append(clock.now)
    for i, first in enumerate(passed):
        for j in range(i, len(passed)):
            assert j - i + 1 <= 12 + 4 * (passed[j] - first) + 1e-6


def test_failures_are_forgotten_after_a_minute_and_their_number_is_bounded() -> None:
    """Somebody with a million addresses does not fill the memory."""
    clock = Clock()
    limit = FailureLimit(2, 10**6, clock)
    limit.add("a")
    assert not limit.is_exceeded("a")
    clock.now += 30
    limit.add("a")
    assert limit.is_exceeded("a")
    clock.now += 30.001
    assert not limit.is_exceeded("a")
    for n in range(2 * FOLLOWED):
        limit.add(str(n))
    assert len(limit._of_one) <= FOLLOWED


def test_a_fast_student_is_slowed_and_loses_nothing(room: Classroom) -> None:
    """20 messages at once: the first twelve pass, the others at four a second; all are answered,
    in order.
    """
    with student(room, "Fast") as fast, fast.at("gateway-01") as gateway:
        began = time.monotonic()
        for n in range(20):
            say(gateway, type="message", to="nobody-of-this-name", content="?", id=str(n))
        acks = [hear(gateway, "ack")["id"] for _ in range(20)]
        took_s = time.monotonic() - began
    assert acks == [str(n) for n in range(20)]
    assert took_s >= (20 + 1 - 12) / 4 - 0.05  # The register counts as one.


def test_a_students_feed_is_slowed_as_well(room: Classroom) -> None:
    """Three a second; what is said too fast waits in the network."""
    with upgraded(room, "/desk") as end:
        began = time.monotonic()
        said = frame('{"type":"vote","q":"x","o":"y"}')
        end.sendall(said * 13)
        answers = b""
        while answers.count(b"join the class first") < 13:
            part = end.recv(4096)
            assert part
            answers += part
        assert time.monotonic() - began >= 3 / 3 - 0.05

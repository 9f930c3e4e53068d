"""Frames and request heads: does any byte at all make their readers fail?"""

from __future__ import annotations

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from tests.lab.classroom.visitors import close_code, frame
from wsdemo.lab.classroom.documents import json_object
from wsdemo.lab.classroom.frames import (
    FrameEnds,
    FrameRefused,
    StudentFrame,
    StudentFrames,
    close_frame,
)
from wsdemo.lab.classroom.http import BadRequest, HttpRequest, parse_head

PAYLOADS = st.binary(max_size=125) | st.integers(0, 2048).map(lambda n: b"x" * n)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Cut bytes at these places."""
    ends = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(ends)]


@given(st.lists(PAYLOADS, max_size=8), st.lists(st.integers(0, 20_000), max_size=30))
def test_frames_come_out_whole_and_in_order_however_they_are_cut(
    payloads: list[bytes], places: list[int]
) -> None:
    """Their bytes are those that came: nothing is masked anew."""
    frames = [frame(payload) for payload in payloads]
    cutter, found = StudentFrames(), list[StudentFrame]()
    for part in cut(b"".join(frames), places):
        found += cutter.feed(part)
    assert [one.raw for one in found] == frames
    assert [one.payload for one in found] == payloads
    assert all(one.opcode == Opcode.TEXT for one in found)


@given(st.lists(st.binary(max_size=64), max_size=20))
def test_no_garbage_makes_the_cutter_fail(parts: list[bytes]) -> None:
    """It finds frames, waits for more, or refuses; and it keeps no more than one frame."""
    cutter = StudentFrames()
    with contextlib.suppress(FrameRefused):
        for part in parts:
            for one in cutter.feed(part):
                assert one.raw
            assert len(cutter._rest) < 8 + 2048


def test_frames_before_a_refused_one_are_passed_on() -> None:
    """What a student has said before is not lost."""
    cutter = StudentFrames()
    found = []
    with pytest.raises(FrameRefused) as refused:
        for one in cutter.feed(frame("one") + frame("two") + frame("x", opcode=0) + frame("three")):
            found.append(one.payload)
    assert found == [b"one", b"two"]
    assert refused.value.code == 1009


@given(
    st.lists(st.binary(max_size=200) | st.just(b"y" * 70_000), max_size=6),
    st.lists(st.integers(0, 80_000), max_size=20),
)
def test_the_ends_of_a_gateways_frames_are_found(payloads: list[bytes], places: list[int]) -> None:
    """After each whole frame, and at no other place."""
    frames = [bytes(Frame(Opcode.TEXT, one).serialize(mask=False)) for one in payloads]
    ends, at, whole = FrameEnds(), 0, {0}
    for one in frames:
        at += len(one)
        whole.add(at)
    at = 0
    for part in cut(b"".join(frames), places):
        ends.feed(part)
        at += len(part)
        assert ends.is_between_frames is (at in whole)


def test_a_close_frame_says_code_and_reason() -> None:
    """As the library reads it."""
    data = close_frame(4513, "this seat is somebody else's")
    assert close_code(data) == 4513
    reader = StreamReader()
    reader.feed_data(data)
    assert data[2:4] == (4513).to_bytes(2, "big")
    assert len(close_frame(1000, "x" * 500)) <= 127


@given(st.binary(max_size=300))
def test_no_garbage_makes_the_parser_of_heads_fail(data: bytes) -> None:
    """It is a request, or it is refused with a status."""
    with contextlib.suppress(BadRequest):
        assert isinstance(parse_head(data), HttpRequest)


TARGETS = st.text("/?&=%[]:.ab\u00e9 ", max_size=30)
VALUES = st.text("a:;=, \t\r\n\x00\x7f", max_size=20)


@given(TARGETS, st.lists(st.tuples(VALUES, VALUES), max_size=5))
def test_no_head_that_is_nearly_one_makes_the_parser_fail(
    target: str, headers: list[tuple[str, str]]
) -> None:
    """What it takes has a path that begins with a slash, and each header once."""
    lines = [f"GET /{target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
    data = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
    with contextlib.suppress(BadRequest):
        request = parse_head(data)
        assert request.path.startswith("/")
        assert not any(set(value) & set("\r\n\0\x7f") for value in request.headers.values())
        assert request.cookie("a") in request.headers.get("cookie", "")


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_no_garbage_makes_the_reader_of_documents_fail(data: bytes) -> None:
    """It is an object, or nothing."""
    found = json_object(data)
    assert found is None or isinstance(found, dict)


def test_an_object_that_two_readers_may_understand_differently_is_none() -> None:
    """A key that occurs twice, and bytes that are no UTF-8."""
    assert json_object(b'{"a":1}') == {"a": 1}
    assert json_object(b'{"a":1,"a":2}') is None
    assert json_object(b'{"b":{"a":1,"a":2}}') is None
    assert json_object('{"a":1}'.encode("utf-16")) is None
    assert json_object(b'{"a":"\xff"}') is None
    assert json_object(b"[" * 100_000) is None

"""Is a message taken from the server where it was published, and from no other one?"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsdemo.redis.origin import ANYWHERE, ARGUMENT_BYTES, ORIGIN_BYTES, origin_of, without_origin
from wsdemo.redis.outcome import CommandError
from wsdemo.redis.scripts import bulk

HERE, THERE = b"0123abcd", b"76543210"
ORIGINS = st.from_regex(rb"\A[0-9a-f]{8}\Z")
MESSAGES = st.binary().map(lambda content: b"{%b}" % content)


@given(message=MESSAGES, here=ORIGINS, there=ORIGINS)
def test_a_message_is_taken_from_the_server_where_it_was_published_only(
    message: bytes, here: bytes, there: bytes
) -> None:
    """What it contains does not matter."""
    assert without_origin(here + message, here) == message
    assert without_origin(there + message, here) == (message if there == here else None)


@given(message=MESSAGES, here=ORIGINS)
def test_a_server_that_does_not_tell_its_run_is_believed(message: bytes, here: bytes) -> None:
    """Whoever publishes there has not been told either, or whoever listens."""
    assert without_origin(ANYWHERE + message, here) == message
    assert without_origin(here + message, ANYWHERE) == message


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"{", b"{}", b"1", HERE, THERE, b"{2345678{", b"hello, nobody", b"\xff" * 20),
        b'{"type":"probe","boot":"b","n":1}',
    ],
)
def test_what_has_no_origin_stays_as_it_is(data: bytes) -> None:
    """Probes and notices have none; what is not ours at all is judged by who decodes it."""
    assert without_origin(data, HERE) == data


@pytest.mark.parametrize(
    ("info", "origin"),
    [
        (b"# Server\r\nredis_version:7.2.4\r\nrun_id:0123abcd9876\r\n", HERE),
        (b"# Server\r\nredis_version:7.2.4\r\n", ANYWHERE),
        (CommandError("NOPERM this user has no permissions to run the 'info' command"), ANYWHERE),
        (ConnectionError("lost"), ANYWHERE),
        (None, ANYWHERE),
    ],
)
def test_the_origin_is_the_run_of_the_server_if_it_may_be_asked(info: Any, origin: bytes) -> None:
    """Each has the same length, so that it can be taken off a command again."""
    assert origin_of(info) == origin
    assert len(origin_of(info)) == ORIGIN_BYTES
    assert len(bulk(origin_of(info))) == ARGUMENT_BYTES

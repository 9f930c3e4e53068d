"""Is the wire protocol one protocol, however its messages are read?

The gateway reads common messages by a fast way and everything else by a strict one. Whatever a
client sends, both must come to the same answer; so the fast way is only fast.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.examples import examples
from wsdemo.protocol import (
    CLOSE_POLICIES,
    BadEnvelope,
    Code,
    Direct,
    DirectHeads,
    MessageRequest,
    NotText,
    Ping,
    ProtocolError,
    RegisterRequest,
    Say,
    Status,
    ack_text,
    close_reason,
    decode,
    decode_envelope,
    decode_strict,
    error_text,
    message_text,
    retry_after_s,
    should_reconnect,
)

WORDS = st.sampled_from(
    ["type", "register", "ping", "message", "userId", "to", "content", "id", "token", "inst", "att",
     "alice", "bob", "", ":", '"', "\\", "\ud800", "é", "x" * 65, "from"]
)  # fmt: skip
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.text(max_size=5)
VALUES = st.recursive(
    SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(WORDS, v), max_leaves=5
)
DOCUMENTS = st.dictionaries(WORDS, VALUES, max_size=6)
NEARLY = st.builds(
    lambda kind, more: {"type": kind, **more},
    st.sampled_from(["register", "ping", "message"]),
    st.dictionaries(WORDS, VALUES, max_size=5),
)


def outcome(read: Any, data: bytes) -> Any:
    """What a way of reading comes to: a message, or its refusal in words."""
    try:
        message = read(data, 100)
    except ProtocolError as problem:
        return problem.say, problem.msg_id
    except NotText:
        return NotText
    if isinstance(message, MessageRequest):
        # The fast way keeps the sender's own escapes; what they stand for is the content.
        return message.to, json.loads(bytes(message.content)), message.id
    return message


@pytest.mark.slow
@given(DOCUMENTS | NEARLY, st.booleans(), st.booleans())
@examples(1500)
def test_the_fast_way_and_the_strict_way_agree_on_documents(
    document: dict[str, Any], ascii_only: bool, spaces: bool
) -> None:
    """Escaped or not, with spaces or without."""
    separators = (", ", ": ") if spaces else (",", ":")
    text = json.dumps(document, ensure_ascii=ascii_only, separators=separators)
    data = text.encode("utf-8", "surrogatepass")
    assert outcome(decode, data) == outcome(decode_strict, data)


@given(st.binary(max_size=60))
@example(b'{"type":"message","to":"bob","content":"a","content":"b"}')
@example(b'{"type":"ping","type":"register","userId":"alice"}')
@example(b'{"type":"message","to":"bob","content":"\\ud800"}')
@example(b'{"type":"message","to":"bob","content":"x","x":NaN}')
@example(b'{"type":"message","to":"alice","to":"bob"}')
@example(b'{"type":"message","to":"bob","id":"1","id":"2"}')
@examples(500)
def test_the_fast_way_and_the_strict_way_agree_on_bytes(data: bytes) -> None:
    """Whatever they are, nothing but the documented refusals comes out."""
    assert outcome(decode, data) == outcome(decode_strict, data)


def test_the_messages_of_the_tables_are_read_as_they_say() -> None:
    """The examples of docs/protocol.md are test vectors."""
    assert decode(b'{"type":"ping"}') == Ping()
    register = decode(b'{"type":"register","userId":"alice"}')
    assert isinstance(register, RegisterRequest) and register.userId == "alice"
    message = decode(b'{"type":"message","to":"bob","content":"Hello Bob!"}')
    assert isinstance(message, MessageRequest)
    assert (message.to, bytes(message.content), message.id) == ("bob", b'"Hello Bob!"', None)


def test_the_bound_of_a_content_is_in_bytes() -> None:
    """Of its text, as UTF-8, on both ways of reading it."""
    data = '{"type":"message","to":"bob","content":"éééééééééé"}'.encode()
    for read in (decode, decode_strict):
        assert isinstance(read(data, 22), MessageRequest)
        with pytest.raises(ProtocolError, match="Message too large"):
            read(data, 19)


def test_a_lone_surrogate_from_another_gateway_is_refused() -> None:
    """It would break the connection of its recipient."""
    with pytest.raises(BadEnvelope):
        decode_envelope(rb'{"type":"direct","from":"a","to":"b","content":"\ud800"}')


@pytest.mark.parametrize("length", [0, 1, 64, 65])
def test_the_id_of_a_message_has_1_to_64_characters(length: int) -> None:
    """On both ways of reading it."""
    msg_id = "x" * length
    data = b'{"type":"message","to":"bob","content":"","id":"%b"}' % msg_id.encode()
    for read in (decode, decode_strict):
        if 1 <= length <= 64:
            message = read(data)
            assert isinstance(message, MessageRequest) and message.id == msg_id
        else:
            with pytest.raises(ProtocolError, match="Invalid message format"):
                read(data)


@given(st.text(max_size=30))
def test_content_survives_gateway_redis_and_gateway(content: str) -> None:
    """From the sender's JSON through the envelope to the recipient's JSON, any text."""
    try:
        data = json.dumps({"type": "message", "to": "bob", "content": content, "id": "7"}).encode()
        message = decode(data)
    except ProtocolError:
        assert any("\ud800" <= char <= "\udfff" for char in content)
        return
    assert isinstance(message, MessageRequest)
    head = DirectHeads("alice", "gateway-01", "c1").head(b"bob", message.content, "7")
    envelope = decode_envelope(head + b',"toConn":"c2","epoch":5}')
    assert isinstance(envelope, Direct)
    assert (envelope.sender, envelope.to, envelope.toConn, envelope.epoch) == (
        "alice",
        "bob",
        "c2",
        5,
    )
    text = message_text(envelope.sender, bytes(envelope.content), envelope.id)
    assert json.loads(text) == {"type": "message", "from": "alice", "content": content, "id": "7"}


@given(st.binary(max_size=80) | DOCUMENTS.map(lambda d: json.dumps(d).encode()))
def test_a_malformed_envelope_raises_bad_envelope(data: bytes) -> None:
    """`BadEnvelope` and nothing else, so that one place can count it."""
    with contextlib.suppress(BadEnvelope):
        decode_envelope(data)


def test_messages_of_a_gateway_are_valid_json_for_any_ids() -> None:
    """Ids come from clients, and may hold anything."""
    assert json.loads(ack_text('a"b', Status.ROUTED)) == {
        "type": "ack",
        "id": 'a"b',
        "status": "routed",
    }
    assert json.loads(error_text(Say.INVALID, "invalid", 'q"'))["id"] == 'q"'


def test_every_close_code_says_whether_to_come_back() -> None:
    """One table; a code without a row would be a client that does not know what to do."""
    assert set(CLOSE_POLICIES) == set(Code)
    assert should_reconnect(Code.RESTART) and not should_reconnect(Code.REPLACED)
    assert should_reconnect(None) and should_reconnect(1006), "a broken connection is no goodbye"
    invited = [code for code in (4000, 4499, 4500, 4999, 5000) if should_reconnect(code)]
    ours = [code for code, policy in CLOSE_POLICIES.items() if code >= 4000 and policy.reconnect]
    assert max(ours) < 4500 and len(ours) == sum(4000 <= code < 4500 for code in Code)
    assert invited == [4000, 4499, 5000], "codes of a later version, by their range"


@pytest.mark.parametrize("pause_ms", [1, 1500, 60_000])
def test_the_retry_advice_fits_into_a_close_frame_and_can_be_read_again(pause_ms: int) -> None:
    """At most 123 bytes, and read as it was written."""
    reason = close_reason(Code.TRY_LATER, pause_ms)
    assert len(reason.encode()) <= 123
    assert retry_after_s(reason) == pause_ms / 1000
    assert retry_after_s("anything else") is None

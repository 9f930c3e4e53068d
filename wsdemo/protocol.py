"""Wire protocol: which messages are there, and which of them are valid?

There are three kinds: what a client sends (`decode`), what a gateway answers (the `*_text`
functions), and what gateways send each other over Redis (`Envelope` and its types). All of it is
the demo's JSON; every extension is optional, so a client written for the demo works.

`decode` has two paths with one result. The fast path is a typed decoder for the common messages.
Whatever it does not accept goes to the strict path, which alone decides what is wrong and which
error is answered. The content of a message is validated once, here, and then carried as the raw
bytes of its JSON string: it is not decoded again on its way.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from enum import IntEnum, StrEnum
from typing import Any, Final, NamedTuple

import msgspec

from wsdemo.user_ids import user_ids

MAX_KEYS: Final = 32
"""The most keys that a JSON object may have."""
MAX_ID_CHARS: Final = 64
"""The longest `id` that a sender may give to a message."""


class Code(IntEnum):
    """Why a connection was closed. 4000-4499 invite a reconnect, 4500-4999 forbid it."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED = 1003
    NOT_UTF8 = 1007
    TOO_BIG = 1009
    INTERNAL = 1011
    RESTART = 1012
    TRY_LATER = 1013
    REGISTER_DEADLINE = 4001
    RATE_LIMIT = 4008
    HEARTBEAT_TIMEOUT = 4009
    STALE = 4010
    SLOW_CONSUMER = 4011
    PRESENCE_LOST = 4012
    MALFORMED = 4502
    AUTH = 4504
    OTHER_USER = 4505
    REPLACED = 4509
    USER_FORBIDDEN = 4513
    DISCONNECTED = 4515


class ClosePolicy(NamedTuple):
    """What a close code tells the client."""

    reason: str
    reconnect: bool


CLOSE_POLICIES: Final[dict[int, ClosePolicy]] = {
    Code.NORMAL: ClosePolicy("bye", False),
    Code.GOING_AWAY: ClosePolicy("gateway gone", True),
    Code.PROTOCOL_ERROR: ClosePolicy("protocol error", False),
    Code.UNSUPPORTED: ClosePolicy("only text frames are understood", False),
    Code.NOT_UTF8: ClosePolicy("text is not UTF-8", False),
    Code.TOO_BIG: ClosePolicy("frame too big", False),
    Code.INTERNAL: ClosePolicy("internal error", True),
    Code.RESTART: ClosePolicy("service restart", True),
    Code.TRY_LATER: ClosePolicy("try again later", True),
    Code.REGISTER_DEADLINE: ClosePolicy("no register in time", True),
    Code.RATE_LIMIT: ClosePolicy("rate limit", True),
    Code.HEARTBEAT_TIMEOUT: ClosePolicy("heartbeat timeout", True),
    Code.STALE: ClosePolicy("a newer attempt of this client exists", True),
    Code.SLOW_CONSUMER: ClosePolicy("slow consumer", True),
    Code.PRESENCE_LOST: ClosePolicy("presence could not be refreshed", True),
    Code.MALFORMED: ClosePolicy("too many malformed messages", False),
    Code.AUTH: ClosePolicy("authentication failed", False),
    Code.OTHER_USER: ClosePolicy("already registered as another user", False),
    Code.REPLACED: ClosePolicy("replaced by a newer session", False),
    Code.USER_FORBIDDEN: ClosePolicy("this user id is not allowed", False),
    Code.DISCONNECTED: ClosePolicy("disconnected by the operator", False),
}
"""The table of close codes. After a code that is not in it (such as 1006), a client reconnects."""


def should_reconnect(code: int | None) -> bool:
    """Say whether a client that was closed with this code may come back by itself."""
    policy = CLOSE_POLICIES.get(code or 0)
    if policy is not None:
        return policy.reconnect
    return not 4500 <= (code or 0) <= 4999


def close_reason(code: Code, retry_after_ms: int | None = None) -> str:
    """Return the text for a close frame (at most 123 bytes), with the server's advice if any."""
    reason = CLOSE_POLICIES[code].reason
    return reason if retry_after_ms is None else f"{reason}; retryAfterMs={retry_after_ms}"


SAID_BEFORE: Final = frozenset({Code.RESTART, Code.TRY_LATER})
"""Codes that some client libraries cannot read (they report 1002, or none): a `bye` message is
sent before the close frame. All other codes of ours arrive everywhere."""


def bye_text(code: Code, retry_after_ms: int | None = None) -> bytes:
    """Return the message before a close frame, for clients that cannot read its code."""
    advice = b"" if retry_after_ms is None else b',"retryAfterMs":%d' % retry_after_ms
    return b'{"type":"bye","code":%d%b}' % (code, advice)


def retry_after_s(reason: str) -> float | None:
    """Read the server's advice from the reason of a close frame; None when there is none."""
    _, found, number = reason.rpartition("retryAfterMs=")
    if not found or not re.fullmatch(r"[0-9]{1,7}", number):
        return None
    return int(number) / 1000


class Say(StrEnum):
    """The error texts of the demo, and those of what it does not have."""

    INVALID = "Invalid message format"
    NO_USER_ID = "UserID is required for registration"
    NOT_REGISTERED = "Not registered"
    NO_RECIPIENT = "Recipient is required"
    USER_NOT_FOUND = "User not found"
    SEND_FAILED = "Failed to send message"
    UNKNOWN_TYPE = "Unknown message type"
    TOO_LARGE = "Message too large"
    REGISTER_FAILED = "Registration failed"
    RATE_LIMITED = "Rate limited"
    NOT_DURABLE = "This gateway stores no messages"
    ID_REQUIRED = "A durable message needs an id"
    FORBIDDEN = "Not allowed"
    TOO_MANY_WATCHED = "Too many watched users"


class Status(StrEnum):
    """The outcome of a message, as far as its gateway knows."""

    ROUTED = "routed"
    """Handed to its recipient's gateway (or, on the same gateway, to its outbox)."""
    OFFLINE = "offline"
    UNREACHABLE = "unreachable"
    """There is an entry for the user, but its gateway does not listen. A retry makes sense."""
    BUSY = "busy"
    """Refused before anything was done. A retry makes sense."""
    REFUSED = "refused"
    """Refused, because the message breaks a rule. Clients report an error frame like this."""
    UNKNOWN = "unknown"
    """Redis did not answer in time: it may or may not have been delivered."""
    STORED = "stored"
    """A durable message is in the inbox of its recipient."""
    DUPLICATE = "duplicate"
    """A durable message with this id was stored before; it is not stored again."""


class ProtocolError(Exception):
    """A message that gets an error frame; the connection stays."""

    def __init__(self, say: Say, msg_id: str | None = None) -> None:
        super().__init__(say.value)
        self.say = say
        self.msg_id = msg_id


class NotText(Exception):
    """Bytes that are not UTF-8: the connection is closed with 1007."""


# --- from a client --------------------------------------------------------------------------


class RegisterRequest(msgspec.Struct, tag="register", tag_field="type", frozen=True, gc=False):
    """A client says who it is. `inst` and `att` number its attempts to connect."""

    userId: str = ""
    token: str = ""
    inst: str = ""
    att: int = 0
    resume: Any = None
    device: Any = None
    """These two are for optional features, which check them: here they are as they were sent."""


class Ping(msgspec.Struct, tag="ping", tag_field="type", frozen=True, gc=False):
    """A client is alive."""


class MessageRequest(msgspec.Struct, tag="message", tag_field="type", frozen=True, gc=False):
    """A client wants `content`, a raw JSON string, delivered to user `to`."""

    to: str = ""
    content: msgspec.Raw = msgspec.Raw()
    """Empty, which is no JSON, when the client left it out: then the strict path decides."""
    id: str | None = None
    durable: bool = False
    """It is to be stored in the inbox of its recipient before it is delivered."""
    echo: bool = False
    """The other devices of its sender are to have it as well."""


class FeatureRequest(NamedTuple):
    """A message of a type that the demo does not have: an optional feature may understand it."""

    kind: str
    document: dict[str, Any]
    """Valid JSON without duplicate keys, which UTF-8 can carry; nothing else is sure."""

    @property
    def msg_id(self) -> str | None:
        """Its id, when it has a valid one."""
        msg_id = self.document.get("id")
        return msg_id if isinstance(msg_id, str) and _valid_msg_id(msg_id) else None


ClientMessage = RegisterRequest | Ping | MessageRequest | FeatureRequest

PING: Final = Ping()
_EMPTY_CONTENT: Final = msgspec.Raw(b'""')
_client_decoder: Final = msgspec.json.Decoder(RegisterRequest | Ping | MessageRequest)
_string_decoder: Final = msgspec.json.Decoder(str)
_encode: Final = msgspec.json.encode
_usual_user_id: Final = user_ids().possible
NOT_PLAIN: Final = 1 << 30
"""More colons than any message has: the strict path decides."""


class _ContentOnly(msgspec.Struct):
    content: msgspec.Raw = _EMPTY_CONTENT


_content_decoder: Final = msgspec.json.Decoder(_ContentOnly)


def decode(
    data: bytes,
    max_content_bytes: int = 16 * 1024,
    is_user_id: Callable[[str], object] = _usual_user_id,
) -> ClientMessage:
    """Decode a message of a client.

    Args:
        is_user_id: says whether there may be such a user (`UserIds.possible`).

    Raises:
        ProtocolError: it is not a message of the protocol; `say` is the text for the error frame.
        NotText: it is not even UTF-8.
    """
    try:
        message: RegisterRequest | Ping | MessageRequest = _client_decoder.decode(data)
        if type(message) is MessageRequest:
            # That it decodes means: it is a string, in UTF-8, without lone surrogates.
            text = _string_decoder.decode(message.content)
            to, msg_id = message.to, message.id
            if b"\\" in data or len(data) > max_content_bytes:
                colons = _colons_of_content(message, data, max_content_bytes)
            else:
                colons = text.count(":")
            if msg_id is not None:
                colons += 1 if 0 < len(msg_id) <= MAX_ID_CHARS and ":" not in msg_id else NOT_PLAIN
            others = data.count(b":") - 3 - colons - to.count(":")
            if (not others or others == message.durable + message.echo) and is_user_id(to):
                return message
        elif type(message) is RegisterRequest:
            if _is_plain_register(message, data, is_user_id):
                return message
        elif data.count(b":") == 1:
            return PING
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass  # The strict path says what is wrong with it.
    return decode_strict(data, max_content_bytes, is_user_id)


# A typed decoder does not see duplicate or unknown keys. Each key of an object has a colon outside
# of any string, so when a document has as many colons as fields were found (those within the
# content aside; the other strings must have none), then it had no other key, and the typed result
# may be trusted without the strict path. A recipient may have colons (`user:42`) when nothing
# outside of the content is escaped: then they are colons of the document as well.


def _is_plain_register(
    message: RegisterRequest, data: bytes, is_user_id: Callable[[str], object]
) -> bool:
    strings = (message.userId, message.token, message.inst)
    if not is_user_id(message.userId) or any(":" in text for text in strings):
        return False
    if len(message.inst) > MAX_ID_CHARS or not 0 <= message.att < 2**53:
        return False
    return data.count(b":") == 2 + bool(message.token) + bool(message.inst) + bool(message.att)


def _colons_of_content(message: MessageRequest, data: bytes, max_content_bytes: int) -> int:
    """Count them in its JSON, where something is escaped or the message is long."""
    content = bytes(message.content)
    if len(content) > max_content_bytes:
        return NOT_PLAIN
    if ":" in message.to and data.count(b"\\") != content.count(b"\\"):
        return NOT_PLAIN
    return content.count(b":")


def decode_strict(
    data: bytes,
    max_content_bytes: int = 16 * 1024,
    is_user_id: Callable[[str], object] = _usual_user_id,
) -> ClientMessage:
    """Decode as `decode` does, by the general path alone; the reference for the other one."""
    document = load_object(data)
    kind = document.get("type")
    msg_id = document.get("id")
    if not isinstance(kind, str) or not kind:
        raise ProtocolError(Say.INVALID)
    match kind:
        case "ping":
            return PING
        case "register":
            return _register(document)
        case "message":
            if msg_id is not None and not _valid_msg_id(msg_id):
                raise ProtocolError(Say.INVALID)
            return _message(document, msg_id, data, max_content_bytes, is_user_id)
        case _:
            return FeatureRequest(kind, document)


def _valid_msg_id(msg_id: object) -> bool:
    return isinstance(msg_id, str) and 0 < len(msg_id) <= MAX_ID_CHARS


def _register(document: dict[str, Any]) -> RegisterRequest:
    user = document.get("userId", "")
    token = document.get("token", "")
    inst = document.get("inst", "")
    att = document.get("att", 0)
    if not isinstance(user, str) or not isinstance(token, str) or not isinstance(inst, str):
        raise ProtocolError(Say.INVALID)
    if type(att) is not int or not 0 <= att < 2**53 or len(inst) > MAX_ID_CHARS:
        raise ProtocolError(Say.INVALID)
    if not user.strip():
        raise ProtocolError(Say.NO_USER_ID)
    return RegisterRequest(user, token, inst, att, document.get("resume"), document.get("device"))


def _message(
    document: dict[str, Any],
    msg_id: str | None,
    data: bytes,
    max_content_bytes: int,
    is_user_id: Callable[[str], object],
) -> MessageRequest:
    to, content = document.get("to", ""), document.get("content", "")
    durable, echo = document.get("durable", False), document.get("echo", False)
    if not isinstance(content, str) or type(durable) is not bool or type(echo) is not bool:
        raise ProtocolError(Say.INVALID, msg_id)
    if to is None or to == "":
        raise ProtocolError(Say.NO_RECIPIENT, msg_id)
    if len(content.encode()) > max_content_bytes:
        raise ProtocolError(Say.TOO_LARGE, msg_id)
    if not isinstance(to, str) or not is_user_id(to):
        # An impossible name gets the same answer as an absent user.
        raise ProtocolError(Say.USER_NOT_FOUND, msg_id)
    raw = msgspec.Raw(bytes(_content_decoder.decode(data).content))
    return MessageRequest(to, raw, msg_id, durable, echo)


def load_object(data: bytes) -> dict[str, Any]:
    """Decode a JSON object strictly: no key twice, no number that JSON does not have, no text that
    UTF-8 cannot carry.

    Raises:
        ProtocolError: it is none.
        NotText: it is not even UTF-8.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise NotText from None
    try:
        document = json.loads(
            text,
            object_pairs_hook=_unique_keys,
            parse_constant=_refuse,
            parse_float=_finite,
        )
        if "\\u" in text:
            # A lone surrogate can be escaped in JSON but not be written as UTF-8: it would break
            # the connection of its recipient.
            json.dumps(document, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise ProtocolError(Say.INVALID) from None
    if not isinstance(document, dict):
        raise ProtocolError(Say.INVALID)
    return document


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) != len(pairs) or len(keys) > MAX_KEYS:
        raise ValueError("duplicate keys, or too many")
    return keys


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError("a number that is too large")
    return value


# --- what a gateway answers ------------------------------------------------------------------

PONG_TEXT: Final = b'{"type":"pong"}'


def registered_text(
    gateway_id: str, conn_id: str, heartbeat_ms: int, more: Mapping[str, Any] | None = None
) -> bytes:
    """Return the answer to a register; `more` is what optional features have to say."""
    return _encode(
        {
            "type": "registered",
            "content": "Successfully registered",
            "gatewayId": gateway_id,
            "connId": conn_id,
            "heartbeatMs": heartbeat_ms,
            **(more or {}),
        }
    )


def error_text(
    say: Say, code: str | None = None, msg_id: str | None = None, retry_after_ms: int | None = None
) -> bytes:
    document: dict[str, Any] = {"type": "error", "error": say.value}
    if code is not None:
        document["code"] = code
    if msg_id is not None:
        document["id"] = msg_id
    if retry_after_ms is not None:
        document["retryAfterMs"] = retry_after_ms
    return _encode(document)


def ack_text(msg_id: str, status: Status) -> bytes:
    return b'{"type":"ack","id":%b,"status":"%b"}' % (_encode(msg_id), status.encode())


def echo_text(sender: str, to: str, content: bytes, msg_id: str | None) -> bytes:
    """Return a message as the other devices of its sender read it; `content` as in
    `message_text`.
    """
    text = message_text(sender, content, msg_id)
    return b'%b,"to":%b}' % (text[:-1], _encode(to))


def message_text(sender: str, content: bytes, msg_id: str | None) -> bytes:
    """Return the message as its recipient reads it; `content` is a raw JSON string."""
    if msg_id is None:
        return b'{"type":"message","from":%b,"content":%b}' % (_encode(sender), content)
    return b'{"type":"message","from":%b,"content":%b,"id":%b}' % (
        _encode(sender),
        content,
        _encode(msg_id),
    )


def resumed_text(
    recovered: bool, epoch: str, offset: str, last: str, missed: int | None = None
) -> bytes:
    """Return what a client is told that reads its inbox: where it goes on, and whether all that
    came since its position follows.

    Args:
        offset: the next message is the one after it.
        last: the newest message.
        missed: how many messages are lost; None when that is not known.
    """
    document: dict[str, Any] = {
        "type": "resumed",
        "recovered": recovered,
        "epoch": epoch,
        "offset": offset,
        "last": last,
    }
    if missed is not None:
        document["missed"] = missed
    return _encode(document)


# --- between gateways ------------------------------------------------------------------------


class Direct(msgspec.Struct, tag="direct", tag_field="type", rename={"sender": "from"}, gc=False):
    """A message for one user. Everything after `to` is ours; the demo's gateways omit it.

    `toConn` and `epoch` (the token) name the session that the route script found: the receiving
    gateway delivers to that session or to nobody.
    """

    sender: str
    content: msgspec.Raw
    to: str
    id: str | None = None
    fromGw: str = ""
    fromConn: str = ""
    toConn: str = ""
    epoch: int = 0


class Copy(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The session of one device that a message is for."""

    connId: str
    token: int
    device: str


class Copies(msgspec.Struct, tag="copies", tag_field="type", rename={"sender": "from"}):
    """A message for a user who may have several devices: for those whose sessions are at the
    gateway that gets it.

    `of` is the number of all sessions of the user. `echoTo` is not '' when the message is an echo:
    the user is its sender, and has sent it to `echoTo` from another device.
    """

    sender: str
    content: msgspec.Raw
    to: str
    toConns: tuple[Copy, ...]
    of: int
    id: str | None = None
    fromGw: str = ""
    fromConn: str = ""
    echoTo: str = ""


class Broadcast(msgspec.Struct, tag="broadcast", tag_field="type", rename={"sender": "from"}):
    """A message for every user of every gateway."""

    content: msgspec.Raw
    sender: str = ""


class Kick(msgspec.Struct, tag="kick", tag_field="type", omit_defaults=True):
    """The session `connId` of `user` lost its place to one with a higher `token`; or, with a code,
    the operator ends it.
    """

    user: str
    connId: str
    token: int
    code: int = 0
    reason: str = ""
    """What the close frame says; the usual text of the code when it is empty."""


class Bounce(msgspec.Struct, tag="bounce", tag_field="type"):
    """The message that session `fromConn` sent to `to` found no session where it was sent."""

    fromConn: str
    to: str
    id: str | None = None


class Probe(msgspec.Struct, tag="probe", tag_field="type"):
    """A message of a gateway to itself: does its subscription work?"""

    boot: str
    n: int


class Takeover(msgspec.Struct, tag="takeover", tag_field="type"):
    """Another process with this gateway's id starts: the process `boot` has been replaced."""

    boot: str


KICK_CODES: Final = frozenset({Code.DISCONNECTED, Code.RESTART})
"""With these an operator may end a session: the client stays away, or reconnects elsewhere."""
KICK_REASON: Final = re.compile(r"[ -~]{0,100}")
"""What an operator may say in a close frame, which has room for 123 bytes."""


class StoredHint(msgspec.Struct, tag="stored", tag_field="type"):
    """A message was stored for the user of session `toConn`. It may be lost: the inbox is read."""

    toConn: str
    epoch: str
    offset: str


Envelope = Direct | Copies | Broadcast | Kick | Bounce | Probe | Takeover | StoredHint
_envelope_decoder: Final = msgspec.json.Decoder(Envelope)


MAX_ENVELOPE_BYTES = 160 * 1024
"""Content of 16 KiB may become six times as long when it is escaped; the rest is names."""


class BadEnvelope(Exception):
    """A message on a Redis channel that no gateway of ours can have sent."""


def decode_envelope(data: bytes) -> Envelope:
    """Decode what arrived on a Redis channel. Unknown fields are ignored, as the demo does.

    Raises:
        BadEnvelope: it is not one of ours, or its content would break its recipient's connection.
    """
    if len(data) > MAX_ENVELOPE_BYTES:
        raise BadEnvelope("the envelope is too large")
    try:
        envelope: Envelope = _envelope_decoder.decode(data)
        if type(envelope) is Direct or type(envelope) is Broadcast or type(envelope) is Copies:
            # It must be a JSON string that UTF-8 can carry. Our own gateways have made sure of it.
            _string_decoder.decode(envelope.content)
        return envelope
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as problem:
        raise BadEnvelope(str(problem)) from None


class DirectHeads:
    """The `Direct` envelopes of one session, each without its end: the route script adds `toConn`
    and `epoch`. Those for several devices (`Copies`) have no `kind`: their script adds it as well.

    What is the same in all of them is put together once. Names go in as they are: none has a
    character that JSON would escape (`NEVER_IN_USER_ID`).
    """

    __slots__ = ("_end", "_start")

    def __init__(self, sender: str, gateway_id: str, conn_id: str, kind: str = "direct") -> None:
        typed = f',"type":"{kind}"' if kind else ""
        self._start = f'{{"from":"{sender}","to":"'.encode()
        self._end = f'{typed},"fromGw":"{gateway_id}","fromConn":"{conn_id}"'.encode()

    def head(self, to: bytes, content: bytes, msg_id: str | None) -> bytes:
        """Return the envelope of one message; `content` is a raw JSON string."""
        if msg_id is None:
            return b'%b%b","content":%b%b' % (self._start, to, content, self._end)
        return b'%b%b","content":%b,"id":%b%b' % (
            self._start,
            to,
            content,
            _encode(msg_id),
            self._end,
        )


def encode_envelope(envelope: Kick | Bounce | Probe | Takeover) -> bytes:
    return _encode(envelope)

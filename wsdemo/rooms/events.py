"""Room events: what is published on the channel of a room?

A message and a member's coming or going are published as the members read them, so a gateway hands
the very bytes on. A mark says where in the order of all these a list was read.
"""

from __future__ import annotations

from typing import Final

import msgspec

from wsdemo.protocol import MAX_ENVELOPE_BYTES

_encode: Final = msgspec.json.encode


class RoomMessage(
    msgspec.Struct, tag="message", tag_field="type", rename={"sender": "from"}, gc=False
):
    """A message for all members."""

    room: str
    sender: str
    content: msgspec.Raw
    id: str | None = None
    offset: str = ""
    """Its place in the history of the room; '' where there is none."""


class MemberEvent(msgspec.Struct, tag="member", tag_field="type", gc=False):
    """A member has come or gone; `state` is `join` or `leave`."""

    room: str
    user: str
    state: str


class RoomMark(msgspec.Struct, tag="mark", tag_field="type", gc=False):
    """The gateway process `boot` has read its list number `n` here."""

    boot: str
    n: int


RoomEvent = RoomMessage | MemberEvent | RoomMark
_event_decoder: Final = msgspec.json.Decoder(RoomEvent)
_string_decoder: Final = msgspec.json.Decoder(str)


class BadRoomEvent(Exception):
    """What no gateway of ours can have published for a room."""


def decode_room_event(data: bytes) -> RoomEvent:
    """Decode what arrived on the channel of a room.

    Raises:
        BadRoomEvent: it is not one of ours, or would break the connection of whoever reads it.
    """
    if len(data) > MAX_ENVELOPE_BYTES:
        raise BadRoomEvent("the event is too large")
    try:
        event: RoomEvent = _event_decoder.decode(data)
        data.decode()  # The decoder leaves out what it does not know.
        if type(event) is RoomMessage:
            _string_decoder.decode(event.content)
        return event
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as problem:
        raise BadRoomEvent(str(problem)) from None


def room_message_text(room: str, sender: str, content: str, msg_id: str | None) -> bytes:
    """Return a message as the members of a room read it."""
    document = {"type": "message", "room": room, "from": sender, "content": content}
    if msg_id is not None:
        document["id"] = msg_id
    return _encode(document)


def mark_text(boot: str, n: int) -> bytes:
    return _encode(RoomMark(boot, n))

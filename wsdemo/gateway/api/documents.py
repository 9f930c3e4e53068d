"""JSON documents of the server API: what may stand in a request, and what in an answer?

Each is a `msgspec.Struct`. It checks what arrives, it writes what leaves, and its JSON Schema is
part of the published description: there is no second text that could say something else.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from wsdemo.protocol import KICK_REASON, MAX_ID_CHARS, Code
from wsdemo.user_ids import MAX_USER_ID_CHARS

Name = Annotated[str, Meta(min_length=1, max_length=MAX_USER_ID_CHARS)]
"""Of a user or a room. One that nobody can have is answered as one that nobody has."""
MessageId = Annotated[str, Meta(min_length=1, max_length=MAX_ID_CHARS)]
DeviceName = Annotated[str, Meta(max_length=16)]
"""Empty for a device that gave no name."""
APP: Final = "@app"
"""Who a message of a backend comes from, unless it says something else."""
SENDER: Final = re.compile(r"@[A-Za-z0-9._-]{1,63}")
CURSOR: Final = re.compile(r"[0-9]{1,19}")
"""Redis' cursors are whole numbers of 64 bits."""
MAX_PAGE: Final = 1_000
Sender = Annotated[str, Meta(pattern=f"^{SENDER.pattern}$")]
Reason = Annotated[str, Meta(pattern=f"^{KICK_REASON.pattern}$")]


# --- requests --------------------------------------------------------------------------------


class _RequestBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What all requests have in common: a field that is not known is a mistake."""


class PublishToUser(_RequestBody, rename={"sender": "from"}):
    """A message for one user."""

    to: Name
    content: str
    id: MessageId | None = None
    """Made by the gateway when there is none. A repeated durable message needs the same one."""
    sender: Sender = APP
    durable: bool = False

    def __post_init__(self) -> None:
        _require(SENDER, self.sender, "from")


class PublishToRoom(_RequestBody, rename={"sender": "from"}):
    """A message for all members of a room."""

    room: Name
    content: str
    id: MessageId | None = None
    sender: Sender = APP

    def __post_init__(self) -> None:
        _require(SENDER, self.sender, "from")


class Disconnect(_RequestBody):
    """The end of a user's session, as the operator wants it."""

    user: Name
    device: DeviceName | None = None
    """Only the session of this device; when it is left out, all sessions of the user."""
    code: Literal[4515, 1012] = 4515
    """4515: the client stays away. 1012: it comes back, to another gateway if it knows one."""
    reason: Reason = ""

    def __post_init__(self) -> None:
        _require(KICK_REASON, self.reason, "reason")


class Page(_RequestBody):
    """Which part of a list is asked for."""

    cursor: Annotated[str, Meta(pattern=f"^{CURSOR.pattern}$")] = "0"
    """0 begins; then that of the answer before."""
    count: Annotated[int, Meta(ge=1, le=MAX_PAGE)] = 100
    """How many keys Redis looks at: the answer may have more users, fewer, or none."""

    def __post_init__(self) -> None:
        _require(CURSOR, self.cursor, "cursor")


def _require(pattern: re.Pattern[str], text: str, name: str) -> None:
    """Match in full: in a search, `$` also matches in front of a last line feed."""
    if not pattern.fullmatch(text):
        raise ValueError(f"`{name}` has to match {pattern.pattern}")


# --- answers ---------------------------------------------------------------------------------


class _AnswerBody(msgspec.Struct, kw_only=True):
    """What all answers have in common."""


class ErrorAnswer(_AnswerBody):
    """Why there is no other answer."""

    error: str
    code: str


class PublishAnswer(_AnswerBody):
    """What became of a message, as far as its gateway knows; the words are those of an ack."""

    status: Literal["routed", "offline", "unreachable", "unknown", "stored", "duplicate"]
    id: str


class RoomAnswer(_AnswerBody):
    """What became of a message for a room."""

    status: Literal["routed", "unreachable", "unknown"]
    """`unreachable`: no gateway has members of this room."""
    id: str


class SessionAnswer(_AnswerBody, omit_defaults=True):
    """One session of a user, as Redis knows it."""

    gatewayId: str
    connId: str
    leaseMs: int
    """How long its lease still runs, in milliseconds."""
    device: str = ""
    """Which device it is, where a user may have several."""


class DisconnectAnswer(_AnswerBody):
    """Whether sessions were found, and their gateways told."""

    status: Literal["kicked", "offline", "unreachable"]
    """`kicked`: the gateways of all of them were told. `unreachable`: one of them or more was not,
    because nobody listens under the name of its gateway."""
    sessions: list[SessionAnswer]
    """Those whose gateway was told."""


class PresenceAnswer(_AnswerBody):
    """Where a user is, as Redis says."""

    user: str
    online: bool
    sessions: list[SessionAnswer]


class UsersAnswer(_AnswerBody):
    """Some of the users who are online. One who comes or goes meanwhile may be missing, and one
    may come twice."""

    users: list[str]
    cursor: str
    """For the next page; "0" when there is none."""


class MembersAnswer(_AnswerBody):
    """Who is in a room."""

    room: str
    members: list[str]
    count: int


class InboxAnswer(_AnswerBody):
    """How much is in the inbox of a user, and nothing of what is in it."""

    user: str
    count: int
    bytes: int
    last: str
    """The offset of the newest message; empty when there was none."""
    acked: str
    """The offset up to which the user's client has acknowledged; empty when it has not."""


JSON: Final = "application/json"
assert {int(Code.DISCONNECTED), int(Code.RESTART)} == {4515, 1012}


def schemas(types: list[type[Any]]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return a reference to each type, and the JSON Schemas that they refer to."""
    references, components = msgspec.json.schema_components(
        types, ref_template="#/components/schemas/{name}"
    )
    return list(references), dict(components)

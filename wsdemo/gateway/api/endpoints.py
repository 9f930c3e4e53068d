"""Endpoints: which requests does the server API answer?

One table. It routes requests, it says how their parts are checked, and the published description
(`openapi`) is made from it. Pure: what is asked for is done by `actions`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl, unquote_to_bytes

import msgspec

from wsdemo.gateway.api.actions import Actions
from wsdemo.gateway.api.documents import (
    JSON,
    Disconnect,
    DisconnectAnswer,
    InboxAnswer,
    MembersAnswer,
    Name,
    Page,
    PresenceAnswer,
    PublishAnswer,
    PublishToRoom,
    PublishToUser,
    RoomAnswer,
    UsersAnswer,
)
from wsdemo.gateway.api.refusal import Refusal
from wsdemo.protocol import NotText, ProtocolError, load_object

MAX_QUERY_FIELDS: Final = 8


@dataclass(frozen=True, slots=True)
class ApiEndpoint:
    """One thing that can be asked for.

    `act` gets the actions and then the name in the path, the body or the query: the one that the
    endpoint has.
    """

    method: str
    path: str
    summary: str
    act: Callable[[Actions, Any], Awaitable[msgspec.Struct]]
    answers: tuple[type[msgspec.Struct], ...]
    bodies: tuple[type[msgspec.Struct], ...] = ()
    """What its body may be: the first whose required field is there."""
    query: type[msgspec.Struct] | None = None
    refusals: Mapping[int, str] = field(default_factory=dict)
    """Beside those that every endpoint has."""

    @property
    def name(self) -> str:
        """Return what the path has a place for; '' when it has none."""
        return self.path[self.path.index("{") + 1 : -1] if "{" in self.path else ""

    def argument(self, name: str, query: str, content_type: str, body: bytes) -> Any:
        """Return what `act` gets, checked.

        Raises:
            Refusal: a part of the request is not what it has to be.
        """
        if self.query is not None:
            return _checked(_query(query), self.query, strict=False)
        if query:
            raise Refusal(400, "invalid", "This path takes no query")
        if self.bodies:
            return self._body(content_type, body)
        if body:
            raise Refusal(400, "invalid", "This path takes no body")
        return _checked(name, Name)

    def _body(self, content_type: str, body: bytes) -> Any:
        if content_type.partition(";")[0].strip().lower() != JSON:
            raise Refusal(415, "media_type", f"The body has to be {JSON}")
        try:
            document = load_object(body)
        except (ProtocolError, NotText):
            raise Refusal(400, "bad_json", "The body is no JSON object") from None
        for kind in self.bodies[1:]:
            if kind.__struct_encode_fields__[0] in document:
                return _checked(document, kind)
        return _checked(document, self.bodies[0])


def _checked(value: Any, kind: Any, *, strict: bool = True) -> Any:
    try:
        return msgspec.convert(value, kind, strict=strict)
    except msgspec.ValidationError as problem:
        raise Refusal(400, "invalid", str(problem)) from None


ENDPOINTS: Final = (
    ApiEndpoint(
        "POST",
        "/api/publish",
        "Send a message to a user or to a room",
        Actions.publish,
        (PublishAnswer, RoomAnswer),
        bodies=(PublishToUser, PublishToRoom),
        refusals={404: "no_rooms, not_durable", 413: "too_large", 415: "media_type"},
    ),
    ApiEndpoint(
        "POST",
        "/api/disconnect",
        "End the session of a user",
        Actions.disconnect,
        (DisconnectAnswer,),
        bodies=(Disconnect,),
        refusals={413: "too_large", 415: "media_type"},
    ),
    ApiEndpoint(
        "GET",
        "/api/presence",
        "List users who are online, page by page",
        Actions.users,
        (UsersAnswer,),
        query=Page,
    ),
    ApiEndpoint(
        "GET",
        "/api/presence/{user}",
        "Say where a user is",
        Actions.presence,
        (PresenceAnswer,),
    ),
    ApiEndpoint(
        "GET",
        "/api/rooms/{name}",
        "List the members of a room",
        Actions.members,
        (MembersAnswer,),
        refusals={404: "no_rooms"},
    ),
    ApiEndpoint(
        "GET",
        "/api/inbox/{user}",
        "Say how much is in the inbox of a user",
        Actions.inbox,
        (InboxAnswer,),
        refusals={404: "not_durable"},
    ),
)


@dataclass(frozen=True, slots=True)
class Match:
    """An endpoint that was asked for, and the name in its path."""

    endpoint: ApiEndpoint
    name: str


def find(method: str, path: str, table: tuple[ApiEndpoint, ...] = ENDPOINTS) -> Match:
    """Return who answers.

    Raises:
        Refusal: nobody does, or not to this method.
    """
    names = {
        endpoint.method: Match(endpoint, name)
        for endpoint in table
        if (name := _name_in(path, endpoint.path)) is not None
    }
    if not names:
        raise Refusal(404, "not_found", "There is no such path")
    allowed = sorted({*names, *(["HEAD"] if "GET" in names else [])})
    if method not in allowed:
        raise not_allowed(allowed)
    return names["GET" if method == "HEAD" else method]


def not_allowed(methods: list[str]) -> Refusal:
    """Return the refusal of a method that a path does not have."""
    return Refusal(405, "method", "Not with this method", {"Allow": ", ".join(methods)})


def _name_in(path: str, template: str) -> str | None:
    """Return the name in a path; '' if the template has none, None if the path is another one."""
    if path == template:
        return ""
    start, brace, _ = template.partition("{")
    rest = path.removeprefix(start)
    if not brace or rest == path or not rest or "/" in rest:
        return None
    return _decoded(rest)


def _decoded(text: str) -> str:
    """Decode what is percent-encoded.

    Raises:
        Refusal: it is not UTF-8, or a percent sign stands alone.
    """
    broken = any(not _is_hex(part[:2]) for part in text.split("%")[1:])
    try:
        if not broken:
            return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        pass
    raise Refusal(400, "bad_target", "The path is not percent-encoded UTF-8")


def _is_hex(text: str) -> bool:
    return len(text) == 2 and all(char in "0123456789abcdefABCDEF" for char in text)


def _query(text: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(
            text,
            keep_blank_values=True,
            strict_parsing=bool(text),
            errors="strict",
            max_num_fields=MAX_QUERY_FIELDS,
        )
    except ValueError:  # A UnicodeDecodeError is one as well.
        raise Refusal(400, "bad_target", "The query is malformed") from None
    if len(dict(pairs)) != len(pairs):
        raise Refusal(400, "bad_target", "The query has a field twice")
    return dict(pairs)

"""HTTP/1.1: how do bytes become requests of a backend, and answers bytes?

h11 parses; here is what it leaves open: deadlines, sizes, the key, and one answer at a time. The
key is looked at as soon as the head of a request is complete, before its method, its path or its
body. Without the key every request, also one that cannot be parsed, gets the same bytes after the
same time, and its connection ends.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final, cast

import h11
import msgspec

from wsdemo.gateway.api.documents import JSON, ErrorAnswer
from wsdemo.gateway.api.refusal import Refusal

MAX_HEAD_BYTES: Final = 16 * 1024
PIECE_BYTES: Final = 4 * 1024
MAX_BODY_BYTES: Final = 64 * 1024
HEAD_S: Final = 5.0
"""From the first byte of a request to the end of its head; for the first one, from the connect."""
BODY_S: Final = 5.0
IDLE_S: Final = 60.0
"""How long a connection may stay open between two requests."""
LINGER_S: Final = 1.0
"""How long we read on after our last byte: hanging up on bytes that are not read yet would let the
kernel throw our answer away."""
MAX_CONNECTIONS: Final = 64
BEARER: Final = b"Bearer "
_END: Final = b'{"error":"Unauthorized","code":"unauthorized"}'
UNAUTHORIZED: Final = (
    b"HTTP/1.1 401 Unauthorized\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
    b"WWW-Authenticate: Bearer\r\nConnection: close\r\n\r\n%b" % (len(_END), _END)
)
"""The one answer to everybody who does not show the key."""


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """A request with the key."""

    method: str
    target: str
    content_type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class ApiReply:
    """What it gets."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


def refused(refusal: Refusal) -> ApiReply:
    """Return the answer that says why."""
    body = msgspec.json.encode(ErrorAnswer(error=refusal.text, code=refusal.code))
    return ApiReply(refusal.status, body, refusal.headers)


@dataclass(slots=True, eq=False)
class ApiServices:
    """What all connections of one listener share.

    `answer` never raises; `count` is called with the status of each answer that it did not give.
    """

    key: bytes
    delay_s: float
    """Of the answer to a stranger."""
    answer: Callable[[ApiRequest], Awaitable[ApiReply]]
    count: Callable[[int], None]
    spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
    connections: set[ApiConnection] = field(default_factory=set)
    all_gone: asyncio.Event = field(default_factory=asyncio.Event)
    closing: bool = False

    def knows(self, headers: Any) -> bool:
        """Say whether the headers show the key, once."""
        shown = [value for name, value in headers if name == b"authorization"]
        offered = shown[0] if len(shown) == 1 and shown[0].startswith(BEARER) else BEARER
        return hmac.compare_digest(offered[len(BEARER) :], self.key)


class ApiConnection(asyncio.Protocol):
    """One connection of a backend, or of a stranger."""

    _transport: asyncio.Transport

    def __init__(self, services: ApiServices) -> None:
        self._services = services
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._request: h11.Request | None = None
        self._body = bytearray()
        self._is_busy = False
        self._is_over = False
        """Nothing is read any more."""
        self._has_heard_all = False
        self._has_said_all = False
        self._may_write = True
        self._timer: asyncio.TimerHandle | None = None
        self._is_idle = False

    # --- asyncio.Protocol --------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        services = self._services
        if len(services.connections) >= MAX_CONNECTIONS or services.closing:
            self._is_over = True
            self._transport.abort()
            return
        services.connections.add(self)
        services.all_gone.clear()
        self._arm(HEAD_S, self.abort)

    def data_received(self, data: bytes) -> None:
        # In pieces: h11 measures a head that is not complete, and no other.
        for start in range(0, len(data), PIECE_BYTES):
            if not self._is_over:
                self._feed(data[start : start + PIECE_BYTES])

    def eof_received(self) -> bool:
        self._has_heard_all = True
        if not self._is_over:
            self._feed(b"")
        elif self._has_said_all:
            self._transport.close()
        return True  # What is under way is answered first.

    def pause_writing(self) -> None:
        self._may_write = False

    def resume_writing(self) -> None:
        self._may_write = True
        if not self._is_over and not self._is_busy:
            self._read_on()

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_over = True
        self._disarm()
        connections = self._services.connections
        connections.discard(self)
        if not connections:
            self._services.all_gone.set()

    # --- reading -----------------------------------------------------------------------------

    def _feed(self, data: bytes) -> None:
        try:
            self._http.receive_data(data)
        except h11.RemoteProtocolError:  # After its end, nothing can come.
            self.abort()
            return
        if self._is_idle and data:
            self._is_idle = False
            self._arm(HEAD_S, self.abort)
        if not self._is_busy:
            self._read_events()

    def _read_events(self) -> None:
        """Handle what has arrived, up to the end of one request."""
        try:
            while not self._is_over and not self._is_busy and self._may_write:
                event = self._http.next_event()
                if event is h11.NEED_DATA or event is h11.PAUSED:
                    return
                self._handle(event)
        except h11.RemoteProtocolError:
            if self._request is None:
                self._turn_away()  # A head that cannot be read has shown no key.
            else:
                self._refuse(Refusal(400, "bad_body", "The body is not what its length says"))

    def _handle(self, event: Any) -> None:
        if isinstance(event, h11.Request):
            self._begin(event)
        elif isinstance(event, h11.Data):
            self._body += event.data
        elif isinstance(event, h11.EndOfMessage):
            self._disarm()
            self._is_busy = True
            self._transport.pause_reading()
            self._services.spawn(self._serve())
        else:  # The other end has said that it sends no more.
            self._finish()

    def _begin(self, request: h11.Request) -> None:
        if not self._services.knows(request.headers):
            self._turn_away()
            return
        self._request = request
        self._body.clear()
        refusal = _framing(request)
        if refusal is not None:
            self._refuse(refusal)
            return
        self._arm(BODY_S, self._too_slow)
        if self._http.they_are_waiting_for_100_continue:
            self._say(h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue"))

    def _too_slow(self) -> None:
        self._refuse(Refusal(408, "too_slow", "The body did not come in time"))

    # --- answering ---------------------------------------------------------------------------

    async def _serve(self) -> None:
        request = self._request
        assert request is not None
        told = ApiRequest(
            request.method.decode("ascii"),
            request.target.decode("ascii"),
            dict(request.headers).get(b"content-type", b"").decode("latin-1"),
            bytes(self._body),
        )
        reply = await self._services.answer(told)
        if not self._is_over:
            self._reply(reply, last=self._services.closing)
            self._is_busy = False
            self._next()

    def _next(self) -> None:
        """Go on with the next request, or end."""
        if self._http.our_state is h11.MUST_CLOSE or self._http.their_state is h11.MUST_CLOSE:
            self._finish()
            return
        self._http.start_next_cycle()
        self._request = None
        self._is_idle = not self._http.trailing_data[0]
        self._arm(IDLE_S if self._is_idle else HEAD_S, self.abort)
        if self._may_write:
            self._read_on()

    def _read_on(self) -> None:
        self._transport.resume_reading()
        self._read_events()

    def _reply(self, reply: ApiReply, *, last: bool) -> None:
        """Write an answer, without its body to a HEAD."""
        headers = {
            "Content-Type": JSON,
            "Content-Length": str(len(reply.body)),
            "Cache-Control": "no-store",
            **reply.headers,
            **({"Connection": "close"} if last else {}),
        }
        phrase = HTTPStatus(reply.status).phrase.encode()
        response = h11.Response(
            status_code=reply.status, headers=list(headers.items()), reason=phrase
        )
        is_head = self._request is not None and self._request.method == b"HEAD"
        body = b"" if is_head else reply.body
        self._say(response, *([h11.Data(data=body)] if body else []), h11.EndOfMessage())

    def _say(self, *events: Any) -> None:
        self._transport.write(b"".join(self._http.send(event) or b"" for event in events))

    def _refuse(self, refusal: Refusal) -> None:
        """Answer a request that is not read to its end; where the next one begins is not known."""
        self._services.count(refusal.status)
        self._reply(refused(refusal), last=True)
        self._finish()

    # --- ending ------------------------------------------------------------------------------

    def _turn_away(self) -> None:
        """Answer a stranger, later: after the same time whatever was wrong."""
        self._is_over = True
        self._services.count(401)
        self._arm(self._services.delay_s, self._say_no)

    def _say_no(self) -> None:
        self._transport.write(UNAUTHORIZED)
        self._finish()

    def _finish(self) -> None:
        """End our direction after what was written; hang up when the other end does, or soon."""
        self._is_over = self._has_said_all = True
        if self._transport.is_closing():
            return
        self._arm(LINGER_S, self.abort)
        if self._has_heard_all:
            self._transport.close()
            return
        self._transport.resume_reading()
        try:
            self._transport.write_eof()
        except OSError:
            self._transport.abort()  # It was reset; the kernel knew before the loop.

    def close_soon(self) -> None:
        """End now if no request is under way, else after its answer."""
        if not self._is_busy and not self._is_over:
            self._finish()

    def abort(self) -> None:
        """Hang up at once. Idempotent."""
        self._is_over = True
        self._disarm()
        self._transport.abort()

    # --- one timer, for the next deadline ----------------------------------------------------

    def _arm(self, after_s: float, action: Callable[[], None]) -> None:
        self._disarm()
        self._timer = asyncio.get_running_loop().call_later(after_s, action)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _framing(request: h11.Request) -> Refusal | None:
    """Return why a body is not read: only a length says without doubt where it ends."""
    headers = dict(request.headers)
    if request.http_version != b"1.1":
        return Refusal(505, "http_version", "Only HTTP/1.1 is spoken here")
    if b"transfer-encoding" in headers:
        return Refusal(411, "length_required", "A body needs a Content-Length")
    if int(headers.get(b"content-length", b"0")) > MAX_BODY_BYTES:
        return Refusal(413, "too_large", f"The body has more than {MAX_BODY_BYTES} bytes")
    return None

"""WebSocket framing: how do bytes become messages, and messages bytes?

One object per TCP connection, between asyncio's transport and the sans-I/O protocol of
websockets, which does the handshake, the frames, the closing and the control frames. There is no
task and no queue per connection: what arrives is handled before the event loop's callback
returns.

Beside the general parser there are two fast paths, for nearly all traffic: the handshake that
most clients send, and a complete, unfragmented text frame of less than 64 KiB. The second is taken
only at a frame boundary, when the general parser holds no bytes. Tests give both ways the same
bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, cast

from websockets.exceptions import InvalidMessage
from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import CLOSED, CLOSING, CONNECTING, OPEN, SERVER
from websockets.protocol import Protocol as Conversation
from websockets.server import ServerProtocol

try:
    from websockets.speedups import apply_mask
except ImportError:  # pragma: no cover - a build of websockets without its C extension
    from websockets.utils import apply_mask

from wsdemo.gateway.access_control import AccessControl, AddressSlot, Answer
from wsdemo.gateway.counters import Counters
from wsdemo.gateway.handshake import (
    acceptance,
    choose_upgrade,
    chosen_of,
    is_own_page,
    offers_in,
    refusal,
    target_of,
    token_of,
    usual_request,
)
from wsdemo.gateway.outbox import Flusher, Outbox, Stuck
from wsdemo.gateway.proxy_header import looks_like_one
from wsdemo.gateway.rate import Rate
from wsdemo.protocol import SAID_BEFORE, Code, bye_text, close_reason
from wsdemo.settings import Limits

TEXT_FIN: Final = 0x81
MASKED: Final = 0x80
LONG: Final = 126
PING_FRAME: Final = b"\x89\x00"
MALFORMED_REQUEST: Final = "Malformed request.\n"
BAD_TARGET: Final = Answer(400, "A request needs one Host, and a target.\n", {})
BAD_OFFERS: Final = Answer(
    400, "Malformed Sec-WebSocket-Protocol.\n", {"Sec-WebSocket-Version": "13"}
)
TCP_USER_TIMEOUT: Final[int | None] = getattr(socket, "TCP_USER_TIMEOUT", None)

# The library logs each connection at INFO; operators want warnings only.
_library_log = logging.getLogger("wsdemo.websockets")
_library_log.setLevel(logging.WARNING)


_log = logging.getLogger("wsdemo.gateway")

NOTHING_YET: Final[Conversation] = ServerProtocol(logger=_library_log)
"""The state of every connection that has sent nothing yet: connecting. It is never fed."""
OVER: Final[Conversation] = Conversation(SERVER, state=CLOSED, logger=_library_log)
"""The state of every connection that is lost or aborted. It is never fed either."""


class _InOrder(Conversation):
    """The library's protocol, but each frame is handled before the next one is read.

    By itself the library reads all that has arrived. A broken frame would then end the connection
    before the valid frames in front of it were answered. (`recv_frame` is undocumented, which is
    why the minor version of websockets is pinned.)
    """

    take: Callable[[Frame], None]

    def recv_frame(self, frame: Frame) -> None:
        if frame.opcode is Opcode.CLOSE:
            # It may come between fragments (RFC 6455, section 5.4), and is a normal close then.
            # The library would call it an unfinished message.
            self.current_size = None
        super().recv_frame(frame)
        self.events.clear()
        self.take(frame)


class _InOrderFromRequest(_InOrder, ServerProtocol):
    """The same, beginning with a request that the library has to parse."""

    is_http = False
    """Whether a request line of HTTP has come: then a malformed header gets an answer. Before, the
    client would not understand one."""


def _nobody(frame: Frame) -> None:
    """Ignore the frames of a connection that is gone."""


def text_frame(payload: bytes) -> bytes:
    """Return a text frame as a server sends it: unmasked, not fragmented."""
    length = len(payload)
    if length < LONG:
        return b"%c%c%b" % (TEXT_FIN, length, payload)
    if length < 65536:
        return struct.pack("!BBH", TEXT_FIN, LONG, length) + payload
    return struct.pack("!BBQ", TEXT_FIN, LONG + 1, length) + payload


class MessageHandler(Protocol):
    """What a socket needs of its session."""

    def on_text(self, data: bytes) -> None:
        """Handle a complete text message."""

    def on_closing(self) -> None:
        """Take note that nothing reaches the client any more: a close frame was sent, or the
        connection is aborted. May be called again.
        """

    def on_closed(self) -> None:
        """Take note that the connection is gone. Called once."""


@dataclass(slots=True, eq=False)
class SocketServices:
    """The services that all sockets of a gateway share.

    `answer` returns the plain HTTP answer to a request for a path, or None when it may become a
    WebSocket; `welcome` makes the session of a socket whose handshake is done. `idle` is set when
    the last of the `sockets` has gone.
    """

    loop: asyncio.AbstractEventLoop
    clock: Callable[[], float]
    limits: Limits
    counters: Counters
    flusher: Flusher
    fast_frames: bool
    access: AccessControl
    control_rate: Rate
    answer: Callable[[Request, str, Socket], Answer | None]
    welcome: Callable[[Socket], MessageHandler]
    sockets: dict[Socket, None]
    """In the order in which they came, which is also the order in which a drain ends them."""
    idle: asyncio.Event
    subprotocols: Collection[str] = ()
    """Subprotocols that are known beside our own."""
    max_frame_bytes: int = field(init=False)
    """The longest frame that the common way takes; the general parser refuses a longer one."""

    def __post_init__(self) -> None:
        self.max_frame_bytes = min(self.limits.max_frame_bytes, self.limits.max_message_bytes)


class Socket(asyncio.Protocol):
    """One connection."""

    __slots__ = (
        "_at_boundary",
        "_closed_here",
        "_closed_with",
        "_control_paid_until",
        "_fragments",
        "_handler",
        "_peer",
        "_reading_paused",
        "_said_goodbye",
        "_services",
        "_timer",
        "_transport",
        "_ws",
        "last_read",
        "outbox",
        "pinged_at",
        "slot",
        "token",
    )

    outbox: Outbox
    _transport: asyncio.Transport

    def __init__(
        self, services: SocketServices, peer: str | None = None, slot: AddressSlot | None = None
    ) -> None:
        """`peer` is the client's address when a PROXY header has named it; `slot` is then the slot
        of that address.
        """
        self._services = services
        self._peer = peer
        self._ws = NOTHING_YET
        self._handler: MessageHandler | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._fragments: list[bytes] | None = None
        self._at_boundary = False
        self._closed_here = False
        self._closed_with: Code | None = None
        self._said_goodbye = False
        self._reading_paused = False
        self._control_paid_until = 0.0
        self.token = ""
        """The token that was sent with the handshake; '' when none was."""
        self.slot = slot
        """Its slot under the limits of its address; None when no limit holds."""
        self.last_read = services.clock()
        """When the last byte arrived (s, the gateway's clock)."""
        self.pinged_at = 0.0
        """When the last WebSocket ping was sent that is not answered yet; 0 when there is none."""

    # --- asyncio.Protocol --------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        services = self._services
        # uvloop's transports have all the methods, but not the base class.
        self._transport = transport = cast(asyncio.Transport, transport)
        transport.set_write_buffer_limits(high=services.limits.write_high_water_bytes)
        _set_user_timeout(transport, services.limits.tcp_user_timeout_s)
        self.outbox = Outbox(
            transport, services.flusher, services.limits, self._on_stuck, self.fail
        )
        services.sockets[self] = None
        services.idle.clear()
        if self._peer is None:
            self.slot = services.access.take_slot(self.address)
        if services.access.is_overrun(self.slot, len(services.sockets)):
            services.counters.connections_refused += 1
            self.abort()
            return
        self._arm(services.limits.handshake_timeout_s, self.abort)

    def data_received(self, data: bytes) -> None:
        self.last_read = self._services.clock()
        self.pinged_at = 0.0
        if not self._at_boundary:
            if self._ws is NOTHING_YET:
                if self._closed_here:
                    return  # Refused: what follows is not read.
                data = self._begin(data)
            if not self._at_boundary:
                if data:
                    self._read_generally(data)
                return
        # The common text frames at the head of `data`. What is not complete, or not of the common
        # kind in any way, is left to the general parser. (In line: a call more for each message.)
        assert self._handler is not None
        say, start, size = self._handler.on_text, 0, len(data)
        while size - start >= 6 and data[start] == TEXT_FIN:
            length, mask_at = data[start + 1] - MASKED, start + 2
            if length == LONG and size - start >= 8:
                length, mask_at = data[start + 2] << 8 | data[start + 3], start + 4
                if not LONG <= length <= self._services.max_frame_bytes:
                    break
            elif not 0 <= length < LONG:
                break
            end = mask_at + 4 + length
            if end > size:
                break
            text = apply_mask(data[mask_at + 4 : end], data[mask_at : mask_at + 4])
            start = end
            try:
                say(text)
            except Exception as problem:
                self._session_failed(problem)
            if not self._at_boundary:
                break  # The session has closed the connection.
        if start < size:
            self._read_generally(data[start:] if start else data)

    def eof_received(self) -> bool:
        if self._ws is not NOTHING_YET and self._ws is not OVER:
            self._ws.receive_eof()
            self._write_replies()
        return False

    def pause_writing(self) -> None:
        self.outbox.pause()

    def resume_writing(self) -> None:
        self.outbox.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        services = self._services
        services.sockets.pop(self, None)
        if not services.sockets:
            services.idle.set()
        if self.slot is not None:
            self.slot.release()
        self._break_off()
        handler, self._handler = self._handler, None
        if handler is not None:
            handler.on_closed()

    # --- reading -----------------------------------------------------------------------------

    def _read_generally(self, data: bytes) -> None:
        ws = self._ws
        if ws is OVER:
            return
        if ws.state is CONNECTING:
            data = self._read_request(data)
        ws.receive_data(data)  # Calls `_take_frame` for each frame.
        self._write_replies()
        self._at_boundary = (
            self._services.fast_frames
            and self._ws.state is OPEN
            and self._fragments is None
            and _between_frames(ws)
        )

    def _read_request(self, data: bytes) -> bytes:
        """Feed the general parser a request and answer it; return what follows the request.

        Line by line, because the parser would go on and answer frames (a pong, a close) that
        follow the request before we have answered the request itself.
        """
        ws, start = self._ws, 0
        assert isinstance(ws, _InOrderFromRequest)
        while start < len(data) and ws.state is CONNECTING and not ws.eof_sent:
            end = data.find(b"\n", start) + 1 or len(data)
            ws.receive_data(data[start:end])
            if isinstance(ws.handshake_exc, InvalidMessage) and ws.is_http:
                self._transport.write(refusal(400, MALFORMED_REQUEST, {}))
            ws.is_http = ws.is_http or data[end - 1] == ord("\n")
            start = end
            for event in ws.events_received():
                assert isinstance(event, Request)
                self._shake_hands(event)
        self._write_replies()
        return data[start:]

    def _take_frame(self, frame: Frame) -> None:
        if self._closed_here or self._handler is None:
            return  # The connection is closing: nothing more is read.
        opcode = frame.opcode
        if opcode is Opcode.TEXT:
            if frame.fin:
                self._say(bytes(frame.data))
            else:
                self._fragments = [bytes(frame.data)]
        elif opcode is Opcode.CONT and self._fragments is not None:
            self._take_fragment(frame)
        elif opcode is Opcode.BINARY or opcode is Opcode.CONT:
            self.close(Code.UNSUPPORTED)
        elif opcode is Opcode.PING or opcode is Opcode.PONG:
            self._take_control()

    def _take_fragment(self, frame: Frame) -> None:
        assert self._fragments is not None
        self._fragments.append(bytes(frame.data))
        if len(self._fragments) > self._services.limits.max_fragments:
            self._fragments = None
            self.close(Code.TOO_BIG)
        elif frame.fin:
            text, self._fragments = b"".join(self._fragments), None
            self._say(text)

    def _take_control(self) -> None:
        """Apply the rate limit to a control frame, which the library has answered already."""
        services = self._services
        paid_until = services.control_rate.take(self._control_paid_until, self.last_read)
        if paid_until is None:
            services.counters.rate_limited += 1
            self.close(Code.RATE_LIMIT)
        else:
            self._control_paid_until = paid_until

    def _say(self, text: bytes) -> None:
        """Hand a message to the session."""
        assert self._handler is not None
        try:
            self._handler.on_text(text)
        except Exception as problem:
            self._session_failed(problem)

    def _session_failed(self, problem: Exception) -> None:
        """End this connection because of an error of its session, and no other."""
        self._services.loop.call_exception_handler(
            {"message": "a session failed", "exception": problem, "protocol": self}
        )
        self.close(Code.INTERNAL)

    def pause_reading(self) -> None:
        """Read no more bytes from this client for now (back-pressure)."""
        if not self._reading_paused and not self._is_lost:
            self._reading_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._reading_paused:
            self._reading_paused = False
            if not self._is_lost:
                self._transport.resume_reading()

    # --- the handshake -----------------------------------------------------------------------

    def _begin(self, data: bytes) -> bytes:
        """Handle the first bytes: a usual handshake, or anything else. Return what is left."""
        services = self._services
        max_size = services.limits.max_message_bytes, services.limits.max_frame_bytes
        usual = usual_request(data, services.access.header_name) if services.fast_frames else None
        if usual is None and looks_like_one(data):
            services.access.not_announced(self.address)  # The parser will end it: this is no HTTP.
        if usual is not None:
            self.recognise(usual.forwarded)
            full = services.access.refusal(self.slot, len(services.sockets))
            if full is not None:
                self._refuse(full)
                return b""
        if usual is None or not services.access.allows_origin(usual.origin, usual.host):
            self._ws = ws = _InOrderFromRequest(
                origins=[None, *services.access.origins], max_size=max_size, logger=_library_log
            )
            ws.take = self._take_frame
            return data
        self._ws = _InOrder(SERVER, state=OPEN, max_size=max_size, logger=_library_log)
        self._ws.take = self._take_frame
        chosen = ""
        if usual.offers:
            self.token = token_of(usual.offers)
            chosen = chosen_of(usual.offers, services.subprotocols)
        self.outbox.write(acceptance(usual.key, chosen))
        self._at_boundary = True
        self._welcome()
        return data[usual.end :]

    def _refuse(self, answer: Answer) -> None:
        """Refuse a usual handshake at once: too many connections of one client must cost little."""
        services = self._services
        services.counters.connections_refused += not services.access.draining
        self._closed_here = True
        self.outbox.write(refusal(answer.status, answer.body, answer.headers))
        self._end()

    def recognise(self, forwarded: str) -> None:
        """Take the slot of the client that a proxy's header names ('' without a header)."""
        self.slot = self._services.access.recognise(self.slot, self.address, forwarded)

    def _welcome(self) -> None:
        self._services.counters.connections_accepted += 1
        self._disarm()
        self._handler = self._services.welcome(self)

    def _shake_hands(self, request: Request) -> None:
        ws = self._ws
        assert isinstance(ws, ServerProtocol)
        target, offers = target_of(request), offers_in(request.headers)
        answer: Answer | None = BAD_TARGET
        if target is not None:
            answer = self._services.answer(request, target.path, self)
            if answer is None and offers is None:
                answer = BAD_OFFERS  # The library would repeat them, and a token among them.
        if answer is not None:
            ws.send_response(_response(ws, request, answer))
            return
        assert target is not None and offers is not None
        choose_upgrade(request.headers)
        origins = request.headers.get_all("Origin")
        if len(origins) == 1 and is_own_page(origins[0], target.host):
            ws.origins = None
        response = ws.accept(request)
        if response.status_code == 101:
            self.token = token_of(offers)
            if chosen := chosen_of(offers, self._services.subprotocols):
                response.headers["Sec-WebSocket-Protocol"] = chosen
        elif response.status_code in {400, 426}:
            _say_what_we_speak(response)
        ws.send_response(response)
        if response.status_code == 101:
            self._write_replies()  # Before anything that the session sends.
            self._welcome()

    # --- writing -----------------------------------------------------------------------------

    def send(self, payload: bytes) -> None:
        """Send a text message (UTF-8), in order; does nothing when the connection is closing.

        Never raises: an error ends this connection, and no other.
        """
        # At a boundary of frames it is open; the library's state costs more to ask for.
        if self._at_boundary or self._ws.state is OPEN:
            size = len(payload)
            frame = b"%c%c%b" % (TEXT_FIN, size, payload) if size < LONG else text_frame(payload)
            self.outbox.send(frame)

    def send_frame(self, frame: bytes) -> None:
        """Send a text message that is a frame already (`text_frame`): for what goes to many, so
        that it is encoded once. Otherwise as `send`.
        """
        if self._at_boundary or self._ws.state is OPEN:
            self.outbox.send(frame)

    def ping(self, now: float) -> None:
        """Send a WebSocket ping."""
        if self._ws.state is OPEN:
            self.pinged_at = now
            self.outbox.send(PING_FRAME)

    def _write_replies(self) -> None:
        """Write what the library has to send: handshakes, pongs, closes.

        It bypasses the outbox, since control frames may overtake messages. The hard cap bounds a
        client that sends pings and does not read the pongs. A close frame is the last one, however:
        messages that wait are sent before it, or not at all.
        """
        if self._ws.state in {CLOSING, CLOSED}:
            self.outbox.flush()
            self.outbox.close()
            if self._handler is not None:
                self._handler.on_closing()
        said = self._ws.data_to_send()
        words = b"".join(said)  # In one write: `bye` and its close frame belong together.
        if words and not self._said_goodbye:  # Or the library goes on answering pings.
            self.outbox.write(words)
        if said and not said[-1]:
            self._end()
        if self._is_lost:
            return
        if self._transport.get_write_buffer_size() > self._services.limits.write_hard_cap_bytes:
            self._closed_with = Code.SLOW_CONSUMER
            self._services.counters.slow_consumers += 1
            self.abort()

    def _end(self) -> None:
        """End our direction of the connection; abort if the client does not end its own soon."""
        self._at_boundary = False
        self.resume_reading()  # To see the end of the connection.
        self._arm(self._services.limits.close_timeout_s, self.abort)
        self.outbox.write_eof()

    def close(self, code: Code, retry_after_ms: int | None = None, *, reason: str = "") -> None:
        """Send a close frame, after all that is waiting; abort soon after. Idempotent.

        Args:
            reason: in place of the usual text of the code; at most 123 bytes.
        """
        self._closed_here = True
        if self._ws.state is not OPEN:
            return
        self._closed_with = code
        self._at_boundary = False
        self.outbox.flush()
        self.outbox.close()
        if self._ws.state is not OPEN:
            return  # It has failed just now.
        if code in SAID_BEFORE:
            self._ws.send_text(bye_text(code, retry_after_ms))
        self._ws.send_close(code, reason or close_reason(code, retry_after_ms))
        self._write_replies()
        self._said_goodbye = True
        self.resume_reading()  # To see the client's close frame.
        self._arm(self._services.limits.close_timeout_s, self.abort)

    def abort(self) -> None:
        """End the connection at once, without a close frame. Idempotent."""
        self._transport.abort()
        self._break_off()

    def fail(self, problem: Exception) -> None:
        """Abort the connection because of an unexpected error; counted and logged once."""
        if self._ws is not OVER:
            self._services.counters.connection_failures += 1
            _log.error("[Gateway] a connection failed and is aborted", exc_info=problem)
            self.abort()

    def _break_off(self) -> None:
        """Stop reading and writing for good. Idempotent."""
        if self._ws is OVER:
            return
        if isinstance(self._ws, _InOrder):
            self._ws.take = _nobody  # Breaks a reference cycle.
        self._ws = OVER
        self._closed_here = True
        self._at_boundary = False
        self._fragments = None
        self._disarm()
        self.outbox.close()
        if self._handler is not None:
            self._handler.on_closing()

    def deadline(self, after_s: float, action: Callable[[], None]) -> None:
        """Call `action` after this long, unless `no_deadline` is called before."""
        self._arm(after_s, action)

    def no_deadline(self) -> None:
        self._disarm()

    @property
    def open(self) -> bool:
        return self._ws.state is OPEN and not self._transport.is_closing()

    def ended_with(self) -> Code | None:
        """Return the close code of a connection that is ending: ours, or 1000 when its client has
        closed it, whatever it said; None when it was lost.
        """
        if self._closed_with is not None or self._ws is OVER:
            return self._closed_with
        if self._ws.close_rcvd is not None:
            return Code.NORMAL
        return None if self._ws.close_sent is None else Code.PROTOCOL_ERROR

    @property
    def _is_lost(self) -> bool:
        """Whether the transport is closing or closed: on uvloop, most of its methods raise then."""
        return self._ws is OVER or self._transport.is_closing()

    @property
    def address(self) -> str:
        """The client's address, from a PROXY header if there was one; '' when it has none."""
        return peer_of(self._transport) if self._peer is None else self._peer

    def _on_stuck(self, why: Stuck) -> None:
        self._services.counters.slow_consumers += 1
        self._services.counters.outbox_overflows += why is Stuck.OVERFLOW
        if why is Stuck.DEADLINE:
            self._closed_with = Code.SLOW_CONSUMER
            self.abort()  # A close frame would not be read either.
        else:
            self.close(Code.SLOW_CONSUMER)

    # --- one timer, for the next deadline ----------------------------------------------------

    def _arm(self, after_s: float, action: Callable[[], None]) -> None:
        self._disarm()
        if self._ws is not OVER:
            self._timer = self._services.loop.call_later(after_s, action)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def peer_of(transport: asyncio.BaseTransport) -> str:
    """Return the address at the other end; '' when it has none, as on a Unix socket."""
    name = transport.get_extra_info("peername")
    return str(name[0]) if isinstance(name, tuple) else ""


def _set_user_timeout(transport: asyncio.Transport, seconds: float) -> None:
    """Let the kernel drop a peer that acknowledges no bytes for so long."""
    end = transport.get_extra_info("socket")
    if end is not None and TCP_USER_TIMEOUT is not None:
        with contextlib.suppress(OSError):  # It may be closed already, or no TCP.
            end.setsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT, round(1000 * seconds))


def _between_frames(ws: Conversation) -> bool:
    """Say whether the library's parser is between two frames and holds no bytes.

    It is a generator: there, it waits in `StreamReader.at_eof`; within a frame, in `read_exact`.
    (Undocumented, which is why the minor version of websockets is pinned.)
    """
    if ws.current_size is not None or ws.reader.buffer or ws.state is CLOSED:
        return False
    inner: Any = ws.parser
    while (deeper := inner.gi_yieldfrom) is not None:
        inner = deeper
    return bool(inner.gi_code.co_name == "at_eof")


def _say_what_we_speak(response: Response) -> None:
    """Add to a refusal which version we accept (RFC 6455, section 4.4)."""
    response.headers["Sec-WebSocket-Version"] = "13"
    if "Upgrade" in response.headers:
        del response.headers["Connection"]
        response.headers["Connection"] = "Upgrade, close"  # RFC 9110, section 7.8.


def _response(ws: ServerProtocol, request: Request, answer: Answer) -> Response:
    response = ws.reject(answer.status, answer.body)
    for name, value in answer.headers.items():
        if name in response.headers:
            del response.headers[name]  # Assignment would add a second one.
        response.headers[name] = value
    if request.method == "HEAD":
        response.body = b""
    return response

"""Session: what happens on one connection between its register and its close?

`ping` and `message` are answered before the callback that brought their bytes returns. Only
`register`, which is rare, takes a coroutine; frames that arrive after it wait for it.

The order of steps in a register keeps entries without a connection out of Redis: mint a token;
is the socket still open?; register; is it *still* open? If it is not, or if the outcome of the
register is unknown, release.

What others call (`send`, `deliver`, `end`) never raises: an error of one connection must not
reach the sender, the drain or the scan that called it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import math
import random
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Any, Final

from wsdemo.events import Kind
from wsdemo.gateway.auth import NotAuthentic, claims_of
from wsdemo.gateway.counters import Counters
from wsdemo.gateway.delivery import Delivery
from wsdemo.gateway.feature import Feature, Verb
from wsdemo.gateway.journal import GATEWAY_LOG, Journal
from wsdemo.gateway.observer import Observer
from wsdemo.gateway.rate import Rate
from wsdemo.gateway.registry import Registry
from wsdemo.gateway.socket import Socket
from wsdemo.gateway.watch import reason_of
from wsdemo.presence import Claim, Presence, Release
from wsdemo.presence import Register as Outcome
from wsdemo.protocol import (
    PONG_TEXT,
    Code,
    DirectHeads,
    FeatureRequest,
    MessageRequest,
    NotText,
    ProtocolError,
    RegisterRequest,
    Say,
    Status,
    ack_text,
    decode,
    error_text,
    registered_text,
)
from wsdemo.redis.link import LINK_ERRORS, may_work_later
from wsdemo.settings import GatewaySettings
from wsdemo.user_ids import UserIds

_log = logging.getLogger(GATEWAY_LOG)


class SessionState(Enum):
    """The states of a session."""

    NEW = auto()
    REGISTERING = auto()
    REGISTERED = auto()
    ENDED = auto()


REGISTERED: Final = SessionState.REGISTERED
"""For the code of each message: Python 3.11 looks up a member of an enumeration in 150 ns."""


@dataclass(slots=True, eq=False)
class Backlog:
    """The state that all sessions of a gateway share: what is still to be done in Redis."""

    admission: asyncio.Semaphore
    """Bounds how many registers are under way at the same time."""
    waiting: int = 0
    """Registers that wait for `admission`."""
    owed: dict[str, Claim] = field(default_factory=dict)
    """Sessions whose release did not reach Redis, by connection id: for when it is back."""


@dataclass(slots=True, eq=False)
class SessionServices:
    """The services that all sessions of a gateway share.

    `new_id` returns ids that are never the same twice; `rng` is the source of all jitter.
    """

    settings: GatewaySettings
    registry: Registry[Session]
    presence: Presence
    delivery: Delivery
    counters: Counters
    journal: Journal
    observer: Observer
    spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
    clock: Callable[[], float]
    time_of_day: Callable[[], float]
    new_id: Callable[[], str]
    rng: random.Random
    backlog: Backlog
    features: Sequence[Feature] = ()
    verbs: Mapping[str, Verb] = field(init=False)
    """Of all features."""
    store: Callable[[Session, MessageRequest], None] | None = None
    """Takes a durable message; None when this gateway stores none."""
    message_rate: Rate = field(init=False)
    user_ids: UserIds = field(init=False)
    max_content_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        limits = self.settings.limits
        self.message_rate = Rate.of(limits.messages_per_s, limits.message_burst)
        self.user_ids = self.settings.user_ids()
        self.max_content_bytes = limits.max_content_bytes
        self.verbs = {
            kind: act for feature in self.features for kind, act in feature.verbs().items()
        }

    def retry_after_ms(self) -> int:
        """Return after how long to reconnect; with jitter, so that not all come at once."""
        return round(1000 * self.settings.limits.retry_after_s * self.rng.uniform(0.5, 1.5))

    def next_refresh_s(self) -> float:
        """Return how long a new lease is not renewed; with jitter, so that there are no waves."""
        return self.settings.timing.heartbeat_s * self.rng.uniform(0.25, 0.5)


@dataclass(slots=True, eq=False)
class _Excess:
    """A client that is above its rate. Times as those of the session."""

    since: float
    told_at: float


class Session:
    """The session of one connection. Times are in seconds on the gateway's monotonic clock."""

    __slots__ = (
        "_excess",
        "_held",
        "_malformed",
        "_paid_until",
        "_queueing",
        "_request",
        "_services",
        "_socket",
        "_waiting",
        "claim",
        "claims",
        "conn_id",
        "expires_at",
        "heads",
        "in_flight",
        "last_life",
        "last_refresh",
        "refresh_after",
        "state",
        "user",
    )

    def __init__(self, socket: Socket, services: SessionServices) -> None:
        self._socket = socket
        self._services = services
        self._held: list[bytes] | None = None
        self._waiting: list[bytes] | None = None
        self.in_flight = 0
        """How many of its messages wait for Redis."""
        self._malformed: list[float] | None = None
        self._paid_until = 0.0
        self._excess: _Excess | None = None
        self._queueing: asyncio.Task[None] | None = None
        """The register, while it waits for its turn and may be cancelled."""
        self._request: RegisterRequest | None = None
        """Its register, until it is registered."""
        self.expires_at = math.inf
        """When the user's token ends (Unix seconds)."""
        self.claims: Mapping[str, Any] | None = None
        """What the user's token says; None where no tokens are asked for."""
        self.claim: Claim | None = None
        self.user = self.conn_id = ""
        """Those of the claim; '' before there is one."""
        self.heads: DirectHeads | None = None
        self.state = SessionState.NEW
        self.last_life = services.clock()
        """When the last sign of life came: a `ping` or a message, not a WebSocket pong."""
        self.last_refresh = 0.0
        """The sign of life for which its lease was last renewed."""
        self.refresh_after = 0.0
        """The lease is not renewed again before this; with jitter."""
        socket.deadline(services.settings.limits.register_deadline_s, self._register_missed)
        services.observer.session(Kind.WS_OPEN, None)

    @property
    def socket(self) -> Socket:
        return self._socket

    @property
    def device(self) -> str:
        """Which of its user's devices it is; '' when users have one session only."""
        return self.claim.device if self.claim is not None else ""

    # --- from the client ---------------------------------------------------------------------

    def on_text(self, data: bytes) -> None:
        """Answer one message of the client."""
        registered = self.state is REGISTERED
        if not registered and not self._reads_now(data):
            return
        services, now = self._services, self._socket.last_read
        # `Rate.take`, without the call: nearly all messages are within the burst.
        rate, paid_until = services.message_rate, self._paid_until
        paid_until = (paid_until if paid_until > now else now) + rate.interval_s
        if paid_until - now <= rate.burst_s and self._excess is None:
            self._paid_until = paid_until
        elif self._note_excess(rate.take(self._paid_until, now), now):
            self._say_too_much(data, now)
            return
        try:
            message = decode(data, services.max_content_bytes, services.user_ids.possible)
        except ProtocolError as problem:
            self._refuse(problem)
            return
        except NotText:
            self._socket.close(Code.NOT_UTF8)
            return
        if type(message) is MessageRequest:
            if registered:
                self.last_life = now
                if message.durable:
                    self._store(message)
                else:
                    services.delivery.submit(self, message)
            else:
                self.send(error_text(Say.NOT_REGISTERED, "not_registered", message.id))
        elif type(message) is RegisterRequest:
            self._register(message)
        elif type(message) is FeatureRequest:
            self._act(message)
        else:
            self._pong()

    def _store(self, message: MessageRequest) -> None:
        """Hand over a durable message. It is never sent as a plain one: its sender relies on it."""
        store = self._services.store
        if store is not None:
            store(self, message)
        else:
            self.send(error_text(Say.NOT_DURABLE, "not_durable", message.id))

    def _act(self, request: FeatureRequest) -> None:
        """Handle a message of a type that the demo does not have."""
        act = self._services.verbs.get(request.kind)
        if act is None:
            self._refuse(ProtocolError(Say.UNKNOWN_TYPE))
        elif self.state is not SessionState.REGISTERED:
            self.send(error_text(Say.NOT_REGISTERED, "not_registered"))
        else:
            self.last_life = self._services.clock()
            try:
                act(self, request.document)
            except ProtocolError as problem:
                self._refuse(problem)

    def _reads_now(self, data: bytes) -> bool:
        """Say whether a client that is not registered is listened to just now. What arrives during
        its register waits.
        """
        if self.state is SessionState.REGISTERING:
            self._hold(data)
        return self.state is SessionState.NEW

    def _pong(self) -> None:
        if self.state is SessionState.REGISTERED:
            self.last_life = self._services.clock()
            self._services.observer.session(Kind.PING, self.claim)
        self.send(PONG_TEXT)

    def _refuse(self, problem: ProtocolError) -> None:
        if problem.say is Say.USER_NOT_FOUND and problem.msg_id is not None:
            # The same answer as for a user who is allowed and not online.
            self.send(ack_text(problem.msg_id, Status.OFFLINE))
            return
        self.send(error_text(problem.say, _CODES[problem.say], problem.msg_id))
        if problem.say is not Say.INVALID:
            return
        services, now = self._services, self._services.clock()
        services.counters.malformed_messages += 1
        services.observer.session(Kind.MALFORMED, self.claim, ok=False)
        limits = services.settings.limits
        recent = [t for t in self._malformed or () if now - t < limits.malformed_window_s]
        self._malformed = [*recent, now]
        if len(self._malformed) > limits.max_malformed:
            self._socket.close(Code.MALFORMED)

    def _note_excess(self, paid_until: float | None, now: float) -> bool:
        """Note when a client begins to exceed its rate, and when it is back within it.

        Returns:
            Whether this message exceeds the rate.
        """
        if paid_until is None:
            if self._excess is None:
                self._excess = _Excess(now, -math.inf)
            return True
        self._paid_until = paid_until
        if self._services.message_rate.has_calmed_down(paid_until, now):
            self._excess = None
        return False

    def _say_too_much(self, data: bytes, now: float) -> None:
        """Refuse a message. A message with an id gets an ack each time, others an error frame now
        and then. A client that stays above its rate is closed.
        """
        services, excess, limits = self._services, self._excess, self._services.settings.limits
        assert excess is not None
        services.counters.rate_limited += 1
        if now - excess.since > limits.rate_patience_s:
            self.end(Code.RATE_LIMIT)
            return
        msg_id = _id_of(data, limits.max_content_bytes, services.user_ids)
        if msg_id is not None:
            self.send(ack_text(msg_id, Status.BUSY))
        elif now - excess.told_at >= RATE_NOTICE_S:
            excess.told_at = now
            self.send(error_text(Say.RATE_LIMITED, "rate_limited"))

    def _hold(self, data: bytes) -> None:
        """Keep what arrives during a register; too much of it pauses reading (back-pressure)."""
        if self._held is None:
            self._held = []
        self._held.append(data)
        if len(self._held) >= self._services.settings.limits.held_frames:
            self._socket.pause_reading()

    # --- to the client -----------------------------------------------------------------------

    def send(self, payload: bytes) -> None:
        """Send a text to the client; does nothing when it is gone."""
        try:
            self._socket.send(payload)
        except Exception as problem:
            self.fail(problem)

    def deliver(self, payload: bytes) -> None:
        """Send a message of another user; it waits until the register has ended."""
        if self.state is REGISTERED:
            try:
                self._socket.send(payload)
            except Exception as problem:
                self.fail(problem)
        elif self.state is SessionState.REGISTERING:
            # Redis may know this session already, its client does not: `registered` comes first.
            if self._waiting is None:
                self._waiting = []
            if len(self._waiting) < self._services.settings.limits.outbox_messages:
                self._waiting.append(payload)

    def pause(self) -> None:
        """Read no more of this client: too many of its messages wait for Redis."""
        self._socket.pause_reading()

    def resume(self) -> None:
        self._socket.resume_reading()

    def end(self, code: Code, retry_after_ms: int | None = None, *, reason: str = "") -> None:
        """Close the connection with a code, and with a text in place of the usual one if it is not
        empty. From now on the session is not found any more.
        """
        try:
            self._leave(code)
            self._socket.close(code, retry_after_ms, reason=reason)
        except Exception as problem:
            self.fail(problem)

    def fail(self, problem: Exception) -> None:
        """Abort the connection because of an unexpected error; counted and logged once."""
        self._socket.fail(problem)
        self._leave()

    # --- register ----------------------------------------------------------------------------

    def _register(self, request: RegisterRequest) -> None:
        if self.state is SessionState.REGISTERED:
            self._register_again(request)
            return
        if not self._services.user_ids.may_register(request.userId):
            self.end(Code.USER_FORBIDDEN)
            return
        if not self._is_authentic(request):
            self._turn_away()
            return
        services = self._services
        try:
            for feature in services.features:
                feature.check_register(request)
        except ProtocolError as problem:
            self._refuse(problem)
            return
        self._request = request
        self._socket.no_deadline()
        self.state = SessionState.REGISTERING
        self.claim = Claim(
            request.userId,
            services.new_id(),
            services.settings.gateway_id,
            inst=request.inst,
            att=request.att,
            device=(request.device or "") if services.settings.devices > 1 else "",
        )
        self.user, self.conn_id = self.claim.user, self.claim.conn_id
        services.spawn(self._settle_register())

    def _register_again(self, request: RegisterRequest) -> None:
        """Answer the same user again; another user cannot share the connection."""
        if request.userId != self.user:
            self.end(Code.OTHER_USER)
            return
        if not self._is_authentic(request):
            self._turn_away()
            return
        self.last_life = self._services.clock()
        self._say_registered()

    def _is_authentic(self, request: RegisterRequest) -> bool:
        """Check the token of a register, if tokens are required; keep when it expires."""
        services = self._services
        secret = services.settings.auth_secret
        if secret is None:
            return True
        try:
            token = request.token or self._socket.token
            self.claims = claims_of(secret, token, request.userId, services.time_of_day())
            self.expires_at = float(self.claims["exp"])
        except NotAuthentic:
            return False
        return True

    def _turn_away(self) -> None:
        """Answer every failed authentication alike: same words, same delay (no timing oracle)."""
        services = self._services
        services.counters.registers_unauthenticated += 1
        self._leave()
        limits = services.settings.limits
        late_s = services.clock() - self._socket.last_read
        self._socket.deadline(
            max(0.0, limits.auth_delay_s - late_s), lambda: self._socket.close(Code.AUTH)
        )

    def _register_missed(self) -> None:
        self.end(Code.REGISTER_DEADLINE)

    async def _settle_register(self) -> None:
        """Wait for a turn, register, and end in one of two states: REGISTERED or ENDED."""
        services = self._services
        if not await self._admitted():
            return
        try:
            await self._try_register()
        except Exception:
            self.end(Code.INTERNAL)
            raise  # The owner of this task reports it.
        finally:
            services.backlog.admission.release()
            if self.state is SessionState.REGISTERING:
                self._come_back_later()  # Its client is gone, or this task was cancelled.

    async def _admitted(self) -> bool:
        """Wait for a turn to register.

        Returns:
            False when there was none in time, or when the client is gone. A client that goes
            while it waits gives up its place at once: others wait behind it.
        """
        services = self._services
        if self.state is not SessionState.REGISTERING:
            return False
        services.backlog.waiting += 1
        self._queueing = asyncio.current_task()
        try:
            async with asyncio.timeout(services.settings.limits.register_queue_s):
                await services.backlog.admission.acquire()
            return True
        except TimeoutError:
            services.counters.registers_shed += 1
        finally:
            self._queueing = None
            services.backlog.waiting -= 1
        self._come_back_later()
        return False

    async def _try_register(self) -> None:
        """Mint and register, and leave nothing behind if the client is gone meanwhile (P7)."""
        services, claim = self._services, self.claim
        assert claim is not None
        try:
            token = await services.presence.mint(claim.user)
        except LINK_ERRORS as problem:
            self._register_failed(problem)
            return
        if not self._socket.open:
            return  # Only the fence has moved, and that is harmless.
        claim = self.claim = replace(claim, token=token)
        services.registry.expect(self)
        # Until the answer is here it may have been executed, whatever comes: then it is taken back.
        owns = True
        try:
            registration = await services.presence.register(claim)
            if registration.outcome is Outcome.STALE:
                owns = False
                self._rejected(registration.previous)
            elif self._socket.open:
                owns = False  # From here on the session itself answers for it.
                self._accepted(registration.previous, registration.evicted)
        except LINK_ERRORS as problem:
            self._register_failed(problem)
        finally:
            if self.state is not SessionState.REGISTERED:
                services.registry.remove(self)
            if owns:
                await release(services, claim)

    def _accepted(self, previous: Claim | None, evicted: Sequence[Claim]) -> None:
        services, claim = self._services, self.claim
        assert claim is not None
        self.state = SessionState.REGISTERED
        services.counters.registers_ok += 1
        now = services.clock()
        if self._socket.slot is not None:
            self._socket.slot.mark_registered()
        self.last_life = self.last_refresh = now
        self.refresh_after = now + services.next_refresh_s()
        earlier = services.registry.bind(self)
        if earlier is not None:
            earlier.end(Code.REPLACED)
        if previous is not None and previous.gateway_id != claim.gateway_id:
            services.delivery.kick(previous, claim.token)
        if evicted:
            services.delivery.evict(evicted, claim.token)
        peer = previous.gateway_id if previous is not None else ""
        services.observer.session(Kind.PRESENCE_SET, claim, peer=peer)
        services.journal.registered(claim.user, claim.gateway_id, claim.conn_id)
        self._say_registered()
        waiting, self._waiting = self._waiting, None
        for payload in waiting or ():
            self._socket.send(payload)
        request, self._request = self._request, None
        assert request is not None
        for feature in services.features:
            if self.state is REGISTERED:  # Its connection may have failed just now.
                feature.registered(self, request)
        self._release_held()

    def _say_registered(self) -> None:
        settings = self._services.settings
        more: dict[str, Any] = {}
        for feature in self._services.features:
            more.update(feature.welcome(self))
        heartbeat_ms = round(settings.timing.heartbeat_s * 1000)
        self.send(registered_text(settings.gateway_id, self.conn_id, heartbeat_ms, more))

    def _release_held(self) -> None:
        """Handle the frames that arrived during the register."""
        held, self._held = self._held, None
        for data in held or ():
            if self.state is not SessionState.REGISTERED:
                return
            self.on_text(data)
        if held and self.in_flight < self._services.settings.limits.in_flight:
            self._socket.resume_reading()

    def _rejected(self, owner: Claim | None) -> None:
        """End because a newer session exists. This one owns nothing and cleans up nothing."""
        services = self._services
        services.counters.registers_stale += 1
        peer = owner.gateway_id if owner is not None else ""
        services.observer.session(
            Kind.PRESENCE_REJECT, self.claim, ok=False, reason="stale register", peer=peer
        )
        self.end(Code.STALE)

    def _register_failed(self, problem: Exception) -> None:
        services = self._services
        services.counters.registers_failed += 1
        reason = type(problem).__name__
        services.observer.session(Kind.REGISTER, self.claim, ok=False, reason=reason)
        _log.warning("[Gateway] register of %s failed: %s", self.user, problem)
        self._come_back_later()

    def _come_back_later(self) -> None:
        retry_after_ms = self._services.retry_after_ms()
        self.send(error_text(Say.REGISTER_FAILED, "unavailable", retry_after_ms=retry_after_ms))
        self.end(Code.TRY_LATER, retry_after_ms)

    # --- the end -----------------------------------------------------------------------------

    def on_closing(self) -> None:
        """End the presence as soon as nothing reaches the client any more, although the
        connection may stay for a while: senders must get an error from now on.
        """
        self._leave()

    def on_closed(self) -> None:
        """Take note that the connection is gone."""
        self._services.observer.session(Kind.WS_CLOSE, self.claim)
        self._leave()

    def _leave(self, code: Code | None = None) -> None:
        """Remove the session here, and in Redis if the entry is still its own. Idempotent.

        A session that was never registered has no entry; a register that is under way sees that
        its socket is gone.

        Args:
            code: why we end it; None when the client or its connection has.
        """
        state, self.state = self.state, SessionState.ENDED
        self._held = self._waiting = None
        if self._queueing is not None:
            self._queueing.cancel()
        services, claim = self._services, self.claim
        if state is SessionState.REGISTERED and claim is not None:
            services.registry.remove(self)
            if services.features:
                reason = reason_of(code or self._socket.ended_with())
                claim = self.claim = dataclasses.replace(claim, reason=reason.value)
            for feature in services.features:
                feature.leaving(self)
            services.journal.left(claim.user, claim.conn_id)
            services.spawn(release(services, claim))


MAX_OWED: Final = 10_000
"""Releases that are kept while Redis is away; entries beyond this number end with their TTL."""
RATE_NOTICE_S: Final = 1.0
"""A client above its rate gets an error frame at most once in this time."""

_CODES: Final[dict[Say, str]] = {
    Say.INVALID: "invalid",
    Say.NO_USER_ID: "user_id_required",
    Say.NO_RECIPIENT: "recipient_required",
    Say.USER_NOT_FOUND: "offline",
    Say.UNKNOWN_TYPE: "unknown_type",
    Say.TOO_LARGE: "too_large",
    Say.RATE_LIMITED: "rate_limited",
    Say.FORBIDDEN: "forbidden",
    Say.TOO_MANY_WATCHED: "too_many_watched",
}
"""The machine-readable half of an error frame."""


def _id_of(data: bytes, max_content_bytes: int, user_ids: UserIds) -> str | None:
    """Return the id of a refused message, if it is a message and has one."""
    try:
        message = decode(data, max_content_bytes, user_ids.possible)
    except ProtocolError as problem:
        return problem.msg_id
    except NotText:
        return None
    if isinstance(message, FeatureRequest):
        return message.msg_id
    return message.id if isinstance(message, MessageRequest) else None


async def release(services: SessionServices, claim: Claim) -> None:
    """End a session in Redis. When that fails, the entry ends with its TTL, or when Redis is back.

    After a register of unknown outcome it usually fails: the outcome is unknown because the
    connection to Redis was given up just now, and there is no new one yet.
    """
    counters = services.counters
    try:
        found = await services.presence.release(claim)
    except LINK_ERRORS as problem:
        counters.releases_failed += 1
        owed = services.backlog.owed
        if may_work_later(problem) and len(owed) < MAX_OWED:
            owed[claim.conn_id] = claim
        _log.warning("[Gateway] release of %s failed: %s", claim.user, problem)
        return
    match found:
        case Release.REMOVED:
            counters.releases_removed += 1
        case Release.OTHER_OWNER:
            counters.releases_other_owner += 1
        case Release.NO_ENTRY:
            counters.releases_no_entry += 1
    services.observer.released(claim, found)

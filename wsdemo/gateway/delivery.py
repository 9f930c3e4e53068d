"""Delivery: where does a message go next: to a user here, to another gateway, or nowhere?

Registry, presence and router meet here. On the way out, a message for a user of this gateway goes
to the outbox of that user; any other goes through the route script. On the way in, it goes to
exactly the session that the script found, or back as a bounce. An entry in Redis that points to a
session which does not exist is released, if it is still the same entry.

The sender is told what is known here. A message without an `id` gets the demo's answers: none when
it was handed on, an error frame when it was not. A message with an `id` gets an ack. A bounced
message is not sent a second time: it could arrive after a later one (at-most-once, in order).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Final, Protocol

from wsdemo.events import Kind
from wsdemo.gateway.counters import Counters
from wsdemo.gateway.journal import ROUTER_LOG, Journal
from wsdemo.gateway.observer import Observer
from wsdemo.gateway.registry import Registry, each
from wsdemo.presence import Claim, Presence
from wsdemo.protocol import (
    KICK_CODES,
    KICK_REASON,
    Bounce,
    Broadcast,
    Code,
    Copies,
    Direct,
    DirectHeads,
    Kick,
    MessageRequest,
    Say,
    Status,
    ack_text,
    echo_text,
    error_text,
    message_text,
)
from wsdemo.redis.link import LINK_ERRORS, LinkBusy, LinkDown, LinkTimeout
from wsdemo.router import Router

_log = logging.getLogger(ROUTER_LOG)

ROUTED: Final = Status.ROUTED
"""(Python 3.11 looks up a member of an enumeration in 150 ns, a name of the module in 10.)"""
MAX_REPAIRS: Final = 64
"""Stale entries that are being removed at the same time."""


class Endpoint(Protocol):
    """What delivery needs of a session. No method raises; on an error the session ends."""

    user: str
    conn_id: str
    heads: DirectHeads | None
    """What its messages to other gateways begin with; None before the first one."""
    in_flight: int
    """How many of its messages wait for Redis."""

    def send(self, payload: bytes) -> None: ...
    def deliver(self, payload: bytes) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def end(self, code: Code) -> None: ...
    def fail(self, problem: Exception) -> None: ...


class Delivery:
    """The message switch of one gateway."""

    def __init__(
        self,
        gateway_id: str,
        registry: Registry[Any],
        presence: Presence,
        router: Router,
        counters: Counters,
        journal: Journal,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        observer: Observer,
        max_in_flight: int,
    ) -> None:
        self._gateway_id = gateway_id
        self._registry = registry
        self._presence = presence
        self._router = router
        self._counters = counters
        self._journal = journal
        self._spawn = spawn
        self._observer = observer.if_observed
        self._max_in_flight = max_in_flight
        """So many messages of one client may wait for Redis (back-pressure)."""
        self._resume_at = max_in_flight // 2
        self._repairing: set[str] = set()

    @property
    def repairs(self) -> int:
        """How many stale entries are being removed now."""
        return len(self._repairing)

    # --- out ---------------------------------------------------------------------------------

    def submit(self, sender: Endpoint, message: MessageRequest) -> None:
        """Route a message; the sender is told the outcome, at once or later."""
        self._counters.messages_received += 1
        started = 0.0
        if self._observer is not None:
            started = self._observer.hop(Kind.MESSAGE, sender.user, message.to, message.id)
        to, msg_id = message.to, message.id
        local: Endpoint | None = self._registry.by_user(to)
        if local is not None:
            self._deliver_here(sender, message, local)
            return
        heads = sender.heads
        if heads is None:
            heads = sender.heads = DirectHeads(sender.user, self._gateway_id, sender.conn_id)
        name = to.encode()
        try:
            self._router.route(
                name,
                heads.head(name, message.content, msg_id),
                partial(self._routed, sender, to, msg_id, started),
            )
        except (LinkDown, LinkBusy):
            self._tell(sender, msg_id, Status.BUSY, "unavailable")
            self._counters.routes_busy += 1
            return
        sender.in_flight += 1
        if sender.in_flight >= self._max_in_flight:
            sender.pause()

    def _deliver_here(self, sender: Endpoint, message: MessageRequest, recipient: Endpoint) -> None:
        counters = self._counters
        counters.routes_local += 1
        counters.messages_delivered += 1
        recipient.deliver(message_text(sender.user, message.content, message.id))
        if self._observer is not None:
            self._observer.hop(Kind.DELIVER, message.to, sender.user, message.id)
        if message.id is not None:
            sender.send(ack_text(message.id, ROUTED))

    def _routed(
        self, sender: Endpoint, to: str, msg_id: str | None, started: float, reply: Any
    ) -> None:
        """Tell the sender the result of the route script."""
        sender.in_flight -= 1
        if sender.in_flight == self._resume_at:
            sender.resume()
        if type(reply) is list and reply[0] == b"routed":
            status = ROUTED
            self._counters.routes_routed += 1
        else:
            status = self._failure(reply)
        if self._observer is not None:
            gateway = reply[1].decode() if status is ROUTED else ""
            self._observer.routed(to, gateway, sender.conn_id, msg_id, status, started)
        if status is ROUTED:
            if msg_id is not None:
                sender.send(ack_text(msg_id, status))
            # The demo's troubleshooting tells people to look for this line.
            self._journal.routed(sender.user, to, reply[1])
        else:
            self._tell(sender, msg_id, status)

    def _failure(self, reply: Any) -> Status:
        """Return why a message was not routed."""
        counters = self._counters
        reply = self._router.in_time(reply)
        if isinstance(reply, Exception):
            if isinstance(reply, LinkTimeout):
                counters.routes_unknown += 1
                return Status.UNKNOWN
            counters.routes_busy += 1
            return Status.BUSY  # Redis refused the script before its first write.
        outcome = reply[0]
        if outcome == b"no_subscriber":
            counters.routes_unreachable += 1
            return Status.UNREACHABLE
        if outcome == b"malformed":
            counters.malformed_presence += 1
        elif self._router.leases_may_lapse:
            counters.routes_busy += 1
            return Status.BUSY  # Leases may have lapsed: a user who is online may be missing.
        counters.routes_offline += 1
        return Status.OFFLINE

    def _tell(
        self, sender: Endpoint, msg_id: str | None, status: Status, code: str | None = None
    ) -> None:
        if msg_id is not None:
            sender.send(ack_text(msg_id, status))
            return
        say = Say.USER_NOT_FOUND if status is Status.OFFLINE else Say.SEND_FAILED
        sender.send(error_text(say, code or status.value))

    def kick(self, previous: Claim, token: int) -> None:
        """Tell a session that a newer one (with this token) has taken its place. Its gateway may
        have been asleep, and not know it.
        """
        self._counters.kicks_sent += 1
        self._router.tell(
            previous.gateway_id,
            Kick(user=previous.user, connId=previous.conn_id, token=token),
        )

    def evict(self, evicted: Sequence[Claim], token: int) -> None:
        """Tell sessions that their user has too many devices, since one with this token came."""
        for claim in evicted:
            if claim.gateway_id == self._gateway_id:
                self._end_kicked(Kick(claim.user, claim.conn_id, token))
            else:
                self.kick(claim, token)

    # --- in ----------------------------------------------------------------------------------

    # Neither of these two raises: an error may lose what arrived, but must not end the subscription
    # of all users.

    def receive_direct(self, envelope: Direct) -> None:
        """Hand a message that another gateway has published for this one to its recipient."""
        try:
            to, conn_id = envelope.to, envelope.toConn
            registry = self._registry
            # The demo's gateways name no session: then it goes to the user's session here.
            session = registry.by_conn(conn_id) if conn_id else registry.by_user(to)
            if self._observer is not None:
                self._observer.hop(Kind.RECEIVE, to, envelope.sender, envelope.id)
            if session is None or session.user != to:
                self._bounce(envelope)
                if conn_id:
                    self._repair_soon(Claim(to, conn_id, self._gateway_id, envelope.epoch))
                return
            self._counters.messages_delivered += 1
            session.deliver(message_text(envelope.sender, envelope.content, envelope.id))
            if self._observer is not None:
                self._observer.hop(Kind.DELIVER, to, envelope.sender, envelope.id)
        except Exception as problem:
            _report_lost(problem)

    def receive(self, envelope: Broadcast | Kick | Bounce | Copies) -> None:
        """Handle everything else that another gateway has published for this one."""
        try:
            match envelope:
                case Kick():
                    self._receive_kick(envelope)
                case Bounce():
                    self._receive_bounce(envelope)
                case Copies():
                    self._receive_copies(envelope)
                case Broadcast(sender=sender, content=content):
                    self._counters.broadcasts_received += 1
                    text = message_text(sender, content, None)
                    each(self._registry, lambda session: session.deliver(text))
        except Exception as problem:
            _report_lost(problem)

    def _receive_copies(self, envelope: Copies) -> None:
        """Hand a message to those devices of a user that are here. Its sender is told only when no
        device at all has got it; an echo is best effort.
        """
        gone = [copy for copy in envelope.toConns if not self._hand_over(envelope, copy.connId)]
        if len(gone) == envelope.of and not envelope.echoTo:
            self._bounce(envelope)
        for copy in gone:
            self._repair_soon(
                Claim(envelope.to, copy.connId, self._gateway_id, copy.token, device=copy.device)
            )

    def _hand_over(self, envelope: Copies, conn_id: str) -> bool:
        """Hand a message to one session; say whether it is here."""
        sender, to, msg_id = envelope.sender, envelope.to, envelope.id
        if self._observer is not None:
            self._observer.hop(Kind.RECEIVE, to, sender, msg_id)
        session = self._registry.by_conn(conn_id)
        if session is None or session.user != envelope.to:
            return False
        self._counters.messages_delivered += 1
        if envelope.echoTo:
            session.deliver(echo_text(sender, envelope.echoTo, envelope.content, msg_id))
        else:
            session.deliver(message_text(sender, envelope.content, msg_id))
        if self._observer is not None:
            self._observer.hop(Kind.DELIVER, to, sender, msg_id)
        return True

    def _bounce(self, envelope: Direct | Copies) -> None:
        """Tell the sender's gateway that a message has reached nobody."""
        self._counters.bounces_sent += 1
        if self._observer is not None:
            self._observer.hop(Kind.BOUNCE, envelope.to, envelope.sender, envelope.id)
        if envelope.fromGw and envelope.fromConn:
            self._router.tell(
                envelope.fromGw,
                Bounce(fromConn=envelope.fromConn, to=envelope.to, id=envelope.id),
            )

    def _repair_soon(self, found: Claim) -> None:
        conn_id = found.conn_id
        if conn_id not in self._repairing and len(self._repairing) < MAX_REPAIRS:
            self._repairing.add(conn_id)
            self._spawn(self._repair(found))

    async def _repair(self, found: Claim) -> None:
        """Remove an entry that points to a session that does not exist, if it is still there."""
        try:
            await self._presence.release(found)
        except LINK_ERRORS as problem:
            _log.debug("stale entry of %s not removed: %s", found.user, problem)
        finally:
            self._repairing.discard(found.conn_id)

    def _receive_bounce(self, bounce: Bounce) -> None:
        self._counters.bounces_received += 1
        sender = self._registry.by_conn(bounce.fromConn)
        if sender is not None:
            self._tell(sender, bounce.id, Status.UNREACHABLE)

    def _receive_kick(self, kick: Kick) -> None:
        self._counters.kicks_received += 1
        self._end_kicked(kick)

    def _end_kicked(self, kick: Kick) -> None:
        session = self._registry.by_conn(kick.connId)
        if session is not None and session.user == kick.user:
            if self._observer is not None:
                self._observer.hop(Kind.KICK, kick.user, "", None)
            if kick.code in KICK_CODES and KICK_REASON.fullmatch(kick.reason):
                session.end(Code(kick.code), reason=kick.reason)
            else:
                session.end(Code.REPLACED)


def _report_lost(problem: Exception) -> None:
    asyncio.get_running_loop().call_exception_handler(
        {"message": "a message from another gateway was lost", "exception": problem}
    )

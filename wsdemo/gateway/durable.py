"""Durable messages: how does a gateway store them, and hand on what is in its users' inboxes?

What a sender is told is what the script said. What a recipient gets is read from the inbox, by one
`Pump` a session; hints, renewed leases and renewed connections only say when to look.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, Final

import msgspec

from wsdemo.events import Kind
from wsdemo.features import InboxSettings
from wsdemo.gateway.counters import Counters, LabelledCounter
from wsdemo.gateway.feature import Feature, Gauges, Verb
from wsdemo.gateway.inbox import Pump, Resumed
from wsdemo.gateway.observer import Observer
from wsdemo.gateway.session import Session
from wsdemo.inbox import DeviceInbox, Inbox, InboxPage, StoreOutcome, StoreReply
from wsdemo.inbox.store import NO_POSITION, InboxCount
from wsdemo.protocol import (
    Code,
    MessageRequest,
    ProtocolError,
    RegisterRequest,
    Say,
    Status,
    StoredHint,
    ack_text,
    error_text,
    message_text,
    resumed_text,
)
from wsdemo.redis.interface import Link
from wsdemo.redis.link import LinkBusy, LinkDown, LinkTimeout
from wsdemo.router import NOBODY
from wsdemo.settings import GatewaySettings

_log = logging.getLogger("wsdemo.gateway")

EPOCH: Final = re.compile(r"[0-9a-f]{0,16}(\.[0-9a-f]{0,16})?")
OFFSET: Final = re.compile(r"[0-9]{1,15}-[0-9]{1,15}")
MESSAGE_START: Final = message_text("", b'""', None).partition(b",")[0]
"""What each message in an inbox begins with."""
LOOK_STEP_S: Final = 0.05
LOOKS_A_STEP: Final = 100
"""When hints may be missing, so many inboxes are looked into at a time."""


class InboxCounters:
    """What a gateway has done with inboxes so far."""

    def __init__(self) -> None:
        self.sends = LabelledCounter(
            "inbox_sends",
            "Durable messages by what became of them",
            "outcome",
            ("stored", "duplicate", "busy", "unknown"),
        )
        self.hints = LabelledCounter(
            "inbox_hints",
            "Hints that a message was stored: it had been read before, the inbox is read for it, "
            "or its session is not here",
            "use",
            ("known", "read", "missed"),
        )
        self.pages = LabelledCounter(
            "inbox_pages", "Pages read from inboxes", "content", ("messages", "nothing", "failed")
        )
        self.resumes = LabelledCounter(
            "inbox_resumes",
            "Clients that began to read, or to read anew, by whether nothing was lost",
            "recovered",
            ("yes", "no"),
        )
        self.acks = LabelledCounter(
            "inbox_acks",
            "Acknowledgements: taken by Redis, refused by it, not sent, or of what was never sent",
            "outcome",
            ("taken", "refused", "failed", "impossible"),
        )
        self.trimmed = LabelledCounter(
            "inbox_trimmed",
            "Messages that had to go before anybody had acknowledged them, by the limit",
            "limit",
            ("messages", "bytes"),
        )

    def all(self) -> Sequence[LabelledCounter]:
        return (self.sends, self.hints, self.pages, self.resumes, self.acks, self.trimmed)


class InboxReader:
    """One session that reads its user's inbox: the port of its pump."""

    __slots__ = ("_durable", "pump", "read_at", "session")

    def __init__(self, durable: Durable, session: Session, resume: Any, window: int) -> None:
        self._durable = durable
        self.session = session
        self.read_at = 0.0
        """When the inbox was last read (s, the gateway's clock)."""
        position = position_of(resume)
        self.pump = Pump(self, window, position or NO_POSITION, automatic=position is None)

    def has_room(self) -> bool:
        return not self.session.socket.outbox.paused

    def read(self, position: tuple[str, str], most: int) -> None:
        self._durable.read(self, position, most)

    def write(self, offset: bytes, head: bytes) -> None:
        self._durable.deliver(self, offset, head)

    def tell(self, resumed: Resumed) -> None:
        self._durable.tell(self, resumed)


class Durable(Feature):
    """Durable messages of one gateway.

    Args:
        spawn: runs a task that the gateway owns.
        clock: monotonic seconds.
        rng: source of births and marks.
    """

    def __init__(
        self,
        link: Link,
        settings: GatewaySettings,
        inbox: InboxSettings,
        counters: Counters,
        observer: Observer,
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        clock: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self._inbox = _inbox_on(link, settings, inbox, rng)
        self._settings = inbox
        self._gateway_id = settings.gateway_id
        self._user_ids = settings.user_ids()
        self._max_in_flight = settings.limits.in_flight
        self._counters = counters
        self._observer = observer.if_observed
        self._spawn = spawn
        self._clock = clock
        self._readers: dict[str, InboxReader] = {}
        """By connection id."""
        self._owed: dict[str, InboxReader] = {}
        """Those whose client has acknowledged something that Redis does not know yet."""
        self._failed: dict[str, InboxReader] = {}
        """Those whose last page could not be read."""
        self._tasks: list[asyncio.Task[None]] = []
        self._looking: asyncio.Task[None] | None = None
        self._look_again = False
        self.counted = InboxCounters()

    # --- life --------------------------------------------------------------------------------

    async def start(self) -> None:
        await self._inbox.examine(NOBODY)
        self._tasks.append(self._spawn(self._repeat()))

    async def stop(self) -> None:
        looking = [] if self._looking is None else [self._looking]
        for task in (*self._tasks, *looking):
            task.cancel()
        self._tasks.clear()

    async def _repeat(self) -> None:
        """Every `ack_every_s`, tell Redis what was acknowledged, and read again what failed."""
        while True:
            await asyncio.sleep(self._settings.ack_every_s)
            owed, self._owed = self._owed, {}
            for reader in owed.values():
                self._acknowledge(reader)
            for reader in list(self._failed.values())[:LOOKS_A_STEP]:
                del self._failed[reader.session.conn_id]
                reader.pump.pump()

    # --- senders -----------------------------------------------------------------------------

    def store(self, session: Session, message: MessageRequest) -> None:
        """Store a message of this session; its sender is told the outcome. Never raises."""
        self._counters.messages_received += 1
        to, msg_id = message.to, message.id
        if msg_id is None:
            session.send(error_text(Say.ID_REQUIRED, "id_required"))
            return
        if not self._user_ids.may_register(to):
            # Nobody could ever read it.
            session.send(ack_text(msg_id, Status.OFFLINE))
            return
        started = 0.0
        if self._observer is not None:
            started = self._observer.hop(Kind.MESSAGE, session.user, to, msg_id)
        head = message_text(session.user, message.content, msg_id)[:-1]
        on_stored = partial(self._stored, session, to, msg_id, started)
        try:
            self._inbox.send(on_stored, to, session.user, msg_id, head)
        except (LinkDown, LinkBusy):
            self.counted.sends.counts["busy"] += 1
            session.send(ack_text(msg_id, Status.BUSY))
            return
        session.in_flight += 1
        if session.in_flight >= self._max_in_flight:
            session.pause()

    def _stored(self, session: Session, to: str, msg_id: str, started: float, reply: Any) -> None:
        session.in_flight -= 1
        if session.in_flight == self._max_in_flight // 2:
            session.resume()
        if isinstance(reply, StoreReply):
            is_new = reply.outcome is StoreOutcome.STORED
            status = Status.STORED if is_new else Status.DUPLICATE
            self._note(reply, is_new)
        elif isinstance(reply, LinkTimeout):
            status = Status.UNKNOWN
        else:
            status = Status.BUSY  # Redis refused the script before its first write.
        self.counted.sends.counts[status] += 1
        session.send(ack_text(msg_id, status))
        if self._observer is not None:
            gateway = reply.gateway_id if isinstance(reply, StoreReply) else ""
            self._observer.stored(to, gateway, session.conn_id, msg_id, status, started)

    def _note(self, reply: StoreReply, is_new: bool) -> None:
        """Count what had to go; and tell a recipient who is here, because nobody else will."""
        if reply.trimmed_by_number or reply.trimmed_by_bytes:
            trimmed = self.counted.trimmed.counts
            trimmed["messages"] += reply.trimmed_by_number
            trimmed["bytes"] += reply.trimmed_by_bytes
        if is_new and reply.gateway_id == self._gateway_id:
            self.hint(StoredHint(reply.conn_id, reply.epoch, reply.offset))
        for gateway_id, conn_id in reply.others:
            if gateway_id == self._gateway_id:
                self.hint(StoredHint(conn_id, reply.epoch, reply.offset))

    async def count(self, user: str) -> InboxCount:
        """Say how much is in the inbox of a user.

        Raises:
            LINK_ERRORS: Redis could not be asked.
        """
        return await self._inbox.count(user)

    # --- recipients --------------------------------------------------------------------------

    def verbs(self) -> Mapping[str, Verb]:
        return {"ack": self._ack}

    def check_register(self, request: RegisterRequest) -> None:
        position_of(request.resume)

    def welcome(self, session: Session) -> Mapping[str, Any]:
        return {"durable": True}

    def registered(self, session: Session, request: RegisterRequest) -> None:
        reader = InboxReader(self, session, request.resume, self._settings.durable_window)
        self._readers[session.conn_id] = reader
        session.socket.outbox.on_room = reader.pump.pump
        reader.pump.pump()

    def leaving(self, session: Session) -> None:
        reader = self._readers.pop(session.conn_id, None)
        if reader is None:
            return
        reader.pump.ended = True
        self._failed.pop(session.conn_id, None)
        self._owed.pop(session.conn_id, None)
        self._acknowledge(reader)  # After the release, the word of this session does not count.

    def hint(self, hint: StoredHint) -> None:
        """Take note that something was stored for a session of ours. Never raises: an error may
        delay a message, but must not end the subscription of all users.
        """
        try:
            self._hint(hint)
        except Exception as problem:
            asyncio.get_running_loop().call_exception_handler(
                {"message": "a hint was lost", "exception": problem}
            )

    def _hint(self, hint: StoredHint) -> None:
        reader = self._readers.get(hint.toConn)
        if reader is None or not OFFSET.fullmatch(hint.offset):
            self.counted.hints.counts["missed"] += 1
            return
        is_news = reader.pump.hint(hint.epoch, hint.offset)
        self.counted.hints.counts["read" if is_news else "known"] += 1
        if self._observer is not None:
            self._observer.inbox(Kind.HINT, reader.session.user, hint.toConn, hint.offset)

    def _ack(self, session: Session, document: dict[str, Any]) -> None:
        epoch, offset = document.get("epoch"), document.get("offset")
        if not isinstance(epoch, str) or not isinstance(offset, str):
            raise ProtocolError(Say.INVALID)
        if not EPOCH.fullmatch(epoch) or not OFFSET.fullmatch(offset):
            raise ProtocolError(Say.INVALID)
        reader = self._readers.get(session.conn_id)
        if reader is None or not reader.pump.ack(epoch, offset):
            # A reset may have crossed it; then it is about what is no more.
            self.counted.acks.counts["impossible"] += 1
            return
        self._owe(reader)

    # --- what a pump asks for ----------------------------------------------------------------

    def read(self, reader: InboxReader, position: tuple[str, str], most: int) -> None:
        """Read a page for a session."""
        claim = reader.session.claim
        assert claim is not None
        on_page = partial(self._page, reader)
        try:
            self._inbox.read(
                on_page, claim.user, claim.conn_id, claim.token, position, most, claim.device
            )
        except (LinkDown, LinkBusy):
            self._not_read(reader)
            return
        reader.read_at = self._clock()

    def _page(self, reader: InboxReader, page: Any) -> None:
        if reader.pump.ended:
            return
        if isinstance(page, Exception):
            self._not_read(reader)
        elif page is None:
            reader.session.end(Code.REPLACED)
        else:
            self._take(reader, page)

    def _take(self, reader: InboxReader, page: InboxPage) -> None:
        self.counted.pages.counts["messages" if page.rows else "nothing"] += 1
        if self._observer is not None:
            session = reader.session
            what = f"{len(page.rows)} messages after {page.since}"
            self._observer.inbox(Kind.PAGE, session.user, session.conn_id, what)
        reader.pump.page(page)
        self._owe(reader)

    def _not_read(self, reader: InboxReader) -> None:
        self.counted.pages.counts["failed"] += 1
        reader.pump.failed()
        self._failed[reader.session.conn_id] = reader

    def deliver(self, reader: InboxReader, offset: bytes, head: bytes) -> None:
        """Send a message of an inbox to its client."""
        if not head.startswith(MESSAGE_START):
            self._counters.malformed_envelopes += 1  # Nobody of ours has stored it.
            return
        self._counters.messages_delivered += 1
        text = b"%b}" % head if reader.pump.automatic else b'%b,"offset":"%b"}' % (head, offset)
        reader.session.deliver(text)
        if self._observer is not None:
            told = msgspec.json.decode(head + b"}")
            self._observer.hop(Kind.DELIVER, reader.session.user, told["from"], told["id"])

    def tell(self, reader: InboxReader, resumed: Resumed) -> None:
        """Tell a client where it goes on, if it knows what that means."""
        self.counted.resumes.counts["yes" if resumed.recovered else "no"] += 1
        if not reader.pump.automatic:
            reader.session.send(resumed_text(*resumed))
        if self._observer is not None:
            session = reader.session
            self._observer.inbox(
                Kind.RESUMED, session.user, session.conn_id, resumed.offset, ok=resumed.recovered
            )

    # --- acknowledgements to Redis -------------------------------------------------------------

    def _owe(self, reader: InboxReader) -> None:
        if reader.pump.to_ack is not None and not reader.pump.ended:
            self._owed[reader.session.conn_id] = reader

    def _acknowledge(self, reader: InboxReader) -> None:
        pump, session = reader.pump, reader.session
        position = pump.to_ack
        if position is None:
            return
        on_done = partial(self._acknowledged, session, position[1])
        try:
            self._inbox.acknowledge(
                on_done, session.user, session.conn_id, position, session.device
            )
        except (LinkDown, LinkBusy):
            self.counted.acks.counts["failed"] += 1
            self._owe(reader)
        else:
            pump.to_ack = None

    def _acknowledged(self, session: Session, offset: str, reply: Any) -> None:
        # One that was lost costs nothing but room: a later one says it again.
        was_answered = not isinstance(reply, Exception)
        outcome = ("taken" if reply >= 0 else "refused") if was_answered else "failed"
        self.counted.acks.counts[outcome] += 1
        if self._observer is not None:
            ok = outcome == "taken"
            self._observer.inbox(Kind.INBOX_ACK, session.user, session.conn_id, offset, ok=ok)

    # --- hints that were lost ------------------------------------------------------------------

    def refreshing(self, sessions: Sequence[Session]) -> None:
        for session in sessions:
            reader = self._readers.get(session.conn_id)
            if reader is None:
                continue
            try:
                self._inbox.ask_last(partial(self._hear_last, reader), session.user)
            except (LinkDown, LinkBusy):
                return  # When Redis is back, all inboxes are looked into.

    def _hear_last(self, reader: InboxReader, last: Any) -> None:
        if isinstance(last, Exception) or reader.pump.ended:
            return
        if self._clock() - reader.read_at > self._inbox.read_again_s:
            reader.pump.look()  # A read keeps alive what Redis knows of the inbox.
        else:
            reader.pump.newest(last)

    def gap(self) -> None:
        self._look_at_all()

    def link_is_back(self) -> None:
        self._look_at_all()

    def _look_at_all(self) -> None:
        """Look into all inboxes, now or again after the look that is under way."""
        self._look_again = True
        if self._readers and (self._looking is None or self._looking.done()):
            self._looking = self._spawn(self._look())

    async def _look(self) -> None:
        while self._look_again:
            self._look_again = False
            readers = list(self._readers.values())
            for start in range(0, len(readers), LOOKS_A_STEP):
                for reader in readers[start : start + LOOKS_A_STEP]:
                    reader.pump.look()
                await asyncio.sleep(LOOK_STEP_S)

    # --- what it says about itself -------------------------------------------------------------

    def labelled(self) -> Sequence[LabelledCounter]:
        return self.counted.all()

    def gauges(self) -> Gauges:
        return {
            "inbox_behind": (
                "Users here with more in their inbox than was sent to them",
                lambda: sum(reader.pump.behind for reader in self._readers.values()),
            )
        }


def _inbox_on(
    link: Link, settings: GatewaySettings, inbox: InboxSettings, rng: random.Random
) -> Inbox:
    keyspace, gateway_id = settings.keyspace, settings.gateway_id
    if settings.devices > 1:
        timing, devices = settings.timing, settings.devices
        return DeviceInbox(link, keyspace, inbox, gateway_id, rng, timing, devices)
    return Inbox(link, keyspace, inbox, gateway_id, rng)


def position_of(resume: Any) -> tuple[str, str] | None:
    """Return the position that a register names; None when the client does not speak of it.

    Raises:
        ProtocolError: it is none.
    """
    if resume is None:
        return None
    if not isinstance(resume, dict):
        raise ProtocolError(Say.INVALID)
    epoch, offset = resume.get("epoch", ""), resume.get("offset", NO_POSITION[1])
    if not isinstance(epoch, str) or not isinstance(offset, str):
        raise ProtocolError(Say.INVALID)
    if not EPOCH.fullmatch(epoch) or not OFFSET.fullmatch(offset):
        raise ProtocolError(Say.INVALID)
    return epoch, offset

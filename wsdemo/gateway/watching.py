"""Presence events: how does a gateway learn that a watched user has come or gone, and who is told?

For each watched user it listens to one channel, however many of its sessions watch that user. What
is heard, what Redis says when it is asked and what time it is all go to the pure core (`watch`);
this module carries out what comes of it. Watched users are read again every `watch_reconcile_s`,
and at once when events may have been missed: so a lost event, a lease that ended without a word,
or a gateway without this feature only costs time (W1).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

from wsdemo.gateway.counters import LabelledCounter
from wsdemo.gateway.feature import Feature, Gauges, Verb
from wsdemo.gateway.journal import GATEWAY_LOG
from wsdemo.gateway.permissions import permits
from wsdemo.gateway.rate import Rate
from wsdemo.gateway.watch import (
    Known,
    Reading,
    UserState,
    WatchStep,
    decode_event,
    on_due,
    on_event,
    on_reading,
    told_text,
)
from wsdemo.protocol import MAX_ID_CHARS, ProtocolError, Say
from wsdemo.redis.interface import Link
from wsdemo.redis.link import LinkBusy, LinkDown
from wsdemo.router import Router
from wsdemo.settings import GatewaySettings
from wsdemo.tasks import end

if TYPE_CHECKING:
    from wsdemo.gateway.session import Session

_log = logging.getLogger(GATEWAY_LOG)

CLAIM: Final = "watch"
"""The claim of a token that says whom its user may watch: a list of names, or of patterns."""
CHANNEL: Final = "watch"
"""The kind of channel on which the scripts of presence tell who comes and goes."""
STEP_S: Final = 0.05
"""How finely a reading of all watched users is spread over time."""


class _WatchedUser:
    """One user whom sessions of this gateway watch."""

    __slots__ = ("known", "timer", "user", "watchers")

    def __init__(self, user: str) -> None:
        self.user = user
        self.known = Known()
        self.watchers: dict[Session, None] = {}
        self.timer: asyncio.TimerHandle | None = None
        """For the end of the grace; None when nobody has gone."""


class _Watcher:
    """One session that watches others."""

    __slots__ = ("paid_until", "users")

    def __init__(self) -> None:
        self.users: dict[str, None] = {}
        self.paid_until = 0.0


class _Clock:
    """The time of Redis, as it is told before the answers of the same batch."""

    def __init__(self) -> None:
        self.at: int | None = None
        """In Unix milliseconds; None: it could not be asked."""

    def take(self, reply: Any) -> None:
        if not isinstance(reply, Exception):
            self.at = int(reply[0]) * 1000 + int(reply[1]) // 1000


class RoomWatcher(Protocol):
    """Tells sessions who comes into rooms, and who goes. Both methods raise a `ProtocolError`."""

    def watch(self, session: Session, document: Mapping[str, Any]) -> None: ...

    def unwatch(self, session: Session, document: Mapping[str, Any]) -> None: ...


class Watching(Feature):
    """Presence events of one gateway.

    Args:
        rooms: None where there are none.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        link: Link,
        router: Router,
        clock: Callable[[], float],
        rng: random.Random,
        rooms: RoomWatcher | None = None,
    ) -> None:
        assert settings.watch is not None
        self._limits = settings.watch
        self._keyspace = settings.keyspace
        self._is_user_id = settings.user_ids().possible
        self._link = link
        self._router = router
        self._rooms = rooms
        self._clock = clock
        self._rng = rng
        self._rate = Rate.of(self._limits.watches_per_s, self._limits.watch_burst)
        self._batch = max(1, round(settings.limits.resync_per_s * STEP_S))
        self._watched: dict[str, _WatchedUser] = {}
        self._watchers: dict[Session, _Watcher] = {}
        self._soon = asyncio.Event()
        self._reconciler: asyncio.Task[None] | None = None
        self._events = LabelledCounter(
            "watch_events",
            "Times that the watchers of a user were told of a state",
            "state",
            UserState,
        )
        self._reads = LabelledCounter(
            "watch_reads",
            "Readings of the presence of a watched user, by what was found",
            "found",
            (*UserState, "failed"),
        )

    # --- the gateway -------------------------------------------------------------------------

    async def start(self) -> None:
        self._reconciler = asyncio.get_running_loop().create_task(
            self._reconcile(), name="watch-reconcile"
        )

    async def stop(self) -> None:
        reconciler, self._reconciler = self._reconciler, None
        if reconciler is not None:
            await end(reconciler)
        for session in list(self._watchers):
            self.leaving(session)

    def link_is_back(self) -> None:
        self._soon.set()

    def gap(self) -> None:
        self._soon.set()

    def labelled(self) -> Sequence[LabelledCounter]:
        return (self._events, self._reads)

    def gauges(self) -> Gauges:
        return {"watched_users": ("Users whom sessions here watch", lambda: len(self._watched))}

    # --- sessions ----------------------------------------------------------------------------

    def verbs(self) -> Mapping[str, Verb]:
        return {"watch": self._watch, "unwatch": self._unwatch}

    def welcome(self, session: Session) -> Mapping[str, Any]:
        """Say that presence may be watched here. When a session has shown another token, it ceases
        to watch whom that one does not permit.
        """
        watcher = self._watchers.get(session)
        for user in list(watcher.users) if watcher is not None else ():
            if not permits(session.claims, CLAIM, user):
                self._remove(session, user)
        return {"watch": True}

    def leaving(self, session: Session) -> None:
        watcher = self._watchers.get(session)
        for user in list(watcher.users) if watcher is not None else ():
            self._remove(session, user)
        self._watchers.pop(session, None)

    def _watch(self, session: Session, document: dict[str, Any]) -> None:
        if (rooms := self._rooms_for(document)) is not None:
            rooms.watch(session, document)
            return
        users, msg_id = self._users_of(document), _msg_id(document)
        self._pay(session, len(users), msg_id)
        if not all(permits(session.claims, CLAIM, user) for user in users):
            # Whether there is such a user makes no difference.
            raise ProtocolError(Say.FORBIDDEN, msg_id)
        if not all(map(self._is_user_id, users)):
            raise ProtocolError(Say.INVALID, msg_id)
        watched = self._watchers[session].users
        if len(watched.keys() | set(users)) > self._limits.watched_users:
            raise ProtocolError(Say.TOO_MANY_WATCHED, msg_id)
        for user in users:
            if session not in self._watchers:
                return  # It has ended: it did not read, and there was no room for its snapshots.
            self._add(session, user)

    def _rooms_for(self, document: dict[str, Any]) -> RoomWatcher | None:
        """Return who acts on a message that names rooms; None when it is about users.

        Raises:
            ProtocolError: it names both.
        """
        if self._rooms is None or "rooms" not in document:
            return None
        if "users" in document:
            raise ProtocolError(Say.INVALID, _msg_id(document))
        return self._rooms

    def _unwatch(self, session: Session, document: dict[str, Any]) -> None:
        if (rooms := self._rooms_for(document)) is not None:
            rooms.unwatch(session, document)
            return
        for user in self._users_of(document):
            self._remove(session, user)

    def _users_of(self, document: dict[str, Any]) -> list[str]:
        """Return the users that a message names, each once.

        Raises:
            ProtocolError: it names none, or too many, or what is no text.
        """
        users, msg_id = document.get("users"), _msg_id(document)
        if not isinstance(users, list) or not users:
            raise ProtocolError(Say.INVALID, msg_id)
        if not all(isinstance(user, str) for user in users):
            raise ProtocolError(Say.INVALID, msg_id)
        if len(users) > self._limits.watched_users:
            raise ProtocolError(Say.TOO_MANY_WATCHED, msg_id)
        return list(dict.fromkeys(users))

    def _pay(self, session: Session, users: int, msg_id: str | None) -> None:
        """Apply the rate limit: each user who is named costs a subscription and a reading.

        Raises:
            ProtocolError: it is exceeded; then nothing is paid.
        """
        watcher = self._watchers.setdefault(session, _Watcher())
        now = self._clock()
        paid_until: float | None = watcher.paid_until
        for _ in range(users):
            if paid_until is not None:
                paid_until = self._rate.take(paid_until, now)
        if paid_until is None:
            raise ProtocolError(Say.RATE_LIMITED, msg_id)
        watcher.paid_until = paid_until

    def _add(self, session: Session, user: str) -> None:
        self._watchers[session].users[user] = None
        watched = self._watched.get(user)
        if watched is None:
            watched = self._watched[user] = _WatchedUser(user)
            self._listen(watched)
        watched.watchers[session] = None
        if watched.known.told is not None:
            session.send(told_text(user, watched.known.told))

    def _remove(self, session: Session, user: str) -> None:
        watcher, watched = self._watchers.get(session), self._watched.get(user)
        if watcher is not None:
            watcher.users.pop(user, None)
        if watched is None or session not in watched.watchers:
            return
        del watched.watchers[session]
        if not watched.watchers:
            del self._watched[user]
            self._no_timer(watched)
            self._router.unlisten(self._channel(user))

    # --- what happens to the watched ---------------------------------------------------------

    def _channel(self, user: str) -> str:
        return self._keyspace.channel(CHANNEL, user)

    def _listen(self, watched: _WatchedUser) -> None:
        """Listen, and then read: nothing that happens after the reading is missed."""
        listening = self._router.listen(self._channel(watched.user), partial(self._hear, watched))
        listening.add_done_callback(partial(self._listens, watched))

    def _listens(self, watched: _WatchedUser, listening: asyncio.Future[None]) -> None:
        if listening.cancelled():
            return  # It is not watched any more, or this gateway ends.
        refused = listening.exception()
        if refused is not None:
            _log.warning("[Gateway] events of a watched user cannot be heard: %s", refused)
        self._read([watched])  # Also then: late is better than never.

    def _hear(self, watched: _WatchedUser, data: bytes) -> None:
        event = decode_event(data)
        if event is not None and self._is_watched(watched):
            now, grace_s = self._clock(), self._limits.watch_grace_s
            self._carry_out(watched, on_event(watched.known, event, now, grace_s), now)

    def _is_watched(self, watched: _WatchedUser) -> bool:
        return self._watched.get(watched.user) is watched

    def _carry_out(self, watched: _WatchedUser, step: WatchStep, now: float) -> None:
        """Do what comes of something that happened. With the `now` for which that was decided: an
        absence is due at once, or has a timer, and nothing in between.
        """
        watched.known = step.known
        if step.tell is not None:
            self._events.counts[step.tell.state] += 1
            text = told_text(watched.user, step.tell)
            for session in list(watched.watchers):
                session.send(text)
        absence = step.known.absence
        if absence is None:
            self._no_timer(watched)
        elif watched.timer is None and (wait_s := absence.due_s - now) > 0:
            watched.timer = asyncio.get_running_loop().call_later(wait_s, self._due, watched)
        if step.read:
            self._read([watched])

    def _due(self, watched: _WatchedUser) -> None:
        watched.timer = None  # If it came a little early, there is another one.
        now = self._clock()
        self._carry_out(watched, on_due(watched.known, now), now)

    @staticmethod
    def _no_timer(watched: _WatchedUser) -> None:
        if watched.timer is not None:
            watched.timer.cancel()
            watched.timer = None

    # --- reading -----------------------------------------------------------------------------

    def _read(self, several: Iterable[_WatchedUser]) -> None:
        """Ask Redis for the presence of these users, in one batch. When it cannot be asked, the
        next reconciliation does so.
        """
        clocks: dict[int, _Clock] = {}
        for watched in several:
            try:
                self._ask(watched, clocks)
            except (LinkDown, LinkBusy):
                self._reads.counts["failed"] += 1

    def _ask(self, watched: _WatchedUser, clocks: dict[int, _Clock]) -> None:
        """Ask for the presence of a user, behind the time of the server that has it: its answers
        come in the order of our questions. (In a cluster, each bucket is on one server.)
        """
        key, bucket = self._keyspace.presence(watched.user), self._keyspace.bucket(watched.user)
        clock = clocks.get(bucket)
        if clock is None:
            clock = _Clock()
            self._link.submit_beside(clock.take, key, "TIME")
            clocks[bucket] = clock
        take = partial(self._was_read, watched, watched.known.heard, clock)
        self._link.submit(take, "HMGET", key, "gwId", "connId", "epoch")

    def _was_read(self, watched: _WatchedUser, asked: int, clock: _Clock, reply: Any) -> None:
        if isinstance(reply, Exception) or clock.at is None:
            self._reads.counts["failed"] += 1
            return
        gateway_id, conn_id, token = reply
        is_online = bool(gateway_id and conn_id)
        self._reads.counts[UserState.ONLINE if is_online else UserState.OFFLINE] += 1
        if not self._is_watched(watched):
            return
        reading = Reading(_number(token) if is_online else None, clock.at, asked)
        now, grace_s = self._clock(), self._limits.watch_grace_s
        self._carry_out(watched, on_reading(watched.known, reading, now, grace_s), now)

    async def _reconcile(self) -> None:
        """Read all watched users now and again. Runs until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause_s()):
                    await self._soon.wait()
            self._soon.clear()
            await self._read_all()

    def _pause_s(self) -> float:
        """With jitter, so that gateways that started together do not ask together."""
        return self._limits.watch_reconcile_s * self._rng.uniform(0.5, 1.0)

    async def _read_all(self) -> None:
        several = list(self._watched.values())
        for start in range(0, len(several), self._batch):
            if start:
                await asyncio.sleep(STEP_S)
            self._read(filter(self._is_watched, several[start : start + self._batch]))


def _msg_id(document: dict[str, Any]) -> str | None:
    """Return the id of a message, when it has a valid one."""
    msg_id = document.get("id")
    return msg_id if isinstance(msg_id, str) and 0 < len(msg_id) <= MAX_ID_CHARS else None


def _number(text: bytes | None) -> int:
    """Return a token of an entry; 0 when it is none of ours."""
    return int(text) if text and text.isdigit() and len(text) < 17 else 0

"""Actions: what does a gateway do for a backend?

A message of the API goes the way of a user's message, and gets the same outcome. Everything else
asks Redis one question and repeats its answer: never more than Redis said (A1).
"""

from __future__ import annotations

import asyncio
import json
import secrets
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from wsdemo.gateway.api.documents import (
    Disconnect,
    DisconnectAnswer,
    InboxAnswer,
    MembersAnswer,
    Page,
    PresenceAnswer,
    PublishAnswer,
    PublishToRoom,
    PublishToUser,
    RoomAnswer,
    SessionAnswer,
    UsersAnswer,
)
from wsdemo.gateway.api.refusal import Refusal
from wsdemo.gateway.counters import Counters
from wsdemo.gateway.delivery import Delivery
from wsdemo.inbox.store import InboxCount
from wsdemo.presence.store import RedisPresence, SessionEntry
from wsdemo.protocol import Code, DirectHeads, Kick, MessageRequest, Status
from wsdemo.redis.link import may_work_later
from wsdemo.redis.outcome import CommandError
from wsdemo.router import Router
from wsdemo.settings import GATEWAY_ID
from wsdemo.user_ids import UserIds


class AwaitedMessage:
    """The sender of one message of a backend: an endpoint that waits for what becomes of it."""

    def __init__(self, user: str, conn_id: str) -> None:
        self.user = user
        self.conn_id = conn_id
        """No session has this id: a message that bounces after its answer bounces to nobody."""
        self.heads: DirectHeads | None = None
        self.in_flight = 0
        self.said: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

    def send(self, payload: bytes) -> None:
        """Take what a client would have been told."""
        if not self.said.done():
            self.said.set_result(json.loads(payload))

    def deliver(self, payload: bytes) -> None:
        """Ignore a message: nobody can send one to it."""

    def pause(self) -> None:
        """Ignore that it should send no more: it sends one message."""

    def resume(self) -> None:
        """Ignore that it may go on."""

    def end(self, code: Code) -> None:
        """Ignore that its connection should end: it has none."""

    def fail(self, problem: Exception) -> None:
        """Let the request fail."""
        if not self.said.done():
            self.said.set_exception(problem)


class InboxFeature(Protocol):
    """What is needed of durable messages."""

    def store(self, session: Any, message: MessageRequest) -> None: ...
    async def count(self, user: str) -> InboxCount: ...


class RoomsFeature(Protocol):
    """What is needed of rooms."""

    async def members(self, name: str) -> list[str]: ...
    async def publish_from(
        self, sender: str, name: str, msg_id: str | None, content: str
    ) -> Status: ...


def _known(status: str) -> Any:
    """Return the status of a message, unless nothing was sent.

    Raises:
        Refusal: it may be sent later.
    """
    if status == Status.BUSY:
        text = "Redis cannot be asked: nothing was sent"
        raise Refusal(503, "unavailable", text, {"Retry-After": "1"})
    return status


@dataclass(frozen=True, slots=True)
class Actions:
    """What the endpoints do. Each may raise one of `LINK_ERRORS`, or a `Refusal`."""

    delivery: Delivery
    router: Router
    presence_of: RedisPresence
    counters: Counters
    user_ids: UserIds
    max_content_bytes: int
    conn_id: str
    """What the messages of this API say that they come from."""
    durable: InboxFeature | None = None
    rooms: RoomsFeature | None = None
    """None when this gateway does not offer it."""

    # --- messages ----------------------------------------------------------------------------

    async def publish(self, body: PublishToUser | PublishToRoom) -> msgspec.Struct:
        """Send a message, and wait for its outcome."""
        if len(body.content.encode()) > self.max_content_bytes:
            most = self.max_content_bytes
            raise Refusal(413, "too_large", f"The content has more than {most} bytes")
        msg_id = body.id or secrets.token_hex(8)
        if isinstance(body, PublishToRoom):
            status = await self._rooms().publish_from(body.sender, body.room, msg_id, body.content)
            return RoomAnswer(status=_known(status.value), id=msg_id)
        return PublishAnswer(status=_known(await self._publish(body, msg_id)), id=msg_id)

    async def _publish(self, body: PublishToUser, msg_id: str) -> str:
        submit = self._durable().store if body.durable else self.delivery.submit
        if not self.user_ids.possible(body.to):
            return Status.OFFLINE.value
        sender = AwaitedMessage(body.sender, self.conn_id)
        content = msgspec.Raw(msgspec.json.encode(body.content))
        submit(sender, MessageRequest(body.to, content, msg_id, body.durable))
        return str((await sender.said)["status"])

    # --- optional features -------------------------------------------------------------------

    def _durable(self) -> InboxFeature:
        if self.durable is None:
            raise Refusal(404, "not_durable", "This gateway stores no messages")
        return self.durable

    def _rooms(self) -> RoomsFeature:
        if self.rooms is None:
            raise Refusal(404, "no_rooms", "This gateway has no rooms")
        return self.rooms

    async def inbox(self, user: str) -> InboxAnswer:
        """Say how much is in the inbox of a user."""
        durable = self._durable()
        if not self.user_ids.possible(user):
            return InboxAnswer(user=user, count=0, bytes=0, last="", acked="")
        found = await durable.count(user)
        return InboxAnswer(
            user=user,
            count=found.messages,
            bytes=found.bytes,
            last=found.last,
            acked=found.acked,
        )

    async def members(self, name: str) -> MembersAnswer:
        """List the members of a room."""
        members = await self._rooms().members(name)
        return MembersAnswer(room=name, members=members, count=len(members))

    # --- sessions ----------------------------------------------------------------------------

    async def disconnect(self, body: Disconnect) -> DisconnectAnswer:
        """Kick the sessions that Redis knows. Each is named by its connection, so a newer session
        of the same user is never meant.
        """
        found = await self._sessions(body.user)
        meant = [entry for entry in found if body.device in (None, entry.device)]
        told = [entry for entry in meant if await self._kick(body, entry)]
        status: Any = "kicked" if len(told) == len(meant) else "unreachable"
        return DisconnectAnswer(
            status=status if meant else "offline", sessions=[_answer(entry) for entry in told]
        )

    async def _kick(self, body: Disconnect, entry: SessionEntry) -> bool:
        """Publish a kick; return whether anybody heard it."""
        self.counters.kicks_sent += 1
        kick = Kick(body.user, entry.conn_id, entry.token, body.code, body.reason)
        return await self.router.kick(entry.gateway_id, kick) > 0

    async def presence(self, user: str) -> PresenceAnswer:
        """Say where a user is."""
        found = await self._sessions(user)
        return PresenceAnswer(
            user=user, online=bool(found), sessions=[_answer(entry) for entry in found]
        )

    async def users(self, page: Page) -> UsersAnswer:
        """List users who are online."""
        cursor, found = await self.presence_of.scan(page.cursor, page.count)
        users = [user for user in found if self.user_ids.possible(user)]
        return UsersAnswer(users=users, cursor=cursor)

    async def _sessions(self, user: str) -> list[SessionEntry]:
        """Return the sessions of a user. What no gateway can have written is left out."""
        if not self.user_ids.possible(user):
            return []
        try:
            found = await self.presence_of.sessions(user)
        except CommandError as problem:
            if may_work_later(problem):
                raise
            self.counters.malformed_presence += 1
            return []  # The key has another type: nothing of ours.
        ours = [entry for entry in found if _is_ours(entry)]
        self.counters.malformed_presence += len(found) - len(ours)
        return ours


def _is_ours(entry: SessionEntry) -> bool:
    """Say whether there can be such a gateway: its name becomes part of a channel."""
    return GATEWAY_ID.fullmatch(entry.gateway_id) is not None and entry.gateway_id != "broadcast"


def _answer(entry: SessionEntry) -> SessionAnswer:
    return SessionAnswer(
        gatewayId=entry.gateway_id,
        connId=entry.conn_id,
        leaseMs=entry.ttl_ms,
        device=entry.device,
    )

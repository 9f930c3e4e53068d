"""An inbox on a real server, as a test uses it."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import msgspec

from wsdemo.features import InboxSettings
from wsdemo.inbox import DeviceInbox, Inbox, InboxPage, StoreReply
from wsdemo.inbox.store import NO_POSITION
from wsdemo.protocol import message_text
from wsdemo.redis.link import RedisLink
from wsdemo.redis.server import BundledServer
from wsdemo.settings import Keyspace, Limits, Timing

Position = tuple[str, str]
BOB: Final = "bob"


class Box:
    """The inbox of bob, in a tongue that waits."""

    def __init__(self, inbox: Inbox, link: RedisLink, keyspace: Keyspace) -> None:
        self._inbox = inbox
        self.link = link
        self.stream = keyspace.key("inbox", BOB)
        self.meta = keyspace.key("inboxmeta", BOB)
        self.presence = keyspace.presence(BOB)
        self.id_key = inbox.id_key

    async def owner(self, conn_id: str, gateway_id: str = "gateway-01", token: int = 1) -> None:
        """Write the entry of bob, as a register does."""
        entry = ("gwId", gateway_id, "connId", conn_id, "epoch", token)
        await self.link.call("DEL", self.presence)
        await self.link.call("HSET", self.presence, *entry)

    async def device(
        self,
        device: str,
        conn_id: str,
        token: int = 1,
        gateway_id: str = "gateway-01",
        life_ms: int = 60_000,
    ) -> None:
        """Write the entry of a device of bob."""
        seconds, micros = await self.link.call("TIME")
        until = int(seconds) * 1000 + int(micros) // 1000 + life_ms
        entry = f"{gateway_id} {conn_id} {token} {until} 0 "
        await self.link.call("HSET", self.presence, f"s:{device}", entry)

    async def leave(self, device: str) -> None:
        """Remove the entry of a device."""
        await self.link.call("HDEL", self.presence, f"s:{device}")

    async def cursors(self) -> dict[str, str]:
        """Return the offset that each device has all messages up to."""
        words = [word.decode() for word in await self.link.call("HGETALL", self.meta)]
        fields = zip(words[::2], words[1::2], strict=True)
        return {key[6:]: offset for key, offset in fields if key.startswith("acked:")}

    async def send(
        self, msg_id: str, content: str = "x", sender: str = "alice", to: str = BOB
    ) -> StoreReply:
        head = message_text(sender, msgspec.json.encode(content), msg_id)[:-1]
        reply = await _waits(lambda answer: self._inbox.send(answer, to, sender, msg_id, head))
        assert isinstance(reply, StoreReply)
        return reply

    async def read(
        self,
        position: Position = NO_POSITION,
        conn_id: str = "c1",
        token: int = 1,
        most: int = 64,
        device: str = "",
    ) -> InboxPage:
        page = await self.try_read(position, conn_id, token, most, device)
        assert page is not None, "superseded"
        return page

    async def try_read(
        self,
        position: Position = NO_POSITION,
        conn_id: str = "c1",
        token: int = 1,
        most: int = 64,
        device: str = "",
    ) -> InboxPage | None:
        page = await _waits(
            lambda answer: self._inbox.read(answer, BOB, conn_id, token, position, most, device)
        )
        assert page is None or isinstance(page, InboxPage)
        return page

    async def ack(self, position: Position, conn_id: str = "c1", device: str = "") -> int:
        reply = await _waits(
            lambda answer: self._inbox.acknowledge(answer, BOB, conn_id, position, device)
        )
        return int(reply)

    async def last(self) -> str:
        return str(await _waits(lambda answer: self._inbox.ask_last(answer, BOB)))

    def new_run(self, run: str) -> None:
        """Go on as if the server had been restarted, or another one promoted."""
        self._inbox._know_run(run)


async def _waits(ask: Callable[[Callable[[Any], None]], None]) -> Any:
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    ask(future.set_result)
    reply = await future
    if isinstance(reply, Exception):
        raise reply
    return reply


@contextlib.asynccontextmanager
async def box_on(
    server: BundledServer, keyspace: Keyspace, devices: int = 1, **settings: Any
) -> AsyncIterator[Box]:
    """The inbox of bob, who may have so many devices, with these flags."""
    link = RedisLink(server.url, Limits())
    told = (link, keyspace, InboxSettings(**settings), "gateway-09", random.Random())
    inbox = DeviceInbox(*told, Timing(), devices) if devices > 1 else Inbox(*told)
    await link.start()
    try:
        yield Box(inbox, link, keyspace)
    finally:
        await link.stop()


def ids(page: InboxPage) -> list[str]:
    """Return the ids of the messages on a page."""
    return [msgspec.json.decode(head + b"}")["id"] for _, head in page.rows]

"""Subscription: how does a gateway receive what others publish for it?

It has a connection of its own that does nothing else. It counts as up only when the server is no
replica (where we may ask), and has confirmed every channel. A confirmation after the first round
means that the connection was lost in between and that messages may have been missed: a gap, which
is counted and logged.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any

from wsdemo.redis.connection import RedisConnection, pack_command
from wsdemo.redis.link import role_trouble
from wsdemo.redis.outcome import CommandError, Refused, Trouble, trouble_of
from wsdemo.settings import Limits

Handler = Callable[[bytes, bytes], None]
"""Takes the channel and the message. It must not raise and must not block."""


class Subscription(RedisConnection):
    """The subscribed connection of one gateway.

    Args:
        channels: the channels that it subscribes to.
        on_message: called for each message, in the order of publishing.
        on_gap: called for each renewed subscription.
    """

    def __init__(
        self,
        url: str,
        limits: Limits,
        channels: Sequence[str],
        on_message: Handler,
        on_gap: Callable[[], None] = lambda: None,
        on_state: Callable[[bool], None] = lambda up: None,
        on_trouble: Callable[[Trouble], None] = lambda trouble: None,
        rng: random.Random | None = None,
    ) -> None:
        super().__init__(url, limits, on_state, on_trouble, rng)
        self._channels = list(channels)
        self._on_message = on_message
        self._on_gap = on_gap
        self._confirmed: asyncio.Future[None] | None = None
        self._unsubscribed: asyncio.Future[None] | None = None
        self._waiting: set[bytes] = set()
        self._role_asked = False
        self.rounds = 0
        """How many times all channels were confirmed; each one after the first is a gap."""

    async def _greet(self) -> Trouble | None:
        assert self._transport is not None and self._loop is not None
        confirmed = self._confirmed = self._loop.create_future()
        self._waiting = {channel.encode() for channel in self._channels}
        self._role_asked = True
        # In one write, because a subscribed connection takes no other commands. A replica gets
        # what is published at its primary, but PUBLISH there does not count our subscription.
        self._transport.write(
            pack_command(("ROLE",)) + pack_command(("SUBSCRIBE", *self._channels))
        )
        await confirmed
        self.rounds += 1
        if self.rounds > 1:
            self._on_gap()
        return None

    def _reply(self, reply: Any) -> None:
        if type(reply) is list and reply[0] == b"message":
            self._on_message(reply[1], reply[2])
        else:
            self._control(reply)

    def _control(self, reply: Any) -> None:
        if self._role_asked:
            self._role_asked = False
            trouble = role_trouble(reply)
            if trouble is not None:
                self._refused(trouble)
        elif isinstance(reply, CommandError):
            self._refused(trouble_of(reply))
            self._left()  # Who may not unsubscribe has said goodbye as well as it can.
        elif isinstance(reply, list) and reply[0] == b"subscribe":
            self._waiting.discard(reply[1])
            if not self._waiting and self._confirmed is not None and not self._confirmed.done():
                self._confirmed.set_result(None)
        elif isinstance(reply, list) and reply[0] == b"unsubscribe" and reply[2] == 0:
            self._left()

    def _refused(self, trouble: Trouble) -> None:
        if self._confirmed is not None and not self._confirmed.done():
            self._confirmed.set_exception(Refused(trouble))

    def _left(self) -> None:
        if self._unsubscribed is not None and not self._unsubscribed.done():
            self._unsubscribed.set_result(None)

    async def unsubscribe(self) -> None:
        """Unsubscribe, if the server can be asked; what was published before still arrives."""
        if self._transport is None or self._loop is None:
            return
        unsubscribed = self._unsubscribed = self._loop.create_future()
        self._transport.write(pack_command(("UNSUBSCRIBE",)))
        await asyncio.wait([unsubscribed], timeout=self._limits.redis_timeout_s)

    def _broken(self, why: str) -> None:
        for future in (self._confirmed, self._unsubscribed):
            if future is not None and not future.done():
                future.set_exception(ConnectionError(why))
                future.exception()  # Marked as retrieved; a task that waits for it still gets it.
        self._confirmed = self._unsubscribed = None

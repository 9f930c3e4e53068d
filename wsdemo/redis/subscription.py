"""Subscription: how does a gateway receive what others publish for it?

It has a connection of its own that does nothing else. It counts as up only when the server is no
replica (where we may ask), and has confirmed every channel. A confirmation after the first round
means that the connection was lost in between and that messages may have been missed: a gap, which
is counted and logged.

Channels may be added and removed while it lasts. What was added is subscribed to again, with all
others, whenever the connection is renewed.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from wsdemo.redis.connection import RedisConnection, Whereabouts, pack_command
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
        url: str | Whereabouts,
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
        self._more: dict[str, bool] = {}
        """The channels that were added: True when this connection has their confirmation."""
        self._added: dict[str, asyncio.Future[None]] = {}
        """Who waits for one of them to be confirmed."""
        self._asked: deque[str] = deque()
        """The channels of the commands for single channels, in their order: each gets one reply.
        It is '' for a channel that is removed."""
        self._due = 0
        """How many of these commands belong to the greeting of this connection."""
        self._role_asked = False
        self.rounds = 0
        """How many times all channels were confirmed; each one after the first is a gap."""

    # --- channels that come and go -----------------------------------------------------------

    def add(self, channel: str) -> asyncio.Future[None]:
        """Subscribe to one more channel.

        Returns:
            What is done when the server has confirmed it; while there is no connection, that is
            when there is one again. It fails with a `CommandError` when the server refuses it, and
            is cancelled when the channel is removed before, or the subscription ends. Several
            callers may share it: who awaits it and may be cancelled has to shield it.
        """
        known = self._added.get(channel)
        if known is not None:
            return known
        confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._more.get(channel):
            confirmed.set_result(None)
            return confirmed
        self._added[channel] = confirmed
        if channel not in self._more:
            self._more[channel] = False
            self._ask("SUBSCRIBE", channel, channel)
        return confirmed

    def remove(self, channel: str) -> None:
        """Unsubscribe from a channel that was added. What was published before may still arrive."""
        if self._more.pop(channel, None) is None:
            return
        confirmed = self._added.pop(channel, None)
        if confirmed is not None:
            confirmed.cancel()
        self._ask("UNSUBSCRIBE", channel, "")

    def _ask(self, command: str, channel: str, noted: str) -> None:
        if self._transport is not None:
            self._asked.append(noted)
            self._transport.write(pack_command((command, channel)))

    def _answered(self, problem: CommandError | None) -> None:
        """Handle the reply to one of these commands."""
        channel = self._asked.popleft()
        in_greeting = self._due > 0
        self._due -= in_greeting
        # A channel that was removed and added again has one more command under way.
        if channel in self._more and channel not in self._asked:
            self._confirm(channel, problem)
        if in_greeting:
            self._greeted()

    def _confirm(self, channel: str, problem: CommandError | None) -> None:
        confirmed = self._added.pop(channel, None)
        if problem is None:
            self._more[channel] = True
            if confirmed is not None and not confirmed.done():
                confirmed.set_result(None)
        elif confirmed is not None:
            del self._more[channel]
            if not confirmed.done():
                confirmed.set_exception(problem)
        else:
            # It was confirmed once, and somebody relies on it.
            self._refused(trouble_of(problem))

    async def stop(self) -> None:
        await super().stop()
        added, self._added = self._added, {}
        for confirmed in added.values():
            confirmed.cancel()

    # --- the connection ----------------------------------------------------------------------

    async def _greet(self) -> Trouble | None:
        assert self._transport is not None and self._loop is not None
        confirmed = self._confirmed = self._loop.create_future()
        self._waiting = {channel.encode() for channel in self._channels}
        self._role_asked = True
        # In one write, because a subscribed connection takes no other commands. A replica gets
        # what is published at its primary, but PUBLISH there does not count our subscription.
        # What was added has commands of its own: one that is refused must not take the others with
        # it.
        self._due = len(self._more)
        self._asked.extend(self._more)
        self._transport.write(
            b"".join(
                [
                    pack_command(("ROLE",)),
                    pack_command(("SUBSCRIBE", *self._channels)),
                    *(pack_command(("SUBSCRIBE", channel)) for channel in self._more),
                ]
            )
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
            trouble = self._judge_role(reply)
            if trouble is not None:
                self._refused(trouble)
        elif isinstance(reply, CommandError):
            if self._asked and not self._waiting:
                self._answered(reply)
                return
            self._refused(trouble_of(reply))
            self._left()  # Who may not unsubscribe has said goodbye as well as it can.
        elif isinstance(reply, list) and reply[0] == b"subscribe":
            if self._asked and reply[1] not in self._waiting:
                self._answered(None)
                return
            self._waiting.discard(reply[1])
            self._greeted()
        elif isinstance(reply, list) and reply[0] == b"unsubscribe":
            if self._asked:
                self._answered(None)
            elif reply[2] == 0:
                self._left()

    def _judge_role(self, reply: Any) -> Trouble | None:
        """Return why a server with this reply to ROLE is of no use."""
        return role_trouble(reply)

    def _greeted(self) -> None:
        """End the greeting, if all that it asked for is answered."""
        if self._waiting or self._due:
            return
        if self._confirmed is not None and not self._confirmed.done():
            self._confirmed.set_result(None)

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
        self._asked.clear()  # Those that were not confirmed are in the next greeting.
        self._due = 0
        self._more = dict.fromkeys(self._more, False)

"""Polling: what does Redis say about everybody, when it tells nobody that a lease has ended?

One script asks for the entries of many users in one command. Nothing waits for the answer: while
Redis stands still, the board goes on, and says that Redis cannot be asked.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Final

import redis.asyncio as redis_client
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from wsdemo.lab.classroom.translator import CROWD
from wsdemo.settings import Keyspace
from wsdemo.tasks import end

SAMPLE_S: Final = 0.5
ANSWER_S: Final = 1.0
"""Redis cannot be asked when it has not answered after this time. Less would blame it for a machine
that is busy; an outage that the laboratory makes is known at once."""
SAMPLED: Final = 1_000
"""Users whose entries are asked for at a time. Of more, people first, then the others in turn."""
NEVER_S: Final = 1e9
"""The end of an entry that has no lease."""

SCRIPT: Final = """
if #KEYS == 0 then return '[]' end
local out = {}
for i, key in ipairs(KEYS) do
  local entry = redis.pcall('HMGET', key, 'gwId', 'connId')
  if entry.err then entry = {} end
  out[i] = {entry[1] or '', entry[2] or '', redis.call('PTTL', key)}
end
return cjson.encode(out)
"""


@dataclass(frozen=True, slots=True)
class EntrySample:
    """What Redis answered; times in seconds since the record began."""

    asked_at: float
    entries: dict[str, tuple[str, str, float]] | None
    """User -> gateway ('' when there is no entry), connection, end of the lease. None when Redis
    did not answer."""


class EntrySampler:
    """Asks Redis every half second. Lives on the lab's loop.

    Args:
        redis_url: where it is.
        keyspace: of the lab.
        now: seconds since the record began.
    """

    def __init__(self, redis_url: str, keyspace: Keyspace, now: Callable[[], float]) -> None:
        self._keyspace = keyspace
        self._now = now
        # A question that failed is asked again after half a second, not by the library.
        self._database = redis_client.Redis.from_url(
            redis_url,
            socket_timeout=ANSWER_S,
            socket_connect_timeout=ANSWER_S,
            retry=Retry(NoBackoff(), 0),
        )
        self._people: dict[str, None] = {}
        self._simulated: dict[str, None] = {}
        self._asking: asyncio.Task[EntrySample] | None = None
        self._next_at = 0.0
        self._answered = False
        """Whether the answer was there already when it was last looked for."""
        self._outages = 0
        self._asked_in = 0
        """How many outages there had been when the question was asked."""
        self.asked_at = 0.0
        """When the last question was asked."""
        self.busy_s = 0.0
        """CPU time spent on questions and answers."""

    def add(self, user: str) -> None:
        """From now on, ask about this user too: something was written to the entry."""
        (self._simulated if CROWD.fullmatch(user) else self._people)[user] = None

    def remove(self, user: str) -> None:
        """Ask no more about a user: there is no entry, and every write is an event."""
        self._people.pop(user, None)
        self._simulated.pop(user, None)

    @property
    def users(self) -> list[str]:
        """Whom the next question is about."""
        people = list(islice(self._people, SAMPLED))
        return people + list(islice(self._simulated, SAMPLED - len(people)))

    def _take_turns(self, asked: list[str]) -> None:
        """Put those who were asked for behind the others, when there are too many for one time."""
        if len(self._people) + len(self._simulated) > SAMPLED:
            for user in asked:
                of = self._people if user in self._people else self._simulated
                of[user] = of.pop(user)

    def outage(self) -> None:
        """Take note that Redis has just stopped: an answer from before that counts no more."""
        self._outages += 1

    def poll(self) -> EntrySample | None:
        """Return the answer, if one has come; ask again when it is time.

        An answer is returned one call after it was there. It may know of a register whose event
        is still on its way through the gateway: the event is to be told first.
        """
        sample: EntrySample | None = None
        if self._asking is not None and self._answered:
            sample, self._asking = self._asking.result(), None
            if self._asked_in != self._outages:
                sample = EntrySample(sample.asked_at, None)
        if self._asking is None and self._now() >= self._next_at:
            self.asked_at = self._now()
            self._next_at = self.asked_at + SAMPLE_S
            self._asked_in = self._outages
            # Not awaited here: a Redis that stands still must not stop the board.
            self._asking = asyncio.create_task(self._ask(self.asked_at), name="entry sample")
        self._answered = self._asking is not None and self._asking.done()
        return sample

    async def _ask(self, asked_at: float) -> EntrySample:
        began = time.thread_time()
        users = self.users
        self._take_turns(users)
        keys = [self._keyspace.presence(user) for user in users]
        question = self._database.execute_command("EVAL", SCRIPT, len(keys), *keys)
        self.busy_s += time.thread_time() - began
        try:
            answer = await question
        except (RedisError, OSError, TimeoutError):
            return EntrySample(asked_at, None)
        began = time.thread_time()
        entries = self._read(users, answer, (asked_at + self._now()) / 2)
        self.busy_s += time.thread_time() - began
        return EntrySample(asked_at, entries)

    @staticmethod
    def _read(users: list[str], answer: bytes, t: float) -> dict[str, tuple[str, str, float]]:
        try:
            rows = json.loads(answer)
        except ValueError:  # Somebody has written bytes there that are no text.
            rows = json.loads(answer.decode(errors="replace"))
        return {
            user: (gateway, conn, round(t + left_ms / 1000, 3) if left_ms >= 0 else NEVER_S)
            if gateway
            else ("", "", 0.0)
            for user, (gateway, conn, left_ms) in zip(users, rows, strict=True)
        }

    async def stop(self) -> None:
        """End what is under way. Idempotent."""
        asking, self._asking = self._asking, None
        if asking is not None:
            await end(asking)
        await self._database.aclose()

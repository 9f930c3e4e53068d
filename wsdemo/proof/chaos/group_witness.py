"""Witness of several servers: who owned each user, in the order of the server that had the user?

A connection to each server reads MONITOR, as `witness` does for one. All keys of a user are in one
bucket, and one server has that bucket at a time. So the lines of that server are the order for this
user, until the bucket is handed over.

A script that runs on another server is a claim. The server is then asked what it has, and since
when. A claim that is newer hands the bucket over. One that is not comes from a server that does not
know yet that it was replaced: what it executes is lost, so it is left out, and counted.

A primary that is killed or frozen may have confirmed writes that its replica does not have. After
such a handover, whoever was changed shortly before the last line of the old server may have lost
these changes: for them the history starts anew (P3 and P5 are promised between two losses). After
a planned handover, nothing may be lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Collection, Iterator
from typing import Final
from urllib.parse import unquote, urlsplit

from wsdemo.proof.chaos.monitor_log import MonitorLog
from wsdemo.proof.chaos.redis_group import UNREACHABLE, BucketClaim, RedisGroup
from wsdemo.proof.chaos.witness import LINE_BYTES, RETRY_S
from wsdemo.proof.history import Happened, ObservationGap, Owner, Record, Released
from wsdemo.redis.connection import pack_command
from wsdemo.tasks import end

QUIET_S: Final = 0.05
"""A script whose server says nothing more for this long has ended."""
CATCH_UP_S: Final = 0.1
"""How long the lines of the server that had a bucket may take to be read, before it is handed
over."""
LOST_S: Final = 2.0
"""How long before its last line a primary may have confirmed what its replica lacks."""
PLANNED: Final = "handover, planned"
UNPLANNED: Final = "handover, writes may be lost"
IGNORED: Final = "a replaced server executed a script"


class GroupWitness:
    """A reader of MONITOR for each server of a group. `start`, `stop`.

    Args:
        note, clock: see `MonitorLog`.
    """

    def __init__(
        self, group: RedisGroup, note: Callable[[Record], None], clock: Callable[[], float]
    ) -> None:
        self.monitor_log = MonitorLog(self._noted, clock)
        self.gaps = 0
        """How often it had to reconnect to a server."""
        self.blind = 0
        """Servers that came back without anybody having taken their place."""
        self.watching = asyncio.Event()
        """Set when every server is read."""
        self._group = group
        self._note = note
        self._clock = clock
        self._read: set[int] = set()
        self._owner: dict[int, int] = {}
        """By bucket: the server whose lines count."""
        self._epoch: dict[int, int] = {}
        self._changed: dict[str, float] = {}
        """By user: when a session of it became the owner, or ended."""
        self._last: dict[int, float] = {}
        """By server: when its last line came."""
        self._cut: set[int] = set()
        """Servers whose connection was lost and who have executed nothing since."""
        self._alone: dict[int, float] = {}
        """By server: since when what it confirms reaches no other one."""
        self._planned = 0
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Return when every command from now on will be seen."""
        for number in range(len(self._group.servers)):
            self._tasks.append(asyncio.create_task(self._watch(number), name="witness"))
        await self.watching.wait()
        for number in range(len(self._group.servers)):
            await self.look(number)

    async def stop(self) -> None:
        """Stop watching. Idempotent.

        Raises:
            Exception: what has ended the watching; a witness that saw nothing proves nothing.
        """
        tasks, self._tasks = self._tasks, []
        await end(*tasks)
        for task in tasks:
            if not task.cancelled():
                task.result()

    @contextlib.contextmanager
    def planned(self) -> Iterator[None]:
        """Announce that what is handed over meanwhile is handed over without a loss."""
        self._planned += 1
        try:
            yield
        finally:
            self._planned -= 1

    def will_be_alone(self, number: int) -> None:
        """Announce that a primary is cut off from its replica, and goes on for a while."""
        self._alone[number] = self._clock()

    def data_will_be_lost(self) -> None:
        """Announce a loss. Here a handover shows it, so there is nothing to do."""

    def restart_will_come(self) -> None:
        """Announce a restart. Here a handover shows it, so there is nothing to do."""

    async def look(self, number: int) -> None:
        """Ask a server what it has, and take its word if it is newer."""
        with contextlib.suppress(*UNREACHABLE):
            claim = await asyncio.to_thread(self._group.claim, number)
            if claim is not None and self._gains(number, claim):
                await asyncio.sleep(CATCH_UP_S)
                self._hand_over(number, claim)

    # --- reading -----------------------------------------------------------------------------

    async def _watch(self, number: int) -> None:
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._listen(number)
            if number in self._read:
                self._read.discard(number)
                self.watching.clear()
                self._cut.add(number)
                self.gaps += 1
            await asyncio.sleep(RETRY_S)

    async def _listen(self, number: int) -> None:
        reader, writer = await self._dial(number)
        try:
            for word, good in (("PING", b"+PONG"), ("MONITOR", b"+OK")):
                writer.write(pack_command((word,)))
                if not (await reader.readuntil(b"\r\n")).startswith(good):
                    return  # It is still loading its data: try again.
            self._read.add(number)
            if len(self._read) == len(self._group.servers):
                self.watching.set()
            await self._take_lines(number, reader)
        finally:
            writer.transport.abort()

    async def _dial(self, number: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        parts = urlsplit(self._group.servers[number].url)
        host, port = parts.hostname or "127.0.0.1", parts.port or 6379
        reader, writer = await asyncio.open_connection(host, port, limit=LINE_BYTES)
        if parts.password:
            writer.write(pack_command(("AUTH", unquote(parts.password))))
            await reader.readuntil(b"\r\n")
        return reader, writer

    async def _take_lines(self, number: int, reader: asyncio.StreamReader) -> None:
        """Read commands, each with the calls of its script behind it."""
        command: list[str] = []
        try:
            while True:
                try:
                    async with asyncio.timeout(QUIET_S if command else None):
                        line = (await reader.readuntil(b"\r\n"))[1:-2].decode(errors="replace")
                except TimeoutError:
                    line = ""
                if command and " lua] " not in line[:48]:
                    await self.take(number, command)
                    command = []
                if line:
                    self.line_came(number, self._clock())
                    command.append(line)
        finally:
            if command:
                await self.take(number, command)

    def line_came(self, number: int, t: float) -> None:
        """Take note of when a server has last said something."""
        self._last[number] = t

    async def take(self, number: int, command: list[str]) -> None:
        """Take a command that a server has executed: its line, and those of its script's calls."""
        words = command[0].rstrip().removesuffix('"').partition('] "')[2].split('" "')
        key = _key_of(words)
        if not key:
            return
        bucket, is_script = self._group.bucket_of(key), len(command) > 1
        if self._owner.get(bucket) != number and is_script:
            await self.look(number)
        if self._owner.get(bucket) != number:
            if is_script:
                self._happened(IGNORED)
            return
        self._came_back(number)
        for line in command:
            self.monitor_log.feed(line)
        self.monitor_log.settle()

    # --- handing over ------------------------------------------------------------------------

    def _gains(self, number: int, claim: BucketClaim) -> set[int]:
        return {
            bucket
            for bucket in claim.buckets
            if self._owner.get(bucket) != number and claim.epoch > self._epoch.get(bucket, -1)
        }

    def _hand_over(self, number: int, claim: BucketClaim) -> None:
        gained = self._gains(number, claim)
        if gained:
            self._cut.discard(number)  # What it has lost, it has got again from another one.
        before = {self._owner[bucket] for bucket in gained if bucket in self._owner}
        for bucket in gained:
            self._owner[bucket], self._epoch[bucket] = number, claim.epoch
        if before and self._planned:
            self._happened(PLANNED)
        elif before:
            self._happened(UNPLANNED)
            since = min(self._lost_since(one) for one in before) - LOST_S
            self._forget(gained, since)
            now = self._clock()
            self._note(ObservationGap(t=now, for_s=now - since))

    def _lost_since(self, number: int) -> float:
        """Return when a server that was replaced has last been in touch with the others, or has
        last said something.
        """
        return min(self._last.get(number, 0.0), self._alone.pop(number, math.inf))

    def _forget(self, buckets: Collection[int], since: float) -> None:
        """Let the history of those users start anew who were changed since then."""
        for user, t in list(self._changed.items()):
            if t >= since and self._group.keyspace.bucket(user) in buckets:
                self.monitor_log.forget_user(user)

    def _came_back(self, number: int) -> None:
        """Take note that a server goes on that was away: it has lost what it had."""
        if number in self._cut:
            self._cut.discard(number)
            self.blind += 1
            mine = {bucket for bucket, owner in self._owner.items() if owner == number}
            self._forget(mine, 0.0)

    def _noted(self, record: Record) -> None:
        if isinstance(record, Owner | Released):
            self._changed[record.user] = record.t
        self._note(record)

    def _happened(self, name: str) -> None:
        self.monitor_log.outcomes[name] += 1
        if self.monitor_log.outcomes[name] == 1:
            self._note(Happened(t=self._clock(), name=name))


def _key_of(words: list[str]) -> str:
    """Return the first key of a command about presence; '' when it is about something else."""
    verb = words[0].upper()
    if verb in {"EVAL", "EVALSHA"}:
        return words[3] if len(words) > 3 and words[2] != "0" else ""
    return words[1] if verb in {"DEL", "SET", "UNLINK"} and len(words) > 1 else ""

"""Load generator for optional features: users who store messages, share rooms, and watch others.

`python -m benchmarks.feature_load` takes plans as `benchmarks.load` does. Durable messages and
plain ones are sent by the same code, both with an id, so that their costs can be compared.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from benchmarks.load import ACTIVE, Load, LoadUser, run_worker
from benchmarks.websocket import frame

OFFSET = re.compile(rb'"offset":"([0-9]+-[0-9]+)"\}$')
ACK_EVERY = 32
"""A client acknowledges after so many durable messages, as the client library does."""
PATIENCE_S = 30.0
"""How long a plan waits for what must come."""
JOINED, PRESENCE, RESUMED = b'{"type":"joined"', b'{"type":"presence"', b'{"type":"resumed"'


class FeatureUser(LoadUser):
    """A user who may read an inbox, be in a room, and watch others.

    Args:
        fields: what the register says beside the name.
        told: called with each answer that is no message: `joined` or `presence`.
    """

    def __init__(
        self,
        name: str,
        arrived: Callable[[int], None],
        fields: dict[str, Any],
        told: Callable[[bytes], None],
    ) -> None:
        super().__init__(name, arrived)
        self._fields = fields
        self._told = told
        self._epoch = ""
        self._unacknowledged = 0

    def say(self, **document: Any) -> None:
        """Send one message."""
        self.transport.write(frame(json.dumps(document, separators=(",", ":")).encode()))

    def _registration(self) -> bytes:
        document = {"type": "register", "userId": self.name, **self._fields}
        return frame(json.dumps(document).encode())

    def _take(self, first: int, payload: bytes) -> None:
        if payload.startswith((JOINED, PRESENCE)):
            self._told(payload)
        elif payload.startswith(RESUMED):
            place = json.loads(payload)
            self._epoch = place["epoch"]
            self._acknowledge(place["offset"])  # The first one says: I know where I go on.
        else:
            if self._epoch and (found := OFFSET.search(payload)):
                self._unacknowledged += 1
                if self._unacknowledged >= ACK_EVERY:
                    self._acknowledge(found[1].decode())
            super()._take(first, payload)

    def _acknowledge(self, offset: str) -> None:
        self._unacknowledged = 0
        self.say(type="ack", epoch=self._epoch, offset=offset)


class FeatureLoad(Load):
    """The users of one system with optional features."""

    def __init__(self) -> None:
        super().__init__()
        self._fields: dict[str, Any] = {}
        self._message_end = b"}"
        self._run = f"{time.time_ns():x}"
        self._copies: Counter[int] = Counter()
        self._told = 0
        self._expected = 0
        self._all_told = asyncio.Event()
        self._on_number: Callable[[int], None] = lambda number: None
        self._publish: Callable[[], None] = lambda: None

    def _user(self, name: str) -> FeatureUser:
        return FeatureUser(name, self.arrived, self._fields, self._hear)

    def arrived(self, number: int) -> None:
        if self._copies:
            self._arrived_in_room(number)
        elif number in self.due:
            super().arrived(number)
            self._on_number(number)

    def send(self, sender: LoadUser, to: str, size: int, due: float) -> None:
        number = self.next_number = (self.next_number + 1) % 100_000_000
        self._send_number(number, sender, to, size, due)

    def _send_number(self, number: int, sender: LoadUser, to: str, size: int, due: float) -> None:
        self.due[number] = due
        content = (b"#%08d" % number).ljust(size, b"x")
        sender.transport.write(
            frame(
                b'{"type":"message","to":"%b","content":"%b","id":"%b-%d"%b'
                % (to.encode(), content, self._run.encode(), number, self._message_end)
            )
        )

    # --- plans -------------------------------------------------------------------------------

    async def speak(self, register: dict[str, Any], durable: bool = False) -> Any:
        """From now on, users register with these fields, and their messages are durable or not."""
        self._fields = register
        self._message_end = b',"durable":true}' if durable else b"}"
        return {}

    async def talk(self, pairs: int, in_flight: int, size: int, seconds: float) -> Any:
        """Let so many senders keep so many messages in flight each; each has one recipient, at the
        other gateway.
        """
        users = self.users[:ACTIVE]
        couples = list(zip(users[::2], users[1::2], strict=True))[:pairs]
        ends_at = time.perf_counter() + seconds
        # The number of a message says which couple it is of: its remainder.
        turn = self.next_number // pairs + 1
        numbers = [turn * pairs + k for k in range(pairs)]
        self._begin()

        def next_of(number: int) -> None:
            k = number % pairs
            now = time.perf_counter()
            if now < ends_at:
                numbers[k] += pairs
                sender, recipient = couples[k]
                self._send_number(numbers[k], sender, recipient.name, size, now)

        self._on_number = next_of
        started = time.perf_counter()
        for _ in range(in_flight):
            for k in range(pairs):
                next_of(k)
        await asyncio.sleep(seconds)
        counted, lasted = self.delivered, time.perf_counter() - started
        self._on_number = lambda number: None
        await self._drain()
        self.next_number = max(numbers)
        return self._result(counted, lasted)

    async def join(self, room: str, at_a_time: int) -> Any:
        """Let all users join a room, so many at once. None of them is told who comes and goes."""
        for start in range(0, len(self.users), at_a_time):
            some = self.users[start : start + at_a_time]
            self._expect(len(some))
            for user in some:
                assert isinstance(user, FeatureUser)
                user.say(type="join", room=room, members=False)
            await self._wait("joined")
        return {"members": len(self.users)}

    async def publish(self, room: str, in_flight: int, size: int, seconds: float) -> Any:
        """Keep so many messages for a room in flight: when all members have one, the next is
        published, by another member.
        """
        self._begin()
        self.due.clear()
        members, ends_at = len(self.users), time.perf_counter() + seconds
        self._publish = lambda: self._say_in_room(room, size, ends_at)
        self._copies = Counter({0: members})  # Number 0 is never published.
        started = time.perf_counter()
        for _ in range(in_flight):
            self._publish()
        await asyncio.sleep(seconds)
        counted, lasted = self.delivered, time.perf_counter() - started
        await self._drain(PATIENCE_S)
        lost = sum(members - self._copies[number] for number in self.due)
        self._copies.clear()
        return self._result(counted, lasted) | {"lost": lost}

    def _say_in_room(self, room: str, size: int, ends_at: float) -> None:
        now = time.perf_counter()
        if now >= ends_at:
            return
        number = self.next_number = self.next_number + 1
        self.due[number] = now
        sender = self.users[number % len(self.users)]
        assert isinstance(sender, FeatureUser)
        content = f"#{number:08}".ljust(size, "x")
        sender.say(type="publish", room=room, content=content)

    def _arrived_in_room(self, number: int) -> None:
        self.delivered += 1
        self._copies[number] += 1
        if self._copies[number] == len(self.users) and number in self.due:
            self.latencies.append(time.perf_counter() - self.due.pop(number))
            del self._copies[number]
            self._publish()
            self.on_arrival()

    async def watch(self, names: list[str]) -> Any:
        """Let each user watch these others; wait for the answers."""
        self._expect(len(self.users) * len(names))
        for user in self.users:
            assert isinstance(user, FeatureUser)
            user.say(type="watch", users=names)
        await self._wait("presence")
        return {}

    async def expect(self, events: int) -> Any:
        """Count events from now on; `await_told` waits for so many."""
        self._expect(events)
        return {}

    async def await_told(self) -> Any:
        """Wait for the events that are expected."""
        await self._wait("presence events")
        return {"told": self._told}

    def _expect(self, count: int) -> None:
        self._told, self._expected = 0, count
        self._all_told.clear()

    def _hear(self, payload: bytes) -> None:
        self._told += 1
        if self._told >= self._expected:
            self._all_told.set()

    async def _wait(self, what: str) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._all_told.wait(), PATIENCE_S)
        if self._told < self._expected:
            raise ConnectionError(f"{what}: {self._told:,} of {self._expected:,} came")


if __name__ == "__main__":
    run_worker(FeatureLoad)

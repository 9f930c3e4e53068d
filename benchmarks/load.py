"""Load generator: users who send and receive, in a process of their own.

`python -m benchmarks.load` reads one plan a line (JSON) from stdin and answers each with one line.
Its own cost is not counted, but it shares the machine with what is measured. Contents carry a
number, so that every message is recognised on arrival; a message that does not arrive is counted
as lost and never waited for.

Latency is counted from the moment at which a message was *due*, not from when this process got
around to sending it: a system that falls behind cannot hide it (no coordinated omission).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.websocket import PING, REGISTERED, UPGRADED, FrameClient, frame, pong, register

MARK = re.compile(rb"#(\d{8})")
HEARTBEAT_S, BEAT_S = 30.0, 0.1
"""How often a user sends a heartbeat, and how often some of the users do."""
CONNECT_S = 90.0
"""All users of a plan are connected after this long, or it has failed."""
ACTIVE = 200
"""Users who take part in a phase of messages; all others are idle."""


class LoadUser(FrameClient):
    """One user; calls `arrived` with the number of each message that comes in."""

    def __init__(self, name: str, arrived: Callable[[int], None]) -> None:
        super().__init__()
        self.name = name
        self.lost = False
        self._arrived = arrived
        self._registered: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def _answered(self, status: str) -> None:
        if status == UPGRADED:
            self.transport.write(self._registration())
        else:
            self.transport.close()

    def _registration(self) -> bytes:
        """Return the frame that registers this user."""
        return register(self.name)

    def _take(self, first: int, payload: bytes) -> None:
        """Take one frame. A ping must be answered, or the gateway closes the connection."""
        if first == PING:
            self.transport.write(pong(payload))
        elif found := MARK.search(payload):
            self._arrived(int(found[1]))
        elif not self._registered.done() and REGISTERED in payload:
            self._registered.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if not self._registered.done():
            self._registered.set_exception(ConnectionError("closed before it was registered"))

    async def registered(self) -> None:
        """Wait until the gateway has answered the register."""
        await self._registered


class Load:
    """The users of one system under test."""

    def __init__(self) -> None:
        self.users: list[LoadUser] = []
        self.due: dict[int, float] = {}
        self.latencies: list[float] = []
        self.delivered = 0
        self.next_number = 0
        self.on_arrival: Callable[[], None] = lambda: None
        self._living: asyncio.Task[None] | None = None

    def arrived(self, number: int) -> None:
        due = self.due.pop(number, None)
        if due is None:
            return
        self.delivered += 1
        self.latencies.append(time.perf_counter() - due)
        self.on_arrival()

    def _user(self, name: str) -> LoadUser:
        """Return a user who is to be connected."""
        return LoadUser(name, self.arrived)

    def send(self, sender: LoadUser, to: str, size: int, due: float) -> None:
        number = self.next_number = (self.next_number + 1) % 100_000_000
        self.due[number] = due
        content = (b"#%08d" % number).ljust(size, b"x")
        sender.transport.write(
            frame(b'{"type":"message","to":"%b","content":"%b"}' % (to.encode(), content))
        )

    # --- plans -------------------------------------------------------------------------------

    async def connect(
        self, ports: list[int], count: int, prefix: str, at_a_time: int, first: int = 0
    ) -> Any:
        """Connect and register users, spread over the ports; a storm, `at_a_time` at once.

        From then on they send heartbeats.
        """
        loop = asyncio.get_running_loop()
        gate = asyncio.Semaphore(at_a_time)
        started = time.perf_counter()

        async def one(n: int) -> None:
            async with gate:
                user = self._user(f"{prefix}{n}")
                await loop.create_connection(lambda: user, "127.0.0.1", ports[n % len(ports)])
                await user.registered()
                self.users.append(user)

        try:
            async with asyncio.timeout(CONNECT_S):
                await asyncio.gather(*(one(first + n) for n in range(count)))
        except TimeoutError:
            registered = f"{len(self.users):,} of {count:,} users were registered"
            raise ConnectionError(f"{registered} within {CONNECT_S:g} s") from None
        if self._living is None:
            self._living = asyncio.create_task(self._heartbeats(), name="heartbeats")
        self.users.sort(key=lambda user: int(user.name.removeprefix(prefix)))
        return {"seconds": time.perf_counter() - started, "count": count}

    async def disconnect(self) -> Any:
        if self._living is not None:
            self._living.cancel()
            self._living = None
        for user in self.users:
            user.transport.abort()
        self.users.clear()
        self.due.clear()
        return {}

    def pairs(self, shape: str) -> list[tuple[LoadUser, str]]:
        """Who sends to whom: the first 200 users, however many there are. They alternate between
        the gateways, so neighbours are apart.
        """
        users = self.users[:ACTIVE]
        if shape == "hot":
            return [(user, users[0].name) for user in users[1:101]]
        step = 2 if shape == "local" else 1
        return [(user, users[(n + step) % len(users)].name) for n, user in enumerate(users)]

    async def closed(self, shape: str, in_flight: int, size: int, seconds: float) -> Any:
        """Keep so many messages in flight: each arrival sends the next."""
        pairs = self.pairs(shape)
        ends_at = time.perf_counter() + seconds
        turn = 0
        self._begin()

        def next_one() -> None:
            nonlocal turn
            now = time.perf_counter()
            if now < ends_at:
                sender, to = pairs[turn % len(pairs)]
                turn += 1
                self.send(sender, to, size, now)

        self.on_arrival = next_one
        started = time.perf_counter()
        for _ in range(in_flight):
            next_one()
        await asyncio.sleep(seconds)
        counted, lasted = self.delivered, time.perf_counter() - started
        await self._drain()
        return self._result(counted, lasted)

    async def open(self, shape: str, rate: float, size: int, seconds: float) -> Any:
        """Send at a fixed rate, whatever comes back."""
        pairs = self.pairs(shape)
        self._begin()
        started = time.perf_counter()
        total, sent = int(rate * seconds), 0
        while sent < total:
            now = time.perf_counter()
            while sent < total and started + sent / rate <= now:
                sender, to = pairs[sent % len(pairs)]
                self.send(sender, to, size, started + sent / rate)
                sent += 1
            await asyncio.sleep(max(0.0, min(0.001, started + sent / rate - time.perf_counter())))
        await self._drain()
        return self._result(self.delivered, time.perf_counter() - started) | {"sent": total}

    async def live(self, seconds: float) -> Any:
        """Send heartbeats and nothing else."""
        started = time.perf_counter()
        await asyncio.sleep(seconds)
        return {"seconds": time.perf_counter() - started}

    async def _heartbeats(self) -> None:
        """Let every user send a heartbeat each `HEARTBEAT_S`, evenly spread, until cancelled.

        Without them, their leases would expire during a run, and messages would be `offline`.
        """
        ping = frame(b'{"type":"ping"}')
        owed, turn = 0.0, 0
        while True:
            await asyncio.sleep(BEAT_S)
            owed += len(self.users) * BEAT_S / HEARTBEAT_S
            for _ in range(int(owed)):
                user = self.users[turn % len(self.users)]
                turn += 1
                if not user.lost:
                    user.transport.write(ping)
            owed %= 1

    def _begin(self) -> None:
        self.due.clear()
        self.latencies = []
        self.delivered = 0

    async def _drain(self, patience_s: float = 2.0) -> None:
        """Wait for messages that are on their way; those that do not arrive in time are lost."""
        arrived = asyncio.Event()
        self.on_arrival = lambda: None if self.due else arrived.set()
        if self.due:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(arrived.wait(), patience_s)
        self.on_arrival = lambda: None

    def _result(self, delivered: int, seconds: float) -> dict[str, Any]:
        return {
            "delivered": self.delivered,
            "in_time": delivered,
            "lost": len(self.due),
            "seconds": seconds,
            "latencies_us": [round(1e6 * latency) for latency in sorted(self.latencies)][
                :: max(1, len(self.latencies) // 2000)
            ],
            "cut": sum(user.lost for user in self.users),
        }


def allow_many_files(wanted: int = 0) -> None:
    """Raise the soft limit of open files to the hard one, and that to `wanted` where one may.

    Raises:
        OSError: the limit stays below `wanted`.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = hard == resource.RLIM_INFINITY
    target = max(wanted, 10_240 if unlimited else hard)
    if soft == resource.RLIM_INFINITY or soft >= target:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard if unlimited else target))
    except (ValueError, OSError):
        raise OSError(f"{wanted:,} open files are needed, {hard:,} allowed (ulimit -Hn)") from None


async def carry_out_plans(worker: object) -> None:
    """Answer each plan on stdin with one line, until stdin ends.

    A plan that fails for a reason that can be expected is answered with that reason.
    """
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        plan = json.loads(line)
        action = getattr(worker, plan.pop("do"))
        try:
            result = await action(**plan)
        except OSError as problem:
            result = {"failed": str(problem)}
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()


def run_worker(make: Callable[[], object]) -> None:
    """The main function of a load process: `make` is called on the event loop."""

    async def main() -> None:
        await carry_out_plans(make())

    allow_many_files()
    try:
        import uvloop
    except ImportError:
        asyncio.run(main())
    else:
        uvloop.run(main())


if __name__ == "__main__":
    run_worker(Load)

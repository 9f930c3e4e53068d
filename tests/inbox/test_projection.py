"""Does each device of a user get what a user with an inbox of its own would get?

Random histories on the scripts for several devices, and for each device beside them on the scripts
for a user with one session: each device reads and acknowledges in both, and the pages are the same.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pytest
import redis

from tests.examples import seeds
from tests.inbox.device_world import LONG_MS, NAMES
from tests.inbox.world import LIFE_MS, META, PRESENCE, START, STREAM
from wsdemo.gateway.inbox import number
from wsdemo.inbox.devices import DEVICES_ACK, DEVICES_READ, DEVICES_SEND
from wsdemo.inbox.store import ACK, READ, SEND
from wsdemo.redis.deadline import NEVER_MS
from wsdemo.redis.server import BundledServer

BIRTH: Final = "b0"
BOUNDS: Final = (1000, 10**9, LIFE_MS, LIFE_MS)
STEPS: Final = 150
TOGETHER: Final = (PRESENCE, STREAM, META)


@dataclass(eq=False)
class Reader:
    """A device: its session, and how far it has read and acknowledged."""

    name: str
    token: int = 0
    position: tuple[str, str] = START
    acked: tuple[str, str] = START

    @property
    def conn(self) -> str:
        return f"c{self.token}"

    @property
    def alone(self) -> tuple[str, str, str]:
        """The keys of the user who has only this device."""
        return f"presence:{self.name}:", f"inbox:{self.name}:", f"inboxmeta:{self.name}:"


class Projection:
    """One history. `server` is emptied."""

    def __init__(self, server: Any, seed: int) -> None:
        self.r = server
        self.rng = random.Random(seed)
        server.flushall()
        several, alone = (DEVICES_SEND, DEVICES_READ, DEVICES_ACK), (SEND, READ, ACK)
        self.several, self.alone = (
            [server.register_script(script.text) for script in scripts]
            for scripts in (several, alone)
        )
        self.readers = [Reader(name) for name in NAMES]
        self.run, self.stored, self.serial, self.recovered = "r0", 0, 0, 0
        for reader in self.readers:
            self.connect(reader)
            self.read(reader)

    def connect(self, reader: Reader) -> None:
        self.serial += 1
        reader.token = self.serial
        until = self.r.time()[0] * 1000 + LONG_MS
        self.r.hset(PRESENCE, f"s:{reader.name}", f"gw {reader.conn} {reader.token} {until} 0 ")
        self.r.hset(reader.alone[0], mapping={"connId": reader.conn, "epoch": reader.token})

    def leave(self, reader: Reader) -> None:
        self.r.hdel(PRESENCE, f"s:{reader.name}")
        self.r.delete(reader.alone[0])

    def send(self) -> None:
        self.stored += 1
        args = [f'{{"id":"{self.stored}"', self.rng.randrange(1, 10**15), BIRTH, self.run, *BOUNDS]
        known = f"id:{self.stored}"
        told = self.several[0](keys=[*TOGETHER, known], args=[*args, "", "gw", LONG_MS, NEVER_MS])
        for reader in self.readers:
            keys = [*reader.alone, f"{known}:{reader.name}"]
            assert self.alone[0](keys=keys, args=[*args, "", "gw", NEVER_MS])[:3] == told[:3]

    def read(self, reader: Reader) -> None:
        """With the position that it has, or with none."""
        epoch, offset = reader.position if self.rng.random() < 0.7 else START
        most = self.rng.randrange(1, 6)
        args = [reader.conn, reader.token, epoch, offset, most, 10**6, BIRTH, self.run, LIFE_MS]
        more = [reader.name, len(NAMES), LIFE_MS, LONG_MS]
        page = self.several[1](keys=TOGETHER, args=[*args, *more])
        assert page == self.alone[1](keys=reader.alone, args=args), (reader, epoch, offset)
        self._take(reader, page)

    def _take(self, reader: Reader, page: Sequence[Any]) -> None:
        outcome, epoch, since, _, rows = page
        self.recovered += outcome == "recovered"
        offsets = rows[::2]  # After each one stands its message.
        taken = self.rng.randrange(len(offsets) + 1)
        reader.position = (epoch, offsets[taken - 1] if taken else since)

    def acknowledge(self, reader: Reader) -> None:
        """What it has; or a word of the run before, which does not count."""
        position = reader.position
        if number(position[1]) < number(reader.acked[1]):
            return  # It would be held for the other devices, and is gone for a user with one.
        args = [reader.conn, *position, self.run]
        more = [reader.name, len(NAMES), LIFE_MS, LONG_MS]
        done = self.several[2](keys=TOGETHER, args=[*args, *more])
        assert (done < 0) == (self.alone[2](keys=reader.alone, args=args) < 0), position
        if done >= 0:
            reader.acked = position

    def step(self) -> None:
        chance, reader = self.rng.random(), self.rng.choice(self.readers)
        if chance < 0.3:
            self.send()
        elif chance < 0.4:
            self.connect(reader)
        elif chance < 0.45:
            self.leave(reader)
        elif chance < 0.75:
            self.read(reader)
        elif chance < 0.98:
            self.acknowledge(reader)
        else:
            self.serial += 1
            self.run = f"r{self.serial}"

    def settle(self) -> None:
        """All read to the end and acknowledge: nothing is kept for anybody."""
        last = self.r.hget(META, "last")
        for reader in self.readers:
            self.connect(reader)
            while reader.position[1] != last or reader.acked != reader.position:
                self.read(reader)
                self.acknowledge(reader)
        assert self.r.xlen(STREAM) == 0


@pytest.fixture(scope="module")
def own_server() -> Iterator[Any]:
    """A client of a server of this module's own: it is emptied again and again."""
    with BundledServer() as server, redis.Redis.from_url(server.url, decode_responses=True) as one:
        yield one


def test_each_device_reads_like_a_user_with_an_inbox_of_its_own(own_server: Any) -> None:
    """While no device is away for so long that its cursor is forgotten."""
    recovered = 0
    for seed in seeds(15):
        projection = Projection(own_server, seed)
        try:
            for _ in range(STEPS):
                projection.step()
            projection.settle()
        except AssertionError as problem:
            problem.add_note(f"seed {seed}")
            raise
        recovered += projection.recovered
    assert recovered > STEPS

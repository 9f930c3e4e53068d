"""KEYS and SCAN: for how long does everybody else wait, while one client looks at all keys?"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

import redis

from wsdemo.redis.server import BundledServer

FIRST: Final = 100_000
"""So many keys are there at first, ..."""
MOST: Final = 1_000_000
"""... and at most so many."""
WANTED_S: Final = 0.15
"""There are as many keys as `KEYS` needs so long for, on this machine."""
FILLABLE: Final = {"enable-debug-command": "local"}
"""`DEBUG POPULATE` fills a server within a second; SET would need many."""
NOBODY: Final = "presence:nobody-*"
"""Nothing is called so. Redis looks at every key all the same, and no long answer is sent."""
SCAN_COUNT: Final = 1_000
"""How many keys one step of SCAN looks at."""


class KeysStall(NamedTuple):
    """What one way to look at all keys took."""

    way: str
    keys: int
    whole_s: float
    """How long it took in all."""
    longest_s: float
    """The longest that another client waited for an answer meanwhile."""

    def __repr__(self) -> str:
        return (
            f"{self.way} over {self.keys:,} keys: {1000 * self.whole_s:.0f} ms in all; another "
            f"client waited for at most {1000 * self.longest_s:.1f} ms"
        )


def measure_stalls() -> list[KeysStall]:
    """Fill a server of our own with keys, and look at all of them in both ways."""
    with BundledServer(settings=FILLABLE) as server, redis.Redis.from_url(server.url) as database:
        keys = _fill(database)
        return [
            _measured("KEYS", keys, server.url, lambda: database.keys(NOBODY)),
            _measured("SCAN", keys, server.url, lambda: _scan(database)),
        ]


def _fill(database: redis.Redis) -> int:
    """Store as many keys as this machine needs `WANTED_S` for; return how many."""
    _store(database, FIRST)
    each_s = min(_keys_s(database) for _ in range(3)) / FIRST
    keys = max(FIRST, min(MOST, round(WANTED_S / each_s / 10_000) * 10_000))
    _store(database, keys)
    return keys


def _keys_s(database: redis.Redis) -> float:
    began = time.monotonic()
    database.keys(NOBODY)
    return time.monotonic() - began


def _store(database: redis.Redis, keys: int) -> None:
    database.execute_command("DEBUG", "POPULATE", str(keys), "presence:user", "40")


def _scan(database: redis.Redis) -> None:
    for _ in database.scan_iter(NOBODY, count=SCAN_COUNT):
        pass


def _measured(way: str, keys: int, url: str, look: Callable[[], object]) -> KeysStall:
    with _another_client(url) as waits:
        began = time.monotonic()
        look()
        whole_s = time.monotonic() - began
    return KeysStall(way, keys, whole_s, max(waits))


@contextmanager
def _another_client(url: str) -> Iterator[list[float]]:
    """Ask for one value again and again, and note how long each answer takes."""
    waits: list[float] = []
    begun, over = threading.Event(), threading.Event()

    def ask() -> None:
        with redis.Redis.from_url(url) as other:
            other.ping()
            while not over.is_set():
                asked = time.monotonic()
                other.get("presence:user:1")
                waits.append(time.monotonic() - asked)
                begun.set()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    begun.wait(10)
    try:
        yield waits
    finally:
        over.set()
        thread.join()

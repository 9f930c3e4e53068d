"""Does the inbox keep its promises under random accidents? (D1 to D7)

The world and its checks are in `world.py`; what a checked run must contain is here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from tests.examples import seeds
from tests.inbox.world import CONFIGURATIONS, World
from wsdemo.inbox.store import ACK, READ, SEND
from wsdemo.redis.server import BundledServer

TEXTS = (SEND.text, READ.text, ACK.text)
EVERYWHERE = (
    "stored",
    "duplicate",
    "delivered",
    "pages",
    "resets",
    "recovered",
    "acks",
    "acks refused",
    "nobody is told",
)


@pytest.fixture(scope="module")
def own_server() -> Iterator[Any]:
    """A client of a server of this module's own: it is emptied again and again."""
    with BundledServer() as server, redis.Redis.from_url(server.url, decode_responses=True) as one:
        yield one


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_nothing_is_lost_without_a_word(own_server: Any, name: str) -> None:
    """And every outcome of the scripts was among what was tried."""
    count: Counter[str] = Counter()
    for seed in seeds(40):
        try:
            count += World(own_server, TEXTS, seed, CONFIGURATIONS[name]).play(300)
        except AssertionError as problem:
            problem.add_note(f"{name}, seed {seed}")
            raise
    assert all(count[what] for what in EVERYWHERE), count
    assert all(count[fault] for fault in CONFIGURATIONS[name].faults), count

"""Does the inbox of a user with several devices keep its promises to each of them, under random
accidents? (D1 to D7 for each device)

The world and its checks are in `device_world.py`; what a checked run must contain is here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from tests.examples import seeds
from tests.inbox.device_world import EXTRA_FAULTS, DeviceWorld
from tests.inbox.test_random import EVERYWHERE
from tests.inbox.world import CONFIGURATIONS
from wsdemo.inbox.devices import DEVICES_ACK, DEVICES_READ, DEVICES_SEND
from wsdemo.redis.server import BundledServer

TEXTS = (DEVICES_SEND.text, DEVICES_READ.text, DEVICES_ACK.text)


@pytest.fixture(scope="module")
def own_server() -> Iterator[Any]:
    """A client of a server of this module's own: it is emptied again and again."""
    with BundledServer() as server, redis.Redis.from_url(server.url, decode_responses=True) as one:
        yield one


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_no_device_loses_anything_without_a_word(own_server: Any, name: str) -> None:
    """And every outcome of the scripts was among what was tried."""
    count: Counter[str] = Counter()
    for seed in seeds(20, fast=6):
        try:
            count += DeviceWorld(own_server, TEXTS, seed, CONFIGURATIONS[name]).play(400)
        except AssertionError as problem:
            problem.add_note(f"{name}, seed {seed}")
            raise
    assert all(count[what] for what in (*EVERYWHERE, *EXTRA_FAULTS, "trims", "held")), count
    assert all(count[fault] for fault in CONFIGURATIONS[name].faults), count

"""Subscriptions of tests: from when on is everything heard, and what was heard until now?"""

from __future__ import annotations

import time
from typing import Any, Final

HEARD_S: Final = 30.0
CONFIRMATIONS: Final = ("subscribe", "psubscribe")


def confirmed(pubsub: Any, channels: int = 1) -> None:
    """Read until Redis has confirmed so many new channels.

    What is published on older channels may come in between; it is dropped.
    """
    ends_at = time.monotonic() + HEARD_S
    while channels:
        left_s = ends_at - time.monotonic()
        assert left_s > 0, f"{channels} channels were not confirmed within {HEARD_S:g} s"
        got = pubsub.get_message(timeout=left_s)
        channels -= got is not None and got["type"] in CONFIRMATIONS


async def confirmed_async(pubsub: Any, channels: int = 1) -> None:
    """Do the same with a client of asyncio."""
    ends_at = time.monotonic() + HEARD_S
    while channels:
        left_s = ends_at - time.monotonic()
        assert left_s > 0, f"{channels} channels were not confirmed within {HEARD_S:g} s"
        got = await pubsub.get_message(timeout=left_s)
        channels -= got is not None and got["type"] in CONFIRMATIONS

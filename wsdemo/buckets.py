"""Hash tags: which keys and channels of a cluster belong together?

A cluster of Redis spreads keys over 16,384 slots, and a slot is on one server. A script may only
touch one slot. So users (and rooms) are put into buckets, and every key and channel of a bucket
carries the same hash tag: `presence:{45.23}:alice`, `gateway:{45.23}:gateway-02`. The look-up of a
user and the publishing to the user's gateway stay one script.

The tags are chosen so that bucket b lies in the b-th part of all slots. A cluster that gives equal
ranges of slots to its servers then gives them equal numbers of buckets. (With bare numbers as tags,
the fullest of 16 servers would have twice its share.)
"""

from __future__ import annotations

from binascii import crc_hqx
from functools import lru_cache
from typing import Final

SLOTS: Final = 16384


@lru_cache(maxsize=8)
def tags(buckets: int) -> tuple[str, ...]:
    """Return the hash tag of each bucket: its number, a dot, and the first number by which it falls
    into its part of the slots.
    """
    return tuple(_tag(bucket, buckets) for bucket in range(buckets))


def _tag(bucket: int, buckets: int) -> str:
    for number in range(SLOTS):
        tag = f"{bucket}.{number}"
        if _slot(tag) * buckets // SLOTS == bucket:
            return tag
    raise AssertionError("each part of the slots has a tag")


@lru_cache(maxsize=8)
def slots(buckets: int) -> tuple[int, ...]:
    """Return the slot of each bucket."""
    return tuple(map(_slot, tags(buckets)))


def _slot(tag: str) -> int:
    return crc_hqx(tag.encode(), 0) % SLOTS


def bucket_of(owner: bytes, buckets: int) -> int:
    """Return the bucket of a user or of a room."""
    return crc_hqx(owner, 0) % buckets

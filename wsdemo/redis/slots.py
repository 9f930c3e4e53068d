"""Hash slot: which slot of a cluster has a key, and which server claims that slot?

A Redis cluster divides its keys into 16384 slots, and gives each slot to one primary. All keys with
the same hash tag (the part between braces) have the same slot. Servers may disagree for a moment
about who has a slot. Then the claim with the higher configuration epoch counts: this is the
cluster's own rule, and `SlotMap` follows it. It never goes back to an older claim.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from redis.crc import key_slot

SLOTS: Final = 16384
NOBODY: Final = ""
"""The address of a slot that nobody claims."""

SlotRange = tuple[int, int]
"""The first and the last of some slots in a row."""


class SlotClaim(NamedTuple):
    """What one primary claims: its slots, and since which configuration epoch."""

    address: str
    epoch: int
    ranges: tuple[SlotRange, ...]


def slot_of(key: str | bytes) -> int:
    """Return the slot of a key or of a sharded channel."""
    return key_slot(key.encode() if isinstance(key, str) else key)


def ranges_of(slots: Iterable[int]) -> list[SlotRange]:
    """Return these slots as ranges, in order."""
    ranges: list[SlotRange] = []
    for slot in sorted(set(slots)):
        if ranges and ranges[-1][1] == slot - 1:
            ranges[-1] = (ranges[-1][0], slot)
        else:
            ranges.append((slot, slot))
    return ranges


def place(host: str, port: int | str) -> str:
    """Return an address as it stands in a URL: `host:port`, with brackets around an IPv6 host."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def endpoint(text: str, asked: str) -> str:
    """Return the address that a redirection names: `host:port` as Redis writes it.

    Args:
        asked: the address of the server that answers; a redirection without a host means its host.
    """
    host, _, port = text.rpartition(":")
    if host in {"", "?"}:
        host = asked.rpartition(":")[0]
    return place(host.strip("[]"), port)


# --- who claims what ---------------------------------------------------------------------------


class ClusterMember(NamedTuple):
    """One line of CLUSTER NODES: a server of the cluster as another one sees it."""

    id: str
    address: str
    host_name: str
    """The name that it announces; '' when it announces none."""
    flags: frozenset[str]
    primary: str
    """Whose replica it is; '' for a primary."""
    epoch: int
    ranges: tuple[SlotRange, ...]

    @property
    def is_primary(self) -> bool:
        """Whether it is one, as far as the server knows that was asked."""
        return "master" in self.flags

    @property
    def lost(self) -> bool:
        """Whether the server that was asked has no connection to it, or must not use it."""
        return not self.flags.isdisjoint({"fail", "handshake", "noaddr"})


def members(text: str, asked: str) -> Iterator[ClusterMember]:
    """Read the reply to CLUSTER NODES; lines of another form are left out.

    Args:
        asked: the address of the server that replied. It may not know its own host.
    """
    for line in text.splitlines():
        words = line.split(" ")
        if len(words) < 8 or not words[6].isdecimal():
            continue
        where, _, extra = words[1].partition("@")
        names = extra.split(",")
        yield ClusterMember(
            id=words[0],
            address=endpoint(where, asked),
            host_name=names[1] if len(names) > 1 else "",
            flags=frozenset(words[2].split(",")),
            primary=words[3].strip("-"),
            epoch=int(words[6]),
            ranges=tuple(_ranges(words[8:])),
        )


_RANGE: Final = re.compile(r"(\d+)(?:-(\d+))?")


def _ranges(words: Sequence[str]) -> Iterator[SlotRange]:
    for word in words:
        # A slot on its way, [93->-id], stands there for a second time: it is still here.
        found = _RANGE.fullmatch(word)
        if found is not None:
            first, last = int(found[1]), int(found[2] or found[1])
            if first <= last < SLOTS:
                yield first, last


def claims(text: str, asked: str) -> list[SlotClaim]:
    """Return what the primaries claim, as the reply to CLUSTER NODES says.

    A primary that has failed keeps its claim until another server makes one.
    """
    return [
        SlotClaim(member.address, member.epoch, member.ranges)
        for member in members(text, asked)
        if member.is_primary and member.ranges
    ]


class SlotMap:
    """Which address has each slot."""

    def __init__(self) -> None:
        self.owners: list[str] = [NOBODY] * SLOTS
        """The address for each slot. Read it; `learn` and `moved` change it."""
        self._epochs = [-1] * SLOTS

    @property
    def addresses(self) -> set[str]:
        """All addresses that have a slot."""
        return set(self.owners) - {NOBODY}

    def epoch(self, slot: int) -> int:
        """Return the configuration epoch of the claim that counts; -1 when there is none."""
        return self._epochs[slot]

    def learn(self, view: Iterable[SlotClaim]) -> set[int]:
        """Take the claims that are not older than what is known; return the slots that changed
        hands.
        """
        changed: set[int] = set()
        for claim in view:
            for first, last in claim.ranges:
                for slot in range(first, last + 1):
                    if self._takes(slot, claim):
                        changed.add(slot)
        return changed

    def _takes(self, slot: int, claim: SlotClaim) -> bool:
        if claim.epoch < self._epochs[slot]:
            return False
        self._epochs[slot] = claim.epoch
        before, self.owners[slot] = self.owners[slot], claim.address
        return before != claim.address

    def moved(self, slot: int, address: str) -> bool:
        """Take the word of the server that had a slot until now; say whether this is news.

        The epoch of the new claim is not known yet. That of the old one stays, so a third server's
        older view may win for a moment: the next redirection or the next look corrects it.
        """
        before, self.owners[slot] = self.owners[slot], address
        return before != address

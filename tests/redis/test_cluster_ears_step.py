"""Does each step of the ears do the right thing, whatever the order in which servers speak?

The ears of a gateway without servers: what an ear would ask for is noted, and what a server would
say is said by the test.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, cast

import pytest

from wsdemo.redis.cluster_ears import LEAVE_S, ClusterEars, Ear
from wsdemo.redis.outcome import CommandError, Trouble
from wsdemo.redis.slots import slot_of
from wsdemo.settings import Limits

CHANNEL = "gateway:{1.0}:g"
NAME = CHANNEL.encode()


class SilentEar:
    """What the ears see of an ear, and what they ask it for."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.up = True
        self.has: set[bytes] = set()
        self.leaving: dict[bytes, float] = {}
        self.asked: deque[bytes] = deque()
        self.progress = 0.0
        self.said: list[str] = []

    def join(self, channels: list[bytes]) -> None:
        self.said += ["join"] * len(channels)

    def leave(self, channel: bytes) -> None:
        self.leaving[channel] = asyncio.get_running_loop().time()
        self.said.append("leave")

    def hear_classic(self, channel: bytes) -> None:
        pass

    def reset(self, trouble: Trouble) -> None:
        self.said.append("hang up")

    async def stop(self) -> None:
        """Without a trace: an ear that nobody needs is closed."""


class Stage:
    """Ears at two servers, and a map that says what the test says."""

    def __init__(self) -> None:
        self.place = "a"
        self.looks: list[str] = []
        self.gaps: list[str] = []
        self.a, self.b = SilentEar("a"), SilentEar("b")
        self.ears = ClusterEars(
            self, Limits(), [CHANNEL], "broadcast", lambda *_: None, self.gaps.append
        )
        self.ears.ears = cast(dict[str, Ear], {"a": self.a, "b": self.b})

    def owner(self, slot: int) -> str:
        return self.place

    def url_of(self, address: str) -> str:
        return f"redis://{address}"

    def look_soon(self, address: str = "") -> None:
        self.looks.append(address)

    def moved(self, slot: int, address: str) -> None:
        self.place = address
        self.ears.ears[address] = cast(Ear, self.b if address == "b" else self.a)
        self.ears._map_changed()

    def on_map(self, told: Any) -> None:
        pass

    def step(self, later_s: float = 0.0) -> None:
        self.ears._reconcile(asyncio.get_running_loop().time() + later_s)

    def hear(self, ear: SilentEar) -> None:
        """The server says that the channel is subscribed to."""
        ear.has.add(NAME)
        self.ears.joined(cast(Ear, ear), NAME)

    def bye(self, ear: SilentEar, was_asked: bool) -> None:
        """The server says that it no longer is."""
        ear.has.discard(NAME)
        ear.leaving.pop(NAME, None)
        self.ears.left(cast(Ear, ear), NAME, was_asked)

    def at(self) -> object:
        return self.ears._at.get(NAME)


@pytest.fixture
async def stage() -> Stage:
    """The channel is heard at server a."""
    it = Stage()
    it.step()
    it.hear(it.a)
    it.step()
    assert it.a.said == ["join"] and it.at() is it.a
    return it


async def test_a_channel_is_left_at_the_old_server_before_it_is_joined_at_the_new_one(
    stage: Stage,
) -> None:
    """When the old one has confirmed, all that it had sent is read."""
    stage.moved(slot_of(CHANNEL), "b")
    stage.step()
    stage.step()
    assert (stage.a.said, stage.b.said) == (["join", "leave"], [])
    stage.bye(stage.a, was_asked=True)
    assert stage.ears.deaf == [NAME]
    stage.step()
    assert stage.b.said == ["join"]
    stage.hear(stage.b)
    assert stage.at() is stage.b and stage.gaps == [CHANNEL]


async def test_a_second_goodbye_of_the_old_server_changes_nothing(stage: Stage) -> None:
    """One comes unasked, and one as the answer to ours."""
    stage.moved(slot_of(CHANNEL), "b")
    stage.step()
    stage.bye(stage.a, was_asked=False)
    stage.step()
    stage.hear(stage.b)
    stage.bye(stage.a, was_asked=True)
    assert stage.at() is stage.b and not stage.ears.deaf


async def test_who_has_sent_a_channel_away_is_asked_for_the_map_and_not_for_the_channel(
    stage: Stage,
) -> None:
    """It may be a replica now, which would deliver, and be counted by nobody."""
    stage.bye(stage.a, was_asked=False)
    assert stage.looks == ["a"]
    stage.step()
    assert stage.a.said == ["join"]
    stage.step(later_s=2 * LEAVE_S)
    assert stage.a.said == ["join", "join"], "the map has not changed: it has the slot"


async def test_a_server_that_has_lost_the_slot_and_is_silent_is_hung_up_on(stage: Stage) -> None:
    """But not when our own event loop stood still: what it says may be unread."""
    stage.moved(slot_of(CHANNEL), "b")
    stage.step()
    stage.step(later_s=LEAVE_S / 2)
    assert "hang up" not in stage.a.said
    stage.ears._patient_until = asyncio.get_running_loop().time() + 3 * LEAVE_S
    stage.step(later_s=2 * LEAVE_S)
    assert "hang up" not in stage.a.said
    stage.step(later_s=4 * LEAVE_S)
    assert stage.a.said[-1] == "hang up"


async def test_a_server_that_is_silent_and_has_the_slot_is_not_hung_up_on() -> None:
    """What it has counted on other channels would be lost with the connection."""
    it = Stage()
    it.step()
    it.step(later_s=10.0)
    assert it.a.said == ["join"]
    it.place = "b"
    it.step(later_s=10.0)
    assert it.a.said == ["join", "hang up"]


async def test_a_redirection_leads_to_the_server_that_it_names() -> None:
    """And the one that has said so is asked for its map."""
    it = Stage()
    it.step()
    it.ears.refused(cast(Ear, it.a), NAME, CommandError(f"MOVED {slot_of(CHANNEL)} b"))
    it.step()
    assert (it.place, it.looks, it.b.said) == ("b", ["a"], ["join"])


async def test_a_channel_that_may_not_be_heard_is_told_to_who_asked(stage: Stage) -> None:
    """And is not asked for again."""
    joined = stage.ears.add("room:{1.0}:lobby")
    stage.step()
    refusal = CommandError("NOPERM no permissions to access a channel")
    stage.ears.refused(cast(Ear, stage.a), b"room:{1.0}:lobby", refusal)
    assert joined.exception() is refusal
    before = list(stage.a.said)
    stage.step(later_s=10.0)
    assert stage.a.said == before


async def test_a_channel_that_was_removed_before_its_confirmation_is_left(stage: Stage) -> None:
    """Or it would be heard for ever, for nobody."""
    joined = stage.ears.add("room:{1.0}:lobby")
    stage.step()
    stage.ears.remove("room:{1.0}:lobby")
    assert joined.cancelled()
    stage.ears.joined(cast(Ear, stage.a), b"room:{1.0}:lobby")
    assert stage.a.said == ["join", "join", "leave"]

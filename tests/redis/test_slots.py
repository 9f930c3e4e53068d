"""Is a slot found, and is what servers claim about it read as the cluster means it?"""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsdemo.redis.slots import (
    NOBODY,
    SLOTS,
    SlotClaim,
    SlotMap,
    claims,
    endpoint,
    members,
    ranges_of,
    slot_of,
)

NODES = """\
07c37d 127.0.0.1:30004@31004,,tls-port=0,shard-id=69bc slave e7d1ee 0 1426238317239 4 connected
67ed2d 127.0.0.1:30002@31002,host-two,shard-id=114f master - 0 1426238316232 2 connected 5461-10922
292f8b 127.0.0.1:30003@31003 master,fail? - 0 1426238318243 3 connected 10923-16380 16383
6ec239 10.0.0.9:30005@31005 master,fail - 1426238316232 0 1 disconnected 0-9
824fe1 :30001@31001 myself,master - 0 0 7 connected 10-5460 [93->-292f8b] [77-<-67ed2d]
a8be77 127.0.0.1:0@0 master,noaddr - 0 0 0 disconnected
b9bf10 ::1:30006@31006 master - 0 0 9 connected 16381
vars currentEpoch 7 lastVoteEpoch 0

"""


def test_keys_with_the_same_tag_have_the_same_slot() -> None:
    """The tag is the part between the first brace and the next one, if there is something in it."""
    assert slot_of("presence:{45.23}:alice") == slot_of("gateway:{45.23}:gateway-02")
    assert slot_of(b"123456789") == 0x31C3
    assert slot_of("{}x") != slot_of("{}y")


def test_claims_are_those_of_primaries_that_have_slots() -> None:
    """Also of one that has failed: its slots are nobody else's yet. Slots on their way are here."""
    assert claims(NODES, "192.0.2.1:30001") == [
        SlotClaim("127.0.0.1:30002", 2, ((5461, 10922),)),
        SlotClaim("127.0.0.1:30003", 3, ((10923, 16380), (16383, 16383))),
        SlotClaim("10.0.0.9:30005", 1, ((0, 9),)),
        SlotClaim("192.0.2.1:30001", 7, ((10, 5460),)),
        SlotClaim("[::1]:30006", 9, ((16381, 16381),)),
    ]


def test_members_say_what_they_are() -> None:
    """Names, flags and whose replica."""
    found = {member.id: member for member in members(NODES, "192.0.2.1:30001")}
    assert found["67ed2d"].host_name == "host-two"
    assert found["07c37d"].primary == "e7d1ee" and not found["07c37d"].is_primary
    assert found["824fe1"].primary == "" and found["824fe1"].is_primary
    assert found["6ec239"].lost and found["a8be77"].lost and not found["292f8b"].lost


@pytest.mark.parametrize(
    "text",
    ["", "nonsense", "a b c d e f g h", "id 1.2.3.4:1@2 master - 0 0 1 connected 9-3 x 99999"],
)
def test_what_is_no_claim_is_left_out(text: str) -> None:
    """A server of another kind, or of the future."""
    assert [claim.ranges for claim in claims(text, "host:1")] in ([], [()])


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("127.0.0.1:6381", "127.0.0.1:6381"),
        (":6381", "asked:6381"),
        ("?:6381", "asked:6381"),
        ("::1:6381", "[::1]:6381"),
        ("[::1]:6381", "[::1]:6381"),
        ("redis-2.example:6381", "redis-2.example:6381"),
    ],
)
def test_a_redirection_names_an_address(text: str, meant: str) -> None:
    """Without a host it means the host of the server that answered."""
    assert endpoint(text, "asked:1") == meant


# --- the map ------------------------------------------------------------------------------------


def test_an_older_claim_does_not_replace_a_newer_one() -> None:
    """The cluster's own rule."""
    known = SlotMap()
    assert known.learn([SlotClaim("old:1", 3, ((0, 9),))]) == set(range(10))
    assert known.learn([SlotClaim("new:1", 5, ((4, 5),))]) == {4, 5}
    assert known.learn([SlotClaim("old:1", 3, ((0, 9),))]) == set()
    assert known.owners[4] == "new:1" and known.epoch(4) == 5
    assert known.addresses == {"old:1", "new:1"}
    assert known.owners[10] == NOBODY and known.epoch(10) == -1


def test_a_claim_of_the_same_epoch_replaces_the_word_of_a_redirection() -> None:
    """The owner has said where it is; the claim of the new owner comes with its epoch."""
    known = SlotMap()
    known.learn([SlotClaim("old:1", 3, ((7, 7),))])
    assert known.moved(7, "new:1") and not known.moved(7, "new:1")
    assert known.owners[7] == "new:1" and known.epoch(7) == 3
    assert known.learn([SlotClaim("new:1", 4, ((7, 7),))]) == set()
    assert known.learn([SlotClaim("old:1", 3, ((7, 7),))]) == set()


SOME_CLAIMS = st.lists(
    st.builds(
        lambda owner, epoch, first, length: SlotClaim(owner, epoch, ((first, first + length),)),
        st.sampled_from(["a:1", "b:1", "c:1"]),
        st.integers(0, 5),
        st.integers(0, 20),
        st.integers(0, 10),
    ),
    max_size=12,
)


@given(SOME_CLAIMS)
def test_the_newest_claim_of_each_slot_counts_in_whatever_order_they_come(
    view: list[SlotClaim],
) -> None:
    """Of several with the same epoch the last one; in a cluster there is one owner an epoch."""
    known = SlotMap()
    for claim in view:
        known.learn([claim])
    for slot in range(40):
        about = [c for c in view if any(first <= slot <= last for first, last in c.ranges)]
        newest = max((claim.epoch for claim in about), default=-1)
        last = [claim.address for claim in about if claim.epoch == newest]
        assert known.epoch(slot) == newest
        assert known.owners[slot] == (last[-1] if last else NOBODY)


@given(st.sets(st.integers(0, SLOTS - 1)))
def test_ranges_have_each_slot_once(slots: set[int]) -> None:
    """And no two of them touch."""
    ranges = ranges_of(slots)
    assert [slot for first, last in ranges for slot in range(first, last + 1)] == sorted(slots)
    assert all(a[1] + 1 < b[0] for a, b in pairwise(ranges))

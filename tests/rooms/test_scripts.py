"""Who is in a room, when commands come late and gateways die? Each promise by itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from tests.hearing import HEARD_S, confirmed
from tests.rooms.world import REMEMBER_MS, Gateway, Redis, Session
from wsdemo.redis.server import BundledServer
from wsdemo.rooms.store import LAST_SEQ
from wsdemo.settings import Keyspace

MOST = 10


@pytest.fixture
def room(shared_server: BundledServer, keyspace: Keyspace) -> Iterator[Redis]:
    with redis.Redis.from_url(shared_server.url, decode_responses=True) as client:
        made = Redis(client, keyspace.prefix)
        yield made
        made.forget_all()


@pytest.fixture
def events(room: Redis) -> Iterator[Any]:
    """What is published for the room."""
    with room.client.pubsub() as pubsub:
        pubsub.subscribe(room.channel)
        confirmed(pubsub)
        yield pubsub


def heard(room: Redis, events: Any) -> list[dict[str, Any]]:
    """Return the events until now."""
    room.client.publish(room.channel, '"end"')
    result = []
    while (event := json.loads(events.get_message(timeout=HEARD_S)["data"])) != "end":
        result += [event] if event else []
    return result


def at(user: str, gateway_id: str, token: int) -> Session:
    """A session of a user on a gateway."""
    return Session(user, Gateway(gateway_id, f"{gateway_id}.1"), f"{gateway_id}.1", token)


def test_a_late_clean_up_does_not_take_a_newer_session_out_of_the_room(room: Redis) -> None:
    """R1: alice has moved to gateway-02 before gateway-01 notices that she left."""
    room.join(at("alice", "gateway-01", 1), 1, MOST)
    assert room.join(at("alice", "gateway-02", 2), 1, MOST)[0] == "moved"
    assert room.leave("alice", 1, LAST_SEQ) == 0
    assert room.list()["alice"][3] == "gateway-02"


def test_a_late_join_does_not_bring_back_who_left(room: Redis) -> None:
    """R2: by the same session, by an older one, and after the end of the session."""
    alice = at("alice", "gateway-01", 5)
    room.join(alice, 1, MOST)
    assert room.leave("alice", 5, 2) == 1
    assert room.join(alice, 1, MOST)[0] == "stale"
    assert room.join(at("alice", "gateway-02", 4), 9, MOST)[0] == "stale"
    assert room.join(alice, 3, MOST)[0] == "joined"
    room.leave("alice", 5, LAST_SEQ)
    assert room.join(alice, 4, MOST)[0] == "stale"
    assert room.list() == {}


def test_who_left_is_remembered_for_as_long_as_anything_older_may_come(room: Redis) -> None:
    """R2: after that the next join forgets it, and in the end the keys go by themselves."""
    room.join(at("alice", "gateway-01", 1), 1, MOST)
    room.leave("alice", 1, 2)
    assert room.register("alice") == ("out", 1, 2)
    assert 0 < room.client.pttl(room.keys[0]) <= 2 * REMEMBER_MS
    room.client.zadd(room.keys[1], {"alice": room.past() - REMEMBER_MS})
    room.join(at("bob", "gateway-01", 2), 1, MOST)
    assert room.register("alice") is None
    assert room.client.zcard(room.keys[1]) == 0
    ends = [room.client.pexpiretime(key) for key in room.keys]
    assert ends[0] > 0 and ends[1] == -2, "nothing is left of who left"


def test_both_keys_of_a_room_end_at_the_same_moment(room: Redis) -> None:
    """With only one of them, the number of members would be wrong."""
    room.join(at("alice", "gateway-01", 1), 1, MOST)
    room.join(at("bob", "gateway-01", 2), 1, MOST)
    room.leave("alice", 1, 2)
    room.list()
    room.join(at("carol", "gateway-01", 3), 1, MOST)
    ends = [room.client.pexpiretime(key) for key in room.keys]
    assert ends[0] == ends[1] > 0


def test_events_add_up_to_the_list(room: Redis, events: Any) -> None:
    """R3: each coming and going is told once, by the step that made it; a move is neither."""
    alice, bob = at("alice", "gateway-01", 1), at("bob", "gateway-02", 2)
    room.boots("gateway-02.1", life_ms=1)
    room.join(alice, 1, MOST)
    room.join(alice, 1, MOST)
    room.join(bob, 1, MOST)
    room.join(at("alice", "gateway-02", 3), 1, MOST)
    room.leave("alice", 1, LAST_SEQ)
    room.leave("alice", 3, 2, reason="left")
    assert room.sweep(["gateway-02.1"]) == 1
    assert room.sweep(["gateway-02.1"]) == 0
    told = [(e["user"], e["state"], e.get("reason")) for e in heard(room, events)]
    assert told == [
        ("alice", "join", None),
        ("bob", "join", None),
        ("alice", "leave", "left"),
        ("bob", "leave", "gateway lost"),
    ]


def test_a_list_says_where_it_is_among_the_events(room: Redis, events: Any) -> None:
    """R3: what comes before its mark is in it, what comes after is not."""
    room.join(at("alice", "gateway-01", 1), 1, MOST)
    listed = room.list('{"type":"mark"}')
    room.join(at("bob", "gateway-01", 2), 1, MOST)
    kinds = [event.get("user", event["type"]) for event in heard(room, events)]
    assert kinds == ["alice", "mark", "bob"] and list(listed) == ["alice"]


def test_a_gateway_that_was_given_up_says_its_members_again(room: Redis) -> None:
    """R4: it was only asleep. Who has moved on meanwhile stays where she is."""
    alice, bob = at("alice", "gateway-01", 1), at("bob", "gateway-01", 2)
    assert room.boots("gateway-01.1")[0] == "lapsed", "nobody knew it"
    assert room.boots("gateway-01.1")[0] == "ok"
    room.join(alice, 1, MOST)
    room.join(bob, 1, MOST)
    room.give_up("gateway-01.1")
    assert room.boots("", 0)[1:] == [["gateway-01.1"], []]
    room.sweep(["gateway-01.1"])
    room.join(at("alice", "gateway-02", 3), 1, MOST)
    state, dead, live = room.boots("gateway-01.1")
    assert (state, dead, live) == ("lapsed", [], ["gateway-01.1"])
    assert room.join(alice, 1, MOST)[0] == "stale"
    assert room.join(bob, 1, MOST)[0] == "joined"
    assert {user: register[3] for user, register in room.list().items()} == {
        "alice": "gateway-02",
        "bob": "gateway-01",
    }


def test_who_was_swept_does_not_come_back_by_anything_older(room: Redis, events: Any) -> None:
    """R2: alice had logged in anew at gateway-01 before it died. The late join of the session that
    had ended before is refused; the join that was swept counts again, if gateway-01 only slept.
    """
    older, newer = at("alice", "gateway-01", 4), at("alice", "gateway-01", 5)
    room.join(newer, 3, MOST)
    assert room.sweep(["gateway-01.1"]) == 1
    assert room.list() == {}
    assert room.join(older, 9, MOST)[0] == "stale"
    assert room.join(newer, 2, MOST)[0] == "stale", "seq: before the join that was swept"
    assert room.join(newer, 3, MOST) == ["joined", 1]
    told = [(e["state"], e.get("reason")) for e in heard(room, events)]
    assert told == [("join", None), ("leave", "gateway lost"), ("join", None)]


def test_who_was_swept_is_remembered_as_long_as_who_left(room: Redis) -> None:
    """R2: and not longer; the next join forgets her."""
    room.join(at("alice", "gateway-01", 1), 1, MOST)
    for key in room.keys:
        room.client.pexpire(key, 1000)
    room.sweep(["gateway-01.1"])
    ends = [room.client.pexpiretime(key) for key in room.keys]
    assert ends[0] == ends[1] and room.client.pttl(room.keys[0]) > REMEMBER_MS
    room.client.zadd(room.keys[1], {"alice": room.past() - REMEMBER_MS})
    assert room.join(at("bob", "gateway-02", 2), 1, MOST) == ["joined", 1]
    assert room.register("alice") is None


def test_a_gateway_that_ends_is_neither_alive_nor_lapsed(room: Redis) -> None:
    room.boots("gateway-01.1")
    room.boots("gateway-01.1", 0)
    assert room.boots("", 0) == ["ok", [], []]


def test_the_lapsed_are_forgotten_when_nobody_can_need_them(room: Redis) -> None:
    room.boots("gateway-01.1")
    room.client.zadd(room.boots_key, {"gateway-01.1": room.past() - REMEMBER_MS})
    assert room.boots("", 0) == ["ok", [], []]


def test_a_late_join_after_a_loss_of_data_is_a_ghost_that_only_its_gateway_knows(
    room: Redis,
) -> None:
    """R5: what was remembered of her leave is lost. The entry is of a live gateway, so nobody else
    may remove it; that gateway does, by the stamp that it finds.
    """
    room.boots("gateway-01.1")
    alice = at("alice", "gateway-01", 1)
    room.join(alice, 1, MOST)
    room.leave("alice", 1, LAST_SEQ)
    room.forget_all()
    room.boots("gateway-01.1")
    assert room.join(alice, 1, MOST)[0] == "joined"
    assert room.sweep(["gateway-02.1"]) == 0
    _, token, seq, *_ = room.list()["alice"]
    assert room.leave("alice", int(token), int(seq) + 1) == 1
    assert room.list() == {}


def test_a_full_room_takes_nobody_but_who_is_there(room: Redis) -> None:
    """Who has left makes room; who moves needs none."""
    for n in range(2):
        assert room.join(at(f"u{n}", "gateway-01", n), 1, 2)[0] == "joined"
    assert room.join(at("u2", "gateway-01", 2), 1, 2) == ["full", 2]
    assert room.join(at("u0", "gateway-02", 3), 1, 2) == ["moved", 2]
    room.leave("u1", 1, 2)
    assert room.join(at("u2", "gateway-01", 2), 1, 2) == ["joined", 2]


def test_each_device_of_a_user_is_a_member_of_its_own(room: Redis, events: Any) -> None:
    """One leaves, the other one stays."""
    phone, laptop = at("alice phone", "gateway-01", 1), at("alice laptop", "gateway-02", 2)
    room.join(phone, 1, MOST)
    room.join(laptop, 1, MOST)
    room.leave("alice phone", 1, LAST_SEQ)
    assert list(room.list()) == ["alice laptop"]
    told = [(e["user"], e["device"], e["state"]) for e in heard(room, events)]
    assert told == [
        ("alice", "phone", "join"),
        ("alice", "laptop", "join"),
        ("alice", "phone", "leave"),
    ]

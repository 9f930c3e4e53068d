"""Rooms on real gateways: does a message reach all members, and does the list say who they are?"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import re
import signal
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest

from tests.gateway.cluster import Raw, frame, gateway
from tests.pages import PAGES, table
from tests.processes import GatewayProcess
from tests.waiting import until
from wsdemo.features import RoomSettings, WatchSettings
from wsdemo.gateway.__main__ import parser, print_token, settings_of
from wsdemo.gateway.auth import claims_of, mint_token
from wsdemo.gateway.permissions import MAX_PATTERNS, permits
from wsdemo.gateway.room_lists import RoomLists
from wsdemo.gateway.rooms import Rooms
from wsdemo.gateway.server import Gateway
from wsdemo.gateway.watch import WatchReason, reason_of
from wsdemo.protocol import Code
from wsdemo.redis.connection import GIVEN_UP, RedisUnavailable
from wsdemo.redis.link import LinkDown
from wsdemo.redis.outcome import CommandError
from wsdemo.redis.server import BundledServer
from wsdemo.redis.subscription import Subscription
from wsdemo.rig.wire import Wire
from wsdemo.rooms.events import room_message_text
from wsdemo.rooms.store import LeaveReason, RoomStore, end_of
from wsdemo.settings import Keyspace, SettingsError

pytestmark = pytest.mark.both_loops

QUICK = RoomSettings(room_beat_s=0.2, room_lease_s=1.0, room_repair_s=0.3, room_linger_s=0.2)
"""Fifty times faster than what people start."""
NO_REPAIR = dataclasses.replace(QUICK, room_repair_s=600.0)
"""As quick, but nothing is put right by a comparison."""
SLOW = RoomSettings(room_beat_s=60.0, room_lease_s=600.0, room_repair_s=600.0, room_linger_s=0.2)
"""Nothing happens by a timer."""
SECRET = b"a secret of more than thirty-two bytes"


class Member(Raw):
    """A user who speaks of rooms."""

    def say(self, kind: str, **fields: Any) -> None:
        self.frame(json.dumps({"type": kind, **fields}).encode())

    async def join(self, room: str = "lobby", **fields: Any) -> dict[str, Any]:
        self.say("join", room=room, **fields)
        return await self.next("joined", room=room)

    async def next(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Return the next message, which must be this one."""
        answer = await self.answer()
        told = {name: answer.get(name) for name in ("type", *fields)}
        assert told == {"type": kind, **fields}, answer
        return answer

    async def is_quiet(self) -> bool:
        """Whether nothing has come for this user until now: the next answer is that to a ping."""
        self.say("ping")
        return bool((await self.answer())["type"] == "pong")

    @classmethod
    async def of(cls, running: Gateway, user: str) -> Self:
        return await cls.register(running, user)


@contextlib.asynccontextmanager
async def rooms_at(
    server: Any, keyspace: Keyspace, gateway_id: str = "gateway-01", **more: Any
) -> AsyncIterator[Gateway]:
    settings = {"rooms": more.pop("rooms", SLOW), **more.pop("settings", {})}
    async with gateway(server, keyspace, gateway_id, settings=settings, **more) as running:
        yield running


@pytest.fixture
async def here(shared_server: BundledServer, keyspace: Keyspace) -> AsyncIterator[Gateway]:
    async with rooms_at(shared_server, keyspace) as running:
        yield running


@pytest.fixture
async def there(shared_server: BundledServer, keyspace: Keyspace) -> AsyncIterator[Gateway]:
    async with rooms_at(shared_server, keyspace, "gateway-02") as running:
        yield running


def by_wire(server: BundledServer, wire: Wire) -> Any:
    """Return what has the address of a server, over a wire."""
    return SimpleNamespace(url=server.url_by(wire.port))


def feature(running: Gateway) -> Rooms:
    (found,) = [one for one in running._features if isinstance(one, Rooms)]
    return found


def counts(running: Gateway) -> Mapping[str, int]:
    counters: Mapping[str, int] = running.stats()["counters"]
    return counters


async def listed(member: Member, room: str = "lobby") -> list[str]:
    """Return who is in the room, by a list that is read now."""
    members: list[str] = (await member.join(room))["members"]
    return members


def hold_lists(running: Gateway, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Hold the lists that this gateway reads, on their way to it, until the event is set."""
    held, hear = asyncio.Event(), RoomLists._hear_list

    async def hear_later(self: RoomLists, *args: Any) -> None:
        if self is feature(running)._lists:
            await held.wait()
        await hear(self, *args)

    monkeypatch.setattr(RoomLists, "_hear_list", hear_later)
    return held


# --- what a client sees ------------------------------------------------------------------------


async def test_a_message_reaches_all_members_and_nobody_else(here: Gateway, there: Gateway) -> None:
    """Also its sender: all members read the messages of a room in one order."""
    async with (
        await Member.of(here, "alice") as alice,
        await Member.of(there, "bob") as bob,
        await Member.of(there, "carol") as carol,
    ):
        assert (await alice.join())["members"] == ["alice"]
        assert (await bob.join())["members"] == ["alice", "bob"]
        await alice.next("member", user="bob", state="join")
        alice.say("publish", room="lobby", content='Hi: "all" \N{SNOWMAN}', id="7")
        for member in (alice, bob):
            got = {"room": "lobby", "from": "alice", "content": 'Hi: "all" \N{SNOWMAN}', "id": "7"}
            answers = [await member.answer() for _ in range(2 if member is alice else 1)]
            assert {"type": "message", **got} in answers
        assert await carol.is_quiet()
        assert counts(here)["room_publishes_routed"] == 1


async def test_a_publish_with_an_id_is_acknowledged(here: Gateway) -> None:
    async with await Member.of(here, "alice") as alice:
        await alice.join()
        alice.say("publish", room="lobby", content="Hi", id="7")
        answers = [await alice.answer(), await alice.answer()]
        assert {"type": "ack", "id": "7", "status": "routed"} in answers
        alice.say("publish", room="lobby", content="Hi")
        await alice.next("message", room="lobby", id=None)
        assert await alice.is_quiet()


async def test_members_are_told_who_comes_and_goes(here: Gateway, there: Gateway) -> None:
    """By her own wish, and by the end of her session; who wants to know nothing hears nothing."""
    async with (
        await Member.of(here, "alice") as alice,
        await Member.of(here, "quiet") as quiet,
        await Member.of(there, "bob") as bob,
    ):
        await alice.join()
        joined = await quiet.join(members=False)
        assert joined == {"type": "joined", "room": "lobby", "count": 2}
        await alice.next("member", user="quiet", state="join")
        await bob.join()
        await alice.next("member", user="bob", state="join")
        bob.say("leave", room="lobby")
        await bob.next("left", room="lobby")
        await alice.next("member", user="bob", state="leave", reason="left")
        await bob.join()
        await alice.next("member", user="bob", state="join")
        await bob.leave()
        await alice.next("member", user="bob", state="leave", reason="lost")
        assert await quiet.is_quiet()


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (frame(struct.pack("!H", 1000), opcode=8), "bye"),
        (b"", "lost"),
        (frame(b"a", rsv=7), "ended"),
    ],
    ids=["1000", "end of file", "no frame"],
)
async def test_members_are_told_why_a_session_has_ended(
    here: Gateway, said: bytes, reason: str
) -> None:
    """With the words of presence events, without `--watch` as well. What a client did wrong is no
    business of the other members.
    """
    async with await Member.of(here, "alice") as alice, await Member.of(here, "bob") as bob:
        await alice.join()
        await bob.join()
        await alice.next("member", user="bob", state="join")
        bob.writer.write(said)
        if not said:
            bob.half_close()
        await bob.rest()
        await alice.next("member", user="bob", state="leave", reason=reason)


async def test_who_is_replaced_leaves_the_room_for_that_reason(
    here: Gateway, there: Gateway
) -> None:
    """The newer session has joined nothing yet."""
    async with await Member.of(here, "alice") as alice, await Member.of(here, "bob") as bob:
        await alice.join()
        await bob.join()
        await alice.next("member", user="bob", state="join")
        async with await Member.of(there, "bob"):
            await alice.next("member", user="bob", state="leave", reason="replaced")


def test_each_reason_of_an_end_that_watchers_are_told_is_one_of_rooms() -> None:
    """But for what is nobody's business: that is `ended`."""
    ends = {reason_of(code) for code in (None, *Code)}
    told = {reason: end_of(reason.value) for reason in ends}
    assert told.pop(WatchReason.UNKNOWN) is LeaveReason.ENDED
    assert {end.value for end in told.values()} == {reason.value for reason in told}


async def test_who_has_left_hears_nothing_and_may_not_publish(here: Gateway) -> None:
    async with await Member.of(here, "alice") as alice, await Member.of(here, "bob") as bob:
        await alice.join()
        await bob.join()
        bob.say("leave", room="lobby")
        await bob.next("left", room="lobby")
        alice.say("publish", room="lobby", content="Hi", id="7")
        await until("it is out", lambda: counts(here)["room_publishes_routed"] == 1)
        assert await bob.is_quiet()
        bob.say("publish", room="lobby", content="Hi", id="8")
        await bob.next("error", code="not_member", room="lobby", id="8")
        bob.say("leave", room="lobby")
        await bob.next("error", code="not_member", room="lobby")


async def test_what_comes_after_the_list_is_heard_after_joined(
    here: Gateway, there: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R3: bob's list is read and held back on its way. Carol joins and speaks; all this is told
    after `joined`, once, and what was before the list is not told again.
    """
    held = hold_lists(there, monkeypatch)
    async with (
        await Member.of(here, "alice") as alice,
        await Member.of(there, "bob") as bob,
        await Member.of(here, "carol") as carol,
    ):
        await alice.join()
        alice.say("publish", room="lobby", content="before")
        await alice.next("message", content="before")
        bob.say("join", room="lobby")
        await until("the list was read", lambda: _is_marked(there))
        await carol.join()
        carol.say("publish", room="lobby", content="after")
        await carol.next("message", content="after")
        await until("it was heard there", lambda: _held(there) == 2)
        assert await bob.is_quiet()
        held.set()
        assert (await bob.next("joined"))["members"] == ["alice", "bob"]
        await bob.next("member", user="carol", state="join")
        await bob.next("message", content="after")
        assert await bob.is_quiet()


async def test_who_wants_no_events_gets_none_of_those_that_were_held(
    here: Gateway, there: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But the messages that came after the list."""
    held = hold_lists(there, monkeypatch)
    async with (
        await Member.of(there, "bob") as bob,
        await Member.of(here, "carol") as carol,
    ):
        bob.say("join", room="lobby", members=False)
        await until("the list was read", lambda: _is_marked(there))
        await carol.join()
        carol.say("publish", room="lobby", content="after")
        await carol.next("message", content="after")
        await until("it was heard there", lambda: _held(there) > 0)
        held.set()
        await bob.next("joined", members=None, count=1)
        await bob.next("message", content="after")
        assert await bob.is_quiet()


async def test_a_list_is_told_when_its_mark_has_come(
    here: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R3: the list is here, and what was published before it may still be on its way."""
    marks: list[Any] = []
    take = RoomLists.take_mark
    monkeypatch.setattr(RoomLists, "take_mark", lambda *mark: marks.append(mark))
    async with await Member.of(here, "bob") as bob:
        bob.say("join", room="lobby")
        await until("the list is here", lambda: _is_found(here))
        assert await bob.is_quiet()
        await until("the mark is here", lambda: marks)
        for mark in marks:
            take(*mark)
        await bob.next("joined")


def _is_found(running: Gateway) -> bool:
    room = feature(running)._rooms.get("lobby")
    return room is not None and room.look is not None and room.look.found is not None


async def test_who_joins_once_more_hears_all_messages_meanwhile(
    here: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those before the mark at once, those after it after the answer, and there is one answer."""
    marks: list[Any] = []
    take = RoomLists.take_mark
    async with await Member.of(here, "alice") as alice, await Member.of(here, "bob") as bob:
        await alice.join()
        await bob.join(members=False)
        await alice.next("member", user="bob")
        monkeypatch.setattr(RoomLists, "take_mark", lambda *mark: marks.append(mark))
        for _ in range(3):
            bob.say("join", room="lobby", members=False)
        await until("the mark is here", lambda: marks)
        await publish(alice, "before")
        await bob.next("message", content="before")
        monkeypatch.setattr(RoomLists, "take_mark", take)
        for mark in marks:
            take(*mark)
        await bob.next("joined")
        for content in ("after", "and after that"):
            await publish(alice, content)
            await bob.next("message", content=content)
        assert await bob.is_quiet()


async def test_each_device_of_a_user_is_in_the_room_and_the_user_is_listed_once(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """Both hear what is said; when one leaves, the user is still there."""
    async with (
        rooms_at(shared_server, keyspace, settings={"devices": 2}) as running,
        await Member.open(running) as phone,
        await Member.open(running) as laptop,
    ):
        for device, member in (("phone", phone), ("laptop", laptop)):
            member.say("register", userId="alice", device=device)
            await member.next("registered")
        await phone.join()
        assert (await laptop.join())["members"] == ["alice"]
        await phone.next("member", user="alice", device="laptop", state="join")
        await publish(laptop, "Hi")
        await phone.next("message", content="Hi")
        laptop.say("leave", room="lobby")
        await laptop.next("left")
        await phone.next("member", user="alice", device="laptop", state="leave")
        assert await listed(phone) == ["alice"]


def _is_marked(running: Gateway) -> bool:
    room = feature(running)._rooms.get("lobby")
    return room is not None and room.look is not None and room.look.marked


def _held(running: Gateway) -> int:
    look = feature(running)._rooms["lobby"].look
    assert look is not None
    return sum(len(membership.held or ()) for membership in look.waiting)


async def test_a_second_join_answers_who_is_there_now(here: Gateway) -> None:
    """Nobody is told a second time that she came."""
    async with await Member.of(here, "alice") as alice, await Member.of(here, "bob") as bob:
        await alice.join()
        await bob.join()
        await alice.next("member", user="bob", state="join")
        assert (await bob.join())["members"] == ["alice", "bob"]
        assert await alice.is_quiet()
        alice.say("publish", room="lobby", content="Hi")
        await bob.next("message", content="Hi")


async def test_a_user_who_moves_is_in_the_room_where_she_joins_again(
    here: Gateway, there: Gateway
) -> None:
    """R1: whatever the old gateway says afterwards."""
    async with await Member.of(here, "bob") as bob:
        await bob.join()
        old = await Member.of(here, "alice")
        await old.join()
        await bob.next("member", user="alice", state="join")
        async with await Member.of(there, "alice") as alice:
            assert await old.closed() == 4509
            assert "alice" in (await alice.join())["members"]
            await until("the old one has left", lambda: len(here.registry) == 1)
            assert await listed_after_events(bob) == ["alice", "bob"]
            bob.say("publish", room="lobby", content="Hi")
            await alice.next("message", content="Hi")
        await old.leave()


async def listed_after_events(member: Member) -> list[str]:
    """Return a fresh list; events that came before are passed over."""
    member.say("join", room="lobby")
    while (answer := await member.answer())["type"] != "joined":
        assert answer["type"] == "member", answer
    members: list[str] = answer["members"]
    return members


async def test_a_gateway_without_rooms_knows_none_of_the_verbs(
    shared_server: BundledServer, keyspace: Keyspace, redis_db: Any
) -> None:
    """And leaves no trace of them in Redis."""
    async with gateway(shared_server, keyspace) as running, await Member.of(running, "al") as al:
        for kind in ("join", "leave", "publish"):
            al.say(kind, room="lobby", content="Hi")
            await al.next("error", error="Unknown message type", code="unknown_type")
        assert await redis_db.keys(f"{keyspace.prefix}boots") == []


async def test_registered_says_that_there_are_rooms(here: Gateway) -> None:
    async with await Member.open(here) as alice:
        alice.say("register", userId="alice")
        await alice.next("registered", rooms=True)


# --- watching a room -----------------------------------------------------------------------------

WATCHED = {"watch": WatchSettings()}


@pytest.fixture
async def open_room(shared_server: BundledServer, keyspace: Keyspace) -> AsyncIterator[Gateway]:
    """A gateway where rooms may be watched."""
    async with rooms_at(shared_server, keyspace, settings=WATCHED) as running:
        yield running


async def watch(member: Member, room: str = "lobby") -> list[str]:
    """Watch a room; return who is there."""
    member.say("watch", rooms=[room])
    members: list[str] = (await member.next("members", room=room))["members"]
    return members


async def test_who_watches_a_room_is_told_who_comes_and_goes_and_nothing_else(
    open_room: Gateway, there: Gateway
) -> None:
    """R3: the list, and then what follows from it. The watcher is in no list, hears no message, and
    may not publish; there is no answer to `unwatch`, and nothing after it.
    """
    async with (
        await Member.of(open_room, "alice") as alice,
        await Member.of(there, "bob") as bob,
        await Member.of(there, "carol") as carol,
    ):
        await bob.join()
        assert await watch(alice) == ["bob"]
        assert (await carol.join())["members"] == ["bob", "carol"]
        await alice.next("member", user="carol", state="join")
        await bob.next("member", user="carol", state="join")
        await publish(bob, "not for alice")
        await carol.next("message")
        carol.say("leave", room="lobby")
        await carol.next("left")
        await alice.next("member", user="carol", state="leave", reason="left")
        alice.say("publish", room="lobby", content="Hi")
        assert (await alice.answer())["code"] == "not_member"
        assert await watch(alice) == ["bob"], "the list anew"
        alice.say("unwatch", rooms=["lobby", "another"])
        assert await alice.is_quiet()
        await carol.join()
        assert await alice.is_quiet()


async def test_a_member_who_watches_goes_on_with_the_one_when_the_other_ends(
    open_room: Gateway,
) -> None:
    """Each event comes once; a watcher is no member, and a member is no watcher."""
    async with (
        await Member.of(open_room, "alice") as alice,
        await Member.of(open_room, "bob") as bob,
    ):
        assert await watch(alice) == []
        alice.say("join", room="lobby", members=False)
        await alice.next("member", user="alice", state="join")
        await alice.next("joined", members=None)
        await bob.join()
        await alice.next("member", user="bob", state="join")
        await publish(bob, "1")
        await alice.next("message", content="1")
        alice.say("leave", room="lobby")
        await alice.next("left")
        await alice.next("member", user="alice", state="leave", reason="left")
        await bob.next("member", user="alice", state="leave")
        bob.say("leave", room="lobby")
        await bob.next("left")
        await alice.next("member", user="bob", state="leave")
        alice.say("join", room="lobby")
        await alice.next("member", user="alice", state="join")
        await alice.next("joined", members=["alice"])
        alice.say("unwatch", rooms=["lobby"])
        await bob.join()
        await alice.next("member", user="bob", state="join")


async def test_what_comes_after_the_list_is_heard_by_a_watcher_after_it(
    open_room: Gateway, there: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who comes, and no message."""
    held = hold_lists(open_room, monkeypatch)
    async with (
        await Member.of(open_room, "alice") as alice,
        await Member.of(there, "bob") as bob,
    ):
        alice.say("watch", rooms=["lobby"])
        await until("the list was read", lambda: _is_marked(open_room))
        await bob.join()
        await publish(bob, "not for alice")
        await until("it was heard there", lambda: _held(open_room) == 1)
        held.set()
        await alice.next("members", members=[], count=0)
        await alice.next("member", user="bob", state="join")
        assert await alice.is_quiet()


async def test_after_a_gap_a_watcher_gets_the_list_anew(open_room: Gateway) -> None:
    async with await Member.of(open_room, "alice") as alice:
        assert await watch(alice) == []
        feature(open_room).gap()
        await alice.next("members", room="lobby", members=[], count=0)


async def test_a_gateway_listens_no_more_to_a_room_that_nobody_watches(
    open_room: Gateway, redis_db: Any, keyspace: Keyspace
) -> None:
    """After an `unwatch`, and after the end of the session."""
    channel = keyspace.channel("room", "lobby")

    async def listeners() -> int:
        ((_, count),) = await redis_db.pubsub_numsub(channel)
        return int(count)

    async with await Member.of(open_room, "bob") as bob:
        for ends_by_itself in (True, False):
            alice = await Member.of(open_room, "alice")
            await watch(alice)
            gauges = {m.name: m.samples[0].value for m in open_room.metrics() if m.type == "gauge"}
            assert await listeners() == 1 and gauges["wsdemo_room_watchers"] == 1
            if ends_by_itself:
                alice.say("unwatch", rooms=["lobby"])
                assert await alice.is_quiet()
            await alice.leave()
            await until("it listens no more", partial(_is_zero, listeners))
            assert await bob.is_quiet()


async def test_another_token_ends_the_watch_of_a_room_that_it_does_not_permit(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """Who may join a room may watch it, and nobody else."""
    settings = {**WATCHED, "auth_secret": SECRET}
    async with (
        rooms_at(shared_server, keyspace, settings=settings) as running,
        await Member.open(running) as alice,
        await Member.open(running) as bob,
    ):
        for member, user, rooms in ((alice, "alice", ["lobby", "hall"]), (bob, "bob", ["*"])):
            token = mint_token(SECRET, user, time.time() + 60, rooms=rooms)
            member.say("register", userId=user, token=token)
            await member.next("registered")
        assert await watch(alice) == await watch(alice, "hall") == []
        alice.say("watch", rooms=["cellar"], id="w-1")
        refusal = await alice.next("error", code="forbidden", room="cellar")
        assert refusal["id"] == "w-1"
        token = mint_token(SECRET, "alice", time.time() + 60, rooms=["hall"])
        alice.say("register", userId="alice", token=token)
        await alice.next("registered")
        await bob.join()
        await bob.join("hall")
        await alice.next("member", room="hall", user="bob", state="join")


# --- history -------------------------------------------------------------------------------------

KEEPS = dataclasses.replace(SLOW, room_history=3)


async def publish(member: Member, *contents: str) -> list[dict[str, Any]]:
    """Publish, and return what the member itself hears of it."""
    for content in contents:
        member.say("publish", room="lobby", content=content)
    return [await member.next("message", content=content) for content in contents]


async def test_who_joins_hears_the_last_messages_before_those_that_come(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """As many as she asks for, and no more than the room keeps."""
    async with (
        rooms_at(shared_server, keyspace, rooms=KEEPS) as running,
        await Member.of(running, "alice") as alice,
        await Member.of(running, "bob") as bob,
        await Member.of(running, "carol") as carol,
    ):
        await alice.join(members=False)
        sent = await publish(alice, "1", "2", "3", "4")
        joined = await bob.join(history=2, members=False)
        assert joined["offset"] == sent[-1]["offset"] and "recovered" not in joined
        assert [await bob.answer(), await bob.answer()] == sent[2:]
        joined = await carol.join(history=100, members=False)
        assert [await carol.answer() for _ in "234"] == sent[1:]
        sent = await publish(alice, "5")
        assert [await bob.answer(), await carol.answer()] == sent * 2


async def test_who_comes_back_hears_exactly_what_she_has_missed(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """With the position of the last message that she has; otherwise she is told so."""
    async with (
        rooms_at(shared_server, keyspace, rooms=KEEPS) as running,
        await Member.of(running, "alice") as alice,
        await Member.of(running, "bob") as bob,
    ):
        epoch = (await bob.join(history=1, members=False))["epoch"]
        assert epoch == "", "nothing has been said yet"
        await alice.join(members=False)
        (first,) = await publish(alice, "1")
        await bob.next("message", content="1")
        epoch = (await bob.join(history=1, members=False))["epoch"]
        assert await bob.answer() == first
        bob.say("leave", room="lobby")
        await bob.next("left")
        position = {"epoch": epoch, "offset": first["offset"]}
        missed = await publish(alice, "2", "3")
        assert (await bob.join(members=False, **position))["recovered"] is True
        assert [await bob.answer(), await bob.answer()] == missed
        position["offset"] = missed[-1]["offset"]
        assert (await bob.join(members=False, **position))["recovered"] is True
        assert await bob.is_quiet(), "she has missed nothing"
        last = await publish(alice, "4")
        await bob.next("message", content="4")
        for lost in (
            {"epoch": epoch, "offset": first["offset"]},  # Not kept any more.
            {"epoch": epoch, "offset": "2-12345"},  # This number is another message.
            {"epoch": "another", "offset": missed[0]["offset"]},
        ):
            assert (await bob.join(members=False, **lost))["recovered"] is False
            assert [await bob.answer() for _ in "234"] == [*missed, *last]


@pytest.mark.parametrize("trusts", [False, True])
async def test_a_loss_of_history_that_nobody_has_seen_is_told(
    server: BundledServer, database: Any, keyspace: Keyspace, trusts: bool
) -> None:
    """What alice says is confirmed and then lost, as after a failover. Bob had not heard it, so his
    position is still good; only the run of Redis tells. A Redis that is trusted is believed.
    """
    rooms = dataclasses.replace(KEEPS, trust_redis=trusts)
    async with (
        rooms_at(server, keyspace, rooms=rooms) as running,
        await Member.of(running, "alice") as alice,
        await Member.of(running, "bob") as bob,
    ):
        await alice.join(members=False)
        (first,) = await publish(alice, "1")
        epoch = (await bob.join(history=1, members=False))["epoch"]
        assert await bob.answer() == first
        assert epoch.endswith(".") == trusts
        bob.say("leave", room="lobby")
        await bob.next("left")
        (lost,) = await publish(alice, "2")
        server.restart(empty=False)
        gaps = "subscription_gaps"
        await until("Redis is back", lambda: counts(running)[gaps] == 1 and running.ready)
        await database.xdel(keyspace.key("roomlog", "lobby"), lost["offset"])
        await database.hset(keyspace.key("roomlogmeta", "lobby"), "last", first["offset"])
        joined = await bob.join(members=False, epoch=epoch, offset=first["offset"])
        assert joined["recovered"] is trusts
        assert (joined["epoch"] == epoch) is trusts
        if not trusts:
            assert await bob.answer() == first, "the last messages, as nobody knows what is missing"
        assert await bob.is_quiet()


async def test_what_is_said_between_the_list_and_the_history_is_told_once(
    shared_server: BundledServer, keyspace: Keyspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes after the mark of the list, and is in the history: it is not told twice."""
    read = RoomStore.read_log

    def say_and_read(self: RoomStore, room: str, *more: Any) -> asyncio.Future[Any]:
        self.say(room, room_message_text(room, "carol", "between", None), lambda reply: None)
        return read(self, room, *more)

    async with (
        rooms_at(shared_server, keyspace, rooms=KEEPS) as running,
        await Member.of(running, "bob") as bob,
    ):
        monkeypatch.setattr(RoomStore, "read_log", say_and_read)
        await bob.join(history=3)
        await bob.next("message", content="between")
        assert await bob.is_quiet()
        (after,) = await publish(bob, "after")
        assert after["offset"].startswith("2-")


async def test_a_gateway_that_keeps_no_history_says_nothing_of_it(here: Gateway) -> None:
    async with await Member.of(here, "alice") as alice:
        joined = await alice.join(history=3)
        assert joined == {"type": "joined", "room": "lobby", "members": ["alice"], "count": 1}
        (heard,) = await publish(alice, "1")
        assert "offset" not in heard


# --- limits and rights -------------------------------------------------------------------------


async def test_a_full_room_and_too_many_rooms_are_refused(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    few = dataclasses.replace(SLOW, room_members=1, rooms_per_session=1)
    async with (
        rooms_at(shared_server, keyspace, rooms=few) as running,
        await Member.of(running, "alice") as alice,
        await Member.of(running, "bob") as bob,
    ):
        await alice.join()
        bob.say("join", room="lobby")
        await bob.next("error", code="full", room="lobby")
        await bob.join("other")
        bob.say("join", room="third")
        await bob.next("error", code="too_many_rooms", room="third")
        bob.say("leave", room="other")
        await bob.next("left", room="other")
        await bob.join("third")


async def test_rooms_have_rates_of_their_own(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """A publish costs a copy for each member, a join an event. Nobody is closed for it, and plain
    messages pass.
    """
    few = dataclasses.replace(
        SLOW, publishes_per_s=0.01, publish_burst=1, joins_per_s=0.01, join_burst=2,
        rooms_per_session=2,
    )  # fmt: skip
    async with (
        rooms_at(shared_server, keyspace, rooms=few) as running,
        await Member.of(running, "alice") as alice,
    ):
        await alice.join()
        await alice.join("other")
        alice.say("join", room="third")
        await alice.next("error", code="rate_limited", room="third")
        alice.say("publish", room="lobby", content="one")
        await alice.next("message", content="one")
        alice.say("publish", room="lobby", content="two", id="7")
        await alice.next("ack", id="7", status="busy")
        alice.say("publish", room="lobby", content="three")
        await alice.next("error", code="rate_limited", room="lobby")
        alice.say("message", to="alice", content="plain")
        await alice.next("message", content="plain")
        assert counts(running)["rate_limited"] == 3
        assert counts(running)["room_publishes_busy"] == 2


@pytest.mark.parametrize(
    ("claims", "permitted"),
    [
        (None, True),
        ({}, False),
        ({"rooms": ["lobby*"]}, True),
        ({"rooms": ["x", "*"]}, True),
        ({"rooms": ["Lobby-1", "lobby", "lobby-", "?"]}, False),
        ({"rooms": "lobby*"}, False),
        ({"rooms": [1, None, ["lobby*"]]}, False),
        ({"rooms": [*["x"] * MAX_PATTERNS, "*"]}, False),
        ({"rooms": ["*" * 129]}, False),
        ({"watch": ["*"]}, False),
    ],
)
async def test_a_claim_permits_what_its_patterns_match(
    claims: Mapping[str, Any] | None, permitted: bool
) -> None:
    """Without tokens everything is open; a token without the claim permits nothing."""
    assert permits(claims, "rooms", "lobby-1") is permitted


async def test_a_room_that_the_token_does_not_permit_is_refused(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    now = 1_700_000_000.0
    token = mint_token(SECRET, "alice", now + 60, rooms=["lobby*"])
    async with (
        rooms_at(
            shared_server, keyspace, settings={"auth_secret": SECRET}, time_of_day=lambda: now
        ) as running,
        await Member.open(running) as alice,
    ):
        alice.say("register", userId="alice", token=token)
        await alice.next("registered")
        await alice.join("lobby-1")
        alice.say("join", room="staff")
        await alice.next("error", code="forbidden", room="staff")


def test_the_command_line_writes_the_claims(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`token USER --rooms PATTERN --watch PATTERN`; a claim without patterns is not there."""
    file = tmp_path / "secret"
    file.write_bytes(SECRET)
    for flags, claims in (
        ([], {}),
        (["--rooms", "lobby*", "--rooms", "staff"], {"rooms": ["lobby*", "staff"]}),
        (["--watch", "*"], {"watch": ["*"]}),
    ):
        print_token(["alice", "--auth-secret-file", str(file), *flags])
        told = claims_of(SECRET, capsys.readouterr().out.strip(), "alice", time.time())
        assert {name: told[name] for name in told if name not in ("sub", "exp")} == claims


async def test_a_flag_that_says_nothing_here_is_refused() -> None:
    """`--trust-redis` is about inboxes and the history of rooms, and about nothing else."""
    for flags in ([], ["--rooms"], ["--watch"]):
        with pytest.raises(SettingsError, match="no effect without --durable or --room-history"):
            settings_of(parser().parse_args(["-id", "g", "--trust-redis", *flags]))
    told = settings_of(
        parser().parse_args(["-id", "g", "--rooms", "--room-history", "5", "--trust-redis"])
    )
    assert told.rooms is not None and told.rooms.trust_redis
    told = settings_of(parser().parse_args(["-id", "g", "--rooms", "--durable", "--trust-redis"]))
    assert told.inbox is not None and told.inbox.trust_redis


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"room_lease_s": 15.0}, "room_lease_s"),
        ({"join_burst": 10}, "join_burst"),
        ({"room_members": 0}, "room_members"),
        ({"publishes_per_s": 0}, "publishes_per_s"),
    ],
)
async def test_settings_that_cannot_work_are_refused(wrong: Mapping[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        RoomSettings(**wrong)


# --- accidents -----------------------------------------------------------------------------------


async def test_after_the_death_of_a_gateway_delivery_goes_on_and_the_list_becomes_right(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """R4: a process is killed with members in the room. A lease and a beat later the others are
    told, once for each; who asks is given the live ones only.
    """
    async with (
        rooms_at(shared_server, keyspace, rooms=NO_REPAIR) as running,
        await Member.of(running, "alice") as alice,
        await Member.of(running, "late") as late,
        process(shared_server, keyspace) as other,
    ):
        await alice.join()
        async with (
            await Member.of(at(other), "bob") as bob,
            await Member.of(at(other), "carol") as c,
        ):
            await bob.join()
            await c.join()
            for user in ("bob", "carol"):
                await alice.next("member", user=user, state="join")
            other.signal(signal.SIGKILL)
            alice.say("publish", room="lobby", content="Is anybody there?")
            await alice.next("message", content="Is anybody there?")
            told = [await alice.next("member", state="leave", reason="gateway lost") for _ in "bc"]
            assert {event["user"] for event in told} == {"bob", "carol"}
            assert await listed(late) == ["alice", "late"]
            await alice.next("member", user="late", state="join")
            assert await alice.is_quiet()
            assert counts(running)["room_sweeps_lapsed"] == 2


async def test_a_list_has_nobody_of_a_gateway_that_has_lapsed_swept_or_not(
    here: Gateway, redis_db: Any, keyspace: Keyspace
) -> None:
    """R4: the entry is still there, and nobody has swept: the beat is a minute away."""
    stale = "in 1 1 gateway-09 gateway-09.x c"
    await redis_db.hset(keyspace.key("room", "lobby"), "ghost", stale)
    async with await Member.of(here, "alice") as alice:
        assert (await alice.join())["members"] == ["alice"]
        await alice.next("member", user="ghost", state="leave", reason="gateway lost")
        assert await redis_db.hget(keyspace.key("room", "lobby"), "ghost") == "out 1 0"


async def test_a_gateway_that_slept_says_again_who_is_there(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """R4: it was swept, wakes up, and its member is in the list again, and hears messages."""
    async with (
        rooms_at(shared_server, keyspace, rooms=QUICK) as running,
        await Member.of(running, "alice") as alice,
        process(shared_server, keyspace) as other,
        await Member.of(at(other), "bob") as bob,
    ):
        await alice.join()
        await bob.join()
        await alice.next("member", user="bob", state="join")
        other.signal(signal.SIGSTOP)
        try:
            await alice.next("member", user="bob", state="leave", reason="gateway lost")
        finally:
            other.signal(signal.SIGCONT)
        await alice.next("member", user="bob", state="join")
        assert await listed_after_events(alice) == ["alice", "bob"]


async def test_a_ghost_of_a_live_gateway_is_repaired_by_that_gateway(
    shared_server: BundledServer, keyspace: Keyspace, redis_db: Any
) -> None:
    """R5: the entry names this very process, which has no such member. It is in no list, and it
    is removed at the next comparison.
    """
    async with (
        rooms_at(shared_server, keyspace, rooms=QUICK) as running,
        await Member.of(running, "alice") as alice,
    ):
        await alice.join()
        ghost = f"in 1 1 gateway-01 gateway-01.{running.boot_id} c"
        await redis_db.hset(keyspace.key("room", "lobby"), "ghost", ghost)
        assert await listed_after_events(alice) == ["alice"]
        await alice.next("member", user="ghost", state="leave", reason="repaired")
        assert counts(running)["room_sweeps_wrong"] >= 1


async def test_an_entry_that_redis_has_lost_is_made_again(
    shared_server: BundledServer, keyspace: Keyspace, redis_db: Any
) -> None:
    """R5: at the next comparison, or when the gateway learns that its beat is lost as well."""
    async with (
        rooms_at(shared_server, keyspace, rooms=QUICK) as running,
        await Member.of(running, "alice") as alice,
    ):
        await alice.join()
        await redis_db.hdel(keyspace.key("room", "lobby"), "alice")
        await until("it is there", lambda: redis_db.hget(keyspace.key("room", "lobby"), "alice"))
        assert counts(running)["room_sweeps_missing"] >= 1
        keys = [keyspace.key("room", "lobby"), keyspace.key("roomout", "lobby"), keyspace.boots]
        await redis_db.delete(*keys)
        await until("it is there", lambda: redis_db.hget(keyspace.key("room", "lobby"), "alice"))
        assert await listed_after_events(alice) == ["alice"]


async def test_who_leaves_after_a_loss_of_data_is_in_no_list_that_was_told(
    shared_server: BundledServer, keyspace: Keyspace, redis_db: Any
) -> None:
    """R3: Redis had lost bob, so his leave is no event; the others get a whole list."""
    async with (
        rooms_at(shared_server, keyspace, rooms=QUICK) as running,
        rooms_at(shared_server, keyspace, "gateway-02") as other,
        await Member.of(running, "alice") as alice,
        await Member.of(other, "bob") as bob,
    ):
        await alice.join()
        await bob.join()
        await alice.next("member", user="bob", state="join")
        keys = [keyspace.key("room", "lobby"), keyspace.key("roomout", "lobby"), keyspace.boots]
        await redis_db.delete(*keys)
        bob.say("leave", room="lobby")
        await bob.next("left", room="lobby")
        while (answer := await alice.answer())["type"] != "members":
            assert answer.get("user") == "alice", answer
        assert answer["members"] == ["alice"]


async def test_who_slept_says_again_who_is_there_without_waiting_for_a_repair(
    shared_server: BundledServer, keyspace: Keyspace, redis_db: Any
) -> None:
    """R4: its next beat tells it that it had been given up. Nothing compares here."""
    async with (
        rooms_at(shared_server, keyspace, rooms=NO_REPAIR) as running,
        await Member.of(running, "alice") as alice,
    ):
        await alice.join()
        keys = [keyspace.key("room", "lobby"), keyspace.key("roomout", "lobby"), keyspace.boots]
        await redis_db.delete(*keys)
        await until("it is there", lambda: redis_db.hget(keyspace.key("room", "lobby"), "alice"))


async def test_a_leave_while_redis_is_away_is_made_up_for(
    shared_server: BundledServer, keyspace: Keyspace, redis_db: Any
) -> None:
    """Also when it was the last member here, and nobody compares this room any more."""
    async with Wire("127.0.0.1", shared_server.port) as wire:
        through = by_wire(shared_server, wire)
        async with rooms_at(through, keyspace, redis_timeout_s=1.0) as running:
            async with await Member.of(running, "alice") as alice:
                await alice.join()
                wire.hold()
                alice.say("leave", room="lobby")
                await alice.next("left", room="lobby")
            await until("the link is given up", lambda: not running._link.up)
            wire.cut()
            wire.release()

            async def has_left() -> bool:
                entry = await redis_db.hget(keyspace.key("room", "lobby"), "alice")
                return bool(entry is None or entry.startswith("out"))

            await until("she has left", has_left)
            wire.release()


async def test_after_a_gap_in_the_subscription_members_get_the_list_anew(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """R3: events may be missing; what is told then is whole."""
    async with (
        rooms_at(shared_server, keyspace) as running,
        rooms_at(shared_server, keyspace, "gateway-02") as other,
        await Member.of(running, "alice") as alice,
        await Member.of(other, "bob") as bob,
    ):
        await alice.join()
        running._router._subscription.reset(GIVEN_UP)
        await bob.join()
        answer = await alice.answer()
        if answer["type"] == "member":  # It was subscribed again before he came.
            answer = await alice.answer()
        while answer.get("members") != ["alice", "bob"]:
            assert answer["type"] in ("members", "member"), answer
            answer = await alice.answer()
        bob.say("publish", room="lobby", content="Hi")
        while (answer := await alice.answer())["type"] == "member":
            pass
        assert answer["content"] == "Hi"


async def test_who_comes_after_a_list_that_all_get_anew_is_told_after_it(
    here: Gateway, there: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R3: the list was read before carol came. Told after her, it would take her out again."""
    async with (
        await Member.of(there, "bob") as bob,
        await Member.of(here, "carol") as carol,
    ):
        await bob.join()
        held = hold_lists(there, monkeypatch)
        feature(there).gap()
        await until("the list was read", lambda: _is_marked(there))
        await carol.join()
        await publish(carol, "messages do not wait")
        await bob.next("message", content="messages do not wait")
        held.set()
        await bob.next("members", members=["bob"])
        await bob.next("member", user="carol", state="join")
        assert await bob.is_quiet()


async def test_when_too_many_come_after_a_list_there_is_another_one(
    here: Gateway, there: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R3: what a list waits for is bounded."""
    async with (
        await Member.of(there, "bob") as bob,
        await Member.of(here, "carol") as carol,
    ):
        await bob.join()
        monkeypatch.setattr(feature(there)._lists, "_most_held", 0)
        held = hold_lists(there, monkeypatch)
        feature(there).gap()
        await until("the list was read", lambda: _is_marked(there))
        await carol.join()
        await until("it was heard there", lambda: feature(there)._rooms["lobby"].anew)
        held.set()
        await bob.next("members", members=["bob"])
        await bob.next("members", members=["bob", "carol"])
        assert await bob.is_quiet()


@pytest.mark.parametrize("when", ["asking", "answering"])
async def test_a_list_for_all_that_could_not_be_read_is_read_later(
    here: Gateway, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """R3: Redis may be away again before the list is here."""
    failures = 0

    def fail(*args: Any) -> asyncio.Future[Any]:
        nonlocal failures
        failures += 1
        if when == "asking":
            raise LinkDown("no way to Redis")
        reply = asyncio.get_running_loop().create_future()
        reply.set_exception(LinkDown("the connection was lost"))
        return reply

    async with await Member.of(here, "bob") as bob:
        await bob.join()
        with monkeypatch.context() as patched:
            patched.setattr(feature(here)._store, "read", fail)
            feature(here).gap()
            await until("it was asked", lambda: failures)
            assert await bob.is_quiet()
            assert failures == 1, "what is refused is not asked again at once"
        feature(here).link_is_back()
        await bob.next("members", members=["bob"])


async def test_a_join_while_redis_is_away_is_refused_and_may_be_repeated(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    async with Wire("127.0.0.1", shared_server.port) as wire:
        async with (
            rooms_at(by_wire(shared_server, wire), keyspace, redis_timeout_s=1.0) as running,
            await Member.of(running, "alice") as alice,
            await Member.of(running, "bob") as bob,
        ):
            await bob.join()  # The subscription to the room is there already.
            wire.hold()
            alice.say("join", room="lobby")
            await alice.next("error", code="unavailable", room="lobby")
            bob.say("publish", room="lobby", content="Hi", id="7")
            answer = await bob.answer()
            assert answer in (
                {"type": "ack", "id": "7", "status": "busy"},
                {"type": "ack", "id": "7", "status": "unknown"},
            )
            wire.cut()
            wire.release()
            await until("Redis is back", lambda: running.ready)
            assert await listed_after_events(alice) == ["alice", "bob"]


async def test_a_channel_that_redis_forbids_fails_the_join_and_nothing_else(
    here: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The subscription of this one room is refused; the next join asks again."""
    add, refused = Subscription.add, [True]

    def refuse_once(self: Subscription, channel: str) -> asyncio.Future[None]:
        if not refused.pop():
            return add(self, channel)
        failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        failed.set_exception(CommandError("NOPERM no such channel"))
        return failed

    monkeypatch.setattr(Subscription, "add", refuse_once)
    async with await Member.of(here, "alice") as alice:
        alice.say("join", room="lobby")
        await alice.next("error", code="unavailable", room="lobby")
        refused.append(False)
        await alice.join()


async def test_a_gateway_listens_no_more_to_a_room_without_members(
    here: Gateway, redis_db: Any, keyspace: Keyspace
) -> None:
    """A while after the last one has left; not when somebody has come meanwhile."""
    channel = keyspace.channel("room", "lobby")

    async def listeners() -> int:
        ((_, count),) = await redis_db.pubsub_numsub(channel)
        return int(count)

    async with await Member.of(here, "alice") as alice:
        for _ in range(3):
            await alice.join()
            alice.say("leave", room="lobby")
            await alice.next("left", room="lobby")
        await alice.join()
        room = feature(here)._rooms["lobby"]
        assert room.linger is None and await listeners() == 1
    await until("it listens no more", lambda: not feature(here)._rooms)
    await until("Redis knows it", lambda: _is_zero(listeners))


async def _is_zero(count: Callable[[], Awaitable[int]]) -> bool:
    return not await count()


async def test_a_drained_gateway_takes_its_members_out_of_the_room_at_once(
    shared_server: BundledServer, keyspace: Keyspace, redis_db: Any, here: Gateway
) -> None:
    """And is neither alive nor lapsed: there is nothing to sweep."""
    async with await Member.of(here, "alice") as alice:
        await alice.join()
        async with rooms_at(shared_server, keyspace, "gateway-02") as other:
            bob = await Member.of(other, "bob")
            await bob.join()
            await alice.next("member", user="bob", state="join")
        await alice.next("member", user="bob", state="leave", reason="drained")
        boots = await redis_db.zrange(keyspace.boots, 0, -1)
        assert boots == [f"gateway-01.{here.boot_id}"]
        await bob.leave()


async def test_a_member_that_does_not_read_is_given_up_alone(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """Its outbox is full; the others have every message, in order."""
    rates = dataclasses.replace(SLOW, publishes_per_s=1e6, publish_burst=10_000)
    async with (
        rooms_at(
            shared_server,
            keyspace,
            rooms=rates,
            outbox_messages=50,
            write_high_water_bytes=4096,
            messages_per_s=1e6,
            message_burst=100_000,
        ) as running,
        await Member.of(running, "alice") as alice,
        await Member.of(running, "bob") as bob,
        await Member.of(running, "slow") as slow,
    ):
        for member in (slow, bob, alice):
            await member.join(members=False)
        slow.reader._transport.pause_reading()  # type: ignore[attr-defined]
        heard, sent = 0, 0
        while counts(running)["slow_consumers"] == 0:
            assert sent < 10_000, "it takes them all"
            for _ in range(20):
                alice.say("publish", room="lobby", content=f"{sent} {'x' * 10_000}")
                sent += 1
            while heard < sent:
                for member in (alice, bob):
                    got = await member.next("message", room="lobby")
                    assert got["content"].split(" ")[0] == str(heard)
                heard += 1
        assert counts(running)["slow_consumers"] == 1
        assert await listed(bob) == ["alice", "bob"]


async def test_what_no_gateway_has_published_reaches_no_member(
    here: Gateway, redis_db: Any, keyspace: Keyspace
) -> None:
    """It is counted; the next message passes."""
    channel = keyspace.channel("room", "lobby")
    async with await Member.of(here, "alice") as alice:
        await alice.join()
        for wrong in (
            b"",
            b"no JSON",
            b"[]",
            b'{"type":"other"}',
            b'{"type":"message","room":"lobby","from":"x","content":5}',
            b'{"type":"message","room":"lobby","from":"x","content":"\xff"}',
            b'{"type":"message","room":"lobby","from":"x","content":"a","more":"\xff"}',
            b'{"type":"message","room":"lobby","from":"x","content":"\\ud800"}',
            b'{"type":"mark","boot":"other","n":1}',
            b'{"type":"message","room":"lobby","from":"x","content":"%b"}' % (b"a" * 200_000),
        ):
            await redis_db.publish(channel, wrong)
        alice.say("publish", room="lobby", content="Hi")
        await alice.next("message", content="Hi")
        assert counts(here)["malformed_envelopes"] == 9


async def test_the_metrics_count_rooms_and_members(here: Gateway) -> None:
    async with await Member.of(here, "alice") as alice, await Member.of(here, "bob") as bob:
        await alice.join()
        await bob.join()
        await bob.join("other")
        gauges = {m.name: m.samples[0].value for m in here.metrics() if m.type == "gauge"}
        assert gauges["wsdemo_rooms"] == 2
        assert gauges["wsdemo_room_members"] == 3


# --- what the pages say ----------------------------------------------------------------------


async def test_the_rights_in_the_manual_are_enough_and_none_is_too_many(
    server: BundledServer, database: Any, keyspace: Keyspace
) -> None:
    """With one less a gateway does not start, and says which one it is; without rooms it does."""
    (line,) = re.findall(r"^ACL SETUSER wsdemo (.*)$", PAGES["docs/operating.md"], re.MULTILINE)
    rows = [row[0].strip("`") for row in table("more rights", "what for") if ":room" in row[0]]
    plain, more = line.split(), " ".join(rows).split()
    own = Keyspace("app1:")
    through: Any = SimpleNamespace(url=f"redis://few:secret@127.0.0.1:{server.port}")

    async def may(rules: list[str]) -> None:
        await database.execute_command("ACL", "SETUSER", "few", "reset", *rules)

    await may([*plain, *more])
    async with (
        rooms_at(through, own, rooms=KEEPS) as running,
        await Member.of(running, "alice") as alice,
    ):
        await alice.join()
        alice.say("publish", room="lobby", content="Hi")
        await alice.next("message", content="Hi")
    for right in more:
        await may([*plain, *(other for other in more if other != right)])
        with pytest.raises(RedisUnavailable, match=r"NOPERM|ACL failure|can't"):
            async with rooms_at(through, own, rooms=KEEPS):
                pytest.fail(f"it starts without {right}")
    await may([*plain, *rows[0].split()])
    async with rooms_at(through, own):
        pass
    await may(plain)
    async with gateway(through, own):
        pass


@contextlib.asynccontextmanager
async def process(server: BundledServer, keyspace: Keyspace) -> AsyncIterator[GatewayProcess]:
    """A gateway with rooms in a process of its own."""
    flags = ["--key-prefix", keyspace.prefix, "--rooms"]
    for name in ("room_beat_s", "room_lease_s", "room_repair_s"):
        flags += [f"--{name.replace('_', '-')}", str(getattr(QUICK, name))]
    async with GatewayProcess("gateway-02", server.url, *flags) as running:
        yield running


def at(running: GatewayProcess) -> Any:
    """Return it as `Raw` needs a gateway: it has a port."""
    return running

"""Do the scripts for several devices keep the promises P1 to P8 for each device?

Random histories are compared with the scripts for one session (`device_worlds.py`); a mistake that
is planted in a script must be found by them, or by a test here that is named after it.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import redis

from tests.examples import seeds
from tests.hearing import HEARD_S, confirmed, confirmed_async
from tests.presence.device_worlds import (
    CONFIGURATIONS,
    SCRIPTS,
    Configuration,
    Mixed,
    Violation,
    World,
)
from tests.waiting import until
from wsdemo.presence import (
    Claim,
    DevicePresence,
    RedisPresence,
    Refresh,
    Register,
    Release,
    Renewal,
)
from wsdemo.presence.devices import DEVICES_REFRESH, DEVICES_REGISTER, DEVICES_RELEASE
from wsdemo.redis.deadline import NEVER_MS
from wsdemo.redis.link import RedisLink
from wsdemo.redis.scripts import Script
from wsdemo.redis.server import BundledServer
from wsdemo.router import DEVICES_ROUTE, ROUTE
from wsdemo.settings import Keyspace, Limits, Timing

TIMING = Timing()
MIXED = "mixed"
HUNT = 40
"""So many seeds may a hunt for a planted mistake take; the worst one needs a quarter of them."""


@pytest.fixture
def client(shared_server: BundledServer) -> Iterator[redis.Redis]:
    with contextlib.closing(
        redis.Redis.from_url(shared_server.url, decode_responses=True)
    ) as client:
        yield client


# --- random histories --------------------------------------------------------------------------


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=str)
def test_each_device_is_a_user_of_the_scripts_for_one_session(
    configuration: Configuration, client: redis.Redis, keyspace: Keyspace
) -> None:
    """P1 to P8: the same commands get the same answers."""
    count = Counter[str]()
    for seed in seeds(20, fast=4):
        count += World(client, keyspace, configuration, seed).play()
    assert min(count[f"refresh {outcome}"] for outcome in ("ok", "superseded", "reclaimed")) > 0
    assert min(count[f"release {found}"] for found in (1, -1, 0)) > 0
    assert count["copies"] > 0
    if configuration.most == 2:
        assert count["evicted"] > 0 and count["no room"] + count["forgotten"] > 0


def test_no_user_is_lost_beside_gateways_for_one_device(
    client: redis.Redis, keyspace: Keyspace
) -> None:
    """A rolling upgrade, in both orders: the newest session stays, and nothing goes on for ever."""
    count = Counter[str]()
    for seed in seeds(100, fast=20):
        count += Mixed(client, keyspace, seed).play()
    for kind in ("plain", "device"):
        for outcome in ("ok", "superseded", "reclaimed"):
            assert count[f"{kind} refresh {outcome}"] > 0
    assert count["plain beside devices"] > 0


# --- planted mistakes --------------------------------------------------------------------------


class Mistake(NamedTuple):
    """A wrong script: `instead` of `text`, in one script or in what all have in common."""

    what: str
    script: str
    text: str
    instead: str
    found_in: str
    """The configuration whose random histories show it."""

    def __str__(self) -> str:
        return self.what

    def scripts(self) -> Mapping[str, Script]:
        changed = {}
        for name, script in SCRIPTS.items():
            if self.script in (name, "all"):
                assert script.text.count(self.text) == 1, (self.what, name)
                changed[name] = Script(name, script.text.replace(self.text, self.instead))
        return {**SCRIPTS, **changed}


MISTAKES = (
    Mistake(
        "who had to go is not closed in the fence",
        "register",
        ",\n             field('closed', device), text(entry.token) .. ':' .. entry.conn)",
        ")",
        "at most two",
    ),
    Mistake(
        "who had to go may register late",
        "register",
        "floor, text(math.max(number(redis.call('HGET', KEYS[2], floor)), entry.token)),\n",
        "'other', '',\n",
        "at most two",
    ),
    Mistake(
        "the newest has to go",
        "register",
        "is_newer(live[first], entry)",
        "is_newer(entry, live[first])",
        "at most two",
    ),
    Mistake(
        "one fence for all devices",
        "all",
        "return device == '' and kind or kind .. ':' .. device",
        "return kind",
        "three devices",
    ),
    Mistake("late registers are welcome", "register", "if late or", "if", "three devices"),
    Mistake(
        "a released session may register",
        "register",
        " or number(fence[2]) >= token",
        "",
        "three devices",
    ),
    Mistake(
        "register does not ask what was forgotten",
        "register",
        "or forgotten ",
        "",
        "a small fence",
    ),
    Mistake(
        "refresh does not ask what was forgotten",
        "refresh",
        "\n    or device ~= '' and not fence[1] and token <= number(fence[4]) then",
        " then",
        "a small fence",
    ),
    Mistake(
        "what was forgotten leaves no trace",
        "register",
        "  redis.call('HSET', KEYS[2], 'low', text(math.max(tops[first],"
        " number(redis.call('HGET', KEYS[2], 'low')))))\n",
        "",
        "a small fence",
    ),
    Mistake(
        "an attempt that was given up counts",
        "register",
        " or given_up then",
        " then",
        "three devices",
    ),
    Mistake(
        "nobody is told who had to go",
        "register",
        "note_evicted(evict(live, first))",
        "evict(live, first)",
        "at most two",
    ),
    Mistake(
        "reclaimed beyond the limit",
        "refresh",
        "if not owner.conn and count >= tonumber(ARGV[9]) then return {'closed'} end",
        "",
        "at most two",
    ),
    Mistake(
        "a released session is not remembered",
        "refresh",
        "fence[2] == ARGV[3] .. ':' .. conn",
        "false",
        "three devices",
    ),
    Mistake(
        "a late refresh brings an older session back",
        "refresh",
        "math.max(number(fence[1]), owner.token or 0)",
        "(owner.token or 0)",
        "three devices",
    ),
    Mistake(
        "a reclaimed session leaves no trace",
        "refresh",
        "field('top', device), ARGV[3], 'mint'",
        "'mint'",
        "data is lost",
    ),
    Mistake(
        "a release removes whoever is there",
        "release",
        "if owner.conn ~= conn then return owner.conn and -1 or 0 end",
        "if not owner.conn then return 0 end",
        "three devices",
    ),
    Mistake(
        "a release leaves no floor",
        "release",
        "field('floor', device), text(math.max(number(fence[1]), token)), 'mint'",
        "'mint'",
        "three devices",
    ),
    Mistake(
        "a session that never took effect closes the one that did",
        "release",
        "if number(fence[2]) == token or number(fence[2]) == 0 then",
        "if true then",
        "three devices",
    ),
    Mistake(
        "who was released is still shown",
        "release",
        "live[device] = nil\nshow(live)",
        "live[device] = nil\nif not next(live) then show(live) end",
        "three devices",
    ),
    Mistake(
        "the oldest is shown",
        "all",
        "or is_newer(entry, newest) then",
        "or is_newer(newest, entry) then",
        "three devices",
    ),
    Mistake(
        "an expired owner counts",
        "register",
        "elseif entry and entry.till > now_ms then",
        "elseif entry then",
        "three devices",
    ),
    Mistake(
        "expired devices are routed to",
        "route",
        "elseif entry and entry.till > now_ms then",
        "elseif entry then",
        "three devices",
    ),
    Mistake(
        "an expired device that is shown is taken for a plain session",
        "all",
        "      if entry then known[entry.conn] = true end\n",
        "",
        "three devices",
    ),
    Mistake(
        "who has had a message gets it again",
        "route",
        "if not string.find(ARGV[3], ' ' .. entry.conn .. ' ', 1, true) then",
        "if true then",
        "three devices",
    ),
    Mistake(
        "a plain session stays beside a newer device",
        "register",
        "  note_evicted(evict(live, ''))\n  count = count - 1\n",
        "",
        MIXED,
    ),
    Mistake(
        "a device is not fenced against plain sessions",
        "all",
        "return device == '' and kind or kind .. ':' .. device",
        "return kind .. ':' .. device",
        MIXED,
    ),
    Mistake(
        "an older device is shown in place of a plain session",
        "all",
        "  if not newest.plain then\n",
        "  for _, entry in pairs(live) do if not entry.plain then newest = entry end end\n"
        "  if not newest.plain then\n",
        MIXED,
    ),
)


@pytest.mark.parametrize("mistake", MISTAKES, ids=str)
def test_a_planted_mistake_is_found(
    mistake: Mistake, client: redis.Redis, keyspace: Keyspace
) -> None:
    """In the histories that are named, and not only somewhere."""
    scripts = mistake.scripts()
    configuration = {str(one): one for one in CONFIGURATIONS}.get(mistake.found_in)
    for seed in range(1, HUNT + 1):
        try:
            if configuration is None:
                Mixed(client, keyspace, seed, scripts=scripts).play()
            else:
                World(client, keyspace, configuration, seed, scripts).play()
        except Violation:
            return
    pytest.fail(f"{mistake} is not found")


def test_no_two_mistakes_are_equal() -> None:
    assert len({str(mistake) for mistake in MISTAKES}) == len(MISTAKES)
    texts = {tuple(script.text for script in mistake.scripts().values()) for mistake in MISTAKES}
    assert len(texts) == len(MISTAKES)


# --- one case each -----------------------------------------------------------------------------


@pytest.fixture
async def link(shared_server: BundledServer) -> AsyncIterator[RedisLink]:
    link = RedisLink(shared_server.url, Limits(), lambda up: None)
    await link.start()
    yield link
    await link.stop()


@pytest.fixture
async def presence(link: RedisLink, keyspace: Keyspace) -> DevicePresence:
    """For at most two devices of a user."""
    return DevicePresence(link, keyspace, TIMING, 2)


async def session(presence: RedisPresence, conn: str, device: str = "", **more: Any) -> Claim:
    """A session of alice that has its token, and has not registered yet."""
    token = await presence.mint("alice")
    return Claim("alice", conn, "gateway-01", token, device=device, **more)


async def registered(presence: RedisPresence, conn: str, device: str = "", **more: Any) -> Claim:
    claim = await session(presence, conn, device, **more)
    assert (await presence.register(claim)).outcome is Register.OK
    return claim


async def refresh(presence: RedisPresence, claim: Claim, ttl_ms: int = 90_000) -> Refresh:
    (result,) = await presence.refresh([Renewal(claim, ttl_ms)])
    assert isinstance(result, Refresh), result
    return result


async def devices(presence: DevicePresence) -> dict[str, str]:
    return {entry.device: entry.conn_id for entry in await presence.devices("alice")}


async def test_who_had_to_go_does_not_come_back_by_itself(presence: DevicePresence) -> None:
    """Its late refresh meets `closed`, and nobody else has to go for it: no ping-pong."""
    first = await registered(presence, "c1", "phone")
    await registered(presence, "c2", "laptop")
    third = await session(presence, "c3", "tablet")
    answer = await presence.register(third)
    assert answer.previous is None
    assert [(one.conn_id, one.token) for one in answer.evicted] == [("c1", first.token)]
    for _ in range(2):
        assert await refresh(presence, first) is Refresh.CLOSED
        assert (await presence.register(first)).outcome is Register.STALE
        assert await presence.release(first) is Release.NO_ENTRY
    assert await devices(presence) == {"laptop": "c2", "tablet": "c3"}
    assert await refresh(presence, third) is Refresh.OK


async def test_a_lost_device_does_not_come_back_beyond_the_limit(
    presence: DevicePresence, redis_db: Any, keyspace: Keyspace
) -> None:
    """Its client has to dial again; then it is new, and the oldest one has to go."""
    lost = await registered(presence, "c1", "phone")
    await redis_db.delete(keyspace.presence("alice"), keyspace.fence("alice"))
    await registered(presence, "c2", "laptop")
    await registered(presence, "c3", "tablet")
    assert await refresh(presence, lost) is Refresh.CLOSED
    assert await devices(presence) == {"laptop": "c2", "tablet": "c3"}


async def test_a_late_release_does_not_bring_back_what_the_fence_has_forgotten(
    presence: DevicePresence, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P2: the release leaves a floor for the device; its older sessions stay closed."""
    monkeypatch.setattr("wsdemo.presence.devices.REMEMBERED", 1)
    older = await registered(presence, "c1", "phone")
    newer = await registered(presence, "c2", "phone")
    assert await presence.release(newer) is Release.REMOVED
    for device in ("laptop", "tablet"):
        assert await presence.release(await registered(presence, device, device))
    never = await session(presence, "c3", "phone")
    assert await presence.release(never) is Release.NO_ENTRY
    assert await refresh(presence, older) is Refresh.CLOSED
    assert (await presence.register(older)).outcome is Register.STALE
    assert await devices(presence) == {}


async def test_an_entry_of_several_devices_shows_the_newest_one(
    presence: DevicePresence, link: RedisLink, keyspace: Keyspace
) -> None:
    """To all who read it as the entry of a user with one session, and to their route script."""
    phone = await registered(presence, "c1", "phone", inst="a b\nc", att=3)
    laptop = await registered(presence, "c2", "laptop")
    assert await refresh(presence, phone) is Refresh.OK
    entry = await presence.lookup("alice")
    assert entry is not None and (entry.conn_id, entry.token) == ("c2", laptop.token)
    assert [user async for user in presence.online()] == ["alice"]
    routed = await link.run(ROUTE, [keyspace.presence("alice")], '{"to":"alice"', "", NEVER_MS)
    assert routed == [b"no_subscriber", b"gateway-01", b"c2"]
    assert await presence.release(laptop) is Release.REMOVED
    entry = await presence.lookup("alice")
    assert entry is not None and entry.conn_id == "c1"
    assert await presence.release(phone) is Release.REMOVED
    assert await presence.lookup("alice") is None


async def test_an_entry_lives_as_long_as_the_longest_lease(presence: DevicePresence) -> None:
    """P6 for each device: a short lease does not cut the others short, and ends by itself."""
    phone = await registered(presence, "c1", "phone")
    await registered(presence, "c2", "laptop")
    assert await refresh(presence, phone, 1) is Refresh.OK
    entry = await presence.lookup("alice")
    assert entry is not None and TIMING.presence_ttl_ms - 10_000 < entry.ttl_ms
    assert entry.ttl_ms <= TIMING.presence_ttl_ms

    async def ended() -> bool:
        return await devices(presence) == {"laptop": "c2"}

    await until("the short lease has ended", ended)


async def test_a_plain_session_of_a_dead_gateway_is_not_kept_by_the_other_devices(
    presence: DevicePresence, link: RedisLink, keyspace: Keyspace, redis_db: Any
) -> None:
    """Its own time counts, although the key lives on."""
    phone = await registered(presence, "c1", "phone")
    plain = await registered(RedisPresence(link, keyspace, TIMING), "c2")
    assert await refresh(presence, phone) is Refresh.RECLAIMED
    entry = await presence.lookup("alice")
    assert entry is not None and entry.conn_id == plain.conn_id
    await redis_db.hset(keyspace.presence("alice"), "ts", 1)
    assert await refresh(presence, phone) is Refresh.OK
    entry = await presence.lookup("alice")
    assert entry is not None and entry.conn_id == phone.conn_id


async def test_a_plain_session_that_a_newer_device_has_replaced_does_not_come_back(
    presence: DevicePresence, link: RedisLink, keyspace: Keyspace, redis_db: Any
) -> None:
    """Also when the newer one had been lost, and came back by its refresh."""
    one = RedisPresence(link, keyspace, TIMING)
    old = await registered(presence, "c1", "phone")
    plain = await session(one, "c2")
    newer = await registered(presence, "c3", "laptop")
    await redis_db.delete(keyspace.presence("alice"))
    assert (await one.register(plain)).outcome is Register.OK
    assert await refresh(presence, newer) is Refresh.RECLAIMED
    assert await refresh(presence, old) is Refresh.RECLAIMED
    assert await presence.release(newer) is Release.REMOVED
    assert await refresh(one, plain) is Refresh.CLOSED
    assert await devices(presence) == {"phone": "c1"}


async def test_gateways_for_one_device_are_noticed_once(
    presence: DevicePresence, link: RedisLink, keyspace: Keyspace, caplog: Any
) -> None:
    """The newer session takes the place of theirs, and they are told; one line says why."""
    one = RedisPresence(link, keyspace, TIMING)
    for n in range(2):
        plain = await registered(one, f"plain-{n}")
        answer = await presence.register(await session(presence, f"c{n}", "phone"))
        assert [claim.conn_id for claim in answer.evicted] == [plain.conn_id]
        assert await refresh(one, plain) is Refresh.SUPERSEDED
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "--devices 1" in caplog.text


async def test_watchers_are_told_of_the_first_device_and_of_the_last(
    link: RedisLink, keyspace: Keyspace, redis_db: Any
) -> None:
    """In between the user is online; the last word has the highest token."""
    presence = DevicePresence(link, keyspace, TIMING, 2, announces=True)
    pubsub = redis_db.pubsub()
    await pubsub.subscribe(keyspace.channel("watch", "alice"))
    await confirmed_async(pubsub)
    phone = await registered(presence, "c1", "phone")
    laptop = await registered(presence, "c2", "laptop")
    await presence.release(laptop)
    await presence.release(phone)
    told = [json.loads((await pubsub.get_message(timeout=HEARD_S))["data"]) for _ in range(3)]
    await pubsub.aclose()
    assert [(one["state"], one["reason"]) for one in told] == [
        ("online", "login"),
        ("online", "moved"),
        ("offline", "unknown"),
    ]
    assert [one["token"] for one in told] == [phone.token, laptop.token, laptop.token]


async def test_a_copy_says_how_many_devices_there_are(
    presence: DevicePresence, client: redis.Redis, keyspace: Keyspace
) -> None:
    """Also those that are left out: whoever finds nobody must know whether others have it."""
    await registered(presence, "c1", "phone")
    await registered(presence, "c2", "laptop")
    pubsub = client.pubsub()
    pubsub.subscribe(keyspace.gateway_channel("gateway-01"))
    confirmed(pubsub)
    key, prefix = keyspace.presence("alice"), keyspace.channel_prefix
    args = ('{"to":"alice"', prefix, " c2 ", TIMING.presence_ttl_ms, NEVER_MS)
    assert client.eval(DEVICES_ROUTE.text, 1, key, *args) == ["routed", "gateway-01"]
    got = pubsub.get_message(timeout=HEARD_S)
    pubsub.close()
    assert got is not None
    told = json.loads(got["data"])
    assert (told["type"], told["of"]) == ("copies", 2)
    assert [conn for conn, _, _ in told["toConns"]] == ["c1"]


async def test_a_plain_session_gets_the_envelope_that_every_gateway_knows(
    presence: DevicePresence, link: RedisLink, client: redis.Redis, keyspace: Keyspace
) -> None:
    """And no echo: the other devices get all."""
    phone = await registered(presence, "c1", "phone")
    plain = await session(RedisPresence(link, keyspace, TIMING), "c2")
    plain = replace(plain, gateway_id="gateway-02")
    assert (await RedisPresence(link, keyspace, TIMING).register(plain)).outcome is Register.OK
    assert await refresh(presence, phone) is Refresh.RECLAIMED
    pubsub = client.pubsub()
    pubsub.subscribe(keyspace.gateway_channel("gateway-01"), keyspace.gateway_channel("gateway-02"))
    confirmed(pubsub, 2)
    key, prefix = keyspace.presence("alice"), keyspace.channel_prefix
    told = []
    for more in ("", ',"echoTo":"bob"'):
        args = ('{"to":"alice"' + more, prefix, "  ", TIMING.presence_ttl_ms, NEVER_MS)
        reply: Any = client.eval(DEVICES_ROUTE.text, 1, key, *args)
        for _ in reply[1:]:
            got = pubsub.get_message(timeout=HEARD_S)
            assert got is not None
            told.append(json.loads(got["data"]))
    pubsub.close()
    assert [one["type"] for one in told] == ["copies", "direct", "copies"]
    assert (told[1]["toConn"], told[1]["epoch"]) == ("c2", plain.token)
    assert "echoTo" in told[2] and told[2]["of"] == 1


def test_a_full_server_refuses_new_devices_and_keeps_those_it_has() -> None:
    """As for users with one session: by the first line of the scripts."""
    assert DEVICES_REFRESH.text.startswith("#!lua flags=allow-oom\n")
    assert DEVICES_RELEASE.text.startswith("#!lua flags=allow-oom\n")
    assert not DEVICES_REGISTER.text.startswith("#!")

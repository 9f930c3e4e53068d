"""Is a connection up only when its server takes our writes, and does it say why it is not?"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import redis.asyncio as redis_client
from redis.asyncio.connection import Connection

from tests.redis_states import SLOW_TO_LOAD, STATES, free_port, load_quickly, many_keys, replica
from tests.waiting import until
from wsdemo.presence.store import SCRIPTS
from wsdemo.redis.connection import RedisUnavailable
from wsdemo.redis.link import LinkDown, RedisLink, may_work_later
from wsdemo.redis.outcome import (
    CURES,
    CommandError,
    Cure,
    Outcome,
    Trouble,
    classify,
    trouble_of,
)
from wsdemo.redis.server import BundledServer
from wsdemo.redis.subscription import Subscription
from wsdemo.router import ROUTE, TRIAL, trial_of
from wsdemo.settings import Keyspace, Limits

pytestmark = pytest.mark.both_loops

KEYSPACE = Keyspace("t:")
LIMITS = dataclasses.replace(Limits(), redis_timeout_s=1.0, redis_connect_timeout_s=1.0)


class Watched:
    """A gateway's link, and what was said of it."""

    def __init__(self, url: str) -> None:
        self.states: list[bool] = []
        self.troubles: list[Trouble] = []
        self.link = RedisLink(
            url,
            LIMITS,
            self.states.append,
            (*SCRIPTS, ROUTE, TRIAL),
            trial=trial_of(KEYSPACE),
            on_trouble=self.troubles.append,
        )


@pytest.fixture
async def watched(server: BundledServer) -> AsyncIterator[Watched]:
    watched = Watched(server.url)
    yield watched
    await watched.link.stop()


@pytest.fixture
def slow_server() -> Iterator[BundledServer]:
    """A server that loads its data slowly, once it has some."""
    with BundledServer(settings=SLOW_TO_LOAD) as server:
        yield server


@pytest.mark.slow
@pytest.mark.parametrize("name", STATES)
async def test_a_link_is_not_up_while_its_server_refuses_writes(
    server: BundledServer, database: Any, watched: Watched, name: str
) -> None:
    """Found out by the clock alone, told once in Redis' words; up again when it takes them."""
    state, outcome, word = STATES[name]
    await watched.link.start()
    async with state(server, database):
        watched.link.check()
        await until("it is not up", lambda: not watched.link.up)
        await until("the reason is known", lambda: watched.troubles[-1].outcome is outcome)
        assert word in watched.troubles[-1].words
        assert "\n" not in watched.troubles[-1].words
        # A few more attempts, which have nothing new to say.
        told = len(watched.troubles)
        await asyncio.sleep(0.3)
        assert not watched.link.up
        assert len(watched.troubles) == told
    await until("it is up again", lambda: watched.link.up)
    assert watched.link.trouble is None
    assert watched.states == [True, False, True]
    assert watched.link.away_s >= 0.3
    assert await database.keys("*") == []


@pytest.mark.parametrize("name", STATES)
async def test_a_new_connection_to_a_server_that_refuses_writes_is_not_up(
    server: BundledServer, database: Any, watched: Watched, name: str
) -> None:
    """It answers; that is not enough."""
    state, outcome, _ = STATES[name]
    await watched.link.start()
    async with state(server, database):
        watched.link.reset()
        await until("it has asked", lambda: watched.troubles[-1].outcome is outcome)
        assert not watched.link.up
    await until("it is up again", lambda: watched.link.up)
    assert watched.states == [True, False, True]


@pytest.mark.parametrize("name", STATES)
async def test_a_start_waits_for_a_temporary_state_of_the_server(
    server: BundledServer, database: Any, watched: Watched, name: str
) -> None:
    """It starts when the state is over; without patience it says why it does not."""
    state, _, word = STATES[name]
    async with state(server, database):
        with pytest.raises(RedisUnavailable, match=word) as problem:
            await watched.link.start()
        assert problem.value.answered
        starting = asyncio.create_task(watched.link.start(30.0), name="starting")
        await until("it waits", lambda: watched.troubles)
        assert not starting.done()
    await asyncio.wait_for(starting, 30)
    assert watched.link.up
    assert watched.states == [True]


@pytest.mark.parametrize("name", [name for name in STATES if "takes writes" not in name])
async def test_a_refused_command_starts_a_check_at_once(
    server: BundledServer, database: Any, watched: Watched, name: str
) -> None:
    """Nobody has to wait for the clock."""
    state, _, _ = STATES[name]
    await watched.link.start()
    async with state(server, database):
        with pytest.raises(CommandError) as refused:
            await watched.link.run(SCRIPTS[0], [KEYSPACE.fence("x")], 1000)
        assert may_work_later(refused.value)
        await until("it is not up", lambda: not watched.link.up)


@pytest.mark.slow
async def test_a_server_is_not_up_while_it_loads_its_data(
    slow_server: BundledServer,
) -> None:
    """Also after a restart: the link comes back when it can write, and says so once."""
    async with redis_client.Redis.from_url(slow_server.url) as database:
        await many_keys(database)
    watched = Watched(slow_server.url)
    await watched.link.start()
    slow_server.restart(empty=False)
    await until("it loads", lambda: Outcome.LOADING in {t.outcome for t in watched.troubles})
    assert not watched.link.open
    with pytest.raises(LinkDown):
        watched.link.submit(print, "GET", "x")
    assert watched.states == [True, False]
    async with redis_client.Redis.from_url(slow_server.url) as database:
        await load_quickly(database)
    await until("it is up again", lambda: watched.link.up)
    assert watched.states == [True, False, True]
    await watched.link.stop()


async def test_commands_sent_before_leaving_a_replica_get_their_replies(
    server: BundledServer, database: Any, watched: Watched
) -> None:
    """Before the link hangs up on a replica, each command gets its own reply: none is unknown."""
    await watched.link.start()
    async with replica(server, database):
        replies: list[Any] = []
        for n in range(200):
            watched.link.submit(replies.append, "ECHO", str(n))
            if n == 100:
                watched.link.check()
                await asyncio.sleep(0)
        await until("it is not up", lambda: not watched.link.up)
        await until("all are answered", lambda: len(replies) == 200)
        assert replies == [str(n).encode() for n in range(200)]


async def test_an_error_of_one_command_does_not_take_the_link_down(
    database: Any, watched: Watched
) -> None:
    """A wrong type, a wrong argument: the link stays up, and asks nobody."""
    await watched.link.start()
    await database.set("text", "x")
    calls = (await database.info("commandstats"))["cmdstat_evalsha"]["calls"]
    for words in (("HGET", "text", "f"), ("INCR", "text"), ("ECHO",)):
        with pytest.raises(CommandError) as problem:
            await watched.link.call(*words)
        assert problem.value.outcome is Outcome.OWN
        assert not may_work_later(problem.value)
    assert (await database.info("commandstats"))["cmdstat_evalsha"]["calls"] == calls
    assert watched.states == [True]


async def test_a_refusal_not_confirmed_by_the_trial_is_no_outage(
    server: BundledServer, database: Any
) -> None:
    """A right is missing that the trial does not need: told to who used it, and to nobody else."""
    await database.acl_setuser(
        "some",
        enabled=True,
        passwords=["+pw"],
        categories=["+@all"],
        commands=["-echo"],
        keys=["*"],
        channels=["*"],
    )
    watched = Watched(f"redis://some:pw@127.0.0.1:{server.port}")
    await watched.link.start()
    for _ in range(10):
        with pytest.raises(CommandError, match="NOPERM"):
            await watched.link.call("ECHO", "x")
    assert await watched.link.call("GET", "x") is None
    assert not watched.troubles
    assert watched.states[0] and all(watched.states)
    await watched.link.stop()


async def test_a_lost_right_is_an_outage_that_names_it_until_it_is_granted_again(
    server: BundledServer, database: Any
) -> None:
    """On the same connection: Redis asks the list at each command."""
    words = {"enabled": True, "passwords": ["+pw"], "keys": ["*"], "channels": ["*"]}
    await database.acl_setuser("some", categories=["+@all"], **words)
    watched = Watched(f"redis://some:pw@127.0.0.1:{server.port}")
    await watched.link.start()
    await database.acl_setuser("some", commands=["-pexpire"], **words)
    with pytest.raises(CommandError):
        await watched.link.run(SCRIPTS[0], [KEYSPACE.fence("x")], 1000)
    await until("it is not up", lambda: not watched.link.up)
    assert watched.troubles[-1].outcome is Outcome.NOPERM
    assert "PEXPIRE" in watched.troubles[-1].words
    await database.acl_setuser("some", commands=["+pexpire"], **words)
    await until("it is up again", lambda: watched.link.up)
    await watched.link.stop()


async def test_a_changed_password_is_reported_as_the_reason(
    server: BundledServer, database: Any, watched: Watched
) -> None:
    """By Redis' own word, without the password; and the link comes back when it is right again."""
    await watched.link.start()
    right = server.url.partition("@")[0].rpartition(":")[2]
    await database.config_set("requirepass", "another")
    watched.link.reset()
    await until("it is refused", lambda: watched.troubles[-1].outcome is Outcome.WRONGPASS)
    assert watched.troubles[-1].words.startswith("WRONGPASS")
    assert not any(right in trouble.words for trouble in watched.troubles)
    await database.config_set("requirepass", right)
    await until("it is up again", lambda: watched.link.up)


async def test_a_server_that_requires_a_password_is_refused_with_noauth(
    server: BundledServer,
) -> None:
    """NOAUTH, at once and for good: no setting of ours would become right by waiting."""
    watched = Watched(f"redis://127.0.0.1:{server.port}")
    with pytest.raises(RedisUnavailable, match="NOAUTH") as problem:
        await watched.link.start(30.0)
    assert problem.value.answered
    assert not watched.states


@pytest.mark.parametrize("password", [True, False])
async def test_a_full_server_is_reported_with_its_own_words(password: bool) -> None:
    """Before a word of ours has reached it: at the start, and when a connection is renewed."""
    with BundledServer(password=None if password else "") as server:
        async with redis_client.Redis.from_url(server.url) as database:
            await database.ping()
            watched = Watched(server.url)
            await watched.link.start()
            await database.config_set("maxclients", "1")
            watched.link.reset()
            await until("it is refused", lambda: watched.troubles[-1].outcome is Outcome.MAXCLIENTS)
            assert "max number of clients reached" in watched.troubles[-1].words
            late = Watched(server.url)
            with pytest.raises(RedisUnavailable, match="max number of clients"):
                await late.link.start()
            await database.config_set("maxclients", "100")
            await until("it is up again", lambda: watched.link.up)
            await watched.link.stop()


@pytest.mark.parametrize("hangs_up", [True, False])
async def test_an_early_error_of_redis_is_read(
    hangs_up: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may arrive before the connection is ours: then it waits where nobody looks."""
    connect: Any = Connection.connect

    async def slowly(self: Any) -> None:
        await connect(self)
        await until("the words are there", lambda: self._reader._buffer)
        if hangs_up:
            await until("the end is there", lambda: self._reader._eof)

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"-ERR max number of clients reached\r\n")
        if not hangs_up:
            await reader.read()
        writer.close()

    monkeypatch.setattr(Connection, "connect", slowly)
    endpoint = await asyncio.start_server(refuse, "127.0.0.1", 0)
    watched = Watched(f"redis://127.0.0.1:{endpoint.sockets[0].getsockname()[1]}")
    with pytest.raises(RedisUnavailable, match="max number of clients"):
        await watched.link.start()
    endpoint.close()
    await endpoint.wait_closed()


async def test_cluster_errors_are_reported() -> None:
    """CLUSTERDOWN may pass; keys on two servers are for good."""
    settings = {"cluster-enabled": "yes", "cluster-port": str(free_port())}
    with BundledServer(settings=settings) as server:
        watched = Watched(server.url)
        with pytest.raises(RedisUnavailable, match=r"CLUSTERDOWN|CROSSSLOT"):
            await watched.link.start()
        async with redis_client.Redis.from_url(server.url) as database:
            await database.execute_command("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        with pytest.raises(RedisUnavailable, match="CROSSSLOT"):
            await watched.link.start(30.0)


async def test_a_subscription_to_a_replica_is_not_up(server: BundledServer, database: Any) -> None:
    """It would hear, but nobody who publishes at the primary would count it."""
    troubles: list[Trouble] = []
    subscription = Subscription(
        server.url, LIMITS, ["news"], lambda channel, data: None, on_trouble=troubles.append
    )
    await subscription.start()
    async with replica(server, database):
        subscription.reset()
        await until("refused", lambda: Outcome.READONLY in {t.outcome for t in troubles})
        assert not subscription.up
    await until("it is up again", lambda: subscription.up)
    await subscription.stop()


def test_each_outcome_has_a_remedy() -> None:
    """The table is whole, and only a command's own failure needs none."""
    assert set(CURES) == set(Outcome)
    assert {outcome for outcome in Outcome if outcome.cure is Cure.NONE} == {Outcome.OWN}


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
         Outcome.MASTERDOWN),
        ("TRYAGAIN Multiple keys request during rehashing of slot", Outcome.CLUSTERDOWN),
        ("MOVED 3999 127.0.0.1:6381", Outcome.OTHER_SLOT),
        ("UNKILLABLE Sorry the script already executed write commands", Outcome.BUSY),
        ("DENIED Redis is running in protected mode", Outcome.NOAUTH),
        ("ERR unknown command 'EVALSHA', with args beginning with: ", Outcome.UNKNOWN_COMMAND),
        ("ERR Unknown Redis command called from script script: f", Outcome.UNKNOWN_COMMAND),
        ("ERR ACL failure in script: No permissions to access a key", Outcome.NOPERM),
        ("ERR The user executing the script can't run this command or subcommand",
         Outcome.NOPERM),
        ("ERR AUTH <password> called without any password configured for the default user.",
         Outcome.WRONGPASS),
        ("ERR Error compiling script (new function): user_script:1: unexpected symbol near '#'",
         Outcome.TOO_OLD),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", Outcome.OWN),
        ("NOSCRIPT No matching script. Please use EVAL.", Outcome.OWN),
        ("ERR value is not an integer or out of range", Outcome.OWN),
        ("", Outcome.OWN),
    ],
)  # fmt: skip
def test_errors_are_classified(text: str, outcome: Outcome) -> None:
    """By their first word, and by their text where that word says nothing."""
    assert classify(text) is outcome


async def test_after_a_very_short_outage_refused_commands_can_be_repeated(
    server: BundledServer, database: Any, watched: Watched
) -> None:
    """Whoever owes something to Redis hears once more that it works."""
    await watched.link.start()
    watched.link._doubted_at = asyncio.get_running_loop().time() + 60  # It asks a little later.
    async with replica(server, database):
        with pytest.raises(CommandError):
            await watched.link.run(SCRIPTS[0], [KEYSPACE.fence("x")], 1000)
    watched.link.check()
    await until("it is told", lambda: watched.states == [True, True])
    watched.link.check()
    await watched.link.call("ECHO", "x")
    assert watched.states == [True, True], "once is enough"
    assert not watched.troubles


@pytest.mark.parametrize(("login", "word"), [(":wrong@", "WRONGPASS"), ("", "NOAUTH")])
async def test_a_start_does_not_wait_for_a_mistake_that_a_person_must_correct(
    server: BundledServer, login: str, word: str
) -> None:
    """However much patience it has: no failover gives us another password."""
    link = RedisLink(f"redis://{login}127.0.0.1:{server.port}", Limits())
    with pytest.raises(RedisUnavailable, match=word):
        await asyncio.wait_for(link.start(3600), 30)


def test_an_unknown_refusal_of_the_trial_is_an_outage() -> None:
    """The same words about a command of a user would be that command's own."""
    assert trouble_of(CommandError("ERR odd")) == Trouble(Outcome.UNFIT, "ERR odd")
    assert CommandError("ERR odd").outcome is Outcome.OWN


async def test_a_server_that_begins_to_refuse_writes_is_tried_again_before_a_new_dial(
    server: BundledServer, database: Any, watched: Watched
) -> None:
    """How long it has refused counts from its first refusal, however old the connection is."""
    await watched.link.start()
    first = watched.link._transport
    async with STATES["unable to save"][0](server, database):
        watched.link.check()
        await until("it is not up", lambda: not watched.link.up)
        await until("it was asked again", lambda: watched.link._waits._size_s > 0.2)
        assert watched.link._transport is first
    await until("it is up again", lambda: watched.link.up)


@pytest.mark.slow
async def test_a_server_that_refuses_writes_for_long_is_dialled_again(
    server: BundledServer, database: Any, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody may have put another one in its place; but not when it only lacks memory."""
    monkeypatch.setattr("wsdemo.redis.link.REDIAL_S", 0.2)
    await watched.link.start()

    def connection() -> Any:
        return watched.link._transport

    for name, stays in (("full", True), ("unable to save", False)):
        first = connection()
        async with STATES[name][0](server, database):
            watched.link.check()
            await until("it is not up", lambda: not watched.link.up)
            if stays:
                await until("it has asked often", lambda: watched.link._waits._size_s > 1.0)
                assert connection() is first
            else:
                await until("another one", lambda: connection() not in (first, None))
        await until("it is up again", lambda: watched.link.up)

"""Chaos on several servers: do the promises hold on a cluster, with sentinels, and with workers?

A short run of each. And the witness of several servers: whose lines count, what a handover may
lose, and what it may not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from wsdemo.addresses import Form
from wsdemo.presence import store
from wsdemo.proof.chaos.__main__ import parser
from wsdemo.proof.chaos.deployment import Deployment
from wsdemo.proof.chaos.faults import FAULTS
from wsdemo.proof.chaos.group_witness import IGNORED, LOST_S, PLANNED, UNPLANNED, GroupWitness
from wsdemo.proof.chaos.nemesis import due, faults_of
from wsdemo.proof.chaos.redis_group import BucketClaim, RedisGroup
from wsdemo.proof.chaos.run import run
from wsdemo.proof.history import Forgotten, ObservationGap, Owner, Record, owners
from wsdemo.proof.mix import PLAIN_MIX
from wsdemo.proof.promises import Promise
from wsdemo.redis.server import BundledServer

DEPLOYMENTS = {
    "cluster": Deployment(form=Form.CLUSTER),
    "sentinel": Deployment(form=Form.SENTINEL),
    "workers": Deployment(workers=2),
}
SECONDS = 20.0
SEED = 7
WITHIN_S = 200


@pytest.mark.timeout(WITHIN_S)
@pytest.mark.parametrize("deployment", DEPLOYMENTS.values(), ids=DEPLOYMENTS)
@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.xdist_group("chaos")
async def test_a_short_run_breaks_no_promise(deployment: Deployment) -> None:
    """One round of faults, half of the catalogue of this deployment; then all is right again."""
    result = await run(SECONDS, SEED, rounds=1, deployment=deployment)
    broken = [violation for violation in result.violations if violation.claim != "sometimes"]
    if {violation.claim for violation in broken} == {"machine"}:
        pytest.skip(f"the machine was busy with other things for {result.late_s:.0f} s")
    assert broken == []
    wanted = {fault.name for fault in due(SEED, deployment=deployment)}
    assert {one.fault.name for one in result.injections if not one.not_arranged} >= wanted
    assert result.tally.delivered > 300 and result.pairs > 400


def test_a_run_says_its_deployment_and_plays_its_faults() -> None:
    """Each deployment has faults of its own, and no seed of the usual one has any of them."""
    usual = {fault.name for fault in faults_of(PLAIN_MIX)}
    own = {
        name: {fault.name for fault in faults_of(PLAIN_MIX, deployment)} - usual
        for name, deployment in DEPLOYMENTS.items()
    }
    assert "shard killed" in own["cluster"] and "primary killed" in own["sentinel"]
    assert own["workers"] == {"worker killed", "worker frozen"}
    assert own["cluster"].isdisjoint(own["sentinel"])
    assert usual.union(*own.values()) >= {fault.name for fault in FAULTS if not fault.features}
    for deployment in DEPLOYMENTS.values():
        assert Deployment.of(parser().parse_args(deployment.words)) == deployment


@pytest.mark.parametrize(
    "words", [("--redis", "cluster", "--workers", "2"), ("--redis", "sentinel", "--durable")]
)
def test_what_does_not_go_together_is_refused(
    words: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line, with exit code 2."""
    from wsdemo.proof.chaos.__main__ import main

    with pytest.raises(SystemExit) as end:
        main([*words, "--seconds", "1"])
    assert end.value.code == 2
    assert "workers" in capsys.readouterr().err


# --- the witness of several servers -----------------------------------------------------------


class ScriptedGroup(RedisGroup):
    """Two servers that claim what a test says."""

    def __init__(self) -> None:
        self.claims: dict[int, BucketClaim | None] = {0: self.since(1), 1: None}

    @staticmethod
    def since(epoch: int) -> BucketClaim:
        """Return a claim of everything."""
        return BucketClaim(epoch, frozenset({0}))

    def claim(self, number: int) -> BucketClaim | None:
        return self.claims[number]

    def start(self) -> object:
        return self

    def stop(self) -> None:
        pass

    @property
    def url(self) -> str:
        return "redis://nowhere"

    @property
    def servers(self) -> Sequence[BundledServer]:
        return []

    def call(self, number: int, *words: str | int) -> Any:
        raise NotImplementedError

    def primaries(self) -> list[int]:
        return [0]

    def heal(self) -> None:
        pass


class WatchedGroup:
    """Servers that execute scripts, their witness, and what it has noted."""

    def __init__(self) -> None:
        self.group = ScriptedGroup()
        self.now = 0.0
        self.records: list[Record] = []
        self.witness = GroupWitness(self.group, self.records.append, lambda: self.now)

    async def write(self, script: Any, conn: str, token: int, *, at: int, t: float) -> None:
        """Let a server execute a register or a refresh of bob that writes his entry."""
        self.now = t
        keys = ("presence:bob", "fence:bob")
        entry = ("gwId", "gw", "connId", conn, "ts", "1", "epoch", str(token))
        lines = [
            ("127.0.0.1:9", "EVALSHA", script.sha, "2", *keys, conn, "gw", str(token), "9", "9"),
            ("lua", "HGET", keys[1], "top"),
            ("lua", "HSET", keys[0], *entry),
            ("lua", "PEXPIRE", keys[0], "3000"),
        ]
        await self.witness.take(at, [_line(*words) for words in lines])

    @property
    def owned(self) -> list[str]:
        """Who became the owner of bob, in order."""
        return [record.conn for record in self.records if isinstance(record, Owner)]

    def broken(self) -> set[str]:
        """Return the promises that the records break."""
        return {str(violation.claim) for violation in owners(self.records, ttl_s=3.0)}


def _line(source: str, *words: str) -> str:
    return f"1.5 [0 {source}] " + " ".join(f'"{word}"' for word in words)


@pytest.fixture
async def watched() -> WatchedGroup:
    return WatchedGroup()


async def _replaced(watched: WatchedGroup, *, last_change: float, last_line: float) -> None:
    """Let the first server register two sessions of bob, and the second one take its place. It
    does not know the newer session, and refreshes the older one.
    """
    await watched.write(store.REGISTER, "old", 5, at=0, t=last_change - 0.1)
    await watched.write(store.REGISTER, "new", 6, at=0, t=last_change)
    watched.witness.line_came(0, last_line)
    watched.group.claims[1] = ScriptedGroup.since(2)
    await watched.write(store.REFRESH, "old", 5, at=1, t=last_line + 2.0)


async def test_a_handover_is_seen_and_a_replaced_server_is_left_out(watched: WatchedGroup) -> None:
    """What the old server executes when it wakes up is no change: it is lost."""
    await watched.write(store.REGISTER, "one", 5, at=0, t=1.0)
    watched.group.claims[1] = ScriptedGroup.since(2)
    await watched.write(store.REGISTER, "two", 6, at=1, t=5.0)
    await watched.write(store.REGISTER, "late", 7, at=0, t=6.0)
    assert watched.owned == ["one", "two"]
    assert watched.witness.monitor_log.outcomes[IGNORED] == 1
    assert watched.witness.monitor_log.outcomes[UNPLANNED] == 1
    assert watched.broken() == set()


async def test_a_server_gets_its_users_back_with_a_newer_claim(watched: WatchedGroup) -> None:
    """Who has been replaced may be the primary again later."""
    await watched.write(store.REGISTER, "one", 5, at=0, t=1.0)
    for server, epoch in ((1, 2), (0, 3)):
        watched.group.claims[server] = ScriptedGroup.since(epoch)
        await watched.write(store.REGISTER, f"at {server}", epoch + 5, at=server, t=float(epoch))
    assert watched.owned == ["one", "at 1", "at 0"]


async def test_what_was_confirmed_shortly_before_a_failover_may_be_lost(
    watched: WatchedGroup,
) -> None:
    """Then an older session may own its user again: for this user the history starts anew."""
    await _replaced(watched, last_change=4.0, last_line=4.5)
    assert watched.owned[-1] == "old" and watched.broken() == set()
    forgotten = [record.user for record in watched.records if isinstance(record, Forgotten)]
    assert forgotten == ["bob"]
    assert any(isinstance(record, ObservationGap) for record in watched.records)


async def test_what_was_confirmed_long_before_a_failover_must_not_be_lost(
    watched: WatchedGroup,
) -> None:
    """The replica had it: an older session that owns its user again breaks P3 and P5."""
    await _replaced(watched, last_change=4.0, last_line=4.5 + LOST_S)
    assert watched.broken() == {Promise.P3, Promise.P5}


async def test_what_was_confirmed_by_a_primary_that_was_alone_may_be_lost(
    watched: WatchedGroup,
) -> None:
    """However long it went on: what it confirmed since then has reached no other server."""
    watched.now = 3.5
    watched.witness.will_be_alone(0)
    await _replaced(watched, last_change=4.0, last_line=4.5 + LOST_S)
    assert watched.owned[-1] == "old" and watched.broken() == set()


async def test_what_a_primary_had_confirmed_before_it_was_alone_must_not_be_lost(
    watched: WatchedGroup,
) -> None:
    """Its replica had it."""
    watched.now = 4.5 + LOST_S
    watched.witness.will_be_alone(0)
    await _replaced(watched, last_change=4.0, last_line=4.6 + LOST_S)
    assert watched.broken() == {Promise.P3, Promise.P5}


async def test_a_planned_handover_must_lose_nothing(watched: WatchedGroup) -> None:
    """Not even what was confirmed a moment before."""
    with watched.witness.planned():
        await _replaced(watched, last_change=4.0, last_line=4.1)
    assert watched.witness.monitor_log.outcomes[PLANNED] == 1
    assert watched.broken() == {Promise.P3, Promise.P5}

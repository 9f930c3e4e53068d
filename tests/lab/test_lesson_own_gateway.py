"""Lesson 15: is each wrong gateway stopped at its level, with its hint, and the right one not?"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from tests.lab.interrupting import KILLED, interrupted_at
from tests.lab.readable import assert_no_text_covers_another, assert_no_text_is_clipped, words
from tools import lessons
from tools.notebook import build
from wsdemo.drawing.style import Picture
from wsdemo.lab import check
from wsdemo.lab.errors import LabRefused
from wsdemo.lab.figures.levels import levels
from wsdemo.lab.lessons import own_gateway
from wsdemo.lab.lessons.first_gateways import CarefulGateway, TutorialGateway
from wsdemo.lab.lessons.own_counterexample import counterexample
from wsdemo.lab.lessons.own_gateway import LEVELS, Attempt, play_level, try_to_break
from wsdemo.lab.lessons.own_world import SLOW, TrialPace
from wsdemo.lab.yours import GatewaySkeleton
from wsdemo.redis.server import BundledServer

pytestmark = pytest.mark.timeout(120)

(SOURCE,) = lessons.named("15")
SOLUTION = next(
    cell.source
    for cell in build(SOURCE, solved=True).cells
    if cell.cell_type == "code" and "class MyGateway" in cell.source
)


def made_of(source: str) -> Any:
    """Run a cell, and return its gateway."""
    names: dict[str, Any] = {"__name__": "learner"}
    exec(compile(source, "/learner/cell.py", "exec"), names)
    return names["MyGateway"]


def mutant(*changes: tuple[str, str]) -> Any:
    """Return the solution with some of its lines replaced."""
    source = SOLUTION
    for line, other in changes:
        assert source.count(line) >= 1, line
        source = source.replace(line, other)
    return made_of(source)


@pytest.fixture(scope="module")
def attempts() -> Iterator[dict[str, Future[Attempt | None]]]:
    """What became of the wrong gateways. They wait most of the time, so several run at once."""
    with ThreadPoolExecutor(4, "wrong gateways") as pool:
        yield {name: pool.submit(stopped, name) for name in WRONG}


def stopped(name: str) -> Attempt | None:
    """Play the level that is to stop a wrong gateway; on a busy machine once more, slowly."""
    level, told, changes = WRONG[name]
    seen: Attempt | None = None
    for pace in (None, SLOW):
        seen = played(mutant(*changes), level, pace)
        if seen is not None and told in f"{seen.seen} {seen.hint}":
            break
    return seen


def played(kind: Any, level: int, pace: TrialPace | None = None) -> Attempt | None:
    server = BundledServer().start()
    try:
        return asyncio.run(play_level(kind, server, level, pace))
    finally:
        server.stop()


OWN_ENTRY = "if redis.call('HGET', KEYS[1], 'conn') == ARGV[1] then redis.call('DEL', KEYS[1]) end"
REFRESH = "        return await self.write(REFRESH, session)"
RELEASE = (
    '        await self.ask(RELEASE, [f"presence:{session.user}"], session.conn_id)\n\n'
    "    async def route"
)
LOCAL = '        if await self.deliver(to, envelope):\n            return "routed"\n'
DEADLINE = "async with asyncio.timeout(self.settings.redis_timeout_s):"
RELEASES = (
    "        await asyncio.gather(*(self.release(session) for session in here), "
    "return_exceptions=True)\n"
)
CLOSES = "        await asyncio.gather(*(session.socket.close(1012) for session in here))"
CAUGHT_UP = "            await self.caught_up()"
FENCE = "if tonumber(redis.call('GET', KEYS[2]) or 0) > tonumber(ARGV[3]) then return 0 end"
LOOKS_FIRST = """        async with asyncio.timeout(self.settings.redis_timeout_s):
            owner = await self.redis.hget(f"presence:{session.user}", "conn")
            if owner == session.conn_id:
                await self.redis.delete(f"presence:{session.user}")

    async def route"""
ONLY_LONGER = """        async with asyncio.timeout(self.settings.redis_timeout_s):
            ttl_ms = int(1000 * self.settings.ttl_s)
            await self.redis.pexpire(f"presence:{session.user}", ttl_ms)
            owner = await self.redis.hget(f"presence:{session.user}", "conn")
            return owner in (None, session.conn_id)"""

WRONG: dict[str, tuple[int, str, tuple[tuple[str, str], ...]]] = {
    "publishes to the user": (
        1,
        own_gateway.PUBLISH,
        (("PUBLISH', 'gateway:' .. gateway", "PUBLISH', 'user:' .. gateway"),),
    ),
    "delivers and publishes": (1, own_gateway.TWICE, ((LOCAL, LOCAL.replace("return", "_ =")),)),
    "never says offline": (
        1,
        own_gateway.NOBODY,
        (("return 'offline'", "return 'unreachable'"),),
    ),
    "releases nothing": (2, own_gateway.LEFT, ((OWN_ENTRY, ""),)),
    "has no lease": (2, own_gateway.NO_LEASE, (("redis.call('PEXPIRE', KEYS[1], ARGV[4])", ""),)),
    "renews nothing": (2, own_gateway.KEEPS_OWN, ((REFRESH, "        return True"),)),
    "does not look at the count": (
        2,
        own_gateway.COUNT,
        (("heard > 0 and 'routed' or 'unreachable'", "'routed'"),),
    ),
    "deletes any entry": (3, own_gateway.WHOSE, ((OWN_ENTRY, "redis.call('DEL', KEYS[1])"),)),
    "looks, then deletes": (3, own_gateway.BETWEEN, ((RELEASE, LOOKS_FIRST),)),
    "compares gateways": (
        3,
        own_gateway.WHICH,
        (
            ("'conn') == ARGV[1]", "'gateway') == ARGV[1]"),
            ("session.conn_id)\n\n    async def r", "self.id)\n\n    async def r"),
        ),
    ),
    "takes the entry back": (3, own_gateway.STOLEN, ((FENCE, ""),)),
    "never ends an old session": (
        3,
        own_gateway.TWO,
        ((REFRESH, REFRESH.replace("return ", "") + "\n        return True"),),
    ),
    "asks Redis for its own users": (4, own_gateway.LOCAL, ((LOCAL, ""),)),
    "waits for ever": (4, own_gateway.DEADLINE, ((DEADLINE, "if True:"),)),
    "closes who cannot be refreshed": (
        4,
        own_gateway.CLOSED_HER,
        (
            (
                REFRESH,
                "        try:\n    " + REFRESH + "\n        except TimeoutError:\n"
                "            return False",
            ),
        ),
    ),
    "only makes the lease longer": (4, own_gateway.LOST_ENTRY, ((REFRESH, ONLY_LONGER),)),
    "closes at once": (5, own_gateway.NOT_READ, ((CAUGHT_UP, "            pass"),)),
    "forgets to release": (
        5,
        own_gateway.STALE_ENTRY,
        ((RELEASES, ""), (RELEASE, RELEASE.replace("await self", "self.draining or await self"))),
    ),
    "says no goodbye": (5, own_gateway.GOODBYE, ((CLOSES, CLOSES.replace("1012", "1000")),)),
    "never ends": (
        5,
        own_gateway.NO_END,
        ((CLOSES, CLOSES + "\n        await asyncio.Event().wait()"),),
    ),
    "has no drain": (
        5,
        "`drain` is not written yet",
        ((CLOSES, "        raise NotImplementedError"),),
    ),
}
"""Name -> the level that stops it, words of what it is told, and what is wrong in it."""


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_gateway_is_stopped_at_its_level_with_its_own_hint(
    name: str, attempts: dict[str, Future[Attempt | None]]
) -> None:
    """At least three wrong gateways a level."""
    level, told, _ = WRONG[name]
    seen = attempts[name].result()
    assert seen is not None and seen.stopped_at == level
    assert told in f"{seen.seen} {seen.hint}"


def test_the_solution_passes_all_levels_and_is_short() -> None:
    """Through `check`, by both of its names; nothing is left running."""
    assert len(SOLUTION.splitlines()) < 200
    verdict = check("yours", made_of(SOLUTION))
    assert verdict, verdict.hint
    assert verdict.exercise == "ex15" and "All five levels" in verdict.hint
    assert not [one for one in threading.enumerate() if one.name.startswith("gateway-")]


def test_the_first_gateways_that_come_to_mind_are_stopped_by_late_clean_ups() -> None:
    """Each by another one; and the counterexample is drawn."""
    attempts = {kind.__name__: try_to_break(kind) for kind in (TutorialGateway, CarefulGateway)}
    assert [one.stopped_at for one in attempts.values()] == [3, 3]
    assert [one.hint for one in attempts.values()] == [own_gateway.WHOSE, own_gateway.BETWEEN]
    drawn = {name: one.figure() for name, one in attempts.items()}
    assert_no_text_covers_another(drawn)
    assert_no_text_is_clipped(drawn)
    assert "release" in words(drawn["CarefulGateway"])


# --- mistakes of the code itself -----------------------------------------------------------------


def test_a_gateway_that_is_not_written_cannot_be_judged() -> None:
    """Nor can what is no gateway."""

    class Stub(GatewaySkeleton):
        pass

    verdict = check("ex15", Stub)
    assert verdict.verdict == "could not judge" and "not written yet" in verdict.hint
    assert "extends GatewaySkeleton" in check("ex15", 7).hint
    assert "extends GatewaySkeleton" in check("ex15", dict).hint


def test_a_mistake_in_a_method_is_told_with_its_line() -> None:
    """As the learner's, and not as a fault of the network."""
    verdict = check(
        "ex15", mutant((REFRESH, "        return self.nothing"), (LOCAL, "        oops\n"))
    )
    assert verdict.verdict == "wrong"
    assert "Your `route` raised NameError" in verdict.hint and "cell.py" in verdict.hint


def test_a_method_that_never_comes_back_does_not_hang_the_check() -> None:
    """It is told as blocked, with the line of the loop, and its thread is ended."""
    seen = played(mutant((LOCAL, "        while True:\n            pass\n")), 1)
    assert seen is not None and "is blocked" in seen.seen and "cell.py" in seen.seen
    assert not [one for one in threading.enumerate() if one.name.startswith("gateway-")]


# --- the figures ---------------------------------------------------------------------------------


def drawn() -> dict[str, Picture]:
    return {
        "one": levels({"yours": 5}, LEVELS),
        "three": levels({"a tutorial's": 0, "a careful one": 2, "the solution": 5}, LEVELS),
    }


def test_every_text_of_the_levels_can_be_read() -> None:
    """At the size of a cell."""
    assert_no_text_covers_another(figures := drawn())
    assert_no_text_is_clipped(figures)
    assert "stopped by level 3, survives a late clean-up" in figures["three"].wsdemo_alt
    assert {"passed", "stopped"} <= words(figures["three"])


def test_what_cannot_be_drawn_is_an_error_with_a_reason() -> None:
    """No gateway, no level, or nothing that stopped it."""
    with pytest.raises(ValueError, match="at least one gateway"):
        levels({}, LEVELS)
    with pytest.raises(LabRefused, match="no counterexample"):
        Attempt(5).figure()


def test_a_counterexample_shows_the_last_arrows_in_their_order() -> None:
    """A release that begins before a register and ends after it crosses it; what was seen may
    have braces in it."""
    rows = [
        {"t": 1, "t_recv": 9, "lane": "gateway-01", "peer": "redis", "kind": "presence_del"},
        {"t": 4, "t_recv": 5, "lane": "gateway-02", "peer": "redis", "kind": "presence_set"},
        {"t": 6, "lane": "gateway-02", "peer": "redis", "kind": "route"},
    ]
    fig = counterexample(3, "alice got {}.", [{"gateway": r["lane"], **r} for r in rows], "{seen}")
    assert "2 arrows, 0 lost" in fig.wsdemo_alt and "alice got {}" in fig.wsdemo_alt


@KILLED
def test_an_interrupt_ends_the_levels_soon_and_leaves_nothing() -> None:
    """Threads and servers of the trial have ended when the cell has; the next one works."""
    with interrupted_at("gateway-03"):
        try_to_break(TutorialGateway)
    assert try_to_break(TutorialGateway).stopped_at == 3


@KILLED
def test_an_interrupt_ends_a_check_soon_and_leaves_nothing() -> None:
    """A judge works in a thread, which no interrupt reaches: it is told."""
    with interrupted_at("own gateway_0"):
        check("ex15", TutorialGateway)

"""Load balancer: does it pick by its rule, pass bytes on unchanged, and leave nothing behind?"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from tests.waiting import until
from wsdemo.rig.balancer import RULES, Balancer, imbalance

pytestmark = pytest.mark.timeout(30)


class Server:
    """Says its name, then repeats what it hears."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = 0
        self.ready = True
        self._server: asyncio.Server | None = None

    async def start(self, port: int = 0) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            writer.write(self.name.encode())
            while data := await reader.read(65536):
                if data.startswith(b"GET /ready"):
                    writer.write(b"HTTP/1.1 %d X\r\n\r\n" % (200 if self.ready else 503))
                    break
                writer.write(data)
                await writer.drain()
        writer.close()

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        await asyncio.sleep(0)


Three = dict[str, Server]


@pytest.fixture
async def three() -> AsyncIterator[Three]:
    servers = {name: Server(name) for name in ("a", "b", "c")}
    for server in servers.values():
        await server.start()
    yield servers
    for server in servers.values():
        await server.stop()


def ports(three: Three) -> dict[str, int]:
    return {name: server.port for name, server in three.items()}


class Visitor:
    """A connection through the balancer, and the name of the server at its other end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.at = ""

    @classmethod
    async def come(cls, balancer: Balancer) -> Visitor:
        visitor = cls(*await asyncio.open_connection("127.0.0.1", balancer.port))
        visitor.at = (await visitor.reader.read(1)).decode()
        return visitor

    async def leave(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


async def visitors(balancer: Balancer, count: int) -> list[Visitor]:
    return [await Visitor.come(balancer) for _ in range(count)]


async def leave(*those: Visitor) -> None:
    for one in those:
        await one.leave()


# --- where a connection goes -------------------------------------------------------------------


async def test_least_connections_fill_an_empty_server_and_round_robin_does_not(
    three: Three,
) -> None:
    """Two of three have two visitors each; four more come."""
    for rule, at_c in (("least connections", 2), ("round robin", 1)):
        names = {"a": three["a"].port, "b": three["b"].port}
        async with Balancer(names, rule=rule) as balancer:
            old = await visitors(balancer, 4)
            assert Counter(one.at for one in old) == {"a": 2, "b": 2}
            balancer.add("c", three["c"].port)
            new = await visitors(balancer, 3)
            assert Counter(one.at for one in new)["c"] == at_c
            await leave(*old, *new)


async def test_with_old_news_least_connections_send_everybody_to_the_same_server(
    three: Three,
) -> None:
    """Until the balancer hears or sees the numbers again."""
    async with Balancer(ports(three)) as balancer:
        balancer.hear()
        herd = await visitors(balancer, 5)
        assert Counter(one.at for one in herd) == {"a": 5}
        balancer.see()
        others = await visitors(balancer, 4)
        assert Counter(one.at for one in others) == {"b": 2, "c": 2}
        await leave(*herd, *others)


async def test_those_who_come_at_once_are_counted_before_they_are_connected(three: Three) -> None:
    """Otherwise a wave would see zero everywhere."""
    async with Balancer(ports(three)) as balancer:
        wave = await asyncio.gather(*(Visitor.come(balancer) for _ in range(30)))
        assert Counter(one.at for one in wave) == {"a": 10, "b": 10, "c": 10}
        await leave(*wave)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_picks_one_of_the_servers_also_when_there_is_only_one(rule: str) -> None:
    """And in the long run, each of three equal ones."""
    rng, pick = random.Random(1), RULES[rule]()
    assert pick({"only": 3}, rng) == "only"
    counts = dict.fromkeys("abc", 0)
    for _ in range(300):
        counts[pick(counts, rng)] += 1
    assert min(counts.values()) > 60


def test_power_of_two_prefers_the_emptier_one_but_not_always() -> None:
    """An empty one among ten full ones is in a fifth of all pairs."""
    rng = random.Random(1)
    counts = {f"full{n}": 10 for n in range(9)} | {"empty": 0}
    share = Counter(RULES["power of two"]()(counts, rng) for _ in range(2000))["empty"] / 2000
    assert 0.15 < share < 0.25


def test_an_unknown_rule_is_refused_with_those_that_there_are() -> None:
    """Also a typing error."""
    with pytest.raises(ValueError, match="did you mean 'round robin'"):
        Balancer({"a": 1}, rule="roundrobin")


def test_imbalance_is_the_fullest_by_the_mean() -> None:
    """And 1 when nobody is there."""
    assert imbalance({"a": 3, "b": 1}) == 1.5
    assert imbalance({"a": 0, "b": 0}) == 1.0


# --- servers that fail -------------------------------------------------------------------------


async def test_a_server_that_does_not_accept_is_skipped(three: Three) -> None:
    """The visitor notices nothing; when none accepts, the connection is closed."""
    await three["a"].stop()
    async with Balancer(ports(three)) as balancer:
        visitor = await Visitor.come(balancer)
        assert visitor.at == "b" and balancer.counts == {"a": 0, "b": 1, "c": 0}
        await leave(visitor)
        for name in ("b", "c"):
            await three[name].stop()
        assert (await Visitor.come(balancer)).at == ""


async def test_a_server_that_is_not_ready_gets_nobody_when_the_balancer_asks(
    three: Three,
) -> None:
    """And again when it is; when none is ready, one of them is better than none."""
    async with Balancer(ports(three), check_every_s=0.02) as balancer:
        three["a"].ready = False
        await until("it is found not ready", lambda: balancer._unready == {"a"})
        visitor = await Visitor.come(balancer)
        assert visitor.at == "b"
        three["a"].ready = True
        await until("it is ready again", lambda: balancer._unready == set())
        other = await Visitor.come(balancer)
        assert other.at == "a"
        await leave(visitor, other)


# --- what passes -------------------------------------------------------------------------------


async def test_bytes_pass_unchanged_and_a_slow_reader_holds_its_sender_back(three: Three) -> None:
    """Four megabytes come back as they were, although nobody reads them at first."""
    async with Balancer(ports(three)) as balancer:
        visitor = await Visitor.come(balancer)
        data = random.Random(1).randbytes(4_000_000)
        visitor.writer.write(data)
        assert await visitor.reader.readexactly(len(data)) == data
        await leave(visitor)


async def test_when_one_end_closes_the_other_is_closed_and_nobody_is_counted(three: Three) -> None:
    """Every change is in the history."""
    async with Balancer(ports(three)) as balancer:
        first, second = await visitors(balancer, 2)
        await leave(first, second)
        await until("both are gone", lambda: not any(balancer.counts.values()))
        seen = [load.counts["a"] + load.counts["b"] for load in balancer.history]
        assert seen == [0, 1, 2, 1, 0]


async def test_a_balancer_that_stops_cuts_everybody_and_leaves_no_task(three: Three) -> None:
    """Nobody can connect after that."""
    balancer = await Balancer(ports(three), check_every_s=0.5).start()
    visitor = await Visitor.come(balancer)
    await balancer.stop()
    await balancer.stop()
    assert await visitor.reader.read() == b""
    await leave(visitor)
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "balancer"]
    with pytest.raises(OSError):
        await asyncio.open_connection("127.0.0.1", balancer.port)

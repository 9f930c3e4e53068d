"""Servers on hosts of their own, made of network namespaces, and a partition between them.

`python -m tests.scenarios.namespaces cluster | sentinels`, in a network namespace nobody else uses
(`unshare --net`), prints in JSON what was seen. Each server is in a namespace of its own; this one
has the gateways, and is the router between all. A partition is a rule of the router: it drops what
a server and the others send to each other, as a broken network does, so TCP goes on trying. With
the last process all of it is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Self, cast

import redis

from tests.scenarios.cluster_traffic import Talker, Traffic, gateways, traffic
from tests.scenarios.test_redis_cluster import all_there, is_primary, whole
from tests.waiting import until
from wsdemo.buckets import slots
from wsdemo.redis.cluster_server import BundledCluster
from wsdemo.redis.server import BundledServer, ServerError, client_options, find_binary
from wsdemo.redis.slots import slot_of
from wsdemo.settings import Keyspace

SLOTS: Final = slots(64)
PORT: Final = 6379
BUS_PORT: Final = 16379
SENTINEL_PORT: Final = 26379
SERVICE: Final = "mymaster"
SERVERS: Final = 2
"""So many of the hosts with sentinels have data."""
START_S: Final = 30.0
PROMOTED_S: Final = 30.0
BOUND: Final = {"min-replicas-to-write": "1", "min-replicas-max-lag": "1"}
"""A primary with these refuses writes when its replica was not heard for a second or two."""
HEALED_S: Final = (0.2, 2.0)
"""How long after the promotion the network is whole again; each time for one partition."""


def run(*words: str) -> None:
    """Run a command of the system."""
    subprocess.run(words, check=True, capture_output=True, text=True)


def wait_for(what: str, holds: Callable[[], bool]) -> None:
    """Ask again and again until something holds."""
    deadline = time.monotonic() + START_S
    while True:
        with contextlib.suppress(redis.RedisError, OSError):
            if holds():
                return
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


class HostProcess:
    """A server on a host of its own; the part of `BundledServer` that a cluster needs.

    Args:
        number: of the host.
        settings: lines of its configuration, name to value.
        mode: more arguments of the program.
    """

    def __init__(
        self, number: int, settings: dict[str, str], folder: Path, *mode: str, port: int = PORT
    ) -> None:
        self.settings = settings
        self.port = port
        self.host = f"10.77.{number}.2"
        self._number = number
        place = folder / str(number)
        place.mkdir()
        lines = {
            "bind": "0.0.0.0",
            "protected-mode": "no",
            "port": str(port),
            "dir": str(place),
            **settings,
        }
        (place / "conf").write_text("".join(f"{name} {value}\n" for name, value in lines.items()))
        binary = find_binary()
        assert binary is not None
        self._process = subprocess.Popen(
            ["unshare", "--net", str(binary.path), str(place / "conf"), *mode],
            stdin=subprocess.DEVNULL,
            stdout=(place / "log").open("wb"),
            stderr=subprocess.STDOUT,
        )

    def connect(self) -> None:
        """Lay the cable between its host and the router."""
        here, pid = f"host{self._number}", str(self._process.pid)
        inside = ("nsenter", "--net", "--target", pid, "ip")
        wait_for("it is on a host of its own", self._is_apart)
        run("ip", "link", "add", here, "type", "veth", "peer", "name", "eth0", "netns", pid)
        run("ip", "addr", "add", f"10.77.{self._number}.1/24", "dev", here)
        run("ip", "link", "set", here, "up")
        run(*inside, "addr", "add", f"{self.host}/24", "dev", "eth0")
        run(*inside, "link", "set", "eth0", "up")
        run(*inside, "link", "set", "lo", "up")
        run(*inside, "route", "add", "default", "via", f"10.77.{self._number}.1")

    def _is_apart(self) -> bool:
        own = Path(f"/proc/{self._process.pid}/ns/net").readlink()
        return own != Path("/proc/self/ns/net").readlink()

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def start(self) -> HostProcess:
        return self

    def resume(self) -> None:
        """Nothing here stops a process."""

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        # The cable goes with the namespace, but a moment later.
        subprocess.run(
            ["ip", "link", "del", f"host{self._number}"], capture_output=True, check=False
        )


@contextlib.contextmanager
def hosts() -> Iterator[Path]:
    """Make this namespace a router; yield a folder for the servers."""
    folder = Path(tempfile.mkdtemp(prefix="wsdemo-hosts-"))
    run("ip", "link", "set", "lo", "up")
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def partition(number: int, count: int) -> Iterator[None]:
    """Drop what one of so many hosts and all others send to each other; this one reaches all."""
    others = [n for n in range(count) if n != number]
    rules = [
        ("iif", f"host{a}", "to", f"10.77.{b}.2", "blackhole")
        for other in others
        for a, b in ((number, other), (other, number))
    ]
    for rule in rules:
        run("ip", "rule", "add", *rule, "pref", "100")
    try:
        yield
    finally:
        for rule in rules:
            run("ip", "rule", "del", *rule, "pref", "100")


class NamespaceCluster(BundledCluster):
    """A cluster whose servers are on hosts of their own.

    Args:
        folder: where they may write.
    """

    def __init__(self, folder: Path, primaries: int, replicas: int) -> None:
        super().__init__(primaries, replicas, password="")
        self._folder = folder

    def start(self) -> Self:
        try:
            for number in range(self.primaries * (1 + self.replicas)):
                settings = {
                    **self._settings,
                    "save": '""',
                    "cluster-port": str(BUS_PORT),
                    "cluster-announce-ip": self.host(number),
                }
                server = HostProcess(number, settings, self._folder)
                self.servers.append(cast(BundledServer, server))
                server.connect()
            self.until("all answer", lambda: len(self._answering()) == len(self.servers))
            self._join()
        except BaseException:
            self.stop()
            raise
        return self

    def host(self, number: int) -> str:
        return f"10.77.{number}.2"


class NamespaceSentinel:
    """A primary (host 0), its replica (host 1) and three sentinels, each on a host of its own.

    Args:
        folder: where they may write.
        more: more lines of the configuration of the servers with data.
    """

    hosts = 5

    def __init__(self, folder: Path, more: dict[str, str]) -> None:
        self._all: list[HostProcess] = []
        try:
            for number in range(self.hosts):
                self._all.append(self._server(number, folder, more))
                self._all[-1].connect()
            wait_for("all are content", self._are_content)
        except BaseException:
            self.stop()
            raise

    @staticmethod
    def _server(number: int, folder: Path, more: dict[str, str]) -> HostProcess:
        if number < SERVERS:
            settings = {"save": '""', "repl-diskless-sync-delay": "0", **more}
            if number:
                settings["replicaof"] = f"10.77.0.2 {PORT}"
            return HostProcess(number, settings, folder)
        told = {
            f"sentinel monitor {SERVICE}": f"10.77.0.2 {PORT} 2",
            f"sentinel down-after-milliseconds {SERVICE}": "2000",
            f"sentinel failover-timeout {SERVICE}": "3000",
        }
        return HostProcess(number, told, folder, "--sentinel", port=SENTINEL_PORT)

    def stop(self) -> None:
        for one in self._all:
            one.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        places = ",".join(f"10.77.{n}.2:{SENTINEL_PORT}" for n in range(SERVERS, self.hosts))
        return f"redis+sentinel://{places}/{SERVICE}"

    def call(self, number: int, *words: str | int) -> Any:
        """Send one command to a server or a sentinel; return its reply."""
        port = PORT if number < SERVERS else SENTINEL_PORT
        options = {**client_options(5.0), "decode_responses": True}
        with redis.Redis(host=f"10.77.{number}.2", port=port, **options) as client:
            connection = client.connection_pool.get_connection()
            connection.send_command(*words)
            return connection.read_response()

    def is_primary(self, number: int) -> bool:
        return bool(self.call(number, "ROLE")[0] == "master")

    def _are_content(self) -> bool:
        for number in range(SERVERS, self.hosts):
            with contextlib.suppress(redis.ResponseError):
                self.call(number, "SENTINEL", "DEBUG", "info-period", 200)
            flat = self.call(number, "SENTINEL", "MASTER", SERVICE)
            state = dict(zip(flat[::2], flat[1::2], strict=True))
            known = (state["num-other-sentinels"], state["num-slaves"], state["flags"])
            if known != ("2", "1", "master"):
                return False
        return bool(self.call(1, "ROLE")[3] == "connected")


class Writer:
    """Writes keys at one server, one after the other, until it refuses, or is told to end.

    Args:
        call: sends a command to that server.
        may_have: says whether the server has a key.
    """

    def __init__(self, call: Callable[..., Any], may_have: Callable[[str], bool]) -> None:
        self._call = call
        self._may_have = may_have
        self.confirmed: list[str] = []
        self.ends = threading.Event()

    def write(self) -> float:
        """Return when it has refused, or was told to end (monotonic)."""
        for key in filter(self._may_have, map("lost:{{{}}}".format, itertools.count())):
            try:
                self._call("SET", key, "1", "PX", 60_000)
            except (ServerError, redis.RedisError):
                break
            self.confirmed.append(key)
            if self.ends.wait(0.01):
                break
        return time.monotonic()


def became_of(it: Traffic, writer: Writer, left: Sequence[str]) -> dict[str, Any]:
    """Return what became of messages, and of the keys that were written."""
    return {
        "told": dict(it.told),
        "closed": it.closed,
        "confirmed": len(writer.confirmed),
        "lost": len(writer.confirmed) - len(left),
    }


async def see(cluster: NamespaceCluster, heal_after_s: float) -> dict[str, Any]:
    """Cut a primary off while users talk; return what was seen."""
    keyspace = Keyspace(f"after-{heal_after_s:g}:")
    async with gateways(cluster.url, keyspace) as two:
        old = cluster.owner(SLOTS[0])
        (replica,) = cluster.replicas_of(old)
        here = set(cluster.slots_of(old))
        writer = Writer(partial(cluster.call, old), lambda key: slot_of(key) in here)
        async with traffic(two) as it:
            await it.flows()
            with partition(old, len(cluster.servers)):
                cut_at = time.monotonic()
                writing = asyncio.ensure_future(asyncio.to_thread(writer.write))

                async def is_promoted() -> bool:
                    return await asyncio.to_thread(is_primary, cluster, replica)

                await until("its replica is promoted", is_promoted, PROMOTED_S)
                promoted_at = time.monotonic()
                refused_at = await writing
                await it.flows()
                await asyncio.sleep(heal_after_s)
            healed_at = time.monotonic()

            async def is_demoted() -> bool:
                return not await asyncio.to_thread(is_primary, cluster, old)

            await until("the old one is a replica", is_demoted, PROMOTED_S)
            demoted_at = time.monotonic()
            await it.flows()
            await whole(two)
            await all_there(cluster, two, it)
        counts = [one.stats()["counters"] for one in two]
        left = [key for key in writer.confirmed if cluster.call(replica, "EXISTS", key)]
        return {
            "refusedS": round(refused_at - cut_at, 2),
            "promotedS": round(promoted_at - cut_at, 2),
            "partitionS": round(healed_at - cut_at, 2),
            "demotedS": round(demoted_at - healed_at, 2),
            "passedOn": sum(one["messages_passed_on"] for one in counts),
            **became_of(it, writer, left),
        }


async def holds(what: str, condition: Callable[[], bool]) -> None:
    """Wait until this holds. A server whose role changes ends its connections."""

    async def does() -> bool:
        with contextlib.suppress(redis.RedisError):
            return await asyncio.to_thread(condition)
        return False

    await until(what, does, PROMOTED_S)


def is_there(trio: NamespaceSentinel, keyspace: Keyspace, names: Iterable[str]) -> Iterator[bool]:
    """Say of each user whether the new primary has the entry; it agrees with the fence (P5)."""
    for name in names:
        epoch = trio.call(1, "HGET", keyspace.presence(name), "epoch")
        assert epoch is None or epoch == trio.call(1, "HGET", keyspace.fence(name), "top"), name
        yield epoch is not None


async def see_sentinel(trio: NamespaceSentinel, keyspace: Keyspace) -> dict[str, Any]:
    """Cut the primary off from its replica and from the sentinels; return what was seen."""
    async with gateways(trio.url, keyspace) as two:
        late = [Talker(f"late-{n}") for n in range(5)]
        writer = Writer(partial(trio.call, 0), lambda key: True)
        async with traffic(two) as it:
            await it.flows()
            with partition(0, trio.hosts):
                cut_at = time.monotonic()
                writing = asyncio.ensure_future(asyncio.to_thread(writer.write))
                # They are registered where nobody else will ever hear of them.
                firsts = [await one.open(two[0]) for one in late]
                assert [first["type"] for first in firsts] == ["registered"] * len(late)

                await holds("the replica is promoted", lambda: trio.is_primary(1))
                promoted_at = time.monotonic()

                channels = [keyspace.gateway_channel(f"gateway-0{n}") for n in (1, 2)]
                await holds(
                    "both gateways listen there",
                    lambda: trio.call(1, "PUBSUB", "NUMSUB", *channels)[1::2] == [1, 1],
                )
                moved_at = time.monotonic()
                writer.ends.set()
                refused_at = await writing
                await it.flows()
            healed_at = time.monotonic()

            await holds("the old one is a replica", lambda: not trio.is_primary(0))
            demoted_at = time.monotonic()
            await it.flows()

            names = [one.name for one in (*it.senders, *it.readers, *late)]
            await holds("everybody is there", lambda: all(is_there(trio, keyspace, names)))
        assert not any(one.closed for one in late)
        for one in late:
            await one.close()
        left = [key for key in writer.confirmed if trio.call(1, "EXISTS", key)]
        return {
            "refusedS": round(refused_at - cut_at, 2),
            "promotedS": round(promoted_at - cut_at, 2),
            "movedS": round(moved_at - cut_at, 2),
            "partitionS": round(healed_at - cut_at, 2),
            "demotedS": round(demoted_at - healed_at, 2),
            **became_of(it, writer, left),
        }


async def on_cluster(folder: Path) -> list[dict[str, Any]]:
    """Partition a cluster several times, each time another primary is cut off."""
    with NamespaceCluster(folder, 3, 1) as cluster:
        return [await see(cluster, heal_after_s) for heal_after_s in HEALED_S]


async def with_sentinels(folder: Path) -> list[dict[str, Any]]:
    """Cut a primary off, without and with a replica that it needs in order to write."""
    seen = []
    for name, more in (("free", {}), ("bound", BOUND)):
        place = folder / name
        place.mkdir()
        with NamespaceSentinel(place, more) as trio:
            seen.append(await see_sentinel(trio, Keyspace(f"{name}:")))
    return seen


def main(what: str) -> None:
    """Play it, and print what was seen."""
    play = {"cluster": on_cluster, "sentinels": with_sentinels}[what]
    with hosts() as folder:
        json.dump(asyncio.run(play(folder)), sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])

"""A cluster on hosts of its own, made of network namespaces, and a partition between them.

`python -m tests.scenarios.namespaces`, in a network namespace that nobody else uses
(`unshare --net`), prints in JSON what was seen. Each server is in a namespace of its own; this one
has the gateways, and is the router between all. A partition is a rule of the router: it drops what
a server and the others send to each other, as a broken network does, so TCP goes on trying. With
the last process all of it is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Self, cast

from tests.scenarios.cluster_traffic import gateways, traffic
from tests.scenarios.test_redis_cluster import all_there, is_primary, whole
from tests.waiting import until
from wsdemo.buckets import slots
from wsdemo.redis.cluster_server import BundledCluster
from wsdemo.redis.server import BundledServer, ServerError, find_binary
from wsdemo.redis.slots import slot_of
from wsdemo.settings import Keyspace

SLOTS: Final = slots(64)
PORT: Final = 6379
BUS_PORT: Final = 16379
PROMOTED_S: Final = 30.0
HEALED_S: Final = (0.2, 2.0)
"""How long after the promotion the network is whole again; each time for one partition."""


def run(*words: str) -> None:
    """Run a command of the system."""
    subprocess.run(words, check=True, capture_output=True, text=True)


class HostProcess:
    """A server on a host of its own; the part of `BundledServer` that a cluster needs."""

    port = PORT

    def __init__(self, number: int, settings: dict[str, str], folder: Path) -> None:
        self.settings = settings
        self.host = f"10.77.{number}.2"
        self._number = number
        folder.mkdir()
        lines = {
            **settings,
            "bind": "0.0.0.0",
            "protected-mode": "no",
            "port": str(PORT),
            "dir": str(folder),
            "save": '""',
            "cluster-announce-ip": self.host,
        }
        (folder / "conf").write_text("".join(f"{name} {value}\n" for name, value in lines.items()))
        binary = find_binary()
        assert binary is not None
        self._process = subprocess.Popen(
            ["unshare", "--net", str(binary.path), str(folder / "conf")],
            stdin=subprocess.DEVNULL,
            stdout=(folder / "log").open("wb"),
            stderr=subprocess.STDOUT,
        )

    def connect(self) -> None:
        """Lay the cable between its host and the router."""
        here, pid = f"host{self._number}", str(self._process.pid)
        inside = ("nsenter", "--net", "--target", pid, "ip")
        run("ip", "link", "add", here, "type", "veth", "peer", "name", "eth0", "netns", pid)
        run("ip", "addr", "add", f"10.77.{self._number}.1/24", "dev", here)
        run("ip", "link", "set", here, "up")
        run(*inside, "addr", "add", f"{self.host}/24", "dev", "eth0")
        run(*inside, "link", "set", "eth0", "up")
        run(*inside, "link", "set", "lo", "up")
        run(*inside, "route", "add", "default", "via", f"10.77.{self._number}.1")

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def is_apart(self) -> bool:
        """Say whether it is in its own namespace by now."""
        own = Path(f"/proc/{self._process.pid}/ns/net").readlink()
        return own != Path("/proc/self/ns/net").readlink()

    def start(self) -> HostProcess:
        return self

    def resume(self) -> None:
        """Nothing here stops a process."""

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


class NamespaceCluster(BundledCluster):
    """A cluster whose servers are on hosts of their own."""

    _folder: Path

    def start(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="wsdemo-hosts-"))
        run("ip", "link", "set", "lo", "up")
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        try:
            for number in range(self.primaries * (1 + self.replicas)):
                settings = {**self._settings, "cluster-port": str(BUS_PORT)}
                server = HostProcess(number, settings, self._folder / str(number))
                self.servers.append(cast(BundledServer, server))
                self.until("it is on a host of its own", server.is_apart)
                server.connect()
            self.until("all answer", lambda: len(self._answering()) == len(self.servers))
            self._join()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        super().stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def host(self, number: int) -> str:
        return f"10.77.{number}.2"

    @contextlib.contextmanager
    def partition(self, number: int) -> Iterator[None]:
        """Drop what a server and all others send to each other; this host reaches all."""
        others = [n for n in range(len(self.servers)) if n != number]
        rules = [
            ("iif", f"host{a}", "to", self.host(b), "blackhole")
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


class Writer:
    """Writes keys at one server, as fast as it confirms, until it refuses."""

    def __init__(self, cluster: BundledCluster, number: int) -> None:
        self._cluster = cluster
        self._number = number
        self.keys = [f"lost:{{{tag}}}" for tag in range(1000)]
        self.confirmed: list[str] = []

    def write(self) -> float:
        """Write to the slots that it has; return when it has refused (monotonic)."""
        here = set(self._cluster.slots_of(self._number))
        mine = [key for key in self.keys if slot_of(key) in here]
        while True:
            key = f"{mine[len(self.confirmed) % len(mine)]}{len(self.confirmed)}"
            try:
                self._cluster.call(self._number, "SET", key, "1", "PX", 60_000, timeout_s=5.0)
            except ServerError as problem:
                assert "CLUSTERDOWN" in str(problem) or "down" in str(problem), problem
                return time.monotonic()
            self.confirmed.append(key)
            time.sleep(0.01)


async def see(cluster: NamespaceCluster, heal_after_s: float) -> dict[str, Any]:
    """Cut a primary off while users talk; return what was seen."""
    keyspace = Keyspace(f"after-{heal_after_s:g}:")
    async with gateways(cluster.url, keyspace) as two:
        old = cluster.owner(SLOTS[0])
        (replica,) = cluster.replicas_of(old)
        writer = Writer(cluster, old)
        async with traffic(two) as it:
            await it.flows()
            with cluster.partition(old):
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
            "told": dict(it.told),
            "closed": it.closed,
            "passedOn": sum(one["messages_passed_on"] for one in counts),
            "confirmed": len(writer.confirmed),
            "lost": len(writer.confirmed) - len(left),
        }


async def main() -> list[dict[str, Any]]:
    """Partition the cluster several times, each time another primary is cut off."""
    with NamespaceCluster(3, 1, password="") as cluster:
        return [await see(cluster, heal_after_s) for heal_after_s in HEALED_S]


def play(words: Sequence[str]) -> None:
    json.dump(asyncio.run(main()), sys.stdout)


if __name__ == "__main__":
    play(sys.argv[1:])

"""Route script: what does Redis itself pay for a message, sharded, by a classic PUBLISH, or without
a deadline?

No gateways: a socket for each primary, on which the script of the gateways is sent in batches, and
one that listens. A batch has a message for a user of each of the 64 buckets, so a cluster of three
gets a third of it on each server, as it would from gateways. The listener hears every message
before the next batch is sent.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import redis

from benchmarks.deployments import CLUSTERS, shown
from benchmarks.phases import CONTENT_BYTES, Say
from benchmarks.systems import Failed, cpu_s_of
from wsdemo.buckets import slots
from wsdemo.redis.cluster_server import BundledCluster
from wsdemo.redis.origin import ANYWHERE
from wsdemo.redis.scripts import Script
from wsdemo.redis.server import BundledServer
from wsdemo.router import ROUTE
from wsdemo.settings import Keyspace

BUCKETS: Final = 64
GATEWAY: Final = "gateway-02"
ENVELOPE: Final = (
    '{"type":"direct","from":"alice","content":"' + "x" * CONTENT_BYTES + '","to":"bob"'
)
DEADLINE: Final = "if now[1] * 1000 + now[2] / 1000 > tonumber(ARGV[3]) then return {'expired'} end"
CLOCK: Final = "local now = redis.call('TIME')"
SHIPPED, NO_DEADLINE = "one server", "one server, no deadline"
NEVER: Final = str(2**52)
TIMEOUT_S: Final = 10.0


@dataclass
class ScriptCosts:
    """CPU of all servers together for a message, in microseconds: one of each round."""

    samples: dict[str, list[float]] = field(default_factory=dict)

    def ratios(self, name: str, base: str = SHIPPED) -> list[float]:
        """Return the ratio of each round."""
        pairs = zip(self.samples[name], self.samples[base], strict=True)
        return [mine / other for mine, other in pairs]


def without_deadline(script: Script) -> Script:
    """Return the script as it was before it looked at the clock."""
    for line in (CLOCK, DEADLINE):
        if line not in script.text:
            raise Failed(f"the script has another line than: {line}")
    text = script.text.replace(CLOCK, "").replace(DEADLINE, "")
    return Script(script.name, text, script.in_cluster)


class Way:
    """One way to send a message on servers: its script, who listens where, and the meter.

    Args:
        ports: of the primaries, with equal parts of the slots.
        pids: of all servers.
        stack: closes the connections.
    """

    def __init__(
        self,
        ports: Sequence[int],
        password: str,
        pids: Sequence[int],
        script: Script,
        buckets: int,
        sharded: bool,
        stack: contextlib.ExitStack,
    ) -> None:
        self._pids = pids
        self._nodes = [self._connect(port, password, stack) for port in ports]
        self._ears = [
            self._connect(port, password, stack) for port in ports[: None if sharded else 1]
        ]
        self._batches: list[list[bytes]] = [[] for _ in ports]
        self._heard = [0 for _ in self._ears]
        keyspace = Keyspace(buckets=buckets)
        for node in self._nodes:
            _ask(node, "SCRIPT", "LOAD", script.text)
        if not sharded:
            _ask(self._ears[0], "SUBSCRIBE", keyspace.channel_prefix + f"gateway:{GATEWAY}")
        places = slots(BUCKETS) if buckets else (0,) * BUCKETS
        users: dict[int, str] = {}
        number = 0
        while len(users) < BUCKETS:
            name = f"u{number}"
            users.setdefault(Keyspace(buckets=BUCKETS).bucket(name), name)
            number += 1
        for bucket, user in sorted(users.items()):
            at = places[bucket] * len(ports) // 16384
            key = keyspace.presence(user)
            _ask(
                self._nodes[at], "HSET", key, "gwId", GATEWAY, "connId", f"c{bucket}", "epoch", "7"
            )
            prefix = keyspace.script_channels(bucket) if sharded and buckets else ""
            if sharded:
                _ask(self._ears[at], "SSUBSCRIBE", keyspace.gateway_channel(GATEWAY, bucket))
            words = ["EVALSHA", script.sha, "1", key, ENVELOPE, prefix, NEVER]
            if sharded:
                words.append(ANYWHERE.decode())
            self._batches[at].append(b"".join(self._nodes[at].pack_command(*words)))
            self._heard[at if sharded else 0] += 1

    def _connect(self, port: int, password: str, stack: contextlib.ExitStack) -> Any:
        connection: Any = redis.Connection(
            host="127.0.0.1",
            port=port,
            password=password or None,
            socket_timeout=TIMEOUT_S,
            protocol=2,
        )
        connection.connect()
        stack.callback(connection.disconnect)
        return connection

    def measure(self, seconds: float) -> float:
        """Send batches for a while; return the CPU of a message, in microseconds."""
        before_s = sum(map(cpu_s_of, self._pids))
        ends_at, count = time.monotonic() + seconds, 0
        batches = [b"".join(words) for words in self._batches]
        while time.monotonic() < ends_at:
            for node, batch in zip(self._nodes, batches, strict=True):
                node.send_packed_command([batch], check_health=False)
            for node, words in zip(self._nodes, self._batches, strict=True):
                for _ in words:
                    reply = node.read_response()[0]
                    if reply not in {b"routed", b"no_subscriber"}:
                        raise Failed(f"the route script said {reply!r}")
            for ear, heard in zip(self._ears, self._heard, strict=True):
                for _ in range(heard):
                    ear.read_response()
            count += BUCKETS
        return 1e6 * (sum(map(cpu_s_of, self._pids)) - before_s) / count


def _ask(connection: Any, *words: str) -> Any:
    connection.send_command(*words)
    return connection.read_response()


def measure_scripts(rounds: int, seconds: float, say: Say) -> ScriptCosts:
    """Measure each way in turns, every other round backwards."""
    costs = ScriptCosts()
    with contextlib.ExitStack() as stack:
        say("starting servers")
        ways = _ways(stack)
        costs.samples = {name: [] for name, _ in ways}
        for number in range(rounds):
            for name, measure in ways[:: 1 if number % 2 else -1]:
                say(f"round {number + 1} of {rounds}: the script on {name}")
                costs.samples[name].append(measure(seconds))
    return costs


def _ways(stack: contextlib.ExitStack) -> list[tuple[str, Callable[[float], float]]]:
    one = stack.enter_context(BundledServer(password=""))
    ways: list[tuple[str, Callable[[float], float]]] = []

    def add(
        name: str,
        script: Script,
        buckets: int,
        sharded: bool,
        servers: list[BundledServer],
        primaries: int,
    ) -> None:
        pids, ports = [s.pid for s in servers], [s.port for s in servers[:primaries]]
        way = Way(ports, "", pids, script, buckets, sharded, stack)
        ways.append((name, way.measure))

    add(SHIPPED, ROUTE, 0, False, [one], 1)
    add(NO_DEADLINE, without_deadline(ROUTE), 0, False, [one], 1)
    for name, (primaries, replicas) in CLUSTERS.items():
        cluster = stack.enter_context(BundledCluster(primaries, replicas, password=""))
        in_buckets = Keyspace(buckets=BUCKETS)
        add(f"{name}, sharded", ROUTE.at(in_buckets), BUCKETS, True, cluster.servers, primaries)
        add(f"{name}, classic PUBLISH", ROUTE, BUCKETS, False, cluster.servers, primaries)
    return ways


def script_lines(costs: ScriptCosts) -> list[str]:
    """Return the table."""
    return [
        "CPU of Redis for one run of the route script, all servers together",
        "",
        "| servers | µs | times |",
        "|---|---|---|",
        *(
            f"| {name} | {statistics.median(us):.1f} | {shown(costs.ratios(name))} |"
            for name, us in costs.samples.items()
        ),
        "",
        f"with the deadline / without: {shown(costs.ratios(SHIPPED, NO_DEADLINE))}",
    ]

"""Memory of idle users: what does one more of them take, in the gateways and in Redis?

The first half of the users is not measured: memory that a process takes once does not belong to a
user. Python's own allocations are counted on a gateway of its own (`benchmarks.traced`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import redis

from benchmarks.phases import CONTENT_BYTES, IN_FLIGHT, STORM_AT_A_TIME, Say
from benchmarks.systems import Failed, LoadProcess, System, quiet
from wsdemo.redis.cluster_server import BundledCluster
from wsdemo.redis.server import BundledServer


@dataclass(frozen=True)
class IdleCost:
    """The memory of one idle user, in bytes."""

    system: str
    users: int
    gateway_bytes: float
    """Of the gateway processes, as the operating system counts."""
    python_bytes: float
    """What Python has allocated in a gateway."""
    redis_bytes: float


def measure_memory(users: int, say: Say) -> list[IdleCost]:
    """Measure users of a plain gateway, and users who read their inboxes."""
    room = ("--max-connections", str(users + 100))
    return [
        _weigh(name, quiet(*room, *flags), users, fields, say)
        for name, flags, fields in (
            ("plain", (), {}),
            ("durable", ("--durable",), {"resume": {}}),
        )
    ]


def _weigh(name: str, system: System, users: int, fields: dict[str, Any], say: Say) -> IdleCost:
    say(f"{users:,} idle users, {name}")
    half = users // 2
    with system, LoadProcess(name, "benchmarks.feature_load") as load:
        plan = {"ports": system.ports, "prefix": "u", "at_a_time": STORM_AT_A_TIME}
        load.do("speak", register=fields)
        load.do("connect", count=half, **plan)
        load.do("closed", shape="cross", in_flight=IN_FLIGHT, size=CONTENT_BYTES, seconds=0.5)
        before, before_redis = system.memory_bytes(), used_memory(system.server)
        load.do("connect", count=users - half, first=half, **plan)
        grown = system.memory_bytes() - before
        grown_redis = used_memory(system.server) - before_redis
    return IdleCost(
        name,
        users,
        grown / (users - half),
        _traced(name, users // 4, fields, say),
        grown_redis / (users - half),
    )


def _traced(name: str, users: int, fields: dict[str, Any], say: Say) -> float:
    """Return what Python allocates for each user, in a gateway that counts it."""
    say(f"{users:,} idle users, {name}, counting allocations")
    half = users // 2
    with (
        BundledServer() as server,
        LoadProcess(name, "benchmarks.traced") as gateway,
        LoadProcess(name, "benchmarks.feature_load") as load,
    ):
        port = gateway.do("begin", redis=server.url, durable=bool(fields))["port"]
        load.do("speak", register=fields)
        plan = {"ports": [port], "prefix": "u", "at_a_time": STORM_AT_A_TIME}
        load.do("connect", count=half, **plan)
        before = gateway.do("weigh")["bytes"]
        load.do("connect", count=users - half, first=half, **plan)
        grown: int = gateway.do("weigh")["bytes"] - before
        load.do("disconnect")
        gateway.do("end")
    return grown / (users - half)


def used_memory(server: BundledServer | BundledCluster | None) -> int:
    """Return how many bytes a Redis has allocated; of a cluster, its primaries."""
    assert server is not None
    total = 0
    try:
        for url in _urls(server):
            with redis.Redis.from_url(url) as client:
                info: Any = client.info("memory")
            total += int(info["used_memory"])
    except redis.RedisError as problem:
        raise Failed(f"Redis did not tell how much memory it uses: {problem}") from None
    return total


def _urls(server: BundledServer | BundledCluster) -> list[str]:
    if isinstance(server, BundledCluster):
        return [one.url for one in server.servers[: server.primaries]]
    return [server.url]

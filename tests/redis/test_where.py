"""Does `python -m wsdemo.redis` say which key a user has, and which server has it?"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from wsdemo.addresses import RedisAddress
from wsdemo.redis.cluster_server import BundledCluster
from wsdemo.redis.connection import RedisUnavailable
from wsdemo.redis.server import BundledServer
from wsdemo.redis.slots import slot_of
from wsdemo.redis.where import ask, place_of, server_of
from wsdemo.settings import Keyspace


@pytest.fixture(scope="module")
def cluster() -> Iterator[BundledCluster]:
    """One for the whole module: a start takes two seconds."""
    with BundledCluster(3) as cluster:
        yield cluster


def command(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "wsdemo.redis", *words], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
def test_the_key_and_the_server_of_each_user_are_those_of_the_cluster(
    cluster: BundledCluster,
) -> None:
    """Although only one server is named."""
    address = RedisAddress.parse(cluster.url.split(",")[0])
    for user in ("alice", "bob", "carol", "dave"):
        key, server = place_of(address, user, "p:")
        assert key == Keyspace("p:", buckets=64).presence(user)
        assert server == cluster.addresses[cluster.owner(slot_of(key))]
        assert ask(server_of(address, key), [b"HSET", key.encode(), b"gwId", b"g"]) == 1


@pytest.mark.slow
def test_the_command_line_prints_them_and_asks_the_right_server(cluster: BundledCluster) -> None:
    """For people without redis-cli."""
    key, server = command("--redis", cluster.url, "--key", "erin").split()
    assert key == Keyspace(buckets=64).presence("erin")
    assert server in cluster.addresses
    assert command("--redis", cluster.url, "--call", "HSET", key, "gwId", "g") == "1"
    assert command("--redis", cluster.url, "--call", "HGETALL", key).split() == ["gwId", "g"]


def test_on_one_redis_the_key_is_that_of_the_demo(shared_server: BundledServer) -> None:
    """And the server is the one that was named."""
    key, server = place_of(RedisAddress.parse(shared_server.url), "alice")
    assert key == "presence:alice"
    assert server.startswith(f"127.0.0.1:{shared_server.port}")


def test_a_cluster_of_which_no_server_answers_is_said_in_one_line() -> None:
    """The reason is that of the last one that was asked."""
    with pytest.raises(RedisUnavailable, match="refused"):
        place_of(RedisAddress.parse("redis+cluster://127.0.0.1:1"), "alice")

"""Looking up by hand: which key has a user, and on which server is it?

For people at a terminal. In a cluster a key has a hash tag, and any of several servers may have it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final, NamedTuple

import redis

from wsdemo.addresses import Form, HostPort, RedisAddress
from wsdemo.redis.clients import server_of as primary_now
from wsdemo.redis.connection import RedisUnavailable, library_url, one_line
from wsdemo.redis.slots import SlotMap, claims, slot_of
from wsdemo.settings import Keyspace

TIMEOUT_S: Final = 5.0


class KeyPlace(NamedTuple):
    """A key, and `host:port` of the server that has it."""

    key: str
    server: str


def place_of(address: RedisAddress, user: str, prefix: str = "") -> KeyPlace:
    """Return the key of a user's presence, and where it is.

    Raises:
        RedisUnavailable: no server of the cluster answers.
    """
    key = Keyspace(prefix, buckets=address.buckets).presence(user)
    return KeyPlace(key, server_of(address, key).place)


def server_of(address: RedisAddress, key: str | bytes) -> RedisAddress:
    """Return the address of the server that has a key.

    Raises:
        RedisUnavailable: no server of the cluster answers; or the sentinels do not know.
    """
    if address.form is not Form.CLUSTER:
        with one_line():
            return primary_now(address)
    problem: RedisUnavailable | None = None
    for seed in address.seeds:
        try:
            text = ask(address.server_at(seed), [b"CLUSTER", b"NODES"])
        except RedisUnavailable as failure:
            problem = failure
            continue
        slots = SlotMap()
        slots.learn(claims(os.fsdecode(text) if isinstance(text, bytes) else "", str(seed)))
        owner = RedisAddress.parse(slots.owners[slot_of(key)] or str(seed))
        return address.server_at(HostPort(owner.host, owner.port))
    raise problem or RedisUnavailable("the address names no server")


def ask(address: RedisAddress, words: Sequence[bytes]) -> object:
    """Send one command to a server, and return its reply.

    Raises:
        RedisUnavailable: it cannot be reached, or refuses the command.
    """
    url = library_url(address.url)
    with one_line(), redis.Redis.from_url(url, socket_timeout=TIMEOUT_S, protocol=2) as client:
        # Not through the client's commands, which turn OK into True and lists into dictionaries.
        connection = client.connection_pool.get_connection()
        connection.send_command(*words)
        return connection.read_response()

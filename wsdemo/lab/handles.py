"""Handles: with which objects does a cell act on a user, a wire or Redis?

Each handle is a plain object without `await`. Its methods run on the laboratory's loop, and wait
for the result.
"""

from __future__ import annotations

import html
from collections.abc import Callable

from wsdemo.client import Client
from wsdemo.client.connection import Message, Receipt, State
from wsdemo.lab.cluster.cluster import Cluster
from wsdemo.lab.loop import LabLoop
from wsdemo.rig.wire import Bundle, Direction


class User:
    """A user in a cell.

    Args:
        forget: called with the user's name when she leaves.
    """

    def __init__(
        self, loop: LabLoop, cluster: Cluster, client: Client, forget: Callable[[str], object]
    ) -> None:
        self._loop = loop
        self._cluster = cluster
        self._client = client
        self._forget = forget

    @property
    def name(self) -> str:
        return self._client.user

    @property
    def gateway(self) -> str:
        """The gateway that this user's socket is connected to; empty when to none."""
        return self._client.gateway_id if self._client.state is State.REGISTERED else ""

    def send(self, to: str, content: str) -> Receipt:
        """Send a message; the receipt says what became of it."""
        return self._loop.run(self._client.send(to, content))

    def receive(self, timeout_s: float = 5.0) -> Message:
        """Return the next message.

        Raises:
            TimeoutError: none came in time.
        """
        return self._loop.run(self._client.receive(timeout_s), timeout_s + 5)

    def move(self, to: str) -> None:
        """Leave for another gateway."""
        self._loop.run(self._client.move(self._cluster.urls_of(self.name)[to]))

    def lose_heartbeats(self, probability: float = 0.0, *, following: int = 0) -> None:
        """From now on heartbeats get lost: so many following ones, or each by chance."""
        self._loop.call(
            lambda: self._cluster.drop_pings(self.name, probability, following=following)
        )

    def vanish(self) -> None:
        """Shut the laptop: no goodbye, no FIN, nothing is heard any more. It takes a wired user."""
        self._loop.run(self._cluster.vanish(self.name))
        self._forget(self.name)

    def disconnect(self) -> None:
        """Say goodbye."""
        self._forget(self.name)
        self._loop.run(self._cluster.disconnect(self.name))

    def __repr__(self) -> str:
        return f"<User {self.name} at {self.gateway or 'no gateway'}>"

    def _repr_html_(self) -> str:
        return f"<code>{html.escape(repr(self))}</code>"


class WireHandle:
    """A wire in a cell. Directions: "up" is from the side that dialled, "down" is back; none means
    both.
    """

    def __init__(self, loop: LabLoop, bundle: Bundle) -> None:
        self._loop = loop
        self._bundle = bundle

    def hold(self, *directions: Direction) -> None:
        """From now on keep all bytes, in order, until `release`."""
        self._loop.call(lambda: self._bundle.hold(*directions))

    def release(self, *directions: Direction) -> None:
        """Pass on what was held, and everything after it; drop nothing and delay nothing more."""
        self._loop.call(lambda: self._bundle.release(*directions))

    def drop(self, *directions: Direction) -> None:
        """From now on drop all bytes, while the connection looks alive."""
        self._loop.call(lambda: self._bundle.drop(*directions))

    def delay(self, seconds: float, *directions: Direction, jitter_s: float = 0.0) -> None:
        """Let everything from now on arrive this much later (wall seconds), and up to `jitter_s`
        more, in order.
        """
        self._loop.call(lambda: self._bundle.delay(seconds, *directions, jitter_s=jitter_s))

    def cut(self) -> None:
        """End all connections at once, without a close frame; new ones pass."""
        self._loop.call(self._bundle.cut)

    def reset(self) -> None:
        """End all connections with a TCP reset; new ones pass."""
        self._loop.call(self._bundle.reset)


class RedisHandle:
    """A lab's Redis in a cell: how it stops, restarts and freezes."""

    def __init__(self, loop: LabLoop, cluster: Cluster) -> None:
        self._loop = loop
        self._cluster = cluster

    def stop(self) -> None:
        """Kill it: connections break, nothing is answered, all data are lost."""
        self._loop.run(self._cluster.redis.stop())

    def restart(self, *, empty: bool = True) -> None:
        """Start it again at the same address, empty unless told otherwise."""
        self._loop.run(self._cluster.redis.restart(empty=empty))

    def freeze(self) -> None:
        """Stop its process: connections stay, and nothing is answered."""
        self._loop.run(self._cluster.redis.freeze())

    def thaw(self) -> None:
        """Let it go on."""
        self._loop.run(self._cluster.redis.thaw())

"""Handles: with which objects does a cell act on a user, a wire or Redis?

Each handle is a plain object without `await`. Its methods run on the laboratory's loop, and wait
for the result.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable
from typing import Any, Final

from wsdemo.client import Client, ClientClosed, Message, Receipt, State
from wsdemo.events import Kind
from wsdemo.lab.cluster.cluster import Cluster
from wsdemo.lab.cluster.population import label_of
from wsdemo.lab.errors import LabRefused, LabTimeout, spells_options
from wsdemo.lab.loop import LabLoop
from wsdemo.rig.names import unknown
from wsdemo.rig.wire import Bundle, Direction

HEAL_TIMEOUT_S: Final = 60.0
"""How long several servers may take to agree; the kit itself gives up sooner."""


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
        self._left = ""
        """How she left, if she did."""
        self._latest: Message | None = None

    @property
    def name(self) -> str:
        """The name of the user; of a device, `alice/phone`."""
        return label_of(self._client.user, self._client.device)

    @property
    def gateway(self) -> str:
        """The gateway that this user's socket is connected to; empty when to none."""
        return self._client.gateway_id if self._client.state is State.REGISTERED else ""

    @spells_options
    def send(self, to: str, content: str, *, durable: bool = False) -> Receipt:
        """Send a message; the receipt says what became of it.

        Args:
            durable: store it for the recipient, in a `Lab(durable=True)`.

        Raises:
            LabRefused: she has left, one of the two is no text, or there are no inboxes.
        """
        self._require_here()
        if not isinstance(to, str) or not to:
            name = repr(to.name if isinstance(to, User) else "bob")
            raise LabRefused(f"a message goes to the name of a user, such as {name}, not to {to!r}")
        if not isinstance(content, str):
            kind = type(content).__name__
            raise LabRefused(f"a message is a text, not {kind}: send({to!r}, {str(content)!r:.60})")
        if durable and not self._cluster.has_inboxes:
            raise LabRefused("nobody has an inbox here: make the lab with Lab(durable=True)")
        return self._loop.run(self._client.send(to, content, durable=durable))

    def receive(self, timeout_s: float = 5.0) -> Message:
        """Return the next message.

        Raises:
            LabTimeout: none came in time; the text says what did arrive before.
            LabRefused: none will come any more.
            MessagesMissed: durable messages may be lost here; the next call goes on behind the gap.
        """
        try:
            self._latest = self._loop.run(self._client.receive(timeout_s), timeout_s + 5)
        except LabTimeout:
            raise
        except TimeoutError:
            raise self._gone() or LabTimeout(self._nothing_came(timeout_s)) from None
        except ClientClosed as problem:
            closed = LabRefused(f"{self.name} gets no more messages: {problem}")
            raise self._gone() or closed from None
        return self._latest

    def done(self) -> None:
        """Say that the latest message has been worked on, so that it is acknowledged. Asking for
        the next one says so as well.
        """
        self._require_here()
        self._loop.run(self._client.done())

    def _nothing_came(self, timeout_s: float) -> str:
        arrived = sum(
            event.kind is Kind.ARRIVE and event.user == self.name
            for event in self._cluster.recorder.events
        )
        waited = f"{self.name} waited {timeout_s:g} s, and no message came"
        before = f"{arrived:,} arrived before (already read)" if arrived else "none has arrived yet"
        if self._latest is not None:
            before += f", the last one from {self._latest.sender}: {self._latest.content!r:.60}"
        where = f"she is at {self.gateway}" if self.gateway else "she is at no gateway now"
        return f"{waited}: {before}; {where}"

    def join(self, room: str) -> tuple[str, ...]:
        """Join a room, in a `Lab(rooms=True)`; return who is in it. After a reconnect the client
        joins it again.

        Raises:
            LabRefused: she has left, or there are no rooms.
            RequestRefused: the gateway says no.
        """
        self._require_here()
        if not self._cluster.has_rooms:
            raise LabRefused("there are no rooms here: make the lab with Lab(rooms=True)")
        return self._loop.run(self._client.join(room)).members

    def move(self, to: str) -> None:
        """Leave for another gateway.

        Raises:
            LabRefused: there is no such gateway, or she has left.
            LabTimeout: she was not registered there in time; she goes on trying.
        """
        self._require_here()
        urls = self._cluster.urls_of(self.name)
        if to not in urls:
            raise LabRefused(unknown("gateway", to, urls))
        try:
            self._loop.run(self._client.move(urls[to]))
        except LabTimeout:
            raise
        except TimeoutError:
            raise LabTimeout(
                f"{to} did not register {self.name} within 10 s; she goes on trying"
            ) from None

    @spells_options
    def lose_heartbeats(self, probability: float = 0.0, *, following: int = 0) -> None:
        """From now on heartbeats get lost: so many following ones, or each by chance."""
        self._require_here()
        self._loop.call(
            lambda: self._cluster.drop_pings(self.name, probability, following=following)
        )

    def vanish(self) -> None:
        """Shut the laptop: no goodbye, no FIN, nothing is heard any more. It takes a wired user."""
        self._require_here()
        self._loop.run(self._cluster.vanish(self.name))
        self._left = "vanished"
        self._forget(self.name)

    def disconnect(self) -> None:
        """Say goodbye. Idempotent."""
        if not self._left:
            self._forget(self.name)
            self._loop.run(self._cluster.disconnect(self.name))
            self._left = "disconnected"

    def _require_here(self) -> None:
        """Refuse what only a user can do who has not left.

        Raises:
            LabRefused: she has.
        """
        self._loop.require_open()
        if gone := self._gone():
            raise gone

    def _gone(self) -> LabRefused | None:
        if not self._left:
            return None
        return LabRefused(
            f"{self.name} has {self._left}, and can do nothing any more: "
            f"lab.connect({self._client.user!r}) brings the user back, as a new object"
        )

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
    """A lab's Redis in a cell: how it is stopped, frozen, replaced and started again.

    The first four verbs are for a Redis of one server; the others are for `Lab(redis="cluster")`
    and `Lab(redis="sentinel")`, whose servers have numbers from 0 on.
    """

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

    # --- several servers ---------------------------------------------------------------------

    def kill(self, number: int | None = None) -> int:
        """Kill a server (SIGKILL) with its data, and return its number.

        Args:
            number: which one. Under Sentinel: by default, the present primary.

        Raises:
            LabRefused: there is no such server, or this Redis is one server.
        """
        return self._loop.run(self._cluster.redis.kill(number))

    def pause(self, number: int | None = None) -> int:
        """Freeze a server (SIGSTOP): connections stay, and nothing is answered. Otherwise as
        `kill`.
        """
        return self._loop.run(self._cluster.redis.pause(number))

    def revive(self, number: int) -> None:
        """Start a killed server again, without its data, or let a paused one go on."""
        self._loop.run(self._cluster.redis.revive(number), HEAL_TIMEOUT_S)

    def fail_over(self, number: int | None = None, *, how: str | None = None) -> int:
        """Let a replica take over from a primary that works, as planned; return the number of the
        new primary.

        Args:
            number: the primary; needed in a cluster.
            how: under Sentinel, "coordinated" (default), "paused" or "plain".

        Raises:
            LabRefused: there is no replica.
            ServerError: the replica did not take over in time.
        """
        return self._loop.run(self._cluster.redis.fail_over(number, how), HEAL_TIMEOUT_S)

    def move(self, buckets: int | Iterable[int], *, to: int) -> None:
        """Move one bucket, or several, with all their users to a primary of the cluster."""
        self._loop.run(self._cluster.redis.move(buckets, to), HEAL_TIMEOUT_S)

    def stop_replication(self) -> None:
        """Under Sentinel: from now on the replica gets nothing, until `heal`. What the primary
        acknowledges meanwhile is lost when it dies.
        """
        self._loop.run(self._cluster.redis.stop_replication())

    def call(self, number: int, *words: str | int) -> Any:
        """Send one command to one of several servers, and return its reply as it is."""
        return self._loop.run(self._cluster.redis.call(number, *words))

    def add_primary(self) -> int:
        """Let one more server join the cluster, and return its number. It has no bucket yet."""
        return self._loop.run(self._cluster.redis.add_primary(), HEAL_TIMEOUT_S)

    def heal(self) -> None:
        """Bring every server back, and wait until all is well. Roles stay as they are."""
        self._loop.run(self._cluster.redis.heal(), HEAL_TIMEOUT_S)

    @property
    def primaries(self) -> list[int]:
        """The primaries that answer now; under Sentinel, the one that the sentinels name."""
        return self._loop.run(self._cluster.redis.primaries(), HEAL_TIMEOUT_S)

    def server_of(self, user: str) -> int:
        """Return the number of the server that has a user's entry now."""
        return self.servers_of(user)[user]

    def servers_of(self, *users: str) -> dict[str, int]:
        """Return the same for several users."""
        return self._loop.run(self._cluster.redis.servers_of(users))

    def buckets_of(self, number: int) -> list[int]:
        """Return the buckets that a server of the cluster has now."""
        return self._loop.run(self._cluster.redis.buckets_of(number))

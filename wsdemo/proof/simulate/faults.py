"""Fault injection: what goes wrong in a simulation, when, and how does it end?

Faults are drawn from the seed, at most two at a time. Each begins, lasts a while and ends; `heal`
ends all of them. What TCP could not repair stays broken: a connection that has lost bytes is
half-open for good, and its ends have to find out.

A frozen host: its callbacks do not run, its kernel goes on accepting connections and taking bytes.
When it goes on, it first sees what was received, then its timers. Not modelled: buffers that run
full while it is frozen, memory and disks, a CPU that is slow.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final, NamedTuple

from wsdemo.proof.history import Fault, Healed
from wsdemo.proof.simulate.cluster import SimulatedCluster
from wsdemo.proof.simulate.connection import SimulatedConnection
from wsdemo.proof.simulate.fake_redis import Fields
from wsdemo.proof.simulate.inboxes import INBOX_KEYS
from wsdemo.proof.simulate.offer import USERS, Offer
from wsdemo.proof.simulate.ownership import KEYSPACE, user_of_script
from wsdemo.proof.simulate.pipe import BOTH, Direction, Pipe
from wsdemo.proof.simulate.redis import REDIS_HOST

AT_ONCE: Final = 2
"""Faults that may be active at the same time."""
LONGEST_S: Final = 45.0
"""How long a fault lasts at most."""
DUPLICATED: Final = frozenset(
    {
        "mint",
        "register",
        "refresh",
        "release",
        "send",
        "read",
        "ack",
        "room_join",
        "room_leave",
        "room_sweep",
        "devices_register",
        "devices_refresh",
        "devices_release",
        "devices_send",
        "devices_read",
        "devices_ack",
    }
)
"""Scripts whose commands may be executed a second time, later."""
READS: Final = frozenset({"read", "devices_read"})
WAYS: Final[tuple[tuple[Direction, ...], ...]] = (("up",), ("down",), BOTH)


class Injection(NamedTuple):
    """A fault from its begin to its end, and which users it may concern (None: all)."""

    lasting: AbstractAsyncContextManager[None]
    where: tuple[str, ...] | None = None


class FaultInjector:
    """The faults of one cluster.

    Args:
        seed: of their order, their victims and their length.
    """

    def __init__(self, cluster: SimulatedCluster, seed: int) -> None:
        self._cluster = cluster
        self._network = cluster.network
        self._note = cluster.recorder.note
        self._rng = random.Random(f"{seed}:nemesis")
        self._duplicating = False
        self._cutting: dict[str, Callable[[SimulatedConnection], None]] = {}
        """Users whose connections end when a script has been executed for them, and how."""
        self._names = list(faults_of(cluster.offer))
        if cluster.trusts_redis:
            # Then such a loss is not told to those who had seen nothing of it.
            self._names = [name for name in self._names if name not in BREAK_TRUST]
        self._to_kill: set[str] = set()
        """Users whose clients are killed after their inbox was read."""
        self._later: set[asyncio.TimerHandle] = set()
        self._routes: set[tuple[str, str]] = set()
        """Pairs of hosts between which something may be held, lost or delayed."""
        cluster.observer.on_script = self._on_script

    async def inject(self, seconds: float) -> None:
        """Inject faults for a while, then heal."""
        loop = self._cluster.loop
        ends_at = loop.time() + seconds
        active: list[asyncio.Task[None]] = []
        while (left_s := ends_at - loop.time()) > 0:
            active = [task for task in active if not task.done()]
            if len(active) < AT_ONCE:
                active.append(self._begin(left_s))
            await asyncio.sleep(min(left_s, self._rng.uniform(0.5, 10.0)))
        for task in active:
            await task
        self.heal()

    def _begin(self, left_s: float) -> asyncio.Task[None]:
        name = self._rng.choice(self._names)
        lasts_s = min(left_s, self._rng.choice((1.0, 5.0, 20.0, LONGEST_S)) * self._rng.random())
        return self._cluster.loop.create_task(self._run(name, lasts_s), name=f"fault {name}")

    async def _run(self, name: str, lasts_s: float) -> None:
        lasting, where = ALL_FAULTS[name](self)
        self._note(Fault, name=name, begins=True, where=where)
        async with lasting:
            await asyncio.sleep(lasts_s)
        self._note(Fault, name=name, begins=False, where=where)

    def heal(self) -> None:
        """End what is held or delayed, and record that all faults are over."""
        for caller, target in sorted(self._routes):
            self._network.heal(caller, target)
        self._routes.clear()
        self._note(Healed)

    # --- victims -----------------------------------------------------------------------------

    def any_gateway(self) -> str:
        """Return the name of any gateway."""
        return self._rng.choice(self._cluster.gateways.names)

    def at_client(
        self, fault: Callable[[tuple[str, str]], AbstractAsyncContextManager[None]]
    ) -> Injection:
        """Return a fault between a device and a gateway; it concerns the user of the device."""
        devices = [device for device in self._cluster.users.all_devices() if not device.ended]
        if not devices:
            return Injection(fault(("", self.any_gateway())), ())
        device = self._rng.choice(devices)
        return Injection(fault((device.host.name, self.any_gateway())), (device.user,))

    def redis_route(self) -> tuple[str, str]:
        return self.any_gateway(), REDIS_HOST

    def _redis_answers(self) -> bool:
        return not self._cluster.redis.host.stands_still

    def _pipes_to_redis(self) -> list[Pipe]:
        """Return one or both directions of one connection of one gateway, if it has any."""
        connections = list(self._network.connections(self.any_gateway(), REDIS_HOST))
        if not connections:
            return []
        connection = self._rng.choice(connections)
        return [connection.pipes[way] for way in self._rng.choice(WAYS)]

    # --- connections -------------------------------------------------------------------------

    @asynccontextmanager
    async def delayed(self, route: tuple[str, str]) -> AsyncIterator[None]:
        """What is sent arrives later, and not evenly."""
        self._routes.add(route)
        delay_s = self._rng.choice((0.05, 0.5, 1.5)) * self._rng.random()
        self._network.delay(*route, delay_s, delay_s, *self._rng.choice(WAYS))
        yield
        self._network.heal(*route)

    @asynccontextmanager
    async def held(self, route: tuple[str, str]) -> AsyncIterator[None]:
        """What is sent waits, and arrives when the fault ends."""
        self._routes.add(route)
        self._network.hold(*route, *self._rng.choice(WAYS))
        yield
        self._network.heal(*route)

    @asynccontextmanager
    async def dropped(self, route: tuple[str, str]) -> AsyncIterator[None]:
        """What is sent is lost; the connections that were there stay half-open for good."""
        self._routes.add(route)
        self._network.lose(*route, *self._rng.choice(WAYS))
        user = self._cluster.users.user_of(route[0])
        connections = list(self._network.connections(*route))
        self._cluster.half_open.begin(connections, (user,) if user else None)
        yield
        self._network.heal(*route)

    @asynccontextmanager
    async def cut(self, route: tuple[str, str]) -> AsyncIterator[None]:
        """The connections break; new ones work."""
        self._network.cut(*route)
        yield

    @asynccontextmanager
    async def cut_off(
        self, route: tuple[str, str], how: Callable[[SimulatedConnection], None]
    ) -> AsyncIterator[None]:
        """The connections of a user end while an answer of Redis to its gateway is under way."""
        user = self._cluster.users.user_of(route[0])
        self._cutting[user] = how
        yield
        self._cutting.pop(user, None)

    def reset(self, route: tuple[str, str]) -> AbstractAsyncContextManager[None]:
        """The connections of a user are reset, as `cut_off` says."""
        return self.cut_off(route, SimulatedConnection.reset)

    def half_closed(self, route: tuple[str, str]) -> AbstractAsyncContextManager[None]:
        """The connections of a user are closed in one direction, as `cut_off` says."""
        return self.cut_off(route, SimulatedConnection.half_close)

    @asynccontextmanager
    async def one_held(self) -> AsyncIterator[None]:
        """One of a gateway's two connections to Redis is held, the other one is not."""
        pipes = self._pipes_to_redis()
        for pipe in pipes:
            pipe.hold()
        yield
        for pipe in pipes:
            pipe.heal()

    @asynccontextmanager
    async def one_dropped(self) -> AsyncIterator[None]:
        """One of a gateway's two connections to Redis is half-open from now on."""
        pipes = self._pipes_to_redis()
        for pipe in pipes:
            pipe.lose()
        self._cluster.half_open.begin([pipe.sender.connection for pipe in pipes[:1]])
        yield

    @asynccontextmanager
    async def swizzled(self) -> AsyncIterator[None]:
        """Gateways lose Redis one by one, and find it again in another order."""
        await self._one_by_one(self._network.hold)
        yield
        await self._one_by_one(self._network.heal)

    async def _one_by_one(self, treat: Callable[[str, str], None]) -> None:
        names = list(self._cluster.gateways.names)
        self._rng.shuffle(names)
        for name in names:
            self._routes.add((name, REDIS_HOST))
            treat(name, REDIS_HOST)
            await asyncio.sleep(self._rng.uniform(0.1, 4.0))

    # --- hosts -------------------------------------------------------------------------------

    @asynccontextmanager
    async def crashed(self, back_at_once: bool) -> AsyncIterator[None]:
        """A gateway crashes, and is started again under the same id."""
        name, gateways = self.any_gateway(), self._cluster.gateways
        alive = gateways.serves(name)
        if alive:
            gateways.crash(name)
        if alive and back_at_once:
            gateways.start(name)
        yield
        if alive and not back_at_once:
            gateways.start(name)

    @asynccontextmanager
    async def fullest_crashed(self) -> AsyncIterator[None]:
        """The gateway with the most users crashes, and is started again."""
        gateways = self._cluster.gateways
        serving = [(len(gateway.registry), name) for name, gateway in gateways.serving()]
        name = max(serving)[1] if serving else ""
        if name:
            gateways.crash(name)
        yield
        if name:
            gateways.start(name)

    @asynccontextmanager
    async def drained(self) -> AsyncIterator[None]:
        """A gateway is told to stop, and started again."""
        name, gateways = self.any_gateway(), self._cluster.gateways
        ready = gateways.serves(name)
        if ready:
            await gateways.drain(name)
        yield
        if ready:
            gateways.start(name)

    @asynccontextmanager
    async def frozen(self, name: str) -> AsyncIterator[None]:
        """A host is frozen."""
        host = self._network.hosts.get(name)
        if host is not None:
            host.freeze()
        yield
        if host is not None:
            host.thaw()

    @asynccontextmanager
    async def clock_jump(self) -> AsyncIterator[None]:
        """The time of day of a gateway is wrong by up to an hour; no user may be affected."""
        clock = self._network.hosts[self.any_gateway()].clock
        clock.error_s = self._rng.uniform(-3600.0, 3600.0)
        yield
        clock.error_s = 0.0

    # --- Redis -------------------------------------------------------------------------------

    @asynccontextmanager
    async def redis_gone(self, keep_data: bool) -> AsyncIterator[None]:
        """Redis is killed, and comes back with its data, or without them."""
        redis = self._cluster.redis
        if redis.host.dead:
            yield
            return
        redis.stop(keep_data)
        if not keep_data:
            self._cluster.observer.forgotten()
        yield
        redis.start()
        self._cluster.inboxes.restarted()

    @asynccontextmanager
    async def told(self, *command: str) -> AsyncIterator[None]:
        """Somebody gives Redis a command by hand."""
        if self._redis_answers():
            self._cluster.redis.execute(*command)
        yield

    @asynccontextmanager
    async def entry_deleted(self) -> AsyncIterator[None]:
        """Somebody deletes the entry of one user."""
        user = self._rng.choice(USERS)
        async with self.told("DEL", f"presence:{user}"):
            yield

    @asynccontextmanager
    async def hung_up(self, subscribers: bool) -> AsyncIterator[None]:
        """Redis ends connections: CLIENT KILL TYPE pubsub, or TYPE normal."""
        if self._redis_answers():
            self._cluster.redis.hang_up(subscribers)
        yield

    @asynccontextmanager
    async def duplicated(self) -> AsyncIterator[None]:
        """Commands of presence are executed a second time, later, as from a forgotten buffer."""
        self._duplicating = True
        yield
        self._duplicating = False
        for timer in self._later:
            timer.cancel()
        self._later.clear()

    # --- durable messages --------------------------------------------------------------------

    @asynccontextmanager
    async def rolled_back(self) -> AsyncIterator[None]:
        """Redis is replaced by a replica which lacks what inboxes were given last."""
        redis = self._cluster.redis
        copied = redis.copy(*INBOX_KEYS)
        await asyncio.sleep(self._rng.uniform(1.0, 10.0))
        if redis.host.dead:
            yield
            return
        redis.stop(keep_data=True)
        redis.put_back(copied, *INBOX_KEYS)
        self._cluster.inboxes.lost()
        redis.start()
        self._cluster.inboxes.restarted()
        yield

    @asynccontextmanager
    async def inbox_evicted(self) -> AsyncIterator[None]:
        """Redis drops one of the two keys of an inbox, or both."""
        user = self._rng.choice(self._cluster.offer.users)
        kinds = self._rng.choice((("inbox",), ("inboxmeta",), ("inbox", "inboxmeta")))
        if self._redis_answers():
            self._cluster.inboxes.lost(user)
        async with self.told("DEL", *(KEYSPACE.key(kind, user) for kind in kinds)):
            yield

    @asynccontextmanager
    async def hints_lost(self) -> AsyncIterator[None]:
        """No gateway hears that something was stored; all else is published."""
        redis = self._cluster.redis
        redis.loses_hints = True
        yield
        redis.loses_hints = False

    @asynccontextmanager
    async def slow_application(self, route: tuple[str, str]) -> AsyncIterator[None]:
        """An application takes nothing for a while; its client goes on."""
        user = self._cluster.users.user_of(route[0])
        slow = [one for one in self._cluster.users.devices(user) if one.host.name == route[0]]
        for device in slow:
            device.is_slow = True
        yield
        for device in slow:
            device.is_slow = False

    @asynccontextmanager
    async def killed_before_ack(self, route: tuple[str, str]) -> AsyncIterator[None]:
        """Processes of a user are killed between the reading of the inbox and the
        acknowledgement; a new one comes at once.
        """
        user = self._cluster.users.user_of(route[0])
        self._to_kill.add(user)
        yield
        self._to_kill.discard(user)

    def _kill_soon(self, user: str) -> None:
        self._to_kill.discard(user)
        delay_s = self._rng.choice((0.0005, 0.002, 0.5)) * self._rng.random()
        self._cluster.loop.call_later(delay_s, self._kill, user)

    def _kill(self, user: str) -> None:
        for device in list(self._cluster.users.living(user)):
            self._cluster.users.kill(device)
            self._cluster.users.log_in(user)

    def _on_script(self, name: str, fields: Fields) -> None:
        if name in READS and user_of_script(name, fields) in self._to_kill:
            self._kill_soon(user_of_script(name, fields))
        if self._cutting:
            self._cut_off(name, fields)
        self._duplicate(name, fields)

    def _cut_off(self, name: str, fields: Fields) -> None:
        """End the connections of a user now: its gateway notices it while Redis answers."""
        user = user_of_script(name, fields)
        how = self._cutting.get(user)
        if how is not None and self._rng.random() < 0.3:
            for device in self._cluster.users.devices(user):
                for connection in self._network.connections(device.host.name):
                    how(connection)

    def _duplicate(self, name: str, fields: Fields) -> None:
        if self._duplicating and name in DUPLICATED and self._rng.random() < 0.5:
            late_s = self._rng.choice((0.01, 1.0, 30.0)) * self._rng.random()
            self._later.add(self._cluster.loop.call_later(late_s, self._again, fields))

    def _again(self, fields: Fields) -> None:
        if self._redis_answers():
            self._cluster.redis.repeat(fields)


FAULTS: Final[dict[str, Callable[[FaultInjector], Injection]]] = {
    "client delay": lambda n: n.at_client(n.delayed),
    "client hold": lambda n: n.at_client(n.held),
    "client drop": lambda n: n.at_client(n.dropped),
    "client cut": lambda n: n.at_client(n.cut),
    "client reset": lambda n: n.at_client(n.reset),
    "client half-close": lambda n: n.at_client(n.half_closed),
    "client freeze": lambda n: n.at_client(lambda route: n.frozen(route[0])),
    "redis delay": lambda n: Injection(n.delayed(n.redis_route())),
    "redis hold": lambda n: Injection(n.held(n.redis_route())),
    "redis drop": lambda n: Injection(n.dropped(n.redis_route())),
    "redis cut": lambda n: Injection(n.cut(n.redis_route())),
    "redis link hold": lambda n: Injection(n.one_held()),
    "redis link drop": lambda n: Injection(n.one_dropped()),
    "swizzle-clog": lambda n: Injection(n.swizzled()),
    "gateway crash, back at once": lambda n: Injection(n.crashed(back_at_once=True)),
    "gateway crash, back later": lambda n: Injection(n.crashed(back_at_once=False)),
    "gateway drain": lambda n: Injection(n.drained()),
    "gateway freeze": lambda n: Injection(n.frozen(n.any_gateway())),
    "gateway clock jump": lambda n: Injection(n.clock_jump(), ()),
    "redis restart, data kept": lambda n: Injection(n.redis_gone(keep_data=True)),
    "redis restart, data lost": lambda n: Injection(n.redis_gone(keep_data=False)),
    "redis pause": lambda n: Injection(n.frozen(REDIS_HOST)),
    "redis flushall": lambda n: Injection(n.told("FLUSHALL")),
    "redis script flush": lambda n: Injection(n.told("SCRIPT", "FLUSH"), ()),
    "redis entry deleted": lambda n: Injection(n.entry_deleted()),
    "redis kill pubsub": lambda n: Injection(n.hung_up(subscribers=True)),
    "redis kill normal": lambda n: Injection(n.hung_up(subscribers=False)),
    "duplicates": lambda n: Injection(n.duplicated()),
}
"""Every fault of a cluster without features, by its name."""

DURABLE_FAULTS: Final[dict[str, Callable[[FaultInjector], Injection]]] = {
    "redis failover, inboxes rolled back": lambda n: Injection(n.rolled_back()),
    "inbox evicted": lambda n: Injection(n.inbox_evicted(), ()),
    "hints lost": lambda n: Injection(n.hints_lost(), ()),
    "slow application": lambda n: n.at_client(n.slow_application),
    "client killed before ack": lambda n: n.at_client(n.killed_before_ack),
}
"""Faults that concern durable messages only."""
BREAK_TRUST: Final = frozenset({"redis failover, inboxes rolled back"})
"""Faults after which Redis has not kept what it had confirmed, and nothing shows it."""
ROOM_FAULTS: Final[dict[str, Callable[[FaultInjector], Injection]]] = {
    "gateway crash, with a full room": lambda n: Injection(n.fullest_crashed()),
}
"""Faults that concern rooms most."""
ALL_FAULTS: Final = FAULTS | DURABLE_FAULTS | ROOM_FAULTS


def faults_of(offer: Offer) -> tuple[str, ...]:
    """Return the names of the faults of a cluster."""
    durable = DURABLE_FAULTS if offer.durable else {}
    return tuple(FAULTS | durable | (ROOM_FAULTS if offer.rooms else {}))

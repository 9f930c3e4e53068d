"""What goes wrong, when, and how is it mended?

Faults are drawn from the seed, at most two at a time. Each begins, lasts a while and ends; `heal`
ends all of them. Whatever a fault did to a connection that TCP could not have undone stays: what
lost bytes is half-open for good, and its ends have to find out.

What is modelled of a frozen host: its callbacks do not run, its kernel goes on accepting
connections and taking bytes; when it goes on, it first sees what was received, then its timers. Not
modelled: buffers that run full while it is frozen, memory and disks, a CPU that is merely slow.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final

from wsdemo.lab.history import Fault, Healed
from wsdemo.lab.simulate.network import BOTH, Direction, Link, Way
from wsdemo.lab.simulate.redis import Fields
from wsdemo.lab.simulate.world import World

AT_ONCE: Final = 2
"""Faults that may be active at the same time."""
LONGEST_S: Final = 45.0
"""How long a fault lasts at most."""
HALF_OPEN: Final = "half-open"
"""The name of what is left of a connection that has lost bytes."""
DUPLICATED: Final = frozenset({"mint", "register", "refresh", "release"})
"""Scripts whose commands may be executed a second time, later."""
WAYS: Final[tuple[tuple[Direction, ...], ...]] = (("up",), ("down",), BOTH)


class Nemesis:
    """The accidents of one world.

    Args:
        seed: of their order, their victims and their length.
    """

    def __init__(self, world: World, seed: int) -> None:
        self._world = world
        self._network = world.network
        self._rng = random.Random(f"{seed}:nemesis")
        self._watching: list[asyncio.Task[None]] = []
        self._duplicating = False
        self._later: set[asyncio.TimerHandle] = set()
        self._routes: set[tuple[str, str]] = set()
        """Between whom something may be held, lost or delayed."""
        world.on_script = self._duplicate

    async def rage(self, seconds: float) -> None:
        """Let things go wrong for a while, then heal."""
        loop = self._world.loop
        ends_at = loop.time() + seconds
        active: list[asyncio.Task[None]] = []
        while (left_s := ends_at - loop.time()) > 0:
            active = [task for task in active if not task.done()]
            if len(active) < AT_ONCE:
                active.append(self._strike(left_s))
            await asyncio.sleep(min(left_s, self._rng.uniform(0.5, 10.0)))
        for task in active:
            await task
        self.heal()

    def _strike(self, left_s: float) -> asyncio.Task[None]:
        name = self._rng.choice(list(FAULTS))
        lasts_s = min(left_s, self._rng.choice((1.0, 5.0, 20.0, LONGEST_S)) * self._rng.random())
        return self._world.loop.create_task(self._suffer(name, lasts_s), name=f"fault {name}")

    async def _suffer(self, name: str, lasts_s: float) -> None:
        self._world.note(Fault, name=name, begins=True)
        async with FAULTS[name](self):
            await asyncio.sleep(lasts_s)
        self._world.note(Fault, name=name, begins=False)

    def _left_half_open(self, links: list[Link]) -> None:
        """Bytes of these connections were lost: the fault lasts until both ends have found out."""
        if links:
            self._world.note(Fault, name=HALF_OPEN, begins=True)
            watching = self._world.loop.create_task(self._until_gone(links), name="half-open")
            self._watching = [*(task for task in self._watching if not task.done()), watching]

    async def _until_gone(self, links: list[Link]) -> None:
        while any(map(self._is_there, links)):  # noqa: ASYNC110 - virtual time is cheap
            await asyncio.sleep(1.0)
        self._world.note(Fault, name=HALF_OPEN, begins=False)

    def _is_there(self, link: Link) -> bool:
        # Redis itself never finds out: it may be the only one that still has the connection.
        finds_out = link.target is not self._world.redis.host
        return not link.near.dead or (finds_out and not link.far.dead)

    def stop(self) -> None:
        """Watch no longer."""
        for task in self._watching:
            task.cancel()

    def heal(self) -> None:
        """Nothing is held, frozen or delayed any more; everybody is there who should be."""
        for caller, target in sorted(self._routes):
            self._network.heal(caller, target)
        self._routes.clear()
        self._world.note(Healed)

    # --- victims -----------------------------------------------------------------------------

    def _gateway(self) -> str:
        """Return a gateway that is up; all of them may be about to start."""
        return self._rng.choice(self._world.names)

    def _device(self) -> str:
        """Return the host of a device, or '' when nobody is there."""
        devices = [d for ds in self._world.devices.values() for d in ds if not d.ended]
        return self._rng.choice(devices).host.name if devices else ""

    def _client_route(self) -> tuple[str, str]:
        return self._device(), self._gateway()

    def _redis_route(self) -> tuple[str, str]:
        return self._gateway(), "redis"

    def _redis_answers(self) -> bool:
        return not self._world.redis.host.stands_still

    def _ways_to_redis(self) -> list[Way]:
        """Return one or both directions of one connection of one gateway, if it has any."""
        links = list(self._network.links(self._gateway(), "redis"))
        if not links:
            return []
        link = self._rng.choice(links)
        return [link.ways[way] for way in self._rng.choice(WAYS)]

    # --- wires -------------------------------------------------------------------------------

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
        self._left_half_open(list(self._network.links(*route)))
        yield
        self._network.heal(*route)

    @asynccontextmanager
    async def cut(self, route: tuple[str, str]) -> AsyncIterator[None]:
        """The connections break; new ones work."""
        self._network.cut(*route)
        yield

    @asynccontextmanager
    async def one_held(self) -> AsyncIterator[None]:
        """One of a gateway's two connections to Redis is held, the other one is not."""
        ways = self._ways_to_redis()
        for way in ways:
            way.hold()
        yield
        for way in ways:
            way.heal()

    @asynccontextmanager
    async def one_dropped(self) -> AsyncIterator[None]:
        """One of a gateway's two connections to Redis is half-open from now on."""
        ways = self._ways_to_redis()
        for way in ways:
            way.lose()
        self._left_half_open([way.sender.link for way in ways[:1]])
        yield

    @asynccontextmanager
    async def swizzled(self) -> AsyncIterator[None]:
        """Gateways lose Redis one by one, and find it again in another order."""
        await self._one_by_one(self._network.hold)
        yield
        await self._one_by_one(self._network.heal)

    async def _one_by_one(self, treat: Callable[[str, str], None]) -> None:
        names = list(self._world.names)
        self._rng.shuffle(names)
        for name in names:
            self._routes.add((name, "redis"))
            treat(name, "redis")
            await asyncio.sleep(self._rng.uniform(0.1, 4.0))

    # --- hosts -------------------------------------------------------------------------------

    @asynccontextmanager
    async def crashed(self, back_at_once: bool) -> AsyncIterator[None]:
        """A gateway dies, and is started again under the same id."""
        name = self._gateway()
        alive = self._world.serves(name)
        if alive:
            self._world.crash(name)
        if alive and back_at_once:
            self._world.start_gateway(name)
        yield
        if alive and not back_at_once:
            self._world.start_gateway(name)

    @asynccontextmanager
    async def drained(self) -> AsyncIterator[None]:
        """A gateway is told to stop, and started again."""
        name = self._gateway()
        ready = self._world.serves(name)
        if ready:
            await self._world.drain(name)
        yield
        if ready:
            self._world.start_gateway(name)

    @asynccontextmanager
    async def frozen(self, name: str) -> AsyncIterator[None]:
        """A host stands still."""
        host = self._network.hosts.get(name)
        if host is not None:
            host.freeze()
        yield
        if host is not None:
            host.thaw()

    @asynccontextmanager
    async def clock_jump(self) -> AsyncIterator[None]:
        """The time of day of a gateway is wrong by up to an hour; nobody should notice."""
        host = self._network.hosts[self._gateway()]
        host.wall.error_s = self._rng.uniform(-3600.0, 3600.0)
        yield
        host.wall.error_s = 0.0

    # --- Redis -------------------------------------------------------------------------------

    @asynccontextmanager
    async def redis_gone(self, keep_data: bool) -> AsyncIterator[None]:
        """Redis dies, and comes back with what it had, or with nothing."""
        world = self._world
        if world.redis.host.dead:
            yield
            return
        world.redis.stop(keep_data)
        if not keep_data:
            world.redis_forgot()
        yield
        world.redis.start()

    @asynccontextmanager
    async def told(self, *command: str) -> AsyncIterator[None]:
        """Somebody gives Redis a command by hand."""
        if self._redis_answers():
            self._world.redis.execute(*command)
        yield

    @asynccontextmanager
    async def entry_deleted(self) -> AsyncIterator[None]:
        """Somebody deletes the entry of one user."""
        user = self._rng.choice(list(self._world.devices))
        async with self.told("DEL", f"presence:{user}"):
            yield

    @asynccontextmanager
    async def hung_up(self, listeners: bool) -> AsyncIterator[None]:
        """Redis ends connections: CLIENT KILL TYPE pubsub, or TYPE normal."""
        if self._redis_answers():
            self._world.redis.hang_up(listeners)
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

    def _duplicate(self, name: str, fields: Fields) -> None:
        if self._duplicating and name in DUPLICATED and self._rng.random() < 0.5:
            late_s = self._rng.choice((0.01, 1.0, 30.0)) * self._rng.random()
            self._later.add(self._world.loop.call_later(late_s, self._again, fields))

    def _again(self, fields: Fields) -> None:
        if self._redis_answers():
            self._world.redis.repeat(fields)


FAULTS: Final[dict[str, Callable[[Nemesis], AbstractAsyncContextManager[None]]]] = {
    "client delay": lambda n: n.delayed(n._client_route()),
    "client hold": lambda n: n.held(n._client_route()),
    "client drop": lambda n: n.dropped(n._client_route()),
    "client cut": lambda n: n.cut(n._client_route()),
    "client freeze": lambda n: n.frozen(n._device()),
    "redis delay": lambda n: n.delayed(n._redis_route()),
    "redis hold": lambda n: n.held(n._redis_route()),
    "redis drop": lambda n: n.dropped(n._redis_route()),
    "redis cut": lambda n: n.cut(n._redis_route()),
    "redis link hold": lambda n: n.one_held(),
    "redis link drop": lambda n: n.one_dropped(),
    "swizzle-clog": lambda n: n.swizzled(),
    "gateway crash, back at once": lambda n: n.crashed(back_at_once=True),
    "gateway crash, back later": lambda n: n.crashed(back_at_once=False),
    "gateway drain": lambda n: n.drained(),
    "gateway freeze": lambda n: n.frozen(n._gateway()),
    "gateway clock jump": lambda n: n.clock_jump(),
    "redis restart, data kept": lambda n: n.redis_gone(keep_data=True),
    "redis restart, data lost": lambda n: n.redis_gone(keep_data=False),
    "redis pause": lambda n: n.frozen("redis"),
    "redis flushall": lambda n: n.told("FLUSHALL"),
    "redis script flush": lambda n: n.told("SCRIPT", "FLUSH"),
    "redis entry deleted": lambda n: n.entry_deleted(),
    "redis kill pubsub": lambda n: n.hung_up(listeners=True),
    "redis kill normal": lambda n: n.hung_up(listeners=False),
    "duplicates": lambda n: n.duplicated(),
}
"""Every fault by its name."""

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
from typing import Final, NamedTuple

from wsdemo.proof.history import Fault, Healed
from wsdemo.proof.simulate.network import BOTH, Direction, Link, Way
from wsdemo.proof.simulate.redis import Fields
from wsdemo.proof.simulate.world import World

AT_ONCE: Final = 2
"""Faults that may be active at the same time."""
LONGEST_S: Final = 45.0
"""How long a fault lasts at most."""
DUPLICATED: Final = frozenset({"mint", "register", "refresh", "release"})
"""Scripts whose commands may be executed a second time, later."""
WAYS: Final[tuple[tuple[Direction, ...], ...]] = (("up",), ("down",), BOTH)


class Accident(NamedTuple):
    """What happens, from its begin to its end, and whom it may touch (None: everybody)."""

    happens: AbstractAsyncContextManager[None]
    where: tuple[str, ...] | None = None


class Nemesis:
    """The accidents of one world.

    Args:
        seed: of their order, their victims and their length.
    """

    def __init__(self, world: World, seed: int) -> None:
        self._world = world
        self._network = world.network
        self._rng = random.Random(f"{seed}:nemesis")
        self._duplicating = False
        self._cutting: dict[str, Callable[[Link], None]] = {}
        """Whose connections end when a script has been executed for them, and how."""
        self._later: set[asyncio.TimerHandle] = set()
        self._routes: set[tuple[str, str]] = set()
        """Between whom something may be held, lost or delayed."""
        world.on_script = self._on_script

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
        happens, where = FAULTS[name](self)
        self._world.note(Fault, name=name, begins=True, where=where)
        async with happens:
            await asyncio.sleep(lasts_s)
        self._world.note(Fault, name=name, begins=False, where=where)

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

    def _at_client(
        self, accident: Callable[[tuple[str, str]], AbstractAsyncContextManager[None]]
    ) -> Accident:
        """Return an accident between a device and a gateway: whom else does it concern?"""
        devices = [d for ds in self._world.devices.values() for d in ds if not d.ended]
        if not devices:
            return Accident(accident(("", self._gateway())), ())
        device = self._rng.choice(devices)
        return Accident(accident((device.host.name, self._gateway())), (device.user,))

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
        user = self._world.user_of(route[0])
        self._world.left_half_open(list(self._network.links(*route)), (user,) if user else None)
        yield
        self._network.heal(*route)

    @asynccontextmanager
    async def cut(self, route: tuple[str, str]) -> AsyncIterator[None]:
        """The connections break; new ones work."""
        self._network.cut(*route)
        yield

    @asynccontextmanager
    async def cut_off(
        self, route: tuple[str, str], how: Callable[[Link], None]
    ) -> AsyncIterator[None]:
        """The connections of a user end whenever an answer of Redis to its gateway is under way."""
        user = self._world.user_of(route[0])
        self._cutting[user] = how
        yield
        self._cutting.pop(user, None)

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
        self._world.left_half_open([way.sender.link for way in ways[:1]])
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

    def _on_script(self, name: str, fields: Fields) -> None:
        if self._cutting:
            self._cut_off(name, fields)
        self._duplicate(name, fields)

    def _cut_off(self, name: str, fields: Fields) -> None:
        """Let a client go just now: its gateway will hear of it while it reads Redis' answer."""
        user = self._world.asks(name, fields)
        how = self._cutting.get(user)
        if how is not None and self._rng.random() < 0.3:
            for device in self._world.devices[user]:
                for link in self._network.links(device.host.name):
                    how(link)

    def _duplicate(self, name: str, fields: Fields) -> None:
        if self._duplicating and name in DUPLICATED and self._rng.random() < 0.5:
            late_s = self._rng.choice((0.01, 1.0, 30.0)) * self._rng.random()
            self._later.add(self._world.loop.call_later(late_s, self._again, fields))

    def _again(self, fields: Fields) -> None:
        if self._redis_answers():
            self._world.redis.repeat(fields)


FAULTS: Final[dict[str, Callable[[Nemesis], Accident]]] = {
    "client delay": lambda n: n._at_client(n.delayed),
    "client hold": lambda n: n._at_client(n.held),
    "client drop": lambda n: n._at_client(n.dropped),
    "client cut": lambda n: n._at_client(n.cut),
    "client reset": lambda n: n._at_client(lambda route: n.cut_off(route, Link.reset)),
    "client half-close": lambda n: n._at_client(lambda route: n.cut_off(route, Link.half_close)),
    "client freeze": lambda n: n._at_client(lambda route: n.frozen(route[0])),
    "redis delay": lambda n: Accident(n.delayed(n._redis_route())),
    "redis hold": lambda n: Accident(n.held(n._redis_route())),
    "redis drop": lambda n: Accident(n.dropped(n._redis_route())),
    "redis cut": lambda n: Accident(n.cut(n._redis_route())),
    "redis link hold": lambda n: Accident(n.one_held()),
    "redis link drop": lambda n: Accident(n.one_dropped()),
    "swizzle-clog": lambda n: Accident(n.swizzled()),
    "gateway crash, back at once": lambda n: Accident(n.crashed(back_at_once=True)),
    "gateway crash, back later": lambda n: Accident(n.crashed(back_at_once=False)),
    "gateway drain": lambda n: Accident(n.drained()),
    "gateway freeze": lambda n: Accident(n.frozen(n._gateway())),
    "gateway clock jump": lambda n: Accident(n.clock_jump(), ()),
    "redis restart, data kept": lambda n: Accident(n.redis_gone(keep_data=True)),
    "redis restart, data lost": lambda n: Accident(n.redis_gone(keep_data=False)),
    "redis pause": lambda n: Accident(n.frozen("redis")),
    "redis flushall": lambda n: Accident(n.told("FLUSHALL")),
    "redis script flush": lambda n: Accident(n.told("SCRIPT", "FLUSH"), ()),
    "redis entry deleted": lambda n: Accident(n.entry_deleted()),
    "redis kill pubsub": lambda n: Accident(n.hung_up(listeners=True)),
    "redis kill normal": lambda n: Accident(n.hung_up(listeners=False)),
    "duplicates": lambda n: Accident(n.duplicated()),
}
"""Every fault by its name."""

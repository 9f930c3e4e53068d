"""Balanced users: how do users of a lab come through a balancer, and how are they sent away again?

The balancer is `wsdemo.rig.balancer`: one more TCP relay, with real connections through it to the
real gateways of the lab.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final, NamedTuple

from wsdemo.client import Client, State
from wsdemo.lab.lab import Lab
from wsdemo.rig.balancer import Balancer, imbalance
from wsdemo.rig.nginx import Nginx
from wsdemo.rig.pages import http_get
from wsdemo.rig.waiting import wait_until

AT_A_TIME: Final = 50
"""So many users connect at the same time."""
SETTLED_S: Final = 20.0
"""Wall seconds: within so many, everybody has a connection again."""
API_TIMEOUT_S: Final = 5.0
UNKNOWN_S: Final = 3.0
"""What Redis did not answer for in time is executed within two seconds, or never."""
COMES_BACK: Final = 1012
"""The close code after which a client dials again; the server API's other one says: stay away."""


class LoadMoment(NamedTuple):
    """How many users each gateway had, from this moment on (production seconds)."""

    t: float
    counts: dict[str, int]

    @property
    def imbalance(self) -> float:
        """The fullest gateway, divided by the mean of all."""
        return imbalance(self.counts)


class LoadMark(NamedTuple):
    """Something that was done, and when (production seconds)."""

    t: float
    words: str


class Crossing(NamedTuple):
    """Of so many messages, so many went to a user at another gateway."""

    gateways: int
    messages: int
    crossed: int

    @property
    def share(self) -> float:
        return self.crossed / self.messages


class BehindBalancer:
    """A balancer before some gateways of a lab, and the users who come through it.

    Args:
        lab: its gateways are behind the balancer.
        gateways: which of them at first; by default all that run.
        rule: "round robin", "random", "least connections" or "power of two".
        check_every_s: how often the balancer asks each gateway for `/ready` (production seconds);
            by default never.
    """

    def __init__(
        self,
        lab: Lab,
        gateways: Sequence[str] | None = None,
        *,
        rule: str = "least connections",
        check_every_s: float | None = None,
    ) -> None:
        self._lab = lab
        hosts = lab.cluster.hosts
        self._every_s = None if check_every_s is None else check_every_s / lab.scale
        ports = {name: hosts[name].port for name in gateways or hosts}
        self.marks: list[LoadMark] = []
        """What was done, and when (production seconds)."""
        self.users: dict[str, Client] = {}
        self._came = 0
        self._rng = random.Random(lab.cluster.seed)
        self.balancer: Balancer = lab.loop.run(self._start(ports, rule))
        self._began = time.monotonic()

    async def _start(self, ports: Mapping[str, int], rule: str) -> Balancer:
        seed = self._lab.cluster.seed
        balancer = Balancer(ports, rule=rule, seed=seed, check_every_s=self._every_s)
        self._lab.cluster.at_stop(balancer.stop)
        return await balancer.start()

    # --- what is done ------------------------------------------------------------------------

    def follow(self, rule: str, *, old_news: bool = False) -> None:
        """Let the balancer pick by another rule from now on.

        Args:
            old_news: it goes by the numbers of this moment from now on, and hears no others.
        """

        def act() -> None:
            self.balancer.follow(rule)
            if old_news:
                self.balancer.hear()
            else:
                self.balancer.see()

        self._lab.loop.call(act)

    def add(self, gateway: str) -> None:
        """Let the balancer send users to one more gateway of the lab, which runs."""
        port = self._lab.cluster.host(gateway).port
        self._lab.loop.call(lambda: self.balancer.add(gateway, port))

    def mark(self, words: str) -> None:
        """Write down that something is done now, for the figures."""
        self.marks.append(LoadMark(self._now(), words))

    def come(self, users: int) -> list[str]:
        """Let so many users connect through the balancer; return their names."""
        names = [f"guest{self._came + n:04}" for n in range(1, users + 1)]
        self._came += users
        self._lab.loop.run(self._connect(names), SETTLED_S + users / 20)
        return names

    async def _connect(self, names: Iterable[str]) -> None:
        turn = asyncio.Semaphore(AT_A_TIME)

        async def come(name: str) -> None:
            async with turn:
                self.users[name] = await self._dial(name)

        await asyncio.gather(*map(come, names))

    async def _dial(self, name: str) -> Client:
        url = f"ws://127.0.0.1:{self.balancer.port}/ws"
        return await self._lab.cluster.population.connect(name, [url], 0.0)

    def try_to_come(self, users: int, seconds: float) -> int:
        """Let so many users try to connect for so many production seconds; return how many are in.

        Those who are not in by then give up.
        """
        names = [f"guest{self._came + n:04}" for n in range(1, users + 1)]
        self._came += users
        wall_s = seconds / self._lab.scale
        return self._lab.loop.run(self._try(names, wall_s), wall_s + SETTLED_S)

    async def _try(self, names: Sequence[str], wall_s: float) -> int:
        tries = {name: asyncio.create_task(self._dial(name), name=name) for name in names}
        await asyncio.wait(tries.values(), timeout=wall_s)
        for task in tries.values():
            task.cancel()
        await asyncio.wait(tries.values())
        came = {n: t.result() for n, t in tries.items() if not (t.cancelled() or t.exception())}
        self.users |= came
        return len(came)

    def leave(self, names: Iterable[str]) -> None:
        """Let users say goodbye, and wait until the balancer has seen it."""
        self._lab.loop.run(self._disconnect(list(names)))

    async def _disconnect(self, names: Sequence[str]) -> None:
        population = self._lab.cluster.population
        for name in names:
            del self.users[name]
        await asyncio.gather(*map(population.disconnect, names))
        await wait_until("they have left", lambda: self._open == len(self.users), SETTLED_S)

    def send_away(self, plan: Mapping[str, int]) -> None:
        """Disconnect so many users of each gateway by the server API, with the code that lets their
        clients dial again; wait until all are back. The lab needs `Lab(api=True)`.
        """
        before = self.forced_moves
        for gateway, users in plan.items():
            at = [name for name, client in self.users.items() if client.gateway_id == gateway]
            for name in at[:users]:
                self._disconnect_by_api(gateway, name)
        self._wait_until_back(before + sum(plan.values()))

    def _disconnect_by_api(self, gateway: str, name: str) -> None:
        """Have a user disconnected. When Redis does not answer in time, nobody knows whether that
        was done: then it is asked for again only if the user has stayed.
        """
        client = self.users[name]
        before, ends_at = client.attempts, time.monotonic() + SETTLED_S
        while client.attempts == before:
            try:
                return self._ask_to_disconnect(gateway, name)
            except urllib.error.HTTPError as problem:
                if problem.code != HTTPStatus.SERVICE_UNAVAILABLE or time.monotonic() > ends_at:
                    raise
            with contextlib.suppress(TimeoutError):
                self._lab.wait_until("left", lambda: client.attempts > before, UNKNOWN_S)
        return None

    def _ask_to_disconnect(self, gateway: str, name: str) -> None:
        request = urllib.request.Request(
            f"{self._lab.api_url(gateway)}/api/disconnect",
            json.dumps({"user": name, "code": COMES_BACK}).encode(),
            {
                "Authorization": f"Bearer {self._lab.api_key}",
                "Content-Type": "application/json",
            },
        )
        # Not by a proxy that the environment names: this is loopback.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=API_TIMEOUT_S) as answer:
            answer.read()

    def restart(self, gateway: str) -> None:
        """Drain a gateway, wait until its users are elsewhere, and start it again."""
        before, leaving = self.forced_moves, self.counts[gateway]
        self.mark(f"restart {gateway[-2:]}")
        self._lab.drain(gateway)
        self._wait_until_back(before + leaving)
        self._lab.start_gateway(gateway)
        self.add(gateway)

    def _wait_until_back(self, moves: int) -> None:
        """Wait until there were so many forced moves in all, and everybody has a connection."""

        def are_back() -> bool:
            here = all(client.state is State.REGISTERED for client in self.users.values())
            return here and self.forced_moves >= moves and self._open == len(self.users)

        self._lab.wait_until("everybody has a connection again", are_back, SETTLED_S)

    # --- what is seen ------------------------------------------------------------------------

    def _now(self) -> float:
        return (time.monotonic() - self._began) * self._lab.scale

    @property
    def _open(self) -> int:
        return sum(self.balancer.counts.values())

    @property
    def counts(self) -> dict[str, int]:
        """How many users each gateway has."""
        return self._lab.loop.call(lambda: self.balancer.counts)

    @property
    def imbalance(self) -> float:
        """The fullest gateway, divided by the mean of all."""
        return imbalance(self.counts)

    def share(self, gateway: str) -> float:
        """Return which part of all users a gateway has."""
        counts = self.counts
        return counts[gateway] / sum(counts.values())

    @property
    def forced_moves(self) -> int:
        """How often users had to dial once more, all in all."""
        return sum(client.attempts - 1 for client in self.users.values())

    @property
    def most_moves(self) -> int:
        """How often the unluckiest user had to dial once more."""
        return max(client.attempts - 1 for client in self.users.values())

    @property
    def history(self) -> list[LoadMoment]:
        """Every change of the numbers of users, and how it is now (production seconds)."""
        scale, began = self._lab.scale, self._began
        loads = self._lab.loop.call(lambda: list(self.balancer.history))
        past = [LoadMoment(max(0.0, (one.t - began) * scale), one.counts) for one in loads]
        return [*past, LoadMoment(self._now(), self.counts)]

    def talk(self, messages: int) -> Crossing:
        """Let users send messages to others by chance; return how many crossed gateways, as the
        gateways themselves have counted it.
        """
        before = self._routes()
        self._lab.loop.run(self._talk(messages))
        local, crossed = (now - then for now, then in zip(self._routes(), before, strict=True))
        full = sum(users > 0 for users in self.counts.values())
        return Crossing(full, local + crossed, crossed)

    async def _talk(self, messages: int) -> None:
        clients = list(self.users.values())
        pairs = [self._rng.sample(clients, 2) for _ in range(messages)]
        await asyncio.gather(*(one.send(other.user, "hello") for one, other in pairs))

    def _routes(self) -> tuple[int, int]:
        counters: list[dict[str, Any]] = [
            self._lab.stats(name)["counters"] for name in self._lab.cluster.hosts
        ]
        local = sum(one["routes_local"] for one in counters)
        return local, sum(one["routes_routed"] for one in counters)


# --- the experiments ---------------------------------------------------------------------------


def surplus(counts: Mapping[str, int]) -> dict[str, int]:
    """Return how many users each gateway has above the mean."""
    mean = sum(counts.values()) / len(counts)
    return {name: int(users - mean) for name, users in counts.items() if users > mean}


def scale_out(crowd: BehindBalancer, rule: str, users: int, *, old_news: bool) -> float:
    """Let so many users come by a rule; return the fullest gateway divided by the mean.

    They leave again, so the next rule begins with the same.

    Args:
        old_news: the balancer goes by the numbers from before they came.
    """
    crowd.follow(rule, old_news=old_news)
    names = crowd.come(users)
    ratio = crowd.imbalance
    crowd.leave(names)
    return ratio


class BrokenGateway(NamedTuple):
    """What became of newcomers beside a gateway that fails fast."""

    came: int
    """So many are in."""
    attempts: int
    """So often the balancer had to pick for them."""
    attracted: float
    """This share of the attempts went to the broken gateway."""


def broken_gateway(lab: Lab, check_every_s: float | None, users: int = 20) -> BrokenGateway:
    """Let users come while gateway-03 cannot reach Redis, and is empty. The lab needs wires.

    Args:
        check_every_s: how often the balancer asks for `/ready` (production seconds); None: never.
    """
    crowd = BehindBalancer(lab, ["gateway-01", "gateway-02"], check_every_s=check_every_s)
    crowd.come(users)
    wire = lab.wire("gateway-03", "redis")
    wire.drop()
    wire.cut()
    lab.wait_until("gateway-03 has lost Redis", lambda: not _is_ready(lab, "gateway-03"))
    crowd.add("gateway-03")
    if check_every_s is not None:
        lab.let_pass(2 * check_every_s)
    before = len(crowd.balancer.picked)
    came = crowd.try_to_come(users, 30)
    picked = crowd.balancer.picked[before:]
    wire.release()
    return BrokenGateway(came, len(picked), picked.count("gateway-03") / len(picked))


def _is_ready(lab: Lab, gateway: str) -> bool:
    port = lab.cluster.host(gateway).port
    status, _ = lab.loop.run(http_get(port, "/ready"))
    return status == 200


def crossing_by_gateways(lab: Lab, sizes: Iterable[int], users: int = 60) -> list[Crossing]:
    """Let users talk who are spread over the first 1, 2, ... gateways of a lab."""
    out = []
    for gateways in sizes:
        crowd = BehindBalancer(lab, lab.cluster.names[:gateways])
        names = crowd.come(users)
        out.append(crowd.talk(10 * users))
        crowd.leave(names)
    return out


def through_nginx(lab: Lab, users: int, newcomers: int) -> tuple[dict[str, int], dict[str, int]]:
    """Let users come through nginx to all gateways but the last, then reload it with all of them,
    and let newcomers come.

    Returns:
        How many users each gateway has before the newcomers, and after them.
    """
    *old, added = (host.port for host in lab.cluster.hosts.values())
    with Nginx(old) as nginx:
        url = f"ws://127.0.0.1:{nginx.port}/ws"
        lab.loop.run(_connect_to(lab, url, [f"early{n:03}" for n in range(users)]))
        before = connections(lab)
        nginx.reload([*old, added])
        lab.loop.run(_connect_to(lab, url, [f"late{n:03}" for n in range(newcomers)]))
        return before, connections(lab)


async def _connect_to(lab: Lab, url: str, names: Iterable[str]) -> None:
    for name in names:
        await lab.cluster.population.connect(name, [url], 0.0)


def connections(lab: Lab) -> dict[str, int]:
    """Return how many users each gateway itself says that it has."""
    return {name: int(lab.stats(name)["connections"]) for name in lab.cluster.hosts}

"""Who lives in the simulated cluster, what do they do, and what is written down of it?

Gateways and clients are the product's own, unchanged: each gateway and each device of a user is on
a host of its own. Users talk, move, leave with or without a goodbye, come back, and log in a second
time. Everything that the checks of `wsdemo.proof.history` want to know becomes a record.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from wsdemo.client import Client
from wsdemo.client.connection import ClientClosed, ConnectFailed
from wsdemo.client.connection import State as ClientState
from wsdemo.events import Event, Kind
from wsdemo.gateway.listening import BoundAddress
from wsdemo.gateway.server import Gateway
from wsdemo.gateway.session import SessionState
from wsdemo.presence import Presence, RedisPresence
from wsdemo.presence.store import SCRIPTS
from wsdemo.proof.history import (
    Closed,
    Counted,
    Fault,
    Forgotten,
    Happened,
    Left,
    Looked,
    Owner,
    Phase,
    Pinged,
    Ponged,
    Received,
    Record,
    Registered,
    Released,
    Sent,
    Violation,
)
from wsdemo.proof.simulate.hosts import Host, Loop
from wsdemo.proof.simulate.network import Link, Network
from wsdemo.proof.simulate.redis import Fields, MemoryRedis
from wsdemo.protocol import BadEnvelope, Code, Direct, Status, decode_envelope
from wsdemo.redis.connection import RedisUnavailable
from wsdemo.redis.link import RedisLink
from wsdemo.rig.policies.go_demo import SeedPresence
from wsdemo.router import ROUTE, DuplicateGateway
from wsdemo.settings import GatewaySettings, Keyspace

PORT: Final = 8080
USERS: Final = ("alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi")
PATIENCE_S: Final = 1e6
"""A device tries to be connected until it is told to stop."""
START_AGAIN_S: Final = 1.0
"""How long a gateway that could not start waits before it tries again."""

HALF_OPEN: Final = "half-open"
"""The name of what is left of a connection that has lost bytes."""
POLICIES: Final = ("fenced", "seed")
_FINE: Final = frozenset({Code.NORMAL, Code.REPLACED})
"""Close codes after which a client may give up; any other end for good is a bug of somebody."""

_SCRIPT_OF: Final = {script.sha.encode(): script.name for script in (*SCRIPTS, ROUTE)}
_SCRIPT_OF_TEXT: Final = {script.text.encode(): script.name for script in (*SCRIPTS, ROUTE)}
_PHASES: Final = defaultdict(
    lambda: Phase.FAIL, {Status.ROUTED: Phase.OK, Status.UNKNOWN: Phase.UNKNOWN}
)


@dataclass(slots=True, eq=False)
class Server:
    """A gateway and its machine."""

    host: Host
    gateway: Gateway
    up: bool = False
    """Whether it has started."""


@dataclass(frozen=True, slots=True)
class _Port:
    """Stands for a socket that is bound on a simulated machine: the network knows the rest."""

    name: tuple[str, int]

    def getsockname(self) -> tuple[str, int]:
        return self.name


async def _bind(settings: GatewaySettings) -> list[BoundAddress]:
    return [BoundAddress([cast(Any, _Port((settings.host, settings.port)))], host=settings.host)]


class Device:
    """One client of a user, on a machine of its own."""

    def __init__(self, world: World, user: str, host: Host) -> None:
        self.user, self.host = user, host
        self._world = world
        urls = [f"ws://{name}:{PORT}/ws" for name in world.names]
        host.rng.shuffle(urls)
        self.client: Client
        host.context.copy().run(self._make, urls)
        self.given_up = False
        """Whether its user has closed it."""
        self._told: set[str] = set()
        """Messages of which a gateway has said something."""
        host.spawn(self._live(), f"device of {user}")

    def _make(self, urls: list[str]) -> None:
        loop = self.host.loop
        self.client = Client(
            self.user,
            urls,
            rng=self.host.rng,
            clock=loop.time,
            emit=self._observe,
            new_id=self.host.new_id,
            time_of_day=self.host.wall.time,
        )

    async def _live(self) -> None:
        try:
            await self.client.start(timeout_s=PATIENCE_S)
            async for _ in self.client:
                pass  # What arrives is recorded as the client observes it.
        except ConnectFailed:
            pass  # Another device was faster; `ended` says so.

    @property
    def ended(self) -> bool:
        """Whether this device is out of the game."""
        return self.given_up or self.host.dead or self.client.state is ClientState.CLOSED

    @property
    def registered(self) -> bool:
        return self.client.state is ClientState.REGISTERED and not self.host.dead

    def _do(self, work: Coroutine[Any, Any, None], what: str) -> None:
        self.host.spawn(work, f"{self.user}: {what}")

    def send(self, to: str) -> None:
        """Send a message; others may be under way."""
        self._do(self._send(to), "send")

    async def _send(self, to: str) -> None:
        receipt = await self.client.send(to, "hello")
        # What a gateway answers is observed; that nobody answered is known only here.
        if receipt.status is Status.UNKNOWN and receipt.id not in self._told:
            self._answer(receipt.id, to, receipt.status, told=False)

    def move(self, gateway: str) -> None:
        """Go to another gateway."""
        self._do(self._move(f"ws://{gateway}:{PORT}/ws"), "move")

    async def _move(self, url: str) -> None:
        self._let_go()
        # When it fails, the client goes on trying, or it is over.
        with contextlib.suppress(TimeoutError, ClientClosed):
            await self.client.move(url)

    def leave(self) -> None:
        """Log out."""
        self.given_up = True
        if self.registered:
            self._let_go()
            # A client that is told to close does not observe it as the end of a connection.
            self._world.note(Closed, user=self.user, conn=self.client.conn_id, code=Code.NORMAL)
        self._do(self.client.close(), "leave")

    def break_off(self) -> None:
        """Lose the connection; the client dials again."""
        self._let_go()
        self.host.loop.call_soon(self.client.abort, context=self.host.context)

    def _let_go(self) -> None:
        """Write down that a session which ends now ends by its user's own doing."""
        if self.client.conn_id and not self.host.dead:
            self._world.note(Left, user=self.user, conn=self.client.conn_id)

    # --- what is seen of it ------------------------------------------------------------------

    def _observe(self, event: Event) -> None:
        if self.host.dead:
            return
        world, user, conn = self._world, self.user, event.conn_id
        match event.kind:
            case Kind.REGISTERED:
                world.note(Registered, user=user, phase=Phase.OK, conn=conn, gateway=event.gateway)
            case Kind.SEND:
                msg_id = f"{user}:{event.msg_id}"
                to = event.peer
                world.note(Sent, user=user, phase=Phase.INVOKE, id=msg_id, to=to, conn=conn)
            case Kind.PING:
                world.note(Pinged, user=user, conn=conn)
            case Kind.PONG:
                world.note(Ponged, user=user, conn=conn)
            case Kind.ACK:
                self._told.add(event.msg_id)
                self._answer(event.msg_id, event.peer, Status(event.reason))
            case Kind.ARRIVE:
                msg_id = f"{event.peer}:{event.msg_id}"
                world.note(Received, user=user, conn=conn, id=msg_id, sender=event.peer)
            case Kind.WS_CLOSE:
                self._closed(conn, event.close_code)
            case _:
                pass

    def _answer(self, msg_id: str, to: str, status: Status, told: bool = True) -> None:
        self._world.note(
            Sent,
            user=self.user,
            phase=_PHASES[status],
            id=f"{self.user}:{msg_id}",
            to=to,
            status=status.value,
            told=told,
        )

    def _closed(self, conn: str, code: int | None) -> None:
        self._world.note(Closed, user=self.user, conn=conn, code=code or 0)


class World:
    """The cluster: `await start()`, then let time pass.

    Args:
        seed: of everything.
        policy: which presence the gateways have: "fenced", or "seed" as in the Go demo.
        mutants: name of a shipped script -> the text that Redis executes in its place.
    """

    def __init__(
        self,
        loop: Loop,
        seed: int,
        *,
        gateways: int = 3,
        policy: str = "fenced",
        mutants: Mapping[str, str] | None = None,
    ) -> None:
        if policy not in POLICIES:
            raise ValueError(f"there is no policy {policy!r}; choose one of {', '.join(POLICIES)}")
        self.loop = loop
        self.policy = policy
        self.network = loop.network = Network(loop, str(seed))
        self.redis = MemoryRedis(self.network, self._heard)
        for script in (*SCRIPTS, ROUTE):
            if script.name in (mutants or {}):
                self.redis.instead[script.text.encode()] = (mutants or {})[script.name].encode()
        self.rng = random.Random(f"{seed}:users")
        self.names = [f"gateway-{n:02}" for n in range(1, gateways + 1)]
        self.servers: dict[str, Server] = {}
        self.devices: dict[str, list[Device]] = {user: [] for user in USERS}
        self.history: list[Record] = []
        self.outcomes: Counter[str] = Counter()
        """What the scripts answered, e.g. "refresh reclaimed"."""
        self.problems: list[Violation] = []
        """What must never happen, and is no matter of the history."""
        self.calm = False
        """Whether users do nothing but talk."""
        self.on_script: Callable[[str, Fields], None] = _ignore
        """Hears of each script that a gateway has had executed: its name, the whole command."""
        self._keyspace = Keyspace()
        self._owners: dict[str, tuple[str, str, int | None, bool]] = {}
        self._made = 0
        self._lives: list[asyncio.Task[None]] = []
        self._watching: set[asyncio.Task[None]] = set()
        loop.set_exception_handler(self._failed)

    # --- life --------------------------------------------------------------------------------

    async def start(self) -> None:
        self.redis.start()
        for name in self.names:
            self.start_gateway(name)
        await asyncio.sleep(START_AGAIN_S)
        for user in USERS:
            rng = random.Random(self.rng.random())
            self._lives.append(self.loop.create_task(self._live(user, rng), name=f"life of {user}"))

    async def stop(self) -> None:
        """Let everybody leave, stop the gateways, and see what is left."""
        watching = [*self._lives, *self._watching]
        for task in watching:
            task.cancel()
        await asyncio.wait(watching)
        await asyncio.sleep(1.0)  # What was said last may arrive.
        for device in self._living():
            device.leave()
        await asyncio.sleep(10.0)
        self._count_what_is_left()
        for server in self.servers.values():
            await server.host.spawn(server.gateway.stop(), "stop")
        await asyncio.sleep(10.0)
        self._look_for_leaks()

    def _count_what_is_left(self) -> None:
        """When everybody has left, gateways have nothing under way."""
        for name in filter(self.serves, self.names):
            stats = self.servers[name].gateway.stats()
            for what in ("connections", "sockets"):
                self.note(Counted, gateway=name, what=what, count=stats[what], wanted=0)

    def _look_for_leaks(self) -> None:
        for key, expires in self.redis.keys().items():
            if key.startswith(self._keyspace.presence("")) or not expires:
                self._problem("left", f"the key {key} is there after the end")
        left = asyncio.all_tasks(self.loop) - {asyncio.current_task(self.loop)}
        for name in sorted(task.get_name() for task in left):
            self._problem("left", f"the task {name!r} is there after the end")

    def _problem(self, claim: str, text: str) -> None:
        self.problems.append(Violation(claim, self.loop.time(), text))

    def _failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        culprit = context.get("task") or context.get("future")
        host = self.loop.host_of.get(culprit) if culprit is not None else None
        if host is not None and host.dead:
            return  # Whoever is buried says nothing.
        problem = context.get("exception")
        self._problem("exception", f"{context.get('message')}: {problem!r}")

    # --- gateways ----------------------------------------------------------------------------

    def start_gateway(self, name: str) -> None:
        """Start a gateway on a machine of its own, unless there is one; it tries until Redis is
        there.
        """
        if name in self.network.hosts and not self.network.hosts[name].dead:
            return
        host = self.network.host(name)
        host.spawn(self._serve(name, host), name)

    async def _serve(self, name: str, host: Host) -> None:
        settings = GatewaySettings(
            gateway_id=name,
            host=name,
            port=PORT,
            redis_url="redis://redis:6379",
            # The one before it may have died in a way that Redis has not noticed.
            takeover=True,
        )
        while True:
            gateway = Gateway(
                settings,
                presence=self._presence,
                clock=self.loop.time,
                bind=_bind,
                rng=host.rng,
                new_id=host.new_id,
                time_of_day=host.wall.time,
            )
            server = self.servers[name] = Server(host, gateway)
            try:
                await gateway.start()
            except (RedisUnavailable, DuplicateGateway):
                await asyncio.sleep(START_AGAIN_S)
                continue
            server.up = True
            return

    def _presence(self, link: RedisLink, settings: GatewaySettings) -> Presence:
        if self.policy == "seed":
            wall = Host.here().wall
            return SeedPresence(link, settings.keyspace, settings.timing, wall.time)
        return RedisPresence(link, settings.keyspace, settings.timing)

    def crash(self, name: str) -> None:
        """End a gateway as SIGKILL does."""
        self.bury(self.network.hosts[name])

    async def drain(self, name: str) -> None:
        """Stop a gateway as SIGTERM does."""
        server = self.servers[name]
        stopping = server.host.spawn(server.gateway.stop(), f"drain {name}")
        await asyncio.wait([stopping])  # Which may be cancelled: it can crash meanwhile.
        self.bury(server.host)

    def bury(self, host: Host) -> None:
        """End a machine, and what was running on it; nobody hears of its last moments."""
        self.network.kill(host)
        host.bury()

    def serves(self, name: str) -> bool:
        """Say whether a gateway is up and running."""
        server = self.servers.get(name)
        return (
            server is not None
            and server.up
            and not server.host.stands_still
            and not server.host.dead
        )

    # --- users -------------------------------------------------------------------------------

    def _living(self, user: str = "") -> Iterator[Device]:
        for name in [user] if user else USERS:
            self.devices[name] = [d for d in self.devices[name] if not self._over(d)]
            yield from self.devices[name]

    def _over(self, device: Device) -> bool:
        """Say whether a device is out of the game, and whether that is as it should be."""
        if not device.ended:
            return False
        why = device.client.closed_because
        fine = device.given_up or device.host.dead
        if not fine and device.client.close_code not in _FINE:
            self._problem("2.7", f"a client of {device.user} gave up: {why}")
        return True

    def user_of(self, host: str) -> str:
        """Return whose device a host is; '' when it is none."""
        user = host.rpartition("-")[0]
        return user if user in self.devices else ""

    def asks(self, name: str, fields: Fields) -> str:
        """Return for whom a gateway has had a script executed: who registers, or who sends."""
        if name == "route":
            try:
                envelope = decode_envelope(fields[4] + b"}")
            except BadEnvelope:
                return ""
            return envelope.sender if isinstance(envelope, Direct) else ""
        return fields[3].decode().partition(":")[2]

    def log_in(self, user: str) -> None:
        """Let a user take up a new device."""
        self._made += 1
        device = Device(self, user, self.network.host(f"{user}-{self._made}"))
        self.devices[user].append(device)

    def vanish(self, device: Device) -> None:
        """Take a device away without a goodbye: no packet leaves it any more."""
        for name in self.names:
            self.network.lose(device.host.name, name)
        self.left_half_open(list(self.network.links(device.host.name)), (device.user,))
        if device.client.conn_id:
            self.note(Left, user=device.user, conn=device.client.conn_id)
            self.note(Closed, user=device.user, conn=device.client.conn_id)
        self.bury(device.host)

    async def _live(self, user: str, rng: random.Random) -> None:
        await asyncio.sleep(rng.uniform(0.0, 5.0))
        self.log_in(user)
        while True:
            await asyncio.sleep(rng.expovariate(1 / 3.0))
            devices = list(self._living(user))
            if devices:
                self._act(user, devices[-1], rng)
            elif not self.calm:
                await asyncio.sleep(rng.expovariate(1 / 15.0))
                await self._until_busy()
                self.log_in(user)

    async def _until_busy(self) -> None:
        while self.calm:  # noqa: ASYNC110 - in virtual time, asking again costs nothing
            await asyncio.sleep(1.0)

    def _act(self, user: str, device: Device, rng: random.Random) -> None:
        """Do one thing."""
        what = rng.random()
        if self.calm or what < 0.80:
            others = [other for other in USERS if other != user]
            to = rng.choice(others)
            for _ in range(rng.choice((1, 1, 1, 4))):
                device.send(to)
        elif what < 0.88:
            device.move(rng.choice(self.names))
        elif what < 0.91:
            device.break_off()
        elif what < 0.94:
            device.leave()
        elif what < 0.97:
            self.vanish(device)
        else:
            self.log_in(user)

    def left_half_open(self, links: list[Link], where: tuple[str, ...] | None = None) -> None:
        """Bytes of these connections were lost: a fault that lasts until both ends know."""
        if links:
            self.note(Fault, name=HALF_OPEN, begins=True, where=where)
            watching = self.loop.create_task(self._until_gone(links, where), name=HALF_OPEN)
            self._watching.add(watching)
            watching.add_done_callback(self._watching.discard)

    async def _until_gone(self, links: list[Link], where: tuple[str, ...] | None) -> None:
        while any(map(self._is_there, links)):  # noqa: ASYNC110 - virtual time is cheap
            await asyncio.sleep(1.0)
        self.note(Fault, name=HALF_OPEN, begins=False, where=where)

    def _is_there(self, link: Link) -> bool:
        # Redis itself never finds out: it may be the only one that still has the connection.
        finds_out = link.target is not self.redis.host
        return not link.near.dead or (finds_out and not link.far.dead)

    # --- what is written down ----------------------------------------------------------------

    def note(self, record: Callable[..., Record], **fields: Any) -> None:
        """Write a record, now."""
        self.history.append(record(t=round(self.loop.time(), 6), **fields))

    def look(self) -> None:
        """Write down what everybody believes of each user at this moment."""
        believed: dict[str, list[str]] = defaultdict(list)
        for name in filter(self.serves, self.names):
            for session in self.servers[name].gateway.registry:
                if session.state is SessionState.REGISTERED:
                    believed[session.user].append(session.conn_id)
        for user in USERS:
            owner = self._entry(user)[0]
            devices = list(self._living(user))
            conns = [device.client.conn_id for device in devices if device.registered]
            conn = owner if owner in conns else "".join(conns[-1:])
            # Each device that believes to be connected is a believer, as each session is.
            believers = tuple(sorted({*believed[user], *conns}))
            self.note(
                Looked,
                user=user,
                online=bool(devices),
                conn=conn,
                believers=believers,
                owner=owner,
            )

    def _entry(self, user: str) -> tuple[str, str, int | None, bool]:
        """Return who owns a user: session, gateway, token, whether the entry is whole."""
        fields, expires = self.redis.entry(self._keyspace.presence(user))
        if not fields:
            return "", "", None, True
        needed = {"gwId", "connId", "ts"} | ({"epoch"} if self.policy == "fenced" else set())
        token = int(fields["epoch"]) if fields.get("epoch") else None
        whole = needed <= fields.keys() and expires
        return fields.get("connId", ""), fields.get("gwId", ""), token, whole

    def _heard(self, fields: Fields, reply: Any) -> None:
        """Take note of a command that Redis has executed."""
        match fields[0].upper():
            case b"EVALSHA":
                self._heard_script(_SCRIPT_OF.get(fields[1], ""), fields, reply)
            case b"EVAL":
                self._heard_script(_SCRIPT_OF_TEXT.get(fields[1], ""), fields, reply)
            case b"FLUSHALL":
                self.redis_forgot()
            case b"DEL" | b"HSET" | b"PEXPIRE":
                self._see(USERS, fields[0].decode().lower(), "")
            case _:
                pass

    def _heard_script(self, name: str, fields: Fields, reply: Any) -> None:
        if isinstance(reply, Exception):
            return
        if not name:
            self._see(USERS, "script", "")
            return
        self._count(f"{name} {_outcome(name, reply)}")
        self.on_script(name, fields)
        if name in {"register", "refresh", "release"}:
            user = fields[3].decode().removeprefix(self._keyspace.presence(""))
            conn = fields[5].decode()
            if name == "release":
                self.note(Released, user=user, conn=conn)
            self._see([user], name, conn)

    def _count(self, outcome: str) -> None:
        self.outcomes[outcome] += 1
        if self.outcomes[outcome] == 1:
            self.note(Happened, name=outcome)

    def _see(self, users: Iterator[str] | list[str] | tuple[str, ...], verb: str, by: str) -> None:
        """Write down the owners that have changed."""
        for user in users:
            now = self._entry(user)
            if now != self._owners.get(user, ("", "", None, True)):
                self._owners[user] = now
                conn, gateway, token, whole = now
                self.note(
                    Owner,
                    user=user,
                    conn=conn,
                    gateway=gateway,
                    token=token,
                    complete=whole,
                    verb=verb,
                    by=by,
                )

    def redis_forgot(self) -> None:
        """Redis has lost everything."""
        self.note(Forgotten)
        self._see(USERS, "loss", "")


def _outcome(name: str, reply: Any) -> str:
    match name:
        case "mint":
            return "ok"
        case "release":
            return "removed" if reply else "not owner"
        case _:
            return str(reply[0].decode())


def _ignore(name: str, fields: Fields) -> None:
    """Nobody wants to know."""

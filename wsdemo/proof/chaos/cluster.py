"""Cluster of processes: three gateways, a Redis, users, and what connects them.

Each connection goes through a TCP relay (`Wire`): from each user to each gateway, and from each
gateway to Redis. Only the witness and the nemesis connect to Redis directly.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import shutil
import signal
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Self

import msgspec
import psutil
import redis.asyncio as redis_client
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from wsdemo.addresses import RedisAddress
from wsdemo.proof.chaos.backend import ApiBackend
from wsdemo.proof.chaos.deployment import USUAL, Deployment
from wsdemo.proof.chaos.feature_users import ROOM_MEMBERS, FeatureUser, Surroundings
from wsdemo.proof.chaos.group_witness import GroupWitness
from wsdemo.proof.chaos.plain_users import PlainUser
from wsdemo.proof.chaos.redis_group import UNREACHABLE, RedisGroup, group_of
from wsdemo.proof.chaos.untaken import UntakenMessages
from wsdemo.proof.chaos.users import MARK, ClientUser, UserRoutes
from wsdemo.proof.chaos.witness import Witness
from wsdemo.proof.history import Record, Registered, Violation
from wsdemo.proof.mix import PLAIN_MIX, FeatureMix
from wsdemo.redis.server import BundledServer
from wsdemo.rig.flags import flags_of
from wsdemo.rig.process import PROGRAM, GatewayDied, GatewayProcess, ProcessLog
from wsdemo.rig.wire import Strand, Wire
from wsdemo.settings import Limits, Timing

SCALE: Final = 30.0
"""How many times faster than production the timings are. The work of the machine (a handshake, the
start of a process) does not get faster, and neither do the bounds on it."""

TIMING: Final = Timing(
    heartbeat_s=30 / SCALE,
    presence_ttl_s=90 / SCALE,
    idle_timeout_s=90 / SCALE,
    health_check_s=60 / SCALE,
    ws_ping_interval_s=30 / SCALE,
    ws_ping_timeout_s=30 / SCALE,
    tick_s=0.05,
    probe_interval_s=0.25,
    scale=SCALE,
)
"""The heartbeat, lease and health check of production, thirty times faster."""

LIMITS: Final = Limits(
    redis_timeout_s=0.5,
    redis_connect_timeout_s=0.5,
    register_deadline_s=2.0,
    register_queue_s=0.5,
    write_deadline_s=1.5,
    close_timeout_s=0.3,
    drain_s=3.0,
    retry_after_s=0.2,
)
CHANGED_LIMITS: Final = (
    *("redis_timeout_s", "redis_connect_timeout_s", "register_deadline_s", "register_queue_s"),
    *("write_deadline_s", "close_timeout_s", "drain_s", "retry_after_s"),
)
GATEWAYS: Final = ("gateway-01", "gateway-02", "gateway-03")
RESTART_S: Final = 15.0
"""How long a gateway may fail to start again: Redis may not be reachable at the moment."""
ADMIN_TIMEOUT_S: Final = 3.0
DEVICES: Final = ("phone", "laptop")
API_KEY: Final = "api.key"
"""The file of the key of the server API. No user is called that."""
NOT_WHOLE: Final = "(the servers do not answer)"
"""Stands among the users of a group when not all of them could be read."""
IDLE_LOOKS: Final = 5
GRACE_S: Final = 0.4
"""A user who is back within this time has not gone, for those who watch. In proportion it would be
shorter than a busy machine takes for a login."""


INBOX_MESSAGES: Final = 40
WINDOW: Final = 16
INBOX_FLAGS: Final = {
    "inbox_messages": INBOX_MESSAGES,
    "durable_window": WINDOW,
    "page_messages": 8,
    "ack_every_s": 0.1,
}
"""Small inboxes: a few seconds of an application that takes nothing fill a window and an inbox."""
BEATS: Final = {
    "room_beat_s": 10 / SCALE,
    "room_lease_s": 30 / SCALE,
    "room_repair_s": 60 / SCALE,
    "room_linger_s": 5 / SCALE,
}
ROOM_FLAGS: Final = {"room_members": ROOM_MEMBERS, "room_history": 10, **BEATS}
WATCH_FLAGS: Final = {"watch_grace_s": GRACE_S, "watch_reconcile_s": 30 / SCALE}


def flags(mix: FeatureMix) -> list[str]:
    """Return the command line flags of these timings and limits, and of the features."""
    result = [*flags_of(TIMING), *flags_of(LIMITS, CHANGED_LIMITS), *mix.words]
    if mix.durable:
        result += flags_of(INBOX_FLAGS)
    if mix.rooms:
        result += flags_of(ROOM_FLAGS)
    if mix.watch:
        result += flags_of(WATCH_FLAGS)
    return result


def _names_of(client_users: int, mix: FeatureMix) -> list[str]:
    """Return the names of users; with several devices, there are fewer users of two each."""
    if mix.devices == 1:
        return [f"user-{n:02}" for n in range(1, client_users + 1)]
    users = range(1, client_users // 2 + 1)
    return [f"user-{n:02}/{device}" for n in users for device in DEVICES]


def listens(strand: Strand) -> bool:
    """Say whether this connection to Redis is a subscription."""
    return b"\r\nSUBSCRIBE\r\n" in strand.said


def commands(strand: Strand) -> bool:
    """Say whether this connection to Redis carries commands."""
    return not listens(strand)


class ProcessCluster:
    """All processes and users, and their history: `async with ProcessCluster(seed) as cluster`.

    Args:
        seed: decides what users and wires do.
        client_users: how many users have the real client.
        plain_users: how many users are like those of the Go demo.
        program: what Python runs as a gateway; by default `wsdemo.rig.process.PROGRAM`.
        mix: the optional features of the gateways, which the users then use.
        deployment: what the Redis is. Only a single server has a relay in front of it.
    """

    def __init__(
        self,
        seed: int,
        *,
        client_users: int = 20,
        plain_users: int = 4,
        program: Sequence[str] = PROGRAM,
        mix: FeatureMix = PLAIN_MIX,
        deployment: Deployment = USUAL,
    ) -> None:
        self.seed = seed
        self.mix = mix
        self.deployment = deployment
        self.program = tuple(program)
        self.history: list[Record] = []
        self.complaints: list[Violation] = []
        """What was seen and is not allowed."""
        self.seen: Counter[str] = Counter()
        """Exit codes and other ends of gateways, by what was done to them."""
        self.backend: ApiBackend | None = None
        """What uses the server API, where gateways have features."""
        self._api_key = secrets.token_hex(32)
        self._password = secrets.token_hex(16)
        self.server = BundledServer(password=self._password)
        """The Redis, where it is one server."""
        self._group = group_of(deployment, self._password)
        self.logs: list[tuple[str, ProcessLog]] = []
        """The log of each gateway process, with the name of the gateway."""
        self.idle_descriptors = 0
        """How many descriptors a gateway has open while nobody is connected."""
        self.idle_bytes = 0
        """How much memory the largest gateway has then."""
        self._directory: Path | None = None
        """Where users keep how far they have read, and the key of the server API; None before the
        start."""
        self.gateways: dict[str, GatewayProcess] = {}
        self.wires: dict[str, Wire] = {}
        """From each gateway to Redis."""
        self.asking: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        """By gateway: held while a page of it is read. Whoever counts its sockets is then the only
        one who asks."""
        self.names = _names_of(client_users, mix)
        """Users with the real client, or their devices."""
        self.plain_names = [f"plain-{n:02}" for n in range(1, plain_users + 1)]
        self.untaken = UntakenMessages(frozenset(self.names))
        self.client_users: dict[str, ClientUser] = {}
        self.plain_users: dict[str, PlainUser] = {}
        self._began = time.monotonic()

    @property
    def group(self) -> RedisGroup:
        """The Redis, where it is several servers."""
        assert self._group is not None
        return self._group

    @property
    def redis_url(self) -> str:
        """The address of the Redis, as gateways get it; no relay is in it."""
        return self._group.url if self._group is not None else self.server.url

    @property
    def servers(self) -> Sequence[BundledServer]:
        """All servers that are, together, the Redis."""
        return self._group.processes if self._group is not None else [self.server]

    def clock(self) -> float:
        """Return the seconds since the begin of the run."""
        return time.monotonic() - self._began

    def note(self, record: Record) -> None:
        """Append a record to the history. Of several workers it says only whose they are."""
        if self.deployment.workers > 1 and isinstance(record, Registered):
            gateway = record.gateway.partition(".")[0]
            record = msgspec.structs.replace(record, gateway=gateway)
        self.history.append(record)
        self.untaken.note(record)

    def complain(self, violation: Violation) -> None:
        """Record something that is not allowed."""
        self.complaints.append(violation)

    def rng(self, what: str) -> random.Random:
        """Return a random generator for one purpose."""
        return random.Random(f"{self.seed}:{what}")

    def gateway_process(self, name: str, url: str) -> GatewayProcess:
        """Return a gateway that is not started yet. Its whole log will be read."""
        forbidden = self._forbidden
        more = flags(self.mix)
        if self.deployment.workers > 1:
            more += ["--workers", str(self.deployment.workers)]
        if self.mix != PLAIN_MIX:
            assert self._directory is not None
            more += ["--api-port", "0", "--api-key-file", str(self._directory / API_KEY)]
        process = GatewayProcess(name, url, *more, program=self.program, forbidden=forbidden)
        self.logs.append((name, process.written))
        return process

    @property
    def _forbidden(self) -> tuple[str, ...]:
        """What no log may contain: the content of messages, the password of Redis, and the key of
        the server API.
        """
        return MARK, self._password, self._api_key

    def forbidden_in(self, text: str) -> list[str]:
        """Return what no log may contain and this one does."""
        return [word for word in self._forbidden if word in text]

    # --- life ----------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        self._directory = Path(tempfile.mkdtemp(prefix="wsdemo-chaos-"))
        try:
            (self._directory / API_KEY).touch(mode=0o600)
            (self._directory / API_KEY).write_text(self._api_key)
            await asyncio.to_thread((self._group or self.server).start)
            self.admin = self._admin()
            await self._start_witness()
            # A group, not `gather`: when one fails, it ends the other starts before we go on.
            async with asyncio.TaskGroup() as starting:
                for name in GATEWAYS:
                    starting.create_task(self._start_gateway(name), name=f"start {name}")
            await self._measure_idle()
            await self._start_users()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        # In reverse order, and each whatever the others do: no process may outlive this one.
        async with contextlib.AsyncExitStack() as ends:
            if self._directory is not None:
                ends.callback(shutil.rmtree, self._directory, ignore_errors=True)
            ends.push_async_callback(asyncio.to_thread, (self._group or self.server).stop)
            if hasattr(self, "witness"):
                if self.admin is not None:
                    ends.push_async_callback(self.admin.aclose)
                ends.push_async_callback(self.witness.stop)
            for wire in self.wires.values():
                ends.push_async_callback(wire.stop)
            for gateway in self.gateways.values():
                ends.push_async_callback(gateway.stop)
            ends.push_async_callback(self.stop_users)

    async def _start_witness(self) -> None:
        self.witness: Witness | GroupWitness = (
            Witness(self.server.url, self.note, self.clock)
            if self._group is None
            else GroupWitness(self._group, self.note, self.clock)
        )
        await self.witness.start()

    def _admin(self) -> Any:
        if self._group is not None:
            return None
        return redis_client.Redis.from_url(
            self.server.url,
            decode_responses=True,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=ADMIN_TIMEOUT_S,
            socket_connect_timeout=ADMIN_TIMEOUT_S,
            client_name="nemesis",
        )

    async def _start_gateway(self, name: str) -> None:
        url = self.redis_url
        if self._group is None:
            wire = self.wires[name] = Wire("127.0.0.1", self.server.port, self.rng(f"{name} wire"))
            await wire.start()
            url = replace(RedisAddress.parse(url), port=wire.port).url
        self.gateways[name] = self.gateway_process(name, url)
        await self.gateways[name].start()

    async def _measure_idle(self) -> None:
        """Measure what gateways need while nobody is connected."""
        found: list[int] = []
        for _ in range(IDLE_LOOKS):
            for gateway in self.gateways.values():
                await gateway.get("/metrics")
                found.append(self.descriptors(gateway))
                memory = psutil.Process(gateway.pid).memory_info()
                self.idle_bytes = max(self.idle_bytes, memory.rss)
            await asyncio.sleep(0.02)
        # One more may belong to a page that was just fetched.
        self.idle_descriptors = min(found)

    def descriptors(self, gateway: GatewayProcess) -> int:
        """Return how many descriptors a gateway has open. Connections to a group of servers do not
        count: their number depends on who is a primary.
        """
        process = psutil.Process(gateway.pid)
        count = int(process.num_fds())
        if self._group is not None:
            ports = {*(server.port for server in self.servers), *self._group.relay_ports}
            remote = [one.raddr.port for one in process.net_connections() if one.raddr]
            count -= sum(port in ports for port in remote)
        return count

    async def _start_users(self) -> None:
        everybody = self.accounts
        for name in self.names:
            routes, rng = await self._routes(name), self.rng(name)
            self.client_users[name] = self._client_user(name, routes, everybody, rng)
        for name in self.plain_names:
            routes, rng = await self._routes(name), self.rng(name)
            self.plain_users[name] = PlainUser(
                name,
                routes,
                everybody,
                rng,
                self.note,
                self.clock,
                self.complain,
                TIMING.heartbeat_s,
            )
        await asyncio.gather(*(user.start() for user in self.client_users.values()))
        await asyncio.gather(*(user.start() for user in self.plain_users.values()))
        if self.mix != PLAIN_MIX:
            self.backend = ApiBackend(
                self.gateways,
                self._api_key,
                everybody,
                self.mix,
                self.rng("backend"),
                self.note,
                self.clock,
                self.complain,
            )
            self.backend.start()

    def _client_user(
        self, name: str, routes: UserRoutes, everybody: Sequence[str], rng: random.Random
    ) -> ClientUser:
        about = (name, routes, everybody, rng, self.note, self.clock, self.complain)
        if not (self.mix.durable or self.mix.rooms or self.mix.watch):
            return ClientUser(*about)
        assert self._directory is not None
        return FeatureUser(*about, Surroundings(self.mix, self._directory, self.is_online))

    def is_online(self, user: str) -> bool:
        """Say whether Redis has an entry of a user, as the witness knows."""
        return bool(self.witness.monitor_log.owner(user))

    async def _routes(self, user: str) -> UserRoutes:
        ports = {name: gateway.port for name, gateway in self.gateways.items()}
        return await UserRoutes(ports, self.rng(f"{user} wires")).start()

    @property
    def accounts(self) -> list[str]:
        """All to whom messages are sent."""
        names = [name.partition("/")[0] for name in self.names]
        return [*dict.fromkeys(names), *self.plain_names]

    @property
    def users(self) -> list[ClientUser | PlainUser]:
        """All users."""
        return [*self.client_users.values(), *self.plain_users.values()]

    async def stop_users(self) -> None:
        """Let the backend end, and all users leave. Idempotent."""
        if self.backend is not None:
            await self.backend.quiet()
            await self.backend.stop()
        await asyncio.gather(*(user.stop() for user in self.users))
        await asyncio.gather(*(user.routes.stop() for user in self.users))
        self.client_users, self.plain_users = {}, {}

    # --- what a nemesis needs ------------------------------------------------------------------

    async def start_again(self, name: str) -> None:
        """Start a gateway again and again until it runs, as a supervisor does."""
        gateway = self.gateways[name]
        deadline = self.clock() + RESTART_S
        while True:
            try:
                await gateway.start()
                return
            except GatewayDied:
                if self.clock() > deadline:
                    text = f"{name} did not start again: {list(gateway.log)[-1:]}"
                    self.complain(Violation("restart", self.clock(), text))
                    raise

    async def drain(self, name: str) -> None:
        """Send SIGTERM to a gateway. It must end within its bound, with exit code 0."""
        gateway = self.gateways[name]
        gateway.signal(signal.SIGTERM)
        try:
            code = await gateway.wait(LIMITS.drain_s + 5.0)
        except TimeoutError:
            code = None
        self.seen[f"drained, exit code {code}"] += 1
        if code != 0:
            text = f"{name} was told to go, and ended with {code}: {list(gateway.log)[-2:]}"
            self.complain(Violation("drain", self.clock(), text))
        await gateway.stop()

    def users_of(self, gateway: str) -> list[ClientUser]:
        """Return the users with the real client who are registered with a gateway now."""
        return [
            user
            for user in self.client_users.values()
            if any(client.gateway_id == gateway for client in user.registered)
        ]

    async def active_names(self) -> list[str]:
        """Return the keys of all presence entries in Redis; in a group, their users."""
        if self._group is not None:
            return sorted(await self.entries())
        return sorted([key async for key in self.admin.scan_iter("presence:*")])

    async def entries(self) -> dict[str, str]:
        """Return the session in each entry of a group, by user; or that it cannot be read now."""
        with contextlib.suppress(*UNREACHABLE):
            return await asyncio.to_thread(self.group.entries)
        return {NOT_WHOLE: ""}

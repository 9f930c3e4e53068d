"""Laboratory: how does a notebook drive a cluster without a single `await`?

Gateways and users live on one event loop in a thread of its own; cells call plain methods, which
wait for the answer. A cell that computes for two seconds delays no gateway. The laboratory of the
kernel is closed when the next one is made, so a cell can be run again.
"""

from __future__ import annotations

import atexit
import html
import importlib
import threading
import time
from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, TypeVar

from wsdemo.addresses import RedisAddress
from wsdemo.client import BackoffRule, Client, PositionStore, Receipt
from wsdemo.client.client import DEVICE, DEVICE_RULE
from wsdemo.drawing.words import counted
from wsdemo.features import InboxSettings, RoomSettings, WatchSettings
from wsdemo.lab.cluster.backends import SCALE as SEVERAL_SCALE
from wsdemo.lab.cluster.backends import SEVERAL
from wsdemo.lab.cluster.cluster import Cluster
from wsdemo.lab.cluster.crowd import Life
from wsdemo.lab.cluster.directors import Verb
from wsdemo.lab.cluster.population import label_of, user_of
from wsdemo.lab.errors import LabOpen, LabRefused, LabTimeout, spells_options
from wsdemo.lab.handles import RedisHandle, User, WireHandle
from wsdemo.lab.log_tail import LogTail
from wsdemo.lab.loop import CALL_TIMEOUT_S, LabLoop, LoopKind, require_kind
from wsdemo.lab.pace import pace, warn_of_crowd
from wsdemo.lab.progress import Count, headless, sign_of_life
from wsdemo.redis.where import server_of
from wsdemo.rig.names import unknown
from wsdemo.rig.policies import PRODUCT
from wsdemo.rig.waiting import POLL_S
from wsdemo.settings import Timing
from wsdemo.terminal import say
from wsdemo.user_ids import USUAL_USER_ID_CHARS, valid_user_id

if TYPE_CHECKING:
    import pandas as pd

    from wsdemo.drawing.style import Picture
    from wsdemo.lab.classroom.room import Classroom
    from wsdemo.lab.plots import Plots

RECORD_TIMEOUT_S: Final = 5.0
WAIT_S: Final = 600.0
"""Production seconds: what is waited for comes within a few leases, ..."""
LEAST_WAIT_S: Final = 10.0
"""... or within so many wall seconds, where the machine is what is slow."""
S = TypeVar("S", InboxSettings, RoomSettings, WatchSettings)
NAMES: Final = 6
"""At most so many users are named; of more, only the number is given."""


class Lab:
    """A cluster for cells: `lab = Lab(gateways=3)`, at last `lab.close()`.

    There is one at a time: a new lab closes the one before.

    Args:
        gateways: how many, 1 to 20 (default 3). They are called gateway-01, gateway-02, ...
        policy: the rule by which gateways write presence, one of "plain", "go-demo",
            "check-then-delete", "timestamp", "room-by-set" and "fenced" (default "fenced", the
            product's own).
        scale: how many production seconds pass in one second. At 60, a heartbeat of 30 s comes
            every 0.5 s, and a lease of 90 s ends after 1.5 s. A lower number is easier for a slow
            machine, or for many users. By default the machine is measured: 60, or less on one
            that is busy, which is then said (`wsdemo.lab.pace`; `pace(300)` says it for a crowd).
            `scale=60` measures nothing. With a Redis of several servers it is at most 15: they
            count one of them as down after a second, whatever the scale is.
        clocks: gateway -> by how many production seconds its wall clock is wrong, such as
            `{"gateway-02": -10}` for 10 s slow (default: all are right).
        wires: True puts a wire between each gateway and Redis, which can hold, delay, drop and cut:
            `lab.wire("gateway-01", "redis")` (default False). A wire of a user needs no option
            here: `lab.connect("alice", wired=True)`.
        freezable: the gateways that `lab.freeze` can stop, such as `["gateway-02"]` (default none).
        timing: production timings in seconds other than the usual ones, such as
            `Timing(heartbeat_s=20)` (default: a heartbeat of 30 s, a lease of 90 s).
        seed: of the randomness of users: which heartbeats get lost, who talks to whom (default 7).
        redis: the address of a Redis to use, such as "redis://localhost:6379" (default: the one
            in WSDEMO_REDIS_URL, or one that the lab starts and stops itself). "cluster" starts
            a cluster of three primaries, "sentinel" a primary with a replica and three
            sentinels: `lab.redis.kill(1)`, `.pause(1)`, `.revive(1)`, `.fail_over()`.
        replicas: how many each primary has (default: none in a cluster, 1 under Sentinel).
        durable: True gives every user an inbox in Redis, where messages wait that are sent with
            `durable=True`; `InboxSettings(...)` says how much it keeps (default False).
        devices: how many devices one user may have at the same time, 1 to 8 (default 1):
            `lab.connect("alice", device="phone")`.
        release_device: a Lua script that decides what the release of a device removes, instead of
            the product's rule, for a lab with `devices=2` or more (lesson 04; default "", the
            product's rule).
        rooms: True lets users join rooms; `RoomSettings(...)` says how many (default False).
        watch: True tells users when those whom they watch come and go (default False).
        api: True serves the server API of each gateway at a port of its own: `lab.api_url(...)`,
            `lab.api_key` (default False).
        backoff: a function of the number of the attempt (1 for the first) and of a random
            generator, which says how long a client waits before it connects again, in production
            seconds (default: the product's rule, exponential with full jitter).
        loop: "thread" (default), or "kernel" to let the gateways live on the loop that also runs
            the cells: they then stand still while a cell computes.

    Raises:
        LabRefused: a value cannot work; the lab before stays open.
        ServerError: there is no Redis.
    """

    _current: ClassVar[Lab | None] = None

    @spells_options
    def __init__(
        self,
        gateways: int = 3,
        *,
        policy: str = PRODUCT,
        scale: float | None = None,
        clocks: Mapping[str, float] | None = None,
        wires: bool = False,
        freezable: Collection[str] = (),
        timing: Timing | None = None,
        seed: int = 7,
        redis: str | None = None,
        replicas: int | None = None,
        durable: bool | InboxSettings = False,
        devices: int = 1,
        release_device: str = "",
        rooms: bool | RoomSettings = False,
        watch: bool | WatchSettings = False,
        api: bool = False,
        backoff: BackoffRule | None = None,
        loop: LoopKind = "thread",
    ) -> None:
        require_kind(loop)
        self.cluster = Cluster(
            gateways,
            policy=policy,
            scale=_scale(redis) if scale is None else scale,
            clocks=clocks,
            wires=wires,
            freezable=freezable,
            timing=timing,
            seed=seed,
            redis=redis,
            replicas=replicas,
            inbox=_settings("durable", durable, InboxSettings),
            devices=devices,
            release_device=release_device,
            rooms=_settings("rooms", rooms, RoomSettings),
            watch=_settings("watch", watch, WatchSettings),
            api=api,
            backoff=_backoff(backoff),
        )
        if Lab._current is not None:
            Lab._current._close("a later Lab()")
        self._loop = LabLoop(loop)
        self._log = LogTail()
        self._leaks: list[str] = []
        self._closing = threading.RLock()
        self.redis = RedisHandle(self._loop, self.cluster)
        self.users: dict[str, User] = {}
        """Those who have not left, by name; a device as `alice/phone`."""
        self._met_users: dict[str, None] = {}
        self._room: Classroom | None = None
        self._room_options: dict[str, object] = {}
        self._log.attach()
        try:
            self._loop.run(self.cluster.start())
        except BaseException:
            self._end()
            raise
        Lab._current = self
        atexit.register(self.close)

    # --- life --------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop users, gateways and Redis, and end the thread. Idempotent.

        What another thread waits for, such as `live`, ends with `LabClosed` there.
        """
        self._close()

    def _close(self, by: str = "") -> None:
        with self._closing:
            if self._loop.closed:
                return
            try:
                self._leaks = self._loop.end(self._stop(), by)
            finally:
                self._end()
                atexit.unregister(self.close)
                if Lab._current is self:
                    Lab._current = None

    async def _stop(self) -> None:
        # The room first: its students are connected to the gateways.
        try:
            if self._room is not None:
                await self._room.stop()
        finally:
            await self.cluster.stop()

    def _end(self) -> None:
        self._log.detach()
        self._loop.close()

    def leaks(self) -> list[str]:
        """Return what a closed lab left behind: tasks, threads, sockets, keys, processes, and
        failures that nobody handled.
        """
        if not self._loop.closed:
            raise LabOpen("close the lab first: until then, everything is in use")
        thread = ["thread lab"] if self._loop.alive else []
        return self._leaks + self.cluster.leaks() + thread

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # --- users and what they do --------------------------------------------------------------

    @spells_options
    def connect(
        self,
        user: str,
        to: str = "gateway-01",
        *,
        wired: bool = False,
        drop_pings: float = 0.0,
        device: str = "",
        durable: bool = False,
        position: PositionStore | None = None,
    ) -> User:
        """Connect a user to a gateway.

        Args:
            device: which device of the user it is, such as "phone", in a `Lab(devices=2)`. The lab
                and its figures call it `alice/phone`.
            wired: put a wire between the user and each gateway: `lab.wire(user)`.
            drop_pings: the probability that a heartbeat gets lost.
            durable: the user reads the inbox, in a `Lab(durable=True)`.
            position: where it is kept how far the inbox has been read, for the next connection;
                without it, the user goes on after what was acknowledged.

        Raises:
            LabRefused: it is no name, such a user is here already, there is no such gateway, or the
                user wants an inbox where there is none.
        """
        if not isinstance(user, str) or not valid_user_id(user):
            raise LabRefused(
                f"{user!r:.80} is no name for a user: 1 to {USUAL_USER_ID_CHARS} letters, digits "
                'and . _ @ -, such as "alice"; "gateway-...", "__...__" and "@..." are reserved'
            )
        self._require_device(device)
        if durable and not self.cluster.has_inboxes:
            raise LabRefused("nobody has an inbox here: make the lab with Lab(durable=True)")
        if position is not None and not durable:
            raise LabRefused("only a durable user has a position: connect(..., durable=True)")
        joining = self.cluster.connect(
            user,
            to,
            wired=wired,
            drop_pings=drop_pings,
            device=device,
            durable=durable,
            position=position,
        )
        return self._met(self._loop.run(joining))

    def _require_device(self, device: str) -> None:
        """Refuse what is no name of a device, and any name where a user has only one.

        Raises:
            LabRefused: one of the two.
        """
        if not isinstance(device, str) or not DEVICE.fullmatch(device):
            raise LabRefused(f"{device!r:.80} is no name for a device: {DEVICE_RULE}")
        if device and self.cluster.most_devices == 1:
            raise LabRefused("a user has one device here: make the lab with Lab(devices=2)")

    def connect_many(self, users: int) -> list[User]:
        """Connect many users: user001, user002, ..., to the gateways in turn.

        They all live in this process. Two cores are enough for some hundred users at sixty times
        the speed of production; for a thousand, use a slower clock: `Lab(scale=15)`. When they are
        too many for this machine now, it is said.
        """
        if not isinstance(users, int) or users < 1:
            raise LabRefused(f"a crowd is a number of users, at least one, not {users!r:.80}")
        warn_of_crowd(users, self.scale)
        count = Count("users connected", users)
        patience_s = CALL_TIMEOUT_S + users / 20
        clients = self._loop.run(self.cluster.connect_many(users, count), patience_s, count)
        return [self._met(client) for client in clients]

    def _met(self, client: Client) -> User:
        label = label_of(client.user, client.device)
        user = self.users[label] = User(self._loop, self.cluster, client, self._forget)
        self._met_users |= {label: None, client.user: None}
        return user

    def _require_known(self, *users: str) -> None:
        """Refuse names of users who have never been here: typing errors, mostly.

        Raises:
            LabRefused: one has not, and is no student of a class room either.
        """
        known = [*self._met_users, *(self._room.students if self._room is not None else ())]
        for user in users:
            if user not in known:
                raise LabRefused(unknown("user", user, known))

    def _forget(self, name: str) -> None:
        self.users.pop(name, None)

    @spells_options
    def live(
        self,
        seconds: float,
        *,
        talk_every_s: float | None = None,
        hop_every_s: float | None = None,
    ) -> Life:
        """Let all users talk to each other and move between gateways for a while; seeded.

        Args:
            seconds: for how long, in production seconds.
            talk_every_s, hop_every_s: mean production seconds between two of a user's messages
                or moves; None for never.
        """
        self._loop.require_open()
        count = Count(f"seconds of {seconds:g}", round(seconds))
        began = time.monotonic()

        def pass_on() -> None:
            count.done = min(count.total, round((time.monotonic() - began) * self.scale))

        work = self.cluster.live(seconds, talk_every_s=talk_every_s, hop_every_s=hop_every_s)
        return self._loop.run(work, seconds / self.scale + CALL_TIMEOUT_S, count, pass_on)

    # --- accidents on purpose ----------------------------------------------------------------

    def crash(self, gateway: str) -> None:
        """End a gateway without clean-up: nothing is released, no close frame is sent."""
        self._loop.run(self.cluster.crash(gateway))

    def drain(self, gateway: str) -> None:
        """Stop a gateway as SIGTERM does: clients are told to go elsewhere."""
        self._loop.run(self.cluster.drain(gateway))

    def start_gateway(self, name: str) -> None:
        """Start a gateway that crashed or was drained, or one more."""
        self._loop.run(self.cluster.start_gateway(name))

    def start_process(self, name: str) -> None:
        """Start one more gateway as a process of its own."""
        self._loop.run(self.cluster.start_process(name))

    def freeze(self, gateway: str) -> None:
        """Stop the loop of a gateway in `freezable`, or a process by SIGSTOP."""
        self._loop.run(self.cluster.freeze(gateway))

    def thaw(self, gateway: str) -> None:
        """Let a frozen gateway go on."""
        self._loop.run(self.cluster.thaw(gateway))

    def set_clock(self, gateway: str, error_s: float) -> None:
        """Set the wall clock of a gateway wrong by so many production seconds."""
        self._loop.call(lambda: self.cluster.set_clock(gateway, error_s))

    def wire(self, one: str, other: str = "") -> WireHandle:
        """Return the wire between a gateway and "redis" (`Lab(wires=True)`), or of a wired user."""
        return WireHandle(self._loop, self.cluster.wire(one, other))

    def hold(self, user: str, at: str, verb: Verb = "release") -> None:
        """From now on, this verb of this user waits at this gateway: mint, register, refresh or
        release.

        Raises:
            LabRefused: there is no such gateway or verb; or no such user, when it is a refresh or
                a release (somebody may be about to register for the first time).
        """
        self._loop.require_open()
        if verb in ("refresh", "release"):
            self._require_known(user)
        self._loop.run(self.cluster.hold(user, at, verb))

    def hold_cleanup(self, user: str, at: str) -> None:
        """From now on, the clean-up of this user at this gateway waits.

        Raises:
            LabRefused: there is no such user, or no such gateway.
        """
        self.hold(user, at)

    def let_go(self, user: str, at: str, verb: Verb = "release") -> None:
        """Release a held verb, and wait until Redis has answered it.

        Raises:
            LabRefused: it is not held.
            LabTimeout: it did not begin, or was not answered.
        """
        self._loop.run(self.cluster.let_go(user, at, verb))

    def let_all_go(self) -> None:
        """Release everything that is held at any gateway, and hold nothing more."""
        self._loop.run(self.cluster.let_all_go())

    def delay_cleanups(self, seconds: float) -> None:
        """From now on every gateway cleans up so many production seconds too late."""
        self._loop.call(lambda: self.cluster.delay_cleanups(seconds))

    # --- the class room ----------------------------------------------------------------------

    @spells_options
    def classroom(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        public_url: str = "",
        seats: int = 60,
        remote_teacher: bool = False,
    ) -> Classroom:
        """Open a class room: students join from their own browsers, and are users of this lab.

        A lab has one room. The same call again returns it, so a cell can be run again.

        Args:
            host: "127.0.0.1" for this machine only, "lan" for the network that this machine is in
                as well, or an address of this machine.
            port: 0 lets the system choose.
            public_url: where a proxy shows the room, when there is one.
            seats: how many students at most.
            remote_teacher: True lets the teacher's buttons work from other machines as well.

        Raises:
            LabRefused: an option cannot work, a room with other options is open, the lab lives
                on the kernel's loop, or its Redis has several servers.
        """
        self._loop.require_open()
        if self._loop.kind != "thread":
            raise LabRefused(
                'a lab with loop="kernel" stands still while a cell computes, and all students '
                "with it: make the lab without this option"
            )
        options: dict[str, Any] = {
            "host": host,
            "port": port,
            "public_url": public_url,
            "seats": seats,
            "remote_teacher": remote_teacher,
        }
        if self._room is not None and self._room.is_open:
            if options == self._room_options:
                return self._room
            raise LabRefused(
                f"this lab has an open room with other options ({_written(self._room_options)}): "
                "close it first, with room.close(). Students join the next one with a new code"
            )
        self._require_one_server()
        with sign_of_life("Opening the class room ...", "wsdemo.lab.classroom.room"):
            from wsdemo.lab.classroom.room import Classroom
        self._room = Classroom(self, **options)
        self._room_options = options
        return self._room

    @spells_options
    def board(self, *, height: str = "640px") -> Any:
        """Return the board, for a cell: gateways, users and what Redis believes of them. It needs
        no port. Without a class room, it only shows; with one, it has the teacher's buttons.
        """
        self._loop.require_open()
        if headless():
            return self._still_board()
        self._require_one_server()
        with sign_of_life("Loading the board ...", "wsdemo.lab.classroom.widget"):
            from wsdemo.lab.classroom.widget import BoardWidget
        return BoardWidget(self._loop, self.cluster, self._open_room(), height)

    @spells_options
    def save_html(self, path: str | Path, *, title: str = "A run of the lab") -> Path:
        """Write what happened so far into one file, which opens without a network, and return its
        path. Without a class room, leases are inferred from what the scripts answered.
        """
        if self._room is not None:
            return self._room.save(path, title)
        from wsdemo.lab.classroom.recording import save_html

        return save_html(self, path, title)

    def _require_one_server(self) -> None:
        if self.cluster.has_several_servers:
            raise LabRefused(
                "a class room and its board show a Redis of one server: make the lab without "
                "redis=..."
            )

    def _still_board(self) -> Picture:
        """Return a picture of the board, for outputs that are read without a kernel."""
        if (room := self._open_room()) is not None:
            return room.picture()
        from wsdemo.lab.classroom.history import decoded
        from wsdemo.lab.classroom.recording import inferred
        from wsdemo.lab.plots import class_board

        recorder, ttl_s = self.cluster.recorder, self.cluster.timing.presence_ttl_s
        texts = self._loop.call(lambda: inferred(recorder, ttl_s))
        return class_board([decoded(text) for text in texts], ttl_s=ttl_s)

    def _open_room(self) -> Classroom | None:
        return self._room if self._room is not None and self._room.is_open else None

    # --- looking -----------------------------------------------------------------------------

    @cached_property
    def plot(self) -> Plots:
        """The figures: `lab.plot.spacetime(receipt)`. The first use loads the plotting library."""
        with sign_of_life("Loading the figures ...", "wsdemo.lab.plots"):
            from wsdemo.lab.plots import Plots
        return Plots(self.trace, self.cluster.timing)

    @property
    def loop(self) -> LabLoop:
        """The loop on which gateways and users live, for parts of the lab that live there too."""
        return self._loop

    @property
    def scale(self) -> float:
        """How many production seconds pass in a second."""
        return self.cluster.timing.scale

    def watch(self, *users: str) -> None:
        """From now on, sample the entries of these users and what is left of their leases.

        Raises:
            LabRefused: there is no such user.
        """
        self._loop.require_open()
        self._require_known(*users)
        self._loop.call(lambda: self.cluster.watch(*users))

    def where(self) -> pd.DataFrame:
        """Return, for each user, the gateway of its socket and the gateway that Redis names."""
        owners = {user_of(name)[0] for name in self.users}
        records = self._loop.run(self.cluster.records(owners))
        rows = [
            {
                "user": name,
                "socket": user.gateway,
                "Redis says": _gateway_in(records, *user_of(name)),
            }
            for name, user in self.users.items()
        ]
        # Only now: to load it may take as long as a lease.
        columns = ["user", "socket", "Redis says"]
        return _pandas().DataFrame(rows, columns=columns).set_index("user")

    def record(self, user: str) -> dict[str, str]:
        """Return what Redis stores about a user: `HGETALL presence:{user}`; empty when offline.

        It is read in the cell's thread, so gateways on the kernel's loop do not run meanwhile.
        """
        import redis as redis_client

        self._loop.require_open()
        key = self.cluster.keyspace.presence(user)
        url = server_of(RedisAddress.parse(self.cluster.redis_url), key).url
        options: dict[str, Any] = {"decode_responses": True, "socket_timeout": RECORD_TIMEOUT_S}
        with redis_client.Redis.from_url(url, **options) as terminal:
            return dict(terminal.hgetall(key))

    def entries(self, *users: str) -> dict[str, dict[str, str]]:
        """Return what Redis stores about these users, asked in one go; by default about all who are
        connected. In a cluster, those are left out whose server does not answer.
        """
        owners = users or tuple({user_of(name)[0] for name in self.users})
        return self._loop.run(self.cluster.records(owners))

    def health(self, gateway: str) -> str:
        """Fetch `/health` of a gateway."""
        return self._loop.run(self.cluster.page(gateway, "/health"))

    def stats(self, gateway: str) -> dict[str, Any]:
        """Fetch `/stats` of a gateway."""
        return self._loop.run(self.cluster.stats(gateway))

    @property
    def api_key(self) -> str:
        """What a backend has to know; '' without `Lab(api=True)`."""
        return self.cluster.api_key

    def api_url(self, gateway: str) -> str:
        """Return where the server API of a gateway is.

        Raises:
            LabRefused: there is no such gateway, or no server API.
        """
        url = self.cluster.gateway(gateway).api_url
        if not url:
            raise LabRefused("there is no server API here: make the lab with Lab(api=True)")
        return url

    def trace(self) -> pd.DataFrame:
        """Return everything that happened so far, one row for each arrow or moment."""
        _pandas()
        return self.cluster.trace()

    def shiviz(self) -> str:
        """Return what happened so far as a log with vector clocks, as ShiViz reads it."""
        from wsdemo.lab.trace.shiviz import to_shiviz

        return to_shiviz(self.trace())

    def hops(self, receipt: Receipt) -> pd.DataFrame:
        """Return the way of one message: from, to, what, and when (µs after it was sent)."""
        pd = _pandas()
        trace = self.trace()
        way = trace[(trace["msg_id"] == receipt.id) & (trace["peer"] != "")]
        start = way["t"].min()
        return pd.DataFrame(
            {
                "from": way["lane"],
                "to": way["peer"],
                "what": way["kind"],
                "left after (µs)": ((way["t"] - start) * 1e6).round().astype(int),
                "arrived after (µs)": [
                    "never" if t != t else f"{(t - start) * 1e6:.0f}" for t in way["t_recv"]
                ],
                "answer": way["reason"],
            }
        ).reset_index(drop=True)

    def wait_until(
        self, what: str, holds: Callable[[], bool], timeout_s: float | None = None
    ) -> None:
        """Wait until a condition holds.

        Args:
            timeout_s: wall seconds; by default 600 production seconds, and at least 10 s.

        Raises:
            LabTimeout: it did not, in time; the text says what was waited for.
        """
        if timeout_s is None:
            timeout_s = max(LEAST_WAIT_S, WAIT_S / self.scale)

        # Evaluated in the cell's thread, so that the condition may use the laboratory like any
        # cell.
        deadline = time.monotonic() + timeout_s
        while not holds():
            if time.monotonic() > deadline:
                raise LabTimeout(f"not within {timeout_s:g} s: {what}")
            self._loop.pause(POLL_S)

    def let_pass(self, seconds: float) -> None:
        """Let so many production seconds pass, while the laboratory runs."""
        self._loop.require_open()
        self._loop.pause(seconds / self.scale)

    def log(self, lines: int = 20) -> None:
        """Print the last lines that the gateways logged."""
        say(self._log.text(lines))

    def __repr__(self) -> str:
        if self._loop.closed:
            return "<Lab: closed>"
        names = ", ".join(f"{name} at {user.gateway}" for name, user in self.users.items())
        who = names if len(self.users) <= NAMES else f"{len(self.users):,}"
        return (
            f"<Lab: {counted(len(self.cluster.hosts), 'gateway')}, {self.cluster.policy} presence, "
            f"{self.scale:g}x faster than production; users: {who or 'none'}; "
            f"Redis: {self.cluster.redis_source}>"
        )

    def _repr_html_(self) -> str:
        return f"<code>{html.escape(repr(self))}</code>"


def _scale(redis: str | None) -> float:
    """Return how many times faster than production this machine can be."""
    scale = pace().scale
    return min(scale, SEVERAL_SCALE) if redis in SEVERAL else scale


def _backoff(wanted: BackoffRule | None) -> BackoffRule | None:
    """Return the rule of the clients; None for the usual one.

    Raises:
        LabRefused: it is no function.
    """
    if wanted is None or callable(wanted):
        return wanted
    raise LabRefused(f"backoff is a function of (attempt, rng), not {wanted!r:.80}")


def _settings(option: str, wanted: object, kind: type[S]) -> S | None:
    """Return the settings of an optional feature: the usual ones for True, None for False.

    Raises:
        LabRefused: it is neither, nor such settings.
    """
    if isinstance(wanted, kind):
        return wanted
    if not isinstance(wanted, bool):
        raise LabRefused(f"{option} is True, False or {kind.__name__}(...), not {wanted!r:.80}")
    return kind() if wanted else None


def _gateway_in(records: Mapping[str, Mapping[str, str]], user: str, device: str) -> str:
    """Return the gateway that the entry of a user names for a device, or why there is none."""
    if user not in records:
        return "(no answer)"
    if not device:
        return records[user].get("gwId") or "(nobody)"
    return records[user].get(f"s:{device}", "").partition(" ")[0] or "(nobody)"


def _written(options: Mapping[str, object]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in options.items())


def _pandas() -> ModuleType:
    """Load pandas, which takes a second or two the first time."""
    with sign_of_life("Loading the tables ...", "pandas"):
        return importlib.import_module("pandas")

"""Cost of optional features, `python -m benchmarks.features`: what is it, beside a plain message?

Five systems of two gateways and a Redis run at once, each with another feature. One measurement
follows the other, in turns, so that a slow minute of the machine is a slow minute for all. A ratio
is taken within a round. Reported is the median of the ratios, with the middle half of them. CPU
is what the processes of the gateways and of Redis have used; that of the load does not count. No
line is logged for a message.

Some six minutes, bounded. Exit code 1: a median is above its target; 2: the measurement failed.
Absolute figures belong to this machine, ratios carry over.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.feature_memory import IdleCost, measure_memory
from benchmarks.load import allow_many_files
from benchmarks.phases import CONTENT_BYTES, IN_FLIGHT, USERS, Say, counted
from benchmarks.running import running
from benchmarks.systems import Failed, LoadProcess, System, quiet
from wsdemo.command_line import Parser, new_directory, positive_float, positive_int

AT_A_TIME: Final = 64
PAIRS: Final = 20
"""Senders at saturation; each keeps `IN_FLIGHT` messages in flight to one recipient."""
ROOM: Final = "lobby"
WATCHERS: Final = 10
WATCHED: Final = 500
"""Users who come and go; at most so many as the room has members."""
WATCHED_PREFIX: Final = "s"
PATIENCE_S: Final = 30.0
LEAST_IDLE: Final = 200
SPARE_FILES: Final = 200
"""Open files of a process that are not its users."""
FREE: Final = ("--messages-per-s", "1000000", "--message-burst", "1000000")
"""The limit of messages is there, and counts, but is set out of reach."""
FEATURE_FLAGS: Final = {
    "plain": (),
    "durable": ("--durable",),
    "devices": ("--devices", "2"),
    "watch": (
        *("--watch", "--watch-grace-s", "0.1", "--watched-users", "1000"),
        *("--watches-per-s", "1000000", "--watch-burst", "1000000"),
    ),
    "rooms": ("--rooms", "--room-members", "100000", "--publishes-per-s", "1000000"),
}
"""The systems, and what their gateways have in addition."""


@dataclass(frozen=True)
class FeatureExtent:
    """How much is measured."""

    rounds: int
    seconds: float
    """Of each phase."""
    room_members: int
    idle_users: int


NORMAL: Final = FeatureExtent(rounds=15, seconds=1.0, room_members=5_000, idle_users=10_000)
SMOKE: Final = FeatureExtent(rounds=1, seconds=0.5, room_members=100, idle_users=200)


@dataclass(frozen=True)
class CpuCost:
    """CPU of one thing that was done, in microseconds."""

    gateways_us: float
    redis_us: float

    @property
    def all_us(self) -> float:
        return self.gateways_us + self.redis_us


@dataclass
class CpuUsed:
    """CPU that a system has used, in seconds."""

    gateways_s: float = 0.0
    redis_s: float = 0.0

    def each(self, count: int) -> CpuCost:
        """Return the cost of one of so many."""
        return CpuCost(1e6 * self.gateways_s / count, 1e6 * self.redis_s / count)


@dataclass(frozen=True)
class CostRow:
    """One line of the table: what is compared with what."""

    name: str
    phase: str
    base: str
    target: float | None = None
    """The most that the median of the ratios may be."""
    only_gateways: bool = False
    """Whether the CPU of Redis is left out."""


MESSAGE: Final = "a plain message"
FEW: Final = "a plain message, 64 in flight in all"
SPARSE: Final = "a plain message, 1,000 a second"
LOGIN: Final = "a login and a leave"
ROWS: Final = (
    CostRow("plain, on a gateway with --durable", "plain on durable", MESSAGE, 1.03),
    CostRow("durable", "durable", MESSAGE, 2.5),
    CostRow("durable, 1,000 a second", "durable, 1,000 a second", SPARSE),
    CostRow("--devices 2, the user has one", "one device", MESSAGE),
    CostRow("--devices 2, the user has two", "two devices", MESSAGE),
    CostRow("a copy in a room, eight publishes at once", "room, eight", FEW, 0.25, True),
    CostRow("a copy in a room, one publish at a time", "room", FEW, None, True),
    CostRow("--watch, nobody watches", "login, not watched", LOGIN),
    CostRow(f"--watch, {WATCHERS} others are told of both", "login, watched", LOGIN),
)


@dataclass
class FeatureCosts:
    """All measurements of a run: by phase, one of each round."""

    samples: dict[str, list[CpuCost]] = field(default_factory=dict)
    memory: list[IdleCost] = field(default_factory=list)

    def ratios(self, row: CostRow) -> list[float]:
        """Return the ratio of each round."""
        pairs = zip(self.samples[row.phase], self.samples[row.base], strict=True)
        if row.only_gateways:
            return [mine.gateways_us / base.gateways_us for mine, base in pairs]
        return [mine.all_us / base.all_us for mine, base in pairs]

    def too_dear(self) -> list[str]:
        """Return the rows whose median is above their target."""
        return [
            row.name
            for row in ROWS
            if row.target is not None and statistics.median(self.ratios(row)) > row.target
        ]


class FeatureBench:
    """The systems with their loads, and what is measured on them.

    Args:
        stack: ends them.
    """

    def __init__(self, extent: FeatureExtent, stack: contextlib.ExitStack, say: Say) -> None:
        self._extent, self._stack, self._say = extent, stack, say
        self.costs = FeatureCosts()
        self._systems = {name: self._start(name) for name in FEATURE_FLAGS}
        say("connecting users")
        self._talkers = self._connect("plain", USERS, {})
        self._plain_on_durable = self._connect("durable", USERS, {}, prefix="p")
        self._durable = self._connect("durable", USERS, {"resume": {}}, durable=True)
        self._one_device = self._connect("devices", USERS, {"device": "phone"}, prefix="p")
        self._phones = self._connect("devices", USERS, {"device": "phone"})
        self._connect("devices", USERS, {"device": "laptop"})
        self._members = self._connect("rooms", extent.room_members, {})
        self._members.do("join", room=ROOM, at_a_time=AT_A_TIME)
        self._watchers = self._connect("watch", WATCHERS, {}, prefix="w")
        self._watched = [f"{WATCHED_PREFIX}{n}" for n in range(min(WATCHED, extent.room_members))]
        self._watchers.do("watch", names=self._watched)

    def _start(self, name: str) -> System:
        self._say(f"starting {name}")
        system = quiet(*FREE, *FEATURE_FLAGS[name])
        system.name = name
        return self._stack.enter_context(system)

    def _load(self, name: str) -> LoadProcess:
        return self._stack.enter_context(LoadProcess(name, "benchmarks.feature_load"))

    def _connect(
        self,
        name: str,
        users: int,
        register: dict[str, Any],
        durable: bool = False,
        prefix: str = "u",
    ) -> LoadProcess:
        load, ports = self._load(name), self._systems[name].ports
        load.do("speak", register=register, durable=durable)
        load.do("connect", ports=ports, count=users, prefix=prefix, at_a_time=AT_A_TIME)
        return load

    # --- what is measured --------------------------------------------------------------------

    def round(self, number: int) -> None:
        """Measure everything once; every other round backwards."""
        measurements = list(self._measurements())
        for phase, measure in measurements[:: 1 if number % 2 else -1]:
            self._say(f"round {number}: {phase}")
            self.costs.samples.setdefault(phase, []).append(measure())

    def _measurements(self) -> Iterator[tuple[str, Callable[[], CpuCost]]]:
        yield MESSAGE, lambda: self._talk("plain", self._talkers)
        yield FEW, lambda: self._few_in_flight("plain", self._talkers)
        yield "plain on durable", lambda: self._talk("durable", self._plain_on_durable)
        yield "durable", lambda: self._talk("durable", self._durable)
        yield "one device", lambda: self._talk("devices", self._one_device)
        yield "two devices", lambda: self._talk("devices", self._phones)
        yield "room", lambda: self._publish(1)
        yield "room, eight", lambda: self._publish(8)
        yield SPARSE, lambda: self._at_a_rate("plain", self._talkers)
        yield "durable, 1,000 a second", lambda: self._at_a_rate("durable", self._durable)
        yield LOGIN, lambda: self._log_in("plain", WATCHED_PREFIX)
        yield "login, not watched", lambda: self._log_in("watch", "n")
        yield "login, watched", lambda: self._log_in("watch", WATCHED_PREFIX)

    def _talk(self, name: str, load: LoadProcess) -> CpuCost:
        plan = {"pairs": PAIRS, "in_flight": IN_FLIGHT, "size": CONTENT_BYTES}
        return self._measure(name, load, "talk", plan)

    def _few_in_flight(self, name: str, load: LoadProcess) -> CpuCost:
        """Measure what `make bench` calls saturation: 200 senders with 64 messages together."""
        plan = {"shape": "cross", "in_flight": IN_FLIGHT, "size": CONTENT_BYTES}
        return self._measure(name, load, "closed", plan)

    def _at_a_rate(self, name: str, load: LoadProcess) -> CpuCost:
        plan = {"shape": "cross", "rate": 1_000, "size": CONTENT_BYTES}
        return self._measure(name, load, "open", plan)

    def _publish(self, in_flight: int) -> CpuCost:
        plan = {"room": ROOM, "in_flight": in_flight, "size": CONTENT_BYTES}
        return self._measure("rooms", self._members, "publish", plan)

    def _measure(self, name: str, load: LoadProcess, action: str, plan: dict[str, Any]) -> CpuCost:
        with self._used_by(name) as used:
            result = load.do(action, **plan, seconds=self._extent.seconds)
        if result["cut"] or result["lost"] or not result["delivered"]:
            what = {key: result[key] for key in ("cut", "lost", "delivered")}
            raise Failed(f"{action} on {name}: {what}")
        return used.each(result["delivered"])

    def _log_in(self, name: str, prefix: str) -> CpuCost:
        """Let users come and go, until they have left Redis and those who watch them know it."""
        system, users = self._systems[name], len(self._watched)
        is_watched = name == "watch" and prefix == WATCHED_PREFIX
        if is_watched:
            self._watchers.do("expect", events=2 * WATCHERS * users)
        gone = _releases(system) + users
        with LoadProcess(name) as load, self._used_by(name) as used:
            plan = {"ports": system.ports, "prefix": prefix, "at_a_time": AT_A_TIME}
            load.do("connect", count=users, **plan)
            load.do("disconnect")
            _await(f"users of {name} leave", lambda: _releases(system) >= gone)
            if is_watched:
                self._watchers.do("await_told")
        return used.each(users)

    @contextlib.contextmanager
    def _used_by(self, name: str) -> Iterator[CpuUsed]:
        """Measure the CPU that a system uses meanwhile."""
        system, used = self._systems[name], CpuUsed()
        gateways_s, redis_s = system.cpu_s(), system.redis_cpu_s()
        yield used
        used.gateways_s = system.cpu_s() - gateways_s
        used.redis_s = system.redis_cpu_s() - redis_s


def _releases(system: System) -> int:
    count = counted(system, "releases_removed")
    if count is None:
        raise Failed(f"{system.name} does not tell how many users have left")
    return count


def _await(what: str, condition: Callable[[], bool]) -> None:
    gives_up_at = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > gives_up_at:
            raise Failed(f"not within {PATIENCE_S:g} s: {what}")
        time.sleep(0.05)


def measure_features(extent: FeatureExtent, say: Say) -> FeatureCosts:
    """Measure everything."""
    with contextlib.ExitStack() as stack:
        bench = FeatureBench(extent, stack, say)
        for number in range(1, extent.rounds + 1):
            bench.round(number)
    costs = bench.costs
    if extent.idle_users:
        costs.memory = measure_memory(extent.idle_users, say)
    return costs


# --- what is shown -------------------------------------------------------------------------------


def table(costs: FeatureCosts) -> str:
    """Return the table: a comparison a line, then the memory of idle users."""
    lines = [
        f"{'CPU of gateways and Redis, by median':<42}{'µs':>8}{'gateways':>10}{'Redis':>8}"
        f"{'ratio':>8}  {'middle half':<16}target"
    ]
    lines += [_phase_line(costs, base) for base in dict.fromkeys(row.base for row in ROWS)]
    lines += [_row_line(costs, row) for row in ROWS]
    lines += [
        f"{idle.users:,} idle users, {idle.system}: {idle.gateway_bytes / 1024:.1f} KiB each in "
        f"the gateway, {idle.python_bytes / 1024:.1f} KiB allocated by Python, "
        f"{idle.redis_bytes / 1024:.2f} KiB in Redis"
        for idle in costs.memory
    ]
    return "\n".join(lines)


def _phase_line(costs: FeatureCosts, phase: str) -> str:
    """Return the start of a line: what one of these costs."""
    samples = costs.samples[phase]
    whole, gateways, in_redis = (
        statistics.median(getattr(sample, kind) for sample in samples)
        for kind in ("all_us", "gateways_us", "redis_us")
    )
    return f"{phase:<42}{whole:>8.1f}{gateways:>10.1f}{in_redis:>8.1f}"


def _row_line(costs: FeatureCosts, row: CostRow) -> str:
    ratios = costs.ratios(row)
    spread = "{:.2f} to {:.2f}".format(*middle_half(ratios))
    costs_of_phase = _phase_line(costs, row.phase)[42:]
    line = f"{row.name:<42}{costs_of_phase}{statistics.median(ratios):>8.2f}  {spread:<16}"
    target = [] if row.target is None else [f"at most {row.target:g}"]
    return line + ", ".join([*target, *(["gateways only"] if row.only_gateways else [])])


def middle_half(ratios: Sequence[float]) -> tuple[float, float]:
    """Return the quartiles: half of the ratios lie between them."""
    if len(ratios) == 1:
        return ratios[0], ratios[0]
    low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return low, high


def document(costs: FeatureCosts) -> dict[str, Any]:
    """Return everything that was measured, for the JSON file."""
    return {
        "machine": {"python": platform.python_version(), "platform": platform.platform()},
        "rows": [{**dataclasses.asdict(row), "ratios": costs.ratios(row)} for row in ROWS],
        "samples": {
            phase: [dataclasses.asdict(sample) for sample in samples]
            for phase, samples in costs.samples.items()
        },
        "memory": [dataclasses.asdict(idle) for idle in costs.memory],
    }


def arguments_of(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser("benchmarks.features", description=__doc__)
    add = parser.add_argument
    add("--rounds", type=positive_int, help=f"of all phases ({NORMAL.rounds})")
    add("--seconds", type=positive_float, help=f"a phase, 0.1 to 60 ({NORMAL.seconds:g})")
    add("--members", type=positive_int, help=f"of the room ({NORMAL.room_members})")
    add("--idle", type=positive_int, help=f"idle users ({NORMAL.idle_users})")
    add("--smoke", action="store_true", help="half a minute: does it run?")
    add("--out", type=new_directory, default=Path("benchmarks/results"), help="(%(default)s)")
    arguments = parser.read(argv)
    if arguments.seconds is not None and not 0.1 <= arguments.seconds <= 60:
        parser.error("--seconds must be between 0.1 and 60")
    if arguments.idle is not None and arguments.idle < LEAST_IDLE:
        parser.error(f"--idle must be at least {LEAST_IDLE}")
    return arguments


def extent_of(arguments: argparse.Namespace) -> FeatureExtent:
    """Return how much the command line asks for."""
    given = {
        "rounds": arguments.rounds,
        "seconds": arguments.seconds,
        "room_members": arguments.members,
        "idle_users": arguments.idle,
    }
    base = SMOKE if arguments.smoke else NORMAL
    return dataclasses.replace(base, **{k: v for k, v in given.items() if v is not None})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    arguments = arguments_of(argv)
    extent = extent_of(arguments)
    with running() as say:
        allow_many_files(max(extent.idle_users, extent.room_members) + SPARE_FILES)
        arguments.out.mkdir(parents=True, exist_ok=True)
        costs = measure_features(extent, say)
    content = json.dumps(document(costs), indent=1)
    (arguments.out / "features.json").write_text(content + "\n")
    sys.stdout.write(table(costs) + "\n")
    too_dear = costs.too_dear()
    if too_dear:
        sys.stderr.write(f"above the target: {', '.join(too_dear)}\n")
    return 1 if too_dear else 0


if __name__ == "__main__":
    sys.exit(main())

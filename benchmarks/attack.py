"""Latency under attack, `python -m benchmarks.attack`: what do its neighbours notice?

Two hundred users talk across two gateways at 1,000 messages a second, each message through the
gateway that is attacked. Their p99 with one attacker is compared with their p99 without one, in
turns within each round; the median of the ratios of all rounds is reported.

The attacker is a process of its own, and its rates are bounded: on a machine with few cores it
could otherwise take a core away, which says nothing about the gateway. So the ratio is that of one
attacker with this rate, not of the worst attacker possible. The limit of messages is set low (200 a
second instead of 1,000), so that ten times the limit is within these rates. The limits for one
address are on for loopback as well; neighbours and attacker have the same address.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.phases import CONTENT_BYTES, USERS, BenchPhase, Measurement, Say, measure
from benchmarks.running import running
from benchmarks.systems import LoadProcess, System, wsdemo
from wsdemo.command_line import Parser, positive_float, positive_int

MESSAGES_PER_S = 200
LIMITS = {
    "messages_per_s": MESSAGES_PER_S,
    "message_burst": 2 * MESSAGES_PER_S,
    "unregistered_per_ip": 5,
    "connections_per_ip": 10_000,
}
"""Of the gateways that are attacked, where they differ from the defaults."""
CONNECT_AT_A_TIME = 4
"""Neighbours that register at once, below the limit of unregistered sockets."""
HEAD_START_S = 1.0
"""How long an attack lasts before the neighbours' latencies count."""
PATIENCE_S = 20.0


@dataclass(frozen=True)
class Attack:
    """One attack: its name, what the attacker does, and how often a second."""

    name: str
    action: str
    rate: float


ATTACKS = (
    Attack("slow reader", "slow_reader", 2_000),
    Attack("ping flood", "ping_flood", 5_000),
    Attack("1,000 silent sockets", "silent_sockets", 1_000),
    Attack("message flood", "message_flood", 10 * MESSAGES_PER_S),
)


@dataclass
class AttackEffect:
    """What one attack did to the neighbours, and what the gateway did to the attacker."""

    with_p99_ms: float
    without_p99_ms: float
    ratio: float
    lost: int
    """Messages of the neighbours that did not arrive."""
    sent: int
    """Shots of the attacker, over all rounds."""
    did: dict[str, int]


def target() -> System:
    """Return two gateways with the limits of this module."""
    flags = ["--limit-loopback"]
    for name, value in LIMITS.items():
        flags += [f"--{name.replace('_', '-')}", str(value)]
    return wsdemo(*flags)


class AttackRun:
    """A system, its neighbours, and one attacker.

    Args:
        seconds: how long the neighbours are measured each time.
    """

    def __init__(self, system: System, neighbours: LoadProcess, seconds: float, say: Say) -> None:
        self._system = system
        self._neighbours = neighbours
        self._say = say
        self._seconds = seconds
        plan = {"shape": "cross", "rate": 1_000, "size": CONTENT_BYTES, "seconds": seconds}
        self._phase = BenchPhase("neighbours", "open", plan)
        self.calm: list[Measurement] = []
        self.under: dict[str, list[Measurement]] = {attack.name: [] for attack in ATTACKS}
        self.sent: Counter[str] = Counter()
        self.did: dict[str, Counter[str]] = {attack.name: Counter() for attack in ATTACKS}

    def round(self, number: int) -> None:
        """Measure the neighbours alone, and under each attack."""
        self._say(f"round {number}: no attack")
        self.calm.append(self._measure(number))
        for attack in ATTACKS:
            self._say(f"round {number}: {attack.name}")
            self._measure_under(attack, number)

    def _measure_under(self, attack: Attack, number: int) -> None:
        lasts_s = HEAD_START_S + self._seconds
        with LoadProcess(attack.name, "benchmarks.attacker") as attacker:
            attacker.start(
                attack.action, port=self._system.ports[0], seconds=lasts_s, rate=attack.rate
            )
            self._warm_up(number)
            self.under[attack.name].append(self._measure(number))
            result = attacker.result(lasts_s + PATIENCE_S)
        self.sent[attack.name] += result["sent"]
        self.did[attack.name].update(result["did"])

    def _warm_up(self, number: int) -> None:
        plan = {**self._phase.plan, "seconds": HEAD_START_S}
        measure(BenchPhase("neighbours", "open", plan), self._system, self._neighbours, number)

    def _measure(self, number: int) -> Measurement:
        return measure(self._phase, self._system, self._neighbours, number)

    def result(self) -> dict[str, AttackEffect]:
        """Return what the neighbours noticed, by attack."""
        calm = [sample.percentile_ms(0.99) for sample in self.calm]
        effects = {}
        for name, samples in self.under.items():
            p99 = [sample.percentile_ms(0.99) for sample in samples]
            effects[name] = AttackEffect(
                statistics.median(p99),
                statistics.median(calm),
                statistics.median(a / b for a, b in zip(p99, calm, strict=True)),
                sum(sample.lost for sample in samples),
                self.sent[name],
                dict(self.did[name]),
            )
        return effects


def measure_attacks(rounds: int, seconds: float, say: Say) -> dict[str, AttackEffect]:
    """Attack two new gateways."""
    say("starting gateways to attack")
    with target() as system, LoadProcess("neighbours") as neighbours:
        neighbours.do(
            "connect", ports=system.ports, count=USERS, prefix="u", at_a_time=CONNECT_AT_A_TIME
        )
        attack_run = AttackRun(system, neighbours, seconds, say)
        for number in range(1, rounds + 1):
            attack_run.round(number)
    return attack_run.result()


def table(attacks: dict[str, AttackEffect]) -> str:
    """Return the table: an attack a line."""
    lines = [f"{'neighbours of':<22}{'p99 ms':>8}{'without':>9}{'ratio':>7}  the attacker was"]
    for name, seen in attacks.items():
        did = ", ".join(f"{what} x{count:,}" for what, count in seen.did.items()) or "left alone"
        lost = f" ({seen.lost} of the neighbours' messages lost)" if seen.lost else ""
        lines.append(
            f"{name:<22}{seen.with_p99_ms:>8.1f}{seen.without_p99_ms:>9.1f}{seen.ratio:>7.2f}"
            f"  {did}{lost}"
        )
    return "\n".join(lines)


def document(attacks: dict[str, AttackEffect]) -> dict[str, dict[str, object]]:
    """Return the attacks for the JSON file."""
    return {name: dataclasses.asdict(seen) for name, seen in attacks.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = Parser("benchmarks.attack", description=__doc__)
    parser.add_argument("--rounds", type=positive_int, default=5)
    parser.add_argument(
        "--seconds", type=positive_float, default=3.0, help="each time (%(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    arguments = parser.read(argv)
    with running() as say:
        attacks = measure_attacks(arguments.rounds, arguments.seconds, say)
    content = json.dumps(document(attacks), indent=1) if arguments.json else table(attacks)
    sys.stdout.write(content + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Report: how are the results of a run shown? As a table, a JSON file, and figures whose titles say
what was found.
"""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from benchmarks import attack
from benchmarks.attack import AttackEffect
from benchmarks.phases import STORM_PHASE, Bench, Growth, Idle, Measurement
from benchmarks.steps import MOST, Steps
from benchmarks.systems import QUIET

STYLES = (("#0072B2", "", "-"), ("#E69F00", "//", "--"), ("#009E73", "..", "-."))
"""Colour, hatch and dash of each system, in order: no two differ by colour alone."""
RATIO_LIMITS = {"saturation": 0.5}
"""What a phase may cost of what it costs on the first baseline, where that is not 1: far above what
is measured, so that noise cannot reach it."""
RATES = {"1,000 a second": "latency_at_1000", "4,000 a second": "latency_at_4000"}
"""Phases whose latencies are drawn, and the names of their pictures."""


@dataclass(frozen=True)
class Results:
    """All measurements of a run. The first system is ours; it is compared with the others."""

    bench: Bench
    idle: Sequence[Idle]
    growth: Growth | None
    floors_us: dict[str, float]
    attacks: dict[str, AttackEffect]
    steps: Steps | None = None

    @property
    def names(self) -> list[str]:
        """Return what the systems are called."""
        return [system.name for system in self.bench.systems]

    @property
    def phases(self) -> list[str]:
        """Return what the phases are called, in order."""
        return list(dict.fromkeys(sample.phase for sample in self.bench.samples))

    def ratio(self, phase: str, base: str) -> float:
        """Return what ours costs in a phase, divided by what `base` does."""
        return self.bench.ratio(phase, self.names[0], base)

    def too_dear(self) -> list[str]:
        """Return the phases in which ours costs more of the first baseline than it may."""
        ratios = {phase: self.ratio(phase, self.names[1]) for phase in self.phases}
        limits = {phase: RATIO_LIMITS.get(phase, 1.0) for phase in ratios}
        return [
            f"{phase} ({ratio:.2f}, must be below {limits[phase]:g})"
            for phase, ratio in ratios.items()
            if ratio >= limits[phase]
        ]


# --- the table -----------------------------------------------------------------------------------


def table(results: Results) -> str:
    """Return the table: a phase a line. Costs are CPU of the gateways, in microseconds."""
    width = 9 * len(results.names) + 4
    shares = "".join(f"{f'/ {base}':>14}" for base in results.names[1:])
    costs = "".join(f"{name:>11}" for name in results.names)
    p50, p99, rate = "p50 ms", "p99 ms", "a second"
    lines = [f"{'CPU, µs a message':<20}{costs}{shares}{p50:>{width}}{p99:>{width}}{rate:>{width}}"]
    lines += [_line(results, phase, width) for phase in results.phases]
    lines += [*_lost(results), *_idle(results), *_growth(results), *_log(results)]
    lines += _steps(results)
    lines += [f"floor, {name}: {us:.1f} µs a message" for name, us in results.floors_us.items()]
    if results.attacks:
        lines += ["", attack.table(results.attacks)]
    return "\n".join(lines)


def _line(results: Results, phase: str, width: int) -> str:
    bench, names = results.bench, results.names
    costs = "".join(f"{bench.median_cost_us(phase, name):>11.1f}" for name in names)
    ratios = "".join(f"{results.ratio(phase, base):>14.2f}" for base in names[1:])
    p50, p99 = (
        " / ".join(_number(bench.percentile_ms(phase, name, share)) for name in names)
        for share in (0.5, 0.99)
    )
    rates = " / ".join(f"{bench.median_rate(phase, name):,.0f}" for name in names)
    return f"{phase:<20}{costs}{ratios}{p50:>{width}}{p99:>{width}}{rates:>{width}}"


def _number(value_ms: float) -> str:
    return "-" if value_ms != value_ms else f"{value_ms:.1f}"


def _lost(results: Results) -> list[str]:
    lines = []
    for phase in results.phases:
        for name in results.names:
            lost = sum(sample.lost for sample in results.bench.of(phase, name))
            if lost:
                lines.append(f"{name} had not delivered {lost:,} messages of: {phase}")
    return lines


def _idle(results: Results) -> list[str]:
    lines = []
    for item in results.idle:
        text = (
            f"{item.connections:,} idle users on {item.system}: {item.bytes_each / 1024:.1f} KiB "
            f"each; heartbeats and refreshes {100 * item.heartbeat_cpu_share:.2f} % of one core"
        )
        counted = "" if item.refreshes is None else f" ({item.refreshes:,} leases renewed)"
        lines.append(text + counted)
    return lines


def _growth(results: Results) -> list[str]:
    growth = results.growth
    if growth is None:
        return []
    return [
        f"a message on {growth.system} among {growth.few:,} users: {growth.few_us:.1f} µs, "
        f"among {growth.many:,}: {growth.many_us:.1f} µs, ratio {growth.ratio:.2f} "
        f"({growth.ratio_of_messages:.2f} without the heartbeats of so many)"
    ]


def _log(results: Results) -> list[str]:
    if QUIET not in results.names:
        return []
    return [f"{QUIET}: {results.names[0]} with --log-level warning, no line a message"]


def _steps(results: Results) -> list[str]:
    steps = results.steps
    if steps is None:
        return []
    return [
        f"a message takes {steps.python:.1f} calls of our functions (at most {MOST.python:g}), and "
        f"these make {steps.c:.1f} calls of C code (at most {MOST.c:g})"
    ]


# --- the files -----------------------------------------------------------------------------------


def document(results: Results) -> dict[str, Any]:
    """Return everything that was measured."""
    bench, (mine, *bases) = results.bench, results.names
    return {
        "machine": {"python": platform.python_version(), "platform": platform.platform()},
        "systems": results.names,
        "ratios": {phase: results.ratio(phase, bases[0]) for phase in results.phases},
        "ratios_of_rounds": {
            base: {phase: bench.ratios(phase, mine, base) for phase in results.phases}
            for base in bases
        },
        "samples": [dataclasses.asdict(sample) for sample in bench.samples],
        "idle": [dataclasses.asdict(item) for item in results.idle],
        "growth": dataclasses.asdict(results.growth) if results.growth else None,
        "floors_us": results.floors_us,
        "attack": attack.document(results.attacks),
        "steps": dataclasses.asdict(results.steps) if results.steps else None,
    }


def write(directory: Path, results: Results) -> None:
    """Write the JSON file and the pictures."""
    directory.mkdir(parents=True, exist_ok=True)
    content = json.dumps(document(results), indent=1)
    (directory / "benchmark.json").write_text(content + "\n")
    for name, figure in figures(results).items():
        figure.savefig(directory / f"{name}.png", dpi=110)


# --- pictures ------------------------------------------------------------------------------------


def figures(results: Results) -> dict[str, Figure]:
    """Return the pictures, by file name."""
    drawn = {"cpu_per_message": cost_bars(results)}
    for phase, name in RATES.items():
        drawn[name] = latency_ecdf(results, phase)
    if results.idle:
        drawn["memory_per_connection"] = memory_bars(results.idle)
    return drawn


def cost_bars(results: Results) -> Figure:
    """CPU a message, phase by phase, all systems."""
    phases = [phase for phase in results.phases if phase != STORM_PHASE.name]
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(results.names)
    for number, (name, style) in enumerate(zip(results.names, STYLES, strict=False)):
        offset = (number - (len(results.names) - 1) / 2) * width
        bars = axes.bar(
            [n + offset for n in range(len(phases))],
            [results.bench.median_cost_us(phase, name) for phase in phases],
            width,
            label=name,
            color=style[0],
            hatch=style[1],
            edgecolor="white",
        )
        axes.bar_label(bars, fmt="{:.0f}", padding=2)
    axes.set_xticks(range(len(phases)), phases)
    axes.set_ylabel("gateway CPU, µs a message")
    base = results.names[1]
    _title(
        axes,
        f"At saturation a message costs {results.ratio(phases[0], base):.2f} of the {base}'s CPU",
    )
    _finish(axes)
    return figure


def latency_ecdf(results: Results, phase: str) -> Figure:
    """The latencies of a phase, counted from when a message was due.

    A thick line is the round whose p99 is the median; the thin ones are the other rounds.
    """
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    axes = figure.add_subplot()
    p99 = []
    for name, (colour, _, dash) in zip(results.names, STYLES, strict=False):
        rounds = sorted(results.bench.of(phase, name), key=lambda s: s.percentile_ms(0.99))
        middle = rounds[(len(rounds) - 1) // 2]
        p99.append(middle.percentile_ms(0.99))
        for sample in rounds:
            chosen = sample is middle
            axes.ecdf(
                _latencies_ms(sample),
                label=f"{name}, 99 % within {p99[-1]:,.1f} ms" if chosen else None,
                color=colour,
                linestyle=dash,
                linewidth=2.2 if chosen else 0.7,
                alpha=1 if chosen else 0.5,
            )
    axes.set_xscale("log")
    axes.axhline(0.99, color="0.6", linewidth=0.7, zorder=0)
    # Powers of ten with minor labels collide; 1, 2 and 5 of each decade do not.
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_yticks([0, 0.25, 0.5, 0.75, 0.9, 0.99])
    axes.set_xlabel("latency from the moment a message was due, ms (thin: the other rounds)")
    axes.set_ylabel("share of messages")
    base = results.names[1]
    _title(axes, f"At {phase}, 99 % arrive within {p99[0]:.1f} ms ({base}: {p99[1]:,.1f} ms)")
    _finish(axes, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def _latencies_ms(sample: Measurement) -> list[float]:
    return [latency / 1000 for latency in sample.latencies_us]


def memory_bars(idle: Sequence[Idle]) -> Figure:
    """Memory of an idle, registered connection."""
    figure = Figure(figsize=(8.4, 1.4 + 0.6 * len(idle)), layout="constrained")
    axes = figure.add_subplot()
    values = [item.bytes_each / 1024 for item in idle]
    bars = axes.barh([item.system for item in idle], values, edgecolor="white")
    for bar, style in zip(bars, STYLES, strict=False):
        bar.set_facecolor(style[0])
        bar.set_hatch(style[1])
    axes.bar_label(bars, fmt="{:.1f} KiB", padding=4)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.2 * max(values))
    axes.set_xlabel(f"KiB of gateway memory a connection, {idle[0].connections:,} connections")
    share = values[0] / values[1]
    _title(axes, f"An idle user takes {values[0]:.1f} KiB, {share:.2f} of the {idle[1].system}'s")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _title(axes: Any, text: str) -> None:
    axes.set_title(text, loc="left", weight="bold")


def _finish(axes: Any, **legend: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, **legend)

"""How is a run shown? One table, one JSON file, three pictures."""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from benchmarks.phases import Bench, Idle

COLOURS = {"wsdemo": "#0072B2", "plain port": "#E69F00"}
HATCHES = {"wsdemo": "", "plain port": "//"}
DASHES = {"wsdemo": "-", "plain port": "--"}


def table(
    bench: Bench, ours: str, base: str, idle: Sequence[Idle], floors: dict[str, float]
) -> str:
    """Return the table: a phase a line. Costs are CPU of the gateways, in microseconds."""
    systems = (ours, base)
    lines = [f"{'phase':<20}{ours:>10}{base:>12}  {'ratio':>6}{'p50 ms':>15}{'p99 ms':>15}"]
    for phase in dict.fromkeys(sample.phase for sample in bench.samples):
        mine, theirs = (bench.median_cost_us(phase, system) for system in systems)
        p50, p99 = (_both(bench, phase, systems, share) for share in (0.5, 0.99))
        ratio = bench.ratio(phase, ours, base)
        lines.append(f"{phase:<20}{mine:>10.1f}{theirs:>12.1f}  {ratio:>6.2f}{p50:>15}{p99:>15}")
    for item in idle:
        lines.append(
            f"{item.connections:,} idle users on {item.system}: {item.bytes_each / 1024:.1f} KiB "
            f"each, heartbeats {100 * item.heartbeat_cpu_share:.2f} % of a core, "
            f"{item.cost_us:.1f} µs a message among them"
        )
    for name, cost_us in floors.items():
        lines.append(f"floor, {name}: {cost_us:.1f} µs a message")
    return "\n".join(lines)


def _both(bench: Bench, phase: str, systems: tuple[str, str], share: float) -> str:
    words = []
    for system in systems:
        values = sorted(x for sample in bench.of(phase, system) for x in sample.latencies_us)
        words.append(f"{values[int(share * (len(values) - 1))] / 1000:.1f}" if values else "-")
    return " / ".join(words)


def document(
    bench: Bench, ours: str, base: str, idle: Sequence[Idle], floors: Any
) -> dict[str, Any]:
    """Return everything that was measured."""
    phases = dict.fromkeys(sample.phase for sample in bench.samples)
    return {
        "machine": {"python": platform.python_version(), "platform": platform.platform()},
        "ratios": {phase: bench.ratio(phase, ours, base) for phase in phases},
        "samples": [dataclasses.asdict(sample) for sample in bench.samples],
        "idle": [dataclasses.asdict(item) for item in idle],
        "floors_us": floors,
    }


def write(directory: Path, content: dict[str, Any], figures: dict[str, Figure]) -> None:
    """Write the JSON file and the pictures."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "benchmark.json").write_text(json.dumps(content, indent=1) + "\n")
    for name, figure in figures.items():
        figure.savefig(directory / f"{name}.png", dpi=110)


# --- pictures ------------------------------------------------------------------------------------


def figures(bench: Bench, ours: str, base: str, idle: Sequence[Idle]) -> dict[str, Figure]:
    """Return the pictures, by file name."""
    result = {
        "cpu_per_message": cost_bars(bench, ours, base),
        "latency_at_1000": latency_ecdf(bench, "1,000 a second", (ours, base)),
    }
    if idle:
        result["memory_per_connection"] = memory_bars(idle)
    return result


def cost_bars(bench: Bench, ours: str, base: str) -> Figure:
    """CPU a message, phase by phase, both systems."""
    phases = [p for p in dict.fromkeys(s.phase for s in bench.samples) if p != "registration storm"]
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for offset, system in ((-0.2, ours), (0.2, base)):
        values = [bench.median_cost_us(phase, system) for phase in phases]
        bars = axes.bar(
            [n + offset for n in range(len(phases))],
            values,
            0.4,
            label=system,
            color=COLOURS[system],
            hatch=HATCHES[system],
            edgecolor="white",
        )
        axes.bar_label(bars, fmt="{:.0f}", padding=2)
    axes.set_xticks(range(len(phases)), phases)
    axes.set_ylabel("gateway CPU, µs a message")
    ratio = bench.ratio(phases[0], ours, base)
    axes.set_title(
        f"At saturation a message costs {ratio:.2f} of the plain port's CPU",
        loc="left",
        weight="bold",
    )
    _finish(axes)
    return figure


def latency_ecdf(bench: Bench, phase: str, systems: tuple[str, str]) -> Figure:
    """The latencies of a phase, counted from when a message was due."""
    figure = Figure(figsize=(7.2, 3.8), layout="constrained")
    axes = figure.add_subplot()
    p99 = []
    for system in systems:
        values = [x / 1000 for sample in bench.of(phase, system) for x in sample.latencies_us]
        axes.ecdf(
            values,
            label=f"{system} (n={len(values):,})",
            color=COLOURS[system],
            linestyle=DASHES[system],
            linewidth=2,
        )
        p99.append(sorted(values)[int(0.99 * (len(values) - 1))])
    axes.set_xscale("log")
    # Powers of ten with minor labels collide; 1, 2 and 5 of each decade do not.
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_yticks([0, 0.25, 0.5, 0.75, 0.9, 0.99])
    axes.set_xlabel("latency from the moment a message was due, ms")
    axes.set_ylabel("share of messages")
    axes.set_title(
        f"At {phase}, 99 % arrive within {p99[0]:.1f} ms (plain port: {p99[1]:.1f} ms)",
        loc="left",
        weight="bold",
    )
    _finish(axes)
    return figure


def memory_bars(idle: Sequence[Idle]) -> Figure:
    """Memory of an idle, registered connection."""
    figure = Figure(figsize=(7.2, 2.6), layout="constrained")
    axes = figure.add_subplot()
    names = [item.system for item in idle]
    values = [item.bytes_each / 1024 for item in idle]
    bars = axes.barh(names, values, color=[COLOURS[name] for name in names], edgecolor="white")
    for bar, name in zip(bars, names, strict=True):
        bar.set_hatch(HATCHES[name])
    axes.bar_label(bars, fmt="{:.1f} KiB", padding=4)
    axes.set_xlim(0, 1.2 * max(values))
    axes.set_xlabel(f"KiB of gateway memory a connection, {idle[0].connections:,} connections")
    axes.set_title(f"An idle user takes {values[0]:.1f} KiB", loc="left", weight="bold")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _finish(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)

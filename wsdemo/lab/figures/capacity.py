"""Capacity: at how many users is a process full, and which assumption matters most?

Two figures. `capacity` draws what users demand against what one process can give, on logarithmic
axes, with the crossings marked. `tornado` draws what an error in each assumption does to the
result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, NullLocator

from wsdemo.drawing.labels import Placer, Spot
from wsdemo.drawing.style import (
    BLUE,
    FONT_PT,
    GREEN,
    INK,
    ORANGE,
    SKY,
    VERMILLION,
    Picture,
    Role,
    claim,
    freeze_layout,
    in_house_style,
    note,
    picture,
    tell,
)
from wsdemo.drawing.words import number, percent, plain

USERS: Final = (1_000.0, 10_000_000.0)
ROLES: Final = (Role(BLUE, "", "o", "-"), Role(GREEN, "//", "s", (0, (5, 2))))
ROW_IN: Final = 0.33
TITLE: Final = "One {first} is full at {first_users} users, one {second} at {second_users}"
TORNADO_TITLE: Final = "{error} more or less of “{worst}” change the result by up to {change}"


class CapacityLine(NamedTuple):
    """What one kind of process has to do for users, and what one such process can do."""

    name: str
    each: float
    """CPU for one user, as a share of a core."""
    ceiling: float
    """So much of a core one process may use."""
    plural: str
    """What all of them are called."""
    measured: tuple[float, float] | None = None
    """A real run: users, cores."""

    @property
    def full_at(self) -> float:
        """How many users fill one process."""
        return self.ceiling / self.each


@in_house_style
def capacity(lines: Sequence[CapacityLine], *, title: str = TITLE, error: float = 0.2) -> Picture:
    """Draw demand against ceilings.

    Args:
        lines: two kinds of processes.
        title: a template; known facts: first, first_users (which is full first, and at how many
            users), second, second_users.
        error: half the width of the band around each line, as a share.

    Raises:
        ValueError: there are not two of them, or one costs nothing.
    """
    if len(lines) != len(ROLES) or not all(line.each > 0 and line.ceiling > 0 for line in lines):
        raise ValueError("draw two kinds of processes, each of which costs something")
    facts = _facts(lines)
    fig = picture(height_in=4.4)
    ax = fig.add_subplot()
    claim(fig, title, facts)
    for line, role in zip(lines, ROLES, strict=True):
        _draw_line(ax, line, role, error)
    _dress(ax, lines)
    fig.legend(handles=_legend(lines), loc="outside lower left", ncols=4, fontsize=FONT_PT)
    freeze_layout(fig)
    _label(ax, lines)
    caption = (
        f"Both axes are logarithmic. The band is {percent(error)} more and less. A dashed line "
        "across is what one process may use of its core."
    )
    if any(line.measured for line in lines):
        caption += " A diamond is a real run."
    return tell(fig, caption=caption, alt=_alt(lines))


def in_round_numbers(users: float) -> str:
    """Return a number of users with two digits: 7,400 or 1.2 million."""
    if users >= 1e6:
        return f"{users / 1e6:.2g} million"
    digits = 10 ** max(0, len(str(int(users))) - 2)
    return f"{round(users / digits) * digits:,.0f}"


def _facts(lines: Sequence[CapacityLine]) -> dict[str, Any]:
    first, second = sorted(lines, key=lambda line: line.full_at)
    return {
        "first": first.name,
        "first_users": in_round_numbers(first.full_at),
        "second": second.name,
        "second_users": in_round_numbers(second.full_at),
    }


def _draw_line(ax: Axes, line: CapacityLine, role: Role, error: float) -> None:
    cores = [line.each * users for users in USERS]
    less, more = ([c * (1 + sign * error) for c in cores] for sign in (-1, 1))
    ax.fill_between(USERS, less, more, color=role.colour, alpha=0.22, lw=0)
    ax.plot(USERS, cores, color=role.colour, ls=role.dash, lw=2.2)
    ax.axhline(line.ceiling, color=role.colour, ls=(0, (2, 2)), lw=1.4)
    ax.plot(line.full_at, line.ceiling, "X", color=VERMILLION, ms=11, mew=0, zorder=6)
    if line.measured is not None:
        ax.plot(*line.measured, "D", color=role.colour, mec=INK, mew=1.4, ms=8, zorder=5)


def _dress(ax: Axes, lines: Sequence[CapacityLine]) -> None:
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlim(*USERS)
    low = min(line.each for line in lines) * USERS[0]
    ax.set_ylim(low, max(line.each for line in lines) * USERS[1])
    ax.xaxis.set_major_formatter(FuncFormatter(lambda users, _: _short(users)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda cores, _: f"{cores:g}"))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_minor_locator(NullLocator())
    ax.tick_params(labelsize=FONT_PT)
    ax.set_xlabel("users at the same time", fontsize=FONT_PT)
    ax.set_ylabel("cores of CPU", fontsize=FONT_PT)
    ax.grid(which="major", color=INK, alpha=0.2, lw=0.6)


def _short(users: float) -> str:
    return f"{users / 1e6:g} M" if users >= 1e6 else f"{users:,.0f}"


def _legend(lines: Sequence[CapacityLine]) -> list[Line2D]:
    handles = [
        Line2D([], [], color=role.colour, ls=role.dash, lw=2.2, label=f"all {line.plural}")
        for line, role in zip(lines, ROLES, strict=True)
    ]
    cross: dict[str, Any] = {"color": VERMILLION, "marker": "X", "ms": 10, "mew": 0, "ls": "none"}
    handles.append(Line2D([], [], label="one is full", **cross))
    if any(line.measured for line in lines):
        diamond: dict[str, Any] = {"color": "none", "marker": "D", "mec": INK, "mew": 1.4, "ls": ""}
        handles.append(Line2D([], [], label="measured", **diamond))
    return handles


def _label(ax: Axes, lines: Sequence[CapacityLine]) -> None:
    placer, highest = Placer(ax), max(line.ceiling for line in lines)
    low, high = ax.get_ylim()
    for tick in (tick for tick in ax.get_yticks() if low < tick < high):
        placer.line(*ax.transData.transform([(users, tick) for users in USERS]))
    for line in lines:
        placer.line(*ax.transData.transform([(users, line.each * users) for users in USERS]))
    for line, role in zip(lines, ROLES, strict=True):
        right, y = ax.transData.transform((USERS[1], line.ceiling))
        left = ax.bbox.x0 + 4
        words = f"one {line.name}: {percent(line.ceiling)} of a core"
        sides = ((right, "right"), (left, "left"))
        above = [Spot(x, y + up, ha, "bottom") for x, ha in sides for up in (4, 14, 24)]
        below = [Spot(x, y - down, ha, "top") for x, ha in sides for down in (4, 14, 24)]
        spots = above + below if line.ceiling == highest else below + above
        placer.put(words, spots, color=role.colour, fontweight="bold")
    for line in sorted(lines, key=lambda one: -one.full_at):
        x, y = ax.transData.transform((line.full_at, line.ceiling))
        words = f"{in_round_numbers(line.full_at)} users"
        spots = [
            Spot(x + 14, y - 10, "left", "top"),
            Spot(x + 14, y - 30, "left", "top"),
            *(Spot(x - 14, y + up, "right", "bottom") for up in (10, 30, 40, 50)),
        ]
        placer.put(words, spots, color=VERMILLION, fontweight="bold")


def _alt(lines: Sequence[CapacityLine]) -> str:
    said = ". ".join(
        f"{line.name}: {number(1e6 * line.each)} µs of CPU a second for each user; one is full, "
        f"at {percent(line.ceiling)} of a core, with {in_round_numbers(line.full_at)} users"
        for line in lines
    )
    return f"CPU that users need, from a thousand to ten million users. {said}."


# --- which assumption matters ------------------------------------------------------------------


@in_house_style
def tornado(
    results: Mapping[str, tuple[float, float]],
    base: float,
    *,
    unit: str = "cores",
    error: float = 0.2,
    title: str = TORNADO_TITLE,
) -> Picture:
    """Draw the result for each assumption that is too low and too high, the most important first.

    Args:
        results: assumption -> the result with it too low, and too high.
        base: the result with all assumptions as they are.
        unit: of the result.
        error: by which share each assumption is wrong.
        title: a template; known facts: worst (which matters most), second, change, second_change
            (by how much of the result), base, error.

    Raises:
        ValueError: there are fewer than two assumptions, or the result is not positive.
    """
    if len(results) < 2 or not base > 0:
        raise ValueError("draw two assumptions at least, and a result that is more than nothing")
    rows = sorted(results.items(), key=lambda row: _change(row[1], base))
    fig = picture(height_in=1.75 + ROW_IN * len(rows))
    ax = fig.add_subplot()
    claim(fig, title, _tornado_facts(rows, base, unit, error))
    for y, (_, (low, high)) in enumerate(rows):
        ax.barh(y, low - base, left=base, color=SKY, height=0.7, lw=0)
        ax.barh(y, high - base, left=base, color=ORANGE, hatch="//", ec="white", height=0.7, lw=0)
    ax.axvline(base, color=INK, lw=1.4)
    ax.set_yticks(range(len(rows)), [plain(name, 30) for name, _ in rows], fontsize=FONT_PT)
    ax.tick_params(axis="x", labelsize=FONT_PT)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    widest = max(_change(pair, base) for _, pair in rows)
    ax.set_xlim(base * (1 - 1.3 * widest), base * (1 + 1.3 * widest))
    ax.set_ylim(-0.6, len(rows) - 0.4)
    ax.set_xlabel(f"{unit}, instead of {number(base)}", fontsize=FONT_PT)
    handles = [
        Patch(facecolor=SKY, label=f"{percent(error)} less than assumed"),
        Patch(facecolor=ORANGE, hatch="//", ec="white", label=f"{percent(error)} more"),
    ]
    fig.legend(handles=handles, loc="outside lower left", ncols=2, fontsize=FONT_PT)
    freeze_layout(fig)
    for y, (_, pair) in enumerate(rows):
        _write_change(ax, y, max(pair), f"{_change(pair, base):.0%}".replace("%", " %"))
    caption = "One bar for each assumption: the result when only this one is wrong."
    return tell(fig, caption=caption, alt=_tornado_alt(rows, base, unit, error))


def _write_change(ax: Axes, y: int, x: float, words: str) -> None:
    place: dict[str, Any] = {"ha": "left", "va": "center", "fontsize": FONT_PT}
    note(ax, x, y, f" ± {words}", **place)


def _change(pair: tuple[float, float], base: float) -> float:
    """Return by how much of it a result changes at most."""
    return max(abs(result / base - 1) for result in pair)


def _tornado_facts(
    rows: Sequence[tuple[str, tuple[float, float]]], base: float, unit: str, error: float
) -> dict[str, Any]:
    (second, second_pair), (worst, worst_pair) = rows[-2:]
    return {
        "worst": plain(worst, 30),
        "change": f"{_change(worst_pair, base):.0%}".replace("%", " %"),
        "second": plain(second, 30),
        "second_change": f"{_change(second_pair, base):.0%}".replace("%", " %"),
        "base": f"{number(base)} {unit}",
        "error": percent(error),
    }


def _tornado_alt(
    rows: Sequence[tuple[str, tuple[float, float]]], base: float, unit: str, error: float
) -> str:
    said = [f"{plain(name, 30)}: {number(a)} to {number(b)}" for name, (a, b) in reversed(rows)]
    return (
        f"What {percent(error)} less and {percent(error)} more of each assumption make of "
        f"{number(base)} {unit}, the most important first. {'; '.join(said)}."
    )

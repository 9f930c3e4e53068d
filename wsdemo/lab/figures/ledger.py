"""Compare-and-set: how many live users can nobody reach, over time, with it and without it?

A curve for each run: users who have a connection while their entry names another gateway or none.
Under it a rug: one row of ticks a run, a tick for each late release, accepted or rejected.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from wsdemo.drawing.labels import Placer, Spot
from wsdemo.drawing.style import (
    BLUE,
    FONT_PT,
    GREEN,
    ORANGE,
    PURPLE,
    VERMILLION,
    WIDTH_IN,
    Picture,
    Role,
    claim,
    freeze_layout,
    in_house_style,
    note,
    picture,
    tell,
)
from wsdemo.drawing.words import counted, plain
from wsdemo.lab.figures.runs import RecordedRun, measured, normal
from wsdemo.lab.trace import frames

RUNS: Final = (
    Role(VERMILLION, dash="-"),
    Role(GREEN, dash=(0, (6, 2))),
    Role(BLUE, dash=(0, (1, 1))),
    Role(PURPLE, dash=(0, (6, 2, 1, 2))),
)
"""The curves, in the order of the runs."""
LATE: Final = {
    "lost": Role(VERMILLION, marker="|"),
    "saved": Role(GREEN, marker="|"),
    frames.NO_ENTRY: Role(ORANGE, marker="|"),
}
RUGS: Final = {
    "lost": "late clean-ups accepted",
    "saved": "late clean-ups rejected",
    frames.NO_ENTRY: "late, and no entry left",
}
"""What the rows of the rug say."""
RUG_ROOM: Final = 0.36
"""The share of the width that the words beside a row of the rug need."""
LEAST_S: Final = 0.02
"""Wall seconds: a shorter difference is a write whose answer is on its way."""
TITLE: Final = "Live users whom nobody can reach: {most} at most, after {lost} late releases"
CAPTION: Final = (
    "Unreachable: her socket is open, and Redis names another gateway or none. A release is late "
    "when it comes after its user has registered again. One that found no entry rescued nobody: "
    "the lease had run out, or the entry was gone already. "
)


class Account(NamedTuple):
    """What is drawn of one run. Times in production seconds since its first fault."""

    name: str
    users: int
    steps: list[tuple[float, int]]
    """When the number of unreachable live users changed, and to what."""
    late: dict[str, list[float]]
    """Late releases, by what came of them (`LATE`)."""
    end: float

    @property
    def most(self) -> int:
        """The largest number of unreachable live users."""
        return max((count for _, count in self.steps), default=0)


@in_house_style
def ledger(runs: Mapping[str, RecordedRun], *, title: str = TITLE) -> Picture:
    """Draw unreachable live users over time, for each run, and the late releases.

    Args:
        runs: what each curve is called, and its run.
        title: a template; known facts: users, most, lost (late releases that were accepted), saved
            (rejected: they met another's entry), no_entry (they met none). With several runs they
            are of the first; `{mosts[1]}`, `{losts[1]}`, `{saveds[1]}` are of the second.

    Raises:
        ValueError: presence was never asked in one of them.
    """
    given = {name: normal(run) for name, run in runs.items()}
    accounts = [account(name, run) for name, run in given.items()]
    facts = _facts(accounts)
    fig = _draw(accounts, facts, title)
    return tell(fig, caption=CAPTION + measured(list(given.values())), alt=_alt(accounts))


# --- compute -----------------------------------------------------------------------------------


def account(name: str, run: RecordedRun) -> Account:
    """Return what is drawn of one run."""
    book = frames.verdicts(run.trace, scale=run.scale, ttl_s=run.ttl_s)
    if book.empty:
        raise ValueError("presence was never asked: there is nothing to account for")
    end = frames.span(run.trace)[1]
    real = frames.truth(run.trace)
    said = frames.belief(run.trace, scale=run.scale, ttl_s=run.ttl_s)
    gaps = [
        gap
        for gap in frames.wrong_beliefs(run.trace, real, said, LEAST_S)
        if gap.real and gap.start < end
    ]
    ended = [gap.end for gap in gaps if gap.end < end]
    changes = sorted([(gap.start, 1) for gap in gaps] + [(t, -1) for t in ended])
    counts = itertools.accumulate(change for _, change in changes)
    steps = [(run.after(t), n) for (t, _), n in zip(changes, counts, strict=True)]
    released = book[book["verb"] == "release"]
    late = {
        effect: [run.after(t) for t in released[released["effect"] == effect]["t"]]
        for effect in ("lost", "saved")
    }
    none = released[released["reason"] == frames.NO_ENTRY]
    late[frames.NO_ENTRY] = [run.after(t) for t in none["t"]]
    users = len({stay.user for stay in real})
    return Account(name, users, steps, late, run.after(end))


def _facts(accounts: Sequence[Account]) -> dict[str, Any]:
    each = {
        "mosts": [one.most for one in accounts],
        "losts": [len(one.late["lost"]) for one in accounts],
        "saveds": [len(one.late["saved"]) for one in accounts],
        "no_entries": [len(one.late[frames.NO_ENTRY]) for one in accounts],
    }
    first = {
        "most": each["mosts"][0],
        "lost": each["losts"][0],
        "saved": each["saveds"][0],
        "no_entry": each["no_entries"][0],
    }
    return {"users": accounts[0].users, **first, **each}


# --- draw --------------------------------------------------------------------------------------


def _draw(accounts: Sequence[Account], facts: Mapping[str, Any], title: str) -> Picture:
    rows = [(one, what) for one in accounts for what in LATE if one.late[what]]
    fig = picture(WIDTH_IN, 3.6 + 0.3 * len(rows))
    curve, rug = fig.subplots(2, 1, sharex=True, height_ratios=[3.0, max(0.1, 0.32 * len(rows))])
    claim(fig, title, facts)
    last = min(one.end for one in accounts)
    for one, role in zip(accounts, itertools.cycle(RUNS)):
        xs = [0.0, *(t for t, _ in one.steps), one.end]
        ys = [0, *(n for _, n in one.steps), one.steps[-1][1] if one.steps else 0]
        curve.step(xs, ys, where="post", color=role.colour, ls=role.dash, lw=2.4)
    _dress(curve, rug, accounts, last)
    _draw_rug(rug, rows)
    freeze_layout(fig)
    _label(curve, accounts)
    return fig


def _dress(curve: Axes, rug: Axes, accounts: Sequence[Account], last: float) -> None:
    most = max(one.most for one in accounts)
    curve.set_ylim(-0.02 * max(most, 1), max(1.0, 1.25 * most))
    curve.set_xlim(0, last)
    curve.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    curve.set_ylabel("live users, unreachable", fontsize=FONT_PT)
    curve.tick_params(labelsize=FONT_PT)
    rug.set_xlabel("production seconds since clean-ups come late", fontsize=FONT_PT)
    rug.tick_params(labelsize=FONT_PT)


def _draw_rug(rug: Axes, rows: Sequence[tuple[Account, str]]) -> None:
    rug.set_ylim(max(len(rows), 1) - 0.4, -0.6)
    rug.set_yticks([])
    for side in ("left", "top"):
        rug.spines[side].set_visible(False)
    _, last = rug.get_xlim()
    for y, (one, what) in enumerate(rows):
        at = one.late[what]
        rug.vlines(at, y - 0.36, y + 0.36, colors=LATE[what].colour, lw=1.1)
        # Late releases are late: mostly, there is room before the first of them.
        early = min(at) < RUG_ROOM * last
        x, ha = (last, "right") if early and max(at) < (1 - RUG_ROOM) * last else (0, "left")
        note(rug, x, y, f"{len(at)} {RUGS[what]}", ha=ha, va="center", fontsize=FONT_PT)


def _label(curve: Axes, accounts: Sequence[Account]) -> None:
    placer = Placer(curve)
    ways = []
    for one in accounts:
        xs = [0.0, *(t for t, _ in one.steps), one.end]
        ys = [0, *(n for _, n in one.steps), one.steps[-1][1] if one.steps else 0]
        stairs = list(zip(xs, ys, strict=True))
        points = [(float(x), float(y)) for x, y in curve.transData.transform(stairs)]
        placer.line(*points)
        ways.append(points)
    for one, role, points in zip(accounts, itertools.cycle(RUNS), ways, strict=False):
        words = f"{plain(one.name, 40)}: {one.most} at most" if one.name else f"{one.most} at most"
        top = max(points, key=lambda point: point[1])
        middle = (points[0][0] + points[-1][0]) / 2
        spots = [
            Spot(top[0] - 8, top[1] + 8, "right", "bottom"),
            Spot(top[0] + 8, top[1] + 8, "left", "bottom"),
            Spot(curve.bbox.x1 - 4, points[-1][1] + 6, "right", "bottom"),
            *(Spot(middle, top[1] + 6 + 18 * k, "center", "bottom") for k in range(4)),
            *(Spot(points[0][0] + 8, top[1] + 6 + 18 * k, "left", "bottom") for k in range(4)),
        ]
        placer.put(words, spots, fontsize=FONT_PT + 1, color=role.colour, fontweight="bold")


# --- words -------------------------------------------------------------------------------------


def _alt(accounts: Sequence[Account]) -> str:
    parts = []
    for one in accounts:
        late = "; ".join(f"{len(one.late[what])} {RUGS[what]}" for what in LATE if one.late[what])
        parts.append(
            f"{plain(one.name, 40) or 'this run'}: of {counted(one.users, 'user')} "
            f"{one.most} at most could not be reached; late releases: {late or 'none'}"
        )
    return f"Live users whom nobody can reach, over time. {'. '.join(parts)}."

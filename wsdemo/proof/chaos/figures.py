"""Figures: what does a chaos run look like? Each figure is a pure function of its result."""

from __future__ import annotations

from typing import Final

import numpy as np

from wsdemo.drawing.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    SKY,
    VERMILLION,
    Picture,
    claim,
    in_house_style,
    note,
    picture,
)
from wsdemo.drawing.words import counted
from wsdemo.proof.chaos.bounds import PROMISED_S
from wsdemo.proof.chaos.cluster import SCALE
from wsdemo.proof.chaos.convergence import convergences, promised_s
from wsdemo.proof.chaos.faults import FAULTS
from wsdemo.proof.chaos.result import ChaosResult
from wsdemo.proof.history import REDIS, Healed, by_fault

ROW_IN: Final = 0.2
"""Height of one fault in a figure: a line of text."""


@in_house_style
def timeline(result: ChaosResult) -> Picture:
    """Draw which fault was active when, below the numbers of registered and present users."""
    fig = picture(height_in=3.2 + ROW_IN * len(FAULTS))
    top, bottom = fig.subplots(2, 1, sharex=True, height_ratios=[2.2, ROW_IN * len(FAULTS)])
    t = [sample.t for sample in result.samples]
    top.step(t, [s.registered for s in result.samples], color=BLUE, lw=1.6, label="registered")
    top.step(
        t,
        [s.present for s in result.samples],
        color=ORANGE,
        lw=1.2,
        ls=(0, (4, 2)),
        label="present in Redis",
    )
    wrong = [len(sample.wrong) for sample in result.samples]
    top.fill_between(t, wrong, color=VERMILLION, alpha=0.5, lw=0, step="pre", label="differing")
    top.set_ylim(0, result.users * 1.08)
    top.set_ylabel("users")
    top.legend(loc="lower left", ncols=3, bbox_to_anchor=(0, 1.0), borderaxespad=0.2)
    names = [fault.name for fault in FAULTS]
    for one in result.injections:
        colour = SKY if REDIS in one.fault.touches else BLUE
        width = max(one.healed - one.began, 0.15)
        bottom.barh(names.index(one.fault.name), width, left=one.began, height=0.7, color=colour)
    for record in result.history:
        if isinstance(record, Healed):
            for ax in (top, bottom):
                ax.axvline(record.t, color=INK, ls=":", lw=1.3)
            # It may be the last moment of the run: written to the left, it is never cut off.
            note(bottom, record.t, -0.6, "all healed ", va="bottom", ha="right")
    bottom.set_yticks(range(len(names)), names)
    bottom.set_ylim(len(names) - 0.4, -1.4)
    bottom.set_xlim(left=0)
    bottom.set_xlabel("seconds since the begin of the run")
    facts = {
        "faults": sum(not one.not_arranged for one in result.injections),
        "took": f"{result.took_s:.0f}",
        "settled": f"{result.converged_s:.1f}",
    }
    title = "{faults} faults in {took} s; {settled} s after a heal, at most, everything was right"
    claim(fig, title, facts)
    fig.wsdemo_alt = (
        f"{counted(len(result.injections), 'fault')} as bars over time, and above them how many "
        f"of {result.users} users were registered and present."
    )
    return fig


@in_house_style
def convergence(result: ChaosResult) -> Picture:
    """Draw how long after each heal everything was right, beside the promise."""
    found = convergences(result)
    shown = sorted((one for one in FAULTS if found.get(one.name)), key=lambda f: max(found[f.name]))
    fig = picture(height_in=1.6 + ROW_IN * max(1, len(shown)))
    ax = fig.add_subplot()
    within = total = 0
    for row, fault in enumerate(shown):
        times, promise_s = found[fault.name], promised_s(fault)
        within += sum(took_s <= promise_s for took_s in times)
        total += len(times)
        ax.plot(
            [promise_s] * 2,
            [row - 0.4, row + 0.4],
            color=GREY,
            lw=2.4,
            label="" if row else "promised",
        )
        ax.plot(times, [row] * len(times), "o", color=BLUE, ms=4.5, alpha=0.75)
    ax.axvline(PROMISED_S, color=VERMILLION, lw=1.2, ls="--")
    note(ax, PROMISED_S, len(shown) - 0.3, "X, when all was healed ", va="bottom", ha="right")
    ax.set_yticks(range(len(shown)), [fault.name for fault in shown])
    ax.set_ylim(-0.8, len(shown) + 0.9)
    ax.set_xlim(left=-0.05)
    ax.set_xlabel(f"seconds from a heal until all was right ({SCALE:g} x: production)")
    ax.legend(loc="lower right")
    title = "After {within} of {total} heals everything was right within what is promised"
    claim(fig, title, {"within": within, "total": total})
    fig.wsdemo_alt = (
        f"For each fault, dots for the times until everything was right: {within} of {total} "
        "within the promise."
    )
    return fig


ANSWERS: Final = {
    "delivered": (GREEN, "", "delivered"),
    "offline": (SKY, "//", "told: offline"),
    "unreachable": (SKY, "xx", "told: unreachable"),
    "busy": (SKY, "..", "told: busy"),
    "unknown": (ORANGE, "\\\\", "unknown, not delivered"),
    "routed": (VERMILLION, "", "routed, and lost"),
}
"""Colour, hatch and words for the outcomes of a message."""


@in_house_style
def losses(result: ChaosResult) -> Picture:
    """Draw the outcomes of the messages that were sent while a fault was active."""
    counts = by_fault(result.history)
    shown = [fault for fault in FAULTS if counts.get(fault.name)]
    shown.sort(key=lambda fault: counts[fault.name]["delivered"] / counts[fault.name].total())
    shown.reverse()
    fig = picture(height_in=1.8 + ROW_IN * max(1, len(shown)))
    ax = fig.add_subplot()
    left = np.zeros(len(shown))
    for answer, (colour, hatch, words) in ANSWERS.items():
        share = np.array([counts[f.name][answer] / counts[f.name].total() for f in shown])
        ax.barh(
            range(len(shown)),
            100 * share,
            left=100 * left,
            color=colour,
            hatch=hatch,
            edgecolor="white",
            lw=0.3,
            height=0.8,
            label=words,
        )
        left += share
    for row, fault in enumerate(shown):
        note(ax, 101, row, f"{counts[fault.name].total():,}", va="center")
    ax.set_yticks(range(len(shown)), [fault.name for fault in shown])
    ax.set_ylim(-0.6, len(shown) - 0.4)
    ax.set_xlim(0, 116)
    ax.set_xticks(range(0, 101, 20))
    ax.set_xlabel("% of the messages sent meanwhile (on the right: how many)")
    fig.legend(loc="outside lower left", ncols=3)
    tally = result.tally
    silent = tally.lost_in_faults["routed"] + tally.lost_in_calm["routed"]
    facts = {"sent": f"{tally.sent.total():,}", "silent": f"{silent:,}"}
    title = "Of {sent} messages {silent} were lost after their sender was told: routed"
    claim(fig, title, facts)
    fig.wsdemo_alt = f"For each fault, the outcomes of the messages sent meanwhile. {facts}"
    return fig

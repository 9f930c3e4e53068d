"""F13: how often does which lease forget a live user? The model, with the demo's choice ringed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.ticker import FixedLocator, FuncFormatter

from wsdemo.lab.leases import false_offline_per_hour
from wsdemo.lab.plots.style import (
    HALO,
    INK,
    Picture,
    claim,
    in_house_style,
    number,
    picture,
)

RATIOS: Final = np.linspace(2.02, 5.5, 120)
LOSSES: Final = np.geomspace(0.005, 0.4, 100)
LOWEST: Final = 1e-4
"""False alarms an hour below which it does not matter any more."""
DEMO: Final = (3.0, 0.05)
SHOWN_LOSSES: Final = (0.01, 0.05, 0.1, 0.2, 0.4)


@in_house_style
def false_offline(
    *,
    heartbeat_s: float = 30.0,
    measured: Sequence[tuple[float, float, float]] = (),
    title: str = "At 5 % loss a lease of three heartbeats forgets a live user {demo} times an hour",
) -> Picture:
    """Draw the rate of false alarms over the length of the lease and the loss.

    Args:
        heartbeat_s: the interval (production seconds).
        measured: triples of TTL / heartbeat, loss and what was measured (per user and hour).
        title: a template; known facts: demo, four (the same with four heartbeats and a half),
            factor (how much better that is).
    """
    rates = np.array(
        [
            [max(LOWEST, false_offline_per_hour(heartbeat_s, r * heartbeat_s, p)) for r in RATIOS]
            for p in LOSSES
        ]
    )
    demo = false_offline_per_hour(heartbeat_s, DEMO[0] * heartbeat_s, DEMO[1])
    longer = false_offline_per_hour(heartbeat_s, 4.5 * heartbeat_s, DEMO[1])
    facts = {"demo": number(demo), "four": number(longer), "factor": number(demo / longer)}
    fig = picture(width_in=8.2, height_in=4.2)
    ax = fig.add_subplot()
    claim(fig, title, facts)
    mesh = ax.pcolormesh(
        RATIOS, LOSSES, rates, norm=LogNorm(LOWEST, 100), cmap="cividis", rasterized=True
    )
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(FixedLocator(SHOWN_LOSSES))
    ax.yaxis.set_minor_locator(FixedLocator([]))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    ax.set_xlabel(f"TTL in heartbeats of {heartbeat_s:g} s")
    ax.set_ylabel("heartbeats that get lost")
    bar = fig.colorbar(mesh, ax=ax, label="false alarms per user and hour", pad=0.02)
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.plot(*DEMO, "o", ms=16, mfc="none", mec="white", mew=2.6)
    ax.text(
        DEMO[0] + 0.12,
        DEMO[1],
        f"the demo: {number(demo)} an hour",
        va="center",
        color=INK,
        fontsize=9,
        fontweight="bold",
        path_effects=HALO,
    )
    for ratio, loss, rate in measured:
        ax.plot(ratio, loss, "D", ms=8, color="white", mec=INK)
        ax.text(
            ratio + 0.12,
            loss * 0.6,
            f"measured: {number(rate)} an hour",
            va="center",
            color=INK,
            fontsize=9,
            path_effects=HALO,
        )
    fig.wsdemo_caption = (
        "From the model: losses are independent, the lease counts from the last heartbeat that "
        "was heard, and one that is due at its very end comes too late."
    )
    fig.wsdemo_alt = _alt(facts, measured)
    return fig


def _alt(facts: dict[str, Any], measured: Sequence[tuple[float, float, float]]) -> str:
    seen = "".join(
        f" Measured at {ratio:g} heartbeats and {loss:.0%} loss: {number(rate)} an hour."
        for ratio, loss, rate in measured
    )
    return (
        "Heat map of false alarms per user and hour over the length of the lease (2 to 5.5 "
        "heartbeats) and the share of lost heartbeats (0.5 to 40 %). It falls in steps, one for "
        f"each further heartbeat. The demo's lease of three heartbeats, ringed: {facts['demo']} an "
        f"hour at 5 % loss; with four and a half {facts['four']}.{seen}"
    )

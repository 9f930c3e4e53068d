"""F10: how long is a dead user believed in? Measured delays beside the rule that explains them."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pandas as pd

from wsdemo.lab.plots import frames
from wsdemo.lab.plots.labels import Placer, Spot
from wsdemo.lab.plots.style import (
    BLUE,
    INK,
    ORANGE,
    Picture,
    claim,
    freeze_layout,
    in_house_style,
    measured_at,
    picture,
)

SAMPLES: Final = 400
"""Points of each of the two uniform distributions whose sum is the rule."""


def detection_delays(trace: pd.DataFrame) -> pd.Series[float]:
    """Return, for each user who vanished, how long her gateway believed in her (s of the trace)."""
    gone = trace[(trace["kind"] == "ws_close") & (trace["reason"] == "vanished")]
    found = trace[trace["kind"] == "cleanup"]
    delays = found.groupby("user")["t"].max() - gone.groupby("user")["t"].max()
    return delays[delays > 0].dropna().rename("delay_s")


@in_house_style
def detection(
    trace: pd.DataFrame,
    *,
    scale: float = 1.0,
    timeout_s: float = 90.0,
    heartbeat_s: float = 30.0,
    scan_s: float = 60.0,
    title: str = "A dead user is believed in for {mean_s} s on average, {longest_s} s at most",
) -> Picture:
    """Draw the eCDF of the delays, and the rule: timeout - U(0, heartbeat) + U(0, scan).

    The gateway counts from the last sign of life, which was up to one heartbeat before the end.

    Args:
        scale: production seconds per second of the trace.
        timeout_s, heartbeat_s, scan_s: of the rule (production seconds).
        title: a template; known facts: users, mean_s, longest_s, rule_s (its mean).

    Raises:
        ValueError: nobody vanished and was found.
    """
    trace = frames.normal(trace)
    delays = np.sort(detection_delays(trace).to_numpy()) * scale
    if not len(delays):
        raise ValueError("nobody has vanished and been found: there is no delay to draw")
    share = (np.arange(SAMPLES) + 0.5) / SAMPLES
    rule = np.sort((timeout_s - heartbeat_s * share[:, None] + scan_s * share[None, :]).ravel())
    facts = {
        "users": len(delays),
        "mean_s": round(float(delays.mean())),
        "longest_s": round(float(delays.max())),
        "rule_s": round(float(rule.mean())),
    }
    fig = picture(width_in=7.6, height_in=3.7)
    ax = fig.add_subplot()
    claim(fig, title, facts)
    ax.ecdf(delays, color=BLUE, lw=2.2, label=f"measured, {len(delays)} users")
    ax.plot(
        rule,
        (np.arange(len(rule)) + 1) / len(rule),
        color=ORANGE,
        ls=(0, (5, 2)),
        lw=1.8,
        label=f"rule: {timeout_s:g} - U(0, {heartbeat_s:g}) + U(0, {scan_s:g})",
    )
    ax.plot(delays, np.full(len(delays), -0.03), "|", color=BLUE, ms=8, clip_on=False)
    ax.set_ylim(-0.06, 1.03)
    ax.set_xlim(min(delays.min(), rule.min()) - 8, max(delays.max(), rule.max()) + 8)
    ax.set_xlabel("production seconds from the last word to the clean-up")
    ax.set_ylabel("share of users found by then")
    fig.legend(loc="outside lower left", ncols=2)
    freeze_layout(fig)
    placer = Placer(ax)
    for words, value in (("mean", facts["mean_s"]), ("longest", facts["longest_s"])):
        ax.axvline(value, color=INK, ls=":", lw=1)
        x, y = ax.transData.transform((value, 0.06))
        placer.put(f"{words} {value} s", [Spot(x + 4, y), Spot(x - 4, y, "right")])
    fig.wsdemo_caption = (
        "Blue: from the moment at which a lid was shut to the gateway's clean-up. Dashed: the "
        "rule. The gateway counts from the last sign of life, up to one heartbeat earlier. "
        + measured_at(trace, scale)
    )
    fig.wsdemo_alt = _alt(facts, rule)
    return fig


def _alt(facts: dict[str, Any], rule: np.ndarray[Any, Any]) -> str:
    return (
        f"Distribution of how long {facts['users']} users who had vanished were believed in: mean "
        f"{facts['mean_s']}, longest {facts['longest_s']} production seconds. The rule lies "
        f"between {rule.min():.0f} and {rule.max():.0f} with mean {facts['rule_s']}."
    )

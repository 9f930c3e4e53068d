"""Failure detection: for how long is a user listed who is gone?

Measured delays beside the rule that explains them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from wsdemo.drawing.labels import Placer, Spot
from wsdemo.drawing.style import (
    BLUE,
    INK,
    ORANGE,
    Picture,
    claim,
    freeze_layout,
    in_house_style,
    picture,
    tell,
)
from wsdemo.drawing.words import counted, measured_at
from wsdemo.lab.trace import frames

Values = np.ndarray[Any, Any]

TITLE: Final = (
    "A user who has vanished stays listed for {mean_s} s on average, {longest_s} s at most"
)
SAMPLES: Final = 400
"""Points of each of the two uniform distributions whose sum is the rule."""


ENDS: Final = {
    "cleanup": "the clean-up by the gateway",
    "presence_del": "the release in Redis",
}
"""The events that end the listing of a user, in words."""


def detection_delays(trace: pd.DataFrame, event: str = "cleanup") -> pd.Series[float]:
    """Return, for each user who vanished, for how long she was still listed (s of the trace): until
    `event` of that connection, which is "cleanup" at her gateway or "presence_del" in Redis.
    """
    gone = trace[(trace["kind"] == "ws_close") & (trace["reason"] == "vanished")]
    found = trace[trace["kind"] == event].groupby("conn_id")["t"].min()
    delays = found.reindex(gone["conn_id"]).to_numpy() - gone["t"].to_numpy()
    return pd.Series(delays, index=gone["user"].to_numpy(), name="delay_s").dropna()


@in_house_style
def detection(
    trace: pd.DataFrame,
    *,
    scale: float = 1.0,
    timeout_s: float = 90.0,
    heartbeat_s: float = 30.0,
    scan_s: float = 60.0,
    event: str = "cleanup",
    title: str = TITLE,
) -> Picture:
    """Draw the eCDF of the delays, and the rule: timeout - U(0, heartbeat) + U(0, scan).

    The gateway counts from the last frame, which came up to one heartbeat before the end, so a
    delay may be shorter than the timeout.

    Args:
        scale: production seconds per second of the trace.
        timeout_s, heartbeat_s, scan_s: of the rule (production seconds): the idle timeout, and the
        time between two heartbeats and between two scans.
        event: what ends the listing: "cleanup" at the gateway, or "presence_del" in Redis.
        title: a template; known facts: users, mean_s, longest_s, rule_s (its mean).

    Raises:
        ValueError: no user vanished and was detected, or `event` is unknown.
    """
    if event not in ENDS:
        raise ValueError(f"event is one of {', '.join(ENDS)}, not {event!r}")
    trace = frames.normal(trace)
    delays = np.sort(detection_delays(trace, event).to_numpy()) * scale
    if not len(delays):
        raise ValueError("nobody has vanished and been found: there is no delay to draw")
    rule = Rule(timeout_s, heartbeat_s, scan_s)
    facts = _facts(delays, rule.delays())
    fig = _draw(delays, rule, ENDS[event], facts, title)
    caption = f"{_caption(rule, ENDS[event])} {measured_at(trace, scale)}"
    return tell(fig, caption=caption, alt=_alt(facts, rule.delays()))


# --- compute -----------------------------------------------------------------------------------


class Rule(NamedTuple):
    """When a silence is noticed: timeout - U(0, heartbeat) + U(0, scan), production seconds."""

    timeout_s: float
    heartbeat_s: float
    scan_s: float

    def delays(self) -> Values:
        """Return the delays of this distribution, evenly spread over its probabilities, sorted."""
        share = (np.arange(SAMPLES) + 0.5) / SAMPLES
        early, late = self.heartbeat_s * share[:, None], self.scan_s * share[None, :]
        return np.sort((self.timeout_s - early + late).ravel())

    def __str__(self) -> str:
        return f"{self.timeout_s:g} s − U(0, {self.heartbeat_s:g}) + U(0, {self.scan_s:g})"


def _facts(delays: Values, rule: Values) -> dict[str, int]:
    return {
        "users": len(delays),
        "mean_s": round(float(delays.mean())),
        "longest_s": round(float(delays.max())),
        "rule_s": round(float(rule.mean())),
    }


def _shares(values: Values) -> Values:
    return (np.arange(len(values)) + 1) / len(values)


# --- draw --------------------------------------------------------------------------------------


def _draw(delays: Values, rule: Rule, end: str, facts: Mapping[str, int], title: str) -> Picture:
    expected = rule.delays()
    fig = picture(height_in=4.2)
    ax = fig.add_subplot()
    claim(fig, title, facts)
    ax.ecdf(delays, color=BLUE, lw=2.2, label=f"measured, {counted(len(delays), 'user')}")
    dashed: dict[str, Any] = {"color": ORANGE, "ls": (0, (5, 2)), "lw": 1.8}
    ax.plot(expected, _shares(expected), label=f"rule: {rule}", **dashed)
    ax.plot(delays, np.full(len(delays), -0.03), "|", color=BLUE, ms=8, clip_on=False)
    ax.set_ylim(-0.06, 1.03)
    ax.set_xlim(min(delays.min(), expected.min()) - 8, max(delays.max(), expected.max()) + 8)
    ax.set_xlabel(f"production seconds from the shut lid to {end}")
    ax.set_ylabel("share of users found by then")
    fig.legend(loc="outside lower left", ncols=2)
    freeze_layout(fig)
    _label(ax, facts, delays, expected)
    return fig


def _label(ax: Axes, facts: Mapping[str, int], delays: Values, rule: Values) -> None:
    placer = Placer(ax)
    for values in (delays, rule[:: SAMPLES * 4]):
        points = ax.transData.transform(np.column_stack([values, _shares(values)]))
        placer.line(*[(float(x), float(y)) for x, y in points])
    for words, value in (("mean", facts["mean_s"]), ("longest", facts["longest_s"])):
        ax.axvline(value, color=INK, ls=":", lw=1)
        spots = []
        for height in (0.06, 0.16, 0.94, 0.84):
            x, y = ax.transData.transform((value, height))
            spots += [Spot(x + 4, y), Spot(x - 4, y, "right")]
        placer.put(f"{words} {value} s", spots)


# --- words -------------------------------------------------------------------------------------


def _caption(rule: Rule, end: str) -> str:
    return (
        f"Solid: from the moment at which a lid was shut to {end}; ticks: one a user. Dashed: the "
        f"rule. A silence of {rule.timeout_s:g} s is borne, counted from the last sign of life, up "
        f"to {rule.heartbeat_s:g} s before the lid was shut; so a delay may be shorter than that."
    )


def _alt(facts: Mapping[str, int], rule: Values) -> str:
    return (
        f"Distribution of how long {counted(facts['users'], 'user')} who had vanished "
        f"{'was' if facts['users'] == 1 else 'were'} believed in: mean {facts['mean_s']}, longest "
        f"{facts['longest_s']} production seconds. The rule lies between {rule.min():.0f} and "
        f"{rule.max():.0f} with mean {facts['rule_s']}."
    )

"""Figures: how is shown what happened?

Each figure is a pure function of a trace, and has a file of its own in `wsdemo.lab.figures`; this
module names them all. `Plots` draws them from the trace of a lab.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from wsdemo.client import Receipt
from wsdemo.drawing.show import show
from wsdemo.drawing.style import Picture
from wsdemo.lab.errors import methods_fail_in_short
from wsdemo.lab.figures.availability import availability
from wsdemo.lab.figures.capacity import CapacityLine, capacity, tornado
from wsdemo.lab.figures.class_board import class_board
from wsdemo.lab.figures.crossing_share import crossing_share
from wsdemo.lab.figures.deaths import deaths
from wsdemo.lab.figures.detection import detection
from wsdemo.lab.figures.false_offline import false_offline
from wsdemo.lab.figures.herd import herd
from wsdemo.lab.figures.latency import latency
from wsdemo.lab.figures.ledger import ledger
from wsdemo.lab.figures.load_stream import load_stream
from wsdemo.lab.figures.loss_raster import loss_raster
from wsdemo.lab.figures.redis_outage import redis_outage
from wsdemo.lab.figures.ribbons import ribbons
from wsdemo.lab.figures.room_list import room_list
from wsdemo.lab.figures.rules import rules
from wsdemo.lab.figures.runs import RecordedRun
from wsdemo.lab.figures.sawtooth import sawtooth
from wsdemo.lab.figures.shards import shards
from wsdemo.lab.figures.skew import skew_map
from wsdemo.lab.figures.spacetime import spacetime
from wsdemo.lab.figures.stages import stages
from wsdemo.lab.figures.steps import steps
from wsdemo.lab.figures.story import story
from wsdemo.lab.trace.journeys import moves
from wsdemo.settings import Timing

__all__ = [
    "CapacityLine",
    "Plots",
    "RecordedRun",
    "availability",
    "capacity",
    "class_board",
    "crossing_share",
    "deaths",
    "detection",
    "false_offline",
    "herd",
    "latency",
    "ledger",
    "load_stream",
    "loss_raster",
    "redis_outage",
    "ribbons",
    "room_list",
    "rules",
    "sawtooth",
    "shards",
    "show",
    "skew_map",
    "spacetime",
    "stages",
    "steps",
    "story",
    "tornado",
]


@methods_fail_in_short
class Plots:
    """The figures of a lab, drawn from its trace: `lab.plot.spacetime(receipt)`.

    Args:
        trace: returns what happened so far.
        timing: that of the lab, scaled.
    """

    def __init__(self, trace: Callable[[], pd.DataFrame], timing: Timing) -> None:
        self._trace = trace
        self._timing = timing

    def spacetime(self, receipt: Receipt, **options: Any) -> Picture:
        """Draw the way of one message."""
        return spacetime(self._trace(), msg_id=receipt.id, **options)

    def story(self, user: str, **options: Any) -> Picture:
        """Draw what happened to a user, with her messages and her entry after each write."""
        return story(self._trace(), user, **options)

    def ribbons(self, *users: str, **options: Any) -> Picture:
        """Draw where these users were (or those about whom Redis was wrong longest), and where
        Redis said that they were.
        """
        return ribbons(self._trace(), users or None, **self._clock(), **options)

    def sawtooth(self, *users: str, **options: Any) -> Picture:
        """Draw what was left of the leases of watched users."""
        return sawtooth(self._trace(), users, **self._clock(), **options)

    def availability(self, *users: str, **options: Any) -> Picture:
        """Draw when each user was served, and the curve of their outages."""
        return availability(self._trace(), users or None, **self._clock(), **options)

    def run(self) -> RecordedRun:
        """Return what happened so far, for a figure that compares several labs."""
        return RecordedRun(self._trace(), **self._clock())

    def ledger(self, **options: Any) -> Picture:
        """Draw how many live users nobody could reach, and the late releases."""
        return ledger({"": self.run()}, **options)

    def detection(self, **options: Any) -> Picture:
        """Draw for how long vanished users were still listed, and the rule that detected them."""
        timing, scale = self._timing, self._timing.scale
        ping_s, pong_s = timing.ws_ping_interval_s, timing.ws_ping_timeout_s
        # Whichever detects first: the ping without a pong, or the scan for silent clients.
        if ping_s + pong_s < timing.idle_timeout_s:
            silence_s = (ping_s + pong_s, min(ping_s, timing.heartbeat_s), min(ping_s, pong_s) / 5)
        else:
            silence_s = (timing.idle_timeout_s, timing.heartbeat_s, timing.health_check_s)
        names = ("timeout_s", "heartbeat_s", "scan_s")
        rule: dict[str, Any] = {k: s * scale for k, s in zip(names, silence_s, strict=True)}
        return detection(self._trace(), scale=scale, **{**rule, **options})

    def latency(self, **options: Any) -> Picture:
        """Draw how long messages took, within one gateway and across two."""
        return latency(self._trace(), **options)

    def stages(self, **options: Any) -> Picture:
        """Draw on which part of their way messages spent their time."""
        return stages(self._trace(), **options)

    def skew_map(self, **options: Any) -> Picture:
        """Draw which moves were refused because of a clock."""
        return skew_map(moves(self._trace(), self._timing.scale), **options)

    def _clock(self) -> dict[str, Any]:
        timing = self._timing
        return {"scale": timing.scale, "ttl_s": timing.presence_ttl_s * timing.scale}

    def steps(self, receipt: Receipt, **options: Any) -> Picture:
        """Draw what each table held before, during and after one message."""
        return steps(self._trace(), receipt.id, **options)

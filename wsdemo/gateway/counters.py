"""Metrics: what has this gateway done so far?

Plain integers, so that counting costs one addition for each message. `prometheus` reads them when
`/metrics` is asked for.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final


@dataclass(slots=True)
class Counters:
    """Counters; all of them only grow. `{metric}_{value}` stands for one value of a label."""

    connections_accepted: int = 0
    connections_refused: int = 0
    messages_received: int = 0
    messages_delivered: int = 0
    messages_expired: int = 0
    messages_passed_on: int = 0
    broadcasts_received: int = 0
    routes_local: int = 0
    routes_routed: int = 0
    routes_offline: int = 0
    routes_unreachable: int = 0
    routes_busy: int = 0
    routes_unknown: int = 0
    registers_ok: int = 0
    registers_stale: int = 0
    registers_failed: int = 0
    registers_shed: int = 0
    registers_unauthenticated: int = 0
    tokens_expired: int = 0
    refreshes_ok: int = 0
    refreshes_reclaimed: int = 0
    refreshes_superseded: int = 0
    refreshes_closed: int = 0
    refreshes_failed: int = 0
    releases_removed: int = 0
    releases_other_owner: int = 0
    releases_no_entry: int = 0
    releases_failed: int = 0
    kicks_sent: int = 0
    kicks_received: int = 0
    bounces_sent: int = 0
    bounces_received: int = 0
    malformed_messages: int = 0
    malformed_envelopes: int = 0
    malformed_presence: int = 0
    subscription_gaps: int = 0
    probes_lost: int = 0
    heartbeat_timeouts: int = 0
    slow_consumers: int = 0
    outbox_overflows: int = 0
    rate_limited: int = 0
    unrecognised_absent: int = 0
    unrecognised_unreadable: int = 0
    unrecognised_hidden: int = 0
    unrecognised_proxies: int = 0
    proxied_accepted: int = 0
    proxied_local: int = 0
    proxied_malformed: int = 0
    proxied_unexpected: int = 0
    proxied_untrusted: int = 0
    stalls: int = 0
    connection_failures: int = 0
    unhandled_errors: int = 0
    log_lines_dropped: int = 0


LABELLED: Final[Mapping[str, tuple[str, str]]] = {
    "routes": ("outcome", "Messages by what became of them"),
    "registers": ("outcome", "Registrations by what presence said of them"),
    "refreshes": ("outcome", "Lease renewals by what presence said of them"),
    "releases": (
        "outcome",
        "Ends of sessions by whose entry was found: their own, another's, none",
    ),
    "kicks": ("direction", "Notices to a session that a newer one took its place"),
    "bounces": ("direction", "Messages that found no session at the gateway they were sent to"),
    "malformed": ("what", "Input that was refused, by where it came from"),
    "unrecognised": ("why", "Connections that count under their proxy's address, by the reason"),
    "proxied": ("outcome", "PROXY headers by what became of them"),
}
"""Counters that are one metric with a label."""

HELP: Final[Mapping[str, str]] = {
    "connections_accepted": "WebSocket connections accepted",
    "connections_refused": "Connections refused: too many are open, in all or of one address",
    "messages_received": "Messages read from clients",
    "messages_delivered": "Messages handed to the outbox of their recipient",
    "messages_expired": "Messages that came to Redis too late, and were not sent on",
    "messages_passed_on": "Messages that a server of the cluster only passed on, and were dropped",
    "broadcasts_received": "Messages for everybody",
    "subscription_gaps": "Renewed subscriptions: messages may have been missed before each",
    "probes_lost": "Times that a gateway did not hear its own voice",
    "heartbeat_timeouts": "Clients given up because nothing was heard of them",
    "slow_consumers": "Clients given up because they did not read",
    "outbox_overflows": "Clients given up because more was waiting for them than is kept",
    "rate_limited": "Messages and control frames above the rate of their client",
    "tokens_expired": "Sessions ended because their token had",
    "stalls": "Times that the event loop stood still for long",
    "connection_failures": "Connections hung up on because of an error that nobody expected",
    "unhandled_errors": "Errors that reached the exception handler of the event loop",
    "log_lines_dropped": "Lines of the log that could not be written in time",
}


class LabelledCounter:
    """A counter of an optional feature, with one label.

    Args:
        name: of the metric, without `wsdemo_` before it and `_total` after it.
        text: its help.
        label: what its label is called.
        values: all the values that the label can have, so that each is shown from the start.
    """

    def __init__(self, name: str, text: str, label: str, values: Iterable[str]) -> None:
        self.name = name
        self.text = text
        self.label = label
        self.counts = dict.fromkeys(values, 0)


class Histogram:
    """A histogram of durations, in seconds.

    Args:
        counts: how many durations there are between the bounds already; None: none.
        sum_s: of those durations.
    """

    def __init__(
        self,
        name: str,
        text: str,
        bounds: tuple[float, ...],
        counts: Sequence[int] | None = None,
        sum_s: float = 0.0,
    ) -> None:
        self.name = name
        self.text = text
        self.bounds = bounds
        self.counts = list(counts) if counts else [0] * (len(bounds) + 1)
        """Between the bounds."""
        self.sum_s = sum_s
        """Of all durations."""

    def observe(self, value: float) -> None:
        """Count one duration."""
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.sum_s += value

    def buckets(self) -> list[tuple[str, int]]:
        """Return each bound, as text, with the number of durations that were not longer."""
        names = [*(f"{bound:g}" for bound in self.bounds), "+Inf"]
        return list(zip(names, itertools.accumulate(self.counts), strict=True))


def loop_lag() -> Histogram:
    """Return the histogram of how late the event loop is, from a millisecond to half a minute."""
    bounds = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
    return Histogram("loop_lag_seconds", "How late the event loop came to a timer", bounds)

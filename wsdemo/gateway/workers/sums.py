"""Aggregation of metrics: what have all workers of one port done together?

Each worker writes a report into its slot twice a second. Whoever is asked for `/metrics` or
`/stats` adds up all reports, with its own as it is now. What a worker had counted before it died
stays in the sum: its parent keeps it, so that a counter never goes back.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from wsdemo.gateway.counters import Counters, Histogram, LabelledCounter
from wsdemo.gateway.prometheus import CountersCollector, counter_family, gauge_family

LONGEST_TEXT: Final = 200
MOST_TEXTS: Final = 20
"""Of the reasons and of the warnings in a report."""
SILENT_S: Final = 5.0
"""A worker that has not reported for this long does not answer its users either."""


class Counts(msgspec.Struct):
    """What only grows."""

    counters: dict[str, int] = {}
    labelled: dict[str, dict[str, int]] = {}
    lag: list[int] = []
    lag_s: float = 0.0

    def plus(self, other: Counts) -> Counts:
        """Return the sum of both."""
        labelled = {
            name: _added(self.labelled.get(name, {}), other.labelled.get(name, {}))
            for name in {**self.labelled, **other.labelled}
        }
        lag = _lag_sum(self.lag, other.lag)
        counters = _added(self.counters, other.counters)
        return Counts(counters, labelled, lag, self.lag_s + other.lag_s)


class WorkerReport(msgspec.Struct):
    """What one worker says about itself."""

    gateway_id: str
    boot_id: str
    pid: int
    at_s: float
    """When it said so, by the monotonic clock of this machine."""
    uptime_s: float
    reasons: list[str]
    warnings: list[str]
    counts: Counts
    gauges: dict[str, float]
    deaf_shards: list[str] | None = None
    """The servers of a cluster that it cannot hear; None when there is one Redis."""

    def brief(self) -> None:
        """Shorten the texts: a report has a fixed size."""
        self.reasons = [text[:LONGEST_TEXT] for text in self.reasons[:MOST_TEXTS]]
        self.warnings = [text[:LONGEST_TEXT] for text in self.warnings[:MOST_TEXTS]]
        if self.deaf_shards is not None:
            self.deaf_shards = self.deaf_shards[:MOST_TEXTS]


class ParentReport(msgspec.Struct):
    """What the parent says about the workers."""

    boot_id: str = ""
    has_started: bool = False
    """Whether all workers have listened once."""
    restarts: int = 0
    ended: Counts = msgspec.field(default_factory=Counts)
    """What dead workers had counted."""


class WholeReport:
    """All workers of one port together.

    Args:
        gateway_id: of the whole: `gateway-01`.
        workers: reports of those that live and listen.
        wanted: how many there should be.
        now_s: monotonic seconds.
        started_s: when the parent began.
    """

    def __init__(
        self,
        gateway_id: str,
        parent: ParentReport,
        workers: Sequence[WorkerReport],
        wanted: int,
        now_s: float,
        started_s: float,
    ) -> None:
        self._gateway_id = gateway_id
        self._parent = parent
        self._workers = workers
        self._wanted = wanted
        self._now_s = now_s
        self._uptime_s = now_s - started_s

    def reasons(self) -> list[str]:
        """Return why new users should not be sent to this port; empty when they may be."""
        found = []
        if not self._parent.has_started:
            found.append(f"{len(self._workers)} of {self._wanted} workers have started")
        for worker in self._workers:
            if self._now_s - worker.at_s > SILENT_S:
                found.append(f"{worker.gateway_id}: does not answer")
            found += [f"{worker.gateway_id}: {reason}" for reason in worker.reasons]
        return found

    def shards(self) -> dict[str, Any]:
        """Return which servers of a cluster some worker cannot hear; nothing when there is one
        Redis.
        """
        told = [one.deaf_shards for one in self._workers if one.deaf_shards is not None]
        return {"deafShards": sorted(set[str]().union(*told))} if told else {}

    def stats(self) -> dict[str, Any]:
        """Return what `/stats` says."""
        gauges, reasons = self._gauges(), self.reasons()
        return {
            "gatewayId": self._gateway_id,
            "connections": int(gauges["connections"]),
            "sockets": int(gauges["sockets"]),
            "ready": not reasons,
            "reasons": reasons,
            **self.shards(),
            "warnings": list(dict.fromkeys(w for one in self._workers for w in one.warnings)),
            "uptimeS": round(self._uptime_s, 3),
            "bootId": self._parent.boot_id,
            "counters": _flat(self._counts()),
            "workerRestarts": self._parent.restarts,
            "workers": [
                {
                    "gatewayId": worker.gateway_id,
                    "pid": worker.pid,
                    "connections": int(worker.gauges["connections"]),
                    "sockets": int(worker.gauges["sockets"]),
                    "ready": not worker.reasons,
                    "uptimeS": round(worker.uptime_s, 3),
                    "bootId": worker.boot_id,
                }
                for worker in self._workers
            ],
        }

    def collector(self, like: CountersCollector) -> CountersCollector:
        """Return what shows all of it to Prometheus.

        Args:
            like: that of one worker, for the help of each metric.
        """
        counts, gauges = self._counts(), self._gauges()
        lag, labelled = like.histograms[0], like.labelled
        shown = CountersCollector(
            Counters(**counts.counters),
            {name: (text, _value(gauges[name])) for name, (text, _) in like.gauges.items()},
            [_histogram(lag, counts)],
            [_labelled(counter, counts.labelled[counter.name]) for counter in labelled],
        )
        connections = {one.gateway_id: one.gauges["connections"] for one in self._workers}
        shown.more = worker_metrics(self._parent.restarts, connections)
        return shown

    def _counts(self) -> Counts:
        total = self._parent.ended
        for worker in self._workers:
            total = total.plus(worker.counts)
        return total

    def _gauges(self) -> dict[str, float]:
        total: defaultdict[str, float] = defaultdict(float)
        for worker in self._workers:
            for name, value in worker.gauges.items():
                total[name] += value
        return {**total, "ready": float(not self.reasons()), "uptime_seconds": self._uptime_s}


def worker_metrics(restarts: int, connections: Mapping[str, float]) -> list[Any]:
    """Return the metrics that only several workers have."""
    return [
        counter_family("worker_restarts", "Workers that ended and were started anew", restarts),
        gauge_family(
            "worker_connections", "Registered users by worker", "worker", connections.items()
        ),
    ]


def _value(value: float) -> Any:
    return lambda: value


def _histogram(like: Histogram, counts: Counts) -> Histogram:
    return Histogram(like.name, like.text, like.bounds, counts.lag, counts.lag_s)


def _labelled(like: LabelledCounter, counts: dict[str, int]) -> LabelledCounter:
    shown = LabelledCounter(like.name, like.text, like.label, ())
    shown.counts = counts
    return shown


def _added(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {name: one.get(name, 0) + other.get(name, 0) for name in {**one, **other}}


def _lag_sum(one: list[int], other: list[int]) -> list[int]:
    if not one or not other:
        return one or other
    return [a + b for a, b in zip(one, other, strict=True)]


def _flat(counts: Counts) -> dict[str, int]:
    return dict(_flattened(counts))


def _flattened(counts: Counts) -> Iterator[tuple[str, int]]:
    yield from counts.counters.items()
    for name, values in counts.labelled.items():
        for label_value, count in values.items():
            yield f"{name}_{label_value}", count


def read_reports(texts: Iterable[bytes]) -> list[WorkerReport]:
    """Return the reports that there are."""
    return [msgspec.json.decode(text, type=WorkerReport) for text in texts if text]


def read_parent(text: bytes) -> ParentReport:
    """Return the report of the parent."""
    return msgspec.json.decode(text, type=ParentReport) if text else ParentReport()

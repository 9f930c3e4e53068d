"""Prometheus: what does it read of the counters, gauges and histograms of a gateway?

The server imports this module when `/metrics` is asked for, and not before: the library would be a
tenth of the time in which a gateway starts, and many gateways are never asked.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from wsdemo.gateway.counters import HELP, LABELLED, Counters, Histogram, LabelledCounter

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
"""Of the page."""


class CountersCollector(Collector):
    """Shows counters, gauges and histograms of one gateway to Prometheus.

    Args:
        gauges: name to (help, function) of values that go up and down.
    """

    def __init__(
        self,
        counters: Counters,
        gauges: Mapping[str, tuple[str, Callable[[], float]]],
        histograms: Sequence[Histogram] = (),
        labelled: Sequence[LabelledCounter] = (),
    ) -> None:
        self._counters = counters
        self.labelled = labelled
        self.gauges = gauges
        self.histograms = histograms
        self.more: Sequence[Metric] = ()
        """Metrics that are ready to be shown."""

    def collect(self) -> Iterator[Metric]:
        families: dict[str, CounterMetricFamily] = {}
        for item in dataclasses.fields(self._counters):
            value = getattr(self._counters, item.name)
            stem, _, label_value = item.name.partition("_")
            if stem not in LABELLED:
                yield CounterMetricFamily(f"wsdemo_{item.name}", HELP[item.name], value=value)
                continue
            label, text = LABELLED[stem]
            family = families.setdefault(
                stem, CounterMetricFamily(f"wsdemo_{stem}", text, labels=[label])
            )
            family.add_metric([label_value], value)
        yield from families.values()
        for counter in self.labelled:
            metric = CounterMetricFamily(
                f"wsdemo_{counter.name}", counter.text, labels=[counter.label]
            )
            for label_value, value in counter.counts.items():
                metric.add_metric([label_value], value)
            yield metric
        for name, (text, read) in self.gauges.items():
            yield GaugeMetricFamily(f"wsdemo_{name}", text, value=read())
        for histogram in self.histograms:
            yield HistogramMetricFamily(
                f"wsdemo_{histogram.name}",
                histogram.text,
                buckets=histogram.buckets(),
                sum_value=histogram.sum_s,
            )
        yield from self.more

    def page(self) -> str:
        """Return all of it as text; through a registry of its own, because several gateways may
        share a process.
        """
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return generate_latest(registry).decode()


def counter_family(name: str, text: str, value: float) -> Metric:
    """Return a counter; `wsdemo_` comes before its name."""
    return CounterMetricFamily(f"wsdemo_{name}", text, value=value)


def gauge_family(name: str, text: str, label: str, values: Iterable[tuple[str, float]]) -> Metric:
    """Return a gauge with one label."""
    family = GaugeMetricFamily(f"wsdemo_{name}", text, labels=[label])
    for label_value, value in values:
        family.add_metric([label_value], value)
    return family

"""Worker: what is different in a gateway that shares its port with others?

Its limits hold over all workers, and its pages `/ready`, `/stats` and `/metrics` say what is true
of all of them. It takes its orders to stop from its parent, over a socket. When that one is gone,
it drains: nobody would start it anew, or stop it.

A signal reaches a whole group of processes from a terminal, and from service managers. So a worker
does not count signals: SIGTERM asks for a drain, once, and the others it leaves to its parent.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import msgspec

from wsdemo.gateway.access_control import AccessControl, Answer
from wsdemo.gateway.journal import GATEWAY_LOG, Journal
from wsdemo.gateway.listening import BoundAddress, twin
from wsdemo.gateway.prometheus import CONTENT_TYPE
from wsdemo.gateway.server import JSON_TYPE, Gateway
from wsdemo.gateway.signals import HANG_UP, Requests
from wsdemo.gateway.workers.limits import SharedAccessControl
from wsdemo.gateway.workers.shared import SharedState
from wsdemo.gateway.workers.sums import (
    Counts,
    WholeReport,
    WorkerReport,
    read_parent,
    read_reports,
)
from wsdemo.settings import Address, GatewaySettings
from wsdemo.tasks import end

_log = logging.getLogger(GATEWAY_LOG)

REPORT_S: Final = 0.5
"""How often a worker reports."""
WORD_BYTES: Final = 4096
"""The longest word between a worker and its parent."""
DRAIN: Final = b"drain"
DRAIN_NOW: Final = b"drain now"
"""Without a notice to balancers."""
HURRY: Final = b"hurry"
LISTENS: Final = b"listens"
REPLACED: Final = b"replaced"
FAILED: Final = b"failed "
"""Before the reason."""
LACKS_REDIS: Final = b"lacks Redis "
"""Before the reason, when Redis did not answer: no mistake of the operator."""


@dataclass(frozen=True)
class Ports:
    """What the parent has bound for all workers; `api` is the port of the server API, if any."""

    users: Sequence[BoundAddress]
    api: BoundAddress | None


class Worker:
    """One worker: what it needs beside its settings. It exists in the worker's process only.

    Args:
        number: 1 is the first one.
        whole_id: what all workers together are called.
        settings: of this worker.
        ports: bound by the parent.
        state: shared by all.
        words: the socket to the parent.
        started_s: when the parent began (monotonic).
    """

    def __init__(
        self,
        number: int,
        whole_id: str,
        settings: GatewaySettings,
        ports: Ports,
        state: SharedState,
        words: socket.socket,
        started_s: float,
    ) -> None:
        self.whole_id = whole_id
        self.settings = settings
        self.ports = ports
        self.state = state
        self.slot = state.workers[number - 1]
        self.started_s = started_s
        self._words = words

    def gateway(self, journal: Journal) -> WorkerGateway:
        """Make the gateway."""
        return WorkerGateway(self, journal)

    async def bind(self, settings: GatewaySettings) -> list[BoundAddress]:
        """Open the sockets on which users connect."""
        return [_own(place) for place in self.ports.users]

    def tell(self, word: bytes) -> None:
        """Tell the parent something; it may be gone."""
        with contextlib.suppress(OSError):
            self._words.send(word[:WORD_BYTES])

    def fail(self, why: str, *, lacks_redis: bool = False) -> NoReturn:
        """End because the gateway cannot start. The parent says why: there may be several."""
        self.tell((LACKS_REDIS if lacks_redis else FAILED) + why.encode(errors="backslashreplace"))
        raise SystemExit(2)

    @contextlib.contextmanager
    def obeying(
        self,
        requests: Requests,
        skip_notice: Callable[[], object],
        loop: asyncio.AbstractEventLoop,
    ) -> Iterator[None]:
        """Take the orders of the parent on this loop, until the end."""
        loop.add_signal_handler(signal.SIGTERM, requests.ask)
        loop.add_reader(self._words.fileno(), self._obey, requests, skip_notice, loop)
        try:
            yield
        finally:
            loop.remove_reader(self._words.fileno())
            loop.remove_signal_handler(signal.SIGTERM)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def _obey(
        self,
        requests: Requests,
        skip_notice: Callable[[], object],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        try:
            word = self._words.recv(WORD_BYTES)
        except BlockingIOError:
            return
        except OSError:
            word = b""
        if word == DRAIN:
            requests.ask()
        elif word == HURRY:
            requests.ask_again()
        if not word:
            loop.remove_reader(self._words.fileno())
            _log.warning("[Gateway] the parent of %s has ended", self.settings.gateway_id)
        if not word or word == DRAIN_NOW:
            skip_notice()
            requests.ask()


def _own(place: BoundAddress) -> BoundAddress:
    """Return this worker's own sockets, and close those that it has from its parent: the port is
    closed when the worker closes it.
    """
    own = twin(place)
    for inherited in place.sockets:
        inherited.close()
    return own


def ignore_group_signals() -> None:
    """Leave to the parent what a terminal tells all processes of a group."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if HANG_UP is not None:
        signal.signal(HANG_UP, signal.SIG_IGN)


class WorkerGateway(Gateway):
    """A gateway that shares its port, its limits and its pages with other workers."""

    def __init__(self, worker: Worker, journal: Journal) -> None:
        self._worker = worker
        self._reporting: asyncio.Task[None] | None = None
        super().__init__(worker.settings, journal=journal, bind=worker.bind)

    def _make_access(self) -> AccessControl:
        worker = self._worker
        return SharedAccessControl(self.settings, self.counters, worker.state, worker.slot)

    async def _bind_api(self, address: Address) -> BoundAddress:
        api = self._worker.ports.api
        assert api is not None
        return _own(api)

    # --- life --------------------------------------------------------------------------------

    async def start(self) -> None:
        await super().start()
        self._report()
        self._worker.tell(LISTENS)
        self._reporting = asyncio.create_task(self._report_often(), name="reports")
        self._reporting.add_done_callback(self._ended)

    async def _stop(self) -> None:
        if self._reporting is not None:
            await end(self._reporting)
        await super()._stop()
        self._report()

    def _on_replaced(self) -> None:
        self._worker.tell(REPLACED)
        super()._on_replaced()

    async def _report_often(self) -> None:
        while True:
            await asyncio.sleep(REPORT_S)
            self._report()

    # --- reports -----------------------------------------------------------------------------

    def _report(self) -> None:
        report = self._own_report()
        report.brief()
        self._worker.slot.sockets = len(self._sockets())
        self._worker.slot.publish(msgspec.json.encode(report))

    def _own_report(self) -> WorkerReport:
        self._take_counts()
        now = time.monotonic()
        return WorkerReport(
            gateway_id=self.settings.gateway_id,
            boot_id=self.boot_id,
            pid=os.getpid(),
            at_s=now,
            uptime_s=now - self._started_at,
            reasons=self.unready_because(),
            warnings=self._warnings,
            counts=self._own_counts(),
            gauges={name: float(read()) for name, (_, read) in self._gauges().items()},
            deaf_shards=self._shards().get("deafShards"),
        )

    def _own_counts(self) -> Counts:
        counters = {name: getattr(self.counters, name) for name in self.counters.__slots__}
        labelled = {
            counter.name: dict(counter.counts)
            for feature in self._features
            for counter in feature.labelled()
        }
        return Counts(counters, labelled, list(self._lag.counts), self._lag.sum_s)

    def whole(self) -> WholeReport:
        """Return what is true of all workers, this one as it is now."""
        worker = self._worker
        others = [slot.report() for slot in worker.state.workers if slot is not worker.slot]
        reports = [self._own_report(), *read_reports(others)]
        return WholeReport(
            worker.whole_id,
            read_parent(worker.state.parent.report()),
            sorted(reports, key=lambda report: report.gateway_id),
            len(worker.state.workers),
            time.monotonic(),
            worker.started_s,
        )

    # --- pages -------------------------------------------------------------------------------

    def _page_ready(self) -> Answer:
        whole = self.whole()
        reasons = whole.reasons()
        body: dict[str, Any] = {
            "ready": not reasons,
            "reasons": reasons,
            "gatewayId": self._worker.whole_id,
            **whole.shards(),
        }
        return Answer(503 if reasons else 200, json.dumps(body) + "\n", JSON_TYPE)

    def _page_stats(self) -> Answer:
        return Answer(200, json.dumps(self.whole().stats()) + "\n", JSON_TYPE)

    def _page_metrics(self) -> Answer:
        page = self.whole().collector(self._collector()).page()
        return Answer(200, page, {"Content-Type": CONTENT_TYPE})

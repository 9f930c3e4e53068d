"""Shared memory of workers: do counts by address add up, and do reports arrive whole?"""

from __future__ import annotations

import errno
import gc
import os
import random
import signal
import time
from collections import Counter

import pytest

from wsdemo.gateway.counters import Counters
from wsdemo.gateway.workers.limits import SharedAccessControl, SharedAddressCounts
from wsdemo.gateway.workers.parent import CannotStart, Parent
from wsdemo.gateway.workers.shared import COLUMNS, REPORT_BYTES, ROWS, ReportTooLong, SharedState
from wsdemo.gateway.workers.sums import (
    Counts,
    ParentReport,
    WholeReport,
    WorkerReport,
    read_parent,
    read_reports,
)
from wsdemo.settings import GatewaySettings, Limits


def counts_of(state: SharedState) -> list[SharedAddressCounts]:
    tables = [slot.present for slot in state.workers]
    return [SharedAddressCounts(state, slot.present, tables) for slot in state.workers]


def test_counts_by_address_are_exact_sums_over_all_workers() -> None:
    """After thousands of connections and ends of hundreds of addresses, at three workers."""
    rng, state = random.Random(7), SharedState(3)
    workers, truth = counts_of(state), Counter[str]()
    open_ones: list[tuple[int, str]] = []
    for _ in range(6_000):
        if open_ones and rng.random() < 0.4:
            worker, address = open_ones.pop(rng.randrange(len(open_ones)))
            workers[worker].down(address)
            truth[address] -= 1
        else:
            worker, address = rng.randrange(3), f"203.0.{rng.randrange(4)}.{rng.randrange(100)}"
            workers[worker].up(address)
            truth[address] += 1
            open_ones.append((worker, address))
    for address in truth:
        assert workers[0].of(address) == truth[address], address
    for worker, address in open_ones:
        workers[worker].down(address)
    assert not any(any(slot.present) for slot in state.workers)


def test_the_cells_of_an_address_cannot_be_known_from_outside() -> None:
    """They depend on a secret of this run: nobody can fill the cells of somebody else's."""
    one, other = SharedState(1), SharedState(1)
    assert one.cells("203.0.113.1") != other.cells("203.0.113.1")
    assert len({cell // COLUMNS for cell in one.cells("203.0.113.1")}) == ROWS


def test_the_share_of_a_dead_worker_is_freed() -> None:
    """Its parent clears its slot; those of the others stay."""
    state = SharedState(2)
    one, other = counts_of(state)
    one.up("203.0.113.1")
    other.up("203.0.113.1")
    state.workers[0].sockets = 5
    state.workers[0].publish(b"a report")
    state.workers[0].clear()
    assert other.of("203.0.113.1") == 1
    assert state.sockets_beside(state.workers[1]) == 0
    assert state.workers[0].report() == b""


def test_limits_hold_over_all_workers() -> None:
    """The third connection of an address is refused by a worker that has only one of them, and so
    is the one that is too many in all."""
    settings = GatewaySettings(
        gateway_id="g", limits=Limits(connections_per_ip=2, max_connections=6)
    )
    state = SharedState(2)
    one, other = (SharedAccessControl(settings, Counters(), state, slot) for slot in state.workers)
    assert one.refusal(one.take_slot("203.0.113.1"), 1) is None
    assert other.refusal(other.take_slot("203.0.113.1"), 1) is None
    third = other.take_slot("203.0.113.1")
    refused = other.refusal(third, 2)
    assert refused is not None and refused.status == 429
    assert third is not None
    third.release()
    assert one.refusal(one.take_slot("203.0.113.2"), 4) is None
    full = other.refusal(None, 3)
    assert full is not None and full.status == 503
    assert other.is_overrun(None, 25) and not other.is_overrun(None, 24)


def test_what_a_child_process_writes_its_siblings_read() -> None:
    """The memory is shared over a fork, and a reader never gets half a report."""
    state = SharedState(1)
    reports = [bytes([letter]) * 30_000 for letter in b"ab"]
    pid = os.fork()
    if pid == 0:
        ends_at = time.monotonic() + 0.3
        while time.monotonic() < ends_at:
            for report in reports:
                state.workers[0].publish(report)
        os._exit(0)
    seen = set[bytes]()
    while not os.waitpid(pid, os.WNOHANG)[0]:
        seen.add(state.workers[0].report())
    assert seen <= {*reports, b""}
    assert state.workers[0].report() == reports[1]


def test_the_last_report_stays_whole_while_the_next_one_is_written() -> None:
    """A worker that dies in the middle of a report leaves the one before it."""
    slot = SharedState(1).workers[0]
    slot.publish(b"the last one")
    slot.publish(b"the next one")
    assert all(text in bytes(slot._memory) for text in (b"the last one", b"the next one"))


def test_a_report_with_a_wrong_byte_is_none() -> None:
    """Its checksum tells: half a report must not be read as a whole one."""
    slot = SharedState(1).workers[0]
    slot.publish(b"a report")
    at = bytes(slot._memory).index(b"a report")
    slot._memory[at] ^= 1
    assert slot.report() == b""


def test_a_report_that_does_not_fit_is_refused() -> None:
    """It would overwrite what is behind it."""
    state = SharedState(1)
    with pytest.raises(ReportTooLong):
        state.workers[0].publish(bytes(REPORT_BYTES))
    state.workers[0].publish(bytes(REPORT_BYTES - 8))


def test_a_system_that_allows_no_more_processes_ends_the_start_with_a_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The limit of processes is reached: one line, and nothing is left open."""

    def refuse() -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refuse)
    before = signal.getsignal(signal.SIGCHLD)
    parent = Parent(GatewaySettings(gateway_id="g", port=0), 2)
    try:
        with pytest.raises(CannotStart, match="cannot start a process: Resource temporarily"):
            parent.run()
    finally:
        signal.signal(signal.SIGCHLD, before)
        gc.unfreeze()


def report(name: str, now_s: float, reasons: list[str], registers: int = 0) -> WorkerReport:
    return WorkerReport(
        gateway_id=name,
        boot_id=name,
        pid=1,
        at_s=now_s,
        uptime_s=1.0,
        reasons=reasons,
        warnings=["w"],
        counts=Counts({"registers_ok": registers}, {"kinds": {"a": 1}}, [1, 0], 0.5),
        gauges={"connections": 2.0, "sockets": 3.0, "ready": 1.0, "uptime_seconds": 1.0},
    )


def whole(*workers: WorkerReport, has_started: bool = True) -> WholeReport:
    ended = Counts({"registers_ok": 10}, {"kinds": {"a": 5}}, [0, 2], 1.0)
    parent = ParentReport("boot", has_started, restarts=1, ended=ended)
    return WholeReport("g", parent, workers, 2, now_s=100.0, started_s=90.0)


def test_a_sum_includes_what_ended_workers_had_counted() -> None:
    """So no counter goes back when a worker dies."""
    stats = whole(report("g.1", 100.0, [], 3), report("g.2", 100.0, [], 4)).stats()
    assert stats["counters"] == {"registers_ok": 17, "kinds_a": 7}
    assert (stats["connections"], stats["sockets"], stats["uptimeS"]) == (4, 6, 10.0)
    assert stats["warnings"] == ["w"] and stats["ready"] and stats["workerRestarts"] == 1


def test_the_whole_is_ready_when_each_worker_that_listens_is() -> None:
    """A reason names its worker. One that is silent counts, one that is being started anew does
    not: the kernel sends nobody to it."""
    ready, draining = report("g.1", 100.0, []), report("g.2", 100.0, ["draining"])
    assert whole(ready, draining).reasons() == ["g.2: draining"]
    assert whole(ready, report("g.2", 94.0, [])).reasons() == ["g.2: does not answer"]
    assert whole(ready).reasons() == []
    assert whole(ready, has_started=False).reasons() == ["1 of 2 workers have started"]


def test_the_whole_does_not_hear_a_shard_that_some_worker_does_not_hear() -> None:
    """As one gateway on a cluster; on one Redis there are no shards to speak of."""
    one, other = report("g.1", 100.0, []), report("g.2", 100.0, [])
    assert whole(one, other).shards() == {}
    assert "deafShards" not in whole(one, other).stats()
    one.deaf_shards, other.deaf_shards = ["h:2", "h:1"], ["h:2"]
    assert whole(one, other).stats()["deafShards"] == ["h:1", "h:2"]
    one.deaf_shards, other.deaf_shards = [], []
    assert whole(one, other).shards() == {"deafShards": []}


def test_reports_survive_their_way_through_memory() -> None:
    """As JSON; an empty slot is no report, and texts are cut so that a report fits."""
    import msgspec

    long = report("g.1", 100.0, ["x" * 10_000] * 100)
    long.brief()
    text = msgspec.json.encode(long)
    assert len(text) < REPORT_BYTES // 4
    assert read_reports([text, b""]) == [long]
    assert read_parent(b"") == ParentReport()

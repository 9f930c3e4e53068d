"""Event stream: what does a board need to know, ten times a second?

The feed reads what was recorded since the last tick, asks Redis what it says about every user, and
makes one batch of both, encoded once for all boards. It keeps the batches: they are the recording,
and a board that comes late gets them first (docs/observer.md).

Redis is asked apart from the events, so its answer may be older than an event, or contradict what
an event has said. Each answer is compared with what boards have been told, and every difference is
sent: whatever an event has claimed, half a second later boards know what Redis says.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from itertools import groupby
from typing import Any, Final

from wsdemo.events import Event, Kind
from wsdemo.lab.classroom.history import History, encoded
from wsdemo.lab.classroom.sampler import EntrySample, EntrySampler
from wsdemo.lab.classroom.state import Batch, BoardState, EntryRow
from wsdemo.lab.classroom.translator import CROWD, BoardEvent, Translator
from wsdemo.lab.cluster.cluster import Cluster
from wsdemo.tasks import end

__all__ = ["CROWD", "Feed", "Listener", "describe"]

TICK_S: Final = 0.1
MESSAGES_PER_TICK: Final = 12
"""Messages that a board can show at once; of more, it is told how many there were."""
EVENTS_PER_TICK: Final = 3_000
"""A feed that begins late has much to read: so much at a time that no gateway waits for it."""
BEHIND_S: Final = 1.0
"""Events of a longer time than this are the past: they become batches of a tick each."""
SAME_LEASE_S: Final = 0.08
"""Two answers about one lease differ by less: what was not renewed is not sent again."""

Listener = Callable[[str], object]
"""Gets each batch, as text, on the lab's loop."""


class Feed:
    """Makes the batches. Lives on the lab's loop.

    Args:
        cluster: started.
        publish: the first listener, if there is one already.
    """

    def __init__(self, cluster: Cluster, publish: Listener | None = None) -> None:
        self._cluster = cluster
        self._listeners: list[Listener] = [] if publish is None else [publish]
        self._started_at = cluster.recorder.started_at
        self._mark = 0
        self._translator = Translator(self._started_at, cluster.timing.presence_ttl_s)
        self._told = BoardState()
        """What a board knows that has heard everything."""
        self._notes: list[BoardEvent] = []
        self._written: set[str] = set()
        """Users whose entries were written since the question to Redis that is under way."""
        self._history = History()
        self._sampler: EntrySampler | None = None
        self._task: asyncio.Task[None] | None = None
        self._tick_s = 0.0

    # --- what others ask ---------------------------------------------------------------------

    @property
    def now(self) -> float:
        """Seconds since the record began."""
        return time.monotonic() - self._started_at

    @property
    def history(self) -> list[str]:
        """What a board that comes now has to hear first."""
        return self._history.texts()

    @property
    def known(self) -> bool:
        """Whether Redis could be asked lately: if not, nothing is known about any entry."""
        return self._told.known

    @property
    def busy_s(self) -> float:
        """CPU time spent on ticks, questions and answers, for those who ask what a board costs."""
        return self._tick_s + (self._sampler.busy_s if self._sampler is not None else 0.0)

    def note(self, kind: str, **fields: Any) -> None:
        """Add something that only the class room knows: a vote, a new seat, a teacher's press."""
        self._notes.append({"k": kind, "t": round(self.now, 4), **fields})

    def belief(self, user: str) -> tuple[str, str, float]:
        """Return what Redis was last seen to say about a user: gateway, connection, when the
        lease ends. All are empty without an entry, and when Redis cannot be asked (`known`).
        """
        return self._told.entries.get(user, ("", "", 0.0))

    def listen(self, listener: Listener) -> list[str]:
        """Give each batch to a listener from now on; return those before."""
        self._listeners.append(listener)
        return self.history

    def unlisten(self, listener: Listener) -> None:
        """Give it no more. Idempotent."""
        if listener in self._listeners:
            self._listeners.remove(listener)

    # --- life --------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to tick."""
        cluster = self._cluster
        self._sampler = EntrySampler(cluster.redis_url, cluster.keyspace, lambda: self.now)
        self._task = asyncio.create_task(self._run(), name="classroom feed")

    async def stop(self) -> None:
        """End it; the history stays, with what has happened until now. Idempotent."""
        task, self._task = self._task, None
        if task is not None:
            await end(task)
            mark = -1
            while mark != self._mark:  # A feed that began late may have much to read yet.
                mark = self._mark
                self.flush()
        if self._sampler is not None:
            await self._sampler.stop()

    def flush(self) -> None:
        """Send now what has happened since the last tick, and do not wait for the next one."""
        sampler = self._sampler
        if sampler is None:
            return
        began = time.thread_time()
        try:
            self._tick(sampler)
        except Exception as problem:  # A bug, which shall not end the boards of a class.
            _report("a tick of the feed failed", problem)
        self._tick_s += time.thread_time() - began

    async def _run(self) -> None:
        while True:
            self.flush()
            await asyncio.sleep(TICK_S)

    # --- a tick ------------------------------------------------------------------------------

    def _tick(self, sampler: EntrySampler) -> None:
        new = self._cluster.recorder.since(self._mark, EVENTS_PER_TICK)
        self._mark = new.mark
        if new.lost:
            self.note("lost", n=new.lost)
        *past, latest = _in_ticks(new.events)
        for events in past:
            self._send_past(events, sampler)
        if len(new.events) < EVENTS_PER_TICK:
            self._send_now(latest, sampler)
        else:  # There is more to read: it is not now yet.
            self._send_past(latest, sampler)

    def _send_past(self, events: list[Event], sampler: EntrySampler) -> None:
        t = max(self._told.t, self._translator.seconds(events[-1].t))
        self._send({"type": "batch", "t": t, "e": self._translated(events, sampler)})

    def _send_now(self, events: list[Event], sampler: EntrySampler) -> None:
        shown = self._translated(events, sampler)
        notes, self._notes = self._notes, []
        for note in notes:
            self._told.apply_event(note)
            # Before the first event that is later; events keep the order of the record.
            later = (i for i, event in enumerate(shown) if event["t"] > note["t"])
            shown.insert(next(later, len(shown)), note)
        asked_at = sampler.asked_at
        sample = sampler.poll()
        rows: list[EntryRow] = []
        if sample is not None:
            change, rows = self._compared(sample, sampler)
            shown += change
        if sampler.asked_at != asked_at:
            self._written.clear()
        batch: Batch = {"type": "batch", "t": round(self.now, 3), "e": shown, "b": rows}
        held = [list(verb) for verb in self._cluster.held]
        if held != self._told.held:
            batch["held"] = self._told.held = held
        self._send(batch)

    def _translated(self, events: list[Event], sampler: EntrySampler) -> list[BoardEvent]:
        """Return what a board is told of these events, and take note of it."""
        for event in events:
            if event.kind in _WRITES:
                sampler.add(event.user)
                if event.t - self._started_at >= sampler.asked_at:
                    self._written.add(event.user)
        shown: list[BoardEvent] = []
        for row in self._translator.translate(events, MESSAGES_PER_TICK):
            shown.append(row)
            self._told.apply_event(row)
            if self._told.redis != "up" and self._told.known:
                sampler.outage()
                shown.append(self._beliefs("beliefs_unknown", row["t"]))
        return shown

    def _beliefs(self, kind: str, t: float) -> BoardEvent:
        event = {"k": kind, "t": t}
        self._told.apply_event(event)
        return event

    def _compared(
        self, sample: EntrySample, sampler: EntrySampler
    ) -> tuple[list[BoardEvent], list[EntryRow]]:
        """Return what an answer of Redis changes in what boards know."""
        told, t = self._told, round(self.now, 4)
        if sample.entries is None:
            return ([self._beliefs("beliefs_unknown", t)] if told.known else []), []
        if told.redis != "up":
            return [], []  # Answered just before it stopped.
        events = [] if told.known else [self._beliefs("beliefs_known", t)]
        rows: list[EntryRow] = []
        for user, entry in sample.entries.items():
            if user in self._written:
                continue  # An event may be newer than this answer; the next one is not older.
            # After an outage everything is said again.
            if events or not _same(told.entries.get(user, _NO_ENTRY), entry):
                rows.append([user, *entry])
            if not entry[0]:
                sampler.remove(user)
        told.apply_entries(rows)
        return events, rows

    def _send(self, batch: Batch) -> None:
        told = self._told
        told.t, told.messages = batch["t"], self._translator.messages
        if self._translator.skipped:
            batch["skipped"], self._translator.skipped = self._translator.skipped, 0
        news = {name: value for name, value in batch.items() if value or name in ("t", "held")}
        text = encoded({**news, "n": told.messages})
        if len(news) > 2:  # What tells only the time is sent, so that clocks go on, and not kept.
            self._history.add(text)
        for listener in list(self._listeners):
            try:
                listener(text)
            except Exception as problem:  # One board that fails must not end those of the others.
                self.unlisten(listener)
                _report("a board could not be told", problem)


_WRITES: Final = frozenset({Kind.PRESENCE_SET, Kind.PRESENCE_REFRESH, Kind.PRESENCE_DEL})
_NO_ENTRY: Final = ("", "", 0.0)


def _report(what: str, problem: Exception) -> None:
    context = {"message": what, "exception": problem}
    asyncio.get_running_loop().call_exception_handler(context)


def _same(one: tuple[str, str, float], other: tuple[str, str, float]) -> bool:
    return one[:2] == other[:2] and abs(one[2] - other[2]) < SAME_LEASE_S


def _in_ticks(events: list[Event]) -> list[list[Event]]:
    """Return events of the past in parts of a tick each, and those of now in one part."""
    if not events or abs(events[-1].t - events[0].t) <= BEHIND_S:
        return [events]
    return [list(part) for _, part in groupby(events, lambda event: int(event.t / TICK_S))]


def describe(cluster: Cluster) -> dict[str, Any]:
    """Return what a board is told first about a lab."""
    timing = cluster.timing
    freezable = cluster.freezable
    return {
        "scale": timing.scale,
        "ttl": timing.presence_ttl_s,
        "heartbeat": timing.heartbeat_s,
        "policy": cluster.policy,
        "gateways": [{"name": name, "freezable": name in freezable} for name in cluster.names],
    }

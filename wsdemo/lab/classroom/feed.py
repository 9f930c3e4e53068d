"""What does a board need to know, ten times a second?

The recorder hears everything; a board wants the part of it that can be seen. `Feed` reads what
the recorder has heard since the last tick, asks Redis what it believes (nobody is told when a
lease runs down), and makes one batch of it, encoded once for all boards. The batches are kept:
they are the recording, and a board that comes late gets them all.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, Final

import redis.asyncio as redis_client
from redis.exceptions import RedisError

from wsdemo.events import Event, Kind
from wsdemo.lab.cluster.cluster import Cluster
from wsdemo.lab.trace.frames.columns import REDIS
from wsdemo.lab.trace.recorder import Recorder

TICK_S: Final = 0.1
SAMPLE_S: Final = 0.5
MESSAGES_PER_TICK: Final = 12
"""Messages that a board can show flying; of more, it is told how many there were."""
SAMPLED: Final = 1_000
HISTORY_BYTES: Final = 32 * 1024 * 1024
SAME_LEASE_S: Final = 0.08
"""Two samples of one lease differ by less: what was not renewed is not sent again."""
CROWD: Final = re.compile(r"user\d{3,}")

SAMPLE: Final = """
local out = {}
for i, key in ipairs(KEYS) do
  local entry = redis.call('HMGET', key, 'gwId', 'connId')
  out[i] = {entry[1] or '', entry[2] or '', redis.call('PTTL', key)}
end
return cjson.encode(out)
"""
"""One question and one answer for all users, however many: 330 of them cost 1 ms."""


class Translator:
    """Turns what the recorder heard into what a board shows. Pure; also used on old records."""

    def __init__(self, started_at: float, ttl_s: float) -> None:
        self._started_at, self._ttl_s = started_at, ttl_s
        self._on_the_way: OrderedDict[tuple[str, str], tuple[str, str]] = OrderedDict()
        self.messages = 0
        self.skipped = 0

    def translate(self, events: Iterable[Event], at_most: int = 10**9) -> list[dict[str, Any]]:
        """Return the events of a board, in order."""
        out: list[dict[str, Any]] = []
        shown = 0
        for event in events:
            make = _SHOWN.get(event.kind)
            if make is None:
                continue
            row = make(self, event)
            if row is None:
                continue
            if row["k"] == "msg":
                self.messages += 1
                shown += 1
                if shown > at_most:
                    self.skipped += 1
                    continue
            row["t"] = round(event.t - self._started_at, 4)
            out.append(row)
        return out

    # --- one method for each kind ------------------------------------------------------------

    def _gateway(self, event: Event, kind: str) -> dict[str, Any] | None:
        return {"k": kind, "g": event.lane}

    def _set(self, event: Event) -> dict[str, Any] | None:
        return {
            "k": "set",
            "u": event.user,
            "g": event.gateway,
            "c": event.conn_id,
            "x": round(event.t - self._started_at + self._ttl_s, 3),
            **({"p": event.peer} if event.peer else {}),
        }

    def _refresh(self, event: Event) -> dict[str, Any] | None:
        if event.reason == "reclaimed":
            return {"k": "reclaim", "u": event.user, "g": event.gateway, "c": event.conn_id}
        return None  # The next sample shows it.

    def _reject(self, event: Event) -> dict[str, Any] | None:
        row = {"k": "rej", "u": event.user, "g": event.gateway, "c": event.conn_id}
        return {**row, "r": event.reason}

    def _del(self, event: Event) -> dict[str, Any] | None:
        return {"k": "del", "u": event.user, "g": event.gateway, "c": event.conn_id}

    def _close(self, event: Event) -> dict[str, Any] | None:
        if event.lane == event.gateway and event.conn_id:
            return {"k": "close", "u": event.user, "g": event.gateway, "c": event.conn_id}
        return None

    def _message(self, event: Event) -> dict[str, Any] | None:
        self._on_the_way[event.lane, event.msg_id] = (event.user, event.peer)
        if len(self._on_the_way) > 4096:
            self._on_the_way.popitem(last=False)
        return None

    def _route(self, event: Event) -> dict[str, Any] | None:
        sender, _ = self._on_the_way.pop((event.lane, event.msg_id), ("", ""))
        row = {"k": "msg", "u": sender, "v": event.user, "g": event.lane, "s": event.reason}
        return {**row, "h": event.peer} if event.peer else row

    def _deliver(self, event: Event) -> dict[str, Any] | None:
        # A message that came by Redis has been shown by its route.
        sent = self._on_the_way.pop((event.lane, event.msg_id), None)
        if sent is None:
            return None
        row = {"k": "msg", "u": sent[0], "v": sent[1], "g": event.lane, "h": event.lane}
        return {**row, "s": "local"}

    def _bounce(self, event: Event) -> dict[str, Any] | None:
        return {"k": "bounce", "u": event.user, "v": event.peer, "g": event.lane}

    def _dropped(self, event: Event) -> dict[str, Any] | None:
        return {"k": "silent", "u": event.user, "g": event.gateway, "c": event.conn_id}

    def _kick(self, event: Event) -> dict[str, Any] | None:
        return {"k": "kick", "u": event.user, "g": event.lane}

    def _crash(self, event: Event) -> dict[str, Any] | None:
        return {"k": "redis_down"} if event.lane == REDIS else {"k": "crash", "g": event.lane}

    def _fault(self, event: Event) -> dict[str, Any] | None:
        if event.lane == REDIS:
            return {"k": "redis_up"}
        return {"k": "fault", "g": event.lane, "r": event.reason}


Make = Callable[[Translator, Event], dict[str, Any] | None]


def _named(kind: str) -> Make:
    return lambda self, event: self._gateway(event, kind)


_SHOWN: Final[dict[Kind, Make]] = {
    Kind.READY: _named("ready"),
    Kind.UNREADY: _named("unready"),
    Kind.DRAIN: _named("drain"),
    Kind.STOPPED: _named("stopped"),
    Kind.FREEZE: _named("freeze"),
    Kind.THAW: _named("thaw"),
    Kind.STALL: _named("stall"),
    Kind.CRASH: Translator._crash,
    Kind.FAULT: Translator._fault,
    Kind.PRESENCE_SET: Translator._set,
    Kind.PRESENCE_REFRESH: Translator._refresh,
    Kind.PRESENCE_REJECT: Translator._reject,
    Kind.PRESENCE_DEL: Translator._del,
    Kind.WS_CLOSE: Translator._close,
    Kind.MESSAGE: Translator._message,
    Kind.ROUTE: Translator._route,
    Kind.DELIVER: Translator._deliver,
    Kind.BOUNCE: Translator._bounce,
    Kind.CLEANUP: Translator._dropped,
    Kind.KICK: Translator._kick,
}


class Tail:
    """Reads what a recorder has heard since the last time.

    In the package this becomes a method of `Recorder`. A copy made in C: other threads (frozen
    gateways have loops of their own) append meanwhile.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._events = recorder._events
        self._last: Event | None = None

    def fresh(self) -> list[Event]:
        size = 512
        while True:
            newest = list(itertools.islice(reversed(self._events), size))
            if self._last is None:
                if len(newest) < size:
                    break
            else:
                found = next((i for i, e in enumerate(newest) if e is self._last), None)
                if found is not None:
                    newest = newest[:found]
                    break
                if len(newest) < size:
                    break  # The oldest are gone already: more than the recorder keeps.
            size *= 4
        if newest:
            self._last = newest[0]
        newest.reverse()
        return newest


class Feed:
    """Makes the batches. Lives on the lab's loop.

    Args:
        cluster: started.
        publish: gets each batch, as text.
    """

    def __init__(self, cluster: Cluster, publish: Callable[[str], None]) -> None:
        self._cluster = cluster
        self._publish = publish
        self._started_at = cluster.recorder.started_at
        self._tail = Tail(cluster.recorder)
        self._translator = Translator(self._started_at, cluster.timing.presence_ttl_s)
        self._extra: list[dict[str, Any]] = []
        self._belief: dict[str, tuple[str, str, float]] = {}
        self._users: dict[str, None] = {}
        self._held: list[list[Any]] = []
        self._task: asyncio.Task[None] | None = None
        self._database: redis_client.Redis | None = None
        self._samples_failed = False
        self.history: list[str] = []
        self._history_bytes = 0
        self.busy_s = 0.0
        """Time spent in ticks, for those who ask what a board costs."""

    @property
    def now(self) -> float:
        """Seconds since the recorder began."""
        return time.monotonic() - self._started_at

    def note(self, kind: str, **fields: Any) -> None:
        """Add something that only the classroom knows: a vote, a new seat, a teacher's press."""
        self._extra.append({"k": kind, "t": round(self.now, 4), **fields})

    def belief(self, user: str) -> tuple[str, str, float]:
        """Return what Redis was last seen to say: gateway, connection, when it ends."""
        return self._belief.get(user, ("", "", 0.0))

    def start(self) -> None:
        self._database = redis_client.Redis.from_url(
            self._cluster.redis_url,
            decode_responses=True,
            socket_timeout=0.4,
            socket_connect_timeout=0.4,
        )
        self._task = asyncio.create_task(self._run(), name="classroom feed")

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        if self._database is not None:
            await self._database.aclose()

    async def _run(self) -> None:
        sample_at = 0.0
        sampling: asyncio.Task[list[list[Any]]] | None = None
        while True:
            began = time.perf_counter()
            changes: list[list[Any]] = []
            if sampling is not None and sampling.done():
                changes, sampling = sampling.result(), None
            self._tick(changes)
            self.busy_s += time.perf_counter() - began
            if sampling is None and time.monotonic() >= sample_at:
                sample_at = time.monotonic() + SAMPLE_S
                # Not awaited here: a Redis that stands still must not stop the board.
                sampling = asyncio.create_task(self._sample(), name="classroom sample")
            await asyncio.sleep(TICK_S)

    def _tick(self, changes: list[list[Any]]) -> None:
        events = self._translator.translate(self._tail.fresh(), MESSAGES_PER_TICK)
        for event in events:
            if event["k"] == "set":
                self._users[event["u"]] = None
        extra, self._extra = self._extra, []
        events = sorted(events + extra, key=lambda e: e["t"]) if extra else events
        held = self._held_now()
        batch: dict[str, Any] = {"type": "batch", "t": round(self.now, 3)}
        if events:
            batch["e"] = events
        if changes:
            batch["b"] = changes
        if held != self._held:
            self._held = held
            batch["held"] = held
        if self._translator.skipped:
            batch["skipped"], self._translator.skipped = self._translator.skipped, 0
        batch["n"] = self._translator.messages
        text = json.dumps(batch, separators=(",", ":"))
        if len(batch) > 3:  # A batch of nothing is sent, so that clocks go on, and not kept.
            self._keep(text)
        self._publish(text)

    def _keep(self, text: str) -> None:
        self.history.append(text)
        self._history_bytes += len(text)
        while self._history_bytes > HISTORY_BYTES:
            self._history_bytes -= len(self.history.pop(0))

    def _held_now(self) -> list[list[Any]]:
        rows = []
        for gateway, director in list(self._cluster.directors.items()):
            if gateway in self._cluster.hosts:
                for place in list(director.gates._shut):
                    waiting = director.gates.waiting(place)
                    rows.append([place.user, gateway, str(place.verb), waiting])
        return rows

    async def _sample(self) -> list[list[Any]]:
        """Ask Redis about everybody; return what has changed since the last time."""
        users = list(self._users)[-SAMPLED:]
        if not users or self._database is None:
            return []
        keys = [self._cluster.keyspace.presence(user) for user in users]
        asked = self.now
        try:
            text = await self._database.eval(SAMPLE, len(keys), *keys)
        except (RedisError, OSError, TimeoutError):
            return []
        middle = (asked + self.now) / 2
        changes: list[list[Any]] = []
        for user, (gateway, conn, left_ms) in zip(users, json.loads(text), strict=True):
            ends = round(middle + left_ms / 1000, 3) if left_ms > 0 else 0.0
            before = self._belief.get(user, ("", "", -1.0))
            if (gateway, conn) == before[:2] and abs(ends - before[2]) < SAME_LEASE_S:
                continue
            self._belief[user] = (gateway, conn, ends)
            changes.append([user, gateway, conn, ends])
        return changes


def describe(cluster: Cluster) -> dict[str, Any]:
    """Return what a board is told first about a lab."""
    timing = cluster.timing
    return {
        "scale": timing.scale,
        "ttl": timing.presence_ttl_s,
        "heartbeat": timing.heartbeat_s,
        "policy": cluster.policy,
        "gateways": [
            {"name": name, "freezable": name in cluster._fleet._freezable} for name in cluster._wanted
        ],
    }


def of_record(recorder: Recorder, ttl_s: float) -> list[dict[str, Any]]:
    """Return the batches of a record that no feed has followed: leases are inferred, not seen."""
    translator = Translator(recorder.started_at, ttl_s)
    out: list[dict[str, Any]] = []
    for event in recorder.events:
        rows = translator.translate([event])
        beliefs: list[list[Any]] = []
        t = event.t - recorder.started_at
        if event.kind in (Kind.PRESENCE_SET, Kind.PRESENCE_REFRESH) and event.ok:
            beliefs = [[event.user, event.gateway, event.conn_id, round(t + ttl_s, 3)]]
        if rows or beliefs:
            if out and out[-1]["t"] == round(t, 3):
                out[-1].setdefault("e", []).extend(rows)
                out[-1].setdefault("b", []).extend(beliefs)
            else:
                out.append({"type": "batch", "t": round(t, 3), "e": rows, "b": beliefs})
    return out



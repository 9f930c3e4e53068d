"""Who owned whom, in Redis' own order, with nothing left out?

MONITOR shows every command that Redis executes, and inside of a script every call that the script
makes, in the order of execution. So a connection that watches sees each change of an owner with
its token, not samples of it; and it also sees what no gateway will ever hear of: the outcome of a
command that arrived late, on a connection that its gateway had long given up.

A Redis that dies takes the witness' connection with it. What happens until it is back is a gap,
and is counted. A gap hides changes, and must not invent any. So the first thing that the witness
does when it is back is to ask for all entries, in one script, and MONITOR shows where among all
other commands that script ran: from there on it is known again whose entry is whose. Only what runs
in the milliseconds before it is in doubt, and a release among that is not judged.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import hiredis

from wsdemo.presence import store
from wsdemo.proof.history import Forgotten, Happened, ObservationGap, Owner, Record, Released
from wsdemo.redis.connection import pack_command
from wsdemo.redis.scripts import Script
from wsdemo.router import ROUTE

LINE_BYTES: Final = 8 * 1024 * 1024
"""The longest line: a hostile message of a megabyte, each byte of it escaped."""
RETRY_S: Final = 0.01
ASK_S: Final = 1.0
"""How long the witness waits for all entries; without them it stays in doubt."""
ENTRIES: Final = """#!lua flags=no-writes,allow-oom,allow-stale
local found = {}
for _, key in ipairs(redis.call('KEYS', 'presence:*')) do
  if redis.call('TYPE', key).ok == 'hash' then
    local entry = redis.call('HMGET', key, 'connId', 'gwId', 'epoch', 'ts')
    entry[5] = tostring(redis.call('PTTL', key))
    entry[6] = key
    table.insert(found, entry)
  end
end
return cjson.encode(found)
"""
WHOLE: Final = frozenset({"gwId", "connId", "ts", "epoch"})
"""What an entry consists of (P4)."""
PRESENCE: Final = "presence:"
SCRIPTS: Final[tuple[Script, ...]] = (*store.SCRIPTS, ROUTE)

OUTCOMES: Final = (
    *("mint ok", "register ok", "register stale", "release removed", "release not owner"),
    *("refresh ok", "refresh reclaimed", "refresh superseded", "refresh closed"),
    *("route published", "route offline"),
)
"""All that the scripts of presence and routing may decide, as far as their calls show it."""


@dataclass(slots=True)
class _Call:
    """A script that runs, and the calls that it has made so far, each as a list of words."""

    script: str
    user: str
    args: list[str]
    made: list[list[str]] = field(default_factory=list)

    def first(self, verb: str, prefix: str = "") -> list[str] | None:
        """Return the first call of a verb on a key with this prefix."""
        fitting = (made for made in self.made if made[0] == verb and made[1].startswith(prefix))
        return next(fitting, None)


@dataclass(frozen=True, slots=True)
class Seen:
    """An entry, as it was found when somebody asked."""

    user: str
    conn: str
    gateway: str
    token: int | None
    whole: bool
    ttl_s: float


UNSEEN: Final = "unseen"
"""The verb of a change that happened while nobody looked."""


class Ledger:
    """What the lines of MONITOR say about owners: pure, fed line by line.

    Args:
        note: hears of each change.
        clock: seconds, on the clock of the history.
    """

    def __init__(self, note: Callable[[Record], None], clock: Callable[[], float]) -> None:
        self.outcomes: Counter[str] = Counter()
        """How often each script decided what."""
        self.unjudged = 0
        """Releases that were not judged, because they came in a gap's last milliseconds."""
        self.known: dict[str, list[Seen]] = {}
        """Entries that were asked for, by the word that marks the asking in MONITOR."""
        self._owner: dict[str, str] = {}
        self._until: dict[str, float] = {}
        """When the entry of each user expires, which MONITOR does not show."""
        self._note = note
        self._clock = clock
        self._fences: dict[str, dict[str, str]] = {}
        self._doubtful: set[str] = set()
        """Users whose entry may have changed in a gap."""
        self._call: _Call | None = None

    def feed(self, line: str) -> None:
        """Take note of one line, without the sign of a simple string before it."""
        _, _, rest = line.partition(" [")
        source, _, text = rest.partition('] "')
        words = text.rstrip().removesuffix('"').split('" "')
        if source.endswith("lua"):
            if self._call is not None:
                self._call.made.append(words)
            return
        self.settle()
        if self.known and (seen := self.known.pop(words[-1], None)) is not None:
            self._know(seen)
            return
        verb = words[0].upper()
        if verb in ("EVALSHA", "EVAL") and len(words) > 3:
            self._call = _called(words)
        elif verb in ("FLUSHALL", "FLUSHDB"):
            self.forget()
        elif verb in ("DEL", "SET", "UNLINK") and words[1].startswith(PRESENCE):
            self._gone(words[1].removeprefix(PRESENCE), verb.lower(), "")

    def settle(self) -> None:
        """Judge the last script: the next line shows that it is over."""
        call, self._call = self._call, None
        if call is None or not call.made:
            return  # A script that made no call was not there (NOSCRIPT), and did not run.
        judge = {
            "mint": self._minted,
            "register": self._registered,
            "refresh": self._refreshed,
            "release": self._released,
            "route": self._routed,
        }.get(call.script)
        if judge is not None:
            self._happened(f"{call.script} {judge(call)}")
        self._mirror(call)

    def owner(self, user: str) -> str:
        """Return the session in the entry of a user; '' when there is none."""
        live = self._until.get(user, 0.0) > self._clock()
        return self._owner.get(user, "") if live else ""

    def forget(self) -> None:
        """Take note that all data are gone."""
        self._owner.clear()
        self._fences.clear()
        self._note(Forgotten(t=self._clock()))

    def gap(self) -> None:
        """Take note that some lines are missing from here on."""
        self.settle()
        self._doubtful = set(self._owner)
        self.known.clear()

    def _know(self, entries: Sequence[Seen]) -> None:
        """Take note of all entries that there are; each change that was not seen is one now."""
        seen = {entry.user: entry for entry in entries}
        for user in [user for user in self._owner if user not in seen]:
            self._gone(user, UNSEEN, "")
        for user, entry in seen.items():
            if self._owner.get(user) != entry.conn:
                self._owner[user] = entry.conn
                self._note(
                    Owner(
                        t=self._clock(),
                        user=user,
                        conn=entry.conn,
                        gateway=entry.gateway,
                        token=entry.token,
                        complete=entry.whole,
                        verb=UNSEEN,
                    )
                )
            self._until[user] = self._clock() + entry.ttl_s
        self._doubtful.clear()

    def _happened(self, name: str) -> None:
        self.outcomes[name] += 1
        if self.outcomes[name] == 1:
            self._note(Happened(t=self._clock(), name=name))

    # --- one script each -----------------------------------------------------------------------

    def _minted(self, call: _Call) -> str:
        return "ok" if call.first("HSET") else "refused"

    def _registered(self, call: _Call) -> str:
        if (written := call.first("HSET", PRESENCE)) is not None:
            self._owned(call, written)
            return "ok"
        return "stale" if len(call.made) > 1 else "refused"

    def _refreshed(self, call: _Call) -> str:
        written = call.first("HSET", PRESENCE)
        if written is None:
            return self._not_refreshed(call)
        if call.first("DEL", PRESENCE) is not None:
            self._owned(call, written)
            return "reclaimed"
        if self._owner.get(call.user) != call.args[0]:
            # Whoever is refreshed is the owner: its register was in a gap.
            self._owned(call, ["HSET", call.user, *(word for key in WHOLE for word in (key, ""))])
        self._doubtful.discard(call.user)
        return "ok"

    def _not_refreshed(self, call: _Call) -> str:
        if call.first("HMGET", "fence:") is None:
            return "refused"
        conn, token = call.args[0], call.args[2]
        fence = self._fences.get(call.user, {})
        newer = int(fence.get("top", "0")) > int(token)
        closed = fence.get("closed") == f"{token}:{conn}"
        return "closed" if closed and not newer else "superseded"

    def _released(self, call: _Call) -> str:
        conn = call.args[0]
        removed = call.first("DEL", PRESENCE) is not None
        if removed:
            doubtful = call.user in self._doubtful
            self.unjudged += doubtful
            self._gone(call.user, "unseen, release" if doubtful else "release", conn)
        self._note(Released(t=self._clock(), user=call.user, conn=conn))
        return "removed" if removed else "not owner"

    def _routed(self, call: _Call) -> str:
        return "published" if call.first("PUBLISH") else "offline"

    # --- what it means -------------------------------------------------------------------------

    def _owned(self, call: _Call, written: list[str]) -> None:
        conn, gateway, token = call.args[:3]
        whole = set(written[2::2]) >= WHOLE and call.first("PEXPIRE", PRESENCE) is not None
        self._owner[call.user] = conn
        self._doubtful.discard(call.user)
        self._note(
            Owner(
                t=self._clock(),
                user=call.user,
                conn=conn,
                gateway=gateway,
                token=int(token),
                complete=whole,
                verb=call.script,
                by=conn,
            )
        )

    def _gone(self, user: str, verb: str, by: str) -> None:
        self._owner.pop(user, None)
        self._doubtful.discard(user)
        self._note(Owner(t=self._clock(), user=user, verb=verb, by=by))

    def _mirror(self, call: _Call) -> None:
        if (lease := call.first("PEXPIRE", PRESENCE)) is not None:
            self._until[call.user] = self._clock() + int(lease[2]) / 1000
        for made in call.made:
            if made[0] == "HSET" and made[1].startswith("fence:"):
                self._fences.setdefault(call.user, {}).update(
                    zip(made[2::2], made[3::2], strict=False)
                )


def _called(words: list[str]) -> _Call | None:
    """Return which of our scripts was called for whom; None when it is none of ours."""
    name = _BY_SHA.get(words[1]) or next(
        (script.name for script in SCRIPTS if _title(script) in words[1]), ""
    )
    if not name or not words[2].isdigit():
        return None
    keys = int(words[2])
    user = words[3].partition(":")[2]
    return _Call(name, user, words[3 + keys :])


def _title(script: Script) -> str:
    """Return the question that a script answers: its first line of prose."""
    return next(line for line in script.text.splitlines() if line.startswith("-- "))


_BY_SHA: Final = {script.sha: script.name for script in SCRIPTS}


class Witness:
    """A connection that watches, and comes back after Redis does. `start`, `stop`.

    Args:
        url: where Redis is, without wires.
        note, clock: see `Ledger`.
    """

    def __init__(
        self, url: str, note: Callable[[Record], None], clock: Callable[[], float]
    ) -> None:
        self.ledger = Ledger(note, clock)
        self._note = note
        self._clock = clock
        self._blind_since: float | None = None
        self.blind = 0
        """Gaps after which the entries could not be had: all stays in doubt for longer."""
        self.gaps = 0
        """How often it had to come back."""
        self.watching = asyncio.Event()
        self._parts = urlsplit(url)
        self._data_lost = False
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Return when every command from now on will be seen."""
        self._task = asyncio.create_task(self._watch(), name="witness")
        await self.watching.wait()

    async def stop(self) -> None:
        """Stop watching. Idempotent.

        Raises:
            Exception: what ended the watching long ago; a blind witness has proved nothing.
        """
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.result()
        self.ledger.settle()

    def data_will_be_lost(self) -> None:
        """Hear that the Redis about to die comes back empty: the end of its stream is the loss."""
        self._data_lost = True

    async def _watch(self) -> None:
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._listen()
            if self.watching.is_set():
                self.watching.clear()
                self.gaps += 1
                self._blind_since = self._clock()
                self.ledger.gap()
            if self._data_lost:
                self._data_lost = False
                self.ledger.forget()
            await asyncio.sleep(RETRY_S)

    async def _listen(self) -> None:
        reader, writer = await self._dial()
        try:
            for word, good in (("PING", b"+PONG"), ("MONITOR", b"+OK")):
                writer.write(pack_command((word,)))
                if not (await reader.readuntil(b"\r\n")).startswith(good):
                    return  # Still loading its data, and so without entries: ask again.
            if self._blind_since is not None:
                since, self._blind_since = self._blind_since, None
                await self._ask()
                now = self._clock()
                self._note(ObservationGap(t=now, for_s=now - since))
            self.watching.set()
            while True:
                line = await reader.readuntil(b"\r\n")
                self.ledger.feed(line[1:-2].decode(errors="replace"))
        finally:
            writer.transport.abort()

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, port = self._parts.hostname or "127.0.0.1", self._parts.port or 6379
        reader, writer = await asyncio.open_connection(host, port, limit=LINE_BYTES)
        if self._parts.password:
            writer.write(pack_command(("AUTH", unquote(self._parts.password))))
            await reader.readuntil(b"\r\n")
        return reader, writer

    async def _ask(self) -> None:
        """Ask for all entries, on a connection of its own; MONITOR shows when it was answered."""
        sign = secrets.token_hex(8)
        try:
            async with asyncio.timeout(ASK_S):
                reader, writer = await self._dial()
                try:
                    writer.write(pack_command(("EVAL", ENTRIES, 0, sign)))
                    self.ledger.known[sign] = _seen(await _reply(reader))
                finally:
                    writer.transport.abort()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError):
            self.blind += 1


async def _reply(reader: asyncio.StreamReader) -> Any:
    """Read one reply.

    Raises:
        ValueError: it is an error.
    """
    parser = hiredis.Reader(replyError=ValueError, notEnoughData=...)
    while (reply := parser.gets()) is ...:
        data = await reader.read(65536)
        if not data:
            raise ConnectionError("Redis hung up")
        parser.feed(data)
    if isinstance(reply, ValueError):
        raise reply
    return reply


def _seen(reply: bytes) -> list[Seen]:
    """Read what `ENTRIES` returns; half an entry is nobody's (79)."""
    found = []
    for conn, gateway, token, ts, ttl_ms, key in json.loads(reply) or []:
        if conn:
            whole = bool(gateway and token and ts) and int(ttl_ms) > 0
            user = key.removeprefix(PRESENCE)
            number = int(token) if token and str(token).isdigit() else None
            found.append(Seen(user, conn, gateway or "", number, whole, int(ttl_ms) / 1000))
    return found

"""Witness: who owned each user, in the order of Redis, with nothing left out?

MONITOR shows every command that Redis executes and, inside a script, every call that the script
makes, in the order of execution. So a connection that reads it sees each change of an owner with
its token, not only samples. It also sees what no gateway ever learns: the outcome of a command that
arrived late, on a connection that its gateway had given up long before.

A Redis that is killed ends this connection too. What happens until it is back is a gap, and gaps
are counted. A gap hides changes, and must not invent any. So the witness first reads all entries
when it is back, in one script, and MONITOR shows where among all other commands that script ran.
From there on the owners are known again. Only what ran in the milliseconds before is in doubt, and
a release among that is not judged.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import hiredis

from wsdemo.proof.chaos.monitor_log import MonitorLog, snapshot_in
from wsdemo.proof.history import ObservationGap, Record
from wsdemo.redis.connection import pack_command
from wsdemo.tasks import end

LINE_BYTES: Final = 8 * 1024 * 1024
"""The longest line: a message of a megabyte, each byte of it escaped."""
RETRY_S: Final = 0.01
ASK_S: Final = 1.0
"""How long the witness waits for all entries. Without them the owners stay unknown."""
ENTRIES: Final = """#!lua flags=no-writes,allow-oom,allow-stale
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local found = {}
for _, key in ipairs(redis.call('KEYS', 'presence:*')) do
  if redis.call('TYPE', key).ok == 'hash' then
    local entry, devices = redis.call('HMGET', key, 'connId', 'gwId', 'epoch', 'ts'), 0
    local all = redis.call('HGETALL', key)
    for i = 1, #all, 2 do
      local device = string.match(all[i], '^s:(.*)$')
      if device then
        local gateway, conn, token, till = string.match(all[i + 1], '^(%S+) (%S+) (%d+) (%d+)')
        devices = devices + 1
        local name = device == '' and key or key .. '/' .. device
        if tonumber(till) > now_ms then
          table.insert(found, {conn, gateway, token, entry[4], tostring(till - now_ms), name})
        end
      end
    end
    if devices == 0 then
      entry[5] = tostring(redis.call('PTTL', key))
      entry[6] = key
      table.insert(found, entry)
    end
  end
end
local stored, rooms = {}, {}
for _, key in ipairs(redis.call('KEYS', 'inbox:*')) do
  for _, row in ipairs(redis.call('XRANGE', key, '-', '+')) do
    table.insert(stored, {key, row[1], row[2][2]})
  end
end
for _, key in ipairs(redis.call('KEYS', 'room:*')) do
  table.insert(rooms, {key, redis.call('HGETALL', key)})
end
return cjson.encode({entries = found, stored = stored, rooms = rooms})
"""


class Witness:
    """A connection that reads MONITOR, and reconnects when Redis is back. `start`, `stop`.

    Args:
        url: the address of Redis itself, without a relay.
        note, clock: see `MonitorLog`.
    """

    def __init__(
        self, url: str, note: Callable[[Record], None], clock: Callable[[], float]
    ) -> None:
        self.monitor_log = MonitorLog(note, clock)
        self._note = note
        self._clock = clock
        self._blind_since: float | None = None
        self.blind = 0
        """Gaps after which the entries could not be read, so that the owners stay unknown for
        longer.
        """
        self.gaps = 0
        """How often it had to reconnect."""
        self.watching = asyncio.Event()
        self._parts = urlsplit(url)
        self._data_lost = self._restarted = False
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Return when every command from now on will be seen."""
        self._task = asyncio.create_task(self._watch(), name="witness")
        await self.watching.wait()

    async def stop(self) -> None:
        """Stop watching. Idempotent.

        Raises:
            Exception: what has ended the watching; a witness that saw nothing proves nothing.
        """
        task, self._task = self._task, None
        if task is not None:
            await end(task)
            if not task.cancelled():
                task.result()
        self.monitor_log.settle()

    def data_will_be_lost(self) -> None:
        """Announce that Redis is about to be killed and to lose its data.

        The end of the MONITOR stream is the moment of the loss.
        """
        self._data_lost = self._restarted = True

    def restart_will_come(self) -> None:
        """Announce that Redis is about to be killed. What it has confirmed may be lost by that, as
        far as gateways know.
        """
        self._restarted = True

    async def _watch(self) -> None:
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._listen()
            if self.watching.is_set():
                self.watching.clear()
                self.gaps += 1
                self._blind_since = self._clock()
                self.monitor_log.gap()
            if self._data_lost:
                self._data_lost = False
                self.monitor_log.forget()
            if self._restarted:
                self._restarted = False
                self.monitor_log.restart()
            await asyncio.sleep(RETRY_S)

    async def _listen(self) -> None:
        reader, writer = await self._dial()
        try:
            for word, good in (("PING", b"+PONG"), ("MONITOR", b"+OK")):
                writer.write(pack_command((word,)))
                if not (await reader.readuntil(b"\r\n")).startswith(good):
                    return  # It is still loading its data: try again.
            if self._blind_since is not None:
                since, self._blind_since = self._blind_since, None
                await self._ask()
                now = self._clock()
                self._note(ObservationGap(t=now, for_s=now - since))
            self.watching.set()
            while True:
                line = await reader.readuntil(b"\r\n")
                self.monitor_log.feed(line[1:-2].decode(errors="replace"))
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
        """Read all entries, on a second connection. MONITOR shows when that read was executed."""
        sign = secrets.token_hex(8)
        try:
            async with asyncio.timeout(ASK_S):
                reader, writer = await self._dial()
                try:
                    writer.write(pack_command(("EVAL", ENTRIES, 0, sign)))
                    self.monitor_log.known[sign] = snapshot_in(await _reply(reader))
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

"""How does a command reach Redis, and its answer come back, cheaply?

One connection for all commands of a gateway. What one turn of the event loop issues leaves in
one write; replies come back in order and find their callback at the head of a queue. Nothing is
retried: a command either has its reply, or was refused before it left (`LinkDown`, `LinkBusy`),
or its outcome is unknown (`LinkTimeout`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from wsdemo.redis.connection import CommandError, RedisConnection
from wsdemo.redis.connection import pack_command as _pack
from wsdemo.redis.scripts import Script
from wsdemo.settings import Limits

Arg = str | bytes | int
Callback = Callable[[Any], None]
"""Takes the reply, or the exception that stands in its place."""

STALL_S = 0.25
"""A timer this late means that our own loop stood still: read first, judge afterwards."""


class LinkDown(Exception):
    """There is no connection to Redis: the command was not sent."""


class LinkBusy(Exception):
    """Too many commands are waiting for Redis: this one was not sent."""


class LinkTimeout(Exception):
    """Redis did not answer in time, or the connection broke: the command may have been executed."""


LINK_ERRORS = (LinkDown, LinkBusy, LinkTimeout, CommandError)
"""All the ways in which a command can fail."""


class _Pending(NamedTuple):
    deadline: float
    callback: Callback
    script: Script | None
    args: tuple[Arg, ...]


class RedisLink(RedisConnection):
    """The command connection of one gateway.

    Args:
        scripts: loaded on each new connection, so that EVALSHA finds them.
    """

    def __init__(
        self,
        url: str,
        limits: Limits,
        on_state: Callable[[bool], None] = lambda up: None,
        scripts: Iterable[Script] = (),
    ) -> None:
        super().__init__(url, limits, on_state)
        self._scripts = list(scripts)
        self._shas: dict[Script, str] = {script: script.sha for script in self._scripts}
        self._pending: deque[_Pending] = deque()
        self._out: list[bytes] = []
        self._write_paused = False
        self._timer: asyncio.TimerHandle | None = None
        self._missing: list[_Pending] = []
        self._held: list[_Pending] = []
        self.timeouts = 0
        """How often a connection was given up because a reply did not come in time."""

    @property
    def pending(self) -> int:
        """How many commands wait for an answer, or to be sent again."""
        return len(self._pending) + len(self._missing) + len(self._held)

    # --- asking ------------------------------------------------------------------------------

    def submit(self, callback: Callback, *args: Arg) -> None:
        """Send a command; `callback` gets its reply.

        Raises:
            LinkDown, LinkBusy: it was not sent, and `callback` will not be called.
        """
        self._submit(callback, None, args)

    def submit_script(
        self, callback: Callback, script: Script, keys: Sequence[str], *args: Arg
    ) -> None:
        """Run a script; otherwise as `submit`."""
        self._submit(callback, script, (len(keys), *keys, *args))

    async def call(self, *args: Arg) -> Any:
        """Send a command and wait for its reply.

        Raises:
            LinkDown, LinkBusy: it was not sent.
            LinkTimeout: its outcome is unknown.
            CommandError: Redis refused it.
        """
        return await self._future(None, args)

    async def run(self, script: Script, keys: Sequence[str], *args: Arg) -> Any:
        """Run a script and wait for its result; otherwise as `call`."""
        return await self.start_script(script, keys, *args)

    def start_script(self, script: Script, keys: Sequence[str], *args: Arg) -> asyncio.Future[Any]:
        """Run a script and return at once the future of its result; otherwise as `call`."""
        return self._future(script, (len(keys), *keys, *args))

    def _future(self, script: Script | None, args: tuple[Arg, ...]) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def settle(reply: Any) -> None:
            if future.done():
                return  # Whoever asked has gone away; the command was executed all the same.
            if isinstance(reply, Exception):
                future.set_exception(reply)
            else:
                future.set_result(reply)

        self._submit(settle, script, args)
        return future

    def _submit(self, callback: Callback, script: Script | None, args: tuple[Arg, ...]) -> None:
        loop = self._loop
        if not self.up or loop is None:
            raise LinkDown("no connection to Redis")
        if len(self._pending) + len(self._held) >= self._limits.redis_max_pending:
            raise LinkBusy("too many commands are waiting for Redis")
        entry = _Pending(loop.time() + self._limits.redis_timeout_s, callback, script, args)
        if self._missing:
            self._held.append(entry)
        else:
            self._send(entry)

    def _send(self, entry: _Pending, whole_script: bool = False) -> None:
        script = entry.script
        if script is None:
            command = _pack(entry.args)
        elif whole_script:
            command = _pack(("EVAL", script.text, *entry.args))
        else:
            command = _pack(("EVALSHA", self._sha(script), *entry.args))
        assert self._loop is not None
        self._pending.append(entry)
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(command)
        if self._timer is None:
            self._timer = self._loop.call_at(entry.deadline, self._check_deadline)

    def _sha(self, script: Script) -> str:
        sha = self._shas.get(script)
        if sha is None:
            sha = self._shas[script] = script.sha
        return sha

    def _flush(self) -> None:
        if self._out and not self._write_paused and self._transport is not None:
            data = b"".join(self._out)
            self._out.clear()
            self._transport.write(data)

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        self._flush()

    # --- being answered ----------------------------------------------------------------------

    def _reply(self, reply: Any) -> None:
        entry = self._pending.popleft()
        if type(reply) is CommandError and reply.code == "NOSCRIPT" and entry.script is not None:
            self._missing.append(entry)
        else:
            self._settle(entry, reply)
        if self._missing and not self._pending:
            self._send_missing()

    def _send_missing(self) -> None:
        """Send again, whole, the scripts that the server had forgotten: they were not executed.

        Commands issued meanwhile were held back, and follow: order is kept.
        """
        missing, self._missing = self._missing, []
        held, self._held = self._held, []
        for entry in missing:
            self._send(entry, whole_script=True)
        for entry in held:
            self._send(entry)

    def _settle(self, entry: _Pending, reply: Any) -> None:
        try:
            entry.callback(reply)
        except Exception as problem:
            # One bad callback must not cost the others their replies; it does get a witness.
            asyncio.get_running_loop().call_exception_handler(
                {"message": "a callback of a Redis command failed", "exception": problem}
            )

    # --- giving up ---------------------------------------------------------------------------

    def _check_deadline(self) -> None:
        assert self._loop is not None and self._timer is not None
        due, now = self._timer.when(), self._loop.time()
        self._timer = None
        if not self._pending:
            return
        deadline = self._pending[0].deadline
        if now - due > STALL_S:
            deadline = max(deadline, now + STALL_S)
        if deadline > now:
            self._timer = self._loop.call_at(deadline, self._check_deadline)
            return
        self.timeouts += 1
        self.reset()

    def _broken(self) -> None:
        entries = [*self._missing, *self._pending, *self._held]
        self._missing, self._held = [], []
        self._pending.clear()
        self._out.clear()
        self._write_paused = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for entry in entries:
            self._settle(entry, LinkTimeout("the connection to Redis broke or was too slow"))

    async def _greet(self) -> None:
        if not self._scripts:
            return
        assert self._loop is not None
        loaded: asyncio.Future[None] = self._loop.create_future()
        left = len(self._scripts)

        def count(reply: Any) -> None:
            nonlocal left
            left -= 1
            if isinstance(reply, LinkTimeout) and not loaded.done():
                loaded.set_exception(reply)
            elif left == 0 and not loaded.done():
                # A server that refuses SCRIPT LOAD (low memory) still takes EVAL.
                loaded.set_result(None)

        deadline = self._loop.time() + self._limits.redis_timeout_s
        for script in self._scripts:
            self._send(_Pending(deadline, count, None, ("SCRIPT", "LOAD", script.text)))
        try:
            await loaded
        except LinkTimeout as problem:
            raise ConnectionError(str(problem)) from None

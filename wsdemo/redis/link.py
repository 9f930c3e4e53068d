"""Pipelining: how does a command reach Redis, and its reply come back, cheaply?

One connection carries all commands of a gateway. The commands of one turn of the event loop leave
in one write; replies come back in order, each for the callback at the head of a queue. Nothing is
retried: a command either gets its reply, or was refused before it was sent (`LinkDown`,
`LinkBusy`), or its outcome is unknown (`LinkTimeout`).

A server that answers does not always work. A `Trial` is a script that needs everything that we need
of a server; a connection is up when the server has accepted one. A reply about the state of the
server (READONLY, MISCONF, ...) leads to another trial, and so does a timer (`check`). Only trials
decide: a single command may be refused for reasons of its own.

A script that carries a message is sent with a deadline (`wsdemo.redis.deadline`): when its outcome
is unknown, it is executed within the timeout, or never.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from wsdemo.redis.connection import Backoff, RedisConnection, Whereabouts, unasked
from wsdemo.redis.connection import pack_command as _pack
from wsdemo.redis.deadline import EXPIRED, NO_DEADLINE, STEP_S, ServerClock
from wsdemo.redis.outcome import CommandError, Cure, Outcome, Refused, Trouble, trouble_of
from wsdemo.redis.scripts import Script, bulk
from wsdemo.settings import Limits

Arg = str | bytes | int
Callback = Callable[[Any], None]
"""Takes the reply, or an exception in its place."""

STALL_S = 0.25
"""A timer this late means that our own event loop stood still: first read, then decide."""
DOUBT_PAUSE_S = 0.25
"""For so long after a trial, refusals lead to no other one."""
REDIAL_S = 10.0
"""When a server has refused writes for so long, we connect anew: it may have been replaced."""


class LinkDown(Exception):
    """There is no connection to Redis: the command was not sent."""


class LinkBusy(Exception):
    """Too many commands are waiting for Redis: this one was not sent."""


class LinkTimeout(Exception):
    """Redis did not answer in time, or the connection broke: the command may have been executed.

    One that was sent with a deadline is executed before it, or never.
    """


LINK_ERRORS = (LinkDown, LinkBusy, LinkTimeout, CommandError)
"""All the ways in which a command can fail."""

ACCEPTED: Final = b"ok"
NO_REDIS: Final = Trouble(Outcome.UNFIT, "what answers there is no Redis")


def may_work_later(problem: Exception) -> bool:
    """Say whether a command failed because of the state of Redis, and not because it is wrong."""
    if isinstance(problem, CommandError):
        return problem.outcome.cure is not Cure.NONE
    return isinstance(problem, LinkDown | LinkTimeout)


class Trial(NamedTuple):
    """What a server must accept to be used: a script that may write, on keys of ours.

    The link adds one more argument: '1' for the whole trial, '0' when the server was fine a moment
    ago. The script returns 'ok'.
    """

    script: Script
    keys: tuple[str, ...]
    args: tuple[Arg, ...] = ()


_EMPTY: Final = bulk(b"")
"""An argument that says nothing, in the place of a deadline."""
NO_NOTE: Final = -1
"""The note on a command of which a subclass need not know anything."""

_Pending = tuple[float, Callback, Script | None, bytes, int]
"""A command that waits for its reply: its deadline, who gets the reply, what was sent, in case that
the server has forgotten the script, and a note for a subclass. (A plain tuple: one is made for each
message.)"""


class RedisLink(RedisConnection):
    """The command connection of one gateway.

    Args:
        scripts: loaded on each new connection, so that EVALSHA finds them.
        trial: what the server must accept; without one it is enough that it is no replica.
    """

    def __init__(
        self,
        url: str | Whereabouts,
        limits: Limits,
        on_state: Callable[[bool], None] = lambda up: None,
        scripts: Iterable[Script] = (),
        *,
        trial: Trial | None = None,
        on_trouble: Callable[[Trouble], None] = lambda trouble: None,
        rng: random.Random | None = None,
    ) -> None:
        super().__init__(url, limits, on_state, on_trouble, rng)
        self._scripts = list(scripts)
        self._first: list[tuple[Callback, tuple[Arg, ...]]] = []
        self._trial = trial
        self._max_pending = limits.redis_max_pending
        self._timeout_s = limits.redis_timeout_s
        self._pending: deque[_Pending] = deque()
        self._out: list[bytes] = []
        self._write_paused = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0
        """When the timer is due. (uvloop's handle does not know it for less than 1 ms.)"""
        self._missing: list[_Pending] = []
        self._held: list[_Pending] = []
        self._greeting: asyncio.Future[Trouble | None] | None = None
        self._trying = False
        self._role: Trouble | None = None
        self._asks_role = True
        self._was_refused = False
        self._refusing_since = 0.0
        self._doubted_at = -DOUBT_PAUSE_S
        self._waits = Backoff(rng)
        self._again: asyncio.TimerHandle | None = None
        self._clock = ServerClock()
        self._keeps_time = False
        self._asks_time = False
        self._until = NO_DEADLINE
        self._until_ends = -math.inf
        """Until which deadline of ours `_until` is the right last argument."""
        self.timeouts = 0
        """How often a connection was given up because a reply did not come in time."""
        self.expired = 0
        """How many commands came to Redis too late, and were not executed."""

    added_args = 1
    """How many arguments it adds to a command that has a deadline: the deadline."""

    def load(self, scripts: Iterable[Script]) -> None:
        """Load these scripts as well on each new connection. Call it before `start`."""
        self._scripts.extend(scripts)

    def ask_first(self, callback: Callback, *args: Arg) -> None:
        """Send a command on each new connection before it is up, so that every other command
        leaves with its answer known. Call it before `start`.

        Args:
            callback: gets the reply, each time; or an exception in its place.
        """
        self._first.append((callback, args))

    def keep_deadlines(self) -> None:
        """Ask for the clock of the server on each new connection, at each `check` and whenever a
        command has expired. Without it, no command expires. Call it before `start`.
        """
        self._keeps_time = True

    @property
    def pending(self) -> int:
        """How many commands wait for an answer, or to be sent again."""
        return len(self._pending) + len(self._missing) + len(self._held)

    # --- commands ----------------------------------------------------------------------------

    def submit(self, callback: Callback, *args: Arg) -> None:
        """Send a command; `callback` gets its reply.

        Raises:
            LinkDown, LinkBusy: it was not sent, and `callback` will not be called.
        """
        self.submit_packed(callback, _pack(args))

    def submit_beside(self, callback: Callback, key: str, *args: Arg) -> None:
        """Send a command that has no key, as TIME, to the server that has this key: there is only
        one; otherwise as `submit`.
        """
        self.submit(callback, *args)

    def submit_script(
        self, callback: Callback, script: Script, keys: Sequence[str], *args: Arg
    ) -> None:
        """Run a script; otherwise as `submit`."""
        self.submit_packed(callback, packed(script, (len(keys), *keys, *args)), script)

    def submit_in_time(
        self, callback: Callback, script: Script, keys: Sequence[str], *args: Arg
    ) -> None:
        """Run a script that knows deadlines; otherwise as `submit`.

        Args:
            callback: gets the reply; it may say `expired` (`in_time`).
            args: all but the last one, the deadline.
        """
        command = packed_in_time(script, keys, args, self.added_args)
        self.submit_packed(callback, command, script, in_time=True)

    def submit_packed(
        self,
        callback: Callback,
        command: bytes,
        script: Script | None = None,
        note: int = NO_NOTE,
        *,
        in_time: bool = False,
    ) -> None:
        """Send a command that the caller has packed; otherwise as `submit`.

        For the command of each message: packing one in general takes a microsecond more.

        Args:
            command: in RESP; when it runs a `script`, as `script.command_start` begins it.
            note: stays with the command while it waits.
            in_time: whether it has a deadline: then its last argument is missing, although it is
                counted, and is added here.
        """
        loop, pending, out = self._loop, self._pending, self._out
        if not self.open or loop is None:
            raise LinkDown("no connection to Redis")
        if len(pending) + len(self._held) >= self._max_pending:
            raise LinkBusy("too many commands are waiting for Redis")
        deadline = loop.time() + self._timeout_s
        if in_time:
            if deadline >= self._until_ends:
                self._until = self.until(deadline)
                self._until_ends = deadline + STEP_S
            command += self._until
        if self._missing:
            self._held.append((deadline, callback, script, command, note))
            return
        pending.append((deadline, callback, script, command, note))
        if not out:
            loop.call_soon(self._flush)
        out.append(command)
        if self._timer is None:
            self._arm(deadline)

    async def call(self, *args: Arg) -> Any:
        """Send a command and wait for its reply.

        Raises:
            LinkDown, LinkBusy: it was not sent.
            LinkTimeout: its outcome is unknown.
            CommandError: Redis refused it.
        """
        return await self._future(None, args)

    async def call_beside(self, key: str, *args: Arg) -> Any:
        """Send a command as `submit_beside`, and wait for its reply; otherwise as `call`."""
        return await self.call(*args)

    async def run(self, script: Script, keys: Sequence[str], *args: Arg) -> Any:
        """Run a script and wait for its result; otherwise as `call`."""
        return await self.start_script(script, keys, *args)

    def start_script(self, script: Script, keys: Sequence[str], *args: Arg) -> asyncio.Future[Any]:
        """Run a script and return at once the future of its result; otherwise as `call`."""
        return self._future(script, (len(keys), *keys, *args))

    def _future(self, script: Script | None, args: tuple[Arg, ...]) -> asyncio.Future[Any]:
        future, settle = future_reply()
        self.submit_packed(settle, packed(script, args), script)
        return future

    def _send(self, entry: _Pending) -> None:
        assert self._loop is not None
        deadline, _, _, command, _ = entry
        self._pending.append(entry)
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(command)
        if self._timer is None:
            self._arm(deadline)

    def _arm(self, due: float) -> None:
        assert self._loop is not None
        self._timer_due = due
        self._timer = self._loop.call_at(due, self._check_deadline)

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

    # --- replies -----------------------------------------------------------------------------

    def _reply(self, reply: Any) -> None:
        try:
            entry = self._pending.popleft()
        except IndexError:
            self.reset(unasked(reply).trouble)
            return
        if type(reply) is CommandError:
            self._failed(entry, reply)
        else:
            try:
                entry[1](reply)
            except Exception as problem:
                _report(problem)
        if self._missing and not self._pending:
            self._send_missing()

    def _failed(self, entry: _Pending, reply: CommandError) -> None:
        if reply.code == "NOSCRIPT" and entry[2] is not None:
            self._missing.append(entry)
        else:
            self._refused(entry, reply)

    def _refused(self, entry: _Pending, reply: CommandError) -> None:
        """Handle a command that the server has refused. It was not executed."""
        self._settle(entry, reply)
        if self.up and reply.outcome.cure is not Cure.NONE:
            self._was_refused = True
            self._doubt()

    def _send_missing(self) -> None:
        """Send the scripts that the server had forgotten again, with their text: they were not
        executed. Commands issued meanwhile were held back, and follow: order is kept.
        """
        missing, self._missing = self._missing, []
        held, self._held = self._held, []
        for deadline, callback, script, command, note in missing:
            assert script is not None
            self._send((deadline, callback, script, script.with_text(command), note))
        for entry in held:
            self._send(entry)

    def _settle(self, entry: _Pending, reply: Any) -> None:
        settle(entry[1], reply)

    # --- deadlines ---------------------------------------------------------------------------

    def in_time(self, reply: Any) -> Any:
        """Return the reply to a command with a deadline: a `LinkTimeout` if it came too late."""
        if type(reply) is not list or reply[0] != EXPIRED:
            return reply
        self.expired += 1
        # Usually Redis was slow. Or its clock was set: then all that we send has expired.
        self._ask_time()
        return LinkTimeout("the command came to Redis too late, and was not executed")

    def until(self, deadline: float) -> bytes:
        """Return what is added to a command for this server that has a deadline of ours."""
        return self._clock.argument(deadline)

    def _ask_time(self) -> None:
        if self._keeps_time and self.open and not self._asks_time:
            self._put_time()

    def _put_time(self) -> None:
        self._asks_time = True
        self._put(partial(self._hear_time, self._now()), None, ("TIME",))

    def _hear_time(self, asked_at: float, reply: Any) -> None:
        self._asks_time = False
        self._clock.hear(asked_at, reply, self._now())
        self._until_ends = -math.inf

    # --- does it work? -----------------------------------------------------------------------

    def check(self) -> None:
        """Start a trial, to see whether the server still does what we need.

        The result is reported by `on_state` and `on_trouble`. It is cheap and writes nothing.
        """
        self._ask_time()
        if self.up and self._trial is not None and not self._trying:
            self._try(whole=False)

    def _doubt(self) -> None:
        """Start a trial, because a command was refused for the state of the server."""
        now = self._now()
        if self._trial is None or self._trying or now < self._doubted_at + DOUBT_PAUSE_S:
            return
        self._doubted_at = now
        self._try()

    def _try(self, whole: bool = True) -> None:
        """Start a trial. All commands before it are answered before it decides."""
        self._again = None
        self._trying = True
        self._role = None
        trial = self._trial
        if self._asks_role:
            self._put(self._hear_role if trial else self._hear_last, None, ("ROLE",))
        if trial is not None:
            args = (len(trial.keys), *trial.keys, *trial.args, int(whole))
            self._put(self._hear_last, trial.script, args)

    def _put(self, callback: Callback, script: Script | None, args: tuple[Arg, ...]) -> None:
        """Send a command of this module, also while other commands are refused."""
        due = self._now() + self._timeout_s
        self._put_entry((due, callback, script, packed(script, args), NO_NOTE))

    def _put_entry(self, entry: _Pending) -> None:
        """Send this command behind all that were sent before."""
        if self._missing:
            self._held.append(entry)
        else:
            self._send(entry)

    def _hear_role(self, reply: Any) -> None:
        self._role = role_trouble(reply)
        if isinstance(reply, CommandError) and not _may_ask(reply):
            self._asks_role = False

    def _hear_last(self, reply: Any) -> None:
        """Handle the last reply of a trial."""
        self._trying = False
        if self._trial is None:
            self._hear_role(reply)
        trouble = self._judge(reply)
        greeting, self._greeting = self._greeting, None
        if greeting is not None:
            if greeting.done():
                return  # It took too long; nobody waits for it any more.
            if isinstance(reply, LinkTimeout):
                greeting.set_exception(reply)
            else:
                greeting.set_result(trouble)
        elif not isinstance(reply, LinkTimeout):  # If so, the connection is gone already.
            self._conclude(trouble)

    def _judge(self, reply: Any) -> Trouble | None:
        if self._trial is not None and reply != ACCEPTED:
            return trouble_of(reply) if isinstance(reply, CommandError) else NO_REDIS
        return self._role

    def _conclude(self, trouble: Trouble | None) -> None:
        """Act on the result of a trial on an open connection."""
        if trouble is None:
            self._waits.reset()
            was_refused, self._was_refused = self._was_refused, False
            if self.up and was_refused:
                self._on_state(True)  # Refused commands can be made up for now.
            self._become(True, None)
            return
        now = self._now()
        if self.up:
            self._refusing_since = now
        waits_in_vain = now - self._refusing_since > REDIAL_S
        if trouble.outcome.cure is Cure.DIAL or (
            waits_in_vain and trouble.outcome is not Outcome.OOM
        ):
            self._leave(trouble)
        else:
            self._become(True, trouble)
            self._try_later()

    def _try_later(self) -> None:
        assert self._loop is not None
        self._again = self._loop.call_later(self._waits.next_s(), self._try)

    def _leave(self, trouble: Trouble) -> None:
        """Send nothing more to this server, wait for the replies that are due, then disconnect."""
        self._become(False, trouble)
        if self._pending or self._held:
            # Whatever this reply is, all before it have arrived.
            self._put(lambda reply: self.reset(trouble), None, ("ROLE",))
        else:
            self.reset(trouble)

    # --- giving up ---------------------------------------------------------------------------

    def _check_deadline(self) -> None:
        assert self._loop is not None
        due, now = self._timer_due, self._loop.time()
        self._timer = None
        if not self._pending:
            return
        deadline, *_ = self._pending[0]
        if now - due > STALL_S:
            deadline = max(deadline, now + STALL_S)
        if deadline > now:
            self._arm(deadline)
            return
        self.timeouts += 1
        within = f"no answer within {self._limits.redis_timeout_s:g} s"
        self.reset(Trouble(Outcome.UNREACHABLE, within))

    def _broken(self, why: str) -> None:
        entries = [*self._missing, *self._pending, *self._held]
        self._missing, self._held = [], []
        self._pending.clear()
        self._out.clear()
        self._write_paused = False
        self._trying = self._was_refused = False
        for timer in (self._timer, self._again):
            if timer is not None:
                timer.cancel()
        self._timer = self._again = None
        for entry in entries:
            self._settle(entry, LinkTimeout(f"the connection to Redis broke: {why}"))

    async def _greet(self) -> Trouble | None:
        assert self._loop is not None
        refusals: list[CommandError] = []

        def note(reply: Any) -> None:
            # A missing right to load scripts is no trouble yet: EVAL may work.
            if isinstance(reply, CommandError) and _may_ask(reply):
                refusals.append(reply)

        for script in self._scripts:
            self._put(note, None, ("SCRIPT", "LOAD", script.text))
        for callback, args in self._first:
            self._put(callback, None, args)
        self._clock.forget()
        if self._keeps_time:
            self._put_time()
        self._asks_role = self._asks_role or self._trial is None
        greeting: asyncio.Future[Trouble | None] = self._loop.create_future()
        self._greeting = greeting
        self._try()
        try:
            trouble = await greeting
        except LinkTimeout:
            # A server without room says so, and closes.
            if refusals or self._role is not None:
                raise Refused(self._role or trouble_of(refusals[0])) from None
            raise ConnectionError(self._why) from None
        if trouble is not None:
            if trouble.outcome.cure is Cure.DIAL:
                raise Refused(trouble)
            self._refusing_since = self._now()
            self._try_later()
        return trouble


def future_reply() -> tuple[asyncio.Future[Any], Callback]:
    """Return a future, and the callback that settles it with a reply."""
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def take(reply: Any) -> None:
        if future.done():
            return  # The caller was cancelled; the command was executed all the same.
        if isinstance(reply, Exception):
            future.set_exception(reply)
        else:
            future.set_result(reply)

    return future, take


def packed_in_time(
    script: Script, keys: Sequence[str], args: tuple[Arg, ...], added_args: int
) -> bytes:
    """Write a command in RESP that runs a script with a deadline, all but what a link adds."""
    command = packed(script, (len(keys), *keys, *args, *[""] * added_args))
    return command.removesuffix(_EMPTY * added_args)


def packed(script: Script | None, args: tuple[Arg, ...]) -> bytes:
    """Write a command in RESP; the arguments of a script begin with the number of its keys."""
    return _pack(args) if script is None else _pack(("EVALSHA", script.sha, *args))


def settle(callback: Callback, reply: Any) -> None:
    """Give a reply to its callback. An error of one callback is no other's."""
    try:
        callback(reply)
    except Exception as problem:
        _report(problem)


def _report(problem: Exception) -> None:
    """Report an error of one callback; the others get their replies."""
    asyncio.get_running_loop().call_exception_handler(
        {"message": "a callback of a Redis command failed", "exception": problem}
    )


def role_trouble(reply: Any) -> Trouble | None:
    """Return why a server with this reply to ROLE is of no use; None also where we may not ask."""
    if isinstance(reply, CommandError):
        return trouble_of(reply) if _may_ask(reply) else None
    if isinstance(reply, list) and reply and reply[0] in (b"slave", b"sentinel"):
        role = "a replica" if reply[0] == b"slave" else "a Sentinel"
        return Trouble(Outcome.READONLY, f"READONLY this server is {role}")
    return None


def _may_ask(refusal: CommandError) -> bool:
    return refusal.outcome not in (Outcome.NOPERM, Outcome.UNKNOWN_COMMAND, Outcome.OWN)

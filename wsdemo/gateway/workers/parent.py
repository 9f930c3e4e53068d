"""Supervisor: how are the workers of one port started, watched and stopped?

The parent imports everything once and then forks: what it has in memory is there once for all.
It has no event loop and no threads, because neither survives a fork, and it forks again whenever a
worker has ended. It waits in one place for signals and for words of its workers.

As long as not all workers have listened once, one that fails ends the whole, with its reason and
its exit code: a mistake of the operator. Later a worker that ends is started anew, after a pause
that doubles each time. So is one that does not find Redis while another one listens: users are
served, and Redis may be back soon. A worker that was replaced (`--takeover`) ends the whole as
well: two gateways with one id must not serve side by side.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import logging
import os
import secrets
import selectors
import signal
import socket
import time
from collections.abc import Sequence
from typing import Final

import msgspec

from wsdemo.gateway.journal import GATEWAY_LOG
from wsdemo.gateway.listening import BoundAddress, CannotListen, bind_for_workers, close_all
from wsdemo.gateway.signals import Requests, leave_at_once, numbers
from wsdemo.gateway.workers.shared import SharedState
from wsdemo.gateway.workers.sums import ParentReport, read_reports
from wsdemo.gateway.workers.worker import (
    DRAIN,
    DRAIN_NOW,
    FAILED,
    HURRY,
    LACKS_REDIS,
    LISTENS,
    REPLACED,
    WORD_BYTES,
    Ports,
    Worker,
    ignore_group_signals,
)
from wsdemo.settings import Address, GatewaySettings

_log = logging.getLogger(GATEWAY_LOG)

FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 5.0
STEADY_S: Final = 10.0
"""A worker that has lived for this long has not failed at its start."""
GRACE_S: Final = 5.0
"""How much longer than its drain a worker may take before it is killed."""
AT_ONCE_S: Final = 2.0
"""How long a worker may take that was told to end at once."""
WAIT_S: Final = 60.0


class CannotStart(Exception):
    """A worker could not start; the text says why, in one line."""


def import_for_workers(settings: GatewaySettings) -> None:
    """Import what workers would import later, each of them."""
    if settings.api is not None:
        import wsdemo.gateway.api.listener  # noqa: F401


def open_ports(settings: GatewaySettings, given: Sequence[BoundAddress]) -> Ports:
    """Bind what all workers listen on.

    Args:
        given: listening sockets of a service manager, in place of those of the settings.

    Raises:
        CannotListen: an address cannot be bound; nothing is left open.
    """
    bound: list[BoundAddress] = list(given)
    try:
        if not given:
            bound += [bind_for_workers(place, settings.unix_mode) for place in settings.addresses]
        api = settings.api
        if api is None:
            return Ports(bound, None)
        return Ports(bound, bind_for_workers(Address(api.api_host, api.api_port)))
    except CannotListen:
        close_all(bound)
        raise


class _Child:
    """What the parent knows of one worker."""

    def __init__(self, number: int, settings: GatewaySettings) -> None:
        self.number = number
        self.settings = settings
        self.gateway_id = settings.gateway_id
        self.pid = 0
        """0 while there is none."""
        self.words: socket.socket | None = None
        self.began_at = 0.0
        self.starts = 0
        self.failures = 0
        self.start_at: float | None = 0.0 if number == 1 else None
        """When it is to be started; None while it runs, and while the first one has to show that a
        gateway can start here: a mistake is told of once."""
        self.why = ""
        self.lacks_redis = False
        """Whether it could not start because Redis did not answer."""

    def pause_s(self) -> float:
        """Return how long to wait after its end before it is started anew."""
        if time.monotonic() - self.began_at > STEADY_S:
            self.failures = 0
        self.failures += 1
        return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** (self.failures - 1))


class Parent:
    """The parent of all workers of one port.

    Args:
        settings: of the whole; each worker has an id of its own.
        count: how many workers.
        given: listening sockets of a service manager, in place of those of the settings.

    Raises:
        SettingsError: the ids of the workers cannot be.
    """

    def __init__(
        self, settings: GatewaySettings, count: int, given: Sequence[BoundAddress] = ()
    ) -> None:
        self._settings = settings
        self._given = given
        self._ports = Ports((), None)
        self._state = SharedState(count)
        self._started_s = time.monotonic()
        self._report = ParentReport(boot_id=secrets.token_hex(8))
        self._children = [
            _Child(n, dataclasses.replace(settings, gateway_id=f"{settings.gateway_id}.{n}"))
            for n in range(1, count + 1)
        ]
        self._listening: set[int] = set()
        self._requests = Requests(self._drain, self._hurry)
        self._selector = selectors.DefaultSelector()
        self._woken, self._waker = socket.socketpair()
        self._code = 0
        self._why = ""
        self._kill_at = float("inf")
        self._notice_ends_at = 0.0
        self._publish()

    def run(self) -> int | Worker:
        """Run all workers to their end.

        Returns:
            In the parent, the exit code; in each worker, what it is: this returns many times.

        Raises:
            CannotListen, CannotStart: there is a reason for no worker to run.
        """
        self._hear_signals()
        self._ports = open_ports(self._settings, self._given)
        gc.collect()
        gc.freeze()  # No collection writes into what all processes share.
        while True:
            for child in self._children:
                worker = self._start(child) if self._is_due(child) else None
                if worker is not None:
                    return worker
            self._wait()
            if self._requests.asked and not any(child.pid for child in self._children):
                return self._end()

    # --- starting ----------------------------------------------------------------------------

    def _is_due(self, child: _Child) -> bool:
        due = child.start_at is not None and child.start_at <= time.monotonic()
        return due and not self._requests.asked

    def _start(self, child: _Child) -> Worker | None:
        """Fork; return None in the parent."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (ours, theirs):
            end.setblocking(False)
        settings = self._settings_of(child)
        child.starts += 1
        child.began_at = time.monotonic()
        # A signal between the fork and the child's own handlers would go to the parent's.
        heard = {*numbers(), signal.SIGCHLD}
        signal.pthread_sigmask(signal.SIG_BLOCK, heard)
        try:
            pid = os.fork()
        except OSError as problem:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, heard)
            ours.close()
            theirs.close()
            self._cannot_fork(child, problem)
            return None
        if pid == 0:
            leave_at_once()
            ignore_group_signals()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, heard)
            ours.close()
            self._leave_to_parent()
            return self._worker(child, settings, theirs)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, heard)
        theirs.close()
        child.pid, child.words, child.start_at = pid, ours, None
        child.why, child.lacks_redis = "", False
        self._selector.register(ours, selectors.EVENT_READ, child)
        return None

    def _cannot_fork(self, child: _Child, problem: OSError) -> None:
        """Try again later; a start of the whole has failed."""
        child.why = f"cannot start a process: {problem.strerror}"
        if not self._report.has_started:
            self._why = child.why
            self._drain_now()
        pause_s = child.pause_s()
        child.start_at = time.monotonic() + pause_s
        _log.warning("[Gateway] %s: %s; again in %g s", child.gateway_id, child.why, pause_s)

    def _settings_of(self, child: _Child) -> GatewaySettings:
        # Redis may not know yet that the dead one is gone; the id is ours.
        takeover = self._settings.takeover or child.number in self._listening
        return dataclasses.replace(child.settings, takeover=takeover)

    def _worker(self, child: _Child, settings: GatewaySettings, words: socket.socket) -> Worker:
        return Worker(
            child.number,
            self._settings.gateway_id,
            settings,
            self._ports,
            self._state,
            words,
            self._started_s,
        )

    def _leave_to_parent(self) -> None:
        """In a worker: close what is the parent's. Its siblings would not notice its end."""
        self._selector.close()
        self._woken.close()
        self._waker.close()
        for child in self._children:
            if child.words is not None:
                child.words.close()

    # --- waiting -----------------------------------------------------------------------------

    def _hear_signals(self) -> None:
        self._woken.setblocking(False)
        self._waker.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ, None)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        for number in (*numbers(), signal.SIGCHLD):
            signal.signal(number, _note)

    def _wait(self) -> None:
        """Wait for something to happen, and act on it."""
        moments = [child.start_at for child in self._children if child.start_at is not None]
        next_at = min([*(moments if not self._requests.asked else []), self._kill_at])
        for key, _ in self._selector.select(max(0.0, min(WAIT_S, next_at - time.monotonic()))):
            if key.data is None:
                self._take_signals()
            else:
                self._take_words(key.data)
        self._reap()
        if time.monotonic() >= self._kill_at:
            self._kill_all()

    def _take_signals(self) -> None:
        with contextlib.suppress(BlockingIOError):
            for number in self._woken.recv(WORD_BYTES):
                if number != signal.SIGCHLD:
                    self._requests.hear(number)

    def _take_words(self, child: _Child) -> None:
        """Take all that a worker says."""
        assert child.words is not None
        with contextlib.suppress(BlockingIOError, ConnectionError, KeyError):
            while word := child.words.recv(WORD_BYTES):
                self._take(child, word)
            self._selector.unregister(child.words)  # It has closed its end: it ends.

    def _take(self, child: _Child, word: bytes) -> None:
        if word == LISTENS:
            self._listens(child)
        elif word == REPLACED:
            self._drain_now()
        else:
            for start in (FAILED, LACKS_REDIS):
                if word.startswith(start):
                    child.why = word.removeprefix(start).decode()
                    child.lacks_redis = start == LACKS_REDIS

    def _listens(self, child: _Child) -> None:
        self._listening.add(child.number)
        for other in self._children:
            if not other.starts:
                other.start_at = 0.0
        if len(self._listening) == len(self._children) and not self._report.has_started:
            self._report.has_started = True
            self._publish()
            name, count = self._settings.gateway_id, len(self._children)
            _log.info("[Gateway] %s: all %d workers listen", name, count)

    # --- ends of workers ---------------------------------------------------------------------

    def _reap(self) -> None:
        for child in self._children:
            if child.pid:
                pid, status = os.waitpid(child.pid, os.WNOHANG)
                if pid:
                    self._ended(child, os.waitstatus_to_exitcode(status))

    def _ended(self, child: _Child, code: int) -> None:
        """Take note that a worker has ended; a negative code is minus the signal that ended it."""
        self._forget(child)
        if self._requests.asked:
            # After the first order to end at once, the exit code says that a drain was cut short.
            self._code = self._code or (1 if code not in {0, 2} else 0)
        elif self._is_mistake(child, code):
            self._why = child.why
            self._code = 1
            self._drain_now()
        else:
            self._report.restarts += 1
            pause_s = child.pause_s()
            child.start_at = time.monotonic() + pause_s
            _log.warning(
                "[Gateway] %s has ended (%s): started anew in %g s",
                child.gateway_id,
                child.why or _told(code),
                pause_s,
            )
        self._publish()

    def _is_mistake(self, child: _Child, code: int) -> bool:
        """Say whether a worker that has ended shows that the whole cannot run like this."""
        waits = bool(self._listening) and child.lacks_redis
        return code != 0 and not self._report.has_started and not waits

    def _forget(self, child: _Child) -> None:
        """Free what a dead worker has held, and keep what it had counted."""
        if child.words is not None:
            self._take_words(child)
            with contextlib.suppress(KeyError):
                self._selector.unregister(child.words)
            child.words.close()
        child.pid, child.words = 0, None
        slot = self._state.workers[child.number - 1]
        for report in read_reports([slot.report()]):
            self._report.ended = self._report.ended.plus(report.counts)
        slot.clear()

    def _publish(self) -> None:
        self._state.parent.publish(msgspec.json.encode(self._report))

    # --- the end -----------------------------------------------------------------------------

    def _drain(self) -> None:
        limits = self._settings.limits
        self._notice_ends_at = time.monotonic() + limits.drain_notice_s
        self._kill_at = self._notice_ends_at + limits.drain_s + GRACE_S
        self._tell_all(DRAIN)
        for place in (*self._ports.users, self._ports.api):
            # Workers have sockets of their own: the port is closed with the last of them.
            for end in place.sockets if place is not None else ():
                end.close()

    def _drain_now(self) -> None:
        """Drain all workers, without a notice to balancers."""
        self._requests.ask()
        now = self._notice_ends_at = time.monotonic()
        self._kill_at = now + self._settings.limits.drain_s + GRACE_S
        self._tell_all(DRAIN_NOW)

    def _hurry(self) -> bool:
        """Tell all workers that a stop was requested again; each knows what is left to skip."""
        now = time.monotonic()
        in_notice = now < self._notice_ends_at
        self._notice_ends_at = now
        self._kill_at = now + (self._settings.limits.drain_s + GRACE_S if in_notice else AT_ONCE_S)
        self._tell_all(HURRY)
        return True

    def _tell_all(self, word: bytes) -> None:
        for child in self._children:
            if child.words is not None:
                with contextlib.suppress(OSError):
                    child.words.send(word)

    def _kill_all(self) -> None:
        self._kill_at = float("inf")
        self._code = self._code or 1
        for child in self._children:
            if child.pid:
                _log.warning("[Gateway] %s does not end: killed", child.gateway_id)
                os.kill(child.pid, signal.SIGKILL)

    def _end(self) -> int:
        """Leave nothing; return the exit code."""
        for number in numbers():
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)
        self._selector.close()
        self._woken.close()
        self._waker.close()
        for place in self._ports.users:
            place.remove_file()
        if self._why:
            raise CannotStart(self._why)
        return self._code


def _note(number: int, frame: object) -> None:
    """Do nothing: the wake-up descriptor tells which signal it was."""


def _told(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"

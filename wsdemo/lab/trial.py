"""Trial: what did the reader's own code do wrong, when a check ran it?

A judge calls the reader's function on many cases. The function may fail, or never return, by a
mistake that has nothing to do with the subject: a wrong name, one argument too few, a loop without
an end. The check says so, with the line, and stops what does not stop by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import functools
import linecache
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any, Final, Generic, TypeVar

from wsdemo.lab.errors import is_foreign

T = TypeVar("T")

ANSWER_TIMEOUT_S: Final = 10.0
"""No call of a right answer takes so long: they take microseconds."""
STEP_S: Final = 0.1
STOP_S: Final = 2.0
END_S: Final = 10.0
"""How long a judge may take to end its servers."""
MISTAKES: Final = (NameError, ImportError, SyntaxError, RecursionError, SystemExit)
"""What is raised by a mistake in the code, whatever the case that was tried."""


class EndlessAnswer(Exception):
    """The reader's function did not return; the text says where it was."""


class _Stopped(BaseException):
    """Raised in the thread of an answer that does not return."""


class _Interruptible:
    """What runs apart for one thread, and whether it was told to end. An interrupt reaches the main
    thread only; a judge works in another one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = []
        self._is_interrupted = False

    def note(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> None:
        """Take note of a task that begins; it ends at once when all was told to end before."""
        with self._lock:
            self._running.append((loop, task))
            if self._is_interrupted:
                task.cancel()

    def interrupt(self) -> None:
        """Cancel all that runs, and all that is to come."""
        with self._lock:
            self._is_interrupted = True
            for loop, task in self._running:
                with contextlib.suppress(RuntimeError):  # The loop has been closed.
                    loop.call_soon_threadsafe(task.cancel)


_here = threading.local()
"""For a judge's thread: the `_Interruptible` of its trial."""


def run_apart(work: Coroutine[Any, Any, T], name: str) -> T:
    """Run something in an event loop of its own, in a thread: a notebook's thread may have a loop
    already. Interrupt cancels it, and waits until it has ended what it had started.
    """
    apart: _Interruptible = getattr(_here, "apart", None) or _Interruptible()

    async def working() -> T:
        task = asyncio.current_task()
        assert task is not None
        apart.note(asyncio.get_running_loop(), task)
        return await work

    with ThreadPoolExecutor(1, name) as pool:
        future = pool.submit(asyncio.run, working())
        try:
            return future.result()
        except BaseException:
            if not future.done():  # Otherwise this is what the work itself has raised.
                apart.interrupt()
            raise


class _Outcome(Generic[T]):
    """What a judge returned or raised, in its thread."""

    def __init__(self) -> None:
        self.value: list[T] = []
        self.problem: BaseException | None = None
        self.ended = threading.Event()
        """Waited for in place of the thread: Python 3.11 takes a thread for ended whose `join` was
        interrupted."""


class AnswerTrial:
    """An answer, and what happened when it was called.

    Args:
        answer: the reader's function, or several in a tuple; anything else is passed on as it is.
    """

    def __init__(self, answer: Any) -> None:
        self._name = getattr(answer, "__name__", "it")
        """What was called last."""
        parts = answer if isinstance(answer, tuple) else (answer,)
        tried = tuple(self._observed(part) if callable(part) else part for part in parts)
        self._answer = tried if isinstance(answer, tuple) else tried[0]
        self._called_at: float | None = None
        self._problem: BaseException | None = None

    def run(self, judge: Callable[[Any], T], timeout_s: float) -> T:
        """Let a judge try the answer, in a thread that can be left: it may never return.

        Raises:
            EndlessAnswer: one call of the answer took too long.
            TimeoutError: all of it took too long.
            BaseException: what the judge raised.
        """
        outcome: _Outcome[T] = _Outcome()
        apart = _Interruptible()
        thread = threading.Thread(target=self._try, args=(judge, outcome, apart), daemon=True)
        thread.start()
        try:
            self._wait(thread, outcome, timeout_s)
        except BaseException:
            # Only the answer is stopped where it is: a judge has servers to end.
            apart.interrupt()
            if self._called_at is not None:
                stop_thread(thread)
            else:
                outcome.ended.wait(END_S)
            raise
        finally:
            if outcome.ended.is_set():
                thread.join()
        if outcome.problem is not None:
            raise outcome.problem
        return outcome.value[0]

    def mistake(self, problem: BaseException | None = None) -> str:
        """Return what is wrong with the reader's code, if that is why a judge failed.

        Args:
            problem: what the judge raised; None when it returned that the answer is wrong. Then
                only a mistake that no case can explain counts.
        """
        own = self._problem
        if own is None or (problem is not None and own not in _chain(problem)):
            return ""
        if problem is None and _frames_of(own) and not isinstance(own, MISTAKES):
            return ""
        return f"Your {self._name} {mistake_in(own)}"

    def _observed(self, answer: Callable[..., Any]) -> Callable[..., Any]:
        name = getattr(answer, "__name__", "it")

        @functools.wraps(answer)
        def called(*args: Any, **options: Any) -> Any:
            self._called_at = time.monotonic()
            self._name = name
            try:
                return answer(*args, **options)
            except (Exception, SystemExit) as problem:
                self._problem = problem
                raise
            finally:
                self._called_at = None

        return called

    def _try(self, judge: Callable[[Any], T], outcome: _Outcome[T], apart: _Interruptible) -> None:
        _here.apart = apart
        try:
            outcome.value.append(judge(self._answer))
        except BaseException as problem:
            outcome.problem = problem
        finally:
            outcome.ended.set()

    def _wait(self, thread: threading.Thread, outcome: _Outcome[T], timeout_s: float) -> None:
        ends_at = time.monotonic() + timeout_s
        while not outcome.ended.wait(STEP_S):
            now, called_at = time.monotonic(), self._called_at
            if called_at is not None and now - called_at > ANSWER_TIMEOUT_S:
                raise EndlessAnswer(self._where(thread))
            if now > ends_at and thread.is_alive():
                raise TimeoutError(f"It did not come to an end within {timeout_s:g} s.")

    def _where(self, thread: threading.Thread) -> str:
        text = f"Your {self._name} did not come to an end within {ANSWER_TIMEOUT_S:g} s"
        if place := reader_place(sys._current_frames().get(thread.ident or 0)):
            text += f": it was in {place}"
        return f"{text}. Does a loop in it never end?"


def mistake_in(problem: BaseException) -> str:
    """Return what was raised, and in which line of the reader's."""
    frames = _frames_of(problem)
    words = f"raised {type(problem).__name__}" + (f": {problem}" if str(problem) else "")
    return words + (f", in {_place(*frames[-1])}" if frames else "") + "."


def reader_place(frame: FrameType | None) -> str:
    """Return the innermost line of the reader's in a stack; "" when there is none."""
    while frame is not None and is_foreign(frame.f_code.co_filename):
        frame = frame.f_back
    return "" if frame is None else _place(frame, frame.f_lineno)


def stop_thread(thread: threading.Thread) -> None:
    """Raise an exception in a thread, which ends it at its next line of Python."""
    if thread.is_alive() and thread.ident is not None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread.ident), ctypes.py_object(_Stopped)
        )
        thread.join(STOP_S)


def _chain(problem: BaseException) -> Iterator[BaseException]:
    """Yield an error, and those during whose handling it was raised."""
    step: BaseException | None = problem
    while step is not None:
        yield step
        step = step.__cause__ or step.__context__


def _frames_of(problem: BaseException) -> list[tuple[FrameType, int]]:
    """Return the reader's frames in a traceback, and the line in each."""
    found: list[tuple[FrameType, int]] = []
    tb = problem.__traceback__
    while tb is not None:
        if not is_foreign(tb.tb_frame.f_code.co_filename):
            found.append((tb.tb_frame, tb.tb_lineno))
        tb = tb.tb_next
    return found


def _place(frame: FrameType, line: int) -> str:
    name = frame.f_code.co_filename
    source = linecache.getline(name, line, frame.f_globals).strip()
    where = "its cell" if "ipython" in name or "ipykernel" in name else Path(name).name
    return f"line {line} of {where}" + (f": {source}" if source else "")

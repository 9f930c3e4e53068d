"""Errors: how does the laboratory say what is wrong, without showing its own code?

A notebook shows every frame between the cell and the place of an error. For an error of the lab,
the reader needs two things: the line of her own cell, and one sentence. So these errors draw their
own traceback, with the frames of the reader only; IPython asks for it by `_render_traceback_`. A
bug in the lab itself is no such error, and keeps all its frames.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, ParamSpec, TypeVar

from wsdemo.client.connection import ClientClosed, ConnectFailed
from wsdemo.redis.server import ServerError
from wsdemo.rig.names import unknown

P = ParamSpec("P")
T = TypeVar("T")
C = TypeVar("C", bound=type)

FOREIGN: Final = tuple(
    f"{place}{os.sep}"
    for place in (
        Path(__file__).parents[1],
        *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")),
    )
)
"""Code in these folders is not the reader's: this package, Python, and what is installed."""
SPOKEN: Final = (ConnectFailed, ClientClosed, ServerError, KeyboardInterrupt)
"""Errors of other rooms that say all in their text, and what Interrupt raises."""
REFUSALS: Final = (ValueError, TimeoutError)
"""These say all when it is code of this package that raises them; from elsewhere, they are bugs."""


class LabError(Exception):
    """The laboratory cannot do what it was asked; the text says why, and what to do instead."""

    def _render_traceback_(self) -> list[str]:
        return in_short(self)


class LabRefused(LabError, ValueError):
    """A value cannot be used: a name, a number, or a call at the wrong time."""


class LabTimeout(LabError, TimeoutError):
    """Something was waited for, and did not happen in time."""


class LabClosed(LabError, RuntimeError):
    """The laboratory is closed."""


class LabOpen(LabError, RuntimeError):
    """The laboratory is open, and has to be closed first."""


class UnknownOption(LabError, TypeError):
    """There is no argument of this name."""


def in_short(problem: BaseException) -> list[str]:
    """Return the traceback of an error with the frames of the reader only."""
    readers = _readers(problem.__traceback__) or problem.__traceback__
    shell = _shell()
    if shell is None:
        return traceback.format_exception(type(problem), problem, readers, chain=False)
    lines: list[str] = shell.InteractiveTB.structured_traceback(
        type(problem), problem, readers, tb_offset=0
    )
    return lines


def is_foreign(filename: str) -> bool:
    """Say whether code is not the reader's."""
    return filename.startswith(("<frozen", *FOREIGN))


def _readers(tb: TracebackType | None) -> TracebackType | None:
    """Return a traceback without the frames that are not the reader's."""
    if tb is None:
        return None
    rest = _readers(tb.tb_next)
    if is_foreign(tb.tb_frame.f_code.co_filename):
        return rest
    return TracebackType(rest, tb.tb_frame, tb.tb_lasti, tb.tb_lineno)


def _shell() -> Any:
    ipython = sys.modules.get("IPython.core.getipython")
    return None if ipython is None else ipython.get_ipython()


@contextmanager
def spoken_in_short() -> Iterator[None]:
    """Show errors of other rooms like those of the lab, when their text says all."""
    try:
        yield
    except (*SPOKEN, *REFUSALS) as problem:
        if isinstance(problem, SPOKEN) or _raised_here(problem):
            problem._render_traceback_ = functools.partial(in_short, problem)  # type: ignore[union-attr]
        raise


def _raised_here(problem: BaseException) -> bool:
    tb = problem.__traceback__
    while tb is not None and tb.tb_next is not None:
        tb = tb.tb_next
    return tb is not None and tb.tb_frame.f_code.co_filename.startswith(FOREIGN[0])


def fails_in_short(function: Callable[P, T]) -> Callable[P, T]:
    """Show the errors of a function in short."""

    @functools.wraps(function)
    def called(*args: P.args, **options: P.kwargs) -> T:
        with spoken_in_short():
            return function(*args, **options)

    return called


def methods_fail_in_short(kind: C) -> C:
    """Show the errors of all public methods of a class in short."""
    for name, method in list(vars(kind).items()):
        if inspect.isfunction(method) and not name.startswith("_"):
            setattr(kind, name, fails_in_short(method))
    return kind


def spells_options(function: Callable[P, T]) -> Callable[P, T]:
    """Make a function name the option that is meant, when it is called with one that it has not."""
    known = [name for name in inspect.signature(function).parameters if name != "self"]

    @functools.wraps(function)
    def checked(*args: P.args, **options: P.kwargs) -> T:
        for name in options:
            if name not in known:
                raise UnknownOption(unknown("option", name, known))
        return function(*args, **options)

    return checked

"""Grader's kernel: what happens in the process in which a learner's cells run?

`python -m tools.grade_inside CONNECTION_FILE WRITABLE_FOLDER` limits itself first, and then becomes
an ordinary kernel. Where the system has Landlock (Linux), nothing outside the folder can be written
or deleted. It is a shield against accidents and pranks: the process still runs as the teacher, can
read files, and may use the network. A check that was replaced is noticed. Whoever attacks the
grader by all means can fool it, and leaves the attempt in the notebook.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import pkgutil
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType
from typing import Any, Final

MAX_FILE_BYTES: Final = 200_000_000
MAX_MEMORY_BYTES: Final = 6 * 1024**3

# --- in the cells -------------------------------------------------------------------------------

_before: dict[str, int] = {}


def begin() -> None:
    """Load the checks before any cell of the learner runs, and remember what they are."""
    import wsdemo.lab.learn  # noqa: F401
    from wsdemo.lab import lessons
    from wsdemo.lab.lessons import CHECKS, QUESTIONS

    # Checks are loaded when they are asked for, and what the cells of a lesson use is loaded by
    # them: all of it now, so that nothing is new later.
    for module in pkgutil.walk_packages(lessons.__path__, f"{lessons.__name__}."):
        importlib.import_module(module.name)
    list(CHECKS.values())
    list(QUESTIONS.values())
    _before.update(_checks())
    # Nobody reads what the cells print, and a gigabyte of it would take minutes to send.
    sys.stdout = sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115


def judged(exercise: str, answer: Any) -> list[str]:
    """Return the verdict and the hint of a check that nobody has changed."""
    from wsdemo.lab.learn import check

    if _checks() != _before:
        return ["could not judge", "the notebook changes the checks"]
    verdict = check(exercise, answer)
    return [str(verdict.verdict), str(verdict.hint)[:500]]


def _checks() -> dict[str, int]:
    """Return what makes up the checks: which functions there are, and which code each has."""
    found: dict[str, int] = {}
    for name, module in sorted(sys.modules.items()):
        if name == "wsdemo.lab.learn" or name.startswith("wsdemo.lab.lessons"):
            for part, value in _parts(module):
                found[f"{name}:{part}"] = id(value)
                if isinstance(value, FunctionType):
                    found[f"{name}:{part}()"] = id(value.__code__)
    return found


def _parts(module: Any) -> Iterator[tuple[str, object]]:
    for name, value in vars(module).items():
        if callable(value):
            yield name, value
        if name in ("CHECKS", "QUESTIONS"):
            yield from ((f"{name}[{key}]", entry) for key, entry in value.items())


# --- the process --------------------------------------------------------------------------------


def main() -> None:
    """Limit this process, and become a kernel."""
    connection_file, folder = sys.argv[1], Path(sys.argv[2])
    sys.argv = [sys.argv[0]]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_FILE_BYTES, MAX_FILE_BYTES))
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
        if can_shield() and not shield(folder):
            sys.exit("the shield does not hold")  # The teacher was not warned, so nothing is run.
    from ipykernel.kernelapp import IPKernelApp

    IPKernelApp.launch_instance(argv=["-f", connection_file])


_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_PATH_BENEATH = 1
_NO_NEW_PRIVILEGES = 38
_WRITE: Final = 0x1FF2
"""Write a file, remove and make files and folders of any kind; not: read, execute."""
_TRUNCATE: Final = 1 << 14
_REFER: Final = 1 << 13


class _Ruleset(ctypes.Structure):
    _fields_ = [("handled", ctypes.c_uint64)]


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32)]


def can_shield() -> bool:
    """Say whether the system can keep a process from writing anywhere else."""
    return _version() >= 1


def _version() -> int:
    if sys.platform != "linux":
        return 0
    return int(ctypes.CDLL(None).syscall(_CREATE_RULESET, None, 0, 1))


def shield(folder: Path) -> bool:
    """Let this process and its children write in one folder only; say whether that worked."""
    version = _version()
    if version < 1:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    rights = _WRITE | (_REFER if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0)
    ruleset = libc.syscall(
        _CREATE_RULESET, ctypes.byref(_Ruleset(rights)), ctypes.sizeof(_Ruleset), 0
    )
    for path, allowed in ((folder, rights), (Path("/dev"), 0x2 | (rights & _TRUNCATE))):
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rule = _Beneath(allowed, descriptor)
        libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(rule), 0)
        os.close(descriptor)
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    done = libc.syscall(_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)
    return bool(done == 0)


if __name__ == "__main__":
    main()

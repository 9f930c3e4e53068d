"""Makefile: does `make` set up and repair .venv?

A script stands in for Python: what is tested is what the Makefile decides, not what pip does, and
no network is needed. The real thing is what `.ci/run` does.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")

STAND_IN = """#!/bin/sh
echo "$*" >> "$LOG"
case "$*" in
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-m uv pip install"*) exit "${UV_EXIT:-0}" ;;
  "-m pip install"*"-e ."*) exit "${PIP_EXIT:-0}" ;;
esac
"""

TOO_OLD = """#!/bin/sh
exit 1
"""


class Checkout:
    """A copy of what `make` reads, in a directory whose name has spaces."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "a check out"
        self._bin = directory / "bin"
        self._log = directory / "log"
        self.directory.mkdir()
        self._bin.mkdir()
        for name in ("Makefile", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, self.directory)
        for name in ("python3", "python3.13", "python3.12", "python3.11"):
            self.install(name, TOO_OLD)
        self.install("python3", STAND_IN)

    def install(self, name: str, script: str) -> None:
        (self._bin / name).write_text(script)
        (self._bin / name).chmod(0o755)

    def make(self, *arguments: str, fails: bool = False, **variables: str) -> list[str]:
        """Run make and return the arguments of Python; what make printed is in `output`."""
        self._log.write_text("")
        # Under `make check`, the outer make's flags are not for this one.
        environment = {"PATH": self.path, "LOG": str(self._log), **variables}
        done = subprocess.run(
            ["make", *arguments],
            cwd=self.directory,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=50,
            check=False,
        )
        self.output = done.stdout
        assert (done.returncode != 0) is fails, done.stdout
        told = self._log.read_text().splitlines()
        return [line for line in told if not line.startswith("-c ")]  # without the probes

    @property
    def path(self) -> str:
        """What PATH is: no real Python can be found under the names that the Makefile tries."""
        return f"{self._bin}{os.pathsep}{os.environ['PATH']}"

    @property
    def venv(self) -> Path:
        return self.directory / ".venv"


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


MADE = "-m venv .venv"
BY_UV = "-m uv pip install -q --python .venv/bin/python -c constraints.txt -e .[lab,test]"
BY_PIP = "-m pip install -q -c constraints.txt -e .[lab,test]"
TESTS = "-m pytest -n 2 --dist loadgroup -m not slow and not alone"


def steps(told: list[str]) -> list[str]:
    """Leave out how uv itself comes into .venv."""
    return [line.rstrip() for line in told if not line.endswith(" uv")]


def test_first_make_sets_up_and_second_does_not(checkout: Checkout) -> None:
    """A missing .venv is made; one that is there is left alone."""
    assert steps(checkout.make("test")) == [MADE, BY_UV, TESTS]
    assert steps(checkout.make("test")) == [TESTS]


def test_help_is_the_default_and_sets_nothing_up(checkout: Checkout) -> None:
    """`make` alone lists the documented targets, before anything is installed."""
    assert checkout.make() == []
    lines = (ROOT / "Makefile").read_text().splitlines()
    targets = [line.partition(":")[0] for line in lines if ": " in line and " ## " in line]
    assert [line.split()[1] for line in checkout.output.splitlines()] == targets
    assert not checkout.venv.exists()


def test_pip_takes_over_when_uv_fails(checkout: Checkout) -> None:
    """Where uv cannot install, plain pip does."""
    assert steps(checkout.make("test", UV_EXIT="1")) == [MADE, BY_UV, BY_PIP, TESTS]


def test_failed_set_up_is_made_anew(checkout: Checkout) -> None:
    """When neither can install, make fails, and the next make starts from nothing."""
    assert TESTS not in checkout.make("test", UV_EXIT="1", PIP_EXIT="1", fails=True)
    (checkout.venv / "half").touch()
    assert steps(checkout.make("test")) == [MADE, BY_UV, TESTS]
    assert not (checkout.venv / "half").exists()


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_changed_dependencies_are_installed(checkout: Checkout, name: str) -> None:
    """A .venv older than the lists of packages is brought up to date, not made anew."""
    checkout.make("test")
    stamp = checkout.venv / ".ready"
    os.utime(stamp, (0, (checkout.directory / name).stat().st_mtime - 1))
    others = {"pyproject.toml", "constraints.txt"} - {name}
    for other in others:
        os.utime(checkout.directory / other, (0, 0))
    assert steps(checkout.make("test")) == [BY_UV, TESTS]
    assert steps(checkout.make("test")) == [TESTS]


def _lose_python(checkout: Checkout) -> None:
    (checkout.venv / "bin" / "python").unlink()


def _break_python(checkout: Checkout) -> None:
    (checkout.venv / "bin" / "python").write_text(TOO_OLD)


def _empty_the_stamp(checkout: Checkout) -> None:
    (checkout.venv / ".ready").write_text("")


def _move(checkout: Checkout) -> None:
    checkout.directory = checkout.directory.rename(checkout.directory.with_name("moved"))


def _put_a_file_there(checkout: Checkout) -> None:
    shutil.rmtree(checkout.venv)
    checkout.venv.touch()


@pytest.mark.parametrize(
    "damage",
    [_lose_python, _break_python, _empty_the_stamp, _move, _put_a_file_there],
    ids=lambda damage: damage.__name__.strip("_"),
)
def test_broken_venv_is_made_anew(checkout: Checkout, damage: Callable[[Checkout], None]) -> None:
    """The next make repairs .venv after any damage."""
    checkout.make("test")
    damage(checkout)
    assert steps(checkout.make("test")) == [MADE, BY_UV, TESTS]
    assert steps(checkout.make("test")) == [TESTS]


def test_activated_broken_venv_is_made_anew(checkout: Checkout) -> None:
    """With a broken .venv activated, the Python outside of it is found."""
    checkout.make("test")
    _empty_the_stamp(checkout)
    inner = checkout.venv / "bin"
    shutil.copy(inner / "python", inner / "python3")
    activated = f"{inner}{os.pathsep}{checkout.path}"
    assert steps(checkout.make("test", PATH=activated)) == [MADE, BY_UV, TESTS]


def test_next_python_is_tried_when_one_is_too_old(checkout: Checkout) -> None:
    """An old python3 is passed over for a newer one under its full name."""
    checkout.install("python3", TOO_OLD)
    checkout.install("python3.12", STAND_IN)
    assert steps(checkout.make("test")) == [MADE, BY_UV, TESTS]


def test_missing_python_is_one_clear_line(checkout: Checkout) -> None:
    """Without a Python that is new enough, make says what is needed and where it comes from."""
    checkout.install("python3", TOO_OLD)
    assert checkout.make("test", fails=True) == []
    (line,) = [line for line in checkout.output.splitlines() if "needs Python" in line]
    assert "3.11 or newer" in line and "python3-venv" in line
    assert not checkout.venv.exists()


def test_lab_opens_the_first_notebook_with_arguments_passed_on(checkout: Checkout) -> None:
    """`make lab` opens the notebook 00, and JUPYTER_ARGS reach JupyterLab, last."""
    (checkout.directory / "notebooks").mkdir()
    for name in ("01-second.ipynb", "00-first.ipynb"):
        (checkout.directory / "notebooks" / name).touch()
    told = checkout.make("lab", "JUPYTER_ARGS=--no-browser --port 8899")[-1]
    assert told.startswith("-m jupyterlab ")
    assert "/lab/tree/notebooks/00-first.ipynb " in told
    assert told.endswith(" --no-browser --port 8899")


def test_lab_opens_the_lesson_and_not_a_learner_s_own_copy(checkout: Checkout) -> None:
    """`make reset` leaves a copy beside the lesson, whose name stands before the lesson's."""
    (checkout.directory / "notebooks").mkdir()
    for name in ("00-first-my-copy-2026-11-26.ipynb", "00-first.ipynb"):
        (checkout.directory / "notebooks" / name).touch()
    assert "/lab/tree/notebooks/00-first.ipynb " in checkout.make("lab")[-1]


@pytest.mark.parametrize("lesson", ["04", "", "a b", "$HOME `id` 'x' \"y\""])
def test_reset_passes_its_lesson_on_as_it_is(checkout: Checkout, lesson: str) -> None:
    """Whatever characters it has; without one, the tool says how it is given."""
    told = checkout.make("reset", *([f"LESSON={lesson.replace('$', '$$')}"] if lesson else []))
    assert told[-1] == f"-m tools.build_notebooks --reset={lesson}"


def test_pins_are_made_without_the_old_ones(checkout: Checkout) -> None:
    """`make constraints` works when the old pins cannot be installed any more."""
    told = checkout.make("constraints", UV_EXIT="1", PIP_EXIT="1")
    assert told[-1].startswith("-m uv pip compile pyproject.toml --universal ")
    assert not any("-c constraints.txt" in line for line in told)


def test_clean_removes_the_venv(checkout: Checkout) -> None:
    """`make clean` leaves what is in the repository."""
    before = {path.name for path in checkout.directory.iterdir()}
    checkout.make("test")
    (checkout.directory / "__pycache__").mkdir()
    checkout.make("clean")
    assert {path.name for path in checkout.directory.iterdir()} == before


def test_another_version_of_python_gets_a_new_venv(checkout: Checkout) -> None:
    """PYTHON= is what the tests run on, also when there is a .venv of another version."""
    checkout.make("test")
    other = STAND_IN.replace('case "$*" in', 'case "$*" in\n  "-c "*version_info*) echo 3.13 ;;', 1)
    checkout.install("python3.13", other)
    assert steps(checkout.make("test", "PYTHON=python3.13")) == [MADE, BY_UV, TESTS]
    assert steps(checkout.make("test", "PYTHON=python3.13")) == [TESTS]


def test_the_environment_may_be_elsewhere(checkout: Checkout) -> None:
    """VENV= leaves .venv alone."""
    told = checkout.make("test", "VENV=.venv-3.13")
    assert steps(told) == [each.replace(".venv", ".venv-3.13") for each in (MADE, BY_UV, TESTS)]
    assert not checkout.venv.exists()


def test_the_newest_python_is_tried_where_there_is_one(checkout: Checkout) -> None:
    """If there is none, the output says so."""
    assert checkout.make("test-newest", PYENV_ROOT=str(checkout.directory)) == []
    assert "Python 3.13 is not here" in checkout.output
    checkout.install("python3.13", STAND_IN)
    told = steps(checkout.make("test-newest"))
    assert told == [each.replace(".venv", ".venv-3.13") for each in (MADE, BY_UV, TESTS)]


def test_all_tests_are_run_although_some_fail(checkout: Checkout) -> None:
    """Those that need the machine for themselves come last, and one failure is enough to fail."""
    checkout.make("test")
    slowest = " --durations=30 --durations-min=5"
    together = f"-m pytest -n 2 --dist loadgroup -m not alone{slowest}"
    alone = f"-m pytest -m alone{slowest}"
    assert steps(checkout.make("test-all")) == [together, alone]
    for failing in ("not alone", "alone"):
        script = STAND_IN + f"""case "$*" in *"-m {failing}"*) exit 1 ;; esac\n"""
        (checkout.venv / "bin" / "python").write_text(script)
        assert steps(checkout.make("test-all", fails=True)) == [together, alone]

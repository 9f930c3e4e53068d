"""Grading: are verdicts right, and can no notebook stop the others or do harm?

Real kernels, the real lesson 04 and its real check. One folder of a class, graded once.
"""

from __future__ import annotations

import csv
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import nbformat
import psutil
import pytest

from tests.waiting import until
from tools import grade as grading
from tools import grade_inside as inside
from tools import grade_reading as reading
from tools import lessons
from tools import notebook as notebooks
from tools.grade import NOT_JUDGED, NOT_TRIED, OK, WRONG, Grade
from wsdemo.lab.lessons import CHECKS

LATE: Final = "04-the-late-cleanup"
RIGHT: Final = '''DELETE_IF_MINE = """
if redis.call('HGET', KEYS[1], 'connId') == ARGV[1] then
  redis.call('DEL', KEYS[1])
  return 1
end
return 0
"""'''
WRONG_SCRIPT: Final = "DELETE_IF_MINE = \"return redis.call('DEL', KEYS[1])\""
CELL_S: Final = 10.0

pytestmark = [
    pytest.mark.xdist_group("grade"),
    pytest.mark.slow,
    pytest.mark.timeout(240),
]


def late_cleanup(answer: str | None = None, first: str = "") -> Any:
    """Lesson 04 as somebody hands it in, with an answer and with a cell of their own."""
    notebook = notebooks.build(lessons.ROOT / "src" / f"{LATE}.py", solved=False)
    for cell in notebook.cells:
        if answer is not None and cell.source.startswith("DELETE_IF_MINE ="):
            cell.source = answer
    if first:
        notebook.cells.insert(1, nbformat.v4.new_code_cell(first))  # type: ignore[no-untyped-call]
    return notebook


def hand_in(folder: Path, learner: str, answer: str | None = None, first: str = "") -> Path:
    path = folder / learner / f"{LATE}.ipynb"
    path.parent.mkdir(parents=True)
    path.write_text(notebooks.text_of(late_cleanup(answer, first)), encoding="utf-8")
    return path


SECOND: Final = "ex04b"
"""The other exercise of the lesson, which nobody of the class has tried."""


class Class(NamedTuple):
    """A graded class."""

    code: int
    grades: dict[str, Grade]
    folder: Path
    token: str


PRANKS: Final = {
    "deletes": (
        "import pathlib\nfor path in pathlib.Path({folder!r}).rglob('*'):\n"
        "    try: path.unlink()\n    except OSError: pass\n"
    ),
    "overwrites": (
        "import wsdemo.lab.lessons.cleanup as c, pathlib\n"
        "pathlib.Path(c.__file__).write_text('raise SystemExit')\n"
    ),
    "prints": "print('x' * 1_000_000_000)",
    "leaves-something-behind": (
        "import subprocess, sys\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)', {token!r}],"
        " start_new_session=True)\n"
    ),
    "asks": "input('your name? ')",
}
"""What is done before a right answer: it must stay right."""


@pytest.fixture(scope="module")
def graded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Class]:
    """A class with everything in it, in an order in which the worst come first."""
    folder, token = tmp_path_factory.mktemp("class"), uuid.uuid4().hex
    for name, prank in PRANKS.items():
        hand_in(folder, name, RIGHT, prank.format(folder=str(folder), token=token))
    hand_in(folder, "endless", f"while True: pass\n{RIGHT}")
    deaf = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    hand_in(folder, "stubborn", f"{deaf}while True: pass\n{RIGHT}")
    hand_in(folder, "ends-the-kernel", f"import os; os._exit(0)\n{RIGHT}")
    hand_in(
        folder,
        "fakes",
        WRONG_SCRIPT,
        "from wsdemo.lab.lessons import Judgement, cleanup\n"
        "cleanup.judge_delete_if_mine = lambda answer: Judgement(True)\n",
    )
    hand_in(folder, "fakes-at-home", WRONG_SCRIPT, "def check(*a): return 'ok'\n")
    hand_in(folder, "cannot-write", "DELETE_IF_MINE = if")
    hand_in(folder, "wrong", WRONG_SCRIPT)
    hand_in(folder, "untried")
    hand_in(folder, "comments", 'DELETE_IF_MINE = """\n-- your script\n"""  # later')
    hand_in(folder, "zoe", RIGHT)
    (folder / "broken" / f"{LATE}.ipynb").parent.mkdir()
    (folder / "broken" / f"{LATE}.ipynb").write_bytes(b"\xff{")
    # A place of its own: the other worker may be grading, too. (Short: sockets are in it.)
    usual, tempfile.tempdir = tempfile.tempdir, tempfile.mkdtemp(prefix="g-")
    try:
        code = grading.main([str(folder), f"--cell-seconds={CELL_S}", "--notebook-seconds=60"])
        Path(tempfile.tempdir).rmdir()  # It is empty.
    finally:
        tempfile.tempdir = usual
    with (folder / "grades.csv").open(newline="", encoding="utf-8") as file:
        rows = [Grade(**row) for row in csv.DictReader(file)]
    first = {row.learner: row for row in rows if row.exercise != SECOND}
    yield Class(code, first, folder, token)


@pytest.mark.parametrize(
    ("learner", "verdict"),
    [
        ("zoe", OK),
        ("wrong", WRONG),
        ("untried", NOT_TRIED),
        ("comments", NOT_TRIED),
        ("endless", NOT_JUDGED),
        ("stubborn", NOT_JUDGED),
        ("ends-the-kernel", NOT_JUDGED),
        ("broken", NOT_JUDGED),
        ("cannot-write", NOT_JUDGED),
        ("fakes", NOT_JUDGED),
        ("fakes-at-home", WRONG),
        ("prints", OK),
        ("asks", OK),
        ("overwrites", OK),
        ("leaves-something-behind", OK),
    ],
)
def test_each_of_a_class_gets_the_right_verdict(graded: Class, learner: str, verdict: str) -> None:
    """Whatever the others do; and what could not be judged has a reason."""
    found = graded.grades[learner]
    assert (found.exercise, found.verdict) == ("ex04", verdict), found
    assert found.note or verdict in (OK, NOT_TRIED)
    assert graded.code == 0


def test_the_reason_names_the_cell_and_what_it_did(graded: Class) -> None:
    """In one line that a teacher can pass on."""
    assert "does not end" in graded.grades["endless"].note
    assert "cannot be interrupted" in graded.grades["stubborn"].note
    assert "ended the kernel" in graded.grades["ends-the-kernel"].note
    assert "no notebook" in graded.grades["broken"].note
    assert "SyntaxError" in graded.grades["cannot-write"].note
    assert "changes the checks" in graded.grades["fakes"].note
    assert all("\n" not in row.note for row in graded.grades.values())


@pytest.mark.skipif(not inside.can_shield(), reason="this system has no Landlock")
def test_a_notebook_cannot_delete_what_others_handed_in(graded: Class) -> None:
    """It may write in its own folder only. Its answer counts all the same."""
    assert graded.grades["deletes"].verdict == OK
    files = list(graded.folder.rglob("*.ipynb"))
    assert len(files) == len(graded.grades), "somebody's work is gone"


async def test_nothing_runs_on_after_grading(graded: Class) -> None:
    """Also what a notebook has started in a session of its own."""

    def left() -> list[str]:
        lines = [" ".join(p.info["cmdline"] or ()) for p in psutil.process_iter(["cmdline"])]
        ours = [" ".join(p.cmdline()) for p in psutil.Process().children(recursive=True)]
        return [
            *(line for line in lines if graded.token in line),
            *(line for line in ours if "grade_inside" in line),
        ]

    await until("no process is left", lambda: not left(), 10)


def test_the_checkout_is_as_it_was_before(graded: Class) -> None:
    """What a notebook does to the checks, it does to its own copy."""
    checks = Path(inside.__file__).parents[1] / "wsdemo" / "lab" / "lessons" / "cleanup.py"
    assert "raise SystemExit" not in checks.read_text(encoding="utf-8")
    assert graded.grades["zoe"].verdict == OK


@pytest.mark.timeout(480)
def test_the_solution_of_every_lesson_is_accepted(tmp_path: Path) -> None:
    """With the cells that each needs, and no others."""
    shutil.copytree(lessons.ROOT / "solutions", tmp_path / "ann")
    assert grading.main([str(tmp_path)]) == 0
    with (tmp_path / "grades.csv").open(newline="", encoding="utf-8") as file:
        verdicts = {row["exercise"]: (row["verdict"], row["note"]) for row in csv.DictReader(file)}
    assert verdicts.keys() == CHECKS.keys()
    assert {verdict for verdict, _ in verdicts.values()} == {OK}, verdicts


# --- what is read, and what is told --------------------------------------------------------------


def test_a_learner_is_named_by_the_folder_or_by_the_file(tmp_path: Path) -> None:
    """A lesson is known by its stamp, its name or its number; links and hidden files are left
    out."""
    text = notebooks.text_of(late_cleanup())
    for name in (
        f"ann/{LATE}.ipynb",
        "ben/homework.ipynb",
        f"carl-{LATE}.ipynb",
        "dora_04.ipynb",
        f"{LATE}-my-copy-2026-01-02.ipynb",
        f"ann/.ipynb_checkpoints/{LATE}-checkpoint.ipynb",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "link.ipynb").symlink_to(tmp_path / "dora_04.ipynb")
    found = reading.handed_in(tmp_path, reading.known_lessons())
    assert {(one.learner, one.lesson) for one in found} == {
        *(("ann", LATE), ("ben", LATE), ("carl", LATE), ("dora", LATE)),
        (f"{LATE}-my-copy-2026-01-02", LATE),
    }


def test_only_cells_that_the_answer_needs_are_run() -> None:
    """The learner's own ones, and the lesson's that define what these use; no run, no figure."""
    known = reading.known_lessons()[LATE]
    exercise, second = known.exercises
    assert second.name == SECOND
    notebook = late_cleanup("import re\n\nDELETE_IF_MINE = train_ride.__name__", "mine = 1")
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    run = [cell for _, cell in reading.needed(known, exercise, cells)]
    assert run[0] == "mine = 1" and run[-1].startswith("import re")
    assert any("def train_ride" in cell for cell in run)
    assert not any("plot" in cell or "check(" in cell for cell in run)


def test_every_lesson_with_a_check_can_be_graded() -> None:
    """Each has an exercise whose answer the unchanged copy has not tried."""
    known = reading.known_lessons()
    assert len(known) == len(lessons.sources())
    for lesson in known.values():
        for exercise in lesson.exercises:
            assert not reading.is_tried(lesson, exercise, lesson.cells)


def test_the_better_one_of_two_files_counts() -> None:
    """Somebody who hands in twice is not punished for the first try."""
    several = [Grade("ann", "ex04", verdict) for verdict in (NOT_TRIED, WRONG, OK, NOT_JUDGED)]
    assert grading.best(several)["ann", "ex04"].verdict == OK


def test_a_name_is_neither_a_formula_nor_a_command_of_a_terminal(tmp_path: Path) -> None:
    """The table opens in a spreadsheet and is printed on a terminal."""
    found = grading.best([Grade("=1+1", "ex04", OK), Grade("a\x1b[2Jb\n", "ex04", WRONG, "no\x07")])
    grading.write_csv(tmp_path / "grades.csv", found)
    text = (tmp_path / "grades.csv").read_text()
    assert "\n'=1+1," in text and "\x1b" not in text and "\x07" not in text
    assert "\x1b" not in grading.table(found) and "\x07" not in grading.table(found)


@pytest.mark.parametrize(
    "words", [[], [""], ["/no/such"], [os.devnull], ["."], ["--cell-seconds=0"]]
)
def test_a_mistake_on_the_command_line_is_one_line(
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit code 2, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        grading.main(words)
    assert ended.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_folder_in_which_nothing_can_be_judged_is_a_failure(tmp_path: Path) -> None:
    """Exit code 1, and the table says so."""
    shutil.copy(__file__, tmp_path / f"ann-{LATE}.ipynb")
    assert grading.main([str(tmp_path)]) == 1
    assert "could not judge" in (tmp_path / "grades.csv").read_text()

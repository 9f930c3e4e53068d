"""Is what a learner has written safe from `make notebooks`, and does `make reset` lose nothing?

With the real lessons in a copy of the folder; what has to be executed is a lesson of two cells.
"""

from __future__ import annotations

import datetime
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tools import build_notebooks as build
from tools import lessons
from tools import notebook as notebooks
from tools import notebook_reset as resetting
from wsdemo.lab.notes import NOTES_FILE, LearnersNotes

TODAY = datetime.date(2025, 3, 4)
LATE = "04-the-late-cleanup"
SMALL = "90-small"
SOURCE = """\
# ---
# jupyter:
#   wsdemo:
#     title: "90 · Small"
#     question: "What is one and one?"
#     able: "add; check"
#     minutes: {read: 1, run: 1, exercise: 1}
#     needs: "nothing"
#     failure: "none"
#     level: "L0 exact"
# ---

# %% [markdown]
# Add.

# %% tags=["exercise"]
answer = None

# %% tags=["solution"]
answer = 2

# %%
print("the answer is", answer)
"""

pytestmark = [pytest.mark.xdist_group("build_notebooks"), pytest.mark.timeout(120)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the notebooks, which is what `build` works on; a checkout of its own."""
    return work_on(copied(lessons.ROOT, tmp_path), monkeypatch)


def copied(notebooks: Path, to: Path) -> Path:
    copy = to / "check out" / "notebooks"
    ignored = shutil.ignore_patterns(".ipynb_checkpoints")
    return Path(shutil.copytree(notebooks, copy, ignore=ignored))


def work_on(folder: Path, patch: pytest.MonkeyPatch) -> Path:
    """Let `build` work on a folder, and make a checkout of it if it is none."""
    patch.setattr(lessons, "ROOT", folder)
    # A hook or an identity of this machine must not matter.
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        patch.delenv(name, raising=False)
    patch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    if not (folder / ".git").exists():
        commit(folder, "init", "-q")
        commit_all(folder)
    return folder


def commit(folder: Path, *words: str) -> None:
    who = ("-c", "user.name=t", "-c", "user.email=t@localhost", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True, timeout=30)


def commit_all(folder: Path) -> None:
    commit(folder, "add", "-A")
    commit(folder, "commit", "-q", "-m", "as it was built")


def source_of(stem: str) -> Path:
    return lessons.ROOT / "src" / f"{stem}.py"


def change(path: Path, how: Callable[[Any], None]) -> None:
    """Do something to a notebook as an editor does: read, change, save."""
    notebook = notebooks.read(path)
    how(notebook)
    path.write_text(nbformat.writes(notebook), encoding="utf-8")  # type: ignore[no-untyped-call]


def answer(notebook: Any) -> None:
    """Write into the exercise."""
    cell = next(c for c in notebook.cells if "exercise" in c.metadata.get("tags", []))
    cell.source += "\nmine = 1"


def note(notebook: Any) -> None:
    """Add a cell at the end."""
    notebook.cells.append(nbformat.v4.new_markdown_cell("what I think"))  # type: ignore[no-untyped-call]


def cut(notebook: Any) -> None:
    """Remove a cell."""
    del notebook.cells[3]


def move(notebook: Any) -> None:
    """Swap two cells."""
    notebook.cells[2], notebook.cells[3] = notebook.cells[3], notebook.cells[2]


def paste(notebook: Any) -> None:
    """Paste a picture."""
    cell = next(c for c in notebook.cells if c.cell_type == "markdown")
    cell["attachments"] = {"a.png": {"image/png": "aGk="}}


def turn(notebook: Any) -> None:
    """Make text of code."""
    cell = next(c for c in notebook.cells if c.cell_type == "code")
    cell.cell_type = "markdown"
    for name in ("outputs", "execution_count"):
        cell.pop(name)


def lose_the_stamp(notebook: Any) -> None:
    """Write something, and lose the metadata on the way (some tools strip them)."""
    answer(notebook)
    notebook.metadata.pop("wsdemo")


def spoil_the_stamp(notebook: Any) -> None:
    """Write something, and have metadata that are no stamp."""
    answer(notebook)
    notebook.metadata["wsdemo"] = "mine"


@pytest.mark.parametrize(
    "edit",
    [answer, note, cut, move, paste, turn, lose_the_stamp, spoil_the_stamp],
    ids=lambda edit: edit.__name__,
)
def test_changes_in_a_notebook_are_detected(folder: Path, edit: Callable[[Any], None]) -> None:
    """Any cell that is written, added, removed or moved, in any lesson."""
    for stem in (LATE, "00-start-here"):
        assert not notebooks.is_edited(source_of(stem), solved=False)
        change(folder / f"{stem}.ipynb", edit)
        assert notebooks.is_edited(source_of(stem), solved=False)
        assert not notebooks.is_edited(source_of(stem), solved=True)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"<<<<<<< HEAD\n", b"\xff", b"null"])
def test_a_file_that_is_not_a_valid_notebook_counts_as_changed(
    folder: Path, content: bytes
) -> None:
    """Its content is unknown, so it is not overwritten; and there is no traceback."""
    (folder / f"{LATE}.ipynb").write_bytes(content)
    assert notebooks.is_edited(source_of(LATE), solved=False)
    assert not notebooks.is_fresh(source_of(LATE), solved=False)
    resetting.reset(source_of(LATE), TODAY)
    assert (folder / f"{LATE}-my-copy-2025-03-04.ipynb").read_bytes() == content
    assert notebooks.is_fresh(source_of(LATE), solved=False)


def run(notebook: Any) -> None:
    """Run cells: other outputs, counts and times, and the metadata of another editor."""
    for number, cell in enumerate(c for c in notebook.cells if c.cell_type == "code"):
        cell.execution_count = number + 40
        cell.outputs = []
        cell.metadata["execution"] = {"iopub.status.busy": "2026-11-26T00:00:00Z"}
        cell.metadata["collapsed"] = True
    notebook.metadata["language_info"] = {"name": "python", "version": "3.13.1"}
    notebook.metadata["toc"] = {"base_numbering": 1}
    notebook.nbformat_minor = 5


def test_running_a_notebook_does_not_count_as_a_change(folder: Path) -> None:
    """Outputs can be made again; so a build may write a newer version of the lesson."""
    path = folder / f"{LATE}.ipynb"
    change(path, run)
    assert not notebooks.is_edited(source_of(LATE), solved=False)
    newer = source_of(LATE).read_text() + "\n# %% [markdown]\n# One more thing.\n"
    source_of(LATE).write_text(newer)
    assert not notebooks.is_fresh(source_of(LATE), solved=False)
    assert not notebooks.is_edited(source_of(LATE), solved=False)


def test_all_committed_notebooks_are_unchanged_since_their_build() -> None:
    """Each has the fingerprint of its own cells."""
    for source in lessons.sources():
        for solved in (False, True):
            notebook = notebooks.read(lessons.target(source, solved=solved))
            assert notebook.metadata["wsdemo"]["cells_sha"] == notebooks.cells_fingerprint(notebook)


# --- make notebooks ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one lesson, whose notebooks have been built and committed."""
    with pytest.MonkeyPatch.context() as patch:
        folder = work_on(copied(lessons.ROOT, tmp_path_factory.mktemp("built")), patch)
        for path in [*folder.glob("*.ipynb"), *folder.glob("src/*"), *folder.glob("solutions/*")]:
            path.unlink()
        source_of(SMALL).write_text(SOURCE)
        assert build.main([]) == 0
        commit_all(folder)
    return folder


@pytest.fixture
def small(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, which is what `build` works on."""
    return work_on(copied(built, tmp_path), monkeypatch)


@pytest.mark.slow
def test_a_changed_notebook_is_not_overwritten_and_named(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit code is not 0, the output says what to do, and everything else is built."""
    lesson, solved = small / f"{SMALL}.ipynb", small / "solutions" / f"{SMALL}.ipynb"
    change(lesson, answer)
    mine = lesson.read_bytes()
    source_of(SMALL).write_text(SOURCE.replace("Add.", "Add them."))
    for arguments in ([], ["--rewrite"]):
        assert build.main(arguments) == 1
        assert lesson.read_bytes() == mine
        said = capsys.readouterr()
        (line,) = said.err.splitlines()
        assert f"{SMALL}.ipynb" in line and "make reset LESSON=90" in line
        assert re.search(rf"^{SMALL} .* {build.EDITED}$", said.out, re.MULTILINE)
        assert re.search(rf"^solutions/{SMALL} .* ok, written$", said.out, re.MULTILINE)
    assert "Add them." in solved.read_text()
    assert not list(small.glob(".*"))[1:], "nothing half-written is left"


@pytest.mark.slow
def test_a_build_of_a_clean_tree_changes_nothing(small: Path) -> None:
    """As in CI; other outputs in the notebooks stay as well."""
    before = {path: path.read_bytes() for path in small.rglob("*.ipynb")}
    assert build.main([]) == 0
    assert {path: path.read_bytes() for path in small.rglob("*.ipynb")} == before
    change(small / f"{SMALL}.ipynb", run)
    ran = (small / f"{SMALL}.ipynb").read_bytes()
    assert build.main([]) == 0
    assert (small / f"{SMALL}.ipynb").read_bytes() == ran


# --- make reset --------------------------------------------------------------------------------


def test_reset_keeps_a_copy_and_restores_the_committed_notebook(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Byte for byte, outputs included; each copy has its own name."""
    path = folder / f"{LATE}.ipynb"
    original, kept = path.read_bytes(), []
    for again in ("", "-2", "-3"):
        change(path, answer)
        mine = path.read_bytes()
        resetting.reset(source_of(LATE), TODAY)
        assert path.read_bytes() == original
        kept.append(folder / f"{LATE}-my-copy-2025-03-04{again}.ipynb")
        assert kept[-1].read_bytes() == mine
        assert all(copy.exists() for copy in kept)
    today = datetime.date.today().isoformat()
    change(path, note)
    assert build.main(["--reset", "4"]) == 0
    assert f"yours is {LATE}-my-copy-{today}.ipynb" in capsys.readouterr().out
    assert path.read_bytes() == original


def test_reset_keeps_a_copy_of_a_changed_solution_too(folder: Path) -> None:
    """A solution without changes is not copied."""
    solved = folder / "solutions" / f"{LATE}.ipynb"
    original = solved.read_bytes()
    change(solved, run)
    ran = solved.read_bytes()
    resetting.reset(source_of(LATE), TODAY)
    assert solved.read_bytes() == ran
    change(solved, note)
    mine = solved.read_bytes()
    resetting.reset(source_of(LATE), TODAY)
    assert solved.read_bytes() == original
    copy = folder / "solutions" / f"{LATE}-my-copy-2025-03-04.ipynb"
    assert copy.read_bytes() == mine
    assert not list(folder.glob("*-my-copy-*")), "nothing of the learner's was in the lesson"


def test_reset_of_an_unchanged_notebook_makes_no_copy(folder: Path) -> None:
    """It is the original again, outputs included; also when it was deleted."""
    path = folder / f"{LATE}.ipynb"
    original = path.read_bytes()
    change(path, run)
    (line,) = resetting.reset(source_of(LATE), TODAY)
    assert "nothing of yours" in line and path.read_bytes() == original
    path.unlink()
    resetting.reset(source_of(LATE), TODAY)
    assert path.read_bytes() == original
    assert not list(folder.glob("*-my-copy-*"))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["no git", "never committed", "committed with work in it"])
def test_reset_builds_the_original_when_git_has_none(small: Path, how: str) -> None:
    """A download without a history, or a history that contains the learner's changes."""
    path = small / "solutions" / f"{SMALL}.ipynb"
    change(path, note)
    if how == "committed with work in it":
        commit_all(small)
    else:
        shutil.rmtree(small / ".git")
        if how == "never committed":
            commit(small, "init", "-q")
    mine = path.read_bytes()
    resetting.reset(source_of(SMALL), TODAY)
    assert notebooks.is_fresh(source_of(SMALL), solved=True)
    assert "the answer is 2" in outputs_of(path), "it has been run"
    assert (small / "solutions" / f"{SMALL}-my-copy-2025-03-04.ipynb").read_bytes() == mine


def outputs_of(path: Path) -> str:
    """What a notebook shows below its cells."""
    return json.dumps([cell.get("outputs") for cell in json.loads(path.read_text())["cells"]])


def test_reset_of_the_learners_copy_needs_neither_git_nor_a_kernel(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no outputs, so it comes from its source; even if what git has was run."""
    path = folder / f"{LATE}.ipynb"
    original = path.read_bytes()
    change(path, answer)
    shutil.rmtree(folder / ".git")
    monkeypatch.setattr(resetting, "execute", None)
    resetting.reset(source_of(LATE), TODAY)
    assert path.read_bytes() == original


def test_reset_forgets_the_prediction_and_the_progress_of_this_lesson_only(folder: Path) -> None:
    """Whoever starts a lesson anew is asked anew; and it is said."""
    notes = LearnersNotes(folder / NOTES_FILE)
    for number in ("00", "04"):
        notes.say(f"q{number}", "both")
        notes.passed(f"ex{number}")
    told = resetting.reset(source_of(LATE), TODAY)
    assert "lesson 04" in told[-1] and "forgotten" in told[-1]
    assert notes.said("q04") is None and not notes.has_passed("ex04")
    assert notes.said("q00") == "both" and notes.has_passed("ex00")
    assert len(resetting.reset(source_of(LATE), TODAY)) == 1


@pytest.mark.slow
def test_only_the_solved_copy_is_kept_with_its_outputs(small: Path) -> None:
    """The learner's copy is run as well, but what it shows is not kept."""
    assert outputs_of(small / f"{SMALL}.ipynb") == "[null, null, [], [], null]"
    assert "the answer is 2" in outputs_of(small / "solutions" / f"{SMALL}.ipynb")


@pytest.mark.slow
def test_a_lesson_on_a_busy_machine_is_kept_and_told(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is slow because its clock is; whoever builds it should know that its outputs say so."""
    monkeypatch.setattr(build, "MAX_CELL_S", 0.0)
    source = source_of(SMALL)
    assert build.make(source, solved=True, rewrite=True).verdict.startswith("too slow")
    source.write_text(SOURCE + 'print("This machine is busy: running at 20x instead of 60x.")\n')
    verdict = build.make(source, solved=True, rewrite=True).verdict
    assert verdict.startswith("ok, written, but the machine was busy")


@pytest.mark.slow
def test_a_lesson_whose_check_does_not_wait_for_the_learner_is_refused(small: Path) -> None:
    """The learner's copy must say that the exercise is not written yet."""
    source_of(SMALL).write_text(SOURCE + "\n# %%\nprint('check(\"ex90\", answer) accepts None')\n")
    result = build.make(source_of(SMALL), solved=False, rewrite=True)
    assert result.verdict == "its check does not wait for the learner"


@pytest.mark.slow
def test_reset_of_a_lesson_that_does_not_run_changes_nothing(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, exit code 2, and what was written into the solution is still in its place."""
    path = small / "solutions" / f"{SMALL}.ipynb"
    change(path, note)
    mine, learners = path.read_bytes(), (small / f"{SMALL}.ipynb").read_bytes()
    source_of(SMALL).write_text(SOURCE + "# %%\nraise SystemError('no')\n")
    with pytest.raises(SystemExit) as ended:
        build.main(["--reset", "90"])
    assert ended.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert path.read_bytes() == mine and (small / f"{SMALL}.ipynb").read_bytes() == learners
    assert not list(small.rglob("*-my-copy-*"))


@pytest.mark.parametrize("name", ["04", "4", LATE, f"{LATE}.ipynb", f"notebooks/{LATE}.ipynb"])
def test_a_lesson_can_be_named_by_number_or_file(folder: Path, name: str) -> None:
    """As a shell completes it."""
    change(folder / f"{LATE}.ipynb", answer)
    assert build.main([f"--reset={name}"]) == 0
    assert len(list(folder.glob(f"{LATE}-my-copy-*"))) == 1


@pytest.mark.parametrize("name", ["", "99", "0", "the", "-1", "../04", "04 05", "*", "\udcff"])
def test_an_unknown_lesson_is_one_line(
    folder: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It lists the lessons, and how to name one."""
    before = sorted(folder.rglob("*"))
    if name in {"0", "../04"}:  # Lesson 00 (and not 00b as well), and a path: both are meant.
        assert build.main([f"--reset={name}"]) == 0
        return
    with pytest.raises(SystemExit) as ended:
        build.main([f"--reset={name}"])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "00, 00b, 01, 02" in line and "make reset LESSON=04" in line
    assert sorted(folder.rglob("*")) == before

"""Reading positions in files: does a kill at any moment leave a position that can be used?"""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from wsdemo.client import FilePosition, Position, PositionError

HERE = Position("b1.r1", "17-523", "bob", "phone")


def test_what_is_saved_is_loaded_by_the_next_process(tmp_path: Path) -> None:
    """Its folder is made when it is missing, and nobody else may read the file."""
    path = tmp_path / "new" / "folder" / "bob"
    FilePosition(path).save(HERE)
    assert FilePosition(str(path)).load() == HERE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["bob"]


def test_a_file_that_is_not_there_is_no_position(tmp_path: Path) -> None:
    """It is the first start."""
    assert FilePosition(tmp_path / "bob").load() is None


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b'{"epoch":7}', b'{"epoch":"b.r","offset":null}', b"\xff", b" " * 5000],
)
def test_a_file_that_is_no_position_is_a_clear_error(tmp_path: Path, data: bytes) -> None:
    """To start from nowhere without a word would hide what is missing."""
    path = tmp_path / "bob"
    path.write_bytes(data)
    with pytest.raises(
        PositionError, match=r"bob is not a position .*; delete it to start without"
    ):
        FilePosition(path).load()


def test_a_file_that_cannot_be_read_or_written_is_a_clear_error(tmp_path: Path) -> None:
    """In the words of the operating system; nothing is left beside it."""
    path = tmp_path / "bob"
    path.mkdir()
    with pytest.raises(PositionError, match="bob: Is a directory"):
        FilePosition(path).load()
    with pytest.raises(PositionError, match="bob: Is a directory"):
        FilePosition(path).save(HERE)
    assert [file.name for file in tmp_path.iterdir()] == ["bob"]


def test_a_save_that_fails_leaves_the_last_position(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a full disk."""
    path = tmp_path / "bob"
    FilePosition(path).save(HERE)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PositionError, match="No space left on device"):
        FilePosition(path).save(Position("b1.r1", "18-1", "bob"))
    assert FilePosition(path).load() == HERE


def test_a_process_that_is_killed_while_it_saves_leaves_a_position(tmp_path: Path) -> None:
    """The last one or the one before, never half of one."""
    path = tmp_path / "bob"
    program = (
        "import sys; from wsdemo.client.positions import FilePosition, Position\n"
        "store, n = FilePosition(sys.argv[1]), 0\n"
        "while True:\n"
        "    n += 1\n"
        "    store.save(Position('b.r' + 'x' * (n % 100), f'{n}-1', 'bob'))\n"
        "    print(n, flush=True)\n"
    )
    for enough in range(1, 40, 8):
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True
        )
        try:
            assert process.stdout is not None
            lines = 0
            while lines < enough and process.stdout.readline():
                lines += 1
        finally:
            process.send_signal(signal.SIGKILL)
            rest, _ = process.communicate()
        saved = lines + len(rest.splitlines())
        position = FilePosition(path).load()
        assert position is not None
        assert int(position.offset.partition("-")[0]) in (saved, saved + 1)

"""Reading position: where does a user go on reading, after its process was started again?

A position names the last durable message that the application has finished with. A client saves it
before it acknowledges that message, never after: a gateway deletes what is acknowledged, and a
position that lies before deleted messages would look like a gap. So a process that is killed finds
the messages again that it had not finished, and perhaps some that it had; none is lost.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Final, Protocol, TypeGuard

import msgspec

MAX_FILE_BYTES: Final = 4096
"""A position is much shorter; a larger file is none."""
_OFFSET: Final = re.compile(r"[0-9]{1,16}-[0-9]{1,20}")
_EPOCH: Final = re.compile(r"[0-9A-Za-z._-]{1,128}")


def is_offset(value: object) -> TypeGuard[str]:
    """Say whether a gateway may have given this offset."""
    return isinstance(value, str) and _OFFSET.fullmatch(value) is not None


def is_epoch(value: object) -> TypeGuard[str]:
    """Say whether a gateway may have given this epoch."""
    return isinstance(value, str) and _EPOCH.fullmatch(value) is not None


def number_of(offset: str) -> int:
    """Return the number of an offset: messages are counted without holes."""
    return int(offset.partition("-")[0])


class Position(msgspec.Struct, frozen=True):
    """A place in the inbox of a user. Applications keep it, and do not look into it."""

    epoch: str = ""
    """The history that the offset belongs to; '' for no position at all."""
    offset: str = "0-0"
    user: str = ""
    device: str = ""

    @property
    def birth(self) -> str:
        """The first part of the epoch: which inbox it is, whatever the run of Redis."""
        return self.epoch.partition(".")[0]


class PositionError(Exception):
    """A position cannot be read or written, or it is another user's; the text says why."""


class PositionStore(Protocol):
    """Keeps the position of one user. Both methods are called in a thread; never two at once."""

    def load(self) -> Position | None:
        """Return what was saved last; None when nothing ever was.

        Raises:
            PositionError: there may be a position, and it cannot be read.
        """

    def save(self, position: Position) -> None:
        """Save it in place of the last one. It is safe when this returns.

        Raises:
            PositionError: it could not be saved; the last one is still there.
        """


class FilePosition:
    """A position in a file. It is replaced as a whole, so a kill at any moment leaves the old
    position or the new one.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"FilePosition({str(self.path)!r})"

    def load(self) -> Position | None:
        try:
            with self.path.open("rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as problem:
            raise PositionError(f"position {self.path}: {problem.strerror}") from None
        try:
            if len(data) > MAX_FILE_BYTES:
                raise msgspec.ValidationError("the file is too large")
            return msgspec.json.decode(data, type=Position)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as problem:
            what = f"position {self.path} is not a position ({problem})"
            raise PositionError(f"{what}; delete it to start without one") from None

    def save(self, position: Position) -> None:
        # Its own name in each process: two of them must not write into one file.
        beside = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _write_whole(beside, msgspec.json.encode(position))
            beside.replace(self.path)
            _sync_folder(self.path.parent)
        except OSError as problem:
            with contextlib.suppress(OSError):
                beside.unlink()
            raise PositionError(f"position {self.path}: {problem.strerror}") from None


def _write_whole(path: Path, data: bytes) -> None:
    """Write a file that only its owner may read, and wait until it is on the disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    """Wait until the new name is on the disk, where a system can say so."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def require_usable(position: Position, user: str, device: str) -> None:
    """Check a position that was loaded.

    Raises:
        PositionError: no gateway has given it, or it is another user's or another device's.
    """
    if not is_offset(position.offset) or not (position.epoch == "" or is_epoch(position.epoch)):
        raise PositionError(f"{position.epoch!r:.80}, {position.offset!r:.80} is not a position")
    theirs, ours = (position.user, position.device), (user, device)
    if position.user and theirs != ours:
        raise PositionError(
            f"this is the position of {_name(*theirs)}, not of {_name(*ours)}: "
            "each user and each device needs one of its own"
        )


def _name(user: str, device: str) -> str:
    return f"{user!r} on device {device!r}" if device else repr(user)

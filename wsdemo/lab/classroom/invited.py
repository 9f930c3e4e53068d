"""Handles of scripted students: how does a cell act for a class when nobody is there?

`room.invite(6)` returns them. Each is a plain object without `await`, as all objects in cells.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from wsdemo.lab.classroom.scripted import (
    NAMES,
    ClosedConnection,
    ScriptedStudent,
    join_all,
)
from wsdemo.lab.errors import LabRefused, methods_fail_in_short
from wsdemo.lab.loop import CALL_TIMEOUT_S, LabLoop

MOST_INVITED: Final = 60


@methods_fail_in_short
class InvitedStudent:
    """A scripted student in a cell."""

    def __init__(self, loop: LabLoop, student: ScriptedStudent) -> None:
        self._loop = loop
        self._student = student

    @property
    def name(self) -> str:
        return self._student.user

    @property
    def gateway(self) -> str:
        """Where this student is registered; '' while away."""
        return self._student.gateway

    @property
    def closed(self) -> list[ClosedConnection]:
        """Close code and seconds away, for each connection that ended."""
        return list(self._student.closed)

    @property
    def received(self) -> list[tuple[str, str]]:
        """Who wrote, and what: the latest hundred."""
        return list(self._student.received)

    def send(self, to: str, content: str) -> str:
        """Send a message; return what the gateway says became of it."""
        return self._loop.run(self._student.send(to, content))

    def move(self, to: str) -> None:
        """Leave for another gateway."""
        self._loop.run(self._student.move(to))

    def vote(self, option: str) -> None:
        """Vote, instead of the vote that was left to chance."""
        self._loop.run(self._student.vote(option))

    def lock(self) -> None:
        """Lock the phone: nothing is heard of the page any more, and the socket looks alive."""
        self._loop.call(self._student.lock)

    def unlock(self) -> None:
        """Wake the phone."""
        self._loop.call(self._student.unlock)

    def leave(self) -> None:
        """Close the page. Idempotent."""
        self._loop.run(self._student.leave())

    def __repr__(self) -> str:
        return f"<Student {self.name} at {self.gateway or 'no gateway'}>"


class ScriptedClass:
    """The scripted students of a room. Lives on the lab's loop, but for `invite`.

    Args:
        seed: of their votes and pauses.
    """

    def __init__(self, loop: LabLoop, seed: int) -> None:
        self._loop, self._seed = loop, seed
        self._students: list[ScriptedStudent] = []

    def invite(self, count: int, url: str, code: str) -> list[InvitedStudent]:
        """Let so many students join, and return them when all are registered.

        Raises:
            LabRefused: it is no number, or the room does not admit so many.
            LabTimeout: a gateway did not register one of them.
        """
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MOST_INVITED:
            raise LabRefused(f"a class is a number of students, 1 to {MOST_INVITED}, not {count!r}")
        return self._loop.run(self._invite(count, url, code), CALL_TIMEOUT_S + count)

    async def _invite(self, count: int, url: str, code: str) -> list[InvitedStudent]:
        names = _names(len(self._students), count)
        joined = await join_all(url, code, names, self._seed)
        self._students += joined
        return [InvitedStudent(self._loop, student) for student in joined]

    async def stop(self) -> None:
        """Let all leave. Idempotent."""
        students, self._students = self._students, []
        await asyncio.gather(*(student.leave() for student in students))


def _names(first: int, count: int) -> Sequence[str]:
    """Return names by turn: the room tells two of one name apart."""
    return [NAMES[n % len(NAMES)] for n in range(first, first + count)]

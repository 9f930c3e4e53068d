"""Exercises: what is a question, and what does a judge say?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import redis

from wsdemo.redis.server import find_server

if TYPE_CHECKING:
    from wsdemo.drawing.style import Picture


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its options, and for each what to say when it was chosen and wrong."""

    text: str
    options: Mapping[object, str]


class Judgement(NamedTuple):
    """Whether an answer is right, and one hint when not.

    `evidence` shows the case in which it is wrong, as a figure or as text; never the answer.
    """

    ok: bool
    hint: str = ""
    evidence: Picture | str = ""


class WrongAnswer(Exception):
    """An answer is wrong; the text is the hint, `evidence` the case in which it is."""

    def __init__(self, hint: str, evidence: Picture | str = "") -> None:
        super().__init__(hint)
        self.evidence = evidence

    @property
    def judgement(self) -> Judgement:
        return Judgement(False, str(self), self.evidence)


class NotJudged(Exception):
    """The answer could not be judged; the text says why."""


@contextmanager
def database_for(script: Any) -> Iterator[redis.Redis]:
    """Provide a server on which the reader's script runs.

    Raises:
        NotJudged: it is not a script.
        NotImplementedError: it has nothing but comments in it.
    """
    if not isinstance(script, str):
        raise NotJudged(f"It must be the text of a script, not {type(script).__name__}.")
    if not [line for line in script.splitlines() if line.strip() and line.strip()[:2] != "--"]:
        raise NotImplementedError
    with (
        find_server() as server,
        redis.Redis.from_url(server.url, decode_responses=True, socket_timeout=5) as database,
    ):
        yield database

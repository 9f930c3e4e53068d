"""What is a question, and what does a judge say?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its options, and for each what to say when it was chosen and wrong."""

    text: str
    options: Mapping[object, str]


class Judgement(NamedTuple):
    """Whether an answer is right, and one hint when not."""

    ok: bool
    hint: str = ""


class NotJudged(Exception):
    """The answer could not be judged; the text says why."""

"""Poll: what did the class predict, and what was measured?

A question always has options, as in the lessons: each wrong one is a misconception with a name. A
number is asked as a choice of numbers; what is then measured need not be one of them, and stands
beside the histogram. A student may change a vote until the answer is shown.
"""

from __future__ import annotations

import html
import secrets
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from wsdemo.lab.errors import LabRefused
from wsdemo.lab.lessons import QUESTIONS
from wsdemo.rig.names import unknown

OPTIONS: Final = range(2, 9)
"""So many fit on a phone."""
TEXT_CHARS: Final = 400
OPTION_CHARS: Final = 80
BAR_CHARS: Final = 24


class Poll:
    """One question to a class, and its votes.

    Args:
        name: what the teacher calls it.
        options: each with the reason why it is tempting.
    """

    def __init__(self, name: str, text: str, options: Mapping[str, str]) -> None:
        self.id = f"{name}/{secrets.token_hex(3)}"
        """Asked twice, a question is another one: votes of the first time do not count."""
        self.text = text
        self.options = dict(options)
        self.measured: str | None = None
        self.votes: dict[str, str] = {}
        """Option by user id."""

    def vote(self, user: str, option: str) -> bool:
        """Count a vote instead of an earlier one; say whether that changes anything."""
        if self.measured is not None or option not in self.options:
            return False
        if self.votes.get(user) == option:
            return False
        self.votes[user] = option
        return True

    def count(self) -> dict[str, int]:
        """Return how many chose each option."""
        chosen = Counter(self.votes.values())
        return {option: chosen[option] for option in self.options}

    def document(self) -> dict[str, Any]:
        """Return what a student's page is told: why an option is tempting only with the answer."""
        shown: dict[str, Any] = {"id": self.id, "text": self.text, "answer": self.measured}
        if self.measured is None:
            return {**shown, "options": list(self.options)}
        return {**shown, "options": self.options, "tally": self.count()}


class VoteCount(Mapping[str, int]):
    """How many chose each option: a mapping, which a notebook shows as a histogram.

    Args:
        question: its text.
        votes: option -> how many.
        measured: what the run gave.
    """

    def __init__(self, question: str, votes: Mapping[str, int], measured: str) -> None:
        self.question = question
        self.measured = measured
        self._votes = dict(votes)

    def __getitem__(self, option: str) -> int:
        return self._votes[option]

    def __iter__(self) -> Iterator[str]:
        return iter(self._votes)

    def __len__(self) -> int:
        return len(self._votes)

    def __repr__(self) -> str:
        width = max(map(len, self._votes), default=0)
        most = max([1, *self._votes.values()])
        lines = [
            f"{option:>{width}} {'█' * round(BAR_CHARS * n / most):<{BAR_CHARS}} {n}"
            + (" ← measured" if option == self.measured else "")
            for option, n in self._votes.items()
        ]
        return "\n".join([self.question, *lines, f"Measured: {self.measured}"])

    def _repr_html_(self) -> str:
        from wsdemo.drawing.show import to_html
        from wsdemo.lab.figures.votes import votes

        try:
            return to_html(votes(self.question, self._votes, self.measured))
        except ValueError:  # Nobody has voted: there is nothing to draw.
            return f"<pre>{html.escape(repr(self))}</pre>"


def poll_of(
    name: str, text: str = "", options: Mapping[str, str] | Sequence[str] | None = None
) -> Poll:
    """Return the poll of a question of the lessons, or of the teacher's own.

    Args:
        options: of an own question, {option: why it is tempting} or a list; none for a lesson's.

    Raises:
        LabRefused: there is no such question, or it cannot be asked like this.
    """
    if options is None and not text:
        if name not in QUESTIONS:
            raise LabRefused(
                f"{unknown('question', name, QUESTIONS)}. "
                'Your own: room.ask("mine", "text", {"option": "why it is tempting"})'
            )
        asked = QUESTIONS[name]
        return Poll(name, asked.text, {str(option): why for option, why in asked.options.items()})
    return Poll(str(name), _own_text(text), _own_options(options))


def _own_text(text: object) -> str:
    if not isinstance(text, str) or not text.strip() or len(text) > TEXT_CHARS:
        raise LabRefused(f"a question is a text of 1 to {TEXT_CHARS} characters, not {text!r:.80}")
    return text.strip()


def _own_options(given: Mapping[str, str] | Sequence[str] | None) -> dict[str, str]:
    if not given or isinstance(given, str):
        raise LabRefused(
            "a question needs options to choose from, also one about a number: "
            '{"2": "why it is tempting", "4": "..."}'
        )
    pairs = given.items() if isinstance(given, Mapping) else [(option, "") for option in given]
    options = {str(option): str(why) for option, why in pairs}
    too_long = [option for option in options if not 1 <= len(option) <= OPTION_CHARS]
    if len(options) not in OPTIONS or too_long:
        raise LabRefused(
            f"a question has {OPTIONS.start} to {OPTIONS.stop - 1} different options "
            f"of 1 to {OPTION_CHARS} characters"
        )
    return options

"""Lesson 00b: why does a counter lose additions, and how does a script count in a window?"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from typing import Any, Final

import redis

from wsdemo.lab.lessons.question import (
    Judgement,
    NotJudged,
    Question,
    WrongAnswer,
    database_for,
)

QUESTION: Final = Question(
    "Two clients add 1 to a counter, 500 times each, at the same time: GET, add one, SET. What "
    "does the counter say at the end?",
    {
        1000: "Each command is done as a whole. But adding took two commands, and between them the "
        "other client had its turn.",
        "less": "Both read the same number, both write the next one, and one addition is lost.",
        500: "So it would be if the two took turns exactly, and chance is not so tidy.",
        "an error": "Nothing is locked, so nothing is refused. Redis does what it is told.",
    },
)

CLIENTS: Final = 2
WINDOW_MS: Final = 60_000
SHORT_MS: Final = 5_000
"""What the judge leaves of a window, to see whether the next call prolongs it."""
EXPIRY_TIMEOUT_S: Final = 5.0

Add = Callable[[redis.Redis, str], int]


def together(add: Add, url: str, times: int = 500) -> list[int]:
    """Call `add(client, key)` so often in each of two threads, each with a client of its own.

    Returns:
        What `add` returned, in the order of time, and at the end what the counter says.
    """
    key = f"lesson:counter:{secrets.token_hex(4)}"
    said: list[int] = []
    start = threading.Barrier(CLIENTS)

    def work() -> None:
        with redis.Redis.from_url(url, decode_responses=True, socket_timeout=5) as client:
            client.ping()
            start.wait()
            for _ in range(times):
                said.append(add(client, key))

    threads = [threading.Thread(target=work, daemon=True) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with redis.Redis.from_url(url, decode_responses=True, socket_timeout=5) as client:
        last = int(client.get(key) or 0)
        client.delete(key)
    return [*said, last]


def judge_count(source: str) -> Judgement:
    """Count with the reader's script, on a server."""
    with database_for(source) as database:
        script = _Counter(database, source)
        try:
            for examine in (_counts, _ends, _is_not_prolonged, _begins_again, _keeps_apart):
                examine(script)
        except WrongAnswer as wrong:
            return wrong.judgement
        finally:
            script.clean_up()
    return Judgement(True, "The first message begins the time, and no later one prolongs it.")


class _Counter:
    """The reader's script, called on counters of its own."""

    def __init__(self, database: redis.Redis, source: str) -> None:
        self.database = database
        self._source = source
        self._used: list[str] = []

    def new(self) -> str:
        """Return the key of a counter that is not there yet."""
        self._used.append(f"check:{secrets.token_hex(4)}")
        return self._used[-1]

    def count(self, key: str) -> int:
        """Call the script; return the number that it answers."""
        try:
            answer: Any = self.database.eval(self._source, 1, key, WINDOW_MS)
        except redis.TimeoutError:
            raise NotJudged("It did not come to an end within 5 s.") from None
        except redis.ResponseError as problem:
            words = " ".join(str(problem).split())[:160]
            raise WrongAnswer(f"Redis says: {words}") from None
        try:
            return int(answer)
        except (TypeError, ValueError):
            raise WrongAnswer(
                f"It answered {answer!r}, and not how many messages there were. What is returned?"
            ) from None

    def left_ms(self, key: str) -> int:
        return int(self.database.pttl(key))

    def clean_up(self) -> None:
        self.database.delete(*self._used)


def _counts(script: _Counter) -> None:
    key = script.new()
    said = [script.count(key) for _ in range(3)]
    if said != [1, 2, 3]:
        raise WrongAnswer(f"For three messages it answered {said}, not [1, 2, 3].")


def _ends(script: _Counter) -> None:
    key = script.new()
    script.count(key)
    left_ms = script.left_ms(key)
    if left_ms < 0:
        raise WrongAnswer(
            "After the first message the counter has no TTL: who was over the limit once stays "
            "over it for ever."
        )
    if not WINDOW_MS / 2 < left_ms <= WINDOW_MS:
        raise WrongAnswer(
            f"With ARGV[1] = {WINDOW_MS} the counter has {left_ms} ms left. PEXPIRE takes "
            "milliseconds."
        )


def _is_not_prolonged(script: _Counter) -> None:
    key = script.new()
    script.count(key)
    script.database.pexpire(key, SHORT_MS)
    script.count(key)
    left_ms = script.left_ms(key)
    if left_ms < 0:
        raise WrongAnswer("The second message took the TTL away: the counter stays for ever.")
    if left_ms > SHORT_MS:
        raise WrongAnswer(
            "The second message began the time anew: who writes every 50 seconds is counted for "
            "ever. For which value of n shall the time begin?"
        )


def _begins_again(script: _Counter) -> None:
    key = script.new()
    script.count(key)
    script.database.pexpire(key, 1)
    deadline = time.monotonic() + EXPIRY_TIMEOUT_S
    while script.database.exists(key):
        if time.monotonic() > deadline:
            raise NotJudged("The counter did not expire.")
    if (said := script.count(key)) != 1 or script.left_ms(key) < 0:
        raise WrongAnswer(
            f"After the minute the next message is the first of a new one: it answered {said}, and "
            f"{'no' if script.left_ms(key) < 0 else 'a'} new time began."
        )


def _keeps_apart(script: _Counter) -> None:
    mine, other = script.new(), script.new()
    script.count(other)
    if (said := script.count(mine)) != 1:
        raise WrongAnswer(
            f"The first message of another user was number {said}: all are counted in one key. "
            "The caller names the key: KEYS[1]."
        )

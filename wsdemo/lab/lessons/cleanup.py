"""Lesson 04: where is alice after a late clean-up, and whose entry may be deleted?"""

from __future__ import annotations

import secrets
from typing import Final, NamedTuple

import redis

from wsdemo.lab.lessons.question import Judgement, NotJudged, Question, database_for

QUESTION: Final = Question(
    "alice has moved from gateway-01 to gateway-02; then gateway-01 deletes presence:alice. "
    "Where does Redis say that she is?",
    {
        "gateway-01": "Its clean-up came last, but it deletes the entry and does not write "
        "its own name.",
        "gateway-02": "She registered there last, but a DEL is a write as well, and it did "
        "not ask whose entry it was.",
        "nothing": "The late DEL removed the entry of gateway-02.",
        "both": "One key holds one entry.",
    },
)


class Situation(NamedTuple):
    """What is in Redis when `delete if mine` is called, and what has to be there afterwards."""

    entry: dict[str, str]
    mine: bool
    hint: str


CALLER: Final = ("conn-1", "gateway-01", "1000")
"""Connection, gateway and timestamp of the session that is cleaned up."""

SITUATIONS: Final = (
    Situation(
        {"connId": "conn-1", "gwId": "gateway-01", "ts": "1000"},
        True,
        "The caller's own entry must be deleted, and the answer is 1.",
    ),
    Situation(
        {"connId": "conn-2", "gwId": "gateway-02", "ts": "2000"},
        False,
        "Alice had moved to another gateway, and lost her entry. Whose was it?",
    ),
    Situation(
        {"connId": "conn-2", "gwId": "gateway-01", "ts": "2000"},
        False,
        "Alice had come back to the same gateway on a new connection. What tells the two apart?",
    ),
    Situation(
        {"connId": "conn-2", "gwId": "gateway-02", "ts": "1000"},
        False,
        "Two registrations within one second have equal timestamps. Is time an identity?",
    ),
    Situation(
        {"connId": "conn-1", "gwId": "gateway-01", "ts": "1030"},
        True,
        "A heartbeat had refreshed the timestamp: the entry is still the caller's.",
    ),
    Situation({}, False, "There was no entry at all. What does HGET return then?"),
    Situation(
        {"ts": "1000"}, False, "Half an entry, without a connection, belongs to nobody we know."
    ),
)


def judge_delete_if_mine(script: str) -> Judgement:
    """Run the reader's script on a real server, in each situation."""
    with database_for(script) as database:
        prefix = f"check:{secrets.token_hex(4)}:"
        try:
            return _judge_script(database, script, prefix)
        finally:
            database.delete(prefix + "alice", prefix + "bob")


def _judge_script(database: redis.Redis, script: str, prefix: str) -> Judgement:
    key, neighbour = prefix + "alice", prefix + "bob"
    database.set(neighbour, "untouched")
    for situation in SITUATIONS:
        database.delete(key)
        if situation.entry:
            database.hset(key, items=[part for pair in situation.entry.items() for part in pair])
        try:
            answer = database.eval(script, 1, key, *CALLER)
        except redis.TimeoutError:
            raise NotJudged("It did not come to an end within 5 s.") from None
        except redis.ResponseError as problem:
            words = " ".join(str(problem).split())[:160]
            return Judgement(False, f"{situation.hint} Redis says: {words}")
        left = database.hgetall(key)
        evidence = (
            f"caller: {CALLER}\nentry before: {situation.entry or 'none'}\n"
            f"entry after:  {left or 'none'}"
        )
        if left != ({} if situation.mine else situation.entry):
            return Judgement(False, situation.hint, evidence)
        if answer != int(situation.mine):
            return Judgement(
                False, f"The entry is as it should be, but the answer was {answer!r}, not 1 or 0."
            )
    if database.get(neighbour) != "untouched":
        return Judgement(False, "It touched another user's key. Keys only through KEYS.")
    return Judgement(True, f"{len(SITUATIONS)} situations on a real server.")

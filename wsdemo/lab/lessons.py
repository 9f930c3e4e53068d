"""What do the lessons ask, and how are answers judged?

A question has options, and each wrong one is a misconception with a name and an answer. A judge
compares the reader's function with what real gateways do, and returns a hint for the first
misunderstanding that it finds.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple

import redis

from wsdemo.lab.cluster import Cluster
from wsdemo.redis.server import find_server


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its options, and for each what to say when it was chosen and wrong."""

    text: str
    options: Mapping[object, str]


QUESTIONS: Final[dict[str, Question]] = {
    "q00": Question(
        "alice sits at gateway-01, bob at gateway-02. How many hops does a message take?",
        {
            1: "One hop would need a wire between alice and bob. Neither knows where the other is.",
            2: "Two would do if both sat at one gateway. Here one has to find the other.",
            4: "Four is what you see when both sit at different gateways: in through one, "
            "through Redis, out through the other.",
            5: "Five counts look-up and publish as two trips to Redis. The demo makes two; here "
            "one script does both, so nothing can move in between.",
            "depends": "Which users are where does matter, but here they were given: two "
            "different gateways.",
        },
    ),
    "q04": Question(
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
    ),
}


class Judgement(NamedTuple):
    """Whether an answer is right, and one hint when not."""

    ok: bool
    hint: str = ""


class NotJudged(Exception):
    """The answer could not be judged; the text says why."""


def judge_where_is(where_is: Callable[[dict[str, str]], str | None]) -> Judgement:
    """Compare the reader's `where_is(record)` with the sockets of 30 users on three gateways."""
    if not callable(where_is):
        raise NotJudged(f"where_is must be a function, not {type(where_is).__name__}.")
    known = asyncio.run(_records_of_thirty(seed=random.randrange(2**32)))
    return _compare(where_is, known)


async def _records_of_thirty(seed: int) -> list[tuple[dict[str, str], str | None]]:
    """Return records as Redis has them, with the gateway where the user's socket really is."""
    rng = random.Random(seed)
    async with Cluster(gateways=3, seed=seed) as cluster:
        names = [f"user{n:02}" for n in range(30)]
        clients = await asyncio.gather(
            *(cluster.connect(name, to=rng.choice(list(cluster.gateways))) for name in names)
        )
        places = {client.user: client.gateway_id for client in clients}
        gone = rng.choice(names)
        await cluster.disconnect(gone)
        await cluster.until(f"{gone} is offline", partial(_offline, cluster, gone))
        return [
            (await cluster.record(name), None if name == gone else places[name]) for name in names
        ]


async def _offline(cluster: Cluster, user: str) -> bool:
    return not await cluster.record(user)


def _compare(
    where_is: Callable[[dict[str, str]], str | None],
    known: list[tuple[dict[str, str], str | None]],
) -> Judgement:
    for record, truth in sorted(known, key=lambda pair: pair[1] is None):
        try:
            said = where_is(dict(record))
        except NotImplementedError:
            raise
        except Exception as problem:
            who = "a user who is online" if truth else "a user who is offline"
            return Judgement(
                False, f"For {who} it raised {type(problem).__name__}. Look at that record first."
            )
        if said == truth:
            continue
        if truth is None:
            return Judgement(
                False, "An offline user has an empty record. What should be returned for it?"
            )
        return Judgement(False, _hint_online(said, record))
    return Judgement(True, f"{len(known)} users on three gateways, one of them offline.")


def _hint_online(said: Any, record: dict[str, str]) -> str:
    if said is None:
        return "An online user was reported as offline. Which field of the record names a gateway?"
    if said == record.get("connId"):
        return "That names the connection. Where is the gateway named?"
    if not isinstance(said, str):
        return "It should return a text, the id of a gateway, or None."
    return "The gateway of an online user was wrong. Is it read from this very record?"


class Situation(NamedTuple):
    """What is in Redis when the caller of `delete if mine` comes, and what must become of it."""

    entry: dict[str, str]
    mine: bool
    hint: str


CALLER: Final = ("conn-1", "gateway-01", "1000")
"""Connection, gateway and timestamp of who wants to clean up."""

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
    if not isinstance(script, str):
        raise NotJudged(f"It must be the text of a script, not {type(script).__name__}.")
    code = [line for line in script.splitlines() if line.strip() and line.strip()[:2] != "--"]
    if not code:
        raise NotImplementedError
    with (
        find_server() as server,
        redis.Redis.from_url(server.url, decode_responses=True, socket_timeout=5) as database,
    ):
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
        if left != ({} if situation.mine else situation.entry):
            return Judgement(False, situation.hint)
        if answer != int(situation.mine):
            return Judgement(
                False, f"The entry is as it should be, but the answer was {answer!r}, not 1 or 0."
            )
    if database.get(neighbour) != "untouched":
        return Judgement(False, "It touched another user's key. Keys only through KEYS.")
    return Judgement(True, f"{len(SITUATIONS)} situations on a real server.")


CHECKS: Final[dict[str, Callable[[Any], Judgement]]] = {
    "ex00": judge_where_is,
    "ex04": judge_delete_if_mine,
}

"""Lesson 04, a second phone: what may a release delete when a user has several devices?"""

from __future__ import annotations

import secrets
from typing import Any, Final, NamedTuple

import redis

from wsdemo.client import ConnectFailed
from wsdemo.lab.cluster.cluster import Cluster
from wsdemo.lab.errors import LabTimeout
from wsdemo.lab.lessons.question import Judgement, NotJudged, Question, WrongAnswer, database_for
from wsdemo.lab.loop import LabLoop
from wsdemo.protocol import Status

QUESTION: Final = Question(
    "Alice is online with her phone and with her laptop. The phone says goodbye. Its gateway "
    "compares the token, which is right, and then deletes presence:alice. Where is Alice reached?",
    {
        "on the laptop": "The token shows that the caller is a session of Alice. It does not show "
        "that the whole key is that session's.",
        "on both": "The phone has said goodbye, so its gateway has no socket of it any more.",
        "nowhere": "The key held both devices, and all of it was deleted.",
    },
)

DEVICE: Final = "phone"
TOKEN: Final = "1700"
"""Of the session that ends."""


IN_GATEWAYS_S: Final = 25.0
"""For all of the experiment with real gateways, on a machine that is busy as well."""
RELEASED_S: Final = 10.0
"""A release that has removed nothing until then never will."""


class _Situation(NamedTuple):
    """What is in the key before, what has to be there afterwards, and what to say otherwise."""

    before: dict[str, str]
    after: dict[str, str]
    hint: str

    @property
    def answer(self) -> int:
        return int(self.before != self.after)


SITUATIONS: Final = (
    _Situation({"phone": "1700"}, {}, "The only device has left: its field goes, the answer is 1."),
    _Situation(
        {"phone": "1700", "laptop": "1650"},
        {"laptop": "1650"},
        "The laptop was online, and nobody can reach Alice there any more. The token was right, "
        "but is the whole key the phone's?",
    ),
    _Situation(
        {"phone": "1800", "laptop": "1650"},
        {"phone": "1800", "laptop": "1650"},
        "The phone had reconnected: a newer session of the same device has the field now, with a "
        "token of its own.",
    ),
    _Situation(
        {"phone": "1600"},
        {"phone": "1600"},
        "The field has a lower token, but that is another session as well. Is it the caller's?",
    ),
    _Situation(
        {"laptop": "1700"},
        {"laptop": "1700"},
        "The phone is not in the key; the laptop is. Which field is the caller's?",
    ),
    _Situation(
        {"phone": "17000", "phone2": "1700"},
        {"phone": "17000", "phone2": "1700"},
        "Two names or two tokens can begin alike, and are not the same.",
    ),
    _Situation({}, {}, "There was no key at all. What does HGET return then?"),
)


def judge_release_device(script: str) -> Judgement:
    """Run the reader's script on a real server, in each situation; then in two real gateways."""
    with database_for(script) as database:
        prefix = f"check:{secrets.token_hex(4)}:"
        try:
            for situation in SITUATIONS:
                _examine(database, script, prefix, situation)
            _examine_in_gateways(script)
        except WrongAnswer as wrong:
            return wrong.judgement
        finally:
            database.delete(prefix + "alice", prefix + "bob")
    return Judgement(True, f"{len(SITUATIONS)} situations on a real server, and two gateways.")


def _examine(database: redis.Redis, script: str, prefix: str, situation: _Situation) -> None:
    key, neighbour = prefix + "alice", prefix + "bob"
    database.delete(key)
    database.hset(neighbour, DEVICE, TOKEN)
    if situation.before:
        items = [part for pair in situation.before.items() for part in pair]
        database.hset(key, items=items)
    try:
        answer: Any = database.eval(script, 1, key, DEVICE, TOKEN)
        left: Any = database.hgetall(key)
    except redis.TimeoutError:
        raise NotJudged("It did not come to an end within 5 s.") from None
    except redis.ResponseError as problem:
        words = " ".join(str(problem).split())[:160]
        raise WrongAnswer(f"{situation.hint} Redis says: {words}") from None
    if left != situation.after:
        raise WrongAnswer(situation.hint, _evidence(situation, left))
    if answer != situation.answer:
        raise WrongAnswer(f"The key is as it should be, but the answer was {answer!r}, not 1 or 0.")
    if database.hgetall(neighbour) != {DEVICE: TOKEN}:
        raise WrongAnswer("It touched another user's key. Keys only through KEYS.")


def _evidence(situation: _Situation, left: dict[str, str]) -> str:
    return (
        f"caller: {DEVICE}, token {TOKEN}\nkey before: {situation.before or 'none'}\n"
        f"key after:  {left or 'none'}"
    )


def _examine_in_gateways(script: str) -> None:
    """Let the phone leave, and see that Bob still reaches the laptop."""
    try:
        status = _told_to_bob(script)
    except (TimeoutError, ConnectFailed):
        status = None
    if status in (None, Status.BUSY, Status.UNKNOWN):
        # Something else on this machine was in the way, so once more.
        try:
            status = _told_to_bob(script)
        except (TimeoutError, ConnectFailed) as problem:
            raise NotJudged(
                f"This machine is too busy for two gateways now ({problem}): try it again."
            ) from None
    if status in (Status.BUSY, Status.UNKNOWN):
        raise NotJudged(f"Bob's message was {status}: try it again.")
    if status is not Status.ROUTED:
        raise WrongAnswer(
            "In two real gateways: after the phone had left, Bob could not reach the laptop.",
            f"Bob was told: {status}",
        )


def _told_to_bob(script: str) -> Status | None:
    loop = LabLoop("thread")
    # At the pace of production: no heartbeat of the laptop repairs anything meanwhile.
    cluster = Cluster(gateways=2, devices=2, release_device=script, scale=1)
    try:
        return loop.run(_phone_leaves(cluster), IN_GATEWAYS_S)
    finally:
        loop.end(cluster.stop())
        loop.close()


async def _phone_leaves(cluster: Cluster) -> Status | None:
    """Connect Alice with two devices, let her phone leave, and return what Bob is told then."""
    await cluster.start()
    bob = await cluster.connect("bob")
    await cluster.connect("alice", device="phone")
    await cluster.connect("alice", "gateway-02", device="laptop")
    await cluster.disconnect("alice/phone")

    async def phone_is_gone() -> bool:
        return "s:phone" not in await cluster.record("alice")

    try:
        await cluster.until("the phone is released", phone_is_gone, RELEASED_S)
    except LabTimeout:
        raise WrongAnswer(
            "In two real gateways: the phone had left, and Alice was still listed with it. A token "
            "there is not the one of the situations."
        ) from None
    return (await bob.send("alice", "Are you there?")).status

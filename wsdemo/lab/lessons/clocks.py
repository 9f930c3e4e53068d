"""Lesson 06: whose clock decides, and what is compared instead?"""

from __future__ import annotations

import itertools
import secrets
import time
from typing import Any, Final

import redis

from wsdemo.lab.lessons.orders import in_short
from wsdemo.lab.lessons.question import (
    Judgement,
    NotJudged,
    Question,
    WrongAnswer,
    database_for,
)
from wsdemo.lab.races.orders import NEW, OLD, Order, all_orders

QUESTION: Final = Question(
    "Now every verb compares timestamps before it writes: with right clocks, all 45 orders end "
    "well. gateway-02's clock runs 10 s slow. Compared with no protection at all, is that better, "
    "the same or worse?",
    {
        "better": "With right clocks it is. With a slow one, each comparison takes the wrong "
        "side: what is newer looks older, in nearly every order.",
        "same": "Without protection it takes an unlucky order to lose her. Here it takes "
        "nothing: her new registration looks old whatever the order.",
        "worse": "The comparison turns away what is newer, time after time.",
    },
)

LEASE_MS: Final = 60_000
FENCE_MS: Final = 3_600_000
SHORT_MS: Final = 5
EXPIRY_TIMEOUT_S: Final = 5.0

REFRESH: Final = """
if redis.call('HGET', KEYS[1], 'epoch') == ARGV[1] then
  return redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 0
"""
RELEASE: Final = """
if redis.call('HGET', KEYS[1], 'epoch') == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
"""
"""The other scripts for a register with tokens: a write is accepted if it has the entry's token."""


def judge_register(script: str) -> Judgement:
    """Run the reader's script on a real server."""
    with database_for(script) as database:
        return judge_on(database, script)


def judge_on(database: redis.Redis, source: str) -> Judgement:
    """Judge a script on a server; what it wrote is removed."""
    script = _ScriptUnderTest(database, source)
    try:
        _registers(script)
        _counts(script)
        _survives(script)
        _leaves_others_alone(script)
        _ends_well(script)
    except WrongAnswer as hint:
        return Judgement(False, str(hint), script.shown())
    except redis.ResponseError as problem:
        words = " ".join(str(problem).split())[:160]
        what = f"What it left in Redis is no hash with fields: {words}"
        return Judgement(False, what, script.shown())
    finally:
        script.clean_up()
    return Judgement(True, f"Tokens rise, also after the lease; 0 wrong of {len(all_orders())}.")


class _ScriptUnderTest:
    """Registers users with the reader's script."""

    def __init__(self, database: redis.Redis, source: str) -> None:
        self.database = database
        self._source = source
        self._prefix = f"check:{secrets.token_hex(4)}:"
        self._users: set[str] = set()
        self._latest = ""

    def presence(self, user: str) -> str:
        self._users.add(user)
        return f"{self._prefix}presence:{user}"

    def fence(self, user: str) -> str:
        return f"{self._prefix}fence:{user}"

    def register(self, user: str, gateway: str = OLD, lease_ms: int = LEASE_MS) -> int:
        """Register a new connection of a user; return its token, of which the entry is checked."""
        conn_id = secrets.token_hex(4)
        self._latest = user
        keys = (self.presence(user), self.fence(user))
        try:
            answer: Any = self.database.eval(
                self._source, len(keys), *keys, conn_id, gateway, lease_ms, FENCE_MS
            )
        except redis.TimeoutError:
            raise NotJudged("It did not come to an end within 5 s.") from None
        except redis.ResponseError as problem:
            words = " ".join(str(problem).split())[:160]
            raise WrongAnswer(f"Redis says: {words}") from None
        token = _number(answer)
        if token is None:
            raise WrongAnswer(
                f"It answered {answer!r}. The gateway needs its token, a whole number above 0: it "
                "shows it with every later write."
            )
        # A lease of a few milliseconds may have expired before it is read.
        if lease_ms > SHORT_MS:
            self._check_entry(user, {"connId": conn_id, "gwId": gateway}, token)
        return token

    def _check_entry(self, user: str, said: dict[str, str], token: int) -> None:
        entry = self.database.hgetall(self.presence(user))
        if not said.items() <= entry.items():
            raise WrongAnswer(
                "After a registration Redis must say where she is now, whoever was there before. "
                "Which fields name the connection and the gateway?"
            )
        if entry.get("epoch") != str(token):
            raise WrongAnswer(
                f"It answered {token}, and the field epoch of the entry is {entry.get('epoch')!r}. "
                "A later write shows the one and is compared with the other, as text."
            )

    def shown(self) -> str:
        """Return what the script has left in Redis for the user that it registered last."""
        key, fence = self.presence(self._latest), self.fence(self._latest)
        kept = {"KEYS[1]": key, "KEYS[2]": fence}
        lines = []
        for name, where in kept.items():
            kind = self.database.type(where)
            value: object = self.database.get(where) if kind == "string" else None
            value = self.database.hgetall(where) if kind == "hash" else value
            lines.append(f"{name}: {value or kind!r}, PTTL {self.database.pttl(where)}")
        return "\n".join(lines)

    def clean_up(self) -> None:
        for user in self._users:
            self.database.delete(self.presence(user), self.fence(user))


def _number(answer: Any) -> int | None:
    try:
        token = int(answer)
    except (TypeError, ValueError):
        return None
    return token if token > 0 else None


# --- one thing after the other -----------------------------------------------------------------


def _registers(script: _ScriptUnderTest) -> None:
    user = _somebody()
    script.register(user)
    left_ms = script.database.pttl(script.presence(user))
    if not 0 < left_ms <= LEASE_MS:
        raise WrongAnswer(
            "The entry has no end: a user whose gateway dies would be online for ever."
        )


def _counts(script: _ScriptUnderTest) -> None:
    user = _somebody()
    tokens = [script.register(user, gateway) for gateway in (OLD, NEW, NEW, OLD, NEW, OLD)]
    for before, after in itertools.pairwise(tokens):
        if after == before:
            raise WrongAnswer(
                f"Two registrations got the same token, {after}: then neither is the newer one. "
                "A clock does not tell apart what happens within one tick of it."
            )
        if after < before:
            raise WrongAnswer(
                "A later registration got a smaller token, so it looks like the older."
            )


def _survives(script: _ScriptUnderTest) -> None:
    user = _somebody()
    before = max(script.register(user) for _ in range(3))
    counter_ms = script.database.pttl(script.fence(user))  # Of a lease that does not end meanwhile.
    last = script.register(user, lease_ms=SHORT_MS)
    deadline = time.monotonic() + EXPIRY_TIMEOUT_S
    while script.database.exists(script.presence(user)):
        if time.monotonic() > deadline:
            raise NotJudged("The lease of the entry did not end.")
    again = script.register(user, NEW)
    if again <= max(before, last):
        where = (
            "The counter ended with it: it has a lease that is as short."
            if 0 <= counter_ms <= LEASE_MS
            else "Where is the counter kept, and what else is kept there?"
        )
        raise WrongAnswer(f"Her lease ended, she came back, and the tokens began again. {where}")
    if not script.database.exists(script.fence(user)):
        raise WrongAnswer(
            "Nothing is remembered in KEYS[2]. A clock alone can be set back, and a counter under "
            "a name of its own is nobody's."
        )
    if script.database.pttl(script.fence(user)) == -1:
        raise WrongAnswer(
            "The counter of a user who never comes back is kept for ever. The last argument says "
            "how long it may live."
        )


def _leaves_others_alone(script: _ScriptUnderTest) -> None:
    alice, bob = _somebody(), _somebody()
    script.register(bob)
    mark = script.database.hgetall(script.presence(bob))
    script.register(alice)
    if script.database.hgetall(script.presence(bob)) != mark:
        raise WrongAnswer("It touched another user's entry. Keys only through KEYS.")


def _somebody() -> str:
    return f"user-{secrets.token_hex(4)}"


# --- all at once -------------------------------------------------------------------------------


def _ends_well(script: _ScriptUnderTest) -> None:
    wrong = [order for order in all_orders() if not _keeps_her(script, order)]
    if wrong:
        raise WrongAnswer(
            f"With a refresh and a release that show the token, {len(wrong)} of "
            f"{len(all_orders())} orders end wrong. For example: {in_short(wrong[0])}."
        )


def _keeps_her(script: _ScriptUnderTest, order: Order) -> bool:
    user, database = _somebody(), script.database
    key = script.presence(user)
    old = script.register(user, OLD)
    for action in order:
        if action == "h_set":
            database.eval(REFRESH, 1, key, old, LEASE_MS)
        elif action == "c_del":
            database.eval(RELEASE, 1, key, old)
        elif action == "r_set":
            script.register(user, NEW)
    return bool(database.hget(key, "gwId") == NEW)

"""Script runner: what do the real scripts answer in a given state?

Before each call both keys are set to that state. Then the script runs on a real Redis, and the keys
are read. Many calls share one round trip. A script depends only on the data of Redis and on its
arguments, so no call is made twice.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from wsdemo.presence import Refresh, Register
from wsdemo.presence.store import SCRIPTS
from wsdemo.proof.checker.machines.presence.states import (
    TOKEN_BASE,
    Actor,
    Clock,
    Field,
    Hash,
    Memory,
    Verb,
)
from wsdemo.proof.checker.subject import ScriptError
from wsdemo.settings import Keyspace

SHIPPED: Final[Mapping[str, str]] = {script.name: script.text for script in SCRIPTS}
"""The texts of the four scripts, as gateways use them."""

TIMEOUT_S: Final = 10.0
BATCH: Final = 200
"""Calls in one round trip."""

TTL_MS: Final = 90_000
FENCE_TTL_MS: Final = 3_600_000
LEFT_MS: Final = 40_000
"""The remaining TTL of both keys before each call. It is less than a write gives, so a larger TTL
after the call was given by the script.
"""

CLOCK_CALL: Final = "redis.call('TIME')"
CLOCK_ARGUMENT: Final = "{0, ARGV[2]}"
"""What replaces the clock in `mint` when the clock is free: 0 seconds, and the microseconds are an
argument. Nothing else of the text is changed, and no other script.
"""

TOKEN_FIELDS: Final = frozenset({"epoch", "mint", "top", "floor"})


class Call(NamedTuple):
    """A script with its arguments, and the data of Redis when it runs."""

    memory: Memory
    verb: Verb
    session: int
    token: int = 0
    clock_us: int | None = None
    """The time of the clock, when it is free."""


class Reply(NamedTuple):
    """The answer of a script, and the data of Redis after it."""

    outcome: str
    """`ok`, `stale`, ... of register and refresh; `1`, `0` or `-1` of release; `token` of mint."""
    memory: Memory
    token: int
    """The token of mint; 0 for the other scripts."""
    named: tuple[str, str]
    """Gateway and connection of the other session that a register or a refresh names."""
    lease_given: bool
    """The entry has got a new TTL."""
    fence_life_given: bool


OUTCOMES: Final[Mapping[Verb, tuple[str, ...]]] = {
    Verb.REGISTER: tuple(Register),
    Verb.REFRESH: tuple(Refresh),
    Verb.RELEASE: ("0", "1", "-1"),
}


class Machine:
    """A Redis that executes any call in any state.

    Args:
        url: the server. Two keys with a random prefix are used there, and removed by `close`.
        scripts: texts that replace the shipped ones, by name.
        cast: the sessions.
        clock: whether `mint` uses the clock of the server.

    Raises:
        ScriptError: there is no script of this name, or a text is not a script.
    """

    def __init__(
        self, url: str, scripts: Mapping[str, str], cast: Sequence[Actor], clock: Clock
    ) -> None:
        keyspace = Keyspace(f"checker:{secrets.token_hex(4)}:")
        self._entry, self._fence = keyspace.presence("alice"), keyspace.fence("alice")
        self._cast, self._clock = cast, clock
        self._replies: dict[Call, Reply] = {}
        texts = texts_of(scripts, clock)
        self._client = redis.Redis.from_url(
            url, socket_timeout=TIMEOUT_S, retry=Retry(NoBackoff(), 0), protocol=2
        )
        try:
            self._shas = {Verb(name): self._load(name, text) for name, text in texts.items()}
        except BaseException:
            self._client.close()
            raise

    @property
    def calls(self) -> int:
        """How many scripts have run."""
        return len(self._replies)

    def close(self) -> None:
        """Remove both keys, and disconnect."""
        try:
            self._client.delete(self._entry, self._fence)
        finally:
            self._client.close()

    def prepare(self, calls: Iterable[Call]) -> None:
        """Execute the calls that were not executed before.

        Raises:
            ScriptError: a script failed, or gave an unknown answer.
        """
        new = iter(dict.fromkeys(call for call in calls if call not in self._replies))
        while batch := list(islice(new, BATCH)):
            self._replies.update(zip(batch, self._play(batch), strict=True))

    def reply(self, call: Call) -> Reply:
        """Return the reply to a call; execute it first if necessary."""
        if call not in self._replies:
            self.prepare([call])
        return self._replies[call]

    # --- one batch -----------------------------------------------------------------------------

    def _load(self, name: str, text: str) -> str:
        try:
            sha: Any = self._client.script_load(text)
        except redis.ResponseError as problem:
            raise ScriptError(f"{name}.lua is no script: {_one_line(problem)}") from None
        return sha.decode() if isinstance(sha, bytes) else str(sha)

    def _play(self, batch: Sequence[Call]) -> Iterator[Reply]:
        pipe = self._client.pipeline(transaction=True)
        sizes = [self._enqueue(pipe, call) for call in batch]
        answers = iter(pipe.execute(raise_on_error=False))
        for call, size in zip(batch, sizes, strict=True):
            *_, answer, entry, fence, left_ms, fence_left_ms = islice(answers, size)
            yield _reply(call, answer, (entry, left_ms), (fence, fence_left_ms))

    def _enqueue(self, pipe: Any, call: Call) -> int:
        """Append commands that set the state, make the call and read the state; return how many."""
        before = len(pipe)
        memory = call.memory
        pipe.delete(self._entry, self._fence)
        for key, fields, ends in (
            (self._entry, memory.entry, memory.entry_ends),
            (self._fence, memory.fence, memory.fence_ends),
        ):
            if fields:
                pipe.hset(key, mapping={name: _written(value) for name, value in fields})
                if ends:
                    pipe.pexpire(key, LEFT_MS)
        keys = [self._fence] if call.verb is Verb.MINT else [self._entry, self._fence]
        pipe.evalsha(
            self._shas[call.verb], len(keys), *keys, *arguments(call, self._cast[call.session])
        )
        pipe.hgetall(self._entry)
        pipe.hgetall(self._fence)
        pipe.pttl(self._entry)
        pipe.pttl(self._fence)
        return len(pipe) - before


def arguments(call: Call, actor: Actor) -> tuple[str | int, ...]:
    """Return what a gateway passes to a script; for `mint` also the time, if the clock is free."""
    if call.verb is Verb.MINT:
        return (FENCE_TTL_MS,) if call.clock_us is None else (FENCE_TTL_MS, call.clock_us)
    if call.verb is Verb.RELEASE:
        return actor.conn_id, call.token, FENCE_TTL_MS
    write = (actor.conn_id, actor.gateway_id, call.token, TTL_MS, FENCE_TTL_MS)
    return (*write, actor.inst, actor.att)


def texts_of(scripts: Mapping[str, str], clock: Clock) -> dict[str, str]:
    """Return the texts that run: the shipped ones, except those that are replaced.

    Raises:
        ScriptError: there is no such script, or the clock of `mint` cannot be replaced.
    """
    unknown = sorted(set(scripts) - set(SHIPPED))
    if unknown:
        raise ScriptError(f"there is no script {unknown[0]!r}; there are: {', '.join(SHIPPED)}")
    texts = {**SHIPPED, **scripts}
    if clock is Clock.FREE:
        if CLOCK_CALL not in texts["mint"]:
            raise ScriptError(f"mint.lua has no {CLOCK_CALL}, so its clock cannot be set free")
        texts["mint"] = texts["mint"].replace(CLOCK_CALL, CLOCK_ARGUMENT)
    return texts


# --- from the words of Redis to ours -------------------------------------------------------


def _written(value: Field) -> str | int:
    return f"{value[0]}:{value[1]}" if isinstance(value, tuple) else value


def _reply(call: Call, answer: Any, entry: tuple[Any, int], fence: tuple[Any, int]) -> Reply:
    for found in (answer, entry[0], fence[0]):
        if isinstance(found, Exception):
            raise ScriptError(f"{call.verb}.lua failed: {_one_line(found)}")
    memory = Memory(_hash(entry[0]), entry[1] != -1, _hash(fence[0]), fence[1] != -1)
    token, outcome, named = 0, "token", ("", "")
    if call.verb is Verb.MINT:
        token = _minted(answer)
    elif call.verb is Verb.RELEASE:
        outcome = _known(call.verb, answer)
    else:
        parts = [_plain(p) for p in answer] if isinstance(answer, list) else [_plain(answer)]
        outcome = _known(call.verb, parts[0] if parts else "nothing")
        named = (parts[1], parts[2]) if len(parts) > 2 else named
    return Reply(outcome, memory, token, named, entry[1] > LEFT_MS, fence[1] > LEFT_MS)


def _hash(raw: dict[bytes, bytes]) -> Hash:
    fields = ((_plain(name), _plain(value)) for name, value in raw.items())
    return tuple(sorted((name, _field(name, value)) for name, value in fields))


def _field(name: str, value: str) -> Field:
    """Tell tokens from other texts. The time of a write (`ts`) does not matter here."""
    if name == "ts":
        return "0"
    if value.isdecimal() and (name in TOKEN_FIELDS or int(value) >= TOKEN_BASE):
        return int(value)
    if (pair := re.fullmatch(r"(\d+):(.*)", value)) is not None:
        return int(pair[1]), pair[2]
    return value


def _minted(answer: Any) -> int:
    text = _plain(answer)
    if not text.isdecimal() or int(text) < 1:
        raise ScriptError(f"mint.lua answered {text!r}, which is no token")
    return int(text)


def _known(verb: Verb, answer: Any) -> str:
    outcome = _plain(answer)  # Redis makes 1 of true, and nil of false.
    if outcome not in OUTCOMES[verb]:
        expected = ", ".join(OUTCOMES[verb])
        raise ScriptError(f"{verb}.lua answered {outcome!r}; what it may answer: {expected}")
    return outcome


def _plain(value: Any) -> str:
    if value is None:
        return "nil"
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _one_line(problem: BaseException) -> str:
    return " ".join(str(problem).split())

"""Script runner: what does a real server answer to a script, when its keys hold given data?

Before each call its keys are set to these data. Then the script runs on a real Redis, and the keys
are read. Many calls share one round trip, and no call is made twice: an answer depends only on the
data and the arguments. Times in the data are words (`later`, `past`), so that equal situations are
equal values; `Spelling` translates them.

A stream that is there without entries is taken for absent: our scripts make no difference.
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

from wsdemo.proof.checker.subject import ScriptError
from wsdemo.settings import Keyspace

TIMEOUT_S: Final = 10.0
BATCH: Final = 200
"""Calls in one round trip."""
LIFE_MS: Final = 3_600_000
"""What scripts are told to give to a key."""
LEFT_MS: Final = 1_000_000
"""The remaining life of each key before a call. A longer one after it was given by the script."""
CHANNELS: Final = "{channels}"
"""Stands in an argument for the prefix of channels."""

HASHES: Final = frozenset({"presence", "fence", "inboxmeta", "room"})
STREAMS: Final = frozenset({"inbox"})
SORTED_SETS: Final = frozenset({"boots", "roomout"})

Value = tuple[tuple[str, ...], ...]
"""The fields of a hash, the entries of a stream, the members of a sorted set; a string is one."""


class Kept(NamedTuple):
    """What a key holds."""

    value: Value
    ends: bool = True
    """Whether it has a TTL."""


Data = tuple[tuple[str, Kept], ...]
"""What Redis holds, by key and in the order of keys; a key is written as `inbox:bob`."""


class ScriptCall(NamedTuple):
    """A script, its keys and arguments, and what the keys hold."""

    script: str
    keys: tuple[str, ...]
    args: tuple[str | int, ...]
    data: Data


class ScriptReply(NamedTuple):
    """What a script answered, and what the keys hold after it."""

    answer: Any
    """Texts, integers, and tuples of them."""
    failure: str
    """Why the script failed; '' when it did not."""
    data: Data
    heard: tuple[tuple[str, str], ...]
    """What was published: channel and text."""
    given: frozenset[str]
    """The keys that got a new life."""


class Spelling:
    """How are times in the data written? This one is for scripts that keep none."""

    def written(self, key: str, field: str, value: str, now_ms: int) -> str:
        """Return a value as Redis gets it."""
        return value

    def read(self, key: str, field: str, value: str, now_ms: int) -> str:
        """Return a value as a model has it."""
        return value


class ScriptRunner:
    """A Redis that runs any script on any data.

    Args:
        url: the server. Keys with a random prefix are used there, and removed by `close`.
        texts: the scripts by name.

    Raises:
        ScriptError: a text is not a script.
    """

    def __init__(self, url: str, texts: Mapping[str, str], spelling: Spelling) -> None:
        self._keyspace = Keyspace(f"checker:{secrets.token_hex(4)}:")
        self._spelling = spelling
        self._replies: dict[ScriptCall, ScriptReply] = {}
        self._used: set[str] = set()
        self._client = redis.Redis.from_url(
            url, socket_timeout=TIMEOUT_S, retry=Retry(NoBackoff(), 0), protocol=2
        )
        self._ear = self._client.pubsub()
        try:
            self._shas = {name: self._load(name, text) for name, text in texts.items()}
            self._ear.psubscribe(f"{self._keyspace.prefix}*")
            self._ear.get_message(timeout=TIMEOUT_S)
        except BaseException:
            self._disconnect()
            raise

    @property
    def calls(self) -> int:
        """How many scripts have run."""
        return len(self._replies)

    def close(self) -> None:
        """Remove all keys, and disconnect."""
        try:
            if self._used:
                self._client.delete(*map(self._name, self._used))
        finally:
            self._disconnect()

    def prepare(self, calls: Iterable[ScriptCall]) -> None:
        """Run the calls that were not made before."""
        new = iter(dict.fromkeys(call for call in calls if call not in self._replies))
        while batch := list(islice(new, BATCH)):
            self._replies.update(zip(batch, self._play(batch), strict=True))

    def reply(self, call: ScriptCall) -> ScriptReply:
        """Return the reply to a call; make it first if necessary."""
        if call not in self._replies:
            self.prepare([call])
        return self._replies[call]

    # --- one batch -----------------------------------------------------------------------------

    def _disconnect(self) -> None:
        self._ear.close()
        self._client.close()

    def _load(self, name: str, text: str) -> str:
        try:
            sha: Any = self._client.script_load(text)
        except redis.ResponseError as problem:
            raise ScriptError(f"{name}.lua is no script: {_one_line(problem)}") from None
        return sha.decode() if isinstance(sha, bytes) else str(sha)

    def _name(self, key: str) -> str:
        return self._keyspace.key(*key.split(":"))

    def _play(self, batch: Sequence[ScriptCall]) -> Iterator[ScriptReply]:
        seconds, _ = self._client.time()
        now_ms = int(seconds) * 1000
        pipe = self._client.pipeline(transaction=True)
        sizes = [self._enqueue(pipe, call, now_ms) for call in batch]
        answers = iter(pipe.execute(raise_on_error=False))
        for call, size in zip(batch, sizes, strict=True):
            *_, answer = islice(answers, size)
            found = [(key, next(answers), next(answers)) for key in sorted(call.keys)]
            next(answers)  # The mark.
            yield self._reply(answer, found, self._heard(), now_ms)

    def _enqueue(self, pipe: Any, call: ScriptCall, now_ms: int) -> int:
        """Append all commands of a call; return how many there are up to the script itself."""
        before = len(pipe)
        self._used |= set(call.keys)
        pipe.delete(*map(self._name, call.keys))
        held = dict(call.data)
        for key in call.keys:
            if key in held:
                self._put(pipe, key, held[key], now_ms)
        args = [
            arg.replace(CHANNELS, self._keyspace.channel_prefix) if isinstance(arg, str) else arg
            for arg in call.args
        ]
        names = map(self._name, call.keys)
        pipe.evalsha(self._shas[call.script], len(call.keys), *names, *args)
        size = len(pipe) - before
        for key in sorted(call.keys):
            self._look(pipe, key)
            pipe.pttl(self._name(key))
        pipe.publish(f"{self._keyspace.prefix}mark", "")
        return size

    def _put(self, pipe: Any, key: str, kept: Kept, now_ms: int) -> None:
        name, kind = self._name(key), key.partition(":")[0]
        if kind in STREAMS:
            for offset, *fields in kept.value:
                pipe.execute_command("XADD", name, offset, *fields)
        else:
            pairs = {f: self._spelling.written(key, f, v, now_ms) for f, v in kept.value}
            if kind in HASHES:
                pipe.hset(name, mapping=pairs)
            elif kind in SORTED_SETS:
                pipe.zadd(name, {f: float(v) for f, v in pairs.items()})
            else:
                pipe.set(name, pairs[""])
        if kept.ends:
            pipe.pexpire(name, LEFT_MS)

    def _look(self, pipe: Any, key: str) -> None:
        name, kind = self._name(key), key.partition(":")[0]
        if kind in STREAMS:
            pipe.execute_command("XRANGE", name, "-", "+")
        elif kind in HASHES:
            pipe.hgetall(name)
        elif kind in SORTED_SETS:
            pipe.zrange(name, 0, -1, withscores=True)
        else:
            pipe.get(name)

    def _heard(self) -> tuple[tuple[str, str], ...]:
        """Return what was published until the next mark."""
        heard: list[tuple[str, str]] = []
        while True:
            message = self._ear.get_message(timeout=TIMEOUT_S)
            if message is None:
                raise ScriptError("the server does not deliver what scripts publish")
            channel = message["channel"].decode().removeprefix(self._keyspace.prefix)
            if channel == "mark":
                return tuple(heard)
            heard.append((channel, message["data"].decode()))

    def _reply(
        self,
        answer: Any,
        found: Sequence[tuple[str, Any, int]],
        heard: tuple[tuple[str, str], ...],
        now_ms: int,
    ) -> ScriptReply:
        failure = _one_line(answer) if isinstance(answer, Exception) else ""
        failure = re.sub(r"\b[0-9a-f]{40}\b", "", failure)
        data = []
        for key, raw, left_ms in found:
            if value := self._value(key, raw, now_ms):
                data.append((key, Kept(value, left_ms != -1)))
        given = frozenset(key for key, _, left_ms in found if left_ms > LEFT_MS)
        return ScriptReply(None if failure else plain(answer), failure, tuple(data), heard, given)

    def _value(self, key: str, raw: Any, now_ms: int) -> Value:
        if not raw or isinstance(raw, Exception):
            return ()
        kind = key.partition(":")[0]
        if kind in STREAMS:
            return tuple(_entry(entry) for entry in raw)
        pairs: Iterator[tuple[str, str]]
        if kind in HASHES:
            pairs = ((_text(f), _text(v)) for f, v in raw.items())
        elif kind in SORTED_SETS:
            pairs = ((_text(f), f"{v:.0f}") for f, v in raw)
        else:
            pairs = iter([("", _text(raw))])
        read = self._spelling.read
        return tuple(sorted((f, read(key, f, v, now_ms)) for f, v in pairs))


def _entry(raw: Any) -> tuple[str, ...]:
    offset, fields = raw
    words = (
        fields.items() if isinstance(fields, dict) else zip(fields[::2], fields[1::2], strict=True)
    )
    return (_text(offset), *(_text(word) for pair in words for word in pair))


def plain(answer: Any) -> Any:
    """Return an answer as texts, integers and tuples."""
    if isinstance(answer, list | tuple):
        return tuple(plain(one) for one in answer)
    return answer if isinstance(answer, int) else _text(answer)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _one_line(problem: BaseException) -> str:
    return " ".join(str(problem).split())


def held(data: Data, key: str) -> Kept | None:
    """Return what a key holds."""
    return next((kept for name, kept in data if name == key), None)


def fields_of(data: Data, key: str) -> dict[str, str]:
    """Return the fields of a hash, empty when there is none."""
    kept = held(data, key)
    return {} if kept is None else {row[0]: row[1] for row in kept.value}


def part(data: Data, keys: Iterable[str]) -> Data:
    """Return what some keys hold."""
    wanted = frozenset(keys)
    return tuple((key, kept) for key, kept in data if key in wanted)


def replaced(data: Data, keys: Iterable[str], new: Data) -> Data:
    """Return the data with what some keys hold replaced."""
    gone = frozenset(keys)
    return tuple(sorted((*((k, v) for k, v in data if k not in gone), *new)))

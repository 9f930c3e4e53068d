"""What may a user be called, and does it arrive whole wherever it goes?"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import string
import time
import unicodedata
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.examples import examples
from tests.gateway.cluster import Raw, gateway
from tests.processes import GatewayProcess, User, gateways
from wsdemo import Client
from wsdemo.gateway.auth import claims_of, mint_token
from wsdemo.gateway.server import Gateway
from wsdemo.protocol import (
    Code,
    Direct,
    DirectHeads,
    NotText,
    ProtocolError,
    decode,
    decode_envelope,
    decode_strict,
    message_text,
)
from wsdemo.redis.server import BundledServer
from wsdemo.settings import GatewaySettings, Keyspace, Limits, SettingsError
from wsdemo.user_ids import (
    MAX_USER_ID_CHARS,
    NEVER_IN_USER_ID,
    is_fit,
    user_ids,
    valid_user_id,
)

MANUAL = (Path(__file__).parents[1] / "docs" / "operating.md").read_text(encoding="utf-8")
WIDE = r"[\w.@|+:'~!#$%&/=,;<>-]+"
"""A pattern for people of all languages and their identity providers."""
WORLD = [
    "auth0|5f7c8ec7c33c6c004bbafe82",
    "google-oauth2|12341123123",
    "john+tag@example.com",
    "user:42",
    "urn:uuid:3f2b8c1e",
    "张伟",
    "josé",
    unicodedata.normalize("NFD", "josé"),
    "Ωmega",
    "मोहन",
    "O'Brien",
    "100%sure",
    "a$b$c",
    "x" * MAX_USER_ID_CHARS,
    "é" * MAX_USER_ID_CHARS,
]


# --- the rule ----------------------------------------------------------------------------------


def test_the_manual_lists_the_allowed_characters() -> None:
    """Those that it lists, and no others that can be typed."""
    found = re.search(r"A user id has 1 to (\d+) of the characters `([^`]+)`", MANUAL)
    assert found
    assert int(found[1]) == Limits().max_user_id_chars
    named: set[str] = set()
    for word in found[2].split():
        first, last = word[0], word[-1]
        named |= set(map(chr, range(ord(first), ord(last) + 1))) if "-" in word[1:2] else set(word)
    assert named == {char for char in string.printable if valid_user_id(f"x{char}")}
    assert valid_user_id("x" * int(found[1])) and not valid_user_id("x" * (int(found[1]) + 1))


def test_the_manual_lists_the_ids_that_are_always_refused() -> None:
    """And the reserved ids."""
    found = re.search(r"control\s+characters and ``([^`]+)`` are refused", MANUAL)
    assert found and set(found[1].split()) == NEVER_IN_USER_ID
    assert "`gateway-…` and `__…__` are reserved" in MANUAL
    for reserved in ("gateway-", "gateway-7", "____", "__proto__"):
        assert not valid_user_id(reserved)
        assert not user_ids(".+", 128).may_register(reserved)


@pytest.mark.parametrize("user", WORLD)
def test_a_pattern_can_allow_ids_of_other_systems(user: str) -> None:
    """Identity providers, addresses with +, letters of all languages."""
    assert user_ids(WIDE, 128).may_register(user) is all(
        re.fullmatch(r"[\w.@|+:'~!#$%&/=,;<>-]", char) for char in user
    )
    assert user_ids(".+", 128).may_register(user)
    assert not valid_user_id(user)


@given(st.text(max_size=140))
def test_no_pattern_allows_characters_that_break_a_key_or_a_line(user: str) -> None:
    """Braces, stars, brackets, quotes, white space, control characters, lone surrogates; 129
    characters."""
    everything = user_ids("(?s:.*)", MAX_USER_ID_CHARS)
    fit = (
        0 < len(user) <= MAX_USER_ID_CHARS
        and user.isprintable()
        and not any(char.isspace() or char in '{}*?[]\\"' for char in user)
    )
    assert bool(everything.possible(user)) is fit
    if fit:
        user.encode()
        assert json.dumps(user, ensure_ascii=False) == f'"{user}"'
        assert len(user.split()) == 1 and len(user.splitlines()) == 1


@pytest.mark.parametrize(
    "user",
    ["", "a b", "a\n", "a\x00", "\ud800", "a\u202eb", "a\u200bb", "a\u2028b", "a\u00a0b", "\ufeffa",
     "{a}", "a*", "a?", "[a]", 'a"b', "a\\b", "x" * 129, "\x7f", "\ue000"],
)  # fmt: skip
def test_some_ids_are_refused_under_every_pattern(user: str) -> None:
    """Nobody can get a token for them either."""
    assert not user_ids("(?s:.*)", 128).possible(user)
    assert not is_fit(user)
    with pytest.raises(ValueError, match="not valid"):
        mint_token(b"s" * 32, user, 4e9)


@pytest.mark.parametrize("user", [*WORLD, "alice"])
def test_a_token_can_be_made_for_every_id_that_a_pattern_can_allow(user: str) -> None:
    """And it is valid for that user alone."""
    token = mint_token(b"s" * 32, user, 4e9)
    assert claims_of(b"s" * 32, token, user, time.time())["exp"] == 4e9


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("(", "unterminated"),
        ("[a", "unterminated"),
        ("", "1 to 1000"),
        ("x" * 1001, "1 to 1000"),
        ("a{99999999999}", "too large"),
        ("(a+)+b", "takes too long"),
        ("(a|a)*b", "takes too long"),
        ("user:([a-z]+)*!", "takes too long"),
        (r"(\w+\s?)+x", "takes too long"),
        ("a*a*a*a*a*b", "takes too long"),
        (r"auth0\|(?:[a-z0-9]+)+", "takes too long"),
    ],
)
def test_an_unusable_pattern_is_refused_at_the_start(pattern: str, says: str) -> None:
    """An invalid expression, or one whose matching could block the gateway for the id of a
    client."""
    started = time.process_time()
    with pytest.raises(SettingsError, match=says):
        GatewaySettings(gateway_id="g", user_id_pattern=pattern)
    assert time.process_time() - started < 5, "finding out must not be the attack itself"


@pytest.mark.parametrize(
    "pattern",
    [
        WIDE,
        ".+",
        "[a-z]+",
        r"[a-z0-9]+(?:[._-][a-z0-9]+)*@[a-z0-9-]+(\.[a-z0-9-]+)+",
        r"(?:[a-z0-9-]+\|)?[\w.@-]+",
        r"user:\d+|urn:uuid:[0-9a-f-]{36}",
        r"(?i:alice|bob)",
    ],
)
def test_usual_patterns_are_accepted(pattern: str) -> None:
    """Repetitions that match in only one way are fast."""
    assert user_ids(pattern, 128).pattern == pattern


# --- the wire ----------------------------------------------------------------------------------

COLONS = st.sampled_from(
    ["user:42", r"user\u003a42", "a", ":", "x", "张伟", "auth0|x", '"', "\\", "\\\\", "\\n", ",",
     "type", '"x":1', '"to":"user:42"', "\ud800", " "]
)  # fmt: skip


def outcome(read: Any, data: bytes) -> Any:
    try:
        message = read(data, 100, user_ids(WIDE, 128).possible)
    except ProtocolError as problem:
        return problem.say, problem.msg_id
    except NotText:
        return NotText
    return message


@examples(500)
@given(
    st.lists(COLONS, max_size=3).map("".join),
    st.lists(COLONS, max_size=3).map("".join),
    st.sampled_from(["", ',"id":"7"', ',"id":"a:b"', ',"x":1', ',"to":"user:42"', ',"x:y":"z"']),
    st.booleans(),
)
# A colon that is escaped makes room in the sum for that of a second key.
@example("bob", "", r',"to":"user\u003a42"', False)
def test_both_parsers_agree_on_recipients_with_colons(
    to: str, content: str, more: str, escape: bool
) -> None:
    """However names are escaped, and whatever else is in the document."""
    text = content if escape else json.dumps(content, ensure_ascii=False)[1:-1]
    data = f'{{"type":"message","to":"{to}","content":"{text}"{more}}}'.encode(
        errors="surrogatepass"
    )
    assert outcome(decode, data) == outcome(decode_strict, data)


@pytest.mark.parametrize("to", ["user:42", "a:b:c", "auth0|x", "a+b@c"])
def test_a_recipient_with_colons_is_read_on_the_fast_path(
    to: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It costs no more than any other."""
    monkeypatch.setattr("wsdemo.protocol.decode_strict", None)
    data = json.dumps({"type": "message", "to": to, "content": "x:y", "id": "7"}).encode()
    message: Any = decode(data, 100, user_ids(WIDE, 128).possible)
    assert message.to == to


@pytest.mark.parametrize("sender", WORLD)
@pytest.mark.parametrize("to", WORLD[:6])
def test_an_envelope_contains_both_ids_unchanged(sender: str, to: str) -> None:
    """It is built without an encoder."""
    head = DirectHeads(sender, "gateway-01", "conn").head(to.encode(), b'"hi"', "7")
    envelope = decode_envelope(head + b"}")
    assert isinstance(envelope, Direct)
    assert (envelope.sender, envelope.to) == (sender, to)
    assert json.loads(message_text(envelope.sender, b'"hi"', "7"))["from"] == sender


# --- two gateways ------------------------------------------------------------------------------


@pytest.fixture
async def pair(
    shared_server: BundledServer, keyspace: Keyspace
) -> AsyncIterator[tuple[Gateway, Gateway]]:
    """Two gateways of this process with one pattern."""
    async with contextlib.AsyncExitStack() as stack:
        one, two = [
            await stack.enter_async_context(
                gateway(
                    shared_server,
                    keyspace,
                    f"gateway-0{n}",
                    settings={"user_id_pattern": WIDE},
                    max_user_id_chars=MAX_USER_ID_CHARS,
                )
            )
            for n in (1, 2)
        ]
        yield one, two


@pytest.fixture
async def processes(
    shared_server: BundledServer, keyspace: Keyspace
) -> AsyncIterator[list[GatewayProcess]]:
    """Two gateways as people start them (on uvloop, where there is one), with one pattern."""
    flags = ("--user-id-pattern", WIDE, "--key-prefix", keyspace.prefix)
    async with gateways(2, shared_server.url, *flags) as running:
        yield running


REACHABLE = [user for user in WORLD if user_ids(WIDE, 128).may_register(user)]


async def talk_across(one: str, two: str, redis_db: Any, keyspace: Keyspace) -> None:
    for number, user in enumerate(REACHABLE):
        async with await User.register(user, one) as here, await User.register("bob", two) as bob:
            assert await redis_db.hget(keyspace.presence(user), "gwId") == "gateway-01"
            assert await bob.send(user, f"to {number}") == "routed"
            got = await here.hear()
            assert (got["from"], got["content"]) == ("bob", f"to {number}")
            assert await here.send("bob", f"from {number}") == "routed"
            got = await bob.hear()
            assert (got["from"], got["content"]) == (user, f"from {number}")
        assert await until_gone(redis_db, keyspace.presence(user))


async def until_gone(redis_db: Any, key: str) -> bool:
    async with asyncio.timeout(10):
        while await redis_db.exists(key):
            await asyncio.sleep(0.005)
    return True


async def test_users_with_unusual_ids_can_message_each_other_across_gateways(
    pair: tuple[Gateway, Gateway], redis_db: Any, keyspace: Keyspace
) -> None:
    """Their keys, envelopes, acks and messages contain their ids, and nothing is left of them."""
    await talk_across(pair[0].url, pair[1].url, redis_db, keyspace)


async def test_users_with_unusual_ids_can_message_each_other_across_processes(
    processes: list[GatewayProcess], redis_db: Any, keyspace: Keyspace
) -> None:
    """The same, with the flag of the command line, which allows ids of 128 characters."""
    await talk_across(processes[0].url, processes[1].url, redis_db, keyspace)


async def test_the_client_of_the_kit_accepts_unusual_ids(pair: tuple[Gateway, Gateway]) -> None:
    """Its own, and those that it shows."""
    async with Client("auth0|x", [pair[0].url]) as one, Client("张伟", [pair[1].url]) as two:
        receipt = await one.send("张伟", "你好")
        message = await two.receive(10)
        assert (receipt.status, message.sender, message.content) == ("routed", "auth0|x", "你好")


async def test_an_id_that_does_not_match_the_pattern_is_refused_and_never_looked_up(
    pair: tuple[Gateway, Gateway],
) -> None:
    """4513 for a user who registers; as a recipient, the answer of an absent user."""
    async with await User.register("alice", pair[0].url) as alice:
        for user in (
            "first last",
            "a(b)",
            "gateway-7",
            "__x__",
            'a"b',
            "{a}",
            "x" * 129,
            "a\u202eb",
        ):
            assert await alice.send(user, "hello") == "offline"
            await alice.say(type="message", to=user, content="hello")
            assert (await alice.hear())["error"] == "User not found"
            assert await code_for(user, pair[1]) == Code.USER_FORBIDDEN


async def code_for(user: str, gateway: Gateway) -> int:
    """Return the close code that a register is answered with."""
    async with await Raw.open(gateway) as raw:
        raw.frame(json.dumps({"type": "register", "userId": user}).encode())
        return await raw.closed()


async def test_without_a_pattern_the_default_rule_holds(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """64 of the default characters, and `max_user_id_chars` limits them."""
    async with gateway(shared_server, keyspace, max_user_id_chars=10) as running:
        async with await User.register("x" * 10, running.url):
            pass
        for user in ("x" * 11, "user:42", "josé"):
            assert await code_for(user, running) == Code.USER_FORBIDDEN

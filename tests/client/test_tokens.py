"""Does a session outlive its token, as long as there is a fresh one to be had?"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.server import ServerConnection

from tests.client.fakes import FAST, Diary, fake_gateway, hear_nothing, tell, welcome
from tests.client.test_prompt import Piped, lines_of
from tests.gateway.cluster import gateway
from tests.waiting import until
from wsdemo import Gateway
from wsdemo.client import Client, ConnectFailed, State
from wsdemo.client.tokens import (
    MAX_TOKEN_BYTES,
    TokenFile,
    TokenUnavailable,
    expires_at,
    fetch,
    outlives,
)
from wsdemo.events import Kind
from wsdemo.gateway.auth import mint_token
from wsdemo.protocol import Code, Status
from wsdemo.redis.server import BundledServer
from wsdemo.settings import ClientSettings, Keyspace, Timing

pytestmark = pytest.mark.both_loops

SECRET = b"0123456789abcdef0123456789abcdef"
NOW = 1_800_000_000.0
AT_LAST = NOW + 58.7
"""A time of day at which a token that ends at NOW + 60 is to be renewed about a second later."""


class Day:
    """A wall clock that stands still until the test sets it."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def day() -> Day:
    return Day()


@pytest.fixture
async def guarded(
    shared_server: BundledServer, keyspace: Keyspace, day: Day
) -> AsyncIterator[Gateway]:
    """A gateway that wants tokens, and looks often whether they have ended."""
    async with gateway(
        shared_server,
        keyspace,
        timing=Timing().scaled(20),
        time_of_day=day,
        settings={"auth_secret": SECRET},
        retry_after_s=0.05,
        auth_delay_s=0.01,
    ) as running:
        yield running


def token(ends_in_s: float = 60, user: str = "alice", secret: bytes = SECRET) -> str:
    return jwt.encode({"sub": user, "exp": NOW + ends_in_s}, secret, algorithm="HS256")


def wrong(n: int = 0) -> str:
    return token(3600 + n, secret=b"x" * 32)


class Source:
    """A source of tokens with given answers, which remembers when it was called."""

    def __init__(self, *answers: str | Exception) -> None:
        self.answers = [*answers]
        """Given one after another; the last one again and again."""
        self.asked_at: list[float] = []

    def __call__(self) -> str:
        self.asked_at.append(asyncio.get_running_loop().time())
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def ends(gateway: Gateway) -> list[float]:
    """Return when the sessions of a gateway end."""
    return [session.expires_at for session in gateway.registry]


def told(diary: Diary) -> list[tuple[bool, str]]:
    return [(event.ok, event.reason) for event in diary.events if event.kind is Kind.TOKEN]


# --- reading -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claims", "end"),
    [
        ({"exp": 17}, 17.0),
        ({"exp": 17.5}, 17.5),
        ({}, None),
        ({"exp": "17"}, None),
        ({"exp": True}, None),
        ({"exp": None}, None),
        ({"exp": 10**400}, None),
    ],
)
def test_the_expiry_of_a_token_is_read(claims: dict[str, Any], end: float | None) -> None:
    """Without the secret; an `exp` that is not a time counts as none."""
    assert expires_at(jwt.encode(claims, SECRET, algorithm="HS256")) == end


@pytest.mark.parametrize(
    "text", ["", "secret", "a.b", "a.b.c", "a.W10.c", "..", "a.\xff.c", "\ud83d.x.y"]
)
def test_text_that_is_not_a_jwt_has_no_expiry(text: str) -> None:
    """Then there is nothing to renew."""
    assert expires_at(text) is None


@given(st.text() | st.from_regex(r"[\w-]*\.[\w-]*\.[\w-]*"))
def test_reading_the_expiry_of_any_text_raises_nothing(text: str) -> None:
    """Whatever the token contains."""
    expires_at(text)


def test_only_a_token_that_expires_later_is_sent() -> None:
    """An older token, the same one, and half a file would end the live session."""
    old = token(60)
    assert outlives(token(61), old)
    for other in (old, token(59), token(61)[:20], "", "opaque"):
        assert not outlives(other, old)


# --- where it comes from -------------------------------------------------------------------------


def test_a_token_file_is_read_again_each_time(tmp_path: Path) -> None:
    """White space and a byte order mark are no part of the token."""
    path = tmp_path / "token"
    path.write_bytes(b"\xef\xbb\xbfone\r\n")
    source = TokenFile(str(path))
    assert source() == "one"
    path.write_text(" two ")
    assert source() == "two"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "No such file or directory"),
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"\xff\xfe", "is not UTF-8 text"),
        (b"x" * (MAX_TOKEN_BYTES + 1), f"has more than {MAX_TOKEN_BYTES} bytes"),
    ],
    ids=["gone", "empty", "blank", "bytes", "long"],
)
def test_an_empty_token_file_is_an_error_that_names_it(
    tmp_path: Path, content: bytes | None, why: str
) -> None:
    """In one line; and the next call reads the file again."""
    path = tmp_path / "token"
    source = TokenFile(str(path))
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TokenUnavailable, match=f"^token file {path}: {why}$"):
        source()
    path.write_text("token")
    assert source() == "token"


def test_a_directory_as_token_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TokenUnavailable, match="Is a directory"):
        TokenFile(str(tmp_path))()


def test_a_pipe_as_token_file_is_read_once() -> None:
    """A shell's `<(...)` can be read only once."""
    reader, writer = os.pipe()
    os.write(writer, b"token\n")
    os.close(writer)
    try:
        source = TokenFile(f"/dev/fd/{reader}")
        assert [source(), source()] == ["token", "token"]
    finally:
        os.close(reader)


async def _slow() -> str:
    await asyncio.sleep(3600)
    return ""


async def _cancelled() -> str:
    raise asyncio.CancelledError


async def _good() -> str:
    await asyncio.sleep(0)
    return "token"


async def test_a_token_source_may_be_a_coroutine() -> None:
    assert await fetch(_good, 5) == "token"


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (lambda: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda: None, "gave a NoneType"),
        (lambda: b"bytes", "gave a bytes"),
        (lambda: "\ud83d", "gave half a character"),
        (_slow, "no token within 0.01 s"),
        (_cancelled, "was cancelled"),
    ],
)
async def test_any_failure_of_a_token_source_becomes_a_reason(source: Any, why: str) -> None:
    """And it never ends the caller."""
    with pytest.raises(TokenUnavailable, match=why):
        await fetch(source, 0.01)


async def test_cancelling_a_client_that_waits_for_a_token_cancels_it() -> None:
    """A source that was cancelled is told apart from a client that is."""
    asking = asyncio.create_task(fetch(_slow, 60))
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


# --- renewing ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["function", "coroutine"])
async def test_a_fresh_token_extends_the_session_on_its_connection(
    guarded: Gateway, kind: str
) -> None:
    """Before the old one expires: no event, no second connection."""
    diary, source = Diary(), Source(token(60), token(3600))

    async def coroutine() -> str:
        return source()

    asked = source if kind == "function" else coroutine
    async with Client(
        "alice", [guarded.url], token=asked, time_of_day=lambda: AT_LAST, emit=diary
    ) as alice:
        assert ends(guarded) == [NOW + 60]
        await until("it is prolonged", lambda: ends(guarded) == [NOW + 3600])
        assert (await alice.send("alice", "still here")).status is Status.ROUTED
        assert (alice.attempts, diary.count[Kind.REGISTERED], told(diary)) == (1, 1, [])


@pytest.mark.slow
async def test_each_later_token_is_sent_as_well(guarded: Gateway) -> None:
    """A long session needs many tokens; the last one expires late by the client's clock."""
    source = Source(*(token(60 + n / 10) for n in range(3)), token(3600))
    async with Client("alice", [guarded.url], token=source, time_of_day=lambda: AT_LAST) as alice:
        await until("it is prolonged", lambda: ends(guarded) == [NOW + 3600], 20)
        assert alice.attempts == 1 and guarded.counters.registers_ok == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "answer",
    [
        token(60),
        *(pytest.param(one, marks=pytest.mark.slow) for one in (token(59), token(61)[:30], "")),
        pytest.param(wrong(-7200), marks=pytest.mark.slow),
    ],
)
async def test_a_token_that_expires_no_later_is_not_sent_and_asked_for_again(
    guarded: Gateway, answer: str
) -> None:
    """Not more often than once a second; half a file does not end a live session."""
    diary, source = Diary(), Source(token(60), answer)
    async with Client(
        "alice", [guarded.url], token=source, time_of_day=lambda: AT_LAST, emit=diary
    ) as alice:
        await until("it was asked often", lambda: len(source.asked_at) >= 4, 30)
        gaps = [b - a for a, b in zip(source.asked_at, source.asked_at[1:], strict=False)]
        assert min(gaps) > 0.99
        assert told(diary) == [(False, "the token ends, and there is no fresh one")]
        source.answers = [token(3600)]
        await until("it is prolonged", lambda: ends(guarded) == [NOW + 3600])
        await until("it is told", lambda: told(diary)[1:] == [(True, "")])
        assert alice.attempts == 1


@pytest.mark.slow
async def test_a_failing_token_source_is_reported_and_asked_again(guarded: Gateway) -> None:
    """Once for each reason, and the session goes on meanwhile."""
    diary = Diary()
    source = Source(token(60), OSError("no net"), OSError("no net"), ValueError("?"), token(3600))
    async with Client(
        "alice", [guarded.url], token=source, time_of_day=lambda: AT_LAST, emit=diary
    ) as alice:
        await until("it is prolonged", lambda: ends(guarded) == [NOW + 3600], 20)
        await until("it is told", lambda: len(told(diary)) == 3)
        assert told(diary) == [(False, "OSError: no net"), (False, "ValueError: ?"), (True, "")]
        assert (alice.state, alice.attempts) == (State.REGISTERED, 1)


async def test_a_token_without_expiry_is_never_renewed(guarded: Gateway) -> None:
    """It is not a JSON Web Token with an expiry: there is no renewal task."""

    async def behave(connection: ServerConnection, _: int) -> None:
        await welcome(connection)
        await hear_nothing(connection)

    source = Source("opaque")
    async with fake_gateway(behave) as url, Client("alice", [url], token=source):
        assert "token of alice" not in {task.get_name() for task in asyncio.all_tasks()}
        assert len(source.asked_at) == 1


def test_the_renewal_delay_follows_the_remaining_lifetime_and_is_bounded() -> None:
    """About three quarters of it, at least a second; after the expiry, less and less often."""

    async def looks() -> None:
        client = Client("alice", ["ws://h/ws"], rng=random.Random(1), time_of_day=lambda: NOW)
        now = asyncio.get_running_loop().time()
        for left_s in (0.1, 1, 10, 900, 86_400):
            for _ in range(50):
                wait_s = client._look_after_s(NOW + left_s, now)
                assert max(1.0, 0.67 * left_s) <= wait_s <= max(1.0, 0.83 * left_s)
        for held_s in (0, 10, 10_000):
            for _ in range(50):
                wait_s = client._look_after_s(NOW - 1, now - held_s)
                assert max(1.0, 0.44 * min(held_s, 120)) <= wait_s <= 66.0

    asyncio.run(looks())


@pytest.mark.slow
async def test_a_fresh_token_without_answer_is_sent_again() -> None:
    """A register that was lost, or whose answer waits behind a full inbox, does not count as
    accepted."""
    hellos: list[dict[str, Any]] = []

    async def behave(connection: ServerConnection, _: int) -> None:
        hellos.append(await welcome(connection))
        async for text in connection:
            document = json.loads(text)
            if document["type"] == "register":
                hellos.append(document)
                if len(hellos) > 2:
                    await tell(connection, type="registered")

    settings = ClientSettings(register_timeout_s=0.5)
    source = Source(token(60), token(61))
    async with (
        fake_gateway(behave) as url,
        Client(
            "alice", [url], token=source, settings=settings, time_of_day=lambda: AT_LAST
        ) as alice,
    ):
        await until("three registers", lambda: len(hellos) == 3)
        assert [hello["token"] for hello in hellos] == [token(60), token(61), token(61)]
        assert len({(hello["inst"], hello["att"]) for hello in hellos}) == 1
        assert alice.attempts == 1


@pytest.mark.slow
async def test_an_accepted_token_is_sent_only_once() -> None:
    """After that, the client asks for the next one."""
    shown: list[str] = []

    async def behave(connection: ServerConnection, _: int) -> None:
        async for text in connection:
            document = json.loads(text)
            if document["type"] == "register":
                shown.append(document["token"])
                await tell(connection, type="registered")

    source = Source(token(60), token(61))
    async with (
        fake_gateway(behave) as url,
        Client("alice", [url], token=source, time_of_day=lambda: AT_LAST),
    ):
        await until("it was asked often", lambda: len(source.asked_at) >= 4, 30)
        assert shown == [token(60), token(61)]


# --- refused -------------------------------------------------------------------------------------


async def test_a_session_closed_with_4504_reconnects_with_a_fresh_token(
    guarded: Gateway, day: Day
) -> None:
    """4504 is not final when there is another token."""
    source = Source(token(60), token(3600))
    # By its own clock there is time; so it learns of the end from the gateway.
    async with Client(
        "alice", [guarded.url], token=source, settings=FAST, time_of_day=lambda: NOW - 9000
    ) as alice:
        day.now = NOW + 61
        await until("it is back", lambda: ends(guarded) == [NOW + 3600])
        await until("it knows", lambda: alice.state is State.REGISTERED)
        assert alice.attempts == 2


@pytest.mark.slow
async def test_the_client_waits_for_a_late_fresh_token(guarded: Gateway, day: Day) -> None:
    """After a refused token the client reports the problem, and does not dial meanwhile."""
    diary, source = Diary(), Source(token(60))
    async with Client(
        "alice",
        [guarded.url],
        token=source,
        settings=FAST,
        time_of_day=lambda: NOW - 9000,
        emit=diary,
    ) as alice:
        day.now = NOW + 61
        await until("it was asked often", lambda: len(source.asked_at) >= 4, 20)
        assert (alice.state, alice.attempts) == (State.RECONNECTING, 1)
        why = "the token was refused, and there is no other one"
        assert told(diary) == [(False, why)]
        source.answers = [token(3600)]
        await until("it is back", lambda: ends(guarded) == [NOW + 3600])
        assert told(diary)[1:] == [(True, "")]


@pytest.mark.slow
async def test_a_refused_token_is_final_when_there_is_no_other(guarded: Gateway, day: Day) -> None:
    """At the start at once, also from a function; later after some time. There is no second
    dial."""
    for source in (wrong(), Source(wrong())):
        client = Client("alice", [guarded.url], token=source)
        with pytest.raises(ConnectFailed, match="4504") as failed:
            await client.start(15)
        assert client.attempts == 1
        assert "within" not in str(failed.value), "it has waited for another one"
    settings = ClientSettings(token_patience_s=0.1, backoff_base_s=0.01)
    async with Client(
        "alice",
        [guarded.url],
        token=Source(token(60)),
        settings=settings,
        time_of_day=lambda: NOW - 9000,
    ) as alice:
        day.now = NOW + 61
        await until("it is closed", lambda: alice.state is State.CLOSED)
        assert "4504" in alice.closed_because and alice.attempts == 1


async def test_a_start_goes_on_when_a_refused_token_is_followed_by_a_valid_one(
    guarded: Gateway,
) -> None:
    """The file was half written when it was read first."""
    good = token(3600)
    source = Source(good[:-10], good)
    async with Client("alice", [guarded.url], token=source, settings=FAST) as alice:
        assert alice.attempts == 2


@pytest.mark.slow
async def test_a_client_whose_new_tokens_are_refused_backs_off() -> None:
    """A function that mints them without end: each refusal doubles the pause."""
    dialled_at: list[float] = []

    async def behave(connection: ServerConnection, attempt: int) -> None:
        dialled_at.append(asyncio.get_running_loop().time())
        await connection.recv()
        await connection.close(Code.AUTH)

    async with fake_gateway(behave) as url:
        source = Source(*(wrong(n) for n in range(20)))
        client = Client("alice", [url], token=source, settings=FAST)
        with pytest.raises(ConnectFailed, match="4504"):
            await client.start(3.5)
        # At once, then after two seconds, then after four.
        assert len(dialled_at) <= 3
        assert all(b - a >= 2.0 for a, b in itertools.pairwise(dialled_at[1:]))


@pytest.mark.slow
async def test_without_a_token_no_gateway_is_dialled(guarded: Gateway) -> None:
    """The problem is reported once, the client stays at the same gateway, and then it goes on."""
    diary, source = Diary(), Source(token(3600))
    urls = [guarded.url, "ws://127.0.0.1:1/ws"]
    next_ones: list[str] = []

    def asked() -> str:
        next_ones.append(alice.gateway)
        return source()

    alice = Client("alice", urls, token=asked, settings=FAST, emit=diary)
    async with alice:
        source.answers = [OSError("gone")]
        alice.abort()
        await until("it was asked often", lambda: len(source.asked_at) >= 4, 20)
        assert (alice.state, alice.attempts) == (State.RECONNECTING, 1)
        assert told(diary) == [(False, "OSError: gone")]
        gaps = [b - a for a, b in zip(source.asked_at[1:], source.asked_at[2:], strict=False)]
        assert set(next_ones[1:]) == {urls[1]}
        assert min(gaps) > 0.99
        source.answers = [token(3600)]
        await until("it is back", lambda: alice.state is State.REGISTERED)
        assert told(diary)[1:] == [(True, "")]


async def test_a_start_without_a_token_fails_with_the_reason() -> None:
    """In one line, and in time."""
    client = Client("alice", ["ws://127.0.0.1:1/ws"], token=Source(OSError("gone")))
    with pytest.raises(ConnectFailed, match=r"^alice: OSError: gone \(within 0.1 s\)$"):
        await client.start(0.1)
    assert client.attempts == 0


# --- at the prompt -------------------------------------------------------------------------------


@pytest.fixture
async def strict(shared_server: BundledServer, keyspace: Keyspace) -> AsyncIterator[Gateway]:
    """A gateway that wants tokens, by the real time of day."""
    async with gateway(shared_server, keyspace, settings={"auth_secret": SECRET}) as running:
        yield running


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe"], ids=["gone", "empty", "bytes"])
async def test_a_start_without_a_token_is_one_line_and_exit_code_2(
    tmp_path: Path, content: bytes | None
) -> None:
    """A mistake on the command line, before anything is dialled."""
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    async with Piped("-user", "alice", "--token-file", str(path)) as client:
        assert await client.ended(20) == 2
    (line,) = client.output.splitlines()
    assert line.startswith(f"wsdemo.client: token file {path}: ")


@pytest.mark.slow
async def test_the_client_waits_for_a_missing_token_file(strict: Gateway, tmp_path: Path) -> None:
    """The user reads once that it is missing, and once that it is back; `status` says it, too."""
    path = tmp_path / "token"
    good = mint_token(SECRET, "alice", 2**40)
    path.write_text(good)
    async with Piped("-user", "alice", "-gateway", strict.url, "--token-file", str(path)) as alice:
        await alice.prints("registered on gateway-01")
        path.unlink()
        for session in [*strict.registry]:
            session.end(Code.RESTART)
        why = f"token file {path}: No such file or directory"
        await alice.prints(f"[Client] {why}; looking again\n")
        alice.type("status")
        await alice.prints(f"[Client] alice is reconnecting, trying {strict.url} ({why})\n")
        path.write_text(good)
        await alice.prints("[Client] there is a token again\n")
        await until("it is back", lambda: len(strict.registry))
        alice.end_input()
        assert await alice.ended() == 0
    lines = lines_of(alice.output)
    assert lines.count(f"[Client] {why}; looking again") == 1
    assert lines[-1] == "[Client] alice registered on gateway-01"

"""Authentication: does a token prove the user id and its expiry, and nothing else?"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
import stat
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.client import connect

from tests.examples import examples
from tests.gateway.cluster import gateway
from tests.processes import GatewayProcess, User
from tests.waiting import until
from wsdemo import Client
from wsdemo.client.connection import ConnectFailed
from wsdemo.gateway.auth import NotAuthentic, claims_of, mint_token, read_secret
from wsdemo.gateway.server import Gateway
from wsdemo.protocol import Code
from wsdemo.redis.server import BundledServer
from wsdemo.settings import Keyspace, SettingsError, Timing

SECRET = b"a secret of more than thirty-two bytes"
NOW = 1_700_000_000.0
FAST = Timing().scaled(60)


class Clock:
    """A time of day that can be set."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def guarded(
    shared_server: BundledServer, keyspace: Keyspace, clock: Clock
) -> AsyncIterator[Gateway]:
    """A gateway that wants tokens."""
    async with gateway(
        shared_server, keyspace, timing=FAST, time_of_day=clock, settings={"auth_secret": SECRET}
    ) as running:
        yield running


def forged(**claims: object) -> str:
    return jwt.encode(claims, SECRET, algorithm="HS256")


def unsigned(user: str) -> str:
    """A token whose header says that it needs no signature."""
    parts = ({"alg": "none", "typ": "JWT"}, {"sub": user, "exp": NOW + 60})
    return (
        ".".join(
            base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")
            for part in parts
        )
        + "."
    )


GOOD = mint_token(SECRET, "alice", NOW + 60)
BAD = {
    "missing": "",
    "no token at all": "secret",
    "another user's": mint_token(SECRET, "bob", NOW + 60),
    "ended": mint_token(SECRET, "alice", NOW - 1),
    "ends now": mint_token(SECRET, "alice", NOW),
    "another secret": mint_token(b"b" * 32, "alice", NOW + 60),
    "another algorithm": jwt.encode(
        {"sub": "alice", "exp": NOW + 60}, b"c" * 64, algorithm="HS512"
    ),
    "same secret, another algorithm": jwt.encode(
        {"sub": "alice", "exp": NOW + 60}, SECRET * 2, algorithm="HS384"
    ),
    "no algorithm": unsigned("alice"),
    "cut": GOOD[:-1],
    "changed": GOOD.replace(".", ".A", 1),
    "no end": forged(sub="alice"),
    "no user": forged(exp=NOW + 60),
    "a user of another type": forged(sub=["alice"], exp=NOW + 60),
    "an end of another type": forged(sub="alice", exp="tomorrow"),
    "true as an end": forged(sub="alice", exp=True),
    "an end too large for a float": forged(sub="alice", exp=10**400),
    "no end at all": forged(sub="alice", exp=float("inf")),
    "a long one": "x" * 30_000,
    "not ASCII": "é.é.é",
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_token_is_refused(kind: str) -> None:
    """And all of them fail in the same way."""
    with pytest.raises(NotAuthentic) as failure:
        claims_of(SECRET, BAD[kind], "alice", NOW)
    assert str(failure.value) == "" and failure.value.__cause__ is None


@examples(300)
@given(st.text(max_size=200) | st.binary(max_size=60).map(lambda b: b.hex() + "." + b.hex()))
def test_random_text_is_never_a_valid_token_and_raises_one_error(text: str) -> None:
    """Whatever it contains."""
    with pytest.raises(NotAuthentic):
        claims_of(SECRET, text, "alice", NOW)


def test_a_valid_token_has_its_expiry() -> None:
    """In Unix seconds."""
    assert claims_of(SECRET, GOOD, "alice", NOW)["exp"] == NOW + 60


async def test_a_token_registers_only_its_own_user(guarded: Gateway) -> None:
    """Bob's token does not register alice."""
    async with Client("alice", [guarded.url], token=GOOD) as alice:
        assert alice.gateway_id == "gateway-01"
        with pytest.raises(ConnectFailed, match="4504"):
            await Client("carol", [guarded.url], token=GOOD).start()


async def test_after_a_bad_token_the_connection_is_not_read(guarded: Gateway) -> None:
    """A second attempt on the same connection is ignored, while the answer is delayed."""
    async with connect(guarded.url, proxy=None, compression=None) as connection:
        for token in ("", GOOD):
            await connection.send(
                json.dumps({"type": "register", "userId": "alice", "token": token})
            )
        await asyncio.wait_for(connection.wait_closed(), 10)
        assert connection.close_code == Code.AUTH
    assert guarded.counters.registers_ok == 0 and len(guarded.registry) == 0


async def test_an_expired_token_ends_the_session_at_the_next_refresh(
    guarded: Gateway, clock: Clock, redis_db: object, keyspace: Keyspace
) -> None:
    """4504, and its presence is released."""
    async with Client("alice", [guarded.url], token=GOOD) as alice:
        await until("it is renewed", lambda: guarded.counters.refreshes_ok)
        clock.now = NOW + 60
        await until("it is closed", lambda: "4504" in alice.closed_because)
    assert guarded.counters.tokens_expired == 1
    await until("it left Redis", lambda: _absent(guarded, "alice"))


async def _absent(gateway: Gateway, user: str) -> bool:
    return await gateway.presence.lookup(user) is None  # type: ignore[attr-defined]


async def test_a_new_token_on_the_same_connection_extends_the_session(
    guarded: Gateway, clock: Clock
) -> None:
    """`register` again, as the same user; a bad token ends the session."""
    async with connect(guarded.url, proxy=None, compression=None) as connection:

        async def register(token: str) -> None:
            await connection.send(
                json.dumps({"type": "register", "userId": "alice", "token": token})
            )

        await register(GOOD)
        assert "registered" in str(await connection.recv())
        await register(mint_token(SECRET, "alice", NOW + 600))
        assert "registered" in str(await connection.recv())
        (session,) = guarded.registry
        assert session.expires_at == NOW + 600
        await register(GOOD[:-1])
        await asyncio.wait_for(connection.wait_closed(), 10)
        assert connection.close_code == Code.AUTH
    await until("nobody is left", lambda: len(guarded.registry) == 0)


async def test_a_client_asks_for_a_token_at_each_attempt(guarded: Gateway) -> None:
    """When it dials, not when it is created."""
    asked: list[int] = []

    def token() -> str:
        asked.append(1)
        return GOOD

    async with Client("alice", [guarded.url], token=token) as alice:
        assert len(asked) == 1
        next(iter(guarded.registry)).end(Code.RESTART, retry_after_ms=1)
        await until("it is back", lambda: len(asked) == 2 and alice.state == "registered")


# --- the command line ----------------------------------------------------------------------------


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_bytes(SECRET + b"\n")
    path.chmod(stat.S_IRUSR)
    return path


async def run(*arguments: str) -> tuple[int | None, str, str]:
    """Run `python -m wsdemo.gateway`; return exit code, stdout and stderr."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "wsdemo.gateway", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 30)
    return process.returncode, out.decode(), err.decode()


@pytest.mark.slow
async def test_a_token_made_by_the_command_line_is_accepted_by_a_gateway_process(
    shared_server: BundledServer, secret_file: Path
) -> None:
    """And neither the secret nor a token is in its log."""
    code, token, _ = await run("token", "alice", "--auth-secret-file", str(secret_file))
    assert code == 0
    flags = ("--auth-secret-file", str(secret_file), "--key-prefix", f"auth{id(secret_file)}:")
    async with GatewayProcess("gateway-01", shared_server.url, *flags) as process:
        async with Client("alice", [process.url], token=token.strip()) as alice:
            assert alice.gateway_id == "gateway-01"
        async with connect(process.url, proxy=None) as connection:
            await connection.send('{"type":"register","userId":"alice","token":"WRONG-TOKEN"}')
            await asyncio.wait_for(connection.wait_closed(), 10)
            assert connection.close_code == Code.AUTH
    log = "\n".join(process.log)
    assert SECRET.decode() not in log and "WRONG-TOKEN" not in log and token.strip() not in log


@pytest.mark.slow
async def test_a_secret_file_is_readable_by_its_owner_only_and_not_overwritten(
    tmp_path: Path,
) -> None:
    """It is as long as it has to be, and no two are the same."""
    first, second = tmp_path / "first", tmp_path / "second"
    for path in (first, second):
        code, out, _ = await run("secret", str(path))
        assert code == 0 and str(path) in out
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_secret(str(first)) != read_secret(str(second))
    kept = first.read_bytes()
    code, _, err = await run("secret", str(first))
    assert (code, err.count("\n")) == (2, 1)
    assert first.read_bytes() == kept and kept.decode().strip() not in err


MISTAKES: dict[str, Callable[[Path], list[str]]] = {
    "no such file": lambda path: ["token", "alice", "--auth-secret-file", f"{path}.not"],
    "no secret given": lambda path: ["token", "alice"],
    "a name that is not allowed": lambda path: ["token", "a b", "--auth-secret-file", str(path)],
    "a life of nothing": lambda path: [
        *("token", "alice", "--auth-secret-file", str(path), "--ttl-s", "0")
    ],
    "an endless life": lambda path: [
        *("token", "alice", "--auth-secret-file", str(path), "--ttl-s", "inf")
    ],
}


@pytest.mark.parametrize("mistake", MISTAKES)
async def test_a_mistake_is_one_line_and_exit_code_2(mistake: str, secret_file: Path) -> None:
    """Without the secret in it."""
    code, out, err = await run(*MISTAKES[mistake](secret_file))
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert SECRET.decode() not in err


@pytest.mark.parametrize("content", [b"", b"short", b" " * 64, b"x" * 5000])
def test_a_secret_that_is_too_short_or_too_long_is_refused(tmp_path: Path, content: bytes) -> None:
    """White space does not count."""
    path = tmp_path / "secret"
    path.write_bytes(content)
    with pytest.raises(SettingsError):
        read_secret(str(path))


async def test_a_gateway_without_a_secret_needs_no_token(
    guarded: Gateway, shared_server: BundledServer
) -> None:
    """It ignores a token that is sent."""
    plain = dataclasses.replace(guarded.settings, gateway_id="gateway-02", auth_secret=None)
    async with Gateway(plain) as other:
        user = await User.register("bob", other.url)
        await user.leave()

"""Is a password ever printed, in whole or in part?

Passwords of all printable characters stand in every place of an address, encoded or as they are,
and the programs are run with it, in this process and as real ones. Whatever they write must hold
no part of it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import string
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.examples import examples
from tests.gateway.cluster import gateway
from tests.programs import said_by
from wsdemo import Client
from wsdemo.addresses import SettingsError, redacted, redis_url, without_secrets
from wsdemo.client import __main__ as client_program
from wsdemo.client.connection import ConnectFailed
from wsdemo.events import Event
from wsdemo.gateway import __main__ as gateway_program
from wsdemo.lab.doctor import doctor
from wsdemo.protocol import Status
from wsdemo.redis import __main__ as redis_program
from wsdemo.redis.link import RedisLink
from wsdemo.redis.server import BundledServer, ServerError, find_server
from wsdemo.settings import ClientSettings, GatewaySettings, Keyspace, Limits

MARKS = ("Zq7Kw", "xV9jQ", "Jk3vX")
"""What no line holds by itself: the pieces of every password, with the odd characters between."""
ODD = st.text(string.punctuation + " " + "éß漢\u00a0", max_size=3)
PASSWORDS = st.tuples(ODD, ODD, ODD, ODD).map(
    lambda odd: "".join(o + m for o, m in zip(odd, (*MARKS, ""), strict=True)).strip()
)
ODD_ONES = tuple(f"{MARKS[0]}{odd}{MARKS[1]}" for odd in "/#?@%:[] &=+;'\"\\")

REDIS_PLACES = (
    "redis://:{}@127.0.0.1:{port}/0",
    "redis://me:{}@127.0.0.1:{port}",
    "redis://{}@127.0.0.1:{port}",
    "rediss://:{}@127.0.0.1:{port}/0",
    ":{}@127.0.0.1:{port}",
    "redis://:{}@127.0.0.1:{port}/0?db=x",
    "redis://:{}@127.0.0.1:{port}?max_connections=5",
    "redis://127.0.0.1:{port}?password={}",
    "redis://127.0.0.1:{port}?db=1&username=me&password={}",
    "redis://127.0.0.1:{port}?username={}",
    "redis://127.0.0.1:{port}?sentinel_password={}",
    "redis://127.0.0.1:{port}/{}",
    "redis://127.0.0.1:{port}#{}",
    "redis://127.0.0.1:{port}?db={}",
    "redis://:{}",
    "redis://:{}@",
    "redis://:{}@a b:{port}",
    "redis://:{}@127.0.0.1:99999",
    "http://u:{}@127.0.0.1:{port}",
    "unix://:{}@/nowhere/redis.sock",
    "unix:///nowhere/redis.sock?password={}",
    "unix://:{}@nowhere/redis.sock",
    "redis+sentinel://user:{}@127.0.0.1:{port},[::1]:{port}/mymaster",
    "redis+sentinel://127.0.0.1:{port}/mymaster?sentinel_password={}",
    "redis+sentinel://:{}@127.0.0.1",
    "redis+cluster://:{}@127.0.0.1:{port}",
    "redis+cluster://127.0.0.1:{port}/{}",
)
GATEWAY_PLACES = (
    "ws://user:{}@127.0.0.1:{port}/ws",
    "ws://127.0.0.1:{port}/ws?token={}",
    "ws://127.0.0.1:{port}/ws?a=b&key={}",
    "wss://user:{}@127.0.0.1:{port}/ws?token={}",
    "ws://user:{}@127.0.0.1:{port}/ws?e=a@b",
    "ws://user:{}@127.0.0.1:http/ws",
    "ws://{}@127.0.0.1:{port}/ws",
    "http://user:{}@127.0.0.1:{port}/ws",
    "user:{}@127.0.0.1:{port}/ws",
)


def no_part_in(text: str) -> None:
    """No line may hold a part of a password, however it is spelled."""
    for mark in MARKS:
        assert mark not in text, text
    assert "Traceback" not in text, text


@pytest.fixture(scope="module")
def closed_port() -> Iterator[int]:
    """A reserved port at which nobody answers."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


AMBIGUOUS = {
    "redis://{}@127.0.0.1:{port}": {":": "%3A"},
    "ws://{}@127.0.0.1:{port}/ws": {":": "%3A"},
    "redis://:{}": {"@": "%40"},
}
"""Where a password cannot stand as it is, for it would be a user and a password, or have a host."""


def placed(place: str, password: str, port: int) -> str:
    for odd, encoded in AMBIGUOUS.get(place, {}).items():
        password = password.replace(odd, encoded)
    return place.replace("{port}", str(port)).replace("{}", password)


# --- every line --------------------------------------------------------------------------------


@pytest.mark.parametrize("place", REDIS_PLACES)
@examples(8)
@given(password=PASSWORDS, encoded=st.booleans())
@example(password=ODD_ONES[0], encoded=False)
@example(password=ODD_ONES[1], encoded=False)
@example(password=ODD_ONES[2], encoded=False)
def test_no_program_prints_a_password_of_redis(
    place: str, password: str, encoded: bool, closed_port: int
) -> None:
    """Neither the gateway nor `--call`, nor what looks for a server, nor a repr."""
    address = placed(place, quote(password, safe="") if encoded else password, closed_port)
    no_part_in(redacted(address))
    at_once = ("-id", "g", "-port", "0", "--redis-start-s", "0.05")
    no_part_in(said_by(gateway_program.main, *at_once, "-redis", address))
    no_part_in(said_by(redis_program.main, "-redis", address, "--call", "PING"))
    with pytest.raises(ServerError) as problem:
        find_server(address)
    no_part_in(f"{problem.value} {problem.value!r}")
    try:
        no_part_in(repr(GatewaySettings(gateway_id="g", redis_url=address)))
    except SettingsError as refused:
        no_part_in(f"{refused} {refused!r}")


@pytest.mark.parametrize("password", ODD_ONES)
@pytest.mark.parametrize("place", REDIS_PLACES)
def test_no_special_character_reveals_a_password(place: str, password: str) -> None:
    """Each character with a meaning in an address, in each place."""
    address = placed(place, password, 1)
    no_part_in(redacted(address))
    no_part_in(redacted(f" {address} "))
    try:
        url = redis_url(address)
    except SettingsError as problem:
        no_part_in(str(problem))
    else:
        no_part_in(redacted(url))
        no_part_in(without_secrets(f"cannot connect to {url}: refused"))


@pytest.mark.parametrize("place", REDIS_PLACES)
@examples(3)
@given(password=PASSWORDS)
def test_no_error_of_the_command_line_repeats_an_address(place: str, password: str) -> None:
    """An address in the wrong place, or after a misspelt flag, is not repeated either."""
    address = placed(place, password, 1)
    mistakes = [
        ["-id", "g", "--reddis", address],
        ["-id", "g", f"--reddis={address}"],
        ["-id", "g", "-port", address],
        ["-id", "g", "--log-level", address],
        ["-id", "g", "--tick-s", address],
        ["-id", "g", f"--takeover={address}"],
        ["-id", address],
        ["-id", "g", "-host", address],
        ["-id", "g", "--origin", address],
        ["-id", "g", "--trusted-proxy", address],
    ]
    for arguments in mistakes:
        no_part_in(said_by(gateway_program.main, *arguments, "-redis", "localhost:1"))


@pytest.mark.parametrize("place", GATEWAY_PLACES)
@examples(8)
@given(password=PASSWORDS, encoded=st.booleans())
def test_no_client_prints_a_password_of_a_gateway(
    place: str, password: str, encoded: bool, closed_port: int
) -> None:
    """Neither in an exception, nor in what it observes, nor in its repr and its state."""
    address = placed(place, quote(password, safe="") if encoded else password, closed_port)
    seen: list[Any] = []
    asyncio.run(_visit(address, seen))
    no_part_in(" ".join(map(repr, seen)) + " ".join(map(str, seen)))


async def _visit(address: str, seen: list[Any]) -> None:
    patience = ClientSettings(backoff_base_s=0.001, backoff_cap_s=0.002, ack_timeout_s=0.001)
    events: list[Event] = []
    try:
        client = Client("alice", [address], settings=patience, emit=events.append)
    except ValueError as problem:
        seen.append(problem)
        return
    try:
        await client.start(timeout_s=0.05)
    except ConnectFailed as problem:
        seen.append(problem)
    seen += [client, client.closed_because, *events, await client.send("bob", "hello")]
    assert seen[-1].status is Status.BUSY


def test_a_user_id_that_looks_like_an_address_is_shown() -> None:
    """`alice@example.com` contains no password, and people search for the name."""
    said = said_by(client_program.main, "-user", "alice@example.com x")
    assert "'alice@example.com x' is not valid" in said


# --- what a running gateway tells --------------------------------------------------------------


async def test_a_running_gateway_never_shows_its_redis_password(
    keyspace: Keyspace, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither on its pages, nor in its log, nor in its settings; with Redis and without."""
    caplog.set_level(logging.DEBUG)
    with BundledServer(password=f"{MARKS[0]}/{MARKS[1]}") as server:
        async with gateway(server, keyspace) as running:
            pages = [
                await _page(running.port, f"/{name}") for name in ("ready", "stats", "metrics")
            ]
            server.kill()
            async with asyncio.timeout(10):
                while running.ready:
                    await asyncio.sleep(0.01)
            pages += [await _page(running.port, f"/{name}") for name in ("ready", "stats")]
            no_part_in("".join(pages) + repr(running.settings) + caplog.text + repr(server))
            assert "wsdemo_ready" in pages[2] and '"ready": false' in pages[3]


async def _page(port: int, path: str) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    text = (await reader.read()).decode()
    writer.close()
    return text


async def test_a_wrong_password_is_not_repeated() -> None:
    """Not even when Redis itself complains about it."""
    with BundledServer(password="right") as server:
        for password in (MARKS[0], f"{MARKS[0]}/{MARKS[1]}"):
            url = f"redis://me:{quote(password, safe='')}@127.0.0.1:{server.port}"
            link = RedisLink(url, Limits())
            with pytest.raises(Exception, match=r"WRONGPASS|username-password") as problem:
                await link.start()
            no_part_in(str(problem.value))


def test_the_laboratory_shows_the_address_of_redis_without_its_password(
    monkeypatch: pytest.MonkeyPatch, closed_port: int
) -> None:
    """The doctor's table, and what it says of a server that is there."""
    for place in REDIS_PLACES:
        address = placed(place, f"{MARKS[0]}%2F{MARKS[1]}", closed_port)
        monkeypatch.setenv("WSDEMO_REDIS_URL", address)
        no_part_in(doctor().to_string(max_colwidth=None))
    with BundledServer(password=f"{MARKS[0]}/{MARKS[1]}") as server:
        with find_server(server.url) as found:
            no_part_in(repr(found) + found.source)
            assert str(server.port) in found.source


# --- real processes ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("program", "arguments", "odd"),
    [
        ("wsdemo.gateway", ("-id", "g", "-port", "0", "-redis", REDIS_PLACES[0]), "/"),
        ("wsdemo.gateway", ("-id", "g", "-port", "0", "-redis", REDIS_PLACES[1]), "@"),
        ("wsdemo.gateway", ("-id", "g", "-port", "0"), "#"),
        ("wsdemo.gateway", ("-id", "g", "-port", "0"), "%2F"),
        ("wsdemo.redis", ("-redis", REDIS_PLACES[0], "--call", "PING"), "?"),
        ("wsdemo.redis", ("--call", "PING"), ":"),
        *[
            pytest.param(
                *("wsdemo.client", ("-user", "a", "-gateway", place), "/"), marks=pytest.mark.slow
            )
            for place in GATEWAY_PLACES[5:]
        ],
        ("wsdemo.lab.demo", (), "%23"),
        ("tools.build_notebooks", ("--rest", REDIS_PLACES[0]), " "),
    ],
)
@pytest.mark.timeout(120)
def test_no_process_prints_a_password(
    program: str, arguments: tuple[str, ...], odd: str, closed_port: int
) -> None:
    """Given as an argument or, by those that take none, in the environment."""
    password = f"{MARKS[0]}{odd}{MARKS[1]}"
    words = [placed(word, password, closed_port) for word in arguments]
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    environment["WSDEMO_REDIS_URL"] = placed(REDIS_PLACES[0], password, closed_port)
    ended = subprocess.run(
        [sys.executable, "-m", program, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        text=True,
        timeout=100,
    )
    assert ended.returncode == 2, ended.stdout
    # A client says at once which address it cannot reach.
    ends = [line for line in ended.stdout.splitlines() if not line.startswith("[Client]")]
    assert len(ends) == 1, ended.stdout
    no_part_in(ended.stdout)


# --- lines whose parts come from elsewhere -----------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "Authorization: Bearer {}",
        "authorization: Basic {}",
        "Sec-WebSocket-Protocol: wsdemo.v1, bearer.{}{}",
        "cannot dial ws://user:{}@host/ws?token={} (refused)",
        "cannot dial ws://host/ws?token={}",
        "redirected to https://host/login#access_token={}",
        "HTTP 401: password={}",
        "API_KEY={} in the environment",
        '{"token": "{}"}',
        "{'client_secret': '{} {}'}",
        "sub=alice token = '{} {}'",
        "redis://:a b/{}@host:1/0",
    ],
)
def test_text_in_the_form_of_a_secret_is_hidden(line: str) -> None:
    """In texts that others have written."""
    hidden = without_secrets(line.replace("{}", MARKS[0]))
    no_part_in(hidden)
    assert "***" in hidden


def test_a_token_is_known_by_its_shape() -> None:
    """A JSON Web Token is hidden wherever it stands."""
    token = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl"
    assert without_secrets(f"refused {token}") == "refused ***"
    assert without_secrets(f"offered wsdemo.v1, bearer.{token}") == "offered wsdemo.v1, bearer.***"


@pytest.mark.parametrize(
    "line",
    [
        "[Router] Routed message from alice@example.com to bob via gateway gateway-02",
        "[Gateway] gateway-01 listens on ws://localhost:8080/ws",
        "secret file /run/wsdemo.secret: No such file or directory",
        "Redis at redis://localhost:6379/0 cannot be reached: Connection refused",
        "a password must be percent-encoded (@ is %40, / is %2F)",
        json.dumps({"gatewayId": "gateway-01", "connections": 2}),
    ],
)
def test_a_line_without_secrets_is_unchanged(line: str) -> None:
    """People search for it, character by character."""
    assert without_secrets(line) == line


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("redis://me:s3cret@host:1", "redis://me:***@host:1"),
        ("redis://host:1/2?db=1&client_name=chat", "redis://host:1/2?db=1&client_name=chat"),
        ("redis://host?db=1&password=x&client_name=y", "redis://host?db=1&password=***"),
        ("unix://:x@/run/redis.sock?db=1", "unix://:***@/run/redis.sock?db=1"),
        ("wss://u:x@host:8443/ws?token=x", "wss://u:***@host:8443/ws?***"),
        ("ws://[::1]:8080/ws", "ws://[::1]:8080/ws"),
        ("localhost:6379", "localhost:6379"),
        ("redis://:a/b@host", "redis://***"),
        ("ws://", "ws://"),
    ],
)
def test_a_redacted_address_still_names_host_port_and_path(address: str, shown: str) -> None:
    """Scheme, user, host, port and path, so that a mistake can be found."""
    assert redacted(address) == shown

"""Command line: what does a gateway say when it is started in a wrong way? (bad input 81)

One line on stderr that names the mistake, exit code 2, no traceback, and no secret in it: it may
end in a log that more people can read than the password was meant for.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import pytest

from tests.bad_input.conftest import inputs
from tests.gateway.cluster import gateway
from tests.programs import said_by
from wsdemo.gateway import __main__ as gateway_program
from wsdemo.redis.server import BundledServer
from wsdemo.settings import Keyspace

START_S = 30.0
"""Generous: a process that cannot start ends in well under a second on an idle machine."""
SECRET = "s3cr3t"


async def start_and_fail(*arguments: str, redis_url: str | None = None) -> tuple[int, list[str]]:
    """Run `python -m wsdemo.gateway`; return its exit code and what it said on stderr."""
    environment = {key: value for key, value in os.environ.items() if key != "WSDEMO_REDIS_URL"}
    if redis_url is not None:
        environment["WSDEMO_REDIS_URL"] = redis_url
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "wsdemo.gateway", *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
    )
    try:
        async with asyncio.timeout(START_S):
            shown, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert shown == b"", "a mistake is no output"
    return process.returncode or 0, said.decode().splitlines()


ID = ("-id", "g")
MISTAKES: dict[str, tuple[tuple[str, ...], str]] = {
    "no id": ((), "required: -id/--id"),
    "id without a name": (("-id",), "expected one argument"),
    "an empty id": (("-id", ""), "gateway id '' is not valid"),
    "an id with a space": (("-id", "a b"), "gateway id 'a b' is not valid"),
    "an id with a line feed": (("-id", "a\nb"), "is not valid"),
    "an id of 65": (("-id", "g" * 65), "is not valid"),
    "everybody's id": (("-id", "broadcast"), 'not "broadcast"'),
    "port 70000": ((*ID, "-port", "70000"), "port 70000"),
    "port -1": ((*ID, "-port", "-1"), "port -1"),
    "port http": ((*ID, "-port", "http"), "invalid int value"),
    "port 80.5": ((*ID, "-port", "80.5"), "invalid int value"),
    "a port of 5,000 digits": ((*ID, "-port", "9" * 5_000), "port"),
    "a port with a secret": ((*ID, "-port", f"redis://:{SECRET}@localhost"), "invalid int value"),
    "a host that is none": ((*ID, "-port", "0", "-host", "256.0.0.1"), "256.0.0.1"),
    "a host of somebody else": ((*ID, "-port", "0", "-host", "192.0.2.1"), "192.0.2.1"),
    "Redis that is not there": ((*ID, "-redis", f"redis://:{SECRET}@localhost:1"), "reached"),
    "Redis with a bad port": ((*ID, "-redis", "foo:bar"), "Redis address"),
    "Redis with port 0": ((*ID, "-redis", f":{SECRET}@localhost:0"), "Redis address"),
    "Redis with port 99999": ((*ID, "-redis", f"redis://u:{SECRET}@h:99999"), "Redis address"),
    "Redis by HTTP": ((*ID, "-redis", f"http://u:{SECRET}@localhost"), "redis://"),
    "Redis without a host": ((*ID, "-redis", f"redis://:{SECRET}@"), "Redis address"),
    "Redis at an impossible host": ((*ID, "-redis", f"redis://:{SECRET}@a b:1"), "Redis address"),
    "Redis at half an address": ((*ID, "-redis", f"redis://:{SECRET}@[::1"), "Redis address"),
    "Redis with a slash": ((*ID, "-redis", f"redis://:x/{SECRET}@localhost:1x"), "Redis address"),
    "timings that cannot work": ((*ID, "--heartbeat-s", "50"), "2 x heartbeat_s (50)"),
    "a timing of nothing": ((*ID, "--tick-s", "0"), "tick_s must be a positive number"),
    "a timing that is NaN": ((*ID, "--tick-s", "nan"), "tick_s must be a positive number"),
    "a timing without end": ((*ID, "--drain-s", "inf"), "drain_s must be a positive number"),
    "a limit below nothing": ((*ID, "--max-fragments", "-1"), "max_fragments must be"),
    "content larger than its frame": ((*ID, "--max-frame-bytes", "100"), "max_content_bytes"),
    "no address to listen on": ((*ID, "--listen", "8080"), "host:port, [v6]:port and unix:/path"),
    "a port to listen on that is none": ((*ID, "--listen", "h:70000"), "h:70000"),
    "IPv6 without brackets": ((*ID, "--listen", "::1:80"), "::1:80"),
    "a socket without a directory": ((*ID, "--listen", "unix:g.sock"), "names a file in full"),
    "a socket in no directory": ((*ID, "--listen", "unix:/no/such/s"), "unix:/no/such/s: No such"),
    "a mode that is none": ((*ID, "--unix-mode", "rw"), "--unix-mode"),
    "a mode that is too large": ((*ID, "--unix-mode", "1777"), "1777"),
    "a notice below nothing": ((*ID, "--drain-notice-s", "-1"), "drain_notice_s must be"),
    "a prefix like a database": ((*ID, "--key-prefix", "db2:"), "must not begin with db"),
    "an unknown flag": ((*ID, "--nonsense"), "unrecognized arguments: --nonsense"),
    "an unknown flag with a secret": (
        (*ID, "--reddis", f"redis://:{SECRET}@localhost"),
        "unrecognized arguments: --reddis",
    ),
    "an abbreviated flag": ((*ID, "--heart", "1"), "unrecognized arguments: --heart"),
    "an origin without a host": ((*ID, "--origin", "http://"), "origin 'http://' is not valid"),
    "a subprotocol of two words": ((*ID, "--subprotocol", "a b"), "subprotocol 'a b'"),
    "a subprotocol that is a token": ((*ID, "--subprotocol", "bearer.x"), "subprotocol"),
    "an unknown header of proxies": ((*ID, "--forwarded-header", "x-client"), "invalid choice"),
    "PROXY headers of nobody": ((*ID, "--proxy-protocol"), "--trusted-proxy"),
    "an origin that is none": ((*ID, "--origin", "localhost"), "localhost"),
    "an origin with a star in it": ((*ID, "--origin", "http://*.example"), "http://*.example"),
    "a proxy that is none": ((*ID, "--trusted-proxy", "nginx"), "nginx"),
    "a secret that is not there": ((*ID, "--auth-secret-file", "/no/such/file"), "/no/such/file"),
    "a secret that is a directory": ((*ID, "--auth-secret-file", "/"), "secret file /"),
    "a certificate that is not there": (
        (*ID, "--port", "0", "--certfile", "/no/such/file"),
        "/no/such/file",
    ),
    "a key without a certificate": ((*ID, "--keyfile", "/no/such/file"), "certfile"),
    "a rate of nothing": ((*ID, "--messages-per-s", "0"), "messages_per_s must be"),
    "no users at all": ((*ID, "--max-user-id-chars", "0"), "max_user_id_chars must be"),
    "an unknown format of the log": ((*ID, "--log-format", "xml"), "invalid choice"),
}


@inputs(MISTAKES)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(
    case: tuple[tuple[str, ...], str],
    shared_server: BundledServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The line names what is wrong (bad input 81)."""
    arguments, says = case
    # Mistakes that do not concern Redis are tried with a Redis that works.
    monkeypatch.setenv("WSDEMO_REDIS_URL", shared_server.url)
    line = said_by(gateway_program.main, *arguments)
    assert says in line and line.startswith("wsdemo.gateway: ")
    assert SECRET not in line
    assert "Traceback" not in line


async def test_a_process_with_a_wrong_command_line_says_the_same(
    shared_server: BundledServer,
) -> None:
    """The inputs above are tried within the process of the tests, where each costs little."""
    arguments, says = MISTAKES["an id with a space"]
    code, lines = await start_and_fail(*arguments, redis_url=shared_server.url)
    assert code == 2 and len(lines) == 1, lines
    assert lines[0].startswith("wsdemo.gateway: ") and says in lines[0]


@pytest.mark.parametrize("taken", ["port", "id", "password"])
async def test_a_used_port_a_used_id_or_a_wrong_password_is_one_line(
    taken: str, shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """The gateway that runs already does not notice (bad input 81)."""
    url = shared_server.url
    flags: dict[str, Any] = {
        "--id": "gateway-02", "--port": "0", "--key-prefix": keyspace.prefix
    }  # fmt: skip
    async with gateway(shared_server, keyspace) as first:
        if taken == "port":
            flags["--port"] = str(first.port)
            says = f"cannot listen on 127.0.0.1:{first.port}"
        elif taken == "id":
            flags["--id"] = "gateway-01"
            says = "another gateway is running as 'gateway-01'"
        else:
            url = f"redis://:{SECRET}@127.0.0.1:{shared_server.port}"
            says = "cannot be used: WRONGPASS"
        arguments = [word for flag in flags.items() for word in flag]
        code, lines = await start_and_fail(*arguments, redis_url=url)
        assert code == 2, lines
        assert len(lines) == 1 and says in lines[0], lines
        assert SECRET not in lines[0]
        assert first.ready and not first.replaced.is_set()

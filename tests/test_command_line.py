"""Command line: how does each program report a mistake?

One line that names the mistake, and exit code 2: no traceback, no usage, nothing at length.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks import __main__ as benchmarks
from benchmarks import attack, features
from tools import build_notebooks as build
from tools import evidence, grade, teaching
from wsdemo import __version__
from wsdemo.client import __main__ as client
from wsdemo.gateway import __main__ as gateway
from wsdemo.lab import demo
from wsdemo.proof.chaos import __main__ as chaos
from wsdemo.proof.checker import __main__ as checker
from wsdemo.proof.simulate import __main__ as simulate
from wsdemo.redis import __main__ as redis
from wsdemo.redis.server import BundledServer

PROGRAMS: dict[str, Callable[[list[str]], int | None]] = {
    "wsdemo.gateway": gateway.main,
    "wsdemo.client": client.main,
    "wsdemo.redis": redis.main,
    "tools.build_notebooks": build.main,
    "tools.grade": grade.main,
    "tools.teaching": teaching.main,
    "wsdemo.proof.chaos": chaos.main,
    "wsdemo.proof.checker": checker.main,
    "wsdemo.lab.demo": demo.main,
    "tools.evidence": evidence.main,
    "wsdemo.proof.simulate": simulate.main,
    "benchmarks": benchmarks.main,
    "benchmarks.attack": attack.main,
    "benchmarks.features": features.main,
}
NEED_A_NAME = ("wsdemo.gateway", "wsdemo.client")
GATEWAY = ("-id", "g", "-port", "0", "-redis", "localhost:1")
HUGE = "9" * 5_000
NOT_TEXT = "\udcff"
"""What a byte that is no UTF-8 becomes in an argument or in the environment."""

MISTAKES: list[tuple[str, tuple[str, ...], str]] = [
    *((p, ("--nonsense",), "--nonsense") for p in PROGRAMS if p not in NEED_A_NAME),
    *((p, (NOT_TEXT,), "") for p in PROGRAMS),
    ("wsdemo.gateway", (*GATEWAY, "--nonsense"), "--nonsense"),
    ("wsdemo.client", ("-user", "a", "--nonsense=1"), "--nonsense"),
    ("wsdemo.gateway", (*GATEWAY, "--drain-s", "1e400"), "drain_s must be a positive number"),
    ("wsdemo.gateway", (*GATEWAY, "--drain-s", "1e300"), "drain_s must be from"),
    ("wsdemo.gateway", (*GATEWAY, "--drain-s", "nan"), "drain_s must be a positive number"),
    ("wsdemo.gateway", (*GATEWAY, "--drain-s", "1e-300"), "drain_s must be from"),
    ("wsdemo.gateway", (*GATEWAY, "--drain-s", HUGE), "drain_s must be a positive number"),
    ("wsdemo.gateway", (*GATEWAY, "--fence-ttl-s", "1e12"), "fence_ttl_s must be from"),
    ("wsdemo.gateway", (*GATEWAY, "--max-connections", HUGE), "--max-connections"),
    ("wsdemo.gateway", (*GATEWAY, "--max-connections", "9" * 30), "max_connections must be from"),
    ("wsdemo.gateway", (*GATEWAY, "--in-flight", "1e3"), "--in-flight"),
    ("wsdemo.gateway", (*GATEWAY, "--write-high-water-bytes", "3000000000"), "write_high_water"),
    ("wsdemo.gateway", (*GATEWAY, "--tcp-user-timeout-s", "1e8"), "tcp_user_timeout_s must be"),
    ("wsdemo.gateway", (*GATEWAY, "--messages-per-s", "5e-324"), "messages_per_s must be from"),
    ("wsdemo.gateway", (*GATEWAY, "-port", HUGE), "-port"),
    ("wsdemo.gateway", (*GATEWAY, "-port", "65536"), "port 65536"),
    ("wsdemo.gateway", (*GATEWAY, "-host", "a..b"), "host 'a..b'"),
    ("wsdemo.gateway", (*GATEWAY, "-host", "x" * 64), "host"),
    ("wsdemo.gateway", (*GATEWAY, "-host", NOT_TEXT), "host"),
    ("wsdemo.gateway", (*GATEWAY, "-id", NOT_TEXT), "gateway id"),
    ("wsdemo.gateway", (*GATEWAY, "--key-prefix", NOT_TEXT), "key prefix"),
    ("wsdemo.gateway", (*GATEWAY, "--key-prefix", "a\nb"), "key prefix"),
    ("wsdemo.gateway", (*GATEWAY, "--auth-secret-file", "/"), "secret file /"),
    ("wsdemo.gateway", (*GATEWAY, "--auth-secret-file", "/dev/null"), "must hold 32"),
    ("wsdemo.gateway", (*GATEWAY, "--auth-secret-file", "/dev/zero"), "must hold 32"),
    ("wsdemo.gateway", (*GATEWAY, "--auth-secret-file", f"/{NOT_TEXT}"), "secret file"),
    ("wsdemo.gateway", (*GATEWAY, "--auth-secret-file", f"/{'x' * 300}"), "secret file"),
    ("wsdemo.gateway", (*GATEWAY, "--certfile", "/"), "cannot serve TLS with /"),
    ("wsdemo.gateway", (*GATEWAY, "--certfile", "/dev/null"), "cannot serve TLS with /dev/null"),
    ("wsdemo.gateway", (*GATEWAY, "--certfile", f"/{NOT_TEXT}"), "cannot serve TLS"),
    ("wsdemo.gateway", (*GATEWAY, "--user-id-pattern", "("), "user id pattern '('"),
    ("wsdemo.gateway", (*GATEWAY, "--user-id-pattern", ""), "pattern"),
    ("wsdemo.gateway", (*GATEWAY, "--user-id-pattern", "a{999999999999}"), "pattern"),
    ("wsdemo.gateway", (*GATEWAY, "--user-id-pattern", "x" * 2000), "pattern"),
    ("wsdemo.gateway", (*GATEWAY, "--user-id-pattern", "(a+)+b"), "takes too long"),
    ("wsdemo.gateway", (*GATEWAY, "--max-user-id-chars", "129"), "max_user_id_chars"),
    ("wsdemo.gateway", (*GATEWAY, "-redis", NOT_TEXT), "Redis address"),
    ("wsdemo.gateway", (*GATEWAY, "-redis", "redis://a..b"), "Redis address"),
    ("wsdemo.gateway", (*GATEWAY, "-redis", "localhost:1?nonsense=1"), "'nonsense'"),
    ("wsdemo.gateway", (*GATEWAY, "-redis", "rediss://localhost:1?ssl_ca_certs=/no"), "reached"),
    ("wsdemo.gateway", (*GATEWAY, "-redis", "unix:///no/such/socket"), "cannot be reached"),
    ("wsdemo.gateway", ("token", "a b", "--auth-secret-file", "/dev/null"), "must hold 32"),
    ("wsdemo.gateway", ("token", "a", "--auth-secret-file", "x", "--ttl-s", "nan"), "--ttl-s"),
    ("wsdemo.gateway", ("token", "a", "--auth-secret-file", "x", "--ttl-s", "1e400"), "--ttl-s"),
    ("wsdemo.gateway", ("secret", "/no/such/folder/x"), "secret file /no/such/folder/x"),
    ("wsdemo.gateway", ("secret",), "required: file"),
    ("wsdemo.client", ("-user", NOT_TEXT), "user id"),
    ("wsdemo.client", ("-user", "x" * 129), "user id"),
    ("wsdemo.client", ("-user", 'a"b'), "user id"),
    ("wsdemo.client", ("-user", "a", "-gateway", "ws://[::1/ws"), "not a WebSocket URL"),
    ("wsdemo.client", ("-user", "a", "-gateway", "ws://h:99999/ws"), "not a WebSocket URL"),
    ("wsdemo.client", ("-user", "a", "-gateway", "ws://a b/ws"), "not a WebSocket URL"),
    ("wsdemo.client", ("-user", "a", "-gateway", f"ws://{NOT_TEXT}/ws"), "not a WebSocket URL"),
    ("wsdemo.client", ("-user", "a", "-gateway", "ws://u@h/ws"), "not a WebSocket URL"),
    ("wsdemo.client", ("-user", "a", "-gateway", "ws://u:%ff@h/ws"), "not a WebSocket URL"),
    ("wsdemo.client", ("-user", "a", "-gateway", "ws://h/ws#x"), "not a WebSocket URL"),
    ("wsdemo.client", ("-user", "a", "--token-file", "/"), "token file /"),
    ("wsdemo.client", ("-user", "a", "--token-file", "/no/such"), "token file /no/such"),
    ("wsdemo.redis", ("-port", "70000"), "port 70000"),
    ("wsdemo.redis", ("-port", "-1"), "port -1"),
    ("wsdemo.redis", ("-port", HUGE), "-port"),
    ("wsdemo.redis", ("-redis", "localhost:1", "--call"), "--call needs a command"),
    ("wsdemo.redis", ("-redis", "localhost:1", "--call", "PING"), "localhost:1"),
    ("wsdemo.redis", ("-redis", "redis://a..b", "--call", "PING"), "Redis address"),
    ("wsdemo.redis", ("-redis", "localhost?timeout=x", "--call", "PING"), "'timeout'"),
    ("wsdemo.redis", ("-redis", "unix:///no/such", "--call", "PING"), "/no/such"),
    ("wsdemo.redis", ("-redis", "rediss://h?ssl_min_version=1", "--call", "X"), "ssl_min_version"),
    ("tools.build_notebooks", ("--reset", "99"), "there is no lesson '99'"),
    ("tools.build_notebooks", ("--reset", ""), "make reset LESSON=04"),
    ("tools.build_notebooks", ("99",), "no lesson begins with 99"),
    ("tools.grade", (), "is no folder"),
    ("tools.grade", ("/no/such",), "'/no/such' is no folder"),
    ("tools.grade", (".", "--cell-seconds", "nan"), "--cell-seconds"),
    ("tools.teaching", (), "slides or handout"),
    ("tools.teaching", ("films",), "films"),
    ("tools.teaching", ("slides", "--lesson", "99"), "no lesson '99'"),
    ("tools.teaching", ("handout", "--to", "/dev/null/x"), "/dev/null/x"),
    ("wsdemo.proof.chaos", ("--seconds", "nan"), "--seconds"),
    ("wsdemo.proof.chaos", ("--seconds", "-1"), "--seconds"),
    ("wsdemo.proof.chaos", ("--seed", "x"), "--seed"),
    ("wsdemo.proof.chaos", ("--seed", HUGE), "--seed"),
    ("wsdemo.proof.chaos", ("--out", "/dev/null/x"), "/dev/null/x"),
    ("wsdemo.proof.chaos", ("--json", "/no/such/x"), "/no/such/x"),
    ("wsdemo.proof.checker", ("--json", "/no/such/x"), "/no/such/x"),
    ("wsdemo.proof.checker", ("--json", "/"), "/ is a directory"),
    ("wsdemo.lab.demo", ("now",), "now"),
    ("tools.evidence", ("--only", "x"), "--only"),
    ("wsdemo.proof.simulate", ("--seeds", "0"), "--seeds"),
    ("wsdemo.proof.simulate", ("--minutes", "inf"), "--minutes"),
    ("wsdemo.proof.simulate", ("--hours", "1e400"), "--hours"),
    ("wsdemo.proof.simulate", ("--processes", "0"), "--processes"),
    ("wsdemo.proof.simulate", ("--json", "/no/such/x"), "/no/such/x"),
    ("benchmarks", ("--rounds", "0"), "--rounds"),
    ("benchmarks", ("--seconds", "nan"), "--seconds"),
    ("benchmarks", ("--seconds", "61"), "between 0.1 and 60"),
    ("benchmarks", ("--idle", "1"), "--idle"),
    ("benchmarks", ("--out", "/dev/null/x"), "/dev/null/x"),
    ("benchmarks.attack", ("--rounds", "-1"), "--rounds"),
    ("benchmarks.features", ("--rounds", "0"), "--rounds"),
    ("benchmarks.features", ("--seconds", "61"), "between 0.1 and 60"),
    ("benchmarks.features", ("--members", "0"), "--members"),
    ("benchmarks.features", ("--idle", "1"), "at least 200"),
    ("benchmarks.features", ("--out", "/dev/null/x"), "/dev/null/x"),
    ("benchmarks.attack", ("--seconds", "1e400"), "--seconds"),
]  # fmt: skip


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    """Programs set up logging and signals for a process of their own."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    signals = {number: signal.getsignal(number) for number in numbers}
    yield
    root.handlers[:], root.level = before
    for number, action in signals.items():
        signal.signal(number, action)


def one_line_of(program: str, arguments: tuple[str, ...]) -> str:
    """Run a program in this process; return the one line that it wrote."""
    shown, said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(said):
        try:
            code = PROGRAMS[program](list(arguments))
        except SystemExit as ended:
            code = ended.code  # type: ignore[assignment]
    assert code == 2, said.getvalue()
    assert shown.getvalue() == "", "a mistake is no output"
    (line,) = said.getvalue().splitlines()
    return line


@pytest.mark.parametrize(
    ("program", "arguments", "names"),
    MISTAKES,
    ids=[f"{p.removeprefix('wsdemo.')} {ascii(' '.join(a))[:60]}" for p, a, _ in MISTAKES],
)
def test_a_mistake_is_one_line_that_names_it(
    program: str, arguments: tuple[str, ...], names: str
) -> None:
    """Not at length, however long what was given is."""
    line = one_line_of(program, arguments)
    assert line.startswith(f"{program}: ")
    assert names in line
    assert len(line) < 400, line


@pytest.mark.parametrize(
    ("program", "arguments", "environment"),
    [
        ("wsdemo.gateway", GATEWAY[:4], "rubbish:x"),
        ("wsdemo.gateway", GATEWAY[:4], NOT_TEXT),
        ("wsdemo.redis", ("--call", "PING"), "http://h"),
        ("wsdemo.redis", ("--call", "PING"), NOT_TEXT),
        ("wsdemo.lab.demo", (), "redis://h?nonsense=1"),
    ],
)
def test_a_mistake_in_the_environment_is_one_line_too(
    program: str, arguments: tuple[str, ...], environment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """WSDEMO_REDIS_URL may hold anything."""
    monkeypatch.setenv("WSDEMO_REDIS_URL", environment)
    assert "address" in one_line_of(program, arguments)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("",), "unknown command"),
        (("NONSENSE",), "unknown command"),
        (("HGETALL",), "wrong number"),
        ((NOT_TEXT,), "unknown command"),
        (("GET", NOT_TEXT, NOT_TEXT), "wrong number"),
        (("AUTH", "s3cret"), "invalid username-password pair"),
        (("AUHT", "s3cret"), "unknown command 'AUHT'"),
        (("SELECT", "99999"), "out of range"),
    ],
)
def test_a_command_refused_by_redis_is_one_line(
    words: tuple[str, ...], says: str, shared_server: BundledServer
) -> None:
    """`--call` passes on whatever it is given, as bytes, and repeats no secret."""
    line = one_line_of("wsdemo.redis", ("-redis", shared_server.url, "--call", *words))
    assert says in line
    assert "s3cret" not in line


@pytest.mark.slow
def test_a_missing_database_is_one_line(shared_server: BundledServer) -> None:
    """Redis refuses it, and the gateway passes the reason on."""
    url = shared_server.url.removesuffix("/0") + "/99999"
    arguments = (*GATEWAY[:4], "-redis", url)
    assert "out of range" in one_line_of("wsdemo.gateway", arguments)


def test_an_unreadable_file_is_one_line(tmp_path: Path) -> None:
    """A secret of another user, a token that is not text."""
    (tmp_path / "token").write_bytes(b"\xff\xfe")
    line = one_line_of("wsdemo.client", ("-user", "a", "--token-file", str(tmp_path / "token")))
    assert "token file" in line
    if os.geteuid():
        (tmp_path / "secret").touch(mode=0)
        arguments = (*GATEWAY, "--auth-secret-file", str(tmp_path / "secret"))
        assert "Permission denied" in one_line_of("wsdemo.gateway", arguments)


def test_output_files_are_checked_before_the_work(tmp_path: Path) -> None:
    """A report that cannot be written is noticed at the start, not after an hour."""
    made = tmp_path / "report.json"
    assert chaos.parser().read(["--json", str(made)]).json == made
    assert chaos.parser().read(["--out", str(tmp_path / "a" / "b")]).out == tmp_path / "a" / "b"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("program", PROGRAMS)
def test_version_is_that_of_the_package(program: str, capfd: pytest.CaptureFixture[str]) -> None:
    """`--version` asks for nothing else, and ends with code 0."""
    with pytest.raises(SystemExit) as ended:
        PROGRAMS[program](["--version"])
    assert not ended.value.code
    assert capfd.readouterr().out == f"{program} {__version__}\n"


@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        ("wsdemo.gateway", (*GATEWAY, "--drain-s", "1e400")),
        ("wsdemo.gateway", (*GATEWAY, "-host", b"\xff")),
        ("wsdemo.client", ("-user", b"\xff")),
        ("wsdemo.redis", ("-port", "70000")),
        ("wsdemo.redis", ("-redis", b"\xff", "--call", "PING")),
    ],
)
def test_a_real_process_prints_the_same_line(
    program: str, arguments: tuple[str | bytes, ...]
) -> None:
    """Also for bytes that are not text, on a terminal with ASCII only."""
    ended = subprocess.run(
        [sys.executable, "-m", program, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        timeout=50,
    )
    assert ended.returncode == 2, ended.stderr
    assert ended.stdout == b""
    (line,) = ended.stderr.decode().splitlines()
    assert line.startswith(f"{program}: ")

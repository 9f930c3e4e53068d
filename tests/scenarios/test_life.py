"""How does a gateway's life begin and end? Real processes, default flags (uvloop), real signals."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from tests.processes import GatewayDied, GatewayProcess, User, gateways
from tests.waiting import until
from wsdemo.redis.server import BundledServer

pytestmark = [pytest.mark.xdist_group("clock"), pytest.mark.timeout(90)]

LONG = ("--drain-notice-s", "300")
"""A notice that only ends when it is told to."""
STUBBORN = ("--close-timeout-s", "300", "--drain-s", "300")
"""With a client that does not hang up, a drain that only ends when it is told to."""
LINUX = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux' /proc")


@pytest.fixture
async def start(server: BundledServer) -> AsyncIterator[Callable[..., Any]]:
    """Start a gateway with flags; ends all that were started."""
    async with contextlib.AsyncExitStack() as stack:

        async def begin(*flags: str, name: str = "gateway-01") -> GatewayProcess:
            process = GatewayProcess(name, server.url, *flags)
            stack.push_async_callback(process.stop)
            return await process.start()

        yield begin


async def readiness(process: GatewayProcess) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((await process.get("/ready"))[1])
    return document


async def drains(process: GatewayProcess) -> None:
    """Wait until it says that it is on its way out, and nothing else is wrong."""

    async def says_so() -> bool:
        return bool((await readiness(process))["reasons"] == ["draining"])

    await until(f"{process.gateway_id} says that it drains", says_so)


async def logged(process: GatewayProcess, text: str) -> None:
    await until(f"{text!r} in the log", lambda: any(text in line for line in process.log))


async def is_served(user: User) -> None:
    await user.say(type="ping")
    assert await user.hear() == {"type": "pong"}


async def again(process: GatewayProcess, number: signal.Signals = signal.SIGTERM) -> None:
    """Ask again, as late as a person would at the earliest: what comes at once is one request."""
    await asyncio.sleep(0.1)
    process.signal(number)


# --- the notice ------------------------------------------------------------------------------


async def test_on_notice_users_stay_new_clients_get_1012_and_ready_is_503(
    start: Any, database: Any
) -> None:
    """SIGTERM with a notice: /ready is 503 "draining" while the port is open; a new client gets
    a WebSocket, a `bye` and 1012; connected users are served. A second SIGTERM ends the notice:
    a drain, exit code 0."""
    gateway = await start(*LONG)
    alice = await User.register("alice", gateway.url)
    gateway.signal(signal.SIGTERM)
    await drains(gateway)
    assert (await gateway.get("/ready"))[0] == 503
    assert await gateway.get("/health") == (200, "OK")
    async with connect(gateway.url, proxy=None, compression=None) as newcomer:
        bye = json.loads(await newcomer.recv())
        await newcomer.wait_closed()
    assert (bye["type"], bye["code"], newcomer.close_code) == ("bye", 1012, 1012)
    assert f"retryAfterMs={bye['retryAfterMs']}" in (newcomer.close_reason or "")
    await is_served(alice)
    assert await database.exists("presence:alice")
    await again(gateway)
    assert (await alice.closed())[0] == 1012
    assert await gateway.wait(20) == 0
    assert not await database.exists("presence:alice")
    assert await database.pubsub_channels("*") == []


async def test_a_notice_ends_by_itself(start: Any) -> None:
    """Then comes the drain as without one, and exit code 0."""
    gateway = await start("--drain-notice-s", "0.3")
    alice = await User.register("alice", gateway.url)
    gateway.signal(signal.SIGTERM)
    assert (await alice.closed())[0] == 1012
    assert await gateway.wait(20) == 0
    assert any("users stay for 0.3 s" in line for line in gateway.log)


@pytest.mark.slow
async def test_a_takeover_of_a_gateway_on_notice_ends_the_notice(start: Any) -> None:
    """Two gateways of one name do not serve side by side."""
    old = await start(*LONG)
    old.signal(signal.SIGTERM)
    await drains(old)
    await start("--takeover")
    assert await old.wait(20) == 0


# --- signals ---------------------------------------------------------------------------------


async def stuck(gateway: GatewayProcess) -> User:
    """A client that reads nothing any more, and so never closes: a drain waits for it."""
    user = await User.register("stuck", gateway.url)
    user.connection.transport.pause_reading()
    return user


async def test_a_second_signal_without_a_notice_ends_the_gateway_at_once(start: Any) -> None:
    """The second SIGTERM or Ctrl-C during a drain: exit code 1, without waiting."""
    gateway = await start(*STUBBORN)
    user = await stuck(gateway)
    gateway.signal(signal.SIGTERM)
    await logged(gateway, "User stuck left")
    await again(gateway, signal.SIGINT)
    assert await gateway.wait(20) == 1
    user.connection.transport.abort()


async def test_a_third_signal_with_a_notice_ends_the_gateway_at_once(start: Any) -> None:
    """The second signal skips the notice, the third the drain."""
    gateway = await start(*LONG, *STUBBORN)
    user = await stuck(gateway)
    gateway.signal(signal.SIGINT)
    await drains(gateway)
    await again(gateway, signal.SIGINT)
    await logged(gateway, "User stuck left")
    await again(gateway, signal.SIGINT)
    assert await gateway.wait(20) == 1
    user.connection.transport.abort()


async def test_two_signals_at_the_same_moment_count_as_one(start: Any) -> None:
    """timeout(1) signals a process, and then its group: nobody asked twice."""
    gateway = await start()
    alice = await User.register("alice", gateway.url)
    gateway.signal(signal.SIGSTOP)
    gateway.signal(signal.SIGTERM)
    gateway.signal(signal.SIGINT)
    gateway.signal(signal.SIGCONT)
    assert (await alice.closed())[0] == 1012
    assert await gateway.wait(20) == 0


@pytest.mark.slow
async def test_sighup_drains_and_never_shortens_a_drain(start: Any, database: Any) -> None:
    """SIGHUP, as from a closed terminal: 1012, presence released, exit code 0. After a SIGTERM
    it changes nothing."""
    gateway = await start()
    alice = await User.register("alice", gateway.url)
    gateway.signal(signal.SIGHUP)
    assert (await alice.closed())[0] == 1012
    assert await gateway.wait(20) == 0
    assert not await database.exists("presence:alice")

    gateway = await start(*LONG)
    alice = await User.register("alice", gateway.url)
    gateway.signal(signal.SIGTERM)
    await drains(gateway)
    await again(gateway, signal.SIGHUP)
    assert (await readiness(gateway))["reasons"] == ["draining"]
    await again(gateway, signal.SIGHUP)
    await is_served(alice)
    await again(gateway)
    assert (await alice.closed())[0] == 1012
    assert await gateway.wait(20) == 0


async def test_an_ignored_sighup_stays_ignored(server: BundledServer) -> None:
    """As under `nohup`."""
    with ignored(signal.SIGHUP):
        gateway = await GatewayProcess("gateway-01", server.url).start()
    try:
        gateway.signal(signal.SIGHUP)
        async with await User.register("alice", gateway.url) as alice:
            await is_served(alice)
        gateway.signal(signal.SIGTERM)
        assert await gateway.wait(20) == 0
    finally:
        await gateway.stop()


@contextlib.contextmanager
def ignored(number: signal.Signals) -> Any:
    """Ignore a signal; what is started meanwhile inherits that."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, before)


# --- told to stop before it runs ---------------------------------------------------------------


def command(url: str, *flags: str) -> tuple[list[str], dict[str, str]]:
    argv = [sys.executable, "-m", "wsdemo.gateway", "--id", "gateway-01", "--port", "0", *flags]
    return argv, {**os.environ, "WSDEMO_REDIS_URL": url}


def can_unshare() -> bool:
    if shutil.which("unshare") is None:
        return False
    tried = ["unshare", "--pid", "--fork", "--kill-child", "true"]
    return subprocess.run(tried, capture_output=True, check=False).returncode == 0


@LINUX
@pytest.mark.parametrize("as_pid_1", [False, True], ids=["as any process", "as PID 1"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_signal_during_the_imports_ends_the_process(
    server: BundledServer, database: Any, as_pid_1: bool, number: signal.Signals
) -> None:
    """Exit code 0, without output, nothing in Redis; also as process 1 of a container."""
    if as_pid_1 and not can_unshare():
        pytest.skip("no PID namespaces here")
    prefix = ["unshare", "--pid", "--fork", "--kill-child"] if as_pid_1 else []
    argv, environment = command(server.url)
    with subprocess.Popen([*prefix, *argv], env=environment, stderr=subprocess.PIPE) as process:
        try:
            pid = await until("it runs", lambda: child_of(process.pid) if prefix else process.pid)
            # Its first action, long before its last import. (Python itself catches SIGINT.)
            await until("it hears signals", lambda: catches(pid, signal.SIGTERM))
            os.kill(pid, number)
            code = await asyncio.to_thread(process.wait, 20)
            assert process.stderr is not None
            assert (code, process.stderr.read()) == (0, b"")
        finally:
            process.kill()
    assert await database.pubsub_channels("*") == []
    assert await database.dbsize() == 0


def child_of(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else 0


def catches(pid: int, number: int) -> bool:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (caught,) = (line.split()[1] for line in lines if line.startswith("SigCgt"))
    return bool(int(caught, 16) & (1 << (number - 1)))


async def test_a_signal_while_redis_is_dialled_ends_the_process() -> None:
    """A Redis that accepts the connection and does not answer delays nothing: exit code 0."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        mute.setblocking(False)
        url = f"redis://127.0.0.1:{mute.getsockname()[1]}"
        patient = ("--redis-timeout-s", "300", "--redis-connect-timeout-s", "300")
        argv, environment = command(url, *patient)
        process = await asyncio.create_subprocess_exec(
            *argv, env=environment, stderr=asyncio.subprocess.PIPE
        )
        try:
            async with asyncio.timeout(20):
                connection, _ = await asyncio.get_running_loop().sock_accept(mute)
            process.terminate()
            async with asyncio.timeout(20):
                _, said = await process.communicate()
            connection.close()
            assert process.returncode == 0, said
            assert b"Traceback" not in said and b"was told to stop before it ran" in said
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def can_have_its_own_resolver() -> bool:
    if shutil.which("unshare") is None or os.getuid() != 0:
        return False
    tried = ["unshare", "--mount", "mount", "--bind", "/etc/hosts", "/etc/resolv.conf"]
    return subprocess.run(tried, capture_output=True, check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not can_have_its_own_resolver(), reason="needs a mount namespace")
async def test_a_hanging_name_look_up_does_not_delay_the_exit(tmp_path: Path) -> None:
    """The library's look-up cannot be cancelled; a gateway that is told to stop exits anyway."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mute:
        try:
            mute.bind(("127.0.0.77", 53))
        except OSError as problem:
            pytest.skip(f"no name server of our own: {problem}")
        mute.setblocking(False)
        resolver = tmp_path / "resolv.conf"
        resolver.write_text("nameserver 127.0.0.77\noptions timeout:30 attempts:5\n")
        patient = ("--redis-timeout-s", "300", "--redis-connect-timeout-s", "300")
        argv, environment = command("redis://redis.wsdemo.test:6379", *patient)
        script = f'mount --bind \'{resolver}\' /etc/resolv.conf && exec "$0" "$@"'
        process = await asyncio.create_subprocess_exec(
            *("unshare", "--mount", "sh", "-c", script, *argv),
            env=environment,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(20):
                await asyncio.get_running_loop().sock_recv(mute, 512)
            process.terminate()
            async with asyncio.timeout(20):
                _, said = await process.communicate()
            assert process.returncode == 0, said
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


# --- open files --------------------------------------------------------------------------------


def with_files(soft: int, hard: int) -> Sequence[str]:
    """Return what runs a command with these limits of open files."""
    return ["sh", "-c", f'ulimit -Sn {soft} && ulimit -Hn {hard} && exec "$0" "$@"']


def processor_s(pid: int) -> float:
    """Return the processor time that a process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.slow
@LINUX
async def test_a_gateway_without_free_file_descriptors_warns_and_serves_its_users(
    server: BundledServer,
) -> None:
    """Connected users are served, the log is not flooded, no processor time is wasted; and when
    some users have left, new ones are accepted again."""
    gateway = GatewayProcess("gateway-01", server.url, prefix=with_files(64, 64))
    await gateway.start()
    try:
        (warning,) = (line for line in gateway.log if "open files" in line)
        assert "only 64 files" in warning and "10000 of --max-connections" in warning
        users = await fill(gateway)
        assert 20 < len(users) < 64
        before, lines = processor_s(gateway.pid), len(gateway.log)
        knocking = [await asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(20)]
        for _ in range(20):
            await is_served(users[0])
            await asyncio.sleep(0.05)  # Time for a busy loop to show itself.
        assert processor_s(gateway.pid) - before < 0.7
        assert len(gateway.log) - lines < 100, "the log is flooded"
        for _, writer in knocking:
            writer.close()
        for user in users[1:]:
            await user.leave()

        async def comes_in() -> User | None:
            with contextlib.suppress(Exception):
                return await User.register("late", gateway.url)
            return None

        late = await until("a newcomer is let in", comes_in, every_s=0.1)
        await late.leave()
        await users[0].leave()
    finally:
        await gateway.stop()


async def fill(gateway: GatewayProcess) -> list[User]:
    """Connect users until one is refused."""
    users: list[User] = []
    for n in range(100):
        try:
            async with asyncio.timeout(3):
                users.append(await User.register(f"user-{n}", gateway.url))
        except (OSError, TimeoutError, WebSocketException):
            return users
    raise AssertionError("everybody came in")


@LINUX
async def test_a_low_limit_of_open_files_is_raised_where_allowed(
    server: BundledServer,
) -> None:
    """To what --max-connections needs, without a log line."""
    flags = ("--max-connections", "1000")
    gateway = GatewayProcess("gateway-01", server.url, *flags, prefix=with_files(256, 4096))
    await gateway.start()
    try:
        limits = Path(f"/proc/{gateway.pid}/limits").read_text().splitlines()
        (soft,) = (int(line.split()[3]) for line in limits if line.startswith("Max open files"))
        assert 2 * 1000 < soft <= 4096
        assert not any("open files" in line for line in gateway.log)
    finally:
        await gateway.stop()


# --- two environments on one Redis ---------------------------------------------------------------


def in_database(url: str, number: int) -> str:
    return url.rpartition("/")[0] + f"/{number}"


@pytest.mark.slow
async def test_gateways_of_two_databases_are_separate(server: BundledServer, database: Any) -> None:
    """The same id in both, no user of the other is found, a broadcast stays in its database, and
    --takeover replaces the gateway of its own database only."""
    production = GatewayProcess("gateway-01", in_database(server.url, 1))
    staging = GatewayProcess("gateway-01", in_database(server.url, 2))
    replacing = GatewayProcess("gateway-01", in_database(server.url, 2), "--takeover")
    try:
        await production.start()
        await staging.start()
        alice = await User.register("alice", production.url)
        bob = await User.register("bob", staging.url)
        assert await alice.send("bob", "across?") == "offline"
        words = json.dumps({"type": "broadcast", "from": "admin", "content": "staging only"})
        assert await database.publish("gateway:broadcast", words) == 0
        assert await database.publish("db2:gateway:broadcast", words) == 1
        assert (await bob.hear())["content"] == "staging only"
        await alice.say(type="ping")
        assert await alice.hear() == {"type": "pong"}
        await replacing.start()
        assert (await bob.closed())[0] == 1012
        assert await staging.wait(20) == 0
        assert production.running and (await production.get("/ready"))[0] == 200
        await alice.leave()
    finally:
        for gateway in (production, staging, replacing):
            await gateway.stop()


@pytest.mark.slow
async def test_within_another_database_routes_kicks_and_the_id_check_work(
    server: BundledServer, database: Any
) -> None:
    """Routing (the script), kicks and the check for a taken id use the channels of database 5."""
    url = in_database(server.url, 5)
    async with gateways(2, url) as (first, second):
        alice = await User.register("alice", first.url)
        bob = await User.register("bob", second.url)
        assert await alice.send("bob", "hello") == "routed"
        assert (await bob.hear())["content"] == "hello"
        again = await User.register("bob", first.url)
        assert (await bob.closed())[0] == 4509
        assert sorted(await database.pubsub_channels("*")) == [
            "db5:gateway:broadcast",
            "db5:gateway:gateway-01",
            "db5:gateway:gateway-02",
        ]
        twin = GatewayProcess("gateway-01", url)
        with pytest.raises(GatewayDied, match="another gateway is running as 'gateway-01'"):
            await twin.start()
        await twin.stop()
        await again.leave()
        await alice.leave()

"""Several workers behind one port: do they serve, share, drain and come back as one gateway?

Real processes, real signals. Which worker serves a user is the kernel's choice; the entry of the
user in Redis tells it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from websockets.asyncio.client import ClientConnection, connect, unix_connect
from websockets.exceptions import InvalidStatus

from tests.processes import GatewayDied, GatewayProcess, User
from tests.waiting import until
from wsdemo.redis.server import BundledServer
from wsdemo.rig.waiting import wait_until
from wsdemo.rig.wire import Wire

pytestmark = [
    pytest.mark.timeout(90),
    pytest.mark.skipif(sys.platform != "linux", reason="workers need Linux"),
]

TWO = ("--workers", "2")
OWN_MIB = 20
"""The most memory that one worker adds."""


@pytest.fixture
async def start(server: BundledServer) -> AsyncIterator[Callable[..., Any]]:
    """Start two workers and wait until both listen; ends all that were started."""
    async with contextlib.AsyncExitStack() as stack:

        async def begin(*flags: str, **options: Any) -> GatewayProcess:
            process = GatewayProcess("gateway-01", server.url, *TWO, *flags, **options)
            stack.push_async_callback(process.stop)
            await process.start()
            await logged(process, "all 2 workers listen")
            await is_ready(process)
            return process

        yield begin


async def logged(process: GatewayProcess, text: str) -> None:
    await until(f"{text!r} in the log", lambda: any(text in line for line in process.log))


async def is_ready(process: GatewayProcess) -> None:
    async def ready() -> bool:
        return (await process.get("/ready"))[0] == 200

    await wait_until("the whole is ready", ready, ignoring=(OSError, ValueError))


async def stats(process: GatewayProcess) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((await process.get("/stats"))[1])
    return document


async def pid_of(process: GatewayProcess, gateway_id: str) -> int:
    async def found() -> int:
        workers = (await stats(process))["workers"]
        return next((int(w["pid"]) for w in workers if w["gatewayId"] == gateway_id), 0)

    pid: int = await until(f"the pid of {gateway_id}", found)
    return pid


async def users_of_both(process: GatewayProcess, database: Any) -> dict[str, list[User]]:
    """Register users until each worker has two of them; return them by worker."""
    found: dict[str, list[User]] = {"gateway-01.1": [], "gateway-01.2": []}
    for n in range(100):
        if all(len(users) >= 2 for users in found.values()):
            return found
        user = await User.register(f"user-{n}", process.url)
        found[await database.hget(f"presence:user-{n}", "gwId")].append(user)
    raise AssertionError(f"the kernel prefers one of two sockets: {found}")


async def all_are_reported(process: GatewayProcess, registers: int) -> None:
    """Wait until whichever worker is asked knows of so many registers."""

    async def agreed() -> bool:
        asked = [await stats(process) for _ in range(8)]
        return all(document["counters"]["registers_ok"] == registers for document in asked)

    await until(f"{registers} registers in all sums", agreed)


async def is_served(user: User) -> None:
    await user.say(type="ping")
    assert await user.hear() == {"type": "pong"}


async def leave(users: dict[str, list[User]]) -> None:
    for those in users.values():
        for user in those:
            await user.leave()


# --- one gateway to the outside -----------------------------------------------------------------


async def test_users_of_two_workers_write_to_each_other(start: Any, database: Any) -> None:
    """Each worker is a gateway: a message crosses from one to the other."""
    process = await start()
    users = await users_of_both(process, database)
    (one, *_), (other, *_) = users.values()
    assert await one.send(other.name, "hello") == "routed"
    assert (await other.hear())["content"] == "hello"
    await leave(users)


async def test_stats_and_metrics_are_sums_over_all_workers(start: Any, database: Any) -> None:
    """Whichever worker is asked: it adds up what all of them have reported."""
    process = await start()
    users = await users_of_both(process, database)
    count = sum(map(len, users.values()))

    await all_are_reported(process, count)
    document = await stats(process)
    assert document["gatewayId"] == "gateway-01" and document["ready"]
    assert document["connections"] == count
    assert {w["gatewayId"]: w["connections"] for w in document["workers"]} == {
        name: len(those) for name, those in users.items()
    }
    for _ in range(4):
        page = (await process.get("/metrics"))[1]
        assert f'wsdemo_registers_total{{outcome="ok"}} {count}.0' in page
        assert f"wsdemo_connections {count}.0" in page
        assert "wsdemo_ready 1.0" in page and "wsdemo_worker_restarts_total 0.0" in page
        for name, those in users.items():
            assert f'wsdemo_worker_connections{{worker="{name}"}} {len(those)}.0' in page
    await leave(users)


@pytest.mark.parametrize("log_format", ["text", "json"])
async def test_each_line_of_the_log_names_its_worker(
    start: Any, database: Any, log_format: str
) -> None:
    """Behind the time in text, as `worker` in JSON; the parent's lines name none."""
    process = await start("--log-format", log_format)
    users = await users_of_both(process, database)
    for name, (user, *_) in users.items():
        await logged(process, f"User {user.name} registered")
        line = next(line for line in process.log if f"User {user.name} registered" in line)
        if log_format == "json":
            assert json.loads(line)["worker"] == name
        else:
            assert re.match(rf"\d{{4}}/\d\d/\d\d [\d:]{{8}} {name} \[", line), line
    await leave(users)


async def test_a_worker_adds_at_most_20_mib(start: Any) -> None:
    """The rest of its memory it shares with its parent, which has imported everything once."""
    process = await start()
    await process.get("/metrics")
    for worker in psutil.Process(process.pid).children():
        own = worker.memory_full_info().uss
        assert own < OWN_MIB << 20, f"{own >> 20} MiB"


async def test_workers_share_a_unix_socket(start: Any, tmp_path: Path) -> None:
    """There the kernel has no port to spread over: all accept from one socket, whose file the
    parent removes at the end."""
    path = tmp_path / "g.sock"
    process = await start("--listen", "127.0.0.1:0", "--listen", f"unix:{path}")
    async with unix_connect(str(path), "ws://localhost/ws", compression=None) as alice:
        await alice.send('{"type":"register","userId":"alice"}')
        assert json.loads(await alice.recv())["type"] == "registered"
    process.signal(signal.SIGTERM)
    assert await process.wait(20) == 0
    assert not path.exists()


async def test_any_worker_answers_the_server_api(start: Any, database: Any, tmp_path: Path) -> None:
    """Its port is shared as the users' port is, also when the system has chosen it."""
    key = tmp_path / "key"
    key.write_text("k" * 40)
    key.chmod(0o600)
    process = await start("--api-port", "0", "--api-key-file", str(key))
    told = [
        found[1] for line in process.log if (found := re.search(r"API listens on .*:(\d+)", line))
    ]
    assert len(told) == 2 and len(set(told)) == 1
    users = await users_of_both(process, database)
    for _ in range(6):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(told[0]))
        writer.write(
            b"GET /api/presence/user-0 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            b"Authorization: Bearer " + b"k" * 40 + b"\r\n\r\n"
        )
        head = await reader.readline()
        writer.close()
        assert b" 200 " in head
    await leave(users)


# --- limits -------------------------------------------------------------------------------------


async def connect_until_refused(url: str, most: int) -> tuple[list[ClientConnection], int]:
    """Return the connections, and the status of the refusal (0: there was none)."""
    found: list[ClientConnection] = []
    for _ in range(most):
        try:
            found.append(await connect(url, proxy=None, compression=None, ping_interval=None))
        except InvalidStatus as refused:
            return found, refused.response.status_code
    return found, 0


async def test_the_limit_of_an_address_holds_over_all_workers(start: Any) -> None:
    """The connection that is one too many gets 429 at whichever worker it arrives, and when a
    worker dies its share is free."""
    limit = 12
    flags = ("--limit-loopback", "--connections-per-ip", str(limit))
    process = await start(*flags, "--unregistered-per-ip", "100", "--register-deadline-s", "60")
    users, status = await connect_until_refused(process.url, limit + 1)
    assert (len(users), status) == (limit, 429)
    document = await stats(process)  # Asked on a connection that is over the limit: a page.
    victim = max(document["workers"], key=lambda worker: worker["sockets"])
    os.kill(victim["pid"], signal.SIGKILL)
    await logged(process, f"{victim['gatewayId']} has ended (signal 9)")
    gone = sum([await _is_cut(user) for user in users])
    assert gone >= 1
    again, status = await connect_until_refused(process.url, gone + 1)
    assert (len(again), status) == (gone, 429)
    for user in (*users, *again):
        await user.close()


async def _is_cut(connection: ClientConnection) -> bool:
    """Say whether the connection ends soon."""
    try:
        await asyncio.wait_for(connection.wait_closed(), 0.5)
    except TimeoutError:
        return False
    return True


async def test_the_limit_of_all_connections_is_that_of_all_workers(start: Any) -> None:
    """--max-connections is about the whole: 503 at whichever worker."""
    process = await start("--max-connections", "10")
    users, status = await connect_until_refused(process.url, 11)
    assert (len(users), status) == (10, 503)
    for user in users:
        await user.close()


# --- ends ---------------------------------------------------------------------------------------


async def test_a_worker_that_dies_is_started_anew_and_counted(start: Any, database: Any) -> None:
    """Its users connect again, those of the other worker notice nothing, and no counter of the
    whole goes back."""
    process = await start()
    users = await users_of_both(process, database)
    count = sum(map(len, users.values()))
    await all_are_reported(process, count)
    victim = await pid_of(process, "gateway-01.1")
    os.kill(victim, signal.SIGKILL)
    for user in users["gateway-01.1"]:
        assert (await user.closed())[0] == 1006
    for user in users["gateway-01.2"]:
        await is_served(user)

    async def is_back() -> bool:
        workers = (await stats(process))["workers"]
        return len(workers) == 2 and all(worker["pid"] != victim for worker in workers)

    await wait_until("the worker is back", is_back, ignoring=(OSError,))
    back = [await User.register(user.name, process.url) for user in users["gateway-01.1"]]
    document = await stats(process)
    assert document["workerRestarts"] == 1
    assert document["counters"]["registers_ok"] >= count
    assert "wsdemo_worker_restarts_total 1.0" in (await process.get("/metrics"))[1]
    assert sum("has ended" in line for line in process.log) == 1
    users["gateway-01.1"] = back
    await leave(users)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_signal_to_the_parent_drains_all_workers(
    start: Any, database: Any, number: signal.Signals
) -> None:
    """Everybody is told 1012, nothing is left in Redis, exit code 0."""
    process = await start()
    users = await users_of_both(process, database)
    process.signal(number)
    for those in users.values():
        for user in those:
            assert (await user.closed())[0] == 1012
    assert await process.wait(20) == 0
    assert await database.keys("presence:*") == []
    assert await database.pubsub_channels("*") == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_to_the_whole_group_is_one_request(
    start: Any, number: signal.Signals
) -> None:
    """A terminal (Ctrl-C) and service managers signal all processes: they drain once, exit code 0.
    A client that does not hang up would show a second request: it ends the drain with code 1."""
    process = await start("--close-timeout-s", "0.7", prefix=("setsid",))
    alice = await User.register("alice", process.url)
    alice.connection.transport.pause_reading()
    os.killpg(process.pid, number)
    assert await process.wait(20) == 0
    alice.connection.transport.abort()


async def test_a_second_signal_ends_the_drain_with_code_1(start: Any) -> None:
    """As for a gateway without workers."""
    process = await start("--close-timeout-s", "300", "--drain-s", "300")
    alice = await User.register("alice", process.url)
    alice.connection.transport.pause_reading()
    process.signal(signal.SIGTERM)
    await until("a port that is closed", lambda: _is_closed(process.port))
    await asyncio.sleep(0.1)  # What comes at once is one request.
    process.signal(signal.SIGTERM)
    assert await process.wait(20) == 1
    alice.connection.transport.abort()


async def _is_closed(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return True
    writer.close()
    return False


async def test_the_notice_is_one_for_all_and_a_second_signal_ends_it(
    start: Any, database: Any
) -> None:
    """/ready is 503 while users stay; then all are drained, exit code 0."""
    process = await start("--drain-notice-s", "300")
    users = await users_of_both(process, database)
    process.signal(signal.SIGTERM)

    async def drains() -> bool:
        status, body = await process.get("/ready")
        return status == 503 and all("draining" in why for why in json.loads(body)["reasons"])

    await until("it says that it drains", drains)
    for those in users.values():
        await is_served(those[0])
    await asyncio.sleep(0.1)  # What comes at once is one request.
    process.signal(signal.SIGTERM)
    assert await process.wait(20) == 0
    assert await database.keys("presence:*") == []


async def test_a_parent_that_is_killed_leaves_no_worker(start: Any, database: Any) -> None:
    """They drain: users are told, Redis is told, and the port is free."""
    process = await start("--drain-notice-s", "300")
    users = await users_of_both(process, database)
    workers = psutil.Process(process.pid).children()
    assert len(workers) == 2
    process.signal(signal.SIGKILL)
    for those in users.values():
        for user in those:
            assert (await user.closed())[0] == 1012
    await until("no worker is left", lambda: not any(worker.is_running() for worker in workers))
    assert await database.keys("presence:*") == []


async def test_a_worker_that_is_told_to_stop_drains_and_is_started_anew(
    start: Any, database: Any
) -> None:
    """SIGTERM to a worker itself: a way to renew one after the other."""
    process = await start()
    users = await users_of_both(process, database)
    os.kill(await pid_of(process, "gateway-01.2"), signal.SIGTERM)
    for user in users["gateway-01.2"]:
        assert (await user.closed())[0] == 1012
    await logged(process, "gateway-01.2 has ended (exit code 0)")
    for user in users["gateway-01.1"]:
        await is_served(user)
    await is_ready(process)
    await leave(users)


async def test_workers_that_are_replaced_end_with_code_0(start: Any, server: BundledServer) -> None:
    """`--takeover`: gateways of the same ids on another port take the place of all workers."""
    process = await start()
    other = GatewayProcess("gateway-01", server.url, *TWO, "--takeover")
    try:
        await other.start()
        assert await process.wait(20) == 0
        await is_ready(other)
    finally:
        await other.stop()


# --- starts that fail ---------------------------------------------------------------------------


async def failing(server_url: str, *flags: str) -> tuple[int, list[str]]:
    """Start workers that cannot start; return the exit code and what they said."""
    process = GatewayProcess("gateway-01", server_url, *TWO, *flags)
    with pytest.raises(GatewayDied):
        await process.start()
    return await process.wait(30), list(process.log)


async def test_workers_that_cannot_start_say_why_in_one_line(
    start: Any, server: BundledServer, tmp_path: Path
) -> None:
    """Exit code 2: a port or an id in use, a Redis that is not there, a bad certificate."""
    first = await start("--id", "gateway-02")
    code, lines = await failing(server.url, "--port", str(first.port))
    assert (code, len(lines)) == (2, 1) and "cannot listen on" in lines[0], lines
    code, lines = await failing(server.url, "--id", "gateway-02")
    assert (code, len(lines)) == (2, 1) and "running as 'gateway-02.1'" in lines[0], lines
    code, lines = await failing("redis://127.0.0.1:1")
    assert (code, len(lines)) == (2, 1) and "cannot be reached" in lines[0], lines
    code, lines = await failing(server.url, "--certfile", str(tmp_path / "none"))
    assert (code, len(lines)) == (2, 1) and "cannot serve TLS" in lines[0], lines
    await is_ready(first)


async def test_an_id_that_only_a_later_worker_finds_in_use_ends_the_whole(
    server: BundledServer, database: Any
) -> None:
    """The worker that runs already drains, and exit code 2 comes with one line."""
    async with GatewayProcess("gateway-01.2", server.url) as taken:
        process = GatewayProcess("gateway-01", server.url, *TWO)
        try:
            await process.start()
            assert await process.wait(20) == 2
            assert "running as 'gateway-01.2'" in process.log[-1]
        finally:
            await process.stop()
        assert (await taken.get("/ready"))[0] == 200
        left = await database.pubsub_channels("gateway:*")
        assert sorted(left) == ["gateway:broadcast", "gateway:gateway-01.2"]


class FirstConnections(Wire):
    """Leads so many connections to Redis; those after them find nobody, until `let_all_in`."""

    def __init__(self, port: int, count: int) -> None:
        super().__init__("127.0.0.1", port)
        self._real, self._left = port, count

    def let_all_in(self) -> None:
        self._left = 1_000
        self.lead_to(self._real)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._left:
            self.lead_to(1)
        self._left = max(0, self._left - 1)
        await super()._accept(reader, writer)


async def test_a_redis_that_goes_away_during_the_start_ends_nothing(server: BundledServer) -> None:
    """The first worker serves users while the second one is started again and again."""
    async with FirstConnections(server.port, 2) as relay:
        process = GatewayProcess(
            "gateway-01", re.sub(r":\d+/0", f":{relay.port}/0", server.url), *TWO
        )
        try:
            await process.start()
            await logged(process, "gateway-01.2 has ended (Redis")
            async with connect(process.url, proxy=None) as socket:
                alice = User("alice", socket)
                await alice.say(type="register", userId="alice")
                assert (await alice.hear())["type"] == "registered"
            relay.let_all_in()
            await logged(process, "all 2 workers listen")
            await is_ready(process)
        finally:
            await process.stop()


async def test_a_stop_during_the_start_leaves_nothing(server: BundledServer, database: Any) -> None:
    """Whenever it comes: exit code 0, no worker, nothing in Redis."""
    for delay_s in (0.3, 0.45, 0.6, 0.9):
        process = GatewayProcess("gateway-01", server.url, *TWO)
        try:
            await process.launch()
            await asyncio.sleep(delay_s)
            process.signal(signal.SIGTERM)
            assert await process.wait(20) == 0
        finally:
            await process.stop()
        assert await database.pubsub_channels("*") == []

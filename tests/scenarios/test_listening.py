"""Where does a gateway listen, and can it be reached where it says? Processes on uvloop, and the
same code on asyncio's loop where a name has to mean something else for once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import stat
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect, unix_connect

from tests.processes import GatewayDied, GatewayProcess, User
from wsdemo.client import Client
from wsdemo.client.__main__ import DEFAULT_GATEWAY
from wsdemo.gateway import listening
from wsdemo.gateway.descriptors import given_sockets
from wsdemo.gateway.listening import CannotListen
from wsdemo.gateway.server import Gateway
from wsdemo.redis.server import BundledServer
from wsdemo.settings import Address, GatewaySettings, Keyspace, SettingsError

pytestmark = pytest.mark.timeout(90)


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


LINUX = pytest.mark.skipif(sys.platform != "linux", reason="workers need Linux")
IPV6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


@pytest.fixture
async def start(shared_server: BundledServer, keyspace: Keyspace) -> AsyncIterator[Any]:
    """Start a gateway process with flags; ends all that were started."""
    async with contextlib.AsyncExitStack() as stack:

        async def begin(*flags: str, **options: Any) -> GatewayProcess:
            prefix = ("--key-prefix", keyspace.prefix)
            process = GatewayProcess("gateway-01", shared_server.url, *prefix, *flags, **options)
            stack.push_async_callback(process.stop)
            return await process.start()

        yield begin


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a short name: that of a socket may have 107 bytes."""
    return tmp_path_factory.mktemp("s")


@contextlib.asynccontextmanager
async def listens(
    server: BundledServer, keyspace: Keyspace, **settings: Any
) -> AsyncIterator[Gateway]:
    """A gateway in this process."""
    told: dict[str, Any] = {"port": 0, **settings}
    async with Gateway(
        GatewaySettings(gateway_id="gateway-01", redis_url=server.url, keyspace=keyspace, **told)
    ) as gateway:
        yield gateway


async def registers(connection: ClientConnection, name: str = "alice") -> bool:
    await connection.send(json.dumps({"type": "register", "userId": name}))
    return bool(json.loads(await connection.recv())["type"] == "registered")


# --- hosts and ports -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "families"),
    [
        ("127.0.0.1", {4}),
        ("0.0.0.0", {4}),
        ("localhost", set()),
        pytest.param("::1", {6}, marks=IPV6),
        pytest.param("::", {4, 6}, marks=IPV6),
        pytest.param("0:0::0", {4, 6}, marks=IPV6),
        pytest.param("", {4, 6}, marks=IPV6),
    ],
)
async def test_a_gateway_is_reached_at_its_logged_address_and_at_all_others(
    start: Any, host: str, families: set[int]
) -> None:
    """The address in the log works for each kind of host; `::` and '' serve both families, on one
    port."""
    gateway = await start("--host", host)
    async with connect(gateway.url, proxy=None, compression=None) as connection:
        assert await registers(connection)
    for family in families:
        address = {4: "127.0.0.1", 6: "[::1]"}[family]
        url = f"ws://{address}:{gateway.port}/ws"
        async with connect(url, proxy=None, compression=None) as connection:
            assert await registers(connection)
    if families == {4, 6}:
        assert any("(all addresses, IPv4 and IPv6)" in line for line in gateway.log)
    if host == "0.0.0.0":
        assert any("(all addresses, IPv4 only)" in line for line in gateway.log)


Resolve = Callable[[str, list[str]], None]


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Resolve:
    """Let a name stand for these addresses, in this order."""
    names: dict[str, list[str]] = {}
    real = socket.getaddrinfo

    def look_up(host: Any, port: Any, *args: Any, **more: Any) -> Any:
        addresses = names.get(host, [host])
        return [found for address in addresses for found in real(address, port, *args, **more)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return names.__setitem__


@IPV6
@pytest.mark.parametrize("order", [["127.0.0.1", "::1"], ["::1", "127.0.0.1"]])
async def test_a_name_with_two_addresses_gets_one_port_on_both(
    shared_server: BundledServer, keyspace: Keyspace, resolve: Resolve, order: list[str]
) -> None:
    """With port 0 the system chooses once, not once for each."""
    resolve("localhost", order)
    async with listens(shared_server, keyspace, host="localhost") as gateway:
        assert gateway._server is not None
        names = [end.getsockname()[:2] for end in gateway._server.sockets]
        assert sorted(names) == [("127.0.0.1", gateway.port), ("::1", gateway.port)]
        assert gateway.url == f"ws://localhost:{gateway.port}/ws"
        for address in ("127.0.0.1", "[::1]"):
            async with Client("alice", [f"ws://{address}:{gateway.port}/ws"]) as alice:
                assert (await alice.send("alice", "x")).status == "routed"


@IPV6
async def test_a_port_that_is_taken_in_the_other_family_is_not_chosen(
    shared_server: BundledServer,
    keyspace: Keyspace,
    resolve: Resolve,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The system's choice for one address may be in use on the next one: it chooses again."""
    resolve("localhost", ["127.0.0.1", "::1"])
    real, taken = listening._bind_one, list[socket.socket]()

    def bind_one(family: int, name: Any, both_families: bool, share: bool) -> socket.socket:
        if family == socket.AF_INET6 and not taken:
            # Another process is faster, once.
            taken.append(real(family, name, both_families, share))
            taken[0].listen()
        return real(family, name, both_families, share)

    monkeypatch.setattr(listening, "_bind_one", bind_one)
    async with listens(shared_server, keyspace, host="localhost") as gateway:
        assert gateway.port != taken[0].getsockname()[1]
        async with Client("alice", [f"ws://[::1]:{gateway.port}/ws"]):
            pass
    taken[0].close()


async def test_an_address_that_the_machine_does_not_have_is_skipped_with_a_warning(
    shared_server: BundledServer,
    keyspace: Keyspace,
    resolve: Resolve,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A name may be ::1 where there is no IPv6: a warning; an error if there is no other
    address."""
    resolve("localhost", ["192.0.2.1", "127.0.0.1"])
    async with listens(shared_server, keyspace, host="localhost") as gateway:
        async with Client("alice", [gateway.url]):
            pass
    assert "localhost is 192.0.2.1 as well, where this machine cannot listen" in caplog.text
    resolve("localhost", ["192.0.2.1"])
    with pytest.raises(CannotListen, match="localhost:0: Cannot assign requested address"):
        async with listens(shared_server, keyspace, host="localhost"):
            pass


@IPV6
async def test_a_client_finds_a_default_gateway_where_localhost_is_ipv6_first(
    shared_server: BundledServer, keyspace: Keyspace, resolve: Resolve
) -> None:
    """The gateway listens on 127.0.0.1, the client asks for localhost: it tries both."""
    resolve("localhost", ["::1", "127.0.0.1"])
    assert GatewaySettings(gateway_id="g").host == "127.0.0.1"
    async with listens(shared_server, keyspace) as gateway:
        url = re.sub(r":8080/", f":{gateway.port}/", DEFAULT_GATEWAY)
        assert url.startswith("ws://localhost:")
        async with Client("alice", [url]) as alice:
            assert (await alice.send("alice", "x")).status == "routed"


async def test_several_addresses_serve_one_gateway_and_all_are_logged(
    start: Any, folder: Path
) -> None:
    """`--listen` is repeated; the gateway's port is that of the first address in the log."""
    path = folder / "g.sock"
    gateway = await start(
        *("--listen", f"unix:{path}", "--listen", "127.0.0.1:0", "--listen", "127.0.0.1:0")
    )
    (line,) = (line for line in gateway.log if "listens on" in line)
    ports = [int(port) for port in re.findall(r"ws://127\.0\.0\.1:(\d+)/ws", line)]
    assert len(set(ports)) == 2 and f"ws+unix:{path}:/ws" in line
    users = [
        await User.register(f"user-{n}", f"ws://127.0.0.1:{p}/ws") for n, p in enumerate(ports)
    ]
    assert await users[0].send("user-1", "hello") == "routed"
    assert (await users[1].hear())["content"] == "hello"
    async with unix_connect(str(path), "ws://localhost/ws", compression=None) as connection:
        assert await registers(connection)
    for user in users:
        await user.leave()


# --- unix sockets --------------------------------------------------------------------------------


@pytest.fixture
async def unix(start: Any, folder: Path) -> AsyncIterator[tuple[GatewayProcess, Path]]:
    """A gateway on a unix socket, and on a port, which is how we know that it runs."""
    path = folder / "g.sock"
    yield await start("--listen", "127.0.0.1:0", "--listen", f"unix:{path}"), path


async def test_a_unix_socket_has_mode_660_and_is_removed_at_the_end(
    unix: tuple[GatewayProcess, Path],
) -> None:
    """Users and pages come through it; SIGTERM removes the file."""
    gateway, path = unix
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    async with unix_connect(str(path), "ws://localhost/ws", compression=None) as connection:
        assert await registers(connection)
        gateway.signal(signal.SIGTERM)
        await connection.wait_closed()
        assert connection.close_code == 1012
    assert await gateway.wait(20) == 0
    assert not path.exists()


async def test_the_mode_of_a_unix_socket_can_be_chosen(start: Any, folder: Path) -> None:
    """For a proxy that runs as another user; whatever the umask is."""
    path = folder / "g.sock"
    flags = ("--listen", "127.0.0.1:0", "--listen", f"unix:{path}", "--unix-mode", "666")
    await start(*flags, prefix=["sh", "-c", 'umask 077 && exec "$0" "$@"'])
    assert stat.S_IMODE(path.stat().st_mode) == 0o666


@pytest.mark.slow
async def test_the_unix_socket_of_a_dead_process_is_replaced_and_a_live_one_is_not(
    unix: tuple[GatewayProcess, Path], start: Any
) -> None:
    """kill -9 leaves a file on which nobody answers; a process that answers keeps its socket."""
    gateway, path = unix
    both = ("--listen", "127.0.0.1:0", "--listen", f"unix:{path}")
    with pytest.raises(GatewayDied, match=f"cannot listen on unix:{path}: another process"):
        await start(*both, "--id", "gateway-02")
    async with unix_connect(str(path), "ws://localhost/ws", compression=None) as connection:
        assert await registers(connection), "the first one has lost its socket"
    gateway.signal(signal.SIGKILL)
    await gateway.wait(20)
    assert path.is_socket()
    await start(*both, "--id", "gateway-03")
    async with unix_connect(str(path), "ws://localhost/ws", compression=None) as connection:
        assert await registers(connection)


async def test_a_file_that_is_not_a_socket_is_left_unchanged(start: Any, folder: Path) -> None:
    """One line says why the gateway does not start."""
    path = folder / "precious"
    path.write_text("mine")
    with pytest.raises(GatewayDied, match=f"cannot listen on unix:{path}: there is a file"):
        await start("--listen", f"unix:{path}")
    assert path.read_text() == "mine"


async def test_the_socket_file_of_a_successor_is_not_removed(
    shared_server: BundledServer, keyspace: Keyspace, folder: Path
) -> None:
    """A gateway that ends late leaves the file of its successor."""
    path = folder / "g.sock"
    async with listens(shared_server, keyspace, listen=(f"unix:{path}",)) as gateway:
        assert (gateway.port, gateway.url) == (0, f"ws+unix:{path}:/ws")
        path.unlink()
        with socket.socket(socket.AF_UNIX) as successor:
            successor.bind(str(path))
            await gateway.stop()
            assert path.is_socket()


# --- sockets that a service manager has opened ---------------------------------------------------


@contextlib.contextmanager
def opened(path: Path) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two listening sockets, as a service manager opens them."""
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(path))
        unix.listen()
        yield tcp, unix


async def given(
    url: str, prefix: str, tcp: socket.socket, unix: socket.socket, *more: str, pid: str = "$$"
) -> asyncio.subprocess.Process:
    """Start a gateway with the two sockets as its descriptors 3 and 4."""
    script = (
        f"exec 3<&{tcp.fileno()} 4<&{unix.fileno()}; "
        f'export LISTEN_PID={pid} LISTEN_FDS=2; exec "$0" "$@"'
    )
    flags = ("--id", "gateway-01", "--port", "0", "--key-prefix", prefix)
    return await asyncio.create_subprocess_exec(
        *("bash", "-c", script, sys.executable, "-m", "wsdemo.gateway", *flags, *more),
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "WSDEMO_REDIS_URL": url},
        pass_fds=[tcp.fileno(), unix.fileno()],
    )


async def ended(process: asyncio.subprocess.Process) -> str:
    """End it with SIGTERM; return what it has said."""
    process.terminate()
    async with asyncio.timeout(20):
        _, said = await process.communicate()
    assert process.returncode == 0, said
    return said.decode()


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=LINUX)])
async def test_sockets_of_a_service_manager_are_used_and_stay_open_after_the_gateway(
    shared_server: BundledServer, keyspace: Keyspace, folder: Path, workers: str
) -> None:
    """LISTEN_FDS: a client that connects before the gateway runs is served by it, over TCP and
    over a unix socket; after its end both still accept connections, for the next one."""
    path = folder / "given.sock"
    with opened(path) as (tcp, unix):
        url = f"ws://127.0.0.1:{tcp.getsockname()[1]}/ws"
        for life in range(2):
            early = asyncio.create_task(User.register(f"alice-{life}", url))
            await asyncio.sleep(0)
            flags = ("--workers", workers)
            process = await given(shared_server.url, keyspace.prefix, tcp, unix, *flags)
            alice = await early
            async with unix_connect(str(path), "ws://localhost/ws", compression=None) as one:
                assert await registers(one, f"bob-{life}")
                said = await ended(process)
            assert (await alice.closed())[0] == 1012
            assert "--host, --port and --listen do not count" in said
            assert url in said and f"ws+unix:{path}:/ws" in said
            assert path.is_socket()


async def test_sockets_for_another_process_are_not_used(
    shared_server: BundledServer, keyspace: Keyspace, folder: Path
) -> None:
    """A wrong LISTEN_PID: the gateway listens where its flags say, and logs it."""
    with opened(folder / "given.sock") as (tcp, unix):
        process = await given(shared_server.url, keyspace.prefix, tcp, unix, pid="1")
        assert process.stderr is not None
        lines = []
        async with asyncio.timeout(20):
            while "listens on" not in (line := (await process.stderr.readline()).decode()):
                assert line
                lines.append(line)
        assert any("LISTEN_FDS is meant for process '1', not for this one" in one for one in lines)
        assert f":{tcp.getsockname()[1]}/" not in line
        await ended(process)


def test_the_variables_of_socket_activation_are_removed() -> None:
    """No child process may take them for its own, whichever process they were for."""
    for pid in ("1", str(os.getpid())):
        environ = {"LISTEN_PID": pid, "LISTEN_FDS": "0", "LISTEN_FDNAMES": "a", "HOME": "/"}
        assert given_sockets(environ)[0] == []
        assert environ == {"HOME": "/"}


@pytest.mark.parametrize("count", ["x", "-1", "3.0", "99999999999999999999", "²"])
def test_an_invalid_number_of_sockets_is_refused(count: str) -> None:
    """With one line, before anything is listened on."""
    with pytest.raises(SettingsError, match="no number of sockets"):
        given_sockets({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": count})


# --- words ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("localhost:8080", Address("localhost", 8080)),
        (":0", Address("", 0)),
        ("127.0.0.1:65535", Address("127.0.0.1", 65535)),
        ("[::1]:80", Address("::1", 80)),
        ("[fe80::1%eth0]:80", Address("fe80::1%eth0", 80)),
        ("unix:/run/g.sock", Address(path="/run/g.sock")),
    ],
)
def test_the_text_of_an_address_reads_back_as_the_same_address(text: str, address: Address) -> None:
    """So an address in an error line can be given to --listen again."""
    assert Address.parse(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "8080", "localhost", "::1:80", "[::1]", "h:65536", "h:-1", "h:http", "h:٣", "a b:1"),
        *("unix:", "unix:g.sock", "unix:@g", "unix:/run/", "unix:/a\0b", "ws://h:1", "[::1:80"),
    ],
)
def test_an_invalid_address_is_refused(text: str) -> None:
    """The error lists the three forms of an address, or says what is wrong with a path."""
    with pytest.raises(SettingsError, match=r"cannot listen on .*: (it is none of|unix:/path)"):
        GatewaySettings(gateway_id="g", listen=(text,))


async def test_an_impossible_socket_path_is_one_line(
    shared_server: BundledServer, keyspace: Keyspace, folder: Path
) -> None:
    """Too long, or in a directory that does not exist: nothing stays open, no file is left."""
    for path in (folder / ("x" * 200), folder / "no" / "such" / "g.sock"):
        ports = ("127.0.0.1:0", f"unix:{path}")
        with pytest.raises(CannotListen, match=f"unix:{re.escape(str(path))}: "):
            async with listens(shared_server, keyspace, listen=ports):
                pass
    assert list(folder.iterdir()) == []


async def test_a_failed_start_closes_the_addresses_already_bound(folder: Path) -> None:
    """The next attempt finds the first address free."""
    path = folder / "first.sock"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        second = f"127.0.0.1:{taken.getsockname()[1]}"
        settings = GatewaySettings(
            gateway_id="gateway-01",
            redis_url="redis://localhost",
            listen=(f"unix:{path}", second),
        )
        with pytest.raises(CannotListen, match=second):
            await listening.bind(settings)
    assert not path.exists()

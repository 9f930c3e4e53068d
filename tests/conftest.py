"""What every test gets: a real server, and the proof that nothing was left behind."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import redis.asyncio as redis_client

from tests.examples import PROFILE
from wsdemo.redis.server import BundledServer
from wsdemo.settings import Keyspace

try:
    import uvloop
except ImportError:  # Not on Windows.
    LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
else:
    LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
"""The loops that a gateway runs on. Their transports differ in what they do to who writes to a
connection that is gone, and a gateway as people start it runs on uvloop's."""


IGNORED_BY_STARTERS = [
    number
    for number in (getattr(signal, name, None) for name in ("SIGHUP", "SIGQUIT", "SIGTERM"))
    if number is not None
]


def pytest_configure(config: pytest.Config) -> None:
    """Take back the signals that whoever started this run has ignored: a shell ignores Ctrl-C for a
    run in the background, and `nohup` the end of a terminal. Whatever a test starts would inherit
    that, and obey.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in IGNORED_BY_STARTERS:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave slow tests out of the fast profile, and take the time limits from the deep one."""
    if PROFILE == "fast":
        slow = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]
    if PROFILE == "deep":
        for item in items:
            item.add_marker(pytest.mark.timeout(0), append=False)


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run what is marked `both_loops` on each of them, and all else on asyncio's. The fast profile
    has one loop: that of a gateway as people start it.
    """
    if item.get_closest_marker("both_loops"):
        asyncio_mark = item.get_closest_marker("asyncio")
        names_its_own = asyncio_mark is not None and "loop_factories" in asyncio_mark.kwargs
        if PROFILE == "fast" and not names_its_own:
            return dict([*LOOPS.items()][-1:])
        return LOOPS
    return {"asyncio": LOOPS["asyncio"]}


@pytest.fixture(scope="session")
def shared_server() -> Iterator[BundledServer]:
    """One bundled server for the whole run; tests tell themselves apart by their key prefix."""
    with BundledServer() as server:
        yield server


@pytest.fixture
def keyspace(request: pytest.FixtureRequest) -> Keyspace:
    """Names that no other test uses."""
    return Keyspace(f"t{abs(hash(request.node.nodeid)):x}:")


@pytest.fixture
async def redis_db(shared_server: BundledServer) -> AsyncIterator[Any]:
    """A plain client of the shared server, to look with."""
    client = redis_client.Redis.from_url(shared_server.url, decode_responses=True)
    yield client
    await client.aclose()


@pytest.fixture
def server() -> Iterator[BundledServer]:
    """A bundled server of the test's own, to be stopped, emptied or set up wrongly."""
    with BundledServer() as server:
        yield server


@pytest.fixture
async def database(server: BundledServer) -> AsyncIterator[Any]:
    """A plain client of the test's own server, to look with."""
    client = redis_client.Redis.from_url(server.url, decode_responses=True)
    yield client
    await client.aclose()


@pytest.fixture(autouse=True)
def signals_as_they_were() -> Iterator[None]:
    """A program that a test runs in this process must not change what signals do to the next one,
    nor to the processes that it starts.
    """
    names = ("SIGTERM", "SIGINT", "SIGHUP")
    before = {n: signal.getsignal(n) for n in (getattr(signal, name, None) for name in names) if n}
    yield
    for number, handler in before.items():
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)


@pytest.fixture(autouse=True)
async def nothing_left_behind() -> AsyncIterator[None]:
    """A test fails when the loop's exception handler was called, or a task outlives it."""
    loop = asyncio.get_running_loop()
    problems: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: problems.append(context))
    yield
    this = asyncio.current_task()
    # A task that is being cancelled may need a few turns of the loop to end.
    for _ in range(50):
        left = [task for task in asyncio.all_tasks() if task is not this and not task.done()]
        if not left:
            break
        await asyncio.wait(left, timeout=0.02)
    assert not left, f"tasks outlive the test: {left}"
    assert not problems, f"the loop's exception handler was called: {problems}"

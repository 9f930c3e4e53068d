"""Gateway process: is nothing left of a start that fails, and is its whole log read?"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import psutil
import pytest

from wsdemo.redis.server import BundledServer
from wsdemo.rig import process as rig
from wsdemo.rig.process import CONTEXT, TROUBLES, GatewayDied, GatewayProcess, ProcessLog, gateways

NOWHERE = "redis://127.0.0.1:1"
ENDS = ("-c", "import sys; print('no', file=sys.stderr); sys.exit(7)")
SILENT = ("-c", "import time; time.sleep(60)")
CLOSES_ITS_LOG = ("-c", "import os, time; os.close(2); time.sleep(60)")


def running(process: GatewayProcess, program: tuple[str, ...]) -> bool:
    """Say whether its process exists; the pid may belong to another one by now."""
    try:
        return program[1] in psutil.Process(process.pid).cmdline()
    except psutil.Error:
        return False


# --- a start that fails ------------------------------------------------------------------------


async def test_a_process_that_ends_keeps_its_exit_code() -> None:
    """The error contains its log, and `wait` returns its own exit code, not that of a signal."""
    process = GatewayProcess("gateway-01", NOWHERE, program=ENDS)
    with pytest.raises(GatewayDied, match="no"):
        await process.start()
    assert await process.wait(1.0) == 7
    assert not process.running and not running(process, ENDS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "problem"),
    [(SILENT, TimeoutError), (CLOSES_ITS_LOG, GatewayDied)],
    ids=["neither listens nor ends", "closes its log and goes on"],
)
async def test_a_process_that_does_not_listen_is_killed(
    program: tuple[str, ...], problem: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its timeout it is killed, and the start fails."""
    monkeypatch.setattr(rig, "START_S", 2.0)
    monkeypatch.setattr(rig, "END_S", 0.1)
    process = GatewayProcess("gateway-01", NOWHERE, program=program)
    with pytest.raises(problem):
        await process.start()
    assert process.pid and not process.running and not running(process, program)


async def test_a_process_whose_start_is_cancelled_is_killed() -> None:
    """The task that starts it may be cancelled meanwhile."""
    process = GatewayProcess("gateway-01", NOWHERE, program=SILENT)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await process.start()
    assert process.pid and not process.running and not running(process, SILENT)


async def test_one_gateway_that_fails_ends_the_others(shared_server: BundledServer) -> None:
    """All have started or failed before all are ended, so none is started afterwards."""
    before = set(psutil.Process().children(recursive=True))
    with pytest.raises(GatewayDied, match="no-such-flag"):
        async with gateways(2, shared_server.url, "--no-such-flag"):
            raise AssertionError("they have started")
    left = set(psutil.Process().children(recursive=True)) - before
    assert [one for one in left if one.is_running() and one.status() != "zombie"] == []


# --- its log -----------------------------------------------------------------------------------


def test_an_error_in_a_log_is_kept_with_the_lines_after_it() -> None:
    """A traceback with its lines, a forbidden word with its line; all are counted, few are kept."""
    log = ProcessLog(["secret"])
    lines = ["fine", "Traceback (most recent call last):", *map(str, range(40)), "a secret"]
    for line in lines:
        log.take(line)
    assert [len(trouble) for trouble in log.troubles] == [CONTEXT, 1]
    assert "secret" in log.troubles[1][0] and log.read == len(lines)
    assert log.counts == {"Traceback (most recent call last)": 1, "secret": 1}
    log.take("Exception in callback")
    log.take("the secret in the middle of it")
    log.take("  File 1")
    assert log.troubles[-1][0] == "Exception in callback" and log.troubles[-1][-1] == "  File 1"
    for _ in range(2 * TROUBLES):
        log.take("the secret again")
    assert log.counts["secret"] == 2 * TROUBLES + 2
    assert len(log.troubles) == TROUBLES + 2


@pytest.mark.timeout(60)
async def test_a_log_may_be_left_unread_and_be_read_again(shared_server: BundledServer) -> None:
    """Nothing of it is lost for the reader, and the process ends normally."""
    process = GatewayProcess("gateway-unread", shared_server.url, "--log-level", "debug")
    async with process:
        process.block_log()
        status, _ = await process.get("/health")
        assert status == 200
        process.unblock_log()
        process.signal(signal.SIGTERM)
        assert await process.wait(20.0) == 0
    assert any("stopped" in line for line in process.log) and process.written.troubles == []


@pytest.mark.slow
@pytest.mark.timeout(60)
async def test_a_log_may_go_to_a_file(shared_server: BundledServer, tmp_path: Path) -> None:
    """Then the pages show that the process runs, at the port that it had before."""
    process = GatewayProcess("gateway-file", shared_server.url)
    await process.start()
    await process.stop()
    try:
        await process.start_into(tmp_path / "log")
        assert (await process.get("/ready"))[0] == 200
    finally:
        await process.stop()
    assert f":{process.port}/ws" in (tmp_path / "log").read_text()

"""Benchmark: does it measure all that it should, and does a run that cannot go on say so?

No test here judges speed: `make bench` does, and fails when a message is too dear.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks import features
from benchmarks.attacker import Attacker
from benchmarks.deployments import (
    BASE,
    SATURATION,
    STEADY,
    DeploymentCosts,
    MessageCost,
    deployments,
)
from benchmarks.features import ROWS, CpuCost, FeatureCosts
from benchmarks.phases import Bench, Measurement, message_phases, percentile, refreshes
from benchmarks.report import Results
from benchmarks.steps import MOST, count_steps
from benchmarks.systems import PYTHON, Failed, LoadProcess, System, wsdemo
from benchmarks.websocket import parse_frames
from benchmarks.workers import Comparison, Round, spread
from tests.processes import GatewayProcess
from tests.waiting import until
from wsdemo.gateway.__main__ import loop_factory
from wsdemo.redis.server import BundledServer

ROOT = Path(__file__).parents[1]
PHASES = {
    "saturation",
    "1,000 a second",
    "4,000 a second",
    "same gateway",
    "hot user",
    "registration storm",
}


def benchmarks(*arguments: str) -> subprocess.Popen[str]:
    """Start the command line."""
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(240)
def test_a_smoke_run_measures_everything(tmp_path: Path) -> None:
    """A short round of everything: phases, floors, idle users, growth, attacks, pictures."""
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--smoke", "--out", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=220,
    )
    # 1 is a verdict on speed, which on a busy machine says nothing.
    assert result.returncode in {0, 1}, result.stdout + result.stderr
    (document,) = tmp_path.glob("*.json")
    content = json.loads(document.read_text())
    assert set(content["ratios"]) == PHASES
    assert all(ratio > 0 for ratio in content["ratios"].values()), content["ratios"]
    lost = [sample["lost"] for sample in content["samples"] if sample["system"] == "wsdemo"]
    assert len(lost) == len(PHASES) and sum(lost) == 0
    assert len(content["floors_us"]) == 2 and all(us > 0 for us in content["floors_us"].values())
    assert [item["system"] for item in content["idle"]] == content["systems"]
    assert content["growth"]["ratio"] > 0
    assert len(content["attack"]) == 4
    assert all(felt["sent"] and felt["with_p99_ms"] > 0 for felt in content["attack"].values())
    assert len(list(tmp_path.glob("*.png"))) == 4


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(240)
def test_a_smoke_run_of_the_features_measures_each_of_them(tmp_path: Path) -> None:
    """Every comparison once; a message that is lost would end it."""
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.features", "--smoke", "--out", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=220,
    )
    # 1 is a verdict on cost, which on a busy machine says nothing.
    assert result.returncode in {0, 1}, result.stdout + result.stderr
    content = json.loads((tmp_path / "features.json").read_text())
    assert [row["name"] for row in content["rows"]] == [row.name for row in ROWS]
    assert all(ratio > 0 for row in content["rows"] for ratio in row["ratios"]), content["rows"]
    assert [idle["system"] for idle in content["memory"]] == ["plain", "durable"]
    assert all(row.name in result.stdout for row in ROWS)


# --- what cannot be measured ---------------------------------------------------------------------


def test_a_gateway_that_does_not_start_is_reported_in_one_line() -> None:
    """It is named, with its exit code, and nothing is left running."""
    broken = System("broken", [PYTHON, "-c", "raise SystemExit(3)", "{id}{port}{redis}"])
    with pytest.raises(Failed, match=r"^broken ended with exit code 3$"), broken:
        pytest.fail("it started")
    assert isinstance(broken.server, BundledServer) and not broken.server.running


@pytest.fixture
def small() -> Iterator[tuple[System, LoadProcess]]:
    """One gateway of ours with four users."""
    system = wsdemo()
    system.gateways = 1
    with system, LoadProcess(system.name) as driver:
        driver.do("connect", ports=system.ports, count=4, prefix="u", at_a_time=4)
        yield system, driver


@pytest.mark.slow
def test_a_gateway_that_dies_ends_the_measurement(small: tuple[System, LoadProcess]) -> None:
    """What is measured next says which one, and does not wait for messages that cannot come."""
    system, driver = small
    bench = Bench([system], {system.name: driver})
    saturation = message_phases(0.1)[:1]
    bench.run_round(1, saturation, lambda text: None)
    system.processes[0].kill()
    system.processes[0].wait()
    with pytest.raises(Failed, match=r"^wsdemo: gateway-01 ended with exit code -9$"):
        bench.run_round(2, saturation, lambda text: None)


@pytest.mark.slow
def test_closed_connections_of_users_end_the_measurement(small: tuple[System, LoadProcess]) -> None:
    """A number for fewer users than planned would be misleading."""
    system, driver = small
    with LoadProcess("somebody else") as other:
        # The same users: the newer connection takes over, the older one is closed.
        other.do("connect", ports=system.ports, count=1, prefix="u", at_a_time=1)
        with pytest.raises(Failed, match=r"^saturation, wsdemo: 1 users were thrown out$"):
            Bench([system], {system.name: driver}).run_round(
                1, message_phases(0.1)[:1], lambda text: None
            )


@pytest.mark.slow
def test_users_of_a_load_send_heartbeats() -> None:
    """They send heartbeats, 20 a second of 600 users, and a gateway in a hurry renews leases for
    them: a run is longer than their presence would last without.
    """
    system = wsdemo("--heartbeat-s", "0.4", "--tick-s", "0.1")
    with system, LoadProcess(system.name) as driver:
        driver.do("connect", ports=system.ports, count=600, prefix="u", at_a_time=32)
        driver.do("live", seconds=1.5)
        assert refreshes(system)


def test_a_load_whose_connection_is_refused_says_so() -> None:
    """A plan that fails for a reason that can be expected is answered with it."""
    with (
        LoadProcess("nobody") as driver,
        pytest.raises(Failed, match=r"^load of nobody: .*refused"),
    ):
        driver.do("connect", ports=[1], count=1, prefix="u", at_a_time=1)


@pytest.mark.slow
def test_a_load_that_does_not_answer_is_given_up(small: tuple[System, LoadProcess]) -> None:
    """Every wait for a load process is bounded."""
    _, driver = small
    driver.start("live", seconds=0.5)
    with pytest.raises(Failed, match=r"^load of wsdemo: no result in time"):
        driver.result(0.05)


@pytest.mark.slow
def test_an_output_directory_that_cannot_be_made_is_one_line_and_exit_code_2(
    tmp_path: Path,
) -> None:
    """Before anything is measured, too."""
    occupied = tmp_path / "file"
    occupied.touch()
    process = benchmarks("--smoke", "--out", str(occupied / "results"))
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err.count("\n")) == (2, "", 1), err
    assert err.startswith("benchmarks: ")


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"]
)
async def test_a_run_that_is_told_to_stop_leaves_no_process_behind(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    """It ends soon, and with it all gateways, loads and servers that it has started."""
    process = benchmarks("--smoke", "--out", str(tmp_path))
    started: set[psutil.Process] = set()

    def gateways_run() -> bool:
        plain = 0
        for child in psutil.Process(process.pid).children(recursive=True):
            # The floors come and go while we look.
            with contextlib.suppress(psutil.NoSuchProcess):
                started.add(child)
                plain += "benchmarks.plain" in child.cmdline()
        return plain == 2

    try:
        await until("both plain gateways run", gateways_run, timeout_s=60)
        process.send_signal(number)
        assert await asyncio.to_thread(process.wait, 40) == code
        _, alive = await asyncio.to_thread(psutil.wait_procs, started, 10)
        assert not alive
    finally:
        for left in [process, *started]:
            with contextlib.suppress(psutil.NoSuchProcess):
                left.kill()
        process.communicate()


# --- the attacker --------------------------------------------------------------------------------


@pytest.mark.slow
async def test_the_slow_reader_counts_how_often_it_is_closed(shared_server: BundledServer) -> None:
    """With a small outbox that takes a moment; its friends find out, and it comes back."""
    flags = ("--key-prefix", "attacker:", "--outbox-bytes", "20000", "--log-level", "info")
    async with GatewayProcess("gateway-01", shared_server.url, *flags) as gateway:
        attacker: Any = Attacker()
        felt = await attacker.slow_reader(port=gateway.port, seconds=2.0, rate=4_000)
    assert felt["sent"] > 1_000
    ends = {what: count for what, count in felt["did"].items() if not what.startswith("error")}
    assert ends and sum(ends.values()) >= 1, felt


@pytest.mark.slow
async def test_silent_sockets_are_accepted_up_to_the_limit(shared_server: BundledServer) -> None:
    """What the gateway refuses is counted by its answer."""
    flags = ("--key-prefix", "silent:", "--max-connections", "10", "--log-level", "info")
    async with GatewayProcess("gateway-01", shared_server.url, *flags) as gateway:
        attacker: Any = Attacker()
        felt = await attacker.silent_sockets(port=gateway.port, seconds=0.5, rate=200)
    assert felt["did"]["let in at the end"] == 10
    assert felt["did"]["answered 503"] > 0


def test_the_verdict_names_the_phases_that_cost_too_much() -> None:
    """A cost equal to the plain port is too much; at saturation, half of it is."""
    bench = Bench([System("ours", []), System("base", [])], {})
    for phase, cost_us in (("saturation", 5.0), ("hot user", 9.9), ("same gateway", 10.0)):
        bench.samples.append(Measurement(phase, "ours", 1, cost_us, 1.0))
        bench.samples.append(Measurement(phase, "base", 1, 10.0, 1.0))
    assert Results(bench, [], None, {}, {}).too_dear() == [
        "saturation (0.50, must be below 0.5)",
        "same gateway (1.00, must be below 1)",
    ]


def test_the_verdict_on_features_names_those_above_their_target() -> None:
    """By the median of the ratios within the rounds; of a room, the gateways' alone."""
    costs = FeatureCosts()
    for row in ROWS:
        costs.samples[row.base] = [CpuCost(20.0, 10.0), CpuCost(40.0, 20.0), CpuCost(20.0, 10.0)]
    for row in ROWS:
        costs.samples[row.phase] = [CpuCost(5.0, 25.0), CpuCost(10.0, 50.0), CpuCost(90.0, 90.0)]
    assert costs.too_dear() == []
    assert costs.ratios(ROWS[1]) == [1.0, 1.0, 6.0]
    costs.samples["durable"] = [CpuCost(50.0, 26.0), CpuCost(100.0, 52.0), CpuCost(1.0, 1.0)]
    costs.samples["room, eight"] = [CpuCost(5.1, 0.0), CpuCost(10.2, 0.0), CpuCost(1.0, 0.0)]
    assert costs.too_dear() == ["durable", "a copy in a room, eight publishes at once"]
    shown = features.table(costs)
    assert "at most 2.5" in shown and "0.25, gateways only" in shown


# --- how a number is made ------------------------------------------------------------------------


def test_a_message_takes_no_more_calls_than_it_should() -> None:
    """On the loop of a gateway as people start it. Counted, not timed: a busy machine is no excuse,
    and a change that lets each message do more is seen. Half as many would mean that it counts
    wrongly."""
    steps = count_steps(loop_factory())
    assert MOST.python / 2 < steps.python <= MOST.python, steps.by_name
    assert MOST.c / 2 < steps.c <= MOST.c
    assert steps.by_name["delivery.submit"] == steps.by_name["session.deliver"] == 1


def test_frames_may_arrive_in_any_pieces() -> None:
    """Whole frames are taken, the rest is kept."""
    short, long = b"\x81\x02hi", b"\x81\x7e\x00\xc8" + b"x" * 200
    stream = short + long + short
    for cut in range(len(stream)):
        first, rest = parse_frames(stream[:cut])
        second, end = parse_frames(rest + stream[cut:])
        assert [payload for _, payload in first + second] == [b"hi", b"x" * 200, b"hi"]
        assert end == b""


def test_a_percentile_is_one_of_the_values() -> None:
    """Nearest rank; the largest is the last; nothing has none."""
    values = list(range(1, 101))
    assert [percentile(values, share) for share in (0.0, 0.5, 0.99, 1.0)] == [1, 51, 100, 100]
    assert percentile([], 0.99) != percentile([], 0.99)


def test_the_busiest_worker_limits_what_all_of_them_carry() -> None:
    """Two workers with the CPU of one, evenly shared, carry twice as much; unevenly, less."""
    one, even, uneven = Round([20.0]), Round([10.0, 10.0]), Round([5.0, 15.0])
    assert (one.capacity, even.capacity) == (50_000, 100_000)
    assert Comparison("", [one, one], [even, uneven]).ratios == pytest.approx([2.0, 4 / 3])
    assert spread([1500, 500]) == 1.5


def test_ratios_are_taken_within_a_round() -> None:
    """A slow round is slow for all: it does not change the median of the ratios."""
    bench = Bench([System("ours", []), System("base", [])], {})
    for number, slowness in enumerate((1, 10, 1), 1):
        # The order within a round alternates, so a pair is found by its number.
        costs = {"ours": 2.0 * slowness, "base": 4.0 * slowness}
        for name in costs if number % 2 else reversed(costs):
            bench.samples.append(Measurement("phase", name, number, costs[name], 1.0))
    assert bench.ratios("phase", "ours", "base") == [0.5, 0.5, 0.5]


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(240)
def test_a_smoke_run_of_scaling_measures_every_deployment(tmp_path: Path) -> None:
    """Clusters and workers beside one server, and this code as the code before: it is itself."""
    arguments = ("--smoke", "--only", "deployments", "--only", "script", "--before", str(ROOT))
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks", "scale", *arguments, "--out", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=220,
    )
    # 1 is a verdict on cost, which on a busy machine says nothing.
    assert result.returncode in {0, 1}, result.stdout + result.stderr
    content = json.loads((tmp_path / "scale.json").read_text())
    names = {system.name for system in deployments(ROOT)}
    assert {phase: set(of) for phase, of in content["deployments"]["samples"].items()} == {
        SATURATION: names,
        STEADY: names,
    }
    assert all(us > 0 for samples in content["script"].values() for us in samples)
    assert len(content["script"]) == 8
    assert "one server, now / before" in result.stdout


def test_the_parts_of_a_message_are_those_of_all_processes() -> None:
    """Replicas are told apart, and belong to the servers; ratios are taken within a round."""
    costs = DeploymentCosts()
    one, three = (
        MessageCost([5.0, 5.0], [10.0], [], 1.0),
        MessageCost([6.0, 6.0], [4.0], [4.0], 1.0),
    )
    costs.samples[SATURATION] = {BASE: [one, one], "other": [three, three]}
    assert costs.ratios(SATURATION, "other") == [1.0, 1.0]
    assert costs.ratios(SATURATION, "other", part="servers") == [0.8, 0.8]
    assert three.parts["replicas"] == 4.0

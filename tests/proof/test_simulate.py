"""The deterministic simulation: hours of a cluster's life, and the invariants that hold in them."""

from __future__ import annotations

import ast
import asyncio
import gc
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.examples import rounds, seeds
from tests.waiting import until
from wsdemo.features import WatchSettings
from wsdemo.inbox.devices import DEVICES_ACK, DEVICES_READ, DEVICES_SEND
from wsdemo.inbox.store import READ, SEND
from wsdemo.presence.devices import DEVICES_RELEASE
from wsdemo.presence.store import RELEASE
from wsdemo.proof.history import from_jsonl, held, inboxes, to_jsonl
from wsdemo.proof.simulate import faults, simulate, simulate_many
from wsdemo.proof.simulate.__main__ import main, table
from wsdemo.proof.simulate.devices import Device
from wsdemo.proof.simulate.offer import PLAIN, Offer
from wsdemo.proof.simulate.users import UserCrowd
from wsdemo.rooms.store import LEAVE
from wsdemo.router import ROUTE

MINUTES = rounds(10, fast=5)
DURABLE, ROOMS = Offer(durable=True), Offer(rooms=True)
WATCH, TWO_DEVICES = Offer(watch=True), Offer(devices=2)
DURABLE_DEVICES = Offer(devices=2, durable=True)
PLAYED = {
    "plain": (PLAIN, seeds(40, fast=10), "route routed", 50),
    "durable": (DURABLE, seeds(8, fast=2), "send stored", 50),
    "rooms": (ROOMS, seeds(8, fast=2), "room_join joined", 5),
    "watch": (WATCH, seeds(8, fast=2), "route routed", 50),
    "devices": (TWO_DEVICES, seeds(8, fast=2), "devices_register ok", 5),
    "durable, devices": (DURABLE_DEVICES, seeds(8, fast=2), "devices_send stored", 50),
}
"""By features: in which seeds, and an outcome that is seen at least so often in a minute. The
evidence (`make evidence`) has more seeds of each.
"""
FEW = 5
"""Seeds within which a planted bug must be found."""

BOGUS_RELEASE = RELEASE.text.replace("if owner == conn then", "if true then")
"""A release that does not ask whose entry it deletes: the late clean-up of the Go demo."""


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """What a simulation leaves to the collector must not be blamed on another test."""
    yield
    gc.collect()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("features", PLAYED)
def test_every_promise_holds_in_many_simulated_clusters(features: str) -> None:
    """P1-P8, FIFO, and the meaning of acks hold after every heal; with durable messages also D1 to
    D5 and D7, with rooms R1 to R5, with watchers W1 to W3, and with devices P1 to P8 for each of
    them. (That every fault and every outcome of a script occurs takes 100 seeds: the evidence.)
    """
    offer, chosen, outcome, a_minute = PLAYED[features]
    processes = min(2, os.cpu_count() or 1)
    report = list(simulate_many(chosen, MINUTES, processes=processes, offer=offer))[-1]
    print(table(report))
    assert report.seeds == len(chosen)
    assert report.virtual_h >= len(chosen) * MINUTES / 60
    assert report.outcomes[outcome] > a_minute * MINUTES * len(chosen)
    assert not report.failures, [texts[0] for texts in report.failures.values()]


def history_in_a_process(seed: int, file: Path, hash_seed: str, *more: str) -> bytes:
    command = [sys.executable, "-m", "wsdemo.proof.simulate", "--seed", str(seed), "--minutes", "1"]
    command += more
    subprocess.run(
        [*command, "--json", str(file)],
        check=True,
        capture_output=True,
        timeout=100,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
    )
    return file.read_bytes()


@pytest.mark.timeout(320)
def test_a_seed_replays_exactly(tmp_path: Path) -> None:
    """The same seed has the same history, byte for byte, in another process with other hashes."""
    first = history_in_a_process(3, tmp_path / "first", "1")
    assert len(from_jsonl(first.decode())) > 500
    assert history_in_a_process(3, tmp_path / "second", "2") == first
    assert history_in_a_process(4, tmp_path / "other", "1") != first


@pytest.mark.timeout(320)
@pytest.mark.slow
def test_a_seed_with_features_replays_exactly(tmp_path: Path) -> None:
    """Also what clients save, and what Redis takes for its run, follows from the seed."""
    first = history_in_a_process(5, tmp_path / "first", "1", "--durable")
    assert b'"is":"taken"' in first and b'"is":"run"' in first
    assert history_in_a_process(5, tmp_path / "second", "2", "--durable") == first


def violated(**world: object) -> set[str]:
    """Return the claims that a few seeds find violated."""
    return {claim for seed in range(1, FEW + 1) for claim in violated_by(seed, **world)}


def violated_by(seed: int, **world: object) -> set[str]:
    """Return the claims that one seed finds violated."""
    run = simulate(seed, 3.0, **world)  # type: ignore[arg-type]
    return {violation.claim for violation in run.violations}


@pytest.mark.timeout(120)
@pytest.mark.slow
def test_the_simulation_finds_the_bugs_of_the_go_demo() -> None:
    """Under the demo's presence, users who are there have the wrong entry or none (P8), and
    entries are not whole (P4).
    """
    assert {"P4", "P8"} <= violated(policy="go-demo")


@pytest.mark.timeout(120)
@pytest.mark.slow
def test_the_simulation_finds_a_release_without_its_comparison() -> None:
    """One comparison less in release.lua, and P1 is violated within a few seeds."""
    assert RELEASE.text != BOGUS_RELEASE
    assert "P1" in violated(mutants={"release": BOGUS_RELEASE})


@pytest.mark.timeout(300)
@pytest.mark.slow
def test_the_simulation_finds_messages_without_a_deadline() -> None:
    """A Redis that stood still for long executes what its senders were told is `unknown`. In most
    seeds another fault may explain it, so more of them are tried.
    """
    wrong = ROUTE.text.replace("if now[1]", "if false and now[1]")
    assert wrong != ROUTE.text
    assert any("late" in violated_by(seed, mutants={"route": wrong}) for seed in (5, *range(1, 16)))


PLANTED_IN_INBOXES = {
    "read, a loss is not told": (
        READ,
        "same and ours and 'recovered'",
        "same and 'recovered'",
        "D2",
    ),
    "read, the run is not asked": (
        READ,
        "same and ours and 'recovered'",
        "ours and 'recovered'",
        "D7",
    ),
    "send, the id is not asked": (SEND, "if known and ", "if false and ", "D4"),
}
"""A mistake in a script: where, its line, what it becomes, and which promise it breaks."""


PLANTED_IN_ROOMS = {
    "leave, an older one counts": (LEAVE, "if old_token > token or", "if", {"R1", "R4"}),
    "leave, nobody is told": (LEAVE, "redis.call('PUBLISH', ARGV[6],", "tostring(", {"R3"}),
}
"""A mistake in a script: where, its line, what it becomes, and which promises it may break."""


@pytest.mark.timeout(120)
@pytest.mark.slow
@pytest.mark.parametrize("name", PLANTED_IN_ROOMS)
def test_the_simulation_finds_a_mistake_in_a_script_of_rooms(name: str) -> None:
    """Each within a few seeds."""
    script, right, wrong, promises = PLANTED_IN_ROOMS[name]
    assert right in script.text
    mutants = {script.name: script.text.replace(right, wrong)}
    assert any(
        promises & violated_by(seed, mutants=mutants, offer=ROOMS) for seed in range(1, FEW + 1)
    )


@pytest.mark.timeout(120)
@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "promise"), [({"watch_reconcile_s": 1e6}, "W1"), ({"watch_grace_s": 0.01}, "W3")]
)
def test_the_simulation_finds_watchers_who_are_told_wrong(
    settings: dict[str, float], promise: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a few seeds: without readings and goodbyes, and without a grace."""
    assert "redis.call('PUBLISH'" in RELEASE.text
    mute = {"release": RELEASE.text.replace("redis.call('PUBLISH'", "tostring('PUBLISH'")}
    wrong = WatchSettings(**settings)  # type: ignore[arg-type]
    monkeypatch.setattr("wsdemo.proof.simulate.offer.WatchSettings", lambda: wrong)
    mutants = mute if promise == "W1" else {}
    assert any(
        promise in violated_by(seed, offer=WATCH, mutants=mutants) for seed in range(1, FEW + 1)
    )


@pytest.mark.timeout(120)
@pytest.mark.slow
def test_the_simulation_finds_a_release_of_another_session_of_a_device() -> None:
    """One comparison less in devices_release.lua, and P1 is violated within a few seeds."""
    compares = "if owner.conn ~= conn then return"
    assert compares in DEVICES_RELEASE.text
    wrong = DEVICES_RELEASE.text.replace(compares, "if not owner.conn then return")
    assert any(
        "P1" in violated_by(seed, mutants={"devices_release": wrong}, offer=TWO_DEVICES)
        for seed in range(1, FEW + 1)
    )


PLANTED_IN_INBOXES_OF_DEVICES = {
    "read, a loss is not told": (
        DEVICES_READ,
        "same and ours and 'recovered'",
        "same and 'recovered'",
        "D2",
    ),
    "read, the run is not asked": (
        DEVICES_READ,
        "same and ours and 'recovered'",
        "ours and 'recovered'",
        "D7",
    ),
    "ack, one device speaks for all": (
        DEVICES_ACK,
        "own.offset, own.epoch = offset, epoch\n",
        "own.offset, own.epoch = offset, epoch\nfor _, one in ipairs(cursors) do\n"
        "redis.call('HSET', KEYS[3], 'acked:' .. one.name, offset, 'ackedin:' .. one.name, epoch)\n"
        "end\n",
        "D2",
    ),
    "send, the id is not asked": (DEVICES_SEND, "if known and ", "if false and ", "D4"),
}
"""A mistake in a script: where, its line, what it becomes, and which promise it breaks."""


@pytest.mark.timeout(120)
@pytest.mark.slow
@pytest.mark.parametrize(
    ("offer", "planted"),
    [
        *((DURABLE, name) for name in PLANTED_IN_INBOXES),
        *((DURABLE_DEVICES, name) for name in PLANTED_IN_INBOXES_OF_DEVICES),
    ],
    ids=str,
)
def test_the_simulation_finds_a_mistake_in_a_script_of_the_inbox(
    offer: Offer, planted: str
) -> None:
    """Each within a few seeds, also where users have several devices."""
    mistakes = PLANTED_IN_INBOXES if offer == DURABLE else PLANTED_IN_INBOXES_OF_DEVICES
    script, right, wrong, promise = mistakes[planted]
    assert right in script.text
    mutants = {script.name: script.text.replace(right, wrong)}
    assert any(
        promise in violated_by(seed, mutants=mutants, offer=offer) for seed in range(1, FEW + 1)
    )


TAKEN_AWAY = {
    "ack, what another device has not read goes": (
        DEVICES_ACK,
        "if place(cursor.offset) < place(behind.offset) then",
        "if false then",
    ),
    "ack, a device that is away is forgotten": (
        DEVICES_ACK,
        "forget_cursors(cursors, own, tonumber(ARGV[6])",
        "forget_cursors(cursors, own, 0",
    ),
    "read, a device that is away is forgotten": (
        DEVICES_READ,
        "forget_cursors(cursors, own, tonumber(ARGV[11])",
        "forget_cursors(cursors, own, 1",
    ),
}
"""Mistakes by which a device takes messages from another one, which is told of a gap."""


@pytest.mark.timeout(120)
@pytest.mark.slow
@pytest.mark.parametrize("name", TAKEN_AWAY)
def test_the_simulation_finds_a_device_that_takes_messages_from_another_one(name: str) -> None:
    """In the first seed. The gap is told, so only what Redis held shows it."""
    script, right, wrong = TAKEN_AWAY[name]
    assert right in script.text
    mutants = {script.name: script.text.replace(right, wrong)}
    run = simulate(1, 3.0, mutants=mutants, offer=DURABLE_DEVICES)
    assert inboxes(run.history) == []
    assert {violation.claim for violation in held(run.history, DURABLE_DEVICES.devices)} == {"D2"}
    assert not run.ok


@pytest.mark.timeout(120)
def test_a_process_of_a_device_is_killed_between_reading_and_acknowledging(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The fault reaches users with several devices, and kills the device that has read."""
    killed: list[str] = []
    kill = UserCrowd.kill

    def note(users: UserCrowd, device: Device) -> None:
        killed.append(device.user)
        kill(users, device)

    monkeypatch.setattr(UserCrowd, "kill", note)
    name = "client killed before ack"
    monkeypatch.setattr("wsdemo.proof.simulate.faults.faults_of", lambda offer: (name,))
    run = simulate(1, 1.0, offer=DURABLE_DEVICES)
    assert run.ok, run.violations
    assert killed and set(killed) <= set(DURABLE_DEVICES.names)


@pytest.mark.parametrize("words", [("--devices", "2", "--watch"), ("--devices", "2", "--rooms")])
def test_features_that_do_not_go_together_are_refused(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """With one line and exit code 2."""
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert "a run with several devices has no rooms, and nobody watches" in capsys.readouterr().err


@pytest.mark.slow
async def test_the_simulation_runs_inside_a_running_event_loop() -> None:
    """As in a notebook. The simulation leaves no task on that loop."""
    before = asyncio.all_tasks()
    run = simulate(seed=2, minutes=0.5)
    assert run.ok, run.violations
    assert asyncio.all_tasks() == before
    assert "seed 2" in repr(run) and run.faults and run.messages.delivered
    assert from_jsonl(to_jsonl(run.history)) == run.history


@pytest.mark.slow
def test_the_command_prints_a_table_and_fails_with_the_seed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 0 with a table; exit 1 with the seed, a violation, and the command that replays it."""
    assert main(["--seed", "2", "--minutes", "1"]) == 0
    assert "virtual time" in capsys.readouterr().out
    monkeypatch.setattr("wsdemo.proof.simulate.run.OFFLINE_S", 1e6)
    monkeypatch.setattr("wsdemo.proof.simulate.run.ONLINE_S", 1e6)
    assert main(["--seed", "2", "--minutes", "1"]) == 1
    text = capsys.readouterr().out
    assert "nobody looked" in text
    assert "python -m wsdemo.proof.simulate --seed 2 --minutes 1" in text


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda one: one.name)
@pytest.mark.slow
async def test_no_worker_outlives_the_command(number: signal.Signals) -> None:
    """However the command ends in the middle of many seeds, its processes end as well."""
    command = [sys.executable, "-m", "wsdemo.proof.simulate", "--seeds", "1000", "--processes", "2"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        try:
            started = psutil.Process(run.pid)

            def workers() -> list[psutil.Process]:
                return [one for one in started.children() if one.cpu_times().user > 1.0]

            await until("both workers simulate", lambda: len(workers()) == 2, 60.0, every_s=0.1)
            children = started.children()
        finally:
            run.send_signal(number)
    assert run.returncode == -number
    # An ended orphan may stay a zombie: there may be no process that waits for it.
    await until("no worker runs", lambda: not any(map(_runs, children)), 30.0, every_s=0.1)


@pytest.mark.slow
def test_hours_are_sixty_minutes_each(capsys: pytest.CaptureFixture[str]) -> None:
    """`--hours`, in place of `--minutes`; a round is always finished, so it may be a little
    more."""
    assert main(["--seed", "2", "--hours", "0.1"]) == 0
    hours = re.search(r"virtual time +(\d+\.\d) h", capsys.readouterr().out)
    assert hours is not None and 0.1 <= float(hours[1]) <= 0.2


@pytest.mark.parametrize("words", [("--hours", "0"), ("--minutes", "-1"), ("--seeds", "0")])
def test_an_amount_that_is_not_positive_is_refused(
    words: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """With one line and exit code 2."""
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert f"argument {words[0]}: must be a" in capsys.readouterr().err


@pytest.mark.slow
def test_many_seeds_in_which_an_outcome_never_occurred_fail(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outcome that never occurred was not tested. In a few seeds, it may be missing."""
    monkeypatch.setattr(
        "wsdemo.proof.simulate.run.OUTCOMES", frozenset({"mint ok", "refresh unheard of"})
    )
    for many, code in ((2, 0), (1, 1)):
        monkeypatch.setattr("wsdemo.proof.simulate.__main__.MANY", many)
        assert main(["--seed", "2", "--minutes", "1"]) == code
    assert "not proved: refresh unheard of never happened" in capsys.readouterr().out


@pytest.mark.parametrize("minutes", [0.0, -1.0, float("nan"), float("inf")])
def test_minutes_that_are_not_positive_are_refused(minutes: float) -> None:
    """The text of the error names them."""
    with pytest.raises(ValueError, match="minutes"):
        simulate(1, minutes)


_NOT_OF_THE_PRODUCT = {"_context", "_scheduled", "_exit"}
"""Of asyncio's handles, without which no loop can have virtual time; and `os._exit`."""


def _private_attributes(source: str) -> Iterator[str]:
    """Iterate over the private attributes that a module reads of other objects than its own."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Attribute) or not re.match("_[a-z]", node.attr):
            continue
        is_self = isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"}
        is_super = isinstance(node.value, ast.Call)
        if not (is_self or is_super):
            yield node.attr


def test_the_simulation_uses_no_private_attribute_of_the_product() -> None:
    """It reads public state only, and gives randomness, ids and clocks as arguments."""
    assert list(_private_attributes("gateway._front.sockets = 1")) == ["_front"]
    modules = sorted(Path(faults.__file__).parent.glob("*.py"))
    used = {name for module in modules for name in _private_attributes(module.read_text())}
    assert used == _NOT_OF_THE_PRODUCT
    assert not [module.name for module in modules if "setattr(" in module.read_text()]

"""Do the promises hold for a minute of everything that can go wrong, on real processes?

The run is what `make chaos` does. Its recorded history then shows that the verdict is not blind:
one record of it is corrupted, and the claim that it breaks is named.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from wsdemo.lab.chaos import faults as _catalogue  # noqa: F401  (fills FAULTS)
from wsdemo.lab.chaos.nemesis import FAULTS, Injection, Nemesis
from wsdemo.lab.chaos.run import OUTCOMES, _missing, allowed
from wsdemo.lab.chaos.watch import Memory, Sample, back_after_s, converged_after_s, slopes
from wsdemo.lab.chaos.world import GATEWAYS, World
from wsdemo.lab.history import (
    Closed,
    Healed,
    Looked,
    Owner,
    Phase,
    Received,
    Record,
    Registered,
    Released,
    Sent,
    from_jsonl,
    happened,
    sometimes,
)

SEED = 7
WITHIN_S = 400
"""A minute, and what a busy machine makes of it."""


@pytest.fixture(scope="module")
def run_of_a_minute(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Run once for all tests here; the directory of its report, and how the process ended."""
    out = tmp_path_factory.mktemp("chaos")
    arguments = ("--seconds", "60", "--seed", str(SEED), "--out", str(out))
    done = subprocess.run(
        [sys.executable, "-m", "wsdemo.lab.chaos", *arguments, "--json", str(out / "copy.json")],
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    return out, done


@pytest.fixture(scope="module")
def history(run_of_a_minute: tuple[Path, Any]) -> list[Record]:
    """What was recorded."""
    return from_jsonl((run_of_a_minute[0] / "history.jsonl").read_text())


@pytest.mark.timeout(WITHIN_S + 20)
def test_a_minute_of_everything_breaks_no_promise(run_of_a_minute: tuple[Path, Any]) -> None:
    """No violation; every fault and every outcome of a script at least once; nothing left."""
    out, done = run_of_a_minute
    assert done.returncode == 0, done.stdout + done.stderr
    numbers = json.loads((out / "summary.json").read_text())
    assert numbers == json.loads((out / "copy.json").read_text())
    assert numbers["green"] and numbers["violations"] == []
    assert numbers["faults"].keys() == {fault.name for fault in FAULTS}
    assert numbers["scripts"].keys() >= set(OUTCOMES)
    assert numbers["delivered"] > 1000
    assert {
        name: n for name, n in numbers["ends"].items() if name.endswith("left")
    } == dict.fromkeys(("keys left", "sockets left", "channels left", "processes left"), 0)


@pytest.mark.timeout(WITHIN_S + 20)
def test_the_report_has_its_figures_and_tells_how_to_run_it_again(
    run_of_a_minute: tuple[Path, Any],
) -> None:
    """A page in Markdown whose pictures exist, and every fault is a line of it."""
    out, done = run_of_a_minute
    page = (out / "report.md").read_text()
    assert f"--seed {SEED}" in page and f"seed {SEED}" in done.stdout
    for picture in ("timeline.png", "convergence.png", "losses.png"):
        assert f"]({picture})" in page
        assert (out / picture).stat().st_size > 10_000
    for fault in FAULTS:
        assert f"\n| {fault.name} |" in page


END_S = 60.0
"""Far more than it takes to end; a gateway that is frozen just then is killed."""


@pytest.mark.timeout(4 * END_S)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_run_that_is_told_to_end_takes_its_processes_with_it(
    number: signal.Signals, tmp_path: Path
) -> None:
    """In the middle of faults: exit code 128 + signal, soon, and no gateway and no server is left;
    a second signal does not break the cleaning up off.
    """
    command = [sys.executable, "-m", "wsdemo.lab.chaos", "--seed", str(SEED)]
    with subprocess.Popen(
        [*command, "--out", str(tmp_path / "out")], stderr=subprocess.PIPE, text=True
    ) as run:
        watchdog = threading.Timer(2 * END_S, run.kill)
        watchdog.start()
        try:
            assert run.stderr is not None
            line = run.stderr.readline()
            assert f"seed {SEED}" in line, line
            children = psutil.Process(run.pid).children(recursive=True)
            gateways = [one for one in children if "wsdemo.gateway" in one.cmdline()]
            assert len(gateways) >= len(GATEWAYS) - 1 and len(children) > len(gateways)
            run.send_signal(number)
            run.send_signal(number)
            said = run.communicate(timeout=END_S)[1]
        finally:
            watchdog.cancel()
            run.kill()
    left = psutil.wait_procs(children, timeout=END_S)[1]
    assert left == []
    assert run.returncode == 128 + number, said
    assert f"ended by {number.name}" in said and "Traceback" not in said
    assert not (tmp_path / "out").exists()


# --- the verdict is not blind --------------------------------------------------------------------

Corrupt = Callable[[list[Record]], None]


def _index(history: list[Record], fits: Callable[[Any], bool]) -> int:
    return next(n for n, record in enumerate(history) if fits(record))


def _change(history: list[Record], fits: Callable[[Any], bool], **fields: Any) -> None:
    n = _index(history, fits)
    history[n] = msgspec.structs.replace(history[n], **fields)


def _lower_token(history: list[Record]) -> None:
    """Find two owners of one user in a row, without a loss between, and let the tokens fall."""
    last: dict[str, Owner] = {}
    for n, record in enumerate(history):
        if isinstance(record, Owner) and record.conn:
            before = last.get(record.user)
            if before is not None and before.conn != record.conn and before.verb == "register":
                history[n] = msgspec.structs.replace(record, token=1)
                return
            last[record.user] = record


def _foreign_release(history: list[Record]) -> None:
    _change(history, lambda r: isinstance(r, Owner) and r.verb == "release", by="another")


def _resurrection(history: list[Record]) -> None:
    n = _index(history, lambda r: isinstance(r, Released))
    released = history[n]
    assert isinstance(released, Released)
    back = Owner(t=released.t, user=released.user, conn=released.conn, gateway="g", token=2**60)
    history.insert(n + 1, back)


def _half_an_entry(history: list[Record]) -> None:
    _change(history, lambda r: isinstance(r, Owner) and r.verb == "register", complete=False)


def _to_another(history: list[Record]) -> None:
    _change(history, lambda r: isinstance(r, Received), user="mallory")


def _twice(history: list[Record]) -> None:
    n = _index(history, lambda r: isinstance(r, Received))
    history.insert(n + 1, history[n])


def _out_of_nowhere(history: list[Record]) -> None:
    _change(history, lambda r: isinstance(r, Received), id="never sent")


def _refused_and_delivered(history: list[Record]) -> None:
    delivered = {r.id for r in history if isinstance(r, Received)}
    answers = {r.id: n for n, r in enumerate(history) if isinstance(r, Sent) and r.status}
    n = next(n for msg_id, n in answers.items() if msg_id in delivered)
    history[n] = msgspec.structs.replace(history[n], status="offline", phase=Phase.FAIL)


def _overtaken(history: list[Record]) -> None:
    """Swap two messages of one sender that one session received one after the other."""
    left = {r.id: r for r in history if isinstance(r, Sent) and r.phase is Phase.INVOKE}
    unknown = {r.id for r in history if isinstance(r, Sent) and r.phase is Phase.UNKNOWN}
    received = [(n, r) for n, r in enumerate(history) if isinstance(r, Received)]
    for (n, one), (m, other) in combinations(received, 2):
        same = one.conn == other.conn and left[one.id].conn == left[other.id].conn
        both_were_sent = left[other.id].t < one.t
        if same and both_were_sent and not {one.id, other.id} & unknown:
            history[n] = msgspec.structs.replace(one, id=other.id)
            history[m] = msgspec.structs.replace(other, id=one.id)
            return


def _wrong_owner(history: list[Record]) -> None:
    _change(history, lambda r: isinstance(r, Looked), owner="another")


def _not_back(history: list[Record]) -> None:
    _change(history, lambda r: isinstance(r, Looked), conn="")


def _ghost(history: list[Record]) -> None:
    _change(history, lambda r: isinstance(r, Looked), online=False)


def _nobody_looked(history: list[Record]) -> None:
    history[:] = [record for record in history if not isinstance(record, Looked)]


def _time_backwards(history: list[Record]) -> None:
    history[100] = msgspec.structs.replace(history[100], t=0.0)


@pytest.mark.timeout(WITHIN_S + 20)
@pytest.mark.parametrize(
    ("corrupt", "claim"),
    [
        (_foreign_release, "P1"),
        (_resurrection, "P3"),
        (_half_an_entry, "P4"),
        (_lower_token, "P5"),
        (_ghost, "P7"),
        (_wrong_owner, "P8"),
        (_nobody_looked, "P8"),
        (_not_back, "2.2"),
        (_to_another, "wrong user"),
        (_twice, "duplicate"),
        (_out_of_nowhere, "phantom"),
        (_refused_and_delivered, "ack"),
        (_overtaken, "order"),
        (_time_backwards, "history"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__.strip("_"),
)
def test_one_corrupted_record_is_named(history: list[Record], corrupt: Corrupt, claim: str) -> None:
    """The recorded history is allowed; with one thing changed in it, it is not, and why is said."""
    assert allowed(history) == []
    corrupted = list(history)
    corrupt(corrupted)
    assert corrupted != history
    assert claim in {violation.claim for violation in allowed(corrupted)}


@pytest.mark.timeout(WITHIN_S + 20)
def test_a_fault_that_never_came_is_missed(history: list[Record]) -> None:
    """Without the records of one fault, the run would be red for that fault."""
    names = [fault.name for fault in FAULTS]
    assert sometimes(happened(history), names) == []
    rest = [record for record in history if getattr(record, "name", "") != names[3]]
    assert [str(names[3]) in v.text for v in sometimes(happened(rest), names)] == [True]
    assert any(isinstance(record, Healed) for record in history)


# --- its parts -----------------------------------------------------------------------------------


def test_faults_that_would_spoil_each_other_do_not_meet() -> None:
    """What one touches, no other may touch or need at the same time; at most two are active."""
    world = World(1)
    nemesis = Nemesis(world, world.rng("nemesis"))
    by_name = {fault.name: fault for fault in FAULTS}
    assert nemesis._fits(by_name["FLUSHALL"], "gateway-01")
    nemesis.active.append(Injection(by_name["Redis stopped"], "gateway-01", 0.0))
    assert not nemesis._fits(by_name["FLUSHALL"], "gateway-01")
    assert not nemesis._fits(by_name["duplicate gateway id"], "gateway-02"), "it needs Redis"
    assert nemesis._fits(by_name["gateway drained"], "gateway-02")
    nemesis.active[:] = [Injection(by_name["gateway drained"], "gateway-02", 0.0)]
    assert not nemesis._fits(by_name["late commands"], "gateway-02")
    assert nemesis._fits(by_name["late commands"], "gateway-03")
    assert not any(nemesis._fits(by_name["swizzle-clog"], gateway) for gateway in GATEWAYS)


def test_a_seed_decides_the_order_of_faults() -> None:
    """The same seed, the same order; another seed, another one."""
    orders = [World(seed).rng("nemesis").sample(FAULTS, len(FAULTS)) for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]


def test_convergence_is_counted_to_the_last_user_who_was_wrong() -> None:
    """Who becomes wrong later is not counted, and who is never right is not called right."""

    def sample(t: float, *wrong: str) -> Sample:
        return Sample(t, 2, 2, frozenset(wrong))

    samples = [sample(1, "a", "b"), sample(2, "b", "c"), sample(3, "a", "c"), sample(4, "c")]
    assert converged_after_s(samples, 1.0) == 2.0
    assert converged_after_s(samples, 4.0) is None
    assert converged_after_s([sample(1)], 0.5) == 0.0
    assert converged_after_s(samples, 9.0) is None


def test_users_of_a_gateway_are_back_when_another_has_them() -> None:
    """Counted from the fault; who was elsewhere, or had left before, does not count."""

    def registered(t: float, user: str, gateway: str) -> Registered:
        return Registered(t=t, user=user, phase=Phase.OK, conn=f"{user}{t}", gateway=gateway)

    history: list[Record] = [
        registered(1, "a", "one"),
        registered(1, "b", "two"),
        registered(1, "c", "one"),
        Closed(t=2, user="c", conn="c1"),
        *(registered(4, "b", "one"), registered(5, "c", "two"), registered(6, "a", "two")),
    ]
    assert back_after_s(history, "one", 3.0) == [3.0]


def test_only_what_left_after_the_heal_has_to_arrive_after_it() -> None:
    """A message that was read just before, and is answered just after, is not missing."""

    def sent(msg_id: str, phase: Phase) -> Sent:
        return Sent(t=1, user="a", phase=phase, id=msg_id, to="b")

    records = [sent("m1", Phase.OK), sent("m2", Phase.INVOKE), sent("m2", Phase.OK)]
    assert _missing([*records, sent("m3", Phase.INVOKE)]) == {"m2"}
    assert _missing([*records, Received(t=1, user="b", conn="b1", id="m2")]) == set()


def test_a_leak_has_a_slope_and_a_young_process_none() -> None:
    """KiB a minute by least squares, after the warm-up."""
    leak = [Memory(float(t), "gw", 1, 1024 * (5000 + 20 * t)) for t in range(40)]
    young = [Memory(float(t), "gw", 2, 1024 * 10**6 * t) for t in range(10)]
    found = slopes([*leak, *young])
    assert found.keys() == {"gw (pid 1)"}
    assert found["gw (pid 1)"] == pytest.approx(1200)

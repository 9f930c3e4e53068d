"""Chaos with optional features: do D1 to D7, R1 to R5 and W1 to W3 hold on real processes?

The run is what `make chaos` does for half of all seeds. Then one record of its history is
corrupted, and the verdict must name the promise that this breaks.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from wsdemo.client import Client
from wsdemo.client.connection import State
from wsdemo.proof.chaos.__main__ import MIXES, mix_of, parser
from wsdemo.proof.chaos.nemesis import due
from wsdemo.proof.chaos.untaken import UntakenMessages
from wsdemo.proof.chaos.users import ClientUser, UserRoutes
from wsdemo.proof.chaos.verdict import allowed, allowed_for_devices
from wsdemo.proof.chaos.wanted import COMES_OF, WANTED_OF, wanted
from wsdemo.proof.history import (
    Calm,
    DurableSent,
    GapTold,
    InboxesLost,
    InboxOpened,
    InboxStored,
    Phase,
    Received,
    Record,
    RoomHeard,
    RoomLooked,
    RoomRegister,
    RunChanged,
    Taken,
    Violation,
    WatchLooked,
    WatchTold,
    from_jsonl,
)
from wsdemo.proof.mix import PLAIN_MIX, FeatureMix
from wsdemo.protocol import Code

pytestmark = pytest.mark.xdist_group("chaos")

SEED = 2
EVERYTHING = FeatureMix(durable=True, rooms=True, watch=True)
WITHIN_S = 400
"""A minute, and what a busy machine needs on top."""


@pytest.fixture(scope="module")
def run_of_a_minute(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Run once for all tests here; return the directory of the report, and the ended process."""
    return _run(EVERYTHING, tmp_path_factory.mktemp("chaos"))


def _run(mix: FeatureMix, out: Path) -> tuple[Path, Any]:
    words = ("--seconds", "60", "--seed", str(SEED), "--out", str(out))
    done = subprocess.run(
        [sys.executable, "-m", "wsdemo.proof.chaos", *mix.words, *words],
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
@pytest.mark.slow
@pytest.mark.alone
def test_a_minute_of_faults_breaks_no_promise_of_a_feature(
    run_of_a_minute: tuple[Path, Any],
) -> None:
    """No violation; every fault that is due occurs, with its expected outcomes."""
    numbers = _green(run_of_a_minute, EVERYTHING)
    assert all(count > 0 for count in numbers["featureRecords"].values())
    assert "## Optional features" in (run_of_a_minute[0] / "report.md").read_text()


@pytest.mark.timeout(WITHIN_S + 20)
@pytest.mark.slow
@pytest.mark.alone
def test_a_minute_of_faults_breaks_no_promise_of_two_devices(tmp_path: Path) -> None:
    """P1 to P8 hold for each device, and each message is for all devices of its recipient, also a
    durable one.
    """
    devices = FeatureMix(devices=2, durable=True)
    numbers = _green(_run(devices, tmp_path / "out"), devices)
    history = from_jsonl((tmp_path / "out" / "history.jsonl").read_text())
    received = {(r.id, r.user) for r in history if isinstance(r, Received)}
    twice = Counter(msg_id for msg_id, _ in received)
    assert max(twice.values()) == 2 and numbers["pairs"] > 100
    n = _index(history, lambda r: isinstance(r, Received))
    history.insert(n + 1, history[n])
    assert "duplicate" in {violation.claim for violation in allowed_for_devices(history)}
    _taken_twice(history)
    assert "D3" in {violation.claim for violation in allowed_for_devices(history)}
    assert "D2" not in {violation.claim for violation in allowed_for_devices(history)}
    _taken_away(history)
    assert "D2" in {violation.claim for violation in allowed_for_devices(history)}


def _green(ran: tuple[Path, Any], mix: FeatureMix) -> Any:
    """Check that a run was green, and return its numbers."""
    out, done = ran
    numbers = json.loads((out / "summary.json").read_text())
    if numbers["claims"].keys() == {"machine"}:
        pytest.skip(f"the machine was busy with other things for {numbers['lateS']:g} s")
    assert done.returncode == 0, done.stdout + done.stderr
    assert numbers["green"] and numbers["features"] == mix.words
    assert numbers["faults"].keys() >= {fault.name for fault in due(SEED, mix)}
    return numbers


# --- corrupted histories --------------------------------------------------------------------

Corrupt = Callable[[list[Record]], None]


def _index(history: list[Record], fits: Callable[[Any], bool]) -> int:
    return next(n for n, record in enumerate(history) if fits(record))


def _last(history: list[Record], fits: Callable[[Any], bool]) -> int:
    return len(history) - 1 - _index(history[::-1], fits)


def _change(history: list[Record], fits: Callable[[Any], bool], **fields: Any) -> None:
    n = _index(history, fits)
    history[n] = msgspec.structs.replace(history[n], **fields)


def _never_stored(history: list[Record]) -> None:
    _change(history, lambda r: isinstance(r, DurableSent) and r.phase is Phase.OK, id="d:x:1")


def _lost_on_the_way(history: list[Record]) -> None:
    """Nobody takes one of the last messages, and no gap is told after it was stored."""
    readers = {r.user for r in history if isinstance(r, InboxOpened)}
    gaps = {r.user: r.t for r in history if isinstance(r, GapTold)}
    n = _last(
        history,
        lambda r: isinstance(r, InboxStored) and r.user in readers and r.t > gaps.get(r.user, 0.0),
    )
    stored = history[n]
    assert isinstance(stored, InboxStored)
    history[:] = [r for r in history if not (isinstance(r, Taken) and r.id == stored.id)]


def _taken_twice(history: list[Record]) -> None:
    n = _index(history, lambda r: isinstance(r, Taken))
    history.insert(n + 1, history[n])


def _taken_away(history: list[Record]) -> None:
    """Half of what a device takes is gone, and it is told of a gap in place of each."""
    for n, record in enumerate(history):
        if isinstance(record, Taken) and record.user.endswith("/laptop") and n % 2:
            history[n] = GapTold(t=record.t, user=record.user, process=record.process)


def _stored_twice(history: list[Record]) -> None:
    n = _index(history, lambda r: isinstance(r, InboxStored))
    history.insert(n + 1, history[n])


def _run_untold(history: list[Record]) -> None:
    """Redis is another one, and a message that is stored then is taken without a gap before."""
    n = _last(history, lambda r: isinstance(r, InboxStored) and _is_taken(history, r))
    history.insert(n, RunChanged(t=history[n].t))


def _is_taken(history: list[Record], stored: InboxStored) -> bool:
    return any(isinstance(r, Taken) and r.id == stored.id for r in history)


def _older_stamp(history: list[Record]) -> None:
    """The register of somebody who is in a room goes back."""
    states: dict[tuple[str, str], str] = {}
    for n, record in enumerate(history):
        if isinstance(record, RoomRegister):
            key = (record.room, record.member)
            if states.get(key) == "in" and record.verb in ("join", "leave"):
                history[n] = msgspec.structs.replace(record, token=1)
                return
            states[key] = record.state


def _ghost_in_a_room(history: list[Record]) -> None:
    n = _last(history, lambda r: isinstance(r, RoomLooked))
    look = history[n]
    assert isinstance(look, RoomLooked)
    history[n] = msgspec.structs.replace(look, listed=(*look.listed, "a-ghost"))


def _wrong_belief(history: list[Record]) -> None:
    n = _last(history, lambda r: isinstance(r, RoomLooked))
    look = history[n]
    assert isinstance(look, RoomLooked)
    user = next(iter(look.told))
    history[n] = msgspec.structs.replace(look, told=look.told | {user: (user, "a-ghost")})


def _heard_twice(history: list[Record]) -> None:
    n = _index(history, lambda r: isinstance(r, RoomHeard))
    history.insert(n + 1, history[n])


def _not_heard(history: list[Record]) -> None:
    """Somebody in the room does not hear what is said when a calm begins."""
    begin = history[_last(history, lambda r: isinstance(r, Calm) and r.begins)].t
    fits = lambda r: isinstance(r, RoomHeard) and begin + 0.1 < r.t < begin + 0.9  # noqa: E731
    del history[_last(history, fits)]


def _wrong_about_another(history: list[Record]) -> None:
    n = _last(history, lambda r: isinstance(r, WatchLooked))
    look = history[n]
    assert isinstance(look, WatchLooked)
    history[n] = msgspec.structs.replace(look, is_there=not look.is_there)


def _told_twice(history: list[Record]) -> None:
    n = _index(history, lambda r: isinstance(r, WatchTold))
    history.insert(n + 1, history[n])


@pytest.mark.timeout(WITHIN_S + 20)
@pytest.mark.parametrize(
    ("corrupt", "claim"),
    [
        (_never_stored, "D1"),
        (_lost_on_the_way, "D2"),
        (_taken_twice, "D3"),
        (_stored_twice, "D4"),
        (_run_untold, "D7"),
        (_older_stamp, "R1"),
        (_wrong_belief, "R3"),
        (_ghost_in_a_room, "R4"),
        (_heard_twice, "room"),
        (_not_heard, "room"),
        (_wrong_about_another, "W1"),
        (_told_twice, "W2"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__.strip("_"),
)
@pytest.mark.slow
@pytest.mark.alone
def test_one_corrupted_record_of_a_feature_is_named(
    history: list[Record], corrupt: Corrupt, claim: str
) -> None:
    """The recorded history is allowed. With one change it is not, and the promise is named."""
    assert allowed(history) == []
    corrupted = list(history)
    corrupt(corrupted)
    assert corrupted != history
    assert claim in {violation.claim for violation in allowed(corrupted)}


# --- its parts -----------------------------------------------------------------------------------


def test_the_seed_chooses_the_features_unless_they_are_named() -> None:
    """An even seed and the next one have the same features, so together they have all faults."""
    chosen = [mix_of(parser().read([]), seed) for seed in range(6)]
    assert chosen == [mix for mix in MIXES for _ in range(2)]
    assert {mix_of(parser().read(["--plain"]), seed) for seed in range(4)} == {PLAIN_MIX}
    assert mix_of(parser().read(["--rooms"]), 0) == FeatureMix(rooms=True)


@pytest.mark.parametrize(
    "words",
    [["--plain", "--durable"], ["--devices", "3"], ["--devices", "2", "--rooms"]],
    ids=" ".join,
)
def test_features_that_chaos_does_not_have_together_are_refused(words: list[str]) -> None:
    """With a reason, before anything is started."""
    with pytest.raises(ValueError, match=r"--plain means|one device here|several devices"):
        mix_of(parser().read(words), 1)


def test_what_features_should_show_is_wanted_only_where_they_are() -> None:
    """Without them nothing of theirs; and what a fault brings about, only after that fault."""
    everything = {name for names in WANTED_OF.values() for name in names}
    assert everything.isdisjoint(wanted({}))
    rare = everything & COMES_OF.keys()
    assert set(wanted({}, EVERYTHING)) & everything == everything - rare
    assert "room_join stale" in wanted({"late join": 1}, EVERYTHING)


READERS = ("bob", "eve/phone", "eve/laptop")


def _untaken(*records: Record, users: Collection[str] = READERS) -> list[str]:
    untaken = UntakenMessages(users)
    for record in records:
        untaken.note(record)
    return untaken.since(10.0)


STORED = InboxStored(t=1, user="bob", id="m1", offset="1-1")
TAKEN = Taken(t=2, user="bob", process="p1", id="m1", offset="1-1")
BY_PHONE = Taken(t=2, user="eve/phone", process="p2", id="m2", offset="1-1")
LAPTOP_TOLD = GapTold(t=2, user="eve/laptop", process="p3")


@pytest.mark.parametrize(
    ("records", "left"),
    [
        ([STORED], ["m1"]),
        ([STORED, TAKEN], []),
        ([TAKEN, STORED], []),
        ([STORED, GapTold(t=2, user="bob", process="p1")], []),
        ([STORED, GapTold(t=2, user="carol", process="p2")], ["m1"]),
        ([TAKEN, InboxesLost(t=3), STORED], ["m1"]),
        ([msgspec.structs.replace(STORED, t=11.0)], []),
        ([msgspec.structs.replace(STORED, user="nobody")], []),
        ([InboxStored(t=1, user="eve", id="m2", offset="1-1")], ["m2", "m2"]),
        ([InboxStored(t=1, user="eve", id="m2", offset="1-1"), BY_PHONE], ["m2"]),
        ([InboxStored(t=1, user="eve", id="m2", offset="1-1"), BY_PHONE, LAPTOP_TOLD], []),
    ],
)
def test_what_is_stored_is_awaited_until_it_is_taken_or_told(
    records: list[Record], left: list[str]
) -> None:
    """Whichever of the two is recorded first; and only what was stored before the time in
    question, for a user who reads; by each device, where there are several."""
    assert _untaken(*records) == left


class _ComingBack(ClientUser):
    """A user who only counts how often it logs in again."""

    came = 0

    async def come(self, first: str = "") -> None:
        self.came += 1


@pytest.mark.parametrize(
    ("codes", "complains"),
    [
        ([Code.DISCONNECTED], False),
        ([Code.REPLACED], True),
        ([Code.REPLACED, Code.DISCONNECTED], False),
        ([Code.DISCONNECTED, Code.REPLACED], False),
        ([Code.REPLACED, Code.REPLACED], True),
    ],
    ids=str,
)
async def test_a_user_whom_a_backend_has_sent_away_is_not_missed(
    codes: list[Code], complains: bool
) -> None:
    """Whichever of its sessions is looked at first; everybody else without a session is."""
    complaints: list[Violation] = []
    user = _ComingBack(
        "eve",
        UserRoutes({}, random.Random(1)),
        ("bob",),
        random.Random(1),
        lambda record: None,
        lambda: 1.0,
        complaints.append,
    )
    user.online = True
    user.clients = [
        cast(
            Client,
            SimpleNamespace(
                state=State.CLOSED, conn_id=f"c{n}", close_code=code, closed_because="told so"
            ),
        )
        for n, code in enumerate(codes)
    ]
    await user.look_after_sessions()
    assert bool(complaints) is complains
    assert not user.clients and user.came == 1

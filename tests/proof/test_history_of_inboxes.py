"""History checks of durable messages: does each find what violates it, and nothing else?"""

from __future__ import annotations

import pytest

from wsdemo.proof.history import (
    DurableSent,
    GapTold,
    Healed,
    InboxesLost,
    InboxOpened,
    InboxStored,
    Late,
    Looked,
    Phase,
    Record,
    RunChanged,
    Taken,
    from_jsonl,
    inboxes,
    to_jsonl,
)


def reader(process: str = "p1") -> Record:
    return InboxOpened(t=0, user="bob", process=process)


def asked(t: float, msg_id: str) -> Record:
    return DurableSent(t=t, user="alice", phase=Phase.INVOKE, id=msg_id, to="bob", process="a")


def told(t: float, msg_id: str, status: str = "stored") -> Record:
    phase = Phase.OK if status in {"stored", "duplicate"} else Phase.UNKNOWN
    return DurableSent(
        t=t, user="alice", phase=phase, id=msg_id, to="bob", process="a", status=status
    )


def stored(t: float, msg_id: str, offset: str) -> Record:
    return InboxStored(t=t, user="bob", id=msg_id, offset=offset)


def taken(t: float, msg_id: str, offset: str, process: str = "p1") -> Record:
    return Taken(t=t, user="bob", process=process, id=msg_id, offset=offset)


def gap(t: float, process: str = "p1") -> Record:
    return GapTold(t=t, user="bob", process=process)


def looked(t: float) -> Record:
    return Looked(t=t, user="bob", online=True, conn="c1", owner="c1", believers=("c1",))


TWO = [stored(1, "m1", "1-1"), stored(2, "m2", "2-2")]
BOTH = [taken(3, "m1", "1-1"), taken(4, "m2", "2-2")]
AGAIN = stored(3, "m1", "3-3")

PHONE, LAPTOP = "bob/phone", "bob/laptop"


def opens(name: str) -> Record:
    return InboxOpened(t=0, user=name, process=name)


def takes(name: str, t: float, msg_id: str, offset: str) -> Record:
    return Taken(t=t, user=name, process=name, id=msg_id, offset=offset)


def both(name: str) -> list[Record]:
    return [takes(name, 3, "m1", "1-1"), takes(name, 4, "m2", "2-2")]


def seen(name: str, t: float, *, online: bool) -> Record:
    return Looked(t=t, user=name, online=online, conn="c1" * online)


OF_DEVICES = [opens(PHONE), opens(LAPTOP), *TWO]

HISTORIES: list[tuple[str, list[Record], list[str]]] = [
    ("all is taken", [reader(), *TWO, *BOTH], []),
    (
        "taken by two processes",
        [reader(), TWO[0], taken(3, "m1", "1-1"), taken(4, "m1", "1-1", "p2")],
        [],
    ),
    ("called stored", [asked(0, "m1"), stored(1, "m1", "1-1"), told(2, "m1")], []),
    ("not stored", [asked(0, "m1"), told(2, "m1")], ["D1"]),
    ("stored too late", [asked(0, "m1"), told(2, "m1"), stored(3, "m1", "1-1")], ["D1"]),
    ("no duplicate of anything", [asked(0, "m1"), told(2, "m1", "duplicate")], ["D1"]),
    ("unknown, and not stored", [asked(0, "m1"), told(2, "m1", "unknown")], []),
    ("lost", [reader(), *TWO, BOTH[0]], ["D2"]),
    ("lost, and nobody reads", [*TWO], []),
    ("each device takes all", [*OF_DEVICES, *both(PHONE), *both(LAPTOP)], []),
    ("one device takes all", [*OF_DEVICES, *both(PHONE)], ["D2", "D2"]),
    (
        "one device is told a gap",
        [*OF_DEVICES, *both(PHONE), GapTold(t=5, user=LAPTOP, process=LAPTOP)],
        [],
    ),
    (
        "the gap is told to the wrong device",
        [*OF_DEVICES, *both(PHONE), GapTold(t=5, user=PHONE, process=PHONE)],
        ["D2", "D2"],
    ),
    (
        "a device is away at the end",
        [*OF_DEVICES, *both(PHONE), seen(LAPTOP, 5, online=False)],
        [],
    ),
    (
        "a device was away, and opens its inbox again",
        [*OF_DEVICES, *both(PHONE), seen(LAPTOP, 5, online=False), opens(LAPTOP)],
        ["D2", "D2"],
    ),
    (
        "a user without devices is away at the end",
        [reader(), *TWO, seen("bob", 5, online=False)],
        ["D2", "D2"],
    ),
    (
        "not yet taken by one device after a heal",
        [
            *OF_DEVICES,
            *both(PHONE)[:1],
            Healed(t=3.5),
            seen(LAPTOP, 3.6, online=True),
            *both(PHONE)[1:],
            *both(LAPTOP),
        ],
        ["D2"],
    ),
    (
        "a new run is told to one device only",
        [
            *OF_DEVICES[:2],
            RunChanged(t=0.5),
            *TWO,
            GapTold(t=2.5, user=PHONE, process=PHONE),
            *both(PHONE),
            *both(LAPTOP),
        ],
        ["D7"],
    ),
    (
        "a device takes a message twice",
        [
            *OF_DEVICES,
            *both(PHONE),
            *both(LAPTOP),
            GapTold(t=5, user=PHONE, process=PHONE),
            takes(PHONE, 6, "m1", "1-1"),
        ],
        ["D3"],
    ),
    ("lost, told by a gap", [reader(), *TWO, gap(3)], []),
    ("lost after a gap", [reader(), gap(0.5), *TWO, BOTH[0]], ["D2"]),
    (
        "not yet taken after a heal",
        [reader(), *TWO, Healed(t=2.5), looked(2.6), *BOTH],
        ["D2", "D2"],
    ),
    ("stored after the heal", [reader(), Healed(t=0.5), *TWO, looked(2.6), *BOTH], []),
    ("skipped", [reader(), *TWO, BOTH[1], taken(5, "m1", "1-1", "p2")], []),
    (
        "skipped between two",
        [
            reader(),
            *TWO,
            stored(2.5, "m3", "3-3"),
            BOTH[0],
            taken(5, "m3", "3-3"),
            taken(6, "m2", "2-2", "p2"),
        ],
        ["D2"],
    ),
    (
        "skipped between two, and told",
        [reader(), *TWO, stored(2.5, "m3", "3-3"), BOTH[0], gap(4), taken(5, "m3", "3-3")],
        [],
    ),
    ("backwards", [reader(), *TWO, BOTH[1], taken(5, "m1", "1-1")], ["D2"]),
    (
        "after its position",
        [InboxOpened(t=0, user="bob", process="p1", after="1-1"), *TWO, BOTH[1], gap(9)],
        [],
    ),
    (
        "not after its position",
        [InboxOpened(t=0, user="bob", process="p1", after="0-0"), *TWO, BOTH[1], gap(9)],
        ["D2"],
    ),
    ("twice", [reader(), *TWO, *BOTH, gap(5), taken(6, "m1", "1-1")], ["D3"]),
    ("stored twice", [TWO[0], AGAIN], ["D4"]),
    ("stored anew after a loss", [TWO[0], InboxesLost(t=2), AGAIN], []),
    (
        "stored twice, another's inbox was lost",
        [TWO[0], InboxesLost(t=2, user="eve"), AGAIN],
        ["D4"],
    ),
    (
        "in the order of the sender",
        [asked(0, "m1"), TWO[0], told(1.1, "m1"), asked(1.2, "m2"), TWO[1]],
        [],
    ),
    (
        "against the order of the sender",
        [
            asked(0, "m1"),
            stored(1, "m1", "2-2"),
            told(1.1, "m1"),
            asked(1.2, "m2"),
            stored(2, "m2", "1-1"),
        ],
        ["D5"],
    ),
    (
        "two at once have no order",
        [
            asked(0, "m1"),
            asked(0, "m2"),
            stored(1, "m1", "2-2"),
            told(2, "m1"),
            stored(3, "m2", "1-1"),
        ],
        [],
    ),
    ("a new run, untold", [reader(), RunChanged(t=0.5), TWO[0], BOTH[0]], ["D7"]),
    ("a new run, told", [reader(), RunChanged(t=0.5), TWO[0], gap(2), BOTH[0]], []),
    ("told of the run before", [reader(), gap(0.1), RunChanged(t=0.5), TWO[0], BOTH[0]], ["D7"]),
    ("stored in the run before", [reader(), TWO[0], RunChanged(t=2), BOTH[0]], []),
]


@pytest.mark.parametrize(
    ("history", "expected"), [row[1:] for row in HISTORIES], ids=[row[0] for row in HISTORIES]
)
def test_what_becomes_of_durable_messages(history: list[Record], expected: list[str]) -> None:
    """D1 to D5 and D7, in histories of a few records."""
    assert [violation.claim for violation in inboxes(history)] == expected


def test_records_of_inboxes_are_written_and_read() -> None:
    """As JSON lines."""
    history = [record for _, history, _ in HISTORIES for record in history]
    assert from_jsonl(to_jsonl(history)) == history


def test_a_witness_may_lag_behind_what_clients_are_told() -> None:
    """D1: what is stored is recorded later than the answer by so much at most, and by the time in
    which the machine was too busy."""
    history = [asked(0, "m1"), told(2, "m1"), stored(2.2, "m1", "1-1")]
    assert [one.claim for one in inboxes(history)] == ["D1"]
    assert inboxes(history, lag_s=0.3) == []
    assert [one.claim for one in inboxes(history, lag_s=0.1)] == ["D1"]
    assert inboxes([*history, Late(t=2.3, for_s=0.5)], lag_s=0.1) == []

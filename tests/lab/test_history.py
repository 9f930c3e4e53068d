"""The checks of histories: each has one that violates it, and one that nearly does."""

from __future__ import annotations

from collections import Counter

import pytest

from wsdemo.lab.history import (
    DEFINITELY_NOT,
    Closed,
    Fault,
    Forgotten,
    Happened,
    Healed,
    History,
    Looked,
    Owner,
    Phase,
    Received,
    Record,
    Registered,
    Released,
    Sent,
    Violation,
    check,
    convergence,
    from_jsonl,
    happened,
    messages,
    owners,
    sometimes,
    tally,
    to_jsonl,
    unexplained,
    well_formed,
)


def owner(t: float, conn: str, token: int = 0, **fields: object) -> Owner:
    return Owner(t=t, user="bob", conn=conn, gateway="gw", token=token, **fields)  # type: ignore[arg-type]


def nobody(t: float, **fields: object) -> Owner:
    return Owner(t=t, user="bob", **fields)  # type: ignore[arg-type]


def released(t: float, conn: str) -> Released:
    return Released(t=t, user="bob", conn=conn)


def sent(t: float, msg_id: str, conn: str = "a1") -> Sent:
    return Sent(t=t, user="alice", phase=Phase.INVOKE, id=msg_id, to="bob", conn=conn)


def answered(t: float, msg_id: str, status: str) -> Sent:
    phase = {"routed": Phase.OK, "unknown": Phase.UNKNOWN}.get(status, Phase.FAIL)
    return Sent(t=t, user="alice", phase=phase, id=msg_id, status=status)


def received(t: float, msg_id: str, user: str = "bob", conn: str = "b1") -> Received:
    return Received(t=t, user=user, conn=conn, id=msg_id, sender="alice")


def looked(t: float, conn: str, owner: str, *believers: str, online: bool = True) -> Looked:
    return Looked(t=t, user="bob", online=online, conn=conn, owner=owner, believers=believers)


def online(t: float, conn: str) -> Registered:
    return Registered(t=t, user="bob", phase=Phase.OK, conn=conn)


def fault(t: float, until: float) -> list[Record]:
    return [Fault(t=t, name="cut", begins=True), Fault(t=until, name="cut", begins=False)]


def claims(violations: list[Violation]) -> list[str]:
    return [violation.claim for violation in violations]


OWNERS: list[tuple[str, list[Record], list[str]]] = [
    ("tokens fall", [owner(1, "b1", 20), owner(2, "b2", 10)], ["P5"]),
    ("tokens repeat", [owner(1, "b1", 20), owner(2, "b2", 20)], ["P5"]),
    ("tokens rise", [owner(1, "b1", 10), owner(2, "b2", 20)], []),
    ("fall behind a gap", [owner(1, "b1", 20), nobody(2), owner(3, "b2", 10)], ["P5"]),
    ("one session, refreshed", [owner(1, "b1", 20), owner(2, "b1", 20)], []),
    ("one session, reclaimed", [owner(1, "b1", 20), nobody(2), owner(3, "b1", 20)], []),
    ("fall after a loss", [owner(1, "b1", 20), Forgotten(t=2), owner(3, "b2", 10)], []),
    (
        "fall after the loss of another",
        [owner(1, "b1", 20), Forgotten(t=2, user="carol"), owner(3, "b2", 10)],
        ["P5"],
    ),
    ("no tokens", [Owner(t=1, user="bob", conn="b1"), Owner(t=2, user="bob", conn="b2")], []),
    ("released owns", [owner(1, "b1", 10), released(2, "b1"), owner(3, "b1", 10)], ["P3"]),
    ("released before it owned", [released(1, "b1"), owner(2, "b1", 10)], ["P3"]),
    ("another is released", [owner(1, "b1", 10), released(2, "b0"), owner(3, "b1", 10)], []),
    (
        "superseded owns",
        [owner(1, "b1", 10), owner(2, "b2", 20), nobody(3), owner(4, "b1", 10)],
        ["P3", "P5"],
    ),
    ("ghost", [released(1, "b1"), Forgotten(t=2), owner(91, "b1", 10)], []),
    ("ghost that comes late", [released(1, "b1"), Forgotten(t=2), owner(93, "b1", 10)], ["P3"]),
    ("released after the loss", [Forgotten(t=1), released(2, "b1"), owner(3, "b1", 10)], ["P3"]),
    ("half an entry", [Owner(t=1, user="bob", complete=False)], ["P4"]),
    ("late cleanup", [owner(1, "b2", 20), nobody(2, verb="release", by="b1")], ["P1"]),
    ("own cleanup", [owner(1, "b2", 20), nobody(2, verb="release", by="b2")], []),
    ("expired", [owner(1, "b2", 20), nobody(91)], []),
    (
        "cleanup of one who came after the loss, unseen",
        [owner(1, "b1", 10), Forgotten(t=2), nobody(3, verb="release", by="b2")],
        [],
    ),
]


@pytest.mark.parametrize(("name", "history", "broken"), OWNERS, ids=[row[0] for row in OWNERS])
def test_owners(name: str, history: History, broken: list[str]) -> None:
    """P1, P3, P4, P5 are told from what only looks like their violation."""
    assert claims(owners(history)) == broken


MESSAGES: list[tuple[str, list[Record], list[str]]] = [
    ("wrong user", [sent(1, "m1"), received(2, "m1", "carol", "c1")], ["wrong user"]),
    ("right user", [sent(1, "m1"), received(2, "m1")], []),
    (
        "wrong sender",
        [sent(1, "m1"), Received(t=2, user="bob", conn="b1", id="m1", sender="mallory")],
        ["wrong sender"],
    ),
    ("phantom", [received(1, "m1")], ["phantom"]),
    ("received before it was sent", [received(1, "m1"), sent(2, "m1")], ["phantom"]),
    ("duplicate", [sent(1, "m1"), received(2, "m1"), received(3, "m1")], ["duplicate"]),
    (
        "two messages",
        [sent(1, "m1"), sent(1, "m2"), received(2, "m1"), received(3, "m2")],
        [],
    ),
    (
        "overtaken",
        [sent(1, "m1"), sent(2, "m2"), received(3, "m2"), received(4, "m1")],
        ["order"],
    ),
    (
        "overtaken, and told unknown",
        [
            *(sent(1, "m1"), answered(1.5, "m1", "unknown"), sent(2, "m2")),
            *(received(3, "m2"), received(4, "m1")),
        ],
        [],
    ),
    (
        "overtaken, the other was told unknown",
        [
            *(sent(1, "m1"), sent(2, "m2"), answered(2.5, "m2", "unknown")),
            *(received(3, "m2"), received(4, "m1")),
        ],
        ["order"],
    ),
    (
        "overtaken by one that was routed before it became unknown",
        [
            *(sent(1, "m1"), sent(2, "m2"), answered(2.5, "m2", "routed"), received(3, "m2")),
            *(answered(4, "m1", "unknown"), received(5, "m1")),
        ],
        ["order"],
    ),
    (
        "overtaken, and both are unknown",
        [
            *(sent(1, "m1"), sent(2, "m2"), answered(3, "m2", "unknown"), received(3, "m2")),
            *(answered(4, "m1", "unknown"), received(5, "m1")),
        ],
        [],
    ),
    (
        "overtaken, and had left before the recipient was registered",
        [sent(1, "m1"), online(2, "b1"), sent(3, "m2"), received(4, "m2"), received(5, "m1")],
        [],
    ),
    (
        "overtaken, and had left after the recipient was registered",
        [online(1, "b1"), sent(2, "m1"), sent(3, "m2"), received(4, "m2"), received(5, "m1")],
        ["order"],
    ),
    (
        "overtaken by one of another connection",
        [sent(1, "m1"), sent(2, "m2", "a2"), received(3, "m2"), received(4, "m1")],
        [],
    ),
    (
        "received by two sessions",
        [sent(1, "m1"), sent(2, "m2"), received(3, "m2", conn="b2"), received(4, "m1")],
        [],
    ),
    ("lost in between", [sent(1, "m1"), sent(2, "m2"), received(3, "m2")], []),
    ("unknown, received", [sent(1, "m1"), answered(2, "m1", "unknown"), received(3, "m1")], []),
    ("routed, lost", [sent(1, "m1"), answered(2, "m1", "routed")], []),
    (
        "the last answer counts",
        [sent(1, "m1"), answered(2, "m1", "unknown"), answered(3, "m1", "offline")],
        [],
    ),
    (
        "a no is taken back",
        [
            *(sent(1, "m1"), answered(2, "m1", "offline"), answered(3, "m1", "routed")),
            received(4, "m1"),
        ],
        ["ack"],
    ),
    *(
        (
            f"{status}, received",
            [sent(1, "m1"), answered(2, "m1", status), received(3, "m1")],
            ["ack"],
        )
        for status in sorted(DEFINITELY_NOT)
    ),
]


@pytest.mark.parametrize(("name", "history", "broken"), MESSAGES, ids=[row[0] for row in MESSAGES])
def test_messages(name: str, history: History, broken: list[str]) -> None:
    """Nothing is delivered wrongly, twice, out of order, or after a "no"."""
    assert claims(messages(history)) == broken


LOST = [online(0, "b1"), sent(20, "m1"), answered(20, "m1", "routed")]
END = [Happened(t=99, name="end")]
UNEXPLAINED: list[tuple[str, list[Record], list[str]]] = [
    ("in calm, to one who stayed", [*LOST, *END], ["lost"]),
    ("delivered", [*LOST, received(21, "m1"), *END], []),
    ("not routed", [*LOST, answered(21, "m1", "unknown"), *END], []),
    ("near a fault", [online(0, "b1"), *fault(9, 11), *LOST[1:], *END], []),
    ("far from a fault", [online(0, "b1"), *fault(7, 9), *LOST[1:], *END], ["lost"]),
    ("in a fault without an end", [Fault(t=0, name="cut", begins=True), *LOST, *END], []),
    ("to one who left", [*LOST, Closed(t=25, user="bob", conn="b1"), *END], []),
    ("to one who left later", [*LOST, Closed(t=31, user="bob", conn="b1"), *END], ["lost"]),
    ("to one who was there twice", [online(0, "b0"), *LOST, *END], []),
    ("to one who had just come", [online(12, "b1"), *LOST[1:], *END], []),
    ("at the very end", [*LOST, Happened(t=25, name="end")], []),
]


@pytest.mark.parametrize(
    ("name", "history", "broken"), UNEXPLAINED, ids=[row[0] for row in UNEXPLAINED]
)
def test_a_loss_in_calm_needs_a_reason(name: str, history: History, broken: list[str]) -> None:
    """Plain mode loses messages only in faults, and when the recipient moves."""
    assert claims(unexplained(history)) == broken


HEAL = [*fault(1, 10), Healed(t=10)]
CONVERGED: list[tuple[str, list[Record], list[str]]] = [
    ("converged", [*HEAL, looked(40, "b1", "b1", "b1")], []),
    ("not yet", [*HEAL, looked(39, "b1", "b0", "b0"), looked(41, "b1", "b1", "b1")], []),
    ("wrong owner", [*HEAL, looked(41, "b1", "b0", "b1")], ["P8"]),
    ("no owner", [*HEAL, looked(41, "b1", "", "b1")], ["P8"]),
    ("two believers", [*HEAL, looked(41, "b1", "b1", "b0", "b1")], ["P8"]),
    ("no believer", [*HEAL, looked(41, "b1", "b1")], ["P8"]),
    ("not connected", [*HEAL, looked(41, "", "")], ["2.2"]),
    ("ghost", [*HEAL, looked(101, "", "b0", online=False)], ["P7"]),
    ("ghost, in time", [*HEAL, looked(99, "", "b0", online=False), looked(99, "b", "b", "b")], []),
    ("believed ghost", [*HEAL, looked(101, "", "", "b0", online=False)], ["P7"]),
    ("gone", [*HEAL, looked(101, "", "", online=False)], []),
    ("nobody looked", [*HEAL, looked(30, "b1", "b1", "b1")], ["P8"]),
    (
        "nobody looked at one of them",
        [
            Registered(t=0, user="carol", phase=Phase.OK, conn="c1"),
            *(*HEAL, looked(41, "b1", "b1", "b1")),
        ],
        ["P8"],
    ),
    (
        "one who came later was not looked at",
        [
            *(*HEAL, Registered(t=11, user="carol", phase=Phase.OK, conn="c1")),
            looked(41, "b1", "b1", "b1"),
        ],
        [],
    ),
    ("nothing was healed", [*fault(1, 10), looked(41, "b1", "b1", "b1")], ["P8"]),
    (
        "the next fault",
        [*HEAL, looked(40, "b1", "b1", "b1"), *fault(41, 42), looked(43, "", "")],
        [],
    ),
    (
        "the heal before the last",
        [*HEAL, looked(41, "b1", ""), *fault(50, 60), Healed(t=60), looked(90, "b1", "b1", "b1")],
        ["P8", "P8"],
    ),
]


@pytest.mark.parametrize(
    ("name", "history", "broken"), CONVERGED, ids=[row[0] for row in CONVERGED]
)
def test_convergence(name: str, history: History, broken: list[str]) -> None:
    """P7, P8: a while after each heal, client, gateways and Redis agree; not before, not never."""
    assert claims(convergence(history, online_s=30, offline_s=90)) == broken


def test_a_fault_has_an_aftermath() -> None:
    """What a fault has left may swallow messages for a while, and no longer."""
    history = [online(0, "b1"), *fault(1, 5), *LOST[1:], *END]
    assert claims(unexplained(history, aftermath_s=14)) == ["lost"]
    assert unexplained(history, aftermath_s=15) == []


def test_a_run_without_the_faults_it_is_for_is_red() -> None:
    """Sometimes: everything wanted has happened once, or there is a violation that names it."""
    history = [*fault(1, 2), Happened(t=3, name="refresh closed")]
    counts = happened(history)
    assert counts == Counter({"cut": 1, "refresh closed": 1})
    assert sometimes(counts, ["cut", "refresh closed"]) == []
    (missing,) = sometimes(counts, ["cut", "freeze"])
    assert "freeze" in missing.text


def test_losses_are_counted_by_answer_and_by_whether_a_fault_was_near() -> None:
    """The tally tells what was lost in faults from what was lost in calm."""
    history = [
        *[sent(1, "m1"), received(1, "m1"), answered(1, "m1", "routed")],
        *[sent(2, "m2"), answered(2, "m2", "offline")],
        *[*fault(50, 60), sent(65, "m3"), answered(65, "m3", "routed"), sent(90, "m4")],
    ]
    counts = tally(history, near_s=10)
    assert counts.sent == Counter({"routed": 2, "offline": 1, "unknown": 1})
    assert counts.delivered == 1
    assert counts.lost_in_faults == Counter({"routed": 1})
    assert counts.lost_in_calm == Counter({"offline": 1, "unknown": 1})


def test_a_history_survives_jsonl() -> None:
    """JSONL both ways is the identity, for every kind of record."""
    history: list[Record] = [row for _, rows, _ in [*OWNERS, *MESSAGES, *CONVERGED] for row in rows]
    history += [*LOST, *fault(1, 2), Closed(t=3, user="bob", conn="b1", code=4509)]
    kinds = {type(record) for record in history} | {Happened}
    assert len(kinds) == 11
    history.append(Happened(t=4, name="route offline"))
    assert from_jsonl(to_jsonl(history)) == history
    with pytest.raises(ValueError, match="line 2"):
        from_jsonl('{"is":"healed","t":1}\n{"is":"nothing","t":2}\n')


def test_a_history_must_make_sense() -> None:
    """Time runs forward, and an id names one message."""
    assert claims(well_formed([sent(2, "m1"), sent(1, "m1")])) == ["history", "history"]
    assert well_formed([sent(1, "m1"), answered(1, "m1", "routed")]) == []


def test_check_runs_all_checks() -> None:
    """`check` finds what each of the checks finds."""
    history = [
        *[*LOST, *fault(50, 51), Healed(t=51), sent(60, "m2"), received(61, "m2", "carol", "c1")],
        *[owner(62, "b1", 20), owner(63, "b2", 10), looked(90, "b1", "b2", "b1")],
    ]
    found = claims(check(history, online_s=30, offline_s=90))
    assert found == ["P5", "wrong user", "lost", "P8"]


def test_a_history_in_which_nothing_could_be_lost_proves_nothing() -> None:
    """When all messages are near a fault, that none was lost in calm is no achievement."""
    calm = [online(0, "b1"), sent(20, "m1"), answered(20, "m1", "routed"), received(21, "m1")]
    end = [*fault(50, 51), Healed(t=51), looked(90, "b1", "b1", "b1")]
    assert check([*calm, *end], online_s=30, offline_s=30) == []
    near = [*fault(15, 16), *end]
    (found,) = check(sorted([*calm, *near], key=lambda record: record.t), online_s=30, offline_s=30)
    assert found.claim == "lost" and "nothing to lose" in found.text


def test_a_violation_shows_its_evidence() -> None:
    """What is printed for a violation names the claim, and has the records that show it."""
    (violation,) = owners([owner(1, "b1", 20), owner(2, "b2", 10)])
    text = str(violation)
    assert text.startswith("P5 at 2.000 s") and '"conn":"b1"' in text and '"conn":"b2"' in text

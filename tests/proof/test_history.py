"""History checks: does each find what violates it, and not what only nearly does?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from wsdemo.proof.history import (
    DEFINITELY_NOT,
    REDIS,
    USERS,
    Bounds,
    Calm,
    Closed,
    Counted,
    Fault,
    Forgotten,
    Happened,
    Healed,
    History,
    Late,
    Left,
    Looked,
    Near,
    ObservationGap,
    Owner,
    Phase,
    Pinged,
    Ponged,
    Received,
    Record,
    Registered,
    Released,
    Sent,
    Violation,
    answers,
    calm,
    check,
    closes,
    convergence,
    counted,
    denied,
    from_jsonl,
    happened,
    kept,
    late,
    lost,
    messages,
    owners,
    pongs,
    present,
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


def sent(t: float, msg_id: str, conn: str = "a1") -> Record:
    return Sent(t=t, user="alice", phase=Phase.INVOKE, id=msg_id, to="bob", conn=conn)


def answered(t: float, msg_id: str, status: str, *, told: bool = True) -> Sent:
    phase = {"routed": Phase.OK, "unknown": Phase.UNKNOWN}.get(status, Phase.FAIL)
    return Sent(t=t, user="alice", phase=phase, id=msg_id, status=status, told=told)


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
def test_violations_of_ownership_are_found(name: str, history: History, broken: list[str]) -> None:
    """Violations of P1, P3, P4, P5, and histories that only look like one."""
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
        "overtaken, and its client gave up waiting",
        [
            *(sent(1, "m1"), answered(1.5, "m1", "unknown", told=False), sent(2, "m2")),
            *(received(3, "m2"), received(4, "m1")),
        ],
        ["order"],
    ),
    (
        "overtaken, and its client gave up waiting in a fault",
        [
            *(Fault(t=1, name="cut", begins=True), sent(1, "m1")),
            *(answered(1.5, "m1", "unknown", told=False), sent(2, "m2")),
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
        "delivered after offline",
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
def test_violations_of_delivery_are_found(name: str, history: History, broken: list[str]) -> None:
    """No wrong, duplicate or reordered delivery, and none after an answer that excludes it."""
    assert claims(messages(history)) == broken


BOUNDS_OF_LATE = Bounds(
    answer_s=3, arrive_s=1, pong_s=1, settle_s=1, aftermath_s=1, register_s=1, near=Near(0, 0)
)
UNKNOWN = [online(0, "b1"), sent(10, "m1"), answered(12, "m1", "unknown")]
HELD = [Fault(t=14, name="held", begins=True), Fault(t=16, name="held", begins=False)]
LATE: list[tuple[str, list[Record], list[str]]] = [
    ("in time", [*UNKNOWN, received(15, "m1")], []),
    ("never", UNKNOWN, []),
    ("too late", [*UNKNOWN, received(15.1, "m1")], ["late"]),
    (
        "too late, near a fault that delays nothing",
        [*UNKNOWN, *fault(13, 14), received(16, "m1")],
        ["late"],
    ),
    ("too late, on a way that was held", [*UNKNOWN, *HELD, received(16, "m1")], []),
    (
        "held before it was told",
        [*HELD, *(replace(r, t=r.t + 10) for r in UNKNOWN), received(26, "m1")],
        ["late"],
    ),
    ("on a machine that was too busy", [*UNKNOWN, Late(t=14, for_s=1), received(16, "m1")], []),
    (
        "its client gave up",
        [*UNKNOWN[:2], answered(12, "m1", "unknown", told=False), received(16, "m1")],
        [],
    ),
    (
        "told unknown, and then by its client as well",
        [*UNKNOWN, answered(13, "m1", "unknown", told=False), received(16, "m1")],
        ["late"],
    ),
    ("routed", [*UNKNOWN[:2], answered(12, "m1", "routed"), received(16, "m1")], []),
]


@pytest.mark.parametrize(("name", "history", "broken"), LATE, ids=[row[0] for row in LATE])
def test_a_late_message_that_was_told_unknown_is_a_violation(
    name: str, history: History, broken: list[str]
) -> None:
    """Unless what was published was held up on its way."""
    assert claims(late(history, BOUNDS_OF_LATE, frozenset({"held"}))) == broken


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
def test_a_loss_far_from_faults_is_a_violation(
    name: str, history: History, broken: list[str]
) -> None:
    """Messages are lost only near faults, and when the recipient moves."""
    assert claims(unexplained(history)) == broken


HEAL = [*fault(1, 10), Healed(t=10)]
CONVERGED: list[tuple[str, list[Record], list[str]]] = [
    ("converged", [*HEAL, looked(40, "b1", "b1", "b1")], []),
    ("not yet", [*HEAL, looked(39, "b1", "b0", "b0"), looked(41, "b1", "b1", "b1")], []),
    ("wrong owner", [*HEAL, looked(41, "b1", "b0", "b1")], ["P8"]),
    ("no owner", [*HEAL, looked(41, "b1", "", "b1")], ["P8"]),
    ("two believers", [*HEAL, looked(41, "b1", "b1", "b0", "b1")], ["P8"]),
    ("no believer", [*HEAL, looked(41, "b1", "b1")], ["P8"]),
    ("not connected", [*HEAL, looked(41, "", "")], ["X"]),
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
def test_violations_of_convergence_are_found(
    name: str, history: History, broken: list[str]
) -> None:
    """P7, P8, X: within the bound after each heal, client, gateways and Redis agree."""
    assert claims(convergence(history, online_s=30, offline_s=90)) == broken


def test_a_loss_soon_after_a_fault_is_explained() -> None:
    """What a fault leaves may lose messages for `aftermath_s`, and no longer."""
    history = [online(0, "b1"), *fault(1, 5), *LOST[1:], *END]
    assert claims(unexplained(history, aftermath_s=14)) == ["lost"]
    assert unexplained(history, aftermath_s=15) == []


def test_a_required_event_that_never_happened_is_a_violation() -> None:
    """Each required event has happened, or a violation names it."""
    history = [*fault(1, 2), Happened(t=3, name="refresh closed")]
    counts = happened(history)
    assert counts == Counter({"cut": 1, "refresh closed": 1})
    assert sometimes(counts, ["cut", "refresh closed"]) == []
    (missing,) = sometimes(counts, ["cut", "freeze"])
    assert "freeze" in missing.text


def test_losses_are_counted_by_answer_and_nearness_of_a_fault() -> None:
    """What was lost near a fault is counted apart from what was lost far from any."""
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


def test_a_history_is_the_same_after_jsonl() -> None:
    """Each kind of record can be written and read; a line that is no record is named."""
    history: list[Record] = [row for _, rows, _ in [*OWNERS, *MESSAGES, *CONVERGED] for row in rows]
    history += [*LOST, *fault(1, 2), Closed(t=3, user="bob", conn="b1", code=4509)]
    kinds = {type(record) for record in history} | {Happened}
    assert len(kinds) == 11
    history += [row for _, rows, _ in [*UNTOUCHED, *CALMS] for row in rows]
    assert len({type(record) for record in history}) == 18
    assert from_jsonl(to_jsonl(history)) == history
    with pytest.raises(ValueError, match="line 2"):
        from_jsonl('{"is":"healed","t":1}\n{"is":"nothing","t":2}\n')


def test_time_runs_forward_and_ids_are_unique() -> None:
    """Otherwise the history itself is wrong."""
    assert claims(well_formed([sent(2, "m1"), sent(1, "m1")])) == ["history", "history"]
    assert well_formed([sent(1, "m1"), answered(1, "m1", "routed")]) == []


def test_check_runs_all_checks() -> None:
    """`check` finds what each of the checks finds."""
    history: list[Record] = [
        *(*LOST, *fault(50, 51), Healed(t=51), sent(60, "m2"), received(61, "m2", "carol", "c1")),
        *(owner(62, "b1", 20), owner(63, "b2", 10), looked(90, "b1", "b2", "b1")),
    ]
    found = claims(check(history, online_s=30, offline_s=90))
    assert found == ["P5", "wrong user", "lost", "P8"]


def test_a_history_with_all_messages_near_faults_proves_nothing() -> None:
    """Then no loss could have been a violation, which is a violation itself."""
    calm = [online(0, "b1"), sent(20, "m1"), answered(20, "m1", "routed"), received(21, "m1")]
    end = [*fault(50, 51), Healed(t=51), looked(90, "b1", "b1", "b1")]
    assert check([*calm, *end], online_s=30, offline_s=30) == []
    near = [*fault(15, 16), *end]
    (found,) = check(sorted([*calm, *near], key=lambda record: record.t), online_s=30, offline_s=30)
    assert found.claim == "lost" and "nothing to lose" in found.text


def test_a_violation_shows_its_evidence() -> None:
    """Its text names the promise, and has the records that show it."""
    (violation,) = owners([owner(1, "b1", 20), owner(2, "b2", 10)])
    text = str(violation)
    assert text.startswith("P5 at 2.000 s") and '"conn":"b1"' in text and '"conn":"b2"' in text


# --- effects without a fault near in time ------------------------------------------------------

BOUNDS = Bounds(answer_s=2, arrive_s=2, pong_s=1, settle_s=5, aftermath_s=4, register_s=1.5)
CAUSES = {1006: None, 1012: frozenset({"drain"})}


def here(t: float, user: str, conn: str, gateway: str = "g1") -> Registered:
    return Registered(t=t, user=user, phase=Phase.OK, conn=conn, gateway=gateway)


def closed(t: float, code: int, conn: str = "b1") -> Closed:
    return Closed(t=t, user="bob", conn=conn, code=code)


def left(t: float, conn: str = "b1") -> Left:
    return Left(t=t, user="bob", conn=conn)


def ping(t: float) -> Pinged:
    return Pinged(t=t, user="alice", conn="a1")


def pong(t: float) -> Ponged:
    return Ponged(t=t, user="alice", conn="a1")


def at(where: tuple[str, ...] | None, begin: float, end: float, name: str = "cut") -> list[Record]:
    """Return a fault somewhere."""
    return [
        Fault(t=begin, name=name, begins=True, where=where),
        Fault(t=end, name=name, begins=False, where=where),
    ]


THERE: list[Record] = [here(0, "alice", "a1"), here(0, "bob", "b1", "g2")]
"""Two users on two gateways."""
LATER: list[Record] = [Happened(t=99, name="end")]

UNTOUCHED: list[tuple[str, list[Record], list[str]]] = [
    # --- answers
    ("answered", [sent(10, "m"), answered(11, "m", "routed"), received(11, "m")], []),
    ("not answered", [sent(10, "m"), received(11, "m")], ["answer"]),
    ("answered late", [sent(10, "m"), received(11, "m"), answered(13, "m", "routed")], ["answer"]),
    ("given up", [sent(10, "m"), answered(12, "m", "unknown", told=False)], ["answer"]),
    ("unknown", [sent(10, "m"), answered(11, "m", "unknown")], ["answer"]),
    ("unknown in a fault", [*at(None, 9, 10), sent(10, "m"), answered(11, "m", "unknown")], []),
    ("not answered in a fault of Redis", [*at((REDIS,), 9, 9.5), sent(10, "m")], []),
    ("not answered in a fault of the gateway", [sent(10, "m"), *at(("g1",), 11, 12)], []),
    ("not answered in a fault elsewhere", [*at(("g2",), 9, 12), sent(10, "m")], ["answer"]),
    ("not answered in a fault of nobody", [*at((), 9, 12), sent(10, "m")], ["answer"]),
    ("not answered long after a fault", [*at(None, 7, 8), sent(10, "m")], ["answer"]),
    (
        "not answered long before a fault",
        [sent(10, "m"), *at(None, 12.6, 13)],
        ["answer"],
    ),
    (
        "not answered, and the sender left",
        [sent(10, "m"), Left(t=11, user="alice", conn="a1")],
        [],
    ),
    (
        "the machine was too busy",
        [sent(10, "m"), Late(t=13, for_s=2), answered(13, "m", "offline")],
        ["denied"],
    ),
    ("without an id", [Sent(t=10, user="alice", phase=Phase.INVOKE, id="m", asks=False)], []),
    # --- pongs
    ("pong", [ping(10), pong(10.5)], []),
    ("no pong", [ping(10)], ["pong"]),
    ("late pong", [ping(10), pong(11.5)], ["pong"]),
    ("one pong for two pings", [ping(10), ping(10.2), pong(10.3)], ["pong"]),
    ("no pong in a fault of Redis", [*at((REDIS,), 9, 12), ping(10)], ["pong"]),
    ("no pong in a fault of the gateway", [*at(("g1",), 9, 12), ping(10)], []),
    ("no pong in a fault of users", [*at((USERS,), 9, 12), ping(10)], []),
    ("no pong, and the machine was too busy", [ping(10), Late(t=11.5, for_s=1), pong(11.6)], []),
    # --- losses
    ("lost", [sent(10, "m"), answered(10, "m", "routed")], ["lost"]),
    ("lost in a fault", [*at(("g2",), 9, 9.5), sent(10, "m"), answered(10, "m", "routed")], []),
    (
        "lost in a fault elsewhere",
        [*at(("g3",), 9, 11), sent(10, "m"), answered(10, "m", "routed")],
        ["lost"],
    ),
    (
        "lost after a fault",
        [*at(None, 7, 8.9), sent(10, "m"), answered(10, "m", "routed")],
        ["lost"],
    ),
    (
        "lost before a fault",
        [sent(10, "m"), answered(10, "m", "routed"), *at(None, 10.6, 11)],
        ["lost"],
    ),
    (
        "lost to one who left",
        [sent(10, "m"), answered(10, "m", "routed"), left(10.3), closed(10.3, 1000)],
        [],
    ),
    (
        "lost to one who left much later",
        [sent(10, "m"), answered(10, "m", "routed"), left(10.6), closed(10.6, 1000)],
        ["lost"],
    ),
    (
        "lost to one who was wrongly closed",
        [sent(10, "m"), answered(10, "m", "routed"), closed(10.3, 1011)],
        ["lost", "close"],
    ),
    ("lost at the very end", [sent(98, "m"), answered(98, "m", "routed")], []),
    # --- closes
    ("left", [left(10), closed(10, 1000)], []),
    ("ended without a close frame", [left(10), closed(10, 1006)], []),
    ("close frame that nobody asked for", [closed(10, 1000)], ["close"]),
    ("cut", [closed(10, 1006)], ["close"]),
    ("cut in a fault", [*at(("g2",), 5, 7), closed(10, 1006)], []),
    ("cut in a fault elsewhere", [*at(("g1",), 5, 11), closed(10, 1006)], ["close"]),
    ("cut long after a fault", [*at(None, 4, 5), closed(10, 1006)], ["close"]),
    ("told of a restart", [*at(("g2",), 9, 11, "drain"), closed(10, 1012)], []),
    ("told of a restart in another fault", [*at(("g2",), 9, 11), closed(10, 1012)], ["close"]),
    ("internal error", [*at(None, 9, 11), left(10), closed(10, 1011)], ["close"]),
    ("replaced", [here(10, "bob", "b2"), closed(10, 4509)], []),
    ("replaced before the newer one heard", [closed(10, 4509), here(11, "bob", "b2")], []),
    ("replaced by one in Redis", [owner(9, "b1"), owner(10, "b2"), closed(10, 4509)], []),
    ("replaced by nobody", [*at(None, 9, 11), closed(10, 4509)], ["close"]),
    (
        "replaced by an older one",
        [owner(5, "b2"), owner(6, "b3"), here(6, "bob", "b3", "g2"), closed(10, 4509, "b3")],
        ["close"],
    ),
    (
        "replaced by an older one that was renewed",
        [
            *(owner(5, "b2", 10), owner(6, "b3", 20), here(6, "bob", "b3", "g2")),
            *(owner(7, "b2", 10), closed(10, 4509, "b3")),
        ],
        ["close"],
    ),
    ("replaced by another user", [here(10, "carol", "c1"), closed(10, 4509)], ["close"]),
    ("replaced in a gap of the witness", [ObservationGap(t=9, for_s=3), closed(10, 4509)], []),
    # --- who is there
    ("called offline", [sent(10, "m"), answered(10, "m", "offline")], ["denied"]),
    ("called unreachable", [sent(10, "m"), answered(10, "m", "unreachable")], ["denied"]),
    ("called busy", [sent(10, "m"), answered(10, "m", "busy")], ["denied"]),
    (
        "called unreachable after routed",
        [sent(10, "m"), answered(10, "m", "routed"), answered(11, "m", "unreachable")],
        ["denied"],
    ),
    ("called offline in a fault", [*at(None, 4, 6), sent(10, "m"), answered(10, "m", "busy")], []),
    (
        "called offline, had just come",
        [
            left(6),
            closed(6, 1000),
            here(7, "bob", "b2", "g2"),
            sent(10, "m"),
            answered(10, "m", "offline"),
        ],
        [],
    ),
    (
        "called offline, and is there again",
        [
            left(3),
            closed(3, 1000),
            here(4, "bob", "b2", "g2"),
            sent(10, "m"),
            answered(10, "m", "offline"),
        ],
        ["denied"],
    ),
    # --- counts
    ("counted", [Counted(t=10, gateway="g1", what="sessions", count=1)], []),
    ("one too many", [Counted(t=10, gateway="g1", what="sessions", count=2)], ["counted"]),
    (
        "one that has ended",
        [left(5), closed(5, 1000), Counted(t=10, gateway="g2", what="descriptors", count=1)],
        ["counted"],
    ),
    ("owed", [Counted(t=10, gateway="g1", what="owed", count=1, wanted=0)], ["counted"]),
]


@pytest.mark.parametrize(
    ("name", "history", "broken"), UNTOUCHED, ids=[row[0] for row in UNTOUCHED]
)
def test_effects_without_a_fault_near_in_time_are_violations(
    name: str, history: History, broken: list[str]
) -> None:
    """Missing answers and pongs, losses, ends and denials need a fault near in time."""
    whole = [*THERE, *history, *LATER]
    found = [violation for violation in kept(whole, BOUNDS, CAUSES) if violation.claim != "calm"]
    assert claims(found) == broken


def _quiet(*records: Record) -> list[Record]:
    """Return a calm in which one message and one ping went well, and these records."""
    good = [sent(11, "m"), answered(11.1, "m", "routed"), received(11.1, "m"), ping(11), pong(11)]
    rest = [Calm(t=10, begins=True), *good, *records, Calm(t=20, begins=False)]
    return [*THERE, *sorted(rest, key=lambda record: record.t), *LATER]


CALMS: list[tuple[str, list[Record], int]] = [
    ("all is well", _quiet(), 0),
    ("nobody said anything", [*THERE, Calm(t=10, begins=True), Calm(t=20, begins=False)], 1),
    ("there was none", [*THERE, *LATER], 1),
    ("no answer", _quiet(sent(12, "n"), received(12, "n")), 1),
    ("no answer, as it was just over", _quiet(sent(19, "n")), 0),
    ("a late answer", _quiet(sent(12, "n"), received(12, "n"), answered(15, "n", "routed")), 1),
    ("unknown", _quiet(sent(12, "n"), received(12, "n"), answered(13, "n", "unknown")), 1),
    ("offline", _quiet(sent(12, "n"), answered(12, "n", "offline")), 2),
    (
        "taken back",
        [
            *_quiet(sent(12, "n"), answered(12, "n", "routed"), received(12, "n")),
            answered(99, "n", "unreachable"),
        ],
        1,
    ),
    ("routed and lost", _quiet(sent(12, "n"), answered(12, "n", "routed")), 1),
    ("routed and late", _quiet(sent(12, "n"), answered(12, "n", "routed"), received(15, "n")), 1),
    (
        "late, as all was",
        _quiet(sent(12, "n"), answered(12, "n", "routed"), Late(t=15, for_s=2), received(15, "n")),
        0,
    ),
    (
        "to somebody who is not there",
        _quiet(replace(sent(12, "n"), to="carol"), answered(12, "n", "offline")),
        0,
    ),
    (
        "routed to somebody who is not there",
        _quiet(replace(sent(12, "n"), to="carol"), answered(12, "n", "routed")),
        1,
    ),
    ("no pong", _quiet(ping(13)), 1),
    ("a late pong", _quiet(ping(13), pong(14.5)), 1),
    ("a session ended", _quiet(closed(12, 1000)), 1),
    ("a session began", _quiet(here(12, "carol", "c1")), 1),
    ("a fault explains nothing", _quiet(*at(None, 9, 21), ping(13)), 1),
]


@pytest.mark.parametrize(("name", "history", "count"), CALMS, ids=[row[0] for row in CALMS])
def test_in_a_calm_period_everything_is_right(name: str, history: History, count: int) -> None:
    """Each message is routed and arrives, each ping has its pong, and nobody moves."""
    found = calm(sorted(history, key=lambda record: record.t), BOUNDS)
    assert claims(found) == ["calm"] * count


def _a_minute_of(gateway: Callable[[int, str], list[Record]]) -> list[Record]:
    """Return a calm minute: a message and a ping a second, answered as a gateway does it."""
    rest: list[Record] = []
    for n in range(60):
        t = 10 + float(n)
        rest += [sent(t, f"m{n}"), ping(t), *gateway(n, f"m{n}")]
    ended: list[Record] = [Happened(t=99, name="end")]
    calm_s: list[Record] = [Calm(t=10, begins=True), Calm(t=75, begins=False)]
    return sorted([*THERE, *rest, *calm_s, *ended], key=lambda record: record.t)


def _good(n: int, m: str) -> list[Record]:
    t = 10.1 + n
    return [answered(t, m, "routed"), received(t, m), pong(t)]


def _third_ack_never_sent(n: int, m: str) -> list[Record]:
    return [r for r in _good(n, m) if n % 3 or not isinstance(r, Sent)]


def _fifth_message_falsely_offline(n: int, m: str) -> list[Record]:
    if n % 5:
        return _good(n, m)
    return [answered(10.1 + n, m, "offline"), pong(10.1 + n)]


def _third_pong_never_sent(n: int, m: str) -> list[Record]:
    return [r for r in _good(n, m) if n % 3 or not isinstance(r, Ponged)]


def _lost_now_and_then(n: int, m: str) -> list[Record]:
    return [r for r in _good(n, m) if n % 10 or not isinstance(r, Received)]


@pytest.mark.parametrize(
    ("gateway", "broken"),
    [
        (_good, set()),
        (_third_ack_never_sent, {"answer", "calm"}),
        (_fifth_message_falsely_offline, {"denied", "calm"}),
        (_third_pong_never_sent, {"pong", "calm"}),
        (_lost_now_and_then, {"lost", "calm"}),
    ],
    ids=lambda value: value.__name__.strip("_") if callable(value) else "",
)
def test_a_gateway_with_a_mistake_is_found(
    gateway: Callable[[int, str], list[Record]], broken: set[str]
) -> None:
    """Two checks find each mistake: one that accepts reasons, and one that accepts none."""
    found = kept(_a_minute_of(gateway), BOUNDS, CAUSES)
    assert {violation.claim for violation in found} == broken


def test_kept_runs_each_of_its_checks() -> None:
    """It finds what they find, and nothing else."""
    history = _a_minute_of(_third_pong_never_sent)
    alone = [
        *(answers(history, BOUNDS), pongs(history, BOUNDS), lost(history, BOUNDS, CAUSES)),
        *(closes(history, BOUNDS, CAUSES), denied(history, BOUNDS), calm(history, BOUNDS)),
        counted(history),
    ]
    assert kept(history, BOUNDS, CAUSES) == [one for found in alone for one in found]


def test_sessions_are_counted_by_gateway() -> None:
    """Sessions that have begun and have not ended."""
    assert present([*THERE, here(1, "carol", "c1"), closed(2, 1000)]) == Counter({"g1": 2})

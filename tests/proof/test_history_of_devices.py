"""History checks of several devices of a user: does each find what violates it?"""

from __future__ import annotations

import pytest

from wsdemo.proof.history import (
    Calm,
    Fault,
    Looked,
    Phase,
    Received,
    Record,
    Registered,
    Sent,
    devices,
    user_of_device,
)


def sent(t: float, msg_id: str = "m1", to: str = "bob") -> Record:
    return Sent(t=t, user="alice/phone", phase=Phase.INVOKE, id=msg_id, to=to, conn="a1")


def got(t: float, name: str, conn: str = "c1", msg_id: str = "m1") -> Record:
    return Received(t=t, user=name, conn=conn, id=msg_id, sender="alice")


def joined(t: float, conn: str, gateway: str) -> Record:
    return Registered(t=t, user="bob/phone", phase=Phase.OK, conn=conn, gateway=gateway)


def looked(name: str, conn: str = "c1") -> Record:
    return Looked(t=0, user=name, online=bool(conn), conn=conn)


BOTH = [looked("bob/phone"), looked("bob/laptop")]
QUIET, LOUD = Calm(t=1, begins=True), Calm(t=9, begins=False)
FAULT = [Fault(t=1.5, name="cut", begins=True), Fault(t=2, name="cut", begins=False)]

TWICE = [got(2, "bob/phone"), got(3, "bob/phone", "c2")]
AT_G2 = [
    Fault(t=1.5, name="cut", begins=True, where=("g2",)),
    Fault(t=2, name="cut", begins=False, where=("g2",)),
]

HISTORIES: list[tuple[str, list[Record], list[str]]] = [
    ("both devices", [sent(1), got(2, "bob/phone"), got(2, "bob/laptop")], []),
    (
        "twice on one session",
        [sent(1), *FAULT, got(2, "bob/phone"), got(3, "bob/phone")],
        ["duplicate"],
    ),
    ("on two sessions", [sent(1), got(2, "bob/phone"), got(3, "bob/phone", "c2")], ["duplicate"]),
    (
        "on two sessions, in a fault",
        [sent(1), *FAULT, got(2, "bob/phone"), got(3, "bob/phone", "c2")],
        [],
    ),
    (
        "on two sessions, at the gateway of a fault",
        [joined(0, "c1", "g1"), joined(0, "c2", "g2"), sent(1), *AT_G2, *TWICE],
        [],
    ),
    (
        "on two sessions, a fault elsewhere",
        [joined(0, "c1", "g1"), joined(0, "c2", "g1"), sent(1), *AT_G2, *TWICE],
        ["duplicate"],
    ),
    (
        "on two sessions, the second began meanwhile",
        [joined(0, "c1", "g1"), sent(1), TWICE[0], joined(2.5, "c2", "g2"), TWICE[1]],
        [],
    ),
    (
        "on two sessions, the second began long before",
        [joined(0, "c1", "g1"), joined(0.2, "c2", "g2"), sent(1), *TWICE],
        ["duplicate"],
    ),
    ("another user's device", [sent(1), got(2, "eve/phone")], ["wrong user"]),
    ("never sent", [got(2, "bob/phone")], ["phantom"]),
    (
        "all that are online",
        [*BOTH, QUIET, sent(2), got(3, "bob/phone"), got(3, "bob/laptop"), LOUD],
        [],
    ),
    ("one goes without", [*BOTH, QUIET, sent(2), got(3, "bob/phone"), LOUD], ["lost"]),
    (
        "one is away",
        [BOTH[0], looked("bob/laptop", ""), QUIET, sent(2), got(3, "bob/phone"), LOUD],
        [],
    ),
    ("not yet", [*BOTH, QUIET, sent(8.5), LOUD], []),
]


@pytest.mark.parametrize(
    ("history", "expected"), [row[1:] for row in HISTORIES], ids=[row[0] for row in HISTORIES]
)
def test_what_the_devices_of_a_user_receive(history: list[Record], expected: list[str]) -> None:
    """Each device, once, in histories of a few records."""
    assert [violation.claim for violation in devices(history)] == expected


def test_a_device_is_called_by_its_user() -> None:
    """Users with one session have no device in their name."""
    assert [user_of_device(name) for name in ("bob/phone", "bob")] == ["bob", "bob"]

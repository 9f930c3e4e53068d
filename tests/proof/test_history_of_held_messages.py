"""History check of held messages: does it find that one device takes a message from another one?"""

from __future__ import annotations

import pytest

from wsdemo.proof.history import (
    GapTold,
    InboxAcknowledged,
    InboxesLost,
    InboxOpened,
    InboxStored,
    InboxTrimmed,
    Late,
    ObservationGap,
    Record,
    RunChanged,
    Taken,
    from_jsonl,
    held,
    inboxes,
    to_jsonl,
)

PHONE, LAPTOP, TABLET = "bob/phone", "bob/laptop", "bob/tablet"
MOST = 2


def opens(name: str) -> Record:
    return InboxOpened(t=0, user=name, process=name)


def acknowledges(name: str, t: float = 0.5, offset: str = "0-0") -> Record:
    return InboxAcknowledged(t=t, user=name, offset=offset)


def stored(n: int, user: str = "bob") -> Record:
    return InboxStored(t=n, user=user, id=f"{user[0]}{n}", offset=f"{n}-7")


def takes(name: str, n: int, t: float) -> Record:
    return Taken(t=t, user=name, process=name, id=f"{name[0]}{n}", offset=f"{n}-7")


def told(name: str, t: float) -> Record:
    return GapTold(t=t, user=name, process=name)


def trimmed(n: int, t: float, user: str = "bob") -> Record:
    return InboxTrimmed(t=t, user=user, offset=f"{n}-7")


BOTH = [opens(PHONE), opens(LAPTOP), acknowledges(PHONE), acknowledges(LAPTOP)]
STORED = [stored(1), stored(2)]
BY_PHONE = [takes(PHONE, 1, 3), takes(PHONE, 2, 3)]
SKIPPED = [told(LAPTOP, 4), takes(LAPTOP, 2, 5)]
"""The laptop is told of a gap, and never takes the first message."""

HISTORIES: list[tuple[str, list[Record], int]] = [
    ("each takes all", [*BOTH, *STORED, *BY_PHONE, takes(LAPTOP, 1, 4), takes(LAPTOP, 2, 5)], 0),
    ("one is gone, and a gap is told", [*BOTH, *STORED, *BY_PHONE, *SKIPPED], 1),
    ("two are gone", [*BOTH, *STORED, stored(3), *BY_PHONE, takes(LAPTOP, 3, 5)], 2),
    (
        "one is gone, and is named once",
        [*BOTH, *STORED, stored(3), *BY_PHONE, *SKIPPED, takes(LAPTOP, 3, 6)],
        1,
    ),
    ("stored for another user", [*BOTH, stored(1, "eve"), stored(2), takes(LAPTOP, 2, 5)], 0),
    ("not taken yet", [*BOTH, *STORED, *BY_PHONE, takes(LAPTOP, 1, 4)], 0),
    ("a gap is told, and nothing is gone", [*BOTH, stored(1), told(LAPTOP, 2)], 0),
    ("another process takes it later", [*BOTH, *STORED, *SKIPPED, takes(LAPTOP, 1, 6)], 0),
    ("it has not acknowledged yet", [*BOTH[:3], *STORED, *BY_PHONE, *SKIPPED], 0),
    (
        "stored before its first acknowledgement",
        [*BOTH[:3], stored(1), acknowledges(LAPTOP, 1.5), stored(2), *SKIPPED],
        0,
    ),
    (
        "it does not read the inbox",
        [BOTH[0], *BOTH[2:], *STORED, *BY_PHONE, takes(LAPTOP, 2, 5)],
        0,
    ),
    ("the inbox was full", [*BOTH, *STORED, trimmed(1, 3), *SKIPPED], 0),
    ("another inbox was full", [*BOTH, *STORED, trimmed(1, 3, "eve"), *SKIPPED], 1),
    ("full, and only older ones went", [*BOTH, *STORED, trimmed(0, 3), *SKIPPED], 1),
    ("full before it was stored", [*BOTH, trimmed(1, 0.7), *STORED, *SKIPPED], 1),
    ("full after it was skipped", [*BOTH, *STORED, *SKIPPED, trimmed(1, 6)], 1),
    ("all inboxes were lost", [*BOTH, *STORED, InboxesLost(t=3), *SKIPPED], 0),
    ("its inbox was lost", [*BOTH, *STORED, InboxesLost(t=3, user="bob"), *SKIPPED], 0),
    ("another inbox was lost", [*BOTH, *STORED, InboxesLost(t=3, user="eve"), *SKIPPED], 1),
    ("a new run of Redis", [*BOTH, *STORED, RunChanged(t=3), *SKIPPED], 0),
    (
        "stored in a new run, acknowledged in the old one",
        [*BOTH, RunChanged(t=0.7), *STORED, *SKIPPED],
        0,
    ),
    (
        "stored and acknowledged in a new run",
        [*BOTH[:2], RunChanged(t=0.3), *BOTH[2:], *STORED, *SKIPPED],
        1,
    ),
    ("nobody looked", [*BOTH, *STORED, *SKIPPED, ObservationGap(t=6, for_s=2)], 0),
    ("nobody looked, later", [*BOTH, *STORED, *SKIPPED, ObservationGap(t=9, for_s=2)], 1),
    (
        "more devices than hold messages",
        [*BOTH, opens(TABLET), *STORED, *BY_PHONE, *SKIPPED],
        0,
    ),
    (
        "an old client is one of the devices",
        [*BOTH, acknowledges(TABLET), *STORED, *BY_PHONE, *SKIPPED],
        0,
    ),
]


@pytest.mark.parametrize(
    ("history", "gone"), [row[1:] for row in HISTORIES], ids=[row[0] for row in HISTORIES]
)
def test_what_is_held_for_a_device_goes_for_no_other_device(
    history: list[Record], gone: int
) -> None:
    """D2 for each device, in histories of a few records: only a full inbox and a Redis that has
    lost something excuse that a message is gone."""
    assert [violation.claim for violation in held(history, MOST)] == ["D2"] * gone


def test_a_gap_that_is_told_hides_from_the_other_check_that_a_message_was_taken_away() -> None:
    """So D2 needs both: a message is delivered or told, and what is told has a reason."""
    history = [*BOTH, *STORED, *BY_PHONE, *SKIPPED]
    assert inboxes(history) == []
    (violation,) = held(history, MOST)
    assert violation.t == 5 and "b1 was held for bob/laptop, which took b2" in violation.text


def test_a_witness_may_tell_late_why_a_message_is_gone() -> None:
    """By so much at most, and by the time in which the machine was too busy."""
    history = [*BOTH, *STORED, *SKIPPED, trimmed(1, 5.2)]
    assert len(held(history, MOST)) == 1
    assert held(history, MOST, lag_s=0.3) == []
    assert len(held(history, MOST, lag_s=0.1)) == 1
    assert held([*history, Late(t=5.3, for_s=0.5)], MOST, lag_s=0.1) == []


def test_a_message_may_be_taken_before_the_witness_has_seen_that_it_is_stored() -> None:
    """Then it is held no more when its record comes."""
    assert held([*BOTH, takes(LAPTOP, 1, 0.9), *STORED, takes(LAPTOP, 2, 2)], MOST) == []


def test_records_of_what_is_held_are_written_and_read() -> None:
    """As JSON lines."""
    history = [record for _, history, _ in HISTORIES for record in history]
    assert from_jsonl(to_jsonl(history)) == history

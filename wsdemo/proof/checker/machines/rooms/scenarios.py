"""Scenarios of rooms: which ones are checked on every run, and which only in a deep run?"""

from __future__ import annotations

from typing import Final

from wsdemo.proof.checker.machines.rooms.states import RoomFaults, RoomScenario

ALICE: Final = (("alice", 0), ("alice", 1))
BOTH: Final = (("alice", 0), ("bob", 1))

CALM: Final = RoomScenario(joins=2)
LATE: Final = RoomScenario(left=RoomFaults(copies=1))
BUSY: Final = RoomScenario((("alice", 0),), joins=2, left=RoomFaults(copies=2))
TWO: Final = RoomScenario(BOTH, left=RoomFaults(copies=1))
FULL: Final = RoomScenario(BOTH, most=1, joins=2)
DEATH: Final = RoomScenario(BOTH, left=RoomFaults(deaths=1, lapses=1))
DEATH_AND_LATE: Final = RoomScenario(
    (("alice", 0), ("alice", 0)), left=RoomFaults(copies=1, lapses=1)
)
SLEEP: Final = RoomScenario(ALICE, left=RoomFaults(lapses=1))
FORGET: Final = RoomScenario(BOTH, left=RoomFaults(forgets=1))
LOSS: Final = RoomScenario(ALICE, left=RoomFaults(losses=1))
GHOST: Final = RoomScenario((("alice", 0),), left=RoomFaults(losses=1, copies=1))
ROLLBACK: Final = RoomScenario(ALICE, left=RoomFaults(rollbacks=1))

EVERYDAY: Final = (
    *(CALM, LATE, BUSY, TWO, FULL, DEATH, DEATH_AND_LATE, SLEEP, FORGET, LOSS, GHOST, ROLLBACK),
)

DEEP: Final = (
    RoomScenario(ALICE, joins=2, left=RoomFaults(copies=2)),
    RoomScenario(ALICE, left=RoomFaults(copies=1, deaths=1, lapses=1)),
    RoomScenario((*ALICE, ("bob", 1)), left=RoomFaults(copies=1)),
    RoomScenario((*ALICE, ("bob", 1)), left=RoomFaults(deaths=1, lapses=1)),
    RoomScenario((*ALICE, ("alice", 0)), left=RoomFaults(copies=1)),
    RoomScenario(ALICE, left=RoomFaults(copies=1, losses=1)),
    RoomScenario(ALICE, left=RoomFaults(copies=1, forgets=1)),
)

"""Scenarios: which ones are checked on every run, and which only in a deep run?

The everyday ones have two sessions, and take seconds. The deep ones have three, or more faults
at once; they take minutes.
"""

from __future__ import annotations

from typing import Final

from wsdemo.proof.checker.machines.presence.states import Clients, Clock, Scenario

EVERYDAY: Final = (
    Scenario(duplicates=0),
    Scenario(),
    Scenario(losses=1),
    Scenario(rollbacks=1),
    Scenario(clients=Clients.ONE),
    Scenario(clients=Clients.SEVERAL),
    Scenario(clock=Clock.FREE),
    Scenario(clock=Clock.FREE, losses=1),
)

DEEP: Final = (
    Scenario(duplicates=2, expiries=2, losses=1, rollbacks=1),
    Scenario(clock=Clock.FREE, losses=1, rollbacks=1),
    Scenario(sessions=3, duplicates=0),
    Scenario(sessions=3, expiries=0),
    Scenario(sessions=3),
    Scenario(sessions=3, clients=Clients.ONE),
    Scenario(sessions=3, duplicates=0, clock=Clock.FREE),
    Scenario(sessions=3, duplicates=0, expiries=0, losses=1, clock=Clock.FREE),
    Scenario(sessions=3, losses=1),
)

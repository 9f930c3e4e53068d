"""Scenarios of the inbox: which ones are checked on every run, and which only in a deep run?"""

from __future__ import annotations

from typing import Final

from wsdemo.proof.checker.machines.inbox.states import AccidentsLeft, InboxScenario

CALM: Final = InboxScenario(2, 1)
PAGES: Final = InboxScenario(3, 1, page=1)
WINDOW: Final = InboxScenario(3, 1, window=2)
FEW: Final = InboxScenario(3, 1, most=2, page=1)
SMALL: Final = InboxScenario(3, 1, room=60)
TWO: Final = InboxScenario(2, 2)
DEATH: Final = InboxScenario(2, 2, left=AccidentsLeft(deaths=1))
DEVICES: Final = InboxScenario(2, 2, 2)
FEW_AND_TWO: Final = InboxScenario(2, 2, most=1)
RESTART: Final = InboxScenario(2, 1, left=AccidentsLeft(restarts=1))
LOSS: Final = InboxScenario(2, 1, left=AccidentsLeft(losses=1))
FAILOVER: Final = InboxScenario(2, 1, left=AccidentsLeft(failovers=1))
SECRET_OF_TWO: Final = InboxScenario(2, 1, left=AccidentsLeft(secret=1))
SECRET: Final = InboxScenario(3, 1, left=AccidentsLeft(secret=1))
SECRET_AND_FULL: Final = InboxScenario(3, 1, most=1, left=AccidentsLeft(secret=1))
EVICTION: Final = InboxScenario(2, 1, left=AccidentsLeft(evictions=1))
COPY: Final = InboxScenario(2, 1, left=AccidentsLeft(copies=1))
FAILOVER_OF_TWO: Final = InboxScenario(2, 2, left=AccidentsLeft(failovers=1))
RESTART_AND_DEATH: Final = InboxScenario(2, 2, left=AccidentsLeft(restarts=1, deaths=1))

OF_SEVERAL: Final = InboxScenario(2, 2, several=True)
OF_SEVERAL_AND_FEW: Final = InboxScenario(3, 1, most=2, page=1, several=True)
OF_SEVERAL_AND_DEATH: Final = InboxScenario(2, 2, several=True, left=AccidentsLeft(deaths=1))
OF_SEVERAL_AND_RESTART: Final = InboxScenario(2, 1, several=True, left=AccidentsLeft(restarts=1))
OF_SEVERAL_AND_SECRET: Final = InboxScenario(2, 1, several=True, left=AccidentsLeft(secret=1))
OF_SEVERAL_AND_EVICTION: Final = InboxScenario(2, 1, several=True, left=AccidentsLeft(evictions=1))

EVERYDAY: Final = (
    *(CALM, PAGES, WINDOW, FEW, SMALL, TWO, DEATH, DEVICES, FEW_AND_TWO),
    *(RESTART, LOSS, FAILOVER, SECRET_OF_TWO, EVICTION, COPY),
    *(OF_SEVERAL, OF_SEVERAL_AND_FEW, OF_SEVERAL_AND_DEATH, OF_SEVERAL_AND_RESTART),
    *(OF_SEVERAL_AND_SECRET, OF_SEVERAL_AND_EVICTION),
)

DEEP: Final = (
    InboxScenario(2, 2, left=AccidentsLeft(losses=1)),
    FAILOVER_OF_TWO,
    InboxScenario(2, 2, left=AccidentsLeft(secret=1)),
    RESTART_AND_DEATH,
    InboxScenario(2, 2, left=AccidentsLeft(evictions=1)),
    InboxScenario(2, 2, left=AccidentsLeft(copies=1, deaths=1)),
    InboxScenario(3, 2, 2, most=2),
    InboxScenario(3, 2, page=1, left=AccidentsLeft(deaths=1)),
    SECRET,
    SECRET_AND_FULL,
    InboxScenario(3, 1, most=2, left=AccidentsLeft(losses=1, evictions=1)),
)

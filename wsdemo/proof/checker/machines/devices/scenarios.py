"""Scenarios of several devices: which are checked on every run, and which only in a deep run?"""

from __future__ import annotations

from typing import Final

from wsdemo.proof.checker.machines.devices.states import DeviceFaults, DeviceScenario

CALM: Final = DeviceScenario()
SAME: Final = DeviceScenario(("phone", "phone"))
LATE: Final = DeviceScenario(("phone", "phone"), left=DeviceFaults(duplicates=1))
EXPIRY: Final = DeviceScenario(("phone", "web"), left=DeviceFaults(expiries=1))
LOSS: Final = DeviceScenario(left=DeviceFaults(losses=1))
ROLLBACK: Final = DeviceScenario(left=DeviceFaults(rollbacks=1))
ONE_CLIENT: Final = DeviceScenario(("phone", "phone"), one_client=True)
THREE: Final = DeviceScenario(("", "phone", "web"), refreshes=0)
FULL: Final = DeviceScenario(("phone", "web"), most=1, left=DeviceFaults(duplicates=1))
FULL_AND_EXPIRY: Final = DeviceScenario(("phone", "web"), most=1, left=DeviceFaults(expiries=1))
ALONE: Final = DeviceScenario(("phone", "phone"), most=1)
TIED: Final = DeviceScenario(("phone", "phone"), left=DeviceFaults(losses=1), ties=True)
SAME_AND_EXPIRY: Final = DeviceScenario(
    ("phone", "phone", "web"), refreshes=0, left=DeviceFaults(expiries=1)
)
FORGETFUL: Final = DeviceScenario(
    ("phone", "web"), most=1, remembered=1, left=DeviceFaults(duplicates=1)
)

EVERYDAY: Final = (
    *(CALM, SAME, LATE, EXPIRY, LOSS, ROLLBACK, ONE_CLIENT, THREE, FULL, FULL_AND_EXPIRY),
    *(ALONE, TIED, FORGETFUL),
)

DEEP: Final = (
    SAME_AND_EXPIRY,
    DeviceScenario(("", "phone", "phone"), left=DeviceFaults(duplicates=1)),
    DeviceScenario(("", "phone", "web"), left=DeviceFaults(duplicates=1), refreshes=0),
    DeviceScenario(("", "phone", "web"), left=DeviceFaults(expiries=1)),
    DeviceScenario(("a", "b", "c"), remembered=2, left=DeviceFaults(duplicates=1), refreshes=0),
    DeviceScenario(("", "phone", "phone"), left=DeviceFaults(losses=1), refreshes=0),
)

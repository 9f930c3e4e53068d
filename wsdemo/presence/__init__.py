"""Where in the cluster is user X?"""

from wsdemo.presence.devices import DeviceEntry, DevicePresence
from wsdemo.presence.store import (
    Claim,
    Entry,
    Presence,
    RedisPresence,
    Refresh,
    Register,
    Registration,
    Release,
    Renewal,
)

__all__ = [
    "Claim",
    "DeviceEntry",
    "DevicePresence",
    "Entry",
    "Presence",
    "RedisPresence",
    "Refresh",
    "Register",
    "Registration",
    "Release",
    "Renewal",
]

"""Where in the cluster is user X?"""

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
    "Entry",
    "Presence",
    "RedisPresence",
    "Refresh",
    "Register",
    "Registration",
    "Release",
    "Renewal",
]

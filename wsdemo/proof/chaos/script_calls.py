"""Script calls: which script of ours runs, and which calls has it made so far?

MONITOR shows an EVALSHA or EVAL, and after it each call that the script makes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from wsdemo.inbox import store as inbox
from wsdemo.inbox.devices import DEVICES_ACK, DEVICES_READ, DEVICES_SEND
from wsdemo.presence import store
from wsdemo.presence.devices import DEVICES_SCRIPTS, WHEN_FULL
from wsdemo.redis.scripts import Script, lua_text
from wsdemo.rooms.store import ROOM_SCRIPTS
from wsdemo.router import DEVICES_ROUTE, ROUTE
from wsdemo.settings import Keyspace

SCRIPTS: Final[tuple[Script, ...]] = (
    *store.SCRIPTS,
    ROUTE,
    *(inbox.SEND, inbox.READ, inbox.ACK),
    *ROOM_SCRIPTS,
    *DEVICES_SCRIPTS[1:],  # The mint is the same.
    DEVICES_ROUTE,
)


OF_DEVICES: Final = {script.name: script for script in (DEVICES_SEND, DEVICES_READ, DEVICES_ACK)}
"""The same scripts of the inbox where users may have several devices: here they are called as the
ones without devices, because they answer the same."""


@dataclass(slots=True)
class SeenCall:
    """A running script, and the calls that it has made so far, each as a list of words."""

    script: str
    keys: list[str]
    args: list[str]
    made: list[list[str]] = field(default_factory=list)

    @property
    def user(self) -> str:
        """The user (or the room) that it is about."""
        return owner_of(self.keys[0])

    def first(self, verb: str, prefix: str = "") -> list[str] | None:
        """Return the first call of a verb on a key with this prefix."""
        fitting = (made for made in self.made if made[0] == verb and made[1].startswith(prefix))
        return next(fitting, None)


def owner_of(key: str) -> str:
    """Return the user or the room of a key; in a cluster, without the hash tag of its bucket."""
    owner = key.partition(":")[2]
    tag, end, rest = owner.partition("}:")
    return rest if end and tag.startswith("{") else owner


def script_call(words: list[str]) -> SeenCall | None:
    """Return the call of one of our scripts; None when it is another script."""
    name = _BY_SHA.get(words[1]) or next(
        (name for script, name in _NAMED.items() if _title(script) in words[1]), ""
    )
    if not name or not words[2].isdigit():
        return None
    first_arg = 3 + int(words[2])
    return SeenCall(name, words[3:first_arg], words[first_arg:])


def _title(script: Script) -> str:
    """Return a comment that only this script has: its first one, or, behind what several scripts
    have in common, the first after that.
    """
    own = script.text.removeprefix(WHEN_FULL)
    for common in _COMMON:
        own = own.removeprefix(common)
    return next(line for line in own.splitlines() if line.startswith("-- "))


_COMMON: Final = (
    lua_text("wsdemo.presence", "devices_entries"),
    lua_text("wsdemo.inbox", "devices_cursors"),
)
_IN_CLUSTER: Final = Keyspace(buckets=1)
_NAMED: Final = {
    **{script: script.name for script in SCRIPTS},
    **{script: name.removeprefix("devices_") for name, script in OF_DEVICES.items()},
}
_BY_SHA: Final = {
    one.sha: name for script, name in _NAMED.items() for one in (script, script.at(_IN_CLUSTER))
}

"""Lua scripts: which rules does Redis itself enforce?

Each rule is a `.lua` file beside the Python that uses it: one script, one decision. This module
reads such a file and computes the name (SHA-1) under which the server caches it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Final

from wsdemo.settings import Keyspace

FLAGLESS: Final = "#!lua\n"
WHEN_FULL: Final = "#!lua flags=allow-oom\n"
"""The first line of a script that a server without memory for new keys has to run as well."""
_LAST: Final = "ARGV[#ARGV]"
_LAST_BUT_ONE: Final = "ARGV[#ARGV - 1]"
_PUBLISH: Final = "redis.call('SPUBLISH', "
_WITH_ORIGIN: Final = f"""\
-- The last argument is the origin: it goes before each message (wsdemo/redis/origin.py).
local function publish(channel, message)
  return {_PUBLISH}channel, {_LAST} .. message)
end

"""


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script: its text and the name that the server gives to it."""

    name: str
    text: str
    in_cluster: str = field(default=FLAGLESS, repr=False, compare=False)
    """The first line that it gets in a cluster, when it has none of its own."""
    in_time: bool = field(default=False, repr=False, compare=False)
    """Whether it carries a message: then its last argument is a deadline (`wsdemo.redis.deadline`),
    and in a cluster the origin of what it publishes (`wsdemo.redis.origin`) comes behind that.
    """
    sha: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()
        object.__setattr__(self, "sha", sha)

    def command_start(self, keys: int, args: int) -> bytes:
        """Return the command that runs it, in RESP, without its keys and arguments (`bulk`)."""
        return b"*%d\r\n%b%b" % (3 + keys + args, self._by_name, bulk(b"%d" % keys))

    def with_text(self, command: bytes) -> bytes:
        """Return a command that runs it by its name as one that carries its text, for a server that
        has forgotten it.
        """
        by_text = bulk(b"EVAL") + bulk(self.text.encode())
        return command.replace(self._by_name, by_text, 1)

    @property
    def _by_name(self) -> bytes:
        return bulk(b"EVALSHA") + bulk(self.sha.encode())

    def at(self, keyspace: Keyspace) -> Script:
        """Return this script as it runs where the keys and channels of a keyspace are: in a cluster
        it publishes on sharded channels.
        """
        return _sharded(self) if keyspace.buckets else self

    @classmethod
    def read(
        cls,
        package: str,
        name: str,
        before: str = "",
        in_cluster: str = FLAGLESS,
        *,
        in_time: bool = False,
    ) -> Script:
        """Read `{name}.lua` of a package, as shipped.

        Args:
            before: what several scripts have in common, and each begins with.
            in_cluster: as for the class.
            in_time: as for the class.
        """
        return cls(name, before + lua_text(package, name), in_cluster, in_time)


@cache
def _sharded(script: Script) -> Script:
    """Return a script that publishes with SPUBLISH, and gets names of channels up to the id of the
    gateway (`Keyspace.script_channels`).

    With a first line, the server refuses a channel of another slot also where that slot happens to
    be on the same server. Without one, such a mistake would only be seen when the slots part.
    """
    if "'PUBLISH'" not in script.text:
        return script
    text = script.text.replace("'PUBLISH'", "'SPUBLISH'").replace(" .. 'gateway:' .. ", " .. ")
    if script.in_time:
        text = _WITH_ORIGIN + text.replace(_LAST, _LAST_BUT_ONE).replace(_PUBLISH, "publish(")
    text = text if text.startswith("#!") else script.in_cluster + text
    return Script(script.name, text, in_time=script.in_time)


def lua_text(package: str, name: str) -> str:
    """Return `{name}.lua` of a package, as shipped."""
    return files(package).joinpath(f"{name}.lua").read_text(encoding="utf-8")


def bulk(word: bytes) -> bytes:
    """Return one word of a command in RESP."""
    return b"$%d\r\n%b\r\n" % (len(word), word)

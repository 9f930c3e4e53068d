"""Lua scripts: which rules does Redis itself enforce?

Each rule is a `.lua` file beside the Python that uses it: one script, one decision. This module
reads such a file and computes the name (SHA-1) under which the server caches it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script: its text and the name that the server gives to it."""

    name: str
    text: str
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

    @classmethod
    def read(cls, package: str, name: str) -> Script:
        """Read `{name}.lua` of a package, as shipped."""
        return cls(name, files(package).joinpath(f"{name}.lua").read_text(encoding="utf-8"))


def bulk(word: bytes) -> bytes:
    """Return one word of a command in RESP."""
    return b"$%d\r\n%b\r\n" % (len(word), word)

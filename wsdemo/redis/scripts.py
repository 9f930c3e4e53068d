"""Lua scripts: which rules does Redis itself enforce?

Each rule is a `.lua` file beside the Python that uses it: one script, one decision. This module
reads such a file and computes the name (SHA-1) under which the server caches it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script: its text and the name that the server gives to it."""

    name: str
    text: str

    @property
    def sha(self) -> str:
        return hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    @classmethod
    def read(cls, package: str, name: str) -> Script:
        """Read `{name}.lua` of a package, as shipped."""
        return cls(name, files(package).joinpath(f"{name}.lua").read_text(encoding="utf-8"))

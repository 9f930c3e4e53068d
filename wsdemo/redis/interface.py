"""Link: what does the code above need of the way to Redis?

`RedisLink` is the way to one server, `ClusterLink` the way to all servers of a cluster. Presence,
router, inbox and rooms use what both have: this protocol.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from wsdemo.redis.link import Arg, Callback
from wsdemo.redis.outcome import Trouble
from wsdemo.redis.scripts import Script


class Link(Protocol):
    """The command connection of one gateway, or the command connections.

    A command whose reply is awaited raises one of `LINK_ERRORS`; a callback gets it in place of the
    reply.
    """

    @property
    def open(self) -> bool:
        """Whether commands have a way to Redis right now; in a cluster: to a part of it."""
        ...

    @property
    def up(self) -> bool:
        """Whether they have, and Redis does what we need of it; in a cluster: a part of it."""
        ...

    @property
    def trouble(self) -> Trouble | None:
        """Why it is not up; None when it is."""
        ...

    @property
    def away_s(self) -> float:
        """How long the last outage lasted, when it was over."""
        ...

    @property
    def pending(self) -> int:
        """How many commands wait for an answer, or to be sent."""
        ...

    @property
    def timeouts(self) -> int:
        """How often a connection was given up because a reply did not come in time."""
        ...

    @property
    def expired(self) -> int:
        """How many commands with a deadline came to Redis too late, and were not executed."""
        ...

    added_args: int
    """How many arguments it adds to a command that has a deadline."""

    def load(self, scripts: Iterable[Script]) -> None:
        """Load these scripts as well on each new connection. Call it before `start`."""
        ...

    def ask_first(self, callback: Callback, *args: Arg) -> None:
        """Send a command on each new connection before it is up. Call it before `start`."""
        ...

    async def start(self, patience_s: float = 0.0) -> None:
        """Connect, and stay connected from here on."""
        ...

    async def stop(self) -> None:
        """Disconnect for good. Idempotent."""
        ...

    def check(self) -> None:
        """Start a trial, to see whether Redis still does what we need."""
        ...

    def submit(self, callback: Callback, *args: Arg) -> None:
        """Send a command; `callback` gets its reply."""
        ...

    def submit_beside(self, callback: Callback, key: str, *args: Arg) -> None:
        """Send a command that has no key, as TIME, to the server that has this key; otherwise as
        `submit`.
        """
        ...

    def submit_script(
        self, callback: Callback, script: Script, keys: Sequence[str], *args: Arg
    ) -> None:
        """Run a script; otherwise as `submit`. In a cluster, the keys must have one slot."""
        ...

    def submit_in_time(
        self, callback: Callback, script: Script, keys: Sequence[str], *args: Arg
    ) -> None:
        """Run a script that knows deadlines; its last arguments (`added_args`) are added."""
        ...

    def submit_packed(
        self,
        callback: Callback,
        command: bytes,
        script: Script | None = None,
        *,
        in_time: bool = False,
    ) -> None:
        """Send a command that the caller has packed; otherwise as `submit`. If `in_time`, its last
        arguments (`added_args`) are added: they count, and are not there yet.
        """
        ...

    def keep_deadlines(self) -> None:
        """Let commands with a deadline expire. Call it before `start`."""
        ...

    def in_time(self, reply: Any) -> Any:
        """Return the reply to a command with a deadline: a `LinkTimeout` if it came too late."""
        ...

    async def call(self, *args: Arg) -> Any:
        """Send a command and wait for its reply."""
        ...

    async def call_beside(self, key: str, *args: Arg) -> Any:
        """Send a command as `submit_beside`, and wait for its reply."""
        ...

    async def run(self, script: Script, keys: Sequence[str], *args: Arg) -> Any:
        """Run a script and wait for its result."""
        ...

    def start_script(self, script: Script, keys: Sequence[str], *args: Arg) -> asyncio.Future[Any]:
        """Run a script and return at once the future of its result."""
        ...

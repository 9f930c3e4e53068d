"""Fault injection by buttons: what happens in the lab when the teacher presses one?

Each button is one act on the cluster. It is answered when the act is over, by `done`, or by
`failed` with the lab's own words. One act at a time for each target: a second press is told that
the first one is not over yet. An act is never cut short, which would leave a gateway half stopped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, NamedTuple

from wsdemo import tasks
from wsdemo.lab.cluster.cluster import Cluster
from wsdemo.lab.errors import LabError, LabRefused
from wsdemo.redis.server import ServerError
from wsdemo.rig.names import unknown

END_S: Final = 10.0
"""How long the end of a room waits for acts that are not over."""
WORD_CHARS: Final = 64

Tell = Callable[[dict[str, Any]], None]
Note = Callable[..., None]


class RoomVerbs(NamedTuple):
    """What buttons do to the room itself. They raise `LabRefused` when they cannot."""

    ask: Callable[[str], object]
    reveal: Callable[[str], object]
    admit: Callable[[bool], object]


class Press(NamedTuple):
    """A button that was pressed, and on what."""

    what: str
    gateway: str
    user: str
    document: Mapping[str, Any]

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Press:
        words = (document.get(key) for key in ("what", "g", "u"))
        what, gateway, user = (w[:WORD_CHARS] if isinstance(w, str) else "" for w in words)
        return cls(what, gateway, user, document)

    @property
    def target(self) -> str:
        """What can have one act at a time; empty for what is over at once."""
        if self.what in ("hold", "let_go"):
            return f"the clean-up of {self.user} at {self.gateway}"
        return "Redis" if self.what.startswith("redis_") else self.gateway


Act = Callable[[Press], Awaitable[object]]


class Controls:
    """The teacher's buttons. Lives on the lab's loop.

    Args:
        cluster: started.
        verbs: what buttons do to the room.
        note: told of each act, for the board: kind and fields of an event.
        is_known: says whether there is a user of this name.
    """

    def __init__(
        self, cluster: Cluster, verbs: RoomVerbs, note: Note, is_known: Callable[[str], bool]
    ) -> None:
        self._cluster = cluster
        self._verbs = verbs
        self._note = note
        self._is_known = is_known
        self._under_way: dict[str, str] = {}
        """The act by its target."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._on_gateways: dict[str, Act] = {
            "crash": self._crash,
            "drain": lambda press: cluster.drain(self._running(press)),
            "start": lambda press: cluster.start_gateway(press.gateway),
            "freeze": self._freeze,
            "thaw": self._thaw,
            "hold": self._hold,
            "let_go": self._let_go,
        }
        self._on_redis: dict[str, Act] = {
            "redis_stop": self._stop_redis,
            "redis_start": lambda press: cluster.redis.restart(empty=True),
            "redis_freeze": self._freeze_redis,
            "redis_thaw": self._thaw_redis,
        }
        self._on_room: dict[str, Act] = {
            "ask": self._ask,
            "reveal": self._reveal,
            "admission": self._admit,
        }
        self._acts = {**self._on_gateways, **self._on_redis, **self._on_room}

    def press(self, document: Mapping[str, Any], tell: Tell) -> None:
        """Start what a button asks for, and tell how it ended. To be called on the lab's loop."""
        press = Press.of(document)
        try:
            self._require_possible(press)
        except LabRefused as problem:
            tell({"type": "failed", "what": press.what, "why": str(problem)})
            return
        if press.target:
            self._under_way[press.target] = press.what
        self._note("act", w=press.what, g=press.gateway, u=press.user)
        task = asyncio.create_task(self._act(press, tell), name=f"teacher's {press.what}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Wait until the acts are over, for a while."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=END_S)
        await tasks.end(*self._tasks)

    def _require_possible(self, press: Press) -> None:
        """Refuse at once what can never be done.

        Raises:
            LabRefused: there is no such button, gateway or user, or an act is under way.
        """
        if press.what not in self._acts:
            raise LabRefused(unknown("button", press.what, self._acts))
        if press.what in self._on_gateways and press.gateway not in self._cluster.names:
            raise LabRefused(unknown("gateway", press.gateway, self._cluster.names))
        if press.what in ("hold", "let_go") and not self._is_known(press.user):
            raise LabRefused(f"there is no user {press.user!r}")
        if (before := self._under_way.get(press.target)) is not None:
            raise LabRefused(f"{press.target}: {before} is not over yet; wait for it")

    async def _act(self, press: Press, tell: Tell) -> None:
        try:
            await self._acts[press.what](press)
        except (LabError, ServerError) as problem:
            tell({"type": "failed", "what": press.what, "why": str(problem)})
        except Exception as problem:  # Whatever it is, the teacher has to read it on the board.
            why = f"{type(problem).__name__}: {problem}"
            tell({"type": "failed", "what": press.what, "why": why})
        else:
            tell({"type": "done", "what": press.what, "g": press.gateway, "u": press.user})
        finally:
            self._under_way.pop(press.target, None)

    # --- gateways ----------------------------------------------------------------------------

    def _running(self, press: Press) -> str:
        """Return the gateway, which must run.

        Raises:
            LabRefused: it does not.
        """
        if press.gateway not in self._cluster.hosts:
            raise LabRefused(f"{press.gateway} does not run: start it first")
        return press.gateway

    async def _crash(self, press: Press) -> None:
        await self._cluster.crash(self._running(press))

    async def _freeze(self, press: Press) -> None:
        if self._cluster.host(self._running(press)).frozen:
            raise LabRefused(f"{press.gateway} is frozen already")
        await self._cluster.freeze(press.gateway)

    async def _thaw(self, press: Press) -> None:
        if not self._cluster.host(self._running(press)).frozen:
            raise LabRefused(f"{press.gateway} is not frozen")
        await self._cluster.thaw(press.gateway)

    async def _hold(self, press: Press) -> None:
        self._require_awake(press)
        if self._cluster.director(press.gateway).holds(press.user):
            raise LabRefused(f"{press.target} is held already")
        await self._cluster.hold(press.user, press.gateway)

    async def _let_go(self, press: Press) -> None:
        self._require_awake(press)
        await self._cluster.stop_holding(press.user, press.gateway)

    def _require_awake(self, press: Press) -> None:
        if self._cluster.host(self._running(press)).frozen:
            raise LabRefused(f"{press.gateway} is frozen: thaw it first")

    # --- Redis -------------------------------------------------------------------------------

    async def _stop_redis(self, press: Press) -> None:
        self._require_redis()
        await self._cluster.redis.stop()

    async def _freeze_redis(self, press: Press) -> None:
        self._require_redis()
        if self._cluster.redis.frozen:
            raise LabRefused("Redis is frozen already")
        await self._cluster.redis.freeze()

    async def _thaw_redis(self, press: Press) -> None:
        self._require_redis()
        if not self._cluster.redis.frozen:
            raise LabRefused("Redis is not frozen")
        await self._cluster.redis.thaw()

    def _require_redis(self) -> None:
        if not self._cluster.redis.running:
            raise LabRefused("Redis does not run: start it first")

    # --- the room ----------------------------------------------------------------------------

    async def _ask(self, press: Press) -> None:
        self._verbs.ask(str(press.document.get("q", "")))

    async def _reveal(self, press: Press) -> None:
        self._verbs.reveal(str(press.document.get("a", "")))

    async def _admit(self, press: Press) -> None:
        self._verbs.admit(bool(press.document.get("open")))

"""Backend: what does a server of an application ask gateways while faults are active?

It sends messages, ends sessions and asks who is online, all by HTTP, at a gateway that it chooses
anew each time. What it asks and is answered goes into the history, and is checked like what users
ask.
"""

from __future__ import annotations

import asyncio
import http.client
import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final
from urllib.parse import quote

from wsdemo.gateway.api.client import ask
from wsdemo.gateway.api.documents import APP
from wsdemo.proof.application import durable_id, room_id
from wsdemo.proof.chaos.feature_users import ROOMS
from wsdemo.proof.chaos.users import MARK, Note
from wsdemo.proof.history import (
    Disconnected,
    DurableSent,
    Phase,
    PresenceTold,
    RoomSaid,
    Sent,
    Violation,
)
from wsdemo.proof.mix import FeatureMix
from wsdemo.protocol import Code, Status
from wsdemo.rig.process import GatewayProcess
from wsdemo.tasks import end

ASK_EVERY_S: Final = 0.15
PATIENCE_S: Final = 2.0
"""How long it waits for an answer: longer than a gateway may take."""
TRIES: Final = 8
"""How often it sends a durable message whose fate it does not know."""
TRY_AGAIN_S: Final = 0.2
UNAVAILABLE: Final = 503
ENDS: Final = (Code.DISCONNECTED, Code.RESTART)
"""The close codes that a backend may choose."""
Answer = Mapping[str, Any]


class NotAnswered(Exception):
    """There is no answer. `is_asked`: the gateway may have read the request."""

    def __init__(self, is_asked: bool) -> None:
        super().__init__("no answer")
        self.is_asked = is_asked


class ApiBackend:
    """One backend, which does one thing after the other.

    Args:
        gateways: by their names.
        key: that of the server API.
        users: to whom it writes.
        mix: the features that it uses.
        note, clock: append to the history, and the clock of the history.
        complain: called with an answer that must never come.
    """

    def __init__(
        self,
        gateways: Mapping[str, GatewayProcess],
        key: str,
        users: Sequence[str],
        mix: FeatureMix,
        rng: random.Random,
        note: Note,
        clock: Callable[[], float],
        complain: Callable[[Violation], None],
    ) -> None:
        self.is_active = True
        """Whether it asks of its own accord; what is under way is completed in any case."""
        self._gateways = gateways
        self._key = key
        self._users = tuple(users)
        self._mix = mix
        self._rng = rng
        self._note = note
        self._clock = clock
        self._complain = complain
        self._numbers = itertools.count(1)
        self._acting = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    # --- life ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to ask."""
        self._task = asyncio.create_task(self._live(), name="backend")

    async def stop(self) -> None:
        """Ask no more. Idempotent."""
        if self._task is not None:
            task, self._task = self._task, None
            await end(task)

    async def quiet(self) -> None:
        """Ask no more for now, and wait until nothing is under way."""
        self.is_active = False
        async with self._acting:
            pass

    async def _live(self) -> None:
        try:
            while True:
                await asyncio.sleep(self._rng.expovariate(1 / ASK_EVERY_S))
                async with self._acting:
                    if self.is_active:
                        await self._act()
        except Exception as problem:
            self._complain(Violation("user", self._clock(), f"the backend has failed: {problem!r}"))

    async def _act(self) -> None:
        user, what = self._rng.choice(self._users), self._rng.random()
        if what < 0.1:
            await self.disconnect(user, self._rng.choice(ENDS))
        elif what < 0.35:
            await self.presence(user)
        elif what < 0.55 and self._mix.durable:
            await self.store(user)
        elif what < 0.7 and self._mix.rooms:
            await self.publish(self._rng.choice(ROOMS))
        else:
            await self.say(user)

    async def speak_to_all(self) -> None:
        """Write to each user and each room once, and ask for each user."""
        async with self._acting:
            for user in self._users:
                await self.presence(user)
                await self.say(user)
            for room in ROOMS if self._mix.rooms else ():
                await self.publish(room)

    # --- what it asks --------------------------------------------------------------------------

    async def say(self, to: str) -> None:
        """Send one message."""
        number, gateway = next(self._numbers), self._choose()
        sent = partial(self._make, Sent, user=APP, id=f"app-{number}", to=to)
        # Each request is a connection of its own, so the order of two of them is not promised.
        sent(phase=Phase.INVOKE, conn=f"api-{number}", gateway=gateway)
        status, is_told = await self._send(gateway, to=to, id=f"app-{number}")
        phase = Phase.UNKNOWN if status == Status.UNKNOWN else Phase.OK
        sent(phase=phase, status=status, told=is_told)

    async def store(self, to: str) -> None:
        """Send one durable message, with the same id until it is stored."""
        msg_id = durable_id(APP, next(self._numbers))
        sent = partial(self._make, DurableSent, user=APP, id=msg_id, to=to, process=APP)
        sent(phase=Phase.INVOKE)
        for _ in range(TRIES):
            status, _ = await self._send(self._choose(), to=to, id=msg_id, durable=True)
            if status in {Status.STORED, Status.DUPLICATE}:
                sent(phase=Phase.OK, status=status)
                return
            await asyncio.sleep(TRY_AGAIN_S)
        sent(phase=Phase.UNKNOWN, status=status)

    async def publish(self, room: str) -> None:
        """Say something in a room."""
        msg_id = room_id(APP, next(self._numbers))
        self._make(RoomSaid, user=APP, room=room, id=msg_id)
        await self._send(self._choose(), room=room, id=msg_id)

    async def disconnect(self, user: str, code: Code) -> None:
        """End all sessions of a user."""
        ended = partial(self._make, Disconnected, user=user, id=next(self._numbers), code=code)
        ended(phase=Phase.INVOKE)
        body = {"user": user, "code": int(code)}
        try:
            status, answer = await self._ask(self._choose(), "POST", "/api/disconnect", body)
        except NotAnswered as problem:
            ended(phase=Phase.UNKNOWN if problem.is_asked else Phase.FAIL)
            return
        if status == UNAVAILABLE:
            ended(phase=Phase.UNKNOWN)
        else:
            ended(phase=Phase.OK, conns=_conns(answer))

    async def presence(self, user: str) -> None:
        """Ask whether a user is online."""
        since, target = self._clock(), f"/api/presence/{quote(user, safe='')}"
        try:
            status, answer = await self._ask(self._choose(), "GET", target, None)
        except NotAnswered:
            return
        if status != UNAVAILABLE:
            self._make(PresenceTold, user=user, since=since, conns=_conns(answer))

    # --- asking --------------------------------------------------------------------------------

    async def _send(self, gateway: str, **message: Any) -> tuple[str, bool]:
        """Send a message; return its status, and whether the gateway has answered."""
        body = {"content": f"{MARK}{message['id']}", **message}
        try:
            status, answer = await self._ask(gateway, "POST", "/api/publish", body)
        except NotAnswered as problem:
            # A gateway that could not be reached has sent nothing.
            return (Status.UNKNOWN if problem.is_asked else Status.BUSY).value, False
        return (Status.BUSY.value if status == UNAVAILABLE else str(answer["status"])), True

    async def _ask(self, gateway: str, method: str, target: str, body: Any) -> tuple[int, Answer]:
        """Ask, and return the HTTP status and the answer.

        Raises:
            NotAnswered: there is none.
        """
        url = self._gateways[gateway].api_url
        try:
            status, answer = await asyncio.to_thread(
                ask, url, self._key, method, target, body, PATIENCE_S
            )
        except ConnectionRefusedError:
            raise NotAnswered(is_asked=False) from None
        except (OSError, http.client.HTTPException, ValueError):
            raise NotAnswered(is_asked=True) from None
        if status not in {200, UNAVAILABLE}:
            text = f"{gateway} answered {status} to {method} {target}: {answer}"
            self._complain(Violation("A1", self._clock(), text))
            raise NotAnswered(is_asked=True)
        return status, answer

    def _choose(self) -> str:
        return self._rng.choice(sorted(self._gateways))

    def _make(self, record: Callable[..., Any], **fields: Any) -> None:
        """Make a record, now."""
        self._note(record(t=self._clock(), **fields))


def _conns(answer: Answer) -> tuple[str, ...]:
    return tuple(session["connId"] for session in answer["sessions"])

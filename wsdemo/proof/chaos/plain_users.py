"""Plain users: what do users of the Go demo do while faults are active?

Their messages have no ids, they do not count their attempts, and they reconnect whatever the close
code was. The number of a message is in its content, so that the history can name it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from wsdemo.proof.application import is_plain
from wsdemo.proof.chaos.users import MARK, PATIENCE, TALK_EVERY_S, Note, UserRoutes
from wsdemo.proof.history import (
    Closed,
    Left,
    Phase,
    Pinged,
    Ponged,
    Received,
    Registered,
    Sent,
    Violation,
)
from wsdemo.protocol import Status
from wsdemo.tasks import end


class PlainUser:
    """A user of the Go demo: no ids, no attempts, and a reconnect after every close code."""

    def __init__(
        self,
        name: str,
        routes: UserRoutes,
        peers: Sequence[str],
        rng: random.Random,
        note: Note,
        clock: Callable[[], float],
        complain: Callable[[Violation], None],
        heartbeat_s: float,
    ) -> None:
        self.name = self.account = name
        self.routes = routes
        self.online = False
        self.conn = ""
        """The session of this user; '' while there is none."""
        self._peers = [peer for peer in peers if peer != name]
        self._rng = rng
        self._note = note
        self._clock = clock
        self._complain = complain
        self._heartbeat_s = heartbeat_s
        self._numbers = itertools.count(1)
        self._recent: dict[str, float] = {}
        self._heard_at = 0.0
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self.online = True
        self._task = asyncio.create_task(self._keep(), name=f"{self.name} (plain)")
        self._task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (problem := task.exception()) is not None:
            text = f"{self.name} has failed: {problem!r}"
            self._complain(Violation("user", self._clock(), text))

    async def stop(self) -> None:
        self.online = False
        if self.conn:
            self._note(Left(t=self._clock(), user=self.name, conn=self.conn))
        if self._task is not None:
            await end(self._task)

    async def _keep(self) -> None:
        for gateway in itertools.cycle(self._rng.sample(sorted(self.routes.wires), 3)):
            with contextlib.suppress(OSError, TimeoutError, WebSocketException):
                async with asyncio.timeout(PATIENCE.connect_timeout_s):
                    connection = await connect(
                        self.routes.url(gateway),
                        ping_interval=None,
                        compression=None,
                        close_timeout=PATIENCE.close_timeout_s,
                        proxy=None,
                    )
                try:
                    await self._converse(connection)
                finally:
                    self._lost(connection)
            await asyncio.sleep(self._rng.uniform(0.02, 0.3))

    def _lost(self, connection: ClientConnection) -> None:
        connection.transport.abort()
        conn, self.conn = self.conn, ""
        if conn:
            code = connection.close_code or 0
            self._note(Closed(t=self._clock(), user=self.name, conn=conn, code=code))

    async def _converse(self, connection: ClientConnection) -> None:
        self._note(Registered(t=self._clock(), user=self.name, phase=Phase.INVOKE))
        async with asyncio.timeout(PATIENCE.register_timeout_s):
            await connection.send(json.dumps({"type": "register", "userId": self.name}))
            while (answer := json.loads(await connection.recv()))["type"] != "registered":
                pass
        self.conn, gateway = answer["connId"], answer["gatewayId"]
        t = self._heard_at = self._clock()
        self._note(Registered(t=t, user=self.name, phase=Phase.OK, conn=self.conn, gateway=gateway))
        tasks = [asyncio.create_task(work(connection)) for work in (self._beat, self._talk)]
        try:
            while True:
                self._take(json.loads(await connection.recv()))
        finally:
            await end(*tasks)

    def _take(self, answer: dict[str, Any]) -> None:
        t = self._heard_at = self._clock()
        if answer["type"] == "message":
            msg_id = answer.get("id") or answer["content"].removeprefix(MARK)
            if is_plain(msg_id):
                self._note(
                    Received(t=t, user=self.name, conn=self.conn, id=msg_id, sender=answer["from"])
                )
        elif answer["type"] == "pong":
            self._note(Ponged(t=t, user=self.name, conn=self.conn))
        elif answer["type"] == "error" and answer.get("code") == Status.UNKNOWN.value:
            # The error does not name a message: it may be any that was just sent.
            for msg_id in self._recent:
                self._note(
                    Sent(
                        t=t,
                        user=self.name,
                        phase=Phase.UNKNOWN,
                        id=msg_id,
                        status=Status.UNKNOWN.value,
                    )
                )

    async def _beat(self, connection: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            while self._clock() - self._heard_at < 3 * self._heartbeat_s:
                self._note(Pinged(t=self._clock(), user=self.name, conn=self.conn))
                await connection.send('{"type":"ping"}')
                await asyncio.sleep(self._heartbeat_s)
        connection.transport.abort()

    async def _talk(self, connection: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                await asyncio.sleep(self._rng.expovariate(1 / TALK_EVERY_S))
                await self._say(connection, self._rng.choice(self._peers))

    async def _say(self, connection: ClientConnection, to: str) -> None:
        msg_id = f"{self.name}/{next(self._numbers)}"
        t = self._clock()
        self._recent = {one: at for one, at in self._recent.items() if t - at < 2.0} | {msg_id: t}
        self._note(
            Sent(
                t=t,
                user=self.name,
                phase=Phase.INVOKE,
                id=msg_id,
                to=to,
                conn=self.conn,
                asks=False,
            )
        )
        content = f"{MARK}{msg_id}"
        await connection.send(json.dumps({"type": "message", "to": to, "content": content}))

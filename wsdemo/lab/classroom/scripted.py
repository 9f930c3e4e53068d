"""Scripted students: who takes part in a class when nobody has a phone?

A scripted student goes the whole way of a page: a seat by the port of the room, a gateway through
the relay, heartbeats, messages, a vote on each question, and back again when the connection ends.
So a lesson can be prepared, tested and read alone, and the board shows the same as with people.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.typing import Origin

from wsdemo import tasks
from wsdemo.lab.errors import LabRefused, LabTimeout
from wsdemo.protocol import Code, retry_after_s, should_reconnect
from wsdemo.rig.names import unknown
from wsdemo.rig.waiting import wait_until
from wsdemo.settings import ClientSettings

NAMES: Final = (
    *("Ada", "Björn", "Chidi", "Dana", "Edsger", "Fran", "Grace", "Hedy", "Ivan", "Jing"),
    *("Ken", "Leslie", "Margaret", "Nils", "Olga", "Priya", "Quentin", "Radia", "Shafi", "Tim"),
    *("Ursula", "Vint", "Wanda", "Xiu", "Yuki", "Zoë", "Alan", "Barbara", "Claude", "Amara"),
)
DIAL_S: Final = 5.0
JOIN_S: Final = 10.0
SETTLED_S: Final = 10.0
"""How long a cell waits until a student is registered, or a message has its answer."""
INBOX: Final = 100
"""At most so many messages are kept; the oldest are removed first."""
ABNORMAL: Final = 1006
"""What a browser reports when the connection ended without a close frame."""

Document = dict[str, Any]


class ClosedConnection(NamedTuple):
    """What a student saw of the end of a connection."""

    code: int
    away_s: float
    """Until the student was registered again, in seconds of the wall clock."""


class _Answer(NamedTuple):
    """A message that waits for its answer."""

    status: asyncio.Future[str]
    sent_by: ClientConnection


class ScriptedStudent:
    """One student without a browser. Lives on the lab's loop.

    Args:
        url: of the room: "http://127.0.0.1:4711".
        name: as a student would type it.
        rng: of the votes and of the pauses before a new attempt.
    """

    def __init__(self, url: str, name: str, rng: random.Random) -> None:
        self.name = name
        self.user = ""
        """The user id that the room gave."""
        self.gateway = ""
        """Where this student is registered; '' while away."""
        self.received: deque[tuple[str, str]] = deque(maxlen=INBOX)
        """Who wrote, and what."""
        self.closed: list[ClosedConnection] = []
        """The ends of connections after which this student was back."""
        self.question: Document | None = None
        """The question of the class, as the page is told."""
        self._http, self._ws = url, url.replace("http", "ws", 1)
        self._rng = rng
        self._desk: ClientConnection | None = None
        self._socket: ClientConnection | None = None
        self._seat = ""
        self._gateways: list[str] = []
        self._turn = 0
        self._attempts = 0
        self._moves = False
        self._lost: tuple[int, float] | None = None
        """Code and time of the latest end, until this student is back."""
        self._awake = asyncio.Event()
        self._awake.set()
        self._pong = asyncio.Event()
        self._answers: dict[str, _Answer] = {}
        self._tasks: list[asyncio.Task[None]] = []

    # --- life --------------------------------------------------------------------------------

    async def join(self, code: str) -> None:
        """Take a seat, register at a gateway, and stay connected from here on.

        Raises:
            LabRefused: the room does not admit this student; the text says why.
            LabTimeout: no gateway has registered this student in time.
        """
        async with asyncio.timeout(JOIN_S):
            self._desk = await self._connect("/desk")
            await self._tell({"type": "join", "code": code, "name": self.name})
            seated = json.loads(await self._desk.recv())
        if seated["type"] != "seated":
            await self._desk.close()
            raise LabRefused(f"{self.name} was not admitted: {seated.get('why', '')}")
        self.name, self.user, self._seat = seated["name"], seated["user"], seated["seat"]
        self._gateways = list(seated["gateways"])
        self._tasks = [
            asyncio.create_task(self._follow_class(self._desk), name=f"class of {self.user}"),
            asyncio.create_task(self._stay_connected(), name=f"connection of {self.user}"),
        ]
        await self._until_registered()

    async def leave(self) -> None:
        """Close the page. Idempotent."""
        await tasks.end(*self._tasks)
        self._tasks, self.gateway = [], ""
        for connection in (self._socket, self._desk):
            if connection is not None:
                connection.transport.abort()
                await connection.wait_closed()
        self._socket = self._desk = None

    # --- what a student does -----------------------------------------------------------------

    async def send(self, to: str, content: str) -> str:
        """Send a message; return what the gateway said of it, `unknown` when it said nothing."""
        socket = self._socket
        if socket is None or not self.gateway or not self._awake.is_set():
            return "busy"
        msg_id = f"{self.user}-{len(self._answers)}-{self._rng.randrange(2**32):08x}"
        answer = asyncio.get_running_loop().create_future()
        self._answers[msg_id] = _Answer(answer, socket)
        document = {"type": "message", "to": to, "content": content, "id": msg_id}
        try:
            await socket.send(json.dumps(document))
            async with asyncio.timeout(SETTLED_S):
                return str(await answer)
        except (ConnectionClosed, TimeoutError):
            return "unknown"
        finally:
            del self._answers[msg_id]

    async def move(self, gateway: str) -> None:
        """Leave for another gateway.

        Raises:
            LabRefused: there is no such gateway.
            LabTimeout: it has not registered this student in time.
        """
        if gateway not in self._gateways:
            raise LabRefused(unknown("gateway", gateway, self._gateways))
        if not self._awake.is_set():
            raise LabRefused(f"the phone of {self.name} is locked: unlock() it first")
        self._turn, self._moves = self._gateways.index(gateway), True
        if self._socket is not None:
            await self._socket.close(Code.NORMAL)
        await self._until_registered(gateway)

    async def vote(self, option: str) -> None:
        """Vote on the question of the class, instead of an earlier vote.

        Raises:
            LabRefused: nothing is asked.
        """
        if self.question is None:
            raise LabRefused("nothing was asked yet: room.ask(...) first")
        await self._tell({"type": "vote", "q": self.question["id"], "o": option})

    def lock(self) -> None:
        """Lock the phone: the page does nothing any more, and the socket looks alive. As on a
        phone, the pings of WebSocket are still answered, but not by the page.
        """
        self._awake.clear()

    def unlock(self) -> None:
        """Wake the phone: the page reads what came, and comes back if it was closed."""
        self._awake.set()

    # --- the class ---------------------------------------------------------------------------

    async def _follow_class(self, desk: ClientConnection) -> None:
        """Hear what is asked, and vote: this student has no idea, and chooses by chance."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                document = json.loads(await desk.recv())
                await self._awake.wait()
                asked = document.get("question") if document.get("type") == "class" else None
                if asked is None:
                    continue
                is_new = self.question is None or self.question["id"] != asked["id"]
                self.question = asked
                if is_new and asked["answer"] is None:
                    await self.vote(self._rng.choice(list(asked["options"])))

    async def _tell(self, document: Document) -> None:
        assert self._desk is not None
        await self._desk.send(json.dumps(document))

    # --- the connection ----------------------------------------------------------------------

    async def _connect(self, path: str) -> ClientConnection:
        return await connect(
            self._ws + path,
            origin=Origin(self._http),
            proxy=None,
            compression=None,
            ping_interval=None,
            close_timeout=1.0,
        )

    async def _stay_connected(self) -> None:
        """Be connected to one gateway after the other, by the rules of the clients."""
        failures = 0
        while True:
            await self._awake.wait()
            gateway = self._gateways[self._turn % len(self._gateways)]
            was_registered, again, advice_s = await self._be_connected(gateway)
            if self._moves:
                self._moves = False
                continue
            if not again:
                return
            self._turn += 1
            failures = 0 if was_registered else failures + 1
            await asyncio.sleep(self._pause_s(failures, advice_s))

    def _pause_s(self, failures: int, advice_s: float | None) -> float:
        settings = ClientSettings()
        ceiling_s = min(settings.backoff_cap_s, settings.backoff_base_s * 2**failures)
        return (advice_s or 0.0) + self._rng.uniform(0, ceiling_s)

    async def _be_connected(self, gateway: str) -> tuple[bool, bool, float | None]:
        """Be connected to a gateway for as long as it lasts.

        Returns:
            Whether it registered us, whether we may come back, and when it asks us to.
        """
        registered = False
        try:
            async with asyncio.timeout(DIAL_S):
                socket = await self._connect(f"/gw/{gateway}/ws?seat={self._seat}")
        except (OSError, TimeoutError, InvalidHandshake):
            return False, True, None
        try:
            heartbeat_s = await self._register(socket)
            registered, self._socket, self.gateway = True, socket, gateway
            await self._tell_return()
            await self._converse(socket, heartbeat_s)
        except (ConnectionClosed, TimeoutError):
            pass
        finally:
            self._socket, self.gateway = None, ""
            socket.transport.abort()
            await socket.wait_closed()
            self._fail_answers(socket)
        await self._awake.wait()  # A page that sleeps sees the end when it wakes.
        code = int(socket.close_code or ABNORMAL)
        if registered and not self._moves and self._lost is None:
            self._lost = (code, time.monotonic())
        return registered, should_reconnect(code), retry_after_s(socket.close_reason or "")

    async def _register(self, socket: ClientConnection) -> float:
        """Register; return the interval of the heartbeats.

        Raises:
            ConnectionClosed, TimeoutError: the gateway does not register us.
        """
        self._attempts += 1
        hello = {"type": "register", "userId": self.user, "inst": self._seat, "att": self._attempts}
        async with asyncio.timeout(DIAL_S):
            await socket.send(json.dumps(hello))
            while (answer := json.loads(await socket.recv()))["type"] != "registered":
                pass
        return float(answer["heartbeatMs"]) / 1000

    async def _tell_return(self) -> None:
        """Tell the room, as the pages do, how the connection before had ended."""
        if self._lost is None:
            return
        (code, lost_at), self._lost = self._lost, None
        away_s = round(time.monotonic() - lost_at, 2)
        self.closed.append(ClosedConnection(code, away_s))
        with contextlib.suppress(ConnectionClosed):
            await self._tell({"type": "saw", "code": code, "away": away_s})

    async def _converse(self, socket: ClientConnection, heartbeat_s: float) -> None:
        """Read until the end, with heartbeats beside it."""
        beat = asyncio.create_task(self._beat(socket, heartbeat_s), name=f"beat of {self.user}")
        try:
            while True:
                text = await socket.recv()
                await self._awake.wait()
                self._take(json.loads(text))
        finally:
            await tasks.end(beat)

    async def _beat(self, socket: ClientConnection, heartbeat_s: float) -> None:
        """Send heartbeats; give up a gateway that does not answer one in time."""
        patience_s = ClientSettings().pong_within_s(heartbeat_s)
        with contextlib.suppress(ConnectionClosed):
            await asyncio.sleep(self._rng.uniform(0, heartbeat_s))
            while True:
                await self._awake.wait()
                asked_at = time.monotonic()
                self._pong.clear()
                await socket.send('{"type":"ping"}')
                try:
                    async with asyncio.timeout(patience_s):
                        await self._pong.wait()
                except TimeoutError:
                    if self._awake.is_set():  # A page that sleeps cannot see an answer.
                        socket.transport.abort()
                        return
                await asyncio.sleep(max(0.0, asked_at + heartbeat_s - time.monotonic()))

    def _take(self, document: Document) -> None:
        kind = document["type"]
        if kind == "pong":
            self._pong.set()
        elif kind == "message":
            self.received.append((document["from"], document["content"]))
        elif kind in ("ack", "error"):
            answer = self._answers.get(document.get("id", ""))
            if answer is not None and not answer.status.done():
                answer.status.set_result(str(document.get("status", document.get("code", ""))))

    def _fail_answers(self, socket: ClientConnection) -> None:
        for answer in self._answers.values():
            if answer.sent_by is socket and not answer.status.done():
                answer.status.set_result("unknown")

    async def _until_registered(self, gateway: str = "") -> None:
        def is_there() -> bool:
            return bool(self.gateway) and gateway in ("", self.gateway)

        where = f"registered at {gateway or 'a gateway'}"
        try:
            await wait_until(f"{self.name} is {where}", is_there, SETTLED_S)
        except TimeoutError as problem:
            raise LabTimeout(str(problem)) from None


async def join_all(url: str, code: str, names: Sequence[str], seed: int) -> list[ScriptedStudent]:
    """Let students join, all or none of them.

    Raises:
        LabRefused: the room does not admit one of them.
        LabTimeout: one was not registered in time.
    """
    students = [ScriptedStudent(url, name, random.Random(f"{seed} {name}")) for name in names]
    try:
        for student in students:  # One after the other: seats, and so gateways, go by turn.
            await student.join(code)
    except BaseException:
        await asyncio.gather(*(student.leave() for student in students))
        raise
    return students

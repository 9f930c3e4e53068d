"""Scripted students and teacher: a class without a browser, over real sockets and the room's port.

A student goes the whole way of the page: a seat, a gateway by the relay, heartbeats, messages, and
back again when the connection ends. The teacher presses buttons, and hears what a board hears.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, Final, NamedTuple

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage

from tests.lab.classroom.visitors import origin, redeem
from wsdemo import tasks
from wsdemo.lab.classroom.room import Classroom
from wsdemo.protocol import should_reconnect
from wsdemo.settings import ClientSettings

RULES: Final = ClientSettings()
BROKEN: Final = (ConnectionClosed, InvalidHandshake, InvalidMessage, OSError, TimeoutError)
WIRE: Final[dict[str, Any]] = {"proxy": None, "ping_interval": None, "close_timeout": 1}
NAMES: Final = re.findall(
    r"\w+",
    "Ada Alan Barbara Claude Dana Edsger Fran Grace Hedy Ivan Jing Ken Leslie Margaret Nils Olga "
    "Priya Quentin Radia Shafi Tim Ursula Vint Wanda Xiu Yuki Zoe Amara Bjorn Chidi",
)


class Outage(NamedTuple):
    """What a student went through."""

    code: int
    """The close code; 1006 for a connection that broke."""
    away_s: float


class ScriptedStudent:
    """One student.

    Args:
        every_s: mean time between two messages.
    """

    def __init__(self, room: Classroom, name: str, every_s: float, seed: int) -> None:
        self.name = name
        self.user = ""
        self.gateway = ""
        """Where the student is registered; empty while away."""
        self.statuses: Counter[str] = Counter()
        self.outages: list[Outage] = []
        self.strays: list[str] = []
        """What was heard that was for somebody else, or was heard twice."""
        self.heard = 0
        self._room = room
        self._every_s = every_s
        self._rng = random.Random(seed)
        self._seen: set[str] = set()
        self._people: list[str] = []
        self._asked = ""
        self._number = 0
        self._turn = 0
        self._attempts = 0
        self._lost_at, self._code = 0.0, 0
        self._places: dict[str, str] = {}
        """Gateway -> the address of the way to it."""
        self._socket: ClientConnection | None = None

    async def live(self) -> None:
        """Join the class and take part, until cancelled."""
        base = origin(self._room).replace("http", "ws")
        async with connect(f"{base}/desk", origin=_origin(self._room), **WIRE) as desk:
            await desk.send(_json(type="join", code=self._room.code, name=self.name))
            seated = json.loads(await desk.recv())
            assert seated["type"] == "seated", seated
            self.user = seated["user"]
            urls = [f"{base}/gw/{name}/ws?seat={seated['seat']}" for name in seated["gateways"]]
            self._places = dict(zip(seated["gateways"], urls, strict=True))
            async with asyncio.TaskGroup() as both:
                both.create_task(self._listen(desk))
                both.create_task(self._stay_connected(desk))

    async def move(self, gateway: str) -> None:
        """Leave, and come back at this gateway."""
        self._turn = list(self._places).index(gateway)
        if self._socket is not None:
            await self._socket.close()

    async def _listen(self, desk: ClientConnection) -> None:
        """Keep the list of people, and answer each question once."""
        async for text in desk:
            said = json.loads(text)
            if said["type"] != "class":
                continue
            self._people = [user for user, _ in said["people"] if user != self.user]
            question = said.get("question")
            if question and question["id"] != self._asked and question["answer"] is None:
                self._asked = question["id"]
                option = self._rng.choice(question["options"])
                await desk.send(_json(type="vote", q=self._asked, o=option))

    # --- a connection ------------------------------------------------------------------------

    async def _stay_connected(self, desk: ClientConnection) -> None:
        failures = 0
        while True:
            turn, url = self._turn, list(self._places.values())[self._turn % len(self._places)]
            code, reason, was_registered = await self._connection(url, desk)
            if was_registered:
                self._lost_at, self._code = time.monotonic(), code
            failures = 0 if was_registered else failures + 1
            if turn != self._turn:
                continue  # It moves, and knows where to.
            assert should_reconnect(code), (self.user, code, reason)
            self._turn += 1
            ceiling = min(RULES.backoff_cap_s, RULES.backoff_base_s * 2**failures)
            advice = re.search(r"retryAfterMs=(\d+)$", reason)
            pause = int(advice[1]) / 1000 if advice else 0.0
            await asyncio.sleep(pause + self._rng.random() * ceiling)

    async def _connection(self, url: str, desk: ClientConnection) -> tuple[int, str, bool]:
        """Live through one connection; return how it ended, and whether it was registered."""
        self._attempts += 1
        try:
            async with asyncio.timeout(RULES.connect_timeout_s):
                socket = await connect(url, origin=_origin(self._room), **WIRE)
        except BROKEN:
            return 1006, "", False
        parts: list[asyncio.Task[None]] = []
        try:
            heartbeat_s = await self._register(socket)
            await self._came_back(desk)
            self._socket, pongs = socket, asyncio.Event()
            parts = [
                asyncio.create_task(self._read(socket, pongs), name=f"{self.user} reads"),
                asyncio.create_task(self._beat(socket, pongs, heartbeat_s), name="heartbeats"),
                asyncio.create_task(self._write(socket), name=f"{self.user} writes"),
            ]
            await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        except BROKEN:
            pass
        finally:
            was_registered, self.gateway, self._socket = bool(self.gateway), "", None
            await tasks.end(*parts)
            socket.transport.abort()
        return socket.close_code or 1006, socket.close_reason or "", was_registered

    async def _register(self, socket: ClientConnection) -> float:
        register = {"type": "register", "userId": self.user, "inst": f"i-{self.user}"}
        await socket.send(_json(**register, att=self._attempts))
        async with asyncio.timeout(RULES.register_timeout_s):
            hello = json.loads(await socket.recv())
        if hello["type"] != "registered":
            await socket.wait_closed()
            raise TimeoutError
        self.gateway = hello["gatewayId"]
        return float(hello["heartbeatMs"]) / 1000

    async def _came_back(self, desk: ClientConnection) -> None:
        if self._lost_at and self._code != 1000:
            outage = Outage(self._code, time.monotonic() - self._lost_at)
            self.outages.append(outage)
            await desk.send(_json(type="saw", code=outage.code, away=round(outage.away_s, 2)))
        self._lost_at = 0.0

    async def _read(self, socket: ClientConnection, pongs: asyncio.Event) -> None:
        with contextlib.suppress(*BROKEN):
            async for text in socket:
                said = json.loads(text)
                match said["type"]:
                    case "pong":
                        pongs.set()
                    case "ack":
                        self.statuses[said["status"]] += 1
                    case "message":
                        self._hear(said["from"], said["content"])

    def _hear(self, sender: str, content: str) -> None:
        """Take a message, which says for whom it was and is never said twice."""
        self.heard += 1
        if not content.startswith(f"{sender} to {self.user}: ") or content in self._seen:
            self.strays.append(f"{self.user} heard {content!r} of {sender}")
        self._seen.add(content)

    async def _beat(self, socket: ClientConnection, pongs: asyncio.Event, every_s: float) -> None:
        """Send heartbeats; give the connection up when one is not answered."""
        await asyncio.sleep(every_s * self._rng.random())
        with contextlib.suppress(*BROKEN):
            while True:
                pongs.clear()
                await socket.send('{"type":"ping"}')
                async with asyncio.timeout(RULES.pong_within_s(every_s)):
                    await pongs.wait()
                await asyncio.sleep(every_s)

    async def _write(self, socket: ClientConnection) -> None:
        with contextlib.suppress(*BROKEN):
            while True:
                await asyncio.sleep(self._rng.expovariate(1 / self._every_s))
                if self._people:
                    self._number += 1
                    to = self._rng.choice(self._people)
                    content = f"{self.user} to {to}: {self._number}"
                    message = {"type": "message", "to": to, "content": content}
                    await socket.send(_json(**message, id=str(self._number)))


class ScriptedTeacher:
    """The teacher's board, without a browser."""

    def __init__(self, feed: ClientConnection) -> None:
        self.batches: list[str] = []
        """All batches, as they came."""
        self._feed = feed
        self._answers: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.live = asyncio.Event()

    async def listen(self) -> None:
        """Hear what a board hears, until cancelled."""
        async for text in self._feed:
            document = json.loads(text)
            match document["type"]:
                case "batch":
                    self.batches.append(str(text))
                case "live":
                    self.live.set()
                case "done" | "failed":
                    self._answers.put_nowait(document)

    async def press(self, what: str, **on: Any) -> None:
        """Press a button, and wait until it is done."""
        await self._feed.send(_json(type="do", what=what, **on))
        async with asyncio.timeout(30):
            answer = await self._answers.get()
        assert answer["type"] == "done", answer


@contextlib.asynccontextmanager
async def scripted_teacher(room: Classroom) -> AsyncIterator[ScriptedTeacher]:
    """Open the teacher's board, with all of the past."""
    cookie = await asyncio.to_thread(redeem, room)
    url = f"ws://127.0.0.1:{room.port}/feed"
    headers = {"Cookie": cookie}
    options: dict[str, Any] = {"origin": _origin(room), "additional_headers": headers, **WIRE}
    async with connect(url, max_size=None, **options) as feed:
        teacher = ScriptedTeacher(feed)
        listening = asyncio.create_task(teacher.listen(), name="the teacher's board")
        try:
            await teacher.live.wait()
            yield teacher
        finally:
            await tasks.end(listening)


@contextlib.asynccontextmanager
async def scripted_students(
    room: Classroom, count: int, *, every_s: float, seed: int
) -> AsyncIterator[list[ScriptedStudent]]:
    """Let so many students take part; they leave at the end."""
    names = [NAMES[n % len(NAMES)] for n in range(count)]
    students = [
        ScriptedStudent(room, name, every_s, seed * 1000 + n) for n, name in enumerate(names)
    ]
    running = [asyncio.create_task(one.live(), name=one.name) for one in students]
    try:
        yield students
        for task in running:
            if task.done():
                task.result()  # A student who has failed did so for a reason.
    finally:
        await tasks.end(*running)


def _json(**document: Any) -> str:
    return json.dumps(document)


def _origin(room: Classroom) -> Any:
    return origin(room)

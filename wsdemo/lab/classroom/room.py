"""What does a teacher's cell say, and what happens then?"""

from __future__ import annotations

import asyncio
import contextlib
import html
import json
import secrets
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import psutil

from wsdemo.lab.classroom.feed import CROWD, Feed, describe
from wsdemo.lab.classroom.seats import Refused, Seat, Seats
from wsdemo.lab.classroom.web import Asked, Channel, Front, Reply, to_gateway
from wsdemo.lab.lab import Lab
from wsdemo.lab.lessons import QUESTIONS

STATIC: Final = Path(__file__).parent / "static"
CLIENT_LIBRARY: Final = Path(__file__).parents[2] / "client" / "wsdemo.js"
"""What the students' page is built on: anybody may use it."""
KINDS: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".json": "application/json",
}
CLASS_TICK_S: Final = 0.5
TICKET_S: Final = 600.0
CROWD_ROSTER: Final = 6
"""Simulated users that students are offered to write to."""


class Classroom:
    """The class of a lab: `room = classroom(lab)`; the cell that ends in it shows how to join.

    Args:
        lab: open, with a loop in a thread of its own.
        host: "127.0.0.1" (this machine only), "lan" (and this machine's address in its network),
            or an address of this machine.
        port: 0 lets the system choose.
        public_url: where a proxy shows this room, when there is one.
        seats: how many students at most.
        remote_teacher: whether the buttons work from other machines than this one.
    """

    def __init__(
        self,
        lab: Lab,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        public_url: str = "",
        seats: int = 60,
        remote_teacher: bool = False,
    ) -> None:
        self.lab = lab
        self._cluster = lab.cluster
        self._public = public_url.rstrip("/")
        self._remote_teacher = remote_teacher
        self.address = lan_address() if host == "lan" else host
        self.seats = Seats(lambda user: user in self._cluster.users, seats)
        self.feed = Feed(self._cluster, self._publish)
        self.front = Front(self._answer)
        self._assets = _assets()
        self._teachers: set[str] = set()
        self._tickets: dict[str, float] = {}
        self._boards: set[Channel] = set()
        self._listeners: set[Callable[[str], None]] = set()
        self._desks: dict[str, set[Channel]] = {}
        self._question: dict[str, Any] | None = None
        self._votes: dict[str, str] = {}
        self._class_task: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        addresses = ["127.0.0.1"] if self.address in ("127.0.0.1", "localhost") else ["127.0.0.1", self.address]
        self.port = lab._loop.run(self._start(addresses, port))

    async def _start(self, addresses: list[str], port: int) -> int:
        port = await self.front.start(addresses, port)
        names = {"localhost", *addresses}
        self.front.hosts = {f"{name}:{port}" for name in names}
        self.front.origins = {f"http://{name}:{port}" for name in names}
        if self._public:
            scheme, _, rest = self._public.partition("://")
            self.front.hosts.add(rest.partition("/")[0].lower())
            self.front.origins.add(f"{scheme}://{rest.partition('/')[0]}".lower())
        self.feed.start()
        self._class_task = asyncio.create_task(self._keep_class(), name="class")
        # In the package, `Lab.close` does this first of all.
        self._cluster._resources.push_async_callback(self._stop)
        return port

    def close(self) -> None:
        """Send everybody home and listen no more. The lab goes on. Idempotent."""
        if not self.lab._loop.closed:
            self.lab._loop.run(self._stop())

    async def _stop(self) -> None:
        task, self._class_task = self._class_task, None
        if task is None:
            return
        task.cancel()
        await asyncio.wait([task])
        await self.front.stop()
        await self.feed.stop()

    # --- where -------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Where students join."""
        return self._public or f"http://{self.address}:{self.port}"

    @property
    def join_url(self) -> str:
        return f"{self.url}/?k={self.seats.code}"

    def board_url(self) -> str:
        """Return an address that opens the board with the teacher's buttons, once."""
        ticket = secrets.token_urlsafe(18)
        self._tickets[ticket] = time.monotonic() + TICKET_S
        base = self._public or f"http://127.0.0.1:{self.port}"
        return f"{base}/board?ticket={ticket}"

    def qr(self) -> str:
        """Return the address as a QR code (SVG); empty without segno."""
        try:
            import segno
        except ImportError:
            return ""
        return segno.make(self.join_url, error="m").svg_inline(scale=6, border=2, dark="#000", light="#fff")

    def _repr_html_(self) -> str:
        code = f"{self.seats.code[:3]} {self.seats.code[3:]}"
        return (
            '<div style="display:flex;gap:24px;align-items:center;font-family:sans-serif">'
            f'<div style="background:#fff" role="img" aria-label="QR code of the address">{self.qr()}</div>'
            f'<div><div style="font-size:15px">Open in a browser:</div>'
            f'<div style="font-size:26px;font-weight:700">{html.escape(self.url.split("://")[1])}</div>'
            f'<div style="font-size:15px;margin-top:10px">Code of the class:</div>'
            f'<div style="font-size:40px;font-weight:700;letter-spacing:.08em">{code}</div>'
            f'<div style="margin-top:12px"><a href="{html.escape(self.board_url())}" target="_blank" '
            'rel="noopener">Open the board</a> (this link works once, for ten minutes)</div></div></div>'
        )

    def __repr__(self) -> str:
        return f"<Classroom {self.url}, code {self.seats.code}: {len(self.seats.by_user)} students>"

    # --- what a cell asks --------------------------------------------------------------------

    def ask(self, question: str, text: str = "", options: Mapping[str, str] | None = None) -> None:
        """Put a question of the lessons on all phones, or one of your own: {option: why tempting}."""
        if options is None:
            asked = QUESTIONS[question]
            text, options = asked.text, {str(o): why for o, why in asked.options.items()}
        self.lab._loop.call(lambda: self._ask(question, text, dict(options)))

    def reveal(self, answer: object) -> dict[str, int]:
        """Show on all phones what was measured, and on the board how the class had voted."""
        return self.lab._loop.call(lambda: self._reveal(str(answer)))

    @property
    def votes(self) -> dict[str, str]:
        return dict(self._votes)

    @property
    def students(self) -> list[str]:
        return list(self.seats.by_user)

    def listen(self, listener: Callable[[str], None]) -> tuple[list[str], str]:
        """Let a widget hear each batch; return what was before and the hello. On the lab's loop."""
        self._listeners.add(listener)
        return list(self.feed.history), json.dumps(self._hello("teacher"))

    def _ask(self, name: str, text: str, options: dict[str, str]) -> None:
        self._votes.clear()
        self._question = {"id": f"{name}/{secrets.token_hex(3)}", "text": text, "options": options, "answer": None}
        self.feed.note("ask", q=text, o=list(options))
        self._tell_class()

    def _reveal(self, answer: str) -> dict[str, int]:
        if self._question is None:
            return {}
        self._question["answer"] = answer
        tally = Counter(self._votes.values())
        counts = {option: tally[option] for option in self._question["options"]}
        self.feed.note("reveal", a=answer, n=counts)
        self._tell_class()
        return counts

    # --- the door ----------------------------------------------------------------------------

    async def _answer(
        self, asked: Asked, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> Reply | None:
        path = asked.path
        if asked.upgrade:
            if path == "/feed":
                await self._board(asked, reader, writer)
                return None
            if path == "/desk":
                await self._desk(asked, reader, writer)
                return None
            if path.startswith("/gw/"):
                return await self._relay(asked, reader, writer)
            return Reply(404, b"Not found.\n")
        if path == "/board" and "ticket" in asked.query:
            return self._admit(asked)
        if path == "/qr.svg":
            return Reply(200, self.qr().encode(), KINDS[".svg"]) if self._is_teacher(asked) else Reply(403)
        name = {"/": "student.html", "/board": "board.html"}.get(path, path.removeprefix("/static/"))
        found = self._assets.get(name)
        if found is None or (path not in ("/", "/board") and not path.startswith("/static/")):
            return Reply(404, b"Not found.\n")
        body, kind = found
        csp = (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
            f"connect-src 'self' {self._ws_of(asked)}; base-uri 'none'; form-action 'none'; "
            "frame-ancestors 'self' http://localhost:* http://127.0.0.1:*"
        )
        return Reply(200, body, kind, {"Content-Security-Policy": csp} if kind.startswith("text/html") else {})

    def _ws_of(self, asked: Asked) -> str:
        """Older Safaris do not count ws:// as 'self'."""
        return f"ws://{asked.headers['host']} wss://{asked.headers['host']}"

    def _admit(self, asked: Asked) -> Reply:
        """Turn a ticket into a cookie. A ticket that was photographed is worth nothing by then."""
        ends = self._tickets.pop(asked.query["ticket"], 0.0)
        if ends < time.monotonic() or not self._may_teach(asked):
            return Reply(403, b"This link has been used, or is too old: show the room again in a cell.\n")
        key = secrets.token_urlsafe(24)
        self._teachers.add(key)
        cookie = f"teacher-{self.port}={key}; HttpOnly; SameSite=Strict; Path=/; Max-Age=43200"
        # A relative address, since a proxy may have put a path before ours.
        return Reply(303, b"", headers={"Location": "board", "Set-Cookie": cookie})

    def _may_teach(self, asked: Asked) -> bool:
        return self._remote_teacher or asked.address in ("127.0.0.1", "::1")

    def _is_teacher(self, asked: Asked) -> bool:
        return asked.cookie(f"teacher-{self.port}") in self._teachers and self._may_teach(asked)

    # --- boards ------------------------------------------------------------------------------

    def _hello(self, role: str) -> dict[str, Any]:
        shown = {"url": self.url.split("://")[1], "code": self.seats.code} if role == "teacher" else {}
        return {"type": "hello", "v": 1, "role": role, "lab": describe(self._cluster), "room": shown,
                "t": round(self.feed.now, 3), "history": len(self.feed.history)}  # fmt: skip

    async def _board(
        self, asked: Asked, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        teacher = self._is_teacher(asked)
        if not teacher:
            try:
                known = self.seats.is_code(asked.query.get("k", ""), asked.address)
            except Refused:
                known = False
        channel = Channel(asked, reader, writer)
        if not channel.accept():
            return
        if not teacher and not known:
            channel.close(4504, "the code of the class is needed")
            return
        channel.tell(self._hello("teacher" if teacher else "viewer"))
        for text in list(self.feed.history):
            channel.send(text)
        channel.tell({"type": "live"})
        self._boards.add(channel)

        async def take(document: dict[str, Any]) -> None:
            if document.get("type") == "do":
                if teacher:
                    self.do(document, channel.tell)
                else:
                    channel.tell({"type": "failed", "why": "only the teacher may do that"})

        try:
            await channel.each(take, per_s=10, burst=20)
        finally:
            self._boards.discard(channel)

    def _publish(self, text: str) -> None:
        for channel in list(self._boards):
            channel.send(text)
        for listener in list(self._listeners):
            listener(text)

    # --- the teacher's hands -----------------------------------------------------------------

    def do(self, document: dict[str, Any], tell: Callable[[dict[str, Any]], None]) -> None:
        """Start what a teacher's button asks for; say how it went. Called on the lab's loop."""
        task = asyncio.create_task(self._do(document, tell), name=f"teacher {document.get('what')}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _do(self, document: dict[str, Any], tell: Callable[[dict[str, Any]], None]) -> None:
        what, gateway, user = (str(document.get(key, "")) for key in ("what", "g", "u"))
        cluster = self._cluster
        acts: dict[str, Callable[[], Any]] = {
            "crash": lambda: cluster.crash(gateway),
            "drain": lambda: cluster.drain(gateway),
            "start": lambda: cluster.start_gateway(gateway),
            "freeze": lambda: cluster.freeze(gateway),
            "thaw": lambda: cluster.thaw(gateway),
            "hold": lambda: cluster.hold(user, gateway),
            "let_go": lambda: self._let_go(user, gateway),
            "redis_stop": lambda: cluster.redis.stop(),
            "redis_start": lambda: cluster.redis.restart(),
            "redis_freeze": lambda: cluster.redis.freeze(),
            "redis_thaw": lambda: cluster.redis.thaw(),
            "ask": lambda: self._ask_async(str(document.get("q", ""))),
            "reveal": lambda: self._reveal_async(str(document.get("a", ""))),
            "door": lambda: self._door(bool(document.get("open"))),
        }
        act = acts.get(what)
        if act is None or (gateway and gateway not in cluster._wanted):
            tell({"type": "failed", "what": what, "why": "there is no such button"})
            return
        self.feed.note("act", w=what, g=gateway, u=user)
        try:
            async with asyncio.timeout(15):
                await act()
        except Exception as problem:  # Whatever it is, the teacher shall read it on the board.
            tell({"type": "failed", "what": what, "why": str(problem) or type(problem).__name__})
        else:
            tell({"type": "done", "what": what, "g": gateway, "u": user})

    async def _let_go(self, user: str, gateway: str) -> None:
        director = self._cluster.director(gateway)
        if director.waiting(user):
            await self._cluster.let_go(user, gateway)
        else:
            await self._cluster.host(gateway).on_its_loop(lambda: director.let_go(user))

    async def _ask_async(self, name: str) -> None:
        asked = QUESTIONS[name]
        self._ask(name, asked.text, {str(o): why for o, why in asked.options.items()})

    async def _reveal_async(self, answer: str) -> None:
        self._reveal(answer)

    async def _door(self, is_open: bool) -> None:
        self.seats.open = is_open

    # --- students ----------------------------------------------------------------------------

    async def _desk(
        self, asked: Asked, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """A student's own feed: the seat, the class, the question, and what Redis believes of it."""
        channel = Channel(asked, reader, writer)
        if not channel.accept():
            return
        seat: Seat | None = None

        async def take(document: dict[str, Any]) -> None:
            nonlocal seat
            kind = document.get("type")
            if kind == "join" and seat is None:
                try:
                    seat = self._join(document, asked.address)
                except Refused as problem:
                    channel.tell({"type": "no", "why": str(problem)})
                    return
                self._desks.setdefault(seat.user, set()).add(channel)
                channel.tell(self._seated(seat))
                channel.tell(self._class())
            elif seat is None:
                channel.tell({"type": "no", "why": "take a seat first"})
            elif kind == "vote":
                self._vote(seat, document)
            elif kind == "saw":
                self._seen(seat, document)

        try:
            await channel.each(take, per_s=3, burst=10)
        finally:
            if seat is not None:
                self._desks[seat.user].discard(channel)

    def _join(self, document: dict[str, Any], address: str) -> Seat:
        secret, code, name = (str(document.get(key, "")) for key in ("seat", "code", "name"))
        if secret and (seat := self.seats.known(secret)) is not None:
            return seat
        if secret and not code:
            raise Refused("this class is over: it takes the code of the new one")
        seat = self.seats.sit(code[:16], name, address)
        self.feed.note("seat", u=seat.user, n=seat.name)
        return seat

    def _seated(self, seat: Seat) -> dict[str, Any]:
        names = self._cluster._wanted
        turn = seat.number % len(names)
        lab = describe(self._cluster)
        return {"type": "seated", "user": seat.user, "name": seat.name, "seat": seat.secret,
                "gateways": names[turn:] + names[:turn], "scale": lab["scale"], "ttl": lab["ttl"]}  # fmt: skip

    def _vote(self, seat: Seat, document: dict[str, Any]) -> None:
        question = self._question
        if question is None or question["answer"] is not None or document.get("q") != question["id"]:
            return
        option = str(document.get("o", ""))
        if option in question["options"]:
            self._votes[seat.user] = option
            self.feed.note("vote", n=len(self._votes))

    def _seen(self, seat: Seat, document: dict[str, Any]) -> None:
        code, away = document.get("code"), document.get("away")
        if isinstance(code, int) and 1000 <= code <= 4999 and isinstance(away, int | float):
            if 0 <= away < 600:
                self.feed.note("saw", u=seat.user, c=code, s=round(float(away), 2))

    async def _keep_class(self) -> None:
        """Tell each student twice a second what Redis believes, when that has changed."""
        told: dict[Channel, str] = {}
        class_told = ""
        while True:
            await asyncio.sleep(CLASS_TICK_S)
            now = self.feed.now
            common = json.dumps(self._class())
            for user, channels in self._desks.items():
                gateway, _, ends = self.feed.belief(user)
                left = round(ends - now, 1)
                mine = f'{{"type":"you","gateway":{json.dumps(gateway)},"left":{max(0.0, left)}}}'
                for channel in channels:
                    if channel.unread > 64 * 1024:
                        continue  # A phone on a bad network gets the next one.
                    if common != class_told:
                        channel.send(common)
                    if told.get(channel) != mine:
                        channel.send(mine)
                        told[channel] = mine
            class_told = common
            told = {channel: text for channel, text in told.items() if channel.open}

    def _class(self) -> dict[str, Any]:
        cluster = self._cluster
        lab_users = [user for user in cluster.users if not CROWD.fullmatch(user)]
        crowd = [user for user in cluster.users if CROWD.fullmatch(user)]
        document: dict[str, Any] = {
            "type": "class",
            "people": [[seat.user, seat.name] for seat in self.seats.by_user.values()],
            "others": lab_users + crowd[:CROWD_ROSTER],
            "up": sorted(cluster.hosts),
        }
        if self._question is not None:
            shown = dict(self._question)
            if shown["answer"] is None:
                shown["options"] = list(shown["options"])  # Not yet why each is tempting.
            else:
                tally = Counter(self._votes.values())
                shown["tally"] = {option: tally[option] for option in shown["options"]}
            document["question"] = shown
        return document

    def _tell_class(self) -> None:
        text = json.dumps(self._class())
        for channels in self._desks.values():
            for channel in channels:
                channel.send(text)

    async def _relay(
        self, asked: Asked, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> Reply | None:
        seat = self.seats.known(asked.query.get("seat", ""))
        if seat is None:
            return Reply(403, b"Take a seat first.\n")
        host = self._cluster.hosts.get(asked.path.removeprefix("/gw/").removesuffix("/ws"))
        if host is None:
            return Reply(503, b"Nobody listens there.\n")
        return await to_gateway(asked, reader, writer, host.port, seat.user)


def classroom(lab: Lab, **options: Any) -> Classroom:
    """In the package: `lab.classroom(host="lan")`."""
    return Classroom(lab, **options)


def board(room: Classroom) -> Any:
    """The board inside a notebook, over the kernel's own connection: works at a hub as well."""
    from wsdemo.lab.classroom.widget import Board

    return Board(room)


def lan_address() -> str:
    """Return this machine's address in its network; loopback when there is none."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # Nothing is sent: it only asks which way out there is.
        address = str(probe.getsockname()[0])
        if not address.startswith("127."):
            return address
    for name, ends in psutil.net_if_addrs().items():
        if not name.startswith(("docker", "br-", "veth", "virbr")):
            for end in ends:
                if end.family == socket.AF_INET and not end.address.startswith("127."):
                    return end.address
    return "127.0.0.1"


def _assets() -> dict[str, tuple[bytes, str]]:
    paths = [*STATIC.iterdir(), CLIENT_LIBRARY]
    return {path.name: (path.read_bytes(), KINDS[path.suffix]) for path in paths if path.suffix in KINDS}


"""Class room: how do students join a lab from their browsers, and what does a teacher's cell say?

One port, on the loop of the lab: pages, the feeds of students and boards, and a relay to each
gateway. Gateways stay on loopback, and know nothing of the room.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from wsdemo import tasks
from wsdemo.lab.classroom.channel import FeedChannel
from wsdemo.lab.classroom.controls import Controls, RoomVerbs, Tell
from wsdemo.lab.classroom.feed import CROWD, Feed, describe
from wsdemo.lab.classroom.history import decoded
from wsdemo.lab.classroom.http import HttpReply, HttpRequest, refusal
from wsdemo.lab.classroom.invitation import invitation_html, qr_svg, without_scheme
from wsdemo.lab.classroom.invited import InvitedStudent, ScriptedClass
from wsdemo.lab.classroom.listener import CONNECTIONS, BrowserConnection, RoomListener
from wsdemo.lab.classroom.network import LOOPBACK, PublicUrl, address_of, host_headers
from wsdemo.lab.classroom.observers import NOT_ADMITTED, BoardChannel, Observers
from wsdemo.lab.classroom.pages import STATIC, SVG, StaticFiles
from wsdemo.lab.classroom.relay import GatewayRelay
from wsdemo.lab.classroom.seats import MOST_SEATS, SEATS, NotAdmitted, Seat, Seats
from wsdemo.lab.classroom.students import Document, StudentFeeds
from wsdemo.lab.classroom.tickets import TeacherTickets
from wsdemo.lab.classroom.votes import Poll, VoteCount, poll_of
from wsdemo.lab.errors import LabRefused

if TYPE_CHECKING:
    from wsdemo.drawing.style import Picture
    from wsdemo.lab.lab import Lab

__all__ = ["STATIC", "Classroom"]

CROWD_SHOWN: Final = 6
"""Simulated users that students are offered to write to."""
OVER: Final = "the class is over"


class Classroom:
    """The class room of a lab: `room = lab.classroom()`. A cell that ends in it shows how to join.

    Args:
        lab: open, with a loop in a thread of its own.
        host: "127.0.0.1" (this machine only), "lan" (also this machine's address in its network),
            or an address of this machine.
        port: 0 lets the system choose.
        public_url: where a proxy shows this room, when there is one.
        seats: how many students at most.
        remote_teacher: whether the teacher's buttons work from other machines than this one.

    Raises:
        LabRefused: an option cannot work, or the port is not free.
    """

    def __init__(
        self,
        lab: Lab,
        *,
        host: str = LOOPBACK,
        port: int = 0,
        public_url: str = "",
        seats: int = SEATS,
        remote_teacher: bool = False,
    ) -> None:
        _require_numbers(port, seats)
        self._public = PublicUrl.of(public_url)
        self.lab = lab
        self.address = address_of(host)
        """Where students find it: loopback, or one address of this machine."""
        self.port = 0
        self.seats = Seats(self._is_taken, seats)
        self._loop = lab.loop
        self._cluster = lab.cluster
        self._observers = Observers()
        self.feed = Feed(self._cluster, self._observers.publish)
        self._scripted = ScriptedClass(self._loop, self._cluster.seed)
        self.controls = Controls(
            self._cluster,
            RoomVerbs(self._ask_lesson, self._reveal, self._admit),
            self.feed.note,
            self._is_known,
        )
        self._students = StudentFeeds(
            join=self._join,
            seated=self._seated,
            class_now=self._class_now,
            belief=self._belief,
            vote=self._vote,
            saw=lambda seat, code, away_s: self.feed.note("saw", u=seat.user, c=code, s=away_s),
        )
        self._files = StaticFiles()
        self._tickets = TeacherTickets(remote_teacher)
        self._poll: Poll | None = None
        self._listener = RoomListener(self._answer)
        self._ticking: asyncio.Task[None] | None = None
        self.is_open = False
        self._loop.run(self._start(port))

    async def _start(self, port: int) -> None:
        self.is_open = True
        try:
            await self._listen(port)
            self.feed.start()
            self._ticking = asyncio.create_task(self._students.run(), name="students' feeds")
        except BaseException:
            await self.stop()
            raise

    async def _listen(self, port: int) -> None:
        addresses = list(dict.fromkeys([LOOPBACK, self.address]))
        try:
            self.port = await self._listener.start(addresses, port)
        except OSError as problem:
            where = " and ".join(addresses)
            raise LabRefused(
                f"the room cannot listen at {where}, port {port}: {problem.strerror or problem}"
            ) from None
        for name in ("localhost", *addresses):
            hosts = host_headers(name, self.port)
            self._listener.hosts |= hosts
            self._listener.origins |= {f"http://{host}" for host in hosts}
        if self._public is not None:
            self._listener.hosts.add(self._public.host)
            self._listener.origins.add(self._public.origin)
            self._listener.per_address = CONNECTIONS  # All come from the proxy.

    def close(self) -> None:
        """Tell everybody that the class is over, and listen no more. The lab goes on. Idempotent.

        The votes, the students and what was recorded stay.
        """
        if not self._loop.closed:
            self._loop.run(self.stop())

    async def stop(self) -> None:
        """The same, on the lab's loop."""
        if not self.is_open:
            return
        self.is_open = False
        await self._scripted.stop()
        self.feed.flush()  # Boards hear of a reveal just before the end.
        self._students.close(OVER)
        self._observers.close(OVER)
        if self._ticking is not None:
            await tasks.end(self._ticking)
        await self.controls.stop()
        await self._listener.stop()
        await self.feed.stop()

    # --- what a cell asks --------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Where students join."""
        if self._public is not None:
            # Without the slash, a browser would look for the rest of the page beside the room.
            return f"{self._public.url}/"
        (name,) = (
            one for one in host_headers(self.address, self.port) if one.endswith(f":{self.port}")
        )
        return f"http://{name}"

    @property
    def code(self) -> str:
        """What students type to join."""
        return self.seats.code

    @property
    def join_url(self) -> str:
        """The same with the code in it."""
        return f"{self.url.removesuffix('/')}/?k={self.code}"

    def board_url(self) -> str:
        """Return an address that opens the board with the teacher's buttons: once, and within ten
        minutes.
        """
        base = self._public.url if self._public is not None else f"http://{LOOPBACK}:{self.port}"
        ticket = self._loop.call(self._tickets.issue)
        return f"{base}/board?ticket={ticket}"

    @property
    def students(self) -> list[str]:
        """The user ids of those who have joined."""
        return list(self.seats.by_user)

    @property
    def votes(self) -> dict[str, str]:
        """The votes on the latest question: option by user id."""
        return {} if self._poll is None else dict(self._poll.votes)

    def ask(
        self,
        question: str,
        text: str = "",
        options: Mapping[str, str] | Sequence[str] | None = None,
    ) -> None:
        """Ask all students: a question of the lessons ("q04"), or one of your own.

        Args:
            text: of your own question.
            options: of your own question: {option: why it is tempting}, or a list.

        Raises:
            LabRefused: there is no such question, or it has no options.
        """
        poll = poll_of(question, text, options)
        self._require_open()
        self._loop.call(lambda: self._begin(poll))

    def reveal(self, measured: object) -> VoteCount:
        """Show everybody what was measured, and return how the class had voted.

        A number need not be one of the options.

        Raises:
            LabRefused: nothing was asked.
        """
        self._require_open()
        return self._loop.call(lambda: self._reveal(str(measured)))

    def admit(self, newcomers: bool) -> None:
        """Let nobody new join (False), or let students join again (True). Those who have a seat
        keep it, and come back to it.
        """
        self._require_open()
        self._loop.call(lambda: self._admit(newcomers))

    def invite(self, count: int) -> list[InvitedStudent]:
        """Let scripted students join by the port of the room, and return them when all are
        registered at gateways: to prepare a lesson, or to read one alone.

        Raises:
            LabRefused: there are not so many seats.
            LabTimeout: a gateway did not register one of them.
        """
        self._require_open()
        return self._scripted.invite(count, f"http://{LOOPBACK}:{self.port}", self.code)

    def batches(self) -> list[dict[str, Any]]:
        """Return what boards have been told so far (docs/observer.md), the oldest first."""
        texts = self.feed.history if self._loop.closed else self._loop.call(self._history)
        return [decoded(text) for text in texts]

    def _history(self) -> list[str]:
        return list(self.feed.history)

    def picture(self, **options: Any) -> Picture:
        """Draw the board at one moment, for readers without a kernel; the options are those of
        `wsdemo.lab.plots.class_board`: `room.picture(after_s=1)` is a second after the crash.
        """
        from wsdemo.lab.figures.class_board import class_board

        return class_board(self.batches(), ttl_s=self._cluster.timing.presence_ttl_s, **options)

    def save(self, path: str | Path, title: str = "A run of the lab") -> Path:
        """Write what the room has recorded into one file, which opens without a network."""
        from wsdemo.lab.classroom.recording import save_html

        return save_html(self, path, title)

    def do(self, document: Document, tell: Tell) -> None:
        """Press a button of the board, and tell how it ended. To be called on the lab's loop."""
        self.controls.press(document, tell)

    def _require_open(self) -> None:
        self._loop.require_open()
        if not self.is_open:
            raise LabRefused("this room is closed: lab.classroom() opens another one")

    def _repr_html_(self) -> str:
        if not self.is_open:
            return "<code>&lt;Classroom: closed&gt;</code>"
        return invitation_html(self.url, self.code, self.join_url, self.board_url())

    def __repr__(self) -> str:
        if not self.is_open:
            return "<Classroom: closed>"
        return f"<Classroom {self.url}, code {self.code}, students: {len(self.students)}>"

    # --- requests ----------------------------------------------------------------------------

    async def _answer(
        self, request: HttpRequest, connection: BrowserConnection
    ) -> HttpReply | None:
        if request.is_websocket:
            return await self._answer_websocket(request, connection)
        if request.path == "/board" and "ticket" in request.query:
            return self._redeem(request)
        if request.path == "/qr.svg":
            if not self._tickets.is_teacher(request, self.port):
                return refusal(HTTPStatus.FORBIDDEN)
            return HttpReply(HTTPStatus.OK, qr_svg(self.join_url).encode(), SVG)
        return self._files.reply(request)

    async def _answer_websocket(
        self, request: HttpRequest, connection: BrowserConnection
    ) -> HttpReply | None:
        if request.path.startswith("/gw/"):
            return await self._relay(request, connection)
        if request.path not in ("/feed", "/desk"):
            return refusal(HTTPStatus.NOT_FOUND)
        channel = FeedChannel(request, connection)
        if not channel.accept():
            return None
        if request.path == "/desk":
            await self._students.serve(channel, request.address)
        else:
            await self._serve_board(request, channel)
        return None

    def _redeem(self, request: HttpRequest) -> HttpReply:
        cookie = self._tickets.redeem(request.query["ticket"], request, self.port)
        if cookie is None:
            return refusal(
                HTTPStatus.FORBIDDEN,
                "This link works once, for ten minutes and on the teacher's machine: show the "
                "room again in a cell, for a new one",
            )
        # A relative address: a proxy may have put a path before ours.
        headers = {"Location": "board", "Set-Cookie": cookie}
        return HttpReply(HTTPStatus.SEE_OTHER, headers=headers)

    async def _serve_board(self, request: HttpRequest, channel: FeedChannel) -> None:
        is_teacher = self._tickets.is_teacher(request, self.port)
        if not is_teacher and not self._knows_code(request):
            channel.close(NOT_ADMITTED, "the code of the class is needed")
            return
        channel.admit()
        board = BoardChannel(channel, self.do if is_teacher else None)
        hello = self.hello("teacher" if is_teacher else "viewer")
        await self._observers.serve(board, hello, list(self.feed.history))

    def _knows_code(self, request: HttpRequest) -> bool:
        try:
            return self.seats.is_code(request.query.get("k", ""), request.address)
        except NotAdmitted:
            return False

    async def _relay(self, request: HttpRequest, connection: BrowserConnection) -> HttpReply | None:
        seat = self.seats.find(request.query.get("seat", ""))
        if seat is None:
            return refusal(HTTPStatus.FORBIDDEN, "Join the class first")
        connection.admitted = True
        name = request.path.removeprefix("/gw/").removesuffix("/ws")
        host = self._cluster.hosts.get(name)
        if host is None:
            return refusal(HTTPStatus.SERVICE_UNAVAILABLE, "Nobody listens there")
        return await GatewayRelay(request, connection, seat.user, host.port).run()

    # --- what is told ------------------------------------------------------------------------

    def hello(self, role: str) -> Document:
        """Return what a board is told first."""
        shown = {"url": without_scheme(self.url), "code": self.code} if role == "teacher" else {}
        return {
            "type": "hello",
            "v": 1,
            "role": role,
            "lab": describe(self._cluster),
            "room": shown,
            "t": round(self.feed.now, 3),
            "history": len(self.feed.history),
        }

    def _class_now(self) -> Document:
        users = [user for user in self._cluster.users if not CROWD.fullmatch(user)]
        crowd = [user for user in self._cluster.users if CROWD.fullmatch(user)]
        document: Document = {
            "type": "class",
            "people": [[seat.user, seat.name] for seat in self.seats.by_user.values()],
            "others": users + crowd[:CROWD_SHOWN],
            "up": sorted(self._cluster.hosts),
        }
        if self._poll is not None:
            document["question"] = self._poll.document()
        return document

    def _seated(self, seat: Seat) -> Document:
        names = self._cluster.names
        turn = seat.number % len(names)
        timing = self._cluster.timing
        return {
            "type": "seated",
            "user": seat.user,
            "name": seat.name,
            "seat": seat.secret,
            "gateways": names[turn:] + names[:turn],
            "scale": timing.scale,
            "ttl": timing.presence_ttl_s,
        }

    def _belief(self, user: str) -> tuple[str, float] | None:
        if not self.feed.known:
            return None
        gateway, _, ends = self.feed.belief(user)
        return gateway, ends - self.feed.now

    # --- students ----------------------------------------------------------------------------

    def _is_taken(self, user: str) -> bool:
        return user in self._cluster.users

    def _is_known(self, user: str) -> bool:
        return user in self.seats.by_user or user in self._cluster.users

    def _join(self, document: Document, address: str) -> Seat:
        given = (document.get(key) for key in ("seat", "code", "name"))
        secret, code, name = (one if isinstance(one, str) else "" for one in given)
        if secret and (seat := self.seats.find(secret)) is not None:
            return seat
        if secret and not code:
            raise NotAdmitted("this class is over: it takes the code of the new one")
        seat = self.seats.join(code, name, address)
        self.feed.note("seat", u=seat.user, n=seat.name)
        return seat

    def _admit(self, is_open: bool) -> None:
        self.seats.admits = is_open

    # --- questions ---------------------------------------------------------------------------

    def _ask_lesson(self, name: str) -> None:
        self._begin(poll_of(name))

    def _begin(self, poll: Poll) -> None:
        self._poll = poll
        self.feed.note("ask", q=poll.text, o=list(poll.options))
        self._students.tell_class()

    def _vote(self, seat: Seat, question: str, option: str) -> None:
        poll = self._poll
        if poll is not None and poll.id == question and poll.vote(seat.user, option):
            self.feed.note("vote", n=len(poll.votes))

    def _reveal(self, measured: str) -> VoteCount:
        poll = self._poll
        if poll is None:
            raise LabRefused('nothing was asked yet: room.ask("q04") first')
        poll.measured = measured
        count = poll.count()
        self.feed.note("reveal", a=measured, n=count)
        self._students.tell_class()
        return VoteCount(poll.text, count, measured)


def _require_numbers(port: int, seats: int) -> None:
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65535:
        raise LabRefused(f"port is a number from 0 (the system chooses) to 65535, not {port!r:.80}")
    if isinstance(seats, bool) or not isinstance(seats, int) or not 1 <= seats <= MOST_SEATS:
        raise LabRefused(f"a room has 1 to {MOST_SEATS} seats, not {seats!r:.80}")

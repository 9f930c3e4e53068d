"""Client: what can a user say and hear, whatever happens to the connection?

`Connection` stays connected. This is what goes over it: messages and their receipts, the inbox with
its acknowledgements, rooms, and the presence of others.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import secrets
import ssl
import time
from collections.abc import (
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from typing import Any, Final

import msgspec
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from wsdemo.client.connection import BackoffRule, ClientClosed, Connection, State
from wsdemo.client.dial import why_not
from wsdemo.client.inbox import ACK_AFTER_S, InboxProgress
from wsdemo.client.items import Arrived, Item, ItemQueue, Message, MessagesMissed, Missed
from wsdemo.client.positions import Position, PositionError, PositionStore, require_usable
from wsdemo.client.receipts import FINAL, Receipt, Receipts
from wsdemo.client.rooms import (
    RETRYABLE,
    Joined,
    RequestRefused,
    Wishes,
    is_taken_back,
    taken_back,
    watch_of,
)
from wsdemo.client.tokens import TokenSource
from wsdemo.events import Emit, Kind
from wsdemo.protocol import Say, Status
from wsdemo.settings import ClientSettings, Timing

DURABLE_SEND_S: Final = 30.0
"""How long a durable message is sent again and again, unless the caller says otherwise."""
FOR_THE_APPLICATION: Final = frozenset(
    {"message", "resumed", "joined", "members", "member", "presence"}
)
"""What makes items. While the application takes none, these wait, and all that comes after them."""
ASK_AGAIN_S: Final = 2.0
"""How long to wait before a refused wish is asked for again."""
DEVICE: Final = re.compile(r"[A-Za-z0-9._-]{0,16}")
DEVICE_RULE: Final = "at most 16 of A-Z, a-z, 0-9, '.', '_' and '-'"
_encode: Final = msgspec.json.encode


class Client(Connection):
    """A user, connected to one of several gateways: `async with Client("alice", [url]) as alice`.

    What comes in is an `Item`: a message, a gap, a member of a room, a change of presence. Take
    items one after another, in one task. A durable message is done when the next item is asked for;
    only then is it acknowledged. The last one is done at the end of `async with`, unless an
    exception ends it, and after `done`.

    Args:
        user: who we are.
        gateways: WebSocket URLs, tried in turn.
        durable: read our inbox, so that messages that came while we were away are not lost. The
            gateways must store messages (`--durable`).
        position: where it is kept how far we have read, for the next process. Without one, the next
            process goes on after what was acknowledged.
        device: the name of this device, where a user may have several. It keeps its name.
        settings: timeouts and backoff.
        timing: its heartbeat is used instead of the one that the gateway asks for.
        token: the token, where gateways require one; or a function that returns it, or a coroutine
            function. The function is called at each attempt, and before the token in use expires.
            It may raise: then it is called again.
        tls: certificates to trust for `wss://`, instead of those that this machine trusts.
        emit: takes an event for everything that happens.
        backoff: says how long to wait before an attempt to connect again, instead of exponential
            backoff with full jitter. It gets the number of the attempt, from 1, and `rng`.
        rng: source of all jitter (pauses, the phase of the heartbeat).
        new_id: makes the id of this client, by which gateways tell two clients of a user apart.
        clock: monotonic seconds.
        time_of_day: Unix seconds; asked about the end of tokens, and whether this machine slept.
        should_ping: asked before each heartbeat; the laboratory drops some.

    Raises:
        ValueError: there is no gateway, or an address that is not a WebSocket URL, or a name that
            is no text, or a position for a client that is not durable, or a device has no valid
            name.
    """

    def __init__(
        self,
        user: str,
        gateways: Sequence[str],
        *,
        durable: bool = False,
        position: PositionStore | None = None,
        device: str = "",
        settings: ClientSettings | None = None,
        timing: Timing | None = None,
        token: str | TokenSource = "",
        tls: ssl.SSLContext | None = None,
        emit: Emit | None = None,
        backoff: BackoffRule | None = None,
        rng: random.Random | None = None,
        new_id: Callable[[], str] = lambda: secrets.token_hex(8),
        clock: Callable[[], float] = time.monotonic,
        time_of_day: Callable[[], float] = time.time,
        should_ping: Callable[[], bool] = lambda: True,
    ) -> None:
        if not DEVICE.fullmatch(device):
            raise ValueError(f"{device!r:.80} is not the name of a device: {DEVICE_RULE}")
        if position is not None and not durable:
            raise ValueError("only a durable client has a position")
        super().__init__(
            user,
            gateways,
            settings=settings,
            timing=timing,
            token=token,
            tls=tls,
            emit=emit,
            backoff=backoff,
            rng=rng,
            new_id=new_id,
            clock=clock,
            time_of_day=time_of_day,
            should_ping=should_ping,
        )
        self.device = device
        self._next_id = 0
        self._receipts = Receipts(self._clock)
        self._items = ItemQueue(self._settings.inbox)
        self._given: Position | None = None
        """Where we are when the application has finished with the item that it has now."""
        self._progress = InboxProgress(user, device, None) if durable else None
        self._positions = position
        self._saved: Position | None = None
        self._saving: asyncio.Future[None] | None = None
        self._save_trouble: PositionError | None = None
        """What the application is to be told of."""
        self._told_trouble = ""
        self._saves = asyncio.Lock()
        self._finished = asyncio.Event()
        """Something is finished that was not acknowledged."""
        self._hurries = asyncio.Event()
        """It is to be acknowledged without waiting for more."""
        self._wishes = Wishes()

    async def __aexit__(self, kind: type[BaseException] | None, *exc_info: object) -> None:
        if kind is None:
            self._finish_item()
        await self.close()

    # --- sending -------------------------------------------------------------------------------

    async def send(
        self,
        to: str,
        content: str,
        *,
        durable: bool = False,
        echo: bool = False,
        id: str | None = None,
        timeout_s: float | None = None,
    ) -> Receipt:
        """Send a message and wait until its gateway tells the outcome.

        With `echo`, our other devices get it as well.

        No outcome is an exception. `unknown` means that no answer came in time, or that the
        connection broke before it did (gateways of the Go demo never answer); `busy` means that
        it was not sent because there was no connection. Messages that are sent one after another
        leave in that order. When this is cancelled, the outcome stays unknown.

        A durable message is sent again, with the same id and over any number of connections, until
        it is `stored` or a `duplicate` of what was stored before. It is `unknown` only after
        `timeout_s` (30 s unless you say otherwise), or when the client is closed: then it may be
        sent again, in another process too, under the same `id`.

        Raises:
            ValueError: there is another message with this id.
        """
        receipt = self._receipt(to, id, long=durable)
        document: dict[str, Any] = {"type": "message", "to": to, "content": content}
        document["id"] = receipt.id
        if echo:
            document["echo"] = True
        if durable:
            seconds = DURABLE_SEND_S if timeout_s is None else timeout_s
            return await self._send_until_stored(receipt, document | {"durable": True}, seconds)
        return await self._send(receipt, document, timeout_s)

    async def publish(
        self, room: str, content: str, *, id: str | None = None, timeout_s: float | None = None
    ) -> Receipt:
        """Send a message to all members of a room, and wait until the gateway tells the outcome.

        Raises:
            ValueError: there is another message with this id.
        """
        receipt = self._receipt(room, id)
        document = {"type": "publish", "room": room, "content": content, "id": receipt.id}
        return await self._send(receipt, document, timeout_s, self._wishes.entered(room))

    def _receipt(self, to: str, msg_id: str | None, *, long: bool = False) -> Receipt:
        if msg_id is not None:
            self._receipts.require_new(msg_id, to)
        else:
            # Ids of durable messages are remembered in Redis, beside those of other processes.
            self._next_id += 1
            msg_id = f"{self._instance if long else self._instance[:6]}-{self._next_id}"
        return Receipt(msg_id, to, _sent_at=self._clock())

    async def _send(
        self,
        receipt: Receipt,
        document: Mapping[str, Any],
        timeout_s: float | None,
        after: asyncio.Event | None = None,
    ) -> Receipt:
        """Send once, and wait for the answer. It is not sent before `after`."""
        try:
            async with asyncio.timeout(timeout_s or self._settings.ack_timeout_s):
                if after is not None:
                    await after.wait()
                if await self._write(receipt, document):
                    await receipt.settled()
        except TimeoutError:
            if receipt.id in self._receipts.pending:
                receipt.settle(Status.UNKNOWN, self._clock(), "no answer in time")
            elif receipt.status is None:
                receipt.settle(Status.BUSY, self._clock(), "not connected")
        finally:
            self._receipts.pending.pop(receipt.id, None)
        return receipt

    async def _send_until_stored(
        self, receipt: Receipt, document: Mapping[str, Any], timeout_s: float
    ) -> Receipt:
        """Send again and again under one id, until that is of no more use."""
        loop, settings = asyncio.get_running_loop(), self._settings
        give_up_at, tries = loop.time() + timeout_s, 0
        while self.state is not State.CLOSED:
            left_s = give_up_at - loop.time()
            if left_s <= 0:
                break
            receipt.again()
            await self._send(receipt, document, min(left_s, settings.ack_timeout_s))
            if receipt.status in FINAL:
                return receipt
            ceiling_s = min(settings.backoff_cap_s, settings.backoff_base_s * 2**tries)
            tries = min(tries + 1, 10)
            await self._sleep_unless_closed(min(left_s, self._rng.uniform(0, ceiling_s)))
        if receipt.id in self._receipts.recent:  # It was sent at least once.
            why = receipt.error or f"not stored within {timeout_s:g} s"
            receipt.settle(Status.UNKNOWN, self._clock(), why)
        elif receipt.status is None:
            receipt.settle(Status.BUSY, self._clock(), self.closed_because or "not connected")
        return receipt

    async def _sleep_unless_closed(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ended.wait()

    async def _write(self, receipt: Receipt, document: Mapping[str, Any]) -> bool:
        """Send the message of a receipt as soon as we are registered."""
        try:
            await self._wait_registered()
        except ClientClosed as problem:
            receipt.settle(Status.BUSY, self._clock(), str(problem))
            return False
        connection = self._connection
        assert connection is not None
        try:
            text = _encode(document)
        except UnicodeEncodeError:  # A lone surrogate cannot be sent.
            receipt.settle(Status.REFUSED, self._clock(), Say.INVALID)
            return False
        self._receipts.sent(receipt)
        self._observe(Kind.SEND, peer=receipt.to, msg_id=receipt.id)
        try:
            await connection.send(text, text=True)
        except ConnectionClosed:
            receipt.settle(Status.UNKNOWN, self._clock(), "the connection broke")
        return True

    # --- what comes to the application ---------------------------------------------------------

    async def next_item(self, timeout_s: float | None = None) -> Item:
        """Return the next item; the one before it is done.

        Raises:
            TimeoutError: none came in time.
            ClientClosed: none will come any more.
            PositionError: the position could not be saved; later it is tried again.
        """
        while True:
            self._finish_item()
            if (problem := self._save_trouble) is not None:
                self._save_trouble = None
                raise problem
            async with asyncio.timeout(timeout_s):
                arrived = await self._items.get()
            if arrived is None:
                raise ClientClosed(self.closed_because)
            self._given = arrived.position
            if arrived.item is not None:
                return arrived.item

    async def items(self) -> AsyncIterator[Item]:
        """Iterate over items until the client is closed for good; `closed_because` says why."""
        while True:
            try:
                item = await self.next_item()
            except ClientClosed:
                return
            yield item

    async def receive(self, timeout_s: float | None = None) -> Message:
        """Return the next message; members and changes of presence are skipped.

        Raises:
            TimeoutError: none came in time.
            ClientClosed: none will come any more.
            MessagesMissed: messages may be lost here. The next call goes on behind the gap.
            PositionError: the position could not be saved; later it is tried again.
        """
        async with asyncio.timeout(timeout_s):
            while True:
                item = await self.next_item()
                if isinstance(item, Missed):
                    raise MessagesMissed(item.count)
                if isinstance(item, Message):
                    return item

    async def __aiter__(self) -> AsyncIterator[Message]:
        """Iterate over messages until the client is closed for good; `closed_because` says why.

        Raises:
            MessagesMissed: messages may be lost here; a new iteration goes on behind the gap.
        """
        while True:
            try:
                message = await self.receive()
            except ClientClosed:
                return
            yield message

    @property
    def position(self) -> Position | None:
        """Where we are when the item that the application has now is done; None for a client that
        is not durable.

        An application with a database of its own saves it there in one transaction with what it
        does, and gives it to the next process by `load`: so each message has its effect once.
        """
        return self._given or (self._progress.finished if self._progress is not None else None)

    async def done(self) -> None:
        """Count the last item as done now; save the position, and acknowledge.

        Raises:
            PositionError: the position could not be saved.
        """
        self._finish_item()
        if (problem := await self._save_and_acknowledge()) is not None:
            raise problem

    def _finish_item(self) -> None:
        """Note that the application has finished with the item that it was given last."""
        position, self._given = self._given, None
        if position is None or self._progress is None:
            return
        self._progress.finish(position)
        self._finished.set()
        if self._progress.hurries:
            self._hurries.set()

    # --- how far we have read ------------------------------------------------------------------

    async def _load_position(self) -> None:
        """Go on where an earlier process has stopped.

        Raises:
            PositionError: that cannot be read, or it is another user's.
        """
        if self._positions is None:
            return
        position = await asyncio.to_thread(self._positions.load)
        if position is not None:
            require_usable(position, self.user, self.device)
            self._saved = position
            self._progress = InboxProgress(self.user, self.device, position)

    async def _acknowledge(self) -> None:
        """Acknowledge what is finished; several messages at once, where they come quickly."""
        while True:
            await self._finished.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ACK_AFTER_S):
                    await self._hurries.wait()
            self._finished.clear()
            self._hurries.clear()
            problem = await self._save_and_acknowledge()
            if problem is not None:
                self._finished.set()  # Try again, after a pause.
                if str(problem) != self._told_trouble:
                    self._save_trouble, self._told_trouble = problem, str(problem)

    async def _save_and_acknowledge(self) -> PositionError | None:
        """Save the position, then acknowledge; return why it could not be saved.

        Never in the other order: what is acknowledged is deleted, and a position before it would
        look like a gap.
        """
        if self._progress is None:
            return None
        async with self._saves:
            finished = self._progress.finished
            problem = await self._save(finished)
        if problem is not None:
            return problem
        self._told_trouble = ""
        connection = self._connection if self._registered.is_set() else None
        if connection is not None and (ack := self._progress.ack(finished)) is not None:
            with contextlib.suppress(ConnectionClosed):
                await connection.send(_encode(ack), text=True)
        return None

    async def _save(self, position: Position) -> PositionError | None:
        """Save the position; return why it could not be saved."""
        if self._positions is None or position == self._saved or not position.epoch:
            return None
        if self._saving is not None:
            # The one before was not waited for to its end, and must not come after this one.
            await asyncio.wait([self._saving])
        loop = asyncio.get_running_loop()
        saving = self._saving = loop.run_in_executor(None, self._positions.save, position)
        saving.add_done_callback(_heard)
        try:
            await asyncio.shield(saving)
        except PositionError as problem:
            return problem
        except Exception as problem:  # A store of the application raises what it likes.
            return PositionError(f"position: {type(problem).__name__}: {why_not(problem)}")
        finally:
            if saving.done():
                self._saving = None
        self._saved = position
        return None

    # --- rooms and presence --------------------------------------------------------------------

    async def join(self, room: str, history: int = 0, timeout_s: float | None = None) -> Joined:
        """Join a room, and return who is in it; after a reconnect, it is joined again.

        `history` asks for so many earlier messages of the room, where the gateway keeps some. Then
        also what was said during a reconnect is heard, and a gap is told by an item `Missed`.

        Raises:
            RequestRefused: the gateway says no; or, with code "taken_back", the room was left
                before there was an answer.
            TimeoutError: no answer came in time; then we are not in it.
            ClientClosed: the client is closed for good.
        """
        document: dict[str, Any] = {"type": "join", "room": room}
        if history:
            document["history"] = history
        is_new = self._wishes.want_room(room, history)
        try:
            joined: Joined = await self._ask(document, timeout_s)
        except BaseException as problem:
            if is_new and not is_taken_back(problem):  # Its answer may still be under way.
                self._wishes.want_no_room(room)
                await self._say({"type": "leave", "room": room})
            raise
        return joined

    async def leave(self, room: str, timeout_s: float | None = None) -> None:
        """Leave a room.

        Raises:
            RequestRefused: the gateway says no.
            TimeoutError: no answer came in time.
            ClientClosed: the client is closed for good.
        """
        self._wishes.want_no_room(room)
        try:
            await self._ask({"type": "leave", "room": room}, timeout_s)
        except RequestRefused as problem:
            if problem.code != "not_member":  # Then it is as we want it.
                raise

    async def watch(self, users: Iterable[str], timeout_s: float | None = None) -> None:
        """Be told when these users come and go, as items; first, what their state is now.

        After a reconnect, they are watched again.

        Raises:
            RequestRefused: the gateway says no.
            TimeoutError: no answer came in time; they are not watched.
            ClientClosed: the client is closed for good.
        """
        names = list(dict.fromkeys(users))
        new = self._wishes.want_users(names)
        try:
            await self._ask({"type": "watch", "users": names}, timeout_s)
        except BaseException:
            await self.unwatch(new)
            raise

    async def unwatch(self, users: Iterable[str]) -> None:
        """Be told nothing more about these users."""
        names = list(dict.fromkeys(users))
        self._wishes.want_no_users(names)
        if names:
            await self._say({"type": "unwatch", "users": names})

    async def watch_room(self, room: str, timeout_s: float | None = None) -> Joined:
        """Be told who comes into a room and who goes, without being in it; return who is in it now.

        After a reconnect, it is watched again. When the gateway does not allow that any more, the
        item is `WatchEnded`.

        Raises:
            RequestRefused: the gateway says no.
            TimeoutError: no answer came in time; it is not watched.
            ClientClosed: the client is closed for good.
        """
        is_new = self._wishes.want_to_watch(room)
        try:
            listed: Joined = await self._ask(watch_of(room), timeout_s)
        except BaseException as problem:
            if is_new and not is_taken_back(problem):
                await self.unwatch_room(room)
            raise
        return listed

    async def unwatch_room(self, room: str) -> None:
        """Be told nothing more about a room, unless we are in it."""
        self._wishes.want_not_to_watch(room)
        await self._say({"type": "unwatch", "rooms": [room]})

    async def _say(self, document: Mapping[str, Any]) -> None:
        """Say something that has no answer. A new session starts without rooms and watches, so
        nothing needs to be said where there is no connection.
        """
        connection = self._connection
        if connection is not None and self._registered.is_set():
            with contextlib.suppress(ConnectionClosed, TimeoutError):
                async with asyncio.timeout(self._settings.close_timeout_s):
                    await connection.send(_encode(document), text=True)

    async def _ask(self, document: Mapping[str, Any], timeout_s: float | None = None) -> Any:
        """Ask the gateway for something, and return its answer; when the connection breaks before
        it is there, ask the next gateway.
        """
        self._next_id += 1
        asked = {**document, "id": f"{self._instance[:6]}-{self._next_id}"}
        async with asyncio.timeout(timeout_s or self._settings.ack_timeout_s):
            while True:
                await self._wait_registered()
                connection = self._connection
                assert connection is not None
                if not self._wishes.wants(asked):
                    raise taken_back()
                request = self._wishes.open(asked)
                try:
                    await connection.send(_encode(asked), text=True)
                    return await request.answer
                except (ConnectionClosed, ConnectionError):
                    await asyncio.sleep(self._settings.backoff_base_s)
                finally:
                    self._wishes.close(request)

    async def _ask_again(self) -> None:
        """After a register, ask for what we have had before."""
        for document in self._wishes.again():
            await self._ask_until_answered(document)

    async def _ask_until_answered(self, document: Mapping[str, Any]) -> None:
        while self._wishes.wants(document):
            try:
                await self._ask(document)
                return
            except RequestRefused as problem:
                if problem.code not in RETRYABLE:
                    for item in self._wishes.give_up(document, self.user, str(problem)):
                        self._items.put(Arrived(item))
                    return
            except ClientClosed:
                return
            except TimeoutError:
                pass
            await asyncio.sleep(self._rng.uniform(0.5, 1.0) * ASK_AGAIN_S)

    # --- for the connection --------------------------------------------------------------------

    async def _prepare(self) -> None:
        await self._load_position()

    def _hello_fields(self, again: bool) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        if self.device:
            fields["device"] = self.device
        if self._progress is not None and not again:
            fields["resume"] = self._progress.resume()
        return fields

    def _is_enough(self, registered: Mapping[str, Any]) -> bool:
        return self._progress is None or registered.get("durable") is True

    def _work(
        self, connection: ClientConnection
    ) -> Iterator[tuple[Coroutine[Any, Any, None], str]]:
        if self._progress is not None:
            yield self._acknowledge(), "acks"
        if self._wishes.again():
            yield self._ask_again(), "wishes"

    def _is_full(self) -> bool:
        return self._items.full

    def _let_go(self, why: str) -> None:
        self._receipts.lost(why)
        self._wishes.lost()
        if self.state is State.CLOSED:
            self._items.close()

    async def _last_words(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.close_timeout_s):
                await self._save_and_acknowledge()

    # --- from the gateway ----------------------------------------------------------------------

    async def _take_other(self, document: dict[str, Any]) -> None:
        if document.get("type") in FOR_THE_APPLICATION:
            await self._items.room()
        match document.get("type"):
            case "message":
                self._take_message(document)
            case "ack":
                self._take_answer(document, str(document.get("status")))
            case "error":
                self._take_error(document)
            case "resumed" if self._progress is not None:
                self._take_resumed(self._progress, document)
            case _:
                self._take_change(document)

    def _take_message(self, document: dict[str, Any]) -> None:
        msg_id, room, offset, to = (document.get(key) for key in ("id", "room", "offset", "to"))
        message = Message(
            str(document.get("from", "")),
            str(document.get("content", "")),
            msg_id if isinstance(msg_id, str) else None,
            room if isinstance(room, str) else "",
            offset if isinstance(offset, str) else "",
            to if isinstance(to, str) else "",
        )
        if message.room:
            for item in self._wishes.heard(message):
                self._items.put(Arrived(item))
            self._observe(Kind.ARRIVE, peer=message.sender, msg_id=message.id or "")
            return
        arrived = Arrived(message)
        if self._progress is not None and message.offset:
            arrived = self._progress.arrived(message)
        if arrived.item is not None:
            self._observe(Kind.ARRIVE, peer=message.sender, msg_id=message.id or "")
        self._items.put(arrived)

    def _take_resumed(self, progress: InboxProgress, document: dict[str, Any]) -> None:
        gap = progress.resumed(document)
        if gap is not None:
            self._items.put(gap)
        else:
            # The gateway waits for it: until then, it does not know that we know where we are.
            self._finished.set()
            self._hurries.set()

    def _take_change(self, document: dict[str, Any]) -> None:
        """Take what is about rooms and presence; anything else is of a later version."""
        wishes, items = self._wishes, list[Item | None]()
        match document.get("type"):
            case "joined":
                items.extend(wishes.joined(document))
            case "members":
                items.extend(wishes.members(document))
            case "left":
                wishes.left(document)
            case "member":
                items.append(wishes.member(document))
            case "presence":
                items.append(wishes.presence(document))
            case _:
                pass
        for item in items:
            if item is not None:
                self._items.put(Arrived(item))

    def _take_answer(self, document: dict[str, Any], status: str, error: str = "") -> None:
        receipt = self._receipts.answered(document.get("id"), status, error)
        if receipt is not None:
            ok = receipt.status in (Status.ROUTED, Status.STORED, Status.DUPLICATE)
            self._observe(Kind.ACK, peer=receipt.to, msg_id=receipt.id, ok=ok, reason=status)

    def _take_error(self, document: dict[str, Any]) -> None:
        """Settle what an error frame names: the gateway has refused it."""
        if self._wishes.refused(document):
            return
        if (item := self._wishes.put_out(document, self.user)) is not None:
            self._items.put(Arrived(item))
            return
        status = Status.OFFLINE if document.get("code") == "offline" else Status.REFUSED
        self._take_answer(document, status, str(document.get("error", "")))


def _heard(saving: asyncio.Future[None]) -> None:
    """Whoever waits for it is told of its failure; nobody may."""
    if not saving.cancelled():
        saving.exception()

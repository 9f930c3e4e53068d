"""Durable inbox: which messages has a user not had yet, although nobody was there to take them?

A stream `inbox:{user}` keeps them, a hash `inboxmeta:{user}` says how far it goes. Three scripts
change both, each in one step on the server: send, read, acknowledge.

A position in an inbox is (epoch, offset). An offset is `n-mark`: n counts without holes, and the
mark is random, because after a failover another message may get the same n. An epoch is
`birth.run`: the birth of the inbox, and the run id of the Redis process. A Redis that was restarted
may have lost what it had confirmed, so its new run is a new epoch, and recipients are told.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache, partial
from typing import Any, ClassVar, Final, NamedTuple

from wsdemo.features import InboxSettings
from wsdemo.redis.interface import Link
from wsdemo.redis.link import LinkDown
from wsdemo.redis.outcome import CommandError
from wsdemo.redis.run import NO_RUN, ask_run, require_run
from wsdemo.redis.scripts import Script, bulk, lua_text
from wsdemo.settings import Keyspace

SEND_TEXT: Final = lua_text("wsdemo.inbox", "send")
"""Stores a message. Who is told of it is another text, which follows."""
SEND = Script("send", SEND_TEXT + lua_text("wsdemo.inbox", "send_hint"), in_time=True)
READ = Script.read("wsdemo.inbox", "read")
ACK = Script.read("wsdemo.inbox", "ack")
TRIAL = Script.read("wsdemo.inbox", "trial")
COUNT = Script.read("wsdemo.inbox", "count")
"""Only the server API asks for it, so it is not loaded beforehand."""
SCRIPTS = (SEND, READ, ACK, TRIAL)

KNOWN_RECIPIENTS: Final = 1_024
"""Recipients whose keys are kept as they are sent: they repeat, and packing takes a microsecond."""
MOST_MARKS: Final = 10**15
"""Marks are below it: Lua's numbers carry so many digits."""
NO_POSITION: Final = ("", "0-0")
"""Where a client stands that knows of none."""


class StoreOutcome(StrEnum):
    """The outcome of storing a message."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    """A message with this id was stored before."""


class StoreReply(NamedTuple):
    """What became of a message, and who holds its recipient ('' when nobody does)."""

    outcome: StoreOutcome
    epoch: str
    offset: str
    gateway_id: str
    conn_id: str
    trimmed_by_number: int
    """How many older messages had to go, because an inbox keeps so many."""
    trimmed_by_bytes: int
    """The same, because of their size."""
    others: tuple[tuple[str, str], ...] = ()
    """Further sessions of the recipient, who may have several devices: gateway and connection."""


class InboxCount(NamedTuple):
    """How much is in an inbox."""

    messages: int
    bytes: int
    last: str
    """The offset of the newest message; '' when there was none."""
    acked: str
    """The offset up to which all is acknowledged; '' when nothing is."""


@dataclass(frozen=True, slots=True)
class InboxPage:
    """What was read. Each row is an offset and the message without its closing brace."""

    recovered: bool
    """Whether all that was stored after the position is here, or follows."""
    epoch: str
    since: str
    """The offset after which the rows begin."""
    last: str
    """The offset of the newest message."""
    rows: Sequence[tuple[bytes, bytes]]


_OUTCOMES: Final = {outcome.value.encode(): outcome for outcome in StoreOutcome}

Answer = Callable[[Any], None]
"""Takes a result, or the exception in its place."""


class Inbox:
    """The inboxes on one Redis, as a gateway uses them.

    No method waits. The answer comes to a callback: a result, or one of `LINK_ERRORS` in its
    place. Each method raises `LinkDown` or `LinkBusy` when nothing was sent.

    Args:
        gateway_id: who asks; it is not told of what it stores itself.
        rng: source of births and marks.
    """

    scripts: ClassVar[Sequence[Script]] = SCRIPTS
    send_script: ClassVar[Script] = SEND

    def __init__(
        self,
        link: Link,
        keyspace: Keyspace,
        settings: InboxSettings,
        gateway_id: str,
        rng: random.Random,
    ) -> None:
        self._link = link
        self._keyspace = keyspace
        self._settings = settings
        self._gateway_id = gateway_id
        self._rng = rng
        self._retention_ms = round(1000 * settings.retention_s)
        self._dedup_ms = round(1000 * settings.dedup_s)
        self._run: str | None = None
        self._send_script = self.send_script.at(keyspace)
        self._send_start = b""
        """The name of the script that stores a message."""
        self._send_ends: Sequence[bytes] = ()
        """The arguments of a send that are always the same, since the run is known; for each
        bucket of users."""
        self.refusal: CommandError | None = None
        """Why the run id is not known, when Redis does not let us ask."""
        self._reply_of: Callable[[Any], StoreReply] = store_reply_of
        self.read_again_s = settings.retention_s
        """A session that has read nothing for so long should: it keeps alive what Redis knows."""
        self._packed_keys = lru_cache(maxsize=KNOWN_RECIPIENTS)(self._pack_keys)
        link.load(script.at(keyspace) for script in self.scripts)
        if settings.trust_redis:
            self._know_run("")
        else:
            ask_run(link, self._hear_run)

    def _hear_run(self, run: str | None, refusal: CommandError | None) -> None:
        self._run, self.refusal = None, refusal
        if run is not None:
            self._know_run(run)

    def _know_run(self, run: str) -> None:
        self._run = run
        buckets = range(self._keyspace.buckets or 1)
        ends = [(run, *self._end_of_send(bucket)) for bucket in buckets]
        # Three words before them; after them what the link adds, as the deadline.
        count = 3 + len(ends[0]) + self._link.added_args
        self._send_start = self._send_script.command_start(keys=4, args=count)
        self._send_ends = [b"".join(bulk(str(word).encode()) for word in end) for end in ends]

    def _end_of_send(self, bucket: int) -> tuple[str | int, ...]:
        """Return the arguments of a send that are always the same, after the run."""
        settings = self._settings
        return (
            settings.inbox_messages,
            settings.inbox_bytes,
            self._retention_ms,
            self._dedup_ms,
            self._keyspace.script_channels(bucket),
            self._gateway_id,
        )

    @property
    def run(self) -> str:
        """The run of the server that commands go to; '' when it is trusted.

        Raises:
            LinkDown: it is not known.
        """
        return require_run(self._run)

    # --- commands ----------------------------------------------------------------------------

    def send(self, on_stored: Answer, to: str, sender: str, msg_id: str, head: bytes) -> None:
        """Store a message; `on_stored` gets a `StoreReply`, or a `LinkTimeout` also when the
        message came too late. Then it is not stored, and may be sent again with the same id.

        Args:
            head: the message as its recipient reads it, without the closing brace.
        """
        if self._run is None:
            raise LinkDown(NO_RUN)
        # In line, because it is the command of each message: packing it in general takes longer
        # than all else that is done here. The mark is random, so it is a birth as well.
        id_key = self.id_key(to, sender, msg_id).encode()
        mark = b"%d" % int(self._rng.random() * MOST_MARKS)
        command = b"%b%b$%d\r\n%b\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n%b" % (
            self._send_start,
            self._packed_keys(to),
            len(id_key),
            id_key,
            len(head),
            head,
            len(mark),
            mark,
            len(mark),
            mark,
            self._send_ends[self._keyspace.bucket(to)],
        )
        on_reply = partial(self._hear_stored, on_stored)
        self._link.submit_packed(on_reply, command, self._send_script, in_time=True)

    def _hear_stored(self, on_stored: Answer, reply: Any) -> None:
        answer_with(on_stored, self._reply_of, self._link.in_time(reply))

    def read(
        self,
        on_page: Answer,
        user: str,
        conn_id: str,
        token: int,
        position: tuple[str, str],
        most: int,
        device: str = "",
    ) -> None:
        """Read what comes after a position; `on_page` gets an `InboxPage`, or None when a newer
        session has the user, or this device of the user.
        """
        question = self._question(conn_id, token, position, most)
        on_reply = partial(answer_with, on_page, page_of)
        self._link.submit_script(on_reply, READ, self._keys(user), *question)

    def _question(
        self, conn_id: str, token: int, position: tuple[str, str], most: int
    ) -> tuple[str | int, ...]:
        """Return the arguments of a read."""
        settings = self._settings
        return (
            conn_id,
            token,
            *position,
            min(most, settings.page_messages),
            settings.page_bytes,
            self._birth(),
            self.run,
            self._retention_ms,
        )

    def acknowledge(
        self,
        on_done: Answer,
        user: str,
        conn_id: str,
        position: tuple[str, str],
        device: str = "",
    ) -> None:
        """Forget all messages up to a position; `on_done` gets how many went, or -1 when the word
        of this session does not count.
        """
        self._link.submit_script(on_done, ACK, self._keys(user), conn_id, *position, self.run)

    def ask_last(self, on_last: Answer, user: str) -> None:
        """Ask for the offset of the newest message; `on_last` gets it, '' when there is none."""
        key = self._keyspace.key("inboxmeta", user)
        self._link.submit(partial(answer_with, on_last, _text), "HGET", key, "last")

    async def count(self, user: str) -> InboxCount:
        """Say how much is in an inbox.

        Raises:
            LINK_ERRORS: Redis could not be asked.
        """
        messages, size, last, acked = await self._link.run(COUNT, self._keys(user)[1:])
        return InboxCount(messages, size, _text(last), _text(acked))

    async def examine(self, nobody: str) -> None:
        """Check that Redis does all that inboxes need.

        Args:
            nobody: a name that no user can have.

        Raises:
            LINK_ERRORS: it does not, or could not be asked.
        """
        if self.refusal is not None:
            raise self.refusal
        keys = (self._keyspace.key("inbox", nobody), self._keyspace.key("inboxmeta", nobody))
        await self._link.run(TRIAL, keys)

    # --- arguments ---------------------------------------------------------------------------

    def _pack_keys(self, user: str) -> bytes:
        """Return the keys of a user as they stand in a command."""
        return b"".join(bulk(key.encode()) for key in self._keys(user))

    def _keys(self, user: str) -> tuple[str, str, str]:
        key = self._keyspace.key
        return self._keyspace.presence(user), key("inbox", user), key("inboxmeta", user)

    def id_key(self, to: str, sender: str, msg_id: str) -> str:
        """Return the key that remembers the id of a message. Senders and ids may have colons: then
        two of them could be read as one, and one user could take an id away from another.
        """
        return self._keyspace.key("inboxid", to, _without_colons(sender), _without_colons(msg_id))

    def _birth(self) -> str:
        return f"{self._rng.getrandbits(48):012x}"


def _without_colons(text: str) -> str:
    return text.replace("%", "%25").replace(":", "%3A")


def answer_with(on_answer: Answer, read: Callable[[Any], Any], reply: Any) -> None:
    """Hand over what is read from a reply, or an exception as it is."""
    on_answer(reply if isinstance(reply, Exception) else read(reply))


def store_reply_of(reply: Sequence[Any]) -> StoreReply:
    """Return what the script that stores has said."""
    outcome, epoch, offset, gateway_id, conn_id, by_number, by_bytes = reply
    return StoreReply(
        _OUTCOMES[outcome],
        str(epoch, "utf-8", "replace"),
        str(offset, "utf-8", "replace"),
        str(gateway_id, "utf-8", "replace"),
        str(conn_id, "utf-8", "replace"),
        by_number,
        by_bytes,
    )


def page_of(reply: Any) -> InboxPage | None:
    """Return what the script that reads has said; None when a newer session has the user."""
    if reply[0] == b"superseded":
        return None
    outcome, epoch, since, last, rows = reply
    pairs = list(zip(rows[::2], rows[1::2], strict=True))
    return InboxPage(outcome == b"recovered", _text(epoch), _text(since), _text(last), pairs)


def _text(value: bytes | None) -> str:
    return "" if value is None else value.decode(errors="replace")

"""A random test of the inbox: the shipped scripts and the shipped pump under accidents.

Two senders lose answers and try again. One user has two devices, whose processes die with or
without their position. Sessions on two gateways overlap: the older one goes on reading and
acknowledging until it is told. Wires lose frames and acknowledgements when they break. Hints are
lost, or come late. A configuration says what else: a tiny inbox, flushes, evictions, rollbacks.

Checked is: nothing that a sender was told to be stored is missing, unless the user was told of a
reset after it; nobody sees a message twice in one process; offsets rise without holes; no reset
comes without a reason; an inbox is never larger than it may be; and after each message that was
stored, the session that has the user is going to read, unless its hint was lost.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import redis

from tests.hearing import HEARD_S, confirmed
from wsdemo.gateway.inbox import Pump, Resumed, number
from wsdemo.inbox import InboxPage
from wsdemo.redis.deadline import NEVER_MS

GATEWAYS: Final = ("gateway-01", "gateway-02")
PRESENCE, STREAM, META = "presence:bob", "inbox:bob", "inboxmeta:bob"
LIFE_MS: Final = 600_000
HINT_MS: Final = "local HINT_MS = 100\n"
START: Final = ("", "0-0")


class ViolatedError(AssertionError):
    """A promise was broken."""


def lasting(text: str) -> str:
    """Return a script for which a hint stands for ever, so that no run depends on its pace. A world
    says itself when it has stood for long enough (`end_hint`).
    """
    return text.replace(HINT_MS, f"local HINT_MS = {10**12}\n")


def end_hint(server: Any) -> None:
    """The last hint has stood for long enough: who has not read by now is told again."""
    if server.hexists(META, "told"):
        server.hset(META, "told", 0)


def is_going_to_read(session: Link, hints: Sequence[tuple[str, str, str]]) -> bool:
    """Whether a session has asked for a page, will as soon as it can, or a hint comes to it."""
    return bool(session.asked or session.pump.behind or session.conn in {hint[0] for hint in hints})


@dataclass(frozen=True)
class Configuration:
    """What is special about a run."""

    most: int = 1000
    room: int = 10**9
    faults: tuple[str, ...] = ()
    accident: float = 0.015
    deaf: float = 0.15
    """How likely it is that a hint is lost."""

    @property
    def loses_what_it_knows(self) -> bool:
        """Whether an id may be stored anew, so that a message comes twice."""
        return any(fault != "evict stream" for fault in self.faults)


CONFIGURATIONS: Final[dict[str, Configuration]] = {
    "plain life": Configuration(),
    "10 messages": Configuration(most=10),
    "600 bytes": Configuration(room=600),
    "streams evicted": Configuration(faults=("evict stream",)),
    "meta evicted": Configuration(faults=("evict meta",)),
    "flushes": Configuration(faults=("flush",)),
    "failovers": Configuration(faults=("rollback",)),
    "failovers nobody tells of": Configuration(
        faults=("rollback untold",), accident=0.08, deaf=0.5
    ),
    "all of it": Configuration(most=12, faults=("flush", "rollback", "evict stream", "evict meta")),
}


@dataclass(eq=False)
class Device:
    """A client process: what its application has seen, and its position."""

    position: tuple[str, str] = START
    seen: set[str] = field(default_factory=set)
    had: set[tuple[str, str]] = field(default_factory=set)
    told: int = -1
    """The last accident that it was told of."""
    taken: int = 0
    """How often another device took messages away from it."""


@dataclass(eq=False)
class Link:
    """A session: its gateway's end and its wire. It is the port of its pump."""

    conn: str
    token: int
    device: Device
    down: list[Any] = field(default_factory=list)
    up: list[tuple[str, str]] = field(default_factory=list)
    asked: list[tuple[tuple[str, str], int]] = field(default_factory=list)
    words: list[tuple[str, str]] = field(default_factory=list)
    choked: bool = False
    dead: bool = False
    stamp: int = 0
    pump: Pump = field(init=False)

    def has_room(self) -> bool:
        return not self.choked

    def read(self, position: tuple[str, str], most: int) -> None:
        self.asked.append((position, most))

    def write(self, offset: bytes, head: bytes) -> None:
        if not self.dead:
            self.down.append((msgspec.json.decode(head + b"}")["id"], offset.decode()))

    def tell(self, resumed: Resumed) -> None:
        if not self.dead:
            self.down.append((self.stamp, resumed))


class World:
    """One run. `server` is emptied; `texts` are those of send, read and ack."""

    def __init__(
        self, server: Any, texts: Sequence[str], seed: int, configuration: Configuration
    ) -> None:
        self.r = server
        self.rng = random.Random(seed)
        self.has = configuration
        scripts = [server.register_script(lasting(text)) for text in texts]
        self._send, self._read, self._ack = scripts
        server.flushall()
        self.heard = server.pubsub()
        self.heard.subscribe(*(f"gateway:{gateway}" for gateway in GATEWAYS))
        confirmed(self.heard, len(GATEWAYS))
        self.run = "a0"
        self.next = self.serial = 0
        self.pending: dict[str, dict[str, None]] = {"alice": {}, "carol": {}}
        self.stored: set[str] = set()
        self.excused: set[str] = set()
        self.seen: set[str] = set()
        self.content: dict[tuple[str, str], str] = {}
        self.where: dict[str, set[tuple[str, str]]] = {}
        self.devices = [Device(), Device()]
        self.device = self.devices[0]
        self.session: Link | None = None
        self.zombies: list[Link] = []
        self.sessions: dict[str, Link] = {}
        self.hints: list[tuple[str, str, str]] = []
        self.deaf: set[str] = set()
        """The sessions whose hint was lost, and which have not read since."""
        self.accidents = 0
        """Reasons for a reset, numbered."""
        self.checkpoint: dict[Any, Any] | None = None
        self.trimmed: Any = None
        self.count: Counter[str] = Counter()

    def mark(self) -> str:
        return str(self.rng.randrange(1, 10**15))

    def birth(self) -> str:
        return f"{self.rng.getrandbits(48):012x}"

    # --- senders -------------------------------------------------------------------------------

    def send(self) -> None:
        if self.rng.random() < 0.3:
            end_hint(self.r)
        who = self.rng.choice(("alice", "carol"))
        waiting = self.pending[who]
        if waiting and self.rng.random() < 0.5:
            msg_id = self.rng.choice(sorted(waiting))
            self.count["retries"] += 1
        else:
            msg_id = f"m{self.next:05d}"
            self.next += 1
            waiting[msg_id] = None
        content = "x" * self.rng.randrange(60)
        head = f'{{"type":"message","from":"{who}","content":"{content}","id":"{msg_id}"'
        own = self.rng.choice(GATEWAYS)
        limits = (self.has.most, self.has.room, LIFE_MS, LIFE_MS)
        outcome, epoch, offset, gateway, conn, _, _ = self._send(
            keys=[PRESENCE, STREAM, META, f"inboxid:bob:{who}:{msg_id}"],
            args=[head, self.mark(), self.birth(), self.run, *limits, "", own, NEVER_MS],
        )
        self.count[outcome] += 1
        self._check_stored(msg_id, outcome, epoch.partition(".")[0], offset)
        if outcome == "stored":
            self._hint(gateway, conn, own, epoch, offset)
            self._check_told(self.r.hget(PRESENCE, "connId"))
        if self.rng.random() < 0.7:  # The answer reaches the sender.
            waiting.pop(msg_id, None)
            self.stored.add(msg_id)

    def _check_stored(self, msg_id: str, outcome: str, birth: str, offset: str) -> None:
        places = self.where.setdefault(msg_id, set())
        if outcome == "stored":
            places.add((birth, offset))  # After a rollback it may be stored twice.
            self.excused.discard(msg_id)
        elif (birth, offset) not in places or self.r.hget(META, "birth") != birth:
            raise ViolatedError(f"{msg_id} is called a duplicate of {birth, offset}")
        trimmed = self.r.hget(META, "trimmed")
        if trimmed != self.trimmed:
            self.trimmed, self.accidents = trimmed, self.accidents + 1
        left = self.r.xrange(STREAM)
        size = sum(len(fields["d"]) for _, fields in left)
        if len(left) > self.has.most or size > self.has.room:
            raise ViolatedError("the inbox is larger than it may be")

    def _hint(self, gateway: str, conn: str, own: str, epoch: str, offset: str) -> None:
        if gateway and gateway != own:
            got = self.heard.get_message(timeout=HEARD_S)
            if got is None:
                raise ViolatedError("no hint was published")
            hint = msgspec.json.decode(got["data"])
            if hint["offset"] != offset:
                raise ViolatedError("a hint that nobody knows of")
            self.hints.append((hint["toConn"], hint["epoch"], hint["offset"]))
        elif conn:  # The gateway that has stored it tells its own session.
            self.hints.append((conn, epoch, offset))
        else:
            self.count["nobody is told"] += 1

    def _check_told(self, conn: str | None) -> None:
        """Check that whoever has the user is going to read."""
        session = self.sessions.get(conn or "")
        if session and conn not in self.deaf and not is_going_to_read(session, self.hints):
            raise ViolatedError(f"{conn} is not told")

    def hint(self) -> None:
        """A hint arrives, late at times, or is lost."""
        if not self.hints:
            return
        late = self.rng.random() < 0.2
        conn, epoch, offset = self.hints.pop(self.rng.randrange(len(self.hints)) if late else 0)
        if self.rng.random() < self.has.deaf:
            self.count["hints lost"] += 1
            self.deaf.add(conn)
        elif session := self.sessions.get(conn):
            session.pump.hint(epoch, offset)

    # --- the user ------------------------------------------------------------------------------

    def connect(self) -> None:
        """The client gives up its connection, or has lost it, and registers anew, anywhere."""
        if self.session:
            self.leave(noticed=self.rng.random() < 0.5)
        if self.rng.random() < 0.25:
            self.device = next(d for d in self.devices if d is not self.device)
            self.count["other device"] += 1
        if self.rng.random() < 0.2:
            self._restart_device()
        self.serial += 1
        conn, gateway = f"c{self.serial}", self.rng.choice(GATEWAYS)
        self.r.delete(PRESENCE)
        self.r.hset(PRESENCE, mapping={"gwId": gateway, "connId": conn, "epoch": self.serial})
        session = Link(conn, self.serial, self.device)
        session.pump = Pump(session, 8, self.device.position)
        self.session = self.sessions[conn] = session
        session.pump.pump()

    def _restart_device(self) -> None:
        old = self.device
        if self.rng.random() < 0.5:  # It had kept its position, and what goes with it.
            new = Device(old.position, old.seen, old.had, old.told, old.taken)
        else:
            new = Device()
            self.count["processes without a position"] += 1
        self.devices[self.devices.index(old)] = self.device = new

    def leave(self, noticed: bool) -> None:
        """The wire breaks: what is on it is lost. The gateway may know at once, or not yet."""
        session, self.session = self.session, None
        assert session is not None
        session.words = [*session.up, self.device.position]
        session.dead = True
        session.down, session.up = [], []
        if noticed:
            self.end(session)
            if self.r.hget(PRESENCE, "connId") == session.conn:
                self.r.delete(PRESENCE)
        else:
            self.zombies.append(session)

    def end(self, session: Link) -> None:
        session.pump.ended = True
        self.sessions.pop(session.conn, None)
        if session in self.zombies:
            self.zombies.remove(session)
        if session is self.session:
            self.session = None

    def read(self, session: Link) -> None:
        """Redis answers the gateway of a session."""
        if not session.asked:
            return
        (epoch, offset), most = session.asked.pop(0)
        if self.rng.random() < 0.05:
            session.pump.failed()
            session.pump.pump()
            return
        who = [session.conn, session.token, epoch, offset]
        limits = [min(most, 5), 200, self.birth(), self.run, LIFE_MS]
        reply = self._read(keys=[PRESENCE, STREAM, META], args=[*who, *limits])
        self.deaf.discard(session.conn)
        if reply[0] == "superseded":
            self.count["superseded"] += 1
            self.end(session)
            return
        outcome, epoch, since, last, listed = reply
        rows = list(zip(listed[::2], listed[1::2], strict=True))
        session.stamp = self.accidents + session.device.taken
        self.count["pages"] += 1
        encoded = [(o.encode(), head.encode()) for o, head in rows]
        session.pump.page(InboxPage(outcome == "recovered", epoch, since, last, encoded))

    def acknowledge(self, session: Link) -> None:
        """The gateway tells Redis what the client has acknowledged."""
        position, session.pump.to_ack = session.pump.to_ack, None
        if position is None:
            return
        owns = self.r.hget(PRESENCE, "connId") == session.conn
        done = self._ack(keys=[PRESENCE, STREAM, META], args=[session.conn, *position, self.run])
        self.count["acks refused" if done < 0 else "acks"] += 1
        if owns and done > 0:  # Taken away from the other device.
            for device in self.devices:
                untold = "rollback untold" in self.has.faults
                device.taken += device is not session.device or untold

    def take(self) -> None:
        """The client reads a frame; the application takes it; an acknowledgement may leave."""
        session = self.session
        if session is None or not session.down:
            return
        first, second = session.down.pop(0)
        if isinstance(second, Resumed):
            self._take_resumed(session, first, second)
        else:
            self._take_message(session, first, second)

    def _take_resumed(self, session: Link, stamp: int, resumed: Resumed) -> None:
        device, position = self.device, (resumed.epoch, resumed.offset)
        self.count["recovered" if resumed.recovered else "resets"] += 1
        if not resumed.recovered:
            if stamp <= device.told:
                raise ViolatedError(f"a reset without a reason: {device.position} -> {position}")
            device.told = stamp
            self.excused |= {f"m{k:05d}" for k in range(self.next)} - self.seen
        elif device.position[0] and position != device.position:
            raise ViolatedError("recovered, but not from where the client is")
        device.position = position
        session.up.append(position)  # "I was told."

    def _take_message(self, session: Link, msg_id: str, offset: str) -> None:
        device = self.device
        epoch, old = device.position
        if number(offset) <= number(old):
            self.count["dropped by the client"] += 1
            return
        if number(offset) != number(old) + 1:
            raise ViolatedError(f"a hole: {old} then {offset}")
        birth = epoch.partition(".")[0]
        if self.content.setdefault((birth, offset), msg_id) != msg_id:
            raise ViolatedError("one offset, two messages")
        device.position = (epoch, offset)
        if (birth, offset) in device.had:  # A reset went back behind it.
            self.count["dropped by the client"] += 1
            session.up.append(device.position)
            return
        device.had.add((birth, offset))
        if msg_id in device.seen and not self.has.loses_what_it_knows:
            raise ViolatedError(f"{msg_id} twice in one process")
        self.count["delivered"] += msg_id not in device.seen
        device.seen.add(msg_id)
        self.seen.add(msg_id)
        if self.rng.random() < 0.7:
            session.up.append(device.position)

    def hear(self) -> None:
        """The gateway reads acknowledgements."""
        while self.session and self.session.up:
            self.session.pump.ack(*self.session.up.pop(0))

    # --- accidents -----------------------------------------------------------------------------

    def accident(self) -> None:
        if not self.has.faults:
            return
        fault = self.rng.choice(self.has.faults)
        if fault == "flush":
            self.r.flushall()
        elif fault == "evict stream":
            self.r.delete(STREAM)
        elif fault == "evict meta":
            self.r.delete(META)
        elif not self._roll_back(fault):
            return
        self.count[fault] += 1
        self.accidents += 1

    def _roll_back(self, fault: str) -> bool:
        """Remember all data, or go back to what was remembered; say whether it went back."""
        with redis.Redis(connection_pool=self._raw_pool()) as raw:
            if self.checkpoint is None or self.rng.random() < 0.5:
                self.checkpoint = {key: raw.dump(key) for key in raw.keys("*")}
                return False
            raw.flushall()
            for key, value in self.checkpoint.items():
                raw.restore(key, LIFE_MS, value)
        self.checkpoint = None
        self.hints.clear()  # They were on connections to the old server.
        self.deaf |= set(self.sessions)
        if fault == "rollback untold":
            # What was stored and not seen is lost, and nobody can know: the run id is for that.
            self.excused |= {f"m{k:05d}" for k in range(self.next)} - self.seen
            for waiting in self.pending.values():
                waiting.clear()
        else:
            self.serial += 1
            self.run = f"b{self.serial}"
            for session in list(self.sessions.values()):
                session.pump.look()
        return True

    def _raw_pool(self) -> Any:
        how = {**self.r.connection_pool.connection_kwargs, "decode_responses": False}
        return redis.ConnectionPool(**how)

    # --- a run ---------------------------------------------------------------------------------

    def step(self) -> None:
        chance, session = self.rng.random(), self.session
        live = [one for one in (session, *self.zombies) if one]
        if chance < 0.22:
            self.send()
        elif chance < 0.34:
            self.hint()
        elif chance < 0.37:
            self.connect()
        elif chance < 0.38 and session:
            self.leave(noticed=self.rng.random() < 0.5)
        elif chance < 0.40 and session:
            session.choked ^= True
            session.pump.pump()
        elif chance < 0.42 and session:  # The lease is renewed.
            session.pump.newest(self.r.hget(META, "last") or "")
        elif chance < 0.56 and live:
            self.read(self.rng.choice(live))
        elif chance < 0.64 and live:
            self.acknowledge(self.rng.choice(live))
        elif chance < 0.66 and self.zombies:
            # The client of a zombie is gone, but its last words may still be read.
            zombie = self.rng.choice(self.zombies)
            if zombie.words:
                zombie.pump.ack(*zombie.words.pop(0))
        elif chance < 0.74:
            self.hear()
        elif chance < 1 - self.has.accident:
            self.take()
        else:
            self.accident()

    def settle(self) -> None:
        """Everything heals: the client comes back once more and reads to the end."""
        self.hints.clear()
        self.connect()
        for _ in range(2000):
            session = self.session
            if session is None:
                self.connect()
                continue
            session.choked = False
            if not session.asked and not session.down:
                session.pump.look()
            self.read(session)
            while session.down:
                self.take()
            if self.session is session and self.device.position[0]:
                session.pump.ack(*self.device.position)
            if not session.asked and not session.down and self.device.position[0]:
                break
        last = self.r.hget(META, "last")
        if self.session is None or self.device.position[1] != last:
            raise ViolatedError(f"not at the end: {self.device.position} of {last}")
        missing = self.stored - self.seen - self.excused
        if missing:
            raise ViolatedError(f"stored, never delivered, no reset: {sorted(missing)[:4]}")

    def play(self, steps: int) -> Counter[str]:
        """Make so many steps, then heal; return what happened how often.

        Raises:
            ViolatedError: a promise was broken.
        """
        try:
            for _ in range(steps):
                self.step()
            self.settle()
        finally:
            self.heard.close()
        return self.count

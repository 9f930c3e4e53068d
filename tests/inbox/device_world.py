"""A random test of the inbox of a user with several devices: the shipped scripts and pump.

As in `world.py`: senders try again, sessions of one device overlap, wires break, hints are lost,
Redis loses data. Besides: devices are connected at the same time, one too many evicts another, a
lease ends while its session lives, and a device is away for longer than the retention.

Checked is, for each device: nothing that a sender was told to be stored is missing, unless the
device was told of a reset after it; nothing comes twice in one process; offsets rise without holes;
no reset comes without a reason. What another device has acknowledged is no reason, as long as the
device has a cursor. A cursor is forgotten only of a device that is away, and for long or as one too
many. An acknowledgement takes away what all cursors are past, and nothing else.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import redis

from tests.hearing import HEARD_S, confirmed
from tests.inbox.world import (
    GATEWAYS,
    LIFE_MS,
    META,
    PRESENCE,
    START,
    STREAM,
    Configuration,
    Device,
    Link,
    ViolatedError,
    end_hint,
    is_going_to_read,
    lasting,
)
from wsdemo.gateway.inbox import Pump, Resumed, number
from wsdemo.inbox import InboxPage
from wsdemo.redis.deadline import NEVER_MS

NAMES: Final = ("", "phone", "laptop")
MOST_DEVICES: Final = 2
LONG_MS: Final = 10**6
"""The life of a lease; no run takes so long."""
EXTRA_FAULTS: Final = ("evicted", "lease ended", "away for long", "forgotten")
"""What happens in every run."""


@dataclass(eq=False)
class Handset(Device):
    """A device of the user: its client process, and what has happened to it."""

    name: str = ""
    session: Link | None = None
    ever: set[str] = field(default_factory=set)
    """What any of its processes has seen."""
    excused: set[str] = field(default_factory=set)
    """What it was told that may be missing."""

    def new_process(self, *, keeps_position: bool) -> None:
        if not keeps_position:
            self.position, self.told = START, -1
            self.seen, self.had = set(), set()


class DeviceWorld:
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
        self.pending: dict[str, None] = {}
        self.stored: set[str] = set()
        self.content: dict[tuple[str, str], str] = {}
        self.where: dict[str, set[tuple[str, str]]] = {}
        self.handsets = [Handset(name=name) for name in NAMES]
        self.zombies: list[Link] = []
        self.sessions: dict[str, Link] = {}
        self.hints: list[tuple[str, str, str]] = []
        self.deaf: set[str] = set()
        self.accidents = 0
        self.checkpoint: dict[Any, Any] | None = None
        self.trimmed: Any = None
        self.count: Counter[str] = Counter()

    def birth(self) -> str:
        return f"{self.rng.getrandbits(48):012x}"

    def everything(self) -> set[str]:
        return {f"m{k:05d}" for k in range(self.next)}

    # --- presence ------------------------------------------------------------------------------

    def now_ms(self) -> int:
        seconds, micros = self.r.time()
        return int(seconds) * 1000 + int(micros) // 1000

    def live(self) -> dict[str, tuple[int, str]]:
        """Return the token and the connection of each device whose lease has not ended."""
        now_ms = self.now_ms()
        entries = {name[2:]: entry.split() for name, entry in self.r.hgetall(PRESENCE).items()}
        return {
            name: (int(entry[2]), entry[1])
            for name, entry in entries.items()
            if int(entry[3]) > now_ms
        }

    def enter(self, session: Link, name: str, gateway: str, life_ms: int = LONG_MS) -> None:
        entry = f"{gateway} {session.conn} {session.token} {self.now_ms() + life_ms} 0 "
        self.r.hset(PRESENCE, f"s:{name}", entry)

    def owns(self, session: Link, name: str) -> bool:
        return self.live().get(name, (0, ""))[1] == session.conn

    def name_of(self, session: Link) -> str:
        assert isinstance(session.device, Handset)
        return session.device.name

    # --- senders -------------------------------------------------------------------------------

    def send(self) -> None:
        if self.rng.random() < 0.3:
            end_hint(self.r)
        if self.pending and self.rng.random() < 0.4:
            msg_id = self.rng.choice(sorted(self.pending))
        else:
            msg_id = f"m{self.next:05d}"
            self.next += 1
            self.pending[msg_id] = None
        content = "x" * self.rng.randrange(60)
        head = f'{{"type":"message","from":"alice","content":"{content}","id":"{msg_id}"'
        own = self.rng.choice(GATEWAYS)
        mark = str(self.rng.randrange(1, 10**15))
        limits = (self.has.most, self.has.room, LIFE_MS, LIFE_MS)
        (
            outcome,
            epoch,
            offset,
            *_,
        ) = reply = self._send(
            keys=[PRESENCE, STREAM, META, f"inboxid:bob:alice:{msg_id}"],
            args=[head, mark, self.birth(), self.run, *limits, "", own, LONG_MS, NEVER_MS],
        )
        self.count[outcome] += 1
        self._check_stored(msg_id, outcome, epoch.partition(".")[0], offset)
        if outcome == "stored":
            owners = [*reply[3:5], *reply[7:]]
            self._hint(list(zip(owners[::2], owners[1::2], strict=True)), own, epoch, offset)
        if self.rng.random() < 0.7:  # The answer reaches the sender.
            self.pending.pop(msg_id, None)
            self.stored.add(msg_id)

    def _check_stored(self, msg_id: str, outcome: str, birth: str, offset: str) -> None:
        places = self.where.setdefault(msg_id, set())
        if outcome == "stored":
            places.add((birth, offset))
            for handset in self.handsets:
                handset.excused.discard(msg_id)
        elif (birth, offset) not in places or self.r.hget(META, "birth") != birth:
            raise ViolatedError(f"{msg_id} is called a duplicate of {birth, offset}")
        trimmed = self.r.hget(META, "trimmed")
        if trimmed != self.trimmed:
            self.trimmed, self.accidents = trimmed, self.accidents + 1
        left = self.r.xrange(STREAM)
        size = sum(len(fields["d"]) for _, fields in left)
        if len(left) > self.has.most or size > self.has.room:
            raise ViolatedError("the inbox is larger than it may be")

    def _hint(self, owners: list[tuple[str, str]], own: str, epoch: str, offset: str) -> None:
        expected = {conn for _, conn in self.live().values()}
        told = {conn for _, conn in owners if conn}
        if told and told != expected:
            raise ViolatedError(f"told are {owners}, and not {expected}")
        self.count["nobody is told"] += not told
        for gateway, conn in owners:
            if not conn:
                continue
            if gateway != own:
                got = self.heard.get_message(timeout=HEARD_S)
                if got is None:
                    raise ViolatedError("no hint was published")
                hint = msgspec.json.decode(got["data"])
                if hint["offset"] != offset:
                    raise ViolatedError("a hint that nobody knows of")
                self.hints.append((hint["toConn"], hint["epoch"], hint["offset"]))
            else:  # The gateway that has stored it tells its own session.
                self.hints.append((conn, epoch, offset))
        for conn in (expected & self.sessions.keys()) - self.deaf:
            if not is_going_to_read(self.sessions[conn], self.hints):
                raise ViolatedError(f"{conn} is not told")

    def hint(self) -> None:
        if not self.hints:
            return
        late = self.rng.random() < 0.2
        conn, epoch, offset = self.hints.pop(self.rng.randrange(len(self.hints)) if late else 0)
        if self.rng.random() < self.has.deaf:
            self.count["hints lost"] += 1
            self.deaf.add(conn)
        elif session := self.sessions.get(conn):
            session.pump.hint(epoch, offset)

    # --- devices -------------------------------------------------------------------------------

    def connect(self, handset: Handset) -> None:
        """The device gives up its connection, or has lost it, and registers anew, anywhere."""
        if handset.session:
            self.leave(handset, noticed=self.rng.random() < 0.5)
        if self.rng.random() < 0.2:
            handset.new_process(keeps_position=self.rng.random() < 0.5)
        self.serial += 1
        session = Link(f"c{self.serial}", self.serial, handset)
        session.pump = Pump(session, 8, handset.position)
        handset.session = self.sessions[session.conn] = session
        self.enter(session, handset.name, self.rng.choice(GATEWAYS))
        self._evict(handset.name)
        session.pump.pump()

    def _evict(self, newest: str) -> None:
        live = self.live()
        while len(live) > MOST_DEVICES:
            _, _, name = min((*entry, name) for name, entry in live.items() if name != newest)
            _, conn = live.pop(name)
            self.r.hdel(PRESENCE, f"s:{name}")
            self.count["evicted"] += 1
            if self.rng.random() < 0.7 and conn in self.sessions:  # The notice arrives.
                self.end(self.sessions[conn])

    def leave(self, handset: Handset, *, noticed: bool) -> None:
        """The wire breaks: what is on it is lost. The gateway may know at once, or not yet."""
        session, handset.session = handset.session, None
        assert session is not None
        session.words = [*session.up, handset.position]
        session.dead = True
        session.down, session.up = [], []
        if noticed:
            self.end(session)
            if self.owns(session, handset.name):
                self.r.hdel(PRESENCE, f"s:{handset.name}")
        else:
            self.zombies.append(session)

    def end(self, session: Link) -> None:
        session.pump.ended = True
        self.sessions.pop(session.conn, None)
        if session in self.zombies:
            self.zombies.remove(session)
        assert isinstance(session.device, Handset)
        if session is session.device.session:
            session.device.session = None

    def refresh(self, handset: Handset) -> None:
        """Its lease is renewed; or it was evicted, and is told so now."""
        session = handset.session
        assert session is not None
        owner = self.r.hget(PRESENCE, f"s:{handset.name}")
        if owner is None and len(self.live()) >= MOST_DEVICES:
            self.end(session)
        elif owner is None or owner.split()[1] == session.conn:
            self.enter(session, handset.name, self.rng.choice(GATEWAYS))
            session.pump.newest(self.r.hget(META, "last") or "")

    def end_lease(self, handset: Handset) -> None:
        session = handset.session
        if session and self.owns(session, handset.name):
            self.enter(session, handset.name, GATEWAYS[0], -1)
            self.count["lease ended"] += 1

    def be_away_for_long(self, handset: Handset) -> None:
        """Let the time since it was here be longer than the retention."""
        if handset.name not in self.live() and self.r.hexists(META, f"seen:{handset.name}"):
            self.r.hset(META, f"seen:{handset.name}", 1)
            self.count["away for long"] += 1

    # --- gateways ------------------------------------------------------------------------------

    def cursors(self) -> dict[str, str]:
        meta = self.r.hgetall(META)
        return {key[6:]: offset for key, offset in meta.items() if key.startswith("acked:")}

    @contextmanager
    def watched(self, asking: str) -> Iterator[None]:
        """Check which cursors are forgotten meanwhile."""
        before, live = self.cursors(), self.live()
        aged = {name for name in before if self.r.hget(META, f"seen:{name}") == "1"}
        yield
        for name in before.keys() - self.cursors().keys():
            is_one_too_many = len(before.keys() | {asking}) > MOST_DEVICES
            if name == asking or name in live or not (name in aged or is_one_too_many):
                raise ViolatedError(f"the cursor of {name!r} was forgotten")
            self.count["forgotten"] += 1

    def read(self, session: Link) -> None:
        """Redis answers the gateway of a session."""
        if not session.asked:
            return
        (epoch, offset), most = session.asked.pop(0)
        if self.rng.random() < 0.05:
            session.pump.failed()
            session.pump.pump()
            return
        name = self.name_of(session)
        who = [session.conn, session.token, epoch, offset]
        limits = [min(most, 5), 200, self.birth(), self.run, LIFE_MS]
        more = [name, MOST_DEVICES, LIFE_MS, LONG_MS]
        owns, known = self.owns(session, name), self.r.exists(META)
        with self.watched(name):
            reply = self._read(keys=[PRESENCE, STREAM, META], args=[*who, *limits, *more])
        self.deaf.discard(session.conn)
        if reply[0] == "superseded":
            self.count["superseded"] += 1
            self.end(session)
            return
        outcome, epoch, since, last, listed = reply
        rows = list(zip(listed[::2], listed[1::2], strict=True))
        if owns and known and name not in self.cursors():
            raise ViolatedError("who reads is not held anything")
        session.stamp = self.accidents + session.device.taken
        self.count["pages"] += 1
        encoded = [(o.encode(), head.encode()) for o, head in rows]
        session.pump.page(InboxPage(outcome == "recovered", epoch, since, last, encoded))

    def acknowledge(self, session: Link) -> None:
        """The gateway tells Redis what the device has acknowledged."""
        position, session.pump.to_ack = session.pump.to_ack, None
        if position is None:
            return
        name, before = self.name_of(session), [offset for offset, _ in self.r.xrange(STREAM)]
        owns = self.owns(session, name)
        more = [name, MOST_DEVICES, LIFE_MS, LONG_MS]
        with self.watched(name):
            args = [session.conn, *position, self.run, *more]
            done = self._ack(keys=[PRESENCE, STREAM, META], args=args)
        self.count["acks refused" if done < 0 else "acks"] += 1
        after = [offset for offset, _ in self.r.xrange(STREAM)]
        if not owns and (done >= 0 or after != before):
            raise ViolatedError("the word of one that is not the owner counts")
        if done < 0:
            return
        cursors = self.cursors()
        behind = min(number(offset) for offset in cursors.values())
        if after != [offset for offset in before if number(offset) > behind]:
            raise ViolatedError(f"kept is {after} of {before} for {cursors}")
        away = cursors.keys() - self.live().keys()
        if away and len(cursors) > MOST_DEVICES:
            raise ViolatedError(f"too many hold messages: {cursors}")
        if done:
            self.count["trims"] += 1
            self.count["held"] += len(cursors) > 1
            for handset in self.handsets:
                # Nothing is held for it; or a server that went back has lost its cursor.
                untold = "rollback untold" in self.has.faults
                handset.taken += handset.name not in cursors or untold

    # --- clients -------------------------------------------------------------------------------

    def take(self, handset: Handset) -> None:
        """The client reads a frame; the application takes it; an acknowledgement may leave."""
        session = handset.session
        if session is None or not session.down:
            return
        first, second = session.down.pop(0)
        if isinstance(second, Resumed):
            self._take_resumed(handset, session, first, second)
        else:
            self._take_message(handset, session, first, second)

    def _take_resumed(self, handset: Handset, session: Link, stamp: int, resumed: Resumed) -> None:
        position = (resumed.epoch, resumed.offset)
        self.count["recovered" if resumed.recovered else "resets"] += 1
        if not resumed.recovered:
            if stamp <= handset.told:
                raise ViolatedError(f"a reset without a reason: {handset.position} -> {position}")
            handset.told = stamp
            handset.excused |= self.everything() - handset.ever
        elif handset.position[0] and position != handset.position:
            raise ViolatedError("recovered, but not from where the client is")
        handset.position = position
        session.up.append(position)

    def _take_message(self, handset: Handset, session: Link, msg_id: str, offset: str) -> None:
        epoch, old = handset.position
        if number(offset) <= number(old):
            self.count["dropped by the client"] += 1
            return
        if number(offset) != number(old) + 1:
            raise ViolatedError(f"a hole: {old} then {offset}")
        birth = epoch.partition(".")[0]
        if self.content.setdefault((birth, offset), msg_id) != msg_id:
            raise ViolatedError("one offset, two messages")
        handset.position = (epoch, offset)
        if (birth, offset) in handset.had:  # A reset went back behind it.
            self.count["dropped by the client"] += 1
            session.up.append(handset.position)
            return
        handset.had.add((birth, offset))
        if msg_id in handset.seen and not self.has.loses_what_it_knows:
            raise ViolatedError(f"{msg_id} twice in one process")
        self.count["delivered"] += 1
        handset.seen.add(msg_id)
        handset.ever.add(msg_id)
        if self.rng.random() < 0.7:
            session.up.append(handset.position)

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
        how = {**self.r.connection_pool.connection_kwargs, "decode_responses": False}
        with redis.Redis(connection_pool=redis.ConnectionPool(**how)) as raw:
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
            for handset in self.handsets:
                handset.excused |= self.everything() - handset.ever
            self.pending.clear()
        else:
            self.serial += 1
            self.run = f"b{self.serial}"
            for session in list(self.sessions.values()):
                session.pump.look()
        return True

    # --- a run ---------------------------------------------------------------------------------

    def step(self) -> None:
        chance, handset = self.rng.random(), self.rng.choice(self.handsets)
        session = handset.session
        live = list(self.sessions.values())
        if chance < 0.20:
            self.send()
        elif chance < 0.32:
            self.hint()
        elif chance < 0.35:
            self.connect(handset)
        elif chance < 0.36 and session:
            self.leave(handset, noticed=self.rng.random() < 0.5)
        elif chance < 0.37 and session:
            session.choked ^= True
            session.pump.pump()
        elif chance < 0.40 and session:
            self.refresh(handset)
        elif chance < 0.405:
            self.end_lease(handset)
        elif chance < 0.42:
            self.be_away_for_long(handset)
        elif chance < 0.56 and live:
            self.read(self.rng.choice(live))
        elif chance < 0.64 and live:
            self.acknowledge(self.rng.choice(live))
        elif chance < 0.66 and self.zombies:
            # The client of a zombie is gone, but its last words may still be read.
            zombie = self.rng.choice(self.zombies)
            if zombie.words:
                zombie.pump.ack(*zombie.words.pop(0))
        elif chance < 0.76:
            while session and session.up:
                session.pump.ack(*session.up.pop(0))
        elif chance < 1 - self.has.accident:
            self.take(handset)
        else:
            self.accident()

    def settle(self) -> None:
        """Everything heals: one device after the other comes back and reads to the end."""
        self.hints.clear()
        for handset in self.handsets:
            self._settle(handset)
        last = self.r.hget(META, "last")
        for handset in self.handsets:
            if handset.position[1] != last:
                raise ViolatedError(f"{handset.name!r} at {handset.position} of {last}")
            missing = self.stored - handset.ever - handset.excused
            if missing:
                what = f"{handset.name!r}: stored, never delivered, no reset"
                raise ViolatedError(f"{what}: {sorted(missing)[:4]}")

    def _settle(self, handset: Handset) -> None:
        self.connect(handset)
        for _ in range(2000):
            session = handset.session
            if session is None:
                self.connect(handset)
                continue
            session.choked = False
            if not session.asked and not session.down:
                session.pump.look()
            self.read(session)
            while session.down:
                self.take(handset)
            if handset.session is session and handset.position[0]:
                session.pump.ack(*handset.position)
            if not session.asked and not session.down and handset.position[0]:
                self.acknowledge(session)
                return
        raise ViolatedError(f"{handset.name!r} does not come to an end")

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

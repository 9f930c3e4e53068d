"""Rooms under accidents: gateways that die, sleep and wake, and commands that come late.

Three gateways serve one room, and users move between them. Each command may be late, come twice or
get lost. What must hold at each step is checked at each step; what must hold in the end, when all
has arrived.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import redis

from tests.hearing import HEARD_S, confirmed
from wsdemo.redis.scripts import Script
from wsdemo.rooms.store import BOOTS, JOIN, LAST_SEQ, LEAVE, LIST, SWEEP

NAME = "lobby"
REMEMBER_MS = 3_600_000
LEASE_MS = 600_000
Said = tuple[str, "Session", int]
"""A command that may still arrive: join or leave, of whom, with which seq."""
Register = tuple[str, int, int]
"""State, token, seq."""


class Violation(AssertionError):
    """A promise was broken."""


@dataclass(eq=False)
class Session:
    """A session of one user. `joined` is the seq of its join while it is in the room."""

    user: str
    gateway: Gateway
    boot: str
    token: int
    seq: int = 0
    joined: int | None = None

    @property
    def conn_id(self) -> str:
        return f"c{self.token}"


@dataclass(eq=False)
class Gateway:
    """A gateway process."""

    name: str
    boot: str
    sessions: dict[str, Session] = field(default_factory=dict)
    state: Literal["up", "asleep", "dead"] = "up"


class Redis:
    """The scripts on a real server, as one room uses them; some may be wrong ones."""

    def __init__(self, client: Any, prefix: str, wrong: Mapping[str, Script] | None = None) -> None:
        self.client = client
        self.keys = [f"{prefix}room:{NAME}", f"{prefix}roomout:{NAME}"]
        self.boots_key = f"{prefix}boots"
        self.channel = f"{prefix}room:{NAME}"
        scripts = {s.name: s for s in (JOIN, LEAVE, SWEEP, LIST, BOOTS)} | dict(wrong or {})
        self._run = {name: client.register_script(s.text) for name, s in scripts.items()}

    def join(self, session: Session, seq: int, most: int, remember_ms: int = REMEMBER_MS) -> Any:
        member = (session.user, session.token, seq, session.gateway.name, session.boot)
        more = (session.conn_id, most, remember_ms, self.channel, NAME)
        return self._run["room_join"](keys=self.keys, args=[*member, *more])

    def leave(
        self, user: str, token: int, seq: int, reason: str = "ended", remember_ms: int = REMEMBER_MS
    ) -> int:
        args = [user, token, seq, reason, remember_ms, self.channel, NAME]
        return int(self._run["room_leave"](keys=self.keys, args=args))

    def sweep(self, boots: list[str]) -> int:
        args = [self.channel, NAME, REMEMBER_MS, *boots]
        return int(self._run["room_sweep"](keys=self.keys, args=args))

    def list(self, mark: str = "{}") -> dict[str, list[str]]:
        """Return the registers of those who are there, by member."""
        args = [self.channel, mark, REMEMBER_MS]
        count, *flat = self._run["room_list"](keys=self.keys, args=args)
        if count != len(flat) // 2:
            raise Violation(f"{count} are counted, and {len(flat) // 2} listed")
        return {m: r.split(" ") for m, r in zip(flat[::2], flat[1::2], strict=True)}

    def boots(self, boot: str, life_ms: int = LEASE_MS) -> Any:
        return self._run["boots"](keys=[self.boots_key], args=[boot, life_ms, REMEMBER_MS])

    def register(self, user: str) -> Register | None:
        text = self.client.hget(self.keys[0], user)
        if text is None:
            return None
        state, token, seq = text.split(" ")[:3]
        return state, int(token), int(seq)

    def there(self) -> dict[str, str]:
        registers: dict[str, str] = self.client.hgetall(self.keys[0])
        return {u: text for u, text in registers.items() if text.startswith("in ")}

    def give_up(self, boot: str) -> None:
        """Let the lease of a gateway process lapse."""
        self.client.zadd(self.boots_key, {boot: self.past()}, xx=True)

    def past(self) -> int:
        seconds, micros = self.client.time()
        return int(seconds) * 1000 + int(micros) // 1000 - 1

    def forget_all(self) -> None:
        self.client.delete(*self.keys, self.boots_key)


class World:
    """One history, made from a seed."""

    def __init__(
        self, redis_: Redis, seed: int, *, users: int = 4, most: int = 99, loses: bool = False
    ) -> None:
        self.redis, self.rng, self.count = redis_, random.Random(seed), Counter[str]()
        self.users, self.most, self.loses = [f"u{i}" for i in range(users)], most, loses
        redis_.forget_all()
        self.token = 1000
        self.late: list[Said] = []
        self.gateways = [Gateway(f"g{i}", f"g{i}.0") for i in range(3)]
        self.newest: dict[str, Session] = {}
        self.out: dict[str, tuple[int, int]] = {}
        """The highest stamp by which a user left or was swept: nothing older brings her back."""
        self.told: set[str] = set()
        """Who is there by the events."""
        self.pubsub = redis_.client.pubsub()
        self.pubsub.subscribe(redis_.channel)
        confirmed(self.pubsub)
        for gateway in self.gateways:
            self.beat(gateway)

    def play(self, steps: int) -> Counter[str]:
        try:
            for _ in range(steps):
                self.step()
            self.settle()
        finally:
            self.pubsub.close()
        return self.count

    # --- commands ----------------------------------------------------------------------------

    def issue(self, what: str, session: Session, seq: int) -> None:
        """Say it: it may arrive at once, later, both, or never."""
        fate = self.rng.random()
        if fate < 0.7:
            self.run(what, session, seq)
        if fate > 0.55:
            self.late.append((what, session, seq))

    def run(self, what: str, session: Session, seq: int) -> None:
        before = self.redis.register(session.user)
        if what == "join":
            reply = self.redis.join(session, seq, self.most)[0]
        else:
            reply = f"left {self.redis.leave(session.user, session.token, seq)}"
        self.count[f"{what} {reply}"] += 1
        if reply == "full" and len(self.redis.there()) < self.most:
            raise Violation("full, although there is room")
        stamp = (session.token, seq)
        self._check_upwards(what, before, self.redis.register(session.user), stamp)
        is_older = stamp < self.out.get(session.user, (0, 0))
        if what == "join" and is_older and reply != "stale":
            raise Violation(f"{what} {stamp} came after {self.out[session.user]}: {reply}")
        if what == "leave" and not is_older:
            self.out[session.user] = stamp
        self.listen()

    def _check_upwards(
        self, what: str, before: Register | None, after: Register | None, stamp: tuple[int, int]
    ) -> None:
        """R1, R2: a command changes a register only to a higher stamp, and never removes it."""
        if before is None:
            return
        if after is None:
            raise Violation(f"{what} {stamp} forgot {before}")
        if after[1:] < before[1:]:
            raise Violation(f"{what} {stamp} took {before} back to {after}")
        if before[1:] > stamp and after != before:
            raise Violation(f"{what} {stamp} changed the newer {before}")

    # --- events ------------------------------------------------------------------------------

    def listen(self) -> None:
        while (got := self.pubsub.get_message(timeout=0.0)) is not None:
            if got["type"] == "message":
                self._fold(json.loads(got["data"]))

    def _fold(self, event: Mapping[str, Any]) -> None:
        if event.get("type") != "member":
            return
        self.count[f"event {event['state']}"] += 1
        user, comes = event["user"], event["state"] == "join"
        if comes == (user in self.told):
            raise Violation(f"{user} was told twice: {event['state']}")
        (self.told.add if comes else self.told.discard)(user)

    def catch_up(self) -> None:
        """R3: up to the mark of a list, the events add up to exactly that list."""
        listed = set(self.redis.list('{"type":"mark"}'))
        while True:
            got = self.pubsub.get_message(timeout=HEARD_S)
            if got is None:
                raise Violation("the mark of a list did not come")
            if got["type"] != "message":
                continue
            event = json.loads(got["data"])
            if event.get("type") == "mark":
                break
            self._fold(event)
        if listed != self.told:
            raise Violation(f"listed {listed}, by the events {self.told}")
        if len(listed) > self.most:
            raise Violation("more members than allowed")

    # --- life --------------------------------------------------------------------------------

    def beat(self, gateway: Gateway) -> None:
        till = self.redis.client.zscore(self.redis.boots_key, gateway.boot)
        given_up = till is None or till <= self.redis.past()
        state, dead, live = self.redis.boots(gateway.boot)
        if given_up != (state == "lapsed"):
            raise Violation("a gateway does not learn that it was given up")
        if gateway.boot not in live or set(live) & set(dead):
            raise Violation("who beats does not live, or the dead do")
        if given_up:
            for session in gateway.sessions.values():
                if session.joined is not None:
                    self.count["said again"] += 1
                    self.issue("join", session, session.joined)
        if dead and self.rng.random() < 0.8:
            self._sweep(dead)

    def _sweep(self, dead: list[str]) -> None:
        there = self.redis.there()
        alive = {user: text for user, text in there.items() if text.split(" ")[4] not in dead}
        for user in there.keys() - alive.keys():
            _, token, seq, *_ = there[user].split(" ")
            self.out[user] = int(token), int(seq) - 1
        self.count["swept"] += self.redis.sweep(dead)
        if alive != self.redis.there():
            raise Violation("a sweep does not remove exactly those whose gateway is gone")
        self.listen()

    def come(self, user: str) -> None:
        up = [gateway for gateway in self.gateways if gateway.state == "up"]
        if not up:
            return
        gateway = self.rng.choice(up)
        self.token += 1
        session = Session(user, gateway, gateway.boot, self.token)
        old = self.newest.get(user)
        self.newest[user] = gateway.sessions[user] = session
        if old is not None and self._is_awake(old) and self.rng.random() < 0.7:
            self.end(old)  # The kick arrives; otherwise its gateway learns it later.
        if self.rng.random() < 0.7:
            self.enter(session)

    def _is_awake(self, session: Session) -> bool:
        gateway = session.gateway
        return gateway.state == "up" and gateway.sessions.get(session.user) is session

    def enter(self, session: Session) -> None:
        session.seq += 1
        session.joined = session.seq
        self.issue("join", session, session.seq)

    def end(self, session: Session) -> None:
        if session.gateway.sessions.get(session.user) is session:
            del session.gateway.sessions[session.user]
        session.joined = None
        self.issue("leave", session, LAST_SEQ)

    def step(self) -> None:
        chance = self.rng.random()
        user = self.rng.choice(self.users)
        session = self.newest.get(user)
        awake = session if session is not None and self._is_awake(session) else None
        if chance < 0.15:
            self.come(user)
        elif chance < 0.48:
            if awake is not None:
                self._act(awake, chance)
        elif chance < 0.70:
            self._deliver_late()
        elif chance < 0.75:
            self.accident(self.rng.choice(self.gateways))
        elif chance < 0.85:
            for gateway in self.gateways:
                if gateway.state == "up":
                    self.beat(gateway)
        elif chance < 0.97:
            self.catch_up()
        elif self.loses:
            self.lose()

    def _act(self, session: Session, chance: float) -> None:
        if chance < 0.30 and session.joined is None:
            self.enter(session)
        elif 0.30 <= chance < 0.42 and session.joined is not None:
            session.seq += 1
            session.joined = None
            self.issue("leave", session, session.seq)
        elif chance >= 0.42:
            self.end(session)
            del self.newest[session.user]

    def _deliver_late(self) -> None:
        if not self.late:
            return
        said = self.rng.choice(self.late)
        if self.rng.random() < 0.8:
            self.late.remove(said)
        self.run(*said)

    def lose(self) -> None:
        """Redis loses everything; the gateways notice, and say again who is there."""
        self.redis.forget_all()
        self.count["lost"] += 1
        self.out.clear()
        self.told.clear()
        self.catch_up()
        for gateway in self.gateways:
            if gateway.state == "up":
                self.beat(gateway)

    def accident(self, gateway: Gateway) -> None:
        if gateway.state == "up":
            gateway.state = self.rng.choice(("asleep", "dead"))
            self.count[gateway.state] += 1
            if gateway.state == "asleep" and self.rng.random() < 0.6:
                self.redis.give_up(gateway.boot)
                self.count["given up"] += 1
        elif gateway.state == "asleep":
            self._wake(gateway)
        else:
            self._restart(gateway)

    def _wake(self, gateway: Gateway) -> None:
        gateway.state = "up"
        self.count["woke up"] += 1
        # First of all it asks who is still its own: the others were superseded meanwhile.
        for user, session in list(gateway.sessions.items()):
            if self.newest.get(user) is not session:
                self.end(session)
        self.beat(gateway)

    def _restart(self, gateway: Gateway) -> None:
        for user, session in gateway.sessions.items():
            if self.newest.get(user) is session:
                del self.newest[user]  # Until the user comes again.
        fresh = Gateway(gateway.name, f"{gateway.name}.{self.token}")
        self.gateways[self.gateways.index(gateway)] = fresh
        self.redis.give_up(gateway.boot)
        self.count["restarted"] += 1
        self.beat(fresh)

    # --- the end -----------------------------------------------------------------------------

    def settle(self) -> None:
        """R4, R5: all has arrived, in any order; the dead are swept, the living compare; then the
        list is the truth.
        """
        for gateway in list(self.gateways):
            if gateway.state != "up":
                self.accident(gateway)
        self._let_all_arrive()
        for gateway in self.gateways:
            for user, session in list(gateway.sessions.items()):
                if self.newest.get(user) is not session:
                    self.end(session)
        self._let_all_arrive()
        live = {gateway.boot for gateway in self.gateways}
        dead = {register[4] for register in self.redis.list().values()} - live
        self._sweep(sorted(dead))
        for gateway in self.gateways:
            self._repair(gateway)
        self.catch_up()
        truth = {
            user
            for user, session in self.newest.items()
            if session.joined is not None and session.gateway.sessions.get(user) is session
        }
        if self.most >= len(self.users) and set(self.redis.list()) != truth:
            raise Violation(f"listed {set(self.redis.list())}, in truth {truth}")

    def _let_all_arrive(self) -> None:
        self.rng.shuffle(self.late)
        while self.late:
            self.run(*self.late.pop())

    def _repair(self, gateway: Gateway) -> None:
        for session in gateway.sessions.values():
            if session.joined is not None:
                self.run("join", session, session.joined)
        for user, register in self.redis.list().items():
            _, token, seq, _, boot, conn_id = register
            mine = gateway.sessions.get(user)
            is_true = mine is not None and mine.conn_id == conn_id and mine.joined is not None
            if boot == gateway.boot and not is_true:
                self.count["repaired"] += 1
                ghost = Session(user, gateway, boot, int(token))
                self.run("leave", ghost, int(seq) + 1)


CONFIGURATIONS: Mapping[str, Mapping[str, Any]] = {
    "four users": {},
    "one user": {"users": 1},
    "at most two members": {"most": 2},
    "data is lost": {"loses": True},
}

Play = Callable[[str, int], Counter[str]]


def player(client: redis.Redis, prefix: str, wrong: Mapping[str, Script] | None = None) -> Play:
    """Return what plays a configuration with a seed, and raises a `Violation`."""
    scripts = Redis(client, prefix, wrong)

    def play(name: str, seed: int) -> Counter[str]:
        return World(scripts, seed, **CONFIGURATIONS[name]).play(200)

    return play

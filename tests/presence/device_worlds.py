"""Random histories of one user's devices: is each device a user of the scripts for one session?

Every command runs twice: on the scripts for devices, and, projected to its device, on the scripts
for one session, with the same token and keys of its own. The answers must be the same. So what the
model checker shows of one user holds of each device (P1 to P8). Commands come late, twice, in any
order or never; devices expire, have to go, are forgotten by the fence; data is lost.

`Mixed` has gateways with `--devices 1` beside others on one Redis, as during a rolling upgrade.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import redis

from tests.hearing import HEARD_S, confirmed
from wsdemo.presence.devices import DEVICES_REFRESH, DEVICES_REGISTER, DEVICES_RELEASE
from wsdemo.presence.store import MINT, REFRESH, REGISTER, RELEASE
from wsdemo.redis.deadline import NEVER_MS
from wsdemo.redis.scripts import Script
from wsdemo.router import DEVICES_ROUTE
from wsdemo.settings import Keyspace

TTL_MS: Final = 600_000
FENCE_MS: Final = 3_600_000
ENDLESS: Final = 2**53
SCRIPTS: Final[Mapping[str, Script]] = {
    "register": DEVICES_REGISTER,
    "refresh": DEVICES_REFRESH,
    "release": DEVICES_RELEASE,
    "route": DEVICES_ROUTE,
}
Reply = list[Any]


class Violation(AssertionError):
    """The two kinds of scripts do not agree."""


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """Which devices there are, how many may be connected, and what may happen."""

    name: str
    devices: Sequence[str]
    most: int = 99
    remembered: int = 99
    loses_data: bool = False

    def __str__(self) -> str:
        return self.name


CONFIGURATIONS: Final = (
    Configuration(name="one device", devices=("",), most=1),
    Configuration(name="three devices", devices=("", "phone", "web")),
    Configuration(name="data is lost", devices=("", "phone", "web"), loses_data=True),
    Configuration(name="at most two", devices=("", "a", "b", "c", "d"), most=2),
    Configuration(name="a small fence", devices=tuple("abcdefgh"), most=2, remembered=4),
)


@dataclass(frozen=True, eq=False)
class Played:
    """A session, and what it sends."""

    conn: str
    gateway: str
    token: int
    device: str
    inst: str
    att: int


@dataclass(eq=False)
class World:
    """One user. Play it, and it raises a `Violation` when an answer is wrong."""

    client: Any
    """A plain client that decodes."""
    keyspace: Keyspace
    configuration: Configuration
    seed: int
    scripts: Mapping[str, Script] = field(default_factory=lambda: SCRIPTS)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.count = Counter[str]()
        self.sessions: list[Played] = []
        self.late: list[tuple[str, Played]] = []
        self.key, self.fence = self.keyspace.presence("al"), self.keyspace.fence("al")
        self.pubsub = self.client.pubsub()
        self.pubsub.psubscribe(f"{self.keyspace.channel_prefix}gateway:*")
        confirmed(self.pubsub)
        self.forget()

    def play(self, steps: int = 200) -> Counter[str]:
        try:
            for _ in range(steps):
                self.step()
        finally:
            self.pubsub.close()
            self.forget()
        return self.count

    def step(self) -> None:
        chance = self.rng.random()
        if chance < 0.22 or not self.sessions:
            self.dial()
        elif chance < 0.45:
            self.issue("refresh", self.rng.choice(self.sessions[-12:]))
        elif chance < 0.60:
            self.issue("release", self.rng.choice(self.sessions[-12:]))
        elif chance < 0.80 and self.late:
            what, session = self.late[self.rng.randrange(len(self.late))]
            if self.rng.random() < 0.7:
                self.late.remove((what, session))
            self.run(what, session)
        elif chance < 0.86:
            self.expire()
        elif chance < 0.98:
            self.route()
        elif self.configuration.loses_data:
            self.forget()
            self.count["losses"] += 1

    def forget(self) -> None:
        keys = [self.key, self.fence]
        for device in self.configuration.devices:
            keys += self.keys(device)
        self.client.delete(*keys)

    def keys(self, device: str) -> list[str]:
        """Where the scripts for one session keep this device."""
        return [self.keyspace.presence(f"al#{device}"), self.keyspace.fence(f"al#{device}")]

    def eval(self, script: Script, keys: Sequence[str], *args: Any) -> Any:
        try:
            return self.client.evalsha(script.sha, len(keys), *keys, *args)
        except redis.exceptions.NoScriptError:
            return self.client.eval(script.text, len(keys), *keys, *args)

    # --- commands ------------------------------------------------------------------------------

    def dial(self) -> None:
        device = self.rng.choice(list(self.configuration.devices))
        token = int(self.eval(MINT, [self.fence], FENCE_MS))
        inst = self.rng.choice(["", f"of {device}"])
        n = len(self.sessions) + 1
        conn, gateway = f"c{self.rng.randrange(100)}x{n}", f"g{self.rng.randrange(3)}"
        session = Played(conn, gateway, token, device, inst, self.rng.randrange(n) if inst else 0)
        self.sessions.append(session)
        self.issue("register", session)

    def issue(self, what: str, session: Played) -> None:
        """A command arrives now, later, now and later again, or never."""
        fate = self.rng.random()
        if fate < 0.75:
            self.run(what, session)
        if fate > 0.6:
            self.late.append((what, session))

    def run(self, what: str, session: Played) -> None:
        answer, evicted = self.new(what, session)
        is_refused = answer[0] in ("stale", "closed", "superseded", 0)
        if is_refused and self.configuration.remembered < 99:
            self.check_refused(what, session, answer)
            return
        if answer == ["closed"] and self.has_no_room(what, session):
            self.count["no room"] += 1
            return
        before = self.as_one(what, session)
        if before != answer:
            raise Violation(f"{what} {session}: {answer}, as a user with one session {before}")
        self.count[f"{what} {answer[0]}"] += 1
        for conn, token in evicted:
            self.check_evicted(session, conn, token)
        self.check()
        if answer[0] in ("ok", "reclaimed", 1):
            self.check_shown()

    def has_no_room(self, what: str, session: Played) -> bool:
        """Whether it is lost, and other devices have taken its place."""
        is_full = len(self.truth()) >= self.configuration.most
        return is_full and self.as_one(what, session, keep=True)[0] == "reclaimed"

    def check_refused(self, what: str, session: Played, answer: Reply) -> None:
        """What the fence has forgotten may be refused, as long as it is not a live session."""
        one = self.as_one(what, session, keep=True)
        if one[0] == answer[0]:
            self.as_one(what, session)
            self.count[f"{what} {answer[0]}"] += 1
            self.check()
        elif (what, one[0]) in (("refresh", "ok"), ("release", 1)):
            raise Violation(f"{what} {session}: a live session is refused")
        else:
            self.count["forgotten"] += 1

    def new(self, what: str, s: Played) -> tuple[Reply, list[tuple[str, int]]]:
        """Run a command on the scripts for devices; return the answer, and who had to go."""
        keys, most = [self.key, self.fence], self.configuration.most
        script = self.scripts[what]
        args = (s.conn, s.gateway, s.token, TTL_MS, FENCE_MS, s.inst, s.att, s.device, most)
        if what == "register":
            reply = self.eval(script, keys, *args, self.configuration.remembered, "")
            evicted = [(reply[i + 1], int(reply[i + 2])) for i in range(5, len(reply), 3)]
            return reply[:4], evicted
        if what == "refresh":
            return self.eval(script, keys, *args, TTL_MS, ""), []
        rest = (FENCE_MS, s.device, TTL_MS, "", "bye")
        return [self.eval(script, keys, s.conn, s.token, *rest)], []

    def as_one(self, what: str, s: Played, *, keep: bool = False) -> Reply:
        """Run it on the scripts for one session; with `keep`, everything stays as it was."""
        keys = self.keys(s.device)
        saved = [(key, self.client.hgetall(key)) for key in keys] if keep else []
        args = (s.conn, s.gateway, s.token, TTL_MS, FENCE_MS, s.inst, s.att)
        if what == "register":
            reply = self.eval(REGISTER, keys, *args)
        elif what == "refresh":
            reply = self.eval(REFRESH, keys, *args)
        else:
            reply = [self.eval(RELEASE, keys, s.conn, s.token, FENCE_MS)]
        for key, value in saved:
            self.client.delete(key)
            if value:
                self.client.hset(key, mapping=value)
        return list(reply)

    # --- what must hold ------------------------------------------------------------------------

    def truth(self) -> dict[str, tuple[str, str, int]]:
        """Return each device that lives, as the scripts for one session know it."""
        pipe = self.client.pipeline(transaction=False)
        for device in self.configuration.devices:
            pipe.hmget(self.keys(device)[0], "gwId", "connId", "epoch")
        found = zip(self.configuration.devices, pipe.execute(), strict=True)
        return {name: (gw, conn, int(token)) for name, (gw, conn, token) in found if conn}

    def check_evicted(self, by: Played, conn: str, token: int) -> None:
        """The one that logged in first had to go, and from now on it counts as released."""
        others = {name: one for name, one in self.truth().items() if name != by.device}
        owner = next((name for name, one in others.items() if one[1] == conn), None)
        if owner is None:
            raise Violation(f"{conn} had to go, and owns nothing")
        oldest = min(one[2] for one in others.values())
        if token != oldest:
            raise Violation(f"{conn} had to go with {token}, but {oldest} is older")
        self.eval(RELEASE, self.keys(owner), conn, token, FENCE_MS)
        self.count["evicted"] += 1

    def check(self) -> None:
        """The same devices live, and the six fields show the newest of them."""
        fields: dict[str, str] = self.client.hgetall(self.key)
        live = {name[2:]: parsed(value) for name, value in fields.items() if name[:2] == "s:"}
        shown = {name: one[:3] for name, one in live.items() if one[3] > 1}
        truth = self.truth()
        if shown != truth:
            raise Violation(f"devices {shown}, one by one {truth}")
        if len(shown) > self.configuration.most:
            raise Violation(f"{len(shown)} devices are more than allowed")
        self.check_fence(set(shown))

    def check_shown(self) -> None:
        """After a write, the six fields show the newest of the devices that live."""
        truth = self.truth().values()
        newest = max(((token, conn) for _, conn, token in truth), default=(0, None))
        shown = self.client.hget(self.key, "connId")
        if shown != newest[1]:
            raise Violation(f"{shown} is shown, the newest is {newest}")

    def check_fence(self, live: set[str]) -> None:
        kinds = [name.partition(":") for name in self.client.hkeys(self.fence)]
        names = {device for kind, _, device in kinds if kind in ("top", "floor") and device}
        if len(names) > self.configuration.remembered + 2 and not names <= live:
            self.count["large fences"] += 1

    def route(self) -> None:
        """A message goes once to each gateway with a device, for all of them that are there."""
        left_out = {one[1] for one in self.truth().values() if self.rng.random() < 0.2}
        channels = self.keyspace.channel_prefix
        words = f" {' '.join(sorted(left_out))} "
        reply = self.eval(
            self.scripts["route"], [self.key], '{"to":"al"', channels, words, TTL_MS, NEVER_MS
        )
        truth: dict[str, set[tuple[str, int, str]]] = {}
        for device, (gateway, conn, token) in self.truth().items():
            if conn not in left_out:
                truth.setdefault(gateway, set()).add((conn, token, device))
        told = self.told(len(reply) - 1)
        if told != truth or (reply[0] == "offline") != (not truth):
            raise Violation(f"{reply}, told {told}, live are {truth}")
        self.count["routes"] += 1
        self.count["copies"] += sum(map(len, told.values()))

    def told(self, gateways: int) -> dict[str, set[tuple[str, int, str]]]:
        told = {}
        for _ in range(gateways):
            got = self.pubsub.get_message(timeout=HEARD_S)
            assert got is not None
            gateway = got["channel"].rpartition(":")[2]
            copies = json.loads(got["data"])["toConns"]
            told[gateway] = {(conn, token, device) for conn, token, device in copies}
        return told

    def expire(self) -> None:
        """The lease of a device ends."""
        device = self.rng.choice(list(self.configuration.devices))
        value = self.client.hget(self.key, f"s:{device}")
        if value:
            parts = value.split(" ", 4)
            parts[3] = "1"
            self.client.hset(self.key, f"s:{device}", " ".join(parts))
            self.client.delete(self.keys(device)[0])
            self.count["expired"] += 1


def parsed(value: str) -> tuple[str, str, int, int]:
    gateway, conn, token, until, *_ = value.split(" ", 4)
    return gateway, conn, int(token), int(until)


# --- gateways with --devices 1 beside others ---------------------------------------------------


@dataclass(eq=False)
class Guest:
    """A session at a gateway with `--devices 1` (`device` is None) or at another one."""

    conn: str
    token: int
    device: str | None
    is_registered: bool = False
    is_alive: bool = False
    """Its register was accepted, and nobody has told it to end."""
    is_replaced: bool = False
    """It is plain, and was in the entry when a newer session came."""

    @property
    def shares_a_device(self) -> bool:
        """Whether it is of the device that plain sessions are of."""
        return not self.device


@dataclass(eq=False)
class Mixed:
    """One user at gateways of both kinds. No user is lost, and nothing goes on for ever."""

    client: Any
    """A plain client that decodes."""
    keyspace: Keyspace
    seed: int
    most: int = 2
    scripts: Mapping[str, Script] = field(default_factory=lambda: SCRIPTS)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.count = Counter[str]()
        self.guests: list[Guest] = []
        self.late: list[tuple[str, Guest]] = []
        self.keys = [self.keyspace.presence("al"), self.keyspace.fence("al")]
        self.newest = 0
        """The highest token of a session of the device that plain sessions are of."""

    def play(self, steps: int = 120) -> Counter[str]:
        self.client.delete(*self.keys)
        try:
            for _ in range(steps):
                self.step()
                self.check_shown()
            self.settle()
        finally:
            self.client.delete(*self.keys)
        return self.count

    def step(self) -> None:
        chance, alive = self.rng.random(), [one for one in self.guests if one.is_alive]
        if chance < 0.25 or not self.guests:
            self.dial()
        elif chance < 0.55 and alive:
            self.issue("refresh", self.rng.choice(alive))
        elif chance < 0.65 and alive:
            guest = self.rng.choice(alive)
            guest.is_alive = False
            self.issue("release", guest)
        elif chance < 0.90 and self.late:
            self.run(*self.late.pop(self.rng.randrange(len(self.late))))
        elif 0.90 <= chance < 0.93:
            self.client.delete(self.keys[0])
            self.count["all leases ended"] += 1

    def dial(self) -> None:
        token = int(self.eval(MINT, self.keys[1:], FENCE_MS))
        device = self.rng.choice([None, None, "", "phone", "web"])
        guest = Guest(f"c{self.rng.randrange(100)}x{len(self.guests)}", token, device)
        self.guests.append(guest)
        self.issue("register", guest)

    def issue(self, what: str, guest: Guest) -> None:
        """A command arrives now or later."""
        if self.rng.random() < 0.75:
            self.run(what, guest)
        else:
            self.late.append((what, guest))

    def eval(self, script: Script, keys: Sequence[str], *args: Any) -> Any:
        return self.client.eval(script.text, len(keys), *keys, *args)

    def run(self, what: str, one: Guest) -> None:
        plain, before = one.device is None, self.entries()
        kind = "plain" if plain else "device"
        args = (one.conn, "g1" if plain else "g2", one.token, TTL_MS, FENCE_MS, "", 0)
        if what == "register":
            self.register(one, args, before)
        elif what == "refresh":
            script, more = (REFRESH, ()) if plain else (self.scripts["refresh"], self.more(one))
            outcome = self.eval(script, self.keys, *args, *more)[0]
            self.count[f"{kind} refresh {outcome}"] += 1
            if outcome in ("ok", "reclaimed"):
                self.note_owner(one, before)
            if outcome in ("superseded", "closed"):
                self.end(one)
        elif plain:
            self.eval(RELEASE, self.keys, one.conn, one.token, FENCE_MS)
        else:
            rest = (one.conn, one.token, FENCE_MS, one.device, TTL_MS, "", "bye")
            self.eval(self.scripts["release"], self.keys, *rest)

    def more(self, one: Guest) -> tuple[Any, ...]:
        return (one.device, self.most, TTL_MS, "")

    def note_owner(self, one: Guest, before: Mapping[str, int]) -> None:
        """A session has an entry now: nothing older has come back, and plain ones go for it."""
        if one.is_replaced or (one.shares_a_device and one.token < self.newest):
            raise Violation(f"{one} has come back")
        if one.shares_a_device:
            self.newest = one.token
        for other in self.guests:
            if other.device is None and other.conn in before and other.token < one.token:
                other.is_replaced = True

    def register(self, one: Guest, args: tuple[Any, ...], before: Mapping[str, int]) -> None:
        if one.device is None:
            reply = self.eval(REGISTER, self.keys, *args)
        else:
            more = (one.device, self.most, 99, "")
            reply = self.eval(self.scripts["register"], self.keys, *args, *more)
        self.count[f"{'plain' if one.device is None else 'device'} register {reply[0]}"] += 1
        if reply[0] != "ok":
            return
        one.is_registered = one.is_alive = True
        self.note_owner(one, before)
        for conn in (reply[2], *reply[6::3]):
            for other in self.guests:
                if other.conn == conn and self.rng.random() < 0.8:  # A kick may be lost.
                    self.end(other)

    def end(self, one: Guest) -> None:
        """A session is told to end: only when there was a newer one, or no room for it."""
        if not one.is_alive:
            return
        one.is_alive = False
        others = [other for other in self.guests if other.is_registered and other is not one]
        if all(other.token < one.token for other in others) and len(self.entries()) < self.most:
            raise Violation(f"{one} has to end, and is the newest")
        self.issue("release", one)

    # --- what must hold ------------------------------------------------------------------------

    def entries(self) -> dict[str, int]:
        """Return the sessions that the entry has, and their tokens."""
        fields: dict[str, str] = self.client.hgetall(self.keys[0])
        devices = [parsed(value) for name, value in fields.items() if name[:2] == "s:"]
        found = {conn: token for _, conn, token, _ in devices}
        if fields:
            found[fields["connId"]] = int(fields["epoch"])
        return found

    def check_shown(self) -> None:
        shown: str | None = self.client.hget(self.keys[0], "connId")
        found = self.entries()
        if shown is not None and found[shown] != max(found.values()):
            raise Violation(f"{shown} is shown, of {found}")

    def settle(self) -> None:
        """When all commands have come, and all sessions are refreshed, everything agrees."""
        while self.late:
            self.run(*self.late.pop())
        for _ in range(4):
            for one in self.guests:
                if one.is_alive:
                    self.run("refresh", one)
            while self.late:
                self.run(*self.late.pop())
            self.check_shown()
        alive = {one.conn: one.token for one in self.guests if one.is_alive}
        if alive != self.entries():
            raise Violation(f"alive are {alive}, Redis says {self.entries()}")
        for one in self.guests:
            if one.is_alive and one.device is None and len(alive) > 1:
                self.count["plain beside devices"] += 1

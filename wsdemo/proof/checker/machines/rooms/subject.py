"""Machine of rooms: what do its moves lead to, and what may each of them break?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, NamedTuple

from wsdemo.proof.checker.machines.rooms.invariants import (
    ANSWERS,
    TRUTH,
    Said,
    broken_by_beat,
    broken_by_command,
    broken_by_list,
    broken_by_sweep,
    entries,
    just_before,
    members,
    swept,
    told_after,
)
from wsdemo.proof.checker.machines.rooms.states import (
    BOOTS,
    GATEWAYS,
    KEEP_MS,
    KEYS,
    LATER,
    OUT,
    PAST,
    GatewayState,
    RoomCopy,
    RoomScenario,
    RoomSpelling,
    RoomState,
    RoomVerb,
    Stamp,
    Visit,
    boot_of,
)
from wsdemo.proof.checker.runner import (
    CHANNELS,
    Data,
    Kept,
    ScriptCall,
    ScriptReply,
    ScriptRunner,
    fields_of,
    part,
    replaced,
)
from wsdemo.proof.checker.subject import Ending, Invariant, Step
from wsdemo.rooms.store import LAST_SEQ

NAME: Final = "lobby"
CHANNEL: Final = f"{CHANNELS}room:{NAME}"
LEASE_MS: Final = KEEP_MS


class RoomMoveKind(StrEnum):
    """The kinds of moves."""

    LOGIN = "registers"
    JOIN = "join"
    JOIN_UNDER_WAY = "join, not executed yet"
    LEAVE = "leave"
    LEAVE_UNDER_WAY = "leave, not executed yet"
    END = "its session ends"
    END_UNDER_WAY = "its session ends, the leave is not executed yet"
    LATE = "late"
    DIE = "dies"
    BEAT = "beats"
    SWEEP = "sweeps"
    SAY_AGAIN = "says again who is there"
    LAPSE = "the lease of a process ends"
    FORGET = "what was remembered long enough"
    LOSE = "everything is lost"
    COPY = "a replica gets this far"
    FAIL_OVER = "the replica takes over"
    HEAL = "everything is repaired"


class RoomMove(NamedTuple):
    """One thing that may happen."""

    kind: RoomMoveKind
    who: int = -1
    """The number of a session, or of a gateway."""
    verb: RoomVerb = RoomVerb.JOIN
    seq: int = 0
    user: str = ""


class RoomRow(NamedTuple):
    """One step of a counterexample."""

    who: str
    what: str
    answer: str
    room: str
    told: str

    def cells(self) -> dict[str, str]:
        return {
            "who": self.who,
            "what": self.what,
            "answer": self.answer or "-",
            "room after": self.room or "-",
            "by the events": self.told or "-",
        }


class _Done(NamedTuple):
    """What one script has led to."""

    state: RoomState
    answer: str
    broken: list[Invariant]


_OF_GATEWAYS: Final = frozenset(
    {RoomMoveKind.DIE, RoomMoveKind.BEAT, RoomMoveKind.SWEEP, RoomMoveKind.SAY_AGAIN}
    | {RoomMoveKind.LAPSE}
)


class RoomSubject:
    """The scripts of rooms, with gateways, sessions and faults of a scenario."""

    def __init__(self, url: str, scripts: Mapping[str, str], scenario: RoomScenario) -> None:
        self.runner: Any = ScriptRunner(url, {**scenario.shipped(), **scripts}, RoomSpelling())
        self._scenario = scenario
        self._settled: set[tuple[object, ...]] = set()

    def start(self) -> RoomState:
        return self._scenario.start()

    def expected(self) -> frozenset[tuple[str, str]]:
        return frozenset({("join", "joined"), ("leave", "1")})

    def calls(self, state: RoomState, move: RoomMove) -> Iterator[ScriptCall]:
        command = self._command(state, move)
        if command is not None:
            yield self._call(state, *command)
        elif move.kind is RoomMoveKind.SWEEP:
            yield self._sweeping(state, state.gateways[move.who].lapsed)

    # --- moves -------------------------------------------------------------------------------

    def moves(self, state: RoomState) -> Iterator[RoomMove]:
        for number in range(len(state.visits)):
            yield from self._of_session(state, number)
        for number, gateway in enumerate(state.gateways):
            yield from self._of_gateway(state, number, gateway)
        left = state.left
        if left.forgets:
            for member in sorted(set(fields_of(state.data, OUT)) - self._lingering(state)):
                yield RoomMove(RoomMoveKind.FORGET, user=member)
        if left.losses and state.data:
            yield RoomMove(RoomMoveKind.LOSE)
        if left.rollbacks:
            kind = RoomMoveKind.COPY if state.copy is None else RoomMoveKind.FAIL_OVER
            yield RoomMove(kind)

    def _of_session(self, state: RoomState, number: int) -> Iterator[RoomMove]:
        visit, (user, gateway) = state.visits[number], self._scenario.sessions[number]
        if state.left.copies:
            for verb, seq in sorted(visit.sent):
                yield RoomMove(RoomMoveKind.LATE, number, verb, seq)
        if state.gateways[gateway].is_dead or visit.is_over:
            return
        if not visit.is_on:
            before = [
                one
                for one, (name, _) in zip(state.visits, self._scenario.sessions, strict=True)
                if name == user
            ][: self._rank(number)]
            if all(one.is_on or one.is_over for one in before):
                yield RoomMove(RoomMoveKind.LOGIN, number)
            return
        later: tuple[RoomMoveKind, ...] = (RoomMoveKind.END, RoomMoveKind.END_UNDER_WAY)
        if visit.joined:
            later = (*later, RoomMoveKind.LEAVE, RoomMoveKind.LEAVE_UNDER_WAY)
        elif visit.seq < 2 * self._scenario.joins:
            later = (*later, RoomMoveKind.JOIN, RoomMoveKind.JOIN_UNDER_WAY)
        for kind in later:
            if "not executed" not in kind or state.left.copies:
                yield RoomMove(kind, number)

    def _lingering(self, state: RoomState) -> set[str]:
        """The users with a superseded session that goes on: for minutes, not for so long."""
        return {
            user
            for number, (user, _) in enumerate(self._scenario.sessions)
            if state.visits[number].is_on
            and not state.visits[number].is_over
            and self._is_superseded(state, number)
        }

    def _rank(self, number: int) -> int:
        user = self._scenario.sessions[number][0]
        return sum(name == user for name, _ in self._scenario.sessions[:number])

    def _of_gateway(
        self, state: RoomState, number: int, gateway: GatewayState
    ) -> Iterator[RoomMove]:
        left, boot = state.left, boot_of(number)
        if left.lapses and fields_of(state.data, BOOTS).get(boot) == LATER:
            yield RoomMove(RoomMoveKind.LAPSE, number)
        if gateway.is_dead:
            return
        if left.deaths:
            yield RoomMove(RoomMoveKind.DIE, number)
        yield RoomMove(RoomMoveKind.BEAT, number)
        if gateway.lapsed:
            yield RoomMove(RoomMoveKind.SWEEP, number)
        if gateway.must_say:
            yield RoomMove(RoomMoveKind.SAY_AGAIN, number)

    # --- commands ----------------------------------------------------------------------------

    def _command(self, state: RoomState, move: RoomMove) -> tuple[int, RoomVerb, int] | None:
        """Return the command that a move executes: session, verb, seq."""
        match move.kind:
            case RoomMoveKind.JOIN:
                return move.who, RoomVerb.JOIN, state.visits[move.who].seq + 1
            case RoomMoveKind.LEAVE:
                return move.who, RoomVerb.LEAVE, state.visits[move.who].seq + 1
            case RoomMoveKind.END:
                return move.who, RoomVerb.LEAVE, LAST_SEQ
            case RoomMoveKind.LATE:
                return move.who, move.verb, move.seq
            case _:
                return None

    def _call(self, state: RoomState, number: int, verb: RoomVerb, seq: int) -> ScriptCall:
        user, gateway = self._scenario.sessions[number]
        token, _ = self._scenario.stamp(number, seq)
        return self._said(state, verb, user, (token, seq), gateway, f"c{number}")

    def _said(
        self, state: RoomState, verb: RoomVerb, user: str, stamp: Stamp, gateway: int, conn: str
    ) -> ScriptCall:
        args: tuple[str | int, ...]
        if verb is RoomVerb.JOIN:
            where = (GATEWAYS[gateway], boot_of(gateway), conn)
            args = (user, *stamp, *where, self._scenario.most, KEEP_MS, CHANNEL, NAME)
        else:
            args = (user, *stamp, "left", KEEP_MS, CHANNEL, NAME)
        return ScriptCall(f"room_{verb}", KEYS, args, part(state.data, KEYS))

    def _sweeping(self, state: RoomState, boots: frozenset[str]) -> ScriptCall:
        args: tuple[str | int, ...] = (CHANNEL, NAME, KEEP_MS, *sorted(boots))
        return ScriptCall("room_sweep", KEYS, args, part(state.data, KEYS))

    def _execute(self, state: RoomState, call: ScriptCall) -> _Done:
        """Execute a JOIN or a LEAVE."""
        reply: ScriptReply = self.runner.reply(call)
        if reply.failure:
            return _Done(state, "failed", [ANSWERS])
        verb = RoomVerb(call.script.removeprefix("room_"))
        user, stamp = str(call.args[0]), (int(call.args[1]), int(call.args[2]))
        index = self._scenario.users.index(user)
        out = state.out[index]
        data, broken = self._due_forgotten(state), []
        said = Said(
            *(
                verb,
                user,
                stamp,
                self._scenario.most,
                out,
                data if verb is RoomVerb.JOIN else state.data,
            ),
            *(state.told, reply),
        )
        broken = broken_by_command(said)
        if verb is RoomVerb.LEAVE and stamp > out:
            state = state._replace(out=_set(state.out, index, stamp))
        if verb is RoomVerb.JOIN and data != state.data:
            gone = {name for name, score in fields_of(state.data, OUT).items() if score == PAST}
            users = enumerate(self._scenario.users)
            fresh = ((0, 0) if name in gone else state.out[n] for n, name in users)
            state = state._replace(out=tuple(fresh))
        told, _ = told_after(state.told, reply)
        answer = reply.answer[0] if isinstance(reply.answer, tuple) else str(reply.answer)
        state = state._replace(data=replaced(state.data, KEYS, reply.data), told=told)
        return _Done(state, answer, broken)

    def _due_forgotten(self, state: RoomState) -> Data:
        """Return the data without those who left long ago: each JOIN removes them first."""
        gone = {name for name, score in fields_of(state.data, OUT).items() if score == PAST}
        data = state.data
        for key in KEYS:
            fields = tuple(row for row in _rows(data, key) if row[0] not in gone)
            data = replaced(data, [key], ((key, Kept(fields)),) if fields else ())
        return data

    # --- steps -------------------------------------------------------------------------------

    def step(self, state: RoomState, move: RoomMove) -> Step:
        command = self._command(state, move)
        if command is not None:
            number, verb, seq = command
            done = self._execute(state, self._call(state, *command))
            after = self._noted(done.state, move, number, verb, seq, done.answer)
            return Step(after, ((verb.value, done.answer),), done.broken)
        match move.kind:
            case RoomMoveKind.BEAT:
                done = self._beat(state, move.who)
                return Step(done.state, (("beat", done.answer),), done.broken)
            case RoomMoveKind.SWEEP:
                boots = state.gateways[move.who].lapsed
                done = self._sweep(state, boots)
                gateway = done.state.gateways[move.who]._replace(lapsed=frozenset())
                after = done.state._replace(gateways=_set(done.state.gateways, move.who, gateway))
                return Step(after, (("sweep", done.answer),), done.broken)
            case RoomMoveKind.SAY_AGAIN:
                done = self._say_again(state, move.who)
                return Step(done.state, (), done.broken)
            case _:
                return Step(self._without_script(state, move), (), ())

    def _noted(
        self, state: RoomState, move: RoomMove, number: int, verb: RoomVerb, seq: int, answer: str
    ) -> RoomState:
        """Return the state in which the gateway has read the answer."""
        if move.kind is RoomMoveKind.LATE:
            return state._replace(left=state.left._replace(copies=state.left.copies - 1))
        visit = _sent(state, number, verb, seq)
        if verb is RoomVerb.JOIN:
            visit = visit._replace(seq=seq, joined=0 if answer in ("full", "stale") else seq)
        elif seq == LAST_SEQ:
            visit = visit._replace(is_over=True, joined=0)
        else:
            visit = visit._replace(seq=seq, joined=0)
        return state._replace(visits=_set(state.visits, number, visit))

    def _beat(self, state: RoomState, number: int) -> _Done:
        boot = boot_of(number)
        call = ScriptCall("boots", (BOOTS,), (boot, LEASE_MS, KEEP_MS), part(state.data, [BOOTS]))
        reply: ScriptReply = self.runner.reply(call)
        if reply.failure:
            return _Done(state, "failed", [ANSWERS])
        word, lapsed, _ = reply.answer
        gateway = state.gateways[number]
        gateway = gateway._replace(
            must_say=gateway.must_say or word == "lapsed", lapsed=frozenset(lapsed)
        )
        broken = broken_by_beat(state.data, boot, reply)
        state = state._replace(
            data=replaced(state.data, [BOOTS], reply.data),
            gateways=_set(state.gateways, number, gateway),
        )
        return _Done(state, word, broken)

    def _sweep(self, state: RoomState, boots: frozenset[str]) -> _Done:
        reply: ScriptReply = self.runner.reply(self._sweeping(state, boots))
        if reply.failure:
            return _Done(state, "failed", [ANSWERS])
        broken = broken_by_sweep(state.data, state.told, boots, reply)
        told, _ = told_after(state.told, reply)
        data = replaced(state.data, KEYS, reply.data)
        gone = swept(state.data, boots)
        # The join that is swept may be said again; what is older must not count any more.
        out = tuple(
            just_before(gone[user]) if user in gone else stamp
            for user, stamp in zip(self._scenario.users, state.out, strict=True)
        )
        return _Done(state._replace(data=data, told=told, out=out), str(reply.answer), broken)

    def _say_again(self, state: RoomState, gateway: int) -> _Done:
        """A gateway that was given up ends what was superseded, and says its joins again."""
        broken: list[Invariant] = []
        for number, visit in enumerate(state.visits):
            if self._scenario.sessions[number][1] != gateway or visit.is_over or not visit.is_on:
                continue
            if self._is_superseded(state, number):
                call = self._call(state, number, RoomVerb.LEAVE, LAST_SEQ)
                visit = visit._replace(is_over=True, joined=0)
            elif visit.joined:
                call = self._call(state, number, RoomVerb.JOIN, visit.joined)
            else:
                continue
            done = self._execute(state, call)
            state = done.state._replace(visits=_set(done.state.visits, number, visit))
            broken += done.broken
        mine = state.gateways[gateway]._replace(must_say=False)
        return _Done(state._replace(gateways=_set(state.gateways, gateway, mine)), "", broken)

    def _is_superseded(self, state: RoomState, number: int) -> bool:
        user = self._scenario.sessions[number][0]
        later = zip(state.visits[number + 1 :], self._scenario.sessions[number + 1 :], strict=True)
        return any(name == user and (one.is_on or one.is_over) for one, (name, _) in later)

    def _without_script(self, state: RoomState, move: RoomMove) -> RoomState:
        left = state.left
        match move.kind:
            case RoomMoveKind.LOGIN:
                visit = state.visits[move.who]._replace(is_on=True)
                return state._replace(visits=_set(state.visits, move.who, visit))
            case RoomMoveKind.JOIN_UNDER_WAY | RoomMoveKind.LEAVE_UNDER_WAY:
                verb = RoomVerb(move.kind.value.partition(",")[0])
                seq = state.visits[move.who].seq + 1
                visit = _sent(state, move.who, verb, seq)
                joined = seq if verb is RoomVerb.JOIN else 0
                visit = visit._replace(seq=seq, joined=joined)
                return state._replace(visits=_set(state.visits, move.who, visit))
            case RoomMoveKind.END_UNDER_WAY:
                visit = _sent(state, move.who, RoomVerb.LEAVE, LAST_SEQ)
                visit = visit._replace(is_over=True, joined=0)
                return state._replace(visits=_set(state.visits, move.who, visit))
            case RoomMoveKind.DIE:
                gateway = GatewayState(is_dead=True)
                left = left._replace(deaths=left.deaths - 1)
                return state._replace(gateways=_set(state.gateways, move.who, gateway), left=left)
            case RoomMoveKind.LAPSE:
                left = left._replace(lapses=left.lapses - 1)
                return _lapsed(state, move.who)._replace(left=left)
            case RoomMoveKind.FORGET:
                return self._forgotten(state, move.user)
            case RoomMoveKind.COPY:
                return state._replace(copy=RoomCopy(state.data, state.told))
            case _:
                return self._gone_back(state, move)

    def _forgotten(self, state: RoomState, user: str) -> RoomState:
        """So long after a leave no older command comes any more."""
        left = state.left._replace(forgets=state.left.forgets - 1)
        rows = tuple((n, PAST if n == user else score) for n, score in _rows(state.data, OUT))
        data = replaced(state.data, [OUT], ((OUT, Kept(rows)),))
        visits = tuple(
            visit._replace(sent=frozenset()) if name == user else visit
            for visit, (name, _) in zip(state.visits, self._scenario.sessions, strict=True)
        )
        out = _set(state.out, self._scenario.users.index(user), (0, 0))
        return state._replace(data=data, visits=visits, left=left, out=out)

    def _gone_back(self, state: RoomState, move: RoomMove) -> RoomState:
        """Redis has other data than before. Watchers read the list anew, as after any gap."""
        left, copy = state.left, state.copy
        if move.kind is RoomMoveKind.FAIL_OVER and copy is not None:
            data, left = copy.data, left._replace(rollbacks=left.rollbacks - 1)
        else:
            data, left = (), left._replace(losses=left.losses - 1)
        nothing = ((0, 0),) * len(state.out)
        return state._replace(data=data, told=members(data), left=left, copy=None, out=nothing)

    # --- the end -----------------------------------------------------------------------------

    def endings(self, state: RoomState) -> Iterator[Ending]:
        """Let all leases of the dead end, and all gateways beat, sweep and repair."""
        visits = tuple(visit._replace(sent=frozenset()) for visit in state.visits)
        key = (state.data, state.told, visits, tuple(g.is_dead for g in state.gateways))
        if key not in self._settled:
            self._settled.add(key)
            yield Ending((RoomMove(RoomMoveKind.HEAL),), self._broken_in_the_end(state))

    def _broken_in_the_end(self, state: RoomState) -> list[Invariant]:
        broken = self._list(state)
        alive = [n for n, gateway in enumerate(state.gateways) if not gateway.is_dead]
        for number, gateway in enumerate(state.gateways):
            if gateway.is_dead and boot_of(number) in fields_of(state.data, BOOTS):
                state = _lapsed(state, number)
        for number in alive:
            done = self._beat(state, number)
            state, broken = done.state, broken + done.broken
            done = self._sweep(state, state.gateways[number].lapsed)
            state, broken = done.state, broken + done.broken
        for number in alive:
            done = self._repair(state, number)
            state, broken = done.state, broken + done.broken
        listed = {
            user
            for user, entry in entries(state.data).items()
            if entry.is_in and entry.boot in {boot_of(n) for n in alive}
        }
        return broken + [TRUTH] * (listed != self._truth(state, alive))

    def _repair(self, state: RoomState, gateway: int) -> _Done:
        """Compare the list with what the gateway knows, in both directions (R5)."""
        done = self._say_again(state, gateway)
        state, broken = done.state, done.broken
        here = {
            f"c{number}"
            for number, visit in enumerate(state.visits)
            if self._scenario.sessions[number][1] == gateway and visit.joined
        }
        for user, entry in sorted(entries(state.data).items()):
            if entry.is_in and entry.boot == boot_of(gateway) and entry.conn not in here:
                stamp = (entry.stamp[0], LAST_SEQ)
                call = self._said(state, RoomVerb.LEAVE, user, stamp, gateway, entry.conn)
                done = self._execute(state, call)
                state, broken = done.state, broken + done.broken
        return _Done(state, "", broken)

    def _truth(self, state: RoomState, alive: Sequence[int]) -> set[str]:
        """Who is in the room: by the newest session of a user, at a gateway that lives."""
        return {
            self._scenario.sessions[number][0]
            for number, visit in enumerate(state.visits)
            if visit.joined
            and self._scenario.sessions[number][1] in alive
            and not self._is_superseded(state, number)
        }

    def _list(self, state: RoomState) -> list[Invariant]:
        args = (CHANNEL, "mark", KEEP_MS, "")
        call = ScriptCall("room_list", KEYS, args, part(state.data, KEYS))
        reply: ScriptReply = self.runner.reply(call)
        if reply.failure:
            return [ANSWERS]
        return broken_by_list(state.data, state.told, reply)

    # --- counterexamples ---------------------------------------------------------------------

    def rows(self, moves: Sequence[RoomMove]) -> tuple[RoomRow, ...]:
        state, rows = self.start(), []
        for move in moves:
            step = Step(state, (), ()) if move.kind is RoomMoveKind.HEAL else self.step(state, move)
            state = step.state
            answer = step.said[0][1] if step.said else ""
            room = (
                f"{user} {'in' if e.is_in else 'out'} {e.stamp[0]},{e.stamp[1]}"
                for user, e in sorted(entries(state.data).items())
            )
            told = " ".join(sorted(state.told))
            rows.append(RoomRow(self._who(move), _what(move), answer, "; ".join(room), told))
        return tuple(rows)

    def _who(self, move: RoomMove) -> str:
        if move.who < 0:
            return "redis"
        if move.kind in _OF_GATEWAYS:
            return GATEWAYS[move.who]
        user, gateway = self._scenario.sessions[move.who]
        return f"{user} c{move.who} at {GATEWAYS[gateway]}"


def _what(move: RoomMove) -> str:
    if move.kind is RoomMoveKind.LATE:
        return f"a late {move.verb}, seq {move.seq}"
    return f"{move.kind} {move.user}".strip()


def _rows(data: Data, key: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(fields_of(data, key).items()))


def _set(items: tuple[Any, ...], number: int, item: object) -> tuple[Any, ...]:
    return (*items[:number], item, *items[number + 1 :])


def _sent(state: RoomState, number: int, verb: RoomVerb, seq: int) -> Visit:
    visit = state.visits[number]
    return visit._replace(sent=visit.sent | {(verb, seq)}) if state.left.copies else visit


def _lapsed(state: RoomState, gateway: int) -> RoomState:
    boot = boot_of(gateway)
    rows = tuple((n, PAST if n == boot else end) for n, end in _rows(state.data, BOOTS))
    return state._replace(data=replaced(state.data, [BOOTS], ((BOOTS, Kept(rows)),)))

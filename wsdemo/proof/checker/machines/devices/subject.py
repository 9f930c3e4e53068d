"""Machine of several devices: what do its moves lead to, and what may each of them break?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, NamedTuple

from wsdemo.proof.checker.machines.devices.invariants import (
    ANSWERS,
    BELIEVERS,
    ENDS,
    OLDEST_GOES,
    ROUTED,
    SAME_ANSWER,
    STAYS_AWAY,
    LiveDevice,
    broken_by_data,
    has_lease,
    is_forgotten,
    live,
)
from wsdemo.proof.checker.machines.devices.states import (
    FRESH,
    KEYS,
    LATER,
    PAST,
    PRESENCE,
    TODAY,
    DeviceCopy,
    DevicePhase,
    DeviceScenario,
    DeviceSpelling,
    DeviceState,
    DeviceVerb,
    ModelDevice,
    shadow_keys,
)
from wsdemo.proof.checker.runner import (
    CHANNELS,
    LIFE_MS,
    Data,
    Kept,
    ScriptCall,
    ScriptReply,
    ScriptRunner,
    fields_of,
    held,
    part,
    replaced,
)
from wsdemo.proof.checker.subject import Ending, Invariant, Step
from wsdemo.redis.deadline import NEVER_MS

TOKEN_STEP: Final = 10
ROUNDS: Final = 2
"""How often each session refreshes until everything must be right (P8)."""
ACCEPTED: Final = frozenset({"ok", "reclaimed"})


class DeviceMoveKind(StrEnum):
    """The kinds of moves."""

    MINT = "mint"
    MINT_AGAIN = "mint, the clock went back: the last token again"
    CALL = "a command"
    UNANSWERED = "register, the answer gets lost"
    GIVE_UP = "gives up, its register is under way"
    LATE = "a late command"
    CRASH = "its gateway dies"
    EXPIRE = "the lease of a device ends"
    LOSE = "everything is lost"
    COPY = "a replica gets this far"
    FAIL_OVER = "the replica takes over"


class DeviceMove(NamedTuple):
    """One thing that may happen."""

    kind: DeviceMoveKind
    who: int = -1
    verb: DeviceVerb = DeviceVerb.REGISTER
    device: str = ""


class DeviceRow(NamedTuple):
    """One step of a counterexample."""

    who: str
    what: str
    answer: str
    there: str

    def cells(self) -> dict[str, str]:
        return {
            "who": self.who,
            "what": self.what,
            "answer": self.answer or "-",
            "devices after": self.there or "-",
        }


class DeviceSubject:
    """The scripts for devices beside today's, with the sessions and faults of a scenario."""

    def __init__(self, url: str, scripts: Mapping[str, str], scenario: DeviceScenario) -> None:
        today = {name: script.text for name, script in TODAY.items()}
        texts = {**scenario.shipped(), **scripts, **today}
        self.runner: Any = ScriptRunner(url, texts, DeviceSpelling())
        self._scenario = scenario
        self._settled: set[tuple[object, ...]] = set()
        self._routed: set[Data] = set()

    def start(self) -> DeviceState:
        return self._scenario.start()

    def expected(self) -> frozenset[tuple[str, str]]:
        said = {("register", "ok"), ("release", "1")}
        return frozenset(said | ({("refresh", "ok")} if self._scenario.refreshes else set()))

    # --- moves -------------------------------------------------------------------------------

    def moves(self, state: DeviceState) -> Iterator[DeviceMove]:
        for number, session in enumerate(state.sessions):
            yield from _of_session(session, number)
            is_new = session.phase is DevicePhase.NEW
            if is_new and self._scenario.ties and state.has_forgotten and state.tokens:
                yield DeviceMove(DeviceMoveKind.MINT_AGAIN, number)
            if state.left.duplicates:
                for verb in sorted(session.sent):
                    yield DeviceMove(DeviceMoveKind.LATE, number, verb)
        left = state.left
        if left.expiries:
            for device in sorted(live(state.data)):
                yield DeviceMove(DeviceMoveKind.EXPIRE, -1, device=device)
        if left.losses and state.data:
            yield DeviceMove(DeviceMoveKind.LOSE)
        if left.rollbacks:
            yield DeviceMove(
                DeviceMoveKind.COPY if state.copy is None else DeviceMoveKind.FAIL_OVER
            )

    def calls(self, state: DeviceState, move: DeviceMove) -> Iterator[ScriptCall]:
        if _has_call(move):
            yield self._call(state, move.who, move.verb)
            yield self._today(state, move.who, move.verb)

    def _names(self, number: int) -> tuple[str, str, str, str, int]:
        """Return device, connection, gateway, instance and attempt of a session."""
        device = self._scenario.devices[number]
        inst, att = (f"i{device}", number + 1) if self._scenario.one_client else ("", 0)
        return device, f"s{number}", f"gateway-0{1 + number % 2}", inst, att

    def _call(self, state: DeviceState, number: int, verb: DeviceVerb) -> ScriptCall:
        device, conn, gateway, inst, att = self._names(number)
        token, most = state.sessions[number].token, self._scenario.most
        write = (conn, gateway, token, LIFE_MS, LIFE_MS, inst, att, device, most)
        args: tuple[str | int, ...]
        if verb is DeviceVerb.REGISTER:
            args = (*write, self._scenario.remembered, "")
        elif verb is DeviceVerb.REFRESH:
            args = (*write, LIFE_MS, "")
        else:
            args = (conn, token, LIFE_MS, device, LIFE_MS, "", "left")
        return ScriptCall(f"devices_{verb}", KEYS, args, part(state.data, KEYS))

    def _today(self, state: DeviceState, number: int, verb: DeviceVerb) -> ScriptCall:
        device, conn, gateway, inst, att = self._names(number)
        token, keys = state.sessions[number].token, shadow_keys(device)
        args: tuple[str | int, ...] = (conn, gateway, token, LIFE_MS, LIFE_MS, inst, att)
        if verb is DeviceVerb.RELEASE:
            args = (conn, token, LIFE_MS)
        return ScriptCall(f"today's {verb}", keys, args, part(state.shadow, keys))

    # --- steps -------------------------------------------------------------------------------

    def step(self, state: DeviceState, move: DeviceMove) -> Step:
        if _has_call(move):
            return self._after_call(state, move)
        return Step(_after_fault(state, move), (), ())

    def _after_call(self, state: DeviceState, move: DeviceMove) -> Step:
        reply: ScriptReply = self.runner.reply(self._call(state, move.who, move.verb))
        today: ScriptReply = self.runner.reply(self._today(state, move.who, move.verb))
        if reply.failure:
            return Step(state, ((move.verb, "failed"),), (ANSWERS,))
        answer = reply.answer if isinstance(reply.answer, tuple) else (str(reply.answer),)
        shadow, broken = self._shadow(state, move, answer, today)
        if move.verb is DeviceVerb.REGISTER:
            shadow, more = self._evict(state, move.who, answer, shadow)
            broken += more
        device, conn, *_ = self._names(move.who)
        if answer[0] in ACCEPTED and not has_lease(reply.data, reply.given, device, conn):
            broken.append(ENDS)
        data = replaced(state.data, KEYS, _settled(reply.data))
        said = (move.verb.value, answer[0])
        broken += broken_by_data(state.data, data, shadow, self._scenario, said)
        owner = live(data).get(device)
        back = owner is not None and owner.conn == conn and conn not in _conns(state.data)
        if back and state.sessions[move.who].evicted and not state.has_forgotten:
            broken.append(STAYS_AWAY)
        after = _answered(state, move, answer)._replace(data=data, shadow=shadow)
        after = _with_evicted(after, [one.conn for one in _evicted_by(move.verb, answer)])
        return Step(after, (said,), broken)

    def _shadow(
        self, state: DeviceState, move: DeviceMove, answer: tuple[str, ...], today: ScriptReply
    ) -> tuple[Data, list[Invariant]]:
        """Compare an answer with that of today's script; return the shadow after it."""
        device, conn, *_ = self._names(move.who)
        token = state.sessions[move.who].token
        old = today.answer if isinstance(today.answer, tuple) else (str(today.answer),)
        keys = shadow_keys(device)
        shadow = replaced(state.shadow, keys, today.data)
        if answer[:4] == old:
            return shadow, []
        there = live(state.data)
        is_refused = answer[0] in ("stale", "closed", "superseded")
        if (
            is_refused
            and is_forgotten(state.data, device, token)
            and there.get(device, _NOBODY).conn != conn
        ):
            return state.shadow, []  # It may refuse more than it would with its whole memory.
        is_full = device not in there and len(there) >= self._scenario.most
        if (answer[0], old[0]) == ("closed", "reclaimed") and is_full:
            return state.shadow, []  # Others have taken its place.
        return shadow, [SAME_ANSWER]

    def _evict(
        self, state: DeviceState, number: int, answer: tuple[str, ...], shadow: Data
    ) -> tuple[Data, list[Invariant]]:
        """Release in the shadow whoever had to go; see that it was the right one."""
        there, device = live(state.data), self._names(number)[0]
        others = {name: entry for name, entry in there.items() if name != device}
        evicted = _evicted_by(DeviceVerb.REGISTER, answer)
        too_many = max(0, len(others) + 1 - self._scenario.most) if answer[0] == "ok" else 0
        oldest = sorted(others.values(), key=lambda entry: (entry.token, entry.conn))[:too_many]
        broken = [OLDEST_GOES] * (evicted != oldest)
        for entry in evicted:
            owner = next((name for name, one in others.items() if one == entry), None)
            if owner is not None:
                keys = shadow_keys(owner)
                call = ScriptCall(
                    *("today's release", keys, (entry.conn, entry.token, LIFE_MS)),
                    part(shadow, keys),
                )
                shadow = replaced(shadow, keys, self.runner.reply(call).data)
        return shadow, broken

    # --- the end -----------------------------------------------------------------------------

    def endings(self, state: DeviceState) -> Iterator[Ending]:
        """Route a message; then let only refreshes happen, two rounds of them."""
        if state.data not in self._routed:
            self._routed.add(state.data)
            yield Ending((), self._broken_by_route(state.data))
        up = [n for n, one in enumerate(state.sessions) if one.phase is DevicePhase.UP]
        key = (state.data, tuple(state.sessions[n].token for n in up), tuple(up))
        if not up or key in self._settled:
            return
        self._settled.add(key)
        for order in (up, up[::-1]):
            yield self._refreshed(state, order)

    def _refreshed(self, state: DeviceState, order: Sequence[int]) -> Ending:
        made = []
        for number in (*order,) * ROUNDS:
            if state.sessions[number].phase is DevicePhase.UP:
                made.append(move := DeviceMove(DeviceMoveKind.CALL, number, DeviceVerb.REFRESH))
                state = self.step(state, move).state
        up = {f"s{n}" for n, one in enumerate(state.sessions) if one.phase is DevicePhase.UP}
        there = {one.conn for one in live(state.data).values()}
        return Ending(made, [BELIEVERS] * (not up <= there))

    def _broken_by_route(self, data: Data) -> list[Invariant]:
        keys = (PRESENCE,)
        call = ScriptCall(
            "devices_route", keys, ('{"x":1', CHANNELS, "", LIFE_MS, NEVER_MS), part(data, keys)
        )
        reply: ScriptReply = self.runner.reply(call)
        if reply.failure:
            return [ANSWERS]
        there = live(data)
        expected: dict[str, set[tuple[str, int, str]]] = {}
        for device, entry in there.items():
            expected.setdefault(entry.gateway, set()).add((entry.conn, entry.token, device))
        heard = {}
        for channel, text in reply.heard:
            said = json.loads(text)
            if said["of"] != len(there):
                return [ROUTED]
            heard[channel.removeprefix("gateway:")] = {tuple(one) for one in said["toConns"]}
        right = heard == expected and len(reply.heard) == len(expected)
        return [ROUTED] * (not right or (reply.answer[0] == "offline") != (not there))

    # --- counterexamples ---------------------------------------------------------------------

    def rows(self, moves: Sequence[DeviceMove]) -> tuple[DeviceRow, ...]:
        state, rows = self.start(), []
        for move in moves:
            step = self.step(state, move)
            state = step.state
            who = "redis" if move.who < 0 else self._title(move.who)
            what = f"{move.kind} {move.device}".strip()
            if _has_call(move):
                what = {
                    DeviceMoveKind.CALL: f"{move.verb}",
                    DeviceMoveKind.LATE: f"a late {move.verb}",
                }.get(move.kind, what)
            there = (f"{name or '-'}: {e.conn}" for name, e in sorted(live(state.data).items()))
            rows.append(
                DeviceRow(who, what, step.said[0][1] if step.said else "", ", ".join(there))
            )
        return tuple(rows)

    def _title(self, number: int) -> str:
        device, conn, gateway, *_ = self._names(number)
        return f"{conn} of {device or '-'} at {gateway}"


_NOBODY: Final = LiveDevice("", "", 0)


def _has_call(move: DeviceMove) -> bool:
    return move.kind in (DeviceMoveKind.CALL, DeviceMoveKind.UNANSWERED, DeviceMoveKind.LATE)


def _of_session(session: ModelDevice, number: int) -> Iterator[DeviceMove]:
    call = DeviceMoveKind.CALL
    match session.phase:
        case DevicePhase.NEW:
            yield DeviceMove(DeviceMoveKind.MINT, number)
        case DevicePhase.MINTED:
            yield DeviceMove(call, number, DeviceVerb.REGISTER)
            yield DeviceMove(DeviceMoveKind.UNANSWERED, number, DeviceVerb.REGISTER)
            yield DeviceMove(DeviceMoveKind.GIVE_UP, number)
        case DevicePhase.UP:
            if session.refreshes:
                yield DeviceMove(call, number, DeviceVerb.REFRESH)
            yield DeviceMove(call, number, DeviceVerb.RELEASE)
            yield DeviceMove(DeviceMoveKind.CRASH, number)
        case DevicePhase.LEAVING:
            yield DeviceMove(call, number, DeviceVerb.RELEASE)


def _answered(state: DeviceState, move: DeviceMove, answer: tuple[str, ...]) -> DeviceState:
    session = state.sessions[move.who]
    if move.kind is DeviceMoveKind.LATE:
        left = state.left._replace(duplicates=state.left.duplicates - 1)
        return state._replace(left=left)
    keeps_copies = state.left.duplicates > 0
    session = session._replace(sent=session.sent | {move.verb} if keeps_copies else frozenset())
    if move.kind is DeviceMoveKind.UNANSWERED:
        return _with(state, move.who, session._replace(phase=DevicePhase.LEAVING))
    if move.verb is DeviceVerb.RELEASE:
        return _with(state, move.who, session._replace(phase=DevicePhase.DOWN))
    phase = DevicePhase.UP if answer[0] in ACCEPTED else DevicePhase.LEAVING
    refreshes = session.refreshes - (move.verb is DeviceVerb.REFRESH)
    return _with(state, move.who, session._replace(phase=phase, refreshes=max(0, refreshes)))


def _with(state: DeviceState, number: int, session: ModelDevice) -> DeviceState:
    sessions = (*state.sessions[:number], session, *state.sessions[number + 1 :])
    return state._replace(sessions=sessions)


def _with_evicted(state: DeviceState, conns: Sequence[str]) -> DeviceState:
    for conn in conns:
        if conn[1:].isdecimal():
            number = int(conn[1:])
            state = _with(state, number, state.sessions[number]._replace(evicted=True))
    return state


def _conns(data: Data) -> set[str]:
    return {entry.conn for entry in live(data).values()}


def _evicted_by(verb: DeviceVerb, answer: tuple[str, ...]) -> list[LiveDevice]:
    if verb is not DeviceVerb.REGISTER:
        return []
    rest = answer[5:]
    return [LiveDevice(rest[i], rest[i + 1], int(rest[i + 2])) for i in range(0, len(rest) - 2, 3)]


def _settled(data: Data) -> Data:
    """Return the data in which a lease that was just given is one as any other."""
    kept = held(data, PRESENCE)
    if kept is None:
        return data
    value = tuple((f, v.replace(f" {FRESH} ", f" {LATER} ")) for f, v in kept.value)
    return replaced(data, [PRESENCE], ((PRESENCE, Kept(value, kept.ends)),))


def _after_fault(state: DeviceState, move: DeviceMove) -> DeviceState:
    left = state.left
    match move.kind:
        case DeviceMoveKind.MINT:
            session = state.sessions[move.who]
            token = (state.tokens + 1) * TOKEN_STEP
            session = session._replace(phase=DevicePhase.MINTED, token=token)
            return _with(state, move.who, session)._replace(tokens=state.tokens + 1)
        case DeviceMoveKind.MINT_AGAIN:
            session = state.sessions[move.who]
            token = state.tokens * TOKEN_STEP
            session = session._replace(phase=DevicePhase.MINTED, token=token)
            return _with(state, move.who, session)
        case DeviceMoveKind.GIVE_UP:
            # Its register may still come: as a copy of one that was sent.
            session = state.sessions[move.who]
            sent = session.sent | ({DeviceVerb.REGISTER} if left.duplicates else set())
            return _with(
                state, move.who, session._replace(phase=DevicePhase.LEAVING, sent=frozenset(sent))
            )
        case DeviceMoveKind.CRASH:
            session = state.sessions[move.who]._replace(phase=DevicePhase.DOWN)
            return _with(state, move.who, session)
        case DeviceMoveKind.EXPIRE:
            left = left._replace(expiries=left.expiries - 1)
            return _expired(state._replace(left=left), move.device)
        case DeviceMoveKind.COPY:
            return state._replace(copy=DeviceCopy(state.data, state.shadow))
    if move.kind is DeviceMoveKind.FAIL_OVER and state.copy is not None:
        back = state.copy
        left = left._replace(rollbacks=left.rollbacks - 1)
    else:
        back = DeviceCopy((), ())
        left = left._replace(losses=left.losses - 1)
    return state._replace(
        data=back.data, shadow=back.shadow, left=left, copy=None, has_forgotten=True
    )


def _expired(state: DeviceState, device: str) -> DeviceState:
    fields = fields_of(state.data, PRESENCE)
    words = fields[f"s:{device}"].split(" ")
    words[3] = PAST
    fields[f"s:{device}"] = " ".join(words)
    new: Data = ((PRESENCE, Kept(tuple(sorted(fields.items())))),)
    data = replaced(state.data, [PRESENCE], new)
    if not live(data):
        data = replaced(state.data, [PRESENCE], ())  # The key ends with its last lease.
    shadow = replaced(state.shadow, [shadow_keys(device)[0]], ())
    return state._replace(data=data, shadow=shadow)

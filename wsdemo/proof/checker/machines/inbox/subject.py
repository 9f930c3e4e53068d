"""Machine of the inbox: what do its moves lead to, and what may each of them break?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from wsdemo.proof.checker.machines.inbox.gateway import Pumping, hear, pump_class
from wsdemo.proof.checker.machines.inbox.invariants import (
    ANSWERS,
    CONFIRMED,
    DELIVERED,
    REACHES_END,
    REMEMBERED,
    WILL_READ,
    WINDOW,
    Acked,
    Read,
    SendTry,
    broken_by_ack,
    broken_by_late_send,
    broken_by_read,
    broken_by_send,
    head_of,
    owner_of,
    pairs_of,
    rows_of,
)
from wsdemo.proof.checker.machines.inbox.moves import InboxMove, InboxMoveKind, moves
from wsdemo.proof.checker.machines.inbox.states import (
    DEVICE,
    ENTRY_OF_DEVICE,
    KEYS,
    META,
    PRESENCE,
    PUMP,
    Backup,
    ClientProcess,
    HeldPage,
    InboxHistory,
    InboxScenario,
    InboxSession,
    InboxSpelling,
    InboxState,
    LinkPhase,
    Offset,
    Position,
    PumpState,
    SenderKnows,
    entry_of_device,
    id_key,
)
from wsdemo.proof.checker.runner import (
    CHANNELS,
    LIFE_MS,
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

GATEWAY: Final = "gateway-01"
SENDER: Final = "gateway-09"
"""Messages are sent at another gateway, so the owner's is told by a hint."""
PAGE_BYTES: Final = 1_000_000
PAST_MS: Final = 1
"""A deadline that is over."""
MOST_DEVICES: Final = 2
MOST_PAGES: Final = 12
"""After so many a client should have read everything."""


class InboxRow(NamedTuple):
    """One step of a counterexample."""

    who: str
    what: str
    answer: str
    inbox: str
    client: str

    def cells(self) -> dict[str, str]:
        return {
            "who": self.who,
            "what": self.what,
            "answer": self.answer or "-",
            "inbox after": self.inbox or "-",
            "client has": self.client,
        }


class _Move(NamedTuple):
    """What a move has led to."""

    state: InboxState
    said: tuple[tuple[str, str], ...] = ()
    broken: Sequence[Invariant] = ()


class InboxSubject:
    """The three scripts and the pump, with a sender, clients and the faults of a scenario."""

    def __init__(self, url: str, scripts: Mapping[str, str], scenario: InboxScenario) -> None:
        texts = {**scenario.shipped(), **scripts}
        self._make = pump_class(texts.pop(PUMP))
        self.runner: Any = ScriptRunner(url, texts, InboxSpelling())
        self._scenario = scenario
        is_several = scenario.several
        self._more_of_send: tuple[int, ...] = (LIFE_MS,) * is_several
        self._more: tuple[str | int, ...] = ()
        """What the scripts for several devices are told besides."""
        if is_several:
            self._more = (DEVICE, MOST_DEVICES, LIFE_MS, LIFE_MS)
        self._settled: set[tuple[object, ...]] = set()

    def start(self) -> InboxState:
        return self._scenario.start()

    def moves(self, state: InboxState) -> Iterator[InboxMove]:
        return moves(state, self._scenario)

    def expected(self) -> frozenset[tuple[str, str]]:
        said = {("send", "stored"), ("send", "duplicate"), ("send", "expired"), ("ack", "done")}
        said |= {("read", "recovered"), ("read", "reset")}
        if self._scenario.sessions > 1:
            said |= {("read", "superseded"), ("ack", "refused")}
        return frozenset(said)

    # --- calls -------------------------------------------------------------------------------

    def calls(self, state: InboxState, move: InboxMove) -> Iterator[ScriptCall]:
        match move.kind:
            case InboxMoveKind.SEND | InboxMoveKind.SEND_UNANSWERED:
                yield self._send(state, move.who)
            case InboxMoveKind.SEND_LATE:
                yield self._send(state, move.who, PAST_MS)
            case InboxMoveKind.READ:
                if (call := self._read(state, move.who)) is not None:
                    yield call
            case InboxMoveKind.ACK | InboxMoveKind.LAST_WORDS | InboxMoveKind.COPY:
                position, _ = self._ack_of(state, move)
                if position is not None:
                    yield self._ack(state, move.who, position)

    def _run(self, state: InboxState) -> str:
        return "" if self._scenario.trusts else f"r{state.run}"

    def _birth(self, state: InboxState) -> str:
        """The birth of the inbox that Redis has, or gets by the next call."""
        return fields_of(state.data, META).get("birth", f"b{state.births + 1}")

    def _epoch(self, state: InboxState) -> str:
        return f"{self._birth(state)}.{self._run(state)}"

    def _offset(self, state: InboxState) -> str:
        last = fields_of(state.data, META).get("last", "0-0")
        return f"{int(last.partition('-')[0]) + 1}-{state.marks + 1}"

    def _send(self, state: InboxState, message: int, until_ms: int = NEVER_MS) -> ScriptCall:
        keys = (*KEYS, id_key(message))
        sizes = (self._scenario.most, self._scenario.room, LIFE_MS, LIFE_MS)
        words = (head_of(message), state.marks + 1, f"b{state.births + 1}", self._run(state))
        more: tuple[str | int, ...] = (CHANNELS, SENDER, *self._more_of_send, until_ms)
        return ScriptCall("send", keys, (*words, *sizes, *more), part(state.data, keys))

    def _read(self, state: InboxState, number: int) -> ScriptCall | None:
        wanted = self._pumping(state.sessions[number]).wants()
        if wanted is None:
            return None
        (epoch, offset), most = wanted
        args = (
            *(f"c{number}", number + 1, epoch, offset, min(most, self._scenario.page), PAGE_BYTES),
            *(f"b{state.births + 1}", self._run(state), LIFE_MS, *self._more),
        )
        return ScriptCall("read", KEYS, args, part(state.data, KEYS))

    def _ack(self, state: InboxState, number: int, position: Position) -> ScriptCall:
        args = (f"c{number}", *position, self._run(state), *self._more)
        return ScriptCall("ack", KEYS, args, part(state.data, KEYS))

    def _ack_of(self, state: InboxState, move: InboxMove) -> tuple[Position | None, frozenset[int]]:
        """Return what an ACK of this move tells Redis, and what the client had then."""
        session = state.sessions[move.who]
        if move.kind is InboxMoveKind.COPY and session.copy is not None:
            return session.copy
        if move.kind is InboxMoveKind.LAST_WORDS and session.words is not None:
            position, seen = session.words
        else:
            process = state.processes[session.process]
            position, seen = process.position, process.seen
        return self._pumping(session).ack(position), seen

    def _pumping(self, session: InboxSession) -> Pumping:
        return Pumping(self._make, self._scenario.window, session.pump)

    # --- steps -------------------------------------------------------------------------------

    def step(self, state: InboxState, move: InboxMove) -> Step:
        done = self._move(state, move)
        return Step(done.state, done.said, done.broken)

    def _move(self, state: InboxState, move: InboxMove) -> _Move:
        match move.kind:
            case InboxMoveKind.SEND | InboxMoveKind.SEND_UNANSWERED:
                return self._after_send(state, move)
            case InboxMoveKind.SEND_LATE:
                return self._after_late_send(state, move)
            case InboxMoveKind.READ:
                return self._after_read(state, move.who)
            case InboxMoveKind.PAGE:
                return self._after_page(state, move.who)
            case InboxMoveKind.ACK | InboxMoveKind.LAST_WORDS | InboxMoveKind.COPY:
                return self._after_ack(state, move)
            case InboxMoveKind.CONNECT | InboxMoveKind.CONNECT_ANEW:
                return _Move(_connected(state, move))
            case InboxMoveKind.GONE:
                return _Move(_gone(state, move.who))
            case _:
                return _Move(_after_accident(state, move))

    def _after_send(self, state: InboxState, move: InboxMove) -> _Move:
        call = self._send(state, move.who)
        reply = self.runner.reply(call)
        if reply.failure:
            return _Move(state, (("send", "failed"),), (ANSWERS,))
        birth, offset = self._birth(state), self._offset(state)
        sent = SendTry(state, move.who, offset, birth, self._epoch(state), reply, self._scenario)
        outcome = str(reply.answer[0])
        after = self._renewed(state, call.keys, reply)
        if outcome == "stored":
            history = after.history
            ids = _set(history.ids, move.who, (birth, offset))
            stored = (*history.stored, Offset(offset, move.who))
            after = after._replace(
                history=history._replace(stored=stored, ids=ids),
                marks=state.marks + 1,
                excused=state.excused - {move.who},
            )
        is_told = move.kind is InboxMoveKind.SEND
        told = _set(after.told, move.who, SenderKnows.STORED if is_told else SenderKnows.UNKNOWN)
        after = _with_hinted(after._replace(told=told), reply)
        is_forgotten = outcome == "stored" and not _owner_will_read(after)
        broken = broken_by_send(sent) + [WILL_READ] * is_forgotten
        return _Move(after, (("send", outcome),), broken)

    def _after_late_send(self, state: InboxState, move: InboxMove) -> _Move:
        """Nothing has changed. Its sender is told `unknown`; whoever is may send it again, as one
        who has not sent it yet, so this is the same state.
        """
        call = self._send(state, move.who, PAST_MS)
        reply = self.runner.reply(call)
        if reply.failure:
            return _Move(state, (("send", "failed"),), (ANSWERS,))
        outcome = str(reply.answer[0])
        return _Move(state, (("send", outcome),), broken_by_late_send(call.data, reply))

    def _renewed(self, state: InboxState, keys: Sequence[str], reply: ScriptReply) -> InboxState:
        """Return the state with new data; a birth of an inbox is the end of the one before it."""
        data = replaced(state.data, keys, reply.data)
        if held(state.data, META) is None and held(data, META) is not None:
            history = InboxHistory(ids=(None,) * self._scenario.messages)
            state = state._replace(births=state.births + 1, history=history)
        return state._replace(data=data)

    def _after_read(self, state: InboxState, number: int) -> _Move:
        call, session = self._read(state, number), state.sessions[number]
        if call is None:
            return _Move(state)
        reply = self.runner.reply(call)
        if reply.failure:
            return _Move(state, (("read", "failed"),), (ANSWERS,))
        position = (str(call.args[2]), str(call.args[3]))
        read = Read(
            *(state, f"c{number}", number + 1, position, int(call.args[4])),
            *(self._birth(state), self._epoch(state), reply),
        )
        outcome, broken = str(reply.answer[0]), broken_by_read(read)
        if outcome == "superseded":
            over = session._replace(
                phase=LinkPhase.OVER, words=None, pump=PumpState("", "0-0", 0), will_read=True
            )
            return _Move(_with(state, number, over), (("read", outcome),), broken)
        session = session._replace(will_read=session.phase is not LinkPhase.UP)
        after = _with(self._renewed(state, call.keys, reply), number, session)
        _, epoch, since, last, listed = reply.answer
        rows = pairs_of(listed)
        sent = {n for n, told in enumerate(state.told) if told is not SenderKnows.NEW}
        lost = frozenset(sent - {one.message for one in rows_of(after.data)})
        page = HeldPage(outcome == "recovered", epoch, since, last, rows, lost)
        pump = session.pump
        if pump.started and page.recovered and not rows and since == last == pump.sent:
            return _Move(after, (("read", outcome),), broken)  # Nothing new: it changes nothing.
        after = _with(after, number, session._replace(page=page))
        return _Move(after, (("read", outcome),), broken)

    def _after_page(self, state: InboxState, number: int) -> _Move:
        session = state.sessions[number]
        if session.page is None:
            return _Move(state)
        pumping = self._pumping(session)
        frames = pumping.page(session.page)
        broken = [WINDOW] * (pumping.on_the_way > self._scenario.window)
        if session.pump.to_ack is None and pumping.state().to_ack is not None:
            broken.append(CONFIRMED)
        lost = session.page.lost
        session = session._replace(page=None, pump=pumping.state())
        state = _with(state, number, session)
        if session.phase is not LinkPhase.UP:
            return _Move(state, (), broken)
        process, gap, more = hear(state.processes[session.process], frames, forgot=state.forgot)
        state = state._replace(processes=_set(state.processes, session.process, process))
        if gap:
            state = state._replace(excused=state.excused | lost - process.seen)
        return _Move(state, (), broken + more)

    def _after_ack(self, state: InboxState, move: InboxMove) -> _Move:
        session = state.sessions[move.who]
        position, seen = self._ack_of(state, move)
        pumping = self._pumping(session)
        if move.kind is not InboxMoveKind.COPY:
            words = session.words if move.kind is InboxMoveKind.LAST_WORDS else None
            pumping.ack(words[0] if words else state.processes[session.process].position)
            session = session._replace(words=None, pump=pumping.state())
        else:
            left = state.left._replace(copies=state.left.copies - 1)
            state = state._replace(left=left)
        if position is None:
            return _Move(_with(state, move.who, session))
        session = session._replace(copy=(position, seen) if state.left.copies else None)
        call = self._ack(state, move.who, position)
        reply = self.runner.reply(call)
        if reply.failure:
            return _Move(state, (("ack", "failed"),), (ANSWERS,))
        acked = Acked(state, f"c{move.who}", position, self._epoch(state), reply)
        broken = broken_by_ack(acked)
        if position not in _known_to(state, move.who, seen):
            broken.append(CONFIRMED)
        state = _with(state, move.who, session)
        said = (("ack", "refused" if reply.answer == -1 else "done"),)
        state = state._replace(data=replaced(state.data, KEYS, reply.data))
        if reply.answer != -1:
            history = state.history._replace(acked=position)
            state = state._replace(history=history, done=state.done | seen)
        return _Move(state, said, broken)

    # --- the end -----------------------------------------------------------------------------

    def endings(self, state: InboxState) -> Iterator[Ending]:
        """Let each device, one without a position, and each session that is up read to the end,
        without any fault.
        """
        told = tuple(told is SenderKnows.STORED for told in state.told)
        calm = self._is_calm(state)
        rest = (state.data, state.run, state.done, state.excused, told, state.forgot, calm)
        anew = [
            (
                _owned(state, len(state.sessions)),
                InboxSession(LinkPhase.UP, 0, _pump_at(one.position)),
                one,
            )
            for one in {*state.processes, ClientProcess()}
        ]
        on = [
            (state, session, state.processes[session.process])
            for n, session in enumerate(state.sessions)
            if session.phase is LinkPhase.UP and owner_of(state.data) in ("", f"c{n}")
        ]
        for before, session, process in (*anew, *on):
            key = (session.pump, session.page, process, session in state.sessions, rest)
            if key not in self._settled:
                self._settled.add(key)
                number = state.sessions.index(session) if before is state else len(state.sessions)
                broken = self._broken_in_the_end(before, number, session, process)
                yield Ending((InboxMove(InboxMoveKind.END),), broken)

    def _broken_in_the_end(
        self, state: InboxState, number: int, session: InboxSession, process: ClientProcess
    ) -> list[Invariant]:
        sessions = (*state.sessions, InboxSession())[: max(len(state.sessions), number + 1)]
        session = session._replace(process=0)
        state = _owned(state, number)._replace(sessions=sessions, processes=(process,))
        state = _with(state, number, session)
        calm = self._is_calm(state)
        for _ in range(MOST_PAGES):
            before = state
            if state.sessions[number].page is None:
                state = self._after_read(state, number).state
            is_told = state.sessions[number].page is not None
            state = self._after_page(state, number).state
            state = self._after_ack(state, InboxMove(InboxMoveKind.ACK, number)).state
            if state == before and not is_told:
                return self._missing(state, calm=calm)
        return [REACHES_END]

    def _is_calm(self, state: InboxState) -> bool:
        """Whether nothing has happened yet for which Redis may forget an acknowledgement."""
        before = self._scenario.left._replace(deaths=0, copies=0)
        return before == state.left._replace(deaths=0, copies=0) and state.backup is None

    def _missing(self, state: InboxState, *, calm: bool) -> list[Invariant]:
        (process,) = state.processes
        stored = {n for n, told in enumerate(state.told) if told is SenderKnows.STORED}
        missing = stored - process.seen - state.done - state.excused
        last = fields_of(state.data, META).get("last", "0-0")
        broken = [DELIVERED] * bool(missing) + [REACHES_END] * (process.position[1] != last)
        return broken + [REMEMBERED] * (calm and state.history.acked != process.position)

    # --- counterexamples ---------------------------------------------------------------------

    def rows(self, moves: Sequence[InboxMove]) -> tuple[InboxRow, ...]:
        state, rows = self.start(), []
        for move in moves:
            done = _Move(state) if move.kind is InboxMoveKind.END else self._move(state, move)
            rows.append(_row(move, done))
            state = done.state
        return tuple(rows)


def _row(move: InboxMove, done: _Move) -> InboxRow:
    is_send = move.kind in (InboxMoveKind.SEND, InboxMoveKind.SEND_UNANSWERED)
    who = "redis" if move.who < 0 else f"m{move.who}" if is_send else f"c{move.who}"
    if move.kind is InboxMoveKind.END:
        who = "client"
    process = done.state.processes[move.process]
    seen = " ".join(f"m{n}" for n in sorted(process.seen))
    return InboxRow(
        who,
        f"{move.kind} {move.key}".strip(),
        done.said[0][1] if done.said else "",
        " ".join(f"{one.offset} m{one.message}" for one in rows_of(done.state.data)),
        f"{seen} at {' '.join(process.position)}".strip(),
    )


def _pump_at(position: Position) -> PumpState:
    return PumpState(*position, int(position[1].partition("-")[0]))


def _set(items: tuple[Any, ...], number: int, item: object) -> tuple[Any, ...]:
    return (*items[:number], item, *items[number + 1 :])


def _with(state: InboxState, number: int, session: InboxSession) -> InboxState:
    return state._replace(sessions=_set(state.sessions, number, session))


def _with_hinted(state: InboxState, reply: ScriptReply) -> InboxState:
    """The session that a hint has reached is going to read."""
    conns = {part.split('"')[0] for _, text in reply.heard for part in text.split('"toConn":"')[1:]}
    for number, session in enumerate(state.sessions):
        if f"c{number}" in conns:
            state = _with(state, number, session._replace(will_read=True))
    return state


def _all_look(state: InboxState) -> InboxState:
    """Connections to another server are new, so each session looks whether there is more."""
    sessions = tuple(session._replace(will_read=True) for session in state.sessions)
    return state._replace(sessions=sessions)


def _owner_will_read(state: InboxState) -> bool:
    """Whether the session that has the user is going to read, if its client is there."""
    conns = [f"c{number}" for number in range(len(state.sessions))]
    owner = owner_of(state.data)
    return owner not in conns or state.sessions[conns.index(owner)].will_read


def _known_to(state: InboxState, number: int, seen: frozenset[int]) -> set[Position]:
    """The positions that the client of a session may have acknowledged."""
    session = state.sessions[number]
    process = state.processes[session.process]
    said = {process.position, *(w[0] for w in (session.words, session.copy) if w is not None)}
    return said if seen <= process.seen or session.words or session.copy else set()


def _owned(state: InboxState, number: int) -> InboxState:
    """Return the state in which a session has the user."""
    conn, token = f"c{number}", number + 1
    entry_of = {ENTRY_OF_DEVICE: entry_of_device(GATEWAY, conn, token)}
    fields = {"connId": conn, "epoch": str(token), "gwId": GATEWAY, **entry_of}
    entry = ((PRESENCE, Kept(tuple(sorted(fields.items())))),)
    return state._replace(data=replaced(state.data, [PRESENCE], entry))


def _connected(state: InboxState, move: InboxMove) -> InboxState:
    """A client registers anew; the session before it lives on at its gateway."""
    sessions = tuple(
        one._replace(phase=LinkPhase.ZOMBIE, words=_words(state, one), will_read=True)
        if one.phase is LinkPhase.UP
        else one
        for one in state.sessions
    )
    state = state._replace(sessions=sessions)
    if move.kind is InboxMoveKind.CONNECT_ANEW:
        left = state.left._replace(deaths=state.left.deaths - 1)
        processes = _set(state.processes, move.process, ClientProcess())
        state = state._replace(processes=processes, left=left)
    position = state.processes[move.process].position
    session = InboxSession(LinkPhase.UP, move.process, _pump_at(position))
    return _owned(_with(state, move.who, session), move.who)


def _words(state: InboxState, session: InboxSession) -> tuple[Position, frozenset[int]] | None:
    process = state.processes[session.process]
    return (process.position, process.seen) if session.pump.started else None


def _gone(state: InboxState, number: int) -> InboxState:
    session = state.sessions[number]._replace(
        phase=LinkPhase.OVER, words=None, page=None, pump=PumpState("", "0-0", 0), will_read=True
    )
    state = _with(state, number, session)
    if owner_of(state.data) == f"c{number}":
        state = state._replace(data=replaced(state.data, [PRESENCE], ()))
    return state


def _after_accident(state: InboxState, move: InboxMove) -> InboxState:
    left, nothing = state.left, (None,) * len(state.told)
    match move.kind:
        case InboxMoveKind.BACK_UP:
            return state._replace(backup=Backup(state.data, state.history))
        case InboxMoveKind.RESTART:
            left = left._replace(restarts=left.restarts - 1)
            return _all_look(state)._replace(left=left, run=state.run + 1)
        case InboxMoveKind.LOSE:
            left = left._replace(losses=left.losses - 1)
            return _all_look(state)._replace(
                data=(), history=InboxHistory(ids=nothing), left=left, forgot=True
            )
        case InboxMoveKind.EVICT:
            left = left._replace(evictions=left.evictions - 1)
            return _evicted(state._replace(left=left), move.key)
    secretly = move.kind is InboxMoveKind.FAIL_OVER_SECRETLY
    if state.backup is None:
        return state
    back = state.backup
    excused = state.excused
    if secretly:
        # Nobody can know of what was lost before the client had seen it: the run id is for it.
        kept = {one.message for one in back.history.stored}
        excused |= {one.message for one in state.history.stored} - kept
        left = left._replace(secret=left.secret - 1)
    else:
        left = left._replace(failovers=left.failovers - 1)
    return _all_look(state)._replace(
        data=back.data,
        history=back.history,
        left=left,
        excused=excused,
        forgot=True,
        backup=None,
        run=state.run + (not secretly),
    )


def _evicted(state: InboxState, key: str) -> InboxState:
    history = state.history
    if key == META:
        history = InboxHistory(ids=(None,) * len(state.told))
    elif key.startswith("inboxid:"):
        message = int(key.rpartition("m")[2])
        history = history._replace(ids=_set(history.ids, message, None))
    forgot = state.forgot or key not in (PRESENCE, "inbox:bob")
    data = replaced(state.data, [key], ())
    return state._replace(data=data, history=history, forgot=forgot)

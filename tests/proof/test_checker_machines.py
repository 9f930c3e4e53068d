"""Do the scripts of inboxes, devices and rooms keep their promises in every order of faults?

And would the model checker notice a mistake in them? It must kill every mutant, with the invariant
that the mutant names. The machine of presence has tests of its own.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import redis

from wsdemo.features import InboxSettings, RoomSettings
from wsdemo.inbox import DeviceInbox, Inbox
from wsdemo.presence import Claim
from wsdemo.presence.devices import DevicePresence
from wsdemo.proof.checker import __main__
from wsdemo.proof.checker.machines import MACHINES
from wsdemo.proof.checker.machines.devices.states import DeviceScenario, DeviceVerb
from wsdemo.proof.checker.machines.devices.subject import DeviceSubject
from wsdemo.proof.checker.machines.inbox.gateway import pump_class
from wsdemo.proof.checker.machines.inbox.moves import InboxMove, InboxMoveKind
from wsdemo.proof.checker.machines.inbox.scenarios import CALM as CALM_INBOX
from wsdemo.proof.checker.machines.inbox.scenarios import OF_SEVERAL, SECRET_AND_FULL
from wsdemo.proof.checker.machines.inbox.states import InboxScenario
from wsdemo.proof.checker.machines.inbox.subject import InboxSubject
from wsdemo.proof.checker.machines.rooms.states import RoomScenario, RoomState, RoomVerb
from wsdemo.proof.checker.machines.rooms.subject import RoomMove, RoomMoveKind, RoomSubject
from wsdemo.proof.checker.mutants import Equivalent, Mutant
from wsdemo.proof.checker.runner import Data, Kept, ScriptCall, ScriptRunner, Spelling
from wsdemo.proof.checker.search import check
from wsdemo.proof.checker.subject import ScriptError, World
from wsdemo.redis.deadline import NO_DEADLINE
from wsdemo.redis.server import BundledServer
from wsdemo.rooms.store import LAST_SEQ, LeaveReason, RoomStay, RoomStore
from wsdemo.settings import Keyspace, Timing

NEW = ("inbox", "devices", "rooms")
SLOW_WORLDS = {
    *("2 messages, 2 sessions, 1 deaths", "2 messages, 2 sessions, 2 devices"),
    *("2 messages, 1 sessions, 1 failovers", "2 messages, 1 sessions, 1 secret"),
    *("2 messages, 2 sessions", "2 messages, 2 sessions, 1 kept"),
    *("2 messages, 1 sessions, 1 evictions", "2 messages, 1 sessions, 1 losses"),
    "sessions of -/phone/web, 2 devices at most, no refreshes",
}
"""Those that take more than a few seconds."""


def _worlds() -> Iterator[Any]:
    for name in NEW:
        for world in MACHINES[name].everyday:
            marks = [pytest.mark.slow] if str(world) in SLOW_WORLDS else []
            yield pytest.param(world, id=f"{name}: {world}", marks=marks)


def _mutants() -> Iterator[Any]:
    for name in NEW:
        for mutant in MACHINES[name].mutants:
            is_slow = "secret" in str(mutant.scenario) or "1 deaths" in str(mutant.scenario)
            marks = [pytest.mark.slow] if is_slow else []
            yield pytest.param(mutant, id=f"{name}: {mutant}", marks=marks)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("world", list(_worlds()))
def test_the_shipped_scripts_keep_every_promise_in_every_order(
    world: World, shared_server: BundledServer
) -> None:
    """With copies, evictions, loss of data, failovers, deaths: each order of each small world."""
    result = check(world, redis=shared_server.url)
    assert result.complete and not result.violations, result


@pytest.mark.timeout(120)
@pytest.mark.parametrize("mutant", list(_mutants()))
def test_the_checker_kills_every_mutant(mutant: Mutant, shared_server: BundledServer) -> None:
    """With the invariant that the mutant names, and a table of the steps."""
    result = mutant.check(redis=shared_server.url)
    assert mutant.breaks in result.violations, f"{mutant} survives: {result.verdict()}"
    assert mutant.breaks in str(result.violations[mutant.breaks])


@pytest.mark.slow
@pytest.mark.parametrize(
    "change", [one for name in NEW for one in MACHINES[name].equivalent], ids=str
)
def test_an_equivalent_change_is_not_killed(
    change: Equivalent, shared_server: BundledServer
) -> None:
    """Otherwise it belongs to the mutants."""
    result = check(change.scenario, change.scripts(), redis=shared_server.url)
    assert result.complete and not result.violations, result


@pytest.mark.parametrize("name", NEW)
def test_every_invariant_kills_a_mutant(name: str) -> None:
    """An invariant that no mistake can break would prove nothing."""
    checked = MACHINES[name]
    names = {invariant.name for invariant in checked.everyday[0].invariants()}
    assert {mutant.breaks for mutant in checked.mutants} == names


@pytest.mark.parametrize("name", NEW)
def test_there_are_mutants_of_every_script_and_no_two_are_equal(name: str) -> None:
    """Each fits the shipped text, or this fails."""
    mutants = MACHINES[name].mutants
    texts = {tuple(sorted(mutant.scripts().items())) for mutant in mutants}
    assert len(texts) == len({str(mutant) for mutant in mutants}) == len(mutants)
    scripts = {change.script for mutant in mutants for change in mutant.changes}
    assert scripts == set(MACHINES[name].everyday[0].shipped())


def test_each_kind_of_accident_is_in_a_world_of_the_fast_profile() -> None:
    """Copies, loss, failover, change of the run id, eviction, death."""
    for name in NEW:
        for kind in MACHINES[name].everyday[0].left._fields:  # type: ignore[attr-defined]
            assert any(getattr(w.left, kind) for w in MACHINES[name].everyday), kind  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_an_offset_of_a_lost_history_is_not_acknowledged_by_its_number(
    shared_server: BundledServer,
) -> None:
    """Found by the checker. The full inbox has another message of this number, and has let it go;
    a READ that believed the acknowledgement would hide its loss."""
    (mutant,) = [m for m in MACHINES["inbox"].mutants if "place before the oldest" in str(m)]
    found = mutant.check(redis=shared_server.url).violations["K3"]
    assert found.table()["what"].iloc[-1] == "ack" and mutant.scenario is SECRET_AND_FULL


# --- scripts are called as gateways call them ---------------------------------------------------


class _Noting:
    """A link that notes which script a gateway calls, and with what."""

    added_args = 1

    def __init__(self) -> None:
        self.heard: list[tuple[str, tuple[Any, ...]]] = []

    def load(self, scripts: Any) -> None:
        pass

    def submit_script(self, on_reply: Any, script: Any, keys: Sequence[str], *args: Any) -> None:
        self.heard.append((script.name, args))

    def submit_packed(
        self, on_reply: Any, command: bytes, script: Any, *, in_time: bool = False
    ) -> None:
        command += NO_DEADLINE * in_time
        words = command.split(b"\r\n")[2::2]  # No word of this test has a line break.
        keys = int(words[2])
        self.heard.append((script.name, tuple(words[3 + keys :])))

    def start_script(self, script: Any, keys: Sequence[str], *args: Any) -> Any:
        self.heard.append((script.name, args))

    async def run(self, script: Any, keys: Sequence[str], *args: Any) -> Any:
        self.heard.append((script.name, args))
        return 1 if "release" in script.name else [b"ok", b"", b"", b"0", b""]


def _shapes(args: Sequence[Any]) -> list[type]:
    return [int if str(arg).isdecimal() else str for arg in args]


@pytest.mark.parametrize("world", [CALM_INBOX, OF_SEVERAL], ids=str)
def test_an_inbox_is_called_as_gateways_call_it(
    shared_server: BundledServer, world: InboxScenario
) -> None:
    """The same number of arguments of the same kinds, in the same order."""
    link: Any = _Noting()
    settings = InboxSettings(trust_redis=True)
    told = (link, Keyspace(), settings, "gateway-01", random.Random(7))
    inbox = DeviceInbox(*told, Timing(), 2) if world.several else Inbox(*told)
    inbox.send(print, "bob", "al", "m0", b"head")
    inbox.read(print, "bob", "c0", 1, ("b1.", "0-0"), 2)
    inbox.acknowledge(print, "bob", "c0", ("b1.", "1-1"))
    subject = InboxSubject(shared_server.url, {}, world)
    try:
        state = subject.start()
        (send,) = subject.calls(state, InboxMove(InboxMoveKind.SEND, 0))
        state = subject.step(state, InboxMove(InboxMoveKind.CONNECT, 0)).state
        (read,) = subject.calls(state, InboxMove(InboxMoveKind.READ, 0))
        state = subject.step(state, InboxMove(InboxMoveKind.READ, 0)).state
        state = subject.step(state, InboxMove(InboxMoveKind.PAGE, 0)).state
        (ack,) = subject.calls(state, InboxMove(InboxMoveKind.ACK, 0))
    finally:
        subject.runner.close()
    for (name, args), call in zip(link.heard, (send, read, ack), strict=True):
        assert name.removeprefix("devices_") == call.script and len(args) == len(call.args), name


async def test_devices_are_called_as_gateways_call_them(shared_server: BundledServer) -> None:
    """The same number of arguments, in the same order."""
    link: Any = _Noting()
    presence = DevicePresence(link, Keyspace(), Timing(), 2)
    claim = Claim("alice", "s0", "gateway-01", 10, device="phone")
    await presence.register(claim)
    presence._submit_refresh(claim, 90_000)
    await presence.release(claim)
    subject = DeviceSubject(shared_server.url, {}, DeviceScenario(("phone",)))
    try:
        calls = [subject._call(subject.start(), 0, verb) for verb in DeviceVerb]
    finally:
        subject.runner.close()
    for (name, args), call in zip(link.heard, calls, strict=True):
        assert name == call.script and _shapes(args) == _shapes(call.args), name


def test_rooms_are_called_as_gateways_call_them(shared_server: BundledServer) -> None:
    """The same number of arguments of the same kinds, in the same order."""
    link: Any = _Noting()
    store = RoomStore(link, Keyspace(), RoomSettings(), 90_000, "gateway-01", "gateway-01.0")
    stay = RoomStay("lobby", "alice", 1, 1, "c0")
    store.join(stay)
    store.leave(stay._replace(seq=LAST_SEQ), LeaveReason.LEFT)
    store.sweep("lobby", ["gateway-01.0"])
    subject = RoomSubject(shared_server.url, {}, RoomScenario())
    try:
        state = subject.start()
        calls = [
            *subject.calls(state, RoomMove(RoomMoveKind.JOIN, 0)),
            *subject.calls(state, RoomMove(RoomMoveKind.LATE, 0, RoomVerb.LEAVE, LAST_SEQ)),
            *subject.calls(_lapsed(state), RoomMove(RoomMoveKind.SWEEP, 0)),
        ]
    finally:
        subject.runner.close()
    for (name, args), call in zip(link.heard, calls, strict=True):
        assert name == call.script and _shapes(args) == _shapes(call.args), name


def _lapsed(state: RoomState) -> RoomState:
    """The first gateway knows that a process is gone."""
    knowing = state.gateways[0]._replace(lapsed=frozenset({"gateway-01.0"}))
    return state._replace(gateways=(knowing, *state.gateways[1:]))


# --- the runner --------------------------------------------------------------------------------

ECHO = "redis.call('PUBLISH', ARGV[1] .. 'c', 'heard'); return {KEYS[1], 7, {'x'}}"
DATA: Data = (
    ("boots:all", Kept((("b", "5"),))),
    ("inbox:bob", Kept((("1-7", "d", "head", "c", "0"), ("2-8", "d", "more", "c", "4")))),
    ("inboxid:bob:al:m0", Kept((("", "b1:1-7"),))),
    ("inboxmeta:bob", Kept((("birth", "b1"), ("last", "2-8")), False)),
)


def test_keys_hold_before_a_call_what_the_model_says(shared_server: BundledServer) -> None:
    """Hash, stream, string and sorted set; with a life, or without one."""
    runner = ScriptRunner(shared_server.url, {"echo": ECHO}, Spelling())
    keys = tuple(key for key, _ in DATA)
    try:
        reply = runner.reply(ScriptCall("echo", keys, ("{channels}",), DATA))
        assert reply.data == DATA and not reply.given and not reply.failure
        assert reply.heard == (("c", "heard"),) and reply.answer[1:] == (7, ("x",))
        assert runner.calls == 1
        runner.prepare([ScriptCall("echo", keys, ("{channels}",), DATA)] * 3)
        assert runner.calls == 1
    finally:
        runner.close()
    with redis.Redis.from_url(shared_server.url) as client:
        assert not client.keys("checker:*")


def test_a_script_that_fails_is_an_answer(shared_server: BundledServer) -> None:
    """The machines take it for a broken promise; a text that is no script is an error."""
    runner = ScriptRunner(shared_server.url, {"fails": "return 1 .. nil"}, Spelling())
    try:
        assert "concatenate" in runner.reply(ScriptCall("fails", ("inbox:bob",), (), ())).failure
    finally:
        runner.close()
    with pytest.raises(ScriptError, match=r"^wrong\.lua is no script: .*unexpected symbol"):
        ScriptRunner(shared_server.url, {"wrong": "return ("}, Spelling())


def test_a_pump_that_is_no_program_is_an_error() -> None:
    """In one line, as for a script."""
    for text in ("def (", "x = 1"):
        with pytest.raises(ScriptError, match="the pump is no program"):
            pump_class(text)


# --- the command -------------------------------------------------------------------------------


def test_the_command_checks_only_the_machine_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    shared_server: BundledServer,
) -> None:
    """`--machine rooms`."""

    def checked(world: World, **how: Any) -> Any:
        return check(world, redis=shared_server.url, **how)

    smallest = {name: one._replace(everyday=one.everyday[:1]) for name, one in MACHINES.items()}
    monkeypatch.setattr(__main__, "MACHINES", smallest)
    monkeypatch.setattr(__main__, "check", checked)
    assert __main__.main(["--machine", "rooms"]) == 0
    said = capsys.readouterr().out
    assert "alice at gateway-01" in said and "messages" not in said

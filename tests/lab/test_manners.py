"""Manners of the laboratory: does each mistake get one sentence that says what is wrong?"""

from __future__ import annotations

import inspect
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import nbformat
import pytest

from tests.lab.display import Display
from tools import notebook_runner as runner
from wsdemo.events import Kind
from wsdemo.lab import Lab, check, learn, predict, progress
from wsdemo.lab import trial as trials
from wsdemo.lab.errors import (
    LabClosed,
    LabError,
    LabRefused,
    LabTimeout,
    UnknownOption,
    in_short,
    spoken_in_short,
)
from wsdemo.lab.races.interleavings import explore
from wsdemo.rig.names import unknown
from wsdemo.rig.policies import POLICIES

pytestmark = pytest.mark.xdist_group("clock")

GATEWAYS = "gateway-01, gateway-02"


@pytest.fixture(scope="module")
def labs() -> Iterator[list[Lab]]:
    """The lab that these tests share, the latest one last."""
    made: list[Lab] = []
    yield made
    for lab in made:
        lab.close()


@pytest.fixture
def lab(labs: list[Lab]) -> Lab:
    """A lab with alice at gateway-01 and bob at gateway-02; no test changes where they are. It is
    made anew after a test that made another one, which closed it.
    """
    if not labs or repr(labs[-1]) == "<Lab: closed>":
        labs.append(Lab(gateways=2))
        labs[-1].connect("alice")
        labs[-1].connect("bob", to="gateway-02")
    return labs[-1]


# --- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Lab(polcy="fenced"), "no option 'polcy'; did you mean 'policy'?"),  # type: ignore[call-arg]
        (lambda: Lab(policy="fencd"), "no policy 'fencd'; did you mean 'fenced'?"),
        (lambda: Lab(policy="godemo"), "did you mean 'go-demo'?"),
        (lambda: Lab(policy="seed"), f"no policy 'seed'; there are: {', '.join(POLICIES)}"),
        (lambda: Lab(clocks={"gatway-01": 3}), "did you mean 'gateway-01'?"),
        (lambda: Lab(2, freezable=["gateway-07"]), f"there are: {GATEWAYS}"),
        (lambda: Lab(2, freezable="gateway-02"), "a list of gateways: ['gateway-02']"),
        (lambda: Lab("2"), "1 to 20 gateways, not '2'"),  # type: ignore[arg-type]
        (lambda: Lab(scale=0), "scale is a number of times faster than production, not 0"),
        (lambda: Lab(loop="tread"), 'loop is "thread" or "kernel"'),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_option_of_a_lab_is_named_with_the_nearest(
    lab: Lab, make: Callable[[], Lab], words: str
) -> None:
    """And the lab that is open stays open: the new one was never made."""
    with pytest.raises(LabError, match=re.escape(words)):
        make()
    assert lab.record("alice")["gwId"] == "gateway-01"


def test_a_wrong_option_is_a_type_error_and_a_wrong_value_a_value_error() -> None:
    """As in any Python; a timeout is a TimeoutError, a closed lab a RuntimeError."""
    assert issubclass(UnknownOption, TypeError) and issubclass(LabRefused, ValueError)
    assert issubclass(LabTimeout, TimeoutError) and issubclass(LabClosed, RuntimeError)


def test_a_wrong_number_is_no_typing_error() -> None:
    """Nobody who writes gateway-99 means gateway-01."""
    assert unknown("gateway", "gateway-99", ["gateway-01"]) == (
        "there is no gateway 'gateway-99'; there is: gateway-01"
    )
    assert "mean 'gateway-01'?" in unknown("gateway", "Gatway-01", ["gateway-01", "gateway-02"])
    assert unknown("user", "alice", []).endswith("there are: none")
    assert unknown("user", 7, map(str, range(100, 200))).endswith("119, ...")


def test_the_help_of_lab_says_each_option_with_its_default_and_unit() -> None:
    """`Lab?` shows the signature and this text."""
    told = inspect.getdoc(Lab) or ""
    signature = inspect.signature(Lab)
    assert {"policy", "scale", "clocks", "wires"} < signature.parameters.keys()
    for name, option in signature.parameters.items():
        (text,) = re.findall(rf"^    {name}: ((?:.|\n     )+)", told, re.MULTILINE)
        assert "default" in text, name
        if option.default not in (None, ()):
            assert str(option.default).removesuffix(".0") in text, name
    assert all(f'"{policy}"' in told for policy in POLICIES)
    assert told.count("production second") >= 2 and "gateway-02" in told


# --- users ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", " ", 7, None, "a b", "gateway-01", "x" * 65])
def test_an_impossible_name_is_refused_at_once(lab: Lab, name: Any) -> None:
    """Not by the gateway after a while."""
    with pytest.raises(LabRefused, match="no name for a user: 1 to 64 letters"):
        lab.connect(name)
    assert list(lab.users) == ["alice", "bob"]


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda lab: lab.connect("carol", wird=True), "did you mean 'wired'?"),
        (lambda lab: lab.connect("carol", to="gateway-09"), f"there are: {GATEWAYS}"),
        (lambda lab: lab.connect_many("many"), "a crowd is a number of users"),
        (lambda lab: lab.live(1, talk_evry_s=3), "did you mean 'talk_every_s'?"),
        (lambda lab: lab.users["alice"].move("gateway-99"), f"there are: {GATEWAYS}"),
        (lambda lab: lab.users["bob"].send("alice", 42), "a text, not int: send('alice', '42')"),
        (
            lambda lab: lab.users["bob"].send("", "x"),
            "the name of a user, such as 'bob', not to ''",
        ),
        (lambda lab: lab.users["bob"].send(lab.users["alice"], "x"), "such as 'alice'"),
        (lambda lab: lab.hold_cleanup("alcie", at="gateway-01"), "did you mean 'alice'?"),
        (lambda lab: lab.hold_cleanup("carol", at="gateway-01"), "there are: alice, bob"),
        (lambda lab: lab.hold_cleanup("alice", at="gateway-09"), f"there are: {GATEWAYS}"),
        (lambda lab: lab.hold("alice", "gateway-01", "relase"), "did you mean 'release'?"),
        (lambda lab: lab.let_go("alice", at="gateway-01"), "no release of alice is held"),
        (lambda lab: lab.watch("alice", "bobb"), "did you mean 'bob'?"),
        (lambda lab: lab.crash("gateway-09"), f"there are: {GATEWAYS}"),
        (lambda lab: lab.leaks(), "close the lab first"),
        (lambda lab: predict("q99"), "there are: q00, q00b"),
        (lambda lab: learn.reveal("q99", 1), "there are: q00, q00b"),
        (lambda lab: learn.predicted("q9"), "there are: q00, q00b"),
        (lambda lab: check("ex99", 1), "there are: ex00, ex00b"),
    ],
)
def test_an_unknown_name_is_answered_with_the_known_ones(
    lab: Lab, act: Callable[[Lab], object], words: str
) -> None:
    """At once, and nothing has changed."""
    with pytest.raises(LabError, match=re.escape(words)):
        act(lab)
    assert (lab.users["alice"].gateway, lab.users["bob"].gateway) == ("gateway-01", "gateway-02")


def test_a_first_register_can_be_held_before_the_user_is_known(lab: Lab) -> None:
    """A release needs a user who has been here; a register or a mint comes before her."""
    lab.hold("nobody", at="gateway-01", verb="register")
    lab.hold("nobody", at="gateway-01", verb="mint")
    lab.let_all_go()


def test_a_receive_without_a_message_says_who_waited_and_what_arrived() -> None:
    """How long, and what had come before."""
    with Lab(gateways=1) as lab:
        alice, bob = lab.connect("alice"), lab.connect("bob")
        with pytest.raises(LabTimeout, match=r"alice waited 0\.05 s, .* none has arrived yet"):
            alice.receive(timeout_s=0.05)
        for text in ("one", "two"):
            bob.send("alice", text)
            assert alice.receive().content == text
        with pytest.raises(LabTimeout) as told:
            alice.receive(timeout_s=0.05)
    assert "2 arrived before (already read), the last one from bob: 'two'" in str(told.value)
    assert str(told.value).endswith("; she is at gateway-01")


def test_a_user_who_has_left_says_so() -> None:
    """After a goodbye, and after she vanished; saying goodbye twice is no mistake."""
    with Lab(gateways=2) as lab:
        alice, bob = lab.connect("alice"), lab.connect("bob", wired=True)
        alice.disconnect()
        alice.disconnect()
        bob.vanish()
        calls: list[Callable[[Any], object]] = [
            lambda user: user.send("carol", "hello"),
            lambda user: user.receive(timeout_s=0.05),
            lambda user: user.move("gateway-02"),
            lambda user: user.lose_heartbeats(0.5),
            lambda user: user.vanish(),
        ]
        for user, how in ((alice, "disconnected"), (bob, "vanished")):
            for call in calls:
                with pytest.raises(LabRefused, match=rf"{user.name} has {how}, .*lab\.connect\("):
                    call(user)
        lab.hold_cleanup("bob", at="gateway-01")  # Her gateway has not noticed it yet.
        assert lab.connect("alice").send("alice", "again").status == "routed"


# --- a closed lab --------------------------------------------------------------------------------


def test_a_closed_lab_says_who_closed_it() -> None:
    """A later `Lab()`, or its own user."""
    first = Lab(gateways=1)
    alice = first.connect("alice")
    with Lab(gateways=1) as second:
        for call in (lambda: first.connect("bob"), lambda: alice.send("alice", "hello")):
            with pytest.raises(LabClosed, match=r"closed: a later Lab\(\) closed it"):
                call()
    with pytest.raises(LabClosed, match=r"closed: make a new one with Lab\(\)"):
        second.connect("alice")


def test_closing_a_lab_ends_what_another_thread_waits_for() -> None:
    """Its call fails with the reason, and no task is left."""
    lab = Lab(gateways=2)
    lab.connect_many(10)
    told: list[str] = []

    def live() -> None:
        with pytest.raises(LabClosed) as error:
            lab.live(36_000, talk_every_s=5)
        told.append(str(error.value))

    thread = threading.Thread(target=live, daemon=True)
    thread.start()
    lab.wait_until(
        "they talk", lambda: any(e.kind is Kind.SEND for e in lab.cluster.recorder.events)
    )
    lab.close()
    thread.join(10)
    assert not thread.is_alive() and told == ["this lab is closed: make a new one with Lab()"]
    assert lab.leaks() == []


# --- what a cell shows ---------------------------------------------------------------------------


def test_an_error_shows_the_readers_frames_only(lab: Lab) -> None:
    """The line of the test, and no line of this package or of what it calls."""

    def helper() -> None:
        lab.users["alice"].move("gateway-99")

    with pytest.raises(LabRefused) as error:
        helper()
    shown = "".join(in_short(error.value))
    assert 'lab.users["alice"].move("gateway-99")' in shown and "in helper" in shown
    assert "wsdemo/lab" not in shown and "asyncio" not in shown
    assert shown.count("File ") == 2


def test_an_error_of_a_figure_or_an_exploration_shows_the_readers_frames_only(lab: Lab) -> None:
    """When the figure itself refuses; an error of a library keeps all frames, it is a bug."""
    with pytest.raises(ValueError, match="nobody of these was watched") as error:
        lab.plot.sawtooth("alice")
    assert hasattr(error.value, "_render_traceback_")
    assert "figures/sawtooth" not in "".join(in_short(error.value))

    with pytest.raises(ValueError, match="did you mean 'fenced'") as refused:
        explore("fencd")
    assert "rig/policies" not in "".join(in_short(refused.value))
    with pytest.raises(ValueError, match="not a number") as bug, spoken_in_short():
        raise ValueError("not a number")
    assert not hasattr(bug.value, "_render_traceback_")


@pytest.mark.slow
def test_a_cell_shows_an_error_of_the_lab_in_a_few_lines() -> None:
    """In a real kernel: which line of the cell, and the sentence."""
    code = "from wsdemo.lab import Lab\nlab = Lab(gateways=1)\nlab.connect('alice').receive(0.05)"
    cell = nbformat.v4.new_code_cell(code)  # type: ignore[no-untyped-call]
    runner.execute(nbformat.v4.new_notebook(cells=[cell]))  # type: ignore[no-untyped-call]
    (error,) = [output for output in cell.outputs if output.output_type == "error"]
    lines = "\n".join(error.traceback).splitlines()
    assert len(lines) < 12 and "alice waited 0.05 s" in lines[-1]
    assert not [line for line in lines if "wsdemo/" in line]


def test_a_slow_import_shows_a_sign_of_life_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """While it lasts, in a live notebook, and only when the module is not there yet."""
    display = Display()
    monkeypatch.setattr("IPython.display.display", display)
    with progress.sign_of_life("Loading ...", "not.loaded"):
        assert display.shown == []
    monkeypatch.setattr(progress, "watched", lambda: True)
    with progress.sign_of_life("Loading ...", "not.loaded"):
        assert display.shown == ["Loading ..."]
    assert display.shown == ["Loading ...", ""]
    with progress.sign_of_life("Loading ...", "wsdemo.lab"):
        pass
    assert len(display.shown) == 2


# --- mistakes of the reader's code ---------------------------------------------------------------


def wrong_name(*args: object) -> object:
    return recrod  # type: ignore[name-defined]  # noqa: F821


def too_few_arguments() -> object:
    return None


def leaves(*args: object) -> object:
    raise SystemExit


def divides_by_zero(*args: float) -> float:
    return args[0] / 0


def never_ends(*args: object) -> object:
    while True:
        pass


@pytest.mark.parametrize("exercise", ["ex00", "ex01", "ex02", "ex03", "ex05", "ex07"])
@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (wrong_name, "NameError: name 'recrod' is not defined, in line"),
        (too_few_arguments, "TypeError: too_few_arguments() takes 0 positional arguments"),
        (leaves, "raised SystemExit, in line"),
    ],
)
def test_a_mistake_in_the_readers_code_is_told_as_the_readers(
    exercise: str, answer: Callable[..., object], words: str
) -> None:
    """With its line; not as a failure of the check, and not as a wrong idea."""
    verdict = check(exercise, answer)
    assert verdict.verdict == "wrong" and f"Your {answer.__name__} raised " in verdict.hint
    assert words in verdict.hint and "check itself" not in verdict.hint


def test_an_error_that_no_judge_expects_is_the_readers_too() -> None:
    """Whatever it is, when the reader's function raised it."""
    verdict = check("ex02", divides_by_zero)
    assert verdict.verdict == "wrong"
    assert "ZeroDivisionError" in verdict.hint and "return args[0] / 0" in verdict.hint


def test_an_error_of_the_check_itself_is_told_as_such() -> None:
    """The reader's function returned; then the judge failed."""
    one = trials.AnswerTrial(lambda: 1)
    with pytest.raises(KeyError) as error:
        one.run(lambda answer: {}[answer()], 5.0)
    assert one.mistake(error.value) == ""


def test_an_endless_loop_is_told_with_its_line_and_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It does not use the processor for ever."""
    monkeypatch.setattr(trials, "ANSWER_TIMEOUT_S", 0.3)
    before = set(threading.enumerate())
    verdict = check("ex01", never_ends)
    assert verdict.verdict == "wrong"
    assert re.search(r"Your never_ends did not .* in line \d+ of test_manners\.py", verdict.hint)
    assert set(threading.enumerate()) <= before


def test_a_check_that_takes_too_long_is_not_judged() -> None:
    """Nobody says that it was the reader's function."""
    one = trials.AnswerTrial(lambda: 1)
    gate = threading.Event()
    with pytest.raises(TimeoutError, match=r"not come to an end within 0\.2 s"):
        one.run(lambda answer: gate.wait(1.0), 0.2)

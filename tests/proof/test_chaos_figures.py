"""Figures of a chaos report: can every text be read, when every fault was injected?"""

from __future__ import annotations

import pytest

from tests.lab.readable import assert_no_text_covers_another, assert_no_text_is_clipped, texts
from wsdemo.drawing.style import FONT_PT, Picture
from wsdemo.proof.chaos.faults import FAULTS
from wsdemo.proof.chaos.figures import convergence, losses, timeline
from wsdemo.proof.chaos.nemesis import InjectedFault
from wsdemo.proof.chaos.result import ChaosResult
from wsdemo.proof.chaos.sampling import Sample
from wsdemo.proof.history import Fault, Healed, Phase, Received, Record, Sent

PERIOD_S = 4.0
STATUSES = ("offline", "unreachable", "busy", "", "routed")
MANY, FEW = 11_000, 10
"""Messages during the first fault, so that their number is as wide as in a long run, and during
each of the others."""


@pytest.fixture(scope="module")
def figures() -> dict[str, Picture]:
    """One injection of every fault, and messages meanwhile with every outcome."""
    history: list[Record] = []
    injections: list[InjectedFault] = []
    samples: list[Sample] = []
    for number, fault in enumerate(FAULTS):
        began = number * PERIOD_S
        healed = began + PERIOD_S / 2
        injections.append(InjectedFault(fault, "gateway-01", began, healed))
        history.append(Fault(t=began, name=fault.name, begins=True, where=()))
        for n in range(FEW if number else MANY):
            history += sent(began + 0.1, f"{number}-{n}", n)
        history.append(Fault(t=healed, name=fault.name, begins=False, where=()))
        for tenth in range(int(10 * PERIOD_S)):
            t = began + tenth / 10
            wrong = frozenset({"user"} if began <= t < healed + 0.3 + number % 5 / 10 else ())
            samples.append(Sample(t, 20, 20 - len(wrong), wrong))
    history.append(Healed(t=len(FAULTS) * PERIOD_S))
    result = ChaosResult(
        7,
        len(FAULTS) * PERIOD_S,
        users=20,
        history=history,
        injections=injections,
        samples=samples,
        rests=[1.2],
        took_s=len(FAULTS) * PERIOD_S,
    )
    return {draw.__name__: draw(result) for draw in (timeline, convergence, losses)}


def sent(t: float, name: str, n: int) -> list[Record]:
    """Return the records of a message: every second one is delivered."""
    begun: Record = Sent(t=t, user="alice", phase=Phase.INVOKE, id=name, to="bob", conn="a")
    if n % 2:
        return [begun, Received(t=t, user="bob", conn="b", id=name, sender="alice")]
    status = STATUSES[n // 2 % len(STATUSES)]
    if not status:
        return [begun]
    return [begun, Sent(t=t, user="alice", phase=Phase.OK, id=name, status=status)]


def test_no_text_is_smaller_than_the_house_size(figures: dict[str, Picture]) -> None:
    """Also the names of the faults at the axis."""
    for name, fig in figures.items():
        small = {t.get_text() for t in texts(fig) if float(t.get_fontsize()) < FONT_PT}
        assert not small, name


def test_no_text_covers_another_and_none_is_cut_off(figures: dict[str, Picture]) -> None:
    """With all faults in one figure."""
    assert_no_text_covers_another(figures)
    assert_no_text_is_clipped(figures)

"""When is an inbox read for one connection, and what is written? The pump alone."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsdemo.gateway.inbox import Pump, Resumed
from wsdemo.inbox import InboxPage
from wsdemo.inbox.store import NO_POSITION

EPOCH = "b1.r1"


@dataclass
class Port:
    """What a pump asks for is kept here."""

    reads: list[tuple[tuple[str, str], int]] = field(default_factory=list)
    written: list[str] = field(default_factory=list)
    told: list[Resumed] = field(default_factory=list)
    room: bool = True

    def has_room(self) -> bool:
        return self.room

    def read(self, position: tuple[str, str], most: int) -> None:
        self.reads.append((position, most))

    def write(self, offset: bytes, head: bytes) -> None:
        self.written.append(offset.decode())

    def tell(self, resumed: Resumed) -> None:
        self.told.append(resumed)


def page(
    since: str, *offsets: str, last: str = "", recovered: bool = True, epoch: str = EPOCH
) -> InboxPage:
    rows = [(offset.encode(), b"{") for offset in offsets]
    return InboxPage(recovered, epoch, since, last or (offsets or (since,))[-1], rows)


@pytest.fixture
def port() -> Port:
    return Port()


def begun(port: Port, window: int = 4, *, automatic: bool = False) -> Pump:
    """A pump whose client has read an empty inbox to its end, and has confirmed it."""
    pump = Pump(port, window, NO_POSITION, automatic=automatic)
    pump.pump()
    pump.page(page("0-0", recovered=False))
    if not automatic:
        assert pump.ack(EPOCH, "0-0")
    pump.to_ack = None
    port.reads.clear()
    port.told.clear()
    return pump


def test_it_begins_where_the_client_is(port: Port) -> None:
    pump = Pump(port, 4, (EPOCH, "7-5"))
    pump.pump()
    assert port.reads == [((EPOCH, "7-5"), 4)]
    pump.page(page("7-5", "8-1", "9-1"))
    assert port.told == [Resumed(True, EPOCH, "7-5", "9-1", None)]
    assert port.written == ["8-1", "9-1"]


def test_one_page_is_read_at_a_time(port: Port) -> None:
    pump = begun(port)
    assert pump.hint(EPOCH, "1-1")
    assert pump.hint(EPOCH, "2-1")
    pump.look()
    assert len(port.reads) == 1
    pump.page(page("0-0", "1-1", "2-1"))
    assert len(port.reads) == 2, "there were hints while it read"
    pump.page(page("2-1"))
    assert len(port.reads) == 2 and not pump.behind


def test_what_was_hinted_during_a_page_and_is_on_it_is_not_read_for(port: Port) -> None:
    """Under load, nearly every page would else be followed by an empty one."""
    pump = begun(port)
    pump.hint(EPOCH, "1-1")
    assert pump.hint(EPOCH, "2-1")
    assert pump.hint(EPOCH, "3-1")
    pump.page(page("0-0", "1-1", "2-1", "3-1"))
    assert len(port.reads) == 1 and not pump.behind


@pytest.mark.parametrize(
    "hints",
    [
        [(EPOCH, "2-1")],
        [(EPOCH, "1-1"), (EPOCH, "2-1")],
        [(EPOCH, "2-1"), (EPOCH, "1-1")],
        [(EPOCH, "1-1"), (EPOCH, "1-9")],
        [(EPOCH, "1-9"), (EPOCH, "1-1")],
        [("b2.r1", "1-1")],
        [("b2.r1", "1-1"), (EPOCH, "1-1")],
        [(EPOCH, "1-1"), ("b2.r1", "2-1")],
    ],
)
def test_what_was_hinted_during_a_page_and_is_not_on_it_is_read_for(
    port: Port, hints: list[tuple[str, str]]
) -> None:
    """Whatever the order of the hints; and another message with the same number is not on it."""
    pump = begun(port)
    pump.hint(EPOCH, "1-1")
    for hint in hints:
        assert pump.hint(*hint)
    pump.page(page("0-0", "1-1"))
    assert len(port.reads) == 2


def test_a_page_that_resets_does_not_cover_a_hint(port: Port) -> None:
    """The hint was of the inbox before."""
    pump = begun(port)
    pump.hint(EPOCH, "1-1")
    pump.hint(EPOCH, "2-1")
    pump.page(page("0-0", "1-1", "2-1", recovered=False, epoch="b2.r1"))
    assert len(port.reads) == 2


def test_a_page_that_is_not_the_last_is_followed_by_another(port: Port) -> None:
    pump = begun(port)
    pump.hint(EPOCH, "1-1")
    pump.page(page("0-0", "1-1", last="2-1"))
    assert port.reads[-1] == ((EPOCH, "1-1"), 3)


def test_a_hint_of_what_was_sent_is_no_news(port: Port) -> None:
    pump = begun(port)
    pump.hint(EPOCH, "1-1")
    pump.page(page("0-0", "1-1", "2-1"))
    port.reads.clear()
    assert not pump.hint(EPOCH, "1-1")
    assert not pump.hint(EPOCH, "2-1")
    assert not port.reads
    assert pump.hint(EPOCH, "2-9"), "another message with this number"
    assert port.reads


def test_a_hint_of_another_epoch_is_news(port: Port) -> None:
    pump = begun(port)
    pump.hint(EPOCH, "1-1")
    pump.page(page("0-0", "1-1", "2-1"))
    port.reads.clear()
    assert pump.hint("b2.r1", "1-1"), "although it has a lower number"
    assert port.reads == [((EPOCH, "2-1"), 2)]


def test_nothing_is_read_while_the_window_is_full(port: Port) -> None:
    """A client that does not acknowledge gets so many messages, and no more."""
    pump = begun(port, window=2)
    pump.hint(EPOCH, "3-1")
    pump.page(page("0-0", "1-1", "2-1", last="3-1"))
    assert len(port.reads) == 1 and pump.behind
    assert pump.ack(EPOCH, "1-1")
    assert port.reads[-1] == ((EPOCH, "2-1"), 1)


def test_nothing_is_read_while_the_wire_is_full(port: Port) -> None:
    pump = begun(port)
    port.room = False
    pump.hint(EPOCH, "1-1")
    assert not port.reads and pump.behind
    port.room = True
    pump.pump()
    assert len(port.reads) == 1


def test_a_reset_in_the_middle_is_told(port: Port) -> None:
    pump = begun(port)
    pump.hint(EPOCH, "1-1")
    pump.page(page("0-0", "1-1"))
    pump.look()
    pump.page(page("4-1", "5-1", recovered=False))
    assert port.told == [Resumed(False, EPOCH, "4-1", "5-1", 3)]
    assert port.written == ["1-1", "5-1"]


@pytest.mark.parametrize(("epoch", "since"), [("b2.r1", "4-1"), (EPOCH, "0-0")])
def test_what_cannot_be_counted_is_not_counted(port: Port, epoch: str, since: str) -> None:
    """Another inbox, or one that goes back behind what the client has."""
    pump = begun(port)
    pump.hint(EPOCH, "1-1")
    pump.page(page("0-0", "1-1"))
    pump.look()
    pump.page(page(since, recovered=False, epoch=epoch))
    assert port.told[-1].missed is None


def test_acknowledgements_only_go_forward(port: Port) -> None:
    pump = begun(port)
    pump.hint(EPOCH, "1-1")
    pump.page(page("0-0", "1-1", "2-1"))
    assert not pump.ack(EPOCH, "3-1"), "never sent"
    assert not pump.ack("b2.r1", "1-1")
    assert pump.ack(EPOCH, "2-1") and pump.to_ack == (EPOCH, "2-1")
    assert pump.ack(EPOCH, "1-1") and pump.to_ack == (EPOCH, "2-1")


def test_a_client_confirms_where_it_goes_on(port: Port) -> None:
    """With an acknowledgement of the very position: only then Redis is told."""
    pump = Pump(port, 4, NO_POSITION)
    pump.pump()
    pump.page(page("3-1", recovered=False))
    assert pump.to_ack is None
    assert pump.ack(EPOCH, "3-1") and pump.to_ack == (EPOCH, "3-1")
    pump.to_ack = None
    assert pump.ack(EPOCH, "3-1") and pump.to_ack is None, "once is enough"


def test_a_client_that_knows_nothing_of_it_has_what_was_written(port: Port) -> None:
    """D8: the window never closes, and its own acknowledgements are none."""
    pump = begun(port, window=1, automatic=True)
    for n in range(1, 4):
        pump.hint(EPOCH, f"{n}-1")
        assert len(port.reads) == 2 * n - 1
        pump.page(page(f"{n - 1}-1", f"{n}-1"))
        pump.pump()
        pump.look()
        pump.page(page(f"{n}-1"))
        assert pump.to_ack == (EPOCH, f"{n}-1")
    assert port.written == ["1-1", "2-1", "3-1"]
    assert not pump.ack(EPOCH, "1-1")


def test_a_page_that_failed_is_read_again(port: Port) -> None:
    pump = begun(port)
    pump.hint(EPOCH, "1-1")
    pump.failed()
    assert pump.behind
    pump.pump()
    assert len(port.reads) == 2


def test_what_redis_says_at_a_refresh_shows_a_lost_hint(port: Port) -> None:
    pump = begun(port)
    pump.newest("0-0")
    assert not port.reads
    pump.newest("1-1")
    assert len(port.reads) == 1
    pump.newest("2-1")
    pump.page(page("0-0", "1-1"))
    assert len(port.reads) == 1, "the page is newer than what was asked before it"
    pump.newest("")
    assert len(port.reads) == 2, "the inbox is gone"


def test_after_its_end_nothing_is_written(port: Port) -> None:
    pump = begun(port)
    pump.hint(EPOCH, "1-1")
    pump.ended = True
    pump.page(page("0-0", "1-1"))
    pump.look()
    assert not port.written and len(port.reads) == 1


@given(st.data())
def test_whatever_happens_each_message_is_written_once_and_in_order(data: st.DataObject) -> None:
    """Hints that are lost, late or said twice; a window; a wire that is full at times."""
    port, stored, answered = Port(), 0, 0
    pump = begun(port, window=data.draw(st.integers(1, 4)))
    steps = st.sampled_from(["store", "hint", "page", "fail", "ack", "room", "refresh"])

    def answer(*, fails: bool = False) -> None:
        nonlocal answered
        (_, since), most = port.reads[answered]
        answered += 1
        if fails:
            pump.failed()
            return
        n = int(since.partition("-")[0])
        rows = [f"{k}-1" for k in range(n + 1, min(n + 1 + min(most, 2), stored + 1))]
        pump.page(page(since, *rows, last=f"{stored}-1" if stored else "0-0"))

    for step in data.draw(st.lists(steps, max_size=40)):
        if step == "store":
            stored += 1
        elif step == "hint" and stored:
            pump.hint(EPOCH, f"{data.draw(st.integers(1, stored))}-1")
        elif step in ("page", "fail") and answered < len(port.reads):
            answer(fails=step == "fail")
        elif step == "ack" and port.written:
            assert pump.ack(EPOCH, data.draw(st.sampled_from(port.written)))
        elif step == "room":
            port.room = not port.room
            pump.pump()
        elif step == "refresh":
            pump.newest(f"{stored}-1" if stored else "0-0")
        assert len(port.written) - pump.acked <= pump._window
    port.room = True
    pump.look()
    for _ in range(4 * stored + 4):
        if port.written:
            pump.ack(EPOCH, port.written[-1])
        if answered < len(port.reads):
            answer()
    assert port.written == [f"{n}-1" for n in range(1, stored + 1)]
    assert not pump.behind

"""Vector clocks: do those of the log agree exactly with the arrows of the trace?"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.examples import examples
from wsdemo.lab import Lab
from wsdemo.lab.cluster.late_cleanup import late_cleanup
from wsdemo.lab.trace.frames import arrows, empty, normal
from wsdemo.lab.trace.shiviz import PARSER, Stamp, happened_before, stamps, to_shiviz

pytestmark = pytest.mark.xdist_group("shiviz")

LINE = re.compile(PARSER.replace("(?<", "(?P<"))


@pytest.fixture(scope="module")
def recorded() -> Iterator[pd.DataFrame]:
    """Users connect, write, move and leave, on running gateways."""
    with Lab(gateways=3) as lab:
        alice, bob = lab.connect("alice", to="gateway-01"), lab.connect("bob", to="gateway-02")
        lab.watch("alice")
        alice.send("bob", "hello")
        bob.receive()
        alice.send("nobody", "hello")
        alice.move("gateway-03")
        bob.send("alice", "there you are")
        alice.receive()
        bob.disconnect()
        trace = lab.trace()
    yield trace


def reachable(events: list[Stamp]) -> set[tuple[int, int]]:
    """Return which event can have influenced which, by following the arrows, without any clock."""
    steps: dict[int, list[int]] = {n: [] for n in range(len(events))}
    for host in {event.host for event in events}:
        own = [n for n, event in enumerate(events) if event.host == host]
        for n, m in itertools.pairwise(own):
            steps[n].append(m)
    starts = {event.seq: n for n, event in enumerate(events) if not event.arrives}
    for n, event in enumerate(events):
        if event.arrives:
            steps[starts[event.seq]].append(n)
    found: set[tuple[int, int]] = set()
    for start in steps:
        todo = list(steps[start])
        while todo:
            n = todo.pop()
            if (start, n) not in found:
                found.add((start, n))
                todo += steps[n]
    return found


def assert_happened_before(events: list[Stamp]) -> None:
    """The order of clocks is reachability, in both directions: concurrent events have incomparable
    clocks.
    """
    reached = reachable(events)
    for n, m in itertools.permutations(range(len(events)), 2):
        assert happened_before(events[n], events[m]) == ((n, m) in reached), (events[n], events[m])


def test_the_clocks_of_a_real_run_are_the_relation_happened_before(recorded: pd.DataFrame) -> None:
    """Every arrow rises, every lane rises, and nothing else is ordered."""
    events = stamps(recorded)
    assert_happened_before(events)
    assert any(
        not happened_before(a, b) and not happened_before(b, a)
        for a, b in itertools.combinations(events, 2)
    )


def test_every_arrow_of_a_real_run_has_both_ends(recorded: pd.DataFrame) -> None:
    """An arrival is recorded at both ends, and the receiver's clock is greater than the
    sender's."""
    events = stamps(recorded)
    there = arrows(normal(recorded))
    ends = {event.seq: event for event in events if event.arrives}
    starts = {event.seq: event for event in events if not event.arrives}
    assert len(ends) == (~there["lost"]).sum() > 10
    assert all(happened_before(starts[seq], end) for seq, end in ends.items())


def test_a_message_is_causally_ordered_through_all_its_lanes(recorded: pd.DataFrame) -> None:
    """Bob's receive happened after alice's send, across gateways and Redis."""
    events = stamps(recorded)
    wrote = next(e for e in events if e.host == "alice" and e.text.startswith("message to"))
    read = next(e for e in events if e.host == "bob" and e.text.startswith("deliver from"))
    assert happened_before(wrote, read)
    assert {"alice", "gateway-01", "redis", "gateway-02", "bob"} <= set(read.clock)


async def test_a_late_release_is_concurrent_with_the_newer_registration() -> None:
    """As lesson 04 says of the log: neither write happened before the other."""
    async for _, _, cluster in late_cleanup("go-demo"):
        trace = cluster.trace()
    events = stamps(trace)
    register = next(
        e for e in events if e.host == "gateway-02" and e.text.startswith("presence_set to")
    )
    release = next(
        e for e in events if e.host == "gateway-01" and e.text.startswith("presence_del to")
    )
    assert not happened_before(register, release) and not happened_before(release, register)


HOSTS = ("alice", "gateway-01", "gateway-02", "redis")
rows = st.lists(
    st.tuples(
        st.sampled_from(HOSTS),
        st.sampled_from(["", *HOSTS]),
        st.integers(0, 9),
        st.one_of(st.none(), st.integers(-1, 5)),
    ),
    max_size=15,
)


@examples(60)
@given(rows)
def test_the_clocks_of_any_trace_are_the_relation_happened_before(
    drawn: list[tuple[str, str, int, int | None]],
) -> None:
    """Also with equal times, arrows that take no time, and lost ones."""
    trace = pd.DataFrame(
        {
            "seq": seq,
            "t": float(t),
            "lane": lane,
            "kind": "publish",
            "peer": peer,
            "ok": took is not None,
            "t_recv": float("nan") if took is None else float(t + took),
        }
        for seq, (lane, peer, t, took) in enumerate(drawn)
    )
    assert_happened_before(stamps(trace if drawn else empty()))


def test_the_log_has_the_format_of_shiviz(recorded: pd.DataFrame) -> None:
    """The expression, an empty line, and events; each host counts 1, 2, 3, and clocks name only
    hosts.
    """
    first, second, *lines = to_shiviz(recorded).rstrip("\n").split("\n")
    assert first == PARSER and second == ""
    counts: dict[str, int] = {}
    parsed = [LINE.fullmatch(line) for line in lines]
    assert len(lines) == len(stamps(recorded))
    for found in parsed:
        assert found is not None
        host, clock = found["host"], json.loads(found["clock"])
        counts[host] = counts.get(host, 0) + 1
        # ShiViz refuses a log in which a host leaves out a number.
        assert clock[host] == counts[host]
        assert found["event"]
    for found in parsed:
        assert found is not None
        assert all(1 <= n <= counts[host] for host, n in json.loads(found["clock"]).items())


def test_samples_of_leases_are_not_events(recorded: pd.DataFrame) -> None:
    """The laboratory read Redis; nothing happened."""
    assert "pttl" not in to_shiviz(recorded)


def test_an_empty_trace_is_a_log_without_events() -> None:
    """Only the two lines at the top."""
    assert to_shiviz(empty()) == f"{PARSER}\n\n"


def test_an_event_with_line_breaks_stays_on_one_line() -> None:
    """Whatever a reason says."""
    trace = pd.DataFrame(
        [{"seq": 1, "t": 0.0, "lane": "redis", "kind": "fault", "reason": "one\ntwo {three}"}]
    )
    assert to_shiviz(trace).splitlines()[2] == 'redis {"redis":1} fault (one two {three})'

"""Laboratory: can a cell drive real gateways, run again, and leave nothing behind?"""

from __future__ import annotations

import _thread
import itertools
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pandas
import psutil
import pytest

from tests.lab.display import Display
from wsdemo.lab import Lab, progress
from wsdemo.lab import lab as lab_module
from wsdemo.redis.server import BundledServer, ServerError

pytestmark = pytest.mark.xdist_group("clock")


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab(gateways=3) as lab:
        yield lab
    assert lab.leaks() == []


def test_a_message_crosses_two_gateways_in_four_hops(lab: Lab) -> None:
    """In through one gateway, through Redis in one step, out through the other."""
    alice, bob = lab.connect("alice", to="gateway-01"), lab.connect("bob", to="gateway-02")
    receipt = alice.send("bob", "Hello from Alice!")
    assert bob.receive().content == "Hello from Alice!"
    hops = lab.hops(receipt)
    assert hops["from"].tolist() == ["alice", "gateway-01", "redis", "gateway-02"]
    assert hops["to"].tolist() == ["gateway-01", "redis", "gateway-02", "bob"]


def test_the_times_of_a_message_s_hops_never_go_backwards(lab: Lab) -> None:
    """All lanes use one clock, so times along a path only grow."""
    alice, bob = lab.connect("alice", to="gateway-01"), lab.connect("bob", to="gateway-02")
    for n in range(20):
        receipt = alice.send("bob", str(n))
        bob.receive()
        trace = lab.trace()
        way = trace[(trace["msg_id"] == receipt.id) & (trace["peer"] != "")]
        assert way["t"].is_monotonic_increasing
        assert (way["t_recv"] >= way["t"]).all()


def test_where_tells_of_the_moment_at_which_it_was_asked(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first table loads pandas, which on a busy machine takes as long as a lease."""
    alice = lab.connect("alice", to="gateway-02")

    def slow_to_load() -> Any:
        alice.disconnect()
        return pandas

    monkeypatch.setattr(lab_module, "_pandas", slow_to_load)
    assert lab.where().loc["alice"].tolist() == ["gateway-02", "gateway-02"]


def test_a_message_within_one_gateway_does_not_ask_redis(lab: Lab) -> None:
    """Two hops, and Redis is not one of their ends."""
    alice, dave = lab.connect("alice", to="gateway-01"), lab.connect("dave", to="gateway-01")
    receipt = alice.send("dave", "hello")
    dave.receive()
    hops = lab.hops(receipt)
    assert len(hops) == 2
    assert "redis" not in {*hops["from"], *hops["to"]}


def test_where_shows_socket_and_entry_of_each_user(lab: Lab) -> None:
    """The real connection beside the entry in Redis."""
    lab.connect("alice", to="gateway-02")
    assert lab.where().loc["alice"].tolist() == ["gateway-02", "gateway-02"]


def test_pages_are_fetched_over_http(lab: Lab) -> None:
    """The lab's gateways are the same as the standalone ones."""
    lab.connect("alice", to="gateway-02")
    assert lab.health("gateway-02") == "OK"
    assert lab.stats("gateway-02")["connections"] == 1
    assert lab.stats("gateway-01")["connections"] == 0


def test_a_new_lab_closes_the_one_before() -> None:
    """Running the first cell again is safe."""
    first = Lab(gateways=1)
    with Lab(gateways=1):
        assert repr(first) == "<Lab: closed>"
        assert first.leaks() == []


def test_a_closed_lab_leaves_no_thread_and_no_process_behind() -> None:
    """Nothing is left after `close`, which may be called twice."""
    threads = set(threading.enumerate())
    children = set(psutil.Process().children(recursive=True))
    lab = Lab(gateways=2)
    lab.connect("alice")
    lab.close()
    lab.close()
    assert lab.leaks() == []
    assert set(threading.enumerate()) == threads
    assert set(psutil.Process().children(recursive=True)) <= children


def test_a_lab_on_a_shared_server_removes_its_own_keys_only(shared_server: BundledServer) -> None:
    """A Redis that belongs to somebody else is left unchanged."""
    import redis

    with redis.Redis.from_url(shared_server.url, decode_responses=True) as database:
        database.set("somebody", "else")
        with Lab(gateways=1, redis=shared_server.url) as lab:
            lab.connect("alice")
            assert list(database.scan_iter("lab:*"))
        assert not list(database.scan_iter("lab:*"))
        assert database.get("somebody") == "else"
        database.delete("somebody")


def test_a_failed_cell_leaves_the_lab_usable(lab: Lab) -> None:
    """A deadline or a wrong name is an exception in the cell, not the end of the lab."""
    alice = lab.connect("alice")
    with pytest.raises(TimeoutError):
        alice.receive(timeout_s=0.05)
    with pytest.raises(ValueError, match="there are: gateway-01, gateway-02, gateway-03"):
        lab.connect("bob", to="gateway-09")
    with pytest.raises(ValueError, match="alice is here already"):
        lab.connect("alice")
    assert lab.connect("bob").gateway == "gateway-01"


def test_a_timed_out_wait_names_its_condition(lab: Lab) -> None:
    """The text of the TimeoutError has its name."""
    with pytest.raises(TimeoutError, match=r"not within 0\.05 s: pigs fly"):
        lab.wait_until("pigs fly", lambda: False, timeout_s=0.05)


def test_a_condition_may_call_the_lab_itself(lab: Lab) -> None:
    """It is evaluated in the cell's thread."""
    lab.connect("alice", to="gateway-02")
    lab.wait_until("Redis knows alice", lambda: lab.record("alice")["gwId"] == "gateway-02")


def test_a_held_cleanup_runs_when_it_is_released(lab: Lab) -> None:
    """And it changes nothing under the fenced presence."""
    alice = lab.connect("alice", to="gateway-01")
    lab.hold_cleanup("alice", at="gateway-01")
    alice.move("gateway-02")
    lab.let_go("alice", at="gateway-01")
    assert lab.record("alice")["gwId"] == "gateway-02"
    trace = lab.trace()
    late = trace[(trace["kind"] == "presence_reject") & (trace["user"] == "alice")]
    assert late["reason"].tolist() == ["other owner"]


def test_a_lab_works_in_any_database(shared_server: BundledServer) -> None:
    """The gateways of a lab in database 3 communicate on channels of that database."""
    import redis

    url = shared_server.url.rpartition("/")[0] + "/3"
    with Lab(gateways=2, redis=url) as lab, redis.Redis.from_url(url) as database:
        alice = lab.connect("alice")
        lab.connect("bob", "gateway-02")
        assert alice.send("bob", "across").status == "routed"
        assert lab.record("alice")["gwId"] == "gateway-01"
        channels = database.pubsub_channels("db3:lab:*")
        assert len(channels) == 3


def test_a_lab_that_cannot_start_says_why_and_leaves_nothing() -> None:
    """A named Redis that is not there is an error, and no thread stays."""
    threads = set(threading.enumerate())
    with pytest.raises(ServerError, match=r"127\.0\.0\.1:1 "):
        Lab(gateways=1, redis="redis://127.0.0.1:1")
    assert set(threading.enumerate()) == threads
    with pytest.raises(ValueError, match="1 to 20 gateways"):
        Lab(gateways=0)


def test_users_names_are_escaped_where_a_cell_shows_them(lab: Lab) -> None:
    """`repr` in a cell is HTML, and names are text."""
    assert "&lt;Lab" in lab._repr_html_()


@pytest.mark.slow
def test_a_lab_on_the_kernels_loop_stops_while_a_cell_computes() -> None:
    """There is no thread: gateways run only during calls of the lab, and heartbeats stop."""
    threads = set(threading.enumerate())
    with Lab(gateways=1, loop="kernel") as lab:
        assert all("asyncio" in t.name for t in set(threading.enumerate()) - threads)
        lab.connect("alice")
        lab.watch("alice")
        lab.wait_until("she is seen", lambda: "gateway-01" in set(lab.trace()["gateway"]))
        ttl_s = lab.cluster.timing.presence_ttl_s
        deadline = time.monotonic() + 1.2 * ttl_s
        while time.monotonic() < deadline:
            pass  # A cell that computes: the gateways' loop does not run.
        assert lab.record("alice") == {}
        lab.wait_until("her gateway noticed", lambda: "stall" in set(lab.trace()["kind"]))
        lab.wait_until("she is there again", lambda: lab.record("alice") != {})
    assert lab.leaks() == []


@pytest.mark.slow
def test_a_crowd_from_cells_connects_talks_and_is_counted(lab: Lab) -> None:
    """One line each, no coroutine in sight."""
    crowd = lab.connect_many(30)
    assert len({user.gateway for user in crowd}) == 3
    life = lab.live(30, talk_every_s=10)
    assert "30 users" in repr(life)
    assert "users: 30" in repr(lab)
    crowd[0].lose_heartbeats(following=1)
    lab.wait_until("one is lost", lambda: "drop" in set(lab.trace()["kind"]))


@pytest.mark.slow
def test_accidents_from_cells_are_recorded_and_leave_the_lab_usable() -> None:
    """Crash, drain, freeze, wires and Redis, one after the other."""
    with Lab(gateways=3, wires=True, freezable=["gateway-03"]) as lab:
        alice = lab.connect("alice", to="gateway-01", wired=True)
        bob = lab.connect("bob", to="gateway-02")
        lab.wire("gateway-02", "redis").delay(0.001)
        lab.crash("gateway-01")
        lab.wait_until("alice is back", lambda: alice.gateway in ("gateway-02", "gateway-03"))
        lab.freeze("gateway-03")
        lab.thaw("gateway-03")
        lab.start_gateway("gateway-01")
        alice.move("gateway-02")
        lab.drain("gateway-03")
        assert bob.send("alice", "still here").status == "routed"
        assert alice.receive().content == "still here"
        lab.redis.freeze()
        lab.redis.thaw()
        lab.set_clock("gateway-01", -10)
        alice.vanish()
        kinds = set(lab.trace()["kind"])
        assert {"crash", "freeze", "thaw", "drain", "fault", "ws_close"} <= kinds
    assert lab.leaks() == []


def test_users_find_gateways_again_that_were_all_started_anew() -> None:
    """Where they were before; elsewhere only when somebody else has got the port."""
    with Lab(gateways=2, freezable=["gateway-02"]) as lab:
        alice, before = lab.connect("alice", to="gateway-01"), dict(lab.cluster.urls)
        for name in before:
            lab.crash(name)
        for name in before:
            lab.start_gateway(name)
        assert lab.cluster.urls == before
        lab.wait_until("alice is back", lambda: alice.gateway in before)
        port = lab.cluster.host("gateway-02").port
        lab.crash("gateway-02")
        with socket.create_server(("127.0.0.1", port)):
            lab.start_gateway("gateway-02")
            assert lab.cluster.host("gateway-02").port != port
    assert lab.leaks() == []


def test_where_answers_right_after_redis_was_started_again() -> None:
    """The connection on which it asked before has ended with the old Redis."""
    with Lab(gateways=1) as lab:
        alice = lab.connect("alice")
        assert lab.where().loc["alice", "Redis says"] == alice.gateway
        lab.redis.restart()
        assert lab.where().loc["alice", "socket"] == alice.gateway
        lab.wait_until("it is known", lambda: lab.where().loc["alice", "Redis says"] != "(nobody)")


def test_an_interrupted_cell_leaves_the_lab_usable(lab: Lab) -> None:
    """The work is cancelled on its loop; the next call works."""
    alice, bob = lab.connect("alice"), lab.connect("bob", to="gateway-02")
    stop_button = threading.Timer(0.2, _thread.interrupt_main)
    stop_button.start()
    with pytest.raises(KeyboardInterrupt):
        alice.receive(timeout_s=25)
    stop_button.join()
    assert bob.send("alice", "still there?").status == "routed"
    assert alice.receive().content == "still there?"


def test_the_record_of_a_lab_can_be_read_by_other_tools(lab: Lab) -> None:
    """A log with a vector clock for each event."""
    alice, bob = lab.connect("alice"), lab.connect("bob", to="gateway-02")
    alice.send("bob", "hello")
    bob.receive()
    assert '"gateway-02"' in lab.shiviz() and "alice" in lab.shiviz()


def test_long_work_shows_one_progress_line_and_removes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most four updates a second in an interactive session, none elsewhere."""
    display = Display()
    monkeypatch.setattr("IPython.display.display", display)
    with progress.ProgressLine(progress.Count("users connected", 10)) as line:
        line.show()
    assert display.shown == []
    monkeypatch.setattr(progress, "watched", lambda: True)
    monkeypatch.setattr("wsdemo.lab.progress.time.monotonic", itertools.count(step=0.01).__next__)
    count = progress.Count("users connected", 1000)
    with progress.ProgressLine(count) as line:
        for count.done in range(1, 101):  # A second of this clock.
            line.show()
    assert 3 <= len(display.shown) - 1 <= 4
    assert display.shown[-1] == ""
    assert "of 1,000" in display.shown[0]


def test_leftovers_of_a_lab_are_detected(lab: Lab) -> None:
    """A socket to one of its gateways that is still open, and a key that was written late."""
    with socket.create_connection(("127.0.0.1", lab.cluster.gateway("gateway-01").port)) as held:
        (leak,) = {leak.partition(" ")[0] for leak in lab.cluster.leaks()}
        assert leak == "socket" and held.fileno() > 0


def test_an_exception_in_a_labs_block_leaves_nothing_behind() -> None:
    """With a wire held, a gateway frozen and users connected."""
    children = set(psutil.Process().children(recursive=True))
    with (
        pytest.raises(ZeroDivisionError),
        Lab(gateways=2, wires=True, freezable=["gateway-02"]) as lab,
    ):
        lab.connect("alice", wired=True)
        lab.start_process("gateway-03")
        lab.hold_cleanup("alice", at="gateway-01")
        lab.wire("gateway-01", "redis").hold()
        lab.freeze("gateway-02")
        _ = 1 / 0
    assert lab.leaks() == []
    assert set(psutil.Process().children(recursive=True)) == children

"""Teacher's buttons: does each one do to the cluster what it says, and say so when it cannot?

Pressed through the real feed of a teacher's board; what they do is looked up in the cluster.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from websockets.sync.client import ClientConnection

from tests.lab.classroom.visitors import (
    closing,
    hear,
    press,
    say,
    student,
    teacher,
    websocket,
)
from wsdemo.lab import Lab
from wsdemo.lab.classroom import controls
from wsdemo.lab.classroom.room import Classroom

pytestmark = pytest.mark.xdist_group("clock")


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab(gateways=2, scale=6, freezable=["gateway-02"]) as lab:
        yield lab
    assert lab.leaks() == []


@pytest.fixture
def room(lab: Lab) -> Classroom:
    return lab.classroom()


@pytest.fixture
def board(room: Classroom) -> Iterator[ClientConnection]:
    with teacher(room) as board:
        yield board


def done(answer: dict[str, Any]) -> bool:
    assert answer["type"] == "done", answer
    return True


def why(answer: dict[str, Any]) -> str:
    assert answer["type"] == "failed", answer
    return str(answer["why"])


# --- gateways --------------------------------------------------------------------------------


def test_crash_and_start(lab: Lab, room: Classroom, board: ClientConnection) -> None:
    """A crashed gateway is gone, its students see 1006, and it can be started again."""
    with student(room, "Ann") as ann:
        with ann.at("gateway-01") as gateway:
            assert done(press(board, "crash", g="gateway-01"))
            assert closing(gateway)[0] == 1006
        assert list(lab.cluster.hosts) == ["gateway-02"]
        assert why(press(board, "crash", g="gateway-01")) == (
            "gateway-01 does not run: start it first"
        )
        assert done(press(board, "start", g="gateway-01"))
        with ann.at("gateway-01"):
            assert why(press(board, "start", g="gateway-01")) == (
                "gateway-01 is running: crash or drain it first"
            )


def test_drain(lab: Lab, room: Classroom, board: ClientConnection) -> None:
    """Its students are sent away with 1012, and their entries are released."""
    with student(room, "Ann") as ann, ann.at("gateway-01") as gateway:
        assert done(press(board, "drain", g="gateway-01"))
        assert closing(gateway)[0] == 1012
        assert "gateway-01" not in lab.cluster.hosts
        assert lab.record(ann.user) == {}
    assert "does not run" in why(press(board, "drain", g="gateway-01"))


def test_freeze_and_thaw(lab: Lab, board: ClientConnection) -> None:
    """Only a gateway with a loop of its own can be frozen; each press twice is said so."""
    assert "shares its loop with the others" in why(press(board, "freeze", g="gateway-01"))
    assert why(press(board, "thaw", g="gateway-02")) == "gateway-02 is not frozen"
    assert done(press(board, "freeze", g="gateway-02"))
    assert lab.cluster.hosts["gateway-02"].frozen
    assert why(press(board, "freeze", g="gateway-02")) == "gateway-02 is frozen already"
    assert done(press(board, "thaw", g="gateway-02"))
    assert not lab.cluster.hosts["gateway-02"].frozen
    assert lab.health("gateway-02") == "OK"


def test_a_frozen_gateway_crashes_and_the_room_goes_on(lab: Lab, board: ClientConnection) -> None:
    """What needs its loop is refused meanwhile, and not waited for."""
    lab.connect("alice", to="gateway-02")
    assert done(press(board, "freeze", g="gateway-02"))
    refusal = "gateway-02 is frozen: thaw it first"
    assert why(press(board, "hold", g="gateway-02", u="alice")) == refusal
    assert why(press(board, "let_go", g="gateway-02", u="alice")) == refusal
    assert done(press(board, "crash", g="gateway-02"))
    assert done(press(board, "start", g="gateway-02"))
    assert lab.health("gateway-02") == "OK"


def test_hold_and_let_go(lab: Lab, room: Classroom, board: ClientConnection) -> None:
    """The clean-up of a student waits at the old gateway, and comes too late."""
    with student(room, "Ann") as ann:
        with ann.at("gateway-01"):
            assert done(press(board, "hold", g="gateway-01", u=ann.user))
            assert why(press(board, "hold", g="gateway-01", u=ann.user)) == (
                f"the clean-up of {ann.user} at gateway-01 is held already"
            )
        with ann.at("gateway-02"):
            lab.wait_until("it waits", lambda: [h.waiting for h in lab.cluster.held] == [1])
            assert done(press(board, "let_go", g="gateway-01", u=ann.user))
            assert lab.cluster.held == []
            assert lab.record(ann.user)["gwId"] == "gateway-02"  # Fenced: it was refused.
    trace = lab.trace()
    late = trace[(trace["kind"] == "presence_reject") & (trace["user"] == ann.user)]
    assert late["reason"].tolist() == ["other owner"]


def test_let_go_of_what_does_not_wait_yet_ends_the_holding(
    lab: Lab, board: ClientConnection
) -> None:
    """At once: nobody waits for a clean-up that has not begun."""
    lab.connect("alice", to="gateway-01")
    assert done(press(board, "hold", g="gateway-01", u="alice"))
    assert done(press(board, "let_go", g="gateway-01", u="alice"))
    assert lab.cluster.held == []
    assert "no release of alice is held" in why(press(board, "let_go", g="gateway-01", u="alice"))


def test_nobody_of_an_unknown_name_is_held(board: ClientConnection) -> None:
    """A typing error is no wait without end."""
    assert why(press(board, "hold", g="gateway-01", u="nobody")) == "there is no user 'nobody'"


# --- Redis -----------------------------------------------------------------------------------


def test_kill_redis_and_start_it_empty(lab: Lab, room: Classroom, board: ClientConnection) -> None:
    """Killed twice is said so; started, it is empty, and the gateways bring the entries back."""
    with student(room, "Ann") as ann, ann.at("gateway-01"):
        lab.wait_until("Redis knows her", lambda: lab.record(ann.user) != {})
        assert done(press(board, "redis_stop"))
        assert not lab.cluster.redis.running
        refusal = "Redis does not run: start it first"
        for button in ("redis_stop", "redis_freeze", "redis_thaw"):
            assert why(press(board, button)) == refusal
        assert done(press(board, "redis_start"))
        assert lab.cluster.redis.running


def test_freeze_redis_and_let_it_go_on(lab: Lab, board: ClientConnection) -> None:
    """And restart it while it is frozen."""
    assert why(press(board, "redis_thaw")) == "Redis is not frozen"
    assert done(press(board, "redis_freeze"))
    assert lab.cluster.redis.frozen
    assert why(press(board, "redis_freeze")) == "Redis is frozen already"
    assert done(press(board, "redis_thaw"))
    assert not lab.cluster.redis.frozen
    assert done(press(board, "redis_freeze"))
    assert done(press(board, "redis_start"))
    assert not lab.cluster.redis.frozen
    lab.wait_until("it answers", lambda: lab.record("nobody") == {})


# --- the room --------------------------------------------------------------------------------


def test_ask_and_reveal(room: Classroom, board: ClientConnection) -> None:
    """A question of the lessons appears on the phones, and its answer."""
    assert why(press(board, "reveal", a="4")).startswith("nothing was asked yet")
    assert "there is no question 'q99'" in why(press(board, "ask", q="q99"))
    with student(room, "Ann") as ann:
        assert done(press(board, "ask", q="q00"))
        while (question := hear(ann.feed, "class").get("question")) is None:
            pass
        say(ann.feed, type="vote", q=question["id"], o="5")
        room.lab.wait_until("she has voted", lambda: room.votes == {ann.user: "5"})
        assert done(press(board, "reveal", a="4"))
        while (question := hear(ann.feed, "class")["question"])["answer"] is None:
            pass
    assert question["answer"] == "4"
    assert question["tally"]["5"] == 1


def test_admission_is_closed_and_opened(room: Classroom, board: ClientConnection) -> None:
    """New students wait outside; those who have a seat do not."""
    with student(room, "Ann") as ann, websocket(room, "/desk") as feed:
        assert done(press(board, "admission", open=False))
        say(feed, type="join", code=room.code, name="Bob")
        assert hear(feed, "no")["why"] == "the teacher admits nobody at the moment"
        say(feed, type="join", seat=ann.secret)
        assert hear(feed, "seated")["user"] == ann.user
        assert done(press(board, "admission", open=True))
        with student(room, "Bob") as bob:
            assert bob.user == "bob"


# --- presses that no board sends -------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({}, "there is no button ''"),
        ({"what": "crsh", "g": "gateway-01"}, "did you mean 'crash'?"),
        ({"what": ["crash"], "g": "gateway-01"}, "there is no button ''"),
        ({"what": "x" * 3000}, "there is no button 'xxx"),
        ({"what": "crash"}, "there is no gateway ''"),
        ({"what": "crash", "g": "gateway-1"}, "there is no gateway 'gateway-1'"),
        ({"what": "crash", "g": {"a": 1}}, "there is no gateway ''"),
        ({"what": "start", "g": "redis"}, "there is no gateway 'redis'"),
        ({"what": "hold", "g": "gateway-01", "u": 7}, "there is no user ''"),
    ],
)
def test_a_press_that_means_nothing_is_answered_in_words(
    board: ClientConnection, document: dict[str, Any], words: str
) -> None:
    """And no task fails."""
    say(board, type="do", **document)
    assert words in why(hear(board, "failed"))


def test_a_second_press_is_told_that_the_first_is_not_over(
    lab: Lab, board: ClientConnection
) -> None:
    """One act at a time for each gateway; other gateways do not wait for it."""
    lab.connect("alice", to="gateway-01")
    assert done(press(board, "redis_freeze"))  # So the drain has to wait for Redis.
    say(board, type="do", what="drain", g="gateway-01")
    assert why(press(board, "crash", g="gateway-01")) == (
        "gateway-01: drain is not over yet; wait for it"
    )
    assert done(press(board, "freeze", g="gateway-02"))
    assert done(press(board, "thaw", g="gateway-02"))
    assert done(press(board, "redis_thaw"))
    assert hear(board, "done")["what"] == "drain"
    assert "gateway-01" not in lab.cluster.hosts


def test_what_goes_wrong_inside_an_act_is_read_on_the_board(
    lab: Lab, board: ClientConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the lab's own words, or with the name of a bug."""

    async def fails(name: str) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(lab.cluster, "drain", fails)
    assert why(press(board, "drain", g="gateway-01")) == "ZeroDivisionError: a bug"


def test_every_press_is_on_the_board(room: Classroom, board: ClientConnection) -> None:
    """Students see what the teacher did, and when."""
    assert done(press(board, "crash", g="gateway-01"))
    with websocket(room, f"/feed?k={room.code}") as viewer:
        acts: list[dict[str, Any]] = []
        while not acts:
            batch = hear(viewer, "batch")
            acts = [event for event in batch.get("e", ()) if event["k"] == "act"]
    assert [(act["w"], act["g"]) for act in acts] == [("crash", "gateway-01")]


def test_a_room_that_closes_waits_for_an_act_that_is_not_over(
    lab: Lab, room: Classroom, board: ClientConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a drain would leave half a gateway."""
    say(board, type="do", what="drain", g="gateway-01")
    lab.wait_until("it has begun", lambda: "gateway-01" not in lab.cluster.hosts)
    room.close()
    assert "stopped" in set(lab.trace()["kind"])
    assert controls.END_S > 0

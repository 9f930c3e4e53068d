"""Translation: does a board learn who wrote to whom, and what presence answered, as it was?"""

from __future__ import annotations

from typing import Any

import pytest

from wsdemo.events import Event, Kind
from wsdemo.lab.classroom.translator import CLOSED_KEPT, Translator
from wsdemo.presence import Release

G1, G2 = "gateway-01", "gateway-02"


def at(kind: Kind, gateway: str = G1, t: float = 100.0, **fields: Any) -> Event:
    """Return an event of a gateway."""
    return Event(kind, t, gateway, gateway=gateway, **fields)


def translated(*events: Event) -> list[dict[str, Any]]:
    """Return what a board sees of these events; the record began at 90."""
    return Translator(90.0, 15.0).translate(events)


def test_a_register_tells_the_gateway_before_and_when_the_lease_ends() -> None:
    """The script has just set the TTL."""
    (row,) = translated(at(Kind.PRESENCE_SET, user="ann", conn_id="c1", peer=G2))
    assert row == {"k": "set", "u": "ann", "g": G1, "c": "c1", "x": 25.0, "p": G2, "t": 10.0}


@pytest.mark.parametrize("found", [Release.OTHER_OWNER, Release.NO_ENTRY])
def test_a_refused_clean_up_says_what_was_found(found: Release) -> None:
    """Another's entry was saved, or there was none: the board need not guess."""
    (row,) = translated(at(Kind.PRESENCE_REJECT, user="ann", conn_id="c1", reason=found.value))
    assert (row["k"], row["r"]) == ("rej", found.value)


def test_a_message_between_two_gateways_is_shown_once() -> None:
    """As the route that its sender's gateway took; the delivery is the end of the same way."""
    rows = translated(
        at(Kind.PRESENCE_SET, user="ann", conn_id="a"),
        at(Kind.MESSAGE, user="ann", peer="ben", msg_id="1"),
        at(Kind.RECEIVE, G2, user="ben", peer="ann", msg_id="1"),
        at(Kind.DELIVER, G2, user="ben", peer="ann", msg_id="1"),
        at(Kind.ROUTE, user="ben", peer=G2, conn_id="a", msg_id="1", reason="routed"),
    )
    (message,) = (row for row in rows if row["k"] == "msg")
    assert message == {"k": "msg", "u": "ann", "v": "ben", "g": G1, "h": G2, "s": "routed", "t": 10}


def test_a_message_within_a_gateway_is_local() -> None:
    """Redis is not asked, so there is no route."""
    rows = translated(
        at(Kind.MESSAGE, user="ann", peer="ben", msg_id="1"),
        at(Kind.DELIVER, user="ben", peer="ann", msg_id="1"),
    )
    assert [(r["u"], r["v"], r["h"], r["s"]) for r in rows] == [("ann", "ben", G1, "local")]


def test_messages_that_share_an_id_have_their_own_senders() -> None:
    """Each client numbers its own messages, and some give no number at all."""
    rows = translated(
        at(Kind.PRESENCE_SET, user="ann", conn_id="a"),
        at(Kind.PRESENCE_SET, user="eve", conn_id="e"),
        *(at(Kind.MESSAGE, user=user, peer="ben") for user in ("ann", "eve")),
        at(Kind.ROUTE, user="ben", conn_id="e", reason="offline"),
        at(Kind.ROUTE, user="ben", conn_id="a", reason="offline"),
    )
    assert [row["u"] for row in rows if row["k"] == "msg"] == ["eve", "ann"]


def test_an_answer_after_the_end_of_a_connection_still_has_its_sender() -> None:
    """A gateway that stops may learn the outcome later."""
    rows = translated(
        at(Kind.PRESENCE_SET, user="ann", conn_id="a"),
        at(Kind.STOPPED),
        at(Kind.ROUTE, user="ben", conn_id="a", reason="unknown"),
    )
    assert rows[-1]["u"] == "ann"


def test_a_bounce_is_followed_by_deliveries_as_usual() -> None:
    """A message from Redis ends at the gateway as a delivery or as a bounce."""
    rows = translated(
        at(Kind.RECEIVE, G2, user="ben", peer="ann"),
        at(Kind.BOUNCE, G2, user="ben", peer="ann"),
        at(Kind.DELIVER, G2, user="ben", peer="eve"),
    )
    assert [(row["k"], row["u"], row["v"]) for row in rows] == [
        ("bounce", "ben", "ann"),
        ("msg", "eve", "ben"),
    ]


def test_only_the_gateways_word_ends_a_connection() -> None:
    """A client reports its own end too, of which a gateway may know nothing yet."""
    client = Event(Kind.WS_CLOSE, 100.0, "ann", user="ann", gateway=G1, conn_id="a")
    assert translated(client) == []
    assert [row["k"] for row in translated(at(Kind.WS_CLOSE, user="ann", conn_id="a"))] == ["close"]


def test_a_redis_that_is_restarted_comes_back() -> None:
    """The laboratory notes one event for both."""
    redis = Event(Kind.CRASH, 100.0, "redis", reason="restarted")
    assert [row["k"] for row in translated(redis)] == ["redis_down", "redis_up"]


def test_of_many_messages_those_of_people_are_shown() -> None:
    """All are counted, and the rest is said to be left out; nothing else is ever left out."""
    translator = Translator(90.0, 15.0)
    crowd = [at(Kind.DELIVER, user="user001", peer="user002") for _ in range(30)]
    people = [at(Kind.DELIVER, user="user001", peer="ann"), at(Kind.DELIVER, user="ben", peer="x")]
    crash = Event(Kind.CRASH, 100.0, G2)
    rows = translator.translate([*crowd, *people, crash], at_most=12)
    assert [row["k"] for row in rows] == ["msg"] * 12 + ["crash"]
    assert [(row["u"], row["v"]) for row in rows[10:12]] == [("ann", "user001"), ("x", "ben")]
    assert (translator.messages, translator.skipped) == (32, 20)


def test_what_is_remembered_is_bounded() -> None:
    """Users come and go all day; open connections are remembered, and some that have ended."""
    translator = Translator(90.0, 15.0)
    for number in range(5 * CLOSED_KEPT):
        session: dict[str, Any] = {"user": f"u{number}", "conn_id": f"c{number}"}
        translator.translate([at(Kind.PRESENCE_SET, **session), at(Kind.WS_CLOSE, **session)])
    assert len(translator._open) == 0
    assert len(translator._closed) == CLOSED_KEPT

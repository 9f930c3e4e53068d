"""Class room: does a board hear what the schema says, and does a saved run ask nobody?"""

from __future__ import annotations

import json
import re

import jsonschema  # type: ignore[import-untyped]
import pytest

from tests.lab.classroom.visitors import student, websocket
from wsdemo.lab import Lab
from wsdemo.lab.classroom.pages import STATIC
from wsdemo.lab.classroom.recording import to_html
from wsdemo.lab.classroom.room import Classroom

pytestmark = pytest.mark.xdist_group("clock")


def test_what_a_board_hears_is_what_the_schema_says(room: Classroom) -> None:
    """Each document, in a class with a drain and a crash."""
    schema = json.loads((STATIC / "observer.schema.json").read_text(encoding="utf-8"))
    judge = jsonschema.Draft202012Validator(schema)
    with student(room, "Ann") as ann, ann.at("gateway-01") as gateway:
        gateway.send('{"type":"message","to":"nobody","content":"?","id":"1"}')
        gateway.recv(5)
        room.lab.drain("gateway-01")
    room.lab.crash("gateway-02")
    kinds: set[str] = set()
    room.lab.wait_until("the feed has told of it", lambda: "crash" in str(room.feed.history))
    with websocket(room, f"/feed?k={room.code}") as board:
        while (document := json.loads(board.recv(5)))["type"] != "live":
            judge.validate(document)
            kinds |= {event["k"] for event in document.get("e", ())}
    assert {"ready", "seat", "set", "close", "msg", "crash", "drain", "stopped"} <= kinds
    assert not judge.is_valid({"type": "batch", "t": 1, "e": [{"t": 1, "k": "msg", "u": "a"}]})


def test_a_saved_run_asks_nobody_for_anything() -> None:
    """The page has everything in it."""
    with Lab(gateways=2, policy="plain") as lab:
        bob, alice = lab.connect("bob"), lab.connect("alice")
        lab.hold_cleanup("alice", at="gateway-01")
        alice.move("gateway-02")
        lab.let_go("alice", at="gateway-01")
        bob.send("alice", "hello")
        page = to_html(lab, "<late & clean>")
    assert "&lt;late &amp; clean&gt;" in page
    rest = page.replace("http://www.w3.org/2000/svg", "")
    assert "http://" not in rest
    assert "https://" not in rest
    assert not re.search(r"^(import|export) ", page, re.MULTILINE)

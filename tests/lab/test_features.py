"""Optional features in the laboratory: does a cell get them, and words where they are missing?"""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from wsdemo.lab import Lab
from wsdemo.lab.errors import LabRefused
from wsdemo.lab.lessons import start


def test_a_backend_asks_the_server_api_and_a_user_hears_it(capsys: Any) -> None:
    """As lesson 00 shows it; the key stands in no output."""
    with Lab(gateways=2, scale=20, api=True) as lab:
        bob = lab.connect("bob", to="gateway-02")
        assert start.curl(lab, "/api/presence/bob")["online"] is True
        told = start.curl(lab, "/api/publish", {"to": "bob", "content": "It's here"})
        assert told["status"] == "routed"
        assert (bob.receive().sender, len(lab.api_key)) == ("@app", 64)
        assert lab.api_key not in capsys.readouterr().out
    assert lab.leaks() == []


def test_the_server_api_can_be_asked_where_there_is_no_curl(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With what Python has."""
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with Lab(gateways=1, scale=20, api=True) as lab:
        assert start.curl(lab, "/api/presence/bob")["online"] is False
        answer = start.curl(lab, "/api/publish", {"to": "bob", "content": "Hi"})
        assert answer["status"] == "offline"


def test_what_needs_the_server_api_is_refused_where_there_is_none() -> None:
    """In words that say what to do."""
    with Lab(gateways=1, scale=20) as lab:
        assert lab.api_key == ""
        with pytest.raises(LabRefused, match=r"Lab\(api=True\)"):
            lab.api_url("gateway-01")


@pytest.mark.parametrize("option", [{"api": True}, {"devices": 2}, {"rooms": True}])
def test_a_real_process_has_no_optional_feature(option: dict[str, Any]) -> None:
    """It would be another gateway than the others of its lab."""
    with (
        Lab(gateways=1, scale=20, **option) as lab,
        pytest.raises(LabRefused, match="no optional feature"),
    ):
        lab.start_process("gateway-09")


def test_gateways_with_devices_serve_a_user_who_names_none() -> None:
    """And the entry goes with the only device."""
    with Lab(gateways=2, scale=20, devices=2, watch=True) as lab:
        alice, bob = lab.connect("alice"), lab.connect("bob", to="gateway-02")
        assert alice.send("bob", "Hi").status == "routed" and bob.receive().content == "Hi"
        bob.disconnect()
        lab.wait_until("his entry is gone", lambda: lab.record("bob") == {})
    assert lab.leaks() == []


def test_nothing_of_a_gateway_that_crashes_reaches_redis() -> None:
    """Not by its rooms either: the members stay listed until the lease of the gateway ends."""
    with Lab(gateways=2, scale=5, rooms=True) as lab:
        alice = lab.connect("alice", wired=True)
        bob = lab.connect("bob", to="gateway-02")
        alice.join("lobby")
        assert set(bob.join("lobby")) == {"alice", "bob"}
        alice.vanish()
        lab.crash("gateway-01")
        key = lab.cluster.keyspace.key("room", "lobby")
        import redis

        with redis.Redis.from_url(lab.cluster.redis_url, decode_responses=True) as database:
            kept: Any = database.hget(key, "alice")
        assert str(kept).startswith("in ")


def test_a_durable_user_lives_on_behind_a_gap() -> None:
    """Who reads for the first time is told that something may be missing: it is counted."""
    with Lab(gateways=2, scale=20, durable=True) as lab:
        lab.connect("alice", durable=True)
        bob = lab.connect("bob", to="gateway-02")
        assert bob.send("alice", "Hi", durable=True).status == "stored"
        life = lab.live(20, talk_every_s=2)
        assert life.gaps == 1 and "gaps told: 1" in repr(life)
        assert life.received >= 1

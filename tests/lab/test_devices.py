"""Several devices of a user in the laboratory: does a cell get them, and do figures name each?"""

from __future__ import annotations

from typing import Any

import pytest

from wsdemo.client import ClientClosed
from wsdemo.lab import Lab
from wsdemo.lab.errors import LabRefused
from wsdemo.lab.plots import ribbons, spacetime
from wsdemo.lab.trace import frames

WHOLE_KEY = """
if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then
  return redis.call('DEL', KEYS[1])
end
return 0
"""


def test_a_message_reaches_the_phone_and_the_laptop_and_the_figure_names_both() -> None:
    """One arrow for each device, from the gateway where it is."""
    with Lab(gateways=3, scale=20, devices=2) as lab:
        bob = lab.connect("bob", to="gateway-01")
        phone = lab.connect("alice", to="gateway-02", device="phone")
        laptop = lab.connect("alice", to="gateway-03", device="laptop")
        assert (phone.name, laptop.name) == ("alice/phone", "alice/laptop")
        receipt = bob.send("alice", "Hi")
        assert phone.receive().content == laptop.receive().content == "Hi"
        trace = lab.trace()
        arrows = frames.arrows(trace)
        arrows = arrows[arrows["msg_id"] == receipt.id]
        last = {(row.lane, row.peer) for row in arrows.itertuples() if row.kind == "deliver"}
        assert last == {("gateway-02", "alice/phone"), ("gateway-03", "alice/laptop")}
        told = {row.peer for row in arrows.itertuples() if row.kind == "publish"}
        assert told == {"gateway-02", "gateway-03"} and not arrows["lost"].any()
        picture = spacetime(trace, msg_id=receipt.id)
        assert {"alice/phone", "alice/laptop"} <= set(_labels(picture))
    assert lab.leaks() == []


def test_two_devices_at_one_gateway_get_an_arrow_each() -> None:
    """The gateway delivers once to each of them."""
    with Lab(gateways=1, scale=20, devices=2) as lab:
        bob = lab.connect("bob")
        devices = [lab.connect("alice", device=name) for name in ("phone", "laptop")]
        receipt = bob.send("alice", "Hi")
        for device in devices:
            device.receive()
        trace = lab.trace()
        arrows = frames.arrows(trace)
        arrows = arrows[arrows["msg_id"] == receipt.id]
        last = sorted(row.peer for row in arrows.itertuples() if row.kind == "deliver")
        assert last == ["alice/laptop", "alice/phone"]


def test_each_device_is_a_user_of_its_own_in_a_trace() -> None:
    """Its socket and its entry are compared, and a release of one is no harm to the other."""
    with Lab(gateways=2, scale=20, devices=2) as lab:
        phone = lab.connect("alice", to="gateway-01", device="phone")
        lab.connect("alice", to="gateway-02", device="laptop")
        where = lab.where()
        assert where["Redis says"].to_dict() == where["socket"].to_dict()
        assert list(where.index) == ["alice/phone", "alice/laptop"]
        phone.disconnect()
        lab.wait_until("the phone is released", lambda: "s:phone" not in lab.record("alice"))
        trace = lab.trace()
        effects = frames.verdicts(trace)
        assert set(effects["user"]) == {"alice/phone", "alice/laptop"}
        assert "lost" not in set(effects["effect"])
        assert frames.users(trace) == ["alice/phone", "alice/laptop"]
        assert ribbons(trace, scale=20).wsdemo_facts["wrong_users"] == 0


def test_a_device_that_vanishes_leaves_the_other_one() -> None:
    """The wires of a device are its own, and so is its place in the lab."""
    with Lab(gateways=2, scale=20, devices=2) as lab:
        phone = lab.connect("alice", device="phone", wired=True)
        laptop = lab.connect("alice", to="gateway-02", device="laptop", wired=True)
        phone.vanish()
        assert list(lab.users) == ["alice/laptop"] and laptop.gateway == "gateway-02"
        with pytest.raises(LabRefused, match="alice/phone has vanished"):
            phone.receive()
        lab.wire("alice/laptop").hold()
        lab.wire("alice/laptop").release()
        bob = lab.connect("bob")
        assert bob.send("alice", "Hi").status == "routed"
        assert laptop.receive().content == "Hi"
    assert lab.leaks() == []


def test_one_device_too_many_ends_the_first_one() -> None:
    """As the gateways do it."""
    with Lab(gateways=1, scale=20, devices=2) as lab:
        phone = lab.connect("alice", device="phone")
        lab.connect("alice", device="laptop")
        lab.connect("alice", device="tablet")
        lab.wait_until("the phone has to go", lambda: phone.gateway == "")
        with pytest.raises((LabRefused, ClientClosed)):
            phone.receive()


@pytest.mark.parametrize(
    ("devices", "device", "words"),
    [
        (1, "phone", r"Lab\(devices=2\)"),
        (2, "my phone", "no name for a device"),
        (2, 7, "no name for a device"),
        (2, "laptop", "alice/laptop is here already"),
    ],
)
def test_a_device_that_cannot_be_is_refused(devices: int, device: Any, words: str) -> None:
    """In words that say what to do."""
    with Lab(gateways=1, scale=20, devices=devices) as lab:
        if devices > 1:
            lab.connect("alice", device="laptop")
        with pytest.raises(LabRefused, match=words):
            lab.connect("alice", device=device)


def test_a_release_that_deletes_the_whole_key_hides_the_laptop_until_its_next_refresh() -> None:
    """Lesson 04, the second phone: Bob is told `offline`, then the heartbeat repairs it."""
    with Lab(gateways=2, scale=2, devices=2, release_device=WHOLE_KEY) as lab:
        bob = lab.connect("bob")
        phone = lab.connect("alice", device="phone")
        laptop = lab.connect("alice", to="gateway-02", device="laptop")
        lab.hold("alice", at="gateway-02", verb="refresh")
        phone.disconnect()
        lab.wait_until("the phone is released", lambda: lab.record("alice") == {})
        assert bob.send("alice", "Are you there?").status == "offline"
        assert laptop.gateway == "gateway-02"
        lab.let_all_go()
        lab.wait_until("the laptop is listed again", lambda: "s:laptop" in lab.record("alice"))
        assert bob.send("alice", "And now?").status == "routed"
        assert laptop.receive().content == "And now?"
    assert lab.leaks() == []


def test_a_release_by_script_is_for_labs_with_devices() -> None:
    """A user with one device has no such release."""
    with pytest.raises(LabRefused, match="devices=2"):
        Lab(gateways=1, scale=20, release_device=WHOLE_KEY)


def _labels(picture: Any) -> list[str]:
    return [text.get_text() for ax in picture.axes for text in ax.get_yticklabels()]

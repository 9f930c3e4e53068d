"""Mistakes in what a gateway does with several devices of a user.

Those in the scripts are in `tests/presence/test_devices.py`, beside the histories that find them.
"""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Mutant

_TESTS: Final = "tests/gateway/test_devices.py"
_BAD: Final = "tests/bad_input/test_devices.py"
_PRESENCE: Final = "tests/presence/test_devices.py"


def _gateway(name: str, piece: str, replacement: str) -> Mutant:
    return Mutant(name, "gateway/devices.py", piece, replacement, (_TESTS,))


def _bad_input(name: str, piece: str, replacement: str) -> Mutant:
    return Mutant(name, "gateway/devices.py", piece, replacement, (_BAD,))


def _delivery(name: str, piece: str, replacement: str) -> Mutant:
    return Mutant(name, "gateway/delivery.py", piece, replacement, (_TESTS,))


IN_DEVICES: Final = (
    _gateway(
        "a user has one device here",
        "self._set_user(session.user, (*others, session))",
        "self._set_user(session.user, (session,))",
    ),
    _gateway(
        "a device that was replaced still gets messages",
        "others = [one for one in self.all_of(session.user) if one is not earlier]",
        "others = list(self.all_of(session.user))",
    ),
    _gateway(
        "the end of an older session removes the newer one of its device",
        "        if self._by_device.get(device) is not session:\n",
        "        if device not in self._by_device:\n",
    ),
    _gateway(
        "who has left still gets messages",
        "rest = [one for one in self.all_of(session.user) if one is not session]",
        "rest = list(self.all_of(session.user))",
    ),
    _gateway(
        "a message reaches the devices here only",
        "if not self._route(sender, to, head, here, on_reply) and not here:",
        "if not here and not self._route(sender, to, head, here, on_reply):",
    ),
    _gateway(
        "who had a message here gets it by Redis as well",
        "[one.conn_id for one in left_out]",
        "[]",
    ),
    _gateway(
        "a sender is told twice",
        "            partial(self._landed, sender)\n            if here\n            else ",
        "            ",
    ),
    _gateway(
        "an answer of Redis does not count for a message that was handed over here",
        "        sender.in_flight -= 1\n",
        "        pass\n",
    ),
    _gateway(
        "who had an echo here gets it by Redis as well",
        "[sender, *here], partial",
        "[sender], partial",
    ),
    _gateway(
        "an echo comes back to the device that has sent it",
        "[sender, *here], partial",
        "here, partial",
    ),
    _gateway(
        "everything is echoed",
        "        if not message.echo or to == user:\n",
        "        if to == user:\n",
    ),
    _gateway(
        "what is sent to oneself is echoed as well",
        "        if not message.echo or to == user:\n",
        "        if not message.echo:\n",
    ),
    _gateway(
        "an echo looks like a message to its sender",
        """echo = b'%b,"echoTo":"%b"' % (head, to.encode())""",
        "echo = head",
    ),
    _bad_input("a name may have any characters", "[A-Za-z0-9._-]{0,16}", ".{0,16}"),
    _bad_input(
        "a name is looked at from its start only", "DEVICE.fullmatch(sent)", "DEVICE.match(sent)"
    ),
    _delivery(
        "a copy for one of several that is gone is told to its sender",
        "if len(gone) == envelope.of and not envelope.echoTo:",
        "if gone and not envelope.echoTo:",
    ),
    _delivery(
        "a copy that nobody has got is not told to its sender",
        "if len(gone) == envelope.of and not envelope.echoTo:",
        "if False:",
    ),
    _delivery(
        "an echo that nobody has got is told to its sender",
        "if len(gone) == envelope.of and not envelope.echoTo:",
        "if len(gone) == envelope.of:",
    ),
    _delivery(
        "a stale entry of a device is repaired as that of another one",
        "device=copy.device",
        'device="other"',
    ),
    _delivery(
        "who had to go is told at another gateway only",
        "            if claim.gateway_id == self._gateway_id:\n                self._end",
        "            if claim.gateway_id == self._gateway_id:\n                continue\n"
        "                self._end",
    ),
    Mutant(
        "nobody is told of a gateway for one device",
        "presence/devices.py",
        "        if met:\n",
        "        if False:\n",
        (_PRESENCE,),
    ),
    Mutant(
        "each login beside a gateway for one device is a warning",
        "presence/devices.py",
        "            self._has_warned = True\n",
        "",
        (_PRESENCE,),
    ),
)

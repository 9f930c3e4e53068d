"""Machines of the model checker: which subjects are there, and in which scenarios is each played?

The everyday scenarios take seconds, the deep ones minutes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from wsdemo.proof.checker.machines.devices import mutants as devices_mutants
from wsdemo.proof.checker.machines.devices import scenarios as devices
from wsdemo.proof.checker.machines.inbox import mutants as inbox_mutants
from wsdemo.proof.checker.machines.inbox import scenarios as inbox
from wsdemo.proof.checker.machines.presence import mutants as presence_mutants
from wsdemo.proof.checker.machines.presence import scenarios as presence
from wsdemo.proof.checker.machines.rooms import mutants as rooms_mutants
from wsdemo.proof.checker.machines.rooms import scenarios as rooms
from wsdemo.proof.checker.mutants import Equivalent, Mutant
from wsdemo.proof.checker.subject import World


class Checked(NamedTuple):
    """What is played of a subject."""

    everyday: Sequence[World]
    deep: Sequence[World]
    mutants: Sequence[Mutant]
    equivalent: Sequence[Equivalent]
    """Changes that make no difference."""


MACHINES: Final[Mapping[str, Checked]] = {
    "presence": Checked(
        presence.EVERYDAY, presence.DEEP, presence_mutants.MUTANTS, presence_mutants.EQUIVALENT
    ),
    "inbox": Checked(inbox.EVERYDAY, inbox.DEEP, inbox_mutants.MUTANTS, inbox_mutants.EQUIVALENT),
    "devices": Checked(devices.EVERYDAY, devices.DEEP, devices_mutants.MUTANTS, ()),
    "rooms": Checked(rooms.EVERYDAY, rooms.DEEP, rooms_mutants.MUTANTS, rooms_mutants.EQUIVALENT),
}

"""Wires: which TCP relays does a cluster have, and how do its parts find their way through them?

A gateway can reach Redis through a wire, and a user each gateway. The side that dials gets the
address of the near end, and does not notice the wire.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from wsdemo.addresses import RedisAddress
from wsdemo.events import Kind
from wsdemo.lab.errors import LabRefused
from wsdemo.lab.trace.frames import REDIS
from wsdemo.lab.trace.recorder import Recorder
from wsdemo.rig.wire import Bundle, Wire

LOOPBACK: Final = "127.0.0.1"


class ClusterWires:
    """The wires of a cluster, by who dials and, for gateways, what.

    Args:
        recorder: told what is done to a wire.
        rng: returns a random generator for the name of each wire.
    """

    def __init__(self, recorder: Recorder, rng: Callable[[str], random.Random]) -> None:
        self._recorder = recorder
        self._rng = rng
        self._wires: dict[tuple[str, str], list[Wire]] = {}

    async def to_redis(self, gateway: str, url: str) -> str:
        """Return an address under which a gateway finds Redis at the far end of a wire.

        Raises:
            LabRefused: a wire cannot carry this kind of connection.
        """
        address = RedisAddress.parse(url)
        if address.scheme != "redis":
            raise LabRefused(f"no wire leads to a Redis at a {address.scheme}:// address")
        known = self._wires.get((gateway, REDIS))
        if known is None:
            wire = Wire(address.host, address.port, self._rng(f"{gateway} wire"))
            known = self._wires[gateway, REDIS] = [await wire.start()]
        return dataclasses.replace(address, host=LOOPBACK, port=known[0].port).url

    async def to_gateways(self, user: str, ports: Sequence[int]) -> list[str]:
        """Put a new wire between a user and each gateway; return the addresses to dial."""
        wires = [await Wire(LOOPBACK, port, self._rng(f"{user} wire")).start() for port in ports]
        for wire in self._wires.pop((user, ""), []):
            await wire.stop()
        self._wires[user, ""] = wires
        return [_url(wire) for wire in wires]

    def urls_of(self, user: str, gateways: Mapping[int, str]) -> dict[str, str] | None:
        """Return where a user dials each gateway; None when she has no wires.

        Args:
            gateways: port -> name of those that run.
        """
        wires = self._wires.get((user, ""))
        if wires is None:
            return None
        return {gateways[w.target_port]: _url(w) for w in wires if w.target_port in gateways}

    def bundle(self, one: str, other: str = "") -> Bundle:
        """Return the wire between a gateway and "redis", or that of a wired user.

        Raises:
            LabRefused: there is none.
        """
        known = self._wires.get((one, other)) or self._wires.get((other, one))
        if not known:
            how = "Lab(wires=True)" if REDIS in (one, other) else f'connect("{one}", wired=True)'
            there = ", ".join(" - ".join(filter(None, ends)) for ends in self._wires) or "none"
            raise LabRefused(f"there is no wire at {one!r}: it takes {how}; there are: {there}")
        lane = other if one == REDIS else one
        return Bundle(known, lambda what: self._recorder.note(Kind.FAULT, lane, reason=what))

    def release(self) -> None:
        """Let everything pass again."""
        for wire in self._all():
            wire.release()

    async def stop(self) -> set[int]:
        """Stop all wires; return the ports on which they listened."""
        wires, self._wires = self._all(), {}
        await asyncio.gather(*(wire.stop() for wire in wires))
        return {wire.port for wire in wires}

    def _all(self) -> list[Wire]:
        return [wire for wires in self._wires.values() for wire in wires]


def _url(wire: Wire) -> str:
    return f"ws://{LOOPBACK}:{wire.port}/ws"

"""Workload: what do the users of a simulated cluster do?

They send messages, move to another gateway, lose their connection, leave with or without a close
frame, come back, and log in on a second device. In a calm period they only send messages.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from typing import Final

from wsdemo.proof.simulate.devices import Device
from wsdemo.proof.simulate.half_open import HalfOpenWatch
from wsdemo.proof.simulate.network import SimulatedNetwork
from wsdemo.proof.simulate.records import HistoryRecorder

USERS: Final = ("alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi")


class UserCrowd:
    """All users and their devices.

    Args:
        gateways: names of those to which they may connect.
        rng: decides what they do and when.
    """

    def __init__(
        self,
        network: SimulatedNetwork,
        recorder: HistoryRecorder,
        half_open: HalfOpenWatch,
        gateways: Sequence[str],
        rng: random.Random,
    ) -> None:
        self._network = network
        self._recorder = recorder
        self._half_open = half_open
        self._gateways = list(gateways)
        self._rng = rng
        self._made = 0
        self._devices: dict[str, list[Device]] = {user: [] for user in USERS}
        self.tasks: list[asyncio.Task[None]] = []
        """What each user does; until cancelled."""
        self.calm = False
        """Whether users only send messages."""

    def start(self) -> None:
        """Let all users begin, in the next seconds."""
        for user in USERS:
            rng = random.Random(self._rng.random())
            task = self._network.loop.create_task(self._live(user, rng), name=f"life of {user}")
            self.tasks.append(task)

    def living(self, user: str = "") -> Iterator[Device]:
        """Iterate over the devices of a user ('': of all) that are not ended."""
        for name in [user] if user else USERS:
            self._devices[name] = [d for d in self._devices[name] if not self._is_over(d)]
            yield from self._devices[name]

    def all_devices(self) -> list[Device]:
        """Return the devices of all users, also some that have just ended."""
        return [device for devices in self._devices.values() for device in devices]

    def devices(self, user: str) -> list[Device]:
        """Return the devices of a user, also some that have just ended."""
        return self._devices[user]

    def user_of(self, host: str) -> str:
        """Return whose device a host is; '' when it is none."""
        user = host.rpartition("-")[0]
        return user if user in self._devices else ""

    def log_in(self, user: str) -> None:
        """Give a user a new device."""
        self._made += 1
        host = self._network.host(f"{user}-{self._made}")
        self._devices[user].append(Device(self._recorder, user, self._gateways, host))

    def vanish(self, device: Device) -> None:
        """Take a device away without a close frame: no packet leaves it any more."""
        name = device.host.name
        for gateway in self._gateways:
            self._network.lose(name, gateway)
        self._half_open.begin(list(self._network.connections(name)), (device.user,))
        device.note_vanished()
        self._network.bury(device.host)

    def _is_over(self, device: Device) -> bool:
        """Say whether a device has ended; note it when it should not have."""
        if not device.ended:
            return False
        if device.wrong_end:
            text = f"a client of {device.user} gave up: {device.wrong_end}"
            self._recorder.violated("client", text)
        return True

    async def _live(self, user: str, rng: random.Random) -> None:
        await asyncio.sleep(rng.uniform(0.0, 5.0))
        self.log_in(user)
        while True:
            await asyncio.sleep(rng.expovariate(1 / 3.0))
            devices = list(self.living(user))
            if devices:
                self._act(user, devices[-1], rng)
            elif not self.calm:
                await asyncio.sleep(rng.expovariate(1 / 15.0))
                await self._until_busy()
                self.log_in(user)

    async def _until_busy(self) -> None:
        while self.calm:  # noqa: ASYNC110 - in virtual time, asking again costs nothing
            await asyncio.sleep(1.0)

    def _act(self, user: str, device: Device, rng: random.Random) -> None:
        """Do one thing."""
        what = rng.random()
        if self.calm or what < 0.80:
            self._talk(user, device, rng)
        elif what < 0.88:
            device.move(rng.choice(self._gateways))
        elif what < 0.91:
            device.break_off()
        elif what < 0.94:
            device.leave()
        elif what < 0.97:
            self.vanish(device)
        else:
            self.log_in(user)

    def _talk(self, user: str, device: Device, rng: random.Random) -> None:
        """Send one message to another user, or four."""
        to = rng.choice([other for other in USERS if other != user])
        for _ in range(rng.choice((1, 1, 1, 4))):
            device.send(to)

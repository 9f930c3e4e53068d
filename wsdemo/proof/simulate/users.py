"""Workload: what do the users of a simulated cluster do?

They send messages, move to another gateway, lose their connection, leave with or without a close
frame, come back, and log in on a second device. In a calm period they only send messages.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from wsdemo.proof.history import user_of_device
from wsdemo.proof.simulate.devices import Device
from wsdemo.proof.simulate.half_open import HalfOpenWatch
from wsdemo.proof.simulate.hosts import SimulatedHost
from wsdemo.proof.simulate.inboxes import ReadingProcess, SimulatedDisk
from wsdemo.proof.simulate.network import SimulatedNetwork
from wsdemo.proof.simulate.offer import USERS, Offer
from wsdemo.proof.simulate.records import HistoryRecorder
from wsdemo.proof.simulate.rooms import ROOMS

OLD_CLIENTS: Final = frozenset({"heidi", "dave/laptop"})
"""Users, or devices, whose clients know nothing of the inbox."""


class UserCrowd:
    """All users and their devices.

    Args:
        gateways: names of those to which they may connect.
        rng: decides what they do and when.
        offer: the features that they use.
        is_online: says whether Redis has an entry of a user.
    """

    def __init__(
        self,
        network: SimulatedNetwork,
        recorder: HistoryRecorder,
        half_open: HalfOpenWatch,
        gateways: Sequence[str],
        rng: random.Random,
        offer: Offer,
        is_online: Callable[[str], bool],
    ) -> None:
        self._network = network
        self._recorder = recorder
        self._half_open = half_open
        self._gateways = list(gateways)
        self._rng = rng
        self._offer = offer
        self._is_online = is_online
        self._disks = {user: SimulatedDisk() for user in offer.names}
        self._made = 0
        self._devices: dict[str, list[Device]] = {user: [] for user in offer.names}
        self.tasks: list[asyncio.Task[None]] = []
        """What each user does; until cancelled."""
        self.calm = False
        """Whether users only send messages."""

    def start(self) -> None:
        """Let all users begin, in the next seconds."""
        for user in self._offer.names:
            rng = random.Random(self._rng.random())
            task = self._network.loop.create_task(self._live(user, rng), name=f"life of {user}")
            self.tasks.append(task)

    def living(self, user: str = "") -> Iterator[Device]:
        """Iterate over the devices of a user ('': of all) that are not ended."""
        for name in [user] if user else self._offer.names:
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
        position = self._position(user, host) if self._offer.durable else None
        self._devices[user].append(
            device := Device(self._recorder, user, self._gateways, host, position=position)
        )
        if self._offer.rooms:
            for room in ROOMS:
                device.join(room)
        if self._offer.watch:
            others = [other for other in USERS if other != user_of_device(user)]
            device.watch(host.rng.sample(others, 3), self._is_online)

    def told_of(self, room: str) -> dict[str, tuple[str, ...]]:
        """Return who believes to be in a room, and whom each of them believes to be there."""
        views = {one.user: one.views.get(room) for one in self.living() if one.registered}
        return {
            user: tuple(sorted(view.members))
            for user, view in views.items()
            if view is not None and view.members is not None
        }

    def _position(self, user: str, host: SimulatedHost) -> ReadingProcess | None:
        """Return the position of a new process of a user, if it reads the inbox."""
        if user in OLD_CLIENTS:
            return None
        # Some processes have none to begin with: they go on from what was acknowledged.
        disk = self._disks[user] if host.rng.random() < 0.5 else None
        return ReadingProcess(self._recorder, user, host.name, disk)

    def log_in_all(self) -> None:
        """Give each user a device who has none."""
        for user in self._offer.names:
            if not any(self.living(user)):
                self.log_in(user)

    def vanish(self, device: Device) -> None:
        """Take a device away without a close frame: no packet leaves it any more."""
        name = device.host.name
        for gateway in self._gateways:
            self._network.lose(name, gateway)
        self._half_open.begin(list(self._network.connections(name)), (device.user,))
        device.note_vanished()
        self._network.bury(device.host)

    def kill(self, device: Device) -> None:
        """End the process of a device, as SIGKILL does: its gateway sees the connection end."""
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
        if self._offer.rooms and rng.random() < 0.3:
            self._in_rooms(device, rng)
            return
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

    def _in_rooms(self, device: Device, rng: random.Random) -> None:
        """Say something in a room, leave it, or join it."""
        room = rng.choice(ROOMS)
        if room in device.views:
            if self.calm or rng.random() < 0.9:
                device.publish(room)
            else:
                device.leave_room(room)
        elif not self.calm:
            device.join(room)

    def _talk(self, user: str, device: Device, rng: random.Random) -> None:
        """Send one message to another user, or four."""
        to = rng.choice([other for other in self._offer.users if other != user_of_device(user)])
        if self._offer.durable and rng.random() < 0.7:
            for _ in range(rng.choice((1, 1, 3))):
                device.store(to, "x" * rng.choice((5, 5, 5, 500)))
            return
        for _ in range(rng.choice((1, 1, 1, 4))):
            device.send(to)

"""Held verbs: at which gateway does which verb of which user wait, and when does it go on?

Each gateway of a cluster has a director (`wsdemo.lab.cluster.directors`) in place of its presence.
A gateway may have a loop of its own, so a director is called on that loop.
"""

from __future__ import annotations

from typing import NamedTuple, get_args

from wsdemo.events import Kind
from wsdemo.lab.cluster.directors import HeldVerbs, Verb
from wsdemo.lab.cluster.fleet import Fleet
from wsdemo.lab.cluster.hosts import CrashablePresence
from wsdemo.lab.errors import LabRefused, LabTimeout
from wsdemo.lab.trace.recorder import Recorder
from wsdemo.presence import Presence
from wsdemo.rig.names import unknown
from wsdemo.rig.waiting import wait_until


class HeldVerb(NamedTuple):
    """A verb of a user that waits at a gateway, or will wait when it comes."""

    user: str
    gateway: str
    verb: Verb
    waiting: int
    """How many wait now."""


class Holds:
    """The directors of a cluster, by gateway.

    Args:
        fleet: the gateways.
        recorder: told of late clean-ups.
        scale: production seconds per second of the cluster.
    """

    def __init__(self, fleet: Fleet, recorder: Recorder, scale: float) -> None:
        self.directors: dict[str, HeldVerbs] = {}
        self._presences: dict[str, CrashablePresence] = {}
        self._fleet = fleet
        self._recorder = recorder
        self._scale = scale

    def direct(self, name: str, presence: Presence) -> HeldVerbs:
        """Return what a gateway gets in place of its presence."""
        crashable = self._presences[name] = CrashablePresence(presence)
        director = self.directors[name] = HeldVerbs(crashable)
        return director

    def cut_off(self, name: str) -> None:
        """Let nothing of a crashed gateway reach Redis, and let nothing of it wait any more."""
        self._presences[name].crashed = True
        self.directors[name].let_go()

    def director(self, gateway: str) -> HeldVerbs:
        """Return the director of a gateway of this process.

        Raises:
            LabRefused: there is no such gateway.
        """
        self._fleet.gateway(gateway)
        return self.directors[gateway]

    async def hold(self, user: str, at: str, verb: Verb) -> None:
        """From now on, this verb of this user waits at this gateway before it starts.

        Raises:
            LabRefused: there is no such gateway, or no such verb.
        """
        director = self.director(at)
        if verb not in get_args(Verb):
            raise LabRefused(unknown("verb", verb, get_args(Verb)))
        await self._fleet.host(at).on_its_loop(lambda: director.hold(user, verb))

    async def let_go(self, user: str, at: str, verb: Verb) -> None:
        """Let a verb go on that was held, and wait until Redis has answered it.

        Raises:
            LabRefused: it is not held.
            LabTimeout: it did not begin in time, or was not answered.
        """
        director, what = self.director(at), f"{verb} of {user}"
        if not director.holds(user, verb):
            raise LabRefused(f"no {what} is held at {at}: hold it first")
        try:
            await wait_until(f"a {what} waits at {at}", lambda: director.waiting(user, verb) > 0)
            await self._fleet.host(at).on_its_loop(lambda: director.let_go(user, verb))
            await wait_until(f"the {what} is done", lambda: director.is_done(user, verb))
        except TimeoutError as problem:
            raise LabTimeout(str(problem)) from None

    async def stop_holding(self, user: str, at: str, verb: Verb) -> None:
        """Hold a verb no longer; when it waits already, wait until Redis has answered it.

        Raises:
            LabRefused: it is not held.
            LabTimeout: it was not answered in time.
        """
        director = self.director(at)
        if not director.holds(user, verb) or director.waiting(user, verb):
            await self.let_go(user, at, verb)
        else:
            await self._fleet.host(at).on_its_loop(lambda: director.let_go(user, verb))

    @property
    def held(self) -> list[HeldVerb]:
        """What is held at the gateways that run, and what waits there."""
        return [
            HeldVerb(place.user, name, place.verb, director.gates.waiting(place))
            for name, director in list(self.directors.items())
            if name in self._fleet.hosts
            for place in director.gates.places
        ]

    async def let_all_go(self) -> None:
        """Let everything go on that is held at any gateway, and hold nothing more."""
        for name, director in self.directors.items():
            if name in self._fleet.hosts:
                await self._fleet.hosts[name].on_its_loop(director.let_go)

    def delay_cleanups(self, seconds: float) -> None:
        """From now on every gateway releases its sessions so many production seconds too late.

        Raises:
            LabRefused: no number of seconds.
        """
        if not 0 <= seconds < float("inf"):
            raise LabRefused(f"{seconds!r} is not a number of production seconds")
        for name, director in self.directors.items():
            director.late_s = seconds / self._scale
            self._recorder.note(Kind.FAULT, name, reason=f"cleans up {seconds:g} s too late")

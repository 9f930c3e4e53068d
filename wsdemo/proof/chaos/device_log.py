"""Scripts for several devices: which session owns each device of a user, as MONITOR shows it?

In a history a device is called `alice/phone`, and `alice` is the device without a name.
"""

from __future__ import annotations

from typing import Final, Protocol

from wsdemo.proof.chaos.script_calls import SeenCall

PREFIX: Final = "devices_"
ENTRY: Final = "s:"
"""What the field of a device begins with."""
EVICT: Final = "evict"
"""The verb of a change that a script for one device makes to another one."""
_DEVICE_AT: Final = {"register": 7, "refresh": 7, "release": 3}
"""Which argument of a script names the device."""


class OwnerNotes(Protocol):
    """What notes who owns whom."""

    def own(
        self, name: str, conn: str, gateway: str, token: int, *, verb: str, by: str, ttl_s: float
    ) -> None:
        """Take note that a session owns a device."""
        ...

    def end(self, name: str, verb: str, by: str) -> None:
        """Take note that nobody owns a device any more, if somebody did."""
        ...

    def release(self, name: str, conn: str) -> None:
        """Take note that a session was released, whether or not it owned its device."""
        ...

    def known_of(self, user: str) -> list[str]:
        """Return the devices of a user that have an owner."""
        ...

    def fence_of(self, user: str) -> dict[str, str]:
        """Return the fields of a fence, as far as they were seen."""
        ...

    def unix_s(self) -> float:
        """Return the wall-clock time, by which Redis names the ends of leases."""
        ...


def device_name(user: str, device: str) -> str:
    """Return how a history calls a device."""
    return f"{user}/{device}" if device else user


class DeviceLog:
    """What the scripts for several devices have done."""

    def __init__(self, notes: OwnerNotes) -> None:
        self._notes = notes

    def judge(self, call: SeenCall) -> str:
        """Note what a script has done; return its name and outcome, as for one session; '' when it
        is none of these scripts.
        """
        if not call.script.startswith(PREFIX):
            return ""
        verb = call.script.removeprefix(PREFIX)
        if verb == "route":
            return "route published" if call.first("PUBLISH") else "route offline"
        device = call.args[_DEVICE_AT[verb]]
        own = device_name(call.user, device)
        outcome = self._outcome(call, verb, device)
        for made in call.made:
            self._note(call, made, verb, own)
        if verb == "release":
            self._notes.release(own, call.args[0])
        return f"{verb} {outcome}"

    def _outcome(self, call: SeenCall, verb: str, device: str) -> str:
        wrote = any(made[:1] == ["HSET"] and made[2] == ENTRY + device for made in call.made)
        if verb == "release":
            went = any(made[:1] == ["HDEL"] and made[2] == ENTRY + device for made in call.made)
            return "removed" if went else "kept"
        if wrote and verb == "refresh":
            return "reclaimed" if call.first("HMGET", "fence:") else "ok"
        if wrote:
            return "ok"
        if call.first("HMGET", "fence:") is None:
            return "refused"
        return "stale" if verb == "register" else self._not_refreshed(call, device)

    def _not_refreshed(self, call: SeenCall, device: str) -> str:
        conn, token = call.args[0], call.args[2]
        fence, end = self._notes.fence_of(call.user), f":{device}" if device else ""
        is_newer = int(fence.get(f"top{end}", "0")) > int(token)
        is_closed = fence.get(f"closed{end}") == f"{token}:{conn}"
        return "closed" if is_closed and not is_newer else "superseded"

    def _note(self, call: SeenCall, made: list[str], verb: str, own: str) -> None:
        """Note one call of a script."""
        if made[1:2] != call.keys[:1]:
            return
        if made[0] == "DEL":
            for name in self._notes.known_of(call.user):
                self._notes.end(name, EVICT, call.args[0])
            return
        if len(made) < 3 or not made[2].startswith(ENTRY):
            return
        name = device_name(call.user, made[2].removeprefix(ENTRY))
        if made[0] == "HDEL":
            self._notes.end(name, verb if name == own else EVICT, call.args[0])
        elif made[0] == "HSET":
            gateway, conn, token, until_ms = made[3].split(" ")[:4]
            ttl_s = int(until_ms) / 1000 - self._notes.unix_s()
            self._notes.own(
                name, conn, gateway, int(token), verb=verb, by=call.args[0], ttl_s=ttl_s
            )

"""Presence of several devices: where in the cluster are the phone and the laptop of user X?

The promises P1 to P8 hold for each device of a user: a newer session of a device replaces an older
one, another device is added. The hash `presence:{user}` has a field for each device, so each lease
has its own end, and the fence has fields for each device. The tokens of all of them come from one
mint. When there are more devices than allowed, the one that logged in first is evicted: the script
closes its session in the fence as if it had released itself, so no late command brings it back.

A gateway with `--devices 1` may use the same Redis, as during a rolling upgrade. What it has
written is understood: its session is replaced by any newer one of the user. Its own register and
release remove the whole entry; the other devices come back with their next refresh. A warning says
so once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from wsdemo.presence.store import (
    MINT,
    UNKNOWN,
    Claim,
    RedisPresence,
    Register,
    Registration,
    Release,
    SessionEntry,
)
from wsdemo.redis.interface import Link
from wsdemo.redis.scripts import Script, lua_text
from wsdemo.settings import Keyspace, Timing

REMEMBERED: Final = 4
"""The fence remembers this many times as many devices as may be connected."""
_log = logging.getLogger("wsdemo.gateway")


WHEN_FULL: Final = "#!lua flags=allow-oom\n"
"""A server that is full refuses new users, but does not lose those it has."""
_ENTRIES: Final = lua_text("wsdemo.presence", "devices_entries")
DEVICES_REGISTER = Script.read("wsdemo.presence", "devices_register", _ENTRIES)
DEVICES_REFRESH = Script.read("wsdemo.presence", "devices_refresh", WHEN_FULL + _ENTRIES)
DEVICES_RELEASE = Script.read("wsdemo.presence", "devices_release", WHEN_FULL + _ENTRIES)
DEVICES_SCRIPTS = (MINT, DEVICES_REGISTER, DEVICES_REFRESH, DEVICES_RELEASE)


@dataclass(frozen=True, slots=True)
class DeviceEntry:
    """What Redis knows about one device of a user. `until_ms` is the end of its lease, in Unix ms
    of Redis' clock.
    """

    device: str
    gateway_id: str
    conn_id: str
    token: int
    until_ms: int


class DevicePresence(RedisPresence):
    """Presence of users who may have several devices.

    Args:
        devices: how many of one user may be connected; at least 2.
        announces: as for `RedisPresence`.
    """

    def __init__(
        self,
        link: Link,
        keyspace: Keyspace,
        timing: Timing,
        devices: int,
        *,
        announces: bool = False,
    ) -> None:
        super().__init__(link, keyspace, timing, announces=announces)
        self._devices = devices
        self._has_warned = False

    async def register(self, claim: Claim) -> Registration:
        remembered = REMEMBERED * self._devices
        reply = await self._link.run(
            DEVICES_REGISTER.at(self._keyspace),
            self._keys(claim),
            *self._session(claim, self._ttl_ms),
            remembered,
            self._watchers(claim),
        )
        outcome, gateway_id, conn_id, token, met, *evicted = (item.decode() for item in reply)
        if met:
            self._warn()
        device = claim.device
        previous = Claim(claim.user, conn_id, gateway_id, int(token), device=device)
        return Registration(
            Register(outcome),
            previous if conn_id else None,
            tuple(
                Claim(claim.user, conn_id, gateway_id, int(token))
                for gateway_id, conn_id, token in zip(*[iter(evicted)] * 3, strict=True)
            ),
        )

    def _submit_refresh(self, claim: Claim, ttl_ms: int) -> asyncio.Future[Any]:
        return self._link.start_script(
            DEVICES_REFRESH.at(self._keyspace),
            self._keys(claim),
            *self._session(claim, ttl_ms),
            self._ttl_ms,
            self._watchers(claim),
        )

    async def release(self, claim: Claim) -> Release:
        reply = await self._link.run(
            DEVICES_RELEASE.at(self._keyspace),
            self._keys(claim),
            claim.conn_id,
            claim.token,
            self._fence_ttl_ms,
            claim.device,
            self._ttl_ms,
            self._watchers(claim),
            claim.reason or UNKNOWN,
        )
        return Release.of(reply)

    async def devices(self, user: str) -> Sequence[DeviceEntry]:
        """Return what Redis knows about each device of a user whose lease has not ended."""
        key = self._keyspace.presence(user)
        pairs, (seconds, micros) = await asyncio.gather(
            self._link.call("HGETALL", key), self._link.call_beside(key, "TIME")
        )
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        fields = dict(zip(pairs[::2], pairs[1::2], strict=True))
        entries = [_entry(name, value) for name, value in fields.items() if name[:2] == b"s:"]
        return [entry for entry in entries if entry is not None and entry.until_ms > now_ms]

    async def sessions(self, user: str) -> Sequence[SessionEntry]:
        key = self._keyspace.presence(user)
        devices, (seconds, micros) = await asyncio.gather(
            self.devices(user), self._link.call_beside(key, "TIME")
        )
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        found = [
            SessionEntry(e.gateway_id, e.conn_id, e.token, max(0, e.until_ms - now_ms), e.device)
            for e in devices
        ]
        # A gateway with `--devices 1` writes an entry without devices.
        return found or await super().sessions(user)

    def _session(self, claim: Claim, ttl_ms: int) -> tuple[str | int, ...]:
        """Return the arguments that register and refresh have in common."""
        return (
            claim.conn_id,
            claim.gateway_id,
            claim.token,
            ttl_ms,
            self._fence_ttl_ms,
            claim.inst,
            claim.att,
            claim.device,
            self._devices,
        )

    def _watchers(self, claim: Claim) -> str:
        """Return the channel of those who watch the user; '' when nobody is to be told."""
        return "".join(self._channel(claim))

    def _warn(self) -> None:
        if not self._has_warned:
            self._has_warned = True
            _log.warning(
                "[Gateway] a gateway with --devices 1 uses the same Redis: each login and logout "
                "there hides the other devices of its user until they are refreshed. Give all "
                "gateways the same --devices"
            )


def _entry(name: bytes, value: bytes) -> DeviceEntry | None:
    try:
        gateway_id, conn_id, token, until_ms, *_ = value.decode().split(" ", 4)
        return DeviceEntry(name[2:].decode(), gateway_id, conn_id, int(token), int(until_ms))
    except ValueError:
        return None

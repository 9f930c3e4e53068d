"""Release of a device: what if another script decided what it removes?

Presence is the product's own, for several devices of a user. Beside it there is a simple hash for
each user: the name of a device to the token of its session. When a session ends, a script of the
caller's decides what is removed from this hash, and what is not in it any more is removed from
presence. So a mistake in that script makes users unreachable who are online, until the next refresh
of their device. It is for lesson 04, and must not be used in production.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from wsdemo.presence import Claim, Register, Registration, Release
from wsdemo.presence.devices import DevicePresence
from wsdemo.redis.interface import Link
from wsdemo.redis.scripts import Script
from wsdemo.settings import Keyspace, Timing

FORGET: Final = Script(
    "forget_devices",
    """
-- KEYS  1 presence:{user}   ARGV  the fields of devices that have to go
for i = 1, #ARGV do redis.call('HDEL', KEYS[1], ARGV[i]) end
for _, name in ipairs(redis.call('HKEYS', KEYS[1])) do
  if string.sub(name, 1, 2) == 's:' then return 0 end
end
return redis.call('DEL', KEYS[1])
""",
)
"""Removes devices from an entry, and the entry with the last of them."""


class ScriptedRelease(DevicePresence):
    """Presence of several devices, with a release that follows a script.

    Args:
        release: a Lua script. KEYS: the hash of the user. ARGV: the device, and the token of the
            session that has ended. Returns 1 when it has removed the device, else 0.
    """

    def __init__(
        self, link: Link, keyspace: Keyspace, timing: Timing, devices: int, release: str
    ) -> None:
        super().__init__(link, keyspace, timing, devices)
        self._script = Script("release_device", release)
        link.load([FORGET, self._script])

    async def register(self, claim: Claim) -> Registration:
        registration = await super().register(claim)
        if registration.outcome is Register.OK:
            await self._link.call("HSET", self._hash(claim), claim.device, claim.token)
        return registration

    async def release(self, claim: Claim) -> Release:
        before = await self._known(claim)
        removed = await self._link.run(self._script, [self._hash(claim)], claim.device, claim.token)
        gone = before.keys() - (await self._known(claim)).keys()
        if gone:
            fields = [f"s:{device}" for device in sorted(gone)]
            await self._link.run(FORGET, [self._keyspace.presence(claim.user)], *fields)
        return Release.REMOVED if removed == 1 else Release.OTHER_OWNER

    def _hash(self, claim: Claim) -> str:
        return self._keyspace.key("devices", claim.user)

    async def _known(self, claim: Claim) -> Mapping[str, str]:
        pairs = [item.decode() for item in await self._link.call("HGETALL", self._hash(claim))]
        return dict(zip(pairs[::2], pairs[1::2], strict=True))

"""Version and eviction policy: can this Redis be used?

It must be new enough for the scripts (their first line declares flags, which is an error before
version 7). And it must not evict keys: a server that does so under memory pressure takes users
offline who are there. Without the first, the gateway does not start; without the second, it warns.
A server that does not let us ask is used as it is.
"""

from __future__ import annotations

import re
from typing import Final

from wsdemo.redis.connection import RedisUnavailable
from wsdemo.redis.link import RedisLink
from wsdemo.redis.outcome import CommandError

OLDEST_VERSION: Final = 7
SAFE_POLICY: Final = "noeviction"
_REFUSALS: Final = frozenset({"NOAUTH", "WRONGPASS"})


async def examine(link: RedisLink, *, stores: bool = False) -> list[str]:
    """Return warnings about the server behind a link; usually none.

    Args:
        stores: whether messages are kept in it, too.

    Raises:
        RedisUnavailable: it is too old, or needs a password.
        LinkDown, LinkBusy, LinkTimeout: it could not be asked.
    """
    version = await _version(link)
    if version and version[0] < OLDEST_VERSION:
        text = ".".join(map(str, version))
        raise RedisUnavailable(
            f"version {text} is too old; {OLDEST_VERSION}.0 or newer is needed", answered=True
        )
    policy = await _eviction(link)
    if policy == SAFE_POLICY:
        return []
    what = "users who are online" + (", and messages that are stored" if stores else "")
    return [
        f"maxmemory-policy is {policy}: under memory pressure Redis will forget {what} "
        f"(set {SAFE_POLICY})"
    ]


async def _version(link: RedisLink) -> tuple[int, ...]:
    try:
        info = (await link.call("INFO", "server")).decode(errors="replace")
    except CommandError as problem:
        if problem.code in _REFUSALS:
            raise RedisUnavailable(str(problem), answered=True) from None
        return ()
    found = re.search(r"^redis_version:(\d+)\.(\d+)", info, re.MULTILINE)
    return tuple(map(int, found.groups())) if found else ()


async def _eviction(link: RedisLink) -> str:
    try:
        reply = await link.call("CONFIG", "GET", "maxmemory-policy")
    except CommandError:
        return SAFE_POLICY  # A managed server does not show its settings.
    return reply[1].decode(errors="replace") if len(reply) == 2 else SAFE_POLICY

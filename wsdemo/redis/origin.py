"""Origin: was a message published at the server from which it is heard?

In a cluster, a primary sends each sharded message to its replicas as well, by the bus between the
servers. When a replica has taken the place of its primary, what was still on its way arrives there,
and would be heard a second time, behind newer messages. So whatever carries a message puts an
origin before it: the run of the server that executes the script. A gateway knows the run of each
server that it listens to, and drops what was published at another one.

Only the link knows to which server a command goes, also when it was sent there by a redirection:
so the link adds the origin, as it adds the deadline on the clock of that server.
"""

from __future__ import annotations

from typing import Final

from wsdemo.redis.run import RUN_ID
from wsdemo.redis.scripts import bulk

ORIGIN_BYTES: Final = 8
ANYWHERE: Final = b"-" * ORIGIN_BYTES
"""The origin of a server whose run is not known, because we may not ask for it (INFO)."""
ARGUMENT_BYTES: Final = len(bulk(ANYWHERE))
"""The length of an origin as the argument of a command."""
_BRACE: Final = ord("{")
"""What every message begins with, since it is a JSON object."""


def origin_of(info: object) -> bytes:
    """Return the origin of what a server publishes, by its reply to INFO."""
    found = RUN_ID.search(info) if isinstance(info, bytes) else None
    return found[1] if found else ANYWHERE


def without_origin(data: bytes, here: bytes) -> bytes | None:
    """Return a message without its origin; None when it was published elsewhere.

    What has no origin is returned as it is: a probe, or a notice of another gateway.

    Args:
        here: the origin of the server that has sent it to us.
    """
    if data[:1] == b"{" or len(data) <= ORIGIN_BYTES or data[ORIGIN_BYTES] != _BRACE:
        return data
    origin = data[:ORIGIN_BYTES]
    is_from_here = origin in (here, ANYWHERE) or here == ANYWHERE
    return data[ORIGIN_BYTES:] if is_from_here else None

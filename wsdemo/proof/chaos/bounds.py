"""Bounds: how long may things take in a chaos run, and how much may a gateway grow?"""

from __future__ import annotations

from typing import Final

from wsdemo.proof.chaos.cluster import LIMITS, TIMING
from wsdemo.proof.chaos.users import PATIENCE
from wsdemo.proof.history import Bounds
from wsdemo.redis.connection import BACKOFF_CAP_S

PROMISED_S: Final = TIMING.presence_ttl_s + TIMING.heartbeat_s
"""The bound X at this scale: a stale entry ends (TTL), and a refresh follows it (a heartbeat)."""
ALLOWANCE_S: Final = 12.0
"""What a busy machine gets on top before a run is red. A handshake, or the start of a process,
takes its time whatever the scale is. The report shows the measured time beside the promise."""
CALM_S: Final = 2.5
"""How long a calm period is: two heartbeats, and the longest time that an answer may take."""
ROUNDS: Final = 2
"""How often a run has a period with faults, a heal and a calm period."""
REST_S: Final = PROMISED_S + CALM_S + 0.5
"""About how long a heal, the looks and the calm period take."""
END_S: Final = REST_S + 2.0
"""The end of a run, for the last calm period and for leaving."""
NOTHING_LEFT_S: Final = 5.0
COUNT_S: Final = 2.0
"""How long gateways may take to finish what they are doing."""
ASKED_S: Final = 2.0
"""How long after its login a session may take to ask for those whom it watches."""
WITNESS_LAG_S: Final = 0.3
"""The witness may read what Redis has done so much later than a client is told of it."""
LAST_STORED_S: Final = 0.3
"""What a gateway was told to store is stored so long after its user has stopped to wait for it."""
ALL_TAKEN_S: Final = 8.0
"""How long users may take to read the rest of their inboxes."""
POLL_S: Final = 0.05
NO_NAME: Final = "(half an entry)"
GROWTH_KIB_PER_MIN: Final = 20 * 1024
"""A leak of a kilobyte per message grows by this much at about 350 messages a second. The normal
growth of a young process, in the minute that a run in CI takes, is below it."""
GROWTH_BYTES: Final = 48 * 1024 * 1024
"""How much more memory than an idle gateway a gateway may have at any time. One slow consumer may
cost three megabytes, and hostile envelopes a few more."""
LATE_SHARE: Final = 0.2
"""A machine that was too busy for more than this share of a run is too slow for it."""
NOT_ARRANGED_SHARE: Final = 0.2
"""No larger share of the faults may fail to be arranged."""

NEAR_S: Final = TIMING.presence_ttl_s
"""For the tally: a fault explains what is lost up to so long before and after it."""
BOUNDS: Final = Bounds(
    answer_s=LIMITS.redis_timeout_s + 1.0,
    arrive_s=LIMITS.redis_timeout_s + 1.0,
    # Less than a heartbeat, so that the pong of the next ping is not taken for this one.
    pong_s=0.8 * TIMING.heartbeat_s,
    settle_s=PROMISED_S + BACKOFF_CAP_S,
    aftermath_s=PROMISED_S,
    register_s=PATIENCE.register_timeout_s,
)

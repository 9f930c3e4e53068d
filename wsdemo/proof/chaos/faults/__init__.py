"""Fault catalogue: which faults can chaos inject into real processes?

To add a fault, write one function in the module of its subject, and add its name to the tuple
`FAULTS` of that module. Its rows refer to docs/faults.md. The order below is part of what a seed
means: an entry that is not at the end changes what all seeds play.
"""

from typing import Final

from wsdemo.proof.chaos.fault import FaultType
from wsdemo.proof.chaos.faults import (
    aborted_clients,
    durable_messages,
    environment,
    gateway_processes,
    outages,
    redis_connections,
    redis_server,
    room_members,
    sentinels,
    shards,
    user_connections,
    workers,
)

FAULTS: Final[tuple[FaultType, ...]] = (
    *gateway_processes.FAULTS,
    *redis_server.FAULTS,
    *redis_connections.FAULTS,
    *user_connections.FAULTS,
    *aborted_clients.FAULTS,
    *environment.FAULTS,
    *outages.FAULTS,
    *durable_messages.FAULTS,
    *room_members.FAULTS,
    *shards.FAULTS,
    *sentinels.FAULTS,
    *workers.FAULTS,
)
"""All faults, in the order that seeds refer to."""

NOT_INJECTED: Final[dict[tuple[int, ...], str]] = {
    (6, 7, 8, 11): "need a change inside the process (faults 3, 4 and 1 come close)",
    (24,): "needs a replica: faults 185 and 192 lose what it lacks",
    (26,): "needs replicas of which too few are left",
    (28,): "is a configuration that the guarantees exclude",
    (30,): "matters to the durable mode only",
    (41,): "the clock of Redis cannot be set apart from that of the machine",
    (52,): "belongs to the notebook",
    (54,): "occurs only when a gateway starts",
}
"""The rows of docs/faults.md that chaos does not inject, and why."""

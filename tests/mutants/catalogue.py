"""Which mistakes are tried?

Each is one that somebody might make in this very line, and each names the tests that have to
notice. `EQUIVALENT` are changes that no test can notice, with the reason.
"""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Equivalent, Mutant
from tests.mutants.of_api import IN_API
from tests.mutants.of_client import IN_CLIENT
from tests.mutants.of_cluster import IN_CLUSTER
from tests.mutants.of_cluster_link import IN_CLUSTER_LINK
from tests.mutants.of_deadlines import IN_DEADLINES
from tests.mutants.of_device_inbox import IN_DEVICE_INBOX
from tests.mutants.of_devices import IN_DEVICES
from tests.mutants.of_gateway import EQUIVALENT_IN_GATEWAY, IN_GATEWAY
from tests.mutants.of_inbox import IN_INBOX
from tests.mutants.of_others import EQUIVALENT_IN_OTHERS, IN_OTHERS
from tests.mutants.of_primary import IN_PRIMARY
from tests.mutants.of_rooms import IN_ROOMS
from tests.mutants.of_watch import IN_WATCH
from tests.mutants.of_workers import IN_WORKERS

MUTANTS: Final[tuple[Mutant, ...]] = (
    *(*IN_API, *IN_CLIENT, *IN_DEVICES, *IN_GATEWAY, *IN_INBOX),
    *(*IN_CLUSTER, *IN_CLUSTER_LINK, *IN_DEADLINES, *IN_DEVICE_INBOX),
    *(*IN_OTHERS, *IN_PRIMARY, *IN_ROOMS, *IN_WATCH, *IN_WORKERS),
)
EQUIVALENT: Final[tuple[Equivalent, ...]] = (*EQUIVALENT_IN_GATEWAY, *EQUIVALENT_IN_OTHERS)

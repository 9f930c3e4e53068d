"""Limits of several workers: who is connected to any of them?

The limits for one address, and the limit of all connections, hold over all workers of a port. A
worker counts a connection in shared memory before it looks at the sum. So two connections that come
to two workers at the same moment may both be refused, and not both be let in over a limit. What a
dead worker has counted, its parent clears.
"""

from __future__ import annotations

from wsdemo.gateway.access_control import AccessControl, AddressCounts, AddressSlot, Answer
from wsdemo.gateway.counters import Counters
from wsdemo.gateway.workers.shared import SharedSlot, SharedState, least
from wsdemo.settings import GatewaySettings


class SharedAddressCounts(AddressCounts):
    """Counts connections of this worker by address, and knows the sum over all workers.

    Args:
        own: where this worker counts.
        tables: where all workers count, this one too.
    """

    def __init__(self, state: SharedState, own: memoryview, tables: list[memoryview]) -> None:
        super().__init__()
        self._state = state
        self._own = own
        self._tables = tables

    def up(self, address: str) -> None:
        super().up(address)
        for cell in self._state.cells(address):
            self._own[cell] += 1

    def down(self, address: str) -> None:
        super().down(address)
        for cell in self._state.cells(address):
            self._own[cell] -= 1

    def of(self, address: str) -> int:
        return least(self._tables, self._state.cells(address))


class SharedAccessControl(AccessControl):
    """The access rules of one worker.

    Args:
        own: the slot of this worker.
    """

    def __init__(
        self, settings: GatewaySettings, counters: Counters, state: SharedState, own: SharedSlot
    ) -> None:
        super().__init__(settings, counters)
        self._state = state
        self._own = own
        slots = state.workers
        self.present = SharedAddressCounts(state, own.present, [slot.present for slot in slots])
        self.unregistered = SharedAddressCounts(
            state, own.unregistered, [slot.unregistered for slot in slots]
        )

    def is_overrun(self, slot: AddressSlot | None, sockets: int) -> bool:
        return super().is_overrun(slot, self._all(sockets))

    def refusal(self, slot: AddressSlot | None, sockets: int) -> Answer | None:
        return super().refusal(slot, self._all(sockets))

    def _all(self, sockets: int) -> int:
        """Return how many connections all workers have; this one has `sockets`."""
        self._own.sockets = sockets
        return sockets + self._state.sockets_beside(self._own)

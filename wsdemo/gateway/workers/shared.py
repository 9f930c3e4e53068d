"""Shared memory: what do the workers of one port know about each other?

One anonymous mapping, made before the first fork: it has no name, and ends with its last process.
Each worker writes in a slot of its own only, and reads all of them, so no lock is needed.

Connections are counted by address in a count-min sketch: each address has one cell in each of four
rows, found by a hash with a secret, and its count is the smallest of the four. Two addresses may
meet in one cell, hardly ever in all four; then the count is too high, never too low. So the size is
fixed, however many addresses come, and nobody can choose addresses that meet.
"""

from __future__ import annotations

import mmap
import secrets
import struct
import zlib
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

ROWS: Final = 4
COLUMNS: Final = 1 << 14
CELL: Final = struct.calcsize("I")
TABLE_BYTES: Final = ROWS * COLUMNS * CELL
REPORT_BYTES: Final = 1 << 16
"""The most bytes of one report, with its head."""
HEAD: Final = struct.Struct("II")
"""Before a report: its length and its checksum."""
NUMBERS_BYTES: Final = mmap.PAGESIZE
SLOT_BYTES: Final = NUMBERS_BYTES + 2 * TABLE_BYTES + 2 * REPORT_BYTES
TRIES: Final = 5
"""How often a report is read that is written meanwhile."""


class ReportTooLong(ValueError):
    """A report does not fit into its slot."""


class SharedSlot:
    """What one process writes: two tables of counts by address, a number, and a report."""

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory
        self._numbers = memory[:NUMBERS_BYTES].cast("I")
        tables = memory[NUMBERS_BYTES : NUMBERS_BYTES + 2 * TABLE_BYTES]
        self.present = tables[:TABLE_BYTES].cast("I")
        """Cells of connections by address."""
        self.unregistered = tables[TABLE_BYTES:].cast("I")
        """Cells of those among them on which nobody has registered yet."""
        self._reports = memory[NUMBERS_BYTES + 2 * TABLE_BYTES :]

    @property
    def sockets(self) -> int:
        """Connections of this process."""
        return self._numbers[0]

    @sockets.setter
    def sockets(self, count: int) -> None:
        self._numbers[0] = count

    def publish(self, report: bytes) -> None:
        """Show a report to all. There is room for two: a reader of the last one is not disturbed,
        and a process that dies while it writes leaves the last one whole.

        Raises:
            ReportTooLong: there is no room for it.
        """
        if HEAD.size + len(report) > REPORT_BYTES:
            raise ReportTooLong(f"a report of {len(report)} bytes")
        half = 1 - self._numbers[1]
        begin = half * REPORT_BYTES
        HEAD.pack_into(self._reports, begin, len(report), zlib.crc32(report))
        begin += HEAD.size
        self._reports[begin : begin + len(report)] = report
        self._numbers[1] = half

    def report(self) -> bytes:
        """Return the last report; empty when there is none."""
        for _ in range(TRIES):
            begin = self._numbers[1] * REPORT_BYTES
            length, checksum = HEAD.unpack_from(self._reports, begin)
            begin += HEAD.size
            report = bytes(self._reports[begin : begin + length])
            if zlib.crc32(report) == checksum:
                return report
        return b""

    def clear(self) -> None:
        """Forget all of it: the process that wrote it is dead."""
        self._memory[:] = bytes(len(self._memory))


class SharedState:
    """The slots of all workers of one port, and one of their parent.

    Args:
        workers: how many there are.
    """

    def __init__(self, workers: int) -> None:
        self._secret = secrets.token_bytes(16)
        memory = memoryview(mmap.mmap(-1, (workers + 1) * SLOT_BYTES))
        slots = [
            SharedSlot(memory[n * SLOT_BYTES : (n + 1) * SLOT_BYTES]) for n in range(workers + 1)
        ]
        self.parent = slots[0]
        self.workers: Sequence[SharedSlot] = slots[1:]

    def cells(self, address: str) -> list[int]:
        """Return where an address is counted: one cell in each row."""
        digest = blake2b(address.encode(), key=self._secret, digest_size=ROWS * CELL).digest()
        columns = struct.unpack(f"{ROWS}I", digest)
        return [row * COLUMNS + column % COLUMNS for row, column in enumerate(columns)]

    def sockets_beside(self, own: SharedSlot) -> int:
        """Return how many connections the other workers have."""
        return sum(slot.sockets for slot in self.workers if slot is not own)


def least(tables: Sequence[memoryview], cells: Sequence[int]) -> int:
    """Return the count of an address in several tables together."""
    return min(sum(table[cell] for table in tables) for cell in cells)

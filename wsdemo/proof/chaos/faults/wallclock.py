"""Wall clock: what if the time of day is set while a gateway runs? `python wallclock.py ...`

Runs a gateway whose `time.time` is ahead by the number of seconds in a file, which holds one double
and is read at each call. It is run as a file, not as a module: importing the package would import
gateways before the clock is replaced, and they keep the function that they find.

The clock of a machine belongs to all its processes, and a time namespace of Linux moves only the
monotone clocks. But a gateway asks only Python for the time of day, so it sees the moved clock.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
import time
from pathlib import Path
from typing import Final

VARIABLE: Final = "WSDEMO_LAB_CLOCK_FILE"
"""The environment variable that names the file."""
SIZE: Final = struct.calcsize("d")


def main() -> None:
    """Replace the clock, then run the gateway."""
    sys.path[0] = str(
        Path(__file__).parents[4]
    )  # Instead of this folder, whose modules must not be found without their package.
    with Path(os.environ[VARIABLE]).open("rb") as file:
        ahead = mmap.mmap(file.fileno(), SIZE, access=mmap.ACCESS_READ)
    true_time = time.time

    def moved_time() -> float:
        seconds: float = struct.unpack_from("d", ahead)[0]
        return true_time() + seconds

    time.time = moved_time
    from wsdemo.gateway.__main__ import main as gateway

    gateway()


if __name__ == "__main__":
    main()

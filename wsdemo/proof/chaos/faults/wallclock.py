"""What if the clock on the wall is set while a gateway runs? `python wallclock.py`

Runs the gateway of its command line with a `time.time` that is as far ahead as a file says, read
anew at each call; the file holds one double, seconds. As a file, not as a module: `wsdemo.lab`
imports gateways, which keep the function that they find, and much else that none of them needs.

The time of a machine belongs to all its processes, and a time namespace of Linux moves the
monotone clocks only; but all that a gateway asks for the time of day is Python, so this is what
it would see.
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
    """Set the clock, then become a gateway."""
    sys.path[0] = str(Path(__file__).parents[4])  # Not this folder, whose modules are no packages.
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

"""What if the clock on the wall is set while a gateway runs? `python -m wsdemo.lab.chaos.wallclock`

Runs the gateway of its command line with a `time.time` that is as far ahead as a file says, read
anew at each call. The time of a machine belongs to all its processes, and a time namespace of
Linux moves the monotone clocks only; but all that a gateway asks for the time of day is Python, so
this is what it would see. The file holds one double: seconds.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from pathlib import Path
from typing import Final

VARIABLE: Final = "WSDEMO_LAB_CLOCK_FILE"
"""The environment variable that names the file."""
SIZE: Final = struct.calcsize("d")


def main() -> None:
    """Set the clock, then become a gateway."""
    with Path(os.environ[VARIABLE]).open("rb") as file:
        ahead = mmap.mmap(file.fileno(), SIZE, access=mmap.ACCESS_READ)
    true_time = time.time

    def moved_time() -> float:
        seconds: float = struct.unpack_from("d", ahead)[0]
        return true_time() + seconds

    time.time = moved_time
    # Only now: what is imported may keep the function.
    from wsdemo.gateway.__main__ import main as gateway

    gateway()


if __name__ == "__main__":
    main()

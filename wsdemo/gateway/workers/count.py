"""Number of workers: how many processes does a command line ask for?"""

from __future__ import annotations

import os
import sys
from typing import Final

from wsdemo.settings import SettingsError

MOST_WORKERS: Final = 128


def number_of_workers(asked: int | None, platform: str = sys.platform) -> int:
    """Return how many workers a command line asks for; 1 is a gateway without a parent.

    Raises:
        SettingsError: that many are not possible here.
    """
    if asked is None or asked == 1:
        return 1
    if not 0 <= asked <= MOST_WORKERS:
        raise SettingsError(f"workers must be 0 (one for each core) to {MOST_WORKERS}, not {asked}")
    if platform != "linux":
        raise SettingsError("--workers needs Linux: only there the kernel spreads connections")
    return asked or len(os.sched_getaffinity(0))

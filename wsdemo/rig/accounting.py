"""CPU time: how much of it has another process used?"""

from __future__ import annotations

import sys
import time

import psutil


def cpu_s_of(pid: int) -> float:
    """Return the CPU time of a process, user and system.

    The accounting files of Linux count in steps of 10 ms, which is a quarter of what a short
    phase costs; the CPU clock of the process (clock_getcpuclockid(3)) counts in nanoseconds.
    """
    if sys.platform == "linux":
        return time.clock_gettime((~pid << 3) | 2)
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)

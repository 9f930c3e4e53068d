"""Ranges: which numbers may a setting be?

Timers, sockets and Redis have bounds, and a gateway that starts with a number beyond them would
fail with its first client.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from wsdemo.addresses import SettingsError

SMALLEST: Final = 1e-6
LARGEST: Final = {float: 1e9, int: 2**53}
LARGEST_OF: Final = {"tcp_user_timeout_s": 2e6, "write_high_water_bytes": 2**31 - 1}
"""No setting may be smaller or larger."""


def require_positive(settings: Any, or_zero: frozenset[str] = frozenset()) -> None:
    """Check the numbers of a dataclass; what is True or False, or no number, is left alone.

    Args:
        or_zero: names of the fields that may be 0 as well.

    Raises:
        SettingsError: one of them is not positive, or too small or too large to be used.
    """
    for item in dataclasses.fields(settings):
        value = getattr(settings, item.name)
        if isinstance(item.default, bool | str | bytes) or (item.name in or_zero and value == 0):
            continue
        if not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise SettingsError(f"{item.name} must be a positive number, not {value!r:.40}")
        largest = LARGEST_OF.get(item.name, LARGEST[type(item.default)])
        if not SMALLEST <= value <= largest:
            raise SettingsError(
                f"{item.name} must be from {SMALLEST:g} to {largest:.10g}, not {value!r:.40}"
            )

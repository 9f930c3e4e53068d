"""Command line flags: how does a gateway process get the settings of this process?

`python -m wsdemo.gateway` has one flag for each field of `Timing` and `Limits`. Its name is the
name of the field, with hyphens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Final

from wsdemo.settings import Limits, Timing

WITHOUT_FLAG: Final = frozenset({"scale"})
"""Fields of settings for which a gateway has no flag."""


def flags_of(
    settings: Timing | Limits | Mapping[str, object], only: Collection[str] | None = None
) -> list[str]:
    """Return the flags for these settings.

    Args:
        settings: settings of a gateway, or values by the names of their fields.
        only: the fields that become flags; None: all that have a flag.
    """
    if isinstance(settings, Mapping):
        values = dict(settings)
    else:
        values = {item.name: getattr(settings, item.name) for item in dataclasses.fields(settings)}
    if unknown := set(only or ()) - values.keys():
        raise ValueError(f"there is no setting {min(unknown)!r}")
    return [
        f"--{name.replace('_', '-')}={value}"
        for name, value in values.items()
        if (name in only if only is not None else name not in WITHOUT_FLAG)
    ]

"""Set-up: is everything installed that the lessons need?"""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING

from wsdemo.redis.server import ServerError, find_server

if TYPE_CHECKING:
    import pandas as pd


def doctor() -> pd.DataFrame:
    """Return what was checked, what was found, and whether it is sufficient."""

    import pandas as pd

    rows = [("Python", platform.python_version(), "ok")]
    for name in ("wsdemo", "websockets", "redis", "ipykernel", "matplotlib", "pandas"):
        try:
            rows.append((name, version(name), "ok"))
        except PackageNotFoundError:
            rows.append((name, "", "missing: run make lab"))
    rows.append(("Redis", *_redis()))
    maintained = find_spec("nest_asyncio2") is not None
    rows.append(
        (
            "nest-asyncio",
            "nest_asyncio2" if maintained else "nest_asyncio",
            "not needed by the lessons, which use a thread"
            if maintained
            else "do not apply it by hand: it drops queued cells",
        )
    )
    return pd.DataFrame(rows, columns=["what", "found", "verdict"]).set_index("what")


def _redis() -> tuple[str, str]:
    try:
        with find_server() as server:
            # The port differs from run to run, and is not useful to the reader.
            return server.source.partition(", started here")[0], "ok"
    except ServerError as problem:
        return "", str(problem)

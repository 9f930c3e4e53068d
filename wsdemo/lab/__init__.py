"""Laboratory: what is in it? Real gateways and users in one process, and faults that are injected.

`from wsdemo.lab import Lab, check, expect, predict` is all that a notebook needs. Each name is
imported at its first use: a program that uses only a part, such as a cluster, does not load pandas
and matplotlib. `Lab` itself loads them when it draws the first figure, or makes the first table.
"""

import importlib
import logging
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from wsdemo.lab.cluster.cluster import Cluster
    from wsdemo.lab.expectation import expect
    from wsdemo.lab.lab import Lab
    from wsdemo.lab.learn import check, predict

__all__ = ["Cluster", "Lab", "check", "expect", "predict"]

_HOME: Final = {
    "Cluster": "wsdemo.lab.cluster.cluster",
    "Lab": "wsdemo.lab.lab",
    "check": "wsdemo.lab.learn",
    "expect": "wsdemo.lab.expectation",
    "predict": "wsdemo.lab.learn",
}
"""In which module each name lives."""

# Without a handler, Python prints warnings to stderr: from a thread, into the wrong cell.
logging.getLogger("wsdemo").addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from wsdemo.lab.progress import sign_of_life

    with sign_of_life("Loading the laboratory ...", _HOME["Cluster"]):
        found = globals()[name] = getattr(importlib.import_module(_HOME[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

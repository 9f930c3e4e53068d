"""wsdemo: a real distributed WebSocket gateway, its client, and the timings they agree on."""

from __future__ import annotations

TYPE_CHECKING = False  # What type checkers take for true; `typing` would be half of the time.
if TYPE_CHECKING:
    from typing import Any

    from wsdemo.client import Client
    from wsdemo.gateway.server import Gateway
    from wsdemo.settings import GatewaySettings, Timing

__all__ = ["Client", "Gateway", "GatewaySettings", "Timing"]
__version__ = "0.1.0"
"""The one place where the version stands: the build reads it here, and `--version` shows it."""


def __getattr__(name: str) -> Any:
    # Imported when asked for: a client needs no server, and `python -m wsdemo.gateway` must not
    # find its own module loaded already, nor wait for others before it can be told to stop.
    if name == "Gateway":
        from wsdemo.gateway.server import Gateway

        return Gateway
    if name == "Client":
        from wsdemo.client import Client

        return Client
    if name in {"GatewaySettings", "Timing"}:
        from wsdemo import settings

        return getattr(settings, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""wsdemo: a real distributed WebSocket gateway, its client, and the timings they agree on."""

from typing import TYPE_CHECKING, Any

from wsdemo.settings import GatewaySettings, Timing

if TYPE_CHECKING:
    from wsdemo.client import Client
    from wsdemo.gateway.server import Gateway

__all__ = ["Client", "Gateway", "GatewaySettings", "Timing"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Imported when asked for: a client needs no server, and `python -m wsdemo.gateway` must not
    # find its own module loaded already.
    if name == "Gateway":
        from wsdemo.gateway.server import Gateway

        return Gateway
    if name == "Client":
        from wsdemo.client import Client

        return Client
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

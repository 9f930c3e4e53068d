"""The user's process: a client that stays connected."""

from wsdemo.client.connection import (
    Client,
    ClientClosed,
    ConnectFailed,
    Message,
    Receipt,
    State,
)
from wsdemo.client.tokens import TokenUnavailable

__all__ = [
    "Client",
    "ClientClosed",
    "ConnectFailed",
    "Message",
    "Receipt",
    "State",
    "TokenUnavailable",
]

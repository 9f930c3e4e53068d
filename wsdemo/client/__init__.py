"""The user's process: a client that stays connected."""

from wsdemo.client.client import Client
from wsdemo.client.connection import (
    BackoffRule,
    ClientClosed,
    ConnectFailed,
    NotDurable,
    State,
)
from wsdemo.client.items import (
    Item,
    Member,
    Message,
    MessagesMissed,
    Missed,
    PresenceChange,
    WatchEnded,
)
from wsdemo.client.positions import FilePosition, Position, PositionError, PositionStore
from wsdemo.client.receipts import Receipt
from wsdemo.client.rooms import Joined, RequestRefused
from wsdemo.client.tokens import TokenUnavailable

__all__ = [
    "BackoffRule",
    "Client",
    "ClientClosed",
    "ConnectFailed",
    "FilePosition",
    "Item",
    "Joined",
    "Member",
    "Message",
    "MessagesMissed",
    "Missed",
    "NotDurable",
    "Position",
    "PositionError",
    "PositionStore",
    "PresenceChange",
    "Receipt",
    "RequestRefused",
    "State",
    "TokenUnavailable",
    "WatchEnded",
]

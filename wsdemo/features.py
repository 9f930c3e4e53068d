"""Optional features: what may a gateway offer that the demo does not have, and how much of it?

Each is off unless it is asked for, and a client that does not speak of it never sees it. A feature
has one dataclass here; its fields are its flags. Durations in seconds, sizes in bytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from wsdemo.addresses import SettingsError, is_host
from wsdemo.ranges import require_positive


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxSettings:
    """Durable messages (`--durable`): each user has an inbox in Redis.

    Raises:
        SettingsError: a number cannot work, alone or with another one.
    """

    inbox_messages: int = 1_000
    """The most messages that one inbox keeps; the oldest go first."""
    inbox_bytes: int = 4 * 1024 * 1024
    """The most bytes that one inbox keeps, as its messages are sent; the oldest go first."""
    retention_s: float = 86_400.0
    """How long an inbox lives after its last message."""
    dedup_s: float = 600.0
    """How long the id of a stored message is remembered, so that a repeated send stores nothing."""
    durable_window: int = 256
    """Messages that a client has not acknowledged; beyond it no more are read for it."""
    page_messages: int = 64
    """The most messages that are read from an inbox in one step."""
    page_bytes: int = 64 * 1024
    """The most bytes that are read from an inbox in one step; one message may be larger."""
    ack_every_s: float = 0.5
    """How often what a client has acknowledged is told to Redis."""
    trust_redis: bool = False
    """Redis loses nothing that it has confirmed, so a new run of it is no reason for a reset."""

    def __post_init__(self) -> None:
        require_positive(self)
        if self.durable_window >= self.inbox_messages:
            raise SettingsError(
                f"durable_window ({self.durable_window}) must be less than "
                f"inbox_messages ({self.inbox_messages})"
            )
        if self.dedup_s > self.retention_s:
            raise SettingsError(
                f"dedup_s ({self.dedup_s:g}) must be at most retention_s ({self.retention_s:g})"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomSettings:
    """Rooms (`--rooms`): a message for everybody who has joined.

    Raises:
        SettingsError: a number cannot work.
    """

    room_members: int = 1_000
    """The most members of one room."""
    rooms_per_session: int = 50
    """The most rooms that one session is in."""
    room_history: int = 0
    """Messages that a room keeps for those who join later; 0 is none."""
    trust_redis: bool = False
    """Redis loses nothing that it has confirmed, so in a new run of it the history is still whole.
    One flag with that of `InboxSettings`."""
    publishes_per_s: float = 20.0
    """How many messages one session may publish in rooms: each is sent to all members."""
    publish_burst: int = 40
    joins_per_s: float = 10.0
    """How many times one session may join or leave: each is told to all members."""
    join_burst: int = 100
    room_beat_s: float = 10.0
    """How often a gateway says that it lives, for the rooms that its users are in."""
    room_lease_s: float = 30.0
    """After this long without a beat a gateway is given up: its users are in no room any more."""
    room_repair_s: float = 60.0
    """How often a gateway compares what Redis says of its own users with the truth."""
    room_linger_s: float = 5.0
    """For so long after its last member has left, a gateway still listens to a room."""

    def __post_init__(self) -> None:
        require_positive(self, or_zero=frozenset({"room_history"}))
        if self.room_lease_s < 2 * self.room_beat_s:
            raise SettingsError(
                f"room_lease_s ({self.room_lease_s:g}) must be at least 2 x room_beat_s "
                f"({self.room_beat_s:g}), or gateways that live are given up"
            )
        if self.join_burst < self.rooms_per_session:
            raise SettingsError(
                f"join_burst ({self.join_burst}) must be at least rooms_per_session "
                f"({self.rooms_per_session}), or nobody can join all of them after a reconnect"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchSettings:
    """Presence events (`--watch`): who may be told when a user comes or goes.

    Raises:
        SettingsError: a number cannot work.
    """

    watched_users: int = 100
    """The most users that one session watches."""
    watch_grace_s: float = 5.0
    """A user who is back within this time has not gone."""
    watch_reconcile_s: float = 30.0
    """How often the presence of watched users is read again, because an event may be lost."""
    watches_per_s: float = 20.0
    """The rate limit of one session in the long run: users whom it asks to watch."""
    watch_burst: int = 200
    """How many users it may ask to watch at once."""

    def __post_init__(self) -> None:
        require_positive(self)
        if self.watch_burst < self.watched_users:
            raise SettingsError(
                f"watch_burst ({self.watch_burst}) must be at least "
                f"watched_users ({self.watched_users})"
            )


API_KEY: Final = re.compile(rb"[!-~]{32,4096}")
"""The key of the server API: it travels in a header."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiSettings:
    """The server API (`--api-port`): what a backend may ask for by HTTP.

    Raises:
        SettingsError: a number cannot work.
    """

    api_host: str = "127.0.0.1"
    api_port: int = 0
    """0 lets the operating system choose."""
    api_key: bytes = b""
    """Who knows it may ask for everything."""
    api_requests_per_s: float = 200.0
    """Requests of all who know the key, in the long run; `api_burst` may come at once."""
    api_burst: int = 400

    def __post_init__(self) -> None:
        require_positive(self, or_zero=frozenset({"api_port"}))
        if not 0 <= self.api_port <= 65535:
            raise SettingsError(f"api_port {self.api_port} is not between 0 and 65535")
        if not is_host(self.api_host):
            raise SettingsError(f"api_host {self.api_host!r} is neither a name nor an address")
        if not API_KEY.fullmatch(self.api_key):
            raise SettingsError(
                "the server API needs a key of at least 32 characters of ASCII, without white "
                "space; make one with: python -m wsdemo.gateway secret FILE"
            )

    def __repr__(self) -> str:
        return f"ApiSettings({self.api_host}:{self.api_port})"


MAX_DEVICES = 8
"""The most devices of one user (`--devices`): register and refresh look at each of them."""

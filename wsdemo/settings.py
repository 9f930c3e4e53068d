"""How long do we wait, and where do things live?

Pure values: durations in seconds, sizes in bytes, addresses as text. Every relation between two
durations that a promise rests on is checked on construction, so a gateway with timings that
cannot keep its promises does not start.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from dataclasses import dataclass, field
from typing import Any, Final, Self
from urllib.parse import quote, urlsplit

GATEWAY_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""What a gateway may be called: it becomes part of a channel name."""

MAX_USER_ID_CHARS: Final = 64
USER_ID = re.compile(rf"[A-Za-z0-9._@-]{{1,{MAX_USER_ID_CHARS}}}")
"""What a user may be called: it becomes part of a key, and is compared byte for byte."""

RESERVED_USER_ID = re.compile(r"gateway-.*|__.*__")
"""Names that would be mistaken for a gateway or for the kit's own probes."""

ORIGIN = re.compile(r"(https?://(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]))(:(?:\d{1,5}|\*))?")
"""An origin that may be allowed; `:*` in place of a port means any port, or none."""

LOCAL_ORIGINS: Final = tuple(
    f"{scheme}://{host}:*"
    for scheme in ("http", "https")
    for host in ("localhost", "127.0.0.1", "[::1]")
)
"""Pages of this machine, which may connect unless told otherwise."""

SHORTEST_LIMIT_BYTES: Final = 128
"""No limit of a frame may be smaller: control frames and the fast path are shorter than this."""

MIN_SECRET_BYTES: Final = 32
"""A shorter secret could be guessed from one token (RFC 7518, section 3.2)."""

SILENT_CLIENT_PROMISE_S = 150.0
"""A client that falls silent is forgotten by its gateway within this time (production timings)."""


class SettingsError(ValueError):
    """A setting, or a relation between settings, that cannot work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """The rhythm of the cluster, in seconds. The defaults are the demo's 30 / 90 / 60.

    `scaled(60)` is the teaching clock: everything sixty times faster, the relations unchanged.
    Durations that a machine needs to do its work (a round trip, a write) are not here but in
    `Limits`: they do not get shorter because a lesson is in a hurry.

    Raises:
        SettingsError: a duration is not positive, or a relation does not hold. The message names
            the numbers.
    """

    heartbeat_s: float = 30.0
    """How often a client says that it is alive."""
    presence_ttl_s: float = 90.0
    """How long Redis believes in a user of whom nothing is heard."""
    idle_timeout_s: float = 90.0
    """How long a gateway believes in a client of which nothing is heard."""
    health_check_s: float = 60.0
    """How often the gateway looks for clients past their idle timeout."""
    ws_ping_interval_s: float = 20.0
    """After this long without a byte from a client, the gateway sends a WebSocket ping."""
    ws_ping_timeout_s: float = 20.0
    """A client that leaves such a ping unanswered for this long is dropped."""
    tick_s: float = 1.0
    """How often due refreshes leave for Redis, as one batch."""
    probe_interval_s: float = 5.0
    """How often a gateway sends itself a message, to find out that its subscription is deaf."""
    fence_ttl_s: float = 3600.0
    """How long the fence of a user outlives its last command; much longer than any delay of one."""
    scale: float = 1.0
    """How many times faster than the production timings these are; plots multiply by it."""

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if not isinstance(value, int | float) or not 0 < value < float("inf"):
                raise SettingsError(f"{item.name} must be a positive number, not {value!r}")
        promise_s = SILENT_CLIENT_PROMISE_S / self.scale
        silent_s = self.idle_timeout_s + self.health_check_s
        self._require(
            2 * self.heartbeat_s < self.presence_ttl_s,
            f"2 x heartbeat_s ({self.heartbeat_s:g}) must be less than presence_ttl_s "
            f"({self.presence_ttl_s:g}), or one lost heartbeat takes a live user offline",
        )
        self._require(
            self.heartbeat_s < self.idle_timeout_s,
            f"heartbeat_s ({self.heartbeat_s:g}) must be less than idle_timeout_s "
            f"({self.idle_timeout_s:g}), or healthy clients are dropped",
        )
        self._require(
            silent_s <= promise_s * (1 + 1e-9),
            f"idle_timeout_s ({self.idle_timeout_s:g}) + health_check_s "
            f"({self.health_check_s:g}) = {silent_s:g} s is longer than the promised "
            f"{promise_s:g} s within which a silent client is forgotten",
        )
        self._require(
            self.tick_s <= self.heartbeat_s / 2,
            f"tick_s ({self.tick_s:g}) must be at most half of heartbeat_s ({self.heartbeat_s:g})",
        )
        self._require(
            self.fence_ttl_s >= 2 * self.presence_ttl_s,
            f"fence_ttl_s ({self.fence_ttl_s:g}) must be at least 2 x presence_ttl_s "
            f"({self.presence_ttl_s:g}), or a late command meets no fence",
        )

    @staticmethod
    def _require(holds: bool, message: str) -> None:
        if not holds:
            raise SettingsError(message)

    def scaled(self, k: float) -> Self:
        """Return these timings `k` times faster; the life of the fence stays."""
        if not 0 < k < float("inf"):
            raise SettingsError(f"the scale must be a positive number, not {k!r}")
        kept = {"scale", "fence_ttl_s"}
        faster: dict[str, Any] = {
            item.name: getattr(self, item.name) / k
            for item in dataclasses.fields(self)
            if item.name not in kept
        }
        return dataclasses.replace(self, **faster, scale=self.scale * k)

    @property
    def presence_ttl_ms(self) -> int:
        return max(1, round(self.presence_ttl_s * 1000))

    @property
    def fence_ttl_ms(self) -> int:
        return max(1, round(self.fence_ttl_s * 1000))


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a gateway will wait for, hold or accept, and no more. Seconds, bytes and counts."""

    handshake_timeout_s: float = 5.0
    register_deadline_s: float = 5.0
    """From the 101 response to a `register` message."""
    redis_timeout_s: float = 2.0
    """A Redis command without an answer for this long has an unknown outcome."""
    redis_connect_timeout_s: float = 2.0
    redis_max_pending: int = 50_000
    """Commands on the way to Redis; beyond it, new ones are refused as `busy`."""
    write_deadline_s: float = 10.0
    """A client that takes no bytes for this long, while some wait for it, is aborted."""
    tcp_user_timeout_s: float = 20.0
    """Where the system can (Linux): bytes that a client's machine does not even confirm for this
    long end the connection."""
    close_timeout_s: float = 1.0
    """How long a closing connection may take to say goodbye."""
    drain_s: float = 8.0
    """SIGTERM to exit, at most; 10 s is promised."""
    drain_batch: int = 200
    """Clients told to leave per step of a drain, so that they do not all reconnect at once."""
    max_frame_bytes: int = 64 * 1024
    max_message_bytes: int = 64 * 1024
    """Over all fragments of a message."""
    max_content_bytes: int = 16 * 1024
    max_user_id_chars: int = 64
    max_fragments: int = 256
    max_malformed: int = 20
    """Malformed messages within `malformed_window_s` before the connection is closed (4502)."""
    malformed_window_s: float = 60.0
    messages_per_s: float = 1_000.0
    """What one client may say in the long run; a bucket of `message_burst` lets it be uneven."""
    message_burst: int = 2_000
    rate_patience_s: float = 5.0
    """A client that stays above its rate for this long is closed (4008)."""
    control_frames_per_s: float = 10.0
    """WebSocket pings and pongs of one client; more, and it is closed (4008)."""
    control_burst: int = 20
    outbox_messages: int = 256
    outbox_bytes: int = 1024 * 1024
    write_high_water_bytes: int = 64 * 1024
    write_hard_cap_bytes: int = 1024 * 1024
    """Replies to control frames bypass the outbox; this bounds what a ping flood can pile up."""
    in_flight: int = 256
    """Messages of one sender on their way through Redis before its socket is read no further."""
    held_frames: int = 64
    """Frames kept for a connection whose register is still under way."""
    concurrent_registers: int = 200
    register_queue_s: float = 2.0
    """How long a register waits for its turn before it is told to come back (1013)."""
    max_connections: int = 10_000
    connections_per_ip: int = 50
    unregistered_per_ip: int = 5
    """Connections of one address on which nobody has registered yet."""
    auth_delay_s: float = 0.1
    """After this long a failed authentication is answered, whatever was wrong with it."""
    resync_per_s: float = 2_000.0
    """Sessions re-registered per second when Redis is back."""
    retry_after_s: float = 2.0
    """What a client told 1012 or 1013 waits on average; jittered."""

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if not isinstance(value, int | float) or not 0 < value < float("inf"):
                raise SettingsError(f"{item.name} must be a positive number, not {value!r}")
        for name in ("max_frame_bytes", "max_message_bytes"):
            if self.max_content_bytes >= getattr(self, name):
                raise SettingsError(
                    f"max_content_bytes ({self.max_content_bytes}) must be less than "
                    f"{name} ({getattr(self, name)})"
                )
            if getattr(self, name) < SHORTEST_LIMIT_BYTES:
                raise SettingsError(f"{name} must be at least {SHORTEST_LIMIT_BYTES}")
        if self.max_user_id_chars > MAX_USER_ID_CHARS:
            raise SettingsError(f"max_user_id_chars must be at most {MAX_USER_ID_CHARS}")


@dataclass(frozen=True, slots=True)
class Keyspace:
    """The names of things in Redis. A prefix keeps two labs on one server apart."""

    prefix: str = ""

    def presence(self, user: str) -> str:
        return f"{self.prefix}presence:{user}"

    def fence(self, user: str) -> str:
        return f"{self.prefix}fence:{user}"

    def gateway_channel(self, gateway_id: str) -> str:
        return f"{self.prefix}gateway:{gateway_id}"

    @property
    def broadcast_channel(self) -> str:
        return f"{self.prefix}gateway:broadcast"


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """Everything a gateway is told before it starts.

    Raises:
        SettingsError: the id or the port cannot work.
    """

    gateway_id: str
    host: str = "127.0.0.1"
    port: int = 8080
    """0 lets the operating system choose; `Gateway.port` then says which."""
    redis_url: str = "redis://localhost:6379"
    timing: Timing = field(default_factory=Timing)
    limits: Limits = field(default_factory=Limits)
    keyspace: Keyspace = field(default_factory=Keyspace)
    takeover: bool = False
    """Start although another gateway with this id is subscribed; that one is told to stop."""
    fast_frames: bool = True
    """Read usual handshakes and short unfragmented text frames without the general parser (same
    results, measured)."""
    origins: tuple[str, ...] = LOCAL_ORIGINS
    """Whose pages may connect. Whoever sends no Origin is no page, and may."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses or networks whose X-Forwarded-For names the client."""
    limit_loopback: bool = False
    """Count connections from this machine against the limits per address as well."""
    certfile: str = ""
    keyfile: str = ""
    """Where the certificate (PEM) may leave its key; '' when it is in `certfile`."""
    auth_secret: bytes | None = field(default=None, repr=False)
    """With a secret, only who shows a token signed with it may register."""

    def __post_init__(self) -> None:
        for origin in self.origins:
            if not ORIGIN.fullmatch(origin):
                raise SettingsError(
                    f"origin {origin!r} is not valid: scheme://host, scheme://host:port or "
                    "scheme://host:*"
                )
        for proxy in self.trusted_proxies:
            try:
                ipaddress.ip_network(proxy, strict=False)
            except ValueError as problem:
                raise SettingsError(f"trusted proxy: {problem}") from None
        if self.keyfile and not self.certfile:
            raise SettingsError("a key without a certificate: --keyfile needs --certfile")
        if self.auth_secret is not None and len(self.auth_secret) < MIN_SECRET_BYTES:
            raise SettingsError(
                f"the secret for tokens has {len(self.auth_secret)} bytes; "
                f"at least {MIN_SECRET_BYTES} are needed"
            )
        if not GATEWAY_ID.fullmatch(self.gateway_id) or self.gateway_id == "broadcast":
            raise SettingsError(
                f"gateway id {self.gateway_id!r} is not valid: 1 to 64 of A-Z a-z 0-9 . _ -, "
                'and not "broadcast"'
            )
        if not 0 <= self.port <= 65535:
            raise SettingsError(f"port {self.port} is not between 0 and 65535")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSettings:
    """How a client keeps itself connected. Durations in seconds."""

    connect_timeout_s: float = 5.0
    register_timeout_s: float = 8.0
    close_timeout_s: float = 1.0
    ack_timeout_s: float = 5.0
    """After this long without an ack, the outcome of a send is `unknown`."""
    backoff_base_s: float = 0.1
    backoff_cap_s: float = 5.0
    pong_within_heartbeats: float = 0.5
    """A connection on which a heartbeat is unanswered for this part of the interval is dead."""
    pong_within_at_least_s: float = 1.0
    """But no sooner than this: a machine needs its time, however fast the clock of a lesson is."""
    inbox: int = 1024
    """Received messages kept for the application; beyond it, the socket is read no further."""
    token_timeout_s: float = 10.0
    """How long the source of tokens may take for one."""
    token_patience_s: float = 30.0
    """How long a client that was registered waits for another token when its own was refused."""

    def pong_within_s(self, heartbeat_s: float) -> float:
        """Return how long an answer to a heartbeat is waited for."""
        return max(self.pong_within_heartbeats * heartbeat_s, self.pong_within_at_least_s)


def valid_user_id(user: str, max_chars: int = MAX_USER_ID_CHARS) -> bool:
    """Say whether a user may be called this."""
    return (
        len(user) <= max_chars
        and USER_ID.fullmatch(user) is not None
        and RESERVED_USER_ID.fullmatch(user) is None
    )


def origin_pattern(origin: str) -> re.Pattern[str]:
    """Return what an Origin header has to match in full to be this allowed origin."""
    if origin.endswith(":*"):
        return re.compile(re.escape(origin.removesuffix(":*")) + r"(:\d{1,5})?")
    return re.compile(re.escape(origin))


def redis_url(address: str) -> str:
    """Return the URL of a Redis address: `host`, `host:port` or a URL, which is kept.

    Raises:
        SettingsError: it is neither.
    """
    if "://" not in address:
        address = f"redis://{address}"
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError as problem:
        raise SettingsError(f"Redis address {address!r} is not valid: {problem}") from None
    if parts.scheme not in {"redis", "rediss", "unix"}:
        raise SettingsError(
            f"Redis address {address!r} must start with redis://, rediss:// or unix://"
        )
    if parts.scheme == "unix":
        return address
    if not parts.hostname or not re.fullmatch(r"[A-Za-z0-9._:-]+", parts.hostname):
        raise SettingsError(f"Redis address {address!r} names no valid host")
    if port == 0:
        raise SettingsError(f"Redis address {address!r} has port 0")
    return address if port else address.replace(parts.netloc, f"{parts.netloc}:6379", 1)


def redacted(url: str) -> str:
    """Return a Redis URL that may be printed: its password, if any, is hidden."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    user = quote(parts.username or "", safe="")
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{user}:***@{host}").geturl()

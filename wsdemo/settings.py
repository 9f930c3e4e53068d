"""Settings: which timeouts, limits, addresses and names are there?

Pure values: durations in seconds, sizes in bytes, addresses as text. Some promises need a relation
between two durations; it is checked on construction. So a gateway whose timings cannot keep the
promises does not start.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from dataclasses import dataclass, field
from typing import Any, Final, Self

from wsdemo.addresses import MAX_BUCKETS, RedisAddress, is_host
from wsdemo.addresses import SettingsError as SettingsError
from wsdemo.addresses import redacted as redacted
from wsdemo.addresses import redis_url as redis_url
from wsdemo.addresses import without_secrets as without_secrets
from wsdemo.buckets import bucket_of, tags
from wsdemo.features import (
    MAX_DEVICES,
    ApiSettings,
    InboxSettings,
    RoomSettings,
    WatchSettings,
)
from wsdemo.ranges import require_positive
from wsdemo.user_ids import (
    MAX_USER_ID_CHARS,
    USER_ID_PATTERN,
    USUAL_USER_ID_CHARS,
    UserIds,
    user_ids,
)
from wsdemo.user_ids import valid_user_id as valid_user_id

GATEWAY_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""What a gateway may be called: it becomes part of a channel name."""

MAX_PORT: Final = 65535

ORIGIN = re.compile(
    r"\*|null"
    r"|(?!https?://(?:[:]|$))[A-Za-z][A-Za-z0-9+.-]*://"
    r"(?:[A-Za-z0-9._~-]*|\[[0-9A-Fa-f:.]+\])(?::(?:\d{1,5}|\*))?"
)
"""An origin that may be allowed, of a page, an app or an extension: `scheme://host`, with a port if
it has one; `:*` in place of a port means any port, or none. `null` is what a browser sends for a
page without an origin (a local file), and `*` is any origin."""

ANY_ORIGIN: Final = "*"
_DEFAULT_PORTS: Final = {"http": "80", "https": "443"}

LOCAL_ORIGINS: Final = tuple(
    f"{scheme}://{host}:*"
    for scheme in ("http", "https")
    for host in ("localhost", "127.0.0.1", "[::1]")
)
"""Pages of this machine, which may connect unless told otherwise."""

SHORTEST_LIMIT_BYTES: Final = 128
"""No limit of a frame may be smaller: control frames and the fast path are shorter than this."""

LOCAL_SOCKETS: Final = "unix"
"""In place of an address: peers on a unix socket, which have none."""

FORWARDED_HEADERS: Final = ("x-forwarded-for", "forwarded", "x-real-ip")
"""Where a trusted proxy may write the address of its client; the first is the default."""

SUBPROTOCOL: Final = "wsdemo.v1"
"""For clients that need the gateway to choose a subprotocol: they may offer this one."""

BEARER: Final = "bearer."
"""An offer with this prefix is a token, no subprotocol: browsers have no other way to send one."""

TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""A token in the grammar of HTTP (RFC 9110, section 5.6.2)."""

HOST_AND_PORT = re.compile(r"(?a)(?:\[([0-9A-Za-z:.%_-]+)\]|([^\[\]:/\s]*)):(\d{1,5})")
"""An IPv6 address stands in brackets; without a host, all addresses are meant."""

DATABASE_PREFIX = re.compile(r"db-?\d+:")
"""A key prefix must not begin like this: channels of databases other than 0 do."""

MIN_SECRET_BYTES: Final = 32
"""A shorter secret could be guessed from one token (RFC 7518, section 3.2)."""

SILENT_CLIENT_PROMISE_S = 150.0
"""A client that falls silent is forgotten by its gateway within this time (production timings)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """The timings of the cluster, in seconds. The defaults are the demo's 30 / 90 / 60.

    `scaled(60)` is the teaching clock: everything sixty times faster, the relations unchanged.
    Durations that a machine needs to do its work (a round trip, a write) are not here but in
    `Limits`: they do not get shorter when a lesson runs faster.

    Raises:
        SettingsError: a duration is not positive, or a relation does not hold. The message names
            the numbers.
    """

    heartbeat_s: float = 30.0
    """How often a client sends a heartbeat."""
    presence_ttl_s: float = 90.0
    """How long Redis keeps a user without a sign of life: the length of the lease."""
    idle_timeout_s: float = 90.0
    """How long a gateway keeps a client without a sign of life."""
    health_check_s: float = 60.0
    """How often the gateway looks for clients past their idle timeout."""
    ws_ping_interval_s: float = 20.0
    """After this long without a byte from a client, the gateway sends a WebSocket ping."""
    ws_ping_timeout_s: float = 20.0
    """A client that leaves such a ping unanswered for this long is dropped."""
    tick_s: float = 1.0
    """How often due refreshes leave for Redis, as one batch."""
    probe_interval_s: float = 5.0
    """How often a gateway sends itself a message, to find out whether its subscription is deaf."""
    fence_ttl_s: float = 3600.0
    """How long the fence of a user outlives its last command; much longer than any delay of one."""
    scale: float = 1.0
    """How many times faster than the production timings these are; plots multiply by it."""

    def __post_init__(self) -> None:
        require_positive(self)
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
    """The most that a gateway waits for, keeps or accepts. Seconds, bytes and counts."""

    handshake_timeout_s: float = 5.0
    register_deadline_s: float = 5.0
    """From the 101 response to a `register` message."""
    redis_timeout_s: float = 2.0
    """A Redis command without an answer for this long has an unknown outcome."""
    redis_connect_timeout_s: float = 2.0
    redis_start_s: float = 5.0
    """How long a start waits for a Redis that is there and says "not now"."""
    redis_max_pending: int = 50_000
    """Commands on the way to Redis; beyond it, new ones are refused as `busy`."""
    write_deadline_s: float = 10.0
    """A client that takes no bytes for this long, while some wait for it, is aborted."""
    tcp_user_timeout_s: float = 20.0
    """On Linux: a connection ends when the client's machine does not acknowledge bytes for this
    long."""
    close_timeout_s: float = 1.0
    """How long the client may take to answer a close frame."""
    drain_notice_s: float = 0.0
    """How long a gateway that was told to stop still serves its users and says that it is not
    ready, so that a load balancer sends no more clients. 0 is for gateways behind none."""
    drain_s: float = 8.0
    """The longest time from the end of that notice to the exit; 10 s is promised."""
    drain_batch: int = 200
    """Clients that are closed per step of a drain, so that they do not all reconnect at once."""
    max_frame_bytes: int = 64 * 1024
    max_message_bytes: int = 64 * 1024
    """Over all fragments of a message."""
    max_content_bytes: int = 16 * 1024
    max_user_id_chars: int = USUAL_USER_ID_CHARS
    max_fragments: int = 256
    max_malformed: int = 20
    """Malformed messages within `malformed_window_s` before the connection is closed (4502)."""
    malformed_window_s: float = 60.0
    messages_per_s: float = 1_000.0
    """The rate limit of one client in the long run; `message_burst` messages may come at once."""
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
    """Replies to control frames bypass the outbox; this bounds them when a client floods pings."""
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
    """Connections of one address on which no user has registered yet."""
    auth_delay_s: float = 0.1
    """The delay of the answer to a failed authentication, whatever was wrong with it."""
    resync_per_s: float = 2_000.0
    """Leases that are renewed per second when Redis is back."""
    retry_after_s: float = 2.0
    """How long a client that is closed with 1012 or 1013 is told to wait, on average; with jitter.
    """

    def __post_init__(self) -> None:
        require_positive(self, or_zero=frozenset({"drain_notice_s"}))
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
    """The names of keys and channels in Redis. A prefix separates two labs on one server.

    Keys belong to a database, channels do not: a subscriber receives what is published from any
    database. Therefore the names of channels contain the number of their database, except for 0.

    In a cluster, every name of a user or a room contains the hash tag of its bucket (`buckets`),
    and each gateway has a channel for each bucket.

    Raises:
        SettingsError: the prefix cannot be used, or there are too many buckets.
    """

    prefix: str = ""
    db: int = 0
    """`GatewaySettings` takes it from the URL of its Redis."""
    buckets: int = 0
    """The same for all gateways of a cluster, for ever; 0 for a single Redis. `GatewaySettings`
    takes it from the URL as well."""

    def __post_init__(self) -> None:
        if DATABASE_PREFIX.match(self.prefix):
            raise SettingsError(
                f"key prefix {self.prefix!r} must not begin with db and a number: "
                "the channels of that database do"
            )
        if not self.prefix.isprintable():
            raise SettingsError("the key prefix has characters that cannot be printed")
        if not 0 <= self.buckets <= MAX_BUCKETS:
            raise SettingsError(f"buckets {self.buckets} is not between 1 and {MAX_BUCKETS}")
        if self.buckets and "{" in self.prefix:
            raise SettingsError(
                f"key prefix {self.prefix!r} must not have a {{ in a cluster: it would say which "
                "server has the keys"
            )

    def bucket(self, owner: str) -> int:
        """Return the bucket of a user or of a room; 0 on a single Redis."""
        return bucket_of(owner.encode(), self.buckets) if self.buckets else 0

    def _tag(self, bucket: int) -> str:
        """Return the hash tag of a bucket, as it stands in names; '' on a single Redis."""
        return f"{{{tags(self.buckets)[bucket]}}}:" if self.buckets else ""

    def _tagged(self, owner: str) -> str:
        return f"{self._tag(self.bucket(owner))}{owner}"

    def key(self, kind: str, owner: str, *more: str) -> str:
        """Return the name of a key of a user or of a room. Every such name is made here.

        Args:
            kind: what the key holds, as `presence`.
            owner: the user or the room; all keys that one script touches have the same owner.
            more: what tells several keys of one kind and owner apart.
        """
        if self.buckets:
            owner = self._tagged(owner)
        return f"{self.prefix}{':'.join((kind, owner, *more))}"

    def channel(self, kind: str, owner: str) -> str:
        """Return the name of a channel of a user or of a room. Every such name is made here."""
        if self.buckets:
            owner = self._tagged(owner)
        return f"{self.channel_prefix}{kind}:{owner}"

    def start_of(self, kind: str, bucket: int) -> str:
        """Return what the keys of a kind in a bucket begin with."""
        return f"{self.prefix}{kind}:{self._tag(bucket)}"

    @property
    def presences(self) -> str:
        """What the keys of all presences begin with."""
        return f"{self.prefix}presence:"

    def presence(self, user: str) -> str:
        return self.key("presence", user)

    def fence(self, user: str) -> str:
        return self.key("fence", user)

    @property
    def boots(self) -> str:
        """The key of all gateway processes that have rooms."""
        return f"{self.prefix}boots"

    @property
    def channel_prefix(self) -> str:
        """What stands before `gateway:`, in scripts as well."""
        return f"db{self.db}:{self.prefix}" if self.db else self.prefix

    @property
    def publish(self) -> str:
        """The command that publishes on every channel but that of broadcasts."""
        return "SPUBLISH" if self.buckets else "PUBLISH"

    def script_channels(self, bucket: int) -> str:
        """Return what a script needs to name the channel of a gateway: what stands before
        `gateway:`, and in a cluster (`Script.at`) all that stands before the id of the gateway.
        """
        return self.gateway_channel("", bucket) if self.buckets else self.channel_prefix

    def gateway_channel(self, gateway_id: str, bucket: int = 0) -> str:
        return f"{self.channel_prefix}gateway:{self._tag(bucket)}{gateway_id}"

    def gateway_channels(self, gateway_id: str) -> list[str]:
        """Return the channels of a gateway: one for each bucket."""
        return [self.gateway_channel(gateway_id, bucket) for bucket in range(self.buckets or 1)]

    def user_of(self, key: str) -> str:
        """Return the user whose presence a key has (`presence`)."""
        owner = key.removeprefix(self.presences)
        return owner.partition("}:")[2] if self.buckets else owner

    @property
    def broadcast_channel(self) -> str:
        return f"{self.channel_prefix}gateway:broadcast"


@dataclass(frozen=True, slots=True)
class Address:
    """One place to listen on: a port of a host, or a socket in the file system (`path`).

    `host` is a name, an address or '' (all addresses); port 0 lets the operating system choose.
    """

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read `host:port`, `[v6]:port` or `unix:/path`.

        Raises:
            SettingsError: it is none of these.
        """
        if text.startswith("unix:"):
            path = text.removeprefix("unix:")
            if not path.startswith("/") or path.endswith("/") or "\0" in path:
                raise SettingsError(f"cannot listen on {text!r}: unix:/path names a file in full")
            return cls(path=path)
        found = HOST_AND_PORT.fullmatch(text)
        if found is None or int(found[3]) > MAX_PORT:
            raise SettingsError(
                f"cannot listen on {text!r}: it is none of host:port, [v6]:port and unix:/path"
            )
        return cls(found[1] or found[2], int(found[3]))


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """Everything a gateway is told before it starts.

    Raises:
        SettingsError: the id, the port, an address or the pattern cannot work.
    """

    gateway_id: str
    host: str = "127.0.0.1"
    port: int = 8080
    """0 lets the operating system choose; `Gateway.port` then says which."""
    listen: tuple[str, ...] = ()
    """Where to listen in place of `host` and `port`: `host:port`, `[v6]:port`, `unix:/path`."""
    unix_mode: int = 0o660
    """Who may connect to a unix socket: whoever may write to it (permissions, as for a file)."""
    redis_url: str = "redis://localhost:6379"
    timing: Timing = field(default_factory=Timing)
    limits: Limits = field(default_factory=Limits)
    keyspace: Keyspace = field(default_factory=Keyspace)
    takeover: bool = False
    """Start although another gateway with this id is running; that one is told to stop."""
    fast_frames: bool = True
    """Read usual handshakes and short unfragmented text frames without the general parser (same
    results, measured)."""
    origins: tuple[str, ...] = LOCAL_ORIGINS
    """Whose pages may connect, in addition to pages from the gateway's own host. Requests without
    Origin (non-browsers) are allowed."""
    subprotocols: tuple[str, ...] = ()
    """Subprotocols that are known in addition to `wsdemo.v1`; all mean the same."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses or networks of proxies that are believed about their clients; `unix` stands for
    peers on a unix socket."""
    forwarded_header: str = FORWARDED_HEADERS[0]
    """The one header in which they name the client. Any other one may be the client's own."""
    proxy_protocol: bool = False
    """They begin each connection with a PROXY header, version 1 or 2."""
    limit_loopback: bool = False
    """Count connections from this machine against the limits per address as well."""
    certfile: str = ""
    keyfile: str = ""
    """Where the certificate (PEM) may leave its key; '' when it is in `certfile`."""
    auth_secret: bytes | None = field(default=None, repr=False)
    """With a secret, a register needs a token that is signed with it."""
    user_id_pattern: str = USER_ID_PATTERN
    """A regular expression that a user id has to match in full; see `UserIds` for what no pattern
    lets in. All gateways of a cluster need the same one."""
    inbox: InboxSettings | None = None
    """Durable messages; None: this gateway stores none."""
    devices: int = 1
    """How many devices of one user may be connected; with 1, a newer session replaces an older."""
    rooms: RoomSettings | None = None
    """None: this gateway has no rooms."""
    watch: WatchSettings | None = None
    """Presence events; None: nobody is told of others."""
    api: ApiSettings | None = None
    """The server API; None: this gateway has none."""

    def __post_init__(self) -> None:
        # Normalised here as well, for callers without a command line.
        object.__setattr__(self, "redis_url", redis_url(self.redis_url))
        self.user_ids()
        if self.host and not is_host(self.host):
            raise SettingsError(f"host {self.host!r} is neither a name nor an address")
        for origin in self.origins:
            if not ORIGIN.fullmatch(origin):
                raise SettingsError(
                    f"origin {origin!r} is not valid: scheme://host, scheme://host:port or "
                    "scheme://host:*; null, or * for any"
                )
        for name in self.subprotocols:
            if not TOKEN.fullmatch(name) or name.startswith(BEARER):
                raise SettingsError(
                    f"subprotocol {name!r} is not valid: a word without white space and commas "
                    f"that does not begin with {BEARER!r}"
                )
        for proxy in self.trusted_proxies:
            try:
                if proxy != LOCAL_SOCKETS:
                    ipaddress.ip_network(proxy, strict=False)
            except ValueError as problem:
                raise SettingsError(
                    f"trusted proxy: {problem}; {LOCAL_SOCKETS} is a socket of this machine"
                ) from None
        if self.forwarded_header not in FORWARDED_HEADERS:
            raise SettingsError(
                f"forwarded header {self.forwarded_header!r} is none of: "
                + ", ".join(FORWARDED_HEADERS)
            )
        if self.proxy_protocol and not self.trusted_proxies:
            raise SettingsError(
                "--proxy-protocol needs to know whose headers are believed: --trusted-proxy ADDRESS"
            )
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
        if not 0 <= self.port <= MAX_PORT:
            raise SettingsError(f"port {self.port} is not between 0 and {MAX_PORT}")
        for text in self.listen:
            Address.parse(text)
        if not 1 <= self.devices <= MAX_DEVICES:
            raise SettingsError(f"devices {self.devices} is not between 1 and {MAX_DEVICES}")
        if self.inbox is not None:
            shortest_s = 10 * self.limits.redis_timeout_s + 60
            if self.inbox.dedup_s < shortest_s:
                raise SettingsError(
                    f"dedup_s ({self.inbox.dedup_s:g}) must be at least 10 x redis_timeout_s + 60 "
                    f"({shortest_s:g}), or a repeated message may be stored twice"
                )
        if not 0 <= self.unix_mode <= 0o777:
            raise SettingsError(f"mode {self.unix_mode:o} of unix sockets is not between 0 and 777")
        address = RedisAddress.parse(self.redis_url)
        named = dataclasses.replace(self.keyspace, db=address.number, buckets=address.buckets)
        object.__setattr__(self, "keyspace", named)
        if named.buckets:
            self._check_cluster()

    def _check_cluster(self) -> None:
        """Refuse what a cluster cannot keep: its servers exchange slots, so the run of one server
        does not tell whether what an inbox or a history had has been lost.
        """
        if self.inbox is not None and not self.inbox.trust_redis:
            raise SettingsError("--durable in a cluster of Redis needs --trust-redis")
        if self.rooms is not None and self.rooms.room_history and not self.rooms.trust_redis:
            raise SettingsError("--room-history in a cluster of Redis needs --trust-redis")

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Where to listen."""
        if self.listen:
            return tuple(Address.parse(text) for text in self.listen)
        return (Address(self.host, self.port),)

    def user_ids(self) -> UserIds:
        """Return the rule for user ids.

        Raises:
            SettingsError: the pattern is none, or is not safe to use.
        """
        return user_ids(self.user_id_pattern, self.limits.max_user_id_chars)

    def __repr__(self) -> str:
        shown = (
            (item.name, getattr(self, item.name)) for item in dataclasses.fields(self) if item.repr
        )
        values = {**dict(shown), "redis_url": redacted(self.redis_url)}
        return f"GatewaySettings({', '.join(f'{k}={v!r}' for k, v in values.items())})"


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
    """A connection is dead when a heartbeat is unanswered for this part of the interval."""
    pong_within_at_least_s: float = 1.0
    """But not sooner than this: a machine needs this time, however fast a lesson's clock is."""
    inbox: int = 1024
    """Received messages kept for the application; beyond it, the socket is read no further."""
    token_timeout_s: float = 10.0
    """How long the source of tokens may take for one."""
    token_patience_s: float = 30.0
    """How long a client that was registered waits for another token when its own was refused."""

    def pong_within_s(self, heartbeat_s: float) -> float:
        """Return how long the client waits for the answer to a heartbeat."""
        return max(self.pong_within_heartbeats * heartbeat_s, self.pong_within_at_least_s)


def origin_pattern(origin: str) -> re.Pattern[str]:
    """Return what an Origin header has to match in full to be this allowed origin.

    Scheme and host are compared without regard to case, and a default port may be left out.
    """
    if origin == ANY_ORIGIN:
        return re.compile(".*", re.DOTALL)
    scheme, _, rest = origin.partition("://")
    default = _DEFAULT_PORTS.get(scheme.lower(), "")
    if origin.endswith(":*"):
        origin, port = origin.removesuffix(":*"), r"(:\d{1,5})?"
    elif default and (rest.endswith(f":{default}") or not re.search(r":\d+$", rest)):
        origin, port = origin.removesuffix(f":{default}"), f"(:{default})?"
    else:
        port = ""
    return re.compile(re.escape(origin) + port, re.IGNORECASE | re.ASCII)

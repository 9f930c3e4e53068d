"""Events: what can be observed?

One stream of events feeds the recorder of the laboratory, its plots and the proofs. No event is
built when nobody observes. Each part builds its events in one place: a gateway in
`wsdemo.gateway.observer`, the router and the client in their method `_observe`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What happened. The words are those of the lessons and of the plots."""

    # a socket and its session
    WS_OPEN = "ws_open"
    WS_CLOSE = "ws_close"
    WS_FAIL = "ws_fail"
    TOKEN = "token"
    REGISTER = "register"
    REGISTERED = "registered"
    PING = "ping"
    PONG = "pong"
    # the way of a message, hop by hop
    SEND = "send"
    MESSAGE = "message"
    ROUTE = "route"
    RECEIVE = "receive"
    DELIVER = "deliver"
    ARRIVE = "arrive"
    ACK = "ack"
    DROP = "drop"
    BOUNCE = "bounce"
    # a durable message, and the inbox of its recipient
    STORE = "store"
    HINT = "hint"
    PAGE = "page"
    RESUMED = "resumed"
    INBOX_ACK = "inbox_ack"
    # what was asked of presence, and its answer
    PRESENCE_MINT = "presence_mint"
    PRESENCE_SET = "presence_set"
    PRESENCE_REFRESH = "presence_refresh"
    PRESENCE_REJECT = "presence_reject"
    PRESENCE_DEL = "presence_del"
    KICK = "kick"
    # the gateway itself
    READY = "ready"
    UNREADY = "unready"
    SCAN = "scan"
    CLEANUP = "cleanup"
    SUBSCRIBED = "subscribed"
    GAP = "gap"
    PROBE_LOST = "probe_lost"
    REDIS_UP = "redis_up"
    REDIS_DOWN = "redis_down"
    MALFORMED = "malformed"
    STALL = "stall"
    DRAIN = "drain"
    STOPPED = "stopped"
    # what the laboratory does to it
    CRASH = "crash"
    FREEZE = "freeze"
    THAW = "thaw"
    FAULT = "fault"


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened at one place.

    `t` is in seconds on the monotonic clock of the process (`time.monotonic`), so events of
    gateways and clients in one process share one time axis. `lane` is who saw it: a user, a
    gateway id or "redis". Fields that do not apply stay at their defaults.
    """

    kind: Kind
    t: float
    lane: str
    user: str = ""
    gateway: str = ""
    peer: str = ""
    conn_id: str = ""
    msg_id: str = ""
    ok: bool = True
    reason: str = ""
    token: int = 0
    t_start: float = 0.0
    """When the thing began, for kinds that take time (a route, a register); 0 when they do not."""
    close_code: int | None = None
    """The code with which a connection was closed (`protocol.Code`; 1006 when it broke): in a
    client's WS_CLOSE and WS_FAIL. None when no WebSocket was closed."""


Emit = Callable[[Event], None]
"""Takes an event. It must not block and must not raise."""

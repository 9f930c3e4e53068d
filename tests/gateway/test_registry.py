"""Session registry: which session is removed, which is silent, and whose lease is due?"""

from __future__ import annotations

from dataclasses import dataclass, field

from wsdemo.gateway.health import due, quiet, stale
from wsdemo.gateway.registry import Registry


@dataclass(eq=False)
class Session:
    """What the registry and the decisions look at."""

    user: str = "alice"
    conn_id: str = "c"
    last_life: float = 0.0
    last_refresh: float = 0.0
    refresh_after: float = 0.0
    last_read: float = 0.0
    pinged_at: float = 0.0
    socket: Session = field(init=False)

    def __post_init__(self) -> None:
        self.socket = self


def test_the_end_of_an_old_session_does_not_remove_the_newer_one() -> None:
    """Removal is by identity."""
    registry: Registry[Session] = Registry()
    old, new = Session(conn_id="c1"), Session(conn_id="c2")
    registry.bind(old)
    assert registry.bind(new) is old
    assert registry.remove(old) is False
    assert registry.by_user("alice") is new


def test_a_session_is_stale_after_more_than_the_idle_timeout() -> None:
    """Exactly the timeout is not stale yet."""
    sessions = [Session(last_life=t) for t in (0.0, 10.0, 20.0)]
    assert stale(sessions, now=100.0, after_s=90.0) == sessions[:1]


def test_a_lease_is_due_only_after_a_new_frame() -> None:
    """Without a new frame there is no refresh; and none right after the last one."""
    silent = Session(last_life=5.0, last_refresh=5.0)
    alive = Session(last_life=6.0, last_refresh=5.0)
    recent = Session(last_life=6.0, last_refresh=5.0, refresh_after=50.0)
    assert due([silent, alive, recent], now=10.0) == [alive]


def test_a_silent_client_is_pinged_once_and_then_dropped() -> None:
    """First a ping, then a deadline for its answer."""
    fresh = Session(last_read=95.0)
    silent = Session(last_read=70.0)
    asked = Session(last_read=60.0, pinged_at=90.0)
    gone = Session(last_read=50.0, pinged_at=75.0)
    assert quiet([fresh, silent, asked, gone], 100.0, 20.0, 20.0) == ([silent], [gone])

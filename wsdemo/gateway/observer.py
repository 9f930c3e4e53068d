"""Observability: what does a gateway tell about itself, and how is such an event built?

Every event of a gateway is built here. A place where something happens calls the method that fits,
whether anybody observes or not; when nobody does, no event is built. Only the code that runs for
each message asks before it calls (`if_observed`), so that it does not pay for a call either.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from wsdemo.events import Emit, Event, Kind
from wsdemo.presence import Claim, Refresh, Release
from wsdemo.protocol import Status


class Observer:
    """Builds the events of one gateway, and hands them to whoever observes it.

    Args:
        gateway_id: whose events they are.
        clock: monotonic seconds.
        emit: takes the events; None when nobody observes.
    """

    __slots__ = ("_clock", "_emit", "_gateway_id")

    def __init__(self, gateway_id: str, clock: Callable[[], float], emit: Emit | None) -> None:
        self._gateway_id = gateway_id
        self._clock = clock
        self._emit = emit

    @property
    def if_observed(self) -> Observer | None:
        """Return this observer, or None when nobody observes: for the code of each message."""
        return self if self._emit is not None else None

    def _tell(self, kind: Kind, **fields: Any) -> None:
        if self._emit is not None:
            gateway_id = self._gateway_id
            self._emit(Event(kind, self._clock(), gateway_id, gateway=gateway_id, **fields))

    # --- the gateway itself ------------------------------------------------------------------

    def gateway(self, kind: Kind) -> None:
        """Tell what happened to the gateway as a whole."""
        self._tell(kind)

    def stall(self, began_at: float) -> None:
        """Tell that the event loop stood still since then, and runs again now."""
        self._tell(Kind.STALL, t_start=began_at)

    # --- a session ---------------------------------------------------------------------------

    def session(
        self, kind: Kind, claim: Claim | None, *, ok: bool = True, reason: str = "", peer: str = ""
    ) -> None:
        """Tell what happened to a session; `claim` is None before its register."""
        if self._emit is None:
            return
        if claim is None:
            self._tell(kind, ok=ok, reason=reason, peer=peer)
            return
        self._tell(
            kind,
            user=claim.user,
            conn_id=claim.conn_id,
            token=claim.token,
            ok=ok,
            reason=reason,
            peer=peer,
        )

    def heartbeat_timeout(self, user: str, conn_id: str) -> None:
        """Tell that a session was dropped because its client has been silent."""
        self._tell(Kind.CLEANUP, user=user, conn_id=conn_id, reason="heartbeat timeout")

    def refreshed(self, claim: Claim, result: Refresh) -> None:
        """Tell what presence said of a lease that was to be renewed."""
        kept = result in (Refresh.OK, Refresh.RECLAIMED)
        kind = Kind.PRESENCE_REFRESH if kept else Kind.PRESENCE_REJECT
        self.session(kind, claim, ok=kept, reason=result.value)

    def released(self, claim: Claim, found: Release) -> None:
        """Tell what the release of a session that ended has found."""
        removed = found is Release.REMOVED
        kind = Kind.PRESENCE_DEL if removed else Kind.PRESENCE_REJECT
        self.session(kind, claim, ok=removed, reason="" if removed else found.value)

    # --- the way of a message ----------------------------------------------------------------

    def hop(self, kind: Kind, user: str, peer: str, msg_id: str | None) -> float:
        """Tell that a message has come one step further; return the time of it."""
        t = self._clock()
        if self._emit is not None:
            gateway_id = self._gateway_id
            self._emit(
                Event(
                    kind,
                    t,
                    gateway_id,
                    user=user,
                    gateway=gateway_id,
                    peer=peer,
                    msg_id=msg_id or "",
                )
            )
        return t

    def routed(
        self, to: str, gateway: str, conn_id: str, msg_id: str | None, status: Status, since: float
    ) -> None:
        """Tell what became of a message that was routed.

        Args:
            gateway: the gateway that it was routed to; '' when it was routed to none.
            conn_id: the session of its sender.
            since: when the sender's gateway got it.
        """
        self._tell(
            Kind.ROUTE,
            user=to,
            peer=gateway,
            conn_id=conn_id,
            msg_id=msg_id or "",
            ok=status is Status.ROUTED,
            reason=status.value,
            t_start=since,
        )

    # --- inboxes -----------------------------------------------------------------------------

    def stored(
        self, to: str, gateway: str, conn_id: str, msg_id: str, status: Status, since: float
    ) -> None:
        """Tell what became of a durable message; otherwise as `routed`."""
        self._tell(
            Kind.STORE,
            user=to,
            peer=gateway,
            conn_id=conn_id,
            msg_id=msg_id,
            ok=status in (Status.STORED, Status.DUPLICATE),
            reason=status.value,
            t_start=since,
        )

    def inbox(self, kind: Kind, user: str, conn_id: str, what: str, *, ok: bool = True) -> None:
        """Tell what happened to the inbox of a user; `what` is the offset, or says more."""
        self._tell(kind, user=user, conn_id=conn_id, ok=ok, reason=what)

"""Optional features: what does one add to a gateway, and where is it asked?

A gateway without features has an empty list here, and pays nothing for them. A feature keeps what
it knows about a session in maps of its own: a session that does not use it is in none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from wsdemo.gateway.counters import LabelledCounter
from wsdemo.protocol import RegisterRequest
from wsdemo.redis.scripts import Script

if TYPE_CHECKING:
    from wsdemo.gateway.session import Session

Verb = Callable[["Session", dict[str, Any]], None]
"""Acts on a message of a registered client: a checked JSON object with the type that the verb is
listed under. It raises a `ProtocolError` for a message that breaks a rule."""
Gauges = Mapping[str, tuple[str, Callable[[], float]]]
"""Name to (help, function)."""


class Feature:
    """An optional feature of one gateway. A subclass overrides what it needs.

    No method may raise, except where it says so.
    """

    scripts: Sequence[Script] = ()
    """What it runs in Redis."""

    # --- a session -----------------------------------------------------------------------------

    def verbs(self) -> Mapping[str, Verb]:
        """Return what it understands: the type of a message, and who acts on it."""
        return {}

    def check_register(self, request: RegisterRequest) -> None:
        """Check the fields of a register that are meant for this feature.

        Raises:
            ProtocolError: one of them is wrong; then nothing else happens.
        """

    def welcome(self, session: Session) -> Mapping[str, Any]:
        """Return what `registered` says about this feature."""
        return {}

    def registered(self, session: Session, request: RegisterRequest) -> None:
        """Take note that a session has been told that it is registered."""

    def refreshing(self, sessions: Sequence[Session]) -> None:
        """Take note that the leases of these sessions are about to be renewed. What is asked of
        Redis now leaves in the same write, and costs no round trip more.
        """

    def refreshed(self, session: Session) -> None:
        """Take note that the lease of a session has been renewed."""

    def leaving(self, session: Session) -> None:
        """Take note that a session ends. Its release is sent to Redis after this, so a command that
        only its owner may give comes in time. Called once for each that was registered. The claim
        of the session has the reason.
        """

    # --- the gateway ---------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin, after the link and the subscription are up and before anybody may connect.

        Raises:
            LINK_ERRORS: Redis could not be asked; then the gateway does not start.
        """

    async def stop(self) -> None:
        """End, when all sessions have ended and before the link does. Idempotent."""

    def link_is_back(self) -> None:
        """Take note that Redis works again: what it knows may be old."""

    def gap(self) -> None:
        """Take note that the subscription was renewed: what was published may be missing."""

    # --- what it says about itself -------------------------------------------------------------

    def labelled(self) -> Sequence[LabelledCounter]:
        """Return its counters."""
        return ()

    def gauges(self) -> Gauges:
        """Return its gauges."""
        return {}

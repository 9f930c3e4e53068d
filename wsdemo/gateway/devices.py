"""Several devices of a user: which of them get a message, and which have to go?

Only a gateway with `--devices 2` or more uses this module. A message goes to all devices of its
recipient: at once to those that are connected here, and by the route script to all others. The
script leaves out the connections that have had it, so a session whose register is still under way
here gets its copy as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence, ValuesView
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from wsdemo.events import Kind
from wsdemo.gateway.counters import LabelledCounter
from wsdemo.gateway.delivery import Delivery, Endpoint
from wsdemo.gateway.feature import Feature
from wsdemo.gateway.registry import Registrable, Registry
from wsdemo.presence import Claim
from wsdemo.presence.devices import DEVICES_SCRIPTS
from wsdemo.protocol import (
    DirectHeads,
    MessageRequest,
    ProtocolError,
    RegisterRequest,
    Say,
    Status,
    ack_text,
    echo_text,
    message_text,
)
from wsdemo.redis.interface import Link
from wsdemo.redis.link import LinkBusy, LinkDown
from wsdemo.router import DEVICES_ROUTE, NOBODY
from wsdemo.settings import Keyspace

if TYPE_CHECKING:
    from wsdemo.gateway.session import Session

DEVICE: Final = re.compile(r"[A-Za-z0-9._-]{0,16}")
"""What a client may call its device; '' when it does not say."""


class DeviceSession(Registrable, Protocol):
    """What the registry needs of a session when a user may have several."""

    @property
    def device(self) -> str: ...


D = TypeVar("D", bound=DeviceSession)


class DeviceRegistry(Registry[D]):
    """The sessions of one gateway: one for each device of each user."""

    def __init__(self) -> None:
        super().__init__()
        self._by_device: dict[tuple[str, str], D] = {}
        self._of_user: dict[str, tuple[D, ...]] = {}

    def __len__(self) -> int:
        return len(self._by_device)

    def __iter__(self) -> Iterator[D]:
        return iter(list(self._by_device.values()))

    def sessions(self) -> ValuesView[D]:
        return self._by_device.values()

    def all_of(self, user: str) -> Sequence[D]:
        return self._of_user.get(user, ())

    def bind(self, session: D) -> D | None:
        """Take note that the session is registered. Return the earlier session of the same device,
        if there is one; it is no longer found.
        """
        device = (session.user, session.device)
        earlier = self._by_device.get(device)
        if earlier is session:
            return None
        if earlier is not None:
            self._by_conn.pop(earlier.conn_id, None)
        self._by_device[device] = session
        others = [one for one in self.all_of(session.user) if one is not earlier]
        self._set_user(session.user, (*others, session))
        self._by_conn[session.conn_id] = session
        return earlier

    def remove(self, session: D) -> bool:
        if self._by_conn.get(session.conn_id) is session:
            del self._by_conn[session.conn_id]
        device = (session.user, session.device)
        if self._by_device.get(device) is not session:
            return False
        del self._by_device[device]
        rest = [one for one in self.all_of(session.user) if one is not session]
        self._set_user(session.user, tuple(rest))
        return True

    def _set_user(self, user: str, sessions: tuple[D, ...]) -> None:
        """Keep what is found by the name of a user: all sessions, and the latest one."""
        if sessions:
            self._of_user[user], self._by_user[user] = sessions, sessions[-1]
        else:
            self._of_user.pop(user, None)
            self._by_user.pop(user, None)


class DeviceDelivery(Delivery):
    """The message switch of a gateway whose users may have several devices."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.evictions = LabelledCounter(
            "evictions",
            "Sessions ended because their user had too many devices, by where they were",
            "where",
            ("here", "elsewhere"),
        )

    def evict(self, evicted: Sequence[Claim], token: int) -> None:
        for claim in evicted:
            is_here = claim.gateway_id == self._gateway_id
            self.evictions.counts["here" if is_here else "elsewhere"] += 1
        super().evict(evicted, token)

    def submit(self, sender: Endpoint, message: MessageRequest) -> None:
        """Route a message to all devices of its recipient; the sender is told the outcome."""
        self._counters.messages_received += 1
        started, to = 0.0, message.to
        if self._observer is not None:
            started = self._observer.hop(Kind.MESSAGE, sender.user, to, message.id)
        here: Sequence[Endpoint] = self._registry.all_of(to)
        if here:
            self._deliver_to(here, message_text(sender.user, message.content, message.id))
            self._accept(sender, message)
        head = self._heads(sender).head(to.encode(), message.content, message.id)
        on_reply = (
            partial(self._landed, sender)
            if here
            else partial(self._all_routed, sender, message, started)
        )
        if not self._route(sender, to, head, here, on_reply) and not here:
            self._tell(sender, message.id, Status.BUSY, "unavailable")
            self._counters.routes_busy += 1

    def _accept(self, sender: Endpoint, message: MessageRequest) -> None:
        """Tell the sender that a device has the message; there is one at least, so it is routed."""
        self._counters.routes_local += 1
        if self._observer is not None:
            self._observer.hop(Kind.DELIVER, message.to, sender.user, message.id)
        if message.id is not None:
            sender.send(ack_text(message.id, Status.ROUTED))
        self._echo(sender, message)

    def _deliver_to(self, sessions: Sequence[Endpoint], text: bytes) -> None:
        for session in sessions:
            self._counters.messages_delivered += 1
            session.deliver(text)

    def _heads(self, sender: Endpoint) -> DirectHeads:
        if sender.heads is None:
            sender.heads = DirectHeads(sender.user, self._gateway_id, sender.conn_id, kind="")
        return sender.heads

    def _route(
        self,
        sender: Endpoint,
        to: str,
        head: bytes,
        left_out: Sequence[Endpoint],
        on_reply: Any,
    ) -> bool:
        """Publish to the devices that are not left out; say whether it could be sent."""
        try:
            self._router.route_copies(to, head, [one.conn_id for one in left_out], on_reply)
        except (LinkDown, LinkBusy):
            return False
        sender.in_flight += 1
        if sender.in_flight >= self._max_in_flight:
            sender.pause()
        return True

    def _landed(self, sender: Endpoint, reply: Any) -> None:
        """Take note that Redis has answered. Its sender knows already that it was routed."""
        sender.in_flight -= 1
        if sender.in_flight == self._resume_at:
            sender.resume()
        self._router.in_time(reply)

    def _all_routed(
        self, sender: Endpoint, message: MessageRequest, started: float, reply: Any
    ) -> None:
        """Tell the sender the result of the route script; the log names all gateways."""
        if type(reply) is list and reply[0] == b"routed":
            self._routed(sender, message.to, message.id, started, [reply[0], b", ".join(reply[1:])])
            self._echo(sender, message)
        else:
            self._routed(sender, message.to, message.id, started, reply)

    def _echo(self, sender: Endpoint, message: MessageRequest) -> None:
        """Send a message that was routed to the other devices of its sender as well, if it asks for
        that. Nobody is told when it fails.
        """
        user, to = sender.user, message.to
        if not message.echo or to == user:
            return
        here = [one for one in self._registry.all_of(user) if one is not sender]
        self._deliver_to(here, echo_text(user, to, message.content, message.id))
        head = self._heads(sender).head(user.encode(), message.content, message.id)
        echo = b'%b,"echoTo":"%b"' % (head, to.encode())
        self._route(sender, user, echo, [sender, *here], partial(self._landed, sender))


class DevicesFeature(Feature):
    """What several devices of a user add to a gateway: a field of `register`, and a counter."""

    scripts = (*DEVICES_SCRIPTS[1:], DEVICES_ROUTE)

    def __init__(self, link: Link, keyspace: Keyspace, evictions: LabelledCounter) -> None:
        link.load(script.at(keyspace) for script in self.scripts)
        self._link = link
        self._nobody = keyspace.presence(NOBODY)
        self._evictions = evictions

    def check_register(self, request: RegisterRequest) -> None:
        if not is_device(request.device):
            raise ProtocolError(Say.INVALID)

    def welcome(self, session: Session) -> Mapping[str, Any]:
        return {"device": session.device}

    async def start(self) -> None:
        """Try the commands that only the scripts for devices need: a right may be missing."""
        await self._link.call("HGETALL", self._nobody)
        await self._link.call("HDEL", self._nobody, "trial")
        await self._link.call("PEXPIREAT", self._nobody, 1)

    def labelled(self) -> Sequence[LabelledCounter]:
        return (self._evictions,)


def is_device(sent: Any) -> bool:
    """Say whether a client may call its device like this; None is no name."""
    return sent is None or (isinstance(sent, str) and DEVICE.fullmatch(sent) is not None)

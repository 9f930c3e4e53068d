"""Sessions against a model: does each client hear exactly what a small model predicts?

Hypothesis plays several clients on one or two gateways with a real Redis. The model is this file:
who owns which name, and what each client has still to hear. After each step everybody must have
heard just that, in order and nothing else, and gateways and Redis must agree about who is online.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from hypothesis import Phase
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.bad_input.test_fields import said
from tests.conftest import LOOPS
from tests.examples import examples
from tests.gateway.cluster import Raw, frame, gateway
from tests.waiting import until
from wsdemo.gateway.server import Gateway
from wsdemo.presence import RedisPresence
from wsdemo.redis.server import BundledServer
from wsdemo.settings import Keyspace

USERS = ("alice", "bob", "carol")
MAX_CLIENTS = 6
MAX_MALFORMED = 3
PONG = {"type": "pong"}
INVALID = {"type": "error", "error": "Invalid message format", "code": "invalid"}
BROKEN = [
    (frame(mask=False), 1002),
    (frame(b"\xff"), 1007),
    (frame(opcode=2), 1003),
    (frame(length=2**20), 1009),
]
prefixes = itertools.count()


@dataclass(eq=False)
class Client:
    """One connection, and what the model knows of it."""

    at: int
    """The gateway, by number."""
    raw: Raw
    user: str | None = None
    conn_id: str = ""
    malformed: int = 0
    to_hear: deque[dict[str, Any]] = field(default_factory=deque)
    closes_with: int | None = None
    over: bool = False
    """The client has left, or the gateway has closed the connection."""


class Conversations(RuleBasedStateMachine):
    """Clients that register, write, make mistakes, and leave with or without a close frame."""

    clients = Bundle("clients")

    def __init__(self, server: BundledServer, fast_frames: bool, loop: str) -> None:
        super().__init__()
        self.server, self.fast_frames = server, fast_frames
        self.keyspace = Keyspace(f"machine{next(prefixes)}:")
        self.runner = asyncio.Runner(loop_factory=LOOPS[loop])
        self.problems: list[Any] = []
        self.runner.get_loop().set_exception_handler(lambda _, told: self.problems.append(told))
        self.stack = contextlib.AsyncExitStack()
        self.gateways: list[Gateway] = []
        self.everybody: list[Client] = []
        self.owner: dict[str, Client] = {}
        self.sent = itertools.count()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.get_loop().run_until_complete(work)

    # --- what clients do ---------------------------------------------------------------------

    @initialize(count=st.integers(1, 2))
    def start(self, count: int) -> None:
        async def begin() -> None:
            for n in range(count):
                running = gateway(
                    self.server,
                    self.keyspace,
                    f"gateway-{n}",
                    fast_frames=self.fast_frames,
                    max_malformed=MAX_MALFORMED,
                    messages_per_s=1e6,
                )
                self.gateways.append(await self.stack.enter_async_context(running))

        self.run(begin())

    @precondition(lambda self: sum(not c.over for c in self.everybody) < MAX_CLIENTS)
    @rule(target=clients, at=st.integers(0, 1))
    def connect(self, at: int) -> Client:
        at %= len(self.gateways)
        client = Client(at, self.run(Raw.open(self.gateways[at])))
        self.everybody.append(client)
        return client

    @rule(client=clients, user=st.sampled_from([*USERS, *USERS, "a b", "gateway-01"]),
          hasty=st.booleans())  # fmt: skip
    def register(self, client: Client, user: str, hasty: bool) -> None:
        """Register: first, again, or as another user; sometimes with a ping right behind."""
        if client.over:
            return
        client.raw.writer.write(
            frame(said(type="register", userId=user)) + frame(said(type="ping")) * hasty
        )
        if client.user is not None and user != client.user:
            self.is_closed(client, 4505)
        elif user not in USERS:
            self.is_closed(client, 4513)
        else:
            self.becomes_owner(client, user)
            if hasty:
                client.to_hear.append(PONG)

    @rule(client=clients, to=st.sampled_from([*USERS, "nobody", "a b"]), with_id=st.booleans())
    def write(self, client: Client, to: str, with_id: bool) -> None:
        """Write to a user of this gateway, of the other one, of none, or to oneself."""
        if client.over:
            return
        number = str(next(self.sent))
        ids = {"id": number} if with_id else {}
        client.raw.frame(said(type="message", to=to, content=number, **ids))
        if to == "a b":  # An impossible name is told before anything else is looked at.
            self.is_told_of(client, "offline", "User not found", ids)
        elif client.user is None:
            error = {"type": "error", "error": "Not registered", "code": "not_registered"}
            client.to_hear.append(error | ids)
        elif to in self.owner:
            message = {"type": "message", "from": client.user, "content": number}
            self.owner[to].to_hear.append(message | ids)
            if with_id:
                client.to_hear.append({"type": "ack", "status": "routed"} | ids)
        else:
            self.is_told_of(client, "offline", "User not found", ids)

    @rule(client=clients)
    def ping(self, client: Client) -> None:
        if not client.over:
            client.raw.frame(said(type="ping"))
            client.to_hear.append(PONG)

    @rule(client=clients, text=st.sampled_from([b"nonsense", b"[]", b'{"type":1}', b'{"x":NaN}']))
    def say_nonsense(self, client: Client, text: bytes) -> None:
        """Send malformed frames: each gets an error, the one over the limit a close."""
        if client.over:
            return
        client.raw.frame(text)
        client.to_hear.append(INVALID)
        client.malformed += 1
        if client.malformed > MAX_MALFORMED:
            self.is_closed(client, 4502)

    @rule(client=clients, broken=st.sampled_from(BROKEN))
    def break_a_frame(self, client: Client, broken: tuple[bytes, int]) -> None:
        if not client.over:
            client.raw.writer.write(broken[0])
            self.is_closed(client, broken[1])

    @rule(client=consumes(clients))
    def leave(self, client: Client) -> None:
        """Leave with a close frame."""
        if not client.over:
            client.raw.frame((1000).to_bytes(2, "big"), opcode=8)
            self.is_closed(client, 1000)

    @rule(client=consumes(clients))
    def vanish(self, client: Client) -> None:
        """Leave without a close frame: the connection is reset."""
        if not client.over:
            client.raw.writer.transport.abort()
            client.to_hear.clear()
            self.forget(client)

    # --- what the model makes of it ----------------------------------------------------------

    def becomes_owner(self, client: Client, user: str) -> None:
        """A name has one owner, the last to register. The one before is closed with 4509."""
        client.to_hear.append({"type": "registered"})
        earlier = self.owner.get(user)
        if earlier is not None and earlier is not client:
            self.is_closed(earlier, 4509)
        client.user = user
        self.owner[user] = client

    def is_told_of(self, client: Client, status: str, text: str, ids: dict[str, str]) -> None:
        """An ack for a message with an id, an error for one without."""
        if ids:
            client.to_hear.append({"type": "ack", "status": status} | ids)
        else:
            client.to_hear.append({"type": "error", "error": text, "code": status})

    def is_closed(self, client: Client, code: int) -> None:
        client.closes_with = code
        self.forget(client)

    def forget(self, client: Client) -> None:
        client.over = True
        if client.user is not None and self.owner.get(client.user) is client:
            del self.owner[client.user]

    # --- and whether it is so ----------------------------------------------------------------

    @invariant()
    def everybody_has_heard_what_they_should(self) -> None:
        async def check() -> None:
            for client in self.everybody:
                await self.check_heard(client)
            for user in USERS:
                await until(f"all agree about {user}", lambda: self.agree_about(user))

        self.run(check())
        assert not self.problems, self.problems

    async def check_heard(self, client: Client) -> None:
        """In order, and nothing else: the pong of one more ping, or the goodbye, comes next."""
        while client.to_hear:
            expected, heard = client.to_hear.popleft(), await client.raw.answer()
            if expected["type"] == "registered":
                assert heard["type"] == "registered", heard
                assert heard["gatewayId"] == f"gateway-{client.at}"
                client.conn_id = heard["connId"]
            else:
                assert heard == expected
        if not client.over:
            # Not before: the answer to a message comes by way of Redis, and a pong does not wait.
            client.raw.frame(said(type="ping"))
            assert await client.raw.answer() == PONG
        if client.closes_with is not None:
            code, client.closes_with = client.closes_with, None
            opcode, payload = await client.raw.hear()
            assert (opcode, int.from_bytes(payload[:2], "big")) == (8, code)
            await client.raw.leave()

    async def agree_about(self, user: str) -> bool:
        """Redis names the owner; only the gateway of the owner has a session."""
        owner = self.owner.get(user)
        presence = self.gateways[0].presence
        assert isinstance(presence, RedisPresence)
        entry = await presence.lookup(user)
        found = (entry.gateway_id, entry.conn_id) if entry is not None else None
        here = [n for n, each in enumerate(self.gateways) if each.registry.by_user(user)]
        if owner is None:
            return found is None and not here
        return found == (f"gateway-{owner.at}", owner.conn_id) and here == [owner.at]

    def teardown(self) -> None:
        """Reset all connections; nothing is left in the gateways, in Redis or in the loop."""
        try:
            for client in self.everybody:
                client.raw.writer.transport.abort()
            self.owner.clear()
            if self.gateways:
                self.run(self.check_nothing_is_left())
            self.run(self.stack.aclose())
            assert not asyncio.all_tasks(self.runner.get_loop())
            assert not self.problems, self.problems
        finally:
            self.runner.close()

    async def check_nothing_is_left(self) -> None:
        for each in self.gateways:
            await until("no socket is left", lambda: each.stats()["sockets"] == 0)
        for user in USERS:
            await until(f"{user} is offline", lambda: self.agree_about(user))


@pytest.mark.timeout(180)
@pytest.mark.parametrize("fast_frames", [True, False], ids=["fast-frames", "general-parser"])
@pytest.mark.parametrize("loop", LOOPS)
def test_every_client_receives_what_the_model_predicts(
    shared_server: BundledServer, fast_frames: bool, loop: str
) -> None:
    """Runs of up to thirty steps each, from fixed seeds."""
    run_state_machine_as_test(
        # Any callable that makes a machine will do, whatever its annotation says.
        cast(Any, lambda: Conversations(shared_server, fast_frames, loop)),
        # A step that fails may take its whole deadline to do so: no time to look for less.
        settings=examples(40, stateful_step_count=30, phases=[Phase.generate]),
    )

"""Primary: which server is it now, and who tells us that it is another one?

Behind Sentinel the primary is a server that changes. All sentinels of the address are asked at
once, before each attempt to connect; of the answers, the one of the newest configuration counts. A
sentinel that is down or frozen delays nobody. What is found is checked all the same: a server that
is no primary says so in its reply to ROLE, and is left.

A connection to a primary that was replaced may look alive for long: a frozen server keeps its
connections. So each sentinel is listened to as well. When one says `+switch-master`, or was not
heard for a while, the sentinels are asked again, and each connection that is at another server than
they name leaves it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

from redis.exceptions import ResponseError

from wsdemo.addresses import Form, HostPort, RedisAddress, is_host
from wsdemo.redis.connection import (
    RedisConnection,
    RedisUnavailable,
    library_connection,
    one_line,
)
from wsdemo.redis.connection import pack_command as _pack
from wsdemo.redis.outcome import Outcome, Refused, Trouble, trouble_of
from wsdemo.redis.subscription import Subscription
from wsdemo.settings import Limits
from wsdemo.tasks import end

_log = logging.getLogger("wsdemo.redis")

ASK_S: Final = 0.5
"""How long a sentinel may take to answer."""
GRACE_S: Final = 0.05
"""How long the others may take when one has answered: one of them may know more."""
BEAT_S: Final = 5.0
"""How often a sentinel that is listened to has to answer a PING."""
SWITCHED: Final = "+switch-master"
SILENT: Final = Trouble(Outcome.UNREACHABLE, "no answer to a PING")


class _SentinelAnswer(NamedTuple):
    """What one sentinel says. The higher epoch belongs to the newer configuration."""

    epoch: int
    place: HostPort


class Primary:
    """The primary of a service that sentinels watch over: an implementation of `Whereabouts`.

    Args:
        address: of the sentinels.
        limits: the timeouts of the connections that listen to them.
        rng: source of the jitter between attempts to connect to a sentinel.
    """

    def __init__(
        self, address: RedisAddress, limits: Limits, rng: random.Random | None = None
    ) -> None:
        self._address = address
        self._asking = replace(limits, redis_timeout_s=ASK_S, redis_connect_timeout_s=ASK_S)
        self._followers: list[RedisConnection] = []
        self._doubted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._watches = [
            SwitchWatch(address.sentinel_at(seed), limits, self._heard, self.doubt, rng)
            for seed in address.seeds
        ]

    # --- life --------------------------------------------------------------------------------

    def start(self) -> None:
        """Listen to the sentinels from here on; none of them has to be there."""
        for watch in self._watches:
            watch.start_soon()
        self._task = asyncio.get_running_loop().create_task(self._recheck(), name="redis-primary")

    async def stop(self) -> None:
        """Cease to listen. Idempotent."""
        task, self._task = self._task, None
        if task is not None:
            await end(task)
        for watch in self._watches:
            await watch.stop()

    # --- for connections ---------------------------------------------------------------------

    def follow(self, connection: RedisConnection) -> None:
        """Tell this connection when the primary has moved."""
        if connection not in self._followers:
            self._followers.append(connection)

    def forget(self, connection: RedisConnection) -> None:
        """Do so no longer. Idempotent."""
        if connection in self._followers:
            self._followers.remove(connection)

    def doubt(self) -> None:
        """Ask the sentinels soon, and let each connection that is elsewhere leave its server."""
        self._doubted.set()

    @property
    def are_together(self) -> bool:
        """Whether all connections are at one server, or on their way to it."""
        return len({connection.place for connection in self._followers}) <= 1

    async def url(self) -> str:
        """Return the address of the primary as a URL.

        Raises:
            Refused: no sentinel answers, or none knows of a primary that works.
        """
        place = await self._find()
        return self._address.server_at(place).effective().url

    # --- asking ------------------------------------------------------------------------------

    async def _find(self) -> HostPort:
        asked = [asyncio.ensure_future(self._ask(seed)) for seed in self._address.seeds]
        try:
            answers, troubles = await _collect(asked)
        finally:
            await end(*asked)
            for one in asked:  # Whoever has given up does not look at what came in this moment.
                if not one.cancelled():
                    one.exception()
        if answers:
            return max(answers).place
        # Who was reached knows more than who was not.
        troubles.sort(key=lambda trouble: trouble.outcome is Outcome.UNREACHABLE)
        raise Refused(troubles[0])

    async def _ask(self, seed: HostPort) -> _SentinelAnswer:
        """Ask one sentinel.

        Raises:
            Refused: it does not answer, or does not know.
        """
        try:
            with one_line():
                url = self._address.sentinel_at(seed).effective().url
                state = await _state_of(url, self._address.service, self._asking)
        except RedisUnavailable as problem:
            trouble = trouble_of(problem)
            raise Refused(trouble._replace(words=f"sentinel at {seed}: {trouble.words}")) from None
        return _judged(state, seed, self._address.service)

    # --- moving ------------------------------------------------------------------------------

    def _heard(self, channel: bytes, data: bytes) -> None:
        self.doubt()  # Perhaps of another service. It does no harm to ask.

    async def _recheck(self) -> None:
        while True:
            await self._doubted.wait()
            self._doubted.clear()
            try:
                url = await self.url()
            except Refused:
                continue  # There is none now. When there is one, a sentinel will say so.
            for connection in list(self._followers):
                connection.move_to(url)


class SwitchWatch(Subscription):
    """A connection to one sentinel, on which it says that a primary has a successor.

    Args:
        address: of the sentinel.
        on_switch: takes what it says.
        on_missed: called when it is heard again: it may have said something meanwhile.
    """

    def __init__(
        self,
        address: RedisAddress,
        limits: Limits,
        on_switch: Any,
        on_missed: Any,
        rng: random.Random | None,
    ) -> None:
        super().__init__(
            address.url,
            limits,
            [SWITCHED],
            on_switch,
            on_missed,
            self._beat_again,
            self._tell,
            rng,
        )
        self._place = address.place
        self._beat: asyncio.TimerHandle | None = None
        self._waits_for_pong = False

    def _judge_role(self, reply: Any) -> Trouble | None:
        return None  # It is a sentinel, which is what is wanted here.

    def _tell(self, trouble: Trouble) -> None:
        _log.warning("[Redis] the sentinel at %s is not heard: %s", self._place, trouble)

    def _beat_again(self, up: bool) -> None:
        if self._beat is not None:
            self._beat.cancel()
        self._beat = None
        self._waits_for_pong = False
        if up:
            self._beat = asyncio.get_running_loop().call_later(BEAT_S, self._ping)

    def _ping(self) -> None:
        if self._transport is None:
            return
        if self._waits_for_pong:
            self.reset(SILENT)
            return
        self._waits_for_pong = True
        self._transport.write(_pack(("PING",)))
        self._beat = asyncio.get_running_loop().call_later(BEAT_S, self._ping)

    def _control(self, reply: Any) -> None:
        if isinstance(reply, list) and reply[0] == b"pong":
            self._waits_for_pong = False
        else:
            super()._control(reply)


def primary_of(
    address: RedisAddress, limits: Limits, rng: random.Random | None = None
) -> Primary | None:
    """Return who knows where the primary is; None for an address that names a server."""
    return Primary(address, limits, rng) if address.form is Form.SENTINEL else None


async def _collect(
    asked: Sequence[asyncio.Future[_SentinelAnswer]],
) -> tuple[list[_SentinelAnswer], list[Trouble]]:
    """Return the answers that come until shortly after the first, and why the others have none."""
    pending, somebody_knows = set(asked), False
    while pending:
        patience_s = GRACE_S if somebody_knows else None
        done, pending = await asyncio.wait(
            pending, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED
        )
        if not done:
            break
        somebody_knows = somebody_knows or any(one.exception() is None for one in done)
    problems = {one: one.exception() for one in asked if one.done()}
    answers = [one.result() for one, problem in problems.items() if problem is None]
    return answers, [trouble_of(problem) for problem in problems.values() if problem is not None]


async def _state_of(url: str, service: str, limits: Limits) -> dict[str, str] | None:
    """Return what a sentinel knows of a service; None when it does not know it."""
    connection = library_connection(url, limits)
    try:
        await connection.connect()
        await connection.send_command("SENTINEL", "MASTER", service)
        words = [word.decode(errors="replace") for word in await connection.read_response()]
    except ResponseError as problem:
        if "No such master" in str(problem):
            return None
        raise
    finally:
        await connection.disconnect(nowait=True)
    return dict(zip(words[::2], words[1::2], strict=True))


def _judged(state: dict[str, str] | None, seed: HostPort, service: str) -> _SentinelAnswer:
    """Return what a sentinel has answered.

    Raises:
        Refused: it knows of no primary that works.
    """
    if state is None:
        words = f"sentinel at {seed} does not know the service {service!r}"
        raise Refused(Trouble(Outcome.NO_SERVICE, words))
    flags = set(state["flags"].split(","))
    if "master" not in flags or flags & {"s_down", "o_down"}:
        words = f"sentinel at {seed}: the primary is down, and has no successor yet"
        raise Refused(Trouble(Outcome.MASTERDOWN, words))
    host, port = state["ip"], int(state["port"])
    if not is_host(host):
        words = f"sentinel at {seed} names a primary that is no host"
        raise Refused(Trouble(Outcome.UNFIT, words))
    return _SentinelAnswer(int(state["config-epoch"]), HostPort(host, port))

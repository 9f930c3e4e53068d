"""Listener: where may a backend ask, how often, and what becomes of a request?

It is an optional feature of a gateway, with a port of its own. The port of the users never has it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final

import msgspec

from wsdemo.features import ApiSettings
from wsdemo.gateway.api.actions import Actions
from wsdemo.gateway.api.endpoints import find, not_allowed
from wsdemo.gateway.api.http import (
    LINGER_S,
    ApiConnection,
    ApiReply,
    ApiRequest,
    ApiServices,
    refused,
)
from wsdemo.gateway.api.openapi import PATH, description
from wsdemo.gateway.api.refusal import Refusal
from wsdemo.gateway.counters import LabelledCounter
from wsdemo.gateway.feature import Feature, Gauges
from wsdemo.gateway.journal import GATEWAY_LOG
from wsdemo.gateway.listening import BoundAddress, Listeners, bind_address, listen
from wsdemo.gateway.rate import Rate
from wsdemo.redis.link import LINK_ERRORS
from wsdemo.settings import Address

_log = logging.getLogger(GATEWAY_LOG)

OUTCOMES: Final = ("ok", "refused", "unauthenticated", "limited", "unavailable", "failed")
OUTCOME_OF: Final = {
    200: "ok",
    401: "unauthenticated",
    429: "limited",
    500: "failed",
    503: "unavailable",
}
UNAVAILABLE: Final = Refusal(
    503, "unavailable", "Redis cannot be asked, or did not answer", {"Retry-After": "1"}
)
INTERNAL: Final = Refusal(500, "internal", "The gateway has failed; its log says more")


class ServerApi(Feature):
    """The server API of one gateway.

    Args:
        clock: monotonic seconds.
        delay_s: after so long a stranger gets an answer.
        spawn: runs a task that the gateway owns.
        bind: opens the socket to listen on.
    """

    def __init__(
        self,
        settings: ApiSettings,
        actions: Actions,
        *,
        clock: Callable[[], float],
        delay_s: float,
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        bind: Callable[[Address], Awaitable[BoundAddress]] = bind_address,
    ) -> None:
        self._bind = bind
        self._settings = settings
        self._actions = actions
        self._clock = clock
        self._rate = Rate.of(settings.api_requests_per_s, settings.api_burst)
        self._paid_until = 0.0
        self._requests = LabelledCounter(
            "api_requests",
            "Requests to the server API, by what became of them",
            "outcome",
            OUTCOMES,
        )
        self._services = ApiServices(settings.api_key, delay_s, self._answer, self._count, spawn)
        self._listeners: Listeners | None = None
        self.url = ""
        """Where it listens, once started."""

    # --- life --------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen.

        Raises:
            CannotListen: the address cannot be used.
        """
        bound = await self._bind(Address(self._settings.api_host, self._settings.api_port))
        services = self._services
        self._listeners = await listen([bound], lambda: ApiConnection(services), None, 0.0)
        self.url = bound.url("http").removesuffix("/ws")
        _log.info("[Gateway] the server API listens on %s", self.url)
        if not bound.is_local:
            _log.warning(
                "[Gateway] the server API is reachable from other machines without TLS: anybody on "
                "the network path can read its key (see --api-host)"
            )

    async def stop(self) -> None:
        """Listen no more; answer what is under way, and end the connections. Idempotent."""
        services = self._services
        services.closing = True
        if self._listeners is not None:
            self._listeners.close()
        for connection in list(services.connections):
            connection.close_soon()
        if services.connections:
            gone = asyncio.ensure_future(services.all_gone.wait())
            await asyncio.wait([gone], timeout=2 * LINGER_S)
            gone.cancel()
        for connection in list(services.connections):
            connection.abort()

    # --- requests ----------------------------------------------------------------------------

    async def _answer(self, request: ApiRequest) -> ApiReply:
        try:
            self._limit()
            reply = ApiReply(200, await self._act(request))
        except Refusal as refusal:
            reply = refused(refusal)
        except LINK_ERRORS as problem:
            _log.info("[Gateway] a request of the server API failed: %s", problem)
            reply = refused(UNAVAILABLE)
        except Exception as problem:
            asyncio.get_running_loop().call_exception_handler(
                {"message": "a request of the server API failed", "exception": problem}
            )
            reply = refused(INTERNAL)
        self._count(reply.status)
        return reply

    def _limit(self) -> None:
        paid_until = self._rate.take(self._paid_until, self._clock())
        if paid_until is None:
            raise Refusal(429, "rate_limited", "Too many requests", {"Retry-After": "1"})
        self._paid_until = paid_until

    async def _act(self, request: ApiRequest) -> bytes:
        path, _, query = request.target.partition("?")
        if path == PATH:
            if request.method not in {"GET", "HEAD"}:
                raise not_allowed(["GET", "HEAD"])
            return description()
        match = find(request.method, path)
        endpoint = match.endpoint
        argument = endpoint.argument(match.name, query, request.content_type, request.body)
        return msgspec.json.encode(await endpoint.act(self._actions, argument))

    def _count(self, status: int) -> None:
        self._requests.counts[OUTCOME_OF.get(status, "refused")] += 1

    # --- what it says about itself -----------------------------------------------------------

    def labelled(self) -> Sequence[LabelledCounter]:
        return (self._requests,)

    def gauges(self) -> Gauges:
        return {
            "api_connections": (
                "Open connections of the server API",
                lambda: len(self._services.connections),
            )
        }

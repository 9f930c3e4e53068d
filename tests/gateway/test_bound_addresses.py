"""Which machines can reach the addresses that a gateway listens on, and what are its connections
like?
"""

from __future__ import annotations

import asyncio
import socket

import pytest

from wsdemo.gateway.listening import BoundAddress, bind, listen
from wsdemo.settings import GatewaySettings


@pytest.mark.parametrize(
    ("hosts", "is_local"),
    [
        (("127.0.0.1",), True),
        (("127.0.0.1", "127.0.0.2"), True),
        (("0.0.0.0",), False),
        (("127.0.0.1", "0.0.0.0"), False),
    ],
)
def test_an_address_is_local_only_if_all_of_its_sockets_are(
    hosts: tuple[str, ...], is_local: bool
) -> None:
    """A name may have several addresses; one that others can reach is enough for a warning."""
    place = BoundAddress([])
    try:
        for host in hosts:
            place.sockets.append(end := socket.socket())
            end.bind((host, 0))
        assert place.is_local is is_local
    finally:
        place.close()


@pytest.mark.both_loops
async def test_a_small_message_does_not_wait_for_an_acknowledgement() -> None:
    """TCP_NODELAY is set on what is accepted. Without it, Nagle's algorithm held back the second
    of two messages until the client acknowledged the first, which takes it 40 ms.
    """
    accepted = asyncio.get_running_loop().create_future()

    class Accepting(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            accepted.set_result(transport)

    listeners = await listen(
        await bind(GatewaySettings(gateway_id="gateway-01", port=0)), Accepting, None, 1.0
    )
    try:
        port = listeners.sockets[0].getsockname()[1]
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        transport = await asyncio.wait_for(accepted, 5)
        end = transport.get_extra_info("socket")
        assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        transport.close()
        writer.close()
        await writer.wait_closed()
    finally:
        listeners.close()

"""Which machines can reach the addresses that a gateway listens on?"""

from __future__ import annotations

import socket

import pytest

from wsdemo.gateway.listening import BoundAddress


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

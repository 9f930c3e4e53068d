"""RESP: how does the simulated Redis read commands and write replies?"""

from __future__ import annotations

from typing import Any

import hiredis

from wsdemo.proof.simulate.fake_redis import Fields, ReplyError


class CommandParser:
    """Cuts a stream of bytes into commands (RESP arrays of bulk strings)."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader(notEnoughData=None)

    def feed(self, data: bytes) -> list[Fields]:
        """Return the commands that are complete with these bytes."""
        self._reader.feed(data)
        commands: list[Fields] = []
        while (command := self._reader.gets()) is not None:
            commands.append(command)
        return commands


def resp(value: Any) -> bytes:
    """Write a reply in RESP2."""
    match value:
        case None:
            return b"$-1\r\n"
        case ReplyError():
            return b"-%b\r\n" % str(value).encode()
        case int():
            return b":%d\r\n" % value
        case str():
            return resp(value.encode())
        case bytes():
            return b"$%d\r\n%b\r\n" % (len(value), value)
        case list() | tuple():
            return b"*%d\r\n%b" % (len(value), b"".join(map(resp, value)))
        case _:
            raise TypeError(f"no way to say {value!r} in RESP2")

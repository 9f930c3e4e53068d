"""Would the judges notice a gateway with a mistake in it? `python -m tests.planted MISTAKES ...`

Plants mistakes (their names, joined by commas), and then is a gateway like any other.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import sys
from collections.abc import Callable
from typing import Any, Final

from wsdemo.gateway import __main__ as gateway
from wsdemo.gateway.delivery import Delivery
from wsdemo.gateway.server import Gateway
from wsdemo.gateway.session import Session
from wsdemo.protocol import Code, MessageRequest, Status, ack_text

ACK: Final = b'{"type":"ack"'
_kept: list[bytes] = []


def third_ack_never_sent() -> None:
    send, numbers = Session.send, itertools.count(1)

    def forgetful(self: Session, payload: bytes) -> None:
        if not payload.startswith(ACK) or next(numbers) % 3:
            send(self, payload)

    _replace(Session, "send", forgetful)


def fifth_message_falsely_offline() -> None:
    submit, numbers = Delivery.submit, itertools.count(1)

    def wrong(self: Delivery, sender: Any, message: MessageRequest) -> None:
        if message.id is not None and not next(numbers) % 5:
            sender.send(ack_text(message.id, Status.OFFLINE))
        else:
            submit(self, sender, message)

    _replace(Delivery, "submit", wrong)


def third_pong_never_sent() -> None:
    pong, numbers = Session._pong, itertools.count(1)

    def forgetful(self: Session) -> None:
        if next(numbers) % 3:
            pong(self)

    _replace(Session, "_pong", forgetful)


def descriptor_leaked_per_connection() -> None:
    init = Session.__init__

    def leaking(self: Session, *args: Any) -> None:
        os.open(os.devnull, os.O_RDONLY)
        init(self, *args)

    _replace(Session, "__init__", leaking)


def content_in_the_log() -> None:
    _at_each_message(
        lambda sender, message: logging.getLogger("wsdemo.gateway").info(
            "[Gateway] %s says %s", sender.user, bytes(message.content).decode()
        )
    )


def memory_leaked_per_message() -> None:
    _at_each_message(lambda sender, message: _kept.append(os.urandom(1 << 17)))


def exception_in_a_callback() -> None:
    numbers = itertools.count(1)

    def fail() -> None:
        raise ValueError("planted")

    def now_and_then(sender: Any, message: MessageRequest) -> None:
        if not next(numbers) % 50:
            asyncio.get_running_loop().call_soon(fail)

    _at_each_message(now_and_then)


def user_closed_for_no_reason() -> None:
    numbers = itertools.count(1)

    def now_and_then(sender: Any, message: MessageRequest) -> None:
        if not next(numbers) % 100:
            sender.end(Code.REPLACED)

    _at_each_message(now_and_then)


def ready_whatever_happens() -> None:
    _replace(Gateway, "unready_because", lambda self: [])


def drained_with_an_error() -> None:
    async def fail(self: Gateway) -> None:
        await stop(self)
        sys.exit(3)

    stop = Gateway.stop
    _replace(Gateway, "stop", fail)


def _at_each_message(does: Callable[[Any, MessageRequest], object]) -> None:
    submit = Delivery.submit

    def also(self: Delivery, sender: Any, message: MessageRequest) -> None:
        does(sender, message)
        submit(self, sender, message)

    _replace(Delivery, "submit", also)


def _replace(owner: type, name: str, function: Callable[..., Any]) -> None:
    setattr(owner, name, function)


if __name__ == "__main__":
    for mistake in sys.argv.pop(1).split(","):
        globals()[mistake]()
    gateway.main()

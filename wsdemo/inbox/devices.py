"""Durable inbox of several devices: which messages has each device of a user not had yet?

There is one inbox for a user, and one cursor in it for each device. A message goes when all devices
have acknowledged it that are connected, or were within the retention; no more devices than may be
connected hold messages. A device without a cursor begins after the last message that any device has
acknowledged.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from wsdemo.features import InboxSettings
from wsdemo.inbox.store import (
    SEND_TEXT,
    TRIAL,
    Answer,
    Inbox,
    StoreReply,
    answer_with,
    page_of,
    store_reply_of,
)
from wsdemo.redis.interface import Link
from wsdemo.redis.scripts import Script, lua_text
from wsdemo.settings import Keyspace, Timing

SEEN_STEP: Final = 1 / 8
"""A device that is connected says so once in this part of the retention, and whenever it reads."""

_WHEN_FULL: Final = "#!lua flags=allow-oom\n"
_ENTRIES: Final = lua_text("wsdemo.presence", "devices_entries")
_CURSORS: Final = _WHEN_FULL + _ENTRIES + lua_text("wsdemo.inbox", "devices_cursors")
DEVICES_SEND = Script(
    "devices_send", SEND_TEXT + _ENTRIES + lua_text("wsdemo.inbox", "devices_hint"), in_time=True
)
DEVICES_READ = Script.read("wsdemo.inbox", "devices_read", _CURSORS)
DEVICES_ACK = Script.read("wsdemo.inbox", "devices_ack", _CURSORS)


class DeviceInbox(Inbox):
    """The inboxes of users who may have several devices.

    Args:
        timing: how long a lease of a device lives.
        devices: how many of one user may be connected.
    """

    scripts = (DEVICES_SEND, DEVICES_READ, DEVICES_ACK, TRIAL)
    send_script = DEVICES_SEND

    def __init__(
        self,
        link: Link,
        keyspace: Keyspace,
        settings: InboxSettings,
        gateway_id: str,
        rng: random.Random,
        timing: Timing,
        devices: int,
    ) -> None:
        self._presence_ms = timing.presence_ttl_ms
        self._devices = devices
        self._hold_ms = round(1000 * settings.retention_s * (1 + SEEN_STEP))
        super().__init__(link, keyspace, settings, gateway_id, rng)
        self._reply_of = _store_reply_of_devices
        self.read_again_s = settings.retention_s * SEEN_STEP

    def _end_of_send(self, bucket: int) -> tuple[str | int, ...]:
        return (*super()._end_of_send(bucket), self._presence_ms)

    def read(
        self,
        on_page: Answer,
        user: str,
        conn_id: str,
        token: int,
        position: tuple[str, str],
        most: int,
        device: str = "",
    ) -> None:
        self._link.submit_script(
            partial(answer_with, on_page, page_of),
            DEVICES_READ,
            self._keys(user),
            *self._question(conn_id, token, position, most),
            *self._device(device),
        )

    def acknowledge(
        self,
        on_done: Answer,
        user: str,
        conn_id: str,
        position: tuple[str, str],
        device: str = "",
    ) -> None:
        told = (conn_id, *position, self.run, *self._device(device))
        self._link.submit_script(on_done, DEVICES_ACK, self._keys(user), *told)

    def _device(self, device: str) -> tuple[str | int, ...]:
        """Return the arguments that reading and acknowledging have in common."""
        return device, self._devices, self._hold_ms, self._presence_ms


def _store_reply_of_devices(reply: Sequence[Any]) -> StoreReply:
    owners = [item.decode() for item in reply[7:]]
    others = tuple(zip(owners[::2], owners[1::2], strict=True))
    return store_reply_of(reply[:7])._replace(others=others)

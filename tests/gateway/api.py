"""A backend of bytes: requests to the server API as no client would write them."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

from tests.gateway.cluster import gateway
from wsdemo.features import ApiSettings
from wsdemo.gateway.server import Gateway
from wsdemo.redis.server import BundledServer
from wsdemo.settings import Keyspace

KEY = b"0123456789abcdef0123456789abcdef"
BEARER = f"Bearer {KEY.decode()}"
JSON_TYPE = {"Content-Type": "application/json"}


@contextlib.asynccontextmanager
async def api_gateway(
    server: BundledServer, keyspace: Keyspace, gateway_id: str = "gateway-01", **options: Any
) -> AsyncIterator[Gateway]:
    """A running gateway with a server API, which strangers need not wait for."""
    limits = {name: options.pop(name) for name in [*options] if name.startswith("api_")}
    settings = {**options.pop("settings", {}), "api": ApiSettings(api_key=KEY, **limits)}
    options.setdefault("auth_delay_s", 0.001)
    async with gateway(server, keyspace, gateway_id, settings=settings, **options) as running:
        yield running


@dataclass
class Reply:
    """What a request gets."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body)

    @property
    def told(self) -> tuple[int, Any]:
        """Status, and the code of an error or the whole answer."""
        return self.status, self.document.get("code") if self.status >= 400 else self.document


def head(line: str, headers: Mapping[str, str] | None = None, *, key: str | None = BEARER) -> bytes:
    """Return the head of a request."""
    shown = {} if key is None else {"Authorization": key}
    lines = [f"{name}: {text}" for name, text in {"Host": "x", **shown, **(headers or {})}.items()]
    return ("\r\n".join([f"{line} HTTP/1.1", *lines]) + "\r\n\r\n").encode("latin-1")


def post(path: str, document: Any, headers: Mapping[str, str] | None = None) -> bytes:
    """Return a whole POST; a document that is bytes is sent as it is."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    told = {**JSON_TYPE, "Content-Length": str(len(body)), **(headers or {})}
    return head(f"POST {path}", told) + body


class Backend:
    """One connection to a server API."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, running: Gateway) -> Self:
        where = urlsplit(running.api_url)
        return cls(*await asyncio.open_connection(where.hostname, where.port))

    def say(self, data: bytes) -> None:
        self.writer.write(data)

    async def hear(self, *, is_head: bool = False, timeout_s: float = 10.0) -> Reply:
        """Return the next answer."""
        async with asyncio.timeout(timeout_s):
            first, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            pairs = (line.partition(": ") for line in lines if line)
            headers = {name.lower(): text for name, _, text in pairs}
            size = 0 if is_head else int(headers["content-length"])
            return Reply(int(first.split()[1]), headers, await self.reader.readexactly(size))

    async def rest(self, timeout_s: float = 10.0) -> bytes:
        """Return all that comes until the gateway hangs up."""
        try:
            return await asyncio.wait_for(self.reader.read(), timeout_s)
        except ConnectionError:
            return b""

    async def ask(self, request: bytes) -> Reply:
        self.say(request)
        return await self.hear()

    async def get(self, target: str) -> Reply:
        return await self.ask(head(f"GET {target}"))

    async def post(self, path: str, **document: Any) -> Reply:
        return await self.ask(post(path, document))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


async def once(running: Gateway, request: bytes) -> Reply:
    """Ask on a connection of its own."""
    async with await Backend.connect(running) as backend:
        return await backend.ask(request)

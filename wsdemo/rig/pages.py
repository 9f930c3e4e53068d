"""HTTP pages: what does a gateway on this machine answer at /health, /ready, /stats, /metrics?"""

from __future__ import annotations

import asyncio
from typing import Final

PAGE_S: Final = 10.0


async def http_get(port: int, path: str, timeout_s: float = PAGE_S) -> tuple[int, str]:
    """Fetch a page from loopback; return its status and body.

    Raises:
        OSError, TimeoutError: nobody answers.
        ValueError: the answer is not HTTP.
    """
    async with asyncio.timeout(timeout_s):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(
                f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
            )
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        finally:
            writer.close()
        first = head.split()
        if len(first) < 2:
            raise ValueError(f"no page at {path}")
        return int(first[1]), body.decode()

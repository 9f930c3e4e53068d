"""How is the shipped HAProxy configuration run on this machine?

`deploy/haproxy.cfg` names the containers of the compose file. A test needs gateways on loopback, a
port of its own, and a socket to ask HAProxy what it has done; everything else it takes as it is
shipped.
"""

from __future__ import annotations

import asyncio
import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

SHIPPED = Path(__file__).resolve().parents[1] / "deploy" / "haproxy.cfg"


def render(gateway_ports: Sequence[int], listen_port: int, stats: Path) -> str:
    """Return the shipped configuration with other gateways and another port, on loopback, and
    with a statistics socket at `stats`.

    Raises:
        ValueError: what is to be replaced does not stand in the shipped file.
    """
    servers = "\n".join(
        f"    server gateway-{n:02} 127.0.0.1:{port}" for n, port in enumerate(gateway_ports, 1)
    )
    text = SHIPPED.read_text()
    for pattern, replacement in (
        (r"(?:^ *server gateway-\d+ gateway-\d+:\d+\n?)+", f"{servers}\n"),
        (r"\bbind :\d+$", f"bind 127.0.0.1:{listen_port}"),
        (r"^global$", f"global\n    stats socket {stats} mode 600"),
    ):
        text, found = re.subn(pattern, replacement, text, flags=re.MULTILINE)
        if not found:
            raise ValueError(f"{SHIPPED.name} has nothing that matches {pattern}")
    return text


def command(config: Path, *flags: str) -> list[str]:
    """Return the command line of HAProxy: in the foreground until SIGTERM; with `-c` it only tests
    the configuration.
    """
    return ["haproxy", "-f", str(config), *(flags or ("-db",))]


async def ask(stats: Path) -> dict[str, dict[str, str]]:
    """Return what HAProxy says of its servers, by name, in the words of its `show stat`."""
    reader, writer = await asyncio.open_unix_connection(str(stats))
    try:
        writer.write(b"show stat\n")
        text = (await asyncio.wait_for(reader.read(), 10)).decode()
    finally:
        writer.close()
    rows = csv.DictReader(io.StringIO(text.removeprefix("# ")))
    return {row["svname"]: row for row in rows if row["pxname"] == "gateways"}

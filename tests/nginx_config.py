"""How is the shipped nginx configuration run on this machine?

`deploy/nginx.conf` names the containers of the compose file and writes to /tmp. A test needs
gateways on loopback, a port of its own, and a directory of its own; everything else it takes as
it is shipped.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

SHIPPED = Path(__file__).resolve().parents[1] / "deploy" / "nginx.conf"


def render(gateway_ports: Sequence[int], listen_port: int, prefix_dir: Path | str) -> str:
    """Return the shipped configuration with other gateways, port and directory.

    nginx listens on loopback. Its pid, `error.log`, `access.log` and temporary files are all in
    `prefix_dir`, which must exist.

    Raises:
        ValueError: what is to be replaced does not stand in the shipped file.
    """
    prefix = Path(prefix_dir).resolve()
    servers = "\n".join(f"        server 127.0.0.1:{port};" for port in gateway_ports)
    text = SHIPPED.read_text()
    for pattern, replacement in (
        # First of all, since the directory that is put in its place may itself be below /tmp.
        (r"/tmp/([\w.-]+)", rf'"{prefix}/\1"'),
        (r"(?:^ *server gateway-\d+:\d+;\n?)+", f"{servers}\n"),
        (r"\blisten \d+;", f"listen 127.0.0.1:{listen_port};"),
        (r"/dev/stderr\b", f'"{prefix}/error.log"'),
        (r"/dev/stdout\b", f'"{prefix}/access.log"'),
    ):
        text, found = re.subn(pattern, replacement, text, flags=re.MULTILINE)
        if not found:
            raise ValueError(f"{SHIPPED.name} has nothing that matches {pattern}")
    return text


def command(config: Path, *flags: str) -> list[str]:
    """Return the command line of nginx with a configuration written beside its files.

    Without flags it runs in the foreground until SIGQUIT (waits for its connections) or SIGTERM
    (does not); with `-t` it only tests the configuration.
    """
    prefix = str(config.resolve().parent)
    # -e: before it reads the configuration, nginx would write to a log of the system's.
    flags = flags or ("-g", "daemon off;")
    return ["nginx", "-e", "stderr", "-p", prefix, "-c", str(config.resolve()), *flags]

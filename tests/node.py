"""Node: how are JavaScript modules run without a browser?

Where it is not installed, the tests that need it are skipped, with that reason.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

from tests.pages import ROOT

NODE: Final = shutil.which("node")
RUN_S: Final = 60.0


def _websocket_flags() -> tuple[str, ...] | None:
    """Return what this Node needs for a WebSocket client: nothing since version 22."""
    if NODE is None:
        return None
    said = subprocess.run([NODE, "--version"], capture_output=True, text=True, check=True).stdout
    major, minor = (int(number) for number in said.strip().lstrip("v").split(".")[:2])
    if major >= 22:
        return ()
    return ("--experimental-websocket",) if (major, minor) >= (20, 10) else None


WEBSOCKET_FLAGS: Final = _websocket_flags()


async def node(*words: str | Path) -> str:
    """Run Node with these words; return what it prints. It must succeed."""
    assert NODE is not None
    process = await asyncio.create_subprocess_exec(
        NODE,
        *map(str, words),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(RUN_S):
            output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, f"{output.decode()}\n{errors.decode()}"
    return output.decode()


async def ws_node(*words: str | Path) -> str:
    """The same, with a WebSocket client."""
    assert WEBSOCKET_FLAGS is not None
    return await node(*WEBSOCKET_FLAGS, *words)


async def node_tests(name: str) -> int:
    """Run a file of tests in tests/js; return how many passed. None may fail."""
    output = await node("--test", ROOT / "tests" / "js" / name)
    found = re.search(r"^(?:#|ℹ) pass (\d+)$", output, re.MULTILINE)
    assert found is not None, output
    return int(found[1])

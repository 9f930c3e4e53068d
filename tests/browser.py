"""A headless Chromium, driven over the DevTools protocol: what a reader's browser would do.

No more than the tests need: open a page, wait for an expression, click, take a picture, and know
every address that the page asked for. It reaches nothing but this machine: all else would go
through a proxy that does not exist.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.waiting import until

CHROMIUM: Final = shutil.which("chromium")
START_S: Final = 20.0
CALL_S: Final = 20.0

FLAGS: Final = (
    "--headless=new",
    "--no-sandbox",  # It refuses to run as root otherwise, and the pages are our own.
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--disable-sync",
    "--disable-breakpad",
    "--disable-extensions",
    "--disable-component-update",
    "--disable-background-networking",
    "--disable-domain-reliability",
    "--disable-features=OptimizationHints,MediaRouter,Translate,AutofillServerCommunication",
    "--no-first-run",
    "--no-default-browser-check",
    "--no-pings",
    "--remote-debugging-port=0",
    "--window-size=1400,1600",
    # Port 9 is closed, and Chromium asks no proxy for addresses of this machine.
    "--proxy-server=http://127.0.0.1:9",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)


class Browser:
    """One Chromium with one page, as a context manager.

    `home` is where it keeps its things; the next one there finds the scripts of this one cached.
    """

    def __init__(self, home: Path) -> None:
        self.requested: list[str] = []
        """Addresses that the page asked for, WebSockets included."""
        self.problems: list[str] = []
        """Exceptions in the page that nobody caught."""
        self._home = home
        self._listens = home / "profile" / "DevToolsActivePort"
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._session = ""
        self._process: asyncio.subprocess.Process | None = None
        self._wire: ClientConnection | None = None
        self._reader: asyncio.Task[None] | None = None

    # --- life --------------------------------------------------------------------------------

    async def start(self) -> Self:
        assert CHROMIUM is not None
        self._listens.unlink(missing_ok=True)
        self._process = await asyncio.create_subprocess_exec(
            CHROMIUM,
            *FLAGS,
            f"--user-data-dir={self._home / 'profile'}",
            "about:blank",
            env={**os.environ, "HOME": str(self._home)},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        where = await until("Chromium listens", self._address, START_S)
        self._wire = await connect(where, max_size=None, proxy=None, ping_interval=None)
        self._reader = asyncio.create_task(self._read(), name="browser")
        targets = await self.call("Target.getTargets")
        page = next(t for t in targets["targetInfos"] if t["type"] == "page")
        attached = await self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network"):
            await self.call(f"{domain}.enable")
        return self

    def _address(self) -> str:
        lines = self._listens.read_text().split() if self._listens.exists() else []
        return f"ws://127.0.0.1:{lines[0]}{lines[1]}" if len(lines) == 2 else ""

    async def stop(self) -> None:
        """Close it, by force if need be. Idempotent."""
        if self._wire is not None:
            with contextlib.suppress(ConnectionClosed, TimeoutError):
                await self.call("Browser.close", on_page=False)
            await self._wire.close()
        if self._reader is not None:
            await self._reader
        if self._process is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(5):
                    await self._process.wait()
            with contextlib.suppress(ProcessLookupError):
                # Its helpers too; the group is its own.
                os.killpg(self._process.pid, signal.SIGKILL)
            await self._process.wait()

    async def __aenter__(self) -> Self:
        try:
            return await self.start()
        except BaseException:
            await self.stop()
            raise

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    # --- the protocol ------------------------------------------------------------------------

    async def call(self, method: str, *, on_page: bool = True, **params: Any) -> dict[str, Any]:
        """Call a method of the DevTools protocol and return its result."""
        assert self._wire is not None
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        if on_page and self._session:
            message["sessionId"] = self._session
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._wire.send(json.dumps(message))
        async with asyncio.timeout(CALL_S):
            result = await answer
        assert "error" not in result, f"{method}: {result['error']}"
        return dict(result["result"])

    async def _read(self) -> None:
        assert self._wire is not None
        with contextlib.suppress(ConnectionClosed):
            async for text in self._wire:
                message = json.loads(text)
                if "id" in message:
                    answer = self._answers.pop(message["id"])
                    if not answer.done():
                        answer.set_result(message)
                else:
                    self._hear(message["method"], message["params"])
        for answer in self._answers.values():
            answer.cancel()

    def _hear(self, event: str, params: dict[str, Any]) -> None:
        if event == "Network.requestWillBeSent":
            self.requested.append(params["request"]["url"])
        elif event == "Network.webSocketCreated":
            self.requested.append(params["url"])
        elif event == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            what = details.get("exception", {}).get("description", "")
            self.problems.append(f"{details['text']} {what}")

    def requested_elsewhere(self) -> list[str]:
        """Return the addresses outside of this machine that the page asked for."""
        here = {"127.0.0.1", "localhost"}
        networked = (url for url in self.requested if urlsplit(url).scheme in _NETWORKED)
        return [url for url in networked if urlsplit(url).hostname not in here]

    # --- the page ----------------------------------------------------------------------------

    async def open(self, url: str) -> None:
        await self.call("Page.navigate", url=url)

    async def value(self, expression: str) -> Any:
        """Return the value of a JavaScript expression."""
        result = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    async def until(self, what: str, expression: str, timeout_s: float = 20.0) -> Any:
        """Wait until a JavaScript expression is true; return its value."""
        return await until(what, lambda: self.value(expression), timeout_s, every_s=0.1)

    async def click(self, what: str, element: str) -> None:
        """Click the middle of an element, given as a JavaScript expression, when it is there."""
        place = (
            f"(() => {{ const found = {element}; if (!found) return null;"
            " found.scrollIntoViewIfNeeded(); const box = found.getBoundingClientRect();"
            " return box.width && [box.x + box.width / 2, box.y + box.height / 2] })()"
        )
        x, y = await self.until(what, place)
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            button: dict[str, Any] = (
                {"button": "left", "clickCount": 1} if kind != "mouseMoved" else {}
            )
            await self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **button)

    async def press(self, key: str, code: int, *, shift: bool = False, ctrl: bool = False) -> None:
        """Press and release a key: its name, and the number by which programs know it."""
        event: dict[str, Any] = {
            "key": key,
            "modifiers": 8 * shift + 2 * ctrl,
            "windowsVirtualKeyCode": code,
        }
        if key == "Enter":
            event["text"] = "\r"
        for kind in ("keyDown", "keyUp"):
            await self.call("Input.dispatchKeyEvent", type=kind, **event)

    async def insert(self, text: str) -> None:
        """Put a text where the cursor is, as a paste does."""
        await self.call("Input.insertText", text=text)

    async def resize(self, width: int, height: int) -> None:
        """Give the page another size, in pixels."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    async def picture(self, path: Path) -> None:
        """Take a screenshot."""
        shot = await self.call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(shot["data"]))


_NETWORKED: Final = frozenset({"http", "https", "ws", "wss", "ftp"})

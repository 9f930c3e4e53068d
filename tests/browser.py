"""Headless Chromium, driven over the DevTools protocol: what would a reader's browser do?

No more than the tests need: pages of several people in one browser, waiting for an expression,
clicks and typed text by the names that assistive technology hears, pictures, and every address that
a page asked for. It reaches nothing but this machine: all else would go through a proxy that does
not exist.
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
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlsplit

import psutil
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.waiting import until

CHROMIUM: Final = shutil.which("chromium")
START_S: Final = 20.0
CALL_S: Final = 20.0
STEP_S: Final = 20.0

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
    # Several pages are open at once. To Chromium all but one are in the background, and slowed.
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
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


class DevToolsError(AssertionError):
    """Chromium refused a call."""


class Chromium:
    """One Chromium, as a context manager; its pages are opened by `page`.

    `home` is where it keeps its things; the next one there finds the scripts of this one cached.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._listens = home / "profile" / "DevToolsActivePort"
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._hearers: dict[str, Callable[[str, dict[str, Any]], None]] = {}
        """Who hears the events of a session."""
        self._process: asyncio.subprocess.Process | None = None
        self._wire: ClientConnection | None = None
        self._reader: asyncio.Task[None] | None = None

    # --- life --------------------------------------------------------------------------------

    async def start(self) -> None:
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

    def _address(self) -> str:
        lines = self._listens.read_text().split() if self._listens.exists() else []
        return f"ws://127.0.0.1:{lines[0]}{lines[1]}" if len(lines) == 2 else ""

    async def stop(self) -> None:
        """Close it, by force if need be. Idempotent."""
        if self._wire is not None:
            with contextlib.suppress(ConnectionClosed, TimeoutError):
                await self.call("Browser.close")
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
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    # --- the protocol ------------------------------------------------------------------------

    async def call(self, method: str, session: str = "", **params: Any) -> dict[str, Any]:
        """Call a method of the DevTools protocol and return its result.

        Raises:
            DevToolsError: Chromium cannot do that.
        """
        assert self._wire is not None
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._wire.send(json.dumps(message))
        async with asyncio.timeout(CALL_S):
            result = await answer
        if "error" in result:
            raise DevToolsError(f"{method}: {result['error']}")
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
                elif (hear := self._hearers.get(message.get("sessionId", ""))) is not None:
                    hear(message["method"], message["params"])
        for answer in self._answers.values():
            answer.cancel()

    # --- pages -------------------------------------------------------------------------------

    async def first_page(self) -> str:
        """Return the id of the page that it was started with."""
        targets = await self.call("Target.getTargets")
        return str(next(t for t in targets["targetInfos"] if t["type"] == "page")["targetId"])

    @contextlib.asynccontextmanager
    async def page(
        self,
        *,
        size: tuple[int, int] = (1280, 720),
        phone: bool = False,
        calm: bool = False,
        beside: Page | None = None,
    ) -> AsyncIterator[Page]:
        """Open an empty page of somebody who was never here, and close it at the end.

        Args:
            phone: it is touched, and has two pixels to the point.
            calm: its user prefers reduced motion.
            beside: another page of the same person: it shares cookies and storage.
        """
        if beside is None:
            made = await self.call("Target.createBrowserContext")
            context = made["browserContextId"]
        else:
            context = beside.context
        # A window of its own: in one window, only one page is visible.
        opened = await self.call(
            "Target.createTarget", url="about:blank", browserContextId=context, newWindow=True
        )
        page = Page(self, context)
        try:
            await page.attach(opened["targetId"])
            await page.resize(*size, phone=phone)
            if calm:
                calmly = [{"name": "prefers-reduced-motion", "value": "reduce"}]
                await page.call("Emulation.setEmulatedMedia", features=calmly)
            yield page
        finally:
            with contextlib.suppress(DevToolsError):  # Its context was closed before it.
                await self.call("Target.closeTarget", targetId=opened["targetId"])
            if beside is None:
                await self.call("Target.disposeBrowserContext", browserContextId=context)

    async def attach(self, target: str, hear: Callable[[str, dict[str, Any]], None]) -> str:
        """Talk to a page from now on; return the session."""
        attached = await self.call("Target.attachToTarget", targetId=target, flatten=True)
        session = str(attached["sessionId"])
        self._hearers[session] = hear
        return session

    @contextlib.contextmanager
    def asleep(self) -> Iterator[None]:
        """Stop the processes of all pages, and let them go on at the end.

        So a phone sleeps: no page runs, and the browser still holds its connections.
        """
        assert self._process is not None
        family = psutil.Process(self._process.pid).children(recursive=True)
        pages = [one for one in family if _shows_a_page(one)]
        assert pages
        try:
            for one in pages:
                one.suspend()
            yield
        finally:
            for one in pages:
                one.resume()


class Page:
    """One page of a browser."""

    def __init__(self, chromium: Chromium, context: str = "") -> None:
        self.requested: list[str] = []
        """Addresses that the page asked for, WebSockets included."""
        self.problems: list[str] = []
        """Exceptions in the page that nobody caught, and what its security policy forbade."""
        self.context = context
        """Whose page it is: pages of one context share cookies and storage."""
        self._chromium = chromium
        self._session = ""

    async def attach(self, target: str) -> None:
        """Be this page from now on."""
        self._session = await self._chromium.attach(target, self._hear)
        for domain in ("Page", "Runtime", "Network", "Log"):
            await self.call(f"{domain}.enable")

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the DevTools protocol on this page and return its result."""
        return await self._chromium.call(method, self._session, **params)

    def _hear(self, event: str, params: dict[str, Any]) -> None:
        if event == "Network.requestWillBeSent":
            self.requested.append(params["request"]["url"])
        elif event == "Network.webSocketCreated":
            self.requested.append(params["url"])
        elif event == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            what = details.get("exception", {}).get("description", "")
            self.problems.append(f"{details['text']} {what}")
        elif event == "Log.entryAdded" and params["entry"]["source"] == "security":
            self.problems.append(params["entry"]["text"])

    def requested_elsewhere(self) -> list[str]:
        """Return the addresses outside of this machine that the page asked for."""
        here = {"127.0.0.1", "localhost"}
        networked = (url for url in self.requested if urlsplit(url).scheme in _NETWORKED)
        return [url for url in networked if urlsplit(url).hostname not in here]

    # --- what it shows -----------------------------------------------------------------------

    async def open(self, url: str) -> None:
        await self.call("Page.navigate", url=url)

    async def reload(self) -> None:
        await self.call("Page.reload")

    async def resize(self, width: int, height: int, *, phone: bool = False) -> None:
        """Give it another size, in points."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )
        await self.call("Emulation.setTouchEmulationEnabled", enabled=phone)

    async def offline(self, is_offline: bool = True) -> None:
        """Take the network away, or give it back. Open WebSockets do not notice."""
        await self.call(
            "Network.emulateNetworkConditions",
            offline=is_offline,
            latency=0,
            downloadThroughput=-1,
            uploadThroughput=-1,
        )

    async def value(self, expression: str) -> Any:
        """Return the value of a JavaScript expression."""
        result = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    async def until(self, what: str, expression: str, timeout_s: float = STEP_S) -> Any:
        """Wait until a JavaScript expression is true; return its value."""
        return await until(what, lambda: self.value(expression), timeout_s, every_s=0.1)

    async def until_text(self, text: str, within: str = "body", timeout_s: float = STEP_S) -> None:
        """Wait until an element, given by a selector, shows this text."""
        shown = f"document.querySelector({json.dumps(within)})?.innerText ?? ''"
        deadline = time.monotonic() + timeout_s
        while text not in (now := await self.value(shown)):
            assert time.monotonic() < deadline, f"{within} shows no {text!r}, but:\n{now}"
            await asyncio.sleep(0.1)

    async def picture(self, path: Path) -> None:
        """Take a screenshot."""
        shot = await self.call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(shot["data"]))

    # --- what its user does ------------------------------------------------------------------

    async def click(self, what: str, element: str) -> None:
        """Click the middle of an element, given as a JavaScript expression, when it is there."""
        place = (
            f"(() => {{ const found = {element}; if (!found) return null;"
            " found.scrollIntoViewIfNeeded(); const box = found.getBoundingClientRect();"
            " return box.width && [box.x + box.width / 2, box.y + box.height / 2] })()"
        )
        x, y = await self.until(what, place)
        await self._click_at(x, y)

    async def click_until_heard(self, what: str, element: str) -> None:
        """The same for pages that move while they are read: a click that hit something else is
        made again.
        """
        place = (
            f"(() => {{ const found = {element}; if (!found) return null;"
            " found.scrollIntoViewIfNeeded(); const box = found.getBoundingClientRect();"
            " if (!box.width) return null; window.aimHeard = false;"
            " found.addEventListener('click', () => { window.aimHeard = true; }, { once: true });"
            " return [box.x + box.width / 2, box.y + box.height / 2] })()"
        )
        deadline = time.monotonic() + STEP_S
        while True:
            x, y = await self.until(what, place)
            await self._click_at(x, y)
            if await self.value("window.aimHeard"):
                return
            assert time.monotonic() < deadline, f"{what} hears no click"
            await asyncio.sleep(0.1)

    async def _click_at(self, x: float, y: float) -> None:
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            button: dict[str, Any] = (
                {"button": "left", "clickCount": 1} if kind != "mouseMoved" else {}
            )
            await self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **button)

    async def named(self, name: str, role: str = "button") -> list[int]:
        """Return the elements that assistive technology knows by this role and name."""
        document = await self.call("DOM.getDocument", depth=0)
        found = await self.call(
            "Accessibility.queryAXTree",
            backendNodeId=document["root"]["backendNodeId"],
            accessibleName=name,
            role=role,
        )
        return [int(n["backendDOMNodeId"]) for n in found["nodes"] if not n.get("ignored")]

    async def press(self, name: str, role: str = "button", timeout_s: float = STEP_S) -> None:
        """Click what has this name, when it is there, visible, enabled, and nothing lies on it.

        A page may move between the look and the click. The click then hits something else, and is
        made again, as a person would do.
        """
        deadline = time.monotonic() + timeout_s
        while not await self._press_once(name, role):
            assert time.monotonic() < deadline, f"no {role} {name!r} can be clicked"
            await asyncio.sleep(0.1)

    async def _press_once(self, name: str, role: str) -> bool:
        """Return whether the element heard a click."""
        try:
            for node in await self.named(name, role):
                element = (await self.call("DOM.resolveNode", backendNodeId=node))["object"]
                if (at := await self._called_on(element["objectId"], _CLICKABLE)) is None:
                    continue
                await self._click_at(at[0], at[1])
                try:
                    return bool(await self._called_on(element["objectId"], _HEARD_A_CLICK))
                except DevToolsError:
                    return True  # The click has led to another page.
        except DevToolsError:
            pass  # The page has drawn it anew meanwhile.
        return False

    async def _called_on(self, element: str, function: str) -> Any:
        result = await self.call(
            "Runtime.callFunctionOn",
            objectId=element,
            functionDeclaration=function,
            returnByValue=True,
        )
        return result["result"].get("value")

    async def type(self, name: str, text: str, role: str = "textbox") -> None:
        """Click the field of this name, and write into it instead of what is there."""
        await self.press(name, role)
        await self.value("document.activeElement.select()")
        await self.call("Input.insertText", text=text)

    async def key(
        self, key: str, *, windows: int = 0, shift: bool = False, ctrl: bool = False
    ) -> None:
        """Press a key.

        Args:
            windows: its number; keys without a text need it.
        """
        about = {
            "key": key,
            "code": key,
            "windowsVirtualKeyCode": windows,
            "modifiers": 8 * shift + 2 * ctrl,
        }
        written = "\r" if key == "Enter" else key if len(key) == 1 and not ctrl else ""
        text = {"text": written} if written else {}
        await self.call("Input.dispatchKeyEvent", type="keyDown", **about, **text)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **about)

    async def insert(self, text: str) -> None:
        """Put a text where the cursor is, as a paste does."""
        await self.call("Input.insertText", text=text)


class Browser(Page):
    """One Chromium with one page, as a context manager."""

    def __init__(self, home: Path) -> None:
        super().__init__(Chromium(home))

    async def __aenter__(self) -> Self:
        await self._chromium.__aenter__()
        try:
            await self.attach(await self._chromium.first_page())
        except BaseException:
            await self._chromium.stop()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._chromium.stop()

    def asleep(self) -> contextlib.AbstractContextManager[None]:
        """Stop the page, and let it go on at the end of the context."""
        return self._chromium.asleep()


def _shows_a_page(process: psutil.Process) -> bool:
    try:
        return "--type=renderer" in process.cmdline()
    except psutil.Error:  # It has ended meanwhile.
        return False


_NETWORKED: Final = frozenset({"http", "https", "ws", "wss", "ftp"})
_CLICKABLE: Final = """function () {
  if (this.disabled) return null;
  this.scrollIntoView({ block: "center", behavior: "instant" });
  const box = this.getBoundingClientRect(), x = box.x + box.width / 2, y = box.y + box.height / 2;
  const top = document.elementFromPoint(x, y);
  if (!box.width || !top || !(this.contains(top) || top.contains(this))) return null;
  this.heardAClick = false;
  this.addEventListener("click", () => { this.heardAClick = true; }, { once: true, capture: true });
  return [x, y];
}"""
"""Where to click an element: its middle, unless another one lies on it."""
_HEARD_A_CLICK: Final = "function () { return this.heardAClick; }"

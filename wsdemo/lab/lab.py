"""How does a notebook drive a cluster without a single `await`?

Gateways and users live on one event loop in a thread of its own; cells call plain methods, which
wait for the answer. A cell that computes for two seconds delays nobody. The lab of the kernel is
closed when the next one is made, so a cell can be run again.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import html
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar, Final, Self, TypeVar

import pandas as pd

from wsdemo.client import Client
from wsdemo.client.connection import Message, Receipt
from wsdemo.lab.cluster import POLL_S, Cluster
from wsdemo.lab.plots import spacetime, steps
from wsdemo.lab.plots.style import Picture

CALL_TIMEOUT_S: Final = 30.0
"""No cell waits longer for the lab than this."""
LOG_LINES: Final = 500

T = TypeVar("T")


class Lab:
    """A cluster for cells: `lab = Lab(gateways=3)`, at last `lab.close()`.

    Args: those of `Cluster`.
    """

    _current: ClassVar[Lab | None] = None

    def __init__(self, gateways: int = 3, **options: Any) -> None:
        if Lab._current is not None:
            Lab._current.close()
        cluster = Cluster(gateways, **options)
        self._log: deque[str] = deque(maxlen=LOG_LINES)
        self._handler = _Ring(self._log)
        self._loop = asyncio.new_event_loop()
        self._problems: list[str] = []
        self._loop.set_exception_handler(
            lambda _, context: self._problems.append(str(context.get("message")))
        )
        self._thread = threading.Thread(target=self._live, name="lab", daemon=True)
        self._thread.start()
        self._closed = False
        self._leaks: list[str] = []
        self.cluster = cluster
        self.plot = Plots(self)
        self.users: dict[str, User] = {}
        self._gateway_names: list[str] = []
        logger = logging.getLogger("wsdemo")
        logger.addHandler(self._handler)
        self._level = logger.level
        logger.setLevel(logging.INFO)
        try:
            self._run(cluster.start())
        except BaseException:
            self._end_loop()
            raise
        self._gateway_names = list(cluster.gateways)
        Lab._current = self
        atexit.register(self.close)

    def _run(self, work: Coroutine[Any, Any, T], timeout_s: float = CALL_TIMEOUT_S) -> T:
        """Run something on the lab's loop and wait for it; Interrupt cancels it there."""
        if self._closed:
            work.close()
            raise RuntimeError("this lab is closed: make a new one with Lab()")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(timeout_s)
        except concurrent.futures.TimeoutError:
            if future.done():
                raise  # The work itself ran into a deadline of its own.
            future.cancel()
            raise TimeoutError(f"the lab did not answer within {timeout_s:g} s") from None
        except BaseException:
            future.cancel()
            raise

    # --- life --------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop users, gateways and Redis, and end the thread. Idempotent."""
        if self._closed:
            return
        try:
            self._run(self.cluster.stop())
            self._leaks = self._run(self._look_for_leaks())
        finally:
            self._closed = True
            self._end_loop()
            atexit.unregister(self.close)
            if Lab._current is self:
                Lab._current = None

    def _end_loop(self) -> None:
        self._closed = True
        logger = logging.getLogger("wsdemo")
        logger.removeHandler(self._handler)
        logger.setLevel(self._level)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CALL_TIMEOUT_S)

    def _live(self) -> None:
        """Be the lab's thread: its loop begins and ends here."""
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    async def _look_for_leaks(self) -> list[str]:
        this = asyncio.current_task()
        tasks = [task for task in asyncio.all_tasks() if task is not this]
        if tasks:
            await asyncio.wait(tasks, timeout=1.0)
        left = [f"task {task.get_name()}" for task in tasks if not task.done()]
        return left + [f"unhandled: {problem}" for problem in self._problems]

    def leaks(self) -> list[str]:
        """Return what a closed lab left behind: tasks, threads, failures that nobody handled."""
        if not self._closed:
            raise RuntimeError("close the lab first: until then, everything is in use")
        return self._leaks + (["thread lab"] if self._thread.is_alive() else [])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # --- users and what they do --------------------------------------------------------------

    def connect(self, user: str, to: str = "gateway-01") -> User:
        """Connect a user to a gateway."""
        facade = User(self, self._run(self.cluster.connect(user, to)))
        self.users[user] = facade
        return facade

    # --- accidents on purpose ----------------------------------------------------------------

    def hold_cleanup(self, user: str, at: str) -> None:
        """From now on, the clean-up of this user at this gateway waits."""
        gateway = self.cluster.gateway(at).settings.gateway_id
        self._loop.call_soon_threadsafe(self.cluster.directors[gateway].hold, user)
        self.wait_until(
            f"the clean-up of {user} is held", lambda: self.cluster.directors[gateway].holds(user)
        )

    def let_go(self, user: str, at: str) -> None:
        """Let the clean-up go on that was held, and wait until Redis has answered it."""
        director = self.cluster.directors[self.cluster.gateway(at).settings.gateway_id]
        self.wait_until(f"a clean-up of {user} waits", lambda: director.waiting(user) > 0)

        async def finish() -> None:
            director.let_go(user)
            await director.done(user)

        self._run(finish())

    # --- looking -----------------------------------------------------------------------------

    def where(self) -> pd.DataFrame:
        """Return, for each user, the gateway of its socket and the gateway that Redis names."""
        records = self._run(self._records())
        return pd.DataFrame(
            [
                {
                    "user": name,
                    "socket": user.gateway,
                    "Redis says": records[name].get("gwId", "(nobody)"),
                }
                for name, user in self.users.items()
            ]
        ).set_index("user")

    async def _records(self) -> dict[str, dict[str, str]]:
        return {name: await self.cluster.record(name) for name in self.users}

    def record(self, user: str) -> dict[str, str]:
        """Return what Redis stores about a user: `HGETALL presence:{user}`; empty when offline."""
        return self._run(self.cluster.record(user))

    def health(self, gateway: str) -> str:
        """Fetch `/health` of a gateway."""
        return self._run(self.cluster.page(gateway, "/health"))

    def stats(self, gateway: str) -> dict[str, Any]:
        """Fetch `/stats` of a gateway."""
        return self._run(self.cluster.stats(gateway))

    def trace(self) -> pd.DataFrame:
        """Return everything that happened so far, one row for each arrow or moment."""
        return self.cluster.trace()

    def hops(self, receipt: Receipt) -> pd.DataFrame:
        """Return the way of one message: from, to, what, and when (µs after it was sent)."""
        trace = self.trace()
        way = trace[(trace["msg_id"] == receipt.id) & (trace["peer"] != "")]
        start = way["t"].min()
        return pd.DataFrame(
            {
                "from": way["lane"],
                "to": way["peer"],
                "what": way["kind"],
                "left after (µs)": ((way["t"] - start) * 1e6).round().astype(int),
                "arrived after (µs)": [
                    "never" if t != t else f"{(t - start) * 1e6:.0f}" for t in way["t_recv"]
                ],
                "answer": way["reason"],
            }
        ).reset_index(drop=True)

    def wait_until(self, what: str, holds: Callable[[], bool], timeout_s: float = 10.0) -> None:
        """Wait until a condition holds.

        Raises:
            TimeoutError: it did not, in time; the text says what was waited for.
        """

        # Asked in the cell's thread, so that the condition may use the lab like any cell.
        deadline = time.monotonic() + timeout_s
        while not holds():
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {timeout_s:g} s: {what}")
            time.sleep(POLL_S)

    def log(self, lines: int = 20) -> None:
        """Print the last lines that the gateways logged."""
        print("\n".join(list(self._log)[-lines:]))  # noqa: T201  (a cell asked for it)

    def __repr__(self) -> str:
        if self._closed:
            return "<Lab: closed>"
        names = ", ".join(f"{name} at {user.gateway}" for name, user in self.users.items())
        return (
            f"<Lab: {len(self._gateway_names)} gateways, {self.cluster.policy} presence, "
            f"{self.cluster.timing.scale:g}x faster than production; users: {names or 'none'}; "
            f"Redis: {self.cluster.redis_source}>"
        )

    def _repr_html_(self) -> str:
        return f"<code>{html.escape(repr(self))}</code>"


class User:
    """A user in a cell."""

    def __init__(self, lab: Lab, client: Client) -> None:
        self._lab = lab
        self._client = client

    @property
    def name(self) -> str:
        return self._client.user

    @property
    def gateway(self) -> str:
        """The gateway that this user's socket is connected to."""
        return self._client.gateway_id

    def send(self, to: str, content: str) -> Receipt:
        """Send a message; the receipt says what became of it."""
        return self._lab._run(self._client.send(to, content))

    def receive(self, timeout_s: float = 5.0) -> Message:
        """Return the next message.

        Raises:
            TimeoutError: none came in time.
        """
        return self._lab._run(self._client.receive(timeout_s), timeout_s + 5)

    def move(self, to: str) -> None:
        """Leave for another gateway."""
        self._lab._run(self._client.move(self._lab.cluster.gateway(to).url))

    def disconnect(self) -> None:
        """Say goodbye."""
        self._lab.users.pop(self.name, None)
        self._lab._run(self._lab.cluster.disconnect(self.name))

    def __repr__(self) -> str:
        return f"<User {self.name} at {self.gateway or 'no gateway'}>"


class Plots:
    """The figures of a lab, drawn from its trace: `lab.plot.spacetime(receipt)`."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    def spacetime(self, receipt: Receipt, **options: Any) -> Picture:
        """Draw the way of one message."""
        return spacetime(self._lab.trace(), msg_id=receipt.id, **options)

    def story(self, *users: str, **options: Any) -> Picture:
        """Draw everything that happened to these users, refreshes aside."""
        return spacetime(self._lab.trace(), users=users, **options)

    def steps(self, receipt: Receipt, **options: Any) -> Picture:
        """Draw what each table held before, during and after one message."""
        return steps(self._lab.trace(), receipt.id, **options)


class _Ring(logging.Handler):
    """Keeps log lines: printed from another thread, they would land in the wrong cell."""

    def __init__(self, lines: deque[str]) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(record.getMessage())

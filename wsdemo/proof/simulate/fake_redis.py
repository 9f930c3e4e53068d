"""fakeredis: how does a Redis in this process run on virtual time, the same for the same seed?

fakeredis runs the shipped Lua scripts. This module gives it a clock, an order of subscribers that
follows from the seed, and scripts with a shebang. That it agrees with the real server on every
script is the claim of a test of its own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import redis
from fakeredis import FakeServer
from fakeredis._core import Database
from fakeredis._socket import FakeSocket

VERSION: Final = (7, 2)
DATABASE: Final = 0
COLLECT_SELDOM: Final = """
local collect, calls = collectgarbage, 0
collectgarbage = function()
  calls = calls + 1
  if calls % 1000 == 0 then collect() end
end
"""

Fields = Sequence[bytes]
OnCommand = Callable[[Fields, Any], None]
"""Called with a command and its reply, after its execution. The end of a connection is no command.
"""


class ReplyError(Exception):
    """A command was refused; the text begins with the code."""


class _ClockedDatabase(Database):
    """Data whose time comes from a given clock. fakeredis sets it to the real time before each
    command; that is ignored.
    """

    def __init__(self, lock: Any, clock: Callable[[], float]) -> None:
        self._clock = clock
        super().__init__(lock)

    @property
    def time(self) -> float:
        return self._clock()

    @time.setter
    def time(self, now: float) -> None:
        """Ignore it."""


class SimulatedServer(FakeServer):
    """One process of Redis."""

    run_id = ""
    """40 hexadecimal digits: another process has others."""


def server_with(clock: Callable[[], float], run_id: str = "") -> SimulatedServer:
    """Make a server whose time is that of a clock (Unix seconds)."""
    server = SimulatedServer(version=VERSION)
    server.run_id = run_id
    server.dbs = defaultdict(lambda: _ClockedDatabase(server.lock, clock))
    return server


class FakeRedisClient(FakeSocket):
    """One client, as fakeredis sees it. Replies and messages go to `send` at once.

    Args:
        number: of this client; different for each.
        on_command: called with every command.
        replacements: text of a script -> the text that is executed in its place.
    """

    def __init__(
        self,
        server: SimulatedServer,
        number: int,
        send: Callable[[Any], None],
        on_command: OnCommand,
        replacements: Mapping[bytes, bytes],
    ) -> None:
        self._number = number
        self._replacements = replacements
        self._send = send
        self._on_command = on_command
        self._run_id = server.run_id
        super().__init__(server, DATABASE, client_class=redis.Redis)

    def __hash__(self) -> int:
        # Subscribers are kept in sets: their order must not depend on where objects lie in memory.
        return self._number

    def __eq__(self, other: object) -> bool:
        return self is other

    @property
    def subscribes(self) -> bool:
        """Whether it listens to a channel."""
        return bool(self._pubsub)

    def time(self) -> list[bytes]:
        """Answer TIME by the clock of the server."""
        seconds, micros = divmod(round(self._server.dbs[DATABASE].time * 1e6), 1_000_000)
        return [b"%d" % seconds, b"%d" % micros]

    def _get_server_runtime(self, server: FakeServer) -> Any:
        """fakeredis collects Lua's garbage after each script; now and then is enough."""
        is_new = not hasattr(server, "_lua_runtime")
        runtime = super()._get_server_runtime(server)
        if is_new:
            runtime.execute(COLLECT_SELDOM)
        return runtime

    def put_response(self, msg: Any) -> None:
        self._send(msg)

    def _decode_error(self, error: Any) -> Any:
        return ReplyError(error.value)

    def eval(self, script: bytes, numkeys: int, *keys_and_args: bytes) -> Any:
        """Run a script. fakeredis takes a shebang for Lua, so it is made a comment."""
        script = self._replacements.get(script, script)
        if not script.startswith(b"#!"):
            return super().eval(script, numkeys, *keys_and_args)
        self.script_load(script)
        return super().eval(b"--" + script, numkeys, *keys_and_args)

    def execute(self, fields: Fields, send: Callable[[Any], None] | None = None) -> None:
        """Execute one command. Its replies go to `send`, if that is given for this command."""
        replies: list[Any] = []
        usual, self._send = self._send, replies.append
        try:
            if fields[0].upper() == b"INFO":  # fakeredis has none.
                self._send(b"# Server\r\nrun_id:%b\r\n" % self._run_id.encode())
            else:
                self._process_command(list(fields))
        finally:
            self._send = usual
        for reply in replies:
            (send or usual)(reply)
        self._on_command(fields, replies[0] if replies else None)

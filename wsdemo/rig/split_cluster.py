"""Split cluster: how is a server of a cluster cut off from the others, without any rights?

`SplitCluster` is a `BundledCluster` whose servers announce the ports of relays (`Wire`), two for
each server: one for clients and replicas, one for the bus on which the servers watch each other. A
relay sees from the first bytes of a connection who has dialled. So it can hold what comes from some
of them, as a network does that is broken between two places: nothing arrives, no connection ends.

The relays run in a thread of their own, because the methods of a bundled cluster are synchronous.
Whoever dials the port of a server itself (`call` does) is not in this network, and always gets
through.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection, Coroutine
from typing import Any, Final, Self, TypeVar

from wsdemo.redis.cluster_server import BundledCluster
from wsdemo.redis.server import HOST, BundledServer
from wsdemo.rig.wire import Strand, Wire

T = TypeVar("T")

SENDER: Final = slice(40, 80)
"""Where a message on the bus has the name of the server that has sent it."""
CALL_S: Final = 10.0
"""How long the thread of the relays may take for one thing."""


class SplitCluster(BundledCluster):
    """A cluster of our own with a network between its servers that can be split.

    `ports`, `addresses` and `url` are those of the relays. Arguments: see `BundledCluster`.
    """

    _loop: asyncio.AbstractEventLoop | None = None
    _thread: threading.Thread | None = None
    _wires: list[tuple[Wire, Wire]]
    """By number of the server: for clients and replicas, and for the bus."""

    def start(self) -> Self:
        if not self.servers:
            self._wires = []
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(
                target=self._loop.run_forever, name="relays of a cluster", daemon=True
            )
            self._thread.start()
        return super().start()

    def stop(self) -> None:
        super().stop()
        loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return
        self._take_wires_away()
        loop.call_soon_threadsafe(loop.stop)
        thread.join(CALL_S)
        loop.close()
        self._loop = self._thread = None

    @property
    def ports(self) -> list[int]:
        return [clients.port for clients, _ in self._wires[: len(self.servers)]]

    def _bus_port(self, number: int) -> int:
        return self._wires[number][1].port

    def _launch(self) -> None:
        self._take_wires_away()  # Those of a start that has failed.
        super()._launch()

    def _server(self, port: int, bus: int) -> BundledServer:
        clients, others = (self._run(Wire(HOST, to).start()) for to in (port, bus))
        self._wires.append((clients, others))
        server = super()._server(port, bus)
        server.settings["cluster-announce-port"] = str(clients.port)
        server.settings["cluster-announce-bus-port"] = str(others.port)
        return server

    # --- splitting ---------------------------------------------------------------------------

    def isolate(
        self, number: int, *, near: Collection[str] = (), far: Collection[str] = ()
    ) -> None:
        """Cut a server off from all other servers, also from its replicas, until `rejoin`.

        Clients reach it and the others, but for those that are named (`CLIENT SETNAME`; in an
        address `client_name`).

        Args:
            near: they are on its side, and reach no other server.
            far: they are on the side of the others, and do not reach it.
        """
        own_port, own_id = self.servers[number].port, self.ids[number].encode()

        def split() -> None:
            for other, (clients, bus) in enumerate(self._wires):
                if other == number:
                    clients.hold_those(lambda strand: _replicates(strand) or _is(strand, far))
                    bus.hold()
                else:
                    clients.hold_those(
                        lambda strand: _replicates(strand, own_port) or _is(strand, near)
                    )
                    bus.hold_those(lambda strand: strand.said[SENDER] == own_id)

        self._do(split)

    def rejoin(self, *, late: bool = False) -> None:
        """Let everything pass again. Idempotent.

        Args:
            late: what was held arrives now, as TCP has it when it has not given up. Otherwise the
                connections that were held end, and what was in them is lost.
        """

        def join() -> None:
            for wires in self._wires:
                for wire in wires:
                    for strand in wire.strands(lambda strand: strand.held and not late):
                        strand.cut()
                    wire.release()

        self._do(join)

    def heal(self) -> None:
        self.rejoin()
        super().heal()

    # --- the thread of the relays ------------------------------------------------------------

    def _take_wires_away(self) -> None:
        wires, self._wires = self._wires, []
        for pair in wires:
            for wire in pair:
                self._run(wire.stop())

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(CALL_S)

    def _do(self, what: Callable[[], None]) -> None:
        async def doing() -> None:
            what()

        self._run(doing())


def _replicates(strand: Strand, port: int | None = None) -> bool:
    """Whether a replica has dialled: any, or the server with this port."""
    said = b"listening-port\r\n"
    if port is not None:
        said += b"$%d\r\n%d\r\n" % (len(str(port)), port)
    return said in strand.said


def _is(strand: Strand, names: Collection[str]) -> bool:
    """Whether a client has dialled that has one of these names."""
    return any(b"SETNAME\r\n$%d\r\n%s\r\n" % (len(n), n.encode()) in strand.said for n in names)

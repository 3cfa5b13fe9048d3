"""The HTTP server: one listening socket, its connections, and how both come to an end.

Owns accepting, the sweep over all connections and draining. Does not know what is answered: the invoke
route goes to a handler, every other request to an ASGI application. Runs no lifespan of that
application: start and stop are the business of who wires it.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from ssl import SSLContext

from starlette.types import ASGIApp

from stoker.edge.errors import ErrorAnswers, Log
from stoker.edge.http.holding import Holding
from stoker.edge.http.origin import Origin
from stoker.edge.http.protocol import Connection
from stoker.edge.http.request import Admit, LeanHandler, admit_all
from stoker.edge.http.service import Member, Service
from stoker.model.limits import Limits

SWEEP_MS_MAX = 1_000
"""The Date header changes once a second; no time limit needs to be kept more closely."""
SWEEPS_PER_LIMIT = 8
"""A time limit is overrun by an eighth at most."""
KEEPALIVE_IDLE_S = 60
KEEPALIVE_INTERVAL_S = 15
KEEPALIVE_COUNT = 4
"""A client that answers not even TCP is cut off after two minutes; the kernel would take two hours."""
BACKLOG = 1_024
"""Connections that the kernel holds while the loop is busy."""


class HttpServer:
    """Serves HTTP/1.1 on a socket. To be started once."""

    def __init__(
        self,
        *,
        app: ASGIApp,
        invoke: LeanHandler,
        limits: Limits,
        log: Log,
        admit: Admit = admit_all,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._app = app
        self._invoke = invoke
        self._admit = admit
        self._limits = limits
        self._log = log
        self._wall_clock = wall_clock
        self._members: dict[Member, None] = {}
        """The oldest first."""
        self._empty = asyncio.Event()
        self._empty.set()
        self._service: Service | None = None
        self._server: asyncio.Server | None = None
        self._sweep_timer: asyncio.TimerHandle | None = None

    async def start(self, sock: socket.socket, ssl: SSLContext | None) -> None:
        """Serve on `sock`, which is bound already. Returns once connections are accepted."""
        loop = asyncio.get_running_loop()
        service = Service(
            loop=loop,
            roll=self,
            app=self._app,
            invoke=self._invoke,
            admit=self._admit,
            limits=self._limits,
            errors=ErrorAnswers(self._log),
            holding=Holding(self._limits.held_bodies_bytes_max),
        )
        self._service = service
        # Accepted sockets inherit this: a client whose machine is gone ends nothing and answers nothing.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_COUNT)
        self._server = await loop.create_server(
            lambda: Connection(service), sock=sock, ssl=ssl, backlog=BACKLOG
        )

    def adopt(self, sock: socket.socket, origin: Origin) -> None:
        """Serve a connected socket whose requests come from `origin`; closes it when it is done."""
        service = self._service
        if service is None or service.draining:
            sock.close()
            return
        sock.setblocking(False)

        async def serve() -> None:
            await service.loop.connect_accepted_socket(lambda: Connection(service, origin), sock)

        task = service.loop.create_task(serve(), name="a connection from inside")
        service.tasks.add(task)
        task.add_done_callback(service.tasks.discard)

    async def stop(self, *, drain_ms: int) -> None:
        """Accept nothing more and return when the last connection is gone.

        Idle connections are closed; a request in flight, or being sent, gets its answer, which is its
        connection's last. What is not done after `drain_ms` is cut. May be called again, also with a
        shorter time; `abort` ends it at once.
        """
        service = self._service
        if service is None or self._server is None:
            return
        service.draining = True
        self._server.close()
        for member in [*self._members]:
            member.drain()
        try:
            async with asyncio.timeout(drain_ms / 1000):
                await self._empty.wait()
                await self._tasks_ended(service)
        except TimeoutError:
            self.abort()
        await self._empty.wait()
        await self._tasks_ended(service)
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
            self._sweep_timer = None

    def abort(self) -> None:
        """Cut every connection and cancel what the application has at hand. Accept nothing more."""
        if self._service is None or self._server is None:
            return
        self._service.draining = True
        self._server.close()
        for member in [*self._members]:
            member.abort()
        for task in [*self._service.tasks]:
            task.cancel()

    def joined(self, member: Member) -> None:
        """Called by a new connection, before it looks at the time."""
        self._members[member] = None
        self._empty.clear()
        if len(self._members) > self._limits.connections_max:
            # Else strangers who connect and say nothing would take the files that instances need. The one
            # that has just come is among those to go, if all others wait for an answer.
            oldest = next(one for one in self._members if not one.in_flight)
            self.parted(oldest)
            oldest.abort()
        if self._sweep_timer is None and self._service is not None:
            self._tell_time(self._service)  # it stood still while nobody was there
            self._sweep_later(self._service)

    def parted(self, member: Member) -> None:
        """Called by a connection that is gone."""
        self._members.pop(member, None)
        if not self._members:
            self._empty.set()

    def _sweep(self, service: Service) -> None:
        """Look at every connection, and come again as long as there are any."""
        self._sweep_timer = None
        if not self._members:
            return
        self._tell_time(service)
        for member in [*self._members]:
            member.sweep()
        self._sweep_later(service)

    def _tell_time(self, service: Service) -> None:
        service.now_ms = service.loop.time() * 1000
        service.heads.tick(self._wall_clock())

    def _sweep_later(self, service: Service) -> None:
        limits = self._limits
        shortest_ms = min(limits.request_wait_ms_max, limits.idle_connection_ms_max)
        sweep_ms = min(SWEEP_MS_MAX, max(1, shortest_ms / SWEEPS_PER_LIMIT))
        self._sweep_timer = service.loop.call_later(sweep_ms / 1000, self._sweep, service)

    async def _tasks_ended(self, service: Service) -> None:
        if service.tasks:
            await asyncio.wait([*service.tasks])

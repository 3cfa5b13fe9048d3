"""The broker: every sandbox's port, and every connection that goes out through one.

One event loop in a process of its own, without privilege. Owns the table of sandboxes, the limits and what
is said to the gateway. A sandbox's port takes connections once both are known: its socket, from the
supervisor, and whose it is, from the gateway. Ends when either is gone. Does not know functions.
"""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import ssl
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from stoker.egress.connector import Connector, Gateway
from stoker.egress.head import Head
from stoker.egress.ports import Account, Listener, Port
from stoker.egress.protocol import (
    FROM_GATEWAY,
    FROM_SUPERVISOR,
    LINE_CHARS_MAX,
    Active,
    Bounds,
    Headers,
    Injected,
    Inward,
    Noted,
    Open,
    Refused,
    Serve,
    Shut,
    Tallied,
    Tally,
    Want,
)
from stoker.egress.tunnel import Tunnel
from stoker.model.packet import PACKET_BYTES_MAX, Malformed, Table, decode, encode

BACKLOG = 256
HEAD_S_MAX = 10.0
SWEEP_S = 1.0
ANSWER_S_MAX = 2.0
"""How long the gateway may take to answer; it is one loop away."""
GONE_MAX = 256
OWN_FILES = 256
"""Descriptors that are left for other things than connections."""


class Broker:
    """Serves until one of its two peers is gone."""

    def __init__(
        self,
        bounds: Bounds,
        supervisor: socket.socket,
        gateway: socket.socket,
        tls: ssl.SSLContext,
        clock: Callable[[], float],
    ) -> None:
        self._bounds = bounds
        self._supervisor = supervisor
        self._gateway = gateway
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._connector = Connector(
            bounds,
            self._account_of,
            Gateway(self._note, self._hand_in, self._headers, self._injected),
            tls,
        )
        self._ports: dict[str, Port] = {}
        self._accounts: dict[str, Account] = {}
        self._gone: dict[str, tuple[tuple[str, int, int, int, int], ...]] = {}
        """What sandboxes had used that have ended: their last call is counted in a moment."""
        self._tunnels = 0
        self._tunnels_max = max(1, (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - OWN_FILES) // 2)
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._tag = 0
        self._unsent: deque[tuple[bytes, socket.socket | None]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._over = self._loop.create_future()

    async def run(self) -> None:
        """Return once the supervisor or the gateway is gone."""
        for control, table, take in (
            (self._supervisor, FROM_SUPERVISOR, self._from_supervisor),
            (self._gateway, FROM_GATEWAY, self._from_gateway),
        ):
            control.setblocking(False)
            self._loop.add_reader(control.fileno(), self._hear, control, table, take)
        self._sweep()
        await self._over

    # -- the two peers ---------------------------------------------------------------------------

    def _hear(self, control: socket.socket, table: Table, take: Callable[[Any, list[int]], None]) -> None:
        while not self._over.done():
            try:
                packet, descriptors, _, _ = socket.recv_fds(
                    control, PACKET_BYTES_MAX, 1, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return
            except OSError:
                packet, descriptors = b"", []
            if not packet:
                self._end()
                return
            try:
                take(decode(packet, table), descriptors)
            except Malformed:
                self._end()
                raise

    def _end(self) -> None:
        if not self._over.done():
            self._over.set_result(None)

    def _from_supervisor(self, message: Open | Shut, descriptors: list[int]) -> None:
        if isinstance(message, Shut):
            self._shut(message.sandbox)
        elif len(descriptors) == 1:
            port = self._ports.setdefault(message.sandbox, Port())
            port.listeners.append(Listener(socket.socket(fileno=descriptors[0]), message.parsed()))
            self._serve(message.sandbox, port)
        else:
            raise Malformed("a port without its socket")

    def _from_gateway(self, message: Serve | Shut | Noted | Headers | Tally, descriptors: list[int]) -> None:
        if isinstance(message, Serve):
            port = self._ports.setdefault(message.sandbox, Port())
            if port.account is None:
                port.rules, port.account = message.parsed(), message.account
                port.injects = message.injects
                self._accounts.setdefault(message.account, Account()).sandboxes += 1
                self._serve(message.sandbox, port)
        elif isinstance(message, Shut):
            # Of one whose socket never came: the supervisor has not heard of it, or has forgotten it.
            if (port_left := self._ports.get(message.sandbox)) is not None and not port_left.listeners:
                self._shut(message.sandbox)
        elif isinstance(message, Tally):
            port_asked = self._ports.get(message.sandbox)
            gone = self._gone.pop(message.sandbox, ())
            self._say(Tallied(message.tag, gone if port_asked is None else port_asked.counts.take()))
        elif (asked := self._asked.pop(message.tag, None)) is not None and not asked.done():
            asked.set_result(message)

    async def _ask(self, question: Callable[[int], object]) -> Any:
        """Return what the gateway answers to the question with a tag; None if it does not in time."""
        self._tag += 1
        tag, asked = self._tag, self._loop.create_future()
        self._asked[tag] = asked
        self._say(question(tag))
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                return await asked
        except TimeoutError:
            return None
        finally:
            self._asked.pop(tag, None)

    async def _note(self, sandbox: str, line: str) -> None:
        """Return once a line is in the log of the call that runs, or the gateway is too slow for that."""
        await self._ask(lambda tag: Refused(tag, sandbox, line[:LINE_CHARS_MAX]))

    async def _headers(self, sandbox: str, host: str, port: int) -> Headers | None:
        """Return what goes into a request; None if the gateway does not say."""
        found: Headers | None = await self._ask(lambda tag: Want(tag, sandbox, host, port))
        return found

    def _injected(self, sandbox: str, secret: str, host: str) -> None:
        self._say(Injected(sandbox, secret, host))

    def _hand_in(self, sandbox: str, connection: socket.socket) -> None:
        self._say(Inward(sandbox), connection.dup())

    def _say(self, message: object, handed: socket.socket | None = None) -> None:
        self._unsent.append((encode(message), handed))
        if len(self._unsent) == 1:
            self._flush()

    def _flush(self) -> None:
        while self._unsent:
            packet, handed = self._unsent[0]
            try:
                socket.send_fds(self._gateway, [packet], [] if handed is None else [handed.fileno()])
            except BlockingIOError:
                self._loop.add_writer(self._gateway.fileno(), self._flush)
                return
            except OSError:
                self._end()
                return
            self._unsent.popleft()
            if handed is not None:
                handed.close()
        self._loop.remove_writer(self._gateway.fileno())

    # -- sandboxes -------------------------------------------------------------------------------

    def _serve(self, sandbox: str, port: Port) -> None:
        if port.account is None:
            return
        for listener in port.listeners:
            if not listener.served:
                listener.served = True
                self._own(self._serve_at(sandbox, port, listener))

    async def _serve_at(self, sandbox: str, port: Port, listener: Listener) -> None:
        host, speaks_first = _PortHost(self, sandbox, port, listener.target), listener.target is None
        listener.server = await self._loop.create_server(
            lambda: Tunnel(host, self._clock, told=speaks_first).inner,
            sock=listener.socket,
            backlog=BACKLOG,
        )
        if self._ports.get(sandbox) is not port:  # it has ended meanwhile
            listener.close()

    def _shut(self, sandbox: str) -> None:
        port = self._ports.pop(sandbox, None)
        if port is None:
            return
        for listener in port.listeners:
            listener.close()
        for tunnel in list(port.tunnels):
            tunnel.abort()
        if rows := port.counts.take():
            self._gone[sandbox] = rows
            while len(self._gone) > GONE_MAX:
                del self._gone[next(iter(self._gone))]
        if port.account is not None:
            account = self._accounts[port.account]
            account.sandboxes -= 1
            self._drop_if_done(port.account)

    def _drop_if_done(self, name: str) -> None:
        account = self._accounts[name]
        if not account.sandboxes and not account.tunnels:
            del self._accounts[name]

    def _own(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # -- connections -----------------------------------------------------------------------------

    def _account_of(self, port: Port) -> Account:
        assert port.account is not None
        return self._accounts[port.account]

    def opened(self, port: Port, tunnel: Tunnel) -> None:
        """A function has connected."""
        account = self._account_of(port)
        port.tunnels.add(tunnel)
        account.tunnels += 1
        self._tunnels += 1
        if (
            self._tunnels > self._tunnels_max
            or len(port.tunnels) > 2 * self._bounds.connections_max
            or account.tunnels > 2 * self._bounds.account_connections_max
        ):
            tunnel.abort()  # no room even for words

    def passed(self, sandbox: str, port: Port, tunnel: Tunnel, sent: int, received: int) -> bool:
        """Count what passes; cut all that the sandbox has once its call, or its account, moved too much."""
        counts, account, size = port.counts, self._account_of(port), sent + received
        if not counts.told:  # a connection that an earlier call made
            counts.told = True
            self._say(Active(sandbox))
        count = counts.of(tunnel.target)
        count.sent += sent
        count.received += received
        counts.passed_bytes += size
        minute = int(self._loop.time() // 60)
        if minute != account.minute:
            account.minute, account.minute_bytes = minute, 0
        account.minute_bytes += size
        if counts.passed_bytes > self._bounds.bytes_max:
            told = f"the call has moved {self._bounds.bytes_max} bytes, as many as it may (egress_bytes_max)"
        elif account.minute_bytes > self._bounds.account_bytes_max:
            most = self._bounds.account_bytes_max
            told = f"the account has moved {most} bytes within a minute (egress_account_bytes_max)"
        else:
            return True
        if not counts.over:
            counts.over = counts.passed_bytes > self._bounds.bytes_max
            self._own(self._note(sandbox, f"its connections were cut: {told}"))
        for one in list(port.tunnels):
            one.abort()
        return False

    def closed(self, port: Port, tunnel: Tunnel) -> None:
        """A connection is over."""
        assert port.account is not None
        if tunnel in port.tunnels:
            port.tunnels.discard(tunnel)
            self._tunnels -= 1
            self._accounts[port.account].tunnels -= 1
            self._drop_if_done(port.account)

    def asked(self, sandbox: str, port: Port, tunnel: Tunnel, data: bytes, target: Head | None) -> None:
        """A function has said where it wants to go, or that is known."""
        if not port.counts.told:
            port.counts.told = True
            self._say(Active(sandbox))  # before any answer can come of it
        tunnel.work = self._own(self._connector.serve(sandbox, port, tunnel, data, target))

    def _sweep(self) -> None:
        self._loop.call_later(SWEEP_S, self._sweep)
        now = self._clock()
        for port in list(self._ports.values()):
            for tunnel in list(port.tunnels):
                limit_s = HEAD_S_MAX if tunnel.waits else self._bounds.idle_ms_max / 1000
                if tunnel.work is None and now - tunnel.active_at > limit_s:
                    tunnel.abort()


class _PortHost:
    """Tells the broker whose tunnel it is."""

    def __init__(self, broker: Broker, sandbox: str, port: Port, target: Head | None) -> None:
        self._broker = broker
        self._sandbox = sandbox
        self._port = port
        self._target = target

    def opened(self, tunnel: Tunnel) -> None:
        self._broker.opened(self._port, tunnel)

    def asked(self, tunnel: Tunnel, data: bytes) -> None:
        self._broker.asked(self._sandbox, self._port, tunnel, data, self._target)

    def passed(self, tunnel: Tunnel, sent: int, received: int) -> bool:
        return self._broker.passed(self._sandbox, self._port, tunnel, sent, received)

    def closed(self, tunnel: Tunnel) -> None:
        self._broker.closed(self._port, tunnel)


def run(bounds: Bounds, supervisor: socket.socket, gateway: socket.socket, tls: ssl.SSLContext) -> None:
    """Be the broker until a peer is gone. The caller has given up what a broker must not have.

    `tls` checks servers that secrets are sent to.
    """

    async def serve() -> None:
        await Broker(bounds, supervisor, gateway, tls, asyncio.get_running_loop().time).run()

    try:
        asyncio.run(serve())
    finally:
        os._exit(0)  # threads that look names up are not waited for

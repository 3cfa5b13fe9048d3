"""The broker: every sandbox's port, and every connection that goes out through one.

One event loop in a process of its own, without privilege. Owns the table of sandboxes, the limits and what
is said to the gateway. A sandbox's port takes connections once both are known: its socket, from the
supervisor, and whose it is, from the gateway. Ends when either is gone. Does not know functions.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import resource
import socket
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from stoker.egress.addresses import Address
from stoker.egress.head import END, BadHead, Head, parse_head
from stoker.egress.judge import Judge, Refusal, Unreachable
from stoker.egress.protocol import (
    LINE_CHARS_MAX,
    PACKET_BYTES_MAX,
    Bounds,
    Malformed,
    Message,
    Noted,
    Open,
    Refused,
    Serve,
    Shut,
    decode,
    encode,
)
from stoker.egress.routes import leads_out
from stoker.egress.tunnel import Tunnel
from stoker.model.egress import Rule

BACKLOG = 256
LOOKUP_THREADS = 32
ACCOUNT_LOOKUPS_MAX = 8
"""Look-ups at once of one account: names that take long to fail must not keep those of others waiting."""
HEAD_S_MAX = 10.0
SWEEP_S = 1.0
REFUSALS_AT_ONCE = 32
REFUSAL_REST_S = 0.05
"""What a sandbox that was refused so often waits for each further refusal."""
NOTED_S_MAX = 2.0
OWN_FILES = 256
"""Descriptors that are left for other things than connections."""
_ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


@dataclass(slots=True)
class Account:
    """What all sandboxes of an account share."""

    lookups: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(ACCOUNT_LOOKUPS_MAX))
    tunnels: int = 0
    sandboxes: int = 0


@dataclass(slots=True)
class Port:
    """One sandbox's way out."""

    listener: socket.socket | None = None
    rules: tuple[Rule, ...] = ()
    account: str | None = None
    """None until the gateway has said whose it is."""
    server: asyncio.Server | None = None
    tunnels: set[Tunnel] = field(default_factory=set)
    refusals: int = 0
    refusing: asyncio.Lock = field(default_factory=asyncio.Lock)


class Broker:
    """Serves until one of its two peers is gone."""

    def __init__(
        self, bounds: Bounds, supervisor: socket.socket, gateway: socket.socket, clock: Callable[[], float]
    ) -> None:
        self._bounds = bounds
        self._supervisor = supervisor
        self._gateway = gateway
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._judge = Judge(bounds, leads_out)
        self._threads = ThreadPoolExecutor(LOOKUP_THREADS, thread_name_prefix="look-up")
        self._ports: dict[str, Port] = {}
        self._accounts: dict[str, Account] = {}
        self._tunnels = 0
        self._tunnels_max = max(1, (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - OWN_FILES) // 2)
        self._noted: dict[int, asyncio.Future[None]] = {}
        self._tag = 0
        self._unsent: deque[bytes] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._over = self._loop.create_future()

    async def run(self) -> None:
        """Return once the supervisor or the gateway is gone."""
        for control, take in ((self._supervisor, self._from_supervisor), (self._gateway, self._from_gateway)):
            control.setblocking(False)
            self._loop.add_reader(control.fileno(), self._hear, control, take)
        self._sweep()
        await self._over

    # -- the two peers ---------------------------------------------------------------------------

    def _hear(self, control: socket.socket, take: Callable[[Message, list[int]], None]) -> None:
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
                take(decode(packet), descriptors)
            except Malformed:
                self._end()
                raise

    def _end(self) -> None:
        if not self._over.done():
            self._over.set_result(None)

    def _from_supervisor(self, message: Message, descriptors: list[int]) -> None:
        if isinstance(message, Open) and len(descriptors) == 1:
            port = self._ports.setdefault(message.sandbox, Port())
            port.listener = socket.socket(fileno=descriptors[0])
            self._serve(message.sandbox, port)
        elif isinstance(message, Shut):
            self._shut(message.sandbox)
        else:
            raise Malformed("not a word of the supervisor")

    def _from_gateway(self, message: Message, descriptors: list[int]) -> None:
        if isinstance(message, Serve):
            port = self._ports.setdefault(message.sandbox, Port())
            if port.account is None:
                port.rules, port.account = message.parsed(), message.account
                self._accounts.setdefault(message.account, Account()).sandboxes += 1
                self._serve(message.sandbox, port)
        elif isinstance(message, Shut):
            # Of one whose socket never came: the supervisor has not heard of it, or has forgotten it.
            if (port_left := self._ports.get(message.sandbox)) is not None and port_left.listener is None:
                self._shut(message.sandbox)
        elif isinstance(message, Noted):
            if (noted := self._noted.pop(message.tag, None)) is not None and not noted.done():
                noted.set_result(None)
        else:
            raise Malformed("not a word of the gateway")

    def _say(self, message: Message) -> None:
        self._unsent.append(encode(message))
        if len(self._unsent) == 1:
            self._flush()

    def _flush(self) -> None:
        while self._unsent:
            try:
                self._gateway.send(self._unsent[0])
            except BlockingIOError:
                self._loop.add_writer(self._gateway.fileno(), self._flush)
                return
            except OSError:
                self._end()
                return
            self._unsent.popleft()
        self._loop.remove_writer(self._gateway.fileno())

    # -- sandboxes -------------------------------------------------------------------------------

    def _serve(self, sandbox: str, port: Port) -> None:
        if port.listener is None or port.account is None or port.server is not None:
            return
        listener, host = port.listener, _PortHost(self, sandbox, port)

        async def serve() -> None:
            if self._ports.get(sandbox) is not port:
                return  # it has ended meanwhile
            port.server = await self._loop.create_server(
                lambda: Tunnel(host, self._clock).inner, sock=listener, backlog=BACKLOG
            )
            if self._ports.get(sandbox) is not port:
                port.server.close()

        self._own(serve())

    def _shut(self, sandbox: str) -> None:
        port = self._ports.pop(sandbox, None)
        if port is None:
            return
        if port.server is not None:
            port.server.close()
        if port.listener is not None:
            port.listener.close()
        for tunnel in list(port.tunnels):
            tunnel.abort()
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

    def opened(self, port: Port, tunnel: Tunnel) -> None:
        """A function has connected."""
        assert port.account is not None
        account = self._accounts[port.account]
        port.tunnels.add(tunnel)
        account.tunnels += 1
        self._tunnels += 1
        if (
            self._tunnels > self._tunnels_max
            or len(port.tunnels) > 2 * self._bounds.connections_max
            or account.tunnels > 2 * self._bounds.account_connections_max
        ):
            tunnel.abort()  # no room even for words

    def closed(self, port: Port, tunnel: Tunnel) -> None:
        """A connection is over."""
        assert port.account is not None
        if tunnel in port.tunnels:
            port.tunnels.discard(tunnel)
            self._tunnels -= 1
            self._accounts[port.account].tunnels -= 1
            self._drop_if_done(port.account)

    def asked(self, sandbox: str, port: Port, tunnel: Tunnel, data: bytes) -> None:
        """A function has said where it wants to go."""
        tunnel.work = self._own(self._connect(sandbox, port, tunnel, data))

    async def _connect(self, sandbox: str, port: Port, tunnel: Tunnel, data: bytes) -> None:
        whole, end, rest = data.partition(END)
        try:
            if not end:
                raise BadHead("the head of the request is too long")
            head = parse_head(whole + end)
        except BadHead as error:
            await self._refuse(
                sandbox, port, tunnel, f"refused a request to the proxy: {error}", "400 Bad Request"
            )
            return
        try:
            self._check_counts(port)
            async with asyncio.timeout(self._bounds.connect_ms_max / 1000):
                account = self._accounts[str(port.account)]
                addresses = await self._judge.addresses(head, port.rules, partial(self._look_up, account))
                await self._reach(tunnel, head, addresses)
        except Refusal as refusal:
            line = f"refused to connect to {head.authority}: {refusal}"
            await self._refuse(sandbox, port, tunnel, line, "403 Forbidden")
        except Unreachable as error:
            line = f"cannot connect to {head.authority}: {error}"
            await self._refuse(sandbox, port, tunnel, line, "502 Bad Gateway")
        except TimeoutError:
            line = f"cannot connect to {head.authority}: not in {self._bounds.connect_ms_max} ms"
            await self._refuse(sandbox, port, tunnel, line, "504 Gateway Timeout")
        except Exception:
            tunnel.abort()
            raise
        else:
            tunnel.work = None
            if head.forward is None:
                tunnel.join(self._bounds.bytes_max, inner=_ESTABLISHED, outer=rest)
            else:
                tunnel.join(self._bounds.bytes_max, inner=b"", outer=head.forward + rest)

    def _check_counts(self, port: Port) -> None:
        assert port.account is not None
        if len(port.tunnels) > self._bounds.connections_max:
            raise Refusal(f"the instance has {self._bounds.connections_max} connections already")
        if self._accounts[port.account].tunnels > self._bounds.account_connections_max:
            raise Refusal(f"the account has {self._bounds.account_connections_max} connections already")

    async def _reach(self, tunnel: Tunnel, head: Head, addresses: Sequence[Address]) -> None:
        problem: OSError | None = None
        for address in addresses:
            try:
                await self._loop.create_connection(lambda: tunnel.outer, str(address), head.port)
            except OSError as error:
                problem = error
            else:
                return
        raise Unreachable((problem.strerror if problem else None) or "nobody answers")

    async def _look_up(self, account: Account, host: str, port: int) -> Sequence[Address]:
        # The final dot: no search list of this machine makes another name of it. Bytes: what a text would be
        # encoded by is a module that may not be there to be read any more.
        name = f"{host}.".encode("ascii")

        def ask() -> list[Address]:
            found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
            return [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]

        await account.lookups.acquire()
        asked = self._threads.submit(ask)
        # When the thread is free again, not when its answer is no longer waited for.
        asked.add_done_callback(lambda _: self._loop.call_soon_threadsafe(account.lookups.release))
        try:
            return await asyncio.wrap_future(asked)
        except OSError as error:
            raise Unreachable(error.strerror or "the name cannot be looked up") from error

    async def _refuse(self, sandbox: str, port: Port, tunnel: Tunnel, line: str, status: str) -> None:
        """Have the log say it first: by the time the function hears of it, its call may be over."""
        port.refusals += 1
        async with port.refusing:
            if port.refusals > REFUSALS_AT_ONCE:
                await asyncio.sleep(REFUSAL_REST_S)
            self._tag += 1
            tag, noted = self._tag, self._loop.create_future()
            self._noted[tag] = noted
            self._say(Refused(tag, sandbox, line[:LINE_CHARS_MAX]))
            try:
                async with asyncio.timeout(NOTED_S_MAX):
                    await noted
            except TimeoutError:
                pass  # the gateway is slow; the function is not to wait for its log
            finally:
                self._noted.pop(tag, None)
        tunnel.answer(status, f"stoker: {line}")

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

    def __init__(self, broker: Broker, sandbox: str, port: Port) -> None:
        self._broker = broker
        self._sandbox = sandbox
        self._port = port

    def opened(self, tunnel: Tunnel) -> None:
        self._broker.opened(self._port, tunnel)

    def asked(self, tunnel: Tunnel, data: bytes) -> None:
        self._broker.asked(self._sandbox, self._port, tunnel, data)

    def closed(self, tunnel: Tunnel) -> None:
        self._broker.closed(self._port, tunnel)


def run(bounds: Bounds, supervisor: socket.socket, gateway: socket.socket) -> None:
    """Be the broker until a peer is gone. The caller has given up what a broker must not have."""

    async def serve() -> None:
        await Broker(bounds, supervisor, gateway, asyncio.get_running_loop().time).run()

    try:
        asyncio.run(serve())
    finally:
        os._exit(0)  # threads that look names up are not waited for

"""The connector: from what a function asks for to a connection that stands, or to words why not.

Owns the look-ups, their threads, and the limits of connections at once. Does not know which sandboxes there
are, nor what passes once a connection stands.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from stoker.egress.addresses import Address
from stoker.egress.head import END, BadHead, Head, Line, injected_head, parse_head
from stoker.egress.judge import Judge, Refusal, Unreachable
from stoker.egress.ports import Account, Port
from stoker.egress.protocol import Bounds, Headers
from stoker.egress.routes import leads_out
from stoker.egress.tunnel import ESTABLISHED, Tunnel
from stoker.model.egress import INTERNAL, Rule, rule_for

LOOKUP_THREADS = 32
REFUSALS_AT_ONCE = 32
REFUSAL_REST_S = 0.05
"""What a sandbox that was refused so often waits for each further refusal."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """What is said to the gateway, and asked of it, each for a sandbox."""

    note: Callable[[str, str], Awaitable[None]]
    """Returns once it has a line for the log of the call that runs."""
    hand_in: Callable[[str, socket.socket], None]
    """Gives it a connection to itself."""
    headers: Callable[[str, str, int], Awaitable[Headers | None]]
    """What goes into a request to a host and port; None if it does not say."""
    injected: Callable[[str, str, str], None]
    """A secret, by its name, has gone out to a host."""


class Connector:
    """Connects for all sandboxes of a broker."""

    def __init__(
        self,
        bounds: Bounds,
        account_of: Callable[[Port], Account],
        gateway: Gateway,
        tls: ssl.SSLContext,
    ) -> None:
        self._bounds = bounds
        self._account_of = account_of
        self._gateway = gateway
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._judge = Judge(bounds, leads_out)
        self._threads = ThreadPoolExecutor(LOOKUP_THREADS, thread_name_prefix="look-up")

    async def serve(self, sandbox: str, port: Port, tunnel: Tunnel, data: bytes, target: Head | None) -> None:
        """Connect a tunnel to its target, or else to where its first bytes want to go.

        These are all up to the end of a head, and what came with it, or too many.
        """
        head, rest, established = target, data, b""
        if head is None:
            whole, end, rest = data.partition(END)
            try:
                if not end:
                    raise BadHead("the head of the request is too long")
                head = parse_head(whole + end)
            except BadHead as error:
                line = f"refused a request to the proxy: {error}"
                await self._refuse(sandbox, port, tunnel, line, "400 Bad Request")
                return
            established = ESTABLISHED if head.forward is None else b""
        tunnel.target = head.authority
        try:
            self._check_counts(port)
            found = await self._headers(sandbox, port, head) if target is None else None
            if found is None:
                await self._connect(sandbox, port, tunnel, head)
                first = (head.forward or b"") + rest
            else:
                first = await self._connect_with(found, sandbox, port, tunnel, head, rest)
                established = b""
        except Refusal as refusal:
            line = f"refused to connect to {head.authority}: {refusal}"
            await self._refuse(sandbox, port, tunnel, line, "403 Forbidden")
        except BadHead as error:
            line = f"refused a request to {head.authority}: {error}"
            await self._refuse(sandbox, port, tunnel, line, "400 Bad Request")
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
            port.counts.of(tunnel.target).connections += 1
            tunnel.join(inner=established, outer=first)

    async def _connect(self, sandbox: str, port: Port, tunnel: Tunnel, head: Head) -> None:
        async with self._in_time():
            if head.host == INTERNAL.host:
                await self._reach_gateway(sandbox, port, tunnel, head)
            else:
                await self._reach(tunnel, head, await self._addresses(port, head, port.rules))

    def _in_time(self) -> asyncio.Timeout:
        return asyncio.timeout(self._bounds.connect_ms_max / 1000)

    async def _addresses(self, port: Port, head: Head, rules: Sequence[Rule]) -> Sequence[Address]:
        return await self._judge.addresses(head, rules, partial(self._look_up, self._account_of(port)))

    # -- secrets ---------------------------------------------------------------------------------

    async def _headers(self, sandbox: str, port: Port, head: Head) -> Headers | None:
        """Return what goes into requests to where a head leads; None if nothing does."""
        if not port.injects or head.host == INTERNAL.host:
            return None
        found = await self._gateway.headers(sandbox, head.host, head.port)
        if found is None or found.problem:
            raise Unreachable(found.problem if found else "what goes into its requests is not to be had")
        return found if found.port else None

    async def _connect_with(
        self, found: Headers, sandbox: str, port: Port, tunnel: Tunnel, head: Head, rest: bytes
    ) -> bytes:
        """Connect by TLS and return what is sent first: a request with secrets in it.

        A client that asked for a tunnel is told that it stands, to see what it wants to send: TLS of its own
        goes out as it is.
        """
        to = Head(head.host, found.port, None)
        asked = rule_for(port.rules, head.host, head.port) is not None  # by `http://`, which goes by https
        rules = (*port.rules, Rule(to.host, to.port)) if asked else port.rules
        async with self._in_time():
            addresses = await self._addresses(port, to, rules)
        data = (head.forward or b"") + rest
        if head.forward is None:
            async with asyncio.timeout(self._bounds.idle_ms_max / 1000):
                data = await tunnel.next_head(rest)
            if not data[:1].isalpha():
                await self._connect(sandbox, port, tunnel, head)
                return data
        whole, end, body = data.partition(END)
        if not end:
            raise BadHead("the head of the request is too long")
        lines = [Line(*one) for one in found.lines]
        changed, sent = injected_head(whole + end, to.host, to.port, lines)
        async with self._in_time():
            await self._reach(tunnel, to, addresses, self._tls)
        for line in sent:
            self._gateway.injected(sandbox, line.secret, to.authority)
        return changed + body

    # -- connections -----------------------------------------------------------------------------

    def _check_counts(self, port: Port) -> None:
        if len(port.tunnels) > self._bounds.connections_max:
            raise Refusal(f"the instance has {self._bounds.connections_max} connections already")
        if self._account_of(port).tunnels > self._bounds.account_connections_max:
            raise Refusal(f"the account has {self._bounds.account_connections_max} connections already")
        if port.counts.over:
            raise Refusal(f"the call has moved {self._bounds.bytes_max} bytes, as many as it may")
        if self._account_of(port).minute_bytes > self._bounds.account_bytes_max:
            raise Refusal(f"the account has moved {self._bounds.account_bytes_max} bytes within a minute")

    async def _reach_gateway(self, sandbox: str, port: Port, tunnel: Tunnel, head: Head) -> None:
        """Connect to stoker's own API: whose connection it is, is known by whose packet it came with."""
        if head.port != INTERNAL.port or INTERNAL not in port.rules:
            raise Refusal(f'it has to be listed; add "{INTERNAL}" to network.tunnels')
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            self._gateway.hand_in(sandbox, theirs)
        ours.setblocking(False)
        await self._loop.create_connection(lambda: tunnel.outer, sock=ours)

    async def _reach(
        self, tunnel: Tunnel, head: Head, addresses: Sequence[Address], tls: ssl.SSLContext | None = None
    ) -> None:
        problem: OSError | None = None
        name = None if tls is None else head.host
        for address in addresses:
            try:
                await self._loop.create_connection(
                    lambda: tunnel.outer, str(address), head.port, ssl=tls, server_hostname=name
                )
            except ssl.SSLCertVerificationError as error:
                raise Unreachable(f"its certificate is not to be trusted: {error.verify_message}") from error
            except ssl.SSLError as error:
                raise Unreachable(f"it does not speak https: {error.reason}") from error
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
        port.counts.of(tunnel.target or "proxy").refused += 1
        port.refusals += 1
        async with port.refusing:
            if port.refusals > REFUSALS_AT_ONCE:
                await asyncio.sleep(REFUSAL_REST_S)
            await self._gateway.note(sandbox, line)
        tunnel.answer(status, f"stoker: {line}")

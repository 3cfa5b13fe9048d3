"""The connector: from what a function asks for to a connection that stands, or to words why not.

Owns the look-ups, their threads, and the limits of connections at once. Does not know which sandboxes there
are, nor what passes once a connection stands.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from stoker.egress.addresses import Address
from stoker.egress.head import END, BadHead, Head, parse_head
from stoker.egress.judge import Judge, Refusal, Unreachable
from stoker.egress.ports import Account, Port
from stoker.egress.protocol import Bounds
from stoker.egress.routes import leads_out
from stoker.egress.tunnel import Tunnel
from stoker.model.egress import INTERNAL

LOOKUP_THREADS = 32
REFUSALS_AT_ONCE = 32
REFUSAL_REST_S = 0.05
"""What a sandbox that was refused so often waits for each further refusal."""
_ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


class Connector:
    """Connects for all sandboxes of a broker.

    `note(sandbox, line)` returns once the gateway has a line for the log of the call that runs;
    `hand_in(sandbox, socket)` gives the gateway a connection to itself.
    """

    def __init__(
        self,
        bounds: Bounds,
        account_of: Callable[[Port], Account],
        note: Callable[[str, str], Awaitable[None]],
        hand_in: Callable[[str, socket.socket], None],
    ) -> None:
        self._bounds = bounds
        self._account_of = account_of
        self._note = note
        self._hand_in = hand_in
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
            established = _ESTABLISHED if head.forward is None else b""
        try:
            self._check_counts(port)
            async with asyncio.timeout(self._bounds.connect_ms_max / 1000):
                if head.host == INTERNAL.host:
                    await self._reach_gateway(sandbox, port, tunnel, head)
                else:
                    lookup = partial(self._look_up, self._account_of(port))
                    await self._reach(tunnel, head, await self._judge.addresses(head, port.rules, lookup))
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
            tunnel.join(self._bounds.bytes_max, inner=established, outer=(head.forward or b"") + rest)

    def _check_counts(self, port: Port) -> None:
        if len(port.tunnels) > self._bounds.connections_max:
            raise Refusal(f"the instance has {self._bounds.connections_max} connections already")
        if self._account_of(port).tunnels > self._bounds.account_connections_max:
            raise Refusal(f"the account has {self._bounds.account_connections_max} connections already")

    async def _reach_gateway(self, sandbox: str, port: Port, tunnel: Tunnel, head: Head) -> None:
        """Connect to stoker's own API: whose connection it is, is known by whose packet it came with."""
        if head.port != INTERNAL.port or INTERNAL not in port.rules:
            raise Refusal(f'it has to be listed; add "{INTERNAL}" to network.tunnels')
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            self._hand_in(sandbox, theirs)
        ours.setblocking(False)
        await self._loop.create_connection(lambda: tunnel.outer, sock=ours)

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
            await self._note(sandbox, line)
        tunnel.answer(status, f"stoker: {line}")

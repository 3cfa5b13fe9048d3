"""The gateway's end of the egress broker: whose each sandbox is, and what was refused to it.

Owns what a broker has to know, and tells all of it again to each new one. What comes from the broker is
checked: it reads what functions send. Does not know functions or logs.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Sequence

from stoker.egress.protocol import (
    FROM_BROKER,
    LINE_CHARS_MAX,
    Active,
    Headers,
    Injected,
    Inward,
    Noted,
    Refused,
    Serve,
    Shut,
    Tallied,
    Tally,
    Want,
)
from stoker.model import injection as model
from stoker.model.errors import StokerError
from stoker.model.network import UNKNOWN, NetworkUse
from stoker.model.packet import PACKET_BYTES_MAX, Malformed, decode, encode
from stoker.sandbox.engine import WayOut

HEADERS_CHARS_MAX = 64 * 1024
"""More goes into no packet, and servers take less."""
TALLY_S_MAX = 0.05
"""What the end of a call may wait for its counts; the broker is one loop away."""


class EgressLink:
    """To one broker after the other."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._socket: socket.socket | None = None
        self._served: dict[str, tuple[bytes, WayOut]] = {}
        self._unsent: deque[bytes] = deque()
        self._tag = 0
        self._tallies: dict[int, tuple[Callable[[tuple[NetworkUse, ...]], None], asyncio.TimerHandle]] = {}
        self._answering: set[asyncio.Task[None]] = set()

    def attach(self, handle: int) -> None:
        """Speak to a new broker from now on; takes the descriptor."""
        self.close()
        self._socket = socket.socket(fileno=handle)
        self._socket.setblocking(False)
        self._loop.add_reader(self._socket.fileno(), self._hear)
        for packet, _ in self._served.values():
            self._send(packet)

    def serve(self, sandbox: str, way_out: WayOut) -> None:
        """Let a sandbox reach what its way out says."""
        packet = encode(Serve(sandbox, way_out.account, way_out.rules, way_out.injects))
        self._served[sandbox] = (packet, way_out)
        self._send(packet)

    def tally(self, sandbox: str, taken: Callable[[tuple[NetworkUse, ...]], None]) -> None:
        """Have what a sandbox has used counted, and `taken` told; soon, and once."""
        self._tag += 1
        tag = self._tag
        timer = self._loop.call_later(TALLY_S_MAX, self._taken, tag, (NetworkUse(UNKNOWN),))
        self._tallies[tag] = (taken, timer)
        self._send(encode(Tally(tag, sandbox)))

    def _taken(self, tag: int, used: tuple[NetworkUse, ...]) -> None:
        taken, timer = self._tallies.pop(tag, (None, None))
        if taken is not None and timer is not None:
            timer.cancel()
            taken(used)

    def forget(self, sandbox: str) -> None:
        """It has ended."""
        if self._served.pop(sandbox, None) is not None:
            self._send(encode(Shut(sandbox)))

    def close(self) -> None:
        """Speak to nobody, until a new broker comes."""
        if self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._loop.remove_writer(self._socket.fileno())
            self._socket.close()
        self._socket = None
        self._unsent.clear()

    def _send(self, packet: bytes) -> None:
        if self._socket is not None:
            self._unsent.append(packet)
            if len(self._unsent) == 1:
                self._flush()

    def _flush(self) -> None:
        while self._unsent and self._socket is not None:
            try:
                self._socket.send(self._unsent[0])
            except BlockingIOError:
                self._loop.add_writer(self._socket.fileno(), self._flush)
                return
            except OSError:
                self.close()  # the supervisor starts another
                return
            self._unsent.popleft()
        if self._socket is not None:
            self._loop.remove_writer(self._socket.fileno())

    def _hear(self) -> None:
        while self._socket is not None:
            try:
                packet, handles, _, _ = socket.recv_fds(
                    self._socket, PACKET_BYTES_MAX, 1, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return
            except OSError:
                packet, handles = b"", []
            handed = [socket.socket(fileno=handle) for handle in handles]
            if not packet:
                self.close()
                return
            try:
                self._take(decode(packet, FROM_BROKER), handed)
            except Malformed:
                self.close()  # and so it ends
                return
            finally:
                for left in handed:
                    left.close()

    async def _answer(self, want: Want, way_out: WayOut | None, asked_by: socket.socket | None) -> None:
        """Say what goes into a request; in doubt that it cannot be had, never that nothing does."""
        found: Sequence[model.Injected] = ()
        problem = "" if way_out is not None else "the instance has ended"
        if way_out is not None:
            try:
                found = await way_out.headers(want.host, want.port)
            except StokerError as error:
                problem = error.message[:LINE_CHARS_MAX]
        port = found[0].port if found else 0
        lines = tuple(
            (one.name, one.header, one.value.reveal(), one.placeholder) for one in found if one.port == port
        )
        if sum(len(part) for line in lines for part in line) > HEADERS_CHARS_MAX:
            port, lines, problem = 0, (), "the secrets for this host are more than a request can hold"
        if self._socket is asked_by:  # another broker may ask something else by the same tag
            self._send(encode(Headers(want.tag, port, lines, problem)))

    def _take(
        self, said: Refused | Inward | Want | Injected | Active | Tallied, handed: list[socket.socket]
    ) -> None:
        if isinstance(said, Tallied):
            self._taken(said.tag, tuple(NetworkUse(*row) for row in said.rows))
            return
        served = self._served.get(said.sandbox)
        if isinstance(said, Active):
            if served is not None:
                served[1].active()
            return
        if isinstance(said, Want):
            way_out = None if served is None else served[1]
            task = self._loop.create_task(self._answer(said, way_out, self._socket), name="headers")
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
            return
        if isinstance(said, Injected):
            if served is not None:
                served[1].injected(said.secret, said.host)
            return
        if isinstance(said, Inward):
            if len(handed) != 1:
                raise Malformed("a connection without its socket")
            if served is not None:
                served[1].inward(handed.pop())
            return
        self._send(encode(Noted(said.tag)))
        if served is not None:
            served[1].refused(said.line)

"""A sandbox and its engine in memory: a scripted program at the other end of a real wire and a real pipe.

Speaks `runtimes.wire` as a shim would. What the engine promises (`sandbox.engine`) it keeps: a killed
sandbox is gone a turn of the loop later, its descriptors belong to who took it, `ended` may be awaited by
many. Knows no process and no isolation.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from stoker.model.errors import PlatformError
from stoker.model.launch import Code, Exit, InstanceLimits, LaunchPlan
from stoker.model.network import NetworkUse
from stoker.runtimes import wire
from stoker.sandbox.engine import Sandbox, SandboxGone, WayOut

KILLED = Exit(signal=9, killed_from_outside=True)


@dataclass(frozen=True, slots=True)
class Received:
    """A call that a program was given."""

    call_id: bytes
    timeout_ms: int
    payload: bytes


Script = Callable[["FakeSandbox", Received], None]
"""What a program does with a call, at once or later."""


def echo(sandbox: FakeSandbox, call: Received) -> None:
    """Answer with the payload."""
    sandbox.answer(call, call.payload)


def hold(sandbox: FakeSandbox, call: Received) -> None:
    """Do not answer; the test will."""


class FakeSandbox:
    """`Sandbox` with a program that does what `script` says."""

    code_root = "/code"
    environment: Mapping[str, str] = MappingProxyType({})

    def __init__(self, number: int, plan: LaunchPlan, script: Script, *, urgent: bool) -> None:
        self.id = f"{number:012x}"
        self.pid: int | None = 1000 + number
        self.plan = plan
        self.reaches: tuple[str, tuple[str, ...]] | None = None
        """Account and rules."""
        self.refused: Callable[[str], None] = lambda line: None
        self.used: tuple[NetworkUse, ...] = ()
        self.active: Callable[[], None] = lambda: None
        self.inward: Callable[[socket.socket], None] = socket.socket.close
        self.script = script
        self.urgent = urgent
        """Whether it boots at full weight, from the start or since it was hurried."""
        self.loads: list[dict[str, Any]] = []
        self.calls: list[Received] = []
        self.assigned: tuple[Code | None, InstanceLimits] | None = None
        self.usage_said = Exit()
        self.memory_said = 0
        """The peak of its memory, in bytes."""
        self.weighed = 0
        """How often that was looked at."""
        self.assign_fails_with: Exception | None = None
        self.dies_once_assigned = False
        self.kills_held = False
        """True: a kill takes no effect until the test ends it."""
        self.asked: asyncio.Future[None] | None = None
        """Set it to hold `usage` back until it is done."""
        self.kills = 0
        self.ahead: deque[Received] = deque()
        """Calls that wait for their turn inside."""
        self.deaf_to_revoke = False
        """Set it for a program that is too busy to hear that a call is asked back."""
        self.revokes: list[bytes] = []
        self._turn: bytes | None = None
        self._loop = asyncio.get_running_loop()
        self._exit: asyncio.Future[Exit] = self._loop.create_future()
        self._reader = wire.FrameReader(frame_bytes_max=64 * 1024 * 1024)
        self.wire, self._inside = socket.socketpair()
        self.output, self._printing = os.pipe()
        self.wire.setblocking(False)
        self._inside.setblocking(False)
        os.set_blocking(self.output, False)
        os.set_blocking(self._printing, False)
        self._loop.add_reader(self._inside, self._hear)

    # -- what the worker asks --------------------------------------------------------------------

    def reach(self, way_out: WayOut) -> None:
        """Note whose it is and what it may reach; the test calls `refused` and `inward`."""
        assert self.reaches is None, "a sandbox is given to a function once"
        self.reaches = (way_out.account, way_out.rules)
        self.refused, self.inward, self.active = way_out.refused, way_out.inward, way_out.active

    def tally(self, taken: Callable[[tuple[NetworkUse, ...]], None]) -> None:
        """Tell what the test has put into `used`, at once."""
        used, self.used = self.used, ()
        taken(used)

    async def assign(self, code: Code | None, limits: InstanceLimits, tunnels: tuple[str, ...] = ()) -> None:
        """Note code and limits."""
        await asyncio.sleep(0)
        if self._exit.done():
            raise SandboxGone("The sandbox ended before it was given to the function.")
        if self.assign_fails_with is not None:
            self.kill()
            raise self.assign_fails_with
        assert self.assigned is None, "a sandbox is given to a function once"
        self.assigned = (code, limits)
        if self.dies_once_assigned:
            self.end(KILLED)
            for _ in range(3):  # until whoever holds the wire has seen it close
                await asyncio.sleep(0)

    def kill(self) -> None:
        """End a turn later, as the kernel would."""
        self.kills += 1
        if not self.kills_held:
            self._loop.call_soon(self.end, KILLED)

    async def ended(self) -> Exit:
        """Return how it ended."""
        return await asyncio.shield(self._exit)

    async def usage(self) -> Exit:
        """Return `usage_said`, or how it ended."""
        if self.asked is not None:
            await self.asked
        return self._exit.result() if self._exit.done() else self.usage_said

    def memory_peak(self) -> int:
        """Return `memory_said`, or the peak that it ended with."""
        self.weighed += 1
        return self._exit.result().memory_peak_bytes if self._exit.done() else self.memory_said

    async def stats(self) -> dict[str, Any] | None:
        """Return figures that are this sandbox's own; None once it has ended."""
        await asyncio.sleep(0)
        return {"pids": {"current": int(self.id, 16), "limit": 64}} if self.alive else None

    # -- what the program does -------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return not self._exit.done()

    def hello(self) -> None:
        """Say that it has booted."""
        self.send(wire.HELLO, wire.ZERO_ID, b'{"runtime":"fake","version":"1"}')

    def answer(self, call: Received, result: bytes) -> None:
        """Answer a call."""
        self.send(wire.RESULT, call.call_id, result)
        self._next(call.call_id)

    def fail(self, call: Received, code: str, error: str) -> None:
        """Answer a call with a failure."""
        body = {"code": code, "error": error, "error_type": "Error", "stack": "at handler"}
        self.send(wire.ERROR, call.call_id, json.dumps(body).encode())
        self._next(call.call_id)

    def log(self, call: Received, text: bytes) -> None:
        """Print for one call among several."""
        self.send(wire.LOG, call.call_id, text)

    def print(self, text: bytes) -> None:
        """Print as much as the pipe takes."""
        with suppress(BlockingIOError):
            os.write(self._printing, text)

    def send(self, kind: int, call_id: bytes, body: bytes) -> None:
        """Send any frame."""
        self.send_bytes(wire.encode_frame(kind, call_id, body))

    def send_bytes(self, data: bytes) -> None:
        """Send anything at all."""
        if self.alive:
            self._inside.sendall(data)

    def hang_up(self) -> None:
        """Close the wire and go on."""
        self._loop.remove_reader(self._inside)
        self._inside.close()

    def end(self, how: Exit) -> None:
        """End by itself, or by whatever `how` says; the first end counts."""
        if self._exit.done():
            return
        if self._inside.fileno() >= 0:
            self.hang_up()
        os.close(self._printing)
        self._exit.set_result(how)

    def close_descriptors(self) -> None:
        """Close what no caller has taken."""
        self.wire.close()
        os.close(self.output)

    def _hear(self) -> None:
        try:
            data = self._inside.recv(1 << 20)
        except ConnectionResetError:
            data = b""
        if not data:
            self._loop.remove_reader(self._inside)
            return
        for kind, call_id, body in self._reader.feed(data):
            if kind == wire.LOAD:
                self.loads.append(json.loads(body))
            elif kind == wire.INVOKE:
                self._begin(Received(call_id, int.from_bytes(body[:4], "big"), body[4:]))
            elif kind == wire.AHEAD:
                self.ahead.append(Received(call_id, int.from_bytes(body[:4], "big"), body[4:]))
                self._next(None)
            elif kind == wire.REVOKE:
                self.revokes.append(call_id)
                if self.deaf_to_revoke:
                    continue
                for call in [one for one in self.ahead if one.call_id == call_id]:
                    self.ahead.remove(call)
                    self.send(wire.REVOKED, call_id, b"")

    def _begin(self, call: Received) -> None:
        self._turn = call.call_id
        self.calls.append(call)
        self.script(self, call)

    def _next(self, ended: bytes | None) -> None:
        """Begin the next call inside, as a shim does, once the one whose turn it was has been answered."""
        if ended == self._turn:
            self._turn = None
        if self._turn is None and self.ahead and self.alive:
            call = self.ahead.popleft()
            self.print(call.call_id)
            self._begin(call)


class FakeEngine:
    """`Engine` whose sandboxes are all in `sandboxes`, the first boot first."""

    name = "fake"

    def __init__(self, script: Script = echo) -> None:
        self.script = script
        self.sandboxes: list[FakeSandbox] = []
        self.boots_failing = 0
        """So many of the next boots fail."""
        self.held: asyncio.Event | None = None
        """Set it to an event that boots wait for before they say hello."""
        self.assigns_fail_with: Exception | None = None
        """What `assign` of sandboxes booted from now on raises."""
        self.starting_held: asyncio.Event | None = None
        """Set it to an event that boots wait for before there is a sandbox."""
        self._hellos: set[asyncio.Task[None]] = set()
        self._ended = asyncio.Event()

    @property
    def living(self) -> list[FakeSandbox]:
        """The sandboxes that have not ended."""
        return [sandbox for sandbox in self.sandboxes if sandbox.alive]

    async def boot(self, plan: LaunchPlan, *, urgent: bool) -> Sandbox:
        """Start a program that says hello soon, unless it is held."""
        await asyncio.sleep(0)
        if self.starting_held is not None:
            await self.starting_held.wait()
        if self.boots_failing:
            self.boots_failing -= 1
            raise PlatformError("A sandbox could not be started.")
        sandbox = FakeSandbox(len(self.sandboxes) + 1, plan, self.script, urgent=urgent)
        sandbox.assign_fails_with = self.assigns_fail_with
        self.sandboxes.append(sandbox)
        hello = asyncio.create_task(self._hello(sandbox), name=f"hello of {sandbox.id}")
        self._hellos.add(hello)
        hello.add_done_callback(self._hellos.discard)
        return sandbox

    async def hurry(self, sandbox: Sandbox) -> None:
        """Note that somebody waits for it."""
        assert isinstance(sandbox, FakeSandbox)
        sandbox.urgent = True

    async def close(self) -> None:
        """End every sandbox."""
        self._ended.set()
        for sandbox in self.sandboxes:
            sandbox.kill()
        for hello in list(self._hellos):
            hello.cancel()
        await asyncio.gather(*self._hellos, return_exceptions=True)
        await asyncio.gather(*(sandbox.ended() for sandbox in self.sandboxes))

    async def ended(self) -> None:
        """Wait until it is closed."""
        await self._ended.wait()

    async def _hello(self, sandbox: FakeSandbox) -> None:
        if self.held is not None:
            await self.held.wait()
        sandbox.hello()

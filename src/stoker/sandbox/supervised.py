"""The engine of OCI sandboxes, as the gateway sees it: requests to the supervisor and what comes back.

Owns the control socket's end in the gateway, the futures that wait on it and the descriptors of new
sandboxes until their caller has them. Needs no privilege but to start: `start_supervisor` is called while
the gateway is still root, all else after. Does not know mounts or cgroups.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, cast

from stoker.model.errors import PlatformError
from stoker.model.launch import Code, Exit, InstanceLimits, LaunchPlan
from stoker.model.network import NetworkUse
from stoker.model.packet import PACKET_BYTES_MAX, Malformed, encode
from stoker.sandbox import bundle, egress_port, kernel
from stoker.sandbox.egress_link import EgressLink
from stoker.sandbox.engine import IsolationUnavailable, Notice, Sandbox, SandboxGone, Site, WayOut
from stoker.sandbox.protocol import (
    Assign,
    Boot,
    Booted,
    Brokered,
    Count,
    Counted,
    Ended,
    Failed,
    Hurry,
    Kill,
    Note,
    Ready,
    Refused,
    Report,
    Request,
    Setup,
    Usage,
    Used,
    report,
    request,
)

START_S_MAX = 15.0
CLOSE_S_MAX = 5.0
_DESCRIPTORS = 4
_DESCRIPTORS_LEAST = 3
"""Without a pidfd, of one that ended before it was told of."""


class SupervisedSandbox:
    """`Sandbox` of an OCI runtime."""

    code_root = bundle.CODE
    environment: Mapping[str, str] = egress_port.ENVIRONMENT

    def __init__(
        self,
        engine: SupervisedEngine,
        name: str,
        pid: int | None,
        wire: socket.socket,
        output: int,
        memory: int,
    ) -> None:
        self.id = name
        self.pid = pid
        self.wire = wire
        self.output = output
        self._engine = engine
        self._memory = memory
        self._memory_peak_bytes = 0
        self._exit: asyncio.Future[Exit] = engine.loop.create_future()

    async def assign(self, code: Code | None, limits: InstanceLimits, tunnels: tuple[str, ...] = ()) -> None:
        """Mount the code and write the limits; about a millisecond, longer for a writable copy."""
        if code is not None and code.path.parent != self._engine.site.code_root:
            raise PlatformError("Code lies directly in the site's folder of code.")
        wanted = Assign(
            self._engine.tag(),
            self.id,
            None if code is None else code.path.name,
            code is not None and code.writable,
            limits.memory_bytes,
            limits.cpu_millis,
            limits.processes,
            tunnels,
        )
        try:
            request(encode(wanted))
            await self._engine.ask(wanted)
        except Malformed as error:
            # Sent as it is, it would end the connection and with it every sandbox.
            raise PlatformError("Code or limits are out of bounds.") from error
        except _Refusal as refusal:
            if self._exit.done():
                raise SandboxGone("The sandbox ended before it was given to the function.") from refusal
            raise PlatformError("The sandbox could not be given to the function.") from refusal

    def reach(self, way_out: WayOut) -> None:
        """Tell the egress broker."""
        if not self._exit.done():
            self._engine.egress.serve(self.id, way_out)

    def tally(self, taken: Callable[[tuple[NetworkUse, ...]], None]) -> None:
        """Ask the egress broker."""
        self._engine.egress.tally(self.id, taken)

    def kill(self) -> None:
        """Ask the supervisor to kill it."""
        if not self._exit.done():
            self._engine.tell(Kill(self.id))

    async def ended(self) -> Exit:
        """Wait for the supervisor's word."""
        return await asyncio.shield(self._exit)

    async def usage(self) -> Exit:
        """Ask the supervisor."""
        try:
            used = await self._engine.ask(Usage(self._engine.tag(), self.id))
        except _Refusal:
            return await self.ended()
        if not isinstance(used, Used):
            raise PlatformError("The supervisor gave a wrong answer.")
        return Exit(memory_peak_bytes=used.memory_peak_bytes, processes_limit_hit=used.processes_limit_hit)

    def memory_peak(self) -> int:
        """Read the open control file; a microsecond. What it was when it is gone."""
        if not self._exit.done():
            with contextlib.suppress(OSError):  # its cgroup may go before we are told
                found = int(os.pread(self._memory, 32, 0))
                self._memory_peak_bytes = max(self._memory_peak_bytes, found)
        return self._memory_peak_bytes

    async def stats(self) -> dict[str, Any] | None:
        """Ask the supervisor."""
        try:
            counted = await self._engine.ask(Count(self._engine.tag(), self.id))
        except _Refusal:
            return None
        if not isinstance(counted, Counted):
            raise PlatformError("The supervisor gave a wrong answer.")
        return counted.figures

    def close_descriptors(self) -> None:
        """Close what no caller has taken."""
        self.wire.close()
        os.close(self.output)

    def settle(self, end: Exit) -> None:
        """Wake who waits for the end; the first call counts."""
        if not self._exit.done():
            os.close(self._memory)
            self._memory_peak_bytes = max(self._memory_peak_bytes, end.memory_peak_bytes)
            self._exit.set_result(end)


class SupervisedEngine:
    """`Engine` over a supervisor that has been started."""

    def __init__(
        self,
        name: str,
        control: socket.socket,
        supervisor: subprocess.Popen[bytes],
        site: Site,
        notice: Notice,
    ) -> None:
        self.name = name
        self.loop = asyncio.get_running_loop()
        self._control = control
        self._supervisor = supervisor
        self.site = site
        self._notice = notice
        self._tag = 0
        self._asked: dict[int, asyncio.Future[Report | Sandbox]] = {}
        self._sandboxes: dict[str, SupervisedSandbox] = {}
        self.egress = EgressLink(self.loop)
        self._unsent: deque[bytes] = deque()
        self._ready: asyncio.Future[None] = self.loop.create_future()
        self._ended: asyncio.Future[None] = self.loop.create_future()
        self._exited: asyncio.Future[None] = self.loop.create_future()

    async def open(self, setup: Setup) -> None:
        """Hand the setup over and wait until the supervisor stands; IsolationUnavailable if it cannot."""
        self._control.setblocking(False)
        self.loop.add_reader(self._control.fileno(), self._hear)
        pidfd = os.pidfd_open(self._supervisor.pid)
        self.loop.add_reader(pidfd, self._supervisor_exited, pidfd)
        self._send(encode(setup))
        try:
            async with asyncio.timeout(START_S_MAX):
                await asyncio.shield(self._ready)
        except TimeoutError as error:
            await self.close()
            raise IsolationUnavailable("The supervisor of the sandboxes did not start in time.") from error
        except BaseException:
            await self.close()
            raise

    async def boot(self, plan: LaunchPlan, *, urgent: bool) -> Sandbox:
        """Have the supervisor run the OCI runtime; about 25 ms."""
        if plan not in self.site.plans:
            raise PlatformError("Only the plans of the site can be booted.")
        wanted = Boot(self.tag(), plan.runtime, urgent)
        future = self._put(wanted.tag, wanted)
        try:
            return cast(Sandbox, await future)
        except _Refusal as refusal:
            raise PlatformError("A sandbox could not be started.") from refusal
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self._discard(cast(SupervisedSandbox, future.result()))
            raise

    async def hurry(self, sandbox: Sandbox) -> None:
        """Raise its weight; nothing happens to one that is in use or gone."""
        self.tell(Hurry(sandbox.id))

    async def close(self) -> None:
        """End the supervisor by closing its socket, and wait until it has cleared up."""
        self._broken("closed")
        try:
            async with asyncio.timeout(CLOSE_S_MAX):
                await asyncio.shield(self._exited)
        except TimeoutError:
            # Fails with EPERM once root was given up; by then the supervisor kills itself.
            self._supervisor.kill()

    async def ended(self) -> None:
        """Wait until it is closed or the supervisor died."""
        await asyncio.shield(self._ended)

    # For its sandboxes.

    def tag(self) -> int:
        """Return a number that tells the answer of one request from all others."""
        self._tag += 1
        return self._tag

    async def ask(self, wanted: Assign | Usage | Count) -> Report:
        """Send a request and return its answer."""
        return cast(Report, await self._put(wanted.tag, wanted))

    def tell(self, wanted: Request) -> None:
        """Send what has no answer; harmless at any time."""
        if not self._ended.done():
            self._send(encode(wanted))

    def _put(self, tag: int, wanted: Request) -> asyncio.Future[Report | Sandbox]:
        future: asyncio.Future[Report | Sandbox] = self.loop.create_future()
        if self._ended.done():
            future.set_exception(_Refusal("the supervisor is gone"))
        else:
            self._asked[tag] = future
            self._send(encode(wanted))
        return future

    # The socket.

    def _send(self, packet: bytes) -> None:
        self._unsent.append(packet)
        if len(self._unsent) == 1:
            self._flush()

    def _flush(self) -> None:
        while self._unsent:
            try:
                self._control.send(self._unsent[0])
            except BlockingIOError:
                self.loop.add_writer(self._control.fileno(), self._flush)
                return
            except OSError as error:
                self._broken(str(error))
                return
            self._unsent.popleft()
        self.loop.remove_writer(self._control.fileno())

    def _hear(self) -> None:
        while not self._ended.done():
            try:
                packet, handles, _, _ = socket.recv_fds(
                    self._control, PACKET_BYTES_MAX, _DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return
            except OSError as error:
                self._broken(str(error))
                return
            if not packet:
                self._broken("the supervisor ended")
                return
            try:
                self._take(report(packet), handles)
            except BaseException:
                # An answer that is lost would be waited for without end.
                self._broken("the supervisor could not be understood")
                raise

    def _take(self, said: Report, handles: list[int]) -> None:
        if isinstance(said, Booted):
            self._booted(said, handles)
        elif isinstance(said, Ended):
            self._sandbox_ended(said)
        elif isinstance(said, Brokered):
            if len(handles) == 1:
                self.egress.attach(handles[0])
        elif isinstance(said, Note):
            self._notice(said.event, {"detail": said.detail})
        elif isinstance(said, Ready):
            self._ready.set_result(None)
        elif isinstance(said, Refused):
            self._ready.set_exception(
                IsolationUnavailable(f"{self.name} cannot make sandboxes here: {said.reason}.")
            )
        else:
            future = self._asked.pop(said.tag, None)
            if future is None or future.done():
                return
            if isinstance(said, Failed):
                future.set_exception(_Refusal(said.reason))
            else:
                future.set_result(said)

    def _booted(self, said: Booted, handles: list[int]) -> None:
        if len(handles) < _DESCRIPTORS_LEAST:
            self._unreachable(said, handles)
            return
        wire = socket.socket(fileno=handles[0])
        wire.setblocking(False)
        os.set_blocking(handles[1], False)
        pid = None
        if len(handles) == _DESCRIPTORS:
            pid = kernel.pid_behind(handles[3])
            os.close(handles[3])
        sandbox = SupervisedSandbox(self, said.sandbox, pid, wire, handles[1], handles[2])
        self._sandboxes[said.sandbox] = sandbox
        future = self._asked.pop(said.tag, None)
        if future is None or future.done():
            self._discard(sandbox)
        else:
            future.set_result(sandbox)

    def _unreachable(self, said: Booted, handles: list[int]) -> None:
        """End a sandbox whose descriptors the kernel dropped, as this process has too many open."""
        for handle in handles:
            os.close(handle)
        self.tell(Kill(said.sandbox))
        future = self._asked.pop(said.tag, None)
        if future is not None and not future.done():
            future.set_exception(_Refusal("this process may open no more files"))

    def _discard(self, sandbox: SupervisedSandbox) -> None:
        sandbox.kill()
        sandbox.close_descriptors()

    def _sandbox_ended(self, said: Ended) -> None:
        sandbox = self._sandboxes.pop(said.sandbox, None)
        if sandbox is not None:
            self.egress.forget(said.sandbox)
            sandbox.settle(
                Exit(
                    code=said.code,
                    signal=said.signal,
                    killed_from_outside=said.killed_from_outside,
                    out_of_memory=said.out_of_memory,
                    processes_limit_hit=said.processes_limit_hit,
                    memory_peak_bytes=said.memory_peak_bytes,
                )
            )

    def _broken(self, why: str) -> None:
        """Nothing more will come: every sandbox is dead, every question is answered with that."""
        if self._ended.done():
            return
        self._ended.set_result(None)
        self.loop.remove_reader(self._control.fileno())
        self.loop.remove_writer(self._control.fileno())
        self._control.close()
        self.egress.close()
        if not self._ready.done():
            self._ready.set_exception(IsolationUnavailable(f"{self.name} cannot make sandboxes here."))
        self._ready.exception()
        for future in self._asked.values():
            if not future.done():
                future.set_exception(_Refusal(why))
        for sandbox in self._sandboxes.values():
            sandbox.settle(Exit(signal=9, killed_from_outside=True))
        self._asked.clear()
        self._sandboxes.clear()

    def _supervisor_exited(self, pidfd: int) -> None:
        self.loop.remove_reader(pidfd)
        os.close(pidfd)
        self._supervisor.wait()
        self._exited.set_result(None)
        self._broken("the supervisor ended")


class _Refusal(Exception):
    """The supervisor's reason; for the log only."""

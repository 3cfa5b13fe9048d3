"""An instance: one sandbox that belongs to one function, and the calls in flight in it.

Owns its wire, its output and its deadlines. Does not know why it was started, nor who waits.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from typing import cast

from stoker.model.call import Call
from stoker.model.function import Function
from stoker.model.launch import Exit
from stoker.model.limits import Limits
from stoker.model.outcome import Failure, Outcome, Timings
from stoker.runtimes import wire
from stoker.sandbox.engine import Sandbox
from stoker.worker.output import Output

class Running:
    """One call in an instance."""

    __slots__ = ("call", "deadline", "init_ms", "own_log", "started")

    def __init__(self, call: Call, started: float, deadline: float, init_ms: float) -> None:
        self.call = call
        self.started = started
        self.deadline = deadline
        self.init_ms = init_ms
        self.own_log: bytearray | None = None
        """What frames said it printed; used where several calls share the output."""


class Instance(asyncio.Protocol):
    """Booted, then given to a function, then serving until it ends.

    `on_free(instance)` is called when it can take one more call, `on_ended(instance)` once when it is
    gone; what it had in flight has been ended by then.
    """

    def __init__(
        self,
        sandbox: Sandbox,
        limits: Limits,
        loop: asyncio.AbstractEventLoop,
        *,
        on_hello: Callable[[Instance], None],
        on_free: Callable[[Instance], None],
        on_ended: Callable[[Instance], None],
    ) -> None:
        self.sandbox = sandbox
        self.function: Function | None = None
        self.per_instance = 1
        self.calls_served = 0
        self.idle_since = time.monotonic()
        self.last_run_ms = 0.0
        self.load_failed = False
        self.dead = False
        self.running: dict[bytes, Running] = {}
        self._limits = limits
        self._loop = loop
        self._on_hello = on_hello
        self._on_free = on_free
        self._on_ended = on_ended
        self._reader = wire.FrameReader(frame_bytes_max=limits.result_bytes_max + wire.FRAME_SLACK_BYTES)
        self._transport: asyncio.Transport | None = None
        self._output = Output(sandbox.output, loop, limits.log_bytes_max)
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._init_ms = 0.0
        self._ending: Failure | None = None
        self._printed_at_boot = ""
        self._dying: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        """Take hold of the wire. The instance is the owner of the sandbox's descriptors from here on."""
        self._output.open()
        await self._loop.create_unix_connection(lambda: self, sock=self.sandbox.wire)

    # -- what the pool asks ----------------------------------------------------------------------

    @property
    def slots(self) -> int:
        """How many more calls it can take just now."""
        return 0 if self.dead or self._ending else self.per_instance - len(self.running)

    def load(self, function: Function, frame: bytes, init_ms: float) -> None:
        """Give it to a function for good; calls may follow at once."""
        self.function = function
        self.per_instance = function.concurrency.per_instance
        self._init_ms = init_ms
        self._write(frame)

    def run(self, call: Call) -> None:
        """Take a call. Its end is told to the call itself, whatever happens."""
        now = time.monotonic()
        timeout_ms = call.function.code.timeout_ms
        deadline = now + timeout_ms / 1000
        self.running[call.id] = Running(call, now, deadline, self._init_ms)
        self._init_ms = 0.0
        call.cancel = self._canceller(call.id)
        if self._timer is None or deadline < self._timer_at:
            self._arm(deadline)
        self._write(wire.encode_invoke(call.id, timeout_ms, call.payload))

    def kill(self, failure: Failure | None = None) -> None:
        """End it now. Calls in flight end with `failure`, or as lost."""
        if self._ending is None:
            self._ending = failure or _lost("the instance was ended while it ran the call")
        self.sandbox.kill()

    @property
    def printed_at_boot(self) -> str:
        """The end of what it printed before it belonged to a function: why a boot failed."""
        return self._printed_at_boot

    async def gone(self) -> None:
        """Return when nothing of it is left."""
        await self.sandbox.ended()
        if self._dying is not None:
            await asyncio.shield(self._dying)

    # -- the wire --------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclasses of it

    def data_received(self, data: bytes) -> None:
        try:
            frames = self._reader.feed(data)
        except wire.WireError:
            self.kill(Failure("function.exited", "the function broke the wire to its instance"))
            return
        for kind, call_id, body in frames:
            if kind == wire.RESULT:
                running = self.running.pop(call_id, None)
                if running is not None:
                    self._end(running, body, None)
            elif kind == wire.ERROR:
                running = self.running.pop(call_id, None)
                if running is not None:
                    self._failed(running, body)
            elif kind == wire.LOG:
                self._printed(call_id, body)
            elif kind == wire.HELLO:
                self._on_hello(self)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.dead = True
        self._transport = None
        self.sandbox.kill()  # whatever closed the wire, nothing of it may go on
        self._dying = self._loop.create_task(self._die(), name=f"instance {self.sandbox.id} dies")

    def _write(self, frame: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frame)

    # -- ends of calls ---------------------------------------------------------------------------

    def _end(self, running: Running, result: bytes | None, failure: Failure | None) -> None:
        now = time.monotonic()
        call = running.call
        if self.per_instance == 1:
            log, log_bytes = self._output.take()
        else:
            log, log_bytes = self._log_of(running)
        outcome = Outcome(
            result,
            failure,
            log,
            log_bytes,
            Timings(
                (running.started - call.queued_at) * 1000 - running.init_ms,
                running.init_ms,
                (now - running.started) * 1000,
            ),
        )
        self.calls_served += 1
        self.last_run_ms = outcome.timings.run_ms
        if not self.dead:
            if not self.running:
                self.idle_since = now
            self._on_free(self)  # its next call goes out before this one is answered: both cores work
        call.end(outcome)

    def _failed(self, running: Running, body: bytes) -> None:
        try:
            failure = wire.decode_error(body)
        except wire.WireError:
            failure = Failure("function.error", "the function failed and could not say why")
        if failure.code == "function.load_failed":
            self.load_failed = True
        if failure.code == "function.error":
            self._loop.create_task(
                self._end_after_look(running, failure), name=f"limits of {self.sandbox.id}"
            )
        else:
            self._end(running, None, failure)

    async def _end_after_look(self, running: Running, failure: Failure) -> None:
        """A handler that failed may have failed for want of processes: then say so."""
        usage = await self.sandbox.usage()
        if usage.processes_limit_hit:
            failure = Failure(
                "function.too_many_processes",
                f"the limit of {self._limits.processes_max} processes and threads was hit: {failure.error}",
                failure.error_type,
                failure.stack,
            )
            self._ending = self._ending or _lost("the instance was ended as it had too many processes")
            self.sandbox.kill()
        self._end(running, None, failure)

    def _printed(self, call_id: bytes, text: bytes) -> None:
        running = self.running.get(call_id)
        if running is not None:
            if running.own_log is None:
                running.own_log = bytearray()
            running.own_log += text[: max(0, self._limits.log_bytes_max - len(running.own_log))]

    def _log_of(self, running: Running) -> tuple[bytes, int]:
        log = bytes(running.own_log or b"")
        if not self.running:  # what no frame claimed (a child process, native code) goes to the last one
            rest, rest_bytes = self._output.take()
            return (log + rest)[: self._limits.log_bytes_max], len(log) + rest_bytes
        return log, len(log)

    # -- deadlines and cancelling ----------------------------------------------------------------

    def _arm(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_at(at, self._deadline)

    def _deadline(self) -> None:
        """One timer an instance, that looks again when it fires: arming one a call would cost more."""
        self._timer = None
        if not self.running:
            return
        now = time.monotonic()
        next_at = min(running.deadline for running in self.running.values())
        if next_at > now:
            self._arm(next_at)
            return
        for call_id in [key for key, running in self.running.items() if running.deadline <= now]:
            running = self.running.pop(call_id)
            timeout_ms = running.call.function.code.timeout_ms
            self._ending = self._ending or _lost("another call in the same instance ran into its timeout")
            self.sandbox.kill()
            self._end(
                running, None, Failure("function.timeout", f"the function ran longer than {timeout_ms} ms")
            )

    def _canceller(self, call_id: bytes) -> Callable[[], None]:
        def cancel() -> None:
            running = self.running.pop(call_id, None)
            if running is None:
                return
            # A handler cannot be interrupted from outside: the instance goes, and its place is free.
            self._ending = self._ending or _lost("another call in the same instance was cancelled")
            self.sandbox.kill()
            self._end(running, None, Failure("invocation.cancelled", "the caller left before the end"))

        return cancel

    # -- death -----------------------------------------------------------------------------------

    async def _die(self) -> None:
        try:
            how = await self.sandbox.ended()
            while self.running:
                _, running = self.running.popitem()
                self._end(running, None, self._ending or _failure_of(how, self._limits))
        finally:
            if self._timer is not None:
                self._timer.cancel()
            if self.function is None:
                self._printed_at_boot = self._output.take()[0][-500:].decode(errors="replace").strip()
            self._output.close()
            self._on_ended(self)


def _failure_of(how: Exit, limits: Limits) -> Failure:
    """Return what the death of an instance means for the call that it ran."""
    if how.out_of_memory:
        return Failure("function.out_of_memory", "the function used more memory than its size allows")
    if how.processes_limit_hit:
        return Failure(
            "function.too_many_processes",
            f"the limit of {limits.processes_max} processes and threads was hit and the function ended",
        )
    if how.killed_from_outside:
        return _lost("the instance died under the call")
    if how.signal is not None:
        return Failure("function.exited", f"the function was ended by {_signal_name(how.signal)}")
    if how.code is not None:
        return Failure("function.exited", f"the function exited with code {how.code} before it answered")
    return _lost("the instance died under the call")


def _lost(text: str) -> Failure:
    return Failure("platform.lost", text)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"

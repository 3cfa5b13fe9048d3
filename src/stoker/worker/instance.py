"""An instance: one sandbox that belongs to one function, and the calls in flight in it.

Owns its wire, its output and its deadlines. Does not know why it was started, nor who waits.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from math import inf
from typing import cast

from stoker.model.call import Call
from stoker.model.errors import StokerError
from stoker.model.function import Function
from stoker.model.limits import Limits
from stoker.model.outcome import Failure, Outcome, Timings
from stoker.runtimes import wire
from stoker.sandbox.engine import Sandbox
from stoker.worker.death import failure_of, lost, result_too_large, too_many_processes
from stoker.worker.output import Output, without_mark
from stoker.worker.restraint import VAIN_MAX, Rest, rest_s
from stoker.worker.running import Running, cancelled_before_it_began, patience_end
from stoker.worker.tail import Tail, Tap

LEAVING_MS_MAX = 500
"""How long a sandbox whose wire has closed may take to end by itself, which tells why it ended."""
STUCK_MS = 10
"""A call that was sent ahead is asked back once the one before it has run for so long. More than the shims
let pass before they look for such a word (2 ms), so that it is never missed."""

LONG_MS = 5
WEIGH_AGAIN_S = 0.1
"""The memory of an instance is looked up at the end of every long call, else no more often than this."""


class Instance(asyncio.Protocol):
    """Booted, then given to a function, then serving until it ends.

    `on_free(instance)` is called when it can take one more call, `on_ended(instance)` once when it is
    gone; what it had in flight has been ended by then. `on_returned(instance, call)` gives back a call that
    was sent ahead of its turn and never began, or whose patience is over.
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
        on_returned: Callable[[Instance, Call], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.sandbox = sandbox
        self.function: Function | None = None
        self.per_instance = 1
        self.calls_served = 0
        self.idle_since = clock()
        self.last_run_ms = 0.0
        self.last_was_silent = False
        self.load_failed = False
        self.number = 0
        """Of two that were given to functions the later one has the higher."""
        self.created_ms = 0
        """Wall clock, milliseconds since the epoch, when it was given to its function."""
        self.dead = False
        self.running: dict[bytes, Running] = {}
        self._begun: bytes | None = None
        """The call that runs, where one at a time does; until its answer comes, also if it was given up."""
        self._ahead: OrderedDict[bytes, Running] = OrderedDict()
        """Calls that were sent before their turn, in order: none of them begins before that answer."""
        self._ahead_timer: asyncio.TimerHandle | None = None
        self._unwritten: list[bytes] = []
        self._limits = limits
        self._loop = loop
        self._on_hello = on_hello
        self._on_free = on_free
        self._on_ended = on_ended
        self._on_returned = on_returned
        self._clock = clock
        self._rest = Rest(loop)
        self._vain = 0
        """Frames that nobody waited for."""
        self._reader = wire.FrameReader(frame_bytes_max=limits.result_bytes_max + wire.FRAME_SLACK_BYTES)
        self._transport: asyncio.Transport | None = None
        self._output = Output(sandbox.output, loop, limits.log_bytes_max)
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._init_ms = 0.0
        self._tap: Tap | None = None
        self._memory_bytes = 0
        self._weigh_at = 0.0
        self._ending: Failure | None = None
        self._worn = False
        """True once a call in it was given up while others ran: it takes no more and ends with the last."""
        self._printed_at_boot = ""
        self._looks: set[asyncio.Task[None]] = set()
        self._dying: asyncio.Task[None] | None = None
        self._gone = asyncio.Event()

    async def connect(self) -> None:
        """Take hold of the wire. The instance is the owner of the sandbox's descriptors from here on."""
        self._output.open()
        await self._loop.create_unix_connection(lambda: self, sock=self.sandbox.wire)

    # -- what the pool asks ----------------------------------------------------------------------

    @property
    def slots(self) -> int:
        """How many more calls it can take just now."""
        if self.dead or self._ending or self._worn:
            return 0
        return self.per_instance - len(self.running)

    @property
    def ending(self) -> bool:
        """Whether it is gone or going, be it without having been told."""
        return self.dead or self._ending is not None

    def load(self, function: Function, frame: bytes, init_ms: float) -> None:
        """Give it to a function for good; calls may follow at once."""
        self.function = function
        self.per_instance = function.concurrency.per_instance
        self._init_ms = init_ms
        self._output.take()  # what the runtime printed while it booted is no call's
        self._write(frame)

    def room_ahead(self, most: int) -> int:
        """How many calls may be sent ahead of their turn, behind the one that runs; `most` in all."""
        if self.dead or self._ending or self._worn or self.per_instance > 1 or self._begun is None:
            return 0
        begun = self.running.get(self._begun)
        if begun is None or (self._clock() - begun.started) * 1000 >= STUCK_MS:
            return 0
        return most - len(self._ahead)

    def run(self, call: Call) -> None:
        """Take a call. Its end is told to the call itself, whatever happens.

        Where one call at a time runs and one does, this one waits for its turn inside the instance.
        """
        now = self._clock()
        timeout_ms = call.function.code.timeout_ms
        call_id = call.id
        call.cancel = self._canceller(call_id)
        if self.per_instance == 1 and self._begun is not None:
            running = self.running[call_id] = self._ahead[call_id] = Running(call, now, inf, 0.0)
            running.mark = call_id
            self._write_soon(wire.encode_invoke(call_id, timeout_ms, call.payload, kind=wire.AHEAD))
            if self._ahead_timer is None:
                self._ahead_timer = self._loop.call_later(STUCK_MS / 1000, self._look_ahead)
        else:
            deadline = now + timeout_ms / 1000
            running = self.running[call_id] = Running(call, now, deadline, self._init_ms)
            self._init_ms = 0.0
            self._begun = call_id
            if self._timer is None or deadline < self._timer_at:
                self._arm(deadline)
            self._write(wire.encode_invoke(call_id, timeout_ms, call.payload))
            if call.began is not None:
                self._tell_began(call)
        if self._tap is not None:
            running.tail = Tail(self._tap, call_id, self._limits.log_bytes_max)

    def follow(self, tap: Tap | None) -> None:
        """Tell what calls print from now on, as they print it; None for no more of it."""
        self._tap = tap
        self._output.on_more = None if tap is None or self.per_instance > 1 else self._more_output
        for call_id, running in self.running.items():
            running.tail = None if tap is None else Tail(tap, call_id, self._limits.log_bytes_max)
            if running.tail is not None:
                if self.per_instance > 1:
                    running.tail.skip(running.own_log or b"")
                elif self._prints_alone(running):
                    running.tail.skip(self._output.kept)

    def kill(self, failure: Failure | None = None) -> None:
        """End it now. Calls in flight end with `failure`, or as lost."""
        if self._ending is None:
            self._ending = failure or lost("the instance was ended while it ran the call")
        self.sandbox.kill()

    @property
    def printed_at_boot(self) -> str:
        """The end of what it printed before it belonged to a function: why a boot failed."""
        return self._printed_at_boot

    async def gone(self) -> None:
        """Return when nothing of it is left."""
        await self.sandbox.ended()
        if self._transport is not None:
            self._transport.abort()  # nothing of the sandbox lives: whoever holds the wire now is a stranger
        await self._gone.wait()

    # -- the wire --------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclasses of it

    def data_received(self, data: bytes) -> None:
        began = self._clock()
        try:
            frames = self._reader.feed(data)
        except wire.WireError:
            self._wire_broken()  # the stream has no next frame that could be found
            return
        lines = 0
        for kind, call_id, body in frames:
            if kind == wire.RESULT or kind == wire.ERROR:
                running = self.running.get(call_id)
                if self.per_instance == 1:
                    if call_id != self._begun:
                        self._vain += 1  # late, doubled or made up
                        continue
                    self._next_begins()
                if running is None or running.said is not None:
                    self._vain += 1
                elif kind == wire.ERROR:
                    self._failed(running, body)
                elif len(body) > self._limits.result_bytes_max:  # shims see to it, but not only they write
                    self._end(running, None, result_too_large(len(body), self._limits))
                else:
                    self._end(running, body, None)
            elif kind == wire.LOG and self.per_instance > 1:
                self._printed(call_id, body)
                lines += 1
            elif kind == wire.REVOKED and self._revoked(call_id):
                continue
            else:
                self._vain += 1
                if kind == wire.HELLO:
                    self._on_hello(self)
        if self._vain > VAIN_MAX + self.calls_served:
            self._wire_broken()
        elif lines and self._transport is not None:
            rest = rest_s(lines, self._clock() - began)
            if rest:
                self._rest.begin(self._transport, rest)

    def _wire_broken(self) -> None:
        self.kill(Failure("function.exited", "the function broke the wire to its instance"))
        if self._transport is not None:
            self._transport.abort()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.dead = True
        self._transport = None
        self._dying = self._loop.create_task(self._die(), name=f"instance {self.sandbox.id} dies")

    def _write_soon(self, frame: bytes) -> None:
        """Write at the end of this turn of the loop, with whatever else comes in it: one system call."""
        if not self._unwritten:
            self._loop.call_soon(self._flush)
        self._unwritten.append(frame)

    def _flush(self) -> None:
        if self._unwritten:
            frames, self._unwritten = self._unwritten, []
            self._write(b"".join(frames))

    def _write(self, frame: bytes) -> None:
        if self._unwritten:  # what came first goes out first
            self._flush()
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frame)

    # -- ends of calls ---------------------------------------------------------------------------

    def _end(self, running: Running, result: bytes | None, failure: Failure | None) -> None:
        now = self._clock()
        call = running.call
        self.running.pop(call.id, None)
        log, log_bytes = running.log or self._log_of(running)
        if running.tail is not None:
            running.tail.end(log, log_bytes)
        if call.began is not None:  # not told before, as it had been asked back
            self._tell_began(call)
        waited_ms = max(0.0, (running.started - call.queued_at) * 1000)
        init_ms = min(running.init_ms, waited_ms)  # the instance may have been on its way before the call
        run_ms = (now - running.started) * 1000
        if run_ms > LONG_MS or now >= self._weigh_at or self.dead:
            self._weigh_at = now + WEIGH_AGAIN_S
            self._memory_bytes = max(self._memory_bytes, self.sandbox.memory_peak())
        timings = Timings(waited_ms - init_ms, init_ms, run_ms)
        outcome = Outcome(result, failure, log, log_bytes, timings, self._memory_bytes)
        self.calls_served += 1
        self.last_run_ms = run_ms
        self.last_was_silent = failure is None and not log_bytes
        try:
            if not self.dead:
                if not self.running:
                    self.idle_since = now
                    if self._worn:
                        self.kill()
                self._on_free(self)  # its next call goes out before this one is answered: both cores work
        finally:
            self._tell(call, outcome)

    def _tell_began(self, call: Call) -> None:
        began, call.began = call.began, None
        try:
            if began is not None:
                began()
        except Exception as error:
            self._loop.call_exception_handler(
                {"message": "the beginning of a call could not be told", "exception": error}
            )

    def _tell(self, call: Call, outcome: Outcome) -> None:
        try:
            call.end(outcome)
        except Exception as error:  # who waits for this end must not cost the calls after it their instance
            self._loop.call_exception_handler(
                {"message": "the end of a call could not be told", "exception": error}
            )

    # -- calls sent ahead of their turn ----------------------------------------------------------

    def _next_begins(self) -> None:
        """Take note that the call that ran has answered: the next one inside has begun by that."""
        if not self._ahead:
            self._begun = None
            return
        self._begun, running = self._ahead.popitem(last=False)
        running.started = now = self._clock()
        running.deadline = now + running.call.function.code.timeout_ms / 1000
        if self._timer is None or running.deadline < self._timer_at:
            self._arm(running.deadline)
        if running.call.began is not None and not running.revoked:  # the word may have come before its turn
            self._tell_began(running.call)

    def _look_ahead(self) -> None:
        """Ask back what is stuck behind a call that turned out to be a long one."""
        self._ahead_timer = None
        if not self._ahead or self._begun is None:
            return
        begun = self.running.get(self._begun)
        now = self._clock()
        if begun is None or (now - begun.started) * 1000 >= STUCK_MS:
            for call_id, running in list(self._ahead.items()):
                self._ask_back(call_id, running)
                if now >= patience_end(running.call, self._limits) and not running.call.has_ended:
                    # The word was said long ago, so that it does not begin: but nobody is there to confirm.
                    running.call.cancel = None
                    self._on_returned(self, running.call)
        self._ahead_timer = self._loop.call_later(STUCK_MS / 1000, self._look_ahead)

    def _ask_back(self, call_id: bytes, running: Running) -> None:
        if not running.revoked:  # once: it lies in the wire until the instance reads
            running.revoked = True
            self._write_soon(wire.encode_frame(wire.REVOKE, call_id, b""))

    def _revoked(self, call_id: bytes) -> bool:
        """Take back a call that did not begin; False if nobody asked for it."""
        known = self.running.get(call_id)
        if known is None or not known.revoked or known.said is not None:
            return False
        if call_id == self._begun:  # the word came between the answer before it and its own beginning
            self._next_begins()
        elif self._ahead.pop(call_id, None) is None:
            return True
        self._give_back(known)
        if self._begun is None:
            self._on_free(self)
        return True

    def _give_back(self, running: Running) -> None:
        del self.running[running.call.id]
        if not running.call.has_ended:
            running.call.cancel = None
            self._on_returned(self, running.call)

    def _failed(self, running: Running, body: bytes) -> None:
        try:
            failure = wire.decode_error(body)
        except wire.WireError:
            failure = Failure("function.error", "the function failed and could not say why")
        if failure.code == "function.load_failed":
            self.load_failed = True
            self._worn = self.per_instance > 1
        if failure.code != "function.error":
            self._end(running, None, failure)
            return
        running.said = failure
        if self.per_instance == 1:
            running.log = self._log_of(running)  # before the next call's output comes to it
        look = self._loop.create_task(self._look(running, failure), name=f"limits of {self.sandbox.id}")
        self._looks.add(look)
        look.add_done_callback(self._looks.discard)

    async def _look(self, running: Running, said: Failure) -> None:
        """A handler that failed may have failed for want of processes: then say so."""
        hit = False
        try:
            with suppress(StokerError):  # there is nobody to ask any more: what the function said counts
                hit = (await self.sandbox.usage()).processes_limit_hit
        finally:
            if self.running.get(running.call.id) is running:
                if hit:
                    self._ending = self._ending or lost("the instance was ended as it had too many processes")
                    self.sandbox.kill()
                self._end(running, None, too_many_processes(said, self._limits) if hit else said)

    def _printed(self, call_id: bytes, text: bytes) -> None:
        running = self.running.get(call_id)
        if running is not None:
            if running.own_log is None:
                running.own_log = bytearray()
            running.own_log_bytes += len(text)
            running.own_log += text[: max(0, self._limits.log_bytes_max - len(running.own_log))]
            if running.tail is not None:
                running.tail.more(running.own_log, running.own_log_bytes)

    def _more_output(self) -> None:
        running = None if self._begun is None else self.running.get(self._begun)
        if running is not None and running.tail is not None and self._prints_alone(running):
            running.tail.more(self._output.kept, self._output.total)

    def _prints_alone(self, running: Running) -> bool:
        """Whether all output since the last call's end is its own: no other's turn may have come since."""
        return running.call.id == self._begun and running.mark is None and not self._ahead

    def _log_of(self, running: Running) -> tuple[bytes, int]:
        if self.per_instance == 1:
            if self._begun is not None and self._begun != running.call.id:  # the next one runs already
                return self._output.take_between(running.mark, self._begun)
            log, log_bytes = self._output.take()
            return without_mark(log, log_bytes, running.mark)
        log = bytes(running.own_log or b"")
        if not self.running:  # what no frame claimed (a child process, native code) goes to the last one
            rest, rest_bytes = self._output.take()
            return (log + rest)[: self._limits.log_bytes_max], running.own_log_bytes + rest_bytes
        return log, running.own_log_bytes

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
        now = self._clock()
        next_at = min(running.deadline for running in self.running.values())
        if next_at > now:
            self._arm(next_at)
            return
        for running in [one for one in self.running.values() if one.deadline <= now]:
            if running.said is not None:
                self._end(running, None, running.said)  # it answered in time
                continue
            timeout_ms = running.call.function.code.timeout_ms
            self._ending = self._ending or lost("another call in the same instance ran into its timeout")
            self.sandbox.kill()
            self._end(
                running, None, Failure("function.timeout", f"the function ran longer than {timeout_ms} ms")
            )
        if self.running and self._timer is None:
            self._arm(min(running.deadline for running in self.running.values()))

    def _canceller(self, call_id: bytes) -> Callable[[], None]:
        def cancel() -> None:
            running = self.running.get(call_id)
            if running is None:
                return
            told = "the call was cancelled before its end"
            if call_id in self._ahead:  # nothing of it has run, and nothing will if the word comes in time
                self._ask_back(call_id, running)
                running.call.end(cancelled_before_it_began(running.call, told, self._clock()))
                return
            if running.said is None:
                self._give_up()
            self._end(running, None, running.said or Failure("invocation.cancelled", told))

        return cancel

    def _give_up(self) -> None:
        """A handler cannot be interrupted from outside: the instance goes, and its place is free."""
        if len(self.running) > 1 and self.per_instance > 1:
            self._worn = True  # not before the other calls in it have ended
        else:
            self._ending = self._ending or lost("the instance was ended as a call in it was cancelled")
            self.sandbox.kill()

    # -- death -----------------------------------------------------------------------------------

    async def _die(self) -> None:
        try:
            if self.running and self._ending is None:
                await self._leave_by_itself()
            self.sandbox.kill()  # whatever closed the wire, nothing of it may go on
            how = await self.sandbox.ended()
            while self._ahead:
                self._give_back(self._ahead.popitem(last=False)[1])
            while self.running:
                running = next(iter(self.running.values()))
                said = running.said
                if said is not None and how.processes_limit_hit:
                    said = too_many_processes(said, self._limits)
                self._end(running, None, said or self._ending or failure_of(how, self._limits))
        finally:
            for timer in (self._timer, self._ahead_timer):
                if timer is not None:
                    timer.cancel()
            for look in self._looks:
                look.cancel()
            if self.function is None:
                self._printed_at_boot = self._output.take()[0][-500:].decode(errors="replace").strip()
            self._output.close()
            self._rest.close()
            self._gone.set()
            self._on_ended(self)

    async def _leave_by_itself(self) -> None:
        """Give a process that exits the time to do so: killed meanwhile, it would look like lost."""
        try:
            async with asyncio.timeout(LEAVING_MS_MAX / 1000):
                await self.sandbox.ended()
        except TimeoutError:
            self._ending = Failure("function.exited", "the function closed the wire to its instance")

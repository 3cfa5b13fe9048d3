"""An instance: one sandbox that belongs to one function, and the calls in flight in it.

Owns what runs in it and the one end of each, in time, too late, cancelled or by its death. Does not know why
it was started, nor who waits.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from stoker.model.call import Call
from stoker.model.function import Function
from stoker.model.limits import Limits
from stoker.model.outcome import Failure, Outcome, Timings
from stoker.runtimes import wire
from stoker.sandbox.engine import Sandbox
from stoker.worker.deadlines import Deadlines
from stoker.worker.death import failure_of, lost, result_too_large, too_many_processes
from stoker.worker.doubts import Doubts, failure_said
from stoker.worker.output import Output
from stoker.worker.printed import Printed
from stoker.worker.restraint import VAIN_MAX
from stoker.worker.running import Running, cancelled_before_it_began, tell_began, tell_end
from stoker.worker.tail import Tap
from stoker.worker.turns import STUCK_MS, Turns
from stoker.worker.weight import LONG_MS, Weight
from stoker.worker.wire_end import WireEnd

LEAVING_MS_MAX = 500
"""How long a sandbox whose wire has closed may take to end by itself, which tells why it ended."""


class Instance:
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
        self.printed_at_boot = ""
        """The end of what it printed before it belonged to a function, once it is dead: why a boot failed."""
        self.dead = False
        self.running: dict[bytes, Running] = {}
        self._limits = limits
        self._loop = loop
        self._on_hello = on_hello
        self._on_free = on_free
        self._on_ended = on_ended
        self._on_returned = on_returned
        self._clock = clock
        self._wire = WireEnd(
            loop,
            frame_bytes_max=limits.result_bytes_max + wire.FRAME_SLACK_BYTES,
            on_frames=self._heard,
            on_broken=self._wire_broken,
            on_lost=self._wire_lost,
            clock=clock,
        )
        self._deadlines = Deadlines(self.running, loop, on_over=self._over, clock=clock)
        self._turns = Turns(
            self.running,
            self._wire,
            self._deadlines,
            limits,
            loop,
            on_idle=lambda: on_free(self),
            on_returned=lambda call: on_returned(self, call),
            clock=clock,
        )
        self._output = Output(sandbox.output, loop, limits.log_bytes_max)
        self._printed = Printed(self._output, self.running, self._turns, limits.log_bytes_max)
        self._doubts = Doubts(sandbox, loop, on_settled=self._settled)
        self._vain = 0
        """Frames that nobody waited for."""
        self._init_ms = 0.0
        self._weight = Weight(sandbox)
        self._ending: Failure | None = None
        self._worn = False
        """True once a call in it was given up while others ran: it takes no more and ends with the last."""
        self._begun: frozenset[bytes] | None = None
        """The calls that have begun in a process that said it ends; no other will."""
        self._networked = False
        self._dying: asyncio.Task[None] | None = None
        self._gone = asyncio.Event()

    async def connect(self) -> None:
        """Take hold of the wire. The instance is the owner of the sandbox's descriptors from here on."""
        self._output.open()
        await self._loop.create_unix_connection(lambda: self._wire, sock=self.sandbox.wire)

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
        self._printed.shared = self.per_instance > 1
        self._init_ms = init_ms
        self._output.take()  # what the runtime printed while it booted is no call's
        self._wire.write(frame)

    def room_ahead(self, most: int) -> int:
        """How many calls may be sent ahead of their turn, behind the one that runs; `most` in all."""
        turns = self._turns
        if self.dead or self._ending or self._worn or self.per_instance > 1 or turns.begun is None:
            return 0
        begun = self.running.get(turns.begun)
        if begun is None or (self._clock() - begun.started) * 1000 >= STUCK_MS:
            return 0
        return most - len(turns.ahead)

    def run(self, call: Call) -> None:
        """Take a call. Its end is told to the call itself, whatever happens.

        Where one call at a time runs and one does, this one waits for its turn inside the instance.
        """
        now = self._clock()
        call_id = call.id
        turns = self._turns
        call.cancel = partial(self._cancel, call_id)
        if self.per_instance == 1 and turns.begun is not None:
            running = turns.line_up(call, now)
        else:
            timeout_ms = call.function.code.timeout_ms
            deadline = now + timeout_ms / 1000
            running = self.running[call_id] = Running(call, now, deadline, self._init_ms)
            self._init_ms = 0.0
            turns.begun = call_id
            if deadline < self._deadlines.at:
                self._deadlines.arm(deadline)
            self._wire.write(wire.encode_invoke(call_id, timeout_ms, call.payload))
            if call.began is not None:
                tell_began(call, self._loop)
        if self._printed.tap is not None:
            running.tail = self._printed.tail_of(running, self._printed.tap)

    @property
    def calls(self) -> list[Call]:
        """The calls that run in it, in the order in which they began."""
        if self.per_instance > 1:
            return [running.call for running in self.running.values()]
        begun = self._turns.begun
        running = None if begun is None else self.running.get(begun)
        return [] if running is None else [running.call]

    def follow(self, tap: Tap | None) -> None:
        """Tell what calls print from now on, as they print it; None for no more of it."""
        self._printed.follow(tap)

    def note(self, text: str) -> None:
        """Add a line of the platform's to the log of the call that runs; of each, where many do."""
        line = f"stoker: {text}\n".encode()
        if self.per_instance == 1:
            self._output.note(line)
        else:
            for call_id in list(self.running):
                self._printed.line(call_id, line)

    def kill(self, failure: Failure | None = None) -> None:
        """End it now. Calls in flight end with `failure`, or as lost."""
        if self._ending is None:
            self._ending = failure or lost("the instance was ended while it ran the call")
        self.sandbox.kill()

    async def gone(self) -> None:
        """Return when nothing of it is left."""
        await self.sandbox.ended()
        self._wire.abort()  # nothing of the sandbox lives: whoever holds the wire now is a stranger
        await self._gone.wait()

    # -- the wire --------------------------------------------------------------------------------

    def _heard(self, frames: list[wire.Frame]) -> int:
        turns = self._turns
        lines = 0
        for kind, call_id, body in frames:
            if kind == wire.RESULT or kind == wire.ERROR:
                running = self.running.get(call_id)
                if self.per_instance == 1:
                    if call_id != turns.begun:
                        self._vain += 1  # late, doubled or made up
                        continue
                    turns.answered()
                if running is None or running.said is not None:
                    self._vain += 1
                elif kind == wire.ERROR:
                    self._failed(running, body)
                elif len(body) > self._limits.result_bytes_max:  # shims see to it, but not only they write
                    self._end(running, None, result_too_large(len(body), self._limits))
                else:
                    self._end(running, body, None)
            elif kind == wire.LOG and self.per_instance > 1:
                self._printed.line(call_id, body)
                lines += 1
            elif kind == wire.REVOKED and turns.revoked(call_id):
                continue
            elif kind == wire.LEAVING and self._begun is None:
                self._begun = wire.decode_leaving(body)
                self._worn = True
            else:
                self._vain += 1
                if kind == wire.HELLO:
                    self._on_hello(self)
        if self._vain > VAIN_MAX + self.calls_served:
            raise wire.WireError("too many frames that nobody waits for")
        return lines

    def _wire_broken(self) -> None:
        self.kill(Failure("function.exited", "the function broke the wire to its instance"))

    def _wire_lost(self) -> None:
        self.dead = True
        self._dying = self._loop.create_task(self._die(), name=f"instance {self.sandbox.id} dies")

    # -- ends of calls ---------------------------------------------------------------------------

    def _end(self, running: Running, result: bytes | None, failure: Failure | None) -> None:
        now = self._clock()
        call = running.call
        self.running.pop(call.id, None)
        log, log_bytes = running.log or self._printed.log_of(running)
        if running.tail is not None:
            running.tail.end(log, log_bytes)
        if call.began is not None:  # not told before, as it had been asked back
            tell_began(call, self._loop)
        waited_ms = max(0.0, (running.started - call.queued_at) * 1000)
        init_ms = min(running.init_ms, waited_ms)  # the instance may have been on its way before the call
        run_ms = (now - running.started) * 1000
        weight = self._weight
        if run_ms > LONG_MS or now >= weight.due_at or self.dead:
            weight.look(now)
        timings = Timings(waited_ms - init_ms, init_ms, run_ms)
        outcome = Outcome(result, failure, log, log_bytes, timings, weight.peak_bytes)
        networked, self._networked = self._networked, False
        if networked:  # counted before the next call begins; who waits for this one is told with the count
            self.sandbox.tally(lambda used: tell_end(call, replace(outcome, network=used), self._loop))
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
            if not networked:
                tell_end(call, outcome, self._loop)

    def networked(self) -> None:
        """Take note that the function uses the network: it is counted when its call ends."""
        self._networked = True

    def _failed(self, running: Running, body: bytes) -> None:
        failure = failure_said(body)
        if failure.code == "function.load_failed":
            self.load_failed = True
            self._worn = self.per_instance > 1
        if failure.code != "function.error":
            self._end(running, None, failure)
            return
        running.said = failure
        if self.per_instance == 1:
            running.log = self._printed.log_of(running)  # before the next call's output comes to it
        self._doubts.look(running)

    def _settled(self, running: Running, hit: bool) -> None:
        """End a call that failed, now that it is known whether the instance hit its limit of processes."""
        said = running.said
        if said is None or self.running.get(running.call.id) is not running:
            return  # it has ended meanwhile
        if hit:
            self._ending = self._ending or lost("the instance was ended as it had too many processes")
            self.sandbox.kill()
        self._end(running, None, too_many_processes(said, self._limits) if hit else said)

    # -- deadlines and cancelling ----------------------------------------------------------------

    def _over(self, running: Running) -> None:
        """End a call that ran into its timeout."""
        if running.said is not None:
            self._end(running, None, running.said)  # it answered in time
            return
        timeout_ms = running.call.function.code.timeout_ms
        self._ending = self._ending or lost("another call in the same instance ran into its timeout")
        self.sandbox.kill()
        self._end(running, None, Failure("function.timeout", f"the function ran longer than {timeout_ms} ms"))

    def _cancel(self, call_id: bytes) -> None:
        running = self.running.get(call_id)
        if running is None:
            return
        told = "the call was cancelled before its end"
        if call_id in self._turns.ahead:  # nothing of it has run, and nothing will if the word comes in time
            self._turns.ask_back(running)
            running.call.end(cancelled_before_it_began(running.call, told, self._clock()))
            return
        if running.said is None:
            self._give_up()
        self._end(running, None, running.said or Failure("invocation.cancelled", told))

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
            self._turns.give_back_all()
            self._give_back_unbegun()
            while self.running:
                running = next(iter(self.running.values()))
                said = running.said
                if said is not None and how.processes_limit_hit:
                    said = too_many_processes(said, self._limits)
                self._end(running, None, said or self._ending or failure_of(how, self._limits))
        finally:
            self._deadlines.close()
            self._turns.close()
            self._doubts.close()
            if self.function is None:
                self.printed_at_boot = self._output.take()[0][-500:].decode(errors="replace").strip()
            self._output.close()
            self._wire.close()
            self._gone.set()
            self._on_ended(self)

    def _give_back_unbegun(self) -> None:
        """Give back the calls that a process which was about to end got and did not begin."""
        for call_id, running in list(self.running.items()) if self._begun is not None else ():
            if self._begun is not None and call_id not in self._begun and running.said is None:
                del self.running[call_id]
                running.call.cancel = None
                self._on_returned(self, running.call)

    async def _leave_by_itself(self) -> None:
        """Give a process that exits the time to do so: killed meanwhile, it would look like lost."""
        try:
            async with asyncio.timeout(LEAVING_MS_MAX / 1000):
                await self.sandbox.ended()
        except TimeoutError:
            self._ending = Failure("function.exited", "the function closed the wire to its instance")

"""The invoker: takes a call in, validates both ways, and tells its one end.

Does not know how the call came (HTTP, NATS) nor where it runs: an Executor does. No task and no await:
this is the hot path, a callback from the request to the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from stoker.catalog.catalog import Catalog
from stoker.catalog.fold import Entry
from stoker.catalog.principal import Principal
from stoker.invocation.admission import admit, checked, input_failure
from stoker.model.call import Call, CallIds
from stoker.model.errors import InputRejected, StokerError
from stoker.model.function import Function
from stoker.model.limits import Limits
from stoker.model.outcome import Outcome, Timings
from stoker.model.record import created_ms_of


class Executor(Protocol):
    """Where calls run."""

    def submit(self, call: Call) -> None:
        """Take the call; its `end` is called once. Raises FunctionBusy or NoCapacity at once if full."""
        ...

    def room(self, function: Function) -> int:
        """Return how many calls that can wait are worth submitting just now."""
        ...


class Recorder(Protocol):
    """Who keeps what happened."""

    @property
    def refusal(self) -> StokerError | None:
        """Why no new work can be recorded just now, or None."""
        ...

    def ended(self, call: Call, outcome: Outcome) -> None:
        """Take note of an end; must not wait."""
        ...


class Invoker:
    """One for all doors of the server."""

    def __init__(
        self,
        catalog: Catalog,
        executor: Executor,
        recorder: Recorder,
        limits: Limits,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._catalog = catalog
        self._executor = executor
        self._recorder = recorder
        self._limits = limits
        self._clock = clock
        self._usage = catalog.usage
        self._ids = CallIds()
        self.running = 0
        """Calls taken and not ended."""
        self.closed = False
        """True while the server drains: new work is turned away by the edge."""

    def invoke(
        self,
        principal: Principal,
        entry: Entry,
        payload: bytes,
        ended: Callable[[Call, Outcome | StokerError], None],
        *,
        version: int | None = None,
        replay_of: str | None = None,
    ) -> Call:
        """Start a RequestResponse call with a payload that is JSON text; `ended` is called once.

        Raises InvalidRequest (no JSON), InputRejected, TooLarge, QuotaExceeded, FunctionBusy, NoCapacity or
        StorageFull, and NotFound for an unknown version; then nothing runs. `Call.cancel` of what is returned
        ends it early. A replay whose payload does not fit any more has ended so, and has a record as any has.
        """
        function = entry.function if version is None else entry.at_version(version)
        contract = entry.contract or self._catalog.contract(entry)
        if self._recorder.refusal is not None:
            raise self._recorder.refusal
        try:
            admit(contract, payload, self._limits.payload_bytes_max)
        except InputRejected as error:
            if replay_of is None:
                raise
            call = self._call(principal, function, payload, ended, replay_of)
            outcome = Outcome(None, input_failure(error), b"", 0, Timings(0.0, 0.0, 0.0))
            call.end(outcome)
            self._recorder.ended(call, outcome)
            return call
        output = contract.output

        usage, account = self._usage, principal.account
        usage.call(principal)
        try:
            usage.begin(account)
        except BaseException:
            usage.not_called(principal)
            raise

        def end(call: Call, outcome: Outcome | StokerError) -> None:
            self.running -= 1
            usage.end(account)
            if not isinstance(outcome, Outcome):
                ended(call, outcome)
                return
            outcome = checked(outcome, output)
            try:
                ended(call, outcome)
            finally:
                self._recorder.ended(call, outcome)

        call = self._call(principal, function, payload, end, replay_of)
        self.running += 1
        try:
            self._executor.submit(call)
        except BaseException:
            if call.drop():
                self.running -= 1
                usage.end(account)
                usage.not_called(principal)
            raise
        return call

    def _call(
        self,
        principal: Principal,
        function: Function,
        payload: bytes,
        ended: Callable[[Call, Outcome | StokerError], None],
        replay_of: str | None,
    ) -> Call:
        call_id = self._ids.next()
        call = Call(
            call_id,
            function,
            payload,
            queued_at=self._clock(),
            created_ms=created_ms_of(call_id),
            caller=principal.token_id,
            ended=ended,
        )
        call.replay_of = replay_of
        call.parent = principal.parent
        return call

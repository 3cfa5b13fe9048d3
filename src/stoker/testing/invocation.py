"""An executor that runs nothing: the test ends the calls that it was given."""

from __future__ import annotations

from stoker.model.call import Call
from stoker.model.errors import StokerError
from stoker.model.outcome import Failure, Outcome, Timings


def an_outcome(result: bytes | None = None, failure: Failure | None = None, log: bytes = b"") -> Outcome:
    """Return how a call ended that waited 1 ms, was the first in its instance (2 ms) and ran 3 ms."""
    return Outcome(result, failure, log, len(log), Timings(1.0, 2.0, 3.0))


class FakeExecutor:
    """`Executor` whose calls are in `calls`, the first submitted first."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.cancelled: list[Call] = []
        self.refuses_with: Exception | None = None
        self.ends_at_once: Outcome | StokerError | None = None
        """An executor may end a call before `submit` returns."""

    def submit(self, call: Call) -> None:
        """Keep the call."""
        if self.refuses_with is not None:
            raise self.refuses_with
        self.calls.append(call)
        call.cancel = lambda: self.cancelled.append(call)
        if self.ends_at_once is not None:
            call.end(self.ends_at_once)


class Recorded:
    """`Recorder` that keeps (call, outcome)."""

    def __init__(self) -> None:
        self.ends: list[tuple[Call, Outcome]] = []

    def ended(self, call: Call, outcome: Outcome) -> None:
        """Keep it."""
        self.ends.append((call, outcome))

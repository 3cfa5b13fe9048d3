"""What the invocation room stands on, for tests of it: an executor that runs nothing, a store in memory.

The test ends the calls that the executor was given. The store imitates what the stream of invocations
refuses; a comment says which rule of it a line stands for.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from msgspec.structs import replace

from stoker.model.call import Call
from stoker.model.errors import NotFound, StokerError, Unavailable, VersionConflict
from stoker.model.function import Function
from stoker.model.outcome import Failure, Outcome, Timings
from stoker.model.record import Accepted, Claim, Keeping, KeyHolder, Record, Work


def an_outcome(result: bytes | None = None, failure: Failure | None = None, log: bytes = b"") -> Outcome:
    """Return how a call ended that waited 1 ms, was the first in its instance (2 ms) and ran 3 ms."""
    return Outcome(result, failure, log, len(log), Timings(1.0, 2.0, 3.0))


def a_failure(code: str = "function.error") -> Outcome:
    """Return how a call ended that failed with a code of the contract's table."""
    return an_outcome(failure=Failure(code, f"it ended with {code}"))


class FakeExecutor:
    """`Executor` whose calls are in `calls`, the first submitted first."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.cancelled: list[Call] = []
        self.refuses_with: Exception | None = None
        self.ends_at_once: Outcome | StokerError | None = None
        """An executor may end a call before `submit` returns."""

        self.places = 1_000_000
        """How many calls there is room for."""
        self.places_of_version: dict[int, int] = {}
        """The same for single versions of a function; `places` where it says nothing."""

    @property
    def open(self) -> list[Call]:
        """Those that have not ended, the first submitted first."""
        return [call for call in self.calls if not call.has_ended]

    def room(self, function: Function) -> int:
        """Return what is left of the places."""
        version = function.code.version
        if version in self.places_of_version:
            taken = sum(call.function.code.version == version for call in self.open)
            return self.places_of_version[version] - taken
        return self.places - len(self.open)

    def submit(self, call: Call) -> None:
        """Keep the call."""
        if self.refuses_with is not None:
            raise self.refuses_with
        self.calls.append(call)
        call.cancel = lambda: self.cancelled.append(call)
        if self.ends_at_once is not None:
            call.end(self.ends_at_once)

    def begin(self, call: Call) -> None:
        """Let it begin to run."""
        began, call.began = call.began, None
        assert began is not None
        began()

    def end(self, call: Call, outcome: Outcome | StokerError) -> None:
        """End it; what has an outcome has begun before."""
        if isinstance(outcome, Outcome) and call.began is not None:
            self.begin(call)
        call.end(outcome)


class Recorded:
    """`Recorder` that keeps (call, outcome)."""

    def __init__(self) -> None:
        self.ends: list[tuple[Call, Outcome]] = []
        self.refusal: StokerError | None = None

    def ended(self, call: Call, outcome: Outcome) -> None:
        """Keep it."""
        self.ends.append((call, outcome))


@dataclass(frozen=True, slots=True)
class MemoryLetter:
    """A dead letter."""

    record: Record
    payload: str | None
    pinned: int | None


@dataclass(slots=True)
class Stored:
    """The last message of an invocation."""

    sequence: int
    record: Record
    work: Work | None
    """None once it has ended."""


class MemoryStore:
    """`Store` in memory. What it holds is there for the next server, as a restart finds it."""

    def __init__(self) -> None:
        self.calls: dict[tuple[str, str], Stored] = {}
        self.dead: dict[tuple[str, str, str, str], MemoryLetter] = {}
        self.keys: dict[tuple[str, str, str, str], KeyHolder] = {}
        self.claims: list[Claim] = []
        """Of keys, as they were stored."""
        self.ends: list[Record] = []
        """In the order in which they were stored."""
        self.loads = 0
        self.apart_bytes = 256 * 1024
        """A payload above this is stored apart from its invocation."""
        self.fails_with: StokerError | None = None
        """While it is set every reading and writing fails with it, and nothing is stored."""
        self.fails_next: deque[StokerError] = deque()
        """The same for the next ones alone."""
        self.answers_lost = 0
        """So many of the next writes are stored, and answered as Unavailable."""
        self.held: asyncio.Event | None = None
        """Set it to an event that all readings and writings wait for."""
        self._payloads: dict[tuple[str, str], str] = {}
        self._sequence = 0

    # -- what the room asks for --------------------------------------------------------------------

    async def accept(
        self,
        account: str,
        record: Record,
        work: Work,
        claim: Claim | None = None,
        *,
        redriven: str | None = None,
    ) -> Accepted | KeyHolder:
        """As the real one."""
        await self._turn()
        letter = (account, work.topic, work.service, redriven or "")
        if redriven is not None and letter not in self.dead:
            raise NotFound("no such dead letter")
        if claim is not None:
            place = (account, work.topic, work.service, str(work.key))
            held = self.keys.get(place)
            if held is not None:
                return held
            self.claims.append(claim)
            self.keys[place] = KeyHolder(
                record.invocation_id, record.invocation_type, claim.body_digest, ended=False
            )
        # One atomic write: the invocation, its key and the dead letter that it comes from.
        self.dead.pop(letter, None)
        assert work.payload is not None
        pieces = int(len(work.payload.encode()) > self.apart_bytes)
        if pieces:
            self._payloads[account, record.invocation_id] = work.payload
            work = replace(work, payload=None)
        sequence = self._write(account, record, work)
        self._answer()
        return Accepted(account, record, work, sequence, pieces)

    async def wait_again(self, accepted: Accepted, record: Record, work: Work) -> Accepted:
        """As the real one."""
        await self._turn()
        self._require_last(accepted)
        assert (work.payload is None) == bool(accepted.payload_pieces), "the message holds the payload"
        sequence = self._write(accepted.account, record, work)
        self._answer()
        return Accepted(accepted.account, record, work, sequence, accepted.payload_pieces)

    async def end(
        self,
        accepted: Accepted,
        record: Record,
        keeping: Keeping,
        *,
        dead_until_ms: int | None = None,
        answer: str | None = None,
    ) -> None:
        """As the real one."""
        await self._turn()
        self._require_last(accepted)
        account, work = accepted.account, accepted.work
        if dead_until_ms is not None:
            place = (account, work.topic, work.service, record.invocation_id)
            payload = self._payloads.get((account, record.invocation_id), work.payload)
            self.dead[place] = MemoryLetter(record, payload, work.pinned)
        if work.key is not None and record.invocation_type != "Async":
            key = (account, work.topic, work.service, work.key)
            claim = self.keys[key]
            self.keys[key] = KeyHolder(
                claim.invocation_id,
                claim.invocation_type,
                claim.body_digest,
                ended=True,
                result=answer,
                code=record.code,
                error=record.error,
            )
        self._write(account, record, None)
        self.ends.append(record)
        self._answer()

    async def release(self, accepted: Accepted) -> None:
        """As the real one."""
        await self._turn()
        self._require_last(accepted)
        work = accepted.work
        if work.key is not None:
            del self.keys[accepted.account, work.topic, work.service, work.key]
        self._write(accepted.account, replace(accepted.record, status="cancelled"), None)
        self._answer()

    async def load(self, account: str, sequence: int) -> Accepted | None:
        """As the real one."""
        await self._turn()
        self.loads += 1
        # By sequence: what was written since has another.
        found = [one for one in self.pending() if one.account == account and one.sequence == sequence]
        if not found:
            return None
        payload = self._payloads.get((account, found[0].record.invocation_id))
        return found[0] if payload is None else found[0].with_payload(payload)

    # -- what a test looks at ----------------------------------------------------------------------

    def pending(self) -> list[Accepted]:
        """Return what has not ended, as a start finds it: the oldest first, large payloads apart."""
        waiting = ((account, one) for (account, _), one in self.calls.items())
        return [
            Accepted(account, one.record, one.work, one.sequence, int(one.work.payload is None))
            for account, one in sorted(waiting, key=lambda pair: pair[1].sequence)
            if one.work is not None
        ]

    def letters(self) -> list[str]:
        """Return the ids of all dead letters."""
        return [place[3] for place in self.dead]

    def end_elsewhere(self, account: str, invocation_id: str) -> None:
        """Store the end of an invocation as another server would."""
        stored = self.calls[account, invocation_id]
        record = replace(stored.record, status="ok", ended_ms=stored.record.created_ms)
        self._write(account, record, None)
        self.ends.append(record)

    # -- the stream --------------------------------------------------------------------------------

    async def _turn(self) -> None:
        await asyncio.sleep(0)  # the real one gives others a turn, and so shows races
        if self.held is not None:
            await self.held.wait()
        if self.fails_with is not None:
            raise self.fails_with
        if self.fails_next:
            raise self.fails_next.popleft()

    def _require_last(self, accepted: Accepted) -> None:
        # Expected-Last-Subject-Sequence: the write names the message that it follows.
        stored = self.calls[accepted.account, accepted.record.invocation_id]
        if stored.sequence != accepted.sequence:
            raise VersionConflict("somebody changed it first; read it again and decide anew")

    def _write(self, account: str, record: Record, work: Work | None) -> int:
        self._sequence += 1
        self.calls[account, record.invocation_id] = Stored(self._sequence, record, work)
        return self._sequence

    def _answer(self) -> None:
        if self.answers_lost:
            self.answers_lost -= 1
            raise Unavailable("the backbone does not answer")

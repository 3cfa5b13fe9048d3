"""The store of invocations: those that are stored from their acceptance on, until they have ended.

Every change is one atomic write, acknowledged when it is on disk. Only the first end of an invocation is
stored: each write names the message that it follows. Does not know when an invocation runs, nor how
records are searched.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from stoker.backbone.ledger import Ledger, Write
from stoker.model.clock import wall_ms
from stoker.model.errors import NotFound, TooLarge, Unavailable, VersionConflict
from stoker.model.record import Accepted, Claim, Keeping, KeyHolder, Record, Work
from stoker.records import formats, states
from stoker.records.bodies import ANSWER, PAYLOAD, RESULT, attach
from stoker.records.formats import CallState, DeadLetter, KeyState
from stoker.records.recorder import Feed

CLAIM_ROUNDS_MAX = 4


class InvocationStore:
    """One for a server. Errors are those of `Ledger.write`."""

    def __init__(
        self,
        ledger: Ledger,
        feed: Feed,
        *,
        now_ms: Callable[[], int] = wall_ms,
    ) -> None:
        self._ledger = ledger
        self._feed = feed
        self._now_ms = now_ms
        self._fresh: dict[tuple[str, str], tuple[Record, int]] = {}
        """Ended ones that search may not find yet, with the time at which they expire."""
        self._stored: deque[tuple[int, tuple[str, str]]] = deque()

    # -- from acceptance to the end --------------------------------------------------------------

    async def accept(
        self,
        account: str,
        record: Record,
        work: Work,
        claim: Claim | None = None,
        *,
        redriven: str | None = None,
    ) -> Accepted | KeyHolder:
        """Return once it is stored; with a claim, or who has the key already, and then nothing is stored.

        `redriven` is the id of the dead letter that it comes from, which is gone with the same write. Raises
        NotFound or VersionConflict if that is gone already.
        """
        writes = states.accepted_writes(account, record, work)
        index = len(writes) - 1
        if redriven is not None:
            writes.append(await self._gone(account, work.topic, work.service, redriven))
        if claim is None:
            sequence = await self._write(writes) + index
        else:
            found = await self._claim(account, record, work, claim, writes)
            if isinstance(found, KeyHolder):
                return found
            sequence = found + index
        return Accepted(account, record, replace(work, payload=None) if index else work, sequence, index)

    async def wait_again(self, accepted: Accepted, record: Record, work: Work) -> Accepted:
        """Return once it is stored that it is tried again. VersionConflict if it has ended."""
        writes = states.waiting_writes(
            accepted.account, record, work, accepted.payload_pieces, accepted.sequence
        )
        sequence = await self._write(writes, reserve=True)
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
        """Return once the end is stored. Raises VersionConflict if it has ended already, or was taken over.

        `dead_until_ms` makes it a dead letter for so long. `answer` is what a keyed call answers to whoever
        asks again, its result as JSON text, where it has one.
        """
        account, work = accepted.account, accepted.work
        assert record.ended_ms is not None
        expires_ms = record.ended_ms + keeping.ttl_ms
        writes = states.ended_writes(
            account,
            record,
            expires_ms=expires_ms,
            sequence=accepted.sequence,
            payload_pieces=accepted.payload_pieces,
        )
        if dead_until_ms is not None:
            writes += states.dead_writes(
                account, record, work, accepted.payload_pieces, expires_ms=dead_until_ms
            )
        if work.key is not None and record.invocation_type != "Async":
            claim = await self._key_state(account, work.topic, work.service, work.key)
            if claim is not None and claim.invocation_id == record.invocation_id:
                writes += states.answered_writes(account, work, claim, record, answer)
        try:
            sequence = await self._write(writes, reserve=True)
        except TooLarge:
            writes = states.without_logs(writes)
            sequence = await self._write(writes, reserve=True)
        self._fresh[account, record.invocation_id] = (record, expires_ms)
        self._stored.append((sequence + len(writes) - 1, (account, record.invocation_id)))

    async def release(self, accepted: Accepted) -> None:
        """Take an acceptance back: nothing ran, and its key is free again."""
        account, record, work = accepted.account, accepted.record, accepted.work
        now_ms = self._now_ms()
        ended = replace(record, status="cancelled", code="invocation.cancelled", ended_ms=now_ms)
        writes = states.ended_writes(account, ended, expires_ms=now_ms, sequence=accepted.sequence)
        if work.key is not None:
            claim = await self._key_state(account, work.topic, work.service, work.key)
            if claim is not None and claim.invocation_id == record.invocation_id:
                writes.append(states.key_write(account, work, replace(claim, gone=True)))
        await self._write(writes, reserve=True)

    # -- reading ---------------------------------------------------------------------------------

    async def load(self, account: str, sequence: int) -> Accepted | None:
        """Return an invocation that is stored at a sequence with its payload, or None if it has ended."""
        stored = await self._ledger.at(sequence)
        if stored is None:
            return None
        accepted = self.accepted_of(stored.subject, stored.data, sequence)
        return None if accepted is None else await self.with_payload(accepted)

    async def current(self, account: str, invocation_id: str) -> Accepted | None:
        """Return an invocation as it is stored now, None if it has ended or was never there."""
        subject = formats.call_subject(account, invocation_id)
        stored = await self._ledger.last(subject)
        return None if stored is None else self.accepted_of(subject, stored.data, stored.sequence)

    @staticmethod
    def accepted_of(subject: str, data: bytes, sequence: int) -> Accepted | None:
        """Return the invocation that a stored message holds; None if it is none, or has ended."""
        if formats.noun_of(subject) != "call":
            return None
        state = formats.decode(subject, data)
        assert isinstance(state, CallState)
        if state.work is None:
            return None
        account = formats.account_of(subject)
        return Accepted(account, state.record, state.work, sequence, state.payload_pieces)

    async def with_payload(self, accepted: Accepted) -> Accepted:
        """Return it with the payload that was stored apart."""
        if not accepted.payload_pieces:
            return accepted
        invocation_id = accepted.record.invocation_id
        payload = await attach(
            self._ledger, accepted.account, invocation_id, PAYLOAD, accepted.payload_pieces
        )
        work = replace(accepted.work, payload=payload)
        return Accepted(accepted.account, accepted.record, work, accepted.sequence, accepted.payload_pieces)

    def recent(self, account: str, invocation_id: str) -> Record | None:
        """Return the record of one that has ended lately, before it can be found by search.

        Raises NotFound if it has expired already, while search finds what was before its end.
        """
        found = self._fresh.get((account, invocation_id))
        if found is None:
            return None
        if found[1] <= self._now_ms():
            raise NotFound("no such invocation")
        return found[0]

    def searchable(self, position: int) -> None:
        """Forget what search finds from now on: all that is stored up to this sequence."""
        while self._stored and self._stored[0][0] <= position:
            self._fresh.pop(self._stored.popleft()[1], None)

    # -- dead letters ----------------------------------------------------------------------------

    async def dead_letter(self, account: str, topic: str, service: str, invocation_id: str) -> DeadLetter:
        """Return a dead letter with its payload. Raises NotFound."""
        subject = formats.dead_subject(account, topic, service, invocation_id)
        stored = await self._ledger.last(subject)
        letter = None if stored is None else formats.decode(subject, stored.data)
        if not isinstance(letter, DeadLetter) or letter.gone or letter.expires_ms <= self._now_ms():
            raise NotFound("no such dead letter")
        if letter.payload_pieces:
            payload = await attach(self._ledger, account, invocation_id, PAYLOAD, letter.payload_pieces)
            letter = replace(letter, payload=payload)
        return letter

    async def drop_dead_letter(self, account: str, topic: str, service: str, invocation_id: str) -> None:
        """Return once a dead letter is gone. Raises NotFound, or VersionConflict if it went meanwhile."""
        await self._write([await self._gone(account, topic, service, invocation_id)], reserve=True)

    async def _gone(self, account: str, topic: str, service: str, invocation_id: str) -> Write:
        subject = formats.dead_subject(account, topic, service, invocation_id)
        stored = await self._ledger.last(subject)
        letter = None if stored is None else formats.decode(subject, stored.data)
        if stored is None or not isinstance(letter, DeadLetter) or letter.gone:
            raise NotFound("no such dead letter")
        gone = replace(letter, payload=None, payload_pieces=0, gone=True)
        return Write(subject, formats.encode(gone), stored.sequence)

    # -- keys ------------------------------------------------------------------------------------

    async def _claim(
        self, account: str, record: Record, work: Work, claim: Claim, writes: Sequence[Write]
    ) -> int | KeyHolder:
        assert work.key is not None
        subject = formats.key_subject(account, work.topic, work.service, work.key)
        state = states.claimed(record, claim)
        expected = 0
        for _ in range(CLAIM_ROUNDS_MAX):
            try:
                return await self._write([*writes, states.key_write(account, work, state, expected)])
            except VersionConflict:
                stored = await self._ledger.last(subject)
                if stored is None:
                    expected = 0
                    continue
                held = formats.decode(subject, stored.data)
                assert isinstance(held, KeyState)
                if not held.gone and held.expires_ms > self._now_ms():
                    return await self._holder(account, held)
                expected = stored.sequence
        raise VersionConflict("others use the same key at the same moment", retry_after_s=1)

    async def _holder(self, account: str, held: KeyState) -> KeyHolder:
        result = held.result
        if held.result_pieces:
            result = await attach(self._ledger, account, held.invocation_id, ANSWER, held.result_pieces)
        return KeyHolder(
            invocation_id=held.invocation_id,
            invocation_type=held.invocation_type,
            body_digest=held.body_digest,
            ended=held.ended,
            result=result,
            code=held.code,
            error=held.error,
        )

    async def _key_state(self, account: str, topic: str, service: str, key: str) -> KeyState | None:
        subject = formats.key_subject(account, topic, service, key)
        stored = await self._ledger.last(subject)
        if stored is None:
            return None
        state = formats.decode(subject, stored.data)
        assert isinstance(state, KeyState)
        return state

    async def _write(self, writes: Sequence[Write], *, reserve: bool = False) -> int:
        try:
            sequence = await self._ledger.write(writes, reserve=reserve)
        except Unavailable:
            self._feed.unsure()  # it may be stored all the same
            raise
        except VersionConflict:
            own = await self._own(writes)
            if own is None:
                self._feed.unsure()
                raise
            sequence = own
        self._feed.stored(sequence, writes)
        return sequence

    async def _own(self, writes: Sequence[Write]) -> int | None:
        """Return where these very writes are stored, if what they conflict with is an earlier attempt."""
        index = next(index for index, write in enumerate(writes) if write.expected is not None)
        stored = await self._ledger.last(writes[index].subject)
        return stored.sequence - index if stored and stored.data == writes[index].data else None


async def full_record(ledger: Ledger, account: str, state: CallState) -> Record:
    """Return a stored record with what was stored apart of it."""
    record = state.record
    if state.payload_pieces and state.work is None:
        payload = await attach(ledger, account, record.invocation_id, PAYLOAD, state.payload_pieces)
        record = replace(record, payload=payload)
    if state.result_pieces:
        result = await attach(ledger, account, record.invocation_id, RESULT, state.result_pieces)
        record = replace(record, result=result)
    return record

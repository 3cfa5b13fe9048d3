"""The invocation room over fakes, in fake time: everything of it but the plain calls of the invoker."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from stoker.catalog.principal import Principal
from stoker.invocation.acceptance import ASYNC, Acceptance
from stoker.invocation.async_calls import AsyncCalls
from stoker.invocation.ending import Ending
from stoker.invocation.keyed import KeyedCalls
from stoker.invocation.live import Live, LiveInvocations
from stoker.invocation.queue import Queue
from stoker.model.call import Call, CallIds, text_of
from stoker.model.function import Function
from stoker.model.limits import Limits
from stoker.model.outcome import Outcome
from stoker.model.record import QUEUED, Accepted, Record, Work
from stoker.testing.catalog import ACCOUNT, CatalogBench
from stoker.testing.clock import settled
from stoker.testing.invocation import FakeExecutor, MemoryStore
from stoker.testing.worker import Notes

PRINCIPAL = Principal(ACCOUNT, "token-1", frozenset({"*"}))


class InvocationBench:
    """A server's part of it. `restarted` is the next server, over the same store and functions."""

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        catalog: CatalogBench | None = None,
        store: MemoryStore | None = None,
        random: float = 0.0,
    ) -> None:
        self.limits = limits or Limits()
        self.catalog = catalog or CatalogBench(self.limits)
        self.store = store or MemoryStore()
        self.executor = FakeExecutor()
        self.live = LiveInvocations()
        self.notes = Notes()
        self.counted: list[tuple[Call, Outcome]] = []
        self.random = random
        self._ids = CallIds()
        self._loop = asyncio.get_running_loop()
        made, fold = self.catalog.catalog, self.catalog.fold
        ending = Ending(self.store, self.live, self.notes)
        self.queue = Queue(
            made,
            fold,
            self.executor,
            self.live,
            ending,
            self.limits,
            self.notes,
            counted=self._count,
            clock=self._loop.time,
            now_ms=self.now_ms,
            random=lambda: self.random,
        )
        self.acceptance = Acceptance(made, self.store, self.limits, now_ms=self.now_ms)
        self.asynchronous = AsyncCalls(self.acceptance, self.queue)
        self.keyed = KeyedCalls(
            made,
            fold,
            self.executor,
            self.acceptance,
            self.live,
            ending,
            counted=self._count,
            clock=self._loop.time,
            now_ms=self.now_ms,
        )

    def now_ms(self) -> int:
        """Return the wall clock: the loop's."""
        return round(self._loop.time() * 1000)

    def _count(self, call: Call, outcome: Outcome) -> None:
        self.counted.append((call, outcome))

    async def restarted(self) -> InvocationBench:
        """Return the next server, which has taken up what this one left. This one is closed."""
        await self.queue.close()
        other = InvocationBench(self.limits, catalog=self.catalog, store=self.store, random=self.random)
        other.queue.recover(self.store.pending())
        await settled()
        return other

    # -- invocations -------------------------------------------------------------------------------

    async def accept(
        self, function: Function, payload: bytes = b"{}", *, age_ms: int = 0, take: bool = True, **work: Any
    ) -> str:
        """Store an invocation of so old an age, give it to the queue, and return its id."""
        record = Record(
            invocation_id=text_of(self._ids.next()),
            function=function.subject,
            version=function.code.version,
            invocation_type=ASYNC,
            status=QUEUED,
            created_ms=self.now_ms() - age_ms,
            caller=PRINCIPAL.token_id,
            replay_of=work.pop("replay_of", None),
        )
        asked = Work(
            topic=function.collection_topic, service=function.service, payload=payload.decode(), **work
        )
        found = await self.store.accept(ACCOUNT, record, asked)
        assert isinstance(found, Accepted)
        if take:
            self.queue.take(found, payload)
        return record.invocation_id

    def one(self, invocation_id: str) -> Live:
        """Return one that has not ended."""
        found = self.live.find(ACCOUNT, invocation_id)
        assert found is not None
        return found

    def call(self, invocation_id: str) -> Call:
        """Return the call of one that the executor has."""
        call = self.one(invocation_id).call
        assert call is not None
        return call

    def end(self, invocation_id: str, outcome: Outcome) -> None:
        """Let its attempt begin and end."""
        self.executor.end(self.call(invocation_id), outcome)

    def stored(self, invocation_id: str) -> Record:
        """Return what is stored of it."""
        return self.store.calls[ACCOUNT, invocation_id].record

    def ended(self, invocation_id: str) -> Record:
        """Return the one end that is stored of it."""
        (found,) = [record for record in self.store.ends if record.invocation_id == invocation_id]
        return found

    def submitted(self) -> list[str]:
        """Return the ids of all attempts so far, in their order."""
        return [text_of(call.id) for call in self.executor.calls]

    def change(self, function: Function, **changes: Any) -> Function:
        """Change a function in place, as a stored event would."""
        entry = self.catalog.entry(function.name)
        entry.become(replace(entry.function, **changes))
        return entry.function

    async def delete(self, function: Function) -> None:
        """Delete a function."""
        await self.catalog.catalog.delete_function(ACCOUNT, self.catalog.entry(function.name))

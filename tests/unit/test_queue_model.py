"""The queue against chance: whatever happens in whatever order, what was accepted ends, and ends once.

The sets of what was attempted, accepted, begun and ended are compared, with restarts, a store that is
away or whose answers are lost, cancellations, deletions and every kind of end in between.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from stoker.model.call import Call, text_of
from stoker.model.errors import NoCapacity, StokerError, StorageFull, Unavailable
from stoker.model.function import Function
from stoker.model.outcome import END_REASON_OF_CODE, Outcome
from stoker.testing.catalog import ACCOUNT
from stoker.testing.clock import in_fake_time, passed, settled
from stoker.testing.invocation import a_failure, an_outcome
from stoker.testing.invocation_bench import InvocationBench

ENDS: list[Outcome | StokerError] = [
    an_outcome(b"1"),
    an_outcome(b"1"),
    an_outcome(b"no JSON"),
    NoCapacity("no instance"),
    *(a_failure(code) for code in sorted(END_REASON_OF_CODE) if code != "invocation.expired"),
]
STEPS = 250


class World:
    """A server and its successors, and what was seen of them."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.bench = InvocationBench(random=self.random.random())
        self.functions: dict[str, Function] = {}
        self.attempted = 0
        self.acknowledged: set[str] = set()
        self.cancelled: set[str] = set()
        self.begun: Counter[str] = Counter()

    async def start(self) -> World:
        """Make the functions."""
        for name, retry in {
            "patient": {"attempts": 5, "backoff_ms": 200, "max_age_ms": 3_600_000},
            "once": {"attempts": 1},
            "hasty": {"attempts": 100, "backoff_ms": 1, "max_age_ms": 3_000},
        }.items():
            self.functions[name] = await self.bench.catalog.create(name=name, retry=retry)
        return self

    # -- what may happen -----------------------------------------------------------------------------

    async def accept(self) -> None:
        function = self.random.choice(list(self.functions.values()))
        self.attempted += 1
        payload = b'"%s"' % (b"x" * self.random.choice((1, 10, 40)))
        work: dict[str, Any] = {"pinned": self.random.choice((None, None, 1, 9))}
        try:
            self.acknowledged.add(await self.bench.accept(function, payload, **work))
        except StokerError:
            return

    async def end_some(self) -> None:
        for call in self._some(self.bench.executor.open):
            await self._end(call, self.random.choice(ENDS))

    async def _end(self, call: Call, outcome: Outcome | StokerError) -> None:
        early = outcome in (a_failure("invocation.cancelled"),) and self.random.random() < 0.5
        if isinstance(outcome, Outcome) and not early:
            self.begun[text_of(call.id)] += 1
            self.bench.executor.end(call, outcome)
        else:
            call.end(outcome)

    async def cancel_some(self) -> None:
        for one in self._some(list(self.bench.live)):
            self.cancelled.add(one.accepted.record.invocation_id)
            self.bench.queue._tasks.start(self.bench.queue.cancel(one))
        await settled()
        for call in self.bench.executor.cancelled:
            if self.random.random() < 0.8 and not call.has_ended:
                await self._end(call, a_failure("invocation.cancelled"))

    async def trouble(self) -> None:
        store = self.bench.store
        match self.random.randrange(4):
            case 0:
                store.fails_with = self.random.choice((Unavailable("away"), StorageFull("full"), None))
            case 1:
                store.fails_next.extend([Unavailable("away")] * self.random.randrange(5))
            case 2:
                store.answers_lost = self.random.randrange(3)
            case _:
                store.fails_with = None

    async def room(self) -> None:
        self.bench.executor.places = self.random.randrange(6)

    async def time(self) -> None:
        await passed(self.random.choice((0.01, 0.3, 2.0)))

    async def restart(self) -> None:
        if self.random.random() < 0.1:
            self.bench = await self.bench.restarted()
            self.bench.queue._payloads._bytes_max = 100

    async def delete(self) -> None:
        if self.random.random() < 0.03 and len(self.functions) > 1:
            name = self.random.choice(list(self.functions))
            await self.bench.delete(self.functions.pop(name))

    def find(self) -> None:
        """Read what is stored and nobody was told of, as the feeder does."""
        self.bench.queue.recover(self.bench.store.pending())

    def _some(self, of: list[Any]) -> list[Any]:
        return self.random.sample(of, min(len(of), self.random.randrange(4)))

    # -- what must hold ------------------------------------------------------------------------------

    def check(self) -> None:
        """Compare the sets."""
        store = self.bench.store
        accepted = {invocation_id for _, invocation_id in store.calls}
        ended = Counter(record.invocation_id for record in store.ends)
        waiting = {one.record.invocation_id for one in store.pending()}
        assert not [one for one, times in ended.items() if times > 1], "one end each"
        assert not waiting & set(ended)
        assert accepted == waiting | set(ended), "accepted = queued + running + ended"
        assert self.acknowledged <= accepted, "what was acknowledged is stored"
        assert len(accepted) <= self.attempted

    def check_ends(self) -> None:
        """Compare each end with what became of it."""
        dead = set(self.bench.store.letters())
        for record in self.bench.store.ends:
            one, code = record.invocation_id, record.code
            if code not in ("invocation.cancelled", "invocation.expired", "function.load_failed"):
                assert self.begun[one], "it was run at least once"
            assert record.attempts <= self.begun[one], "no attempt that did not begin"
            assert (one in dead) == (code not in (None, "invocation.cancelled", "invocation.expired"))
        for letter in self.bench.store.dead.values():
            assert letter.payload is not None

    async def to_the_end(self) -> None:
        """Let everything recover, and end well."""
        store = self.bench.store
        store.fails_with, store.answers_lost = None, 0
        store.fails_next.clear()
        self.bench.executor.places = 1_000
        for _ in range(200):
            self.find()
            await passed(1)
            for call in self.bench.executor.open:
                self.begun[text_of(call.id)] += 1
                self.bench.executor.end(call, an_outcome(b"1"))
            if not store.pending() and not self.bench.queue.depth:
                return
        raise AssertionError(f"{len(store.pending())} of {len(store.calls)} never ended")


@pytest.mark.parametrize("seed", range(25))
@in_fake_time
async def test_what_was_accepted_ends_once_whatever_happens(seed: int) -> None:
    world = await World(seed).start()
    world.bench.queue._payloads._bytes_max = 100
    happenings = [
        world.accept,
        world.accept,
        world.accept,
        world.end_some,
        world.end_some,
        world.cancel_some,
        world.trouble,
        world.room,
        world.time,
        world.restart,
        world.delete,
    ]

    for _ in range(STEPS):
        await world.random.choice(happenings)()
        world.check()
        world.find()
    await world.to_the_end()

    world.check()
    world.check_ends()
    assert world.bench.store.ends
    assert world.bench.queue._payloads.kept_bytes == 0
    assert not world.bench.queue._tasks
    assert (ACCOUNT, next(iter(world.acknowledged))) in world.bench.store.calls

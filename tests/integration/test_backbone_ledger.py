"""The ledger on a real server: its rules, kills and pauses, what leaves the disk, and stores that were cut."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from stoker.backbone.connection import Message
from stoker.backbone.delivery import FETCHED_MAX, LEFTOVER_MS
from stoker.backbone.errors import StoreDamaged
from stoker.backbone.event_log import DIGEST, Event, digest_of
from stoker.backbone.jetstream import JetStream
from stoker.backbone.ledger import Ledger, Write
from stoker.model.errors import StorageFull, TooLarge, Unavailable, VersionConflict
from stoker.testing.backbone_rules import LEDGER_RULES, Book

from .conftest import OpenStore, Store

SEED = 20261126
SUBJECT = "accounts.a.invocation"


async def opened(store: Store) -> Ledger:
    """Open the ledger of a store, as a server does."""
    ledger = Ledger(store.jetstream, store.guard, stream="INVOCATIONS", subjects=["accounts.*.invocation.>"])
    await ledger.open()
    return ledger


@pytest.fixture
async def ledger(store: Store) -> Ledger:
    """A new, empty ledger."""
    return await opened(store)


async def everything(ledger: Ledger) -> list[Event]:
    """Read all."""
    seen: list[Event] = []
    await ledger.read(seen.append, after=0)
    return seen


@pytest.mark.parametrize("rule", LEDGER_RULES, ids=lambda rule: rule.__name__)
async def test_the_ledger_keeps_the_rule(rule: Callable[[Book], Awaitable[None]], ledger: Ledger) -> None:
    await rule(ledger)


# -- writing ---------------------------------------------------------------------------------------


class Writers:
    """Callers who write groups of 1 to 4 and come again when they are told to; what each was told."""

    def __init__(self, ledger: Ledger, count: int) -> None:
        self.ledger = ledger
        self.acknowledged: dict[int, list[str]] = {}
        self.told: asyncio.Queue[None] = asyncio.Queue()
        self.subjects: set[str] = set()
        sizes = random.Random(SEED)
        self._tasks = [
            asyncio.create_task(self._write(number, sizes.randint(1, 4))) for number in range(count)
        ]

    async def _write(self, number: int, size: int) -> None:
        subjects = [f"{SUBJECT}.{number}.{part}" for part in range(size)]
        self.subjects |= set(subjects)
        while True:
            try:
                first = await self.ledger.write([Write(subject, b"x" * 500, 0) for subject in subjects])
            except Unavailable:
                continue
            except VersionConflict:
                return  # stored by the attempt before, of which it was not known
            self.acknowledged[first] = subjects
            self.told.put_nowait(None)
            return

    async def until_told(self, count: int) -> None:
        """Return when so many more are acknowledged."""
        for _ in range(count):
            await self.told.get()

    async def check(self) -> None:
        """Wait for all, and hold what was told against what is there: each once, groups without a gap."""
        await asyncio.gather(*self._tasks)
        stored = {event.sequence: event.subject for event in await everything(self.ledger)}
        for first, subjects in self.acknowledged.items():
            assert [stored[first + part] for part in range(len(subjects))] == subjects
        assert len(stored) == len(set(stored.values()))
        assert set(stored.values()) == self.subjects


async def test_kills_under_writes_lose_nothing_acknowledged_and_double_nothing(
    store: Store, ledger: Ledger
) -> None:
    writers = Writers(ledger, 400)

    for _ in range(3):
        await writers.until_told(40)
        await store.kill_server()

    await writers.check()


async def test_a_server_that_is_stopped_for_two_seconds_loses_and_doubles_nothing(
    store: Store, ledger: Ledger
) -> None:
    writers = Writers(ledger, 400)
    await writers.until_told(40)

    store.signal_server(signal.SIGSTOP)
    await asyncio.sleep(2)  # the pause itself, longer than two attempts
    store.signal_server(signal.SIGCONT)

    await writers.check()
    assert sum(map(len, writers.acknowledged.values())) == len(writers.subjects)


async def test_a_batch_whose_acknowledgement_was_lost_is_not_stored_twice(
    store: Store, ledger: Ledger
) -> None:
    answered = store.jetstream._call
    lost = 0

    async def lossy(make: Callable[[], list[Message]]) -> dict[str, object]:
        nonlocal lost
        if not make()[0].subject.startswith("$JS") and not lost:
            lost += 1
            await answered(make)  # stored, and nobody hears of it
        return await answered(make)

    store.jetstream._call = lossy  # type: ignore[method-assign]

    firsts = await asyncio.gather(
        *(ledger.write([Write(f"{SUBJECT}.{n}", b"%d" % n, None if n % 2 else 0)]) for n in range(20))
    )

    assert lost == 1
    assert firsts == list(range(1, 21))
    assert [event.data for event in await everything(ledger)] == [b"%d" % n for n in range(20)]


async def test_writes_at_the_same_time_share_batches_and_none_is_past_the_limits(
    store: Store, ledger: Ledger
) -> None:
    counts: list[int] = []
    answered = store.jetstream._call

    async def counting(make: Callable[[], list[Message]]) -> dict[str, object]:
        messages = make()
        counts.append(len(messages))
        assert sum(len(message.data) for message in messages) <= 4 * 1024 * 1024
        return await answered(make)

    store.jetstream._call = counting  # type: ignore[method-assign]

    await asyncio.gather(*(ledger.write([Write(f"{SUBJECT}.{n}", b"x")]) for n in range(2500)))
    small, counts = counts, []
    await asyncio.gather(*(ledger.write([Write(f"{SUBJECT}.{n}", bytes(1 << 20))]) for n in range(9)))

    assert small == [1000, 1000, 500]
    assert counts == [3, 3, 3]


async def test_the_largest_message_is_stored_and_one_byte_more_is_too_large(
    store: Store, ledger: Ledger
) -> None:
    most = store.connection.message_bytes_max - 1024

    assert await ledger.write([Write(f"{SUBJECT}.x", bytes(most)), Write(f"{SUBJECT}.y", bytes(most))]) == 1
    with pytest.raises(TooLarge):
        await ledger.write([Write(f"{SUBJECT}.z", bytes(most + 1))])

    assert store.connection.connected


async def test_a_nearly_full_disk_takes_what_may_use_the_reserve_and_tells_the_others(store: Store) -> None:
    store.jetstream = JetStream(store.connection, disk_reserve_bytes=1 << 60)
    ledger = await opened(store)
    used = store.jetstream._disk
    assert used is not None
    used._short_of = lambda part: part == 1  # type: ignore[method-assign]

    outcomes = await asyncio.gather(
        *(ledger.write([Write(f"{SUBJECT}.{n}", b"%d" % n)], reserve=n % 2 == 0) for n in range(6)),
        return_exceptions=True,
    )

    assert [isinstance(outcome, StorageFull) for outcome in outcomes] == [False, True] * 3
    assert [event.data for event in await everything(ledger)] == [b"0", b"2", b"4"]
    assert store.jetstream.unhealthy_reason == "the disk is full"


async def test_a_disk_whose_reserve_is_used_up_takes_nothing(store: Store) -> None:
    ledger = await opened(store)
    disk = store.jetstream._disk
    assert disk is not None
    disk._reserve_bytes = 1 << 60

    for reserve in (True, False):
        with pytest.raises(StorageFull):
            await ledger.write([Write(f"{SUBJECT}.x", b"x")], reserve=reserve)

    disk._reserve_bytes = 0
    assert await ledger.write([Write(f"{SUBJECT}.x", b"x")]) == 1


# -- reading ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("until", [1000, 2700])
async def test_a_read_goes_on_after_its_server_was_killed(store: Store, ledger: Ledger, until: int) -> None:
    for part in range(3):
        await ledger.write([Write(f"{SUBJECT}.{part}.{number}", b"x" * 2000) for number in range(900)])
    await ledger.erase(range(500, 520))
    seen: list[int] = []

    def take(event: Event) -> None:
        seen.append(event.sequence)
        if event.sequence == 100:
            store.signal_server(signal.SIGKILL)

    assert await ledger.read(take, after=0, until=until) == until
    assert seen == [*range(1, 500), *range(520, until + 1)]


@pytest.mark.parametrize("headers", [{}, {DIGEST: digest_of(f"{SUBJECT}.x", b"what was written")}])
async def test_a_message_that_is_not_what_was_written_is_refused_however_it_is_read(
    store: Store, ledger: Ledger, headers: dict[str, str]
) -> None:
    await ledger.write([Write(f"{SUBJECT}.w", b"good")])
    await store.jetstream.publish(Message(f"{SUBJECT}.x", b"what is there", headers))
    await ledger.write([Write(f"{SUBJECT}.y", b"good")])
    seen: list[bytes] = []

    for reading in (
        ledger.read(lambda event: seen.append(event.data), after=0),
        ledger.at(2),
        ledger.last(f"{SUBJECT}.x"),
    ):
        with pytest.raises(StoreDamaged, match="holds message 2 changed"):
            await reading

    assert seen == [b"good"]


async def test_reads_leave_no_consumer_behind(store: Store, ledger: Ledger) -> None:
    for start in range(0, FETCHED_MAX + 500, 500):
        await ledger.write([Write(f"{SUBJECT}.{start + n}", b"x") for n in range(500)])

    for _ in range(5):
        assert len(await everything(ledger)) == FETCHED_MAX + 500

    async with asyncio.timeout(LEFTOVER_MS / 2000):  # nobody waits for the server to have deleted it
        while (await store.jetstream.api("STREAM.INFO.INVOCATIONS"))["state"]["consumer_count"]:
            pass


async def test_since_takes_what_was_stored_in_the_very_millisecond(ledger: Ledger) -> None:
    for number in range(30):
        await ledger.write([Write(f"{SUBJECT}.{number}", b"x")])
    times = [event.time_ms for event in await everything(ledger)]

    assert [await ledger.since(time_ms) for time_ms in times] == [times.index(time_ms) for time_ms in times]
    assert await ledger.since(times[-1] + 1) == 30


# -- erasing ---------------------------------------------------------------------------------------


def on_disk(data: Path, content: bytes) -> list[str]:
    """Return the names of the stream's files that have `content` in them."""
    folder = data / "nats" / "jetstream" / "$G" / "streams" / "INVOCATIONS"
    return [path.name for path in folder.rglob("*") if path.is_file() and content in path.read_bytes()]


def secret(number: int) -> bytes:
    """Return something that occurs nowhere else."""
    return b"secret-%06d-" % number


async def fill_two_blocks(ledger: Ledger) -> int:
    """Write more than a block of 8 MiB; return how many."""
    for start in range(0, 1000, 250):
        await ledger.write(
            [Write(f"{SUBJECT}.{n}", secret(n) + b"x" * 10_000) for n in range(start + 1, start + 251)]
        )
    return ledger.last_sequence


async def test_what_was_erased_is_in_no_file_any_more_neither_in_a_full_block_nor_in_the_last(
    store: Store, ledger: Ledger
) -> None:
    last = await fill_two_blocks(ledger)
    erased = [1, 2, 400, last - 100, last - 1, last]
    assert [on_disk(store.data, secret(sequence)) for sequence in (1, last)] == [["1.blk"], ["2.blk"]]

    await ledger.erase(erased)

    for _ in range(2):
        assert [on_disk(store.data, secret(sequence)) for sequence in erased] == [[]] * len(erased)
        assert [event.sequence for event in await everything(ledger)] == sorted(
            {*range(1, last + 1)} - {*erased}
        )
        await store.kill_server()


async def test_what_is_erased_past_the_share_of_time_is_gone_and_leaves_the_disk_with_its_block(
    store: Store, ledger: Ledger
) -> None:
    last = await fill_two_blocks(ledger)
    ledger._erasure._credit_s = 0
    assert on_disk(store.data, secret(1)) == ["1.blk"]

    await ledger.erase(range(1, last - 50))

    assert on_disk(store.data, secret(1)) == []
    assert [event.sequence for event in await everything(ledger)] == list(range(last - 50, last + 1))


@pytest.mark.parametrize("killed", [True, False])
@pytest.mark.parametrize("erased", [[9], [1], [4, 5], [8, 9], list(range(1, 10))])
async def test_an_erased_ledger_is_opened_again_and_goes_on_counting(
    open_store: OpenStore, erased: list[int], killed: bool
) -> None:
    store = await open_store()
    ledger = await opened(store)
    await ledger.write([Write(f"{SUBJECT}.{n}", b"%d" % n) for n in range(9)])
    await ledger.erase(erased)
    if killed:
        await store.kill_server()
    await ledger.close()
    await store.close()

    store = await open_store()
    ledger = await opened(store)

    assert ledger.last_sequence == 9
    assert [event.sequence for event in await everything(ledger)] == sorted({*range(1, 10)} - {*erased})
    assert await ledger.write([Write(f"{SUBJECT}.x", b"x")]) == 10


# -- opening ---------------------------------------------------------------------------------------


async def test_a_ledger_that_is_shorter_than_what_was_acknowledged_is_refused_each_time(
    open_store: OpenStore,
) -> None:
    store = await open_store()
    ledger = await opened(store)
    for number in range(20):
        await ledger.write([Write(f"{SUBJECT}.{number}", b"x" * 200)])
    await store.close()
    block = next((store.data / "nats").rglob("INVOCATIONS/msgs/1.blk"))
    block.write_bytes(block.read_bytes()[:-900])
    block.with_name("index.db").unlink()

    for _ in range(2):
        store = await open_store()
        with pytest.raises(StoreDamaged, match=r"INVOCATIONS.* ends at message .* 20 was acknowledged"):
            await opened(store)
        await store.close()


@pytest.mark.parametrize("spoil", [lambda mark: mark.unlink(), lambda mark: mark.write_bytes(b"x" * 1024)])
async def test_a_ledger_whose_mark_is_gone_or_damaged_is_refused(
    open_store: OpenStore, spoil: Callable[[Path], object]
) -> None:
    store = await open_store()
    await opened(store)
    await store.close()
    spoil(store.data / "invocations.mark")

    with pytest.raises(StoreDamaged, match=r"invocations\.mark is (gone|damaged)"):
        await opened(await open_store())


async def test_a_ledger_that_has_vanished_is_refused(open_store: OpenStore, store: Store) -> None:
    await opened(store)
    await store.jetstream.api("STREAM.DELETE.INVOCATIONS")

    with pytest.raises(StoreDamaged, match="INVOCATIONS"):
        await opened(store)


async def test_the_mark_is_exact_after_each_write_without_waiting_for_the_disk(
    store: Store, ledger: Ledger
) -> None:
    firsts = await asyncio.gather(*(ledger.write([Write(f"{SUBJECT}.{n}", b"x")] * 2) for n in range(30)))

    assert ledger._mark.sequence == max(firsts) + 1 == 60
    assert store.guard.mark.sequence == 0

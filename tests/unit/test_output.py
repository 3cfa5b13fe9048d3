"""Output: what is printed is kept up to a bound, and the rest drained."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import suppress

import pytest

from stoker.testing.clock import in_fake_time, passed, settled
from stoker.worker.output import READS_MAX, REST_S, Output


class Pipe:
    """Both ends; the read end belongs to who takes it."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()
        os.set_blocking(self.read_end, False)
        os.set_blocking(self.write_end, False)

    def print(self, text: bytes) -> int:
        with suppress(BlockingIOError):
            return os.write(self.write_end, text)
        return 0

    def close(self) -> None:
        if self.write_end >= 0:
            os.close(self.write_end)
            self.write_end = -1


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()


def descriptors() -> set[str]:
    return {fd for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")}


def opened(pipe: Pipe, bytes_max: int = 1000) -> Output:
    output = Output(pipe.read_end, asyncio.get_running_loop(), bytes_max)
    output.open()
    return output


@in_fake_time
async def test_what_was_printed_before_the_look_is_seen_by_it(pipe: Pipe) -> None:
    output = opened(pipe)

    pipe.print(b"one\n")
    first = output.take()  # no turn of the loop in between
    pipe.print(b"two\n")
    await settled()
    second = output.take()
    output.close()

    assert first == (b"one\n", 4)
    assert second == (b"two\n", 4)


@in_fake_time
async def test_nothing_printed_is_nothing_taken(pipe: Pipe) -> None:
    output = opened(pipe)
    assert output.take() == (b"", 0)
    output.close()


@in_fake_time
async def test_what_is_past_the_bound_is_counted_and_drained(pipe: Pipe) -> None:
    output = opened(pipe, 10)

    printed = 0
    for _ in range(50):
        printed += pipe.print(b"x" * 60_000)
        await passed(REST_S)
    log, total = output.take()
    pipe.print(b"after\n")
    after = output.take()
    output.close()

    assert printed == 3_000_000  # the pipe was never full for long
    assert (log, total) == (b"x" * 10, printed)
    assert after == (b"after\n", 6)


@in_fake_time
async def test_a_flood_does_not_hold_up_the_look(pipe: Pipe) -> None:
    # Whoever prints as fast as it is read must not keep the server at it.
    output = opened(pipe, 10)
    there = pipe.print(b"x" * 60_000)
    looks = 0
    read = output._read

    def refilled() -> int:
        nonlocal looks
        looks += 1
        assert looks < 10
        pipe.print(b"x" * 60_000)
        return read()

    output._read = refilled  # type: ignore[method-assign]
    _, total = output.take()
    output.close()

    assert total >= there


@in_fake_time
async def test_a_function_that_reads_its_own_output_takes_it_away_from_nobody_else(pipe: Pipe) -> None:
    # It may open the pipe by its name in /proc, and be quicker between our look and our read.
    output = opened(pipe, 10)
    thief = os.open(f"/proc/self/fd/{pipe.read_end}", os.O_RDONLY | os.O_NONBLOCK)
    pipe.print(b"x" * 20)
    there = output._there

    def stolen_in_between() -> int:
        found = there()
        with suppress(BlockingIOError):
            os.read(thief, 65_536)
        return found

    first = output.take()
    pipe.print(b"x" * 20)
    output._there = stolen_in_between  # type: ignore[method-assign]
    kept = output.take()
    pipe.print(b"x" * 20)
    drained = output._drain()
    output.close()
    os.close(thief)

    assert first == (b"x" * 10, 20)
    assert (kept, drained) == ((b"", 0), -1)


@in_fake_time
async def test_who_prints_byte_by_byte_does_not_keep_the_loop_to_itself(pipe: Pipe) -> None:
    output = opened(pipe)
    reads = 0
    read = output._read

    def counted() -> int:
        nonlocal reads
        reads += 1
        count = read()
        pipe.print(b"x")
        return count

    output._read = counted  # type: ignore[method-assign]
    pipe.print(b"x")
    await settled()  # would not settle
    before = reads
    await passed(REST_S * 3)
    output.close()

    assert before == READS_MAX
    assert reads <= READS_MAX * 5


@in_fake_time
async def test_the_end_of_all_writers_is_no_busy_loop_and_what_they_printed_is_there(pipe: Pipe) -> None:
    output = opened(pipe)
    pipe.print(b"last words")

    pipe.close()
    await settled()  # would not settle if the end were read again and again
    taken = output.take()
    output.close()

    assert taken == (b"last words", 10)


@pytest.mark.parametrize("printed", [b"", b"x" * 5000], ids=["quiet", "drained"])
@in_fake_time
async def test_closing_gives_every_descriptor_back_once(pipe: Pipe, printed: bytes) -> None:
    before = descriptors()
    output = opened(pipe, 10)
    pipe.print(printed)
    await settled()

    output.close()
    output.close()

    assert output.take()[1] == len(printed)
    assert descriptors() == before - {str(pipe.read_end)}

"""What goes together in one batch, and what has to wait for the next."""

from __future__ import annotations

from collections import deque

from stoker.backbone.connection import Message
from stoker.backbone.event_log import EXPECTED
from stoker.backbone.group_commit import BATCH_BYTES_MAX, Group, take_batch


def plain(*subjects: str, data: bytes = b"") -> Group:
    """Return a group that expects nothing."""
    return Group([Message(subject, data) for subject in subjects], reserve=False)


def expecting(subject: str) -> Group:
    """Return a group that expects something of its subject."""
    return Group([Message(subject, b"", {EXPECTED: "0"})], reserve=False)


def batches(*groups: Group) -> list[list[int]]:
    """Return the numbers of the groups that go together, batch by batch."""
    waiting = deque(groups)
    taken = []
    while waiting:
        taken.append([groups.index(group) for group in take_batch(waiting)])
    return taken


async def test_groups_of_different_subjects_go_together() -> None:
    assert batches(plain("a"), expecting("b"), plain("c", "d")) == [[0, 1, 2]]


async def test_what_is_expected_of_a_subject_waits_for_what_is_written_to_it_before() -> None:
    assert batches(plain("a"), expecting("a"), expecting("a")) == [[0], [1], [2]]


async def test_an_expectation_and_then_plain_writes_of_a_subject_go_together() -> None:
    assert batches(expecting("a"), plain("a"), plain("a")) == [[0, 1, 2]]


async def test_those_behind_one_that_waits_go_ahead_unless_they_concern_its_subjects() -> None:
    waits = Group([Message("a", b"", {EXPECTED: "1"}), Message("b")], reserve=False)

    assert batches(plain("a"), waits, plain("c"), plain("b"), plain("b", "d"), plain("d")) == [
        [0, 2],
        [1, 3, 4, 5],
    ]


async def test_a_batch_has_at_most_a_thousand_messages_and_a_group_is_never_split() -> None:
    large = plain(*(f"a{number}" for number in range(600)))

    assert batches(large, large, plain("b")) == [[0], [0, 2]]


async def test_a_group_past_the_bytes_of_a_batch_goes_alone() -> None:
    small, large = plain("a"), plain("b", data=bytes(BATCH_BYTES_MAX))

    assert batches(small, large, small) == [[0], [1], [0]]

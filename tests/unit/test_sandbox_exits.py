"""What a wait status means."""

from __future__ import annotations

from pathlib import Path

import pytest

from stoker.sandbox.cell import TRANSITIONS, State
from stoker.sandbox.exits import exit_of
from stoker.sandbox.spawn import owner_of


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (0, (0, None)),
        (3 << 8, (3, None)),
        (128 << 8, (128, None)),
        (137 << 8, (None, 9)),
        (139 << 8, (None, 11)),
        (255 << 8, (255, None)),
        (9, (None, 9)),
        (15 | 0x80, (None, 15)),
    ],
)
def test_a_status_is_a_code_or_a_signal_also_one_that_a_shell_hands_on(
    status: int, expected: tuple[int | None, int | None]
) -> None:
    assert exit_of(status) == expected


def test_every_state_can_come_to_its_end_and_the_end_is_final() -> None:
    assert set(TRANSITIONS) == set(State)
    assert TRANSITIONS[State.OVER] == set()
    assert all(State.OVER in TRANSITIONS[state] for state in State if state is not State.OVER)


def test_data_directories_have_names_of_their_own_by_their_real_path(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "one")

    assert owner_of(tmp_path / "one") == owner_of(tmp_path / "link")
    assert owner_of(tmp_path / "one") != owner_of(tmp_path / "two")
    assert len(owner_of(tmp_path)) == 12

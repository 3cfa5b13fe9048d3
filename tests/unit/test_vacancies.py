"""What a note on erased events says, as it is stored."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.backbone.vacancies import note_of, places_in

NOTE = b'{"format":1,"places":[[1,3],[7,7]]}'
"""Never edited: what was written must be readable for good."""


def test_a_note_has_stretches_of_places() -> None:
    assert note_of([7, 3, 1, 2]) == NOTE
    assert list(places_in(NOTE)) == [1, 2, 3, 7]


@given(st.sets(st.integers(1, 500)))
def test_a_note_names_what_it_was_made_of(places: set[int]) -> None:
    assert set(places_in(note_of(places))) == places


@pytest.mark.parametrize(
    "note", [b"", b"no JSON", b"[]", b'{"format":2,"places":[[1,3]]}', b'{"format":1,"places":[[1]]}']
)
def test_a_note_that_cannot_be_read_excuses_no_empty_place(note: bytes) -> None:
    assert list(places_in(note)) == []

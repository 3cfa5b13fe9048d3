"""What people see: tables at 80 columns and in a file, colours only where there is a terminal."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import pytest

from stoker.cli.screen import Screen, duration_text, size_text, time_text

HEADS = ("NAME", "DESCRIPTION")
LONG = "word " * 30


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def screen_on(
    out: io.StringIO, err: io.StringIO | None = None, environ: dict[str, str] | None = None
) -> Screen:
    return Screen(json=False, out=out, err=err or io.StringIO(), environ=environ or {})


@pytest.fixture(autouse=True)
def eighty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def test_a_table_on_a_terminal_fits_its_width() -> None:
    out = Terminal()

    screen_on(out, environ={"NO_COLOR": "1"}).table(HEADS, [("hello", LONG), ("x", "short")], empty="none")

    lines = out.getvalue().splitlines()
    assert lines[0] == "NAME   DESCRIPTION"
    assert len(lines[1]) == 80
    assert lines[1].endswith("…")
    assert lines[2] == "x      short"


def test_a_table_in_a_file_is_never_cut_and_has_no_colours() -> None:
    out = io.StringIO()

    screen_on(out).table(HEADS, [("hello", LONG)], empty="none")

    assert out.getvalue() == f"NAME   DESCRIPTION\nhello  {LONG.rstrip()}\n"


def test_colours_are_for_terminals_that_want_them() -> None:
    cases: list[tuple[io.StringIO, dict[str, str], bool]] = [
        (Terminal(), {}, True),
        (Terminal(), {"NO_COLOR": "1"}, False),
        (Terminal(), {"TERM": "dumb"}, False),
        (io.StringIO(), {}, False),
    ]
    for out, environ, coloured in cases:
        screen = screen_on(out, environ=environ)
        assert ("\x1b[" in screen.status_out("ok")) is coloured


def test_a_cell_stays_in_its_place_whatever_it_holds() -> None:
    out = io.StringIO()

    screen_on(out).table(("A", "B"), [("x\ny\x1b[31m", "z")], empty="none")

    assert out.getvalue() == "A         B\nx y [31m  z\n"


def test_an_empty_table_is_said_beside_the_output() -> None:
    out, err = io.StringIO(), io.StringIO()

    screen_on(out, err).table(HEADS, [], empty="nothing here")

    assert (out.getvalue(), err.getvalue()) == ("", "nothing here\n")


def test_progress_is_for_terminals() -> None:
    for err, shows in ((Terminal(), True), (io.StringIO(), False)):
        screen_on(io.StringIO(), err).progress("uploading").show(50, 100)
        assert ("uploading [" in err.getvalue()) is shows


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 KB"), (2_000_000, "2.0 MB"), (3e9, "3.0 GB")]
)
def test_sizes_are_readable(count: float, text: str) -> None:
    assert size_text(count) == text


@pytest.mark.parametrize(
    ("ms", "text"), [(None, ""), (0, "0 ms"), (0.123, "0.12 ms"), (42.4, "42 ms"), (12_345, "12.3 s")]
)
def test_durations_are_readable(ms: float | None, text: str) -> None:
    assert duration_text(ms) == text


def test_a_time_of_today_is_shown_without_its_date() -> None:
    now = datetime(2026, 3, 4, 12, 0, 0, tzinfo=UTC).astimezone()
    today = now.replace(hour=1, minute=2, second=3)

    assert time_text(today.isoformat(), now) == "01:02:03"
    assert time_text(today.replace(day=3).isoformat(), now) == "Mar 03 01:02"
    assert time_text(today.replace(year=2025).timestamp(), now) == "2025-03-04"
    assert time_text(None, now) == ""

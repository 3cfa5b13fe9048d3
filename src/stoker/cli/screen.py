"""What people see: tables, colours where there is a terminal, JSON where it was asked for.

Does not know what is shown.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, TextIO

WIDTH_MIN = 40


class Screen:
    """Standard output for what was asked for, standard error for all that is said beside it."""

    def __init__(
        self,
        *,
        json: bool,
        out: TextIO | None = None,
        err: TextIO | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.json = json
        self._out = out or sys.stdout
        self._err = err or sys.stderr
        environ = os.environ if environ is None else environ
        allowed = not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
        self.is_terminal = self._out.isatty()
        self._out_colours = allowed and self.is_terminal
        self._err_colours = allowed and self._err.isatty()

    # -- what was asked for ------------------------------------------------------------------------

    def line(self, text: str = "") -> None:
        """Print a line."""
        self._out.write(text + "\n")
        self._out.flush()

    def text(self, text: str) -> None:
        """Print text as it is."""
        self._out.write(text)
        self._out.flush()

    def document(self, value: Any) -> None:
        """Print one JSON document; where many follow each other, one is a line."""
        import msgspec

        self.line(msgspec.json.encode(value).decode())

    def table(
        self,
        heads: Sequence[str],
        rows: Sequence[Sequence[str]],
        *,
        empty: str,
        status_at: int | None = None,
    ) -> None:
        """Print rows under their heads; the column `status_at` is coloured as statuses are.

        On a terminal the last column is cut where the line would be; elsewhere nothing is ever cut.
        Where there are no rows, `empty` is said on standard error.
        """
        if not rows:
            self.note(empty)
            return
        cells = [[_plain(cell) for cell in row] for row in rows]
        widths = [max(len(row[at]) for row in (heads, *cells)) for at in range(len(heads))]
        if self.is_terminal:
            before = sum(widths[:-1]) + 2 * (len(widths) - 1)
            widths[-1] = max(8, min(widths[-1], self.width - before))
        self.line(self.dim_out("  ".join(map(_fit, heads, widths)).rstrip()))
        for row in cells:
            shown = [_fit(cell, width) for cell, width in zip(row, widths, strict=True)]
            if status_at is not None:
                shown[status_at] = self.status_out(row[status_at], shown[status_at])
            self.line("  ".join(shown).rstrip())

    def facts(self, facts: Sequence[tuple[str, str]]) -> None:
        """Print names with what they stand for."""
        width = max(len(name) for name, _ in facts)
        for name, value in facts:
            self.line(f"{self.dim_out(name.ljust(width))}  {value}")

    @property
    def width(self) -> int:
        """Columns of the terminal."""
        return max(WIDTH_MIN, shutil.get_terminal_size((80, 24)).columns)

    @property
    def height(self) -> int:
        """Lines of the terminal."""
        return shutil.get_terminal_size((80, 24)).lines

    # -- what is said beside it ------------------------------------------------------------------

    def note(self, text: str) -> None:
        """Say something on standard error."""
        self._err.write(text + "\n")
        self._err.flush()

    def progress(self, what: str) -> Progress:
        """Return what shows how far something is; nothing where nobody looks."""
        return Progress(self._err if self._err.isatty() and not self.json else None, what, self.width)

    def red(self, text: str) -> str:
        """Colour what goes to standard error."""
        return _coloured(text, "31", self._err_colours)

    def dim(self, text: str) -> str:
        """Colour what goes to standard error."""
        return _coloured(text, "2", self._err_colours)

    def dim_out(self, text: str) -> str:
        """Colour what goes to standard output."""
        return _coloured(text, "2", self._out_colours)

    def bold_out(self, text: str) -> str:
        """Colour what goes to standard output."""
        return _coloured(text, "1", self._out_colours)

    def good_out(self, text: str) -> str:
        """Colour what goes to standard output."""
        return _coloured(text, "32", self._out_colours)

    def bad_out(self, text: str) -> str:
        """Colour what goes to standard output."""
        return _coloured(text, "31", self._out_colours)

    def status_out(self, status: str, shown: str | None = None) -> str:
        """Colour how an invocation ended: `shown` is its text, the status if there is none."""
        text = status if shown is None else shown
        if status in ("queued", "running"):
            return self.bold_out(text)
        return self.good_out(text) if status == "ok" else self.bad_out(text)


class Progress:
    """A bar that goes when it is done."""

    def __init__(self, err: TextIO | None, what: str, width: int) -> None:
        self._err = err
        self._what = what
        self._bar = max(10, width - len(what) - 30)

    def show(self, done: int, total: int) -> None:
        """Show that `done` of `total` bytes are through."""
        if self._err is None:
            return
        full = self._bar * done // max(total, 1)
        bar = "#" * full + "-" * (self._bar - full)
        self._err.write(f"\r{self._what} [{bar}] {size_text(done)} of {size_text(total)}")
        self._err.write("\r\x1b[K" if done >= total else "")
        self._err.flush()

    def count(self, done: int) -> None:
        """Show how many bytes are through, where nobody knows of how many."""
        if self._err is not None:
            self._err.write(f"\r{self._what} {size_text(done)}\x1b[K")
            self._err.flush()

    def clear(self) -> None:
        """Take away what is shown."""
        if self._err is not None:
            self._err.write("\r\x1b[K")
            self._err.flush()


def size_text(count: float) -> str:
    """Return bytes as people read them."""
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def duration_text(ms: float | None) -> str:
    """Return milliseconds as people read them."""
    if ms is None:
        return ""
    if ms < 10:
        return f"{ms:.2g} ms" if ms else "0 ms"
    return f"{ms:.0f} ms" if ms < 10_000 else f"{ms / 1000:.1f} s"


def time_text(at: str | float | None, now: datetime) -> str:
    """Return a time, RFC 3339 or seconds since the epoch, as the clock on the wall here shows it."""
    if at is None or at == "":
        return ""
    found = datetime.fromtimestamp(at) if isinstance(at, (int, float)) else datetime.fromisoformat(at)
    local = found.astimezone()
    if local.date() == now.date():
        return local.strftime("%H:%M:%S")
    return local.strftime("%b %d %H:%M" if local.year == now.year else "%Y-%m-%d")


def _fit(text: str, width: int) -> str:
    return text.ljust(width) if len(text) <= width else text[: width - 1] + "…"


def _plain(text: str) -> str:
    """Return text that stays in its cell: a description may hold line breaks and worse."""
    return "".join(char if char.isprintable() else " " for char in text)


def _coloured(text: str, code: str, on: bool) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if on else text

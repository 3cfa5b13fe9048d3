"""Tails: what calls print, told to who follows their function, while they print it.

Owns the cut into whole lines. Does not know where the output comes from, nor who reads the lines.
"""

from __future__ import annotations

from collections.abc import Callable

Tap = Callable[[bytes, bytes], None]
"""Is told the id of a call and what it printed: whole lines, but for the last of a call."""


def cut_notice(bytes_max: int) -> bytes:
    """Return the line that stands for what is past the bound of a log."""
    return f"[stoker: the log is cut at {bytes_max} bytes]\n".encode()


class Tail:
    """What of one call's log has been told."""

    __slots__ = ("_at", "_bytes_max", "_call_id", "_is_cut", "_tap")

    def __init__(self, tap: Tap, call_id: bytes, bytes_max: int) -> None:
        self._tap = tap
        self._call_id = call_id
        self._bytes_max = bytes_max
        self._at = 0
        self._is_cut = False

    def skip(self, log: bytes | bytearray) -> None:
        """Leave out the whole lines that are there already."""
        self._at = log.rfind(b"\n") + 1

    def more(self, log: bytes | bytearray, total: int) -> None:
        """Tell the whole lines that came to a log, which is kept from its beginning up to the bound.

        `total` is how much was printed, also past the bound.
        """
        end = len(log) if total > len(log) else log.rfind(b"\n", self._at) + 1
        self._tell(log, end, total)

    def end(self, log: bytes, total: int) -> None:
        """Tell what is left of the log, which is complete."""
        self._tell(log, len(log), total)

    def _tell(self, log: bytes | bytearray, end: int, total: int) -> None:
        text = bytes(log[self._at : end])
        self._at = max(self._at, end)
        if total > len(log) and not self._is_cut:
            self._is_cut = True
            if log and not log.endswith(b"\n"):
                text += b"\n"
            text += cut_notice(self._bytes_max)
        if text:
            self._tap(self._call_id, text)


class Followers:
    """Who follows one function; a `Tap` that tells all of them."""

    def __init__(self, on_error: Callable[[Exception], None]) -> None:
        self._taps: list[Tap] = []
        self._on_error = on_error

    def __bool__(self) -> bool:
        return bool(self._taps)

    def __call__(self, call_id: bytes, text: bytes) -> None:
        for tap in list(self._taps):
            try:
                tap(call_id, text)
            except Exception as error:  # who listens must not cost the call its instance
                self._on_error(error)

    def add(self, tap: Tap) -> None:
        """Have one more told of all that comes."""
        self._taps.append(tap)

    def remove(self, tap: Tap) -> None:
        """Tell this one nothing more. Harmless when repeated."""
        if tap in self._taps:
            self._taps.remove(tap)

"""The busiest: which few of many have series of their own, and what all others come to together.

Does not know what it follows: keys, names and numbers come in, whenever somebody looks.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field

BUSIEST_MAX = 100
"""A store of metrics pays for every series, for as long as it keeps any."""
FADE = 0.9
"""What is left at each look of how busy one was before."""
BUSIER = 2.0
"""One takes the place of another when it is so many times as busy: series must not come and go."""

Counts = Mapping[str, float]
"""Numbers that only grow, by what they count."""


@dataclass(frozen=True, slots=True)
class Followed:
    """One of the many, with all that it came to so far."""

    key: Hashable
    """The same for its whole life."""
    labels: Mapping[str, str] | None
    """What its series is known by, told from all others'; None once it is gone and has none any more."""
    calls: float
    """How busy it was so far."""
    counts: Counts


@dataclass(frozen=True, slots=True)
class Row:
    """What one of the busiest came to since it is one of them; without labels, what all others came to."""

    labels: Mapping[str, str] | None
    counts: Counts


@dataclass(slots=True)
class _Known:
    """One of the many, as it was at the last look."""

    busy: float = 0.0
    calls: float = 0.0
    seen: Counts = field(default_factory=dict)
    own: dict[str, float] | None = None
    """What it came to since it has a row; None without one."""


class Busiest:
    """Gives the busiest a row each, and the rest one together.

    What is counted is in one row only, and no row ever shrinks: what one came to while it had no row stays in
    that of the rest. A row that ends takes its numbers with it.
    """

    def __init__(self, most: int = BUSIEST_MAX) -> None:
        self._most = most
        self._known: dict[Hashable, _Known] = {}
        self._rows = 0
        self._rest: dict[str, float] = {}

    def rows(self, many: Iterable[Followed]) -> list[Row]:
        """Return all rows, that of the rest last. To be given every one that there is or was, each time."""
        looked = [(one, self._look(one)) for one in many]
        own = [Row(one.labels, dict(known.own)) for one, known in looked if known.own is not None]
        self._make_way([known for one, known in looked if one.labels is not None])
        return [*own, Row(None, dict(self._rest))]

    def _look(self, one: Followed) -> _Known:
        known = self._known.get(one.key)
        if known is None:
            known = self._known[one.key] = _Known()
            if one.labels is not None and self._rows < self._most:
                self._give(known)
        if one.labels is None and known.own is not None:
            self._take(known)
        row = self._rest if known.own is None else known.own
        for what, value in one.counts.items():
            row[what] = row.get(what, 0.0) + value - known.seen.get(what, 0.0)
        known.busy = known.busy * FADE + one.calls - known.calls
        known.calls, known.seen = one.calls, one.counts
        return known

    def _make_way(self, living: list[_Known]) -> None:
        """Give rows to those that are much busier than some that have one."""
        without = sorted((known for known in living if known.own is None), key=_busy, reverse=True)
        with_row = sorted((known for known in living if known.own is not None), key=_busy)
        leaving = iter(with_row)
        for known in without:
            if not known.busy:
                return
            if self._rows >= self._most:
                last = next(leaving, None)
                if last is None or known.busy <= BUSIER * last.busy:
                    return
                self._take(last)
            self._give(known)

    def _give(self, known: _Known) -> None:
        known.own = dict.fromkeys(known.seen, 0.0)
        self._rows += 1

    def _take(self, known: _Known) -> None:
        known.own = None
        self._rows -= 1


def _busy(known: _Known) -> float:
    return known.busy

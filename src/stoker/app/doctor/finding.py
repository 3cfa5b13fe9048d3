"""What the doctor found: one line a check. Does not know what was checked, nor how it is shown."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class State(Enum):
    """How a check came out."""

    OK = "ok"
    WEAK = "weak"
    UNTRIED = "untried"
    """It could not be tried here, so nothing is known."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One check."""

    area: str
    """`isolation`, `limits`, `durability` or `machine`."""
    name: str
    state: State
    found: str
    """What was seen, in words."""
    hint: str = ""
    """What to do; empty if it holds."""


@dataclass(frozen=True, slots=True)
class Check:
    """A check that is about to be made."""

    area: str
    name: str
    hint: str
    """What to do if it does not hold."""

    def holds(self, found: str) -> Finding:
        """It was tried, and holds."""
        return Finding(self.area, self.name, State.OK, found)

    def weak(self, found: str) -> Finding:
        """It was tried, and does not hold."""
        return Finding(self.area, self.name, State.WEAK, found, self.hint)

    def untried(self, why: str, hint: str | None = None) -> Finding:
        """It could not be tried."""
        return Finding(self.area, self.name, State.UNTRIED, why, self.hint if hint is None else hint)

    def judged(self, faults: list[str], found: str) -> Finding:
        """It holds if there are no faults."""
        return self.weak("; ".join(faults)) if faults else self.holds(found)

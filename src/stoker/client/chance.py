"""Where a client's chance comes from: pauses that spread, and keys that nobody else has."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from uuid import uuid4


@dataclass(frozen=True, slots=True)
class Randomness:
    """Two sources, to be replaced in tests."""

    chance: Callable[[], float] = random.random
    """From 0 to 1."""
    new_key: Callable[[], str] = lambda: uuid4().hex

"""Holding: how much memory the bodies of all requests under way take together, and when that is enough.

The first part of every body is free: who sends little is refused for nobody else's sake. Does not know
connections, nor what a body is for.
"""

from __future__ import annotations

from stoker.model.errors import NoCapacity
from stoker.model.limits import MIB

FREE_BYTES = 1 * MIB
"""Of each body, which are not counted."""


class Holding:
    """One for a server. What was taken has to be given back."""

    __slots__ = ("_bytes", "_bytes_max")

    def __init__(self, bytes_max: int) -> None:
        self._bytes = 0
        self._bytes_max = bytes_max

    def take(self, count: int) -> None:
        """Count so many bytes more. Raises NoCapacity if they would be too many, and counts none of them."""
        if self._bytes + count > self._bytes_max:
            raise NoCapacity(
                f"the bodies of requests under way take as much memory as they may, {self._bytes_max} bytes",
                hint="try again later; what is streamed (PUT /compute/assets/{key}) takes none",
            )
        self._bytes += count

    def give(self, count: int) -> None:
        """Count them no more."""
        self._bytes -= count

"""Payloads: which of those that wait are kept in memory; the others lie in the store alone.

Owns the sum of what is kept. Does not know the store, nor whose turn it is.
"""

from __future__ import annotations

from stoker.invocation.live import Live
from stoker.model.limits import MIB

KEPT_BYTES_MAX = 64 * MIB
"""For a queue: the backlog of one function may be larger than the memory of a machine."""


class Payloads:
    """One for a queue. An invocation's record of itself, `Live.accepted`, is kept without its payload."""

    def __init__(self, bytes_max: int = KEPT_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self.kept_bytes = 0

    def take(self, one: Live) -> None:
        """Take a new one in; its payload is kept only if there is room for it."""
        self._strip(one)
        if one.payload is not None:
            self.kept_bytes += len(one.payload)
            self.rest(one)

    def loaded(self, one: Live, payload: bytes) -> None:
        """Keep the payload of one whose turn has come, whatever room there is."""
        self.let_go(one)
        one.payload = payload
        self.kept_bytes += len(payload)

    def rest(self, one: Live) -> None:
        """Let one wait: past the bound its payload is read from the store when its turn comes."""
        if self.kept_bytes > self._bytes_max:
            self.let_go(one)

    def let_go(self, one: Live) -> None:
        """Keep nothing of it."""
        if one.payload is not None:
            self.kept_bytes -= len(one.payload)
            one.payload = None

    def restore(self, one: Live) -> None:
        """Give `accepted` its payload back, for a write that stores it anew."""
        if one.payload is not None and not one.accepted.payload_pieces:
            one.accepted = one.accepted.with_payload(one.payload.decode())

    def stored(self, one: Live) -> None:
        """Take it out again after such a write."""
        self._strip(one)

    @staticmethod
    def _strip(one: Live) -> None:
        if one.accepted.work.payload is not None:
            one.accepted = one.accepted.with_payload(None)

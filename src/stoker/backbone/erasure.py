"""Erasure: messages leave a stream, and the disk.

Owns which of nats-server's two ways a message goes. Does not know why it has to.

To overwrite a message nats-server 2.15.1 writes its whole block anew, up to 8 MiB, and holds the stream's
writers off meanwhile: 10 ms each, whatever is asked for at once. To delete it is a mark of its own, 0.3 ms,
and the bytes leave the disk when less than half of the block is left, or the last message in it goes. So a
share of the time goes into overwriting; what is more than that, and so fills blocks quickly and empties
them as quickly, is deleted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from itertools import islice

from stoker.backbone.jetstream import JetStream, Refused

WINDOW = 32
"""Deletions in flight; more are no faster (3,100 a second)."""
SHARE = 0.1
"""Of the time may go into overwriting, during which nothing else is written."""
CREDIT_S_MAX = 2.0
"""Time for overwriting that is saved up while nothing is erased: 200 messages of large blocks at a time."""


class Erasure:
    """One for a stream."""

    def __init__(self, jetstream: JetStream, stream: str) -> None:
        self._jetstream = jetstream
        self._stream = stream
        self._credit_s = CREDIT_S_MAX
        self._counted_s: float | None = None
        self._overwriting = asyncio.Lock()

    async def erase(self, sequences: Sequence[int]) -> None:
        """Return once they are gone from the stream. Harmless for what is gone already.

        Their bytes are off the disk too for as many as there is time to overwrite. Raises Unavailable.
        """
        rest = iter(sequences)
        async with self._overwriting:  # the server does one after the other anyway
            while self._has_credit():
                sequence = next(rest, None)
                if sequence is None:
                    return
                await self._overwrite(sequence)
        while chunk := list(islice(rest, WINDOW)):
            removals = (self._remove(sequence, keep_bytes=True) for sequence in chunk)
            for error in await asyncio.gather(*removals, return_exceptions=True):
                if error is not None:
                    raise error

    async def overwrite(self, sequences: Iterable[int]) -> None:
        """Return once they are gone from the stream and off the disk, one after the other.

        However long that takes: writers get most of the time. Raises Unavailable.
        """
        for sequence in sequences:
            async with self._overwriting:
                if not self._has_credit():
                    await asyncio.sleep(-self._credit_s / SHARE)
                await self._overwrite(sequence)

    def _has_credit(self) -> bool:
        now = asyncio.get_running_loop().time()
        if self._counted_s is not None:
            self._credit_s = min(CREDIT_S_MAX, self._credit_s + SHARE * (now - self._counted_s))
        self._counted_s = now
        return self._credit_s > 0

    async def _overwrite(self, sequence: int) -> None:
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        await self._remove(sequence, keep_bytes=False)
        self._credit_s -= loop.time() - begun_s

    async def _remove(self, sequence: int, *, keep_bytes: bool) -> None:
        try:
            await self._jetstream.api(
                f"STREAM.MSG.DELETE.{self._stream}", {"seq": sequence, "no_erase": keep_bytes}
            )
        except Refused as refusal:
            if not refusal.gone_already:
                raise

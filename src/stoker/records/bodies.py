"""Bodies: payloads and results too large to lie within their record's message.

They are stored in pieces, in the same atomic write as the message that needs them. Does not know what
they mean.
"""

from __future__ import annotations

from typing import Protocol

from stoker.backbone.event_log import Event
from stoker.backbone.ledger import Write
from stoker.model.errors import NotFound
from stoker.records import formats

PAYLOAD, RESULT, ANSWER = "payload", "result", "answer"


class Pieces(Protocol):
    """Where stored messages are read from."""

    async def last(self, subject: str) -> Event | None: ...


def detach(account: str, invocation_id: str, which: str, text: str | None) -> tuple[str | None, list[Write]]:
    """Return a text as it is and no writes, or None and the writes of its pieces if it is large."""
    if text is None or len(text) * 4 <= formats.BODY_BYTES_MAX:
        return text, []
    raw = text.encode()
    if len(raw) <= formats.BODY_BYTES_MAX:
        return text, []
    pieces = formats.pieces_of(raw)
    return None, [
        Write(formats.body_subject(account, invocation_id, which, number), piece)
        for number, piece in enumerate(pieces)
    ]


async def attach(ledger: Pieces, account: str, invocation_id: str, which: str, pieces: int) -> str:
    """Return a text that was detached into so many pieces. Raises NotFound if it has expired meanwhile."""
    parts: list[bytes] = []
    for number in range(pieces):
        stored = await ledger.last(formats.body_subject(account, invocation_id, which, number))
        if stored is None:
            raise NotFound("no such invocation")
        parts.append(stored.data)
    return b"".join(parts).decode()

"""The bus: what this room asks of NATS.

Owns the rule whom may be answered. Does not know connections.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

INBOX = "_INBOX."
"""Where clients wait for answers. We answer nowhere else: this server may publish what its clients may not
(the store's own subjects), and a request names the subject that is published to."""


class Incoming(Protocol):
    """A message that came in."""

    @property
    def subject(self) -> str: ...

    @property
    def reply(self) -> str:
        """Where an answer is waited for; empty if it is not."""

    @property
    def data(self) -> bytes: ...

    @property
    def headers(self) -> Mapping[str, str] | None: ...


class Bus(Protocol):
    """Subjects that are served, and answers that are sent."""

    @property
    def answer_bytes_max(self) -> int:
        """The largest answer that can be sent."""

    async def serve(self, subject: str, on_request: Callable[[Incoming], None], *, queue: str = "") -> None:
        """Have every message of `subject` given to `on_request`; of all who share a `queue` one gets it."""

    def answer(self, reply: str, data: bytes, headers: Mapping[str, str]) -> None:
        """Send an answer, without waiting."""


class Log(Protocol):
    """What this room asks of a logger."""

    def warning(self, event: str, **fields: object) -> object: ...


def may_be_answered(request: Incoming, log: Log) -> bool:
    """Tell whether somebody waits for an answer where we may give one; if not the log says so."""
    if request.reply.startswith(INBOX):
        return True
    event = "nats_reply_refused" if request.reply else "nats_request_without_reply"
    log.warning(event, subject=request.subject[:200], reply=request.reply[:200])
    return False

"""Response heads: status lines with the date of this second, built once and reused.

Owns the bytes above a body that do not depend on the request. Does not know what is answered.
"""

from __future__ import annotations

from email.utils import formatdate
from http import HTTPStatus

STATUS_PREFIX = b"HTTP/1.1 "
"""What every response begins with, whatever its status."""

STATUS_LINES = {s.value: b"HTTP/1.1 %d %b\r\n" % (s.value, s.phrase.encode()) for s in HTTPStatus}

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class ResponseHeads:
    """Heads of responses, valid until the next `tick`."""

    def __init__(self) -> None:
        self._date = b""
        self._json: dict[int, bytes] = {}

    def tick(self, epoch_s: float) -> None:
        """Take over the time. To be called about once a second; nothing else looks at a clock."""
        date = b"Date: %b\r\n" % formatdate(epoch_s, usegmt=True).encode()
        if date != self._date:
            self._date = date
            self._json.clear()

    def bare(self, status: int) -> bytes:
        """Return status line and Date."""
        return (STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status) + self._date

    def json(self, status: int) -> bytes:
        """Return the head of a JSON answer up to and including `Content-Length: `."""
        head = self._json.get(status)
        if head is None:
            head = self.bare(status) + b"Content-Type: application/json\r\nContent-Length: "
            self._json[status] = head
        return head

"""The supervisor's end of the control socket: packets and descriptors out without ever blocking.

Owns the queue of what the gateway has not taken yet. Does not know what the messages mean. Standard
library only.
"""

from __future__ import annotations

import os
import socket
from collections import deque

from stoker.model.packet import PACKET_BYTES_MAX, encode
from stoker.sandbox.protocol import Report

QUEUE_MAX = 100_000
"""Messages; a gateway that takes none of so many is as good as gone."""


class Gone(Exception):
    """The gateway closed its end, or stopped reading."""


class Post:
    """Sends reports in order, as the socket takes them."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._queue: deque[tuple[bytes, tuple[int, ...]]] = deque()

    def send(self, report: Report, descriptors: tuple[int, ...] = ()) -> bool:
        """Send a report or queue it; False if something waits for the socket to become writable.

        The descriptors are closed once they are on their way. Gone if nobody will ever read it.
        """
        if len(self._queue) >= QUEUE_MAX:
            raise Gone
        self._queue.append((encode(report), descriptors))
        return self.flush()

    def flush(self) -> bool:
        """Send what the socket takes now; False if something is left."""
        while self._queue:
            packet, descriptors = self._queue[0]
            try:
                socket.send_fds(self._control, [packet], list(descriptors))
            except BlockingIOError:
                return False
            except OSError as error:
                raise Gone from error
            self._queue.popleft()
            for handle in descriptors:
                os.close(handle)
        return True

    def receive(self) -> bytes | None:
        """Return the next packet, None if there is none yet; Gone at the end."""
        try:
            packet = self._control.recv(PACKET_BYTES_MAX + 1)
        except BlockingIOError:
            return None
        except OSError as error:
            raise Gone from error
        if not packet:
            raise Gone
        return packet

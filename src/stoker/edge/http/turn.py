"""Turns: one request's right to write on its connection, and what it may do there.

Owns the two protocols between a connection and its exchanges, and the simplest turn. Turns of one
connection begin strictly one after another, in the order in which their requests came:

    head or body read -> waiting -> current -> finished (answered) -> the next one, or idle
                                            -> left (the client went)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from stoker.edge.errors import ErrorAnswer

if TYPE_CHECKING:
    from stoker.edge.http.request import Exchange, Request


class Turn(Protocol):
    """One request (or refusal) in the order of answers."""

    @property
    def held_bytes(self) -> int:
        """The memory its body takes."""

    @property
    def probe_bytes(self) -> bytes:
        """What may be written ahead of the next part of the answer, and counts as its beginning."""

    def begin(self) -> None:
        """All that came before is answered."""

    def left(self) -> None:
        """The connection is lost, or the client will never finish the request."""

    def writable(self) -> None:
        """The client has caught up with reading."""


class Channel(Protocol):
    """What a turn needs of its connection. Every method is harmless after the connection is lost."""

    write_paused: bool
    """True while the client reads more slowly than we write."""

    def invoke(self, exchange: Exchange) -> None:
        """Call the handler of the invoke route."""

    def answer(self, request: Request | None, status: int, body: bytes, headers: bytes) -> None:
        """Write a whole JSON answer and end the turn. Without a request it is the connection's last."""

    def start_answer(self, *parts: bytes) -> None:
        """Write the beginning of an answer, which starts with `HTTP/1.1 `, less what a probe has sent."""

    def continue_answer(self, *parts: bytes) -> None:
        """Write more of it."""

    def finished(self, *, keep_alive: bool) -> None:
        """End the turn: the answer is complete."""

    def connection_line(self, request: Request, *, keep_alive: bool) -> bytes:
        """Return the Connection header of an answer, empty where it says what goes without saying."""

    def may_keep_alive(self) -> bool:
        """Tell whether the server wants more requests on this connection."""

    def send_continue(self) -> None:
        """Ask a client that waits for it to send the body."""

    def body_taken(self) -> None:
        """Note that a streamed body has been consumed so far, and read on."""

    def abort(self) -> None:
        """Cut the connection: the answer cannot be completed."""


class Refusal:
    """The turn of something that was no acceptable request: its answer is the connection's last."""

    __slots__ = ("_answer", "_channel")
    held_bytes = 0
    probe_bytes = b""

    def __init__(self, channel: Channel, answer: ErrorAnswer) -> None:
        self._channel = channel
        self._answer = answer

    def begin(self) -> None:
        """Answer."""
        answer = self._answer
        self._channel.answer(None, answer.status, answer.body, answer.header_lines)

    def left(self) -> None:
        """Nobody is there to be refused."""

    def writable(self) -> None:
        """A refusal is one write."""

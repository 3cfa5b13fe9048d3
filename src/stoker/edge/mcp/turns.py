"""Turns: requests under way for one token, each of which can be ended from outside with a whole answer.

Does not know the protocol that is spoken in them.
"""

from __future__ import annotations

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stoker.edge.errors import ErrorAnswers
from stoker.model.errors import StokerError


class Turns:
    """All of one token."""

    def __init__(self, errors: ErrorAnswers) -> None:
        self._errors = errors
        self._turns: set[_Turn] = set()

    def __len__(self) -> int:
        return len(self._turns)

    async def take(
        self, app: ASGIApp, scope: Scope, receive: Receive, send: Send, *, session: str | None = None
    ) -> int:
        """Have `app` answer a request, for as long as nobody ends it; return the status."""
        turn = _Turn(scope["method"], session, send)
        self._turns.add(turn)
        try:
            with turn.cancel:
                await app(scope, receive, turn.send)
            if turn.why is not None:
                await turn.close(self._errors)
            return turn.status
        finally:
            self._turns.discard(turn)

    def end(self, why: StokerError, *, streams_only: bool = False, session: str | None = None) -> None:
        """End them; who has no answer yet is told why. `streams_only`: those that only listen."""
        for turn in self._turns:
            meant = (turn.method == "GET" or not streams_only) and session in (None, turn.session)
            if meant and turn.why is None:
                turn.why = why
                turn.cancel.cancel()


class _Turn:
    """One request."""

    def __init__(self, method: str, session: str | None, send: Send) -> None:
        self.method = method
        self.session = session
        self.cancel = anyio.CancelScope()
        self.why: StokerError | None = None
        self.status = 0
        self._send = send
        self._complete = False

    async def send(self, message: Message) -> None:
        """Pass on a part of the answer."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif not message.get("more_body", False):
            self._complete = True
        await self._send(message)

    async def close(self, errors: ErrorAnswers) -> None:
        """Complete the answer of a request that was ended."""
        if self._complete:
            return
        body = b""
        if not self.status:
            assert self.why is not None
            found = errors.answer(self.why)
            body = found.body
            headers = [(b"content-type", b"application/json")]
            headers += [(name.encode(), value.encode()) for name, value in found.headers]
            await self.send({"type": "http.response.start", "status": found.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body, "more_body": False})

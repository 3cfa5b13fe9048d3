"""Answers: what is waited for on a connection's inbox, and which of it belongs to which request.

Owns the tokens that tell one from another. Does not know how a message is sent, nor what an answer means.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import count

from nats.aio.msg import Msg


class Expected:
    """What one attempt to send some messages waits for: the answers to its first and its last."""

    __slots__ = ("_answers", "_timer", "replies", "tokens")

    def __init__(
        self,
        tokens: Sequence[str],
        answers: Sequence[asyncio.Future[Msg | None]],
        replies: dict[int, str],
        timer: asyncio.TimerHandle,
    ) -> None:
        self.tokens = tokens
        self.replies = replies
        """Where an answer goes, by the index of its message; others have none."""
        self._answers = answers
        self._timer = timer

    async def answer(self) -> Msg | None:
        """Return the answer to the last, or in its place the one to the first if that is not empty.

        None if it was lost, also because nobody serves the subject.
        """
        received = None
        for answer in self._answers:
            received = await answer
            if received is None or _no_responders(received):
                return None
            if received.data:
                break
        return received

    def close(self) -> None:
        """Wait no longer."""
        self._timer.cancel()


class Answers:
    """One for a connection."""

    def __init__(self) -> None:
        self.inbox = ""
        """What the subjects of answers begin with; another one for each client."""
        self._waiting: dict[str, asyncio.Future[Msg | None]] = {}
        self._tokens = count(1)

    def __len__(self) -> int:
        return len(self._waiting)

    def expect(self, messages: int, *, wait_s: float) -> Expected:
        """Wait for answers to so many messages, which count as lost after so long. Let go with `forget`."""
        loop = asyncio.get_running_loop()
        tokens = [str(next(self._tokens)) for _ in {0, messages - 1}]
        answers: list[asyncio.Future[Msg | None]] = [loop.create_future() for _ in tokens]
        self._waiting.update(zip(tokens, answers, strict=True))
        replies = {0: self.inbox + tokens[0], messages - 1: self.inbox + tokens[-1]}
        return Expected(tokens, answers, replies, loop.call_later(wait_s, _lose, answers))

    def forget(self, expected: Expected) -> None:
        """Let go of what an attempt waited for. Harmless when repeated."""
        expected.close()
        for token in expected.tokens:
            self._waiting.pop(token, None)

    async def take(self, message: Msg) -> None:
        """Give an answer to who waits for it; late ones go nowhere."""
        answer = self._waiting.get(message.subject[len(self.inbox) :])
        if answer is not None and not answer.done():
            answer.set_result(message)

    def lose_all(self) -> None:
        """Have everybody who waits told at once that the answer is lost."""
        _lose(list(self._waiting.values()))


def _lose(answers: Sequence[asyncio.Future[Msg | None]]) -> None:
    for answer in answers:
        if not answer.done():
            answer.set_result(None)


def _no_responders(message: Msg) -> bool:
    return not message.data and (message.headers or {}).get("Status") == "503"

# Made from stoker/client/_async by `python -m stoker.testing.mirror`: change it there.
"""What happened: records, logs, the live tail, dead letters."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

import msgspec

from stoker.client import asks
from stoker.client._sync.session import Session
from stoker.client.answers import CallAnswer, call_answer
from stoker.client.errors import Details, ServerUnreachable
from stoker.client.names import function_path, segment
from stoker.client.types import LogLine, Record

WAIT_MS_MAX = 60_000
"""The longest that the server waits for an end in one request."""
PAGE = 200


class Invocations:
    """Invocations of the token's account."""

    def __init__(self, session: Session, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._session = session
        self._clock = clock

    def get(self, invocation_id: str, *, wait_ms: int = 0) -> Record:
        """Return a record; with `wait_ms` (to 60,000) as soon as it has ended, else as it is then."""
        path = f"/compute/invocations/{segment(invocation_id)}"
        query = {"wait": wait_ms or None}
        answer_s_max = asks.ANSWER_S_MAX + wait_ms / 1000
        return self._session.send(asks.get(path, asks.one(Record), query=query, answer_s_max=answer_s_max))

    def wait(self, invocation_id: str, *, timeout_s: float | None = None) -> Record:
        """Return the record of an invocation once it has ended. Raises TimeoutError."""
        until = None if timeout_s is None else self._clock() + timeout_s
        while True:
            left_ms = WAIT_MS_MAX if until is None else round((until - self._clock()) * 1000)
            record = self.get(invocation_id, wait_ms=max(0, min(left_ms, WAIT_MS_MAX)))
            if record.has_ended:
                return record
            if until is not None and self._clock() >= until:
                raise TimeoutError(f"{invocation_id} is still {record.status} after {timeout_s} s")

    def list(
        self,
        function: str | None = None,
        *,
        status: Sequence[str] = (),
        since: datetime | str | None = None,
        until: datetime | str | None = None,
        parent: str | None = None,
        limit: int | None = None,
    ) -> Iterator[Record]:
        """Yield records, the newest first, fetching them a page at a time; at most `limit` if it is given.

        `function` is a subject or `collection/name`, times have a zone, `parent` is the invocation whose
        function called them. Payload and result are in no list.
        """
        query = {
            "function": function,
            "status": ",".join(status) or None,
            "since": _time(since),
            "until": _time(until),
            "parent": parent,
        }
        cursor: str | None = None
        left = limit
        while left is None or left > 0:
            size = PAGE if left is None else min(left, PAGE)
            page = self._session.send(
                asks.get(
                    "/compute/invocations",
                    asks.page(Record),
                    query={**query, "limit": size, "cursor": cursor},
                )
            )
            yield from page.results
            cursor = page.next_cursor
            if cursor is None:
                return
            if left is not None:
                left -= len(page.results)

    def log(self, invocation_id: str) -> str:
        """Return what a call printed."""
        path = f"/compute/invocations/{segment(invocation_id)}/log"
        return self._session.send(asks.get(path, asks.text))

    def cancel(self, invocation_id: str) -> None:
        """End a queued or running Async invocation; raises AlreadyEnded."""
        path = f"/compute/invocations/{segment(invocation_id)}/cancel"
        self._session.send(asks.change("POST", path, asks.nothing))

    def replay(self, invocation_id: str, *, version: int | None = None) -> CallAnswer:
        """Run it once more with the same payload; the answer is that of its type of invocation.

        Raises FunctionFailed as an invoke does. It needs a payload that was kept (`store_payload`).
        """
        path = f"/compute/invocations/{segment(invocation_id)}/replay"
        body = {} if version is None else {"version": version}
        ask = asks.change("POST", path, call_answer, body=body, answer_s_max=asks.CALL_S_MAX)
        return self._session.send(ask)

    def follow(self, function: str) -> Iterator[LogLine]:
        """Yield what a function's calls print, while they print it.

        It ends with an error only: ServerUnreachable, whose message is the server's reason if it told one.
        """
        path = f"/compute/functions/{function_path(function)}/log?follow=true"
        with self._session.stream(path) as events:
            for event in events:
                if event.name == "log":
                    yield msgspec.json.decode(event.data, type=LogLine)
                elif event.name == "end":
                    raise ServerUnreachable(_reason(event.data), Details("client.stream_ended"))
        raise ServerUnreachable("the stream has ended", Details("client.connection_lost"))


class DeadLetters:
    """Async invocations that failed to the end, by function and the id of the one that failed."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def list(self, function: str) -> Sequence[Record]:
        """Return them, the latest first."""
        path = f"/compute/functions/{function_path(function)}/dead-letters"
        return self._session.send(asks.get(path, asks.many(Record)))

    def redrive(self, function: str, invocation_id: str) -> str:
        """Run one again as an Async invocation, whose id is returned; the dead letter is gone."""
        path = f"/compute/functions/{function_path(function)}/dead-letters/{segment(invocation_id)}/redrive"
        answer = self._session.send(asks.change("POST", path, call_answer))
        return answer.invocation_id

    def delete(self, function: str, invocation_id: str) -> None:
        """Give one up."""
        path = f"/compute/functions/{function_path(function)}/dead-letters/{segment(invocation_id)}"
        self._session.send(asks.change("DELETE", path, asks.nothing))


def _reason(data: str) -> str:
    found = msgspec.json.decode(data)
    return str(found.get("reason") if isinstance(found, dict) else found)


def _time(at: datetime | str | None) -> str | None:
    if not isinstance(at, datetime):
        return at
    if at.tzinfo is None:
        raise ValueError("a time needs a zone: datetime.now(UTC)")
    return at.isoformat()

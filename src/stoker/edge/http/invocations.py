"""The routes of invocations: looking up, waiting, listing, logs, cancelling, replaying, dead letters.

Does not know where records are, nor how an invocation is run. Source: the compute API contract,
*Invocations*.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol
from urllib.parse import quote

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from stoker.catalog.fold import Entry, Fold
from stoker.catalog.principal import Principal
from stoker.edge.errors import failure_body, status_of
from stoker.edge.history import PAGE, History
from stoker.edge.http import api
from stoker.edge.http.access import Access, require, resolve, sees
from stoker.edge.http.body import read_whole
from stoker.edge.http.conditions import is_strict
from stoker.edge.http.functions import answer, success
from stoker.edge.http.invoke import accepted_body
from stoker.edge.http.listing import limit_of, page_of
from stoker.edge.http.presence import while_present
from stoker.edge.http.record_body import (
    id_cursor,
    id_of_cursor,
    invocation_of,
    log_text,
    parent_of,
    record_answer,
    statuses_of,
    time_of,
)
from stoker.edge.http.scopes import DEAD_LETTERS, INVOCATION, GuardedRoute, needs_of
from stoker.invocation.acceptance import ASYNC
from stoker.invocation.async_calls import AsyncCalls
from stoker.invocation.invoker import Invoker
from stoker.invocation.live import LiveInvocations
from stoker.invocation.queue import Queue
from stoker.invocation.replay import replayed
from stoker.model.errors import AlreadyEnded, InvalidRequest, NoCapacity, NotFound
from stoker.model.limits import Limits
from stoker.model.outcome import EndReason, Outcome
from stoker.model.record import Record
from stoker.model.subjects import service_of_subject
from stoker.records.records import Records
from stoker.records.store import InvocationStore
from stoker.records.view import Filter


class ReplayBody(msgspec.Struct):
    """The body of a replay; it may be left out."""

    version: int | None = None


class Calls(Protocol):
    """What runs invocations."""

    @property
    def invoker(self) -> Invoker: ...

    @property
    def asynchronous(self) -> AsyncCalls: ...

    @property
    def queue(self) -> Queue: ...

    @property
    def live(self) -> LiveInvocations: ...


class InvocationRoutes:
    """Invocations of the account whose token asks."""

    def __init__(
        self,
        fold: Fold,
        access: Access,
        history: History,
        records: Records,
        store: InvocationStore,
        calls: Calls,
        limits: Limits,
    ) -> None:
        self._fold = fold
        self._access = access
        self._history = history
        self._records = records
        self._store = store
        self._calls = calls
        self._limits = limits

    def routes(self) -> list[Route]:
        """Return every route; paths keep their percent-encoding."""
        letter = DEAD_LETTERS + "/{invocation}"
        return [
            GuardedRoute("GET", "/compute/invocations", self.list_all),
            GuardedRoute("GET", INVOCATION, self.get),
            GuardedRoute("GET", INVOCATION + "/log", self.get_log),
            GuardedRoute("POST", INVOCATION + "/cancel", self.cancel),
            GuardedRoute("POST", INVOCATION + "/replay", self.replay),
            GuardedRoute("GET", DEAD_LETTERS, self.list_dead_letters),
            GuardedRoute("POST", letter + "/redrive", self.redrive),
            GuardedRoute("DELETE", letter, self.delete_dead_letter),
        ]

    async def _found(self, request: Request, principal: Principal) -> Record:
        """Return the record that the path names. Raises NotFound, also for what the token does not see."""
        record = await self._history.find(principal.account, invocation_of(request))
        if not sees(principal, record):
            raise NotFound("no such invocation")
        return record

    # -- looking up ------------------------------------------------------------------------------

    async def get(self, request: Request) -> Response:
        """`GET` of one record; with `?wait=MS` as soon as it has ended."""
        principal = self._access.principal(request)
        record = await self._found(request, principal)
        made_by = needs_of(request).made_by
        made_it = made_by is not None and principal.may(made_by) and record.caller == principal.token_id
        if not made_it:
            require(principal, needs_of(request))
        wait_ms = self._wait_ms(request)
        if wait_ms and not record.ended:
            waiting = self._history.wait(principal.account, record.invocation_id, wait_ms)
            record = await while_present(request, waiting)
            self._access.principal(request)  # it may have been revoked meanwhile
        return answer({"body": record_answer(record)})

    async def get_log(self, request: Request) -> Response:
        """`GET .../log`: what the call printed, as text."""
        principal = self._access.principal(request)
        record = await self._found(request, principal)
        require(principal, needs_of(request))
        headers = {"X-Content-Type-Options": "nosniff"}
        return Response(log_text(record), headers=headers, media_type="text/plain; charset=utf-8")

    async def list_all(self, request: Request) -> Response:
        """`GET /compute/invocations`, newest first; without `?limit=` all of them, as they are read."""
        principal = self._access.allowed(request)
        account = principal.account
        wanted = Filter(
            function=self._function_of(request, principal),
            collection=principal.collection,
            statuses=statuses_of(request),
            since_ms=time_of(request, "since"),
            until_ms=time_of(request, "until"),
            parent=parent_of(request),
        )
        limit, before = limit_of(request), id_of_cursor(request)
        total = await self._history.count(account, wanted)
        if limit is None and before is None:
            parts = self._history.all(account, wanted)
            first = await anext(parts)  # while a refusal can still be answered as one
            return StreamingResponse(_streamed(first, parts, total), media_type="application/json")
        page = await self._history.page(
            account, wanted, limit=PAGE if limit is None else limit, before=before
        )
        body: dict[str, object] = {
            "results": [record_answer(record) for record in page.records],
            "results_total": total,
        }
        if page.next is not None:
            body["next_cursor"] = id_cursor(page.next)
        return answer({"body": body})

    def _function_of(self, request: Request, principal: Principal) -> str | None:
        """Return the subject that `?function=` means: a subject, also of what is gone, or collection/name."""
        text = request.query_params.get("function")
        if text is None or service_of_subject(text) is not None:
            return text
        collection, slash, name = text.partition("/")
        if not slash:
            raise InvalidRequest("function is a subject or collection/name", hint="?function=datahub/echo")
        return resolve(self._fold, principal, quote(collection, ""), quote(name, "")).function.subject

    def _wait_ms(self, request: Request) -> int:
        text = request.query_params.get("wait")
        if text is None:
            return 0
        longest = self._limits.record_wait_ms_max
        if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) > longest:
            raise InvalidRequest(f"wait is a number of milliseconds from 0 to {longest}", hint="?wait=1000")
        return int(text)

    # -- doing something about it ----------------------------------------------------------------

    async def cancel(self, request: Request) -> Response:
        """`POST .../cancel`: 200 once it has ended so, 409 if another end came first."""
        principal = self._access.principal(request)
        record = await self._found(request, principal)
        invocation_id = record.invocation_id
        require(principal, needs_of(request))
        one = self._calls.live.find(principal.account, invocation_id)
        if one is not None:
            await self._calls.queue.cancel(one)
            try:
                record = await self._history.find(principal.account, invocation_id)
            except NotFound:  # its function keeps no records
                return success()
        if not record.ended:
            raise NoCapacity("the invocation is being taken up after a start", retry_after_s=1)
        if one is None or record.status != EndReason.CANCELLED.value:
            raise AlreadyEnded(f"the invocation has ended already, as {record.status}")
        return success()

    async def replay(self, request: Request) -> Response:
        """`POST .../replay`: the same payload once more, at the function as it is now or a version of it."""
        principal = self._access.principal(request)
        record = await self._found(request, principal)
        entry = self._entry_of(principal.account, record)
        require(principal, needs_of(request))
        body, _ = api.read_body(await read_whole(request) or b"{}", ReplayBody, strict=is_strict(request))
        if not record.ended:
            raise InvalidRequest("the invocation has not ended yet", hint="GET it with ?wait=60000 first")
        if self._calls.invoker.closed:
            raise NoCapacity("the server is stopping", retry_after_s=1)
        if record.payload is None:
            record = await self._with_dead_payload(principal.account, record)
        if record.invocation_type == ASYNC:
            return _accepted(
                await self._calls.asynchronous.replay(principal, entry, record, version=body.version)
            )
        running = replayed(self._calls.invoker, principal, entry, record, version=body.version)
        return _outcome_answer(*await while_present(request, running))

    def _entry_of(self, account: str, record: Record) -> Entry:
        place = service_of_subject(record.function)
        entry = None if place is None else self._fold.functions.get((account, *place))
        if entry is None:
            raise NotFound("the invocation's function is not there any more")
        return entry

    async def _with_dead_payload(self, account: str, record: Record) -> Record:
        place = service_of_subject(record.function)
        assert place is not None
        try:
            letter = await self._store.dead_letter(account, *place, record.invocation_id)
        except NotFound:
            return record
        return msgspec.structs.replace(record, payload=letter.payload)

    # -- dead letters ----------------------------------------------------------------------------

    async def list_dead_letters(self, request: Request) -> Response:
        """`GET .../dead-letters`, the latest first."""
        function = self._access.entry(request, self._fold)[1].function
        letters = await self._records.dead_letters(
            function.account, function.collection_topic, function.service
        )
        page, rest = page_of(request, letters, lambda letter: -letter.sequence)
        results = [record_answer(letter.letter.record) for letter in page]
        return answer({"body": {"results": results, **rest}})

    async def redrive(self, request: Request) -> Response:
        """`POST .../redrive`: 200 like an Async invoke; the dead letter is gone."""
        principal, entry = self._access.entry(request, self._fold)
        function = entry.function
        letter = await self._store.dead_letter(
            function.account, function.collection_topic, function.service, invocation_of(request)
        )
        return _accepted(await self._calls.asynchronous.redrive(principal, entry, letter))

    async def delete_dead_letter(self, request: Request) -> Response:
        """`DELETE` of a dead letter: it is not to be run again."""
        function = self._access.entry(request, self._fold)[1].function
        await self._store.drop_dead_letter(
            function.account, function.collection_topic, function.service, invocation_of(request)
        )
        return success()


async def _streamed(
    first: list[Record], rest: AsyncIterator[list[Record]], total: int
) -> AsyncIterator[bytes]:
    """Yield the answer of a whole list, some records at a time."""
    yield b'{"body":{"results":[' + _listed(first)
    comma = b"," if first else b""
    async for records in rest:
        if records:
            yield comma + _listed(records)
            comma = b","
    yield b'],"results_total":%d}}' % total


def _listed(records: list[Record]) -> bytes:
    return b",".join(msgspec.json.encode(record_answer(record)) for record in records)


def _accepted(invocation_id: str) -> Response:
    headers = {"X-Invocation-Id": invocation_id}
    return Response(accepted_body(invocation_id), 200, headers, "application/json")


def _outcome_answer(invocation_id: str, outcome: Outcome) -> Response:
    headers = {"X-Invocation-Id": invocation_id}
    if outcome.failure is not None:
        body = failure_body(outcome.failure, invocation_id)
        return Response(body, status_of(outcome.failure.code), headers, "application/json")
    assert outcome.result is not None
    return answer({"body": outcome.result.decode(errors="replace")}, headers=headers)

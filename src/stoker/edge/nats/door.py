"""The NATS door: a request on a function's subject is a call, its reply the result.

Reads the message and writes the reply; who may connect is the business of NATS, and may call every
function. Does not know instances nor connections. From the request to the reply there is no task and no
await, but for what is stored before it is answered.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass

import orjson

from stoker.catalog.fold import Entry, Fold
from stoker.catalog.principal import Principal
from stoker.edge.errors import ErrorAnswers, failure_body, status_of
from stoker.edge.idempotency import key_request
from stoker.edge.nats.bus import Bus, Incoming, Log, may_be_answered
from stoker.edge.subjects import LISTENING, QUEUE_GROUP, identity_of
from stoker.invocation.acceptance import ASYNC, REQUEST_RESPONSE, KeyRequest
from stoker.invocation.async_calls import AsyncCalls
from stoker.invocation.invoker import Invoker
from stoker.invocation.keyed import KeyedCalls
from stoker.model.call import Call, text_of
from stoker.model.errors import InvalidRequest, NoCapacity, NotFound, PlatformError, StokerError
from stoker.model.limits import MIB
from stoker.model.outcome import Failure, Outcome

CALLER = "nats"
"""The caller that records of these calls name."""
SCOPES = frozenset({"functions:invoke"})
IN_FLIGHT_MAX = 1_024
"""Calls at once. A client of NATS may send without waiting, and nothing slows it down but refusals."""
HELD_BYTES_MAX = 64 * MIB
"""Their payloads together."""
ERROR_CHARS_MAX = 500
"""Of the message in a header; the body has it whole."""

ID_HEADER = "X-Invocation-Id"
STATUS_HEADER = "Nats-Service-Error-Code"
ERROR_HEADER = "Nats-Service-Error"


class NatsDoor:
    """One for a server."""

    def __init__(
        self,
        fold: Fold,
        invoker: Invoker,
        asynchronous: AsyncCalls,
        keyed: KeyedCalls,
        errors: ErrorAnswers,
        bus: Bus,
        log: Log,
        *,
        in_flight_max: int = IN_FLIGHT_MAX,
        held_bytes_max: int = HELD_BYTES_MAX,
    ) -> None:
        self._fold = fold
        self._invoker = invoker
        self._asynchronous = asynchronous
        self._keyed = keyed
        self._errors = errors
        self._bus = bus
        self._log = log
        self._in_flight_max = in_flight_max
        self._held_bytes_max = held_bytes_max
        self._in_flight = 0
        self._held_bytes = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Begin to listen."""
        for subject in LISTENING:
            await self._bus.serve(subject, self.request, queue=QUEUE_GROUP)

    async def drained(self, *, wait_ms: int) -> None:
        """Return once no call is in flight, or the time is over; the closed invoker lets no new one in."""
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_ms / 1000):
                await self._idle.wait()

    def request(self, request: Incoming) -> None:
        """Begin the call that a request asks for; its end is answered."""
        if not may_be_answered(request, self._log):
            return
        held_bytes = len(request.data)
        try:
            if self._invoker.closed:
                raise NoCapacity("the server is stopping", retry_after_s=1)
            if self._is_full(held_bytes):
                raise NoCapacity("too many calls over NATS are in flight", retry_after_s=1)
            identity = identity_of(request.subject, self._fold.tenants)
            entry = None if identity is None else self._fold.functions.get(identity)
            if entry is None:
                raise NotFound("no such function")
            stored = _stored_kind(request) if request.headers else None
        except Exception as error:
            self.refuse(request.reply, error)
            return
        turn = _Turn(self, request.reply, held_bytes)
        self._in_flight += 1
        self._held_bytes += held_bytes
        self._idle.clear()
        principal = Principal(entry.function.account, CALLER, SCOPES)
        payload = request.data or b"null"
        if stored is not None:
            self._begin_stored(turn, stored, principal, entry, payload)
            return
        try:
            self._invoker.invoke(principal, entry, payload, turn.ended)
        except Exception as error:
            turn.refuse(error)

    def _begin_stored(
        self, turn: _Turn, stored: _Stored, principal: Principal, entry: Entry, payload: bytes
    ) -> None:
        """Begin what is stored before it is answered."""

        async def run() -> None:
            key = stored.key
            try:
                if stored.asynchronous or key is None:
                    accepted = await self._asynchronous.invoke(principal, entry, payload, key=key)
                    turn.accepted(accepted)
                else:
                    turn.answer(*await self._keyed.invoke(principal, entry, payload, key))
            except Exception as error:
                turn.refuse(error)

        task = asyncio.get_running_loop().create_task(run(), name="a stored call over NATS")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _is_full(self, more_bytes: int) -> bool:
        if not self._in_flight:
            return False  # even the largest payload is taken alone
        return self._in_flight >= self._in_flight_max or self._held_bytes + more_bytes > self._held_bytes_max

    def left(self, held_bytes: int) -> None:
        """Called by a turn that is over."""
        self._in_flight -= 1
        self._held_bytes -= held_bytes
        if not self._in_flight:
            self._idle.set()

    def answer(self, reply: str, invocation_id: str, outcome: Outcome | StokerError) -> None:
        """Answer with how a call ended."""
        if not isinstance(outcome, Outcome):
            self.refuse(reply, outcome, invocation_id)
            return
        failure, result = outcome.failure, outcome.result
        if failure is None and result is not None:
            failure = self._unfit(result)
            if failure is None:
                self._bus.answer(reply, result, {ID_HEADER: invocation_id})
                return
        if failure is None:
            error = PlatformError("the call has ended without a result and without a failure")
            self.refuse(reply, error, invocation_id)
            return
        body = failure_body(failure, invocation_id)
        self._bus.answer(reply, body, _error_headers(status_of(failure.code), body, invocation_id))

    def _unfit(self, result: bytes) -> Failure | None:
        """Return why a result cannot be sent, or None."""
        if len(result) > self._bus.answer_bytes_max:
            told = f"the NATS server takes answers of {self._bus.answer_bytes_max} bytes at most"
            return Failure("function.result_too_large", told)
        try:
            result.decode()
        except UnicodeError:
            return Failure("function.result_invalid", "the result is not UTF-8")
        return None

    def accepted(self, reply: str, invocation_id: str) -> None:
        """Answer that a call is stored, and will run."""
        body = orjson.dumps({"invocation_id": invocation_id})
        self._bus.answer(reply, body, {ID_HEADER: invocation_id})

    def refuse(self, reply: str, error: Exception, invocation_id: str | None = None) -> None:
        """Answer that a call did not run."""
        refusal = self._errors.answer(error)
        headers = _error_headers(refusal.status, refusal.body, invocation_id)
        self._bus.answer(reply, refusal.body, headers)


class _Turn:
    """One request in flight, from its admission to its one answer."""

    __slots__ = ("_door", "_held_bytes", "_reply")

    def __init__(self, door: NatsDoor, reply: str, held_bytes: int) -> None:
        self._door: NatsDoor | None = door
        self._reply = reply
        self._held_bytes = held_bytes

    def ended(self, call: Call, outcome: Outcome | StokerError) -> None:
        """Called by the invoker, once."""
        self.answer(text_of(call.id), outcome)

    def answer(self, invocation_id: str, outcome: Outcome | StokerError) -> None:
        """Answer with how the call ended."""
        door = self._leave()
        if door is not None:
            door.answer(self._reply, invocation_id, outcome)

    def accepted(self, invocation_id: str) -> None:
        """Answer that the call is stored."""
        door = self._leave()
        if door is not None:
            door.accepted(self._reply, invocation_id)

    def refuse(self, error: Exception) -> None:
        """Answer that the call did not run, unless it has been answered."""
        door = self._leave()
        if door is not None:
            door.refuse(self._reply, error)

    def _leave(self) -> NatsDoor | None:
        """Be in flight no more; the door if it was so far."""
        door, self._door = self._door, None
        if door is not None:
            door.left(self._held_bytes)
        return door


@dataclass(frozen=True, slots=True)
class _Stored:
    """A call that is stored before it runs: an Async one, or one with a key."""

    asynchronous: bool
    key: KeyRequest | None


def _stored_kind(request: Incoming) -> _Stored | None:
    """Return how a request's headers want it stored; None if they do not. Raises InvalidRequest."""
    asynchronous, key = False, None
    for name, value in (request.headers or {}).items():
        match name.lower():
            case "x-invocation-type":
                if value not in (REQUEST_RESPONSE, ASYNC):
                    raise InvalidRequest(
                        f"X-Invocation-Type {value[:40]!r} is no invocation type",
                        hint=f"{REQUEST_RESPONSE} or {ASYNC}",
                    )
                asynchronous = value == ASYNC
            case "idempotency-key":
                key = key_request(value, request.data)
    return _Stored(asynchronous, key) if asynchronous or key is not None else None


def _error_headers(status: int, body: bytes, invocation_id: str | None) -> dict[str, str]:
    """Return what tells a client of NATS services that the reply is an error."""
    message = orjson.loads(body)["error"]
    printable = "".join(c if c.isprintable() else " " for c in message[:ERROR_CHARS_MAX])
    headers = {STATUS_HEADER: str(status), ERROR_HEADER: printable.strip() or "error"}
    if invocation_id is not None:
        headers[ID_HEADER] = invocation_id
    return headers

"""The invoke route: a callback from the request to the answer, with no task and no await in between.

Reads the envelope and writes it. Does not know instances; the invoker does all the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from urllib.parse import parse_qsl

import msgspec
import orjson

from stoker.catalog.fold import Entry, Fold
from stoker.catalog.principal import Principal
from stoker.edge.errors import ErrorAnswers, failure_body, status_of
from stoker.edge.http.access import Access, require, resolve
from stoker.edge.http.api import asks_for_strict, unknown_key
from stoker.edge.http.request import INVOKE_PREFIX, INVOKE_SUFFIX, Exchange, Request
from stoker.edge.http.scopes import INVOKE, TABLE
from stoker.edge.idempotency import key_request
from stoker.invocation.acceptance import ASYNC, REQUEST_RESPONSE, KeyRequest
from stoker.invocation.async_calls import AsyncCalls
from stoker.invocation.invoker import Invoker
from stoker.invocation.keyed import KeyedCalls
from stoker.model.call import Call, CallIds, text_of
from stoker.model.errors import InvalidRequest, NoCapacity, PlatformError, StokerError
from stoker.model.outcome import Failure, Outcome

INVOCATION_TYPES = (REQUEST_RESPONSE, ASYNC)
_NEEDS = TABLE["POST", INVOKE]


class Envelope(msgspec.Struct):
    """The body of `POST .../invoke`. The payload keeps the text that it was written as."""

    payload: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    invocation_type: str | None = None


_decode = msgspec.json.Decoder(Envelope).decode
_decode_text = msgspec.json.Decoder(str).decode
_decode_any = msgspec.json.Decoder().decode


def payload_of(body: bytes | bytearray) -> tuple[bytes, str]:
    """Return the payload as JSON text, not re-encoded, and the invocation type. Raises InvalidRequest.

    `payload` is a string that holds JSON; any other JSON value is the payload itself.
    """
    try:
        envelope = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _unreadable(body, error) from None
    raw = b"" if envelope.payload is msgspec.UNSET else bytes(envelope.payload).strip()
    if not raw:
        raise InvalidRequest("payload is required", field="/payload")
    if envelope.invocation_type not in INVOCATION_TYPES:
        if envelope.invocation_type is None:
            raise InvalidRequest("invocation_type is required", field="/invocation_type")
        raise InvalidRequest(
            f"{envelope.invocation_type[:40]!r} is no invocation type",
            field="/invocation_type",
            hint=" or ".join(INVOCATION_TYPES),
        )
    if raw[:1] != b'"':
        return raw, envelope.invocation_type
    try:
        return _decode_text(raw).encode(), envelope.invocation_type
    except (msgspec.DecodeError, UnicodeError):
        raise InvalidRequest("payload is not a valid string", field="/payload") from None


def _unreadable(body: bytes | bytearray, error: Exception) -> InvalidRequest:
    try:
        _decode_any(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as reason:
        return InvalidRequest(f"the body is not JSON: {reason}")
    if "invocation_type" in str(error):
        return InvalidRequest("invocation_type is a string", field="/invocation_type")
    return InvalidRequest("the body is a JSON object with payload and invocation_type", field="")


def version_of(query: bytes, body: bytes | bytearray) -> int | None:
    """Return the version that a query asks for; refuses unknown keys of the body where it says `strict`."""
    asked = dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True))
    if asks_for_strict(asked.get("strict")):
        try:
            keys = _decode_any(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:  # within a key that else is ignored
            raise InvalidRequest(f"the body is not JSON: {error}") from None
        for key in keys:
            if key not in Envelope.__struct_fields__:
                raise unknown_key(key, "")
    version = asked.get("version")
    if version is None:
        return None
    if not version.isascii() or not version.isdigit() or len(version) > 15:
        raise InvalidRequest("version is the number of one of the function's versions", hint="?version=1")
    return int(version)


def key_of(request: Request) -> KeyRequest | None:
    """Return the Idempotency-Key of a request, with what has to be the same beside it."""
    given = request.idempotency_key
    if given is None:
        return None
    return key_request(given.decode("latin-1"), request.query + b"\n" + request.body)


class InvokeRoute:
    """Answers the lean path; one object for the life of the server."""

    def __init__(
        self,
        fold: Fold,
        access: Access,
        invoker: Invoker,
        asynchronous: AsyncCalls,
        keyed: KeyedCalls,
        errors: ErrorAnswers,
    ) -> None:
        self._fold = fold
        self._access = access
        self._invoker = invoker
        self._asynchronous = asynchronous
        self._keyed = keyed
        self._errors = errors
        self._ids = CallIds()
        self._tasks: set[asyncio.Task[None]] = set()

    def admit(self, request: Request) -> None:
        """Raise Unauthenticated for a request whose body is not worth reading."""
        self._access.caller(request)

    def __call__(self, request: Request, exchange: Exchange) -> None:
        """Begin the call that a request asks for; its end answers the exchange."""
        try:
            principal = self._access.caller(request)
            path = request.path[len(INVOKE_PREFIX) : -len(INVOKE_SUFFIX)].decode("latin-1")
            collection, function = path.split("/")
            entry = resolve(self._fold, principal, collection, function)
            require(principal, _NEEDS)
            if self._invoker.closed:
                raise NoCapacity("the server is stopping", retry_after_s=1)
            payload, invocation_type = payload_of(request.body)
            version = version_of(request.query, request.body) if request.query else None
            if invocation_type == ASYNC or request.idempotency_key is not None:
                key = key_of(request)
                work = (
                    self._accept(principal, entry, payload, version, key, exchange)
                    if invocation_type == ASYNC or key is None
                    else self._run_keyed(principal, entry, payload, version, key, exchange)
                )
                self._answer_later(work, exchange)
                return

            def ended(call: Call, outcome: Outcome | StokerError) -> None:
                answer(exchange, call.text, outcome, self._errors)

            call = self._invoker.invoke(principal, entry, payload, ended, version=version)
            if exchange.open and not call.has_ended:
                exchange.gone = call.cancel_now
        except Exception as error:
            self._refuse(exchange, error)

    # -- what is stored before it is answered: it goes on if the client leaves ---------------------

    async def _accept(
        self,
        principal: Principal,
        entry: Entry,
        payload: bytes,
        version: int | None,
        key: KeyRequest | None,
        exchange: Exchange,
    ) -> None:
        invocation_id = await self._asynchronous.invoke(principal, entry, payload, version=version, key=key)
        exchange.respond(200, accepted_body(invocation_id), _id_header(invocation_id))

    async def _run_keyed(
        self,
        principal: Principal,
        entry: Entry,
        payload: bytes,
        version: int | None,
        key: KeyRequest,
        exchange: Exchange,
    ) -> None:
        invocation_id, outcome = await self._keyed.invoke(principal, entry, payload, key, version=version)
        answer(exchange, invocation_id, outcome, self._errors)

    def _answer_later(self, work: Coroutine[None, None, None], exchange: Exchange) -> None:
        async def run() -> None:
            try:
                await work
            except Exception as error:
                self._refuse(exchange, error)

        task = asyncio.get_running_loop().create_task(run(), name="a stored call")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _refuse(self, exchange: Exchange, error: Exception) -> None:
        """Answer an exchange whose call never began; with an id, as every answer has one, of no record."""
        refusal = self._errors.answer(error)
        header = _id_header(text_of(self._ids.next()))
        exchange.respond(refusal.status, refusal.body, refusal.header_lines + header)

    async def drain(self) -> None:
        """Return when no stored call is on its way any more."""
        while self._tasks:
            await asyncio.wait(self._tasks)


def accepted_body(invocation_id: str) -> bytes:
    """Return what an accepted Async invocation answers: its id, as JSON text in a JSON string."""
    return b'{"body":"{\\"invocation_id\\":\\"%b\\"}"}' % invocation_id.encode()


def answer(
    exchange: Exchange, invocation_id: str, outcome: Outcome | StokerError, errors: ErrorAnswers
) -> None:
    """Answer an exchange with how its call ended."""
    if not exchange.open:
        return
    header = _id_header(invocation_id)
    if isinstance(outcome, Outcome) and outcome.result is None and outcome.failure is None:
        outcome = PlatformError("the call has ended without a result and without a failure")
    if not isinstance(outcome, Outcome):
        refusal = errors.answer(outcome)
        exchange.respond(refusal.status, refusal.body, refusal.header_lines + header)
        return
    failure = outcome.failure
    if outcome.result is not None and failure is None:
        try:
            body = b'{"body":' + orjson.dumps(outcome.result.decode()) + b"}"
        except UnicodeError:
            failure = Failure("function.result_invalid", "the result is not UTF-8")
        else:
            exchange.respond(200, body, header)
            return
    assert failure is not None
    exchange.respond(status_of(failure.code), failure_body(failure, invocation_id), header)


def _id_header(invocation_id: str) -> bytes:
    return b"X-Invocation-Id: %b\r\n" % invocation_id.encode()

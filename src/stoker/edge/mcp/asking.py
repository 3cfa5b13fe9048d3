"""Asking the HTTP door from within: a request that comes from no socket, and its whole answer.

So that a tool does exactly what the route does: the same scopes, quotas, checks and errors, with no second
implementation of any. Does not know tools.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import msgspec
from starlette.types import ASGIApp, Message, Scope

from stoker.edge.errors import ErrorAnswers
from stoker.edge.http.request import Exchange, LeanHandler, Request
from stoker.model.errors import TooLarge
from stoker.model.limits import MIB

ANSWER_BYTES_MAX = 32 * MIB
"""Of one answer: what an agent is told is held in memory more than once."""


@dataclass(frozen=True, slots=True, repr=False)
class Credential:
    """The headers by which a request says whose it is."""

    authorization: bytes | None
    api_key: bytes | None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a route answered."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    """Names in lower case."""

    @property
    def ok(self) -> bool:
        """True for what is no error."""
        return self.status < 400

    @property
    def invocation_id(self) -> str | None:
        """The call that it is about."""
        return self.headers.get("x-invocation-id")

    def json(self) -> Any:
        """Return the body as a value."""
        return msgspec.json.decode(self.body)


class Asker:
    """Sends requests to the application and to the invoke route of the same server."""

    def __init__(self, app: ASGIApp, invoke: LeanHandler, errors: ErrorAnswers) -> None:
        self._app = app
        self._invoke = invoke
        self._errors = errors

    async def ask(
        self,
        credential: Credential,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Return the answer of a route to a JSON body, an error too.

        `path` is percent-encoded. What is None in `query` is left out. If the caller is cancelled, so is the
        request, as if its client had left.
        """
        asked = _Asked(b"" if body is None else msgspec.json.encode(body))
        try:
            await self._app(
                _scope(credential, method, path, query or {}, headers or {}), asked.receive, asked.send
            )
        except Exception as error:  # as the server answers it
            found = self._errors.answer(error)
            return Answer(found.status, found.body)
        return asked.answer()

    async def invoke(
        self,
        credential: Credential,
        path: str,
        payload: bytes,
        invocation_type: str,
        *,
        version: int | None = None,
        key: str | None = None,
    ) -> Answer:
        """Return the answer of `POST <path>/invoke` to a payload, which is JSON text.

        If the caller is cancelled, so is a RequestResponse call.
        """
        request = Request()
        request.method, request.path = b"POST", f"{path}/invoke".encode("ascii")
        request.query = b"" if version is None else b"version=%d" % version
        request.authorization, request.api_key = credential.authorization, credential.api_key
        request.idempotency_key = None if key is None else key.encode("utf-8", "replace")
        request.body = b'{"invocation_type":"%b","payload":%b}' % (
            invocation_type.encode(),
            msgspec.json.encode(payload.decode()),
        )
        exchange = _InnerExchange(request)
        self._invoke(request, exchange)
        try:
            return await exchange.answered
        except asyncio.CancelledError:
            exchange.left()
            raise


class _Asked:
    """The two ends of one request to the application."""

    def __init__(self, body: bytes) -> None:
        self._body: bytes | None = body
        self._status = 0
        self._headers: dict[str, str] = {}
        self._pieces: list[bytes] = []
        self._bytes = 0

    async def receive(self) -> Message:
        """Give the body, then nothing: who asks is there until it is cancelled."""
        if self._body is None:
            await asyncio.get_running_loop().create_future()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, message: Message) -> None:
        """Take the next part of the answer. Raises TooLarge past what may be held."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._headers = {
                name.decode("latin-1").lower(): value.decode("latin-1")
                for name, value in message.get("headers", ())
            }
            return
        body: bytes = message.get("body", b"")
        self._bytes += len(body)
        if self._bytes > ANSWER_BYTES_MAX:
            raise TooLarge(
                f"the answer has more than {ANSWER_BYTES_MAX} bytes", hint="ask for less at once, with limit"
            )
        self._pieces.append(body)

    def answer(self) -> Answer:
        """Return the whole of it."""
        return Answer(self._status, b"".join(self._pieces), self._headers)


class _InnerExchange(Exchange):
    """The exchange of a call that comes from no connection."""

    __slots__ = ("answered",)

    def __init__(self, request: Request) -> None:
        self.request = request
        self.gone = None
        self.answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def respond(self, status: int, body: bytes, headers: bytes = b"") -> None:
        """Take the answer; the first counts."""
        if self.open:
            self.gone = None
            lines = headers.decode("latin-1").splitlines()
            pairs = (line.partition(": ") for line in lines)
            self.answered.set_result(Answer(status, body, {name.lower(): value for name, _, value in pairs}))

    @property
    def open(self) -> bool:
        """True until it was answered or who asked has left."""
        return not self.answered.done()

    def left(self) -> None:
        """Who asked has left."""
        gone, self.gone = self.gone, None
        self.answered.cancel()
        if gone is not None:
            gone()


def _scope(
    credential: Credential, method: str, path: str, query: Mapping[str, object], headers: Mapping[str, str]
) -> Scope:
    lines = [(b"content-type", b"application/json")]
    if credential.authorization is not None:
        lines.append((b"authorization", credential.authorization))
    if credential.api_key is not None:
        lines.append((b"x-api-key", credential.api_key))
    lines += [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    given = {name: value for name, value in query.items() if value is not None}
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode("ascii"),
        "query_string": urlencode(given).encode("ascii"),
        "root_path": "",
        "headers": lines,
        "client": None,
        "server": None,
    }

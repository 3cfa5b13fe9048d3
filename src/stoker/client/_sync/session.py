# Made from stoker/client/_async by `python -m stoker.testing.mirror`: change it there.
"""One server, spoken to over HTTP: sends what is asked for, again where that helps, and reads the answer.

Does not know what is asked for.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TypeVar

import httpx

from stoker.client.asks import Answer, Ask, error_in
from stoker.client.chance import Randomness
from stoker.client.errors import Details, ServerUnreachable, StokerError, Unauthenticated
from stoker.client.events import EventLines, ServerEvent
from stoker.client.place import Place
from stoker.client.retry import NEVER_SENT, Patience, pause_s

T = TypeVar("T")

CONNECT_S_MAX = 10.0
SILENCE_S_MAX = 60.0
"""A stream of events that says nothing for so long is lost; the server sends a comment each 15 s."""
PIECE_BYTES = 256 * 1024
AS_MANY_AS_CALLERS = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=5.0)
"""A bound on the idle ones has httpcore close some that a caller was just given, which loses its call."""


class Session:
    """A pool of connections to one server."""

    def __init__(
        self,
        place: Place,
        *,
        patience: Patience,
        transport: httpx.BaseTransport | None,
        randomness: Randomness,
    ) -> None:
        self.place = place
        self.randomness = randomness
        self._patience = patience
        headers = {"User-Agent": "stoker-python", "Accept": "application/json"}
        if place.token:
            headers["Authorization"] = f"Bearer {place.token}"
        self._http = httpx.Client(
            base_url=place.url,
            headers=headers,
            transport=transport,
            limits=AS_MANY_AS_CALLERS,
            # what goes to this machine needs no proxy, and none may see its token
            mounts={place.pattern: None} if place.is_local else None,
        )

    def send(self, ask: Ask[T], *, on_progress: Callable[[int], None] | None = None) -> T:
        """Return what was asked for. Raises StokerError.

        `on_progress` is told how many bytes of the content have gone out.
        """
        tried = 0
        while True:
            tried += 1
            try:
                return ask.read(self._answer(ask, on_progress))
            except StokerError as error:
                pause = pause_s(
                    error,
                    repeatable=ask.repeatable,
                    tried=tried,
                    patience=self._patience,
                    chance=self.randomness.chance(),
                )
                if pause is None:
                    raise
            time.sleep(pause)

    def _answer(self, ask: Ask[T], on_progress: Callable[[int], None] | None) -> Answer:
        headers = dict(ask.headers)
        content: bytes | Iterator[bytes] | None = ask.content
        if ask.content is not None and on_progress is not None:
            content = _pieces(ask.content, on_progress)
            headers["Content-Length"] = str(len(ask.content))
        try:
            response = self._http.request(
                ask.method,
                ask.path,
                params=ask.query or None,
                headers=headers,
                content=content,
                timeout=httpx.Timeout(ask.answer_s_max, connect=CONNECT_S_MAX),
            )
        except httpx.RequestError as error:
            raise self._unreachable(error) from None
        answer = Answer(response.status_code, response.headers, response.content)
        self._raise_for(answer)
        return answer

    @contextmanager
    def stream(self, path: str) -> Iterator[Iterator[ServerEvent]]:
        """Return the events of a stream, until it ends. Raises StokerError."""
        try:
            with self._http.stream(
                "GET", path, timeout=httpx.Timeout(SILENCE_S_MAX, connect=CONNECT_S_MAX)
            ) as response:
                if response.status_code != 200:
                    response.read()
                    self._raise_for(Answer(response.status_code, response.headers, response.content))
                yield self._events(response)
        except httpx.RequestError as error:
            raise self._unreachable(error) from None

    @contextmanager
    def download(self, path: str) -> Iterator[Iterator[bytes]]:
        """Return the bytes of an answer as they come. Raises StokerError, also in their middle."""
        try:
            with self._http.stream(
                "GET", path, timeout=httpx.Timeout(SILENCE_S_MAX, connect=CONNECT_S_MAX)
            ) as response:
                if response.status_code != 200:
                    response.read()
                    self._raise_for(Answer(response.status_code, response.headers, response.content))
                yield response.iter_bytes()
        except httpx.RequestError as error:
            raise self._unreachable(error) from None

    def _events(self, response: httpx.Response) -> Iterator[ServerEvent]:
        lines = EventLines()
        for line in response.iter_lines():
            event = lines.take(line)
            if event is not None:
                yield event

    def _raise_for(self, answer: Answer) -> None:
        error = error_in(answer)
        if isinstance(error, Unauthenticated) and self.place.missing is not None:
            hint = f"{self.place.missing}; give a token by STOKER_TOKEN"
            raise Unauthenticated(error.message, Details(error.code, error.status, hint=hint))
        if error is not None:
            raise error

    def _unreachable(self, error: httpx.RequestError) -> ServerUnreachable:
        url = self.place.url
        if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol)):
            return ServerUnreachable(
                f"{url} cannot be reached: {_reason(error)}",
                Details(NEVER_SENT, hint="is the server running there? STOKER_URL names another one"),
            )
        if isinstance(error, httpx.TimeoutException):
            return ServerUnreachable(f"{url} did not answer in time", Details("client.timeout"))
        return ServerUnreachable(
            f"the connection to {url} was lost before the answer: {_reason(error)}",
            Details("client.connection_lost", hint="it is not known whether it was carried out"),
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _pieces(content: bytes, on_progress: Callable[[int], None]) -> Iterator[bytes]:
    for at in range(0, len(content), PIECE_BYTES):
        yield content[at : at + PIECE_BYTES]
        on_progress(min(at + PIECE_BYTES, len(content)))


def _reason(error: httpx.RequestError) -> str:
    return re.sub(r"^\[Errno -?\d+\] ", "", str(error)) or type(error).__name__

"""An exchange: a request with a random token in it, and the answer it must get.

Owns HTTP/1.1 spoken by hand over a kept connection, as little of it as the measured servers need, so
that a client's own cost stays out of the figures. Does not know the compute API.
"""

from __future__ import annotations

import json
import secrets
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from program import CannotMeasure

TOKEN_BYTES = 24  # 48 hexadecimal characters; the payload is then 62 bytes
ANSWER_S = 30.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered."""

    status: int
    body: bytes

    def json(self) -> Any:
        """Return the body's value. Raises CannotMeasure if it is no JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            raise CannotMeasure(f"answer {self.status} is no JSON: {self.body[:200]!r}") from None


class Connection:
    """A kept HTTP connection to a server on the loopback; one request at a time."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None

    def __enter__(self) -> Self:
        try:
            self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=ANSWER_S)
        except OSError as error:
            raise CannotMeasure(f"port {self._port} does not accept: {error}") from None
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._socket is not None:
            self._socket.close()

    def ask(self, request: bytes) -> Answer:
        """Send the request and return its answer. Raises CannotMeasure if none comes."""
        assert self._socket is not None
        try:
            self._socket.sendall(request)
            received = self._socket.recv(65536)
            while (end := received.find(b"\r\n\r\n")) < 0:
                received += self._more()
            missing = end + 4 + _content_length(received[:end]) - len(received)
            while missing > 0:
                more = self._more()
                received, missing = received + more, missing - len(more)
        except OSError as error:
            raise CannotMeasure(f"no answer: {error}") from None
        return Answer(int(received[9:12]), received[end + 4 :])

    def _more(self) -> bytes:
        assert self._socket is not None
        more = self._socket.recv(65536)
        if not more:
            raise CannotMeasure("the server closed the connection before it answered")
        return more


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(value)
    raise CannotMeasure(f"an answer without Content-Length: {head[:100]!r}")


def post(path: str, body: bytes, *, token: str | None = None, method: str = "POST") -> bytes:
    """Return the bytes of a request with a JSON body."""
    access = f"Authorization: Bearer {token}\r\n" if token else ""
    return (
        f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{access}"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def get(path: str, *, token: str) -> bytes:
    """Return the bytes of a request without a body."""
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n\r\n".encode()


@dataclass(frozen=True, slots=True)
class Exchange:
    """Requests and answers of one echo, each the two parts around the token, which is of fixed length."""

    port: int
    head: bytes
    tail: bytes
    answer_head: bytes
    answer_tail: bytes

    def request(self, token: str) -> bytes:
        return self.head + token.encode() + self.tail

    def answer(self, token: str) -> bytes:
        return self.answer_head + token.encode() + self.answer_tail


def payload(token: str) -> dict[str, str]:
    """Return the value that an echo is called with, and answers."""
    return {"message": token}


def learn(
    port: int, request_of: Callable[[dict[str, str]], bytes], value_of: Callable[[Any], Any]
) -> Exchange:
    """Call an echo once, and return what every call of it must give.

    `request_of` makes the request of a payload, `value_of` takes the echoed value out of an answer's
    JSON. Only the place of white space is learnt, the value is checked. Raises CannotMeasure.
    """
    token = secrets.token_hex(TOKEN_BYTES)
    request = request_of(payload(token))
    with Connection(port) as connection:
        answer = connection.ask(request)
    try:
        right = answer.status == 200 and value_of(answer.json()) == payload(token)
    except (KeyError, TypeError, ValueError):
        right = False
    if not right or answer.body.count(token.encode()) != 1:
        raise CannotMeasure(f"the echo answers {answer.status} {answer.body[:300]!r}")
    head, _, tail = request.partition(token.encode())
    answer_head, _, answer_tail = answer.body.partition(token.encode())
    return Exchange(port, head, tail, answer_head, answer_tail)


def wrong_answers(exchange: Exchange, *, connections: int, calls: int) -> int:
    """Call on several connections at once, and count the answers that are not that very request's.

    Raises CannotMeasure if a connection breaks.
    """

    def one_connection(_: int) -> int:
        wrong = 0
        with Connection(exchange.port) as connection:
            for _ in range(calls):
                token = secrets.token_hex(TOKEN_BYTES)
                answer = connection.ask(exchange.request(token))
                wrong += answer.status != 200 or answer.body != exchange.answer(token)
        return wrong

    with ThreadPoolExecutor(connections) as threads:
        return sum(threads.map(one_connection, range(connections)))

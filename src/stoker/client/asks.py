"""What the API can be asked for: requests as values, and how their answers are read. No I/O.

The clients send an `Ask` and return what its `read` makes of the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import msgspec

from stoker.client.errors import Details, StokerError, UnexpectedAnswer, error_of

T = TypeVar("T")

ANSWER_S_MAX = 30.0
"""How long most answers may take."""
CALL_S_MAX = 960.0
"""How long a call may take: the longest timeout of a function, and its wait for an instance."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of the server, read whole."""

    status: int
    headers: Mapping[str, str]
    """With names in lower case."""
    body: bytes


@dataclass(frozen=True, slots=True)
class Ask(Generic[T]):
    """One request."""

    method: str
    path: str
    read: Callable[[Answer], T]
    """Makes the value of an answer that is no error."""
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    repeatable: bool = False
    """Whether sending it twice does no more than sending it once."""
    answer_s_max: float = ANSWER_S_MAX


def get(
    path: str,
    read: Callable[[Answer], T],
    *,
    query: Mapping[str, object] | None = None,
    answer_s_max: float = ANSWER_S_MAX,
) -> Ask[T]:
    """Return a request for something; what is None in `query` is left out."""
    return Ask("GET", path, read, query=_query(query), repeatable=True, answer_s_max=answer_s_max)


def change(
    method: str,
    path: str,
    read: Callable[[Answer], T],
    *,
    body: object = None,
    if_match: str | None = None,
    answer_s_max: float = ANSWER_S_MAX,
) -> Ask[T]:
    """Return a request that changes something. PUT may be repeated: it says what there shall be."""
    content = None if body is None else msgspec.json.encode(body)
    headers = {} if if_match is None else {"If-Match": if_match}
    if content is not None:
        headers["Content-Type"] = "application/json"
    return Ask(
        method,
        path,
        read,
        headers=headers,
        content=content,
        repeatable=method == "PUT",
        answer_s_max=answer_s_max,
    )


def call(
    path: str,
    read: Callable[[Answer], T],
    *,
    payload: object,
    invocation_type: str,
    version: int | None,
    key: str | None,
) -> Ask[T]:
    """Return an invocation. With a key it may be repeated: the server runs it once."""
    text = msgspec.json.encode(payload).decode()
    headers = {"Content-Type": "application/json"}
    if key is not None:
        headers["Idempotency-Key"] = key
    return Ask(
        "POST",
        f"/compute/functions/{path}/invoke",
        read,
        query=_query({"version": version}),
        headers=headers,
        content=msgspec.json.encode({"payload": text, "invocation_type": invocation_type}),
        repeatable=key is not None,
        answer_s_max=CALL_S_MAX,
    )


def _query(given: Mapping[str, object] | None) -> dict[str, str]:
    return {name: str(value) for name, value in (given or {}).items() if value is not None}


# -- reading answers ---------------------------------------------------------------------------------


def nothing(answer: Answer) -> None:
    """Read an answer that holds nothing to know."""


def text(answer: Answer) -> str:
    """Read an answer that is plain text."""
    return answer.body.decode(errors="replace")


def one(kind: type[T]) -> Callable[[Answer], T]:
    """Return what reads one thing."""
    return lambda answer: _convert(_body(answer), kind, answer)


def many(kind: type[T]) -> Callable[[Answer], list[T]]:
    """Return what reads a whole list."""
    return lambda answer: page(kind)(answer).results


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of a list."""

    results: list[T]
    total: int
    next_cursor: str | None


def page(kind: type[T]) -> Callable[[Answer], Page[T]]:
    """Return what reads a part of a list."""

    def read(answer: Answer) -> Page[T]:
        body = _body(answer)
        results = body.get("results") if isinstance(body, dict) else None
        if not isinstance(results, list):
            raise _unexpected(answer)
        found = [_convert(item, kind, answer) for item in results]
        return Page(found, body.get("results_total", len(found)), body.get("next_cursor"))

    return read


def _body(answer: Answer) -> Any:
    members = _members(answer.body)
    if members is None or "body" not in members:
        raise _unexpected(answer)
    return members["body"]


def body_text(answer: Answer) -> str:
    """Read the text that an invocation answers: JSON in a string."""
    body = _body(answer)
    if not isinstance(body, str):
        raise _unexpected(answer)
    return body


def _convert(value: Any, kind: type[T], answer: Answer) -> T:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise _unexpected(answer, f": {error}") from None


def _members(body: bytes) -> dict[str, Any] | None:
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return found if isinstance(found, dict) else None


def _unexpected(answer: Answer, why: str = "") -> UnexpectedAnswer:
    return UnexpectedAnswer(
        f"the answer ({answer.status}) is not one of stoker's{why}",
        Details("client.unexpected_answer", answer.status, hint="is that the URL of a stoker server?"),
    )


def error_in(answer: Answer) -> StokerError | None:
    """Return the error that an answer stands for, None if it is none."""
    if 200 <= answer.status < 300:
        return None
    members = _members(answer.body)
    message = None if members is None else members.get("error")
    if members is None or not isinstance(message, str):
        return _unexpected(answer)

    def string(name: str) -> str | None:
        value = members.get(name)
        return value if isinstance(value, str) else None

    return error_of(
        message,
        Details(
            string("code") or "",
            answer.status,
            field=string("field"),
            hint=string("hint"),
            invocation_id=string("invocation_id"),  # of what was refused, the header's has no record
            retry_after_s=_retry_after_s(answer),
            error_type=string("error_type"),
            stack=string("stack"),
            incident=string("id"),
        ),
    )


def _retry_after_s(answer: Answer) -> float | None:
    try:
        return max(0.0, float(answer.headers["retry-after"]))
    except (KeyError, ValueError):
        return None

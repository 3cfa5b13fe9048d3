"""Lists: `?limit=` and `?cursor=`, and the envelope of the answer.

Does not know what is listed. Source: the compute API contract, *Conventions*.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from starlette.requests import Request

from stoker.model.errors import InvalidRequest

LIMIT_MAX = 10_000

T = TypeVar("T")


def listed(
    request: Request, items: Sequence[T], place: Callable[[T], int], answer: Callable[[T], object]
) -> dict[str, Any]:
    """Return the body of a list: the page of `items` that a request asks for, all without `?limit=`.

    `place` is a number that grows from item to item and stays with it; `answer` is how an item is shown.
    Raises InvalidRequest.
    """
    page, rest = page_of(request, items, place)
    return {"body": {"results": [answer(item) for item in page], **rest}}


def page_of(
    request: Request, items: Sequence[T], place: Callable[[T], int]
) -> tuple[Sequence[T], dict[str, object]]:
    """Return the page of `items`, and what stands beside the results; as `listed` for the rest."""
    rest: dict[str, object] = {"results_total": len(items)}
    limit, after = limit_of(request), _cursor_of(request)
    if after is not None:
        items = [item for item in items if place(item) > after]
    if limit is not None and len(items) > limit:
        items = items[:limit]
        rest["next_cursor"] = _cursor(place(items[-1]))
    return items, rest


def limit_of(request: Request) -> int | None:
    """Return `?limit=`, None where there is none. Raises InvalidRequest."""
    text = request.query_params.get("limit")
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 5 or not 1 <= int(text) <= LIMIT_MAX:
        raise InvalidRequest(f"limit is an integer from 1 to {LIMIT_MAX}", hint="?limit=100")
    return int(text)


def _cursor(place: int) -> str:
    return base64.urlsafe_b64encode(str(place).encode()).decode().rstrip("=")


def _cursor_of(request: Request) -> int | None:
    text = request.query_params.get("cursor")
    if text is None:
        return None
    try:
        return int(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (binascii.Error, ValueError):
        raise InvalidRequest("the cursor is not one of ours", hint="use next_cursor of a list") from None

"""Conditions: what a request demands beside its body (`?strict=`, `If-Match`), and the ETag of answers.

Does not know what is changed. An entity tag is the revision of the resource in quotes.
"""

from __future__ import annotations

from starlette.requests import Request

from stoker.edge.http import api


def is_strict(request: Request) -> bool:
    """Tell whether keys that mean nothing are to be refused."""
    return api.asks_for_strict(request.query_params.get("strict"))


def etag(revision: int) -> dict[str, str]:
    """Return the header that names a revision."""
    return {"ETag": f'"{revision}"'}


def if_match(request: Request) -> frozenset[int] | None:
    """Return the revisions that `If-Match` allows; None for any. A tag that is none of ours matches none."""
    text = request.headers.get("if-match")
    if text is None or text.strip() == "*":
        return None
    tags = (tag.strip() for tag in text.split(","))
    numbers = (tag[1:-1] for tag in tags if len(tag) > 2 and tag[0] == tag[-1] == '"')
    return frozenset(int(number) for number in numbers if _is_number(number))


def _is_number(text: str) -> bool:
    return len(text) <= 20 and text.isascii() and text.isdigit()

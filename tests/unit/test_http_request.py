"""Which requests take the lean path, and what one answer means."""

from __future__ import annotations

import pytest

from stoker.edge.http.head import ResponseHeads
from stoker.edge.http.request import is_invoke


@pytest.mark.parametrize(
    ("method", "path", "lean"),
    [
        (b"POST", b"/compute/functions/c/f/invoke", True),
        (b"POST", b"/compute/functions/a%2Fb/%20/invoke", True),
        (b"GET", b"/compute/functions/c/f/invoke", False),
        (b"POST", b"/compute/functions/c/f/invoke/", False),
        (b"POST", b"/compute/functions/c/f", False),
        (b"POST", b"/compute/functions/c/invoke", False),
        (b"POST", b"/compute/functions/c/f/g/invoke", False),
        (b"POST", b"/compute/functions//f/invoke", False),
        (b"POST", b"/compute/functions/c//invoke", False),
        (b"POST", b"/x/compute/functions/c/f/invoke", False),
    ],
)
def test_only_the_invoke_route_is_lean(method: bytes, path: bytes, lean: bool) -> None:
    assert is_invoke(method, path) is lean


def test_a_head_has_the_date_of_the_last_tick() -> None:
    heads = ResponseHeads()

    heads.tick(0.0)
    first = heads.json(200)
    heads.tick(86_400.9)

    assert first.startswith(b"HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n")
    assert b"Date: Fri, 02 Jan 1970 00:00:00 GMT\r\n" in heads.json(200)


def test_a_status_without_a_name_is_still_a_status_line() -> None:
    assert ResponseHeads().bare(299).startswith(b"HTTP/1.1 299 \r\n")

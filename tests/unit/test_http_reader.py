"""Reading requests, without a socket."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.edge.http.reader import RequestReader, TakeBody
from stoker.edge.http.request import Request
from stoker.model.errors import InvalidRequest, TooLarge
from stoker.model.limits import Limits

LIMITS = Limits(header_bytes_max=500, request_bytes_max=1_000)


class Collector:
    """Takes requests; streams the bodies of those whose path is /stream."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.pieces: list[bytes] = []

    def head_read(self, request: Request) -> TakeBody | None:
        return self.pieces.append if request.path == b"/stream" else None

    def body_grows(self, request: Request, count: int) -> None:
        """Nothing is counted here."""

    def request_read(self, request: Request) -> None:
        self.requests.append(request)


def read(*pieces: bytes) -> list[Request]:
    collector = Collector()
    reader = RequestReader(collector, LIMITS)
    for piece in pieces:
        reader.feed(piece)
    return collector.requests


def post(*lines: bytes, body: bytes = b"", version: bytes = b"1.1") -> bytes:
    head = [b"POST /a HTTP/" + version, b"Host: test", *lines, b"", b""]
    return b"\r\n".join(head) + body


CHUNKED = b"Transfer-Encoding: chunked"


@pytest.mark.parametrize(
    "request_bytes",
    [
        post(b"Content-Length: 3", CHUNKED, body=b"0\r\n\r\n"),
        post(CHUNKED, b"Content-Length: 3", body=b"0\r\n\r\n"),
        post(b"Content-Length: 0", CHUNKED, body=b"0\r\n\r\n"),
        post(b"Content-Length: 3", b"Content-Length: 3", body=b"abc"),
        post(b"Content-Length: 3", b"Content-Length: 4", body=b"abcd"),
        post(b"Content-Length: 3, 3", body=b"abc"),
        post(b"Content-Length: +3", body=b"abc"),
        post(b"Content-Length: -3", body=b"abc"),
        post(b"Content-Length: 0x3", body=b"abc"),
        post(b"Content-Length:", body=b"abc"),
        post(b"Content-Length : 3", body=b"abc"),
        post(b"Content-Length: 99999999999999999999999", body=b"abc"),
        post(CHUNKED, CHUNKED, body=b"0\r\n\r\n"),
        post(CHUNKED, b"Transfer-Encoding: identity", body=b"0\r\n\r\n"),
        post(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"),
        post(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"),
        post(b"Transfer-Encoding:\x0bchunked", body=b"0\r\n\r\n"),
        post(CHUNKED, body=b"0\r\n\r\n", version=b"1.0"),
        post(CHUNKED, body=b"3\nabc\n0\n\n"),
        post(CHUNKED, body=b"0x3\r\nabc\r\n0\r\n\r\n"),
        post(CHUNKED, body=b"fffffffffffffffff\r\n"),
        post(b"A: b", b" c: folded"),
        post(b"A: b\0c"),
        post(b"A: b\nc: d"),
        b"POST /a HTTP/1.1\nHost: test\n\n",
        b"POST /a HTTP/1.1\r\n\r\n",
        post(b"Host: another"),
        post(version=b"2.0"),
        post(version=b"0.9"),
        b"POST /a#b HTTP/1.1\r\nHost: test\r\n\r\n",
        b"POST a HTTP/1.1\r\nHost: test\r\n\r\n",
        b"POST ftp://test/a HTTP/1.1\r\nHost: test\r\n\r\n",
        b"CONNECT test:443 HTTP/1.1\r\nHost: test\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        post(b"Authorization: a", b"Authorization: b"),
        post(b"X-Api-Key: a", b"X-Api-Key: b"),
        post(b"Idempotency-Key: a", b"Idempotency-Key: b"),
    ],
)
def test_what_two_readers_could_understand_differently_is_refused(request_bytes: bytes) -> None:
    with pytest.raises(InvalidRequest):
        read(request_bytes)


STREAM = (
    post(b"Content-Length: 3", body=b"abc")
    + post(CHUNKED, b"Authorization: t", body=b"2;x\r\nab\r\n1\r\nc\r\n0\r\nX-Trailer: t\r\n\r\n")
    + post(b"Connection: Upgrade", b"Upgrade: h2c", b"Content-Length: 3", body=b"abc")
    + post(b"Connection: Upgrade", b"Upgrade: h2c", CHUNKED, body=b"3\r\nabc\r\n0\r\n\r\n")
    + b"GET /b?c HTTP/1.1\r\nHost: test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    + b"GET /d HTTP/1.1\r\nHost: test\r\nEmpty:\r\n\r\n"
)


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_requests_are_the_same_wherever_the_bytes_are_cut(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(STREAM)]

    requests = read(*[STREAM[a:b] for a, b in pairwise(places)])

    assert [(r.method, r.path, r.query, bytes(r.body)) for r in requests] == [
        (b"POST", b"/a", b"", b"abc"),
        (b"POST", b"/a", b"", b"abc"),
        (b"POST", b"/a", b"", b"abc"),
        (b"POST", b"/a", b"", b"abc"),
        (b"GET", b"/b", b"c", b""),
        (b"GET", b"/d", b"", b""),
    ]
    assert requests[1].authorization == b"t"
    assert requests[1].header(b"x-trailer") is None
    assert requests[5].header(b"empty") == b""


def test_a_trailer_gives_no_credential_even_after_an_empty_body() -> None:
    (request,) = read(post(CHUNKED, body=b"0\r\nAuthorization: Bearer t\r\n\r\n"))

    assert request.authorization is None


def test_nothing_is_read_after_the_last_request() -> None:
    requests = read(post(b"Connection: close") + post(), post())

    assert len(requests) == 1
    assert not requests[0].keep_alive


def test_an_upgrade_that_is_the_last_request_ends_the_reading() -> None:
    upgrade = post(b"Connection: close, upgrade", b"Upgrade: h2c", b"Content-Length: 3", body=b"abc")

    requests = read(upgrade + post())

    assert [bytes(r.body) for r in requests] == [b"abc"]


def test_a_body_past_the_limit_is_refused_by_its_head() -> None:
    with pytest.raises(TooLarge):
        read(post(b"Content-Length: 1001"))


def test_a_chunked_body_past_the_limit_is_refused() -> None:
    assert len(read(post(CHUNKED, body=b"3e8\r\n" + bytes(1_000) + b"\r\n0\r\n\r\n"))) == 1
    with pytest.raises(TooLarge):
        read(post(CHUNKED, body=b"3e9\r\n" + bytes(1_001)))


@pytest.mark.parametrize(
    "start",
    [
        b"POST /",
        b"POST /a HTTP/1.1\r\nHost: test\r\nX: ",
        b"POST /a HTTP/1.1\r\nHost: test\r\n",
        post(CHUNKED, body=b"1;"),
        post(CHUNKED, body=b"0\r\n"),
        post(CHUNKED, body=b"0\r\nX: "),
    ],
)
def test_what_never_takes_shape_is_refused_before_it_fills_memory(start: bytes) -> None:
    filler = b"x" * 100

    with pytest.raises(InvalidRequest, match="longer than 500 bytes"):
        read(start, *[filler] * 20)


def test_too_long_a_head_is_refused_in_one_piece_and_in_two() -> None:
    long = post(b"A: " + b"x" * 300, b"B: " + b"x" * 300)

    for pieces in ([long], [long[:400], long[400:]]):
        with pytest.raises(InvalidRequest, match="longer than 500 bytes"):
            read(*pieces)


def test_many_short_heads_in_one_read_are_not_a_long_one() -> None:
    assert len(read(post() * 100)) == 100


def test_a_streamed_body_is_handed_over_and_not_kept() -> None:
    collector = Collector()
    reader = RequestReader(collector, LIMITS)

    reader.feed(b"POST /stream HTTP/1.1\r\nHost: test\r\nContent-Length: 6\r\n\r\nabc")
    unfinished = reader.feed(b"de")
    finished = reader.feed(b"f")

    assert (unfinished, finished) == (True, False)
    assert collector.pieces == [b"abc", b"de", b"f"]
    assert collector.requests[0].body == b""

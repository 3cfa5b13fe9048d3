"""Heads: what is asked of the proxy is read in one way, and what is not well formed in none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.egress.head import END, BadHead, parse_head


@pytest.mark.parametrize(
    ("target", "host", "port"),
    [
        ("api.example.com:443", "api.example.com", 443),
        ("API.example.com.:443", "api.example.com", 443),
        ("1.2.3.4:80", "1.2.3.4", 80),
        ("[2606:4700::1]:443", "2606:4700::1", 443),
        ("[::FFFF:1.2.3.4]:443", "1.2.3.4", 443),
    ],
)
def test_connect_names_host_and_port(target: str, host: str, port: int) -> None:
    head = parse_head(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())

    assert (head.host, head.port, head.forward) == (host, port, None)


def test_the_absolute_form_goes_on_in_the_form_of_an_origin() -> None:
    head = parse_head(
        b"POST http://user:pw@API.example.com/a%20b?c=d#e HTTP/1.1\r\nHost: other.example\r\nX-One: 1\r\n"
        b"Proxy-Authorization: Basic eA==\r\nProxy-Connection: keep-alive\r\nConnection: keep-alive\r\n"
        b"Content-Length: 3\r\n\r\n"
    )

    assert (head.host, head.port) == ("api.example.com", 80)
    assert head.forward == (
        b"POST /a%20b?c=d HTTP/1.1\r\nHost: api.example.com\r\nX-One: 1\r\nContent-Length: 3\r\n"
        b"Connection: close\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("target", "line", "host"),
    [
        ("http://a.example", b"GET / HTTP/1.1", b"Host: a.example"),
        ("http://a.example:8080?x", b"GET /?x HTTP/1.1", b"Host: a.example:8080"),
        ("HTTP://[2606:4700::1]/", b"GET / HTTP/1.1", b"Host: [2606:4700::1]"),
        ("http://[2606:4700::1]:81/", b"GET / HTTP/1.1", b"Host: [2606:4700::1]:81"),
    ],
)
def test_the_host_is_the_one_that_was_checked(target: str, line: bytes, host: bytes) -> None:
    head = parse_head(f"GET {target} HTTP/1.1\r\nHost: evil.example\r\n\r\n".encode())

    assert head.forward is not None
    assert head.forward.split(b"\r\n")[:2] == [line, host]


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET https://a.example/ HTTP/1.1\r\n\r\n",
        b"GET ftp://a.example/ HTTP/1.1\r\n\r\n",
        b"GET http:// HTTP/1.1\r\n\r\n",
        b"GET http:///x HTTP/1.1\r\n\r\n",
        b"CONNECT a.example HTTP/1.1\r\n\r\n",
        b"CONNECT a.example:0 HTTP/1.1\r\n\r\n",
        b"CONNECT a.example:443x HTTP/1.1\r\n\r\n",
        b"CONNECT a.example:80@evil.example:443 HTTP/1.1\r\n\r\n",
        b"CONNECT 127.1:80 HTTP/1.1\r\n\r\n",
        b"CONNECT 0x7f000001:80 HTTP/1.1\r\n\r\n",
        b"CONNECT 0177.0.0.1:80 HTTP/1.1\r\n\r\n",
        b"CONNECT [fe80::1%25lo]:80 HTTP/1.1\r\n\r\n",
        b"CONNECT  a.example:443 HTTP/1.1\r\n\r\n",
        b"CONNECT a.example:443 HTTP/2\r\n\r\n",
        b"CONNECT a.example:443\r\n\r\n",
        b"GET http://a.example/ HTTP/1.1\r\nX : y\r\n\r\n",
        b"GET http://a.example/ HTTP/1.1\r\nX: y\r\n folded\r\n\r\n",
        b"GET http://a.example/ HTTP/1.1\r\nX: y\nHost: evil.example\r\n\r\n",
        b"GET http://a.example/ HTTP/1.1\r\nX: y\rHost: evil.example\r\n\r\n",
        b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
    ],
)
def test_what_is_no_request_to_a_proxy_is_refused(head: bytes) -> None:
    with pytest.raises(BadHead):
        parse_head(head)


@given(st.binary(max_size=200).filter(lambda data: END not in data))
def test_no_bytes_break_the_parser(data: bytes) -> None:
    for whole in (
        data + END,
        b"CONNECT " + data + b" HTTP/1.1" + END,
        b"GET http://" + data + b" HTTP/1.1" + END,
    ):
        try:
            head = parse_head(whole)
        except BadHead:
            continue
        assert 1 <= head.port <= 65535
        assert head.authority.isascii()
        assert head.forward is None or head.forward.count(END) == 1


def test_what_is_said_of_a_bad_host_can_be_printed() -> None:
    with pytest.raises(BadHead) as caught:
        parse_head(b"CONNECT \x1b[2J\xff:80 HTTP/1.1\r\n\r\n")

    assert str(caught.value).isprintable()

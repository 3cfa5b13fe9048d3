"""Injection: where a secret may go, and a request's head with it in it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.egress.head import END, BadHead, Line, injected_head
from stoker.model.errors import InvalidRequest
from stoker.model.injection import Injection, check_value, injection_of
from stoker.model.secret import Secret

TOKEN = Line("API_KEY", "Authorization", "Bearer real", "stoker-secret-API_KEY")
NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9-]{0,15}", fullmatch=True)
VALUES = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30)


def injected(**given: Any) -> Injection:
    found = injection_of({"hosts": ["api.example.com"], "header": "Authorization", **given})
    assert found is not None
    return found


def test_plain_requests_go_to_the_port_that_speaks_https() -> None:
    injection = injected(hosts=["API.example.com.", "other.test:8443", "[::1]"])

    assert injection.hosts == ("api.example.com:443", "other.test:8443", "[::1]:443")
    assert injection.port_for("api.example.com", 80) == 443
    assert injection.port_for("api.example.com", 443) == 443
    assert injection.port_for("other.test", 8443) == 8443
    assert injection.port_for("::1", 80) == 443


@pytest.mark.parametrize(
    ("host", "port"),
    [
        ("api.example.com", 8080),
        ("other.test", 80),
        ("other.test", 443),
        ("x.api.example.com", 80),
        ("example.com", 80),
    ],
)
def test_no_other_host_or_port_is_meant(host: str, port: int) -> None:
    assert injected(hosts=["api.example.com", "other.test:8443"]).port_for(host, port) is None


def test_the_value_stands_where_the_format_says_and_is_not_shown() -> None:
    value = injected(format="Key {} end").written(Secret("{}real"))

    assert value.reveal() == "Key {}real end"
    assert "real" not in repr(value)
    assert "real" not in repr(TOKEN)


@given(st.text(max_size=40))
def test_a_value_that_is_taken_is_one_line_of_a_header(text: str) -> None:
    fits = text != "" and text == text.strip() and all(" " <= char <= "~" for char in text)

    if fits:
        check_value(injected(), Secret(text))
    else:
        with pytest.raises(InvalidRequest) as refused:
            check_value(injected(), Secret(text))
        assert refused.value.field == "/value"


def parsed(head: bytes) -> tuple[str, list[tuple[str, str]]]:
    first, *lines = head.removesuffix(END).decode("latin-1").split("\r\n")
    return first, [
        (name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)
    ]


@given(st.lists(st.tuples(NAMES, VALUES), max_size=8))
def test_a_head_has_the_header_once_the_asked_host_once_and_all_else_as_it_was(
    fields: list[tuple[str, str]],
) -> None:
    data = "".join(f"{name}: {value}\r\n" for name, value in fields)
    sized = sum(name.lower() in ("content-length", "transfer-encoding") for name, _ in fields)
    if sized > 1:
        return

    head, sent = injected_head(f"GET /p HTTP/1.1\r\n{data}\r\n".encode(), "api.example.com", 443, [TOKEN])

    first, found = parsed(head)
    assert first == "GET /p HTTP/1.1"
    assert sent == [TOKEN]
    assert [value for name, value in found if name == "authorization"] == ["Bearer real"]
    assert [value for name, value in found if name == "host"] == ["api.example.com"]
    assert [value for name, value in found if name == "connection"] == ["close"]
    ours = {"authorization", "host", "connection", "keep-alive", "proxy-connection", "proxy-authorization"}
    kept = [(name.lower(), value.strip()) for name, value in fields if name.lower() not in ours]
    assert [one for one in found if one[0] not in ours] == kept


@given(st.binary(max_size=200))
def test_whatever_comes_is_a_head_with_the_header_once_or_refused(data: bytes) -> None:
    try:
        head, _ = injected_head(data.replace(END, b"") + END, "a.test", 8443, [TOKEN])
    except BadHead:
        return

    _, found = parsed(head)
    assert [value for name, value in found if name == "host"] == ["a.test:8443"]
    assert [value for name, value in found if name == "authorization"] == ["Bearer real"]


def test_for_one_header_the_placeholder_says_which_secret_or_else_it_is_the_first() -> None:
    other = Line("OTHER", "authorization", "Basic other", "stoker-secret-OTHER")
    key = Line("KEY", "X-Key", "key", "stoker-secret-KEY")

    def sent(*headers: str) -> list[Line]:
        data = "".join(f"{one}\r\n" for one in headers)
        return injected_head(f"GET / HTTP/1.1\r\n{data}\r\n".encode(), "a", 443, [TOKEN, other, key])[1]

    assert sent() == [TOKEN, key]
    assert sent("Authorization: Basic stoker-secret-OTHER") == [other, key]
    assert sent("X-Key: stoker-secret-OTHER") == [TOKEN, key]

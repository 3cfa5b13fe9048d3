"""Injection: how a secret gets into requests that a function makes, without getting into the function.

Values, pure. Does not know who puts it there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stoker.model.egress import authority_of, host_of, port_of, split_authority
from stoker.model.errors import InvalidRequest
from stoker.model.secret import Secret

HOSTS_MAX = 20
HEADER_CHARS_MAX = 100
FORMAT_CHARS_MAX = 1000
VALUE_CHARS_MAX = 8192
"""Of a header's value: what servers commonly take."""
HTTPS = 443
HTTP = 80
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_FORMAT = re.compile(r"[\x20-\x7e]*\Z")
_NOT_OURS = frozenset(
    (
        *("host", "connection", "content-length", "content-type", "transfer-encoding", "te", "trailer"),
        *("upgrade", "expect", "keep-alive"),
        *("proxy-authorization", "proxy-connection", "proxy-authenticate"),
    )
)
"""What says how a request is read, and by whom."""


@dataclass(frozen=True, slots=True)
class Injection:
    """Where a secret is put: into one header of requests to these hosts."""

    hosts: tuple[str, ...]
    """`host:port` each, the port being the one that speaks https; canonical."""
    header: str
    format: str = "{}"

    def port_for(self, host: str, port: int) -> int | None:
        """Return the port to which a request for a canonical host goes by https; None if it is not meant.

        What asks for port 80, as `http://` does, goes to 443.
        """
        if authority_of(host, port) in self.hosts:
            return port
        return HTTPS if port == HTTP and authority_of(host, HTTPS) in self.hosts else None

    def written(self, value: Secret) -> Secret:
        """Return the header's value."""
        return Secret(self.format.replace("{}", value.reveal()))


@dataclass(frozen=True, slots=True)
class Injected:
    """A secret on its way into a request."""

    name: str
    placeholder: str
    header: str
    value: Secret
    port: int


def placeholder_of(name: str) -> str:
    """Return what a function finds in its environment in place of a secret's value."""
    return f"stoker-secret-{name}"


def injection_of(given: Mapping[str, Any] | None) -> Injection | None:
    """Return what an `inject` describes. Raises InvalidRequest with its field."""
    if given is None:
        return None
    header, form = given.get("header"), given.get("format")
    if not isinstance(header, str) or len(header) > HEADER_CHARS_MAX or not _TOKEN.match(header):
        raise InvalidRequest("header is the name of a header", field="/inject/header", hint="Authorization")
    if header.lower() in _NOT_OURS:
        raise InvalidRequest(f"{header} is not a header that can hold a secret", field="/inject/header")
    form = "{}" if form is None else form
    if (
        len(form) > FORMAT_CHARS_MAX
        or not _FORMAT.match(form)
        or form.count("{}") != 1
        or form != form.strip()
    ):
        raise InvalidRequest(
            "format is printable ASCII with {} once, where the value goes",
            field="/inject/format",
            hint="Bearer {}",
        )
    return Injection(_hosts_of(given.get("hosts")), header, form)


def check_value(injection: Injection, value: Secret) -> None:
    """Raise InvalidRequest if a value cannot stand in a header. Says nothing of it."""
    text = value.reveal()
    if not text or not _FORMAT.match(text) or text != text.strip():
        raise InvalidRequest(
            "a value that goes into a header is printable ASCII, without blanks around it", field="/value"
        )
    if len(text) + len(injection.format) > VALUE_CHARS_MAX:
        raise InvalidRequest(f"a header's value is at most {VALUE_CHARS_MAX} characters", field="/value")


def _hosts_of(given: object) -> tuple[str, ...]:
    if not isinstance(given, Sequence) or isinstance(given, str) or not 1 <= len(given) <= HOSTS_MAX:
        raise InvalidRequest(f"hosts is a list of 1 to {HOSTS_MAX} hosts", field="/inject/hosts")
    found: dict[str, None] = {}
    for index, text in enumerate(given):
        try:
            host, port = split_authority(text if isinstance(text, str) else "")
            found[authority_of(host_of(host), HTTPS if port is None else port_of(port))] = None
        except ValueError:
            raise InvalidRequest(
                "a host is a name or an address, with a port if it is not 443",
                field=f"/inject/hosts/{index}",
                hint="api.example.com",
            ) from None
    return tuple(found)

"""Where the server is and which token opens it: given, in the environment, or on this machine.

A token that lies on this machine is sent to this machine alone. Does not know what it is used for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

URL_DEFAULT = "http://127.0.0.1:8080"


@dataclass(frozen=True, slots=True, repr=False)
class Place:
    """A server and a token for it."""

    url: str
    """Without a slash at its end."""
    token: str | None
    missing: str | None = None
    """Where a token was looked for, if there is none."""

    @property
    def is_local(self) -> bool:
        """Whether it is this machine."""
        return is_loopback(urlsplit(self.url).hostname or "")

    @property
    def pattern(self) -> str:
        """All URLs of its host, as httpx writes it."""
        host = urlsplit(self.url).hostname or ""
        return f"all://[{host}]" if ":" in host else f"all://{host}"


def is_loopback(host: str) -> bool:
    """Tell whether a host of a URL is this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def find_place(url: str | None, token: str | None, environ: Mapping[str, str]) -> Place:
    """Return the server to speak to. Raises ValueError for a URL that is none."""
    found = (url or environ.get("STOKER_URL") or URL_DEFAULT).rstrip("/")
    parts = urlsplit(found)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{found!r} is not the URL of a server, such as {URL_DEFAULT}")
    token = token or environ.get("STOKER_TOKEN")
    if token:
        return Place(found, token.strip())
    if not is_loopback(parts.hostname):
        return Place(found, None, "STOKER_TOKEN is not set")
    file = data_directory(environ) / "token"
    try:
        return Place(found, file.read_text().strip())
    except FileNotFoundError:
        return Place(found, None, f"STOKER_TOKEN is not set, and there is no {file}")
    except OSError as error:
        return Place(found, None, f"STOKER_TOKEN is not set, and {file} cannot be read ({error.strerror})")


def data_directory(environ: Mapping[str, str]) -> Path:
    """Return the data directory that a server of the same user and environment has."""
    if environ.get("STOKER_DATA"):
        return Path(environ["STOKER_DATA"])
    base = environ.get("XDG_DATA_HOME", "")
    return (Path(base) if base.startswith("/") else Path("~/.local/share").expanduser()) / "stoker"

"""`DATA/nats.json`: where trusted clients on this machine find the embedded NATS server, and as whom.

Owns the file and the credentials in it, which stay the same over restarts; who takes the file away gets new
ones at the next start. Does not know what they allow.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from stoker.app.private_file import write_private
from stoker.backbone.server_config import Credentials

USER = "client"


class NatsAccess:
    """The file, and what it held when the server started. `close` does nothing to it: it stays."""

    def __init__(
        self, file: Path, *, new_password: Callable[[], str] = lambda: secrets.token_urlsafe(24)
    ) -> None:
        self._file = file
        kept = _read(file)
        self.credentials = Credentials(USER, _text(kept, "password") or new_password())
        self.port = _port_of(_text(kept, "url"))
        """Where the server was the last time; 0 if that is not known."""

    def write(self, url: str) -> None:
        """Tell where the server is now."""
        content = {"url": url, "user": self.credentials.user, "password": self.credentials.password}
        write_private(self._file, json.dumps(content) + "\n")


def remove(file: Path) -> None:
    """Take the file of an earlier life away: what it opens is not there any more."""
    file.unlink(missing_ok=True)


def _read(file: Path) -> dict[str, object]:
    """Return what the file holds; nothing if it is not there, or is none of ours."""
    with suppress(FileNotFoundError, ValueError):
        content = json.loads(file.read_bytes())
        if isinstance(content, dict):
            return content
    return {}


def _text(content: dict[str, object], key: str) -> str:
    value = content.get(key)
    return value if isinstance(value, str) else ""


def _port_of(url: str) -> int:
    with suppress(ValueError):
        return urlsplit(url).port or 0
    return 0

"""Listening: the address that clients come to, with its certificate, and the directory that is ours alone.

What cannot be had is refused here, before anything was started. Does not know what is answered.
"""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

from stoker.app.settings import Settings
from stoker.model.errors import StokerError

BACKLOG = 1024


class ListenFailed(StokerError):
    """The address cannot be listened on, or the data directory not be used."""

    code = "platform.error"


def listen(settings: Settings) -> tuple[socket.socket, str]:
    """Return a socket that listens where the settings say, and its URL. Raises ListenFailed."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((settings.host, settings.port))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise ListenFailed(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}",
            hint="choose another address with --listen HOST:PORT; port 0 picks a free one",
        ) from None
    sock.setblocking(False)
    port = sock.getsockname()[1]
    host = f"[{settings.host}]" if family == socket.AF_INET6 else settings.host
    return sock, f"{'https' if settings.tls_cert else 'http'}://{host}:{port}"


def is_loopback(host: str) -> bool:
    """Tell whether an address is this machine's alone."""
    return host == "::1" or host.startswith("127.")


def tls_of(settings: Settings) -> ssl.SSLContext | None:
    """Return what https is spoken with, None without a certificate. Raises ListenFailed."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise ListenFailed(f"--tls-cert {settings.tls_cert}, --tls-key {settings.tls_key}: {error}") from None
    return context


def make_private(data: Path) -> None:
    """Make the data directory, or make it ours alone. Raises ListenFailed."""
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        data.chmod(0o700)
    except OSError as error:
        raise ListenFailed(f"the data directory {data} cannot be used: {error.strerror}") from None

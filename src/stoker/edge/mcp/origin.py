"""Origins: which web pages may speak to a server, so that none reaches one on its reader's own machine.

Pure. Source: Model Context Protocol, *Transports*, security warning.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


def is_allowed(origin: str | None, host: str | None) -> bool:
    """Tell whether a request with these headers may be answered.

    Programs send no Origin. A page may ask if it lies on this machine, or at the same numeric address as the
    server. A name tells nothing: whoever owns it can have it lead here (DNS rebinding).
    """
    if origin is None:
        return True
    name = _host_of(origin)
    if name is None:
        return False
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or (host is not None and name == _host_of(f"http://{host}"))


def _host_of(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None

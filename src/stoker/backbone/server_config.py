"""The configuration of the embedded nats-server, as a value.

Owns every setting we make and why. Does not know how the server is run.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

MIB = 1024 * 1024
MESSAGE_BYTES_MAX = 8 * MIB
"""Above the largest payload of a call (6 MiB) and its envelope."""
LOG_BYTES_MAX = 4 * MIB
STORE_BYTES_MAX = 1 << 60
"""In effect none: by default the server takes 75 % of the disk that is free when it starts, and a nearly
full disk would then refuse writes that still fit."""


CLIENT_PUBLISH = ("ms.compute.*.function.*", "accounts.*.ms.compute.*.function.*", "$SRV.>")
"""What a trusted client may send to: functions, and the discovery of services."""
CLIENT_SUBSCRIBE = ("_INBOX.>",)
"""Where it hears answers; ours are elsewhere (`connection.INBOX_PREFIX`)."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who may connect."""

    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """What one embedded server is told."""

    directory: Path
    port: int
    own: Credentials
    """Of this process, which may do everything."""
    client: Credentials | None = None
    """Of trusted clients, which may call functions and discover services, no more."""

    def text(self) -> str:
        """Return the file's content: JSON, which the server's own format includes."""
        users: list[dict[str, object]] = [{"user": self.own.user, "password": self.own.password}]
        if self.client is not None:
            permissions = {"publish": CLIENT_PUBLISH, "subscribe": CLIENT_SUBSCRIBE}
            users.append(
                {"user": self.client.user, "password": self.client.password, "permissions": permissions}
            )
        settings = {
            "server_name": "stoker",
            "host": "127.0.0.1",
            "port": self.port,
            "authorization": {"users": users, "timeout": 5},
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

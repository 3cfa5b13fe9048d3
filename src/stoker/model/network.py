"""What a call used of the network: a value, of one host and port."""

from __future__ import annotations

import msgspec

HOSTS_MAX = 50
"""Of one call, that are told apart."""
OTHER = "other"
"""All further ones together."""
UNKNOWN = "unknown"
"""What nobody could count: the broker had ended."""


class NetworkUse(msgspec.Struct, frozen=True, omit_defaults=True):
    """Connections and bytes of one call, to one host."""

    host: str
    """`host:port` as it was asked for, or `other`, or `unknown`."""
    connections: int = 0
    """That were made while it ran; one that an earlier call made counts there."""
    bytes_sent: int = 0
    """By the function, while it ran."""
    bytes_received: int = 0
    refused: int = 0
    """Connections that it did not get."""

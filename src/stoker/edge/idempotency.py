"""Idempotency keys as requests carry them, through whatever door.

Does not know what a key does. Source: the compute API contract, *Invoke*.
"""

from __future__ import annotations

from stoker.invocation.acceptance import KeyRequest
from stoker.model.errors import InvalidRequest

KEY_CHARS_MAX = 255


def key_request(text: str, same: bytes) -> KeyRequest:
    """Return a key with what has to be the same when it is sent again. Raises InvalidRequest."""
    key = text.strip()
    if not 1 <= len(key) <= KEY_CHARS_MAX:
        raise InvalidRequest(f"an Idempotency-Key has 1 to {KEY_CHARS_MAX} characters")
    return KeyRequest(key, same)

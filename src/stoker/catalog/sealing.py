"""Sealing: what is secret, made unreadable for everybody without the key, and readable again with it.

AES-256-GCM, with a nonce by chance for each seal; what is sealed belongs to an account and a name and does
not open under others. Does not know where key and sealed bytes are kept.
"""

from __future__ import annotations

import hashlib
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from stoker.model.errors import PlatformError
from stoker.model.secret import Secret

KEY_BYTES = 32
_NONCE_BYTES = 12
_FORMAT = b"\x01"


class Seal:
    """Seals and opens with one key."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)
        self.key_id = hashlib.sha256(b"stoker secrets key\n" + key).hexdigest()[:16]
        """Tells keys apart and nothing more of them."""

    def __repr__(self) -> str:
        return f"Seal({self.key_id})"

    def close(self, account: str, name: str, value: Secret) -> bytes:
        """Return a value sealed, never twice the same bytes."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._cipher.encrypt(nonce, value.reveal().encode(), _belongs_to(account, name))
        return _FORMAT + nonce + sealed

    def open(self, account: str, name: str, sealed: bytes) -> Secret:
        """Return what was sealed. Raises PlatformError for what this key does not open."""
        nonce, rest = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        try:
            if sealed[:1] != _FORMAT:
                raise InvalidTag
            return Secret(self._cipher.decrypt(nonce, rest, _belongs_to(account, name)).decode())
        except (InvalidTag, ValueError):
            raise PlatformError(
                f"the secret {name} cannot be opened with this key", hint="store its value anew"
            ) from None


def _belongs_to(account: str, name: str) -> bytes:
    return f"{account}\n{name}".encode()

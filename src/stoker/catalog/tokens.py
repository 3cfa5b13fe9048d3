"""Tokens: who a credential belongs to.

A token is random text that is shown once and stored as its SHA-256 (it is 256 bits of chance, so no
slow hash is needed). Does not know headers.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass

from stoker.catalog.fold import Fold
from stoker.model.errors import Unauthenticated

ADMINISTRATOR_ID = "administrator"
ALL_SCOPES = frozenset({"*"})


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls: an account, and what the token may do."""

    account: str
    token_id: str
    scopes: frozenset[str]


def new_token() -> str:
    """Return a fresh token: 256 random bits in URL-safe letters."""
    return f"stk_{secrets.token_urlsafe(32)}"


def digest_of(token: bytes) -> bytes:
    """Return what is stored of a token."""
    return hashlib.sha256(token).digest()


class Authenticator:
    """Knows every token of the fold."""

    def __init__(self, fold: Fold) -> None:
        self._fold = fold

    def authenticate(self, authorization: bytes | None, api_key: bytes | None) -> Principal:
        """Return whose token stands in the headers (`Bearer <token>`, or the bare token as API key).

        Raises Unauthenticated. The look-up is by hash, so that its time tells nothing of the token, and
        the hash found is compared in constant time all the same.
        """
        if authorization is not None:
            scheme, _, token = authorization.partition(b" ")
            if scheme.lower() != b"bearer":
                raise Unauthenticated("the Authorization header is not of the form 'Bearer <token>'")
            token = token.strip()
        elif api_key is not None:
            token = api_key.strip()
        else:
            raise Unauthenticated(
                "no token was sent", missing=True, hint="send Authorization: Bearer <token>, or X-Api-Key"
            )
        digest = hashlib.sha256(token).digest()
        stored = self._fold.tokens.get(digest)
        if stored is None or not hmac.compare_digest(stored.digest, digest):
            raise Unauthenticated("the token is not known here")
        return Principal(stored.account, stored.token_id, stored.scopes)

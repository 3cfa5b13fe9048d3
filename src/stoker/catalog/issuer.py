"""Issuer: whose JSON Web Tokens are taken for tokens of ours, and what they let their bearer do.

One issuer, one audience, one algorithm, all of them the operator's choice: what a token says of its algorithm
or of where its key lies is not believed. Claims: `exp` and `sub`, which it must have; `account`, a name (else
`default`); `scope`, of which those count that are ours; `collection`, a topic. Does not know where keys come
from, nor headers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jwt

from stoker.catalog.principal import OF_THE_ACCOUNT, SCOPES, Principal
from stoker.catalog.stored import DEFAULT_ACCOUNT
from stoker.catalog.tenants import Tenants
from stoker.model.subjects import is_topic

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Those with a public key: whoever checks a token must not be able to make one."""
KNOWN_MAX = 4_096
"""Tokens that were checked lately: of those only the time is looked at."""
BYTES_MAX = 8_192
SUBJECT_CHARS_MAX = 200


@dataclass(frozen=True, slots=True)
class Trust:
    """Whose tokens are taken."""

    issuer: str
    audience: str
    algorithm: str


class UnknownKeys(Exception):
    """What should be a set of public keys is none."""


class Issuer:
    """The issuer, with its keys as they were learnt last."""

    def __init__(self, trust: Trust, tenants: Tenants) -> None:
        self._trust = trust
        self._tenants = tenants
        self._keys: dict[str, jwt.PyJWK] = {}
        self._known: dict[bytes, tuple[Principal, float]] = {}
        """By the hash of a token: whose it is, and until when, in seconds since the epoch."""
        self.unknown_key = False
        """Whether a token came that was signed with a key that is not known, since the keys were learnt."""

    def learn(self, keys: object) -> int:
        """Take over a JSON Web Key Set in place of the keys so far; return how many of its keys can be used.

        What was signed with a key that is gone is worth nothing any more. Raises UnknownKeys, and then all
        stays as it is.
        """
        found = keys.get("keys") if isinstance(keys, Mapping) else None
        if not isinstance(found, list):
            raise UnknownKeys("it is no set of public keys")
        usable = {key.key_id or "": key for one in found if (key := self._usable(one)) is not None}
        if not usable:
            raise UnknownKeys(f"it has no key for {self._trust.algorithm}")
        self._keys = usable
        self._known.clear()
        self.unknown_key = False
        return len(usable)

    def _usable(self, key: Any) -> jwt.PyJWK | None:
        algorithm = self._trust.algorithm
        if not isinstance(key, dict) or key.get("alg", algorithm) != algorithm or key.get("use") == "enc":
            return None
        try:
            return jwt.PyJWK(key, algorithm)
        except (jwt.PyJWTError, ValueError, TypeError, KeyError):
            return None

    def principal(self, token: bytes, digest: bytes, now_s: float) -> Principal | None:
        """Return whose token it is, None if it is not to be trusted; `digest` is the hash of it."""
        known = self._known.get(digest)
        if known is None:
            known = self._check(token)
            if known is None:
                return None
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
            self._known[digest] = known
        principal, until_s = known
        return principal if now_s < until_s and principal.account in self._tenants.accounts else None

    def still_trusts(self, principal: Principal, now_s: float) -> bool:
        """Tell whether some token of the principal is still good."""
        return principal.account in self._tenants.accounts and any(
            known == principal and now_s < until_s for known, until_s in self._known.values()
        )

    def _check(self, token: bytes) -> tuple[Principal, float] | None:
        if len(token) > BYTES_MAX or token.count(b".") != 2:
            return None
        try:
            header = jwt.get_unverified_header(token)
            key = self._keys.get(str(header.get("kid", "")))
            if key is None:
                self.unknown_key = True
                return None
            claims = jwt.decode(
                token,
                key.key,
                algorithms=[self._trust.algorithm],
                issuer=self._trust.issuer,
                audience=self._trust.audience,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            return None
        principal = self._principal_of(claims)
        return None if principal is None else (principal, float(claims["exp"]))

    def _principal_of(self, claims: Mapping[str, Any]) -> Principal | None:
        subject, name = claims["sub"], claims.get("account", DEFAULT_ACCOUNT)
        collection, scope = claims.get("collection"), claims.get("scope", "")
        if not (isinstance(subject, str) and isinstance(name, str) and isinstance(scope, str)):
            return None
        if collection is not None and not (isinstance(collection, str) and is_topic(collection)):
            return None  # a limit that is not understood must not be none
        account = self._tenants.named(name)
        if account is None:
            return None
        scopes = {one for one in scope.split() if one in SCOPES}
        if collection is not None:
            scopes -= OF_THE_ACCOUNT
        if account.id != DEFAULT_ACCOUNT:
            scopes.discard("accounts:write")
        return Principal(account.id, f"jwt:{subject[:SUBJECT_CHARS_MAX]}", frozenset(scopes), collection)

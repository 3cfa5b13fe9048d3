"""What the fold remembers beside functions and collections: accounts, tokens, secrets, objects, what is gone.

Frozen values; does not know events.
"""

from __future__ import annotations

from dataclasses import dataclass

from stoker.catalog.principal import Principal
from stoker.catalog.quotas import UNLIMITED, Quotas
from stoker.model.injection import Injection

DEFAULT_ACCOUNT = "default"
"""The account that is always there; its id is its name."""


@dataclass(frozen=True, slots=True)
class Retired:
    """What is remembered of a deleted function, so that its identity goes on if it comes back."""

    created_name: str
    version: int
    revision: int


@dataclass(frozen=True, slots=True)
class RetiredCollection:
    """What is remembered of a deleted collection, so that its topic stays with its name."""

    created_name: str
    revision: int


@dataclass(frozen=True, slots=True)
class Account:
    """A tenant. Its name may be given again once it is deleted, its id never is."""

    id: str
    """What stands in subjects and wherever something is stored."""
    name: str
    """What people call it."""
    quotas: Quotas = UNLIMITED
    created_ms: int = 0
    revision: int = 0
    created_sequence: int = 0


@dataclass(frozen=True, slots=True)
class StoredToken:
    """A token as it is stored: what it may do, and the hash that knows it."""

    principal: Principal
    digest: bytes
    name: str
    created_ms: int
    expires_ms: int | None
    calls_per_minute: int | None
    """Its own; `principal.rates` has those that it came by as well."""
    maker: str | None
    """The id of the token that it was made with; None for the first ones of an account."""
    revision: int

    @property
    def account(self) -> str:
        """The id of the account that it belongs to."""
        return self.principal.account

    @property
    def token_id(self) -> str:
        """What it is told by; not secret."""
        return self.principal.token_id

    @property
    def scopes(self) -> frozenset[str]:
        """What it may do."""
        return self.principal.scopes


@dataclass(frozen=True, slots=True)
class StoredSecret:
    """A secret as it is stored: where its sealed value lies, and what key opens it."""

    name: str
    digest: str
    """Of the sealed value, in hexadecimal."""
    key_id: str
    modified: int
    """Seconds since the epoch."""
    revision: int
    created_sequence: int
    inject: Injection | None = None
    """Where its value is put; None if functions get it."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """Raw bytes stored beforehand under a key, for assets with `link: true`."""

    digest: str
    size_bytes: int
    revision: int

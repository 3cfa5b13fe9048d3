"""What the fold remembers beside functions and collections: tokens, objects, and what was deleted.

Frozen values; does not know events.
"""

from __future__ import annotations

from dataclasses import dataclass


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
class StoredToken:
    """A token as it is stored: what it may do, and the hash that knows it."""

    account: str
    token_id: str
    digest: bytes
    scopes: frozenset[str]
    revision: int


@dataclass(frozen=True, slots=True)
class StoredObject:
    """Raw bytes stored beforehand under a key, for assets with `link: true`."""

    digest: str
    size_bytes: int
    revision: int

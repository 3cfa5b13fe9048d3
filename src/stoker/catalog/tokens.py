"""Tokens: who a credential belongs to, and how new ones are made.

A token is random text that is shown once and stored as its SHA-256 (it is 256 bits of chance, so no
slow hash is needed). It never may more than the one that it was made with, and goes with that. Does not know
headers but for the two that carry it.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from stoker.catalog import events
from stoker.catalog.draft import check_name
from stoker.catalog.fold import Fold
from stoker.catalog.issuer import Issuer
from stoker.catalog.journal import Journal
from stoker.catalog.principal import OF_THE_ACCOUNT, SCOPES, Principal
from stoker.catalog.stored import DEFAULT_ACCOUNT, StoredToken
from stoker.model.clock import wall_ms
from stoker.model.errors import Forbidden, InvalidRequest, NotFound, QuotaExceeded, Unauthenticated
from stoker.model.limits import Limits
from stoker.model.subjects import is_topic

ADMINISTRATOR_ID = "administrator"
"""The id of the token that a server is started with, in account `default`."""
PER_MINUTE_MAX = 1_000_000_000
LIFETIME_S_MAX = 100 * 365 * 24 * 3600


def new_token() -> str:
    """Return a fresh token: 256 random bits in URL-safe letters."""
    return f"stk_{secrets.token_urlsafe(32)}"


def new_token_id() -> str:
    """Return a fresh id of a token."""
    return f"tok_{secrets.token_hex(8)}"


def digest_of(token: bytes) -> bytes:
    """Return what is stored of a token."""
    return hashlib.sha256(token).digest()


class Authenticator:
    """Knows every token of the fold, and those of an issuer that the operator trusts."""

    def __init__(
        self, fold: Fold, *, issuer: Issuer | None = None, now_ms: Callable[[], int] = wall_ms
    ) -> None:
        self._tenants = fold.tenants
        self._issuer = issuer
        self._now_ms = now_ms

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
        stored = self._tenants.tokens.get(digest)
        if stored is None and self._issuer is not None:
            principal = self._issuer.principal(token, digest, self._now_ms() / 1000)
            if principal is not None:
                return principal
        if stored is None or not hmac.compare_digest(stored.digest, digest) or self._is_over(stored):
            raise Unauthenticated("the token is not known here")
        return stored.principal

    def still_knows(self, principal: Principal) -> bool:
        """Tell whether what was recognised before still would be."""
        if self._issuer is not None and self._issuer.still_trusts(principal, self._now_ms() / 1000):
            return True
        stored = self._tenants.token(principal.account, principal.token_id)
        return stored is not None and not self._is_over(stored)

    def _is_over(self, stored: StoredToken) -> bool:
        return stored.expires_ms is not None and stored.expires_ms <= self._now_ms()


@dataclass(frozen=True, slots=True)
class TokenDraft:
    """A token as it is asked for; names are the API's."""

    name: str
    scopes: tuple[str, ...]
    collection: str | None = None
    """Topic, subject or name of a collection; one that does not exist yet is meant by its topic."""
    calls_per_minute: int | None = None
    expires_in: int | None = None
    """Seconds."""


class Tokens:
    """Changes of tokens, an account at a time."""

    def __init__(
        self,
        fold: Fold,
        journal: Journal,
        limits: Limits,
        now_ms: Callable[[], int],
        *,
        make: Callable[[], str] = new_token,
        make_id: Callable[[], str] = new_token_id,
    ) -> None:
        self._fold = fold
        self._journal = journal
        self._limits = limits
        self._now_ms = now_ms
        self._make = make
        self._make_id = make_id

    async def create(self, maker: Principal, wanted: TokenDraft) -> tuple[str, StoredToken]:
        """Store a new token and return its text, which nobody can find out again, and what is kept of it.

        What is not asked for is as the maker has it. Raises Forbidden naming the field for more than the
        maker may do, InvalidRequest naming the field, QuotaExceeded, StorageFull, Unavailable.
        """
        check_name(wanted.name, "/name", self._limits)
        self._check_scopes(maker, wanted.scopes)
        collection = self._collection_of(maker, wanted)
        _check_number("calls_per_minute", wanted.calls_per_minute, PER_MINUTE_MAX)
        _check_number("expires_in", wanted.expires_in, LIFETIME_S_MAX)

        async def create() -> tuple[str, StoredToken]:
            async with self._journal.deciding(maker.account):
                made_with = self._fold.tenants.token(maker.account, maker.token_id)
                if made_with is None and maker.token_id.startswith("jwt:"):
                    raise Forbidden("with a token of the issuer no others are made")
                if made_with is None:
                    raise Unauthenticated("the token is not known here")
                await self._make_room(maker.account)
                return await self._store(
                    maker.account,
                    wanted,
                    collection,
                    maker=made_with,
                    per_minute=_within_rates(maker, wanted.calls_per_minute),
                    expires_ms=self._expires_ms(made_with, wanted.expires_in),
                )

        return await self._journal.to_its_end(create())

    async def create_first(self, account: str, name: str) -> tuple[str, StoredToken]:
        """Store the token by which a new account is opened: it may do all there is within the account."""
        scopes = tuple(scope for scope in SCOPES if scope != "accounts:write")
        return await self._store(account, TokenDraft(name, scopes), None)

    async def _store(
        self,
        account: str,
        wanted: TokenDraft,
        collection: str | None,
        *,
        maker: StoredToken | None = None,
        per_minute: int | None = None,
        expires_ms: int | None = None,
    ) -> tuple[str, StoredToken]:
        token, token_id = self._make(), self._make_id()
        digest = digest_of(token.encode())
        content = {
            "name": wanted.name,
            "digest": digest.hex(),
            "scopes": sorted(set(wanted.scopes)),
            "collection": collection,
            "calls_per_minute": per_minute,
            "expires_ms": expires_ms,
            "made_by": None if maker is None else maker.token_id,
        }
        subject = events.token_key(account, token_id)
        await self._journal.append(
            str(subject), events.encode("created", self._now_ms(), **content), expected=0
        )
        return token, self._fold.tenants.tokens[digest]

    async def delete(self, principal: Principal, token_id: str) -> None:
        """Store that a token is no more, nor any that was made with it. Raises NotFound, InvalidRequest."""

        async def delete() -> None:
            async with self._journal.deciding(principal.account):
                token = self._fold.tenants.token(principal.account, token_id)
                if token is None or not _sees(principal, token):
                    raise NotFound("no such token")
                if (token.account, token.token_id) == (DEFAULT_ACCOUNT, ADMINISTRATOR_ID):
                    raise InvalidRequest(
                        "the administrator's token is not deleted but replaced",
                        hint="stoker serve --token TOKEN",
                    )
                await self._drop(token)

        await self._journal.to_its_end(delete())

    def seen_by(self, principal: Principal) -> list[StoredToken]:
        """Return the tokens of an account that have not expired, as far as a token sees them."""
        now_ms = self._now_ms()
        return [
            token
            for token in self._fold.tenants.tokens_of(principal.account)
            if _sees(principal, token) and not _is_over(token, now_ms)
        ]

    async def _make_room(self, account: str) -> None:
        """Let expired tokens go; refuse one more if there are too many others."""
        now_ms = self._now_ms()
        for token in list(self._fold.tenants.tokens_of(account)):
            if _is_over(token, now_ms) and self._fold.tenants.token(account, token.token_id) is not None:
                await self._drop(token)
        count = sum(1 for _ in self._fold.tenants.tokens_of(account))
        if count >= self._limits.account_tokens_max:
            raise QuotaExceeded("tokens", f"an account has at most {count} tokens", retry_after_s=60)

    async def _drop(self, token: StoredToken) -> None:
        subject = events.token_key(token.account, token.token_id)
        data = events.encode("deleted", self._now_ms())
        await self._journal.append(str(subject), data, expected=token.revision)

    def _check_scopes(self, maker: Principal, scopes: tuple[str, ...]) -> None:
        for index, scope in enumerate(scopes):
            if scope not in SCOPES:
                raise InvalidRequest(
                    f"{scope[:40]!r} is no scope", field=f"/scopes/{index}", hint=f"of {', '.join(SCOPES)}"
                )
            if not maker.may(scope):
                raise Forbidden(
                    f"the token that makes another lacks the scope {scope}", field=f"/scopes/{index}"
                )
        if not scopes:
            raise InvalidRequest("a token has a scope at least", field="/scopes")

    def _collection_of(self, maker: Principal, wanted: TokenDraft) -> str | None:
        text = wanted.collection
        if text is None:
            topic = maker.collection
        else:
            known = self._fold.collection(maker.account, text)
            topic = text if known is None else known.topic
            if not maker.sees(topic):
                raise Forbidden(
                    "the token that makes another is limited to its own collection", field="/collection"
                )
            if known is None and (not is_topic(text) or len(text) > self._limits.topic_chars_max):
                raise InvalidRequest(
                    "no collection has that topic or name, and it cannot be a new one's topic",
                    field="/collection",
                )
        beyond = OF_THE_ACCOUNT.intersection(wanted.scopes)
        if topic is not None and beyond:
            raise InvalidRequest(
                f"{min(beyond)} is over the whole account: a token limited to a collection cannot have it",
                field=f"/scopes/{wanted.scopes.index(min(beyond))}",
            )
        return topic

    def _expires_ms(self, maker: StoredToken, expires_in: int | None) -> int | None:
        if expires_in is None:
            return maker.expires_ms
        expires_ms = self._now_ms() + expires_in * 1000
        if maker.expires_ms is not None and expires_ms > maker.expires_ms:
            raise Forbidden("the token that makes another expires before that", field="/expires_in")
        return expires_ms


def _within_rates(maker: Principal, per_minute: int | None) -> int | None:
    lowest = min((rate.per_minute for rate in maker.rates), default=None)
    if per_minute is not None and lowest is not None and per_minute > lowest:
        raise Forbidden(
            f"the token that makes another has {lowest} calls a minute", field="/calls_per_minute"
        )
    return per_minute  # what is not asked for is counted with the maker's


def _check_number(key: str, value: int | None, most: int) -> None:
    if value is not None and not 1 <= value <= most:
        raise InvalidRequest(f"{key} is an integer from 1 to {most}", field=f"/{key}")


def _sees(principal: Principal, token: StoredToken) -> bool:
    collection = token.principal.collection
    return principal.collection is None or principal.collection == collection


def _is_over(token: StoredToken, now_ms: int) -> bool:
    return token.expires_ms is not None and token.expires_ms <= now_ms

"""Tenants: accounts, and the tokens that open them, as the fold has them in memory.

Changed by events alone. Does not know what accounts have beside tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from stoker.catalog.events import Subject, UnknownFormat, quotas_from
from stoker.catalog.principal import Principal, Rate
from stoker.catalog.stored import DEFAULT_ACCOUNT, Account, StoredToken


class Tenants:
    """All accounts and tokens that exist."""

    def __init__(self) -> None:
        self.accounts: dict[str, Account] = {DEFAULT_ACCOUNT: Account(DEFAULT_ACCOUNT, DEFAULT_ACCOUNT)}
        """By id."""
        self.tokens: dict[bytes, StoredToken] = {}
        """By the SHA-256 of the token."""
        self.gone: dict[str, int] = {}
        """The ids of deleted accounts, with the sequence of the event that says so."""
        self._ids: dict[str, str] = {DEFAULT_ACCOUNT: DEFAULT_ACCOUNT}
        self._digests: dict[tuple[str, str], bytes] = {}

    # -- folding ---------------------------------------------------------------------------------

    def apply_account(self, subject: Subject, event: dict[str, Any], sequence: int) -> None:
        """Fold an event of an account in."""
        account_id = subject.account
        match event["type"]:
            case "created":
                name, quotas = str(event["name"]), quotas_from(event["limits"])
                made = Account(account_id, name, quotas, event["at_ms"], sequence, sequence)
                self.accounts[account_id] = made
                self._ids[name] = account_id
            case "patched":
                quotas = quotas_from(event["limits"])
                before = self.accounts[account_id]
                self.accounts[account_id] = replace(before, quotas=quotas, revision=sequence)
            case "deleted":
                gone = self.accounts.pop(account_id, None)  # its events may have been erased
                if gone is not None:
                    del self._ids[gone.name]
                self.gone[account_id] = sequence
                for token in list(self.tokens_of(account_id)):
                    self._drop(token)
            case kind:
                raise UnknownFormat(f"the event log holds an account that was {kind}")

    def apply_token(self, subject: Subject, event: dict[str, Any], sequence: int) -> None:
        """Fold an event of a token in. With a token go all that were made with it."""
        place = (subject.account, subject.key[0])
        before = self.token(*place)
        match event["type"]:
            case "created":
                token = self._token_from(subject, event, sequence)
                if before is not None:
                    del self.tokens[before.digest]
                self.tokens[token.digest] = token
                self._digests[place] = token.digest
            case "deleted":
                if before is not None:
                    for token in list(self.made_with(before)):
                        self._drop(token)
            case kind:
                raise UnknownFormat(f"the event log holds a token that was {kind}")

    def _token_from(self, subject: Subject, event: dict[str, Any], sequence: int) -> StoredToken:
        token_id, per_minute, maker_id = subject.key[0], event.get("calls_per_minute"), event.get("made_by")
        maker = None if maker_id is None else self.token(subject.account, maker_id)
        rates = () if maker is None else maker.principal.rates
        if per_minute is not None:
            rates = (*rates, Rate(token_id, per_minute))
        scopes = frozenset(map(str, event["scopes"]))
        return StoredToken(
            principal=Principal(subject.account, token_id, scopes, event.get("collection"), rates),
            digest=bytes.fromhex(event["digest"]),
            name=event["name"],
            created_ms=event["at_ms"],
            expires_ms=event.get("expires_ms"),
            calls_per_minute=per_minute,
            maker=maker_id,
            revision=sequence,
        )

    def _drop(self, token: StoredToken) -> None:
        del self.tokens[token.digest]
        del self._digests[(token.account, token.token_id)]

    # -- looking up ------------------------------------------------------------------------------

    def named(self, name: str) -> Account | None:
        """Return the account of a name, or None."""
        found = self._ids.get(name)
        return None if found is None else self.accounts[found]

    def name_of(self, account_id: str) -> str:
        """Return what people call an account; its id if it is no more."""
        account = self.accounts.get(account_id)
        return account_id if account is None else account.name

    def token(self, account: str, token_id: str) -> StoredToken | None:
        """Return a token of an account by its id, or None."""
        digest = self._digests.get((account, token_id))
        return None if digest is None else self.tokens[digest]

    def tokens_of(self, account: str) -> Iterator[StoredToken]:
        """Yield an account's tokens, those made first first."""
        return (token for token in self.tokens.values() if token.account == account)

    def made_with(self, token: StoredToken) -> Iterator[StoredToken]:
        """Yield a token and all that were made with it, however many makers are in between."""
        yield token
        for other in list(self.tokens_of(token.account)):
            if other.maker == token.token_id:
                yield from self.made_with(other)

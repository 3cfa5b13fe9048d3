"""Accounts: tenants come, get quotas and go, with all that they had.

Does not know what erases the things of one that is gone: whoever keeps something is told.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

from stoker.catalog import events
from stoker.catalog.fold import Fold
from stoker.catalog.journal import Journal
from stoker.catalog.quotas import QUOTAS, Quotas
from stoker.catalog.stored import DEFAULT_ACCOUNT, Account, StoredToken
from stoker.catalog.tokens import Tokens
from stoker.model.errors import InvalidRequest, NameTaken, NotFound
from stoker.model.subjects import is_topic

QUOTA_MAX = 1 << 50
_ALL = "accounts"
"""Decisions on which accounts there are wait for each other; no account's id is like this."""


def new_account_id() -> str:
    """Return a fresh id of an account, which nobody can guess."""
    return f"acc_{secrets.token_hex(12)}"


class Accounts:
    """Changes of accounts."""

    def __init__(
        self,
        fold: Fold,
        journal: Journal,
        tokens: Tokens,
        now_ms: Callable[[], int],
        *,
        make_id: Callable[[], str] = new_account_id,
    ) -> None:
        self._fold = fold
        self._tenants = fold.tenants
        self._journal = journal
        self._tokens = tokens
        self._now_ms = now_ms
        self._make_id = make_id

    async def create(self, name: str, quotas: Quotas) -> tuple[Account, str, StoredToken]:
        """Store a new account; return it with the text of its first token, and what is kept of that.

        Raises InvalidRequest naming the field, NameTaken, StorageFull, Unavailable.
        """
        if not is_topic(name):
            raise InvalidRequest(
                "it cannot be an account's name", field="/name", hint="1 to 64 letters, digits, '-' or '_'"
            )
        check_quotas(quotas, "/limits")

        async def create() -> tuple[Account, str, StoredToken]:
            async with self._journal.deciding(_ALL):
                if self._tenants.named(name) is not None:
                    raise NameTaken(f"there is an account of the name {name!r} already", field="/name")
                account_id = self._make_id()
                data = events.encode(
                    "created", self._now_ms(), name=name, limits=events.quotas_content(quotas)
                )
                await self._journal.append(str(events.account_key(account_id)), data, expected=0)
                token, stored = await self._tokens.create_first(account_id, ADMINISTRATOR)
                return self._tenants.accounts[account_id], token, stored

        return await self._journal.to_its_end(create())

    async def limit(self, name: str, quotas: Quotas) -> Account:
        """Store an account's quotas in place of those it had; return it. Raises NotFound, InvalidRequest."""
        account = self.find(name)
        check_quotas(quotas, "")

        async def limit() -> Account:
            async with self._journal.deciding(_ALL):
                before = self.find(account.name)
                data = events.encode("patched", self._now_ms(), limits=events.quotas_content(quotas))
                subject = events.account_key(before.id)
                await self._journal.append(str(subject), data, expected=before.revision)
                return self._tenants.accounts[before.id]

        return await self._journal.to_its_end(limit())

    async def delete(self, name: str) -> None:
        """Store that an account is no more: from then on nothing of it is there for anybody.

        Raises NotFound, InvalidRequest for the one that is always there.
        """
        if self.find(name).id == DEFAULT_ACCOUNT:
            raise InvalidRequest(f"the account {DEFAULT_ACCOUNT} is always there")

        async def delete() -> None:
            async with self._journal.deciding(_ALL):
                account = self.find(name)
                async with self._journal.deciding(account.id):
                    subject = events.account_key(account.id)
                    data = events.encode("deleted", self._now_ms())
                    await self._journal.append(str(subject), data, expected=account.revision)

        await self._journal.to_its_end(delete())

    async def erase(self, account_id: str) -> None:
        """Return once the log of events has nothing of a deleted account but its id, and that it is deleted.

        However long that takes. Raises StorageFull, Unavailable; repeated, it goes on where it was left.
        """
        await self._journal.erase(account_id)

    def find(self, name: str) -> Account:
        """Return the account of a name. Raises NotFound."""
        account = self._tenants.named(name)
        if account is None:
            raise NotFound("no such account")
        return account

    def all(self) -> list[Account]:
        """Return every account, those created first first."""
        return sorted(self._tenants.accounts.values(), key=lambda account: account.created_sequence)


ADMINISTRATOR = "administrator"
"""What the first token of an account is called."""


def check_quotas(quotas: Quotas, pointer: str) -> None:
    """Refuse numbers that cannot be quotas."""
    for name in QUOTAS:
        limit = getattr(quotas, name)
        if limit is not None and not 0 <= limit <= QUOTA_MAX:
            raise InvalidRequest(f"{name} is an integer from 0 to {QUOTA_MAX}", field=f"{pointer}/{name}")

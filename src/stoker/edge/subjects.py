"""Where functions listen on NATS: the subjects of the API, with the account's name in front of all but one's.

Source: the operating contract, *NATS for trusted clients*. Does not know which functions exist.
"""

from __future__ import annotations

from stoker.catalog.fold import Identity
from stoker.catalog.stored import DEFAULT_ACCOUNT
from stoker.catalog.tenants import Tenants
from stoker.model.function import Function

LISTENING = ("ms.compute.*.function.*", "accounts.*.ms.compute.*.function.*")
QUEUE_GROUP = "stoker"
"""Of all servers one gets a request."""


def listening_subject(function: Function, tenants: Tenants) -> str:
    """Return the subject on which a function is called over NATS."""
    if function.account == DEFAULT_ACCOUNT:
        return function.subject
    return f"accounts.{tenants.name_of(function.account)}.{function.subject}"


def identity_of(subject: str, tenants: Tenants) -> Identity | None:
    """Return which function a request on a subject of `LISTENING` means; None without such an account."""
    tokens = subject.split(".")
    if tokens[0] != "accounts":
        return DEFAULT_ACCOUNT, tokens[2], tokens[4]
    account = tenants.named(tokens[1])
    return None if account is None else (account.id, tokens[4], tokens[6])

"""Where functions listen on NATS: the subjects of the API, with the account in front of all but one's.

Source: the operating contract, *NATS for trusted clients*. Does not know which functions exist.
"""

from __future__ import annotations

from stoker.catalog.fold import Identity
from stoker.model.function import Function

DEFAULT_ACCOUNT = "default"
"""Its functions listen on their bare subjects."""
LISTENING = ("ms.compute.*.function.*", "accounts.*.ms.compute.*.function.*")
QUEUE_GROUP = "stoker"
"""Of all servers one gets a request."""


def listening_subject(function: Function) -> str:
    """Return the subject on which a function is called over NATS."""
    if function.account == DEFAULT_ACCOUNT:
        return function.subject
    return f"accounts.{function.account}.{function.subject}"


def identity_of(subject: str) -> Identity:
    """Return which function a request on a subject of `LISTENING` means."""
    tokens = subject.split(".")
    if tokens[0] == "accounts":
        return tokens[1], tokens[4], tokens[6]
    return DEFAULT_ACCOUNT, tokens[2], tokens[4]

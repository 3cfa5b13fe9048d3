"""The table of operations: what is said of each route, in the order in which it is read."""

from __future__ import annotations

from types import MappingProxyType

from stoker.edge.http.openapi import accounts, collections, functions, invocations, running
from stoker.edge.http.openapi.operation import Operation

OPERATIONS: tuple[Operation, ...] = (
    *functions.OPERATIONS,
    *invocations.OPERATIONS,
    *collections.OPERATIONS,
    *running.OPERATIONS,
    *accounts.OPERATIONS,
)
TAGS = MappingProxyType(
    {
        functions.TAG: "Create, list, change and delete functions.",
        functions.CODE_TAG: "The code of a function, its versions, and objects that code may link.",
        invocations.TAG: "Call a function, and see what it prints.",
        invocations.RECORDS_TAG: "What became of calls.",
        invocations.LETTERS_TAG: "Async calls that failed to the end.",
        collections.TAG: "Name spaces of functions.",
        running.TAG: "What is there to run functions, and what runs.",
        accounts.TOKENS_TAG: "Who may do what.",
        accounts.SECRETS_TAG: "Values that only functions see.",
        accounts.TAG: "Accounts and their quotas.",
        running.SERVER_TAG: "The server itself.",
    }
)
"""In the order in which they are read, with what they are about."""

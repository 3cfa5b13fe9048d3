"""Parameters that more than one operation takes, and those of paths.

Does not know which operation takes which.
"""

from __future__ import annotations

from types import MappingProxyType

from stoker.edge.http.listing import LIMIT_MAX
from stoker.edge.http.openapi.operation import Parameter
from stoker.edge.idempotency import KEY_CHARS_MAX

LIMIT = Parameter(
    "limit",
    "query",
    "How many results at most. Without it, all of them.",
    {"type": "integer", "minimum": 1, "maximum": LIMIT_MAX},
    100,
)
CURSOR = Parameter(
    "cursor",
    "query",
    "Where the list goes on: `next_cursor` of the page before.",
    {"type": "string", "minLength": 1},
)
PAGED = (LIMIT, CURSOR)
STRICT = Parameter(
    "strict",
    "query",
    "Whether unknown keys of the body are refused; else they are ignored.",
    {"type": "boolean", "default": False},
    True,
)
IF_MATCH = Parameter(
    "If-Match",
    "header",
    "An `ETag` that a GET answered: 409 if it is another by now.",
    {"type": "string"},
)
IDEMPOTENCY_KEY = Parameter(
    "Idempotency-Key",
    "header",
    "With the same key and body the first outcome is answered again within 24 h, and nothing runs.",
    {"type": "string", "maxLength": KEY_CHARS_MAX, "pattern": r"[^ \t]"},
)
VERSION = Parameter(
    "version",
    "query",
    "Which version of the function's code runs; the latest if it is left out.",
    {"type": "integer", "minimum": 0, "maximum": 999_999_999_999_999},
    1,
)
WAIT = Parameter(
    "wait",
    "query",
    "Answers as soon as the invocation has ended, or after so many milliseconds.",
    {"type": "integer", "minimum": 0, "maximum": "limits.record_wait_ms_max"},
    1000,
)
FOLLOW = Parameter(
    "follow",
    "query",
    "A function's log can only be followed.",
    {"type": "boolean", "const": True},
    True,
    required=True,
)

INVOCATION_ID = "0190163d-8694-739b-aea5-966c26f8ad91"
PATH = MappingProxyType(
    {
        "collection": Parameter(
            "collection_topic",
            "path",
            "A collection's topic, subject or name.",
            {"type": "string", "minLength": 1},
            "my-namespace",
            required=True,
        ),
        "function": Parameter(
            "function_topic",
            "path",
            "A function's topic (the last part of its subject), subject or name.",
            {"type": "string", "minLength": 1},
            "greet",
            required=True,
        ),
        "invocation": Parameter(
            "invocation_id",
            "path",
            "What `X-Invocation-Id` told.",
            {"type": "string", "format": "uuid"},
            INVOCATION_ID,
            required=True,
        ),
        "key": Parameter(
            "key",
            "path",
            "Any text; what links name.",
            {"type": "string", "minLength": 1, "maxLength": 1024},
            "libraries.zip",
            required=True,
        ),
        "name": Parameter(
            "name",
            "path",
            "A secret's name: that of an environment variable.",
            {"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]{0,127}$"},
            "API_KEY",
            required=True,
        ),
        "token": Parameter(
            "token_id", "path", "A token's id.", {"type": "string", "minLength": 1}, "t_1", required=True
        ),
        "account": Parameter(
            "account", "path", "An account's name.", {"type": "string", "minLength": 1}, "acme", required=True
        ),
    }
)
"""By their names in the routes."""

"""What is said of the routes of accounts, tokens, secrets and limits."""

from __future__ import annotations

from stoker.edge.http.accounts import AccountCreate, LimitsPut
from stoker.edge.http.answers import (
    AccountAnswer,
    AccountMade,
    LimitsAnswer,
    SecretAnswer,
    SecretStored,
    Success,
    TokenAnswer,
    TokenMade,
)
from stoker.edge.http.openapi.codes import STORING
from stoker.edge.http.openapi.operation import Answer, Link, Operation, Shape
from stoker.edge.http.openapi.parameters import PAGED, STRICT
from stoker.edge.http.secrets import SecretPut
from stoker.edge.http.tokens import TokenCreate

TAG = "Accounts"
TOKENS_TAG = "Tokens"
SECRETS_TAG = "Secrets"

_LIMITS = {"functions": 100, "concurrent_invocations": 10}
_ACCOUNT = {"name": "acme", "limits": _LIMITS, "created": "2026-01-01T00:00:00.000Z"}
_TOKEN = {
    "id": "t_4f9a1c",
    "name": "ci",
    "scopes": ["functions:invoke"],
    "created": "2026-01-01T00:00:00.000Z",
    "collection": "my-namespace",
    "calls_per_minute": 600,
    "expires": "2026-01-02T00:00:00.000Z",
    "made_by": "administrator",
}
_SUCCESS = Answer(Success, example={"message": "success"})

OPERATIONS = (
    Operation(
        "GET",
        "/accounts",
        "listAccounts",
        TAG,
        "List all accounts",
        Answer(AccountAnswer, Shape.LIST, description="Those created first first.", example=[_ACCOUNT]),
        parameters=PAGED,
    ),
    Operation(
        "POST",
        "/accounts",
        "createAccount",
        TAG,
        "Create an account",
        Answer(
            AccountMade,
            Shape.BODY,
            201,
            description="The account with its first token, which is shown this once.",
            example={"name": "acme", "token_id": "t_8b1d", "token": "stk_shown-this-once", "limits": _LIMITS},
        ),
        description="Quotas that are not given have no limit.",
        parameters=(STRICT,),
        body=AccountCreate,
        body_examples={"acme": {"name": "acme", "limits": _LIMITS}},
        codes=("name_taken", *STORING),
        links=tuple(
            Link(name, {"account": "$response.body#/body/name"}) for name in ("limitAccount", "deleteAccount")
        ),
    ),
    Operation(
        "PUT",
        "/accounts/{account}/limits",
        "limitAccount",
        TAG,
        "Set an account's quotas",
        Answer(AccountAnswer, Shape.BODY, description="The account as it is now.", example=_ACCOUNT),
        description="In place of all that it had.",
        parameters=(STRICT,),
        body=LimitsPut,
        body_examples={"limits": _LIMITS},
        codes=("not_found", *STORING),
    ),
    Operation(
        "DELETE",
        "/accounts/{account}",
        "deleteAccount",
        TAG,
        "Delete an account with all that it had",
        _SUCCESS,
        codes=("not_found", *STORING),
    ),
    Operation(
        "GET",
        "/limits",
        "getLimits",
        TAG,
        "Show the quotas and their use",
        Answer(
            LimitsAnswer,
            Shape.BODY,
            description="Of the account whose token asks.",
            example={
                "functions": {"limit": 100, "used": 1},
                "code_bytes": {"limit": None, "used": 74},
                "concurrent_invocations": {"limit": 10, "used": 0},
                "invocations_per_minute": {"limit": None, "used": 2},
                "record_bytes": {"limit": None, "used": 1180},
            },
        ),
        codes=("no_capacity",),
    ),
    Operation(
        "GET",
        "/tokens",
        "listTokens",
        TOKENS_TAG,
        "List the tokens",
        Answer(TokenAnswer, Shape.LIST, description="Those made first first.", example=[_TOKEN]),
        parameters=PAGED,
    ),
    Operation(
        "POST",
        "/tokens",
        "createToken",
        TOKENS_TAG,
        "Make a token",
        Answer(
            TokenMade,
            Shape.BODY,
            201,
            description="The token, which is shown this once.",
            example={**_TOKEN, "token": "stk_shown-this-once"},
        ),
        description="It may never more than the one it is made with: scopes, collection, calls, lifetime.",
        parameters=(STRICT,),
        body=TokenCreate,
        body_examples={
            "ci": {
                "name": "ci",
                "scopes": ["functions:invoke"],
                "collection": "my-namespace",
                "calls_per_minute": 600,
                "expires_in": 86400,
            }
        },
        codes=("quota.tokens", *STORING),
        links=(Link("deleteToken", {"token_id": "$response.body#/body/id"}),),
    ),
    Operation(
        "DELETE",
        "/tokens/{token}",
        "deleteToken",
        TOKENS_TAG,
        "Delete a token",
        _SUCCESS,
        description="It opens nothing from now on, nor does any that was made with it.",
        codes=("not_found", *STORING),
    ),
    Operation(
        "GET",
        "/secrets",
        "listSecrets",
        SECRETS_TAG,
        "List the secrets",
        Answer(
            SecretAnswer,
            Shape.LIST,
            description="Their names.",
            example=[{"name": "API_KEY", "modified": 1714378974}],
        ),
        parameters=PAGED,
    ),
    Operation(
        "PUT",
        "/secrets/{name}",
        "putSecret",
        SECRETS_TAG,
        "Set a secret",
        Answer(
            SecretStored,
            Shape.BODY,
            200,
            (201,),
            description="It is stored: 201 if it is new.",
            example={"name": "API_KEY"},
        ),
        description="An environment variable of that name in functions that list it. A new value reaches "
        "calls within 5 s. With `inject` that variable is a placeholder, and the value is put, "
        "outside of the function, into the requests that it makes to these hosts.",
        parameters=(STRICT,),
        body=SecretPut,
        body_examples={
            "value": {"value": "correct horse battery staple"},
            "injected": {
                "value": "correct-horse-battery-staple",
                "inject": {
                    "hosts": ["api.example.com"],
                    "header": "Authorization",
                    "format": "Bearer {}",
                },
            },
        },
        codes=("quota.secrets", *STORING),
    ),
    Operation(
        "DELETE",
        "/secrets/{name}",
        "deleteSecret",
        SECRETS_TAG,
        "Delete a secret",
        _SUCCESS,
        codes=("not_found", "secret.in_use", *STORING),
    ),
)

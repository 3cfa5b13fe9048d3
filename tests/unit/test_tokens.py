"""Tokens and access: who a credential belongs to, and what it may do."""

from __future__ import annotations

import pytest
from starlette.requests import Request

from stoker.catalog import events
from stoker.catalog.fold import Fold
from stoker.catalog.principal import Principal
from stoker.catalog.tokens import Authenticator, digest_of, new_token
from stoker.edge.http.access import Access, require
from stoker.edge.http.scopes import Needs
from stoker.model.errors import Forbidden, Unauthenticated

TOKEN = b"stk_0123456789"


def an_authenticator(scopes: tuple[str, ...] = ("*",)) -> Authenticator:
    fold = Fold()
    data = events.encode(
        "created", 0, name="administrator", digest=digest_of(TOKEN).hex(), scopes=list(scopes)
    )
    fold.apply(str(events.token_key("default", "administrator")), data, 1)
    return Authenticator(fold)


@pytest.mark.parametrize(
    ("authorization", "api_key"),
    [
        (b"Bearer " + TOKEN, None),
        (b"bearer  " + TOKEN + b" ", None),
        (None, TOKEN),
        (None, b" " + TOKEN),
        (b"Bearer " + TOKEN, b"wrong"),
    ],
)
def test_a_token_is_known_in_either_header(authorization: bytes | None, api_key: bytes | None) -> None:
    principal = an_authenticator().authenticate(authorization, api_key)

    assert principal == Principal("default", "administrator", frozenset({"*"}))


@pytest.mark.parametrize(
    ("authorization", "api_key", "code"),
    [
        (None, None, "auth.missing"),
        (b"Bearer wrong", None, "auth.invalid"),
        (b"Bearer", None, "auth.invalid"),
        (b"Bearer ", None, "auth.invalid"),
        (b"", None, "auth.invalid"),
        (b"Basic " + TOKEN, None, "auth.invalid"),
        (TOKEN, None, "auth.invalid"),
        (None, b"", "auth.invalid"),
        (None, b"wrong", "auth.invalid"),
        (None, TOKEN + b"x", "auth.invalid"),
        (None, digest_of(TOKEN).hex().encode(), "auth.invalid"),
    ],
)
def test_anything_else_is_refused(authorization: bytes | None, api_key: bytes | None, code: str) -> None:
    with pytest.raises(Unauthenticated) as refused:
        an_authenticator().authenticate(authorization, api_key)

    assert refused.value.code == code
    assert TOKEN.decode() not in refused.value.message


def test_tokens_are_long_and_do_not_repeat() -> None:
    made = {new_token() for _ in range(100)}

    assert len(made) == 100
    assert all(len(token) >= 43 and token.isascii() for token in made)


@pytest.mark.parametrize(
    ("scopes", "scope", "allowed"),
    [
        ({"*"}, "functions:write", True),
        ({"functions:write"}, "functions:write", True),
        ({"functions:write"}, "functions:read", True),
        ({"functions:read"}, "functions:write", False),
        ({"functions:write"}, "functions:invoke", False),
        ({"functions:invoke"}, "functions:read", False),
        ({"functions:write"}, "records:read", False),
        (set(), "functions:read", False),
    ],
)
def test_a_write_scope_includes_the_read_of_its_noun(scopes: set[str], scope: str, allowed: bool) -> None:
    principal = Principal("default", "t", frozenset(scopes))

    assert principal.may(scope) is allowed
    if not allowed:
        with pytest.raises(Forbidden, match=scope):
            require(principal, Needs(scope))


def test_a_request_shows_whose_it_is() -> None:
    access = Access(an_authenticator(("functions:read",)))
    headers = [(b"authorization", b"Bearer " + TOKEN)]
    scope = {"type": "http", "headers": headers, "needs": Needs("functions:read")}

    assert access.allowed(Request(scope)).account == "default"
    with pytest.raises(Forbidden):
        access.allowed(Request({**scope, "needs": Needs("functions:write")}))
    with pytest.raises(Unauthenticated):
        access.allowed(Request({**scope, "headers": []}))

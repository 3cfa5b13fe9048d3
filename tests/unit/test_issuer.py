"""The issuer: whose tokens are taken beside ours, and everything that must not be taken for one."""

from __future__ import annotations

import base64
import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from stoker.catalog import events
from stoker.catalog.fold import Fold
from stoker.catalog.issuer import Issuer, Trust, UnknownKeys
from stoker.catalog.principal import Principal
from stoker.catalog.tokens import Authenticator, TokenDraft
from stoker.edge.http.scopes import TABLE
from stoker.model.errors import Forbidden, Unauthenticated
from stoker.testing.catalog import CatalogBench

TRUST = Trust("https://issuer.example", "stoker", "RS256")
NOW_S = 4_000_000_000  # after the clock that the library looks at
KEY, OTHER_KEY = (rsa.generate_private_key(65537, 2048) for _ in range(2))
EC_KEY = ec.generate_private_key(ec.SECP256R1())
CLAIMS: dict[str, Any] = {
    "iss": TRUST.issuer,
    "aud": TRUST.audience,
    "sub": "ada",
    "exp": NOW_S + 60,
    "scope": "functions:invoke functions:read openid",
}


def jwk(key: Any = KEY, kid: str = "k1", **more: Any) -> dict[str, Any]:
    algorithm = RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else ECAlgorithm
    return {**json.loads(algorithm.to_jwk(key.public_key())), "kid": kid, **more}


def a_token(key: Any = KEY, algorithm: str = "RS256", kid: str = "k1", **claims: Any) -> bytes:
    given = {name: value for name, value in {**CLAIMS, **claims}.items() if value is not None}
    return jwt.encode(given, key, algorithm, headers={"kid": kid}).encode()


class Bench:
    def __init__(self, **key: Any) -> None:
        self.fold = Fold()
        made = events.encode("created", 1, name="acme", limits={})
        self.fold.apply(str(events.account_key("acc_1")), made, 1)
        self.issuer = Issuer(TRUST, self.fold.tenants)
        self.issuer.learn({"keys": [jwk(**key)]})
        self.now_s = NOW_S
        self.authenticator = Authenticator(
            self.fold, issuer=self.issuer, now_ms=lambda: int(self.now_s * 1000)
        )

    def who(self, token: bytes) -> Principal:
        return self.authenticator.authenticate(b"Bearer " + token, None)

    def refuses(self, token: bytes) -> bool:
        try:
            self.who(token)
        except Unauthenticated as error:
            return error.message == "the token is not known here" and error.code == "auth.invalid"
        return False


def test_a_token_of_the_issuer_may_do_what_its_claims_say() -> None:
    bench = Bench()

    principal = bench.who(a_token())

    scopes = frozenset({"functions:invoke", "functions:read"})
    assert principal == Principal("default", "jwt:ada", scopes)
    assert bench.authenticator.authenticate(None, a_token()) is not None  # in the other header too
    assert bench.who(a_token(collection="tools")).collection == "tools"
    assert bench.who(a_token(account="acme")).account == "acc_1"
    assert bench.who(a_token(scope=None)).scopes == frozenset()


def test_a_scope_of_the_platform_is_the_default_accounts_and_no_collections() -> None:
    bench = Bench()
    every = " ".join({needs.scope for needs in TABLE.values() if needs.scope})

    assert bench.who(a_token(scope=every)).may("accounts:write")
    assert not bench.who(a_token(scope=every, account="acme")).may("accounts:write")
    limited = bench.who(a_token(scope=every, collection="tools"))
    assert not limited.may("accounts:write")
    assert not limited.may("secrets:write")
    assert "*" not in bench.who(a_token(scope="* functions:read")).scopes


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://another.example"},
        {"iss": None},
        {"aud": "another"},
        {"aud": None},
        {"sub": None},
        {"exp": None},
        {"exp": 1_000_000_000},
        {"nbf": NOW_S},
        {"account": "nobody"},
        {"account": "acc_1"},
        {"account": ["default"]},
        {"collection": "no topic"},
        {"collection": ["tools"]},
        {"collection": ""},
        {"scope": ["functions:read"]},
    ],
)
def test_claims_that_do_not_fit_are_refused(claims: dict[str, Any]) -> None:
    assert Bench().refuses(a_token(**claims))


def test_another_key_or_algorithm_than_what_is_pinned_is_refused() -> None:
    bench = Bench()
    public = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    head, body, _ = a_token().split(b".")
    unsigned = base64.urlsafe_b64encode(b'{"alg":"none","kid":"k1"}').rstrip(b"=")
    symmetric = base64.urlsafe_b64encode(b'{"alg":"HS256","kid":"k1"}').rstrip(b"=")
    mac = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    signed_with_public = mac.sign(symmetric + b"." + body, public)

    for token in (
        a_token(OTHER_KEY),
        a_token(algorithm="PS256"),
        a_token(algorithm="RS512"),
        a_token(EC_KEY, "ES256"),
        unsigned + b"." + body + b".",
        b".".join((symmetric, body, base64.urlsafe_b64encode(signed_with_public).rstrip(b"="))),
        head + b"." + body + b".",
    ):
        assert bench.refuses(token)


@pytest.mark.parametrize(
    "token", [b"", b"..", b"a.b.c", b"eyJ.eyJ.x", b"\xff.\xff.\xff", b"." * 100, b"e" * 10_000 + b".a.b"]
)
def test_rubbish_is_refused_as_any_wrong_token(token: bytes) -> None:
    assert Bench().refuses(token or b"-")


def test_it_is_good_until_it_expires_and_that_is_seen_each_time() -> None:
    bench = Bench()
    token = a_token()
    principal = bench.who(token)
    assert bench.authenticator.still_knows(principal)

    bench.now_s = NOW_S + 59
    assert bench.who(token) == principal
    bench.now_s = NOW_S + 60

    assert bench.refuses(token)
    assert not bench.authenticator.still_knows(principal)


def test_it_is_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    token = a_token()
    principal = bench.who(token)
    monkeypatch.setattr(jwt, "decode", lambda *_, **__: pytest.fail("it was checked again"))

    assert bench.who(token) is principal


def test_with_its_account_or_its_key_it_goes() -> None:
    bench = Bench()
    token, other = a_token(account="acme"), a_token()
    bench.who(token), bench.who(other)

    bench.fold.apply(str(events.account_key("acc_1")), events.encode("deleted", 2), 2)
    assert bench.refuses(token)
    bench.who(other)
    bench.issuer.learn({"keys": [jwk(OTHER_KEY, "k2")]})

    assert bench.refuses(other)
    assert bench.issuer.unknown_key
    bench.who(a_token(OTHER_KEY, kid="k2"))


@pytest.mark.parametrize(
    "keys",
    [
        None,
        [],
        {},
        {"keys": "k1"},
        {"keys": []},
        {"keys": [1]},
        {"keys": [{"kty": "RSA"}]},
        {"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "k1"}]},
        {"keys": [jwk(EC_KEY)]},
        {"keys": [jwk(alg="RS512")]},
        {"keys": [jwk(use="enc")]},
    ],
)
def test_a_set_without_a_key_to_use_changes_nothing(keys: object) -> None:
    bench = Bench()

    with pytest.raises(UnknownKeys):
        bench.issuer.learn(keys)

    bench.who(a_token())


def test_of_many_keys_those_to_use_are_learnt() -> None:
    bench = Bench()

    keys = [jwk(EC_KEY, "e"), jwk(KEY, "a", use="sig", alg="RS256"), jwk(OTHER_KEY, "b"), {"kty": "new"}]
    assert bench.issuer.learn({"keys": keys}) == 2

    assert bench.who(a_token(kid="a")) == bench.who(a_token(OTHER_KEY, kid="b"))


async def test_no_tokens_are_made_with_one() -> None:
    bench = CatalogBench()
    principal = Principal("default", "jwt:ada", frozenset({"tokens:write", "functions:read"}))

    with pytest.raises(Forbidden):
        await bench.catalog.tokens.create(principal, TokenDraft("t", ("functions:read",)))

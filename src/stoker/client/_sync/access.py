# Made from stoker/client/_async by `python -m stoker.testing.mirror`: change it there.
"""Who may do what: tokens, accounts and their quotas, secrets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stoker.client import asks
from stoker.client._sync.session import Session
from stoker.client.names import segment
from stoker.client.types import Account, Inject, NewAccount, NewToken, Quota, Secret, Token


class Tokens:
    """Tokens of the token's account."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def list(self) -> Sequence[Token]:
        """Return all tokens, without what opens anything."""
        return self._session.send(asks.get("/tokens", asks.many(Token)))

    def create(
        self,
        name: str,
        scopes: Sequence[str],
        *,
        collection: str | None = None,
        calls_per_minute: int | None = None,
        expires_in_s: int | None = None,
    ) -> NewToken:
        """Make a token, which may do no more than the one that makes it. Its text is shown this once."""
        given = {
            "name": name,
            "scopes": [*scopes],
            "collection": collection,
            "calls_per_minute": calls_per_minute,
            "expires_in": expires_in_s,
        }
        body = {key: value for key, value in given.items() if value is not None}
        return self._session.send(asks.change("POST", "/tokens", asks.one(NewToken), body=body))

    def delete(self, token_id: str) -> None:
        """Revoke a token, at once."""
        self._session.send(asks.change("DELETE", f"/tokens/{segment(token_id)}", asks.nothing))


class Accounts:
    """All accounts of the server; for its administrators."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def list(self) -> Sequence[Account]:
        """Return all accounts with their quotas."""
        return self._session.send(asks.get("/accounts", asks.many(Account)))

    def create(self, name: str, *, limits: Mapping[str, int] | None = None) -> NewAccount:
        """Make an account with a token, whose text is shown this once."""
        body = {"name": name} | ({} if limits is None else {"limits": limits})
        return self._session.send(asks.change("POST", "/accounts", asks.one(NewAccount), body=body))

    def set_limits(self, name: str, limits: Mapping[str, int | None]) -> Account:
        """Give an account other quotas, and return it; what is not named has none."""
        path = f"/accounts/{segment(name)}/limits"
        return self._session.send(asks.change("PUT", path, asks.one(Account), body=limits))

    def delete(self, name: str) -> None:
        """Erase an account with all it had."""
        self._session.send(
            asks.change("DELETE", f"/accounts/{segment(name)}", asks.nothing, answer_s_max=asks.CALL_S_MAX)
        )

    def quotas(self) -> Mapping[str, Quota]:
        """Return the quotas of the token's own account, and what is used of each; also the token's own."""
        return self._session.send(asks.get("/limits", asks.one(dict[str, Quota])))


class Secrets:
    """Values that functions find in their environment and that nobody can read back."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def list(self) -> Sequence[Secret]:
        """Return the names."""
        return self._session.send(asks.get("/secrets", asks.many(Secret)))

    def set(self, name: str, value: str, *, inject: Inject | None = None) -> None:
        """Keep a value; functions that list the name have it within 5 s.

        With `inject` they have a placeholder, and the value is put into the requests that they make.
        """
        path = f"/secrets/{segment(name)}"
        body: dict[str, object] = {"value": value}
        if inject is not None:
            body["inject"] = inject
        self._session.send(asks.change("PUT", path, asks.nothing, body=body))

    def delete(self, name: str) -> None:
        """Forget a value."""
        self._session.send(asks.change("DELETE", f"/secrets/{segment(name)}", asks.nothing))

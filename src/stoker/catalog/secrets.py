"""Secrets: values that functions get as environment variables, or that are put into requests, stored sealed.

The sealed bytes are a content like those of assets, so that a value that was replaced or deleted goes from
the disk; events hold its digest alone. A value is opened when an instance is given to a function, or when a
request is made that it goes into, and at no other time. Does not know what is done with it.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

from stoker.catalog import events
from stoker.catalog.contents import KeptContents
from stoker.catalog.fold import Fold
from stoker.catalog.journal import Journal
from stoker.catalog.principal import Principal
from stoker.catalog.sealing import Seal
from stoker.catalog.stored import StoredSecret
from stoker.model.errors import (
    InvalidRequest,
    NotFound,
    PlatformError,
    QuotaExceeded,
    SecretInUse,
    StokerError,
    TooLarge,
)
from stoker.model.function import Function
from stoker.model.injection import Injected, Injection, placeholder_of
from stoker.model.injection import check_value as check_header_value
from stoker.model.limits import Limits
from stoker.model.secret import Secret

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}\Z")
TOLD_MAX = 5
"""Functions that a refusal names."""


class Secrets:
    """The secrets of all accounts."""

    def __init__(
        self,
        fold: Fold,
        journal: Journal,
        contents: KeptContents,
        seal: Seal,
        limits: Limits,
        now_ms: Callable[[], int],
    ) -> None:
        self._fold = fold
        self._journal = journal
        self._contents = contents
        self._seal = seal
        self._limits = limits
        self._now_ms = now_ms

    async def put(self, account: str, name: str, value: Secret, injection: Injection | None = None) -> bool:
        """Store a value in place of what was there; return whether there was nothing.

        With an `injection` functions get a placeholder, and the value goes into requests as that says.

        Raises InvalidRequest, TooLarge with the field, QuotaExceeded, StorageFull, Unavailable.
        """
        if not NAME.match(name):
            raise InvalidRequest(
                "a secret's name is that of an environment variable", hint="letters, digits, '_': API_KEY"
            )
        check_value(value, self._limits)
        if injection is not None:
            check_header_value(injection, value)

        described = {} if injection is None else {"inject": asdict(injection)}

        async def put() -> bool:
            self._require_place(account, name)
            sealed = self._seal.close(account, name, value)
            digest = hashlib.sha256(sealed).hexdigest()
            with self._contents.pinned([(account, digest)]):
                await self._contents.put(account, digest, sealed)
                async with self._journal.deciding(account):
                    self._require_place(account, name)
                    before = self._fold.secrets.get((account, name))
                    retired = self._fold.retired_secrets.get((account, name), 0)
                    data = events.encode(
                        "created", self._now_ms(), digest=digest, key_id=self._seal.key_id, **described
                    )
                    subject = events.secret_key(account, name)
                    expected = before.revision if before else retired
                    await self._journal.append(str(subject), data, expected=expected)
            return before is None

        return await self._journal.to_its_end(put())

    async def delete(self, account: str, name: str) -> None:
        """Store that a secret is no more. Raises NotFound, SecretInUse while a function as it is lists it."""

        async def delete() -> None:
            async with self._journal.deciding(account):
                stored = self._fold.secrets.get((account, name))
                if stored is None:
                    raise NotFound("no such secret")
                users = self._users(account, name)
                if users:
                    more = f" and {len(users) - TOLD_MAX} more" if len(users) > TOLD_MAX else ""
                    raise SecretInUse(
                        f"functions list the secret: {', '.join(users[:TOLD_MAX])}{more}",
                        hint="take it out of their secrets first; a value that leaked is replaced by another",
                    )
                data = events.encode("deleted", self._now_ms())
                subject = events.secret_key(account, name)
                await self._journal.append(str(subject), data, expected=stored.revision)

        await self._journal.to_its_end(delete())

    def names(self, account: str) -> list[StoredSecret]:
        """Return what may be told of an account's secrets, those stored first first."""
        return list(self._fold.secrets_of(account))

    # -- functions that list them ----------------------------------------------------------------

    def require(self, account: str, names: Sequence[str] | None, pointer: str) -> None:
        """Raise InvalidRequest that names the field if a function lists a secret that is not there."""
        for index, name in enumerate(names or ()):
            if (account, name) not in self._fold.secrets:
                raise _unknown(name, f"{pointer}/{index}")

    def require_for(self, principal: Principal, names: Sequence[str] | None, pointer: str) -> None:
        """The same for who changes a function: a token limited to a collection sees what that uses already.

        Else it could have any secret of the account told to it by a function of its own.
        """
        self.require(principal.account, names, pointer)
        if principal.collection is None:
            return
        seen = {
            name
            for entry in self._fold.entries(principal.account, principal.collection)
            for name in entry.function.code.secrets or ()
        }
        for index, name in enumerate(names or ()):
            if name not in seen:
                raise _unknown(name, f"{pointer}/{index}")

    async def of(self, function: Function) -> Mapping[str, Secret]:
        """Return the values that an instance of a function gets, by name; of injected ones the placeholder.

        Raises StokerError if one is not there (an old version may list what was deleted since) or does not
        open.
        """
        names = function.code.secrets or ()
        if not names:
            return {}
        values = await asyncio.gather(*(self._for_instance(function.account, name) for name in names))
        return dict(zip(names, values, strict=True))

    def injects(self, function: Function) -> bool:
        """Tell whether a function lists a secret that goes into its requests."""
        stored = (self._fold.secrets.get((function.account, name)) for name in function.code.secrets or ())
        return any(one is not None and one.inject is not None for one in stored)

    async def injected(self, function: Function, host: str, port: int) -> list[Injected]:
        """Return what goes into a request of a function to a canonical host and port, as it lists them.

        Raises StokerError if a value does not open.
        """
        found = []
        for name in function.code.secrets or ():
            stored = self._fold.secrets.get((function.account, name))
            injection = None if stored is None else stored.inject
            to_port = None if injection is None else injection.port_for(host, port)
            if injection is not None and to_port is not None:
                value = injection.written(await self._open(function.account, name))
                found.append(Injected(name, placeholder_of(name), injection.header, value, to_port))
        return found

    async def _for_instance(self, account: str, name: str) -> Secret:
        stored = self._fold.secrets.get((account, name))
        if stored is not None and stored.inject is not None:
            return Secret(placeholder_of(name))
        return await self._open(account, name)

    async def _open(self, account: str, name: str) -> Secret:
        while True:
            stored = self._fold.secrets.get((account, name))
            if stored is None:
                raise SecretGone(f"the secret {name}, which the function lists, is not there any more")
            if stored.key_id != self._seal.key_id:
                raise PlatformError(
                    f"the secret {name} was sealed with another key than the server has now",
                    hint="give the server that key, or store the secret's value anew",
                )
            try:
                sealed = await self._contents.get(account, stored.digest)
            except StokerError:
                if self._fold.secrets.get((account, name)) is stored:
                    raise
                continue  # it was replaced, and the old value swept, while we read
            return self._seal.open(account, name, sealed)

    def _users(self, account: str, name: str) -> list[str]:
        return [
            f"{entry.function.collection_topic}/{entry.function.name}"
            for entry in self._fold.entries(account)
            if name in (entry.function.code.secrets or ())
        ]

    def _require_place(self, account: str, name: str) -> None:
        if (account, name) in self._fold.secrets:
            return
        count = sum(1 for owner, _ in self._fold.secrets if owner == account)
        if count >= self._limits.account_secrets_max:
            raise QuotaExceeded("secrets", f"an account has at most {count} secrets", retry_after_s=60)


class SecretGone(NotFound):
    """A function's version lists a secret that was deleted since."""


def check_value(value: Secret, limits: Limits) -> None:
    """Refuse what cannot be the value of an environment variable. Says nothing of it."""
    text = value.reveal()
    if "\0" in text or any(0xD800 <= ord(char) < 0xE000 for char in text):
        raise InvalidRequest("a secret's value is Unicode text without a null character", field="/value")
    if len(text.encode()) > limits.secret_bytes_max:
        raise TooLarge(f"a secret's value is at most {limits.secret_bytes_max} bytes", field="/value")


def _unknown(name: str, field: str) -> InvalidRequest:
    return InvalidRequest(
        f"no secret has the name {name[:128]!r}", field=field, hint=f"PUT /secrets/{name[:128]} first"
    )

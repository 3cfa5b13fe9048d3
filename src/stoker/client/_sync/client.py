# Made from stoker/client/_async by `python -m stoker.testing.mirror`: change it there.
"""The client: a server of functions, as an object."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Literal, TypeVar, overload

import httpx
import msgspec

from stoker.client import asks
from stoker.client._sync.access import Accounts, Secrets, Tokens
from stoker.client._sync.functions import Collections, Functions
from stoker.client._sync.invocations import DeadLetters, Invocations
from stoker.client._sync.session import Session
from stoker.client.answers import CallAnswer, call_answer
from stoker.client.chance import Randomness
from stoker.client.names import function_path
from stoker.client.place import find_place
from stoker.client.retry import Patience
from stoker.client.types import Machine, Runtime, Service

T = TypeVar("T")

Key = str | Literal["auto"] | None
"""An Idempotency-Key, `auto` for a new one, or None for none."""


class Client:
    """A server, and what can be asked of it. Raises StokerError, as `stoker.client.errors` draws them.

    `url` is STOKER_URL if not given, else http://127.0.0.1:8080; `token` is STOKER_TOKEN, else what the
    server of the same machine and user keeps in its data directory. Close it, or use it in `with`.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        patience: Patience | None = None,
        transport: httpx.BaseTransport | None = None,
        environ: Mapping[str, str] | None = None,
        randomness: Randomness | None = None,
    ) -> None:
        self._session = Session(
            find_place(url, token, os.environ if environ is None else environ),
            patience=patience or Patience(),
            transport=transport,
            randomness=randomness or Randomness(),
        )
        self.functions = Functions(self._session)
        self.collections = Collections(self._session)
        self.invocations = Invocations(self._session)
        self.dead_letters = DeadLetters(self._session)
        self.tokens = Tokens(self._session)
        self.accounts = Accounts(self._session)
        self.secrets = Secrets(self._session)

    @property
    def url(self) -> str:
        """Where the server is."""
        return self._session.place.url

    # -- calls -----------------------------------------------------------------------------------

    @overload
    def invoke(
        self, name: str, payload: object = None, *, version: int | None = None, key: Key = "auto"
    ) -> Any: ...

    @overload
    def invoke(
        self,
        name: str,
        payload: object = None,
        *,
        version: int | None = None,
        key: Key = "auto",
        returns: type[T],
    ) -> T: ...

    def invoke(
        self,
        name: str,
        payload: object = None,
        *,
        version: int | None = None,
        key: Key = "auto",
        returns: Any = Any,
    ) -> Any:
        """Call a function, `collection/name`, and return its result as a value, of type `returns` if given.

        A lost connection runs nothing twice: the call has a key, made once, under which the server keeps
        its outcome. That costs two writes to its disk; `key=None` is quicker, and such a call is not sent
        again. Raises FunctionFailed, InputRejected, NotFound, LimitReached, PlatformFailed, ...;
        InvalidName for a name without a collection; msgspec.ValidationError if the result is not of the type.
        """
        answer = self.call(name, payload, version=version, key=key)
        return msgspec.json.decode(answer.text, type=returns)

    def call(
        self, name: str, payload: object = None, *, version: int | None = None, key: Key = "auto"
    ) -> CallAnswer:
        """Call a function; like `invoke`, with the invocation's id and the result as JSON text."""
        return self._call(name, payload, "RequestResponse", version, key)

    def submit(
        self, name: str, payload: object = None, *, version: int | None = None, key: Key = "auto"
    ) -> str:
        """Have a function called later; return the id of the invocation once it is stored for good.

        It runs at least once, also if the server is killed. `invocations.wait` tells how it ended.
        """
        answer = self._call(name, payload, "Async", version, key)
        return answer.invocation_id

    def _call(
        self, name: str, payload: object, invocation_type: str, version: int | None, key: Key
    ) -> CallAnswer:
        return self._session.send(
            asks.call(
                function_path(name),
                call_answer,
                payload=payload,
                invocation_type=invocation_type,
                version=version,
                key=self._session.randomness.new_key() if key == "auto" else key,
            )
        )

    # -- what there is ---------------------------------------------------------------------------

    def runtimes(self) -> Sequence[Runtime]:
        """Return the languages that functions may be written in."""
        return self._session.send(asks.get("/compute/runtimes", asks.many(Runtime)))

    def machines(
        self,
        *,
        machine: str | None = None,
        namespace: str | None = None,
        runtime: str | None = None,
        service: str | None = None,
        status: str | None = None,
    ) -> Sequence[Machine]:
        """Return the sandboxes that serve functions and fit all that is given."""
        query = {
            "machine": machine,
            "namespace": namespace,
            "runtime": runtime,
            "service": service,
            "status": status,
        }
        return self._session.send(asks.get("/compute/machines", asks.many(Machine), query=query))

    def services(self) -> Sequence[Service]:
        """Return the deployed functions in the sense of NATS service discovery, with their counters."""
        return self._session.send(asks.get("/compute/services", asks.many(Service)))

    def metrics(self) -> str:
        """Return the server's metrics in the text form of Prometheus, for its administrators."""
        return self._session.send(asks.get("/metrics", asks.text))

    # -- all of it -------------------------------------------------------------------------------

    @contextmanager
    def backup(self) -> Iterator[Iterator[bytes]]:
        """Return a backup of the whole server as it is taken, for its administrators; `with` it.

        It is not cut short if the last piece came without an error. `stoker restore` takes the file.
        """
        with self._session.download("/backup") as pieces:
            yield pieces

    # -- the end ---------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

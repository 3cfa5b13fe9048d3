"""The blocking client is the one for asyncio, made anew."""

from __future__ import annotations

import inspect

from stoker.client import AsyncClient, Client
from stoker.testing.mirror import CLIENT, mirrored


def test_the_blocking_client_is_as_it_is_made_from_the_async_one() -> None:
    found = {file.name: file.read_text() for file in (CLIENT / "_sync").glob("*.py")}

    assert found == mirrored(), "python -m stoker.testing.mirror writes it"


def test_nothing_of_the_blocking_client_is_a_coroutine() -> None:
    with Client(environ={}) as client:
        parts = [client, *(vars(client).values())]
    methods = [method for part in parts for _, method in inspect.getmembers(part, inspect.ismethod)]

    assert len(methods) > 40
    assert not any(map(inspect.iscoroutinefunction, methods))
    assert not any(map(inspect.isasyncgenfunction, methods))


def test_both_have_the_same_methods() -> None:
    def names(client: object) -> set[str]:
        return {name for name in dir(client) if not name.startswith("_")}

    with Client(environ={}) as client:
        other = AsyncClient(environ={})

        assert {name.replace("aclose", "close") for name in names(other)} == names(client)
        assert names(other.invocations) == names(client.invocations)

"""Secrets: sealed where they are stored, opened for functions alone, shown by nothing."""

from __future__ import annotations

import asyncio
import copy
import logging
import pickle
from dataclasses import replace

import pytest

from stoker.catalog.principal import Principal
from stoker.catalog.sealing import KEY_BYTES, Seal
from stoker.model.errors import InvalidRequest, NotFound, PlatformError, QuotaExceeded, SecretInUse, TooLarge
from stoker.model.limits import Limits
from stoker.model.secret import Secret
from stoker.testing.catalog import ACCOUNT, CatalogBench

VALUE = "hunter2-äöü"


# -- the type ----------------------------------------------------------------------------------------


def test_a_secret_is_in_no_text_that_is_made_of_it() -> None:
    secret = Secret(VALUE)

    texts = [repr(secret), str(secret), f"{secret}", f"{[secret]!r}", f"{secret}", repr({"a": secret})]
    texts.append(logging.LogRecord("a", 1, "b", 2, "%s", (secret,), None).getMessage())

    assert all("hunter2" not in text for text in texts)
    assert secret.reveal() == VALUE


def test_a_secret_is_not_pickled_copied_compared_or_hashed() -> None:
    for leak in (
        lambda: pickle.dumps(Secret(VALUE)),
        lambda: copy.copy(Secret(VALUE)),
        lambda: Secret(VALUE) == VALUE,
        lambda: hash(Secret(VALUE)),
        lambda: vars(Secret(VALUE)),
    ):
        with pytest.raises(TypeError):
            leak()


# -- the seal ----------------------------------------------------------------------------------------


def test_what_is_sealed_opens_with_the_key_for_the_account_and_name_it_was_sealed_for() -> None:
    seal = Seal(b"k" * KEY_BYTES)

    sealed = seal.close("default", "A", Secret(VALUE))

    assert VALUE.encode() not in sealed
    assert seal.open("default", "A", sealed).reveal() == VALUE
    assert Seal(b"k" * KEY_BYTES).open("default", "A", sealed).reveal() == VALUE
    assert seal.close("default", "A", Secret(VALUE)) != sealed


@pytest.mark.parametrize(
    ("key", "account", "name", "change"),
    [
        (b"x", "default", "A", 0),
        (b"k", "other", "A", 0),
        (b"k", "default", "B", 0),
        (b"k", "default", "A", 1),
    ],
)
def test_it_opens_in_no_other_way(key: bytes, account: str, name: str, change: int) -> None:
    sealed = bytearray(Seal(b"k" * KEY_BYTES).close("default", "A", Secret(VALUE)))
    sealed[-1] ^= change

    with pytest.raises(PlatformError) as refused:
        Seal(key * KEY_BYTES).open(account, name, bytes(sealed))
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("sealed", [b"", b"\x01", b"\x02" + bytes(40), b"\x01" + bytes(12)])
def test_rubbish_is_refused(sealed: bytes) -> None:
    with pytest.raises(PlatformError):
        Seal(bytes(KEY_BYTES)).open("default", "A", sealed)


def test_keys_are_told_apart_without_being_shown() -> None:
    one, other = Seal(b"k" * KEY_BYTES), Seal(b"x" * KEY_BYTES)

    assert one.key_id != other.key_id
    assert (b"k" * KEY_BYTES).hex()[:16] not in one.key_id
    assert "kkk" not in repr(one)


# -- stored ------------------------------------------------------------------------------------------


async def opened(bench: CatalogBench, *names: str) -> dict[str, str]:
    function = (await bench.create(name="opens", secrets=names)) if names else None
    assert function is not None
    return {name: one.reveal() for name, one in (await bench.catalog.secrets.of(function)).items()}


async def test_a_value_is_in_no_event_and_in_no_content() -> None:
    bench = CatalogBench()

    await bench.put_secret("KEY", VALUE)

    assert all(VALUE.encode() not in event.data for event in bench.log.events)
    contents = [await bench.blobs.get(*place) for place in await bench.blobs.list()]
    assert len(contents) == 1
    assert VALUE.encode() not in contents[0]
    assert await opened(bench, "KEY") == {"KEY": VALUE}


async def test_another_value_replaces_it_and_the_old_one_is_swept() -> None:
    bench = CatalogBench()
    told: list[tuple[str, str]] = []
    bench.catalog.on_secret.append(lambda account, name: told.append((account, name)))
    await bench.put_secret("KEY", "old")
    before = await bench.blobs.list()

    await bench.put_secret("KEY", "new")
    removed = await bench.catalog.sweep(before)

    assert removed == 1
    assert await opened(bench, "KEY") == {"KEY": "new"}
    assert told == [(ACCOUNT, "KEY")] * 2


async def test_a_restart_knows_them() -> None:
    bench = CatalogBench()
    await bench.put_secret("A")
    await bench.put_secret("B")
    await bench.catalog.secrets.delete(ACCOUNT, "A")

    fold = await bench.refolded()

    assert fold.secrets == bench.fold.secrets
    assert fold.retired_secrets == bench.fold.retired_secrets
    assert fold.references.all() == bench.fold.references.all()
    assert fold.references.bytes_of(ACCOUNT) == 0  # they are no code


async def test_one_that_was_deleted_can_be_stored_again() -> None:
    bench = CatalogBench()
    await bench.put_secret("KEY", "old")
    await bench.catalog.secrets.delete(ACCOUNT, "KEY")

    await bench.put_secret("KEY", "new")

    assert await opened(bench, "KEY") == {"KEY": "new"}
    with pytest.raises(NotFound):
        await bench.catalog.secrets.delete(ACCOUNT, "OTHER")


@pytest.mark.parametrize("name", ["", "1A", "A-B", "A B", "A\n", "a" * 129, "Ä"])
async def test_a_name_is_that_of_an_environment_variable(name: str) -> None:
    with pytest.raises(InvalidRequest):
        await CatalogBench().put_secret(name)


async def test_a_value_is_text_of_bounded_length() -> None:
    bench = CatalogBench(Limits(secret_bytes_max=4))

    await bench.put_secret("KEY", "")
    await bench.put_secret("KEY", "ää")
    with pytest.raises(TooLarge) as large:
        await bench.put_secret("KEY", "ääa")
    for value in ("a\0b", "\ud800"):
        with pytest.raises(InvalidRequest) as refused:
            await bench.put_secret("KEY", value)
        assert refused.value.field == "/value"
    assert large.value.field == "/value"


async def test_an_account_has_a_bounded_number() -> None:
    bench = CatalogBench(Limits(account_secrets_max=1))
    await bench.put_secret("A")
    await bench.put_secret("A", "another value")

    with pytest.raises(QuotaExceeded):
        await bench.put_secret("B")


# -- functions that list them ------------------------------------------------------------------------


async def test_a_function_cannot_list_one_that_is_not_there() -> None:
    bench = CatalogBench()
    await bench.put_secret("A")

    with pytest.raises(InvalidRequest) as refused:
        await bench.create(secrets=("A", "B"))
    assert refused.value.field == "/compute_asset/secrets/1"
    await bench.create()
    with pytest.raises(InvalidRequest) as refused:
        await bench.catalog.versions.change(ACCOUNT, bench.entry(), {"secrets": ("A", "B")})
    assert refused.value.field == "/secrets/1"
    assert bench.entry().function.code.version == 1


async def test_one_that_a_function_lists_is_not_deleted() -> None:
    bench = CatalogBench()
    await bench.put_secret("A")
    await bench.create(secrets=("A",))

    with pytest.raises(SecretInUse, match="my-namespace/my-function"):
        await bench.catalog.secrets.delete(ACCOUNT, "A")
    await bench.catalog.versions.change(ACCOUNT, bench.entry(), {"secrets": None})
    await bench.catalog.secrets.delete(ACCOUNT, "A")


async def test_a_version_whose_secret_is_gone_neither_comes_back_nor_starts() -> None:
    bench = CatalogBench()
    await bench.put_secret("A")
    await bench.create(secrets=("A",))
    await bench.catalog.versions.change(ACCOUNT, bench.entry(), {"secrets": None})
    await bench.catalog.secrets.delete(ACCOUNT, "A")

    with pytest.raises(InvalidRequest) as refused:
        await bench.catalog.versions.roll_back(ACCOUNT, bench.entry(), 1)
    assert refused.value.field == "/version"
    with pytest.raises(NotFound, match="the secret A"):
        await bench.catalog.secrets.of(bench.entry().at_version(1))


async def test_a_secret_deleted_while_a_function_is_created_is_missed() -> None:
    bench = CatalogBench()
    await bench.put_secret("A")
    bench.log.held = asyncio.Event()
    deleting = asyncio.create_task(bench.catalog.secrets.delete(ACCOUNT, "A"))
    await asyncio.sleep(0)
    creating = asyncio.create_task(bench.create(secrets=("A",)))
    await asyncio.sleep(0)

    bench.log.held.set()

    await deleting
    with pytest.raises(InvalidRequest):
        await creating


async def test_another_accounts_secret_of_the_name_is_not_there() -> None:
    bench = CatalogBench()
    await bench.put_secret("A", account="other")

    with pytest.raises(InvalidRequest, match="no secret has the name 'A'"):
        await bench.create(secrets=("A",))
    assert bench.catalog.secrets.names(ACCOUNT) == []


async def test_a_token_limited_to_a_collection_lists_only_what_functions_there_list() -> None:
    bench = CatalogBench()
    for name in ("HERE", "THERE"):
        await bench.put_secret(name)
    await bench.create(secrets=("HERE",))
    await bench.create(collection="elsewhere", secrets=("THERE",))
    limited = Principal(ACCOUNT, "t", frozenset({"functions:write"}), "my-namespace")
    check = bench.catalog.secrets.require_for

    check(limited, ("HERE",), "/secrets")
    for name in ("THERE", "NOWHERE"):
        with pytest.raises(InvalidRequest) as refused:
            check(limited, ("HERE", name), "/secrets")
        assert refused.value.field == "/secrets/1"
        assert refused.value.message == f"no secret has the name '{name}'"
    check(replace(limited, collection=None), ("THERE",), "/secrets")


async def test_one_sealed_with_another_key_is_said_to_be() -> None:
    bench = CatalogBench()
    await bench.put_secret("A")
    function = await bench.create(secrets=("A",))
    stored = bench.fold.secrets[ACCOUNT, "A"]
    bench.fold.secrets[ACCOUNT, "A"] = replace(stored, key_id="another")

    with pytest.raises(PlatformError, match="another key"):
        await bench.catalog.secrets.of(function)

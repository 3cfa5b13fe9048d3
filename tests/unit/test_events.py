"""The format of events: what was written once must be readable for good."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stoker.catalog import events
from stoker.catalog.events import Subject, UnknownFormat
from stoker.catalog.fold import Fold
from stoker.catalog.principal import Principal, Rate
from stoker.catalog.quotas import Quotas
from stoker.catalog.tokens import TokenDraft
from stoker.model.function import Asset, Concurrency
from stoker.model.injection import Injection
from stoker.testing.catalog import ACCOUNT, CatalogBench

GOLDEN: list[dict[str, Any]] = json.loads((Path(__file__).parent / "golden" / "events.json").read_text())
"""In the order in which they were stored, from sequence 1. Never edited: a new kind goes to the end."""


def folded() -> Fold:
    fold = Fold()
    for sequence, golden in enumerate(GOLDEN, 1):
        fold.apply(golden["subject"], json.dumps(golden["event"]).encode(), sequence)
    return fold


def test_there_is_one_of_each_kind() -> None:
    kinds = {(Subject.parse(golden["subject"]).noun, golden["event"]["type"]) for golden in GOLDEN}

    assert kinds == {
        ("function", "created"),
        ("function", "patched"),
        ("function", "versioned"),
        ("function", "deleted"),
        ("collection", "created"),
        ("collection", "patched"),
        ("collection", "deleted"),
        ("token", "created"),
        ("token", "deleted"),
        ("object", "created"),
        ("secret", "created"),
        ("secret", "deleted"),
        ("account", "created"),
        ("account", "patched"),
        ("account", "deleted"),
    }


def test_what_was_written_by_format_1_is_read_as_it_was_meant() -> None:
    fold = folded()

    entry = fold.functions["default", "tools", "3970185486"]
    function = entry.function
    assert (function.name, function.created_name) == ("renamed", "my-function")
    assert (function.type, function.modified, function.revision) == ("patched", 1714378985, 11)
    assert function.description == "A serverless function"
    assert function.schema == {"input": {"type": "object"}, "output": True}
    assert function.monitor_config == {"ttl": 604800000, "store_payload": True}
    assert (function.size, function.memory_bytes) == ("1 gb", 1024 * 2**20)
    assert function.concurrency == Concurrency(per_instance=2, max_instances=8, min_instances=1)
    assert function.retry == {"attempts": 5}
    assert list(entry.versions) == [1, 2, 3]
    code = entry.versions[1]
    assert (code.version, code.runtime, code.handler) == (1, "nodejs", "index.handler")
    assert code.assets == (Asset("index.js", "file", "ab" * 32, 29),)
    assert (code.timeout_ms, code.read_only_fs, code.modified) == (30000, True, 1714378974)
    assert (code.env_vars, code.secrets) == (("KEY=value",), ("API_KEY",))
    assert code.network == {"egress": ["api.example.com:443"]}
    code = entry.versions[2]
    assert (code.version, code.runtime, code.handler) == (2, "python", "main.handler")
    assert code.assets == (Asset("main.py", "file", "12" * 32, 40),)
    assert (code.timeout_ms, code.read_only_fs, code.modified) == (7, False, 1714378984)
    assert (code.env_vars, code.secrets, code.network) == (None, None, None)
    restored = function.code
    assert restored == replace(entry.versions[1], version=3, modified=1714378985)
    collection = fold.collections["default", "tools"]
    assert (collection.name, collection.description, collection.collection_type) == (
        "tools",
        None,
        "function",
    )
    collection = fold.collections["default", "1753641292"]
    assert (collection.name, collection.created_name) == ("hub", "datahub")
    assert (collection.description, collection.collection_type) == (None, "container")
    assert (collection.type, collection.modified) == ("patched", 1714378987)
    assert (collection.revision, collection.created_sequence) == (13, 12)
    retired_collection = fold.retired_collections["default", "3970185486"]
    assert (retired_collection.created_name, retired_collection.revision) == ("my-function", 15)
    retired = fold.retired["default", "tools", "230114167"]
    assert (retired.created_name, retired.version, retired.revision) == ("base64-encode", 4, 8)
    token, made = fold.tenants.tokens.values()
    assert (token.token_id, token.scopes, token.digest) == (
        "administrator",
        frozenset({"*"}),
        bytes.fromhex("cd" * 32),
    )
    assert (token.maker, token.expires_ms, token.calls_per_minute) == (None, None, None)
    scopes = frozenset({"functions:invoke", "tokens:write"})
    rates = (Rate("tok_0123456789abcdef", 60),)
    assert made.principal == Principal("default", "tok_0123456789abcdef", scopes, "tools", rates)
    assert (made.name, made.maker, made.calls_per_minute) == ("agent", "administrator", 60)
    assert (made.created_ms, made.expires_ms) == (1714378990000, 1714382590000)
    secret = fold.secrets["default", "API_KEY"]
    assert (secret.digest, secret.key_id) == ("34" * 32, "0123456789abcdef")
    assert (secret.modified, secret.revision, secret.created_sequence) == (1714378991, 17, 17)
    assert secret.inject is None
    injected = fold.secrets["default", "INJECTED_KEY"].inject
    assert injected == Injection(("api.example.com:443",), "Authorization", "Bearer {}")
    assert fold.retired_secrets == {("default", "OLD_KEY"): 19}
    default, acme = fold.tenants.accounts.values()
    assert (default.id, default.name, default.quotas) == ("default", "default", Quotas())
    assert (acme.id, acme.name, acme.quotas) == (
        "acc_0123456789abcdef01234567",
        "acme",
        Quotas(1, 2, 3, 4, 5),
    )
    assert (acme.created_ms, acme.revision, acme.created_sequence) == (1714378994000, 21, 20)
    assert list(fold.tenants.gone) == ["acc_76543210fedcba9876543210"]
    assert fold.tenants.named("gone") is None
    (stored,) = fold.objects.values()
    assert (stored.digest, stored.size_bytes) == ("ef" * 32, 1234)


def test_a_created_function_is_written_as_it_was() -> None:
    golden = GOLDEN[4]
    function = events.function_from(Subject.parse(golden["subject"]), golden["event"], 5)

    written = events.encode("created", golden["event"]["at_ms"], function=events.function_content(function))

    assert json.loads(written) == golden["event"]
    assert str(events.function_key("default", "tools", "3970185486")) == golden["subject"]


async def test_changes_of_code_and_of_collections_are_written_as_they_were() -> None:
    bench = CatalogBench()
    bench.now_ms = 1714378984000
    await bench.create()
    versions, collections, entry = bench.catalog.versions, bench.catalog.collections, bench.entry()
    await versions.change(ACCOUNT, entry, {"timeout": 7})
    await versions.roll_back(ACCOUNT, entry, 1)
    topic = (await collections.create(ACCOUNT, "a", description="b", collection_type="container")).topic
    await collections.patch(ACCOUNT, topic, {"name": "hub", "description": None})
    await collections.delete(ACCOUNT, topic)

    written = [json.loads(event.data) for event in bench.log.events[2:]]

    assert [set(event) for event in written[:2]] == [set(golden["event"]) for golden in GOLDEN[9:11]]
    assert [set(event["code"]) for event in written[:2]] == [set(g["event"]["code"]) for g in GOLDEN[9:11]]
    assert [event["restores"] for event in written[:2]] == [None, 1]
    content = {"name": "a", "description": "b", "collection_type": "container"}
    rest = {"format": 1, "at_ms": bench.now_ms}
    assert written[2:] == [
        {**rest, "type": "created", "collection": content},
        {**rest, "type": "patched", "changes": {"name": "hub", "description": None}},
        {**rest, "type": "deleted"},
    ]


def test_everything_else_is_written_as_it_was() -> None:
    written = [
        (
            events.token_key("default", "administrator"),
            events.encode("created", 1714378970000, name="administrator", digest="cd" * 32, scopes=["*"]),
        ),
        (
            events.object_key("default", "aa" * 32),
            events.encode("created", 1714378973000, key="lib.zip", digest="ef" * 32, size_bytes=1234),
        ),
        (
            events.collection_key("default", "tools"),
            events.encode(
                "created",
                1714378974000,
                collection={"name": "tools", "description": None, "collection_type": "function"},
            ),
        ),
    ]

    golden = [(one["subject"], one["event"]) for one in (GOLDEN[0], GOLDEN[2], GOLDEN[3])]
    assert [(str(subject), json.loads(data)) for subject, data in written] == golden


async def test_tokens_secrets_and_accounts_are_written_as_they_were() -> None:
    bench = CatalogBench()
    catalog, maker = bench.catalog, Principal(ACCOUNT, "administrator", frozenset({"*"}))
    key, event = GOLDEN[0]["subject"], GOLDEN[0]["event"]
    await bench.log.append(key, json.dumps(event).encode(), expected=0)
    bench.fold.apply(key, json.dumps(event).encode(), 1)
    wanted = TokenDraft("agent", ("tokens:write", "functions:invoke"), "tools", 60, 3600)
    await catalog.tokens.create(maker, wanted)
    await bench.put_secret("API_KEY")
    await catalog.secrets.delete(ACCOUNT, "API_KEY")
    await catalog.accounts.create("acme", Quotas(functions=10))
    await catalog.accounts.limit("acme", Quotas(1, 2, 3, 4, 5))
    await catalog.accounts.delete("acme")

    written = [(e.subject.split(".")[2:4], json.loads(e.data)) for e in bench.log.events[1:]]

    golden = [(GOLDEN[n]["subject"].split(".")[2:4], GOLDEN[n]["event"]) for n in (15, 16, 18, 19, 20, 22)]
    del written[4]  # the account's first token
    assert [(subject, event.keys()) for subject, event in written] == [
        (subject, event.keys()) for subject, event in golden
    ]
    given = {
        key: value for key, value in written[0][1].items() if key not in ("digest", "at_ms", "expires_ms")
    }
    assert given.items() <= golden[0][1].items()
    assert [event["limits"] for _, event in written[3:5]] == [event["limits"] for _, event in golden[3:5]]


@pytest.mark.parametrize(
    "data", [b'{"format":2,"type":"created"}', b'{"type":"created"}', b"[]", b"{", b"\xff", b""]
)
def test_what_this_version_does_not_know_is_refused_and_never_guessed(data: bytes) -> None:
    with pytest.raises(UnknownFormat):
        events.decode(data)


@pytest.mark.parametrize(
    "subject",
    [
        "accounts.default.catalog.trigger.x",
        "accounts.default.catalog.function.tools.1",
        "accounts.default.catalog.collection.tools",
        "accounts.default.catalog.token.t",
        "accounts.default.catalog.secret.S",
        "accounts.default.catalog.account.self",
    ],
)
def test_a_noun_or_kind_of_a_newer_version_is_refused(subject: str) -> None:
    with pytest.raises(UnknownFormat):
        Fold().apply(subject, events.encode("paused", 0), 1)


@pytest.mark.parametrize(
    "text", ["", "accounts.default.catalog.function", "accounts.a.blob.x.y", "x.a.catalog.f.k"]
)
def test_a_subject_of_another_room_is_none_of_ours(text: str) -> None:
    with pytest.raises(ValueError, match="no subject of the catalog"):
        Subject.parse(text)

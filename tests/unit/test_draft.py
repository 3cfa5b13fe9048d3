"""Drafts: every refusal of a field, with the pointer to it."""

from __future__ import annotations

import unicodedata
from contextlib import nullcontext
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.catalog.draft import DraftAsset, check_draft, cpu_millis_of, memory_bytes_of
from stoker.model.errors import InvalidRequest, TooLarge
from stoker.model.limits import DAY_MS, MIB, Limits
from stoker.testing.catalog import a_draft

LIMITS = Limits()
TOO_MUCH = LIMITS.settings_bytes_max - len('{"more":""}') + 1
"""Characters that make an object with one key `more` a byte larger than it may be."""


def egress(*rules: Any) -> dict[str, Any]:
    return {"network": {"egress": list(rules)}}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": ""}, "/name"),
        ({"name": "x" * 129}, "/name"),
        ({"name": "a/b"}, "/name"),
        ({"name": "a\n"}, "/name"),
        ({"name": "a\x00"}, "/name"),
        ({"name": "a\x7f"}, "/name"),
        ({"name": "a\x85"}, "/name"),
        ({"name": "a\ud800"}, "/name"),
        ({"description": "x" * 4_097}, "/description"),
        ({"assets": (DraftAsset("a", "x" * 129, b""),)}, "/compute_asset/assets/0/asset_type"),
        ({"runtime": "ruby"}, "/compute_asset/runtime"),
        ({"runtime": ""}, "/compute_asset/runtime"),
        ({"handler": ""}, "/compute_asset/handler"),
        ({"handler": "index"}, "/compute_asset/handler"),
        ({"handler": "index."}, "/compute_asset/handler"),
        ({"handler": ".handler"}, "/compute_asset/handler"),
        ({"handler": "index..handler"}, "/compute_asset/handler"),
        ({"handler": "../index.handler"}, "/compute_asset/handler"),
        ({"handler": "a/../index.handler"}, "/compute_asset/handler"),
        ({"handler": "//index.handler"}, "/compute_asset/handler"),
        ({"handler": "a//index.handler"}, "/compute_asset/handler"),
        ({"handler": "a\\index.handler"}, "/compute_asset/handler"),
        ({"handler": "a\x00/index.handler"}, "/compute_asset/handler"),
        ({"handler": "x" * 510 + ".handler"}, "/compute_asset/handler"),
        ({"timeout": 0}, "/compute_asset/timeout"),
        ({"timeout": -1}, "/compute_asset/timeout"),
        ({"timeout": 900_001}, "/compute_asset/timeout"),
        ({"env_vars": ("A=1", "B")}, "/compute_asset/env_vars/1"),
        ({"env_vars": ("=1",)}, "/compute_asset/env_vars/0"),
        ({"env_vars": ("1A=1",)}, "/compute_asset/env_vars/0"),
        ({"env_vars": ("A B=1",)}, "/compute_asset/env_vars/0"),
        ({"env_vars": ("A=\x00",)}, "/compute_asset/env_vars/0"),
        ({"env_vars": (f"{'A' * 129}=1",)}, "/compute_asset/env_vars/0"),
        ({"env_vars": (f"A={'x' * 65_533}", "B=")}, "/compute_asset/env_vars"),
        ({"secrets": ("GOOD", "not good")}, "/compute_asset/secrets/1"),
        ({"secrets": ("",)}, "/compute_asset/secrets/0"),
        ({"secrets": tuple(f"S{n}" for n in range(101))}, "/compute_asset/secrets"),
        ({"network": {"more": "x" * TOO_MUCH}}, "/compute_asset/network"),
        ({"network": {"egress": "*:443"}}, "/compute_asset/network/egress"),
        (egress("*:443", "example.com"), "/compute_asset/network/egress/1"),
        (egress("example.com:0"), "/compute_asset/network/egress/0"),
        (egress("example.com:65536"), "/compute_asset/network/egress/0"),
        (egress("example..com:443"), "/compute_asset/network/egress/0"),
        (egress(".com:443"), "/compute_asset/network/egress/0"),
        (egress("a.*.com:443"), "/compute_asset/network/egress/0"),
        (egress("*.:443"), "/compute_asset/network/egress/0"),
        (egress("http://example.com:443"), "/compute_asset/network/egress/0"),
        (egress(f"{'x' * 64}.com:443"), "/compute_asset/network/egress/0"),
        (egress("[::1:443"), "/compute_asset/network/egress/0"),
        (egress("[:::]:443"), "/compute_asset/network/egress/0"),
        (egress("[1.2.3.4]:443"), "/compute_asset/network/egress/0"),
        (egress(443), "/compute_asset/network/egress/0"),
        (egress("example.com:443\n"), "/compute_asset/network/egress/0"),
        ({"monitor_config": {"ttl": -1}}, "/monitor_config/ttl"),
        ({"monitor_config": {"ttl": 365 * DAY_MS + 1}}, "/monitor_config/ttl"),
        ({"monitor_config": {"ttl": 1.5}}, "/monitor_config/ttl"),
        ({"monitor_config": {"ttl": True}}, "/monitor_config/ttl"),
        ({"monitor_config": {"store_payload": "yes"}}, "/monitor_config/store_payload"),
        ({"monitor_config": {"more": "x" * TOO_MUCH}}, "/monitor_config"),
        ({"schema": {"input": {}, "more": "x" * TOO_MUCH}}, "/schema"),
        ({"size": "tiny"}, "/size"),
        ({"size": ""}, "/size"),
        ({"size": "127MB"}, "/size"),
        ({"size": "4097MB"}, "/size"),
        ({"size": "5GB"}, "/size"),
        ({"size": "1.5GB"}, "/size"),
        ({"size": "512"}, "/size"),
        ({"size": "512KB"}, "/size"),
        ({"size": "1  gb"}, "/size"),
        ({"size": "-512MB"}, "/size"),
        ({"size": "\u0665\u0661\u0662MB"}, "/size"),
        ({"retry": {"more": "x" * TOO_MUCH}}, "/retry"),
        ({"retry": {"attempts": 0}}, "/retry/attempts"),
        ({"retry": {"attempts": 101}}, "/retry/attempts"),
        ({"retry": {"backoff_ms": 0}}, "/retry/backoff_ms"),
        ({"retry": {"backoff_ms": DAY_MS + 1}}, "/retry/backoff_ms"),
        ({"retry": {"max_age_ms": 14 * DAY_MS + 1}}, "/retry/max_age_ms"),
        ({"retry": {"max_age_ms": 999}}, "/retry/max_age_ms"),
        ({"retry": {"max_age_ms": "6h"}}, "/retry/max_age_ms"),
        ({"concurrency": {"more": "x" * TOO_MUCH}}, "/concurrency"),
        ({"concurrency": {"per_instance": 0}}, "/concurrency/per_instance"),
        ({"concurrency": {"per_instance": 1001}}, "/concurrency/per_instance"),
        ({"concurrency": {"max_instances": 100_001}}, "/concurrency/max_instances"),
        ({"concurrency": {"max_instances": 0}}, "/concurrency/max_instances"),
        ({"concurrency": {"min_instances": -1}}, "/concurrency/min_instances"),
        ({"concurrency": {"min_instances": 257}}, "/concurrency/min_instances"),
        ({"concurrency": {"min_instances": 3, "max_instances": 2}}, "/concurrency/min_instances"),
    ],
)
def test_what_breaks_the_contract_is_refused_with_its_field(changes: dict[str, Any], field: str) -> None:
    with pytest.raises((InvalidRequest, TooLarge)) as refused:
        check_draft(a_draft(**changes), LIMITS)

    assert refused.value.field == field


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"name": "x"},
        {"name": "x" * 128},
        {"description": "ü" * 4_096},
        {"assets": (DraftAsset("a", "x" * 128, b""),)},
        {"name": "ü 日本 %&?."},
        {"runtime": "python", "handler": "main.handler"},
        {"handler": "/src/app.handler"},
        {"handler": "src/deep/app.handler"},
        {"handler": "/index.handler"},
        {"timeout": 1},
        {"timeout": 900_000},
        {"env_vars": ()},
        {"env_vars": ("A=", "_b9==x=y", "A=ü\n")},
        {"env_vars": (f"{'A' * 128}=1",)},
        {"env_vars": (f"A={'x' * 65_532}", "B=")},
        {"secrets": ("API_KEY",)},
        {"secrets": tuple(f"S{n}" for n in range(100))},
        egress(),
        egress("*:443", "*.example.org:443", "api.example.com:65535", "localhost:1", "example.com.:80"),
        egress("[2001:db8::1]:443", "[::ffff:1.2.3.4]:80", "1.2.3.4:80", "under_score.example:80"),
        {"network": {}},
        {"network": {"more": "x" * (TOO_MUCH - 1)}},
        {"network": {"egress": None}},
        {"monitor_config": {"ttl": 0, "store_payload": True}},
        {"monitor_config": {"ttl": 365 * DAY_MS}},
        {"monitor_config": {"more": "x" * (TOO_MUCH - 1)}},
        {"monitor_config": {"ttl": None, "store_payload": None}},
        {"retry": {"attempts": 1, "backoff_ms": 1, "max_age_ms": 1000}},
        {"retry": {"attempts": 100, "backoff_ms": DAY_MS, "max_age_ms": 14 * DAY_MS}},
        {"retry": {}},
        {"retry": {"more": "x" * (TOO_MUCH - 1)}},
        {"concurrency": {"per_instance": 1000, "max_instances": 2, "min_instances": 2}},
        {"concurrency": {"per_instance": 1, "max_instances": 100_000, "min_instances": 256}},
        {"concurrency": {"max_instances": 1, "min_instances": 0}},
        {"concurrency": {"per_instance": None}},
        {"concurrency": {"more": "x" * (TOO_MUCH - 1)}},
        {"schema": {"input": {}, "more": "x" * (TOO_MUCH - 1)}},
    ],
)
def test_what_the_contract_allows_is_taken(changes: dict[str, Any]) -> None:
    check_draft(a_draft(**changes), LIMITS)


@pytest.mark.parametrize(
    ("size", "megabytes"),
    [
        (None, 512),
        ("small", 256),
        ("medium", 512),
        ("large", 1024),
        ("xlarge", 2048),
        ("Large", 1024),
        ("128MB", 128),
        ("512mb", 512),
        ("1GB", 1024),
        ("1 gb", 1024),
        ("4GB", 4096),
        ("4096 MB", 4096),
    ],
)
def test_a_size_is_a_word_or_an_amount(size: str | None, megabytes: int) -> None:
    assert memory_bytes_of(size) == megabytes * MIB


@pytest.mark.parametrize(
    ("megabytes", "millis"), [(128, 125), (256, 140), (512, 200), (1024, 250), (2048, 400), (4096, 700)]
)
def test_the_cpu_share_is_the_contracts_at_its_sizes(megabytes: int, millis: int) -> None:
    assert cpu_millis_of(megabytes * MIB) == millis


@given(st.integers(128, 4095))
def test_the_cpu_share_grows_with_the_memory(megabytes: int) -> None:
    assert 125 <= cpu_millis_of(megabytes * MIB) <= cpu_millis_of((megabytes + 1) * MIB) <= 700


@pytest.mark.parametrize(
    "rule", ["a" * 299, "a" * 290 + "!:443", "a." * 148 + "!", "*." + "a-" * 140 + "!", "[" + ":" * 290]
)
def test_no_egress_rule_takes_long_to_refuse(rule: str) -> None:
    # An expression with two ways to read a host took 25 s of the event loop for 28 characters. With these it
    # would not come to an end.
    with pytest.raises(InvalidRequest):
        check_draft(a_draft(**egress(rule)), LIMITS)


@given(st.text(min_size=1, max_size=128))
def test_a_name_is_taken_if_it_has_no_slash_and_no_control_character(name: str) -> None:
    good = not any(c == "/" or unicodedata.category(c) in ("Cc", "Cs") for c in name)

    with nullcontext() if good else pytest.raises(InvalidRequest):
        check_draft(a_draft(name=name), LIMITS)

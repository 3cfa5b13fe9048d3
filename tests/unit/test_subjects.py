"""The grammar of topics, services and subjects."""

from __future__ import annotations

import pytest

from stoker.model.subjects import (
    collection_subject,
    fnv1a,
    function_subject,
    is_topic,
    service_of_subject,
    topic_of_subject,
)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("my-function", 3970185486),
        ("get-kv-bucket-item", 2631565996),
        ("base64-encode", 230114167),
        ("datahub", 1753641292),
        ("", 0x811C9DC5),
    ],
)
def test_a_name_hashes_as_the_contract_says(name: str, number: int) -> None:
    assert fnv1a(name) == number


def test_a_hash_is_that_of_the_name_in_utf8() -> None:
    folded = 0x811C9DC5
    for byte in (0xC3, 0xBC):
        folded = ((folded ^ byte) * 0x01000193) % 2**32

    assert fnv1a("ü") == folded


@pytest.mark.parametrize("text", ["a", "my-namespace", "A_1", "x" * 64])
def test_letters_digits_dash_and_underscore_make_a_topic(text: str) -> None:
    assert is_topic(text)


@pytest.mark.parametrize("text", ["", "x" * 65, "a.b", "a b", "ü", "a\n", "*", ">", "a/b"])
def test_anything_else_is_no_topic(text: str) -> None:
    assert not is_topic(text)


def test_a_function_subject_can_be_read_back() -> None:
    subject = function_subject("tools", "230114167")

    assert subject == "ms.compute.tools.function.230114167"
    assert service_of_subject(subject) == ("tools", "230114167")
    assert topic_of_subject(subject) is None


def test_a_collection_subject_can_be_read_back() -> None:
    subject = collection_subject("tools")

    assert subject == "ms.compute.tools.collection"
    assert topic_of_subject(subject) == "tools"
    assert service_of_subject(subject) is None


@pytest.mark.parametrize(
    "text",
    [
        "ms.compute.tools.function.",
        "ms.compute.tools.function.12345678901",
        "ms.compute.tools.function.1\n",
        "xms.compute.tools.function.1",
        "ms.compute.a.b.function.1",
        "ms.compute.tools.function.٣",
    ],
)
def test_what_only_resembles_a_subject_is_none(text: str) -> None:
    assert service_of_subject(text) is None

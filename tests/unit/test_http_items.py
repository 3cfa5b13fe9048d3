"""Items of code: what a value may be, what a link leads to, and where a refusal points."""

from __future__ import annotations

import base64

import pytest

from stoker.catalog.draft import StoredContent
from stoker.edge.http.items import ComputeAssetItem, item_answer, read_assets
from stoker.model.errors import InvalidRequest, TooLarge
from stoker.model.function import Asset


class Store:
    """Objects by key, whose digest is their content, and the keys that were asked for."""

    def __init__(self, **objects: bytes) -> None:
        self.objects = objects
        self.asked: list[str] = []

    def __call__(self, key: str) -> StoredContent | None:
        self.asked.append(key)
        content = self.objects.get(key)
        return None if content is None else StoredContent(content.decode(), len(content))


def item(value: str, *, link: bool = False, kind: str | None = None) -> ComputeAssetItem:
    return ComputeAssetItem("a.js", value, kind, link)


def coded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize("value", ["aGVsbG8=", "aGVs\nbG8=\n", " aGVs bG8= ", "aGVs\r\nbG8="])
def test_a_value_is_base64_with_or_without_line_breaks(value: str) -> None:
    (draft,) = read_assets([item(value)], Store(), bytes_max=100)

    assert (draft.name, draft.kind, draft.content) == ("a.js", "file", b"hello")


def test_an_empty_value_is_an_empty_file_and_a_kind_stays_as_it_was_given() -> None:
    (draft,) = read_assets([item("", kind="whatever")], Store(), bytes_max=100)

    assert (draft.kind, draft.content) == ("whatever", b"")


@pytest.mark.parametrize("value", ["aGVsbG8", "a", "aGVsbG8=!", "aGVs_bG8", "ü", "=", "aGVsbG8=aGVsbG8="])
def test_what_is_no_base64_is_refused_with_its_place(value: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_assets([item(""), item(value)], Store(), bytes_max=100)

    assert refused.value.field == "/compute_asset/assets/1/asset_value"


def test_a_link_is_the_base64_of_a_key_before_it_is_a_plain_key() -> None:
    key = "hello"
    store = Store(**{key: b"by base64", coded(key): b"by plain key"})

    (draft,) = read_assets([item(coded(key), link=True)], store, bytes_max=100)

    assert draft.content == StoredContent("by base64", 9)
    assert store.asked == [key]


@pytest.mark.parametrize("key", ["plain-key.zip", "abcd", "////"])
def test_a_link_that_decodes_to_no_stored_key_is_a_plain_key(key: str) -> None:
    # `abcd` is base64 of something else, `////` of what is no UTF-8.
    (draft,) = read_assets([item(key, link=True)], Store(**{key: b"stored"}), bytes_max=100)

    assert draft.content == StoredContent("stored", 6)


def test_a_link_to_nothing_is_refused_and_says_what_to_do() -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_assets([item("nothing", link=True)], Store(), bytes_max=100)

    assert refused.value.field == "/compute_asset/assets/0/asset_value"
    assert "PUT /compute/assets" in (refused.value.hint or "")


def test_many_links_to_one_large_object_are_bounded() -> None:
    store = Store(big=b"x" * 40)

    with pytest.raises(TooLarge) as refused:
        read_assets([item("big", link=True)] * 1000, store, bytes_max=100)

    assert refused.value.field == "/compute_asset/assets"
    assert len([key for key in store.asked if key == "big"]) == 3


def test_a_refusal_points_below_the_place_where_the_items_stand() -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_assets([item("ü")], Store(), bytes_max=100, pointer="/assets")

    assert refused.value.field == "/assets/0/asset_value"


def test_an_item_is_answered_inline_with_its_content() -> None:
    answered = item_answer(Asset("a.js", "archive", "0" * 64, 5), b"hello")

    assert answered == {
        "asset_name": "a.js",
        "asset_type": "archive",
        "asset_value": "aGVsbG8=",
        "link": False,
    }

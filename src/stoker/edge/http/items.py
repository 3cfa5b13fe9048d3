"""Items of code as the API spells them: base64, or a link to what was stored beforehand.

Does not know archives, nor whether a name may be.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Annotated

import msgspec
from msgspec import Meta

from stoker.catalog.draft import DraftAsset, StoredContent
from stoker.edge.http.answers import ItemAnswer
from stoker.model.errors import InvalidRequest, TooLarge
from stoker.model.function import Asset


class ComputeAssetItem(msgspec.Struct):
    """One item of code."""

    asset_name: Annotated[str, Meta(description="A relative path that stays inside the function's folder.")]
    asset_value: Annotated[
        str,
        Meta(description="The content in base64; with `link` a stored object's key, in base64 or plain."),
    ]
    asset_type: (
        Annotated[
            str,
            Meta(
                description="`archive` is unpacked if it is a zip or tar.gz; any other word is a file.",
                extra_json_schema={"maxLength": "limits.name_chars_max"},
            ),
        ]
        | None
    ) = None
    link: Annotated[bool, Meta(description="Whether the value is a key; false if left out.")] | None = None


def read_assets(
    items: list[ComputeAssetItem],
    stored: Callable[[str], StoredContent | None],
    *,
    bytes_max: int,
    pointer: str = "/compute_asset/assets",
) -> tuple[DraftAsset, ...]:
    """Return the items, which stand at `pointer`, with their content: decoded, or (`link`) what `stored` has.

    A linked value is the base64 of a key, or the plain key, tried in this order. Raises InvalidRequest
    that names the item, TooLarge once the contents have more than `bytes_max` together: many short links
    may lead to one large object.
    """
    drafts = []
    left = bytes_max
    for index, item in enumerate(items):
        field = f"{pointer}/{index}/asset_value"
        decoded = _decode_base64(item.asset_value)
        content: bytes | StoredContent | None = decoded
        if item.link:
            content = _linked(item.asset_value, decoded, stored)
            if content is None:
                raise InvalidRequest(
                    "no stored object has that key", field=field, hint="PUT /compute/assets/{key} first"
                )
        elif content is None:
            raise InvalidRequest("asset_value is not base64", field=field)
        left -= content.size_bytes if isinstance(content, StoredContent) else len(content)
        if left < 0:
            raise TooLarge(f"the assets have more than {bytes_max} bytes", field=pointer)
        drafts.append(DraftAsset(item.asset_name, item.asset_type or "file", content))
    return tuple(drafts)


def _linked(
    value: str, decoded: bytes | None, stored: Callable[[str], StoredContent | None]
) -> StoredContent | None:
    if decoded is not None:
        try:
            found = stored(decoded.decode())
        except UnicodeDecodeError:
            found = None  # no key is written so: it can only be a plain one
        if found is not None:
            return found
    return stored(value)


def _decode_base64(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        pass
    try:  # line breaks, as `base64` prints them, are no reason to refuse
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        return None


def item_answer(item: Asset, content: bytes) -> ItemAnswer:
    """Return an item of code, inline."""
    return {
        "asset_name": item.name,
        "asset_type": item.kind,
        "asset_value": base64.b64encode(content).decode(),
        "link": False,
    }

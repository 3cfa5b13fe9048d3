"""Files as an agent writes and reads them, plain text, and as the API has them, base64 items.

Does not know functions. Source: the compute API contract, *ComputeAssetItem*.
"""

from __future__ import annotations

import base64
from typing import Any

from stoker.model.errors import InvalidRequest
from stoker.model.pointer import escape

_PARTS = ("", "asset_name", "asset_value")
"""Of an item: what is one with the file itself for who gave it by name."""
Item = dict[str, Any]
"""A ComputeAssetItem of the API."""


def items_of(files: dict[str, Any]) -> list[Item]:
    """Return the items of files given as text, or as `{"base64", "type"}`. Raises InvalidRequest."""
    return [_item(name, content) for name, content in files.items()]


def changed_items(items: list[Item], changes: dict[str, Any]) -> list[Item]:
    """Return items with some replaced, added or (None) removed. Raises InvalidRequest naming the field."""
    known = {item["asset_name"] for item in items}
    for name, content in changes.items():
        if content is None and name not in known:
            raise InvalidRequest(
                "there is no such file to remove",
                field=f"/change_files/{escape(name)}",
                hint=", ".join(sorted(known)[:20]),
            )
    kept = [item for item in items if item["asset_name"] not in changes]
    return kept + items_of({name: content for name, content in changes.items() if content is not None})


def files_of(items: list[Item]) -> dict[str, Any]:
    """Return items by name: the text of each, of what is none its size and type."""
    return {item["asset_name"]: _shown(item) for item in items}


def field_of(field: str, items: list[Item], argument: str) -> str:
    """Return where in a tool's arguments a field of the API stands that was refused."""
    for prefix in ("/compute_asset", ""):
        if field.startswith(f"{prefix}/assets/"):
            index, _, rest = field.removeprefix(f"{prefix}/assets/").partition("/")
            name = items[int(index)]["asset_name"] if index.isdigit() and int(index) < len(items) else index
            return f"/{argument}/{escape(name)}" + (f"/{rest}" if rest not in _PARTS else "")
    if field == "/compute_asset/collection_topic":
        return "/collection"
    return field.removeprefix("/compute_asset").replace("/assets", f"/{argument}", 1)


def _item(name: str, content: Any) -> Item:
    if isinstance(content, dict):
        return {
            "asset_name": name,
            "asset_type": content.get("type", "file"),
            "asset_value": content["base64"],
        }
    try:
        data = content.encode()
    except UnicodeError:
        raise InvalidRequest("the text is not Unicode", field=f"/files/{escape(name)}") from None
    return {"asset_name": name, "asset_type": "file", "asset_value": base64.b64encode(data).decode()}


def _shown(item: Item) -> Any:
    content = base64.b64decode(item["asset_value"])
    if item["asset_type"] != "archive":
        try:
            text = content.decode()
        except UnicodeDecodeError:
            text = "\0"
        if "\0" not in text:
            return text
    return {"bytes": len(content), "type": item["asset_type"]}

"""How a function or a collection is named in a path.

`collection/name`, with topics or names on either side, or a full subject. Does not know what exists.
"""

from __future__ import annotations

import re
from urllib.parse import quote

_SUBJECT = re.compile(
    r"(?:accounts\.[^.]+\.)?ms\.compute\.(?P<topic>[^./]+)\.function\.(?P<service>[^./]+)\Z"
)


class InvalidName(ValueError):
    """A text that names no function; nothing was asked."""


def parts(name: str) -> tuple[str, str]:
    """Return what names the collection, and the function within it. Raises InvalidName."""
    subject = _SUBJECT.match(name)
    if subject is not None:
        return subject["topic"], subject["service"]
    collection, slash, function = name.partition("/")
    if not slash or not collection or not function or "/" in function:
        raise InvalidName(f"{name!r} does not name a function: it is written collection/name")
    return collection, function


def function_path(name: str) -> str:
    """Return the two segments of a path that name a function. Raises InvalidName."""
    collection, function = parts(name)
    return f"{segment(collection)}/{segment(function)}"


def segment(name: str) -> str:
    """Return one name as a segment of a path."""
    return quote(name, safe="")

"""Names of tools: what an agent calls a function by, whatever its collection and it are named.

Pure. Does not know what a tool is. Source: the operating contract, *The other doors*.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

NAME_CHARS_MAX = 64
HASH_CHARS = 8
_OUTSIDE = re.compile(r"[^A-Za-z0-9_-]")


def plain_name(collection: str, name: str) -> str:
    """Return `<collection>__<name>` in the letters that a tool's name may have, of whatever length."""
    return _OUTSIDE.sub("_", f"{collection}__{name}")


def tool_names(places: Iterable[tuple[str, str, str]]) -> list[str]:
    """Return a name for each (collection, name, subject), all different.

    A name that is too long is cut and ends in a hash of what it was. Of those that come out alike the first
    keeps it, and the others end in a hash of their subject: they keep theirs as long as they are later.
    """
    taken: dict[str, None] = {}
    for collection, name, subject in places:
        wanted = plain_name(collection, name)
        if len(wanted) > NAME_CHARS_MAX:
            wanted = _hashed(wanted, f"{collection}__{name}", HASH_CHARS)
        chars = HASH_CHARS
        while wanted in taken:
            wanted = _hashed(plain_name(collection, name), subject, chars)
            chars += HASH_CHARS
        taken[wanted] = None
    return list(taken)


def _hashed(text: str, of: str, chars: int) -> str:
    digest = hashlib.sha256(of.encode()).hexdigest()[:chars]
    return f"{text[: NAME_CHARS_MAX - chars - 1]}_{digest}"

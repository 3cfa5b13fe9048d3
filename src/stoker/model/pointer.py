"""JSON Pointers (RFC 6901): how every refusal names its place. Does not know what is pointed into."""

from __future__ import annotations


def escape(part: str | int) -> str:
    """Return one step of a JSON Pointer, without its leading slash."""
    return str(part).replace("~", "~0").replace("/", "~1")

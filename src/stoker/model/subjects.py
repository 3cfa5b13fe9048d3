"""The grammar of topics, services and subjects.

Source: the compute API contract, *Topics and subjects*. Does not know which of them exist.
"""

from __future__ import annotations

import re

TOPIC = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_FUNCTION = re.compile(r"ms\.compute\.([A-Za-z0-9_-]{1,64})\.function\.([0-9]{1,10})\Z")
_COLLECTION = re.compile(r"ms\.compute\.([A-Za-z0-9_-]{1,64})\.collection\Z")


def fnv1a(name: str) -> int:
    """Return the 32-bit FNV-1a hash of `name` in UTF-8 (`my-function` is 3970185486)."""
    value = 0x811C9DC5
    for byte in name.encode():
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return value


def is_topic(text: str) -> bool:
    """Tell whether `text` may stand as a collection's topic."""
    return TOPIC.match(text) is not None


def function_subject(collection_topic: str, service: str) -> str:
    """Return the subject a function listens on."""
    return f"ms.compute.{collection_topic}.function.{service}"


def collection_subject(collection_topic: str) -> str:
    """Return the subject of a collection."""
    return f"ms.compute.{collection_topic}.collection"


def service_of_subject(text: str) -> tuple[str, str] | None:
    """Return (collection_topic, service) if `text` is a function's subject, else None."""
    match = _FUNCTION.match(text)
    return (match[1], match[2]) if match else None


def topic_of_subject(text: str) -> str | None:
    """Return the topic if `text` is a collection's subject, else None."""
    match = _COLLECTION.match(text)
    return match[1] if match else None

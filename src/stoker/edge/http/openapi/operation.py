"""Operations: what the API's description says of one route, as a value.

Owns the words of a description and the shapes of answers. Does not know routes or JSON Schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Shape(Enum):
    """What is around the type of an answer."""

    BODY = "body"
    """`{"body": ...}`"""
    LIST = "list"
    """`{"body": {"results": [...], "results_total": N}}`, with `next_cursor` where there is more."""
    PLAIN = "plain"
    """Nothing."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter. In its schema `limits.NAME` stands for the limit of that name."""

    name: str
    place: str
    """`query`, `header` or `path`."""
    description: str
    schema: Mapping[str, Any]
    example: object = None
    """One that can be sent as it is; None to leave the parameter out."""
    required: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """How an operation answers that did what it was asked for."""

    kind: Any = None
    """The type of JSON, None for another medium."""
    shape: Shape = Shape.PLAIN
    status: int = 200
    also: tuple[int, ...] = ()
    """Other statuses with the same answer."""
    description: str = "Done."
    media: str = "application/json"
    example: Any = None
    headers: tuple[str, ...] = ()
    """Names in the description's table of headers."""


@dataclass(frozen=True, slots=True)
class Link:
    """Another operation that an answer leads to. `parameters` are OpenAPI's runtime expressions."""

    operation: str
    parameters: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Operation:
    """What one route does."""

    verb: str
    path: str
    """As the route has it."""
    id: str
    tag: str
    summary: str
    answer: Answer
    description: str = ""
    parameters: tuple[Parameter, ...] = ()
    """Beside those in the path."""
    path_examples: Mapping[str, str] = field(default_factory=dict)
    """Where they differ from what everything else is shown with."""
    body: Any = None
    """The type of its JSON body, or the medium's name for bytes."""
    body_required: bool = True
    body_examples: Mapping[str, Any] = field(default_factory=dict)
    """By a name; each can be sent as it is."""
    codes: tuple[str, ...] = ()
    """What it may be refused with, beside what every request may."""
    unready: Any = None
    """The type of its answer of 503, if that is no refusal."""
    links: tuple[Link, ...] = ()

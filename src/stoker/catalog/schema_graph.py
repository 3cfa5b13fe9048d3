"""The graph of a schema: its subschemas, and which of them leads to which.

Owns finding subschemas and resolving references within the document; every reference is rewritten to one
canonical spelling, so that the validator compiles a target once. Does not know what a schema costs, nor how
a value is validated. Keywords are those of drafts 4 to 2020-12 together: an edge too many is harmless here,
a missing one is not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any
from urllib.parse import quote, unquote, urldefrag, urljoin

from stoker.model.errors import InvalidRequest
from stoker.model.limits import Limits
from stoker.model.pointer import escape

IN_PLACE_ONE = ("not", "if", "then", "else")
IN_PLACE_LIST = ("allOf", "anyOf", "oneOf")
IN_PLACE_MAP = ("dependentSchemas", "dependencies")
KEY_ONE = ("additionalProperties", "unevaluatedProperties")
ITEM_ONE = ("additionalItems", "unevaluatedItems", "contains")
ONLY_DEFINED = ("$defs", "definitions")
REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")


class Way(Enum):
    """How a subschema is reached: which part of the value it is held against."""

    IN_PLACE = "in place"
    """The same value."""
    KEY = "key"
    """The value of the property `label`."""
    ANY_KEY = "any key"
    """The value of a property, of which one is not known; also beside a named one."""
    OTHER_KEY = "other key"
    """The values of properties that are not named beside it."""
    NAME = "name"
    """The names of properties."""
    INDEX = "index"
    """The item at the index `label`."""
    ITEM = "item"
    """Any item."""
    DEFINED = "defined"
    """Nothing by itself; a reference may lead there."""


@dataclass(slots=True)
class Node:
    """One subschema."""

    pointer: str
    """JSON Pointer from the root of the document."""
    schema: dict[str, Any] | bool
    base: str
    """URI of the resource that it belongs to; empty if the document has no `$id`."""
    local: str
    """JSON Pointer from the root of that resource."""
    depth: int
    """Subschemas around it."""
    edges: list[Edge] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Edge:
    """One step from a subschema to another."""

    way: Way
    label: str | int
    target: str
    """The pointer of the other subschema."""
    keyword: str
    reference: bool = False


@dataclass(slots=True)
class Graph:
    """All subschemas by pointer, the root's being the empty one."""

    document: dict[str, Any]
    nodes: dict[str, Node]
    dynamic: bool
    """A reference depends on the way that led to it (`$dynamicRef`, `$recursiveRef`)."""


def quoted(pointer: str) -> str:
    """Return a JSON Pointer as the fragment of a URI."""
    return quote(pointer, safe="/~!$&'()*+,;=:@-._")


def subschemas(schema: dict[str, Any]) -> Iterator[tuple[Way, str | int, str, tuple[str | int, ...], Any]]:
    """Yield (way, label, keyword, path, value) of what stands at the place of a subschema.

    In the order of the validator's compiler, which sorts keywords by name.
    """
    for keyword in sorted(schema):
        value = schema[keyword]
        if keyword in IN_PLACE_ONE:
            yield Way.IN_PLACE, keyword, keyword, (keyword,), value
        elif keyword in IN_PLACE_LIST and isinstance(value, list):
            for index, item in enumerate(value):
                yield Way.IN_PLACE, index, keyword, (keyword, index), item
        elif keyword in KEY_ONE:
            way = Way.OTHER_KEY if keyword == "additionalProperties" else Way.ANY_KEY
            yield way, keyword, keyword, (keyword,), value
        elif keyword == "propertyNames":
            yield Way.NAME, keyword, keyword, (keyword,), value
        elif keyword in ITEM_ONE or (keyword == "items" and not isinstance(value, list)):
            yield Way.ITEM, keyword, keyword, (keyword,), value
        elif keyword in ("prefixItems", "items") and isinstance(value, list):
            for index, item in enumerate(value):
                yield Way.INDEX, index, keyword, (keyword, index), item
        elif isinstance(value, dict):
            mapped = _way_of_map(keyword)
            if mapped is not None:
                for name in sorted(value):
                    yield mapped, name, keyword, (keyword, name), value[name]


def _way_of_map(keyword: str) -> Way | None:
    if keyword == "properties":
        return Way.KEY
    if keyword == "patternProperties":
        return Way.ANY_KEY
    if keyword in IN_PLACE_MAP:
        return Way.IN_PLACE
    return Way.DEFINED if keyword in ONLY_DEFINED else None


class GraphBuilder:
    """Builds the graph of one document. The document is changed: its references are rewritten."""

    def __init__(self, document: dict[str, Any], *, field: str, limits: Limits) -> None:
        self._document = document
        self._field = field
        self._depth_max = limits.schema_depth_max
        self._nodes: dict[str, Node] = {}
        self._resources: dict[str, Node] = {}
        self._anchors: dict[tuple[str, str], Node] = {}
        self._dynamic_anchors: dict[str, list[Node]] = {}
        self._recursive_anchors: list[Node] = []
        self._dynamic = False
        self._unresolved: list[Node] = []

    def build(self) -> Graph:
        """Return the graph. Raises InvalidRequest for nesting past the limit and references that lead
        nowhere or out of the document."""
        root = Node("", self._document, "", "", 0)
        self._resources[""] = root
        self._add(root)
        while self._unresolved:
            # A reference may lead to a place that no keyword makes a subschema; what is found there is
            # added, and may hold references of its own.
            node = self._unresolved.pop()
            self._resolve(node)
        return Graph(self._document, self._nodes, self._dynamic)

    def _add(self, first: Node) -> None:
        stack = [first]
        while stack:
            node = stack.pop()
            if node.pointer in self._nodes:
                continue
            if node.depth > self._depth_max:
                raise InvalidRequest(
                    f"is nested deeper than {self._depth_max} subschemas", field=self._field + node.pointer
                )
            self._nodes[node.pointer] = node
            if isinstance(node.schema, bool):
                continue
            self._identify(node)
            if any(keyword in node.schema for keyword in REFERENCES):
                self._unresolved.append(node)
            for way, label, keyword, path, value in subschemas(node.schema):
                if not isinstance(value, (dict, bool)):
                    continue
                suffix = "".join("/" + escape(part) for part in path)
                child = Node(node.pointer + suffix, value, node.base, node.local + suffix, node.depth + 1)
                node.edges.append(Edge(way, label, child.pointer, keyword))
                stack.append(child)

    def _identify(self, node: Node) -> None:
        schema = node.schema
        assert isinstance(schema, dict)
        identity = schema.get("$id", schema.get("id") if node.pointer == "" else None)
        if isinstance(identity, str):
            base, fragment = urldefrag(identity)
            if base:
                node.base = urljoin(node.base, base)
                node.local = ""
                if self._resources.setdefault(node.base, node) is not node:
                    raise self._refused(node, "$id", "is the identity of another subschema too")
            if fragment:  # drafts 6 and 7 wrote an anchor so
                self._anchors[node.base, fragment] = node
        for keyword in ("$anchor", "$dynamicAnchor"):
            name = schema.get(keyword)
            if isinstance(name, str):
                self._anchors[node.base, name] = node
                if keyword == "$dynamicAnchor":
                    self._dynamic_anchors.setdefault(name, []).append(node)
        if schema.get("$recursiveAnchor") is True:
            self._recursive_anchors.append(node)

    def _resolve(self, node: Node) -> None:
        schema = node.schema
        assert isinstance(schema, dict)
        for keyword in REFERENCES:
            reference = schema.get(keyword)
            if not isinstance(reference, str):
                continue
            targets = [self._target(node, keyword, reference)]
            if keyword == "$ref":
                schema["$ref"] = self._spelling(node, targets[0])
            elif keyword == "$dynamicRef":
                self._dynamic = True
                targets += self._dynamic_anchors.get(urldefrag(reference)[1], [])
            else:
                self._dynamic = True
                targets += self._recursive_anchors
            for pointer in dict.fromkeys(target.pointer for target in targets):
                node.edges.append(Edge(Way.IN_PLACE, keyword, pointer, keyword, reference=True))

    def _target(self, node: Node, keyword: str, reference: str) -> Node:
        base, fragment = urldefrag(urljoin(node.base, reference))
        resource = self._resources.get(base) if base else self._resources[node.base]
        if resource is None:
            raise self._refused(node, keyword, "leads out of the document; nothing is ever fetched")
        fragment = unquote(fragment)
        if fragment and not fragment.startswith("/"):
            anchored = self._anchors.get((resource.base, fragment))
            if anchored is None:
                raise self._refused(node, keyword, f"leads nowhere: there is no anchor {fragment[:80]!r}")
            return anchored
        return self._at(resource, fragment, node, keyword)

    def _at(self, resource: Node, fragment: str, node: Node, keyword: str) -> Node:
        """Return what `fragment` points to, adding places that no keyword makes a subschema."""
        owner = resource
        place: Any = resource.schema
        suffix = ""
        parts = fragment.split("/")[1:]
        for raw in parts:
            part = raw.replace("~1", "/").replace("~0", "~")
            inner: Any = None
            if isinstance(place, dict):
                inner = place.get(part)
            elif isinstance(place, list) and part.isascii() and part.isdigit() and len(part) < 8:
                inner = place[int(part)] if int(part) < len(place) else None
            if inner is None:
                raise self._refused(node, keyword, f"leads nowhere: {fragment[:80]!r} does not exist")
            place = inner
            suffix += "/" + escape(part)
            known = self._nodes.get(owner.pointer + suffix)
            if known is not None:
                owner, suffix = known, ""
        if not suffix:
            return owner
        if not isinstance(place, (dict, bool)):
            raise self._refused(node, keyword, f"leads to {fragment[:80]!r}, which is no schema")
        added = Node(owner.pointer + suffix, place, owner.base, owner.local + suffix, owner.depth + 1)
        self._add(added)
        return added

    def _spelling(self, node: Node, target: Node) -> str:
        # One spelling a target: the validator compiles each spelling anew, and k of them within a cycle
        # would make it check a value 2**k times. It also ignores an empty reference.
        base = "" if node.base == target.base else target.base
        return f"{base}#{quoted(target.local)}"

    def _refused(self, node: Node, keyword: str, reason: str) -> InvalidRequest:
        return InvalidRequest(f"{keyword} {reason}", field=f"{self._field}{node.pointer}/{keyword}")

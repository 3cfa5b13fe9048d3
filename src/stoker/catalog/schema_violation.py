"""Where a value breaks a schema, and why, once it is known that it does.

Owns the way down to the place. Does not decide validity: that is the compiled validator's. Going down asks
only for validity, subschema by subschema, as the validator's own errors hold a copy of the value for each
branch of each `anyOf` that failed: 14 seconds and gigabytes for a schema of 18 lines.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jsonschema_rs

from stoker.catalog.schema_graph import Edge, Graph, Way, quoted
from stoker.catalog.schema_pattern import options
from stoker.model.pointer import escape

REASON_CHARS_MAX = 300
POINTER_CHARS_MAX = 1000
SEARCH_S_MAX = 0.5
"""After this a place is named that may lie above the real one."""
STEPS_MAX = 256

_APPLICATORS = frozenset(
    {"allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas", "properties"}
    | {"patternProperties", "propertyNames", "prefixItems", "items", "additionalItems", "contains"}
    | {"minContains", "maxContains", "unevaluatedProperties", "unevaluatedItems", "dependencies"}
    | {"$ref", "$dynamicRef", "$recursiveRef", "$id", "id", "$anchor", "$dynamicAnchor", "$recursiveAnchor"}
    | {"$defs", "definitions", "$schema", "$vocabulary"}
)
_REASONS = {
    "anyOf": "is not valid under any of the schemas listed in 'anyOf'",
    "oneOf": "is not valid under exactly one of the schemas listed in 'oneOf'",
    "not": "is valid under the schema in 'not'",
    "contains": "has too few or too many items that 'contains' asks for",
    "unevaluatedProperties": "has a property that 'unevaluatedProperties' does not allow",
    "unevaluatedItems": "has an item that 'unevaluatedItems' does not allow",
    "else": "does not match the schema",
}
_JSON_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "null": (type(None),),
    "boolean": (bool,),
    "number": (int, float),
    "integer": (int, float),
}


@dataclass(frozen=True, slots=True)
class Violation:
    """One place of a value that its schema does not allow."""

    pointer: str
    """JSON Pointer into the value, the empty one for the whole."""
    reason: str
    """One short sentence without a subject that fits any length of value."""


def clip(text: str, chars_max: int = REASON_CHARS_MAX) -> str:
    """Return `text`, its middle left out if it is longer than `chars_max`."""
    if len(text) <= chars_max:
        return text
    tail = chars_max // 3
    return f"{text[: chars_max - tail - 3]}...{text[-tail:]}"


class _Inside(NamedTuple):
    """Parts of a value that one subschema is for."""

    labels: Sequence[str | int]
    values: list[Any]


class Explainer:
    """Finds the violation of a value that is known to be invalid."""

    def __init__(self, graph: Graph, now: Callable[[], float] = time.monotonic) -> None:
        self._graph = graph
        self._now = now
        self._compiled: dict[str, jsonschema_rs.Validator] = {}
        self._compiled_items: dict[str, jsonschema_rs.Validator] = {}
        self._registry: jsonschema_rs.Registry | None = None

    def explain(self, value: Any) -> Violation:
        """Return the first violation found, its place as exact as bounded work allows."""
        until = self._now() + SEARCH_S_MAX
        pointer, place = "", ""
        for _ in range(STEPS_MAX):
            found = self._step(pointer, value)
            if isinstance(found, Violation):
                return Violation(self._bounded(place + found.pointer), clip(found.reason))
            edge, suffix, inner = found
            if len(place) + len(suffix) > POINTER_CHARS_MAX or self._now() > until:
                break
            pointer, place, value = edge.target, place + suffix, inner
        return Violation(place, _REASONS["else"])

    @staticmethod
    def _bounded(pointer: str) -> str:
        if len(pointer) <= POINTER_CHARS_MAX:
            return pointer
        return pointer[: pointer.rindex("/", 0, POINTER_CHARS_MAX)] if "/" in pointer[1:] else ""

    def _step(self, pointer: str, value: Any) -> Violation | tuple[Edge, str, Any]:
        """Return the violation of the subschema's own keywords, or the step to a subschema that fails."""
        node = self._graph.nodes[pointer]
        if isinstance(node.schema, bool):
            return Violation("", "no value is allowed here")
        own = self._own(node.schema, value)
        if own is not None:
            return own
        for edge, inside in self._certain(pointer, value):
            index = self._first_failing(edge.target, inside.values)
            if index is not None:
                label = inside.labels[index]
                if edge.way is Way.NAME:
                    return Violation("", f"the property name {clip(str(label), 80)!r} is not allowed")
                suffix = "" if edge.way is Way.IN_PLACE else "/" + escape(label)
                return edge, suffix, inside.values[index]
        return self._choice(pointer, node.schema, value)

    def _own(self, schema: dict[str, Any], value: Any) -> Violation | None:
        """Return the violation of keywords that lead to no subschema."""
        leaf = {key: item for key, item in schema.items() if key not in _APPLICATORS}
        if schema.get("additionalProperties") is False:
            leaf["properties"] = dict.fromkeys(schema.get("properties", ()), True)
            leaf["patternProperties"] = dict.fromkeys(schema.get("patternProperties", ()), True)
        else:
            leaf.pop("additionalProperties", None)
        if isinstance(schema.get("dependencies"), dict):
            lists = {key: item for key, item in schema["dependencies"].items() if isinstance(item, list)}
            leaf["dependencies"] = lists
        validator = self._compile(leaf)
        if validator.is_valid(value):
            return None
        try:
            validator.validate(value)
        except jsonschema_rs.ValidationError as error:
            pointer = "".join("/" + escape(part) for part in error.instance_path)
            return Violation(pointer, error.message)
        except ValueError:  # it copies the value, and not one that is nested deeper than 255
            pass
        return Violation("", "is not what the schema asks for, and nested too deeply to be shown")

    def _first_failing(self, pointer: str, values: list[Any]) -> int | None:
        """Return the first index whose value the subschema does not allow; halving, as one check is fast."""
        if len(values) == 1:
            return None if self._is_valid(pointer, values[0]) else 0
        if self._all_valid(pointer, values):
            return None
        low, high = 0, len(values)
        while high - low > 1:
            middle = (low + high) // 2
            if self._all_valid(pointer, values[low:middle]):
                low = middle
            else:
                high = middle
        return low

    def _certain(self, pointer: str, value: Any) -> Iterator[tuple[Edge, _Inside]]:
        """Yield the steps to subschemas that must all be satisfied, with the values that each is for."""
        node = self._graph.nodes[pointer]
        schema = node.schema
        assert isinstance(schema, dict)
        for edge in node.edges:
            way, keyword, label = edge.way, edge.keyword, edge.label
            if way is Way.IN_PLACE:
                if self._applies(pointer, schema, edge, value):
                    yield edge, _Inside((label,), [value])
            elif isinstance(value, dict):
                if way is Way.NAME:
                    names = list(value)
                    yield edge, _Inside(names, names)
                elif way is Way.KEY and label in value:
                    yield edge, _Inside((label,), [value[label]])
                elif keyword in ("patternProperties", "additionalProperties"):
                    taken = self._names(schema, edge)
                    names = [name for name in value if taken.is_valid({name: None})]
                    yield edge, _Inside(names, [value[name] for name in names])
            elif isinstance(value, list):
                if way is Way.INDEX and isinstance(label, int) and label < len(value):
                    yield edge, _Inside((label,), [value[label]])
                elif keyword in ("items", "additionalItems"):
                    first = self._first_item(schema, keyword)
                    if first is not None:
                        yield edge, _Inside(range(first, len(value)), value[first:])

    @staticmethod
    def _first_item(schema: dict[str, Any], keyword: str) -> int | None:
        """Return the index from which `items` or `additionalItems` counts, None if it does not."""
        if keyword == "items":
            return len(schema.get("prefixItems", ()))
        items = schema.get("items")
        return len(items) if isinstance(items, list) else None

    def _names(self, schema: dict[str, Any], edge: Edge) -> jsonschema_rs.Validator:
        """Return a validator of `{name: null}` for the names that a step by a pattern or the rest takes."""
        if edge.keyword == "patternProperties":
            return self._compile({"patternProperties": {edge.label: False}}, negated=True)
        taken = dict.fromkeys(schema.get("properties", ()), False)
        patterns = dict.fromkeys(schema.get("patternProperties", ()), False)
        return self._compile({"properties": taken, "patternProperties": patterns})

    def _applies(self, pointer: str, schema: dict[str, Any], edge: Edge, value: Any) -> bool:
        keyword = edge.keyword
        if keyword in ("allOf", "$ref"):
            return True
        if edge.reference:  # where it leads depends on the way, unless there is but one place
            return sum(other.keyword == keyword for other in self._graph.nodes[pointer].edges) == 1
        if keyword in ("dependentSchemas", "dependencies"):
            return isinstance(value, dict) and edge.label in value
        if keyword in ("then", "else") and "if" in schema:
            return self._is_valid(f"{pointer}/if", value) == (keyword == "then")
        return False

    def _choice(self, pointer: str, schema: dict[str, Any], value: Any) -> Violation | tuple[Edge, str, Any]:
        """Return what to say of the keywords that are a choice, or the only branch for this type of value."""
        for keyword in ("anyOf", "oneOf"):
            edges = [edge for edge in self._graph.nodes[pointer].edges if edge.keyword == keyword]
            valid = sum(self._is_valid(edge.target, value) for edge in edges)
            if not edges or valid == 1 or (valid and keyword == "anyOf"):
                continue
            if not valid:
                fitting = [edge for edge in edges if self._admits_type(edge.target, value)]
                if len(edges) == 1 or len(fitting) == 1:
                    return (fitting or edges)[0], "", value
            return Violation("", _REASONS[keyword])
        if "not" in schema and self._is_valid(f"{pointer}/not", value):
            return Violation("", _REASONS["not"])
        for keyword in ("contains", "unevaluatedProperties", "unevaluatedItems"):
            if keyword in schema:
                return Violation("", _REASONS[keyword])
        return Violation("", _REASONS["else"])

    def _admits_type(self, pointer: str, value: Any) -> bool:
        schema = self._graph.nodes[pointer].schema
        for _ in range(8):
            references = [edge.target for edge in self._graph.nodes[pointer].edges if edge.keyword == "$ref"]
            if isinstance(schema, bool) or "type" in schema or not references:
                break
            pointer = references[0]
            schema = self._graph.nodes[pointer].schema
        if isinstance(schema, bool):
            return schema
        given = schema.get("type")
        types = [given] if isinstance(given, str) else given
        if not isinstance(types, list):
            return True
        if isinstance(value, bool):
            return "boolean" in types
        return any(isinstance(value, _JSON_TYPES.get(name, ())) for name in types)

    def _is_valid(self, pointer: str, value: Any) -> bool:
        schema = self._graph.nodes[pointer].schema
        if isinstance(schema, bool):
            return schema
        validator = self._compiled.get(pointer)
        if validator is None:
            validator = self._compiled[pointer] = self._of_place(pointer)
        return validator.is_valid(value)

    def _all_valid(self, pointer: str, values: list[Any]) -> bool:
        schema = self._graph.nodes[pointer].schema
        if isinstance(schema, bool):
            return schema or not values
        validator = self._compiled_items.get(pointer)
        if validator is None:
            validator = self._compiled_items[pointer] = self._of_place(pointer, items=True)
        return validator.is_valid(values)

    def _of_place(self, pointer: str, *, items: bool = False) -> jsonschema_rs.Validator:
        node = self._graph.nodes[pointer]
        if self._registry is None:
            self._registry = jsonschema_rs.Registry([("urn:stoker:schema", self._graph.document)])
        base = node.base or "urn:stoker:schema"
        reference = {"$ref": f"{base}#{quoted(node.local)}"}
        return self._compile({"items": reference} if items else reference, registry=self._registry)

    def _compile(
        self, schema: dict[str, Any], *, negated: bool = False, registry: jsonschema_rs.Registry | None = None
    ) -> jsonschema_rs.Validator:
        whole: dict[str, Any] = {"not": schema} if negated else schema
        if "$schema" in self._graph.document:
            whole = {**whole, "$schema": self._graph.document["$schema"]}
        return jsonschema_rs.validator_for(
            whole, pattern_options=options(), validate_formats=False, registry=registry, offline=True
        )

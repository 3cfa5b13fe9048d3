"""Schemas of payloads and results: compiled once, held against every call.

Owns what a schema may be (`schema_graph`, `schema_cost`), the compiled validator, and what a violation says
(`schema_violation`). Does not know payloads, functions or status codes. Nothing is ever fetched.
"""

from __future__ import annotations

import json
from typing import Any, cast

import jsonschema_rs

from stoker.catalog.schema_cost import Cost, measure
from stoker.catalog.schema_graph import GraphBuilder
from stoker.catalog.schema_pattern import options
from stoker.catalog.schema_violation import Explainer, Violation, clip
from stoker.catalog.schema_weight import STRAIN_MAX, strain
from stoker.model.errors import InvalidRequest
from stoker.model.limits import Limits
from stoker.model.pointer import escape

__all__ = ["Validator", "Violation", "compile_schema"]

WORK_MAX = 128_000_000
"""Units of 8 ns that one check may take at most, about a second."""
UNMEASURED_VALUES, UNMEASURED_FLOATS = 3_000_000, 1_000_000
"""Within a value of 6 MiB, at most; a schema light enough for so many needs no counting."""
JSON_DEPTH_MAX = 250
"""Arrays and objects in a schema; the library takes 255."""
DRAFTS = frozenset(
    {
        "https://json-schema.org/draft/2020-12/schema",
        "https://json-schema.org/draft/2019-09/schema",
        "http://json-schema.org/draft-07/schema",
        "http://json-schema.org/draft-06/schema",
        "http://json-schema.org/draft-04/schema",
    }
)


class Validator:
    """A compiled schema. `check` may be called from any thread."""

    def __init__(self, inner: jsonschema_rs.Validator, cost: Cost, explainer: Explainer) -> None:
        self._inner = inner
        self._cost = cost
        self._explainer = explainer
        self._measured = (
            cost.recursive
            or cost.positions > 0
            or cost.weight * UNMEASURED_VALUES > WORK_MAX
            or cost.float_weight * UNMEASURED_FLOATS * STRAIN_MAX > WORK_MAX
        )

    def check(self, value: object) -> Violation | None:
        """Return None for a valid value, else the first violation found.

        `value` is what a JSON parser hands out. A few microseconds for a small valid one, about a second
        at most: a value that could take longer with this schema, or overflow the stack, is a violation too.
        """
        if self._measured:
            refused = self._refused(value)
            if refused is not None:
                return refused
        if self._inner.is_valid(value):
            return None
        return self._explainer.explain(value)

    def _refused(self, value: object) -> Violation | None:
        cost = self._cost
        work = depth = 0
        level: list[Any] = [value]
        while level:
            depth += 1
            below: list[Any] = []
            work += cost.weight * len(level)
            for item in level:
                if isinstance(item, dict):
                    below.extend(item.values())
                    if cost.positions:
                        work += 2 * cost.positions * sum(map(len, item))
                elif isinstance(item, list):
                    below.extend(item)
                elif isinstance(item, str):
                    work += 2 * cost.positions * len(item)
                elif isinstance(item, float):
                    work += cost.float_weight * strain(item)
                elif isinstance(item, int):
                    work += cost.weight * (strain(item) - 1)
            if work > WORK_MAX:
                return Violation("", "is too large to be held against a schema as complex as this one")
            if depth > cost.value_depth_max + 1:
                return Violation("", f"is nested deeper than {cost.value_depth_max} levels")
            level = below
        return None


class _AllowsAll(Validator):
    """The schema `true`."""

    def __init__(self) -> None:
        """Nothing is held against anything."""

    def check(self, value: object) -> Violation | None:
        return None


class _AllowsNothing(_AllowsAll):
    """The schema `false`."""

    def check(self, value: object) -> Violation | None:
        return Violation("", "the schema allows no value")


def compile_schema(document: object, *, pointer: str, limits: Limits) -> Validator:
    """Return the validator of a JSON Schema (2020-12 unless `$schema` says otherwise).

    `format` is an annotation. Raises InvalidRequest, its field `pointer` and the place in the schema: for
    what is no schema, past a limit of size, depth or expansion, a reference that leads nowhere, out of the
    document or in a circle, and a pattern that is not matched in linear time. A hostile schema takes up to
    a second.
    """
    if document is True:
        return _AllowsAll()
    if document is False:
        return _AllowsNothing()
    if not isinstance(document, dict):
        raise InvalidRequest("a schema is an object, true or false", field=pointer)
    own = _own_copy(document, pointer, limits)
    _refuse_unknown_draft(own, pointer)
    try:
        jsonschema_rs.meta.validate(own)
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
        raise _invalid(error, pointer) from None
    graph = GraphBuilder(own, field=pointer, limits=limits).build()
    cost = measure(graph, field=pointer, limits=limits)
    try:
        inner = jsonschema_rs.validator_for(
            own, pattern_options=options(), validate_formats=False, offline=True
        )
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
        raise _invalid(error, pointer) from None
    return Validator(inner, cost, Explainer(graph))


def _own_copy(document: dict[str, Any], pointer: str, limits: Limits) -> dict[str, Any]:
    """Return a copy that is ours to change, after the limits of size and depth."""
    level: list[tuple[str, Any]] = [(pointer, document)]
    for _ in range(JSON_DEPTH_MAX):
        level = [
            (f"{place}/{escape(key)}", item)
            for place, parent in level
            for key, item in (parent.items() if isinstance(parent, dict) else enumerate(parent))
            if isinstance(item, (dict, list))
        ]
        if not level:
            break
    else:
        raise InvalidRequest(f"is nested deeper than {JSON_DEPTH_MAX} levels", field=pointer)
    try:
        text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError):
        raise InvalidRequest("a schema is JSON", field=pointer) from None
    if len(text) > limits.schema_bytes_max:
        raise InvalidRequest(f"a schema is at most {limits.schema_bytes_max} bytes", field=pointer)
    return cast("dict[str, Any]", json.loads(text))


def _refuse_unknown_draft(document: dict[str, Any], pointer: str) -> None:
    given = document.get("$schema")
    if given is not None and not (isinstance(given, str) and given.removesuffix("#") in DRAFTS):
        raise InvalidRequest("names no draft of JSON Schema from 4 to 2020-12", field=f"{pointer}/$schema")


def _invalid(error: Exception, pointer: str) -> InvalidRequest:
    if isinstance(error, jsonschema_rs.ValidationError):
        place = "".join("/" + escape(part) for part in error.instance_path)
        return InvalidRequest(f"is not a valid schema: {clip(error.message)}", field=pointer + place)
    return InvalidRequest(f"is not a valid schema: {clip(str(error))}", field=pointer)

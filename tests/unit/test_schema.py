"""Schemas: what compiles, what a violation says, and where a schema that may not be is wrong."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.catalog.schema import Validator, Violation, compile_schema
from stoker.catalog.schema_violation import REASON_CHARS_MAX
from stoker.model.errors import InvalidRequest
from stoker.model.limits import Limits

LIMITS = Limits()
ORDER = {
    "type": "object",
    "properties": {
        "id": {"type": "integer", "minimum": 1},
        "name": {"type": "string", "pattern": "^[a-z]+$"},
        "lines": {"type": "array", "items": {"$ref": "#/$defs/line"}, "maxItems": 3},
        "a/b~c": {"type": "null"},
    },
    "required": ["id"],
    "additionalProperties": False,
    "$defs": {"line": {"type": "object", "required": ["sku"], "properties": {"n": {"enum": [1, 2]}}}},
}
TREE: dict[str, Any] = {
    "type": "object",
    "properties": {"v": {"type": "integer"}, "kids": {"type": "array", "items": {"$ref": "#"}}},
    "required": ["v"],
}


def compiled(document: object) -> Validator:
    return compile_schema(document, pointer="/schema/input", limits=LIMITS)


def refused(document: object, limits: Limits = LIMITS) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        compile_schema(document, pointer="/schema/input", limits=limits)
    assert len(caught.value.message) < 500
    return caught.value


@pytest.mark.parametrize(
    "value", [{"id": 1}, {"id": 1, "name": "x", "lines": [{"sku": "s", "n": 2}], "a/b~c": None}]
)
def test_a_valid_value_has_no_violation(value: object) -> None:
    assert compiled(ORDER).check(value) is None


@pytest.mark.parametrize(
    ("value", "pointer", "reason"),
    [
        ([], "", '[] is not of type "object"'),
        ({}, "", '"id" is a required property'),
        ({"id": 1, "x": 2}, "", "'x' was unexpected"),
        ({"id": 0}, "/id", "0 is less than the minimum of 1"),
        ({"id": 1, "name": "X"}, "/name", '"X" does not match "^[a-z]+$"'),
        ({"id": 1, "lines": [{"sku": 1}, {}]}, "/lines/1", '"sku" is a required property'),
        ({"id": 1, "lines": [{"sku": 1, "n": 3}]}, "/lines/0/n", "3 is not one of"),
        ({"id": 1, "lines": [1, 2, 3, 4]}, "/lines", "has more than 3 items"),
        ({"id": 1, "a/b~c": 1}, "/a~1b~0c", '1 is not of type "null"'),
    ],
)
def test_a_violation_names_the_place_and_the_reason(value: object, pointer: str, reason: str) -> None:
    violation = compiled(ORDER).check(value)

    assert violation is not None
    assert violation.pointer == pointer
    assert reason in violation.reason


@pytest.mark.parametrize(
    ("schema", "value", "violation"),
    [
        (
            {"anyOf": [{"type": "null"}, {"properties": {"id": {"type": "integer"}}, "type": "object"}]},
            {"id": "x"},
            Violation("/id", '"x" is not of type "integer"'),
        ),
        ({"oneOf": [{"minimum": 1}, {"maximum": 9}]}, 5, Violation("", "is not valid under exactly one of")),
        ({"anyOf": [{"minimum": 9}, {"maximum": 1}]}, 5, Violation("", "is not valid under any of")),
        ({"not": {"type": "integer"}}, 5, Violation("", "is valid under the schema in 'not'")),
        (
            {"allOf": [{}, {"properties": {"a": False}}]},
            {"a": 1},
            Violation("/a", "no value is allowed here"),
        ),
        ({"if": {"type": "integer"}, "then": {"minimum": 9}}, 5, Violation("", "5 is less than")),
        ({"if": {"type": "integer"}, "else": {"type": "null"}}, "x", Violation("", '"x" is not of type')),
        ({"propertyNames": {"maxLength": 1}}, {"a": 1, "bb": 1}, Violation("", "the property name 'bb'")),
        ({"patternProperties": {"^n": {"type": "null"}}}, {"m": 1, "n1": 1}, Violation("/n1", "1 is not of")),
        ({"additionalProperties": {"type": "null"}}, {"a": None, "b": 1}, Violation("/b", "1 is not of")),
        (
            {
                "properties": {"a": {}},
                "patternProperties": {"^x": {}},
                "additionalProperties": {"type": "null"},
            },
            {"a": 1, "x": 1, "b": 1},
            Violation("/b", "1 is not of"),
        ),
        ({"prefixItems": [{}, {"type": "null"}]}, [1, 1], Violation("/1", "1 is not of")),
        ({"prefixItems": [{}], "items": {"type": "null"}}, [1, None, 1], Violation("/2", "1 is not of")),
        ({"contains": {"type": "null"}}, [1], Violation("", "has too few")),
        (
            {"properties": {"a": {}}, "unevaluatedProperties": False},
            {"b": 1},
            Violation("", "has a property"),
        ),
        ({"dependentSchemas": {"a": {"required": ["b"]}}}, {"a": 1}, Violation("", '"b" is a required')),
        ({"uniqueItems": True}, [1, 1], Violation("", "has non-unique elements")),
        (False, 1, Violation("", "the schema allows no value")),
    ],
)
def test_every_keyword_that_leads_on_is_followed_to_the_place(
    schema: object, value: object, violation: Violation
) -> None:
    found = compiled(schema).check(value)

    assert found is not None
    assert found.pointer == violation.pointer
    assert violation.reason in found.reason


def test_true_and_an_empty_schema_allow_everything() -> None:
    validators = [compiled(True), compiled({})]

    assert [validator.check({"any": [1, "x", None]}) for validator in validators] == [None, None]


@pytest.mark.parametrize(
    ("schema", "valid", "invalid"),
    [
        ({"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"type": "null"}]}, [None], [1]),
        (
            {"$schema": "http://json-schema.org/draft-04/schema#", "minimum": 1, "exclusiveMinimum": True},
            2,
            1,
        ),
        (
            {"$schema": "https://json-schema.org/draft/2019-09/schema", "$recursiveAnchor": True} | TREE,
            {"v": 1},
            1,
        ),
        ({"prefixItems": [{"type": "null"}]}, [None], [1]),
    ],
)
def test_the_draft_is_2020_12_unless_the_schema_says_otherwise(
    schema: object, valid: object, invalid: object
) -> None:
    validator = compiled(schema)

    assert validator.check(valid) is None
    assert validator.check(invalid) is not None


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/$defs/a", "$defs": {"a": {"type": "integer"}}},
        {"$ref": "#/%24defs/%61", "$defs": {"a": {"type": "integer"}}},
        {"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "integer"}}},
        {"$ref": "#x", "$defs": {"a": {"$anchor": "x", "type": "integer"}}},
        {"$dynamicRef": "#x", "$defs": {"a": {"$dynamicAnchor": "x", "type": "integer"}}},
        {"$id": "http://a.b/c", "$ref": "http://a.b/c#/$defs/a", "$defs": {"a": {"type": "integer"}}},
        {"$id": "http://a.b/c", "$ref": "d", "$defs": {"a": {"$id": "d", "type": "integer"}}},
        {"$ref": "#/definitions/a", "definitions": {"a": {"type": "integer"}}},
        {"$ref": "#/elsewhere/0", "elsewhere": [{"type": "integer"}]},
    ],
)
def test_references_within_the_document_are_followed(schema: dict[str, Any]) -> None:
    validator = compiled(schema)

    assert validator.check(1) is None
    assert validator.check("x") == Violation("", '"x" is not of type "integer"')


def test_an_empty_reference_is_the_whole_schema() -> None:
    validator = compiled({"type": "object", "properties": {"a": {"$ref": ""}}})

    violation = validator.check({"a": {"a": 1}})

    assert violation == Violation("/a/a", '1 is not of type "object"')


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ([], ""),
        (5, ""),
        ("x", ""),
        (None, ""),
        ({"type": "foo"}, "/type"),
        ({"type": "x" * 100_000}, "/type"),
        ({"properties": {"a/b": {"minimum": "x"}}}, "/properties/a~1b/minimum"),
        ({"$ref": "#/foo", "foo": {"type": "foo"}}, "/foo/type"),
        ({"$schema": "http://x.y/z"}, "/$schema"),
        ({"$schema": 5}, "/$schema"),
        ({"$ref": "#/nope"}, "/$ref"),
        ({"$ref": "#nope"}, "/$ref"),
        ({"$dynamicRef": "#nope"}, "/$dynamicRef"),
        ({"$defs": {"unused": {"$ref": "#/nope"}}}, "/$defs/unused/$ref"),
        ({"$ref": "#/type", "type": "object"}, "/$ref"),
        ({"$ref": "http://x.y/z"}, "/$ref"),
        ({"$ref": "file:///etc/passwd"}, "/$ref"),
        ({"$ref": "other.json"}, "/$ref"),
        ({"$ref": "https://json-schema.org/draft/2020-12/schema"}, "/$ref"),
        ({"items": {"pattern": "(?=a)b"}}, "/items/pattern"),
        ({"pattern": "(?<!a)b"}, "/pattern"),
        ({"pattern": "(a)\\1"}, "/pattern"),
        ({"pattern": "["}, "/pattern"),
        ({"pattern": "(a{1000}){1000}"}, "/pattern"),
        ({"patternProperties": {"(?!a)/b": {}}}, "/patternProperties/(?!a)~1b"),
        ({"default": float("nan")}, ""),
        ({"title": "\ud800"}, ""),
    ],
)
def test_a_schema_that_may_not_be_is_refused_at_its_place(schema: object, place: str) -> None:
    error = refused(schema)

    assert error.field == "/schema/input" + place
    assert error.code == "request.invalid"


def test_a_reference_is_no_reference_in_a_constant_or_an_unknown_keyword() -> None:
    validator = compiled({"const": {"$ref": "http://x.y/z"}, "x-note": {"$ref": "http://x.y/z"}})

    assert validator.check({"$ref": "http://x.y/z"}) is None


def test_a_schema_is_bounded_in_bytes_and_depth() -> None:
    deep: dict[str, Any] = {}
    for _ in range(LIMITS.schema_depth_max + 1):
        deep = {"items": deep}
    deeper: Any = []
    for _ in range(5000):
        deeper = [deeper]

    assert "bytes" in refused({"title": "x" * LIMITS.schema_bytes_max}).message
    assert "deeper" in refused(deep).message
    assert "deeper" in refused({"const": deeper}).message


def test_the_document_that_was_given_is_not_changed() -> None:
    document = {"$ref": "#x", "$defs": {"a": {"$anchor": "x"}}}

    compiled(document)

    assert document == {"$ref": "#x", "$defs": {"a": {"$anchor": "x"}}}


def test_a_huge_value_is_not_echoed() -> None:
    validator = compiled({"properties": {"a": {"type": "integer"}}, "additionalProperties": False})

    echoed = validator.check({"a": "x" * 1_000_000})
    unexpected = validator.check({f"k{n}": 1 for n in range(100_000)})

    assert echoed is not None
    assert len(echoed.reason) <= REASON_CHARS_MAX
    assert echoed.reason.startswith('"xxx')
    assert echoed.reason.endswith('is not of type "integer"')
    assert unexpected is not None
    assert len(unexpected.reason) <= REASON_CHARS_MAX


def test_a_violation_in_a_deep_value_has_a_bounded_pointer() -> None:
    value: dict[str, Any] = {"v": "no"}
    for _ in range(450):
        value = {"v": 1, "kids": [{"v": 1}, value]}

    violation = compiled(TREE).check(value)

    assert violation is not None
    assert violation.pointer.startswith("/kids/1/kids/1")
    assert len(violation.pointer) <= 1000


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-2, 2) | st.sampled_from(["", "a", "ab"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abv"), inner, max_size=3),
    max_leaves=8,
)
schemas = st.recursive(
    st.booleans()
    | st.sampled_from(
        [{"type": "object"}, {"type": ["array", "null"]}, {"minimum": 0}, {"const": 1}, {"$ref": "#/$defs/x"}]
    ),
    lambda inner: st.one_of(
        st.fixed_dictionaries({"properties": st.dictionaries(st.sampled_from("abv"), inner, max_size=2)}),
        st.fixed_dictionaries({"additionalProperties": inner, "patternProperties": st.just({"^a": True})}),
        st.fixed_dictionaries({"prefixItems": st.lists(inner, min_size=1, max_size=2), "items": inner}),
        st.fixed_dictionaries({"anyOf": st.lists(inner, min_size=1, max_size=2)}),
        st.fixed_dictionaries({"oneOf": st.lists(inner, min_size=1, max_size=2)}),
        st.fixed_dictionaries({"allOf": st.lists(inner, min_size=1, max_size=2)}),
        st.fixed_dictionaries({"if": inner, "then": inner, "else": inner}),
        st.fixed_dictionaries({"not": inner}),
        st.fixed_dictionaries({"contains": inner}),
        st.fixed_dictionaries({"propertyNames": inner}),
    ),
    max_leaves=5,
)


@given(schemas, json_values)
def test_a_violation_points_at_a_place_of_the_value_and_says_more_than_that_it_is_one(
    schema: Any, value: Any
) -> None:
    inner = {"type": ["integer", "array"], "items": {"type": "object"}}
    validator = compiled({"allOf": [schema], "$defs": {"x": inner}})

    violation = validator.check(value)

    if violation is not None:
        place = value
        for part in violation.pointer.split("/")[1:]:
            place = place[int(part)] if isinstance(place, list) else place[part]
        assert violation.reason != "does not match the schema"

"""Schemas and values that would hang or crash a process: refused, or held against each other in bounded work.

The bounds are counts of the module, not times. What could overflow the stack runs in a process of its own.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from stoker.catalog.schema import WORK_MAX, compile_schema
from stoker.catalog.schema_pattern import Liveness, compiled_bytes
from stoker.model.errors import InvalidRequest
from stoker.model.limits import Limits

LIMITS = Limits()
TOO_LARGE = "is too large to be held against a schema as complex as this one"
BINARY = [{"properties": {"a": {"$ref": "#"}}}, {"properties": {"a": {"$ref": "#"}}}]


def refused(document: object) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        compile_schema(document, pointer="/s", limits=LIMITS)
    return caught.value


def reason(document: object, value: object) -> str | None:
    violation = compile_schema(document, pointer="/s", limits=LIMITS).check(value)
    return None if violation is None else violation.reason


def chain(keyword: str, length: int) -> dict[str, Any]:
    """Each definition leads twice to the next: 2**length subschemas for one value."""
    definitions: dict[str, Any] = {
        f"d{n}": {keyword: [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(length)
    }
    return {"$ref": "#/$defs/d0", "$defs": {**definitions, f"d{length}": {"type": "integer"}}}


def in_own_process(program: str) -> None:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"$ref": "#"}, "/$ref"),
        ({"$ref": ""}, "/$ref"),
        ({"allOf": [{"$ref": "#"}]}, "/allOf/0/$ref"),
        ({"$anchor": "x", "not": {"$ref": "#x"}}, "/not/$ref"),
        ({"$dynamicAnchor": "x", "$dynamicRef": "#x"}, "/$dynamicRef"),
        ({"$schema": "https://json-schema.org/draft/2019-09/schema", "$recursiveRef": "#"}, "/$recursiveRef"),
        ({"if": {"$ref": "#/else"}, "else": {"$ref": "#/if"}}, "/if/$ref"),
        ({"dependentSchemas": {"a": {"$ref": "#"}}}, "/dependentSchemas/a/$ref"),
        (
            {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/b"}]}, "b": {"oneOf": [{"$ref": "#/$defs/a"}]}}},
            "/$defs/a/anyOf/0/$ref",
        ),
    ],
)
def test_a_reference_that_leads_back_without_going_into_the_value_is_refused(
    schema: dict[str, Any], place: str
) -> None:
    error = refused(schema)

    assert "leads back to itself" in error.message
    assert error.field == "/s" + place


@pytest.mark.parametrize("keyword", ["allOf", "anyOf", "oneOf"])
def test_an_exponential_expansion_is_refused_and_a_bounded_one_is_not(keyword: str) -> None:
    error = refused(chain(keyword, 40))

    assert "more than 10000 subschemas" in error.message
    assert error.field is not None
    assert error.field.startswith("/s/$defs/d")
    assert compile_schema(chain("allOf", 8), pointer="/s", limits=LIMITS).check(1) is None


def test_an_expansion_that_grows_with_every_step_into_the_value_is_refused() -> None:
    definitions: dict[str, Any] = {
        f"d{n}": {
            "properties": {"a": {"$ref": f"#/$defs/d{n + 1}"}},
            "allOf": [{"properties": {"a": {"$ref": f"#/$defs/d{n + 1}"}}}],
        }
        for n in range(40)
    }

    error = refused({"$ref": "#/$defs/d0", "$defs": {**definitions, "d40": {}}})

    assert "within the value" in error.message


def test_nested_unevaluated_properties_are_bounded() -> None:
    schema: dict[str, Any] = {"properties": {"a": True}}
    for _ in range(20):
        schema = {"allOf": [schema], "unevaluatedProperties": False}

    assert "subschemas" in refused(schema).message


def test_a_cycle_written_in_many_spellings_is_one_cycle() -> None:
    # The validator compiles each spelling of a target anew, and remembers answers only where one closes a cycle.
    spellings = [
        f"#/{'%24' if n & 1 else '$'}defs/{'%61' if n & 2 else 'a'}{'%62' if n & 4 else 'b'}"
        for n in range(8)
    ]
    inner = {
        "anyOf": [{"properties": {"x": {"$ref": spelling}}} for spelling in spellings * 2],
        "type": "object",
    }
    schema = {"$ref": "#/$defs/ab", "$defs": {"ab": inner}}
    value: object = 1
    for _ in range(200):
        value = {"x": value}

    assert reason(schema, value) == "is not valid under any of the schemas listed in 'anyOf'"


@pytest.mark.parametrize(
    "schema", [{"anyOf": BINARY, "type": "object"}, {"oneOf": BINARY}, {"allOf": BINARY}]
)
def test_a_branching_recursion_stays_cheap_on_a_deep_value(schema: dict[str, Any]) -> None:
    value: object = 1
    for _ in range(900):
        value = {"a": value}

    reason(schema, value)  # 2**900 checks, were they not remembered


def test_a_long_chain_of_subschemas_for_one_value_is_refused() -> None:
    schema: dict[str, Any] = {f"d{n}": {"$ref": f"#/d{n + 1}"} for n in range(2000)}

    error = refused({"$ref": "#/d0", **schema, "d2000": {}})

    assert "one within the other" in error.message


def test_deeply_nested_groups_of_a_pattern_are_estimated_without_recursing_too_far() -> None:
    pattern = "^" + "(" * 120 + "a" + ")?" * 120 + "$"

    assert compile_schema({"pattern": pattern}, pointer="", limits=LIMITS).check("a") is None
    assert "linear" in refused({"pattern": "(" * 5000 + "a" + ")" * 5000}).message


def test_a_long_chain_of_references_is_refused_before_the_compiler_recurses() -> None:
    schema: dict[str, Any] = {f"d{n}": {"items": {"$ref": f"#/d{n + 1}"}} for n in range(7000)}

    assert "too deeply" in refused({"$ref": "#/d0", **schema, "d7000": {}}).message


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"items": {"enum": [{"a": n} for n in range(1000)]}}, [{"a": 999}] * 20_000),
        ({"items": {"enum": [n + 0.5 for n in range(1000)]}}, [999.5] * 5_000),
        ({"items": {"enum": [1, *map(str, range(10_000))]}}, ["9999"] * 50_000),
        ({"items": {"anyOf": [{"const": n} for n in range(2000)]}}, [1999] * 50_000),
        ({"items": {"properties": {str(n): {} for n in range(5000)}}}, [{}] * 200_000),
        ({"items": {"dependentRequired": {str(n): [] for n in range(5000)}}}, [{}] * 200_000),
        ({"pattern": "(a|b)*a(a|b){2000}c"}, "ab" * 50_000),
        ({"patternProperties": {f"{n}(a|b)*a(a|b){{50}}": {} for n in range(50)}}, {"ab" * 50_000: 1}),
        (
            {"properties": {"a": {"propertyNames": {"pattern": "(a|b)*a(a|b){2000}c"}}}},
            {"a": {"ab" * 50_000: 1}},
        ),
    ],
)
def test_a_value_too_large_for_its_schema_is_a_violation_and_not_a_hang(
    schema: object, value: object
) -> None:
    assert reason(schema, value) == TOO_LARGE


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"uniqueItems": True}, [[n] for n in range(100_000)]),
        ({"items": {"type": "integer", "minimum": 0}}, list(range(500_000))),
        ({"items": {"enum": ["a", "b", "c"]}}, ["c"] * 300_000),
        ({"items": {"properties": {f"p{n}": {"type": "string"} for n in range(50)}}}, [{"p1": "x"}] * 50_000),
        ({"pattern": "^[A-Za-z0-9+/]+=*$"}, "QUJD" * 1_000_000),
        ({"items": {"pattern": "^[\\p{L} .'-]{1,64}$"}}, ["Ada Lovelace"] * 100_000),
    ],
)
def test_a_large_value_of_an_ordinary_schema_is_checked(schema: object, value: object) -> None:
    assert reason(schema, value) is None


def test_the_last_of_a_million_items_is_found() -> None:
    validator = compile_schema({"items": {"anyOf": [{"type": "integer"}]}}, pointer="", limits=LIMITS)

    violation = validator.check([7] * 1_000_000 + ["x"])

    assert violation is not None
    assert violation.pointer == "/1000000"
    assert violation.reason == '"x" is not of type "integer"'


@pytest.mark.parametrize(
    ("pattern", "alive"),
    [
        ("^[0-9a-f]{8}-[0-9a-f]{4}$", 1),
        ("^.{1,255}$", 1),
        ("^[a-z]+@[a-z]+$", 3),
        ("abc", 3),
        ("^a|b", 2),
        ("(?m)^abc", 3),
        ("(a|b)*a(a|b){2000}c", 4004),
        ("^(a{0,30}){0,30}$", 900),
        ("^.*a.{900}$", 902),
        ("", 1),
    ],
)
def test_how_many_places_of_a_pattern_live_at_once_is_estimated_from_above(pattern: str, alive: int) -> None:
    assert Liveness().of(pattern) == alive


def test_patterns_are_bounded_in_size_one_by_one_and_together() -> None:
    many = {"properties": {f"p{n}": {"pattern": f"{n}\\p{{L}}{{10}}"} for n in range(300)}}

    assert compiled_bytes("(a{1000}){1000}") is None
    assert "too large together" in refused(many).message


def test_a_schema_too_entangled_to_be_bounded_is_refused() -> None:
    both = [
        {"properties": {"a": {"$ref": f"#/$defs/d{n * 7 % 200}"}, "b": {"$ref": f"#/$defs/d{n * 11 % 200}"}}}
        for n in range(400)
    ]
    definitions = {f"d{n}": {"allOf": [both[n], both[n + 150]]} for n in range(200)}

    error = refused({"$ref": "#/$defs/d3", "$defs": definitions})

    assert "entangled" in error.message or "subschemas" in error.message


def test_a_tree_a_thousand_levels_deep_is_checked_and_a_deeper_one_refused() -> None:
    in_own_process("""
from stoker.catalog.schema import compile_schema
from stoker.model.limits import Limits
tree = {"type": "object", "properties": {"kid": {"$ref": "#"}}, "additionalProperties": False}
validator = compile_schema(tree, pointer="", limits=Limits())
value = {}
for _ in range(1000):
    value = {"kid": value}
assert validator.check(value) is None
bad = 1
for _ in range(1000):
    bad = {"kid": bad}
assert validator.check(bad) is not None
for _ in range(200_000):
    value = {"kid": value}
assert "nested deeper" in validator.check(value).reason
import os
os._exit(0)  # taking apart so deep a value is Python's own trouble
""")


def test_the_costliest_recursion_that_compiles_does_not_overflow_the_stack() -> None:
    in_own_process("""
import sys
from stoker.catalog.schema import compile_schema
from stoker.model.limits import Limits
for keyword in ("anyOf", "oneOf", "allOf"):
    inner = {"properties": {"a": {"$ref": "#"}}, "additionalProperties": False}
    for _ in range(60):
        inner = {keyword: [{"type": "integer", "minimum": 3}, inner]} if keyword != "allOf" else {
            "allOf": [{"maxProperties": 3}, inner]}
    validator = compile_schema(inner, pointer="", limits=Limits())
    value = {}
    for _ in range(1020):
        value = {"a": value}
    violation = validator.check(value)
    assert violation is not None and "nested deeper" in violation.reason, violation
    for _ in range(700):
        value = value["a"]
    assert validator.check(value) is None
""")


def test_work_is_counted_with_the_whole_value() -> None:
    schema = {"items": {"items": {"enum": [[n] for n in range(500)]}}}
    inner = [[499]] * 100

    assert reason(schema, [inner] * 2) is None
    assert reason(schema, [inner] * (WORK_MAX // 500_000)) == TOO_LARGE


@pytest.mark.parametrize(
    ("schema", "ordinary", "laborious"),
    [
        ({"maximum": 1.5}, 1.25, 5e-324),
        ({"minimum": 1}, 3.5, 1e308),
        ({"exclusiveMinimum": -0.5}, 7, 2**64 - 1),
        ({"multipleOf": 0.25}, 1.5, 1e300),
    ],
)
def test_numbers_whose_comparison_takes_long_count_for_more(
    schema: dict[str, Any], ordinary: float, laborious: float
) -> None:
    # They are compared as exact fractions: 6 MiB of 5e-324 against `maximum: 1.5` took ten seconds.
    count = 150_000
    document = {"items": schema}

    assert reason(document, [ordinary] * count) is None
    assert reason(document, [laborious] * 3 * count) == TOO_LARGE


def test_a_divisor_of_many_decimals_makes_every_number_count_for_more() -> None:
    values = [12] * 300_000

    assert reason({"items": {"multipleOf": 0.5}}, values) is None
    assert reason({"items": {"multipleOf": 1e-300}}, values) == TOO_LARGE

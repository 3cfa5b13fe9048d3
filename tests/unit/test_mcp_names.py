"""Names and schemas of tools: what a client can take, from functions that may be named and typed in any way.

Source: the operating contract, *The other doors*.
"""

from __future__ import annotations

import re
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.edge.mcp.names import NAME_CHARS_MAX, tool_names
from stoker.edge.mcp.schemas import ToolSchema, input_of, output_of

GOOD_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
places = st.lists(st.tuples(st.text(min_size=1), st.text(min_size=1), st.uuids().map(str)))


def one(collection: str, name: str) -> str:
    return tool_names([(collection, name, "subject")])[0]


def test_a_tool_is_named_after_collection_and_function() -> None:
    assert one("datahub", "get-kv-bucket-item") == "datahub__get-kv-bucket-item"


def test_what_a_name_cannot_have_becomes_an_underscore() -> None:
    assert one("my data", "grüße.v2") == "my_data__gr__e_v2"


def test_a_name_of_64_characters_is_whole_and_one_of_65_is_cut_and_ends_in_a_hash() -> None:
    whole, cut, other = one("c", "a" * 61), one("c", "a" * 62), one("c", "a" * 63)

    assert whole == "c__" + "a" * 61
    assert re.fullmatch(r"c__a{52}_[0-9a-f]{8}", cut)
    assert len(cut) == NAME_CHARS_MAX
    assert cut != other


def test_of_two_that_come_out_alike_the_first_keeps_the_name() -> None:
    names = tool_names([("a", "x.y", "s1"), ("a", "x y", "s2"), ("a", "x/y", "s3")])

    assert names[0] == "a__x_y"
    assert all(re.fullmatch(r"a__x_y_[0-9a-f]{8}", name) for name in names[1:])
    assert len(set(names)) == 3


def test_the_later_of_two_keeps_its_name_when_others_come_and_go() -> None:
    before = tool_names([("a", "x.y", "s1"), ("a", "x y", "s2")])
    after = tool_names([("b", "z", "s0"), ("a", "x.y", "s1"), ("a", "x y", "s2"), ("a", "x/y", "s3")])

    assert after[1:3] == before


@given(places)
def test_names_are_always_good_and_all_different(given_places: list[tuple[str, str, str]]) -> None:
    names = tool_names(given_places)

    assert len(set(names)) == len(given_places)
    assert all(GOOD_NAME.match(name) for name in names)


# -- schemas -----------------------------------------------------------------------------------------


def fits(schema: ToolSchema, value: object) -> bool:
    return jsonschema_rs.Draft202012Validator(schema.schema).is_valid(value)


def test_a_schema_of_an_object_is_the_tools_own() -> None:
    document = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}

    assert input_of({"input": document}) == output_of({"output": document}) == ToolSchema(document, False)


def test_without_a_schema_the_arguments_are_the_payload_and_nothing_is_said_of_the_result() -> None:
    assert input_of(None) == input_of({"input": True}) == ToolSchema({"type": "object"}, wrapped=False)
    assert output_of(None) is None


def test_arguments_are_objects_so_properties_without_a_type_need_no_wrapper_but_results_may_be_anything() -> (
    None
):
    document = {"properties": {"a": {"type": "integer"}}}

    assert input_of({"input": document}) == ToolSchema({"type": "object", **document}, wrapped=False)
    wrapped = output_of({"output": document})
    assert wrapped is not None
    assert wrapped.wrapped
    assert fits(wrapped, {"result": 7})


@pytest.mark.parametrize(
    ("document", "good", "bad"),
    [
        ({"type": "string"}, "x", 1),
        ({"type": ["object", "null"]}, None, 1),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, 1, "x"),
        ({"$ref": "#/$defs/n", "$defs": {"n": {"type": "integer"}}}, 1, "x"),
        ({"items": {"$ref": "#"}, "type": "array"}, [[], [[]]], [1]),
        (
            {"type": "array", "prefixItems": [{"type": "integer"}, {"$ref": "#/prefixItems/0"}]},
            [1, 2],
            [1, "x"],
        ),
        (
            {
                "$id": "urn:mine",
                "type": "array",
                "items": {"$ref": "#/$defs/n"},
                "$defs": {"n": {"const": 1}},
            },
            [1],
            [2],
        ),
    ],
)
def test_what_is_no_object_is_wrapped_and_its_references_still_lead_where_they_did(
    document: dict[str, Any], good: object, bad: object
) -> None:
    schema = input_of({"input": document})

    assert schema.wrapped
    assert schema.schema["type"] == "object"
    assert fits(schema, {"payload": good})
    assert not fits(schema, {"payload": bad})
    assert not fits(schema, {})


def test_a_wrapped_schema_keeps_its_dialect_and_the_original_is_untouched() -> None:
    document = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$ref": "#/definitions/n",
        "definitions": {"n": {}},
    }
    before = repr(document)

    schema = input_of({"input": document}).schema

    assert schema["$schema"] == document["$schema"]
    assert schema["definitions"] == {"n": {}}
    assert repr(document) == before


def test_a_schema_that_nothing_fits_is_wrapped_as_it_is() -> None:
    schema = input_of({"input": False})

    assert not fits(schema, {"payload": 1})

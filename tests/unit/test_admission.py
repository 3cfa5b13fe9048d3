"""Admission: what may go into a function and what may come out of it. The invoker's tests have more cases."""

from __future__ import annotations

from typing import Any

import pytest

from stoker.catalog.fold import Contract
from stoker.catalog.schema import compile_schema
from stoker.invocation.admission import admit, checked, input_failure
from stoker.model.errors import InputRejected, InvalidRequest, TooLarge
from stoker.model.limits import Limits
from stoker.model.outcome import Failure
from stoker.testing.invocation import a_failure, an_outcome

NONE = Contract(None, None)


def a_contract(**schema: Any) -> Contract:
    """Return compiled schemas."""
    limits = Limits()
    compiled = {part: compile_schema(schema[part], pointer="", limits=limits) for part in schema}
    return Contract(compiled.get("input"), compiled.get("output"))


def test_any_json_goes_in_where_there_is_no_schema() -> None:
    for payload in (b"null", b' {"a": 1} ', b'"text"', b"1e3"):
        admit(NONE, payload, 100)


def test_a_payload_at_its_limit_goes_in_and_one_past_it_does_not() -> None:
    admit(NONE, b'"xxx"', 5)
    with pytest.raises(TooLarge) as refused:
        admit(NONE, b'"xxxx"', 5)

    assert refused.value.field == "/payload"


@pytest.mark.parametrize("payload", [b"", b"{", b"nope", b"NaN", b"1 2", b'"\xff"', b'{"a":1,}'])
def test_what_is_no_json_does_not_go_in(payload: bytes) -> None:
    with pytest.raises(InvalidRequest) as refused:
        admit(NONE, payload, 100)

    assert refused.value.field == "/payload"


def test_the_size_is_looked_at_before_anything_is_read() -> None:
    with pytest.raises(TooLarge):
        admit(a_contract(input=False), b"{" * 101, 100)


def test_what_does_not_fit_the_schema_does_not_go_in_and_the_place_is_named() -> None:
    contract = a_contract(input={"properties": {"n": {"type": "integer"}}})
    admit(contract, b'{"n":3}', 100)

    with pytest.raises(InputRejected) as refused:
        admit(contract, b'{"n":"three"}', 100)

    failure = input_failure(refused.value)
    assert (failure.code, failure.field) == ("schema.input", "/n")
    assert failure.error == refused.value.message


def test_a_result_that_fits_comes_out_as_it_is() -> None:
    outcome = an_outcome(b' {"a" : 1}')

    assert checked(outcome, None) is outcome
    assert checked(outcome, a_contract(output={"type": "object"}).output) is outcome


def test_a_failure_is_not_held_against_the_schema() -> None:
    outcome = a_failure()

    assert checked(outcome, a_contract(output=False).output) is outcome


def test_a_result_that_does_not_fit_is_a_failure_that_keeps_the_log() -> None:
    outcome = checked(an_outcome(b'{"n":1}', log=b"seen\n"), a_contract(output={"required": ["m"]}).output)

    assert (outcome.result, outcome.log) == (None, b"seen\n")
    assert isinstance(outcome.failure, Failure)
    assert outcome.failure.code == "schema.output"


@pytest.mark.parametrize("schema", [{}, {"output": True}])
def test_a_result_that_is_no_json_is_a_failure(schema: dict[str, Any]) -> None:
    outcome = checked(an_outcome(b"undefined"), a_contract(**schema).output)

    assert outcome.result is None
    assert outcome.failure is not None
    assert outcome.failure.code == "function.result_invalid"

"""Admission: whether a payload may go in, and whether a result may come out.

Pure but for compiling a contract at its first use. Does not know where calls run, nor who waits for them.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import NoReturn

import msgspec
import orjson

from stoker.catalog.fold import Contract
from stoker.catalog.schema import Validator
from stoker.model.errors import InputRejected, InvalidRequest, TooLarge
from stoker.model.outcome import Failure, Outcome

_check_syntax = msgspec.json.Decoder(msgspec.Raw).decode
"""The quickest way to tell whether a text is JSON: builds no values."""


def admit(contract: Contract, payload: bytes, bytes_max: int) -> None:
    """Return if a payload, JSON text, is within the limit and fits the contract.

    Raises InvalidRequest (no JSON), InputRejected, TooLarge.
    """
    if len(payload) > bytes_max:
        raise TooLarge(f"a payload is at most {bytes_max} bytes", field="/payload")
    try:
        value = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the payload is not JSON: {error}", field="/payload") from None
    if contract.input is None:
        return
    violation = contract.input.check(value)
    if violation is not None:
        raise InputRejected(
            f"the payload does not fit schema.input: {violation.reason}", field=violation.pointer
        )


def input_failure(error: InputRejected) -> Failure:
    """Return what an invocation ends with whose payload does not fit any more."""
    return Failure("schema.input", error.message, field=error.field)


def checked(outcome: Outcome, output: Validator | None) -> Outcome:
    """Return the outcome, or what it becomes if its result is no JSON or does not fit schema.output."""
    result = outcome.result
    if result is None:
        return outcome
    if output is None:
        if _is_json(result):
            return outcome
        return _failed(outcome, Failure("function.result_invalid", "the function's result is not JSON"))
    try:
        value = orjson.loads(result)
    except orjson.JSONDecodeError as error:
        return _failed(
            outcome, Failure("function.result_invalid", f"the function's result is not JSON: {error}")
        )
    violation = output.check(value)
    if violation is None:
        return outcome
    told = f"the result does not fit schema.output: {violation.reason}"
    return _failed(outcome, Failure("schema.output", told, field=violation.pointer))


def _failed(outcome: Outcome, failure: Failure) -> Outcome:
    return replace(outcome, result=None, failure=failure)


def _is_json(text: bytes) -> bool:
    try:
        _check_syntax(text)
    except (msgspec.DecodeError, RecursionError):
        try:  # half a surrogate pair is JSON all the same: a string that JavaScript cut within an emoji
            json.loads(text, parse_constant=_refuse)
        except (ValueError, RecursionError):
            return False
    return True


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")

"""The invoker: takes a call in, validates both ways, and tells its one end.

Does not know how the call came (HTTP, NATS) nor where it runs: an Executor does. No task and no await:
this is the hot path, a callback from the request to the answer.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import NoReturn, Protocol

import msgspec
import orjson

from stoker.catalog.catalog import Catalog
from stoker.catalog.fold import Entry
from stoker.catalog.schema import Validator
from stoker.catalog.tokens import Principal
from stoker.model.call import Call, CallIds
from stoker.model.errors import InputRejected, InvalidRequest, StokerError, TooLarge
from stoker.model.limits import Limits
from stoker.model.outcome import Failure, Outcome

_check_syntax = msgspec.json.Decoder(msgspec.Raw).decode
"""The quickest way to tell whether a text is JSON: builds no values."""


class Executor(Protocol):
    """Where calls run."""

    def submit(self, call: Call) -> None:
        """Take the call; its `end` is called once. Raises FunctionBusy or NoCapacity at once if full."""
        ...


class Recorder(Protocol):
    """Who keeps what happened."""

    def ended(self, call: Call, outcome: Outcome) -> None:
        """Take note of an end; must not wait."""
        ...


class Invoker:
    """One for all doors of the server."""

    def __init__(
        self,
        catalog: Catalog,
        executor: Executor,
        recorder: Recorder,
        limits: Limits,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._catalog = catalog
        self._executor = executor
        self._recorder = recorder
        self._limits = limits
        self._clock = clock
        self._ids = CallIds()
        self.running = 0
        """Calls taken and not ended."""
        self.closed = False
        """True while the server drains: new work is turned away by the edge."""

    def invoke(
        self,
        principal: Principal,
        entry: Entry,
        payload: bytes,
        ended: Callable[[Call, Outcome | StokerError], None],
    ) -> Call:
        """Start a RequestResponse call with a payload that is JSON text; `ended` is called once.

        Raises InvalidRequest (no JSON), InputRejected, TooLarge, FunctionBusy or NoCapacity, and then
        nothing runs. `Call.cancel` of what is returned ends it early.
        """
        if len(payload) > self._limits.payload_bytes_max:
            raise TooLarge(f"a payload is at most {self._limits.payload_bytes_max} bytes", field="/payload")
        try:
            value = orjson.loads(payload)
        except orjson.JSONDecodeError as error:
            raise InvalidRequest(f"the payload is not JSON: {error}", field="/payload") from None
        contract = entry.contract or self._catalog.contract(entry)
        if contract.input is not None:
            violation = contract.input.check(value)
            if violation is not None:
                raise InputRejected(
                    f"the payload does not fit schema.input: {violation.reason}", field=violation.pointer
                )
        output = contract.output

        def end(call: Call, outcome: Outcome | StokerError) -> None:
            self.running -= 1
            if not isinstance(outcome, Outcome):
                ended(call, outcome)
                return
            if outcome.result is not None:
                outcome = _checked(outcome, outcome.result, output)
            try:
                ended(call, outcome)
            finally:
                self._recorder.ended(call, outcome)

        call = Call(
            self._ids.next(),
            entry.function,
            payload,
            queued_at=self._clock(),
            created_ms=time.time_ns() // 1_000_000,
            caller=principal.token_id,
            ended=end,
        )
        self.running += 1
        try:
            self._executor.submit(call)
        except BaseException:
            if call.drop():
                self.running -= 1
            raise
        return call


def _checked(outcome: Outcome, result: bytes, output: Validator | None) -> Outcome:
    """Return the outcome, or what it becomes if its result is no JSON or does not fit schema.output."""
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

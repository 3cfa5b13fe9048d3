"""Telemetry: the form of a log line, and what never gets into one."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from stoker.telemetry.logging import configure_logging, get_logger


class Token(str):
    """A secret as careless as they come: a string that only its repr hides."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Token(***)"


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def test_an_event_is_one_json_object_with_its_name_and_fields() -> None:
    stream = io.StringIO()
    configure_logging(stream, json=True)

    get_logger("pool").warning("instance_lost", function="tools/echo", instance=7)

    line = json.loads(stream.getvalue())
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "warning",
        "event": "instance_lost",
        "logger": "pool",
        "function": "tools/echo",
        "instance": 7,
    }


def test_a_logger_made_before_the_configuration_follows_it() -> None:
    log = get_logger("early")
    stream = io.StringIO()
    configure_logging(stream, json=True)

    log.info("started")

    assert json.loads(stream.getvalue())["logger"] == "early"


def test_events_below_the_level_are_not_written() -> None:
    stream = io.StringIO()
    configure_logging(stream, json=True, level=logging.WARNING)

    get_logger("pool").info("instance_booted")

    assert stream.getvalue() == ""


@pytest.mark.parametrize("as_json", [True, False], ids=["json", "terminal"])
def test_no_secret_and_no_payload_gets_into_a_line(as_json: bool) -> None:
    stream = io.StringIO()
    configure_logging(stream, json=as_json)

    get_logger("edge").info(
        "request",
        given=Token("hunter2"),
        nested={"list": [Token("hunter2")], "admin_token": "hunter2"},
        Authorization="Bearer hunter2",
        payload='{"card": "hunter2"}',
        body=b"hunter2",
    )

    assert "hunter2" not in stream.getvalue()
    assert "7 bytes" in stream.getvalue()


@pytest.mark.parametrize("as_json", [True, False], ids=["json", "terminal"])
def test_a_value_cannot_forge_a_second_line_or_steer_the_terminal(as_json: bool) -> None:
    stream = io.StringIO()
    configure_logging(stream, json=as_json)

    get_logger("edge").info("function_created", function="x\nadmin logged in\x1b[2J")

    assert stream.getvalue().count("\n") == 1
    assert "\x1b[2J" not in stream.getvalue()


@pytest.mark.parametrize("as_json", [True, False], ids=["json", "terminal"])
def test_a_traceback_shows_no_values_of_variables(as_json: bool) -> None:
    stream = io.StringIO()
    configure_logging(stream, json=as_json)

    def fail(password: str) -> None:
        raise ValueError("no entry" if password else "")

    try:
        fail("-".join(["hunter", "2"]))
    except ValueError:
        get_logger("edge").exception("refused")

    assert "no entry" in stream.getvalue()
    assert "hunter-2" not in stream.getvalue()


def test_what_a_library_logs_has_the_same_form() -> None:
    stream = io.StringIO()
    configure_logging(stream, json=True)

    logging.getLogger("nats.aio").error("connection %s", "lost")

    line = json.loads(stream.getvalue())
    assert (line["event"], line["logger"], line["level"]) == ("connection lost", "nats.aio", "error")

"""Logging: one event a line, with a name and fields, for people on a terminal and as JSON for machines.

Owns the form of a line, and that no secret and no payload get into it. Does not know who logs: other rooms
use `structlog.get_logger` or the standard library's `logging`, and both end here.
"""

from __future__ import annotations

import logging
from datetime import date
from typing import TextIO, cast

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

_SECRET_NAMES = ("authorization", "password", "secret", "token", "api_key", "credential", "payload")
"""A field whose name ends in one of these is never shown, whatever its value."""
_HIDDEN = "***"
_VALUE_CHARS_MAX = 2_000
"""Of one string in a line; a log is no place for more, except for the traceback of a fault of ours."""


def configure_logging(stream: TextIO, json: bool, *, level: int = logging.INFO) -> None:
    """Send every event of this process at `level` or above to `stream`, one a line.

    `json`: an object a line with `time`, `level`, `event` and the fields; else columns in colour, for eyes.
    May be called again; the last call holds. Events logged before the first call have structlog's own form.
    """
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _name_logger,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso" if json else "%H:%M:%S", utc=json, key="time"),
        hide_secrets,
    ]
    render: list[Processor]
    if json:
        render = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=repr)]
    else:
        # the plain traceback: the default one, where rich is installed, prints the values of local variables
        render = [
            structlog.dev.ConsoleRenderer(
                timestamp_key="time", exception_formatter=structlog.dev.plain_traceback
            )
        ]

    structlog.configure(
        processors=[*shared, *render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    # what libraries (asyncio, nats) log through the standard library has the same form
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(level, logging.WARNING), force=True)


def get_logger(name: str) -> FilteringBoundLogger:
    """Return the logger of a part of the server; `name` is the field `logger` of its events."""
    return cast(FilteringBoundLogger, structlog.get_logger(logger_name=name))


def _name_logger(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    # structlog keeps the name `logger` for an argument of its own, so that it can only be given here
    if "logger_name" in event:
        event["logger"] = event.pop("logger_name")
    return event


def hide_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Let only plain values into a line: others appear as their repr, which a secret's type keeps empty."""
    return {name: value if name in _OURS else _shown(name, value) for name, value in event.items()}


_OURS = frozenset({"exc_info", "stack_info", "_record", "_from_structlog", "time", "level"})
"""Set by the chain of processors itself, not by who logs."""


def _shown(name: str, value: object) -> object:
    if name.lower().endswith(_SECRET_NAMES):
        return _HIDDEN
    # by exact type: a secret may well be a subclass of str, and a renderer would print its characters
    if value is None or type(value) in (bool, int, float):
        return value
    if type(value) is str:
        return _one_line(value)
    if type(value) in (bytes, bytearray, memoryview):
        return f"<{len(cast(bytes, value))} bytes>"
    if type(value) is dict:
        return {_one_line(str(key)): _shown(str(key), item) for key, item in value.items()}
    if type(value) in (list, tuple, set, frozenset):
        return [_shown("", item) for item in cast(list[object], value)]
    if isinstance(value, date):
        return value.isoformat()
    return _one_line(repr(value))


def _one_line(text: str) -> str:
    """Return the text with what could end the line or steer a terminal made visible."""
    if len(text) > _VALUE_CHARS_MAX:
        text = f"{text[:_VALUE_CHARS_MAX]}… ({len(text)} characters)"
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)

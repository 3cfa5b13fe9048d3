"""Exposition: metrics as the text that Prometheus reads, version 0.0.4 of its format.

Owns the form of a line. Does not know what is measured: plain values come in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Kind(Enum):
    """What a metric does over time."""

    COUNTER = "counter"
    """Only grows, from 0 at a start; its name ends in `_total`."""
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Sample:
    """One value, told from others of its name by its labels."""

    value: float
    labels: Mapping[str, str] = field(default_factory=dict)
    suffix: str = ""
    """What follows the metric's name; a histogram has `_bucket`, `_sum` and `_count`."""


@dataclass(frozen=True, slots=True)
class Family:
    """A metric with all that is measured of it just now."""

    name: str
    help: str
    kind: Kind
    samples: tuple[Sample, ...]


def counter(name: str, help: str, *samples: Sample) -> Family:
    """Return a metric that only grows."""
    return Family(name, help, Kind.COUNTER, samples)


def gauge(name: str, help: str, *samples: Sample) -> Family:
    """Return a metric that goes up and down."""
    return Family(name, help, Kind.GAUGE, samples)


def render(families: Iterable[Family]) -> str:
    """Return the text; each name may be there once."""
    return "".join(line for family in families for line in _lines(family))


def _lines(family: Family) -> Iterator[str]:
    yield f"# HELP {family.name} {_escaped(family.help)}\n"
    yield f"# TYPE {family.name} {family.kind.value}\n"
    for sample in family.samples:
        labels = ",".join(f'{name}="{_quoted(value)}"' for name, value in sample.labels.items())
        yield f"{family.name}{sample.suffix}{f'{{{labels}}}' if labels else ''} {number(sample.value)}\n"


def number(value: float) -> str:
    """Return a number as the format has it: whole ones without a point."""
    return str(int(value)) if value == int(value) else repr(float(value))


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _quoted(text: str) -> str:
    # half a surrogate pair in a name must not cost the whole answer
    return _escaped(text).replace('"', '\\"').encode(errors="replace").decode()

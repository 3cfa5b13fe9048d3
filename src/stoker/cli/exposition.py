"""Metrics in the text form of Prometheus, read: names, labels and numbers. Does not know what they mean."""

from __future__ import annotations

import re
from collections.abc import Mapping

Labels = Mapping[str, str]
Series = Mapping[str, list[tuple[Labels, float]]]
"""By the metric's name: the labels and value of each of its series."""

_LINE = re.compile(r"(?P<name>[a-zA-Z_:][\w:]*)(?:\{(?P<labels>.*)\})? (?P<value>\S+)")
_LABEL = re.compile(r'(?P<name>\w+)="(?P<value>(?:[^"\\]|\\.)*)"')
_ESCAPED = re.compile(r"\\(.)")


def parse(text: str) -> Series:
    """Return all series; a line that is none of the format is left out."""
    found: dict[str, list[tuple[Labels, float]]] = {}
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if match is None:
            continue
        labels = {one["name"]: _unescaped(one["value"]) for one in _LABEL.finditer(match["labels"] or "")}
        try:
            value = float(match["value"])
        except ValueError:
            continue
        found.setdefault(match["name"], []).append((labels, value))
    return found


def value_of(series: Series, name: str, /, **labels: str) -> float:
    """Return the sum of the series of a metric that have these labels; 0 if there are none."""
    return sum(value for found, value in series.get(name, ()) if labels.items() <= found.items())


def _unescaped(text: str) -> str:
    return _ESCAPED.sub(lambda match: "\n" if match[1] == "n" else match[1], text)

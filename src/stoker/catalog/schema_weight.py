"""What the own keywords of one subschema cost, as measured with jsonschema-rs 0.61.

Does not know what a subschema leads to.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import log10
from typing import Any

from stoker.model.pointer import escape

_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
STRAIN_MAX = 14
Weights = tuple[int, int, int]


def patterns_of(schema: dict[str, Any] | bool) -> Iterable[tuple[str, str]]:
    """Yield (place, pattern) of the patterns of one subschema itself."""
    if isinstance(schema, dict):
        if isinstance(schema.get("pattern"), str):
            yield "/pattern", schema["pattern"]
        if isinstance(schema.get("patternProperties"), dict):
            for name in schema["patternProperties"]:
                yield "/patternProperties/" + escape(name), name


def weights(schema: dict[str, Any] | bool, patterns: dict[str, int]) -> Weights:
    """Return (units, units for a float, positions) of one subschema's own keywords.

    Measured, in ns: a keyword 5 to 25; an option of `enum` or `const` 2,000 for a float; beside others than
    strings or integers 6 for a string, 100 for an integer, 120 for an array or object, 1,000 for a float; a
    bound 16 for a float, 850 if it is one itself, and 1,240 if both are; `strain` comes on top.
    """
    if isinstance(schema, bool):
        return 1, 0, 0
    units, float_units = 1 + len(schema) // 2, 0
    for keyword in ("properties", "dependentRequired", "dependentSchemas", "dependencies"):
        if isinstance(schema.get(keyword), dict):
            units += len(schema[keyword]) // 2
    for keyword in _BOUNDS:
        if keyword in schema:
            units += 110 if isinstance(schema[keyword], float) else 1
            float_units += 110 if isinstance(schema[keyword], float) else 30
    if "multipleOf" in schema:
        own_units, own_float_units = _multiple_units(schema["multipleOf"])
        units += own_units
        float_units += own_float_units
    options = schema["enum"] if isinstance(schema.get("enum"), list) else []
    alike = len({type(option) for option in options}) == 1 and isinstance(options[0], (str, int))
    for option in [*options, *([schema["const"]] if "const" in schema else [])]:
        own_units, own_float_units = _option_units(option)
        units += 0 if alike and isinstance(option, (str, int)) else own_units
        float_units += own_float_units
    return units, float_units, sum(patterns[pattern] for _, pattern in patterns_of(schema))


def _option_units(option: Any) -> tuple[int, int]:
    if isinstance(option, (dict, list)):
        # Compared to the first difference, and that may be the last; numbers in it are compared as numbers.
        items = option.values() if isinstance(option, dict) else option
        return 15 + sum(max(_option_units(item)) for item in items), 0
    if isinstance(option, bool) or not isinstance(option, (int, float)):
        return 1, 0
    if strain(option) > 1:
        return 100 * STRAIN_MAX, 250 * STRAIN_MAX
    return (100 if isinstance(option, float) else 15), 250


def _multiple_units(divisor: float) -> tuple[int, int]:
    if isinstance(divisor, int):
        return (3 if divisor < 10**15 else 25), 60
    # Both are made whole numbers first: 10 ns for each decimal that takes.
    return 130 + 5 * max(0, -round(log10(divisor))) if divisor > 0 else 130, 110


def strain(number: float) -> int:
    """Return how many times the work of an ordinary number this one makes.

    Numbers are compared as exact fractions, whose digits grow with the exponent: 5e-324 takes 11,600 ns
    where 1.5 takes 400, and 2^64 takes 2,600 where 1 takes 140.
    """
    size = abs(number)
    if size == 0 or 1e-15 <= size <= 1e15:
        return 1
    if isinstance(number, int):
        return 3
    return 4 if 1e-100 <= size <= 1e100 else STRAIN_MAX

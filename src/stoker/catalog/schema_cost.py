"""What holding a value against a schema costs at most, found before any value is.

Owns the bounds: no reference cycle that stands still, no exponential expansion, no overflow of the stack.
Does not validate. The validator (jsonschema-rs 0.61) remembers the answer for a container at the references
that close a cycle, and only there; everything else it may check again for each way that leads to it, and
this module counts those ways.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from stoker.catalog.schema_graph import Edge, Graph, Node, Way
from stoker.catalog.schema_pattern import COMPILED_BYTES_MAX_IN_ALL, Liveness, compiled_bytes
from stoker.catalog.schema_weight import Weights, patterns_of, weights
from stoker.model.errors import InvalidRequest
from stoker.model.limits import MIB, Limits

STACK_BYTES_MAX = 4 * MIB
"""Half of a thread's usual stack; measured: 400 bytes a level of the value and 120 a subschema in place."""
_STACK_OF_LEVEL_BYTES = 400
_STACK_OF_SUBSCHEMA_BYTES = 160
VALUE_DEPTH_MAX = 1024
"""No parser that we use hands out more."""
CHAIN_MAX = 256
"""Subschemas that one value is held against, one within the other; then a value may be 101 levels deep."""
COMPILE_DEPTH_MAX = 4000
"""Subschemas from the root by the compiler's way; it recurses. 12,000 fit on 8 MiB."""
COMPILE_DEPTH_MAX_UNEVALUATED = 250
"""With `unevaluated...`: 500 fit, 1,000 overflow."""
UNEVALUATED_FACTOR = 3
"""`unevaluated...` checks what is beside it again; measured: 2.6 times for each of them nested in place."""
STEPS_MAX = 500_000
"""Of the search for the costliest place in a value; about half a second."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Bounds that hold for every value."""

    weight: int
    """Units for one value within the value, the costliest place counted; a unit is some 8 ns."""
    float_weight: int
    """Units for one float beside that; comparing one exactly is slow."""
    positions: int
    """Of all patterns that a string may meet at one place; a character costs two units times this."""
    value_depth_max: int
    recursive: bool
    """The value's own depth decides how deep the validator goes."""


def measure(graph: Graph, *, field: str, limits: Limits) -> Cost:
    """Return what a schema costs. Raises InvalidRequest if there is no bound on it, or one too high."""
    expansion_max = limits.schema_expansion_max
    chain = _in_place(graph, field=field, expansion_max=expansion_max)
    returning, depth = _compile_order(graph)
    unevaluated = any(_is_unevaluated(node) for node in graph.nodes.values())
    if depth > (COMPILE_DEPTH_MAX_UNEVALUATED if unevaluated else COMPILE_DEPTH_MAX):
        raise InvalidRequest("references lead on too deeply", field=field)
    patterns = _patterns(graph, field=field)
    recursive = bool(returning) or depth > limits.schema_depth_max
    # Where a reference depends on the way that led to it, we do not know which ones close a cycle.
    remembered = frozenset() if graph.dynamic else returning
    search = _Search(graph, remembered, patterns, expansion_max, field)
    costliest = search.costliest()
    level_bytes = _STACK_OF_LEVEL_BYTES + _STACK_OF_SUBSCHEMA_BYTES * chain
    return Cost(*costliest, min(VALUE_DEPTH_MAX, STACK_BYTES_MAX // level_bytes), recursive)


def _is_unevaluated(node: Node) -> bool:
    schema = node.schema
    return isinstance(schema, dict) and not schema.keys().isdisjoint(
        ("unevaluatedProperties", "unevaluatedItems")
    )


def _in_place(graph: Graph, *, field: str, expansion_max: int) -> int:
    """Return the longest chain of subschemas that one value is held against, one within the other."""
    expansion: dict[str, int] = {}
    chain: dict[str, int] = {}
    for start in graph.nodes:
        if start in expansion:
            continue
        path, on_path = [(start, iter(graph.nodes[start].edges))], {start}
        while path:
            pointer, edges = path[-1]
            for edge in edges:
                if edge.way is not Way.IN_PLACE or edge.target in expansion:
                    continue
                if edge.target in on_path:
                    place = f"{field}{pointer}/{edge.keyword}"
                    raise InvalidRequest("leads back to itself without going into the value", field=place)
                path.append((edge.target, iter(graph.nodes[edge.target].edges)))
                on_path.add(edge.target)
                break
            else:
                path.pop()
                on_path.discard(pointer)
                node = graph.nodes[pointer]
                targets = [edge.target for edge in node.edges if edge.way is Way.IN_PLACE]
                factor = UNEVALUATED_FACTOR if _is_unevaluated(node) else 1
                expansion[pointer] = 1 + factor * sum(expansion[target] for target in targets)
                chain[pointer] = 1 + max((chain[target] for target in targets), default=0)
                if chain[pointer] > CHAIN_MAX:
                    raise InvalidRequest(
                        f"leads through more than {CHAIN_MAX} subschemas, one within the other",
                        field=field + pointer,
                    )
                if expansion[pointer] > expansion_max:
                    raise InvalidRequest(
                        f"one value would have to be held against more than {expansion_max} subschemas",
                        field=field + pointer,
                    )
    return max(chain.values())


def _compile_order(graph: Graph) -> tuple[frozenset[tuple[str, str]], int]:
    """Return the references that close a cycle, as (from, to), and how deep the compiler recurses."""
    returning: set[tuple[str, str]] = set()
    done: set[str] = set()
    path, on_path, deepest = [("", iter(graph.nodes[""].edges))], {""}, 1
    while path:
        pointer, edges = path[-1]
        for edge in edges:
            if edge.way is Way.DEFINED or edge.target in done:
                continue
            if edge.target in on_path:
                if edge.reference:
                    returning.add((pointer, edge.target))
                continue
            path.append((edge.target, iter(graph.nodes[edge.target].edges)))
            on_path.add(edge.target)
            deepest = max(deepest, len(path))
            break
        else:
            path.pop()
            on_path.discard(pointer)
            done.add(pointer)
    return frozenset(returning), deepest


def _patterns(graph: Graph, *, field: str) -> dict[str, int]:
    """Return the positions of every pattern. Raises InvalidRequest if one is not matched in linear time."""
    found: dict[str, int] = {}
    compiled_in_all, liveness = 0, Liveness()
    for node in graph.nodes.values():
        for place, pattern in patterns_of(node.schema):
            if pattern in found:
                continue
            size = compiled_bytes(pattern)
            if size is None:
                raise InvalidRequest(
                    "is no pattern that is matched in linear time "
                    "(no lookaround, no backreference, bounded size)",
                    field=field + node.pointer + place,
                )
            compiled_in_all += size
            if compiled_in_all > COMPILED_BYTES_MAX_IN_ALL:
                raise InvalidRequest(
                    "the patterns of the schema are too large together", field=field + node.pointer + place
                )
            found[pattern] = liveness.of(pattern)
    return found


_Entry = frozenset[tuple[str, int]]


class _Search:
    """Follows every way into a value, with how often each subschema is held against the place it leads to."""

    def __init__(
        self,
        graph: Graph,
        remembered: frozenset[tuple[str, str]],
        patterns: dict[str, int],
        expansion_max: int,
        field: str,
    ) -> None:
        self._graph = graph
        self._remembered = remembered
        self._patterns = patterns
        self._expansion_max = expansion_max
        self._field = field
        self._expanded: dict[str, tuple[Counter[str], set[str]]] = {}
        self._weights: dict[str, Weights] = {}
        self._steps = 0

    def costliest(self) -> Weights:
        """Return the greatest weights of any place, each by itself."""
        first: _Entry = frozenset({("", 1)})
        seen, todo = {first}, [first]
        units = float_units = places = 0
        while todo:
            counts = self._closure(todo.pop())
            if sum(counts.values()) > self._expansion_max:
                raise InvalidRequest(
                    f"a value within the value would have to be held against more than {self._expansion_max} "
                    "subschemas",
                    field=self._field,
                )
            own = [(count, *self._weights_of(pointer)) for pointer, count in counts.items()]
            units = max(units, sum(count * one for count, one, _, _ in own))
            float_units = max(float_units, sum(count * one for count, _, one, _ in own))
            places = max(places, sum(count * one for count, _, _, one in own))
            for entry in self._below(counts):
                if entry not in seen:
                    seen.add(entry)
                    todo.append(entry)
        return units, float_units, places

    def _step(self, count: int) -> None:
        self._steps += count
        if self._steps > STEPS_MAX:
            raise InvalidRequest("is too entangled to tell what a value would cost", field=self._field)

    def _weights_of(self, pointer: str) -> Weights:
        known = self._weights.get(pointer)
        if known is None:
            known = self._weights[pointer] = weights(self._graph.nodes[pointer].schema, self._patterns)
        return known

    def _expand(self, pointer: str) -> tuple[Counter[str], set[str]]:
        """Return what one check of a subschema checks of the same value, and the remembered ones it meets."""
        known = self._expanded.get(pointer)
        if known is None:
            # The recursion is as deep as a chain in place; see _in_place, which bounds the expansion.
            counts, met = Counter({pointer: 1}), set[str]()
            node = self._graph.nodes[pointer]
            factor = UNEVALUATED_FACTOR if _is_unevaluated(node) else 1
            for edge in node.edges:
                if edge.way is not Way.IN_PLACE:
                    continue
                if edge.reference and (pointer, edge.target) in self._remembered:
                    met.add(edge.target)
                    continue
                inner, inner_met = self._expand(edge.target)
                self._step(len(inner))
                for target, count in inner.items():
                    counts[target] += count * factor
                met |= inner_met
            known = self._expanded[pointer] = (counts, met)
        return known

    def _closure(self, entry: _Entry) -> Counter[str]:
        total: Counter[str] = Counter()
        met: list[str] = []
        for pointer, count in entry:
            counts, inner_met = self._expand(pointer)
            self._step(len(counts))
            for target, times in counts.items():
                total[target] += times * count
            met.extend(inner_met)
        seen = set[str]()
        while met:
            pointer = met.pop()
            if pointer not in seen:
                seen.add(pointer)
                counts, inner_met = self._expand(pointer)
                self._step(len(counts))
                total.update(counts)
                met.extend(inner_met)
        return total

    def _below(self, counts: Counter[str]) -> Iterable[_Entry]:
        """Return the entries of the places one step into the value, each kind of step once."""
        steps: list[tuple[Edge, str, int]] = []
        for pointer, count in counts.items():
            for edge in self._graph.nodes[pointer].edges:
                if edge.way not in (Way.IN_PLACE, Way.DEFINED):
                    steps.append((edge, pointer, count))
        self._step(len(steps) + 1)
        if not steps:
            return
        named: defaultdict[str | int, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
        names_of: defaultdict[str, set[str | int]] = defaultdict(set)
        indexed: defaultdict[str | int, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
        any_key, other_key, any_item, name = (Counter[str]() for _ in range(4))
        others: list[tuple[str, str, int]] = []
        for edge, pointer, count in steps:
            if edge.way is Way.KEY:
                named[edge.label][edge.target] += count
                names_of[pointer].add(edge.label)
            elif edge.way is Way.OTHER_KEY:
                others.append((pointer, edge.target, count))
                other_key[edge.target] += count
            elif edge.way is Way.ANY_KEY:
                any_key[edge.target] += count
            elif edge.way is Way.INDEX:
                indexed[edge.label][edge.target] += count
            elif edge.way is Way.ITEM:
                any_item[edge.target] += count
            else:
                name[edge.target] += count
        for label, targets in named.items():
            self._step(len(others) + len(any_key) + len(targets))
            for target, count in any_key.items():
                targets[target] += count
            for pointer, target, count in others:
                if label not in names_of[pointer]:
                    targets[target] += count
            yield frozenset(targets.items())
        for targets in indexed.values():
            self._step(len(targets) + len(any_item))
            for target, count in any_item.items():
                targets[target] += count
            yield frozenset(targets.items())
        for place in (other_key + any_key, any_item, name):
            if place:
                yield frozenset(place.items())

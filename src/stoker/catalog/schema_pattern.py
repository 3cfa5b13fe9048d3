"""The cost of a regular expression of a schema.

Owns the bound on compiled size and the estimate of the cost of a character. Does not know where a pattern
stands. Linear time is not cheap time: `(a|b)*a(a|b){2000}c` takes the linear engine 31 us a character, 15 ns
for each place of it that is alive at once; an ordinary pattern takes 2 ns (Rust's regex, one core).
"""

from __future__ import annotations

import re

import jsonschema_rs

from stoker.model.limits import KIB, MIB

COMPILED_BYTES_MAX = 10 * MIB
"""Of one pattern; `^[\\p{L}\\p{N} .'-]{1,64}$` takes 2 MiB, `(a{1000}){1000}` more than any bound."""
COMPILED_BYTES_MAX_IN_ALL = 32 * MIB
_TIERS_BYTES = (64 * KIB, 256 * KIB, MIB, 4 * MIB, COMPILED_BYTES_MAX)
SIMULATED_PLACES_MAX = 1000
SIMULATED_ALIVE_MAX = 64
SIMULATED_GROUPS_MAX = 50
"""The simulation recurses."""
SIMULATED_STEPS_MAX = 300_000
"""Of all patterns of a schema together; after them a pattern counts with all its places."""
PLACES_MAX = 1_000_000

_TOKEN = re.compile(
    r"(?P<assertion>\\[bBAzZ]|[\^$])"
    r"|(?P<set>\\(?:[pPux]\{[^}]*\}|.)|\[\^?\]?(?:\\.|[^\]\\])*\])"
    r"|(?P<open>\((?:\?(?:P?<\w+>|[a-zA-Z-]*[:)]))?)"
    r"|(?P<close>\))"
    r"|(?P<repeat>(?:[*+?]|\{(?P<low>\d+)(?P<comma>,)?(?P<high>\d*)\})\??)"
    r"|(?P<either>\|)"
    r"|(?P<other>.)",
    re.DOTALL,
)


def options() -> jsonschema_rs.RegexOptions:
    """Return the options of every validator: the linear engine, bounded."""
    return jsonschema_rs.RegexOptions(size_limit=COMPILED_BYTES_MAX)


def compiled_bytes(pattern: str) -> int | None:
    """Return a bound on the size of the compiled pattern, None if the linear engine cannot have it."""
    for size in _TIERS_BYTES:
        try:
            jsonschema_rs.validator_for(
                {"pattern": pattern}, pattern_options=jsonschema_rs.RegexOptions(size_limit=size)
            )
        except jsonschema_rs.ValidationError:
            continue
        return size
    return None


class Liveness:
    """Estimates from above how many places of a pattern may be alive at once, whatever the text."""

    def __init__(self) -> None:
        self._steps_left = SIMULATED_STEPS_MAX

    def of(self, pattern: str) -> int:
        """Return at least 1. An anchored pattern without ambiguity has few, an unanchored one all of them."""
        tree = _parse(pattern)
        places = _places(tree)
        anchored = (
            pattern.startswith("^") and "|" not in pattern and not re.search(r"\(\?[a-zA-Z-]*m", pattern)
        )
        if not anchored or places > SIMULATED_PLACES_MAX or pattern.count("(") > SIMULATED_GROUPS_MAX:
            return max(1, min(places, PLACES_MAX))
        return self._simulated(tree, places)

    def _simulated(self, tree: _Tree, places: int) -> int:
        """Follow the pattern character by character, every character fitting every place."""
        follow: list[set[int]] = []
        first, _, _ = _glushkov(tree, follow)
        alive, most, seen = frozenset(first), 1, set[frozenset[int]]()
        while alive and alive not in seen:
            most = max(most, len(alive))
            self._steps_left -= len(alive)
            if most > SIMULATED_ALIVE_MAX or self._steps_left < 0 or len(seen) > 2 * places:
                return max(1, places)
            seen.add(alive)
            alive = frozenset().union(*(follow[place] for place in alive))
        return most


_Tree = tuple[str, list["_Tree"], int, int | None]
"""(`set`, `all`, `any` or `repeat`, children, least, most times)."""


def _parse(pattern: str) -> _Tree:
    # The engine has accepted the pattern, so that groups are balanced and at most 250 deep.
    branches: list[list[list[_Tree]]] = [[[]]]
    for token in _TOKEN.finditer(pattern):
        kind = token.lastgroup
        here = branches[-1][-1]
        if kind == "open":
            if not token[0].endswith(")"):  # else it only sets flags
                branches.append([[]])
        elif kind == "close" and len(branches) > 1:
            branches[-2][-1].append(_either(branches.pop()))
        elif kind == "either":
            branches[-1].append([])
        elif kind == "repeat":
            if here:
                low, high = _times(token)
                here.append(("repeat", [here.pop()], low, high))
        elif kind in ("set", "other"):
            here.append(("set", [], 1, 1))
    while len(branches) > 1:
        branches[-2][-1].append(_either(branches.pop()))
    return _either(branches[0])


def _either(branches: list[list[_Tree]]) -> _Tree:
    every: list[_Tree] = [("all", branch, 1, 1) for branch in branches]
    return every[0] if len(every) == 1 else ("any", every, 1, 1)


def _times(token: re.Match[str]) -> tuple[int, int | None]:
    if token["low"] is None:
        return {"*": (0, None), "+": (1, None), "?": (0, 1)}[token[0][0]]
    low = min(int(token["low"][:9]), PLACES_MAX)
    if token["comma"] is None:
        return low, low
    return low, min(int(token["high"][:9]), PLACES_MAX) if token["high"] else None


def _places(tree: _Tree) -> int:
    kind, children, low, high = tree
    if kind == "set":
        return 1
    times = max(1, low if high is None else high)
    return min(PLACES_MAX, times * sum(map(_places, children)))


def _glushkov(tree: _Tree, follow: list[set[int]]) -> tuple[set[int], set[int], bool]:
    """Return (first places, last places, may be empty), adding every place and what follows it."""
    kind, children, low, high = tree
    if kind == "set":
        follow.append(set())
        return {len(follow) - 1}, {len(follow) - 1}, False
    if kind == "any":
        parts = [_glushkov(child, follow) for child in children]
        return (
            set().union(*(part[0] for part in parts)),
            set().union(*(part[1] for part in parts)),
            any(part[2] for part in parts),
        )
    if kind == "repeat":
        return _repeated(children[0], low, high, follow)
    first, last, empty = set[int](), set[int](), True
    for child in children:
        child_first, child_last, child_empty = _glushkov(child, follow)
        _follow_on(last, child_first, follow)
        first = first | child_first if empty else first
        last = last | child_last if child_empty else child_last
        empty = empty and child_empty
    return first, last, empty


def _repeated(
    child: _Tree, low: int, high: int | None, follow: list[set[int]]
) -> tuple[set[int], set[int], bool]:
    if high == 0:
        return set(), set(), True
    first, last, ends, empty = set[int](), set[int](), set[int](), True
    for copy in range(max(1, low if high is None else high)):
        # Copies that may be missing are missing from the end: x{1,3} is x(x(x)?)?, not xx?x?.
        child_first, child_last, child_empty = _glushkov(child, follow)
        _follow_on(last, child_first, follow)
        first = first | child_first if empty else first
        last = last | child_last if child_empty else child_last
        ends = ends | child_last if copy + 1 >= low else ends
        empty = empty and child_empty
        if high is None and copy + 1 >= low:
            _follow_on(child_last, child_first, follow)
    return first, ends | last, empty or low == 0


def _follow_on(places: set[int], then: set[int], follow: list[set[int]]) -> None:
    for place in places:
        follow[place] |= then

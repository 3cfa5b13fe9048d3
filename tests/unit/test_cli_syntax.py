"""Sources that cannot be compiled are told with their place, and nothing is run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from stoker.cli.syntax import Syntax


@pytest.fixture(scope="module")
def syntax() -> Iterator[Syntax]:
    """One checker for all; its process of Node is started once."""
    with Syntax() as found:
        yield found


@pytest.mark.parametrize(
    ("name", "source", "line", "column"),
    [
        ("main.py", "def handler(event):\n    return {\n", 2, 12),
        ("main.py", "x = 1\ny = = 2\n", 2, 5),
        ("index.js", "exports.handler = () => {\n  const a = ;\n};", 2, 13),
        ("index.cjs", "import a from 'a';", 1, 1),
        ("index.mjs", "export const a = 1;\nexport const a = 2;", 2, 14),
        ("index.js", 'import fs from "node:fs";\n\nlet x = 3 3;', 3, 11),
        ("index.ts", "export const a: number = 1;\nfoo(;", 2, 5),
        ("index.mts", "const a = 1;\nenum B { x }", 2, 1),
    ],
)
def test_a_fault_is_told_with_its_place(
    syntax: Syntax, name: str, source: str, line: int, column: int
) -> None:
    fault = syntax.check(name, source.encode())

    assert fault is not None
    assert (fault.file, fault.line, fault.column) == (name, line, column)
    assert fault.text == source.splitlines()[line - 1]
    assert fault.message


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("main.py", "import not_there\nasync def handler(e, c): return await x\n"),
        ("main.py", 'x = "\\d"\n'),
        ("index.js", "#!/usr/bin/env node\nconst { a } = require('a'); return a;"),
        ("index.js", "import a from 'a'; await a;"),
        ("index.cjs", "module.exports = 1"),
        ("index.ts", "export const f = (x: string): number => 1;"),
        ("node_modules/a/index.js", "not javascript at all"),
        ("data.txt", "{"),
    ],
)
def test_what_can_be_compiled_or_is_no_source_passes(syntax: Syntax, name: str, source: str) -> None:
    assert syntax.check(name, source.encode()) is None


def test_nothing_is_run(syntax: Syntax, tmp_path: Path) -> None:
    mark = tmp_path / "ran"

    syntax.check("main.py", f"open({str(mark)!r}, 'w')".encode())
    syntax.check("index.js", f"require('fs').writeFileSync({str(mark)!r}, '')".encode())
    syntax.check("index.mjs", f"import fs from 'fs'; fs.writeFileSync({str(mark)!r}, '')".encode())

    assert not mark.exists()


def test_a_fault_is_shown_under_its_line(syntax: Syntax) -> None:
    fault = syntax.check("index.js", b"  let a = ;\n")

    assert fault is not None
    assert fault.lines() == ["index.js:1: Unexpected token ';'", "    let a = ;", "            ^"]

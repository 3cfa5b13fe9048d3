"""The pages of the manual as somebody types them: their console blocks, run in one shell a page.

Of what a command prints only what differs each time is left out of the comparison: ids, times, tokens.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGE_S_MAX = 120.0
"""A guard against a hang."""
ANYTHING = "..."
"""A line of a page that stands for any number of lines."""

_BLOCK = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
_FENCE = re.compile(r"^\x01(\d+)\n(.*?)^\x02(\d+)\n", re.MULTILINE | re.DOTALL)
_DIFFERS = (
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}\b"), "ID"),
    (re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"), "TIME"),
    (re.compile(r"\b\d\d:\d\d:\d\d\b"), "TIME"),
    (re.compile(r"\b\d{4}-\d\d-\d\d\b"), "TIME"),
    (re.compile(r'"modified":\d+'), '"modified":TIME'),
    (re.compile(r"\b[\d,.]+ (ms|s|MB)(?=\s|$)"), r"N \1"),
    (re.compile(r'"(queue|init|run)_ms":[\d.]+'), r'"\1_ms":N'),
    (re.compile(r'"memory_bytes":\d+'), '"memory_bytes":N'),
    (re.compile(r'"size_bytes":\d+'), '"size_bytes":N'),
    (re.compile(r"\bstk_[\w-]+"), "TOKEN"),
    (re.compile(r"\btok_[0-9a-f]+"), "TOKEN_ID"),
    (re.compile(r"127\.0\.0\.1:\d+"), "HOST"),
    (re.compile(r" {2,}"), " "),  # the widths of columns go by what is in them
    (re.compile(r"-{3,}|─{3,}"), "---"),
)


@dataclass(frozen=True, slots=True)
class Step:
    """One command of a page, with what the page says that it prints."""

    line: int
    command: str
    shown: str

    @property
    def fails(self) -> bool:
        """Whether the page shows that it is refused."""
        return any(line.startswith(("stoker: ", "error: ")) for line in self.shown.splitlines())


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command came to."""

    printed: str
    exit_code: int


def steps_of(page: Path) -> list[Step]:
    """Return the commands of a page's console blocks, in their order; continued lines begin with `> `."""
    text = page.read_text()
    steps: list[Step] = []
    for block in _BLOCK.finditer(text):
        first = text.count("\n", 0, block.start(1)) + 1
        command: list[str] = []
        shown: list[str] = []
        at = first
        for number, line in enumerate(block[1].splitlines(), first):
            if line.startswith("$ "):
                if command:
                    steps.append(Step(at, "\n".join(command), "\n".join(shown)))
                command, shown, at = [line[2:]], [], number
            elif line.startswith("> ") or line == ">":
                command.append(line[2:])
            else:
                shown.append(line)
        if command:
            steps.append(Step(at, "\n".join(command), "\n".join(shown)))
    return steps


def run(steps: list[Step], *, folder: Path, environ: dict[str, str]) -> list[Ran]:
    """Run the commands in one shell, as they are written; return what each came to."""
    script = []
    for number, step in enumerate(steps):
        file = folder / f".step-{number}"
        file.write_text(step.command + "\n")
        script.append(f"printf '\\001{number}\\n'; . {file}; printf '\\002%d\\n' $?")
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-c", "\n".join(script)],
        cwd=folder,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=PAGE_S_MAX,
        check=False,
    )
    text = done.stdout.decode(errors="replace")
    # what ends without a line end would hide the mark behind it
    text = re.sub(r"(?<!^)(?<!\n)\x02", "\n\x02", text)
    return [Ran(found[2], int(found[3])) for found in _FENCE.finditer(text)]


def alike(shown: str, printed: str) -> bool:
    """Tell whether a command printed what a page shows, but for what differs each time."""
    pattern = "".join(
        r"(?:.*\n)*?" if line == ANYTHING else re.escape(line) + r"\n" for line in _usual(shown).splitlines()
    )
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in _usual(printed).splitlines())) is not None


def _usual(text: str) -> str:
    for pattern, replacement in _DIFFERS:
        text = pattern.sub(replacement, text)
    return "\n".join(line.rstrip() for line in text.strip("\n").splitlines())

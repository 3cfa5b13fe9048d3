"""Who kills process groups when the server that started them is killed.

Owns one shell that lives as long as the server's end of its pipe is open. PDEATHSIG reaches the first
process of a group alone. Knows groups by number; does not know what they run.
"""

from __future__ import annotations

import os
import subprocess

_SCRIPT = """
groups=' '
while read -r word group; do
  rest=${groups%" $group "*}
  case $word in
  add) groups="$groups$group " ;;
  drop) [ "$rest" = "$groups" ] || groups="$rest ${groups##*" $group "}" ;;
  esac
done
for group in $groups; do kill -s KILL -- "-$group" 2>/dev/null; done
"""


class Watchdog:
    """Holds the other end of the shell's standard input."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def open(self) -> None:
        """Start it, in a session of its own, out of the reach of a terminal's signals."""
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", _SCRIPT],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
            bufsize=0,
        )

    def add(self, group: int) -> None:
        """Have a group killed when the server is gone."""
        self._tell(f"add {group}\n")

    def drop(self, group: int) -> None:
        """Leave a group alone: it has ended, and its number may become another's."""
        self._tell(f"drop {group}\n")

    def close(self) -> None:
        """Have all groups killed that are left, and wait for the shell's end."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process.wait()

    def _tell(self, line: str) -> None:
        if self._process is not None and self._process.stdin is not None:
            os.write(self._process.stdin.fileno(), line.encode())

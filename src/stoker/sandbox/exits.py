"""What the end of a program's first process means.

Owns the reading of a wait status. Standard library only.
"""

from __future__ import annotations

import os

_SIGNALS = 64


def exit_of(status: int) -> tuple[int | None, int | None]:
    """Return (code, signal) of a wait status; one of them is None.

    The first process is a shell that hands on how the runtime ended, so that 128+N means signal N.
    """
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        return None, -code
    if 128 < code <= 128 + _SIGNALS:
        return None, code - 128
    return code, None

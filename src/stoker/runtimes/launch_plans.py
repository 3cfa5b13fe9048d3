"""The launch plans of every runtime, with what they stand on built.

Knows no language: each has a module with the same five functions.
"""

from __future__ import annotations

from pathlib import Path

from stoker.model.launch import LaunchPlan
from stoker.runtimes import nodejs, python
from stoker.runtimes.rootfs import Progress


def ensure(base: Path, progress: Progress) -> tuple[LaunchPlan, LaunchPlan]:
    """Return the plans of Node.js and Python, with their directories under `base`.

    Builds what is missing, in some seconds, and tells `progress` about it in lines for a person; what is
    there is taken as it is, in milliseconds. Raises RuntimeMissing, which says what this machine lacks.
    """
    return (
        nodejs.plan(
            nodejs.build(base / nodejs.root_key(), progress),
            nodejs.build_shim(base / nodejs.shim_key()),
        ),
        python.plan(
            python.build(base / python.root_key(), progress),
            python.build_shim(base / python.shim_key()),
        ),
    )

"""What has to be made once on a machine before functions can run: the root file systems of the runtimes.

Owns where they lie, so that the installer and the server mean the same folder. Does not know what is in them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path


def runtimes_directory(prefix: Path | None = None, environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of the runtimes' root file systems; it need not exist yet.

    It is `share/stoker` of the environment that stoker is installed in (of `prefix`, if given), shared by all
    users of that environment; if we may not write there, `stoker` in the user's cache.
    """
    shared = (prefix or Path(sys.prefix)) / "share" / "stoker"
    nearest = next(folder for folder in (shared, *shared.parents) if folder.exists())
    if os.access(nearest, os.W_OK | os.X_OK):
        return shared
    cache = environ.get("XDG_CACHE_HOME", "")
    # the specification of base directories: a relative path is to be ignored
    return (Path(cache) if os.path.isabs(cache) else Path.home() / ".cache") / "stoker"


def main() -> int:
    """Make what is missing, with a line on standard output for each part of it; return the exit code."""
    # imported here: the server asks for the folder alone, long before it needs to build anything
    from stoker.model.errors import StokerError
    from stoker.runtimes import launch_plans

    try:
        launch_plans.ensure(runtimes_directory(), lambda line: print(f"stoker: {line}", flush=True))
    except StokerError as error:
        print(f"stoker: {error.message}", file=sys.stderr)
        return 3  # something needed is missing or does not work here
    return 0


if __name__ == "__main__":
    sys.exit(main())

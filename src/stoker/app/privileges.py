"""Giving root up: the process that parses what strangers send keeps nothing of it.

Owns who the server becomes, that everything it still needs stays readable at the same paths, and that there
is no way back. Does not know why something is needed, nor the supervisor, which keeps root, started before.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import resource
import shlex
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stoker.model.errors import Fault, StokerError
from stoker.sandbox import kernel

UID_MIN, UID_MAX = 61_184, 65_519
"""What systemd leaves to services without an entry in /etc/passwd (its *dynamic users*)."""

_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_COVER_MODE = 0o711
_COVER_FLAGS = kernel.MS_NOSUID | kernel.MS_NODEV


class RootKept(StokerError):
    """Root could not be given up, or something needed cannot be read without it: nobody may be served."""

    code, fault = "start.privileges", Fault.PLATFORM


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the server is after root: one user and one group, no others."""

    uid: int
    gid: int


def drop_root(data_dir: Path, needed: Iterable[Path]) -> Identity | None:
    """Give root up for good and return who we are now; None if we were not root.

    The data directory becomes ours. It, `needed` and all that Python imports from stay usable at their paths,
    even beneath a directory that only root may enter: this process then gets a view of the file system where
    that directory holds nothing else. The working directory becomes `/`. To be called with a single thread,
    after all that needs root. Raises RootKept with a `hint` of what to do; the process must then end.
    """
    if os.geteuid() != 0:
        return None
    if len(os.listdir("/proc/self/task")) != 1:
        # another thread would keep its capabilities and its view of the file system
        raise RootKept("root can be given up by one thread alone; others are running")
    identity = identity_of(data_dir)
    paths = [data_dir.absolute(), *(path.absolute() for path in needed), *_imported_from()]
    for path in paths:
        if not path.exists():
            raise RootKept(f"{path} is needed and is not there")
    os.setgroups([])
    hand_over(data_dir.resolve(), identity)
    try:
        _keep_reachable(paths, identity)
    except OSError as error:
        hint = "move stoker and its data to where every user may enter"
        raise RootKept(f"what stoker needs cannot be shown to it without root: {error}", hint=hint) from error
    _become(identity)
    _check_gone(identity)
    for path in [*paths, *_loaded_files()]:
        if not os.access(path, os.R_OK | os.X_OK if path.is_dir() else os.R_OK):
            hint = f"chmod -R go+rX {shlex.quote(str(path))}"
            raise RootKept(f"{path} cannot be read without root", hint=hint)
    return identity


def identity_of(data_dir: Path) -> Identity:
    """Return the owner of the data directory; where that is root, a user of the directory's own."""
    owner = data_dir.stat()
    place = int.from_bytes(hashlib.sha256(os.fsencode(data_dir.resolve())).digest()[:8])
    own = UID_MIN + place % (UID_MAX - UID_MIN + 1)
    return Identity(owner.st_uid or own, owner.st_gid or own)


def _loaded_files() -> list[Path]:
    """Return the files of all modules that were imported so far."""
    files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    return [Path(file) for file in files if file is not None and os.path.isabs(file)]


def _imported_from() -> list[Path]:
    """Return where the modules and programs of this Python come from.

    Of `sys.path` only what did give a module: it may name the working directory, which is none of ours.
    """
    folders = {folder for file in _loaded_files() for folder in file.parents}
    used = [Path(entry) for entry in sys.path if Path(entry) in folders]
    return [Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable), *used]


def hand_over(data_dir: Path, identity: Identity) -> None:
    """Make the directory and all in it the identity's. Follows no link and enters no other file system."""
    owners = (identity.uid, identity.gid)
    device = data_dir.stat().st_dev
    for _, folders, files, here in os.fwalk(data_dir, follow_symlinks=False):
        for name in (".", *folders, *files):
            entry = os.stat(name, dir_fd=here, follow_symlinks=False)
            if entry.st_dev != device:
                folders[:] = [folder for folder in folders if folder != name]
                continue
            # a second name of a file may be anywhere, and its owner is not ours to change there
            elsewhere = entry.st_nlink > 1 and not stat.S_ISDIR(entry.st_mode)
            if (entry.st_uid, entry.st_gid) != owners and not elsewhere:
                os.chown(name, *owners, dir_fd=here, follow_symlinks=False)


def _keep_reachable(paths: Iterable[Path], identity: Identity) -> None:
    """Of every directory above `paths` that the identity may not enter, show them and nothing else."""
    ways = [_way(path) for path in paths]
    if not any(_first_closed(target, identity) for links, target in ways for target in (*links, target)):
        return
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
    # opened before anything is covered, and after unshare: only a mount of this namespace can be bound
    sources = {target: os.open(target, os.O_PATH | os.O_CLOEXEC) for _, target in ways}
    links = {link: os.readlink(link) for met, _ in ways for link in met}
    covers = []
    for path in sorted({*sources, *links}):  # a directory comes before what lies in it
        while (closed := _first_closed(path, identity)) is not None:
            kernel.mount("stoker", str(closed), "tmpfs", _COVER_FLAGS, f"mode={_COVER_MODE:o}")
            covers.append(closed)
        if not os.path.lexists(path):
            _show(path, links.get(path), sources.get(path))
    for cover in covers:
        flags = kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | _COVER_FLAGS
        kernel.mount("none", str(cover), flags=flags)
    for source in sources.values():
        os.close(source)


def _way(path: Path) -> tuple[list[Path], Path]:
    """Return the symbolic links on the way to a path, each at its real place, and the place it leads to."""
    links: list[Path] = []
    place, ahead = Path("/"), list(reversed(path.absolute().parts[1:]))
    while ahead:
        name = ahead.pop()
        step = place.parent if name == ".." else place / name
        if step.is_symlink():
            if step in links:
                raise RootKept(f"{path} is a loop of symbolic links")
            links.append(step)
            target = Path(os.readlink(step))
            place = Path("/") if target.is_absolute() else place
            ahead += reversed([part for part in target.parts if part != "/"])
        else:
            place = step
    return links, place


def _first_closed(path: Path, identity: Identity) -> Path | None:
    """Return the topmost directory above `path` that the identity may not enter."""
    with _acting_as(identity):
        for folder in reversed(path.parents):
            if not os.access(folder, os.X_OK, effective_ids=True):
                return folder if folder.exists() else None
    return None


@contextmanager
def _acting_as(identity: Identity) -> Iterator[None]:
    """Ask the kernel with the identity's eyes, so that access control lists count too."""
    os.setegid(identity.gid)
    os.seteuid(identity.uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def _show(path: Path, link: str | None, source: int | None) -> None:
    """Make `path` in a cover: the link that it was, or the very file or directory."""
    mask = os.umask(0o777 & ~_COVER_MODE)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if link is not None:
            path.symlink_to(link)
        elif source is not None:
            path.mkdir() if stat.S_ISDIR(os.fstat(source).st_mode) else path.touch()
            kernel.mount(f"/proc/self/fd/{source}", str(path), flags=kernel.MS_BIND | kernel.MS_REC)
    finally:
        os.umask(mask)


def _become(identity: Identity) -> None:
    """Become the identity, without capabilities and for good."""
    kernel.drop_bounding_set()
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    kernel.no_new_privileges()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core would hold what functions were given
    os.chdir("/")  # a working directory beneath a cover would be a way around it
    os.setresgid(identity.gid, identity.gid, identity.gid)
    os.setresuid(identity.uid, identity.uid, identity.uid)  # takes the capabilities with it
    kernel.hide_memory()
    os.umask(0o077)


def _check_gone(identity: Identity) -> None:
    """Raise RootKept if the kernel still sees any of root in us, or lets us have it again."""
    with open("/proc/self/status") as lines:
        state = dict(line.rstrip("\n").split(":\t", 1) for line in lines if ":\t" in line)
    kept = [name for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb") if int(state[name], 16) != 0]
    if kept or state["NoNewPrivs"] != "1":
        raise RootKept(f"capabilities are left after root was given up: {', '.join(kept) or 'NoNewPrivs'}")
    ids = (os.getresuid(), os.getresgid(), os.getgroups())
    if ids != ((identity.uid,) * 3, (identity.gid,) * 3, []):
        raise RootKept(f"the user did not change as asked: {ids}")
    try:
        os.setresuid(0, 0, 0)
    except PermissionError:
        return
    raise RootKept("root could be had again")


def _prctl(option: int, value: int) -> None:
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl.argtypes = (
        ctypes.c_int,
        *[ctypes.c_ulong] * 4,
    )  # the kernel refuses arguments that are not all zero
    if prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl {option}: {os.strerror(number)}")

"""The supervisor's mounts: a private tree that ends with it, root file systems, and each /code.

    /run                tmpfs of the supervisor alone; hides the host's
    /run/r/PLAN         a plan's layers as one read-only overlay: the root of its sandboxes
    /run/c/ID           a sandbox's /code, on a tmpfs whose mounts propagate into the sandboxes
    /run/w/ID           a writable copy while it is made
    /run/b/ID           its bundle, /run/s the OCI runtime's state

Names are short and neutral, and lower directories relative, as /proc/self/mountinfo inside a sandbox
shows them. Does not know what runs. Standard library only.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from stoker.sandbox import kernel

RUN = "/run"
STATE = f"{RUN}/s"
_SAFE = kernel.MS_NOSUID | kernel.MS_NODEV
_READ_ONLY = _SAFE | kernel.MS_RDONLY
_OVERLAY = "redirect_dir=nofollow,metacopy=off,index=off"
"""An overlay that believes nothing but names: attributes of a lower file never lead elsewhere."""
WRITABLE_ROOM_BYTES = 64 << 20
"""What a function may add to a writable /code."""
WRITABLE_ROOM_FILES = 16_384


class Folders:
    """Where the host's part of sandboxes lies. Opens the folders of the host before it hides /run."""

    def __init__(self, code_root: str, layers: Mapping[str, tuple[str, ...]]) -> None:
        self._code_root = _directory(code_root)
        self._layers = {plan: [_directory(path) for path in paths] for plan, paths in layers.items()}

    def build(self) -> None:
        """Make the private tree and every root file system; OSError if this kernel will not."""
        kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
        kernel.mount("proc", "/proc", "proc", _SAFE | kernel.MS_NOEXEC)
        kernel.mount("tmpfs", RUN, "tmpfs", _SAFE, "mode=711,size=64m")
        for name in ("b", "c", "e", "l", "r", "s", "w", "x"):
            os.mkdir(f"{RUN}/{name}", 0o711)
        # The lowest layer of every root: the places that are mounted over.
        for name in ("code", "dev", "proc", "run", "tmp"):
            os.mkdir(f"{RUN}/e/{name}", 0o755)
        os.chmod(f"{RUN}/e/tmp", 0o1777)
        for plan, handles in self._layers.items():
            self._overlay_root(plan, handles)
        kernel.mount("tmpfs", f"{RUN}/c", "tmpfs", _SAFE, "mode=711,size=16m")
        kernel.mount("none", f"{RUN}/c", flags=kernel.MS_SHARED)
        os.chdir("/")

    def root(self, plan: str) -> str:
        """Return the root file system of a plan."""
        return f"{RUN}/r/{plan}"

    def code(self, sandbox: str) -> str:
        """Return the folder bound at a sandbox's /code."""
        return f"{RUN}/c/{sandbox}"

    def bundle(self, sandbox: str) -> str:
        """Return the folder of its OCI bundle."""
        return f"{RUN}/b/{sandbox}"

    def hosts(self, sandbox: str) -> str:
        """Return the file that is its hosts file, if it has one of its own."""
        return f"{self.bundle(sandbox)}/hosts"

    def add(self, sandbox: str) -> None:
        """Make a sandbox's folders, /code empty."""
        os.mkdir(self.bundle(sandbox), 0o700)
        os.mkdir(self.code(sandbox), 0o755)

    def open_code(self, folder: str) -> int:
        """Return a descriptor of a code folder; no link is followed. The caller closes it."""
        return os.open(
            folder,
            os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC,
            dir_fd=self._code_root,
        )

    def show(self, sandbox: str, folder: str) -> None:
        """Let a running sandbox see a code folder as its /code, read-only, at once."""
        handle = self.open_code(folder)
        try:
            os.fchdir(handle)
        finally:
            os.close(handle)
        try:
            # An overlay, not a bind mount, whose source mountinfo would tell; it wants two lower ones.
            options = f"lowerdir=.:{RUN}/x,{_OVERLAY}"
            kernel.mount("overlay", self.code(sandbox), "overlay", _READ_ONLY, options)
        finally:
            os.chdir("/")

    def make_room(self, sandbox: str, size_bytes: int, files: int) -> str:
        """Mount an empty tmpfs that holds so much and what a function may add; return its path."""
        path = f"{RUN}/w/{sandbox}"
        os.mkdir(path, 0o700)
        size, inodes = size_bytes + WRITABLE_ROOM_BYTES, files + WRITABLE_ROOM_FILES
        kernel.mount("tmpfs", path, "tmpfs", _SAFE, f"mode=755,size={size},nr_inodes={inodes}")
        return path

    def show_room(self, sandbox: str) -> None:
        """Let a running sandbox see the filled tmpfs as its /code, at once."""
        kernel.mount(f"{RUN}/w/{sandbox}", self.code(sandbox), flags=kernel.MS_BIND)
        self._drop_room(sandbox)

    def remove(self, sandbox: str) -> None:
        """Take away a sandbox's mounts and folders; what is not there is passed over."""
        self._drop_room(sandbox)
        _unmount(self.code(sandbox))
        for path in (self.code(sandbox), self.bundle(sandbox), f"{STATE}/{sandbox}"):
            _remove(path)

    def _drop_room(self, sandbox: str) -> None:
        path = f"{RUN}/w/{sandbox}"
        if os.path.isdir(path):
            _unmount(path)
            os.rmdir(path)

    def _overlay_root(self, plan: str, handles: list[int]) -> None:
        names = []
        for number, handle in enumerate(handles):
            name = f"l/{number}"
            os.makedirs(f"{RUN}/{name}", exist_ok=True)
            os.fchdir(handle)
            kernel.mount(".", f"{RUN}/{name}", flags=kernel.MS_BIND)
            os.close(handle)
            names.append(name)
        os.mkdir(self.root(plan), 0o755)
        os.chdir(RUN)
        options = f"lowerdir={':'.join([*names, 'e'])},{_OVERLAY}"
        kernel.mount("overlay", self.root(plan), "overlay", _READ_ONLY, options)
        # The overlay holds its own clones.
        for name in names:
            kernel.umount(f"{RUN}/{name}")


def _directory(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _unmount(path: str) -> None:
    if os.path.ismount(path):
        kernel.umount(path)


def _remove(path: str) -> None:
    """Remove a folder of ours, two levels deep at most; nothing in it is a user's."""
    if not os.path.isdir(path):
        return
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                _remove(entry.path)
            else:
                os.unlink(entry.path)
    os.rmdir(path)

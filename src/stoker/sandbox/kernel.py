"""System calls that Python 3.11 does not offer: of namespaces, mounts and prctl; and what a pidfd tells.

Owns their constants and turns a refusal into OSError. Knows nothing of sandboxes. Imported by the
supervisor, so it needs the standard library only.
"""

from __future__ import annotations

import ctypes
import os

CLONE_NEWNS = 0x00020000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MS_SHARED = 0x100000

MNT_DETACH = 0x2

_OPEN_TREE_CLONE = 0x1
_OPEN_TREE_CLOEXEC = 0o2000000
_MOVE_MOUNT_F_EMPTY_PATH = 0x4
_AT_FDCWD = -100
_SYS_OPEN_TREE = 428
_SYS_MOVE_MOUNT = 429
"""The same numbers on every architecture."""

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_ulong,
    ctypes.c_char_p,
)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)
_libc.unshare.argtypes = (ctypes.c_int,)
_libc.setns.argtypes = (ctypes.c_int, ctypes.c_int)
_libc.prctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)


def unshare(flags: int) -> None:
    """Leave the namespaces named by `flags` (CLONE_*) for new ones; OSError if it is refused."""
    _checked(_libc.unshare(flags), "unshare")


def setns(handle: int, kind: int) -> None:
    """Enter the namespace of one kind (CLONE_*) that a pidfd's process is in, or that an open file of
    /proc/PID/ns is; OSError if it is refused."""
    _checked(_libc.setns(handle, kind), "setns")


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """Mount `source` at `target`; a relative name counts from the working directory; OSError if refused."""
    result = _libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        os.fsencode(kind) or None,
        flags,
        os.fsencode(data) or None,
    )
    _checked(result, f"mount {target}")


def detached_mount(path: str) -> int:
    """Return a descriptor of a mount of a file or folder that is nowhere yet; OSError if it is refused."""
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC
    result: int = _libc.syscall(_SYS_OPEN_TREE, _AT_FDCWD, os.fsencode(path), flags)
    _checked(min(result, 0), f"open_tree {path}")
    return result


def attach_mount(mount: int, target: str) -> None:
    """Put a detached mount at `target`, of the mount namespace that we are in; OSError if it is refused."""
    result = _libc.syscall(
        _SYS_MOVE_MOUNT, mount, b"", _AT_FDCWD, os.fsencode(target), _MOVE_MOUNT_F_EMPTY_PATH
    )
    _checked(result, f"move_mount {target}")


def umount(target: str, flags: int = MNT_DETACH) -> None:
    """Take the topmost mount off `target`, also while it is in use; OSError if there is none."""
    _checked(_libc.umount2(os.fsencode(target), flags), f"umount {target}")


def die_with_parent(signal_number: int) -> None:
    """Get `signal_number` when the thread that started this process ends. The caller checks for the
    race itself: a parent that is gone already sends nothing."""
    _checked(_libc.prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0), "prctl PDEATHSIG")


def hide_memory() -> None:
    """Make this process's memory and /proc files unreadable to others of its uid; no core dumps."""
    _checked(_libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "prctl DUMPABLE")


def no_new_privileges() -> None:
    """Have no exec from here on give any privilege."""
    _checked(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl NO_NEW_PRIVS")


def drop_bounding_set() -> None:
    """Give up for good every capability that an exec could give back."""
    with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as last:
        for capability in range(int(last.read()) + 1):
            _checked(_libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0), "prctl CAPBSET_DROP")


def pid_behind(pidfd: int) -> int | None:
    """Return the pid that a pidfd stands for, in this process's own PID namespace; None if it has ended."""
    try:
        with open(f"/proc/self/fdinfo/{pidfd}", "rb") as lines:
            pid = next((int(line[4:]) for line in lines if line.startswith(b"Pid:")), -1)
    except OSError:
        return None  # before Linux 5.14 a process that hides its memory may not read its own
    return pid if pid > 0 else None


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")

"""The child that fills a writable /code, so that a big folder holds nobody else up.

Owns what a fork of the supervisor must do before anything else. Standard library only.
"""

from __future__ import annotations

import os
import signal
from typing import NoReturn

from stoker.sandbox import copying
from stoker.sandbox.layers import Folders

_DESCRIPTORS_MAX = 1 << 16
_NICE = 5


def copy_and_exit(folders: Folders, sandbox: str, folder: str, owner: int) -> NoReturn:
    """In a forked child: copy a code folder to a tmpfs that fits; exit 0, or 1 if it cannot be done."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        source = os.dup2(folders.open_code(folder), 3, inheritable=False)
        # Not one descriptor of the supervisor lives on: sockets and pipes must end when it closes them.
        os.closerange(4, _DESCRIPTORS_MAX)
        os.nice(_NICE)
        extent = copying.measure(source)
        room = folders.make_room(sandbox, extent.size_bytes, extent.files)
        target = os.open(room, os.O_RDONLY | os.O_DIRECTORY)
        copying.copy_tree(source, target, owner=owner, writable=True)
        status = 0
    finally:
        os._exit(status)

"""Saving: a backup becomes a file that is there whole and checked, or not at all.

Owns the file, and the key's beside it. Does not know where the bytes of a backup come from.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from stoker.app.backup.format import Head, Manifest
from stoker.app.backup.restoring import KEY_FILE, check
from stoker.app.backup.store import private_store
from stoker.app.backup.taking import take
from stoker.app.private_file import write_private
from stoker.app.privileges import Identity, hand_over
from stoker.app.secrets_key import seal_of
from stoker.backbone.errors import DataDirectoryInUse
from stoker.model.clock import wall_ms
from stoker.model.errors import Fault, StokerError

Write = Callable[[bytes], None]


class BackupRefused(StokerError):
    """There is nothing to back up here, or not with what was asked for."""

    code, fault = "backup.refused", Fault.CALLER


class NewFile:
    """A file that is being written beside its place. Use `writing`."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.part = place.with_name(place.name + ".part")
        self._file = os.fdopen(os.open(self.part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")
        self.size = 0

    def write(self, piece: bytes) -> None:
        """Add bytes."""
        self._file.write(piece)
        self.size += len(piece)

    def check(self) -> tuple[Head, Manifest]:
        """Read it back from the disk, and return what is in it. Raises BackupDamaged."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return check(self.part)

    def put(self) -> None:
        """Have it at its place, in place of what was there."""
        self.close()
        self.part.replace(self.place)
        folder = os.open(self.place.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def close(self) -> None:
        """Let go of it. Harmless when repeated."""
        self._file.close()


@contextmanager
def writing(place: Path) -> Iterator[NewFile]:
    """Yield a new file; nothing of it is left unless it was put at its place."""
    file = NewFile(place)
    try:
        yield file
    finally:
        file.close()
        file.part.unlink(missing_ok=True)


async def save_offline(data: Path, write: Write) -> bool:
    """Write a backup of a data directory; False if a server works on it, and then nothing is written.

    Raises StoreDamaged, and what opening a store raises.
    """
    owner = os.stat(data)
    try:
        async with private_store(data) as store:
            async for piece in take(store.source(), wall_ms()):
                write(piece)
        return True
    except DataDirectoryInUse:
        return False
    finally:
        if os.geteuid() == 0:  # what was made meanwhile is for the server, which is another user
            hand_over(data, Identity(owner.st_uid, owner.st_gid))


def store_id_of(data: Path) -> str:
    """Return the id of the store in a data directory. Raises BackupRefused if there is none."""
    try:
        return str(json.loads((data / "store.json").read_bytes())["store"])
    except FileNotFoundError:
        raise BackupRefused(
            f"there is no store in {data}", hint="--data names a server's data directory"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise BackupRefused(f"{data / 'store.json'} is damaged") from None


def require_key(data: Path) -> Path:
    """Return the file with the key of a data directory. Raises BackupRefused if it is elsewhere."""
    key = data / KEY_FILE
    if not key.is_file():
        raise BackupRefused(
            f"there is no {key}",
            hint="--data names the server's data directory; with --secrets-key FILE the key is there",
        )
    return key


def copy_key(key: Path, to: Path, manifest: Manifest) -> None:
    """Copy the key (0600). Raises BackupRefused if it does not open the secrets of the backup."""
    if manifest.secrets and seal_of(key, "the key").key_id not in manifest.secrets:
        raise BackupRefused(
            f"{key} is not the key that seals the secrets of this server",
            hint="--data names its data directory; a server with --secrets-key FILE has its key there",
        )
    write_private(to, key.read_text())

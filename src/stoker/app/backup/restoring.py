"""Restoring: a data directory is made of a backup, beside its place, and put there once all of it is good.

Owns where that is and what is refused. Does not know the form of a backup's bytes, nor how a store works.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from stoker.app.backup import format
from stoker.app.backup.format import BackupDamaged, Head, Item, Manifest, Part, PartEnd
from stoker.app.backup.store import PrivateStore, private_store
from stoker.app.private_file import write_private
from stoker.app.privileges import Identity, hand_over
from stoker.app.secrets_key import seal_of
from stoker.backbone.ledger import Write
from stoker.catalog.fold import Fold
from stoker.model.errors import Fault, StokerError

BATCH_MESSAGES = 500
BATCH_BYTES_MAX = 4 * 1024 * 1024
COUNTED_BYTES = 1024 * 1024
KEY_FILE = "secrets.key"

Progress = Callable[[int, int], None]
"""Is told how many bytes are through, of how many."""


class RestoreRefused(StokerError):
    """There is something in the way, or the key is not the one."""

    code, fault = "restore.refused", Fault.CALLER


@dataclass(frozen=True, slots=True)
class Restored:
    """What was made."""

    head: Head
    manifest: Manifest
    sealed: int
    """Secrets that no key came for."""


def check(file: Path, on_progress: Progress = lambda _done, _total: None) -> tuple[Head, Manifest]:
    """Return what a backup holds, once all of it was read and is as it was written.

    Raises BackupDamaged, OSError.
    """
    head: Head | None = None
    manifest: Manifest | None = None
    for item in _items(file, on_progress):
        if isinstance(item, Head):
            head = item
        elif isinstance(item, Manifest):
            manifest = item
    assert head is not None
    assert manifest is not None
    return head, manifest


def require_empty(data: Path) -> None:
    """Raise RestoreRefused unless a data directory is missing or empty."""
    if not data.exists():
        return
    if not data.is_dir():
        raise RestoreRefused(f"{data} is no directory")
    if not any(data.iterdir()):
        return
    has_store = any((data / name).exists() for name in ("store.json", "store.mark", "nats"))
    raise RestoreRefused(
        f"the data directory {data} " + ("has a store already" if has_store else "is not empty"),
        hint=f"move it aside (mv {data} {data}.before), or restore to another one with --data DIR",
    )


async def restore(
    file: Path, data: Path, key: Path | None, on_progress: Progress = lambda _done, _total: None
) -> Restored:
    """Make the data directory `data` of a backup that `check` has found good.

    `key` is the file with the key that opens its secrets. Raises RestoreRefused, WrongSetting for a file that
    holds no key, and what opening a store and writing to it raises; there is nothing at `data` then.
    """
    require_empty(data)
    building = data.with_name(data.name + ".restoring")
    try:
        building.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        raise RestoreRefused(
            f"{building} is there: another restore is at work, or was cut short",
            hint=f"if none runs: rm -r {building}",
        ) from None
    try:
        async with private_store(building) as store:
            head, manifest = await _fill(store, _items(file, on_progress))
            await _check_store(store, manifest)
        sealed = _place_key(building, key, manifest)
        _put(building, data)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return Restored(head, manifest, sealed)


async def _fill(store: PrivateStore, items: Iterator[Item]) -> tuple[Head, Manifest]:
    """Write all that a backup holds."""
    head = next(items)
    assert isinstance(head, Head)
    for item in items:
        if isinstance(item, Manifest):
            return head, item
        assert isinstance(item, Part)
        if item.kind == format.CATALOG:
            await _fill_catalog(store, items)
        elif item.kind == format.INVOCATIONS:
            await _fill_invocations(store, items)
        elif item.kind == format.CONTENT:
            await _fill_content(store, item, items)
        else:
            raise BackupDamaged(f"the backup is damaged: it has a part {item.kind!r}")
    raise AssertionError("a reader of backups ends with the manifest")


async def _fill_catalog(store: PrivateStore, items: Iterator[Item]) -> None:
    for batch in _batches(items):
        after = store.guard.mark.sequence
        sequences = await store.log.append_batch([(subject, data, None) for subject, data in batch])
        if sequences != list(range(after + 1, after + 1 + len(batch))):
            raise StokerError("an event came to another place than it had")  # its revision would be another


async def _fill_invocations(store: PrivateStore, items: Iterator[Item]) -> None:
    for batch in _batches(items):
        await store.invocations.write([Write(subject, data) for subject, data in batch])


async def _fill_content(store: PrivateStore, part: Part, items: Iterator[Item]) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for piece in _pieces(items):
            yield piece

    digest, _ = await store.blobs.put_stream(part.account, pieces())
    if digest != part.digest:
        raise BackupDamaged(f"the backup is damaged: {part} has another digest")


async def _check_store(store: PrivateStore, manifest: Manifest) -> None:
    """Read the catalog back, and see that every content that it refers to is there."""
    fold = Fold()
    await store.log.replay(lambda event: fold.apply(event.subject, event.data, event.sequence))
    contents = fold.references.all()
    bad: list[str] = []
    await (
        await store.guard.verify(
            store.blobs, contents, bytes_max=0, on_damage=lambda _account, _digest, what: bad.append(what)
        )
    )
    if bad:
        raise StokerError(f"what was written cannot be read back: {bad[0]}")
    messages = store.invocations.last_sequence
    found = (store.guard.mark.sequence, messages, len(contents))
    if found != (manifest.events, manifest.messages, manifest.contents):
        raise BackupDamaged(f"the backup is damaged: it holds {found}, and its manifest says otherwise")


def _batches(items: Iterator[Item]) -> Iterator[list[tuple[str, bytes]]]:
    """Yield the messages of the part that was begun, some at a time."""
    batch: list[tuple[str, bytes]] = []
    size = 0
    for piece in _pieces(items):
        if batch and (len(batch) == BATCH_MESSAGES or size + len(piece) > BATCH_BYTES_MAX):
            yield batch
            batch, size = [], 0
        batch.append(format.message_in(piece))
        size += len(piece)
    if batch:
        yield batch


def _pieces(items: Iterator[Item]) -> Iterator[bytes]:
    for item in items:
        if isinstance(item, PartEnd):
            return
        assert isinstance(item, bytes)
        yield item


def _items(file: Path, on_progress: Progress) -> Iterator[Item]:
    with file.open("rb") as stream:
        total, told = os.fstat(stream.fileno()).st_size, -1
        for item in format.read(stream):
            yield item
            done = stream.tell()
            if done // COUNTED_BYTES != told:
                told = done // COUNTED_BYTES
                on_progress(done, total)
        on_progress(total, total)


def _place_key(building: Path, key: Path | None, manifest: Manifest) -> int:
    """Put the key where the server looks for it; return how many secrets no key came for."""
    count = sum(manifest.secrets.values())
    if key is None:
        return count
    seal = seal_of(key, "--key")
    if count and seal.key_id not in manifest.secrets:
        raise RestoreRefused(
            f"{key} holds another key than the one that seals the secrets of this backup",
            hint="without --key they are restored as they are, sealed",
        )
    write_private(building / KEY_FILE, key.read_text())
    return count - manifest.secrets.get(seal.key_id, 0)


def _put(building: Path, data: Path) -> None:
    """Have the directory at its place from one moment to the next, for good."""
    if data.exists() and os.geteuid() == 0:
        owner = data.stat()
        hand_over(building, Identity(owner.st_uid, owner.st_gid))
    _sync(building)
    try:
        building.rename(data)  # over an empty directory too
    except OSError as error:
        raise RestoreRefused(
            f"{data} cannot be put in place: {error.strerror}",
            hint="restore to a directory that is not there yet, with --data DIR",
        ) from None
    _sync(data.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Code folders: from the digests of a function's items to the unpacked folder that its instances see.

Owns the folders below one directory, each built once and never changed after. Does not know functions,
versions or where contents are stored. Not durable: after a power cut files may be torn, so a server wipes
all of it at its start (`clear`).
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
import shutil
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from stoker.model.errors import InvalidRequest, PlatformError, StorageFull
from stoker.model.function import Asset
from stoker.model.limits import KIB, Limits, for_stored
from stoker.worker.code_tree import build

Fetch = Callable[[str], Awaitable[bytes]]

ON_LOOP_FILES_MAX, ON_LOOP_BYTES_MAX = 3, 64 * KIB
"""What is written without a thread: 0.2 ms, less than handing it to one under load."""
_FULL = (errno.ENOSPC, errno.EDQUOT)


def folder_name(assets: Sequence[Asset]) -> str:
    """Return the name of the folder of these items in this order: 64 hexadecimal digits."""
    manifest = [[asset.name, asset.kind, asset.digest] for asset in assets]
    return hashlib.sha256(json.dumps(manifest).encode()).hexdigest()


class CodeCache:
    """The unpacked folders of this worker. To be used from one event loop."""

    def __init__(self, root: Path, *, limits: Limits) -> None:
        self._root = root
        self._limits = limits
        self._sizes: OrderedDict[str, int] = OrderedDict()
        """Bytes of each complete folder, the least recently used first."""
        self._building: dict[str, asyncio.Task[Path]] = {}
        self._attempts = 0

    def clear(self) -> None:
        """Remove everything, whoever left it, and make the root anew; for the start of a server."""
        shutil.rmtree(self._root, ignore_errors=True)
        self._root.mkdir(parents=True, exist_ok=True)
        self._root.chmod(0o755)
        self._sizes.clear()

    def contains(self, assets: Sequence[Asset]) -> bool:
        """Tell whether the folder of these items is complete."""
        return folder_name(assets) in self._sizes

    async def folder(self, assets: tuple[Asset, ...], fetch: Fetch, *, new: bool = False) -> Path:
        """Return the complete, never-changing folder of these items, world-readable.

        Code that is `new` is held against the limits; what is stored was within them when it came, and they
        may have been wider then. `fetch` returns the content of a digest. Calls for the same items build it
        once; one that is cancelled leaves it to the others. Raises InvalidRequest with the field of the item
        for what may not be unpacked, StorageFull, and what `fetch` raises.
        """
        name = folder_name(assets)
        if name in self._sizes:
            self._sizes.move_to_end(name)
            return self._root / name
        task = self._building.get(name)
        if task is None:
            limits = self._limits if new else for_stored(self._limits)
            task = asyncio.create_task(self._build(name, assets, fetch, limits), name=f"code {name[:12]}")
            self._building[name] = task
            task.add_done_callback(lambda ended: self._built(name, ended))
        return await asyncio.shield(task)

    async def trim(self, keep: set[str], bytes_max: int) -> None:
        """Remove folders, the least recently used first, until all have at most `bytes_max`.

        `keep` holds the names of the folders that something uses or is about to; they always stay.
        """
        total = sum(self._sizes.values())
        gone: list[Path] = []
        for name in list(self._sizes):
            if total <= bytes_max:
                break
            if name in keep:
                continue
            total -= self._sizes.pop(name)
            self._attempts += 1
            # Under its name it is complete or not there, also for one that builds it again meanwhile.
            aside = self._root / f".gone-{self._attempts}"
            (self._root / name).rename(aside)
            gone.append(aside)
        for path in gone:
            await asyncio.to_thread(shutil.rmtree, path)

    async def close(self) -> None:
        """Wait for what is being built."""
        await asyncio.gather(*self._building.values(), return_exceptions=True)

    def _built(self, name: str, task: asyncio.Task[Path]) -> None:
        del self._building[name]
        if not task.cancelled():
            task.exception()  # each caller gets it; taken here too, as all of them may have been cancelled

    async def _build(self, name: str, assets: tuple[Asset, ...], fetch: Fetch, limits: Limits) -> Path:
        if sum(asset.size_bytes for asset in assets) > limits.code_bytes_max:
            raise InvalidRequest(
                f"all items have more than {limits.code_bytes_max} bytes", field="/compute_asset/assets"
            )
        items = [(asset.name, asset.kind, await fetch(asset.digest)) for asset in assets]
        self._attempts += 1
        attempt = self._attempts
        small = len(items) <= ON_LOOP_FILES_MAX and sum(len(item[2]) for item in items) <= ON_LOOP_BYTES_MAX
        if small and all(kind != "archive" for _, kind, _ in items):
            size = self._unpack(items, attempt, name, limits)
        else:
            size = await asyncio.to_thread(self._unpack, items, attempt, name, limits)
        self._sizes[name] = size
        return self._root / name

    def _unpack(self, items: list[tuple[str, str, bytes]], attempt: int, name: str, limits: Limits) -> int:
        work, spool = self._root / f".new-{attempt}", self._root / f".spool-{attempt}"
        try:
            size = build(items, work, spool, limits=limits)
            os.rename(work, self._root / name)
        except BaseException as error:
            shutil.rmtree(work, ignore_errors=True)
            if not isinstance(error, OSError):
                raise
            if error.errno in _FULL:
                raise StorageFull("the disk is full") from error
            raise PlatformError("the code could not be unpacked") from error
        finally:
            if spool.exists():
                shutil.rmtree(spool, ignore_errors=True)
        return size

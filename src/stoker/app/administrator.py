"""The administrator's token of account `default`: given by the operator, or made at the first start.

Owns `DATA/token`, where the command line on the same machine finds it. Does not know requests.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from stoker.app.private_file import write_private
from stoker.catalog import events
from stoker.catalog.fold import Fold
from stoker.catalog.journal import Log
from stoker.catalog.principal import ALL_SCOPES
from stoker.catalog.stored import DEFAULT_ACCOUNT, StoredToken
from stoker.catalog.tokens import ADMINISTRATOR_ID, digest_of, new_token


async def ensure_administrator(
    fold: Fold, log: Log, file: Path, given: str | None, *, now_ms: Callable[[], int]
) -> str | None:
    """See to it that the administrator has a token, stored as its hash.

    `given` replaces the one before. If none was ever given, one is made and kept in `file` (0600), and its
    text is returned the first time; else None.
    """
    stored = fold.tenants.token(DEFAULT_ACCOUNT, ADMINISTRATOR_ID)
    kept = _read(file)
    if given is not None:
        await _store(fold, log, stored, given, now_ms)
        if kept is not None and kept != given:
            file.unlink()  # noqa: ASYNC240 - before serving. It opens nothing any more, and the command line must not try it
        return None
    if stored is not None:
        return None
    token = kept or new_token()
    if kept is None:
        # before its hash is stored: a crash in between must not lock everybody out
        write_private(file, token + "\n")
    await _store(fold, log, None, token, now_ms)
    return token


async def _store(
    fold: Fold, log: Log, stored: StoredToken | None, token: str, now_ms: Callable[[], int]
) -> None:
    digest = digest_of(token.encode())
    if stored is not None and stored.digest == digest:
        return
    subject = str(events.token_key(DEFAULT_ACCOUNT, ADMINISTRATOR_ID))
    data = events.encode(
        "created", now_ms(), name="administrator", digest=digest.hex(), scopes=sorted(ALL_SCOPES)
    )
    sequence = await log.append(subject, data, expected=stored.revision if stored else 0)
    fold.apply(subject, data, sequence)


def _read(file: Path) -> str | None:
    try:
        return file.read_text().strip() or None
    except FileNotFoundError:
        return None

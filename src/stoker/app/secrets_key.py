"""The key that seals secrets: `DATA/secrets.key`, or a file that the operator names.

Owns that file. Does not know what is sealed. Without it nobody opens the secrets again: a backup of the data
directory is worth as much as this file beside it, and apart from it reveals none.
"""

from __future__ import annotations

import base64
import binascii
import os
from pathlib import Path

from stoker.app.private_file import write_private
from stoker.app.settings import WrongSetting
from stoker.catalog.sealing import KEY_BYTES, Seal


def own_seal(data: Path) -> Seal:
    """Return what seals with the key of a data directory, which is made at the first start.

    Raises WrongSetting for a file that holds no key.
    """
    file = data / "secrets.key"
    if not file.exists():
        write_private(file, base64.b64encode(os.urandom(KEY_BYTES)).decode() + "\n")
    return seal_of(file)


def seal_of(file: Path, option: str = "--secrets-key") -> Seal:
    """Return what seals with the key in a file, which came by an option of that name.

    Raises WrongSetting if it cannot be read or holds none.
    """
    try:
        key = base64.b64decode(file.read_text().strip(), validate=True)
    except OSError as error:
        raise WrongSetting(f"{option} {file}: {error.strerror}") from None
    except (UnicodeDecodeError, binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise WrongSetting(
            f"{option} {file}: it is to hold {KEY_BYTES} random bytes in base64",
            hint=f"head -c {KEY_BYTES} /dev/urandom | base64 > FILE; chmod 600 FILE",
        )
    return Seal(key)

"""Trust: which certificate authorities vouch for servers that secrets are sent to.

This machine's, as OpenSSL finds them (`SSL_CERT_FILE`, `SSL_CERT_DIR`); where it has none, a file that the
server brings along. Does not know who is connected to. Standard library only.
"""

from __future__ import annotations

import codecs
import os
import ssl


def trusting(spare: str) -> ssl.SSLContext:
    """Return what checks certificates and names; `spare` is the file for a machine without authorities."""
    codecs.lookup("idna")  # every name is put through it; its module may not be there to be read any more
    context = ssl.create_default_context()
    if spare and not _has_authorities():
        context.load_verify_locations(spare)
    return context


def _has_authorities() -> bool:
    found: tuple[str | None, ...] = ssl.get_default_verify_paths()
    file, folder = found[:2]
    return file is not None or (folder is not None and bool(os.listdir(folder)))

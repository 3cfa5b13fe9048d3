"""Archives for tests, made by the standard library as a user's tools would make them."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile

Member = tuple[tarfile.TarInfo, bytes]


def zip_of(*members: tuple[str, bytes, int], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return a zip of (name, content, mode with its file type)."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content, mode in members:
            info = zipfile.ZipInfo(name)
            info.external_attr, info.compress_type = mode << 16, method
            archive.writestr(info, content)
    return out.getvalue()


def member(
    name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, mode: int = 0o644, target: str = ""
) -> Member:
    """Return an entry for a tar."""
    info = tarfile.TarInfo(name)
    info.type, info.size, info.mode, info.linkname = kind, len(content), mode, target
    return info, content


def tar_of(*members: Member, form: int = tarfile.PAX_FORMAT) -> bytes:
    """Return a tar of its entries."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def tgz_of(*members: Member) -> bytes:
    """Return a tar.gz of its entries."""
    return gzip.compress(tar_of(*members))

"""gzip and zip as sources deliver them: one file in each, known by its first bytes and not by its name."""

from __future__ import annotations

import io
import zipfile
import zlib

from fhir_writeback_dagster.errors import ExtractRefused
from fhir_writeback_dagster.ingest.readers.limits import MAX_FILE

_GZIP, _ZIP = b"\x1f\x8b", b"PK\x03\x04"
_AGAIN = "deliver the whole file again"
#: How much more may come out than went in. Real tables shrink to a tenth or twentieth; deflate makes up to 1,032 of one byte.
RATIO = 50
_FREE = 1024 * 1024


def decompress(data: bytes) -> bytes:
    """What is in a gzip or zip file; anything else as it is.

    :raises ExtractRefused: it is cut or broken, holds several files or none, is encrypted, or grows beyond all measure.
    """
    limit = min(MAX_FILE, _FREE + RATIO * len(data))
    if data.startswith(_GZIP):
        return _gunzip(data, limit)
    if data.startswith(_ZIP):
        return _unzip(data, limit)
    return data


def _gunzip(data: bytes, limit: int) -> bytes:
    """All members one after the other (RFC 1952, 2.2)."""
    out = bytearray()
    while data:
        member = zlib.decompressobj(wbits=31)
        try:
            out += member.decompress(data, limit - len(out) + 1)
        except zlib.error:
            raise _broken() from None
        if len(out) > limit:
            raise _too_large(limit)
        if not member.eof:
            raise _cut(len(data))
        data = member.unused_data.lstrip(b"\0")  # tape drives pad with zeros
    return bytes(out)


def _unzip(data: bytes, limit: int) -> bytes:
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        raise _cut(len(data)) from None
    with archive:
        members = [info for info in archive.infolist() if not (info.is_dir() or info.filename.startswith("__MACOSX/"))]
        if len(members) != 1:
            raise ExtractRefused("bad_archive", f"{len(members)} files in one zip", fix="one file in each zip")
        if members[0].flag_bits & 1:
            raise ExtractRefused("bad_archive", "the zip is encrypted", fix="deliver it without a password")
        if members[0].file_size > limit:
            raise _too_large(limit)
        try:
            with archive.open(members[0]) as file:
                found = file.read(limit + 1)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError, ValueError):
            raise _broken() from None
    if len(found) > limit:
        raise _too_large(limit)
    return found


def _too_large(limit: int) -> ExtractRefused:
    return ExtractRefused(
        "file_too_large", f"more than {limit} bytes when decompressed", fix="deliver it in parts, or not compressed"
    )


def _broken() -> ExtractRefused:
    return ExtractRefused("bad_archive", "what is compressed cannot be read", fix=_AGAIN)


def _cut(at: int) -> ExtractRefused:
    return ExtractRefused("truncated", "the compressed file's end is missing", byte=at, fix=_AGAIN)

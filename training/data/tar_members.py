"""The files of a tar archive, read as a stream, within limits of memory and time: an archive may state or expand to
any size."""

import io
import tarfile
from collections.abc import Callable, Iterator
from typing import BinaryIO

MAX_MEMBER_BYTES = 512 << 20  # of a file in an archive; it may be changed
_MAX_HEADER_BYTES = 16 << 20  # of long names and other extended headers
_MAX_SKIPPED_BYTES = 4 << 30  # of a file that is not read
_CHUNK_SIZE = 1 << 20


class MemberError(ValueError):
    """A file in an archive can't be read, but those after it can."""


def read_members(
    stream: BinaryIO, max_bytes: Callable[[str], int | None]
) -> Iterator[tuple[str, bytes | MemberError]]:
    """The files of a tar archive, compressed or not, in order.

    Args:
        stream: a file opened for reading; it needs no `seek`.
        max_bytes: largest size of a file of this name; None leaves its content out (empty).

    Yields:
        Name and content of each file. Bytes of a name that are not UTF-8 are escaped as `\\xff`.

    Raises:
        Exception: the rest of the archive can't be read. Damaged archives raise exceptions of many kinds.
    """
    with _Archive.open(fileobj=stream, mode="r|*") as archive:
        for member in archive:
            if member.isfile():
                name = member.name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
                limit = max_bytes(name)
                if limit is None:
                    yield name, b""
                elif member.size > limit:
                    yield name, MemberError(f"it has {member.size:,} bytes, more than the limit of {limit:,}")
                else:
                    yield name, _content(archive, member)
            _skip(archive)
        # at a damaged header tarfile ends as at the end of the archive, which is a block of zeros
        if archive.fileobj.last.strip(b"\0"):
            raise tarfile.ReadError("a header is damaged")
        if not archive.fileobj.last:
            raise tarfile.ReadError("it ends without the mark of its end")
        while rest := archive.fileobj.read(_CHUNK_SIZE):
            if rest.strip(b"\0"):
                raise tarfile.ReadError("the mark of its end is followed by other data")


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    content, file = io.BytesIO(), archive.extractfile(member)
    while chunk := file.read(_CHUNK_SIZE):
        content.write(chunk)
    return content.getvalue()  # without a copy


def _skip(archive: tarfile.TarFile) -> None:
    """Reads up to the next header; tarfile would go on to read for the size that is stated, after the end too."""
    left = archive.offset - archive.fileobj.tell()
    if left > _MAX_SKIPPED_BYTES:
        raise tarfile.ReadError(f"the next file would be {left:,} bytes further")
    while left > 0:
        count = len(archive.fileobj.read(min(left, _CHUNK_SIZE)))
        if count == 0:
            raise tarfile.ReadError("unexpected end of data")
        left -= count


class _Archive(tarfile.TarFile):
    """An archive whose headers are limited in size: tarfile reads long names and extended headers at once."""

    def __init__(self, name: str | None, mode: str, fileobj: BinaryIO, **options):
        super().__init__(name, mode, _LimitedReads(fileobj), **options)


class _LimitedReads:
    def __init__(self, stream: BinaryIO):
        self.last = b""  # what was read last
        self._read, self.tell, self.seek, self.close = stream.read, stream.tell, stream.seek, stream.close

    def read(self, size: int) -> bytes:
        if size > _MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header states a size of {size:,} bytes")
        self.last = self._read(size)
        return self.last

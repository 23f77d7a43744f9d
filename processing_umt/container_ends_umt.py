"""Whether a video file ends before the end that it states: it was cut off, by an interrupted download or copy.

Only frames count: a file whose frames are complete, and whose index behind them is cut off, is complete. A recorder
that cannot return to the header leaves its sizes 0, all ones or marked as unknown; such a file ends where it ends, and
so does one of a format that states nothing (MPEG program and transport streams, raw streams). Bytes after the end
do not matter. MP4 is not handled here: it cannot be opened without its index, which states every frame.
"""

import struct
from collections.abc import Callable, Iterator

ReadAt = Callable[[int, int], bytes]  # offset and number of bytes → bytes, fewer at the end of the file

_UNKNOWN = (0, 0xFFFFFFFF)
_EBML, _SEGMENT, _CLUSTER = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75"  # Matroska and WebM
_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_MXF_PARTITION = bytes.fromhex("060e2b34020501010d01020101")
_REAL_MEDIA_EXCESS = 10  # bytes: FFmpeg counts a part of the header twice
_NUT_INDEX, _NUT_TAIL = bytes.fromhex("4e58dd672f23e64e"), 4 << 20  # bytes that contain the longest index
_MAX_OGG_PAGE = 65307  # bytes
_GIF_IMAGE, _GIF_EXTENSION = b",", b"!"


def ends_early(read_at: ReadAt, size: int) -> bool:
    """Whether the frames of a file end before the end that it states.

    Args:
        read_at: reads the file.
        size: of the file in bytes.
    """

    def read(at: int, count: int) -> bytes:
        return read_at(at, count) if at < size else b""  # a damaged header may state any position

    head = read(0, 16)
    for magic, rule in _RULES.items():
        if head.startswith(magic):
            try:
                return rule(read, size)
            except (struct.error, IndexError):  # it ends within its header
                return True
    return False


def _avi_ends_early(read_at: ReadAt, size: int) -> bool:
    """The list of frames in every RIFF chunk; a large file has several."""
    at = 0
    while (head := read_at(at, 8))[:4] == b"RIFF":
        length = _number("<I", head, 4)
        if length in _UNKNOWN:
            return False
        end = at + 8 + length + length % 2
        for frames, kind, frames_length in _riff_chunks(read_at, at + 12, min(end, size)):
            if kind == b"LIST" and read_at(frames, 4) == b"movi":
                if frames_length in _UNKNOWN:
                    return False
                break
        else:
            return end > size
        if frames + frames_length > size:
            return True
        at = end
    return False


def _riff_chunks(read_at: ReadAt, at: int, end: int) -> Iterator[tuple[int, bytes, int]]:
    """Offset of the contents, name and length of the contents of each chunk."""
    while at + 12 <= end:
        name, length = struct.unpack("<4sI", read_at(at, 8))
        yield at + 8, name, length
        at += 8 + length + length % 2


def _matroska_ends_early(read_at: ReadAt, size: int) -> bool:
    """The segment; if only an element after its clusters is cut off (the index, tags), the frames are complete."""
    head = read_at(0, 1024)
    segment = head.find(_SEGMENT)
    if segment < 0:
        return False
    at = segment + len(_SEGMENT)
    length, contents = _matroska_length(read_at, at)
    if length is None or contents + length <= size:
        return False
    at, kind = contents, b""
    while at < size:
        kind = read_at(at, 4)
        kind = kind[: 9 - kind[0].bit_length()]
        length, contents = _matroska_length(read_at, at + len(kind))
        if length is None:
            return True
        at = contents + length
    return kind == _CLUSTER or at == size


def _matroska_length(read_at: ReadAt, at: int) -> tuple[int | None, int]:
    """The length of an element, None if it is unknown, and the offset of its contents."""
    field = read_at(at, 8)
    count = 9 - field[0].bit_length()  # one more than the leading zeros of the first byte
    unknown = (1 << 7 * count) - 1  # written by live recorders
    length = int.from_bytes(field[:count], "big") & unknown
    return None if length == unknown else length, at + count


def _asf_ends_early(read_at: ReadAt, size: int) -> bool:
    """The data object, which follows the header object and precedes the index."""
    header_length, count = struct.unpack("<QI", read_at(16, 12))
    at = 30
    for _ in range(min(count, 100)):
        if read_at(at, 16) == _ASF_PROPERTIES:
            is_broadcast = _number("<I", read_at(at, 92), 88) & 1
            if is_broadcast or _number("<Q", read_at(at, 48), 40) == 0:
                return False
        at += max(_number("<Q", read_at(at, 24), 16), 24)
    return header_length + _number("<Q", read_at(header_length, 24), 16) > size


def _gif_ends_early(read_at: ReadAt, size: int) -> bool:
    """The trailer, which follows the last block."""
    read = _Buffered(read_at)
    at = 13 + _gif_palette(read(10, 1))
    while at < size:
        kind = read(at, 1)
        if kind == _GIF_IMAGE:
            at += 11 + _gif_palette(read(at + 9, 1))
        elif kind == _GIF_EXTENSION:
            at += 2
        else:
            return False  # the trailer, or damage
        while at < size and (length := read(at, 1)[0]):
            at += 1 + length
        at += 1
    return True


def _gif_palette(flags: bytes) -> int:
    """Number of bytes of a colour table."""
    return 3 << (flags[0] & 7) + 1 if flags[0] & 128 else 0


class _Buffered:
    """Reads small pieces from larger ones."""

    def __init__(self, read_at: ReadAt):
        self.read_at, self.start, self.block = read_at, 0, b""

    def __call__(self, at: int, count: int) -> bytes:
        if not self.start <= at <= self.start + len(self.block) - count:
            self.start, self.block = at, self.read_at(at, 1 << 20)
        return self.block[at - self.start : at - self.start + count]


def _ogg_ends_early(read_at: ReadAt, size: int) -> bool:
    """The last page must be complete and the last one of its stream."""
    start = max(0, size - 2 * _MAX_OGG_PAGE)
    tail = read_at(start, size - start)
    page = tail.rfind(b"OggS")
    if page < 0:
        return False
    is_last, num_segments = tail[page + 5] & 4, tail[page + 26]
    end = page + 27 + num_segments + sum(tail[page + 27 : page + 27 + num_segments])
    return not is_last or end > len(tail)


def _real_media_ends_early(read_at: ReadAt, size: int) -> bool:
    """The data chunk, which precedes the index."""
    at = 0
    while at < size:
        name, length = struct.unpack(">4sI", read_at(at, 8))
        if name == b"DATA":
            return at + length - _REAL_MEDIA_EXCESS > size
        at += max(length, 8)
    return True


def _flash_ends_early(read_at: ReadAt, size: int) -> bool:
    """The size of the file in its metadata."""
    head = read_at(0, 1 << 16)
    key = b"filesize\0"
    at = head.find(key)
    return at >= 0 and _number(">d", head, at + len(key)) > size


def _mxf_ends_early(read_at: ReadAt, size: int) -> bool:
    """The position of the last partition, which contains the index."""
    head = read_at(0, 64)
    length_size = 1 + (head[16] & 127 if head[16] & 128 else 0)
    return _number(">Q", head, 16 + length_size + 24) > size


def _nut_ends_early(read_at: ReadAt, size: int) -> bool:
    """The index, which every writer puts at the end."""
    start = max(0, size - _NUT_TAIL)
    return _NUT_INDEX not in read_at(start, size - start)


def _number(layout: str, data: bytes, at: int) -> int | float:
    return struct.unpack_from(layout, data, at)[0]


_RULES = {
    b"RIFF": _avi_ends_early,
    _EBML: _matroska_ends_early,
    _ASF_HEADER: _asf_ends_early,
    b"GIF8": _gif_ends_early,
    b"OggS": _ogg_ends_early,
    b".RMF": _real_media_ends_early,
    b"FLV": _flash_ends_early,
    b"nut/multimedia c": _nut_ends_early,
    _MXF_PARTITION: _mxf_ends_early,
}

"""What the packets of a video state about its frames: where decoding may start, which packets may be skipped, and
whether their times give the order of the frames. Nothing is decoded here.

Unusual: the keyframes of a container are not enough. In H.264 with gradual intra refresh they are recovery points,
from which the picture becomes right only after several frames (ITU-T H.264, D.2.8), so that decoding from there shows
other frames than decoding in order; and a demuxer that knows nothing about a codec (H.261 and H.263 in AVI) marks
every packet. Only packets from which decoding is exact at once are entries.
"""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

_MAX_EMPTY_VOP = 19  # MPEG-4 part 2: a packet up to this size may represent a frame that is not shown
_H264_IDR, _H264_SEI, _RECOVERY_POINT = 5, 6, 6  # types of NAL units, and of an SEI message


def is_entry(codec: str, extradata: bytes, packet: bytes) -> bool:
    """Whether decoding may start at a packet that the container marks as a keyframe.

    H.264: an IDR picture, or a recovery point that is exact at once. HEVC: an intra random access picture. In other
    codecs a keyframe resets the decoder.

    Args:
        codec: name of the codec.
        extradata: its configuration, which states how NAL units are separated; may be empty.
        packet: contents of the packet.
    """
    if codec == "h264":
        # avcC: NAL units follow their length
        length_size = (extradata[4] & 3) + 1 if len(extradata) > 4 and extradata[0] == 1 else 0
        recovers = False
        for unit in _nal_units(packet, length_size):
            kind = unit[0] & 31
            if kind == _H264_SEI:
                recovers = recovers or _recovers_at_once(unit[1:])
            elif 1 <= kind <= _H264_IDR:
                return recovers or kind == _H264_IDR
        return False
    if codec == "hevc":
        length_size = (extradata[21] & 3) + 1 if len(extradata) > 21 and extradata[0] == 1 else 0
        kinds = (unit[0] >> 1 & 63 for unit in _nal_units(packet, length_size))
        return 16 <= next((kind for kind in kinds if kind < 32), 0) <= 21
    return True


def keyframes_are_unknown(codec: str, is_intra_only: bool, entries: Sequence[bool]) -> bool:
    """Whether a demuxer marks every packet as a keyframe although the codec has other frames, and `is_entry` does not
    find out which they are. FFmpeg does not list PNG among the codecs without other frames."""
    return all(entries) and not is_intra_only and codec not in ("h264", "hevc", "png")


def _nal_units(packet: bytes, length_size: int) -> Iterator[bytes]:
    """The NAL units of a packet, each preceded by its length, or by a start code if `length_size` is 0."""
    if length_size:
        at = 0
        while at + length_size < len(packet):
            begin = at + length_size
            at = begin + int.from_bytes(packet[at:begin], "big")
            if at > begin:
                yield packet[begin:at]
    else:
        begin = packet.find(b"\0\0\1") + 3
        while 3 <= begin < len(packet):
            end = packet.find(b"\0\0\1", begin)
            yield packet[begin : end if end >= 0 else len(packet)]
            begin = end + 3


def _recovers_at_once(messages: bytes) -> bool:
    """Whether SEI messages contain a recovery point with `recovery_frame_cnt` 0 and `exact_match_flag` 1."""
    messages, at = messages.replace(b"\0\0\3", b"\0\0"), 0
    while at + 2 < len(messages):
        numbers = []
        for _ in ("type", "size"):
            number = 0
            while at < len(messages) and messages[at] == 255:
                number, at = number + 255, at + 1
            numbers.append(number + messages[at] if at < len(messages) else 0)
            at += 1
        if numbers[0] == _RECOVERY_POINT:
            return at < len(messages) and messages[at] >> 6 == 0b11  # ue(0) is a single 1, followed by the flag
        at += numbers[1]
    return False


def non_reference_frames_can_be_skipped(codec: str, extradata: bytes) -> bool:
    """Whether the decoder recognises non-reference frames and can skip them packet by packet."""
    if codec == "hevc":
        # higher temporal layers may reference such frames, so there must be one layer: bits 3 to 5 of byte 21 of hvcC
        return len(extradata) > 22 and extradata[0] == 1 and extradata[21] >> 3 & 7 == 1
    return codec in ("h264", "mpeg4", "mpeg2video")


def times_are_reliable(
    pts: Sequence[int | None],
    dts: Sequence[int | None],
    entries: Sequence[bool],
    shown: np.ndarray,
    smallest: int,
    codec: str,
    reorders: bool,
    has_fields: bool,
) -> bool:
    """Whether every packet that is not hidden is one frame, and presentation times give the order of frames.

    Args:
        pts, dts: presentation and decoding time of every packet.
        entries: whether decoding may start at the packet.
        shown: indices of the packets that no edit list hides.
        smallest: size of the smallest packet in bytes.
        codec: name of the codec.
        reorders, has_fields: whether the stream has reordered frames, or pictures of two fields.
    """
    if None in pts or len(set(pts)) < len(pts):
        return False  # AVI with reordered frames, raw streams
    if reorders and all(earlier < later for earlier, later in itertools.pairwise(pts)):
        return False  # the muxer stored decoding times, unless nothing is reordered after all
    known = [time for time in dts if time is not None]
    if any(later < earlier for earlier, later in itertools.pairwise(known)):
        return False  # joined recordings
    if not entries[0] or any(pts[packet] < pts[0] for packet in shown):
        return False  # starts within a GOP: the first frames may not be decodable
    if codec in ("h264", "hevc") and has_fields:
        return False  # a packet may be a single field
    if codec == "mpeg4":
        return smallest > _MAX_EMPTY_VOP
    return codec != "vp8"  # VP8 has packets of frames that are never shown

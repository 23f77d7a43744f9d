"""Videos: odd, with gradual refresh, damaged, cut off, and with headers that state too much.

The reference is plain decoding in order with PyAV of the intact file. A frame that the reader returns must be that
frame, or else there must be an error that names the file.
"""

import functools
import itertools
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np

from processing_umt.video_decoding_umt import VideoDecodeError, VideoReader
from umt_training.data.video_checks import check_video

from ..robustness_cases import Case, Wrong
from .video_files import PAIRS, REFRESH, VARIANTS, Clip, Decoded, decode_in_order, write


def build(folder: Path, seed: int) -> list[Case]:
    """The files are made by the cases that need them."""
    return [
        *(_intact(name, "odd videos", clip) for name, clip in (PAIRS | VARIANTS).items()),
        *(_intact(f"refresh-{name}", "intra refresh", clip) for name, clip in REFRESH.items()),
        *_damaged(seed),
        *_truncated(),
        *_bombs(),
    ]


def _number(name: str) -> int:
    return zlib.crc32(name.encode())


def _intact(name: str, kind: str, clip: Clip) -> Case:
    def run(folder: Path) -> str:
        path = write(folder / name, clip)
        reference = decode_in_order(path).frames
        generator = np.random.default_rng(_number(name))
        with VideoReader(path) as reader:
            if reader.num_frames != len(reference):
                raise Wrong(f"{reader.num_frames} frames instead of {len(reference)}")
            for count in (1, 1, 1, 3, 8, len(reference)):
                indices = generator.integers(0, len(reference), count)
                for index, frame in zip(indices, reader.read(indices), strict=True):
                    if not np.array_equal(frame, reference[index]):
                        raise Wrong(f"frame {index} of {indices} differs")
        if (check := check_video(str(path), name, full=True)).reason:
            raise Wrong(f"check_video reports: {check.message}")
        return "right"

    return Case(name, kind, run)


def _frames_read(path: Path) -> tuple[dict[int, np.ndarray], np.ndarray, str]:
    """The frames that the reader returns, one at a time and all together, their times, and the last error."""
    frames, message = {}, ""
    try:
        with VideoReader(path) as reader:
            times = reader.timestamps
            for index in range(reader.num_frames):
                try:
                    frames[index] = reader.read([index])[0]
                except VideoDecodeError as error:
                    message = str(error)
    except VideoDecodeError as error:
        message, times = str(error), np.empty(0)
    if message and str(path) not in message:
        raise Wrong(f"the message does not name the file: {message}")
    return frames, times, message


def _at(times: list[float | None], time: float, index: int) -> list[int]:
    """The indices of frames at a time or, as times may be missing or change, at an index."""
    known = np.array([np.nan if time is None else time for time in times])
    return [int(number) for number in {index, *np.flatnonzero(np.abs(known - time) < 1e-3)} if number < len(times)]


def _is_any(frame: np.ndarray, decoded: Decoded, indices: list[int]) -> bool:
    return any(np.array_equal(frame, decoded.frames[number]) for number in indices)


def _match(frames: dict[int, np.ndarray], times: np.ndarray, intact: Decoded) -> list[int]:
    """The indices of frames that are not those of the intact file at the same index or time."""
    return [
        index for index, frame in frames.items() if not _is_any(frame, intact, _at(intact.times, times[index], index))
    ]


def _is_unnoticed(path: Path, frame: np.ndarray, time: float, index: int, intact: Decoded) -> bool:
    """Whether FFmpeg, decoding a damaged file in order, notices nothing on the way to a frame and shows the same one,
    or also one that is not that of the intact file: what a decoder puts in place of lost data may depend on the
    frames that it decoded before, or on what is in its memory."""
    for options, restarts in itertools.product(({}, {"err_detect": "crccheck+buffer+explode"}), (False, True)):
        shown = decode_in_order(path, options, restarts)
        same = [number for number, other in enumerate(shown.frames) if np.array_equal(frame, other)]
        wrong = [
            number
            for number in _at(shown.times, time, index)
            if not _is_any(shown.frames[number], intact, _at(intact.times, time, index))
        ]
        if not all(shown.noticed[number] for number in same + wrong):
            return True
    return False


# Codecs whose decoders notice that half of a picture is zero
NOTICING = ("h264", "h264-no-b", "h264-open", "h264-pyramid", "mpeg4", "mpeg4-no-b", "mpeg1", "mpeg2", "mjpeg", "png")
NOTICING += ("wmv1", "wmv2", "msmpeg4", "flv1", "prores")
_CONTAINERS = (
    "mp4",
    "mov",
    "mkv",
    "avi",
    "nut",
    "flv",
    "3gp",
    "m4v",
    "f4v",
    "ismv",
)  # that state the size of a packet
# State no end. A cut file is read as FFmpeg reads it; IVF states a number of frames or a duration, which is uncertain,
# and in fragments of MP4 and a live Matroska file, nothing is stated after the last one
_ENDLESS = (".ts", ".mpg", ".vob", ".m2v", ".h264", ".hevc", ".obu", ".ivf", ".ismv", "live.mkv")
_UNDETECTABLE = "undetectable by any decoder"
_PLACES = (0.0, 0.15, 0.3, 0.5, 0.7, 0.9)
DAMAGES: dict[str, Callable[[bytearray, np.random.Generator], None]] = {}


def _damage(change: Callable[[bytearray, np.random.Generator], None]) -> Callable:
    DAMAGES[change.__name__.strip("_").replace("_", " ")] = change
    return change


@_damage
def _zeros(data: bytearray, generator: np.random.Generator) -> None:
    start = int(generator.integers(len(data) // 4, 3 * len(data) // 4))
    data[start : start + 400] = bytes(len(data[start : start + 400]))


@_damage
def _noise(data: bytearray, generator: np.random.Generator) -> None:
    start = int(generator.integers(len(data) // 4, 3 * len(data) // 4))
    data[start : start + 400] = generator.bytes(len(data[start : start + 400]))


@_damage
def _one_bit(data: bytearray, generator: np.random.Generator) -> None:
    data[int(generator.integers(len(data) // 4, 3 * len(data) // 4))] ^= 1 << int(generator.integers(8))


@_damage
def _bits(data: bytearray, generator: np.random.Generator) -> None:
    for position in generator.integers(len(data) // 4, len(data), 10):
        data[position] ^= 1 << int(generator.integers(8))


def _damaged(seed: int) -> list[Case]:
    clips = PAIRS | VARIANTS
    halves = [
        _damaged_case(f"half of packet {place:.0%} in {name}", "damaged", name, functools.partial(_half, place))
        for name in clips
        if name.split(".")[0] in NOTICING and name.split(".")[1] in _CONTAINERS
        for place in _PLACES
    ]
    return halves + [
        _damaged_case(
            f"{what} in {name}", "undetectable by any decoder", name, functools.partial(_anywhere, change, seed)
        )
        for number, name in enumerate(clips)
        for what, change in list(DAMAGES.items())[number % 2 :: 2]  # half of them for each file
    ]


def _half(place: float, path: Path, case: str) -> None:
    """Overwrites the second half of a packet with zeros; the container stays intact."""
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(container.streams.best("video")) if packet.size]
    packet, data = packets[int(place * len(packets))], path.read_bytes()
    half = len(packet) // 2
    path.write_bytes(data.replace(packet, packet[:half] + bytes(len(packet) - half)))


def _anywhere(change: Callable, seed: int, path: Path, case: str) -> None:
    data = bytearray(path.read_bytes())
    change(data, np.random.default_rng(_number(f"{case} {seed}")))
    path.write_bytes(data)


def _damaged_case(case: str, kind: str, name: str, damage: Callable[[Path, str], None]) -> Case:
    """In the kind "damaged", every frame must be that of the intact file, or an error. In the other one, damage that
    FFmpeg does not notice, as in entropy-coded data without a checksum, may be shown as FFmpeg shows it."""

    def run(folder: Path) -> str:
        path = write(folder / name, (PAIRS | VARIANTS)[name])
        intact = decode_in_order(path)
        damage(path, case)
        frames, times, message = _frames_read(path)
        wrong = _match(frames, times, intact)
        if kind == "damaged" and wrong:
            raise Wrong(f"frames {wrong[:5]} of {len(frames)} are not those of the intact file")
        silent = [index for index in wrong if not _is_unnoticed(path, frames[index], times[index], index, intact)]
        if silent:
            raise Wrong(f"frames {silent[:5]} of {len(frames)} are not right, and FFmpeg notices it or shows others")
        return "refused" if message else "right"

    return Case(case, kind, run)


def _truncated() -> list[Case]:
    return [
        _truncated_case(f"{part:.0%} of {name}", name, clip, part)
        for name, clip in (PAIRS | VARIANTS).items()
        for part in (0.6, 0.97)
    ]


def _truncated_case(case: str, name: str, clip: Clip, part: float) -> Case:
    def run(folder: Path) -> str:
        path = write(folder / name, clip)
        intact = decode_in_order(path)
        data = path.read_bytes()
        path.write_bytes(data[: int(part * len(data))])
        frames, times, message = _frames_read(path)
        states_its_end = path.suffix not in _ENDLESS and name not in _ENDLESS
        wrong = _match(frames, times, intact)
        if wrong and (
            states_its_end
            or not all(_is_unnoticed(path, frames[index], times[index], index, intact) for index in wrong)
        ):
            raise Wrong(f"frames {wrong[:5]} of {len(frames)}/{len(times)} are not those of the intact file")
        if states_its_end and len(frames) < len(intact.frames) and not message:
            raise Wrong(f"{len(frames)} of {len(intact.frames)} frames, without an error")
        return "refused" if message else "right"

    return Case(case, "truncated", run)


def _bombs() -> list[Case]:
    """Frames above the limit in the header of the container, and sizes, counts and durations that are too large."""
    sizes = [
        _bomb_case(f"{width} × {height} in {name}", name, functools.partial(_state_size, width, height))
        for name in ("qtrle.mov", "cinepak.avi", "cinepak.mov", "msmpeg4.avi", "wmv2.avi", "zmbv.avi", "ffv1.avi")
        for width, height in ((16384, 16384), (16000, 16000), (9000, 9000))
    ]
    gifs = [
        _bomb_case(f"gif of {size} × {size}", "gif.gif", functools.partial(_state_gif_size, size))
        for size in (6000, 12000, 30000, 65535)
    ]
    counts = [
        _bomb_case(f"{count} frames in {name}", name, functools.partial(_state_frames, count), is_readable=True)
        for name in ("h264-no-b.avi", "mpeg4.avi", "mjpeg.avi", "ffv1.avi")
        for count in (1 << 20, 1 << 30, 0xFFFFFFFF)
    ]
    return sizes + gifs + counts


def _state_size(width: int, height: int, data: bytearray) -> None:
    if b"strf" in data:
        at, layout = data.index(b"strf") + 12, "<ii"
    else:
        at, layout = data.index(b"stsd") + 44, ">HH"
    struct.pack_into(layout, data, at, width, height)


def _state_gif_size(size: int, data: bytearray) -> None:
    struct.pack_into("<HH", data, 6, size, size)


def _state_frames(count: int, data: bytearray) -> None:
    """In an AVI file that is written to a pipe, which states no sizes."""
    struct.pack_into("<I", data, 4, 0xFFFFFFFF)
    for name, offset in ((b"avih", 24), (b"strh", 40)):
        struct.pack_into("<I", data, data.index(name) + offset, count)


def _bomb_case(case: str, name: str, change: Callable[[bytearray], None], is_readable: bool = False) -> Case:
    def run(folder: Path) -> str:
        path = write(folder / name, (PAIRS | VARIANTS)[name])
        intact = decode_in_order(path)
        data = bytearray(path.read_bytes())
        change(data)
        path.write_bytes(data)
        checked = check_video(str(path), name)
        frames, times, message = _frames_read(path)
        if wrong := _match(frames, times, intact):
            raise Wrong(f"frames {wrong[:5]} of {len(frames)} are not those of the intact file")
        if is_readable and len(frames) < len(intact.frames):
            raise Wrong(f"{len(frames)} of {len(intact.frames)} frames: {message}")
        if not is_readable and checked.reason != "too_large":
            raise Wrong(f"the reason is {checked.reason!r}: {checked.message}")
        return "refused" if message else "right"

    return Case(case, "headers and bombs", run)

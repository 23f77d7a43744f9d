"""Videos: odd, with gradual refresh, damaged, cut off, and with headers that state too much.

The reference is plain decoding in order with PyAV of the intact file. A frame that the reader returns must be that
frame, or else there must be an error that names the file.
"""

import zlib
from collections.abc import Callable
from pathlib import Path

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


def _match(frames: dict[int, np.ndarray], times: np.ndarray, intact: Decoded) -> list[int]:
    """The indices of frames that are not those of the intact file at the same index or time."""
    intact_times = np.array([np.nan if time is None else time for time in intact.times])
    wrong = []
    for index, frame in frames.items():
        candidates = {index, *np.flatnonzero(np.abs(intact_times - times[index]) < 1e-3)}
        if not any(np.array_equal(frame, intact.frames[number]) for number in candidates if number < len(intact.frames)):
            wrong.append(index)
    return wrong


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
    return [
        _damaged_case(f"{what} in {name}", name, clip, change, seed)
        for name, clip in (PAIRS | VARIANTS).items()
        for what, change in DAMAGES.items()
    ]


def _damaged_case(case: str, name: str, clip: Clip, change: Callable, seed: int) -> Case:
    def run(folder: Path) -> str:
        path = write(folder / name, clip)
        intact = decode_in_order(path)
        data = bytearray(path.read_bytes())
        change(data, np.random.default_rng(_number(f"{case} {seed}")))
        path.write_bytes(data)
        frames, times, message = _frames_read(path)
        if not (wrong := _match(frames, times, intact)):
            return "refused" if message else "right"
        shown = decode_in_order(path, True)
        if not _match({i: frames[i] for i in wrong}, times, shown):
            raise Wrong(f"UNDETECTED by FFmpeg, has_error={shown.has_error}, {wrong[:5]} of {len(frames)}")
        raise Wrong(f"frames {wrong[:5]} of {len(frames)}/{len(times)} are not those of the intact file; {shown.has_error}")

    return Case(case, "damaged", run)


def _truncated() -> list[Case]:
    return [
        _truncated_case(f"{part:.0%} of {name}", name, clip, part)
        for name, clip in (PAIRS | VARIANTS).items()
        for part in (0.35, 0.6, 0.85, 0.97)
    ]


def _truncated_case(case: str, name: str, clip: Clip, part: float) -> Case:
    def run(folder: Path) -> str:
        path = write(folder / name, clip)
        intact = decode_in_order(path)
        data = path.read_bytes()
        path.write_bytes(data[: int(part * len(data))])
        frames, times, message = _frames_read(path)
        if wrong := _match(frames, times, intact):
            raise Wrong(f"frames {wrong[:5]} of {len(frames)}/{len(times)} are not those of the intact file")
        if len(frames) < len(intact.frames) and not message:
            raise Wrong(f"UNTOLD {len(frames)} of {len(intact.frames)} frames, without an error")
        return "refused" if message else "right"

    return Case(case, "truncated", run)

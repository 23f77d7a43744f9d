"""Numbered videos, so that the frames of a clip can be recognised, and AVA's csv files."""

import json
from collections.abc import Iterable
from pathlib import Path

import av
import numpy as np


def write_numbered_video(
    path: Path, num_frames: int, rate: int = 25, first: int = 0, height: int = 48, width: int = 64
) -> Path:
    """Frame t of the video shows the number t + `first`, below 576, in grey levels, for `frame_numbers`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = width, height, "yuv420p", 2_000_000
        for number in range(first, first + num_frames):
            image = np.empty((height, width, 3), dtype=np.uint8)
            image[:, : width // 2], image[:, width // 2 :] = 10 * (number // 24), 10 * (number % 24)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def frame_numbers(frames: np.ndarray) -> list[int]:
    """The numbers that frames `(T, height, width, 3)` show."""
    width = frames.shape[2]
    left, right = frames[:, :, 4 : width // 2 - 4], frames[:, :, width // 2 + 4 : -4]
    levels = [np.rint(half.mean(axis=(1, 2, 3)) / 10).astype(int) for half in (left, right)]
    return (24 * levels[0] + levels[1]).tolist()


def write_lines(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines))
    return path


def write_metadata(path: Path, rows: Iterable[dict | str]) -> Path:
    """Writes rows of a `metadata.jsonl`; texts as they are."""
    return write_lines(path, *(row if isinstance(row, str) else json.dumps(row) for row in rows))


def metadata_row(name: str = "a.mp4", time: float = 1.0, **objects) -> dict:
    """A row with one labelled box of 10 x 20 pixels, unless `objects` says otherwise."""
    objects = {"bbox": [[5, 6, 10, 20]], "categories": [["sit"]]} | objects
    return {"file_name": name, "time": time, "objects": objects}

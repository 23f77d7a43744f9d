"""Frames of the videos that a model gets wrong, for the page of an evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from processing_umt import VideoDecodeError
from processing_umt.frame_sampling_umt import sample_clips
from processing_umt.video_decoding_umt import VideoReader

from ..data.video_dataset import open_video, video_name
from ..pictures.run_page import Link, Picture, Section, Text
from ..pictures.video_strip import STRIP_FRAMES, save_strip

MOST_MISTAKES = 12  # on a page


@dataclass(frozen=True)
class Mistake:
    """A video that the model gets wrong.

    Args:
        video: As in the records: path, URL, bytes, or record of both.
        text: What is wrong, in words.
    """

    video: Any
    text: str


def mistakes_section(mistakes: Sequence[Mistake], folder: Path, heading: str = "Worst mistakes") -> Section:
    """Section with a strip of frames of each of the first twelve videos; the strips are files in `folder`.

    A video that can't be read any more has its text alone. Strips of an earlier evaluation are removed.

    Args:
        mistakes: The worst first.
        folder: Folder of the strips, in the folder of the page.
        heading: Heading of the section.
    """
    for earlier in folder.glob("*.jpg"):
        earlier.unlink()
    parts: list[Picture | Text] = []
    for number, mistake in enumerate(mistakes[:MOST_MISTAKES], 1):
        text = f"{number}. {mistake.text}"
        path = folder / f"{number:02}.jpg"
        try:
            save_strip(frames_of(mistake.video), path)
        except VideoDecodeError as error:
            parts.append(Text(f"{text} (the video can't be read: {error.reason})"))
            continue
        name = video_name(mistake.video)
        link = Link(name, name) if name and Path(name).is_file() else None
        parts.append(Picture(path, text, link))
    if not parts:
        parts.append(Text("None."))
    return Section(heading, parts)


def frames_of(video: Any, num_frames: int = STRIP_FRAMES) -> np.ndarray:
    """The middle frames of equal parts of a video, uint8 `(num_frames, height, width, 3)`.

    Raises:
        VideoDecodeError: the video can't be read.
    """
    with VideoReader(open_video(video)) as reader:
        return reader.read(sample_clips(reader.num_frames, num_frames, sampling="middle")[0])

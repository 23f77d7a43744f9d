"""Training clips of action detection (UMT, arXiv 2303.16058, section 4): the frames around a key frame, with the boxes
and the actions of its persons.

As in training on labels, a broken video is replaced by another one, and all randomness is a function of (seed, epoch,
index). A key frame is always the same frames; only their augmentation differs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from processing_umt.detection_boxes_umt import pad_boxes
from processing_umt.video_source_umt import VideoDecodeError

from .key_frame_clips import KeyFrameClips
from .key_frames import KeyFrame, inclusive_corners
from .movie_files import Movie
from .video_dataset import ReadClipDataset, mask_seed


@dataclass(frozen=True)
class KeyFrameReader:
    """Reads a key frame as a training sample.

    Args:
        clips: reads the frames.
        num_labels: number of classes.
        transform: `transform(frames, boxes, generator)` of uint8 `(T, height, width, 3)` and float32 `(boxes, 4)`,
            inclusive corners in pixels → tensor `(T, 3, height, width)` and boxes in its pixels, such as
            `augment_for_detection`.
    """

    clips: KeyFrameClips
    num_labels: int
    transform: Callable[[np.ndarray, torch.Tensor, np.random.Generator], tuple[torch.Tensor, torch.Tensor]]
    num_views_per_video: int = 1

    def read(
        self, key_frame: KeyFrame, generator: np.random.Generator, seeds: tuple[int, int, int]
    ) -> list[dict[str, Any]]:
        """The sample of a key frame, without `broken`, in a list.

        Raises:
            VideoDecodeError: the video can't be read.
            ValueError: a key frame is outside of its video, or a box outside of the frame.
        """
        frames = self.clips.read(key_frame)
        corners, persons = inclusive_corners(key_frame, *frames.shape[1:3])
        clip, boxes = self.transform(frames, torch.from_numpy(corners), generator)
        labels = torch.zeros(len(persons), self.num_labels)
        for row, person in enumerate(persons):
            labels[row, list(key_frame.labels[person])] = 1.0
        return [{"pixel_values_videos": clip, "boxes": boxes, "labels": labels, "sample_seed": mask_seed(*seeds)}]

    def describe_broken(self, key_frame: KeyFrame, error: VideoDecodeError, index: int) -> tuple[str, str]:
        """(name, reason) of the broken file of a key frame."""
        return error.video, error.reason


class KeyFrameDataset(ReadClipDataset):
    """Clips around key frames; see [`ReadClipDataset`].

    A sample contains

    * `pixel_values_videos`: `(T, 3, height, width)`, and `boxes` float32 `(persons, 4)`: results of the transform;
    * `labels`: float32 `(persons, num_labels)`, 1 for an action of the person, else 0;
    * `sample_seed` (int), `video_index` (int, index of the key frame that was read), and `broken`: as in
      [`VideoClipDataset`].

    Args:
        key_frames: result of `training_key_frames`, whose movies were found.
        movies, num_frames, frame_stride, sampling_fps: see [`KeyFrameClips`].
        num_labels, transform: see [`KeyFrameReader`].
        seed: seed of all randomness.

    Raises:
        ValueError: `key_frames` is empty, or a class index is not below `num_labels`; on access, see
            [`KeyFrameReader`], or `MAX_TRIES` videos in a row, or all videos, can't be read.
    """

    def __init__(
        self,
        key_frames: Sequence[KeyFrame],
        movies: Mapping[str, Movie],
        num_labels: int,
        num_frames: int,
        transform: Callable[[np.ndarray, torch.Tensor, np.random.Generator], tuple[torch.Tensor, torch.Tensor]],
        *,
        frame_stride: int = 8,
        sampling_fps: float | None = 25.0,
        seed: int = 0,
    ):
        for key_frame in key_frames:
            if highest := [label for labels in key_frame.labels for label in labels if label >= num_labels]:
                raise ValueError(
                    f"{key_frame.place} has the action id {highest[0] + 1}, but there are {num_labels} classes."
                )
        clips = KeyFrameClips(movies, num_frames, frame_stride, sampling_fps)
        super().__init__(key_frames, KeyFrameReader(clips, num_labels, transform), seed)


def collate_key_frames(samples: Sequence[dict[str, Any]], size_divisor: int = 16) -> dict[str, Any]:
    """Collates samples of `KeyFrameDataset`: a padded batch for `UMTForActionDetection`.

    Args:
        samples: clips may differ in size, and in the number of their boxes.
        size_divisor: height and width of the batch are multiples of it.

    Returns:
        `pixel_values_videos` float32 `(batch, T, 3, height, width)`, with zeros at the bottom and right of smaller
        clips; `boxes` float32 `(batch, boxes, 4)`, `box_mask` bool `(batch, boxes)`, True for a box, and `labels`
        float32 `(batch, boxes, num_labels)`, with zeros for padded boxes; int64 `(batch,)`: `sample_seeds`,
        `video_index`; and the list `broken`.
    """
    clips = [sample["pixel_values_videos"] for sample in samples]
    height, width = (-(-max(clip.shape[axis] for clip in clips) // size_divisor) * size_divisor for axis in (-2, -1))
    return {
        "pixel_values_videos": torch.stack(
            [F.pad(clip, (0, width - clip.shape[-1], 0, height - clip.shape[-2])) for clip in clips]
        ),
        **pad_boxes([sample["boxes"] for sample in samples]),
        "labels": pad_sequence([sample["labels"] for sample in samples], batch_first=True),
        "sample_seeds": torch.tensor([sample["sample_seed"] for sample in samples], dtype=torch.int64),
        "video_index": torch.tensor([sample["video_index"] for sample in samples], dtype=torch.int64),
        "broken": [broken for sample in samples for broken in sample["broken"]],
    }

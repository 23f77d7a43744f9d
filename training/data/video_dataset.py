"""Training clips from a table of videos (UMT, arXiv 2303.16058, section 4.1): sampled, decoded and augmented.

Workers decode and crop; clips stay uint8 unless the transform normalises them, and are normalised on the device.

Unusual: the key of a sample is (epoch, index), which `EpochSampler` yields. Frame sampling, augmentation, mask seed
and the replacement of a broken video are functions of (seed, epoch, index), so neither the number of workers or
processes nor a resume changes a sample, and persistent workers get the epoch with each key. The epoch is an attribute
of the data set, which accelerate always reaches; its `set_epoch` does not reach a sampler after a resume on several
processes, because it stops at the wrapper that skips batches.

A broken video is replaced by another video with its own label and caption; the official code keeps the caption of the
video that could not be read.
"""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import fsspec
import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from processing_umt import video_download_umt
from processing_umt.augmentation_umt import sample_generator
from processing_umt.frame_sampling_umt import trimmed_length
from processing_umt.image_frames_umt import IMAGE_SUFFIXES, animation_frames
from processing_umt.image_frames_umt import open_image as open_image_file
from processing_umt.video_decoding_umt import VideoReader
from processing_umt.video_inputs_umt import read_frames
from processing_umt.video_source_umt import USER_AND_PASSWORD, VideoDecodeError

from .shared_epoch import SharedEpoch

_CLIPS = ("pixel_values_videos", "teacher_pixel_values_videos")
# integers of a sample -> their names in a batch
_INTEGERS = {"sample_seed": "sample_seeds", "video_index": "video_index", "labels": "labels", "match_id": "match_ids"}
_TEXTS = ("caption", "question", "answer")  # texts of a sample; lists in a batch
_CHUNK_SIZE = 1 << 20  # bytes of a remote file that are read at once
MAX_TRIES = 32  # broken videos in a row: practically impossible if 20 % of the videos are broken


@dataclass(frozen=True)
class ClipReader:
    """Reads a record of `load_video_records` as training samples.

    Args:
        num_frames: number of frames T of a clip.
        sample_frames: `sample_frames(num_video_frames=, num_frames=, generator=)` → int64 `(num_frames,)`, such as
            `functools.partial(sample_training_clip, sampling="segments")`.
        transform: `transform(frames, generator)` of uint8 `(T, height, width, 3)` → tensor `(T, 3, height, width)`,
            such as `augment_for_pretraining`; or a dict of `pixel_values_videos` and a second clip of the same frames,
            `teacher_pixel_values_videos`, such as `augment_for_masked_modeling`.
        num_views_per_video: number of transforms of each decoded clip (repeated augmentation); default 1.
        images: all records are images, whatever their names; by default the file name extension decides.
        trim_seconds: sample frames from the first seconds of a video only; default: from the complete video.
    """

    num_frames: int
    sample_frames: Callable[..., np.ndarray]
    transform: Callable[[np.ndarray, np.random.Generator], torch.Tensor | dict[str, torch.Tensor]]
    num_views_per_video: int = 1
    images: bool = False
    trim_seconds: float | None = None

    def read(
        self, record: dict[str, Any], generator: np.random.Generator, seeds: tuple[int, int, int]
    ) -> list[dict[str, Any]]:
        """The views of a video, as samples without `broken`. Their mask seeds depend on `seeds` and the view only.

        Raises:
            VideoDecodeError: the video can't be read.
            ValueError: the label is not an integer.
        """
        frames = self._read_frames(record["video"], generator)
        fields = {}
        if (label := record.get("label")) is not None:
            if not isinstance(label, (int, np.integer)) or isinstance(label, bool):
                raise ValueError(f"A label is {label!r}; expected an integer. Pass class_names to load_video_records.")
            fields["labels"] = int(label)
        fields |= {name: record[name] for name in ("match_id", *_TEXTS) if record.get(name) is not None}
        return [
            {
                **self._transformed(frames, generator),
                "sample_seed": mask_seed(*seeds, view),
                **fields,
            }
            for view in range(self.num_views_per_video)
        ]

    def describe_broken(self, record: dict[str, Any], error: VideoDecodeError, index: int) -> tuple[str, str]:
        """(name, reason) of the broken video of a record."""
        return describe_broken(record["video"], error, f"record {index}")

    def _transformed(
        self, frames: np.ndarray | torch.Tensor, generator: np.random.Generator
    ) -> dict[str, torch.Tensor]:
        clips = self.transform(frames, generator)
        return clips if isinstance(clips, dict) else {"pixel_values_videos": clips}

    def _read_frames(self, video: Any, generator: np.random.Generator) -> np.ndarray | torch.Tensor:
        """A clip, uint8 `(T, height, width, 3)`; of an image T copies, a tensor `(T, 3, height, width)`; an animation
        is sampled as a video."""
        if self.images or video_name(video).lower().endswith(IMAGE_SUFFIXES):
            frames = animation_frames(open_image(video))
            indices = self.sample_frames(num_video_frames=len(frames), num_frames=self.num_frames, generator=generator)
            return read_frames(frames, indices)
        with VideoReader(open_video(video)) as reader:
            length = reader.num_frames
            if self.trim_seconds is not None:
                length = trimmed_length(length, reader.fps, self.trim_seconds)
            indices = self.sample_frames(num_video_frames=length, num_frames=self.num_frames, generator=generator)
            return reader.read(indices)


class ReadClipDataset(SharedEpoch, Dataset):
    """Samples that a reader makes of records: `dataset[epoch, index]`, or `dataset[index]` in the current epoch. A
    record whose video can't be read is replaced by another one.

    Args:
        records: records of videos.
        reader: an object with the methods `read` and `describe_broken` and the attribute `num_views_per_video` of
            [`ClipReader`].
        seed: seed of all randomness.

    Raises:
        ValueError: there are no records; on access, `MAX_TRIES` videos in a row, or all videos, can't be read.
    """

    def __init__(self, records: Sequence[Any], reader: Any, seed: int = 0):
        super().__init__()
        if len(records) == 0:
            raise ValueError("No videos were given: the table of records is empty.")
        self.records, self.reader, self.seed = records, reader, seed

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any] | list[dict[str, Any]]:
        epoch, index = key if isinstance(key, tuple) else (self.epoch, key)
        generator = sample_generator(self.seed, epoch, index)
        broken, tried = [], set()
        candidate = index
        while True:
            record = self.records[candidate]
            try:
                views = self.reader.read(record, generator, (self.seed, epoch, index))
                break
            except VideoDecodeError as error:
                tried.add(candidate)
                broken.append(self.reader.describe_broken(record, error, candidate))
            if len(tried) == min(MAX_TRIES, len(self)):
                raise ValueError(unreadable_message(broken))
            while candidate in tried:
                candidate = int(generator.integers(len(self)))
        for view in views:
            view.update(video_index=candidate, broken=[])
        views[0]["broken"] = broken
        return views if self.reader.num_views_per_video > 1 else views[0]


class VideoClipDataset(ReadClipDataset):
    """Clips of a table of videos; see [`ReadClipDataset`].

    A sample contains

    * `pixel_values_videos`: result of the transform, `(T, channels, height, width)`, and
      `teacher_pixel_values_videos` if the transform makes one;
    * `sample_seed` (int): seed of the sample's mask, a hash of (seed, epoch, index);
    * `video_index` (int): index of the record that was read;
    * `labels` (int), `caption`, `question`, `answer` and `match_id` (int), if the record has them;
    * `broken`: (name, reason) of the unreadable videos that this one replaces.

    With several views per video a sample is a list of such dicts, of which the first reports the broken videos;
    `collate_clips` flattens the lists.

    Args:
        records: result of `load_video_records`, or any sequence of dicts with a `video`.
        num_frames, sample_frames, transform, num_views_per_video, images, trim_seconds: see `ClipReader`.
        seed: seed of all randomness.

    Raises:
        ValueError: the table is empty; on access, `MAX_TRIES` videos in a row, or all videos, can't be read.
    """

    def __init__(
        self,
        records: Sequence[dict[str, Any]],
        num_frames: int,
        sample_frames: Callable[..., np.ndarray],
        transform: Callable[[np.ndarray, np.random.Generator], torch.Tensor],
        *,
        seed: int = 0,
        num_views_per_video: int = 1,
        images: bool = False,
        trim_seconds: float | None = None,
    ):
        reader = ClipReader(num_frames, sample_frames, transform, num_views_per_video, images, trim_seconds)
        super().__init__(records, reader, seed)


class EpochSampler(Sampler[tuple[int, int]]):
    """All (epoch, index) of a data set's current epoch, in an order that is a function of (seed, epoch) only.

    It is the `sampler` of a `DataLoader`, which accelerate shards across processes.

    Args:
        dataset: data set with epoch and seed.
        batch_size: number of samples of all processes in an optimiser step, accumulated batches included; the
            incomplete last step is dropped in this epoch. Thus the number of steps does not depend on how a batch is
            split over processes and accumulation.

    Raises:
        ValueError: the data set is smaller than a batch.
    """

    def __init__(self, dataset: ReadClipDataset, batch_size: int = 1):
        self.dataset = dataset
        self.num_samples = len(dataset) // batch_size * batch_size
        if self.num_samples == 0:
            raise ValueError(
                f"The data set has {len(dataset)} videos, fewer than a batch of {batch_size} over all processes "
                "and accumulated batches; reduce the batch size."
            )

    def set_epoch(self, epoch: int) -> None:
        self.dataset.set_epoch(epoch)

    def __len__(self) -> int:
        return self.num_samples

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self.dataset.epoch
        # the spawn key makes this stream independent of those of the samples
        generator = np.random.default_rng(np.random.SeedSequence((self.dataset.seed, epoch), spawn_key=(0,)))
        for index in generator.permutation(len(self.dataset))[: self.num_samples]:
            yield epoch, int(index)


def collate_clips(samples: list[dict[str, Any] | list[dict[str, Any]]]) -> dict[str, Any]:
    """Collates samples of `VideoClipDataset` or `StreamedClipDataset`; views of a video are adjacent in the batch.

    Returns:
        `pixel_values_videos (batch, T, channels, height, width)`, with the dtype of the samples, and likewise
        `teacher_pixel_values_videos`; int64 `(batch,)`:
        `sample_seeds`, `video_index`, `labels`, `match_ids`; lists: `caption`, `question`, `answer`, `broken`, of any
        length, and of streams `read_passes`, one for each video. Entries that the samples lack are omitted: the plain
        `Trainer` removes those that the model does not accept.
    """
    samples = [view for sample in samples for view in (sample if isinstance(sample, list) else [sample])]
    batch: dict[str, Any] = {
        name: torch.stack([sample[name] for sample in samples]) for name in _CLIPS if name in samples[0]
    }
    for name, batched in _INTEGERS.items():
        if name in samples[0]:
            batch[batched] = torch.tensor([sample[name] for sample in samples], dtype=torch.int64)
    for name in _TEXTS:
        if name in samples[0]:
            batch[name] = [sample[name] for sample in samples]
    if "broken" in samples[0]:
        batch["broken"] = [broken for sample in samples for broken in sample["broken"]]
    if "read_pass" in samples[0]:
        batch["read_passes"] = [sample["read_pass"] for sample in samples if "read_pass" in sample]
    return batch


def mask_seed(seed: int, epoch: int, index: int, view: int = 0) -> int:
    """The int64 seed of a view's mask: a hash of the arguments."""
    words = np.random.SeedSequence((seed, epoch, index), spawn_key=(view,)).generate_state(1, np.uint64)
    return int(words.view(np.int64)[0])


class _RemoteFile(tempfile.SpooledTemporaryFile):
    name = ""  # of the URL, for messages


def open_video(video: Any) -> str | bytes | BinaryIO:
    """A record's `video` as input of `VideoReader`.

    URLs other than http(s) are copied with fsspec to a temporary file, up to the limit of downloads.

    Raises:
        VideoDecodeError: it is that of a broken shard, or the URL can't be read.
    """
    if isinstance(video, VideoDecodeError):  # an error in reading a shard
        raise video
    if isinstance(video, dict):
        video = video["path"] if video.get("bytes") is None else video["bytes"]
    if video is None:
        raise VideoDecodeError("<no path, no bytes>", "missing")
    if isinstance(video, str) and "://" in video and not video.lower().startswith(("http://", "https://")):
        copy, max_bytes = _RemoteFile(max_size=64 << 20), video_download_umt.MAX_DOWNLOAD_BYTES
        copy.name = USER_AND_PASSWORD.sub("", video)
        try:
            with fsspec.open(video, "rb") as file:
                while chunk := file.read(_CHUNK_SIZE):
                    copy.write(chunk)
                    if copy.tell() > max_bytes:
                        raise OSError(f"it is larger than {max_bytes:,} bytes, the limit of a download")
        except Exception as error:  # each protocol raises exceptions of its own library
            detail = " ".join(str(error).split())[:300] or type(error).__name__
            raise VideoDecodeError(video, "network", detail) from error
        copy.seek(0)
        return copy
    return video


def open_image(video: Any) -> Any:
    """A record's image as input of `animation_frames`: its path, or the opened image."""
    content = open_video(video)
    if isinstance(content, _RemoteFile):
        with content:
            content = content.read()
    return content if isinstance(content, str) else open_image_file(content, video_name(video))


def video_name(video: Any) -> str:
    """Path or URL of a record's `video`, without a user name and password; empty for bytes without a name."""
    if isinstance(video, dict):
        video = video.get("path") or ""
    if isinstance(video, VideoDecodeError):
        return video.video
    return USER_AND_PASSWORD.sub("", os.fspath(video)) if isinstance(video, (str, os.PathLike)) else ""


def describe_broken(video: Any, error: VideoDecodeError, fallback: str) -> tuple[str, str]:
    """(name, reason) of a broken video; `fallback` is used for bytes without a name."""
    return video_name(video) or fallback, error.reason


def unreadable_message(broken: list[tuple[str, str]]) -> str:
    """Error message for a sequence of videos of which none can be read."""
    listed = ", ".join(f"{name} ({reason})" for name, reason in broken[:8]) + (" …" if len(broken) > 8 else "")
    return (
        f"None of {len(broken)} videos in a row can be read: {listed}. Check the paths of the records; `umt "
        "check-videos` lists broken videos."
    )

"""Training clips from a table of videos (UMT, arXiv 2303.16058, section 4.1): frames chosen, decoded, augmented.

A worker decodes and crops; clips travel as uint8 where the transform leaves them so, and are normalised on the device.

Unusual: the key of a sample is (epoch, index), which `EpochSampler` yields. Frame choice, augmentation, mask seed, and
the replacement of a broken video are functions of (seed, epoch, index), so neither the number of workers or processes
nor a resume changes a sample, and workers that outlive an epoch need not be told of the next one. The epoch itself is
kept in the data set, because the launchers reach it there in every case: after a resume on several processes they fail
to reach a sampler (accelerate's `set_epoch` stops at the wrapper that skips batches).

A broken video is replaced by another one, with that one's label and caption; the official code keeps the caption of
the video that could not be read.
"""

import io
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import fsspec
import numpy as np
import torch
from aiohttp import ClientError
from torch.utils.data import Dataset, Sampler

from processing_umt.augmentation_umt import sample_generator
from processing_umt.frame_sampling_umt import trimmed_length
from processing_umt.video_decoding_umt import VideoReader
from processing_umt.video_inputs_umt import IMAGE_SUFFIXES, read_frames
from processing_umt.video_source_umt import VideoDecodeError

# numbers of a sample, and what a batch calls them
_NUMBERS = {"sample_seed": "sample_seeds", "video_index": "video_index", "labels": "labels", "match_id": "match_ids"}
_TEXTS = ("caption", "question", "answer")  # of a sample; lists in a batch
MAX_TRIES = 32  # broken videos in a row: at a share of 20 %, no run is long enough to meet as many by chance


@dataclass(frozen=True)
class ClipReader:
    """How a record of `load_video_records` becomes training samples.

    Args:
        num_frames: frames of a clip, T.
        sample_frames: `sample_frames(num_video_frames=, num_frames=, generator=)` → int64 `(num_frames,)`, such as
            `functools.partial(sample_training_clip, sampling="segments")`.
        transform: `transform(frames, generator)` of uint8 `(T, height, width, 3)` → tensor `(T, 3, height, width)`,
            such as `augment_for_pretraining`.
        num_views_per_video: transforms of a video that is decoded once (repeated augmentation); default 1.
        images: the records are images, even those whose name does not tell; by default the name decides.
        trim_seconds: frames come from the first seconds of a video only; default: from all of it.
    """

    num_frames: int
    sample_frames: Callable[..., np.ndarray]
    transform: Callable[[np.ndarray, np.random.Generator], torch.Tensor]
    num_views_per_video: int = 1
    images: bool = False
    trim_seconds: float | None = None

    def read(
        self, record: dict[str, Any], generator: np.random.Generator, seeds: tuple[int, int, int]
    ) -> list[dict[str, Any]]:
        """The views of a video, as samples without `broken`. The seeds of their masks are hashes of `seeds` alone.

        Raises:
            VideoDecodeError: the video can't be read.
            ValueError: the label is not an integer.
        """
        frames = self._read_frames(record["video"], generator)
        fields = {}
        if (label := record.get("label")) is not None:
            if not isinstance(label, (int, np.integer)):
                raise ValueError(f"A label is {label!r}; expected an integer. Give class_names to load_video_records.")
            fields["labels"] = int(label)
        fields |= {name: record[name] for name in ("match_id", *_TEXTS) if record.get(name) is not None}
        return [
            {
                "pixel_values_videos": self.transform(frames, generator),
                "sample_seed": mask_seed(*seeds, view),
                **fields,
            }
            for view in range(self.num_views_per_video)
        ]

    def _read_frames(self, video: Any, generator: np.random.Generator) -> np.ndarray | torch.Tensor:
        """The frames of a clip, uint8 `(T, height, width, 3)`; an image T times, as tensor `(T, 3, height, width)`."""
        if self.images or video_name(video).lower().endswith(IMAGE_SUFFIXES):
            choice = self.sample_frames(num_video_frames=1, num_frames=self.num_frames, generator=generator)
            return read_frames([open_image(video)], choice)
        with VideoReader(open_video(video)) as reader:
            length = reader.num_frames
            if self.trim_seconds is not None:
                length = trimmed_length(length, reader.fps, self.trim_seconds)
            choice = self.sample_frames(num_video_frames=length, num_frames=self.num_frames, generator=generator)
            return reader.read(choice)


class VideoClipDataset(Dataset):
    """Clips of a table of videos, in any order: `dataset[epoch, index]`, or `dataset[index]` in the current epoch.

    A sample holds

    * `pixel_values_videos`: what the transform returns, `(T, channels, height, width)`;
    * `sample_seed` (int): seed of the sample's mask, a hash of (seed, epoch, index);
    * `video_index` (int): number of the record that was read;
    * `labels` (int), `caption`, `question`, `answer` and `match_id` (int), where the record has them;
    * `broken`: (name, reason) of the videos that could not be read, in whose place this one stands.

    With several views per video a sample is a list of such dicts, of which the first one reports what was broken;
    `collate_clips` puts them next to each other.

    Args:
        records: what `load_video_records` returns, or any sequence of dicts with a `video`.
        num_frames, sample_frames, transform, num_views_per_video, images, trim_seconds: see `ClipReader`.
        seed: of everything random.

    Raises:
        ValueError: there are no records; on access, `MAX_TRIES` videos in a row, or all there are, can't be read.
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
        if len(records) == 0:
            raise ValueError("There are no videos to make clips of: the table of records is empty.")
        self.records = records
        self.reader = ClipReader(num_frames, sample_frames, transform, num_views_per_video, images, trim_seconds)
        self.seed = seed
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # seen by workers that outlive an epoch

    @property
    def epoch(self) -> int:
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Starts an epoch: called by accelerate's loaders, or by a training loop of one's own."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any] | list[dict[str, Any]]:
        epoch, index = key if isinstance(key, tuple) else (self.epoch, key)
        generator = sample_generator(self.seed, epoch, index)
        broken, tried = [], set()
        candidate = index
        while True:
            try:
                record = self.records[candidate]
                views = self.reader.read(record, generator, (self.seed, epoch, index))
                break
            except VideoDecodeError as error:
                tried.add(candidate)
                broken.append(describe_broken(record["video"], error, f"record {candidate}"))
            if len(tried) == min(MAX_TRIES, len(self)):
                raise ValueError(unreadable(broken))
            while candidate in tried:
                candidate = int(generator.integers(len(self)))
        for view in views:
            view.update(video_index=candidate, broken=[])
        views[0]["broken"] = broken
        return views if self.reader.num_views_per_video > 1 else views[0]


class EpochSampler(Sampler[tuple[int, int]]):
    """All (epoch, index) of a data set's current epoch, in an order that is a function of (seed, epoch) alone.

    To be the `sampler` of a `DataLoader`, of which accelerate makes the share of a process.

    Args:
        dataset: holds the epoch and the seed.
        batch_size: of all processes together; an epoch is whole batches, and what remains waits for another epoch.

    Raises:
        ValueError: the data set is smaller than a batch.
    """

    def __init__(self, dataset: VideoClipDataset, batch_size: int = 1):
        self.dataset = dataset
        self.num_samples = len(dataset) // batch_size * batch_size
        if self.num_samples == 0:
            raise ValueError(
                f"There are {len(dataset)} videos, fewer than a batch of {batch_size} over all processes; make the "
                "batch smaller."
            )

    def set_epoch(self, epoch: int) -> None:
        self.dataset.set_epoch(epoch)

    def __len__(self) -> int:
        return self.num_samples

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self.dataset.epoch
        # the spawn key keeps this stream apart from those of the samples
        generator = np.random.default_rng(np.random.SeedSequence((self.dataset.seed, epoch), spawn_key=(0,)))
        for index in generator.permutation(len(self.dataset))[: self.num_samples]:
            yield epoch, int(index)


def collate_clips(samples: list[dict[str, Any] | list[dict[str, Any]]]) -> dict[str, Any]:
    """A batch of samples of `VideoClipDataset` or `StreamedClipDataset`; views of a video become neighbours.

    Returns:
        `pixel_values_videos (batch, T, channels, height, width)`, of the samples' type; int64 `(batch,)`:
        `sample_seeds`, `video_index`, `labels`, `match_ids`; lists: `caption`, `question`, `answer`, and `broken`,
        whose length is its own.
        What the samples do not have is left out: the plain `Trainer` removes what the model does not take.
    """
    samples = [view for sample in samples for view in (sample if isinstance(sample, list) else [sample])]
    batch: dict[str, Any] = {"pixel_values_videos": torch.stack([sample["pixel_values_videos"] for sample in samples])}
    for name, batched in _NUMBERS.items():
        if name in samples[0]:
            batch[batched] = torch.tensor([sample[name] for sample in samples], dtype=torch.int64)
    for name in _TEXTS:
        if name in samples[0]:
            batch[name] = [sample[name] for sample in samples]
    if "broken" in samples[0]:
        batch["broken"] = [broken for sample in samples for broken in sample["broken"]]
    return batch


def mask_seed(seed: int, epoch: int, index: int, view: int = 0) -> int:
    """The int64 seed of a view's mask: a hash of the numbers."""
    words = np.random.SeedSequence((seed, epoch, index), spawn_key=(view,)).generate_state(1, np.uint64)
    return int(words.view(np.int64)[0])


def open_video(video: Any) -> str | bytes:
    """What `VideoReader` takes, of a record's `video`. Places other than files and http are read whole, by fsspec."""
    if isinstance(video, VideoDecodeError):  # found broken by whoever read the shard
        raise video
    if isinstance(video, dict):
        video = video["path"] if video.get("bytes") is None else video["bytes"]
    if video is None:
        raise VideoDecodeError("<no path, no bytes>", "missing")
    if isinstance(video, str) and "://" in video and not video.lower().startswith(("http://", "https://")):
        try:
            with fsspec.open(video, "rb") as file:
                return file.read()
        except (OSError, ValueError, ImportError, ClientError) as error:
            raise VideoDecodeError(video, "network", str(error)) from error
    return video


def open_image(video: Any) -> Any:
    """An image of a record as `read_frames` takes it: its path, or the opened picture."""
    content = open_video(video)
    if isinstance(content, str):
        return content
    from PIL import Image

    try:
        return Image.open(io.BytesIO(content)).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise VideoDecodeError(video_name(video), "unreadable", f"as an image: {error}") from error


def video_name(video: Any) -> str:
    """Path or URL of a record's `video`, empty if it is bytes without a name."""
    if isinstance(video, dict):
        video = video.get("path") or ""
    if isinstance(video, VideoDecodeError):
        return video.video
    return os.fspath(video) if isinstance(video, (str, os.PathLike)) else ""


def describe_broken(video: Any, error: VideoDecodeError, fallback: str) -> tuple[str, str]:
    """(name, reason) of a broken video; `fallback` names bytes without a name."""
    return video_name(video) or fallback, error.reason


def unreadable(broken: list[tuple[str, str]]) -> str:
    listed = ", ".join(f"{name} ({reason})" for name, reason in broken[:8]) + (" …" if len(broken) > 8 else "")
    return (
        f"None of {len(broken)} videos in a row can be read: {listed}. Check that the data is where the records say; "
        "`umt check-videos` lists what is broken."
    )

"""Training clips from a stream of videos, such as tar shards (UMT, arXiv 2303.16058, section 4.1).

The counterpart of `video_dataset.py` for records without random access. Shards are sharded across processes and their
workers without overlap, and shuffled by (seed, epoch), with a shuffle buffer in each worker.

Unusual: a stream has no index, so frame sampling, augmentation and mask seed of a video are functions of (seed, epoch,
name), independent of the reader; the order and the set of videos of an epoch depend on the number of readers. An epoch
is a given number of samples, equal for all processes: with shards of unequal size, one process would otherwise wait
forever for the gradients of another that has no data left. A reader at the end of its shards starts them again, which
is counted (`repeated_videos.py`). A broken video is skipped and reported with the next sample.
"""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import datasets
import numpy as np
import torch
from datasets.distributed import split_dataset_by_node
from torch.utils.data import IterableDataset, get_worker_info

from processing_umt.augmentation_umt import sample_generator
from processing_umt.video_source_umt import VideoDecodeError

from .shared_epoch import SharedEpoch
from .video_dataset import MAX_TRIES, ClipReader, describe_broken, unreadable_message, video_name

_NUM_HASHED = 1 << 16  # bytes hashed of a video without a name


class StreamedClipDataset(SharedEpoch, IterableDataset):
    """Clips of a stream of videos, as samples described in `VideoClipDataset`. `video_index` is a 32-bit hash, and
    `read_pass` how often the video had been read before in the epoch.

    The data set is already sharded across processes: do not pass a `DataLoader` of it to `Accelerator.prepare`, which
    would let every process read everything. Use `accelerate.data_loader.DataLoaderShard(dataset, device=…,
    batch_size=…, collate_fn=collate_clips, num_workers=…)` instead, which moves batches to the device and sets epochs.

    Args:
        records: stream from `load_video_records`. If there are more workers than shards, the additional workers are
            idle; if the number of shards is not a multiple of the number of processes, every process reads all shards
            and decodes its part.
        num_frames, sample_frames, transform, num_views_per_video, images: see `ClipReader`.
        samples_per_epoch: number of samples of all processes in an epoch, rounded down to complete optimiser steps.
        batch_size: batch size of one process; workers read full batches.
        gradient_accumulation_steps: batches of each process in an optimiser step. Thus the number of steps in an epoch
            depends on their total size only, not on the number of processes.
        process_index, num_processes: index of this process and number of processes of the launcher.
        shuffle_buffer: number of videos in the shuffle buffer of a worker (as bytes); 1 keeps the order of a shard.
        seed: seed of all randomness.

    Raises:
        ValueError: `samples_per_epoch` is less than one optimiser step; on reading, `MAX_TRIES` videos in a row, or
            all videos of a reader, can't be read, or a reader has no videos.
    """

    def __init__(
        self,
        records: datasets.IterableDataset,
        num_frames: int,
        sample_frames: Callable[..., np.ndarray],
        transform: Callable[[np.ndarray, np.random.Generator], torch.Tensor],
        *,
        samples_per_epoch: int,
        batch_size: int,
        gradient_accumulation_steps: int = 1,
        process_index: int = 0,
        num_processes: int = 1,
        shuffle_buffer: int = 64,
        seed: int = 0,
        num_views_per_video: int = 1,
        images: bool = False,
    ):
        super().__init__()
        self.num_steps = samples_per_epoch // (batch_size * gradient_accumulation_steps * num_processes)
        if self.num_steps < 1:
            accumulated = f", {gradient_accumulation_steps} times" if gradient_accumulation_steps > 1 else ""
            raise ValueError(
                f"samples_per_epoch is {samples_per_epoch}, less than one batch of {batch_size} for each of "
                f"{num_processes} processes{accumulated}; set it to the number of videos in the shards."
            )
        self.batch_size, self.seed = batch_size, seed
        self.gradient_accumulation_steps = gradient_accumulation_steps
        self.num_batches = self.num_steps * gradient_accumulation_steps
        self.reader = ClipReader(num_frames, sample_frames, transform, num_views_per_video, images)
        shuffled = records.shuffle(seed=seed, buffer_size=shuffle_buffer)
        self.records = split_dataset_by_node(shuffled, process_index, num_processes)

    def set_epoch(self, epoch: int) -> None:
        super().set_epoch(epoch)
        self.records.set_epoch(epoch)

    def num_readers(self, num_workers: int) -> int:
        """Number of workers of a loader that read, 1 without workers."""
        return max(min(num_workers, self.records.num_shards), 1)

    def __len__(self) -> int:
        return self.num_batches * self.batch_size

    def __iter__(self) -> Iterator[dict[str, Any] | list[dict[str, Any]]]:
        worker = get_worker_info()
        worker_id, num_workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        num_readers = self.num_readers(num_workers)
        if worker_id >= num_readers:
            return
        num_batches = self.num_batches // num_readers + (worker_id < self.num_batches % num_readers)
        yield from self.read(num_batches * self.batch_size)

    def read(self, num_samples: int) -> Iterator[dict[str, Any] | list[dict[str, Any]]]:
        """Reads `num_samples` samples of the current epoch from the shards of the calling worker."""
        num_left, read_pass, epoch = num_samples, 0, self.epoch
        broken = []
        while num_left > 0:
            num_read = 0
            for record in self.records:
                index = name_hash(record["video"], read_pass)
                try:
                    generator = sample_generator(self.seed, epoch, index)
                    views = self.reader.read(record, generator, (self.seed, epoch, index))
                except VideoDecodeError as error:
                    broken.append(describe_broken(record["video"], error, f"video {index:08x}"))
                    if len(broken) == MAX_TRIES:
                        raise ValueError(unreadable_message(broken)) from error
                    continue
                for view in views:
                    view.update(video_index=index, broken=[])
                views[0]["broken"], broken = broken, []
                views[0]["read_pass"] = read_pass
                yield views if self.reader.num_views_per_video > 1 else views[0]
                num_read += 1
                num_left -= 1
                if num_left == 0:
                    return
            if num_read == 0:
                raise ValueError(unreadable_message(broken) if broken else "The shards of a reader contain no videos.")
            read_pass += 1


def name_hash(video: Any, read_pass: int = 0) -> int:
    """32-bit hash of a video's name, or of its first bytes; it differs between the passes of an epoch."""
    name = video_name(video)
    if isinstance(video, dict):
        video = video.get("bytes") or b""
    content = name.encode(errors="surrogatepass") if name else video[:_NUM_HASHED]
    digest = hashlib.blake2b(content, digest_size=4, salt=read_pass.to_bytes(8, "little")).digest()
    return int.from_bytes(digest, "little")

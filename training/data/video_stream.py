"""Training clips from a stream of videos, such as tar shards (UMT, arXiv 2303.16058, section 4.1).

The twin of `video_dataset.py` for records that come in an order of their own and can't be looked up. Shards are split
over processes and their workers without overlap, and shuffled by (seed, epoch), through a buffer within each worker.

Unusual: a stream has no index, so frame choice, augmentation and mask seed of a video are functions of (seed, epoch,
its name), whoever reads it; the order and which videos an epoch covers do depend on the number of readers. An epoch is
a given number of samples, the same for all processes: with shards of unequal size, one process would otherwise wait
forever for the gradients of another that has no more data. A reader whose shards run out begins them again. A broken
video is left out, and reported with the next one.
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

from .video_dataset import MAX_TRIES, ClipReader, describe_broken, unreadable, video_name

_NUM_HASHED = 1 << 16  # bytes of a video without a name that stand for it


class StreamedClipDataset(IterableDataset):
    """Clips of a stream of videos, in samples as `VideoClipDataset` describes them. `video_index` is a 32-bit hash.

    It shares out itself what every process reads: a `DataLoader` of it must not be handed to `Accelerator.prepare`,
    which would let every process read everything. Wrap it in `accelerate.data_loader.DataLoaderShard(dataset,
    device=…, batch_size=…, collate_fn=collate_clips, num_workers=…)` instead, which places batches and sets epochs.

    Args:
        records: the stream that `load_video_records` returns. Workers beyond the number of shards stay idle; shards
            that processes can't share evenly are read by all of them, each decoding its part.
        num_frames, sample_frames, transform, num_views_per_video, images: see `ClipReader`.
        samples_per_epoch: samples of all processes in an epoch, rounded down to full batches.
        batch_size: of one process; workers get whole batches, so that all are full.
        process_index, num_processes: of the launcher.
        shuffle_buffer: videos that a worker holds (as bytes) to draw the next from; 1 keeps the order of a shard.
        seed: of everything random.

    Raises:
        ValueError: `samples_per_epoch` is less than a batch for every process; while reading, `MAX_TRIES` videos in a
            row, or all of a reader's, can't be read, or a reader has none.
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
        process_index: int = 0,
        num_processes: int = 1,
        shuffle_buffer: int = 64,
        seed: int = 0,
        num_views_per_video: int = 1,
        images: bool = False,
    ):
        self.num_batches = samples_per_epoch // (batch_size * num_processes)
        if self.num_batches < 1:
            raise ValueError(
                f"samples_per_epoch is {samples_per_epoch}, less than one batch of {batch_size} for each of "
                f"{num_processes} processes; give the number of videos in the shards."
            )
        self.batch_size, self.seed = batch_size, seed
        self.reader = ClipReader(num_frames, sample_frames, transform, num_views_per_video, images)
        shuffled = records.shuffle(seed=seed, buffer_size=shuffle_buffer)
        self.records = split_dataset_by_node(shuffled, process_index, num_processes)
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # seen by workers that outlive an epoch

    @property
    def epoch(self) -> int:
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Starts an epoch: called by accelerate's loaders, or by a training loop of one's own."""
        self._epoch.fill_(epoch)
        self.records.set_epoch(epoch)

    def __len__(self) -> int:
        return self.num_batches * self.batch_size

    def __iter__(self) -> Iterator[dict[str, Any] | list[dict[str, Any]]]:
        worker = get_worker_info()
        number, num_workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        num_readers = min(num_workers, self.records.num_shards)
        if number >= num_readers:
            return
        num_batches = self.num_batches // num_readers + (number < self.num_batches % num_readers)
        yield from self.read(num_batches * self.batch_size)

    def read(self, num_samples: int) -> Iterator[dict[str, Any] | list[dict[str, Any]]]:
        """That many samples of the current epoch, from the shards of the worker that calls."""
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
                        raise ValueError(unreadable(broken)) from error
                    continue
                for view in views:
                    view.update(video_index=index, broken=[])
                views[0]["broken"], broken = broken, []
                yield views if self.reader.num_views_per_video > 1 else views[0]
                num_read += 1
                num_left -= 1
                if num_left == 0:
                    return
            if num_read == 0:
                raise ValueError(unreadable(broken) if broken else "A reader's shards hold no videos.")
            read_pass += 1


def name_hash(video: Any, read_pass: int = 0) -> int:
    """32 bits that stand for a video: its name's hash, or that of its first bytes; others in each pass of an epoch."""
    name = video_name(video)
    if isinstance(video, dict):
        video = video.get("bytes") or b""
    content = name.encode() if name else video[:_NUM_HASHED]
    digest = hashlib.blake2b(content, digest_size=4, salt=read_pass.to_bytes(8, "little")).digest()
    return int.from_bytes(digest, "little")

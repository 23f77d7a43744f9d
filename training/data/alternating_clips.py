"""Images and videos in alternating batches, as in stage 2 (UMT, arXiv 2303.16058, section 4.3).

Every optimiser step contains samples of one part only. An epoch visits the full batches of every part once, in a
shuffled order. At each step all processes read the same part, so that shapes and losses agree. The official code
shuffles on one process and broadcasts the order; here the order is a function of (seed, epoch) that every process
computes, also after a resume.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from .video_dataset import EpochSampler, VideoClipDataset
from .video_stream import StreamedClipDataset


def shuffled_parts(num_steps: Sequence[int], seed: int, epoch: int) -> np.ndarray:
    """The part of each optimiser step of an epoch: int64 `(sum(num_steps),)`. Every part occurs `num_steps[part]`
    times, in an order that is a function of (seed, epoch)."""
    # the spawn key makes this stream independent of those of the samplers and samples
    generator = np.random.default_rng(np.random.SeedSequence((seed, epoch), spawn_key=(1,)))
    return generator.permutation(np.repeat(np.arange(len(num_steps)), num_steps))


class _Parts:
    """Common epoch and total length of several data sets."""

    def __init__(self, parts: Sequence[VideoClipDataset] | Sequence[StreamedClipDataset]):
        super().__init__()
        self.parts = list(parts)

    @property
    def epoch(self) -> int:
        return self.parts[0].epoch

    def set_epoch(self, epoch: int) -> None:
        """Starts an epoch; called by accelerate's data loaders, or by a custom training loop."""
        for part in self.parts:
            part.set_epoch(epoch)

    def __len__(self) -> int:
        return sum(map(len, self.parts))


class AlternatingClips(_Parts, Dataset):
    """Several `VideoClipDataset` as one; `AlternatingSampler` orders the samples in batches of one part each.

    Samples are those of the parts; `video_index` counts over all parts. A broken video is replaced by another one of
    its part.

    Args:
        parts: data sets, for example of images and of videos, whose samples may differ in shape. With different seeds,
            samples with the same index in two parts are augmented differently.
    """

    def __init__(self, parts: Sequence[VideoClipDataset]):
        super().__init__(parts)
        self.first = np.cumsum([0, *(len(part) for part in self.parts)])

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        epoch, index = key if isinstance(key, tuple) else (self.epoch, key)
        number = int(np.searchsorted(self.first, index, side="right")) - 1
        sample = self.parts[number][epoch, index - int(self.first[number])]
        sample["video_index"] += int(self.first[number])
        return sample


class AlternatingSampler(EpochSampler):
    """All (epoch, index) of the current epoch of an `AlternatingClips`, one batch of a single part after another.

    Args:
        dataset: data set with epoch and seeds.
        batch_size: number of samples of all processes in an optimiser step; the incomplete last batch of a part is
            dropped in this epoch.

    Raises:
        ValueError: a part is smaller than a batch.
    """

    def __init__(self, dataset: AlternatingClips, batch_size: int = 1):
        self.dataset, self.batch_size = dataset, batch_size
        self.samplers = [EpochSampler(part, batch_size) for part in dataset.parts]
        self.num_samples = sum(map(len, self.samplers))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        num_steps = [len(sampler) // self.batch_size for sampler in self.samplers]
        orders = [iter(sampler) for sampler in self.samplers]
        for number in shuffled_parts(num_steps, self.dataset.parts[0].seed, self.dataset.epoch):
            for _ in range(self.batch_size):
                epoch, index = next(orders[number])
                yield epoch, int(self.dataset.first[number]) + index


class AlternatingStreams(_Parts, IterableDataset):
    """Several `StreamedClipDataset` as one, in batches of one part each; load it as described there.

    Args:
        parts: streams with equal `batch_size` and `gradient_accumulation_steps`.

    Raises:
        ValueError: the parts have different batch sizes or accumulation. On reading: there are more workers than
            shards of a part.
    """

    def __init__(self, parts: Sequence[StreamedClipDataset]):
        super().__init__(parts)
        sizes = {part.batch_size for part in self.parts}
        if len(sizes) != 1:
            raise ValueError(f"Alternating streams have the batch sizes {sorted(sizes)}; expected equal batch sizes.")
        self.batch_size = sizes.pop()
        accumulations = {part.gradient_accumulation_steps for part in self.parts}
        if len(accumulations) != 1:
            raise ValueError(
                f"Alternating streams accumulate {sorted(accumulations)} batches; expected equal numbers."
            )
        self.gradient_accumulation_steps = accumulations.pop()

    def num_readers(self, num_workers: int) -> int:
        """Number of workers of a loader that read, 1 without workers."""
        return max(num_workers, 1)

    def check_num_workers(self, num_workers: int) -> None:
        """Raises a ValueError if a worker would have no shard of some part: it could not contribute batches of that
        part, and its shards of the other parts would not be read."""
        num_shards = min(part.records.num_shards for part in self.parts)
        if num_workers > num_shards:
            raise ValueError(
                f"Alternating images and videos are read by {num_workers} workers, but one of the two has "
                f"{num_shards} shards for this process. Set `dataloader_num_workers` to at most {num_shards}, or use "
                "more shards."
            )

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        worker_id, num_workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        self.check_num_workers(num_workers)
        steps = shuffled_parts([part.num_steps for part in self.parts], self.parts[0].seed, self.epoch)
        order = np.repeat(steps, self.gradient_accumulation_steps)
        # A loader takes a batch from each worker in turn, so this worker yields every num_workers-th batch.
        order = order[worker_id::num_workers]
        streams = [part.read(int((order == number).sum()) * self.batch_size) for number, part in enumerate(self.parts)]
        for number in order:
            for _ in range(self.batch_size):
                yield next(streams[number])

"""Images and videos in turn, one kind a batch, as stage 2 trains on them (UMT, arXiv 2303.16058, section 4.3).

An epoch visits the whole batches of every part once, in a shuffled order. At every step all processes take their share
of the same part, so that shapes and losses agree. The official code shuffles on one process and tells the others;
here the order is a function of (seed, epoch), which every process computes, also after a resume.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from .video_dataset import EpochSampler, VideoClipDataset
from .video_stream import StreamedClipDataset


def draw_turns(num_batches: Sequence[int], seed: int, epoch: int) -> np.ndarray:
    """Which part each batch of an epoch is of: int64 `(sum(num_batches),)`, with every part `num_batches[part]` times,
    in an order that is a function of (seed, epoch)."""
    # the spawn key keeps this stream apart from those of the samplers and samples
    generator = np.random.default_rng(np.random.SeedSequence((seed, epoch), spawn_key=(1,)))
    return generator.permutation(np.repeat(np.arange(len(num_batches)), num_batches))


class AlternatingClips(Dataset):
    """Several `VideoClipDataset` as one, whose `AlternatingSampler` makes batches of one part each.

    Samples are those of the parts; `video_index` counts through them. A broken video is replaced by another one of its
    part.

    Args:
        parts: data sets, of images and of videos for instance, whose samples need not fit together. With other seeds,
            equal places in two parts are not augmented alike.
    """

    def __init__(self, parts: Sequence[VideoClipDataset]):
        self.parts = list(parts)
        self.first = np.cumsum([0, *(len(part) for part in self.parts)])

    @property
    def epoch(self) -> int:
        return self.parts[0].epoch

    def set_epoch(self, epoch: int) -> None:
        """Starts an epoch: called by accelerate's loaders, or by a training loop of one's own."""
        for part in self.parts:
            part.set_epoch(epoch)

    def __len__(self) -> int:
        return int(self.first[-1])

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        epoch, index = key if isinstance(key, tuple) else (self.epoch, key)
        number = int(np.searchsorted(self.first, index, side="right")) - 1
        sample = self.parts[number][epoch, index - int(self.first[number])]
        sample["video_index"] += int(self.first[number])
        return sample


class AlternatingSampler(EpochSampler):
    """All (epoch, index) of the current epoch of an `AlternatingClips`, a whole batch of one part after the other.

    Args:
        dataset: holds the epoch and the seeds.
        batch_size: of all processes together; what a part has over whole batches waits for another epoch.

    Raises:
        ValueError: a part is smaller than a batch.
    """

    def __init__(self, dataset: AlternatingClips, batch_size: int = 1):
        self.dataset, self.batch_size = dataset, batch_size
        self.samplers = [EpochSampler(part, batch_size) for part in dataset.parts]
        self.num_samples = sum(map(len, self.samplers))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        num_batches = [len(sampler) // self.batch_size for sampler in self.samplers]
        orders = [iter(sampler) for sampler in self.samplers]
        for number in draw_turns(num_batches, self.dataset.parts[0].seed, self.dataset.epoch):
            for _ in range(self.batch_size):
                epoch, index = next(orders[number])
                yield epoch, int(self.dataset.first[number]) + index


class AlternatingStreams(IterableDataset):
    """Several `StreamedClipDataset` as one, in batches of one part each; to be wrapped as one of them.

    Args:
        parts: streams of one `batch_size`.

    Raises:
        ValueError: the parts' batches have several sizes. When they are read: there are more workers than shards of
            one of the parts.
    """

    def __init__(self, parts: Sequence[StreamedClipDataset]):
        self.parts = list(parts)
        sizes = {part.batch_size for part in self.parts}
        if len(sizes) != 1:
            raise ValueError(f"The batches of streams that alternate have the sizes {sorted(sizes)}; give one size.")
        self.batch_size = sizes.pop()

    @property
    def epoch(self) -> int:
        return self.parts[0].epoch

    def set_epoch(self, epoch: int) -> None:
        """Starts an epoch: called by accelerate's loaders, or by a training loop of one's own."""
        for part in self.parts:
            part.set_epoch(epoch)

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def check_num_workers(self, num_workers: int) -> None:
        """Raises a ValueError if a worker would be without a shard of some part: it could not take part in the turns,
        and its shards of the other parts would never be read."""
        most = min(part.records.num_shards for part in self.parts)
        if num_workers > most:
            raise ValueError(
                f"Images and videos that alternate are read by {num_workers} workers, but one of the two has {most} "
                f"shards for this process. Give `dataloader_num_workers` {most}, or more shards."
            )

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        number, num_workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        self.check_num_workers(num_workers)
        turns = draw_turns([part.num_batches for part in self.parts], self.parts[0].seed, self.epoch)
        # A loader takes a batch from each worker in turn, so this worker makes every num_workers-th of the epoch.
        turns = turns[number::num_workers]
        streams = [part.read(int((turns == place).sum()) * self.batch_size) for place, part in enumerate(self.parts)]
        for turn in turns:
            for _ in range(self.batch_size):
                yield next(streams[turn])

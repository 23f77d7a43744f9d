"""Count of the videos that a stream reads more than once in an epoch.

The readers of a stream, workers of all processes, have equal parts of an epoch, but shards of their own. A reader
whose shards have fewer readable videos than its part reads them again, so some videos are seen more often than others.
"""

from collections.abc import Iterable
from typing import NamedTuple

from accelerate.utils import gather_object


class Repetitions(NamedTuple):
    """Samples of all processes in an epoch, those whose video had been read before, and the most reads of a video."""

    num_samples: int
    num_repeated: int
    max_reads: int


class RepeatedVideos:
    """Counts the repeated videos of an epoch in this process."""

    def __init__(self):
        self.counts = Repetitions(0, 0, 1)

    def add(self, read_passes: Iterable[int]) -> None:
        """Counts the samples of a batch by how often their videos had been read before in the epoch."""
        for read_pass in read_passes:
            samples, repeated, reads = self.counts
            self.counts = Repetitions(samples + 1, repeated + (read_pass > 0), max(reads, read_pass + 1))

    def end_epoch(self) -> Repetitions:
        """The sum over all processes, each of which must call it; the counts of the process start again."""
        parts = gather_object([tuple(self.counts)])
        self.counts = Repetitions(0, 0, 1)
        samples, repeated, reads = zip(*parts, strict=True)
        return Repetitions(sum(samples), sum(repeated), max(reads))

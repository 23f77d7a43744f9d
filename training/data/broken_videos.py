"""Log of videos that could not be read in training: counted by reason, listed at the end of an epoch, limited.

The limit is a fraction of all attempts to read a video. If a fifth of the files is broken, a fifth of the attempts
fails, although the epoch is complete because broken videos are replaced. Thus a wrong mount or path stops a run after
its first attempts, while a few broken files in a web data set do not.
"""

import collections
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch.distributed

from ..atomic_files import atomic_write

_MIN_ATTEMPTS = 200  # with fewer attempts, the fraction is checked at the end of an epoch only
_MAX_NAMES = 10_000


class BrokenVideoLog:
    """Counts the broken videos of an epoch.

    Args:
        max_broken_share: fraction of failed attempts to read a video above which a run stops; default 0.1. If a fifth
            of the data is broken, set a limit well above 0.2, because the fraction varies randomly.

    Attributes:
        num_clips (`int`): number of samples of this process since the start of the epoch.
        counts (`Counter`): (name, reason) → number of attempts, for at most 10,000 names.
        reasons (`Counter`): reason → number of attempts.

    Raises:
        ValueError: `max_broken_share` is not between 0 and 1.
    """

    def __init__(self, max_broken_share: float = 0.1):
        if not 0 <= max_broken_share <= 1:
            raise ValueError(f"max_broken_share is {max_broken_share}; expected a fraction from 0 to 1.")
        self.max_broken_share = max_broken_share
        self._reset()

    def _reset(self) -> None:
        self.num_clips = 0
        self.counts: collections.Counter[tuple[str, str]] = collections.Counter()
        self.reasons: collections.Counter[str] = collections.Counter()

    def add(self, broken: Iterable[tuple[str, str]], num_clips: int) -> None:
        """Counts a batch: its `broken` list and its number of videos.

        Raises:
            TooManyBrokenVideosError: the limit is exceeded in this process, after at least 200 attempts. The launcher
                then stops the other processes.
        """
        self.num_clips += num_clips
        counts = collections.Counter((name, reason) for name, reason in broken)
        for (_, reason), number in counts.items():
            self.reasons[reason] += number
        self._add_counts(counts)
        if self.num_clips + self.reasons.total() >= _MIN_ATTEMPTS:
            self._check()

    def _add_counts(self, counts: "collections.Counter[tuple[str, str]]") -> None:
        for video, number in counts.items():
            if video in self.counts or len(self.counts) < _MAX_NAMES:
                self.counts[video] += number

    def _check(self) -> None:
        num_broken = self.reasons.total()
        attempts = self.num_clips + num_broken
        if num_broken > self.max_broken_share * attempts:
            examples = ", ".join(f"{name} ({reason})" for name, reason in list(self.counts)[:5])
            raise TooManyBrokenVideosError(
                f"{num_broken} of {attempts} attempts to read a video failed ({self._by_reason()}), more than the "
                f"limit of {self.max_broken_share:.0%}, for example {examples}. Check the data with "
                "`umt check-videos`, or raise max_broken_share."
            )

    def _by_reason(self) -> str:
        return ", ".join(f"{reason} {number}" for reason, number in self.reasons.most_common())

    def end_epoch(self, epoch: int, folder: str | os.PathLike, data: Iterable[str] = ()) -> dict[str, Any]:
        """Sums the counts of all processes, writes the list of broken videos, and resets the counts.

        Args:
            epoch: number of the epoch in the name of the list.
            folder: folder of the list.
            data: sources of the videos. The list may be published with the model, so an absolute path in the folder
                of one of them is written relative to it, and any other relative to the working directory.

        Every process must call it. If a video was broken, the main process writes `folder/epoch-<epoch>.jsonl` with
        one line `{"video", "reason", "attempts"}` per video, most frequent first.

        Returns:
            `num_clips`, `num_broken`, `reasons` (reason → attempts), and `report` (path of the file or None), equal on
            all processes.

        Raises:
            TooManyBrokenVideosError: the limit is exceeded; raised on all processes after the list is written.
        """
        is_distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        if is_distributed:
            parts: list[Any] = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(parts, (self.num_clips, self.counts, self.reasons))
            self._reset()
            for num_clips, counts, reasons in parts:
                self.num_clips += num_clips
                self.reasons += reasons
                self._add_counts(counts)
        report = None
        if self.reasons:
            report = Path(folder) / f"epoch-{epoch}.jsonl"
            if not is_distributed or torch.distributed.get_rank() == 0:
                self._write(report, data)
        summary = {
            "num_clips": self.num_clips,
            "num_broken": self.reasons.total(),
            "reasons": dict(self.reasons.most_common()),
            "report": None if report is None else str(report),
        }
        try:
            self._check()
        finally:
            self._reset()
        return summary

    def _write(self, report: Path, data: Iterable[str]) -> None:
        folders = [path if os.path.isdir(path) else os.path.dirname(path) for path in map(os.path.abspath, data)]
        # names of files may not be UTF-8
        with (
            atomic_write(report) as temporary,
            temporary.open("w", encoding="utf-8", errors="backslashreplace") as file,
        ):
            for (name, reason), number in self.counts.most_common():
                line = {"video": _relative(name, folders), "reason": reason, "attempts": number}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _relative(name: str, folders: Iterable[str]) -> str:
    """A local path relative to the first of the folders that contains it, or else to the working directory."""
    if not os.path.isabs(name):
        return name
    return os.path.relpath(name, next((folder for folder in folders if Path(name).is_relative_to(folder)), None))


class TooManyBrokenVideosError(ValueError):
    """More videos than the limit allows could not be read."""

"""Bookkeeping of videos that could not be read in training: counted by reason, listed at an epoch's end, limited.

Unusual: the limit is a share of all attempts to read a video. With a fifth of the files broken, a fifth of attempts
fail, though every sample of the epoch is there: broken ones are replaced. A wrong mount or path thus ends a run within
its first attempts, while a few bad files in a web data set do not.
"""

import collections
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch.distributed

from ..atomic_files import atomic_write

_MIN_ATTEMPTS = 200  # before them a share says little; at an epoch's end all count
_MAX_NAMES = 10_000


class BrokenVideoLog:
    """Counts the broken videos of an epoch.

    Args:
        max_broken_share: the share of failed attempts to read a video above which a run stops; default 0.1. An epoch
            over data of which a fifth is broken needs a limit well above 0.2, for the share varies by chance.

    Attributes:
        num_clips (`int`): samples of this process since the epoch began.
        counts (`Counter`): (name, reason) → number of attempts; of at most 10,000 names.
        reasons (`Counter`): reason → number of attempts.

    Raises:
        ValueError: `max_broken_share` is not between 0 and 1.
    """

    def __init__(self, max_broken_share: float = 0.1):
        if not 0 <= max_broken_share <= 1:
            raise ValueError(f"max_broken_share is {max_broken_share}; it is a share, from 0 to 1.")
        self.max_broken_share = max_broken_share
        self._reset()

    def _reset(self) -> None:
        self.num_clips = 0
        self.counts: collections.Counter[tuple[str, str]] = collections.Counter()
        self.reasons: collections.Counter[str] = collections.Counter()

    def add(self, broken: Iterable[tuple[str, str]], num_clips: int) -> None:
        """Counts a batch: its `broken` list and its number of videos.

        Raises:
            TooManyBrokenVideosError: the limit is exceeded in this process, once it made 200 attempts. The launcher
                then ends the other processes.
        """
        self.num_clips += num_clips
        counts = collections.Counter((name, reason) for name, reason in broken)
        for (_, reason), number in counts.items():
            self.reasons[reason] += number
        self._remember(counts)
        if self.num_clips + self.reasons.total() >= _MIN_ATTEMPTS:
            self._check()

    def _remember(self, counts: "collections.Counter[tuple[str, str]]") -> None:
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

    def end_epoch(self, epoch: int, folder: str | os.PathLike) -> dict[str, Any]:
        """Joins the counts of all processes, writes the list of broken videos, and begins anew.

        Every process must call it. The main one writes `folder/epoch-<epoch>.jsonl` if anything was broken, a line
        `{"video", "reason", "attempts"}` for each video, the most frequent first.

        Returns:
            `num_clips`, `num_broken`, `reasons` (reason → attempts), and `report` (the file's path or None), the same
            on all processes.

        Raises:
            TooManyBrokenVideosError: the limit is exceeded; on all processes, with the list written.
        """
        is_distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        if is_distributed:
            parts: list[Any] = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(parts, (self.num_clips, self.counts, self.reasons))
            self._reset()
            for num_clips, counts, reasons in parts:
                self.num_clips += num_clips
                self.reasons += reasons
                self._remember(counts)
        report = None
        if self.reasons:
            report = Path(folder) / f"epoch-{epoch}.jsonl"
            if not is_distributed or torch.distributed.get_rank() == 0:
                self._write(report)
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

    def _write(self, report: Path) -> None:
        with atomic_write(report) as temporary, temporary.open("w", encoding="utf-8") as file:
            for (name, reason), number in self.counts.most_common():
                line = {"video": name, "reason": reason, "attempts": number}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")


class TooManyBrokenVideosError(ValueError):
    """More videos than the limit allows could not be read."""

"""Scores of classified videos on disk, from which an interrupted evaluation resumes."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, BinaryIO

import datasets
import numpy as np
import torch
from transformers import BaseVideoProcessor, PreTrainedModel


def score_dtype(num_classes: int) -> np.dtype:
    """A record of a video: its row in the table, its key (`video_keys`), and its class probabilities."""
    return np.dtype([("index", "<i8"), ("video", "<u8"), ("probabilities", "<f8", (num_classes,))])


class PartialScores:
    """Records of fixed length (`score_dtype`) in files, a new file for each start of a process, so that what is
    written is never changed.

    Args:
        folder: parent folder of the scores.
        fingerprint: name of the folder, see `fingerprint`.
    """

    def __init__(self, folder: Path, fingerprint: str):
        self.folder = folder / fingerprint

    def read(self, dtype: np.dtype, keys: np.ndarray) -> np.ndarray:
        """All complete records of the videos with these keys; those that were cut off or not written to the disk, and
        those of files that have changed, are left out."""
        parts = [np.fromfile(path, dtype) for path in sorted(self.folder.glob("*.scores"))]
        records = np.concatenate([np.empty(0, dtype), *parts])
        records = records[np.abs(records["probabilities"].sum(axis=1) - 1) < 1e-6]
        return records[records["video"] == keys[records["index"]]]

    def open(self, process_index: int) -> BinaryIO:
        """A new file of this process."""
        self.folder.mkdir(parents=True, exist_ok=True)
        number = len(list(self.folder.glob(f"process{process_index}-*.scores")))
        return (self.folder / f"process{process_index}-{number}.scores").open("xb")


def video_keys(records: datasets.Dataset, names: list[str]) -> np.ndarray:
    """A number for each video that changes with it, uint64 (videos,).

    It is a hash of name, size and time of the last change of a file. A row of bytes has the table's own fingerprint,
    which depends on its content; a URL or a member of an archive is known by its name only.
    """
    are_names = isinstance(records.features["video"], datasets.Value)
    keys = []
    for row, name in enumerate(names):
        try:
            facts = os.stat(name)
            text = f"{name} {facts.st_size} {facts.st_mtime_ns}"
        except (OSError, ValueError):
            text = name if are_names else f"{records._fingerprint} {row}"
        keys.append(int.from_bytes(hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=8).digest()))
    return np.array(keys, np.uint64)


def fingerprint(
    model: PreTrainedModel, processor: BaseVideoProcessor, protocol: dict[str, Any], names: list[str]
) -> str:
    """A hash of everything that scores depend on, including the weights: takes seconds for a large model."""
    settings = [model.config.to_dict(), processor.to_dict(), protocol, names]
    digest = hashlib.blake2b(json.dumps(settings, sort_keys=True, default=str).encode(), digest_size=8)
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()

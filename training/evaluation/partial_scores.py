"""Scores of classified videos on disk, from which an interrupted evaluation resumes."""

import hashlib
import json
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from transformers import BaseVideoProcessor, PreTrainedModel


def score_dtype(num_classes: int) -> np.dtype:
    """A record of a video: its row in the table, and its class probabilities."""
    return np.dtype([("index", "<i8"), ("probabilities", "<f8", (num_classes,))])


class PartialScores:
    """Records of fixed length (`score_dtype`) in files, a new file for each start of a process, so that what is
    written is never changed.

    Args:
        folder: parent folder of the scores.
        fingerprint: name of the folder, see `fingerprint`.
    """

    def __init__(self, folder: Path, fingerprint: str):
        self.folder = folder / fingerprint

    def read(self, dtype: np.dtype) -> np.ndarray:
        """All complete records; those that were cut off or not written to the disk are left out."""
        parts = [np.fromfile(path, dtype) for path in sorted(self.folder.glob("*.scores"))]
        records = np.concatenate([np.empty(0, dtype), *parts])
        return records[np.abs(records["probabilities"].sum(axis=1) - 1) < 1e-6]

    def open(self, process_index: int) -> BinaryIO:
        """A new file of this process."""
        self.folder.mkdir(parents=True, exist_ok=True)
        number = len(list(self.folder.glob(f"process{process_index}-*.scores")))
        return (self.folder / f"process{process_index}-{number}.scores").open("xb")


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

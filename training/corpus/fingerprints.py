"""What results depend on, as short hashes: model, processor and settings, and each video."""

import hashlib
import json
import os
import re
from typing import Any

import datasets
import numpy as np
import torch
from transformers import PreTrainedModel


def video_keys(videos: datasets.Dataset | list[Any], names: list[str]) -> np.ndarray:
    """A number for each video that changes with it, uint64 (videos,).

    It is a hash of name, size and time of the last change of a file, or of the archive that contains it. Bytes in a
    list are hashed; a row of bytes of a table has the table's own fingerprint, which depends on its content and spares
    reading it. A URL on the network is known by its name only.

    Args:
        videos: a table with a column `video`, or its values: paths, bytes, or records of both.
        names: paths or URLs of the videos; any other text for bytes.
    """
    keys = []
    for row, name in enumerate(names):
        try:
            facts = os.stat(_local_file(name))
            content = f"{name} {facts.st_size} {facts.st_mtime_ns}"
        except (OSError, ValueError):
            content = _content_id(videos, row, name)
        keys.append(int.from_bytes(_digest(content.encode(errors="surrogateescape")).digest()))
    return np.array(keys, np.uint64)


def _local_file(name: str) -> str:
    """The file of a path, or of a URL such as `file://…` or `zip://member::archive.zip`."""
    return re.sub("^(file|local)://", "", name.rpartition("::")[2]) if "://" in name else name


def _content_id(videos: datasets.Dataset | list[Any], row: int, name: str) -> str:
    """A text for a video without a local file."""
    if isinstance(videos, datasets.Dataset):
        are_names = "string" in str(getattr(videos.features["video"], "dtype", ""))
        return name if are_names else f"{videos._fingerprint} {row}"
    video = videos[row].get("bytes") if isinstance(videos[row], dict) else videos[row]
    return _digest(video).hexdigest() if isinstance(video, bytes) else name


def fingerprint(model: PreTrainedModel, processor: Any, settings: dict[str, Any]) -> str:
    """A hash of everything that results depend on, including the weights: takes seconds for a large model.

    Args:
        model: its configuration and weights are hashed.
        processor: a video processor, or a processor with a tokenizer, whose vocabulary and rules are hashed.
        settings: protocol, names of the videos, texts; as JSON.
    """
    known = [model.config.to_dict(), processor.to_dict(), settings]
    if hasattr(processor, "tokenizer"):
        rules = json.loads(processor.tokenizer.backend_tokenizer.to_str())
        # the state of the last call, not a setting
        known.append({name: rule for name, rule in rules.items() if name not in ("padding", "truncation")})
    digest = _digest(json.dumps(known, sort_keys=True, default=str).encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _digest(content: bytes) -> Any:
    return hashlib.blake2b(content, digest_size=8)

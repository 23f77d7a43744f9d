"""Indices of `umt search` with given rows, without videos."""

from pathlib import Path

import numpy as np

from umt_training.search.search_index import IndexModel, SearchIndex

DIMENSION = 16
RANDOM = np.random.default_rng(0).normal(size=(8, DIMENSION)).astype(np.float32)
RANDOM /= np.linalg.norm(RANDOM, axis=1, keepdims=True)


def window_rows(videos: list[str], vectors: np.ndarray) -> list[dict]:
    """A window of a second for each video."""
    facts = {"size": 1, "modified": 2, "start": 0.0, "end": 1.0}
    return [{"video": video, **facts, "vector": vector} for video, vector in zip(videos, vectors, strict=False)]


def index_of_rows(folder: Path, rows: list[dict], dimension: int = DIMENSION) -> SearchIndex:
    """The index of `folder / "videos"`, in its usual place."""
    videos = folder / "videos"
    videos.mkdir(exist_ok=True)
    model = IndexModel("tiny", None, "0")
    index = SearchIndex.create(videos / ".umt-index", videos, model, window=1.0, dimension=dimension)
    if rows:
        index.add(rows, {})
    return index

"""Results as tables: columns `video`, `start` and `end` (seconds), and those of vectors or of labels."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

_SPANS = {"video": pa.string(), "start": pa.float64(), "end": pa.float64()}
SCORES = pa.schema(
    [*_SPANS.items(), ("label", pa.string()), ("score", pa.float32()), ("labels", pa.list_(pa.string())),
     ("scores", pa.list_(pa.float32()))]
)  # fmt: skip


def vector_schema(dimension: int) -> pa.Schema:
    """`embedding` is a list of `dimension` float32 numbers."""
    return pa.schema([*_SPANS.items(), ("embedding", pa.list_(pa.float32(), dimension))])


def vector_table(rows: Sequence[dict[str, Any]], vectors: np.ndarray) -> pa.Table:
    """A table of vectors.

    Args:
        rows: `{"video", "start", "end"}` of each vector. Names that are not UTF-8 are escaped.
        vectors: float32 `(rows, dim)`.
    """
    schema = vector_schema(vectors.shape[1])
    embeddings = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    return pa.table([*_span_columns(rows), embeddings], schema)


def score_table(
    rows: Sequence[dict[str, Any]], scores: np.ndarray, class_names: Sequence[str], top_k: int
) -> pa.Table:
    """A table of the most likely labels: the best one in `label` and `score`, the `top_k` best in `labels` and
    `scores`.

    Args:
        rows: `{"video", "start", "end"}` of each row of scores. Names that are not UTF-8 are escaped.
        scores: float32 `(rows, classes)`.
        class_names: in the order of the classes.
        top_k: labels per row.
    """
    best = best_classes(scores, top_k)
    labels = [[class_names[index] for index in row] for row in best]
    values = np.take_along_axis(scores, best, axis=1)
    firsts = [[row[0] for row in labels], values[:, 0] if len(values) else []]
    columns = zip((*firsts, labels, list(values)), SCORES.types[3:], strict=True)
    return pa.table([*_span_columns(rows), *(pa.array(values, kind) for values, kind in columns)], SCORES)


def best_classes(scores: np.ndarray, top_k: int) -> np.ndarray:
    """Indices of the `top_k` highest scores of each row, best first; of equal ones, the lower index first."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :top_k]


def _span_columns(rows: Sequence[dict[str, Any]]) -> list[pa.Array]:
    values = {name: [row[name] for row in rows] for name in _SPANS}
    values["video"] = [name.encode(errors="backslashreplace").decode() for name in values["video"]]
    return [pa.array(values[name], kind) for name, kind in _SPANS.items()]

"""Accuracy as the UMT paper (arXiv 2303.16058, section 4) and its code report it: in percent over videos, whose scores
are the mean over their views of the softmax of the logits (`fold_views`).

The metrics are `evaluate.Metric` classes that are constructed here rather than loaded by name, so nothing is fetched
from the Hub. All take the same input, scores and labels, and go through `evaluate.combine`.

What is unusual: unlike a metric that is loaded, these keep what is added in memory unless several processes share them
(`num_process` above 1), so that a single process leaves no file behind. Ties go to the lower class index, so that
top-1 is the arg-max of NumPy and a constant score does not count as five hits.
"""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from .retrieval_metrics import RANKS, best_ranks

_INPUTS = """
Args:
    predictions: scores, floats `(videos, classes)`: logits or probabilities, only the order within a row counts.
    references: labels, integers `(videos,)`.
"""

_RETRIEVAL_INPUTS = """
Args:
    predictions: scores, floats `(queries, candidates)`; only the order within a row counts.
    references: of every query the numbers of its right candidates, at least one.
"""


class _InMemoryMetric(evaluate.Metric):
    """A metric that keeps what is added in memory in a single process."""

    def __init__(self, *args: Any, num_process: int = 1, **kwargs: Any):
        super().__init__(*args, num_process=num_process, keep_in_memory=num_process == 1, **kwargs)


class _ScoreMetric(_InMemoryMetric):
    """A metric of scores `(videos, classes)` and labels `(videos,)`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=type(self).__doc__,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": datasets.List(datasets.Value("float64")), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, Any]:
        scores, labels = np.asarray(predictions), np.asarray(references)
        if not np.isfinite(scores).all():
            raise ValueError(f"Scores of {(~np.isfinite(scores).all(axis=1)).sum()} videos are not finite.")
        num_labels = scores.shape[1]
        if labels.min() < 0 or labels.max() >= num_labels:
            raise ValueError(
                f"Labels go from {labels.min()} to {labels.max()}, but scores are given for {num_labels} classes "
                f"(0 to {num_labels - 1}). Do model and data set agree on the classes?"
            )
        return self._measure(scores, labels)

    def _measure(self, scores: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
        """The results, from finite scores `(videos, classes)` and labels `(videos,)` within the classes."""
        raise NotImplementedError


class TopKAccuracy(_ScoreMetric):
    """`top1` and `top5`: percent of videos whose label has the highest score, or one of the five highest."""

    def _measure(self, scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        own = np.take_along_axis(scores, labels[:, None], axis=1)
        lower_index = np.arange(scores.shape[1]) < labels[:, None]
        rank = ((scores > own) | ((scores == own) & lower_index)).sum(axis=1)
        return {f"top{k}": 100.0 * float((rank < k).mean()) for k in (1, 5)}


class PerClassAccuracy(_ScoreMetric):
    """`per_class_accuracy`: for every class the percent of its videos that are recognised, None without videos;
    `mean_class_accuracy`: the mean over the classes that have videos."""

    def _measure(self, scores: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
        num_videos = np.bincount(labels, minlength=scores.shape[1])
        num_hits = np.bincount(labels[scores.argmax(axis=1) == labels], minlength=scores.shape[1])
        accuracies = [
            100.0 * hits / videos if videos else None
            for hits, videos in zip(num_hits.tolist(), num_videos.tolist(), strict=True)
        ]
        present = [accuracy for accuracy in accuracies if accuracy is not None]
        return {"per_class_accuracy": accuracies, "mean_class_accuracy": sum(present) / len(present)}


class ConfusionMatrix(_ScoreMetric):
    """`confusion_matrix`: int64 `(classes, classes)`, videos of the row's class that were taken for the column's."""

    def _measure(self, scores: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
        num_labels = scores.shape[1]
        cells = np.bincount(labels * num_labels + scores.argmax(axis=1), minlength=num_labels**2)
        return {"confusion_matrix": cells.reshape(num_labels, num_labels)}


class RetrievalRecall(_InMemoryMetric):
    """`r1`, `r5`, `r10`: percent of queries of which a right candidate is among the best 1, 5 or 10; `mean_rank` and
    `median_rank` of the best right one, from 1. With a configuration's name, such as `text_to_video`, the keys begin
    with it. Equal scores count half, see `best_ranks`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=type(self).__doc__,
            citation="",
            inputs_description=_RETRIEVAL_INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.List(datasets.Value("float64")),
                    "references": datasets.List(datasets.Value("int64")),
                }
            ),
        )

    def _compute(self, predictions: np.ndarray, references: Sequence[Sequence[int]]) -> dict[str, float]:
        scores = np.asarray(predictions, dtype=np.float64)
        if not np.isfinite(scores).all():
            raise ValueError(f"Scores of {(~np.isfinite(scores).all(axis=1)).sum()} queries are not finite.")
        match = np.zeros(scores.shape, dtype=bool)
        for query, right in enumerate(references):
            right = np.asarray(right, dtype=np.int64)
            if right.size and not 0 <= right.min() <= right.max() < scores.shape[1]:
                raise ValueError(
                    f"Query {query} has the right candidates {right}; there are {scores.shape[1]}, from 0."
                )
            match[query, right] = True
        ranks = best_ranks(scores, match)
        results = {f"r{rank}": 100.0 * float((ranks < rank).mean()) for rank in RANKS}
        results |= {"mean_rank": float(ranks.mean()) + 1, "median_rank": float(np.median(ranks)) + 1}
        prefix = "" if self.config_name == "default" else f"{self.config_name}_"
        return {f"{prefix}{name}": value for name, value in results.items()}

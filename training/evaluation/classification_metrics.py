"""Accuracy as reported in the UMT paper (arXiv 2303.16058, section 4) and its code: in percent over videos, whose
scores are the mean over their views of the softmax of the logits (`fold_views`).

The metrics are `evaluate.Metric` classes that are constructed here, not loaded by name, so nothing is downloaded from
the Hub. All take the same input, scores and labels, and can be joined by `evaluate.combine`.

Unusual: unlike metrics that are loaded by name, these keep their input in memory unless several processes share them
(`num_process` above 1), so a single process writes no file. Ties go to the lower class index, so that top-1 is NumPy's
arg-max and a constant score does not count as a hit for every class.
"""

from typing import Any

import datasets
import evaluate
import numpy as np

_INPUTS = """
Args:
    predictions: scores, floats `(videos, classes)`: logits or probabilities, only the order within a row matters.
    references: labels, integers `(videos,)`.
"""


class _ScoreMetric(evaluate.Metric):
    """A metric of scores `(videos, classes)` and labels `(videos,)`, in memory if there is a single process."""

    def __init__(self, *args: Any, num_process: int = 1, **kwargs: Any):
        super().__init__(*args, num_process=num_process, keep_in_memory=num_process == 1, **kwargs)

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
                f"Labels are from {labels.min()} to {labels.max()}, but scores are given for {num_labels} classes "
                f"(0 to {num_labels - 1}). Do model and data set agree on the classes?"
            )
        return self._measure(scores, labels)

    def _measure(self, scores: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
        """The results, from finite scores `(videos, classes)` and labels `(videos,)` within the classes."""
        raise NotImplementedError


class TopKAccuracy(_ScoreMetric):
    """`top1` and `top5`: percentage of videos whose label has the highest score, or one of the five highest.

    With five classes or fewer there is no `top5`, which would be 100 % for any scores."""

    def _measure(self, scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        own = np.take_along_axis(scores, labels[:, None], axis=1)
        lower_index = np.arange(scores.shape[1]) < labels[:, None]
        rank = ((scores > own) | ((scores == own) & lower_index)).sum(axis=1)
        return {f"top{k}": 100.0 * float((rank < k).mean()) for k in (1, 5) if k == 1 or k < scores.shape[1]}


class PerClassAccuracy(_ScoreMetric):
    """`per_class_accuracy`: for each class the percentage of its videos that are classified correctly, None for a
    class without videos; `mean_class_accuracy`: the mean over the classes that have videos."""

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
    """`confusion_matrix`: int64 `(classes, classes)`, number of videos of the row's class that were predicted as the
    column's."""

    def _measure(self, scores: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
        num_labels = scores.shape[1]
        cells = np.bincount(labels * num_labels + scores.argmax(axis=1), minlength=num_labels**2)
        return {"confusion_matrix": cells.reshape(num_labels, num_labels)}

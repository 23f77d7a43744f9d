"""Classification metrics and the merging of views: recorded values of the official code, plain recounts, no files."""

import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from processing_umt.video_processing_umt import fold_views
from umt_training.evaluation.classification_metrics import ConfusionMatrix, PerClassAccuracy, TopKAccuracy

METRICS = [TopKAccuracy, PerClassAccuracy, ConfusionMatrix]
SCORES = np.array([[0.1, 0.7, 0.2], [0.5, 0.4, 0.1], [0.2, 0.3, 0.5], [0.6, 0.3, 0.1], [0.3, 0.4, 0.3]])
LABELS = np.array([1, 0, 0, 0, 0])
EXPECTED = {
    TopKAccuracy: {"top1": 60.0},
    PerClassAccuracy: {"per_class_accuracy": [50.0, 100.0, None], "mean_class_accuracy": 75.0},
    ConfusionMatrix: {"confusion_matrix": [[2, 1, 1], [0, 1, 0], [0, 0, 0]]},
}


@pytest.fixture(autouse=True)
def evaluate_cache(tmp_path, monkeypatch):
    """`evaluate` creates a folder for every metric: here in the test's temporary folder."""
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", str(tmp_path / "metrics"))
    return tmp_path / "metrics"


def plain(results: dict) -> dict:
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in results.items()}


def files_under(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


# views of a video


def test_recorded_merge(recorded):
    description, _ = recorded("multiview_merge")
    rows = [row for rank in description["rank_files"] for row in rank]
    views: dict[str, dict] = {}
    for row in rows:  # samplers pad the last round with repeated views, which count once
        views.setdefault(row["id"], {}).setdefault((row["chunk"], row["split"]), row["logits"])
    assert sum(map(len, views.values())) < len(rows), "the recording has no repeated view"
    expected, label_of = description["expected"], {row["id"]: row["label"] for row in rows}
    scores = {}
    for video, logits in views.items():
        scores[video] = fold_views(torch.tensor([*logits.values()], dtype=torch.float64), len(logits))[0].numpy()
        record = expected["per_video"][video]
        assert (scores[video].argmax(), label_of[video]) == (record["pred"], record["label"])
        single = TopKAccuracy().compute(predictions=scores[video][None], references=[label_of[video]])
        assert single == {"top1": 100 * record["top1"], "top5": 100 * record["top5"]}
    assert scores.keys() == expected["per_video"].keys()
    accuracy = TopKAccuracy().compute(predictions=[*scores.values()], references=[label_of[video] for video in scores])
    assert accuracy["top1"] == pytest.approx(expected["top1"], abs=1e-9)
    assert accuracy["top5"] == pytest.approx(expected["top5"], abs=1e-9)


# metrics


@pytest.mark.parametrize("metric", METRICS)
def test_known_results(metric):
    assert plain(metric().compute(predictions=SCORES, references=LABELS)) == EXPECTED[metric]


@settings(max_examples=60, deadline=None)
@given(num_videos=st.integers(1, 30), num_labels=st.integers(1, 9), seed=st.integers(0, 2**32 - 1))
def test_plain_recount(num_videos, num_labels, seed):
    """Against sorted lists; few different scores, so that ties are frequent."""
    generator = np.random.default_rng(seed)
    scores = generator.integers(0, 4, size=(num_videos, num_labels)).astype(float)
    labels = generator.integers(0, num_labels, size=num_videos)
    ranked = [sorted(range(num_labels), key=lambda c, row=row: (-row[c], c)) for row in scores]
    hits = [ranking[0] == label for ranking, label in zip(ranked, labels, strict=True)]
    top = TopKAccuracy()._measure(scores, labels)
    assert top["top1"] == pytest.approx(100 * np.mean(hits))
    assert ("top5" in top) == (num_labels > 5)
    if num_labels > 5:
        assert top["top5"] == pytest.approx(
            100 * np.mean([label in ranking[:5] for ranking, label in zip(ranked, labels, strict=True)])
        )
    per_class = PerClassAccuracy()._measure(scores, labels)
    for c in range(num_labels):
        own = [hit for hit, label in zip(hits, labels, strict=True) if label == c]
        expected = 100 * np.mean(own) if own else None
        assert per_class["per_class_accuracy"][c] == (expected if expected is None else pytest.approx(expected))
    confusion = ConfusionMatrix()._measure(scores, labels)["confusion_matrix"]
    assert confusion.sum() == num_videos
    assert 100 * np.trace(confusion) / num_videos == pytest.approx(top["top1"])
    assert confusion.sum(axis=1).tolist() == np.bincount(labels, minlength=num_labels).tolist()
    assert confusion.sum(axis=0).tolist() == np.bincount([r[0] for r in ranked], minlength=num_labels).tolist()


def test_constant_scores_reach_chance_level():
    """A model with the same scores for all ten classes has a top-1 of 10 % and a top-5 of 50 %."""
    result = TopKAccuracy().compute(predictions=np.zeros((10, 10)), references=np.arange(10))
    assert result == {"top1": 10.0, "top5": 50.0}


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("as_input", [np.asarray, torch.tensor, lambda x: np.asarray(x).tolist()])
def test_batches_add_up_without_files_or_warnings(metric, as_input, evaluate_cache, monkeypatch):
    monkeypatch.chdir(evaluate_cache.parent)
    state = np.random.get_state()[1].copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        instance = metric()
        for _ in range(2):  # the second round starts empty
            instance.add_batch(predictions=as_input(SCORES[:2]), references=as_input(LABELS[:2]))
            instance.add_batch(predictions=as_input(SCORES[2:4]), references=as_input(LABELS[2:4]))
            instance.add(prediction=as_input(SCORES[4]), reference=int(LABELS[4]))
            assert plain(instance.compute()) == EXPECTED[metric]
    assert files_under(evaluate_cache.parent) == []
    assert np.array_equal(state, np.random.get_state()[1])


def test_combine():
    combined = evaluate.combine([metric() for metric in METRICS])
    combined.add_batch(predictions=SCORES, references=LABELS)
    assert plain(combined.compute()) == {name: value for metric in METRICS for name, value in EXPECTED[metric].items()}


def test_scores_keep_double_precision():
    scores = np.array([[1.0, 1.0 + 1e-12]])
    assert TopKAccuracy().compute(predictions=scores, references=[1])["top1"] == 100.0


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([[0.1, 0.9], [np.nan, 0.0]], [0, 1], "Scores of 1 videos are not finite"),
        ([[0.1, 0.9]], [2], r"2 classes \(0 to 1\)"),
        ([[0.1, 0.9]], [-1], "Labels are from -1"),
    ],
)
def test_bad_scores_and_labels_are_refused(metric, scores, labels, message):
    with pytest.raises(ValueError, match=message):
        metric().compute(predictions=scores, references=labels)


def test_two_participants_give_the_result_of_one(tmp_path):
    """`evaluate` shares a metric through locked files: only empty lock files remain. Locks are per open file, so
    threads can replace processes here (which would spend half a minute on importing `evaluate`)."""

    def take_part(process_id, batches):
        metric = TopKAccuracy(num_process=2, process_id=process_id, cache_dir=str(tmp_path), experiment_id="two")
        for rows in batches:
            metric.add_batch(predictions=SCORES[rows], references=LABELS[rows])
        return metric.compute()

    shards = [[slice(0, 2), slice(2, 3)], [slice(3, 5)]]
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(take_part, range(2), shards)) == [EXPECTED[TopKAccuracy], None]
    assert all(file.suffix == ".lock" and file.stat().st_size == 0 for file in files_under(tmp_path))

"""Recall both ways: as recorded, by a plain count, and with ties."""

import numpy as np
import pytest

from umt_training.evaluation.retrieval_metrics import best_ranks, retrieval_recalls


def test_recorded_recalls(recorded):
    """One text a video, several texts a video, several videos a text."""
    description, _ = recorded("retrieval_metrics")
    assert len(description["problems"]) == 3
    for problem in description["problems"]:
        videos = np.array(problem["scores_i2t"])
        match = np.zeros(videos.shape, bool)
        for text, video in problem["txt2img"].items():
            match[video, int(text)] = True
        found = retrieval_recalls(videos, np.array(problem["scores_t2i"]), match)
        for rank in (1, 5, 10):
            assert found[f"video_to_text_r{rank}"] == problem["metrics"][f"txt_r{rank}"]
            assert found[f"text_to_video_r{rank}"] == problem["metrics"][f"img_r{rank}"]
        assert found["mean_recall"] == pytest.approx(problem["metrics"]["r_mean"], abs=0.01)


def test_ranks_by_hand():
    scores = np.array([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [0.0, 0.0, 0.0]])
    match = np.array([[1, 0, 0], [0, 1, 1], [0, 0, 1]], bool)
    assert best_ranks(scores, match).tolist() == [0, 1, 1]


def test_a_model_that_tells_nothing_apart_gets_nothing():
    found = retrieval_recalls(np.zeros((20, 20)), np.zeros((20, 20)), np.eye(20, dtype=bool))
    assert found["video_to_text_r1"] == found["text_to_video_r5"] == 0 and found["chance_r1"] == 5
    random = np.random.default_rng(0).normal(size=(400, 400))
    found = retrieval_recalls(random, random.T, np.eye(400, dtype=bool))
    assert found["text_to_video_r10"] == pytest.approx(2.5, abs=2)


def test_a_query_without_an_answer_is_told():
    with pytest.raises(ValueError, match="Query 1 has no candidate"):
        best_ranks(np.zeros((2, 2)), np.array([[True, False], [False, False]]))

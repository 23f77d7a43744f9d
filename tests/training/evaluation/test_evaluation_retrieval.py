"""Retrieval: recorded scores, grouped against plain re-ranking, protocols, broken videos, two processes."""

import argparse
import json
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from recorded import load_recorded
from tiny_classifier import save_noise
from tiny_video_text_retrieval import recorded_retrieval_model, save_tiny_retrieval_model, tiny_retrieval_model
from warm_python import launch

from processing_umt import UMTProcessor, UMTVideoProcessor
from processing_umt.video_decoding_umt import VideoReader
from umt_training.cli import evaluate as cli_evaluate
from umt_training.cli import evaluate_common
from umt_training.data.video_records import load_video_records
from umt_training.evaluation import retrieval as evaluation_retrieval
from umt_training.evaluation.clips import EvaluationClipDataset
from umt_training.evaluation.retrieval import RetrievalSet, best_candidates, evaluate_retrieval, retrieval_set

WORDS = ("a", "man", "dog", "cat", "run", "fast", "the", "person", "two", "bike", "ride", "car")


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    return save_tiny_retrieval_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def processor(model_folder) -> UMTProcessor:
    return UMTProcessor.from_pretrained(model_folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Seven videos, the fifth broken, with one to three captions each: 14 texts."""
    folder = tmp_path_factory.mktemp("videos")
    rows, number = [], 0
    for video in range(7):
        name = f"clip{video}.mp4"
        save_noise(folder / name, video, num_frames=9, height=32, width=48)
        captions = []
        for _ in range(1 + video % 3):
            captions.append(" ".join(WORDS[(number + 3 * k) % len(WORDS)] for k in range(2 + number % 4)))
            number += 1
        rows.append({"video": name, "caption": captions})
    (folder / "clip4.mp4").write_bytes(b"no video")
    (folder / "list.json").write_text(json.dumps(rows))
    return folder / "list.json"


def score(data: Path, processor: UMTProcessor, model=None, **options):
    return evaluate_retrieval(
        model or tiny_retrieval_model(),
        processor,
        retrieval_set(load_video_records(data)),
        **{"num_workers": 0, "batch_size": 3, "num_reranked": 3} | options,
    )


# recorded


class RecordedClips(EvaluationClipDataset):
    """Clips that are recorded tensors."""

    def __getitem__(self, position):
        return self.videos[position]


def test_recorded_reranking(monkeypatch):
    """Six videos and forty texts, of which 35 are re-ranked."""
    description, tensors = load_recorded("retrieval_rerank")
    match = np.zeros((6, 40), dtype=bool)
    for video, texts in description["img2txt"].items():
        match[int(video), texts] = True

    class RecordedTexts:
        """Texts are row indices."""

        max_text_length = tensors["input/input_ids"].shape[1]
        video_processor = UMTVideoProcessor(num_frames=3, size={"height": 32, "width": 32}, crop_size=32)

        def __call__(self, text, **options):
            return {name: tensors[f"input/{name}"][list(map(int, text))] for name in ("input_ids", "attention_mask")}

    monkeypatch.setattr(evaluation_retrieval, "EvaluationClipDataset", RecordedClips)
    monkeypatch.setattr(evaluation_retrieval, "normalize_clips", lambda processor, clips: clips)
    data = RetrievalSet(list(tensors["input/video"]), list(map(str, range(6))), list(map(str, range(40))), match)
    scores = evaluate_retrieval(
        recorded_retrieval_model(description, tensors),
        RecordedTexts(),
        data,
        num_reranked=description["k_test"],
        num_workers=0,
        texts_per_match=16,
    )
    for ours, name in (
        (scores.dual_encoder, "i2t_dual"),
        (scores.dual_encoder.T, "t2i_dual"),
        (scores.video_to_text, "i2t_rerank"),
        (scores.text_to_video, "t2i_rerank"),
    ):
        expected = tensors[f"expected/{name}"].numpy()
        ranked = expected > -100
        assert ranked.any()
        np.testing.assert_allclose(ours[ranked], expected[ranked], rtol=0, atol=1e-5)
        assert (ours[~ranked] < -98.9).all()
    for ours, official in (("reranked", "rerank"), ("dual_encoder", "dual")):
        expected = description["metrics"][official]
        for direction, theirs in (("text_to_video", "img"), ("video_to_text", "txt")):
            for rank in (1, 5, 10):
                assert round(scores.metrics[ours][f"{direction}_r{rank}"], 2) == expected[f"{theirs}_r{rank}"]
        assert round(scores.metrics[ours]["mean_recall"], 2) == expected["r_mean"]


# one process


def test_grouped_pairs_equal_the_plain_loop(data, processor):
    """Scores of pairs that are grouped by video against one pair at a time."""
    model = tiny_retrieval_model().eval()
    scores = score(data, processor, model)
    assert len(scores.data.videos) == 6 and [video.reason for video in scores.skipped] == ["not_a_video"]
    assert scores.num_skipped_texts == 2 and len(scores.data.texts) == 11
    dual, logits = np.empty((6, 11)), np.empty((6, 11))
    with torch.no_grad():
        for row, video in enumerate(scores.data.videos):
            for column, text in enumerate(scores.data.texts):
                inputs = processor(text=text, videos=video, return_tensors="pt")
                dual[row, column] = model(**inputs).logits_per_video * model.temperature
                features = model.get_text_features(inputs["input_ids"], inputs["attention_mask"])
                tokens = model.get_video_features(inputs["pixel_values_videos"]).last_hidden_state
                pair = model.match(features.last_hidden_state, inputs["attention_mask"], tokens)
                logits[row, column] = pair[0, 1]
    np.testing.assert_allclose(scores.dual_encoder, dual, atol=1e-5)
    assert np.ptp(logits) > 0.1
    for ours, plain, plain_dual in (
        (scores.video_to_text, logits, dual),
        (scores.text_to_video, logits.T, dual.T),
    ):
        for row in range(len(ours)):
            best = set(np.argsort(-plain_dual[row], kind="stable")[:3])
            for column in range(ours.shape[1]):
                if column in best:
                    assert ours[row, column] == pytest.approx(plain[row, column], abs=1e-5)
                else:
                    assert ours[row, column] == pytest.approx(plain_dual[row, column] - 100, abs=1e-5)


def test_a_video_is_matched_once(data, processor, monkeypatch):
    """One call per video for its texts of both directions, and no pair twice."""
    model, calls = tiny_retrieval_model(), []
    match = model.match
    monkeypatch.setattr(
        model,
        "match",
        lambda texts, mask, videos, **options: (
            calls.append((len(texts), len(videos))) or match(texts, mask, videos, **options)
        ),
    )
    scores = score(data, processor, model)
    pairs = (scores.video_to_text > -90) | (scores.text_to_video > -90).T
    assert sorted(calls) == sorted((int(number), 1) for number in pairs.sum(axis=1) if number)


def test_of_equal_candidates_the_first_are_chosen():
    assert best_candidates(np.array([[1.0, 2.0, 2.0, 2.0]]), 2).tolist() == [[False, True, True, False]]


@pytest.mark.parametrize(
    ("rows", "options", "texts", "match"),
    [
        # MSRVTT: one text per video, also where two texts are the same
        ([("a", "x"), ("b", "x")], {}, ["x", "x"], [[1, 0], [0, 1]]),
        # MSVD: several texts per video, in a list or in rows
        ([("a", ["x", "y"]), ("b", ["z"])], {}, ["x", "y", "z"], [[1, 1, 0], [0, 0, 1]]),
        ([("a", "x"), ("a", "y"), ("b", "z")], {}, ["x", "y", "z"], [[1, 1, 0], [0, 0, 1]]),
        # ActivityNet
        ([("a", ["x", "y"]), ("b", ["z"])], {"paragraph": True}, ["x y", "z"], [[1, 0], [0, 1]]),
        ([("a", "x"), ("b", "z"), ("a", "y")], {"paragraph": True}, ["x y", "z"], [[1, 0], [0, 1]]),  # raw lists
        ([("a", ["x"]), ("b", ["z"]), ("a", ["y", "w"])], {"paragraph": True}, ["x y w", "z"], [[1, 0], [0, 1]]),
        # Something-Something
        (
            [("a", "x"), ("b", "y"), ("c", "x")],
            {"several_videos": True},
            ["x", "y"],
            [[1, 0], [0, 1], [1, 0]],
        ),
    ],
)
def test_protocols(rows, options, texts, match):
    table = datasets.Dataset.from_dict({"video": [row[0] for row in rows], "caption": [row[1] for row in rows]})
    data = retrieval_set(table, **options)
    assert data.texts == texts and data.match.astype(int).tolist() == match


def test_lists_with_several_videos(data, tmp_path):
    """A row of Something-Something's lists names all videos of a text."""
    rows = [{"video": ["clip0.mp4", "clip2.mp4"], "caption": "x"}, {"video": "clip1.mp4", "caption": "y"}]
    path = tmp_path / "list.json"
    path.write_text(json.dumps(rows))
    found = retrieval_set(load_video_records(path, root=data.parent), several_videos=True)
    assert [Path(name).name for name in found.names] == ["clip0.mp4", "clip2.mp4", "clip1.mp4"]
    assert found.match.astype(int).tolist() == [[1, 0], [1, 0], [0, 1]]


def test_trimmed_videos(tmp_path, processor):
    path = save_noise(tmp_path / "long.mp4", 0, num_frames=40, height=32, width=32)  # 10 frames a second
    [(_, entire)] = [EvaluationClipDataset([(0, str(path))], processor.video_processor, 2)[0]]
    [(_, trimmed)] = [EvaluationClipDataset([(0, str(path))], processor.video_processor, 2, trim_seconds=2.0)[0]]
    with VideoReader(path) as reader:
        frames = reader.read([9, 29, 4, 14])  # the middles of two intervals of 40 frames, and of 20
    expected = EvaluationClipDataset([], processor.video_processor, 4).process(frames)
    assert torch.equal(torch.cat([entire, trimmed]), expected)


# the command


def run(*argv) -> int:
    parser = argparse.ArgumentParser()
    cli_evaluate.add_arguments(parser)
    return cli_evaluate.run(parser.parse_args([str(word) for word in (*argv, "--device", "cpu", "--num-workers", 0)]))


def test_report(data, model_folder, processor, tmp_path, capsys):
    common = ("--task", "retrieval", "--model", model_folder, "--data", data)
    assert run(*common, "--reranked", 3, "--batch-size", 3, "--output", tmp_path / "one") == 0
    assert "text-to-video, reranked" in capsys.readouterr().out
    report = json.loads((tmp_path / "one" / "results.json").read_text())
    expected = score(data, processor)
    assert report["metrics"] == expected.metrics
    assert report["task"] == "text-to-video-retrieval"
    assert report["protocol"] == expected.protocol | {"paragraph": False, "several_videos": False}
    dataset = report["dataset"]
    assert (dataset["num_videos"], dataset["num_scored"], dataset["num_skipped"]) == (7, 6, 1)
    assert (dataset["num_texts"], dataset["num_scored_texts"]) == (13, 11)
    assert dataset["texts"].keys() == {"cut", "unknown", "equal", "empty"}
    assert dataset["skipped"][0]["video"].endswith("clip4.mp4") and dataset["skipped"][0]["reason"] == "not_a_video"
    assert set(report["versions"]) == set(evaluate_common.PACKAGES)
    with pytest.raises(ValueError, match="--clips is an option of --task classification"):
        run(*common, "--clips", 2)
    with pytest.raises(ValueError, match="--paragraph is an option of --task retrieval"):
        run("--model", model_folder, "--data", data, "--paragraph")


TEXTS = {  # captions of three videos, and what the command states: on stderr, or as its error
    "complete": (["a man", "a dog", "two cats"], None),
    "some": (
        ["a man", "A man!", "xyzzy"],
        "of 3, 0 are cut to 8 tokens, 1 have no word of the vocabulary, 2 are equal",
    ),
    "cut": (
        [f"{'a man ' * 4}{end}" for end in ("runs", "dog", "cat")],
        "all 3 are equal to the model, 3 of them because",
    ),
    "unknown": (["xyzzy", "qwert", "uiop"], "no word is in the vocabulary of the model"),
    "empty": (["?", "!", "..."], "nothing is left without punctuation"),
}


@pytest.mark.parametrize("case", TEXTS)
def test_captions_that_the_model_cannot_read(case, data, model_folder, tmp_path, capsys):
    captions, message = TEXTS[case]
    rows = [{"video": f"clip{row}.mp4", "caption": caption} for row, caption in enumerate(captions)]
    (tmp_path / "list.json").write_text(json.dumps(rows))
    arguments = (
        "--task",
        "retrieval",
        "--model",
        model_folder,
        "--data",
        tmp_path / "list.json",
        "--root",
        data.parent,
    )
    arguments += ("--reranked", 0, "--output", tmp_path / "out")
    if case in ("complete", "some"):
        assert run(*arguments) == 0
        notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: captions of ")]
        assert len(notes) == (message is not None) and all(message in line for line in notes)
        counts = json.loads((tmp_path / "out" / "results.json").read_text())["dataset"]["texts"]
        assert counts == {"cut": 0, "unknown": len(notes), "equal": 2 * len(notes), "empty": 0}
    else:
        with pytest.raises(ValueError, match=f"captions of .*list.json: {message}"):
            run(*arguments)
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--frames", 0), "--frames is 0; expected at least 1"),
        (("--frames", -2), "--frames is -2"),
        (("--max-text-length", 0), "--max-text-length is 0; expected at least 2"),
        (("--max-text-length", 1), "--max-text-length is 1"),
        (("--reranked", -1), "--reranked is -1"),
        (("--batch-size", 0), "--batch-size is 0"),
        (("--trim-seconds", 0), "--trim-seconds is 0.0"),
    ],
)
def test_numbers_below_their_minimum_are_refused(options, message, data, model_folder):
    with pytest.raises(ValueError, match=message):
        run("--task", "retrieval", "--model", model_folder, "--data", data, *options)


@pytest.mark.parametrize("options", [{"num_frames": 0}, {"max_text_length": 0}, {"max_text_length": -3}])
def test_zero_is_not_the_default(options, processor):
    data = retrieval_set(datasets.Dataset.from_dict({"video": ["v.mp4"], "caption": ["a man"]}))
    with pytest.raises(ValueError, match=f"{next(iter(options))} is .*; expected at least"):
        evaluate_retrieval(tiny_retrieval_model(), processor, data, **options)


SCRIPT = """
import sys, numpy
from modeling_umt import UMTVideoTextModel
from processing_umt import UMTProcessor
from umt_training.evaluation.retrieval import evaluate_retrieval, retrieval_set
from umt_training.data.video_records import load_video_records
data, model, output = sys.argv[1:]
scores = evaluate_retrieval(
    UMTVideoTextModel.from_pretrained(model), UMTProcessor.from_pretrained(model),
    retrieval_set(load_video_records(data)), num_workers=0, batch_size=3, num_reranked=3,
)
import torch.distributed
rank = torch.distributed.get_rank()
assert torch.distributed.get_world_size() == 2
numpy.savez(f"{output}/{rank}.npz", t2v=scores.text_to_video, v2t=scores.video_to_text, dual=scores.dual_encoder,
    metrics=list(scores.metrics["reranked"].values()), skipped=[video.video for video in scores.skipped])
"""


def test_two_processes_equal_one(data, model_folder, processor, tmp_path):
    """Seven videos on two processes; one of them is broken."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = launch(str(script), str(data), str(model_folder), str(tmp_path))
    assert done.returncode == 0, done.stderr
    expected = score(data, processor)
    for rank in (0, 1):
        found = np.load(tmp_path / f"{rank}.npz")
        np.testing.assert_allclose(found["t2v"], expected.text_to_video, atol=1e-5)
        np.testing.assert_allclose(found["v2t"], expected.video_to_text, atol=1e-5)
        np.testing.assert_allclose(found["dual"], expected.dual_encoder, atol=1e-6)
        assert found["metrics"].tolist() == list(expected.metrics["reranked"].values())
        assert found["skipped"].tolist() == [video.video for video in expected.skipped]

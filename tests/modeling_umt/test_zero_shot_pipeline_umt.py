"""`pipeline("zero-shot-video-classification")`: the model's scores, batches, templates, saving."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from subprocess_tools import run_clean
from tiny_video_text_retrieval import save_tiny_retrieval_model
from transformers import pipeline

from modeling_umt import UMTVideoTextModel, UMTZeroShotVideoClassificationPipeline
from processing_umt import UMTProcessor

LABELS = ["a man", "dog runs", "two bikes", "fast car"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_tiny_retrieval_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def classifier(folder):
    return pipeline("zero-shot-video-classification", model=str(folder), device="cpu")


@pytest.fixture(scope="module")
def videos() -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (3, 2, 32, 40, 3), dtype=np.uint8))


def expected(folder: Path, video: np.ndarray, texts: list[str]) -> torch.Tensor:
    model, processor = UMTVideoTextModel.from_pretrained(folder), UMTProcessor.from_pretrained(folder)
    with torch.no_grad():
        return model(**processor(text=texts, videos=video, return_tensors="pt")).logits_per_video[0].softmax(-1)


def test_scores(classifier, folder, videos):
    assert type(classifier) is UMTZeroShotVideoClassificationPipeline
    for options, template in (({}, "a video of {}"), ({"hypothesis_template": "the {} person"}, "the {} person")):
        result = classifier(videos[0], candidate_labels=LABELS, **options)
        scores = dict(
            zip(LABELS, expected(folder, videos[0], [template.replace("{}", label) for label in LABELS]), strict=True)
        )
        assert [entry["label"] for entry in result] == sorted(LABELS, key=lambda label: -scores[label])
        for entry in result:
            assert entry["score"] == pytest.approx(float(scores[entry["label"]]), abs=1e-5)
        assert max(scores.values()) > 0.3


def test_scores_do_not_depend_on_the_batch_size(classifier, videos):
    one_by_one = [classifier(video, candidate_labels=LABELS) for video in videos]
    together = classifier(videos, candidate_labels=LABELS, batch_size=2)
    for result, alone in zip(together, one_by_one, strict=True):
        assert [entry["label"] for entry in result] == [entry["label"] for entry in alone]
        assert [entry["score"] for entry in result] == pytest.approx([entry["score"] for entry in alone], abs=1e-5)


def test_one_view_whatever_the_saved_processors_settings(classifier, videos, monkeypatch):
    expected = classifier(videos[0], candidate_labels=LABELS)
    for option, value in {"sampling": "sparse", "num_clips": 2, "do_center_crop": True, "num_crops": 3}.items():
        monkeypatch.setattr(classifier.processor.video_processor, option, value)
    assert len(classifier.preprocess(videos[0])["pixel_values_videos"]) == 1
    assert classifier(videos[0], candidate_labels=LABELS) == expected


def test_templates_are_averaged(classifier, folder):
    vectors = classifier.label_vectors(tuple(LABELS), ("a {}", "the {} fast"))
    assert torch.allclose(vectors.norm(dim=-1), torch.ones(4))
    single = [classifier.label_vectors(tuple(LABELS), (template,)) for template in ("a {}", "the {} fast")]
    mean = torch.nn.functional.normalize(single[0] + single[1], dim=-1)
    assert torch.allclose(vectors, mean, atol=1e-6) and not torch.allclose(single[0], single[1], atol=1e-2)


def test_texts_are_encoded_once(classifier, videos, monkeypatch):
    calls = []
    encode = classifier.model.get_text_features
    monkeypatch.setattr(
        classifier.model, "get_text_features", lambda *args, **options: calls.append(args) or encode(*args, **options)
    )
    classifier(videos, candidate_labels=["cat", *LABELS])
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"candidate_labels": []}, "at least one label"),
        ({}, "at least one label"),
        ({"candidate_labels": LABELS, "hypothesis_template": "a video"}, "must contain {}"),
        ({"candidate_labels": LABELS, "labels": LABELS}, "Unknown options: labels"),
        ({"candidate_labels": "a man, a dog"}, r"is the text 'a man, a dog'; expected a list .* \['a man', 'a dog'\]"),
        ({"candidate_labels": "man"}, r"expected a list of labels, such as \['man'\]"),
        ({"candidate_labels": ["?!", "a man"]}, r"labels without a word: \['\?!'\]"),
        ({"candidate_labels": ["?!", " - "]}, "nothing is left without punctuation"),
        ({"candidate_labels": ["xyzzy", "qwert"]}, "no word is in the vocabulary"),
        ({"candidate_labels": ["A man!", "a man"]}, "all 2 are equal to the model"),
        ({"candidate_labels": LABELS, "hypothesis_template": "a " * 8 + "{}"}, "all 4 .* are cut to 8 tokens"),
    ],
)
def test_errors(classifier, videos, options, message):
    with pytest.raises(ValueError, match=message):
        classifier(videos[0], **options)


def test_labels_that_the_model_cannot_tell_apart_are_stated_once(classifier, videos, monkeypatch):
    warnings = []
    monkeypatch.setattr(logging.getLogger("modeling_umt.zero_shot_pipeline_umt"), "warning", warnings.append)
    classifier(videos, candidate_labels=["a man", "A man.", "xyzzy", "a dog " * 4 + "runs", "two"])
    [line] = warnings
    assert "of 5, 1 are cut to 8 tokens, 1 have no word of the vocabulary, 2 are equal to another, 0 are" in line
    classifier(videos, candidate_labels=LABELS)
    assert len(warnings) == 1


def test_a_saved_pipeline_loads_with_its_code(classifier, videos, tmp_path):
    """A folder of the pipeline's `save_pretrained` works without the installed package."""
    classifier.save_pretrained(tmp_path / "saved")
    np.save(tmp_path / "video.npy", videos[0])
    code = f"""
    import numpy
    from transformers import pipeline
    classifier = pipeline("zero-shot-video-classification", model={str(tmp_path / "saved")!r}, trust_remote_code=True)
    video = numpy.load({str(tmp_path / "video.npy")!r})
    print("RESULT", classifier(video, candidate_labels={LABELS!r})[0]["label"])
    """
    done = run_clean(code, cwd=tmp_path)
    best = classifier(videos[0], candidate_labels=LABELS)[0]["label"]
    assert f"RESULT {best}" in done.stdout, done.stderr

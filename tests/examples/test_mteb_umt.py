"""The example of `mteb` on a task of generated clips and captions: its scores equal those computed from the model."""

import importlib.util
import json
from pathlib import Path

import mteb
import numpy as np
import pytest
import torch
from datasets import Dataset
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.abstasks.task_metadata import TaskMetadata
from tiny_classifier import save_noise, save_tiny_classifier
from tiny_video_text_retrieval import save_tiny_retrieval_model
from transformers import AutoModel, AutoProcessor

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "mteb_umt.py"
CAPTIONS = [f"a {noun} {verb}" for noun in ("man", "dog", "cat", "bike") for verb in ("runs", "is", "doing", "fast")]
COMMIT = "0123456789" * 4


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("mteb_umt", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_tiny_retrieval_model(tmp_path_factory.mktemp("mteb") / "model", seed=1)


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> list[str]:
    media = tmp_path_factory.mktemp("clips")
    return [str(save_noise(media / f"{seed}.mkv", seed)) for seed in range(len(CAPTIONS))]


def retrieval_task(corpus: list, category: str = "t2v") -> AbsTaskRetrieval:
    """Caption i belongs to video i; videos are files, or dicts with the contents of files."""

    class ClipRetrieval(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name="ClipRetrieval",
            description="Generated clips by their captions.",
            dataset={"path": "local/clips", "revision": "1"},
            type="Any2AnyRetrieval",
            category=category,
            modalities=["text", "video"],
            eval_langs=["eng-Latn"],
            main_score="ndcg_at_10",
            license="cc0-1.0",
            bibtex_citation="",
        )

        def load_data(self, **kwargs):
            names = [str(index) for index in range(len(corpus))]
            texts = Dataset.from_dict({"id": names, "text": CAPTIONS})
            clips = Dataset.from_dict({"id": names, "video": corpus})
            queries, documents = (clips, texts) if category == "v2t" else (texts, clips)
            relevant = {name: {name: 1} for name in names}
            data = RetrievalSplitData(queries=queries, corpus=documents, relevant_docs=relevant, top_ranked=None)
            self.dataset, self.data_loaded = {"default": {"test": data}}, True

    return ClipRetrieval()


def ranks(scores: np.ndarray) -> np.ndarray:
    """The rank of column i in row i, from 1; no scores are equal."""
    return 1 + (scores > np.diag(scores)[:, None]).sum(axis=1)


def scores_by_hand(scores: np.ndarray) -> dict[str, float]:
    rank = ranks(scores)
    gain = np.where(rank <= 10, 1 / np.log2(rank + 1), 0)
    return {"ndcg_at_10": gain.mean(), "recall_at_1": (rank == 1).mean(), "recall_at_5": (rank <= 5).mean()}


def own_vectors(folder: Path, videos: list[str]) -> tuple[np.ndarray, np.ndarray]:
    model, processor = AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    with torch.no_grad():
        outputs = model(**processor(text=CAPTIONS, videos=videos, return_tensors="pt"))
    return outputs.text_embeds.numpy(), outputs.video_embeds.numpy()


@pytest.mark.parametrize("category, contents", [("t2v", False), ("v2t", False), ("t2v", True)])
def test_scores_are_those_of_the_embeddings(example, folder, videos, category, contents):
    corpus = [{"bytes": Path(video).read_bytes(), "path": None} for video in videos] if contents else videos
    encoder = example.UMTEncoder(str(folder))
    results = mteb.evaluate(
        encoder, retrieval_task(corpus, category), cache=None, encode_kwargs={"batch_size": 5}, co2_tracker=False
    )
    found = results.task_results[0].scores["test"][0]
    texts, clips = own_vectors(folder, videos)
    scores = texts @ clips.T if category == "t2v" else clips @ texts.T
    expected = scores_by_hand(scores)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-5)
    assert found["main_score"] == found["ndcg_at_10"]
    if category == "t2v":  # cosines would give other scores: vectors of videos are not normalised
        cosines = scores / np.linalg.norm(clips, axis=1)
        assert scores_by_hand(cosines)["ndcg_at_10"] != pytest.approx(expected["ndcg_at_10"], abs=1e-3)


def test_the_command_writes_results_of_the_weights(example, folder, videos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(mteb, "get_tasks", lambda tasks: [retrieval_task(videos)])
    example.main(["--model", str(folder), "--tasks", "ClipRetrieval", "--output", str(tmp_path)])
    texts, clips = own_vectors(folder, videos)
    expected = scores_by_hand(texts @ clips.T)["ndcg_at_10"]
    assert f"ClipRetrieval: {expected:.4f}" in capsys.readouterr().out
    (written,) = tmp_path.rglob("ClipRetrieval.json")
    revision = example.pinned_revision(str(folder), None)
    assert written.parent.name == revision and len(revision) == 40
    assert json.loads(written.read_text())["scores"]["test"][0]["ndcg_at_10"] == pytest.approx(expected, abs=1e-5)


def test_what_cannot_be_scored_is_refused(example, folder, videos, tmp_path):
    for revision in (None, "main", COMMIT[:12]):
        with pytest.raises(ValueError, match=r"owner/name is .* a commit, which does not move"):
            example.UMTEncoder("owner/name", revision)
    assert example.pinned_revision("owner/name", COMMIT) == COMMIT
    with pytest.raises(ValueError, match="has no revision"):
        example.UMTEncoder(str(folder), COMMIT)
    classifier = save_tiny_classifier(tmp_path / "classifier")
    with pytest.raises(ValueError, match=r"supports \['video'\]"):
        mteb.evaluate(example.UMTEncoder(str(classifier)), retrieval_task(videos), cache=None, co2_tracker=False)

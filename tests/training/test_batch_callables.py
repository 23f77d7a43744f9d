"""`UMTBatchEmbedder` and `UMTBatchClassifier` equal `umt embed` and `umt classify`."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet
from tiny_classifier import save_noise, save_tiny_classifier

from modeling_umt import UMTForVideoClassification, UMTModel
from umt_training import UMTBatchClassifier, UMTBatchEmbedder, cli


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("batches")
    save_tiny_classifier(folder / "model")
    for number in range(4):
        save_noise(folder / "videos" / f"{number}.mp4", number, num_frames=8 + number)
    (folder / "videos" / "1b.mp4").write_bytes(b"no video")
    return folder


@pytest.fixture(scope="module")
def paths(folder) -> list[str]:
    return sorted(map(str, (folder / "videos").iterdir()))


def batches(paths: list[str]) -> dict[str, dict]:
    contents = np.array([Path(path).read_bytes() for path in paths], object)
    return {
        "paths": {"video": np.array(paths)},
        "named bytes": {"bytes": contents, "path": np.array(paths, object)},
        "bytes": {"bytes": list(contents), "number": np.arange(len(paths))},
    }


@pytest.mark.parametrize("kind", ["paths", "named bytes", "bytes"])
def test_vectors_are_those_of_the_command(folder, paths, kind, tmp_path):
    embedder = pickle.loads(pickle.dumps(UMTBatchEmbedder(str(folder / "model"), batch_size=3)))
    batch = batches(paths)[kind]
    result = embedder(batch)
    assert set(result) == set(batch) - {"bytes"} | {"start", "end", "embedding", "error"}
    assert all(isinstance(column, np.ndarray) and len(column) == 5 for column in result.values())
    command = ["embed", *paths, "--model", str(folder / "model"), "--output", str(tmp_path / "vectors.parquet")]
    assert cli.main([*command, "--num-workers", "0"]) == 1
    expected = parquet.read_table(tmp_path / "vectors.parquet")
    good = [0, 1, 3, 4]
    assert result["embedding"].dtype == np.float32
    np.testing.assert_allclose(result["embedding"][good], expected["embedding"].to_pylist(), atol=1e-6)
    np.testing.assert_array_equal(result["end"][good], expected["end"].to_numpy())
    assert np.isnan(result["embedding"][2]).all() and np.isnan(result["start"][2])
    name = "<8 bytes>" if kind == "bytes" else paths[2]
    assert result["error"][2].startswith(f"{name}: it is not in a supported video format")
    assert not any(result["error"][good])
    assert len(pickle.dumps(embedder)) < 1000  # without the model


def test_labels_are_those_of_the_command(folder, paths, capsys):
    classifier = UMTBatchClassifier(str(folder / "model"), num_clips=2, num_crops=3, num_workers=1)
    result = classifier({"video": paths})
    options = ["--clips", "2", "--crops", "3", "--json", "--num-workers", "0"]
    capsys.readouterr()
    assert cli.main(["classify", *paths, "--model", str(folder / "model"), *options]) == 1
    for number, entry in enumerate(json.loads(capsys.readouterr().out)):
        if "error" in entry:
            assert result["label"][number] == "" and np.isnan(result["score"][number])
            assert result["error"][number] == entry["error"]
        else:
            best = entry["predictions"][0]
            assert result["label"][number] == best["label"]
            assert result["score"][number] == pytest.approx(best["score"], rel=1e-5)
            assert result["probabilities"][number].sum() == pytest.approx(1, rel=1e-5)


def test_a_batch_of_broken_videos_only_has_the_columns_of_others(folder, paths):
    for callable_on_batches in (UMTBatchEmbedder, UMTBatchClassifier):
        step = callable_on_batches(str(folder / "model"))
        result, others = step({"video": [paths[2], "missing.mp4"]}), step({"video": paths[:2]})
        for name, column in result.items():
            assert column.shape[1:] == others[name].shape[1:]
            assert name == "video" or column.dtype == others[name].dtype


def test_what_cannot_be_meant_is_refused(folder, tmp_path):
    UMTModel(UMTForVideoClassification.from_pretrained(folder / "model").config).save_pretrained(tmp_path / "encoder")
    with pytest.raises(ValueError, match=r"encoder cannot classify: it is a video encoder without a head"):
        UMTBatchClassifier(str(tmp_path / "encoder"))
    with pytest.raises(OSError, match="nowhere does not exist"):
        UMTBatchEmbedder("./nowhere")
    with pytest.raises(ValueError, match="batch_size is 0 and num_workers is 0"):
        UMTBatchEmbedder(str(folder / "model"), batch_size=0)
    with pytest.raises(ValueError, match=r"has the columns file; expected paths in video or path"):
        UMTBatchEmbedder(str(folder / "model"))({"file": ["a.mp4"]})

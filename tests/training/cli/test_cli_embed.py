"""`umt embed` from videos on disk to the files it writes, with a tiny model."""

import argparse
import errno
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from video_files import write_noise

from modeling_umt import UMTConfig, UMTForMaskedModeling, UMTForPreTraining, UMTForVideoClassification, UMTModel
from processing_umt import UMTVideoProcessor
from umt_training.cli import embed as cli_embed
from umt_training.search import vector_files

av = pytest.importorskip("av")

PROCESSOR = {"size": {"shortest_edge": 32}, "crop_size": 32, "num_frames": 4}


def tiny_config() -> UMTConfig:
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return UMTConfig(image_size=32, num_frames=4, num_aligned_layers=1, **sizes)


@pytest.fixture(scope="module", params=[UMTForVideoClassification, UMTForPreTraining, UMTForMaskedModeling, UMTModel])
def model(request, tmp_path_factory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    config = tiny_config()
    if request.param is UMTForMaskedModeling:
        config.masked_targets = {"image": 8}
    request.param(config).save_pretrained(folder)
    UMTVideoProcessor(**PROCESSOR, num_clips=2, num_crops=3).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    write_noise(folder / "a.mp4", 0, num_frames=37, rate=10)
    write_noise(folder / "b.mp4", 1, num_frames=20, rate=5)
    return folder


def run(*argv) -> int:
    parser = argparse.ArgumentParser()
    cli_embed.add_arguments(parser)
    return cli_embed.run(parser.parse_args([str(word) for word in argv]))


def decode(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def expected_vector(model: Path, video) -> np.ndarray:
    pixel_values = UMTVideoProcessor(**PROCESSOR)(video, return_tensors="pt")
    with torch.no_grad():
        return UMTModel.from_pretrained(model).eval()(**pixel_values).pooler_output[0].numpy()


@pytest.mark.parametrize("batch_size", [1, 4])
def test_one_vector_per_video(batch_size, model, videos, tmp_path, capsys):
    output = tmp_path / "new" / "vectors.npy"
    assert run(videos, "--model", model, "--output", output, "--batch-size", batch_size) == 0
    assert "vectors.npy: 2 vectors of dimension 24" in capsys.readouterr().out
    vectors, rows = np.load(output), json.loads(output.with_suffix(".json").read_text())
    assert vectors.dtype == np.float32
    assert rows == [
        {"video": str(videos / "a.mp4"), "start": 0, "end": pytest.approx(3.7)},
        {"video": str(videos / "b.mp4"), "start": 0, "end": pytest.approx(4.0)},
    ]
    for vector, row in zip(vectors, rows, strict=True):
        np.testing.assert_allclose(vector, expected_vector(model, row["video"]), rtol=1e-4, atol=1e-5)
    assert sorted(path.name for path in output.parent.iterdir()) == ["vectors.json", "vectors.npy"]


def test_windows_over_time(model, videos, tmp_path):
    from pyarrow import parquet

    output = tmp_path / "vectors.parquet"
    assert run(videos, "--model", model, "--output", output, "--window", 2, "--stride", 1) == 0
    table = parquet.read_table(output)
    assert table.column_names == ["video", "start", "end", "embedding"]
    spans = [("a", 0, 2), ("a", 1, 3), ("a", 2, 3.7), ("b", 0, 2), ("b", 1, 3), ("b", 2, 4)]
    assert [Path(video).stem for video in table["video"].to_pylist()] == [name for name, _, _ in spans]
    np.testing.assert_allclose(table["start"].to_numpy(), [start for _, start, _ in spans])
    np.testing.assert_allclose(table["end"].to_numpy(), [end for _, _, end in spans])
    for (name, start, end), vector in zip(spans, table["embedding"].to_pylist(), strict=True):
        rate = {"a": 10, "b": 5}[name]
        frames = decode(videos / f"{name}.mp4")[round(start * rate) : round(end * rate)]
        # the window as a separate video
        np.testing.assert_allclose(vector, expected_vector(model, frames), rtol=1e-4, atol=1e-5)


def test_the_stride_is_the_window_by_default(model, videos, tmp_path):
    output = tmp_path / "vectors.npy"
    assert run(videos / "b.mp4", "--model", model, "--output", output, "--window", 1) == 0
    rows = json.loads(output.with_suffix(".json").read_text())
    assert [(row["start"], row["end"]) for row in rows] == [(0, 1), (1, 2), (2, 3), (3, 4)]


def test_broken_videos_are_reported_and_the_rest_is_written(model, videos, tmp_path, capsys):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video at all")
    output = tmp_path / "vectors.npy"
    assert run(broken, videos, tmp_path / "missing.mp4", "--model", model, "--output", output) == 1
    assert np.load(output).shape == (2, 24)
    errors = capsys.readouterr().err
    assert "broken.mp4: it is not in a supported" in errors and "missing.mp4: the file does not exist" in errors


def test_nothing_is_written_if_nothing_could_be_read(model, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video at all")
    output = tmp_path / "out" / "vectors.npy"
    with pytest.raises(ValueError, match="None of the 1 videos could be read; nothing was written"):
        run(tmp_path / "broken.mp4", "--model", model, "--output", output)
    assert not output.parent.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--output", "vectors.csv"], r"--output is vectors.csv; expected a file name that ends in .npy or .parquet"),
        (["--output", "v.npy", "--stride", 1], "--stride was given without --window"),
        (["--output", "v.npy", "--window", 0], "--window is 0.0; expected more than 0 seconds"),
        (["--output", "v.npy", "--window", "nan"], "--window is nan"),
        (["--output", "v.npy", "--window", 1, "--stride", -1], "--stride is -1.0"),
    ],
)
def test_wrong_calls(options, message, videos):
    with pytest.raises(ValueError, match=message):
        run(videos, "--model", "unused", *options)


def test_vectors_that_are_not_finite_are_an_error(videos, tmp_path):
    torch.manual_seed(0)
    broken = UMTModel(tiny_config())
    broken.layers[0].mlp.fc1.weight.data[0, 0] = float("inf")
    broken.save_pretrained(tmp_path / "model")
    UMTVideoProcessor(**PROCESSOR).save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=r"a\.mp4: the vector of the window at 0 s is not finite in torch\.float32"):
        run(videos, "--model", tmp_path / "model", "--output", tmp_path / "vectors.npy")
    assert not list(tmp_path.glob("vectors*"))


def test_both_files_of_npy_are_written_or_neither(model, videos, tmp_path, monkeypatch):
    def full_disk(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(vector_files, "_write_header", full_disk)
    with pytest.raises(OSError, match="No space left"):
        run(videos, "--model", model, "--output", tmp_path / "vectors.npy")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["vectors.npy", "vectors.parquet"])
def test_the_output_is_checked_before_the_model_is_loaded(videos, tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=rf"Not a directory.*{name}"):
        run(videos, "--model", "unused", "--output", tmp_path / "file" / name)
    (tmp_path / "vectors.parquet").mkdir()
    (tmp_path / "vectors.json").mkdir()
    with pytest.raises(OSError, match=r"Is a directory.*vectors"):
        run(videos, "--model", "unused", "--output", tmp_path / name)

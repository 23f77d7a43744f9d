"""`umt classify` and `umt embed` with a folder as `--output`: a data set of parts, which resumes."""

import json
from pathlib import Path

import numpy as np
import pytest
from pyarrow import dataset, parquet
from tiny_classifier import CLASSES, save_noise, save_tiny_classifier

from modeling_umt import UMTForVideoClassification
from umt_training import cli
from umt_training.corpus import engine


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    save_tiny_classifier(folder / "model")
    for number in range(9):
        save_noise(folder / "videos" / f"{number}.mp4", number, num_frames=8 + 4 * (number % 3))
    (folder / "videos" / "3b.mp4").write_bytes(b"")
    return folder


@pytest.fixture
def run(folder, tmp_path, monkeypatch, capsys):
    """Function that runs a command in an empty folder: exit code, stdout, stderr."""
    for path in folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)

    def run(command: str):
        capsys.readouterr()
        code = cli.main(command.split())
        return code, *capsys.readouterr()

    return run


EMBED, CLASSIFY = "embed videos --model model", "classify videos --model model"


def rows_in(folder: str) -> list[dict]:
    return parquet.read_table(folder).to_pylist()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_vectors_of_a_folder_are_those_of_a_file(run, num_workers):
    code, out, err = run(f"{EMBED} --window 0.8 --stride 0.5 --output out/ --num-workers {num_workers}")
    assert code == 1 and out == "out: 18 vectors of 10 videos, in 3 parts\n"
    assert "umt embed: videos/3b.mp4: the file is empty. Export or download it again, or leave it out.\n" in err
    assert "umt embed: 1 of 10 videos are broken (empty 1), listed in out/_broken.jsonl\n" in err
    assert run(f"{EMBED} --window 0.8 --stride 0.5 --output file.parquet --num-workers 0")[0] == 1
    rows, expected = rows_in("out"), rows_in("file.parquet")
    assert list(rows[0]) == ["video", "start", "end", "embedding"]
    for row, other in zip(rows, expected, strict=True):
        np.testing.assert_allclose(row.pop("embedding"), other.pop("embedding"), atol=1e-6)
        assert row == other
    assert dataset.dataset("out").schema.field("embedding").type.list_size == 24
    assert json.loads(Path("out/_broken.jsonl").read_text())["video"] == "videos/3b.mp4"


def test_the_labels_of_a_folder_are_those_that_are_printed(run):
    assert run(f"{CLASSIFY} --clips 2 --top-k 3 --output out --batch-size 3")[0] == 1
    code, out, _ = run(f"{CLASSIFY} --clips 2 --top-k 3 --json --num-workers 0")
    expected = [entry for entry in json.loads(out) if "predictions" in entry]
    rows = rows_in("out")
    assert code == 1 and [row["video"] for row in rows] == [entry["video"] for entry in expected]
    for number, (row, entry) in enumerate(zip(rows, expected, strict=True)):
        assert (row["start"], row["end"]) == (0, pytest.approx((8 + 4 * (number % 3)) / 10))
        assert row["labels"] == [prediction["label"] for prediction in entry["predictions"]]
        np.testing.assert_allclose(
            row["scores"], [prediction["score"] for prediction in entry["predictions"]], rtol=1e-6
        )
        assert (row["label"], row["score"]) == (row["labels"][0], row["scores"][0]) and row["label"] in CLASSES


@pytest.mark.parametrize("command", [EMBED, CLASSIFY])
def test_an_interrupted_command_goes_on_where_it_was(run, monkeypatch, command):
    """Bit for bit: the batches of a part contain the same clips."""
    run(f"{command} --output expected")
    compute, left = engine._Batch.compute, [2]

    def interrupted(batch):
        left[0] -= len(batch) > 0
        compute(batch)
        if left[0] == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(engine._Batch, "compute", interrupted)
    assert run(f"{command} --output out")[0] == 130
    done = sorted(Path("out").glob("*.parquet"))
    assert [path.name for path in done] == ["part-000000.parquet"]
    before = done[0].stat().st_mtime_ns
    left[0] = 1000
    code, out, err = run(f"{command} --output out")
    assert code == 1 and done[0].stat().st_mtime_ns == before and 1000 - left[0] <= 6
    assert rows_in("out") == rows_in("expected")
    assert "1 of 10 videos are broken (empty 1)" in err
    left[0] = 1000
    assert run(f"{command} --output out")[:2] == (1, out) and left[0] == 1000  # nothing is left to compute


def test_other_settings_and_other_weights_in_the_same_folder_are_refused(run, tmp_path):
    run(f"{EMBED} --output out")
    code, out, err = run(f"{EMBED} --output out --window 1")
    assert (code, out) == (1, "")
    assert err == (
        "umt embed: out contains results without --window, not with --window 1.0; give another --output, or delete "
        "the folder.\n"
    )
    model = UMTForVideoClassification.from_pretrained("model")
    model.umt.layers[0].mlp.fc1.weight.data[-1, -1] += 1e-3  # a single number, the last one
    model.save_pretrained("other")
    (tmp_path / "other" / "video_preprocessor_config.json").symlink_to(
        tmp_path / "model" / "video_preprocessor_config.json"
    )
    assert "out contains results of another model, model; give" in run("embed videos --model other --output out")[2]
    assert "out contains results of umt embed, not of umt classify" in run(f"{CLASSIFY} --output out")[2]


def test_scores_that_are_not_finite_are_listed_as_broken(run, tmp_path):
    model = UMTForVideoClassification.from_pretrained("model")
    model.umt.layers[0].mlp.fc1.weight.data[:] = float("nan")
    model.save_pretrained("other")
    code, out, err = run("embed videos --model other --output out")
    assert code == 1 and out == "out: 0 vectors of 10 videos, in 3 parts\n"
    assert "10 of 10 videos are broken (not_finite 9, empty 1)" in err and "use --dtype float32" in err


def test_lists_and_patterns_are_inputs(run, tmp_path):
    (tmp_path / "list.csv").write_text("video\nvideos/1.mp4\nvideos/2.mp4\n")
    assert run("embed list.csv videos/[34].mp4 --model model --output out")[0] == 0
    assert [Path(row["video"]).stem for row in rows_in("out")] == ["1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (f"{CLASSIFY} --json --output out", "umt classify: --json prints the results, and --output writes them"),
        (
            f"{EMBED} --output vectors.csv",
            "umt embed: --output is vectors.csv; expected a file name that ends in .npy",
        ),
        (f"{EMBED} --output out --num-workers -1", "umt embed: --num-workers is -1; expected at least 0."),
        (f"{EMBED} --output videos/1.mp4/out", "umt embed: [Errno 20] Not a directory"),
        ("embed videos/*.avi --model model --output out", "umt embed: The pattern videos/*.avi matches no videos"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(run, command, message):
    code, out, err = run(command)
    assert (code, out, err.count("\n")) == (1, "", 1) and err.startswith(message)


@pytest.mark.parametrize(
    ("output", "is_folder"),
    [("out", True), ("out.npy/", True), ("a.b/", True), ("a.npy", False), ("a.parquet", False), ("a.csv", False)],
)
def test_an_output_without_extension_or_with_a_slash_is_a_folder(output, is_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.embed.is_folder(output) is is_folder
    Path("a.csv").mkdir()
    assert cli.embed.is_folder("a.csv") and not cli.embed.is_folder("a.npy")

"""Classification of a tiny model against a plain loop: in one process and in two, interrupted or not."""

import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import datasets
import evaluate
import numpy as np
import pytest
import torch
from tiny_classifier import (
    CLASSES,
    save_class_folders,
    save_noise,
    save_tiny_classifier,
    tiny_classifier,
    tiny_processor,
)
from transformers.image_utils import SizeDict
from video_files import write_broken_videos

from processing_umt.video_decoding_umt import VideoReader
from umt_training.data.video_records import load_video_records
from umt_training.evaluation import clips as evaluation_clips
from umt_training.evaluation.classification import evaluate_classifier

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def evaluate_cache(tmp_path, monkeypatch):
    """`evaluate` creates a folder for every metric: here in the test's temporary folder."""
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", str(tmp_path / "metrics"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_class_folders(tmp_path_factory.mktemp("data"), num_videos=7)


@pytest.fixture(scope="module")
def records(folder):
    return load_video_records(folder)


@pytest.fixture(scope="module")
def model():
    return tiny_classifier()


def score(model, records, **options):
    options = {"num_clips": 2, "num_crops": 1, "num_workers": 0, "batch_size": 5} | options
    return evaluate_classifier(model, tiny_processor(), records, **options)


def plain_probabilities(model, records, **options) -> np.ndarray:
    rows = []
    for record in records:
        views = tiny_processor()(record["video"], return_tensors="pt", **options)["pixel_values_videos"]
        with torch.no_grad():
            logits = model.eval()(pixel_values_videos=views).logits
        rows.append(logits.double().softmax(-1).mean(0))
    return torch.stack(rows).numpy()


# one process


@pytest.mark.parametrize(
    ("clips", "crops", "options"),
    [
        (4, 3, {"batch_size": 5}),
        (1, 1, {"batch_size": 64, "num_workers": 2}),
        (2, 3, {"batch_size": 1}),
        (2, 1, {"batch_size": 3, "sampling": "segments"}),
        (1, 3, {"batch_size": 6, "resize_kernel": "antialias"}),
    ],
)
def test_a_plain_loop_over_videos_gives_the_same(clips, crops, options, model, records):
    plain = {"resize_kernel": "opencv_bilinear"} | {
        name: value for name, value in options.items() if name in ("sampling", "resize_kernel")
    }
    expected = plain_probabilities(model, records, num_clips=clips, num_crops=crops, **plain)
    labels = (expected.argmax(1) + np.array([0, 1, 0, 0, 2, 0, 1])) % 7  # four of seven are correct
    records = records.remove_columns("label").add_column("label", labels)
    result = score(model, records, num_clips=clips, num_crops=crops, **options)
    np.testing.assert_allclose(result.probabilities, expected, rtol=0, atol=1e-6)
    assert result.probabilities.dtype == np.float64

    hits = expected.argmax(1) == labels
    assert result.videos == [record["video"] for record in records]
    assert result.labels.tolist() == labels.tolist()
    assert result.top1 == pytest.approx(100 * hits.mean())
    in_five = (np.argsort(-expected, axis=1)[:, :5] == labels[:, None]).any(1)
    assert result.top5 == pytest.approx(100 * in_five.mean())
    by_class = {label: 100 * hits[labels == label].mean() for label in np.unique(labels)}
    assert result.mean_class_accuracy == pytest.approx(np.mean(list(by_class.values())))
    assert result.per_class_accuracy == pytest.approx([by_class.get(label) for label in range(7)])
    assert result.confusion_matrix.sum() == 7 and result.confusion_matrix.trace() == 4
    assert result.skipped == [] and result.num_resumed == 0 and result.partial_folder is None


def test_the_protocol_is_reported(model, records):
    protocol = score(model, records.select([0]), num_clips=2, num_crops=3, autocast_dtype=torch.bfloat16).protocol
    assert protocol == {
        "frames": 4,
        "clips": 2,
        "crops": 3,
        "sampling": "sparse",
        "frame_stride": 1,
        "resize_kernel": "opencv_bilinear",
        "size": {"shortest_edge": 32},
        "resolution": [32, 32],
        "dtype": "bfloat16",
    }


def test_views_merge_as_recorded(recorded):
    """The official scores of the recorded logits: pixel 0 of a view is the index of its logits."""
    description, _ = recorded("multiview_merge")
    views = {}
    for row in (row for rank in description["rank_files"] for row in rank):
        views.setdefault((row["id"], row["chunk"], row["split"]), row)
    videos = sorted({video for video, _, _ in views})
    num_clips, num_crops = (1 + max(view[axis] for view in views) for axis in (1, 2))
    assert len(views) == len(videos) * num_clips * num_crops
    table = torch.tensor([views[view]["logits"] for view in sorted(views)])

    class Processor:
        num_clips, num_frames, sampling, frame_stride = 1, 1, "sparse", 1
        size = crop_size = SizeDict(height=1, width=1)
        do_rescale = do_normalize = rescale_factor = image_mean = image_std = None

        def __call__(self, video, num_clips, num_crops, **options):
            first = videos.index(video.decode()) * num_clips * num_crops if isinstance(video, bytes) else 0
            pixels = torch.arange(first, first + num_clips * num_crops, dtype=torch.uint8)
            return {"pixel_values_videos": pixels.reshape(-1, 1, 1, 1, 1)}

        def rescale_and_normalize(self, pixels, **options):
            return pixels.float()

        def to_dict(self):
            return {}

    class Model(torch.nn.Module):
        config = SimpleNamespace(problem_type=None, num_labels=table.shape[1], id2label=dict(enumerate("abcdef")))
        dtype, device = torch.float32, torch.device("cpu")

        def forward(self, pixel_values_videos):
            return SimpleNamespace(logits=table[pixel_values_videos.flatten().long()])

    labels = [views[video, 0, 0]["label"] for video in videos]
    records = datasets.Dataset.from_dict({"video": [video.encode() for video in videos], "label": labels})
    options = {"num_clips": num_clips, "num_crops": num_crops, "batch_size": 4, "num_workers": 0}
    result = evaluate_classifier(Model(), Processor(), records, **options)
    expected = description["expected"]
    assert result.top1 == pytest.approx(expected["top1"], abs=1e-9)
    assert result.top5 == pytest.approx(expected["top5"], abs=1e-9)
    predictions = dict(zip(videos, result.probabilities.argmax(1).tolist(), strict=True))
    assert predictions == {video: record["pred"] for video, record in expected["per_video"].items()}
    assert result.videos[0] == "record 0"


def test_a_video_is_decoded_once_for_all_views(model, records, monkeypatch):
    opened = []
    real = VideoReader.__init__
    monkeypatch.setattr(VideoReader, "__init__", lambda self, video: (opened.append(video), real(self, video))[1])
    score(model, records, num_clips=4, num_crops=3)
    assert opened == [record["video"] for record in records]


def test_mode_and_random_state_are_restored(model, records):
    model.train()
    state = torch.get_rng_state()
    score(model, records.select([0]), num_workers=1)
    assert model.training and torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype, model, records):
    half = score(model, records, autocast_dtype=dtype).probabilities
    exact = score(model, records).probabilities
    assert not np.array_equal(half, exact)
    np.testing.assert_allclose(half, exact, atol=0.05)
    np.testing.assert_allclose(half.sum(1), 1, atol=1e-12)


def test_a_model_in_half_precision(records):
    model = tiny_classifier().to(torch.bfloat16)
    result = score(model, records)
    assert result.protocol["dtype"] == "bfloat16"
    np.testing.assert_allclose(result.probabilities, score(tiny_classifier(), records).probabilities, atol=0.05)


# broken videos


@pytest.mark.parametrize("num_workers", [0, 2])
def test_broken_videos_are_reported_and_not_counted(num_workers, model, records, tmp_path):
    broken = write_broken_videos(tmp_path)
    good = [record["video"] for record in records]
    mixed = [video for pair in zip([*good, good[0], good[1], good[0]], broken, strict=True) for video in pair]
    table = datasets.Dataset.from_dict({"video": mixed, "label": [index % 7 for index in range(20)]})
    result = score(model, table, num_workers=num_workers)
    assert {video.video: video.reason for video in result.skipped} == broken
    assert [video.video for video in result.skipped] == list(broken)
    assert all(video.video in video.message for video in result.skipped)
    assert result.videos == mixed[::2] and result.labels.tolist() == [index % 7 for index in range(0, 20, 2)]
    np.testing.assert_allclose(result.probabilities[:7], score(model, records).probabilities, atol=1e-6)


def test_all_videos_broken(model, tmp_path):
    broken = list(write_broken_videos(tmp_path))
    table = datasets.Dataset.from_dict({"video": broken, "label": [0] * len(broken)})
    with pytest.raises(ValueError, match=r"None of the 10 videos can be read: .*audio_only\.mkv \(no_video_stream\)"):
        score(model, table)


# resuming after an interruption


def test_evaluation_resumes_from_saved_scores(model, records, tmp_path):
    """Complete records are used; cut-off or unwritten records, another protocol or other weights are not."""
    complete = score(model, records, partial_folder=tmp_path)
    [file] = complete.partial_folder.glob("*")
    size = file.stat().st_size // 7
    content = file.read_bytes()
    file.write_bytes(content[: 3 * size] + bytes(size) + content[4 * size : 5 * size + size // 2])
    again = score(model, records, partial_folder=tmp_path)
    assert again.num_resumed == 4 and again.partial_folder == complete.partial_folder
    np.testing.assert_allclose(again.probabilities, complete.probabilities, rtol=0, atol=1e-6)
    assert (again.top1, again.videos) == (complete.top1, complete.videos)
    assert len(list(complete.partial_folder.glob("*"))) == 2
    assert score(model, records, partial_folder=tmp_path).num_resumed == 7

    assert score(model, records, partial_folder=tmp_path, num_crops=2).num_resumed == 0
    assert score(model, records.select(range(6)), partial_folder=tmp_path).num_resumed == 0
    other = tiny_classifier()
    other.classifier.bias.data[0] += 1e-3
    assert score(other, records, partial_folder=tmp_path).num_resumed == 0


def test_broken_videos_are_retried(model, tmp_path):
    videos = [str(save_noise(tmp_path / f"{name}.mp4", seed)) for seed, name in enumerate("abc")]
    table = datasets.Dataset.from_dict({"video": videos, "label": [0, 1, 2]})
    content = Path(videos[1]).read_bytes()
    Path(videos[1]).unlink()
    first = score(model, table, partial_folder=tmp_path / "partial")
    assert [tuple(video)[:2] for video in first.skipped] == [(videos[1], "missing")]
    Path(videos[1]).write_bytes(content)
    second = score(model, table, partial_folder=tmp_path / "partial")
    assert second.num_resumed == 2 and second.skipped == []
    np.testing.assert_allclose(second.probabilities, score(model, table).probabilities, atol=1e-6)


@pytest.mark.parametrize("kind", ["files", "bytes"])
def test_scores_belong_to_the_videos_that_gave_them(model, tmp_path, kind):
    """Another data set with the same names, and a file that was replaced: their videos are scored."""

    def table(folder: Path, seed: int) -> datasets.Dataset:
        folder.mkdir(exist_ok=True)
        paths = [str(save_noise(folder / f"{name}.mp4", seed + number)) for number, name in enumerate("abc")]
        videos = paths if kind == "files" else [{"path": None, "bytes": Path(path).read_bytes()} for path in paths]
        return datasets.Dataset.from_dict({"video": videos, "label": [0, 1, 2]})

    first = score(model, table(tmp_path / "videos", 0), partial_folder=tmp_path / "partial")
    assert score(model, table(tmp_path / "other", 0), partial_folder=tmp_path / "partial").num_resumed == (
        0 if kind == "files" else 3  # the same bytes
    )
    changed = table(tmp_path / "videos", 10)
    second = score(model, changed, partial_folder=tmp_path / "partial")
    assert second.num_resumed == 0
    np.testing.assert_allclose(second.probabilities, score(model, changed).probabilities, atol=1e-6)
    assert np.abs(second.probabilities - first.probabilities).max() > 1e-3
    if kind == "files":
        save_noise(tmp_path / "videos" / "b.mp4", 20)
        assert score(model, changed, partial_folder=tmp_path / "partial").num_resumed == 2


def evaluate_until_killed(records, partial_folder):
    torch.set_num_threads(1)  # as in a data-loading worker: threads do not survive a fork
    opened = itertools.count(1)

    def open_video(video):
        if next(opened) == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        return video

    evaluation_clips.open_video = open_video  # in the child process only
    score(tiny_classifier(), records, partial_folder=partial_folder)


def test_a_killed_evaluation_is_resumed(model, records, tmp_path):
    """SIGKILL at the sixth video: the scores of the first five are kept, and these videos are not decoded again."""
    child = multiprocessing.get_context("fork").Process(target=evaluate_until_killed, args=(records, tmp_path))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    result = score(model, records, partial_folder=tmp_path)
    assert result.num_resumed == 5
    expected = score(model, records)
    np.testing.assert_allclose(result.probabilities, expected.probabilities, rtol=0, atol=1e-6)
    assert (result.top1, result.top5, result.videos) == (expected.top1, expected.top5, expected.videos)


# two processes

TWO_PROCESSES = """
    import argparse, json, sys
    from pathlib import Path
    import numpy as np
    from accelerate import PartialState
    from tiny_classifier import tiny_classifier, tiny_processor
    from umt_training.cli import evaluate as cli_evaluate
    from umt_training.evaluation.classification import evaluate_classifier
    from umt_training.data.video_records import load_video_records

    data, out, model = map(Path, sys.argv[1:])
    options = {"num_clips": 2, "num_crops": 3, "num_workers": 1, "batch_size": 4}
    state = PartialState(cpu=True)
    records = load_video_records(data)
    runs = {"all": records, "one": records.select([0])}
    for name, table in runs.items():
        result = evaluate_classifier(
            tiny_classifier(), tiny_processor(), table, partial_folder=out / "partial", **options
        )
        np.savez(out / f"{name}{state.process_index}.npz", probabilities=result.probabilities, labels=result.labels)
        summary = [result.top1, result.top5, result.videos, [video.video for video in result.skipped]]
        (out / f"{name}{state.process_index}.json").write_text(json.dumps(summary))
    if state.is_main_process:
        counts = [file.stat().st_size for file in sorted(out.glob("partial/*/*.scores"))]
        (out / "counts.json").write_text(json.dumps([state.num_processes, counts]))
    state.wait_for_everyone()

    parser = argparse.ArgumentParser()
    cli_evaluate.add_arguments(parser)
    words = f"--model {model} --data {data} --clips 2 --crops 3 --num-workers 0 --output {out / 'command'}".split()
    assert cli_evaluate.run(parser.parse_args(words)) == 0
"""


def test_two_processes_give_what_one_gives(model, tmp_path):
    """Seven videos, one of them broken: neither videos nor views can be sharded evenly. With torchrun itself, which
    `launch` of other tests imitates."""
    folder = save_class_folders(tmp_path / "data", 7)
    broken = folder / "marching" / "clip4.mp4"  # the sixth of the table
    broken.write_bytes(b"no video")
    save_tiny_classifier(tmp_path / "model")
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(TWO_PROCESSES))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests" / "helpers")]),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "HF_METRICS_CACHE": str(tmp_path / "metrics"),
    }
    command = [*torchrun, script, folder, tmp_path, tmp_path / "model"]
    subprocess.run(list(map(str, command)), env={**os.environ, **environment}, cwd=tmp_path, check=True, timeout=240)

    alone = score(model, load_video_records(folder), num_clips=2, num_crops=3)
    assert 0 < alone.top1 < alone.top5 <= 100
    for rank in range(2):
        arrays = np.load(tmp_path / f"all{rank}.npz")
        np.testing.assert_allclose(arrays["probabilities"], alone.probabilities, rtol=0, atol=1e-6)
        assert arrays["labels"].tolist() == alone.labels.tolist()
        summary = json.loads((tmp_path / f"all{rank}.json").read_text())
        assert summary == [alone.top1, alone.top5, alone.videos, [str(broken)]]
        # fewer videos than processes
        np.testing.assert_allclose(
            np.load(tmp_path / f"one{rank}.npz")["probabilities"], alone.probabilities[:1], atol=1e-6
        )
    record_bytes = 8 * (2 + len(CLASSES)) + 4
    num_processes, sizes = json.loads((tmp_path / "counts.json").read_text())
    assert num_processes == 2 and sorted(size / record_bytes for size in sizes) == [1, 2, 4]

    # one process resumes what two processes began
    again = score(model, load_video_records(folder), num_clips=2, num_crops=3, partial_folder=tmp_path / "partial")
    assert again.num_resumed == 6 and [video.reason for video in again.skipped] == ["not_a_video"]

    results = json.loads((tmp_path / "command" / "results.json").read_text())
    assert results["metrics"]["top1"] == alone.top1 and results["metrics"]["top5"] == alone.top5
    assert results["dataset"]["num_scored"] == 6 and results["dataset"]["num_skipped"] == 1
    assert not (tmp_path / "command" / "partial").exists()


# records


def test_bytes_and_records_of_bytes(model, records, folder):
    paths = [record["video"] for record in records.select([0, 1])]
    content = [Path(path).read_bytes() for path in paths]
    expected = score(model, records.select([0, 1])).probabilities
    for videos, names in (
        (content, ["record 0", "record 1"]),
        ([{"bytes": content[0], "path": "a.mp4"}, {"bytes": content[1], "path": None}], ["a.mp4", "record 1"]),
    ):
        result = score(model, datasets.Dataset.from_dict({"video": videos, "label": [0, 0]}))
        assert result.videos == names
        np.testing.assert_allclose(result.probabilities, expected, atol=1e-6)


# errors


def test_wrong_calls(model, records):
    for options, message in (
        ({"batch_size": 0}, "batch_size is 0"),
        ({"num_workers": -1}, "num_workers -1"),
        ({"num_clips": 3, "sampling": "segments"}, "at most two views"),
        ({"num_crops": 0}, "num_crops is 0"),
        ({"resize_kernel": "nearest"}, "resize_kernel is 'nearest'"),
    ):
        with pytest.raises(ValueError, match=message):
            score(model, records, **options)
    with pytest.raises(ValueError, match="several labels"):
        score(tiny_classifier(problem_type="multi_label_classification"), records)
    with pytest.raises(ValueError, match="makes no views"):
        evaluate_classifier(model, SimpleNamespace(sampling="sparse"), records, num_workers=0)


def test_logits_that_are_not_finite(records):
    model = tiny_classifier()
    model.classifier.bias.data[2] = float("nan")
    with pytest.raises(ValueError, match=r"clip6\.mp4: the model's logits are not finite in torch\.float32"):
        score(model, records)


def test_views_of_unequal_sizes(model, tmp_path):
    videos = [str(save_noise(tmp_path / f"{width}.mp4", 0, width=width)) for width in (48, 80)]
    records = datasets.Dataset.from_dict({"video": videos, "label": [0, 0]})
    processor = tiny_processor(do_center_crop=False)
    with pytest.raises(
        ValueError, match=r"80\.mp4 has views of shape \(1, 4, 3, 32, 53\), others \(1, 4, 3, 32, 32\)"
    ):
        evaluate_classifier(model, processor, records, num_clips=1, num_crops=1, num_workers=0)

"""Clips from good and broken videos: equal samples with every loader, and a report of every broken file."""

import functools
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader, skip_first_batches
from PIL import Image
from torch.utils.data import DataLoader
from video_files import write_broken_videos, write_video

from processing_umt import VideoDecodeError
from processing_umt.augmentation_umt import augment_for_pretraining
from processing_umt.frame_sampling_umt import sample_training_clip
from umt_training.data import video_dataset
from umt_training.data.broken_videos import BrokenVideoLog, TooManyBrokenVideosError
from umt_training.data.video_dataset import EpochSampler, VideoClipDataset, collate_clips, mask_seed
from umt_training.data.video_records import load_video_records

sample_frames = functools.partial(sample_training_clip, sampling="segments")
transform = functools.partial(augment_for_pretraining, size=32)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """A folder of forty good and ten broken videos: a fifth is broken."""
    folder = tmp_path_factory.mktemp("videos")
    expected = write_broken_videos(folder)
    for number in range(40):
        write_video(folder / f"good_{number:02}.mp4", num_frames=8 + number % 3, colour=6 * number)
    return folder, expected


@pytest.fixture(scope="module")
def good(videos):
    folder, _ = videos
    return [{"video": str(folder / f"good_{number:02}.mp4"), "label": number} for number in range(10)]


def clips_of(records, **kwargs):
    return VideoClipDataset(records, 2, sample_frames, transform, seed=5, **kwargs)


def load(dataset, num_workers=0, epochs=1, batch_size=4, **kwargs):
    """The batches of each epoch of a plain loader."""
    sampler = EpochSampler(dataset)
    loader = DataLoader(
        dataset, batch_size, sampler=sampler, num_workers=num_workers, collate_fn=collate_clips, **kwargs
    )
    found = []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        found.append(list(loader))
    return found


def assert_same(batches, others):
    assert len(batches) == len(others) > 0
    for batch, other in zip(batches, others, strict=True):
        assert batch.keys() == other.keys()
        for name in batch:
            if isinstance(batch[name], torch.Tensor):
                assert torch.equal(batch[name], other[name]), name
            else:
                assert batch[name] == other[name], name


def test_sample(good):
    dataset = clips_of([{**good[3], "caption": "a cat"}, good[4]])
    sample = dataset[0]
    assert sample["pixel_values_videos"].dtype == torch.uint8
    assert sample["pixel_values_videos"].shape == (2, 3, 32, 32)
    assert (sample["labels"], sample["caption"], sample["video_index"], sample["broken"]) == (3, "a cat", 0, [])
    assert sample["sample_seed"] == mask_seed(5, 0, 0)
    assert "caption" not in dataset[1]
    with pytest.raises(IndexError):
        dataset[2]


def test_everything_is_a_function_of_seed_epoch_and_index(good):
    dataset = clips_of(good)
    first = dataset[1, 2]
    assert_same([first], [clips_of(good)[1, 2]])
    for other in (dataset[0, 2], dataset[1, 3], VideoClipDataset(good, 2, sample_frames, transform, seed=6)[1, 2]):
        assert other["sample_seed"] != first["sample_seed"]
        assert not torch.equal(other["pixel_values_videos"], first["pixel_values_videos"])
    dataset.set_epoch(1)
    assert_same([dataset[2]], [first])


def test_mask_seeds_are_distinct_int64():
    seeds = {mask_seed(s, e, i, v) for s in range(3) for e in range(10) for i in range(100) for v in range(2)}
    assert len(seeds) == 6000 and min(seeds) < 0 < max(seeds)
    assert torch.tensor(sorted(seeds)).dtype == torch.int64


def test_frames_are_those_of_the_sampling_rule(good):
    """A clip without augmentation equals a direct read of the sampled frames."""
    plain = VideoClipDataset(good, 2, sample_frames, lambda frames, generator: torch.from_numpy(frames), seed=5)
    generator = video_dataset.sample_generator(5, 3, 7)
    with video_dataset.VideoReader(good[7]["video"]) as reader:
        expected = reader.read(sample_frames(num_video_frames=9, num_frames=2, generator=generator))
    assert np.array_equal(plain[3, 7]["pixel_values_videos"].numpy(), expected)


def test_repeated_augmentation_decodes_once(good, monkeypatch):
    opened = []
    reader = video_dataset.VideoReader
    monkeypatch.setattr(video_dataset, "VideoReader", lambda video: opened.append(video) or reader(video))
    dataset = clips_of(good[:4], num_views_per_video=2)
    (batch,) = load(dataset)[0]
    assert len(opened) == 4 and batch["pixel_values_videos"].shape == (8, 2, 3, 32, 32)
    order = [index for _, index in EpochSampler(dataset)]
    assert batch["labels"].tolist() == [label for label in order for _ in range(2)]
    assert len(set(batch["sample_seeds"].tolist())) == 8
    assert not torch.equal(batch["pixel_values_videos"][0], batch["pixel_values_videos"][1])
    one_view = clips_of(good[:4])[0, order[0]]  # the first view equals that of a run without repetition
    assert torch.equal(one_view["pixel_values_videos"], batch["pixel_values_videos"][0])


@pytest.mark.parametrize("form", ["bytes", "record", "image", "image bytes", "memory://"])
def test_other_formats_of_videos(good, form, tmp_path):
    from PIL import Image

    content = Path(good[0]["video"]).read_bytes()
    Image.new("RGB", (40, 36), (9, 9, 9)).save(tmp_path / "x.png")
    if form == "memory://":
        import fsspec

        with fsspec.open("memory://video.mp4", "wb") as file:
            file.write(content)
    video = {
        "bytes": content,
        "record": {"path": "a.mp4", "bytes": content},
        "image": str(tmp_path / "x.png"),
        "image bytes": {"path": "x.png", "bytes": (tmp_path / "x.png").read_bytes()},
        "memory://": "memory://video.mp4",
    }[form]
    clip = clips_of([{"video": video}])[0]["pixel_values_videos"]
    if "image" in form:
        assert torch.equal(clip, torch.full((2, 3, 32, 32), 9, dtype=torch.uint8))
    else:
        assert torch.equal(clip, clips_of(good[:1])[0]["pixel_values_videos"])


def test_a_truncated_transport_stream_is_not_broken(tmp_path):
    """The frames that can be read are the video."""
    path = write_video(tmp_path / "long.ts", num_frames=40)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert clips_of([{"video": str(path)}])[0]["broken"] == []


class TestBrokenVideos:
    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_an_epoch_over_a_folder_with_a_fifth_broken(self, videos, num_workers, tmp_path):
        folder, expected = videos
        dataset = clips_of(load_video_records(folder))
        batches = load(dataset, num_workers, batch_size=5)[0]
        assert sum(len(batch["sample_seeds"]) for batch in batches) == 50
        log = BrokenVideoLog(max_broken_share=0.5)
        for batch in batches:
            log.add(batch["broken"], len(batch["sample_seeds"]))
        summary = log.end_epoch(0, tmp_path, [str(folder)])
        lines = [json.loads(line) for line in Path(summary["report"]).read_text().splitlines()]
        assert {str(folder / line["video"]): line["reason"] for line in lines} == expected
        assert sum(line["attempts"] for line in lines) == summary["num_broken"] == sum(summary["reasons"].values())
        # no batch contains a broken video, and each broken file was read for at least one sample
        broken = {index for index, row in enumerate(dataset.records) if row["video"] in expected}
        assert not broken & {int(index) for batch in batches for index in batch["video_index"]}
        assert summary["num_broken"] >= 10

    def test_workers_and_epochs(self, videos):
        folder, _ = videos
        plain = load(clips_of(load_video_records(folder)), epochs=2)
        # the epoch is part of the key, so persistent workers see it
        workers = load(clips_of(load_video_records(folder)), num_workers=2, epochs=2, persistent_workers=True)
        for epoch in range(2):
            assert_same(plain[epoch], workers[epoch])
        assert [b["video_index"].tolist() for b in plain[0]] != [b["video_index"].tolist() for b in plain[1]]

    def test_replacement_brings_its_own_label(self, good, videos):
        records = [{"video": "/nowhere.mp4", "label": 99}, *good[:3]]
        sample = clips_of(records)[0]
        assert sample["broken"] == [("/nowhere.mp4", "missing")]
        assert sample["labels"] == records[sample["video_index"]]["label"] != 99
        assert sample["sample_seed"] == mask_seed(5, 0, 0)

    def test_several_replacements_are_all_reported(self, good):
        dataset = clips_of([*({"video": f"/nowhere_{number}.mp4"} for number in range(6)), *good[:1]])
        reports = [dataset[index]["broken"] for index in range(7)]
        assert [report[:1] for report in reports] == [[(f"/nowhere_{n}.mp4", "missing")] for n in range(6)] + [[]]
        assert max(map(len, reports)) > 2
        assert all(len(set(report)) == len(report) for report in reports)  # none was read twice

    def test_names_of_bytes(self, good):
        assert clips_of([{"video": b"no video"}, good[0]])[0]["broken"] == [("record 0", "not_a_video")]

    @pytest.mark.parametrize("number", [1, 3, 40])
    def test_nothing_can_be_read(self, number):
        dataset = clips_of([{"video": f"/nowhere_{n}.mp4"} for n in range(number)])
        with pytest.raises(
            ValueError, match=rf"None of {min(number, 32)} videos in a row .*nowhere_0.mp4 \(missing\)"
        ):
            dataset[0]

    def test_labels_must_be_integers(self, good):
        for label in ("cat", 1.0, True):
            with pytest.raises(ValueError, match="expected an integer"):
                clips_of([{**good[0], "label": label}])[0]
        with pytest.raises(ValueError, match="table of records is empty"):
            clips_of([])

    def test_the_error_can_be_pickled(self):
        error = pickle.loads(pickle.dumps(VideoDecodeError("a.mp4", "truncated", "x")))
        assert (error.video, error.reason) == ("a.mp4", "truncated")


@pytest.fixture(scope="module")
def accelerator():
    return Accelerator(cpu=True)


@pytest.mark.usefixtures("accelerator")
class TestLaunchers:
    """Accelerate's loaders, as Trainer creates them, on simulated processes."""

    def prepare(self, dataset, process_index, num_processes, num_workers=0, **kwargs):
        loader = DataLoader(
            dataset, 4, sampler=EpochSampler(dataset), num_workers=num_workers, collate_fn=collate_clips, **kwargs
        )
        return prepare_data_loader(
            loader, torch.device("cpu"), num_processes, process_index, put_on_device=True, use_seedable_sampler=True
        )

    def test_two_processes_share_the_batches_of_one(self, good):
        (plain,) = load(clips_of(good * 2))[-1:]
        parts = [list(self.prepare(clips_of(good * 2), rank, 2)) for rank in range(2)]
        # 5 batches for 2 processes: the sixth repeats the first
        assert_same([batch for pair in zip(*parts, strict=True) for batch in pair], [*plain, plain[0]])

    @pytest.mark.parametrize("num_processes", [1, 2])
    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_resuming_within_a_later_epoch(self, good, num_processes, num_workers):
        """As in Trainer: a new loader skips batches, then its epoch is set."""
        complete = self.prepare(clips_of(good * 2), num_processes - 1, num_processes)
        complete.set_epoch(3)
        expected = list(complete)[1:]
        resumed = skip_first_batches(
            self.prepare(clips_of(good * 2), num_processes - 1, num_processes, num_workers), 1
        )
        resumed.set_epoch(3)
        assert_same(list(resumed), expected)

    def test_the_loader_advances_the_epoch(self, good):
        loader = self.prepare(clips_of(good), 0, 1)
        both = [list(loader), list(loader)]
        for batches, expected in zip(both, load(clips_of(good), epochs=2), strict=True):
            assert_same(batches, expected)

    def test_plain_samplers_and_persistent_workers_see_the_epoch(self, good):
        """Without `EpochSampler`, as with the plain Trainer, `dataset[index]` uses the epoch that was set last."""
        dataset = clips_of(good[:4])
        loader = DataLoader(dataset, 4, num_workers=1, collate_fn=collate_clips, persistent_workers=True)
        for epoch in range(2):
            dataset.set_epoch(epoch)
            (batch,) = loader
            assert batch["sample_seeds"].tolist() == [mask_seed(5, epoch, index) for index in range(4)]

    def test_broken_lists_of_any_length_are_kept(self, videos):
        folder, expected = videos
        batches = list(self.prepare(clips_of(load_video_records(folder)), 0, 1))
        assert {name for batch in batches for name, _ in batch["broken"]} == expected.keys()

    def test_samples_stripped_by_the_plain_trainer(self, good):
        kept = [{name: sample[name] for name in ("pixel_values_videos", "labels")} for sample in clips_of(good[:2])]
        assert set(collate_clips(kept)) == {"pixel_values_videos", "labels"}


class TestBrokenVideoLog:
    def test_limit(self, tmp_path):
        log = BrokenVideoLog(0.1)
        log.add([("a.mp4", "missing")] * 20, 179)  # 199 attempts: not checked yet
        with pytest.raises(TooManyBrokenVideosError, match=r"21 of 204 .*missing 20, empty 1.*limit of 10%.*a.mp4"):
            log.add([["b.mp4", "empty"]], 4)  # pairs may come as lists from pinned memory
        with pytest.raises(TooManyBrokenVideosError):
            log.end_epoch(2, tmp_path / "new")
        report = [json.loads(line) for line in (tmp_path / "new" / "epoch-2.jsonl").open()]
        assert report == [
            {"video": "a.mp4", "reason": "missing", "attempts": 20},
            {"video": "b.mp4", "reason": "empty", "attempts": 1},
        ]
        assert [path.name for path in (tmp_path / "new").iterdir()] == ["epoch-2.jsonl"]

    def test_paths_are_relative_and_names_of_any_bytes_are_written(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        names = {
            f"{tmp_path}/data/run/a.mp4": "run/a.mp4",
            f"{tmp_path}/lists/b.mp4": "b.mp4",
            f"{tmp_path}/other/c.mp4": "other/c.mp4",
            "clips/d.mp4": "clips/d.mp4",
            "http://host/e.mp4": "http://host/e.mp4",
            "caf\udce9.mp4": "caf\\udce9.mp4",
        }
        (tmp_path / "data").mkdir()
        log = BrokenVideoLog(1.0)
        log.add([(name, "missing") for name in names], 0)
        log.end_epoch(1, tmp_path, [f"{tmp_path}/data", "lists/train.csv", "owner/name"])
        lines = [json.loads(line) for line in (tmp_path / "epoch-1.jsonl").read_text("utf-8").splitlines()]
        assert [line["video"] for line in lines] == [*list(names.values())[:5], "caf\udce9.mp4"]

    def test_no_report_without_broken_videos(self, tmp_path):
        log = BrokenVideoLog(0.0)
        log.add([], 500)
        assert log.end_epoch(0, tmp_path) == {"num_clips": 500, "num_broken": 0, "reasons": {}, "report": None}
        assert not list(tmp_path.iterdir()) and log.num_clips == 0
        with pytest.raises(ValueError, match="from 0 to 1"):
            BrokenVideoLog(20)

    def test_names_are_bounded_and_counts_are_not(self):
        log = BrokenVideoLog(1.0)
        log.add([(f"{number}.mp4", "missing") for number in range(12_000)], 0)
        assert len(log.counts) == 10_000 and log.reasons["missing"] == 12_000

    def test_two_processes(self, tmp_path):
        torch.multiprocessing.start_processes(_count_in_two_processes, (str(tmp_path),), 2, start_method="fork")
        summaries = [json.loads((tmp_path / f"summary-{rank}").read_text()) for rank in range(2)]
        assert summaries[0] == summaries[1]
        assert summaries[0]["num_clips"] == 30 and summaries[0]["reasons"] == {"missing": 3, "empty": 2}
        report = [json.loads(line) for line in (tmp_path / "epoch-1.jsonl").open()]
        assert report == [
            {"video": "shared.mp4", "reason": "missing", "attempts": 3},
            {"video": "0.mp4", "reason": "empty", "attempts": 1},
            {"video": "1.mp4", "reason": "empty", "attempts": 1},
        ]


def _count_in_two_processes(rank, folder):
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    log = BrokenVideoLog(0.5)
    log.add([("shared.mp4", "missing")] * (1 + rank) + [(f"{rank}.mp4", "empty")], 10 + 10 * rank)
    summary = log.end_epoch(1, folder)
    with open(f"{folder}/summary-{rank}", "w") as file:
        json.dump(summary, file)
    torch.distributed.destroy_process_group()


def test_an_animated_image_is_sampled_as_a_video(tmp_path):
    path = tmp_path / "a.webp"
    pictures = [Image.new("RGB", (16, 16), (60 * number, 9, 9)) for number in range(4)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], lossless=True)
    for video in (str(path), {"path": "a.webp", "bytes": path.read_bytes()}):
        clips = VideoClipDataset(
            [{"video": video}], 4, lambda num_video_frames, **_: np.arange(num_video_frames), lambda frames, _: frames
        )
        assert clips[0]["pixel_values_videos"][:, 0, 0, 0].tolist() == [0, 60, 120, 180]

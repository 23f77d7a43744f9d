"""Clips around key frames with their boxes and actions: content, seeds, broken videos, loaders, batches."""

import functools
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from key_frame_files import frame_numbers, metadata_row, write_metadata, write_numbered_video
from torch.utils.data import DataLoader
from video_files import write_broken_videos

from modeling_umt import UMTConfig, UMTForActionDetection
from processing_umt import UMTVideoProcessor
from processing_umt.augmentation_umt import sample_generator
from processing_umt.detection_augmentation_umt import augment_for_detection
from umt_training.data import key_frame_clips
from umt_training.data.action_records import load_annotated_actions, training_key_frames
from umt_training.data.key_frame_clips import KeyFrameClips
from umt_training.data.key_frame_dataset import KeyFrameDataset, collate_key_frames
from umt_training.data.key_frames import KeyFrame, inclusive_corners
from umt_training.data.movie_files import find_movies, present_key_frames
from umt_training.data.video_dataset import EpochSampler, mask_seed

augment = functools.partial(
    augment_for_detection, image_mean=[0.48, 0.45, 0.4], image_std=[0.225] * 3, size=32, short_side=36
)


def as_decoded(frames, boxes, generator):
    """A transform that changes nothing."""
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float(), boxes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two videos with six key frames, one of them without categories."""
    root = tmp_path_factory.mktemp("own")
    write_numbered_video(root / "a.mp4", 75)
    write_numbered_video(root / "b.mp4", 50, rate=10)
    two = {"bbox": [[5, 6, 10, 20], [20, 10, 30, 30]], "categories": [["sit", "talk"], ["run"]]}
    rows = [metadata_row("a.mp4", time, **two) for time in (0.52, 1.4, 2.52)]
    rows += [metadata_row("b.mp4", 1), metadata_row("b.mp4", 3.5, categories=[["run"]])]
    write_metadata(root / "metadata.jsonl", [*rows, metadata_row("b.mp4", 2, categories=[[]])])
    return root


def dataset_of(root, transform=augment, extra=(), **options):
    key_frames, _ = training_key_frames(load_annotated_actions(root))
    movies = find_movies([frame.video for frame in key_frames], root)
    present, _ = present_key_frames(key_frames, movies, root)
    return KeyFrameDataset(present, movies, 3, 8, transform, **{"seed": 5} | options)


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name], name


def test_a_sample_is_the_frames_around_its_key_frame_with_boxes_and_labels(folder):
    dataset = dataset_of(folder, as_decoded)
    assert len(dataset) == 5
    sample = dataset[1]
    numbers = frame_numbers(sample["pixel_values_videos"].permute(0, 2, 3, 1).numpy())
    assert numbers == [35 + offset for offset in (-29, -21, -13, -5, 3, 11, 19, 27)]
    assert sample["boxes"].tolist() == [[5, 6, 14, 25], [20, 10, 49, 39]] and sample["boxes"].dtype == torch.float32
    assert sample["labels"].tolist() == [[0, 1, 1], [1, 0, 0]] and sample["labels"].dtype == torch.float32
    assert (sample["video_index"], sample["broken"], sample["sample_seed"]) == (1, [], mask_seed(5, 0, 1))


def test_the_augmentation_gets_the_generator_of_the_sample(folder):
    dataset = dataset_of(folder)
    key_frame = dataset.records[2]
    frames = KeyFrameClips(dataset.reader.clips.movies, 8).read(key_frame)
    corners = torch.from_numpy(inclusive_corners(key_frame, 48, 64)[0])
    clip, boxes = augment(frames, corners, sample_generator(5, 3, 2))
    assert torch.equal(dataset[3, 2]["pixel_values_videos"], clip) and torch.equal(dataset[3, 2]["boxes"], boxes)


@pytest.mark.parametrize(("video", "time"), [("a.mp4", 1.5), ("a.mp4", 0.1), ("b.mp4", 4.93)])
def test_the_frames_are_those_of_the_processor(folder, video, time):
    plain = dict.fromkeys(("do_resize", "do_center_crop", "do_rescale", "do_normalize"), False)
    processor = UMTVideoProcessor(sampling="key_frame", frame_stride=8, **plain)
    expected = processor(str(folder / video), key_times=[time], return_tensors="pt")["pixel_values_videos"][0]
    key_frame = KeyFrame(video, time, np.zeros((0, 4)), False, (), (), None, "")
    frames = KeyFrameClips(find_movies([video], folder), 8).read(key_frame)
    assert torch.equal(torch.from_numpy(frames).permute(0, 3, 1, 2), expected.to(torch.uint8))


def test_samples_are_functions_of_seed_epoch_and_index(folder):
    dataset = dataset_of(folder)
    first = dataset[1, 2]
    assert_same(first, dataset_of(folder)[1, 2])
    for other in (dataset[0, 2], dataset_of(folder, seed=6)[1, 2]):
        assert not torch.equal(other["boxes"], first["boxes"]) and other["sample_seed"] != first["sample_seed"]
    dataset.set_epoch(1)
    assert_same(dataset[2], first)


def test_a_reader_with_open_files_can_be_pickled(folder):
    dataset = dataset_of(folder, as_decoded)
    sample = dataset[0]
    assert_same(pickle.loads(pickle.dumps(dataset))[0], sample)


@pytest.fixture
def opened(monkeypatch):
    """The names of the videos that are opened, in order."""
    names = []

    class CountedReader(key_frame_clips.VideoReader):
        def __init__(self, video):
            names.append(Path(video).name)
            super().__init__(video)

    monkeypatch.setattr(key_frame_clips, "VideoReader", CountedReader)
    return names


def test_key_frames_in_order_open_each_movie_once(folder, opened):
    dataset = dataset_of(folder)
    for index in range(len(dataset)):
        dataset[index]
    assert opened == ["a.mp4", "b.mp4"]


def test_a_worker_opens_the_files_of_the_main_process_itself(folder, opened, monkeypatch):
    """Its copies of open files share their positions with those of the main process."""
    dataset = dataset_of(folder, as_decoded)
    sample = dataset[0]
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert_same(dataset[0], sample)
    assert opened == ["a.mp4", "a.mp4"]


def test_batches_do_not_depend_on_the_number_of_workers(folder):
    batches = []
    for num_workers in (0, 2):
        dataset = dataset_of(folder)
        loader = DataLoader(
            dataset, 2, sampler=EpochSampler(dataset), num_workers=num_workers, collate_fn=collate_key_frames
        )
        batches.append(list(loader))
    assert len(batches[0]) == 3
    for one, other in zip(*batches, strict=True):
        assert_same(one, other)


def test_a_batch_is_padded():
    def sample(height, width, num_boxes, index):
        generator = torch.Generator().manual_seed(index)
        return {
            "pixel_values_videos": 1 + torch.rand(2, 3, height, width, generator=generator),
            "boxes": 1 + torch.rand(num_boxes, 4, generator=generator),
            "labels": torch.ones(num_boxes, 5),
            "sample_seed": index,
            "video_index": index,
            "broken": [("x.mp4", "empty")] * index,
        }

    samples = [sample(20, 40, 2, 0), sample(30, 17, 0, 1), sample(16, 16, 3, 2)]
    batch = collate_key_frames(samples)
    assert batch["pixel_values_videos"].shape == (3, 2, 3, 32, 48) and batch["boxes"].shape == (3, 3, 4)
    assert batch["box_mask"].tolist() == [[True, True, False], [False] * 3, [True] * 3]
    assert batch["labels"].shape == (3, 3, 5) and batch["broken"] == [("x.mp4", "empty")] * 3
    assert batch["video_index"].tolist() == batch["sample_seeds"].tolist() == [0, 1, 2]
    for row, given in enumerate(samples):
        height, width = given["pixel_values_videos"].shape[-2:]
        assert torch.equal(batch["pixel_values_videos"][row, ..., :height, :width], given["pixel_values_videos"])
        assert batch["pixel_values_videos"][row].count_nonzero() == given["pixel_values_videos"].numel()
        assert torch.equal(batch["boxes"][row][batch["box_mask"][row]], given["boxes"])
        assert not batch["boxes"][row][~batch["box_mask"][row]].any()
        assert not batch["labels"][row][~batch["box_mask"][row]].any()
    empty = collate_key_frames([sample(16, 16, 0, 0)])
    assert (
        empty["boxes"].shape == (1, 0, 4) and empty["box_mask"].shape == (1, 0) and empty["labels"].shape == (1, 0, 5)
    )


def test_a_batch_is_padded_as_recorded(recorded):
    _, tensors = recorded("ava_transform")
    samples = [
        {
            "pixel_values_videos": tensors[f"expected/clip_{number}"].permute(1, 0, 2, 3),
            "boxes": tensors[f"expected/boxes_{number}"],
            "labels": torch.zeros(len(tensors[f"expected/boxes_{number}"]), 2),
            "sample_seed": 0,
            "video_index": number,
            "broken": [],
        }
        for number in range(3)
    ]
    batch = collate_key_frames(samples)
    assert torch.equal(batch["pixel_values_videos"].permute(0, 2, 1, 3, 4), tensors["expected/video"])


def test_a_broken_video_is_replaced_with_its_boxes_and_reported(tmp_path):
    reasons = write_broken_videos(tmp_path)
    write_numbered_video(tmp_path / "good.mp4", 75)
    rows = [metadata_row(name, 1, categories=[["run"]]) for name in ("random.mp4", "empty.mp4")]
    rows += [metadata_row("good.mp4", 1, bbox=[[1, 2, 30, 40], [3, 4, 50, 30]], categories=[["sit"], ["talk"]])]
    write_metadata(tmp_path / "metadata.jsonl", rows)
    dataset = dataset_of(tmp_path, as_decoded)
    index = next(index for index, frame in enumerate(dataset.records) if frame.video == "random.mp4")
    sample = dataset[index]
    assert dataset.records[sample["video_index"]].video == "good.mp4" and sample["labels"].shape == (2, 3)
    path = str(tmp_path / "random.mp4")
    assert sample["broken"][0] == (path, reasons[path])


def test_a_class_beyond_those_of_the_model_is_refused(folder):
    key_frames, _ = training_key_frames(load_annotated_actions(folder))
    with pytest.raises(ValueError, match=r"metadata.jsonl, line 1 has the action id 3, but there are 2 classes"):
        KeyFrameDataset(key_frames, {}, 2, 8, augment)


def test_a_box_outside_of_its_video_is_refused_when_it_is_read(tmp_path):
    write_numbered_video(tmp_path / "a.mp4", 50)
    write_metadata(tmp_path / "metadata.jsonl", [metadata_row(bbox=[[500, 6, 90, 90]])])
    dataset = dataset_of(tmp_path)
    with pytest.raises(ValueError, match=r"metadata.jsonl, line 1: the box .* is outside the frame of a.mp4 at 1 s"):
        dataset[0]


def test_frames_and_boxes_of_a_real_clip_fit_the_model_input(shared_video, tmp_path):
    path = shared_video("arm_wrestling.mp4")
    (tmp_path / path.name).symlink_to(path)
    write_metadata(tmp_path / "metadata.jsonl", [metadata_row(path.name, 2.0, bbox=[[40, 30, 60, 90]])])
    sample = dataset_of(tmp_path, functools.partial(augment, size=224, short_side=256))[0]
    assert sample["pixel_values_videos"].shape == (8, 3, 224, 224)
    assert np.isfinite(sample["pixel_values_videos"].numpy()).all() and (sample["boxes"] <= 223).all()


def test_a_batch_is_the_input_of_the_model(folder):
    config = UMTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, image_size=32, patch_size=16,
        num_frames=8, position_grid=[8, 2, 2], num_labels=3,
    )  # fmt: skip
    torch.manual_seed(0)
    model = UMTForActionDetection(config).eval()
    dataset = dataset_of(folder)
    batch = collate_key_frames([dataset[0], dataset[3]])
    assert batch["box_mask"].sum(1).tolist() == [2, 1]
    inputs = {name: batch[name] for name in ("pixel_values_videos", "boxes", "box_mask", "labels")}
    outputs = model(**inputs)
    assert outputs.logits.shape == (2, 2, 3) and torch.isfinite(outputs.loss)
    one_by_one = [collate_key_frames([dataset[index]]) for index in (0, 3)]
    losses = [model(**{name: batch[name] for name in inputs}).loss for batch in one_by_one]
    torch.testing.assert_close(outputs.loss, sum(losses))

"""Streamed shards: every video once, without overlap, and the same clip for every reader."""

import functools

import pytest
import torch
from accelerate import Accelerator
from accelerate.data_loader import DataLoaderShard, skip_first_batches
from torch.utils.data import DataLoader
from video_files import write_tar, write_video

from processing_umt.augmentation_umt import augment_for_pretraining
from processing_umt.frame_sampling_umt import sample_training_clip
from umt_training.data.video_dataset import collate_clips
from umt_training.data.video_records import load_video_records
from umt_training.data.video_stream import StreamedClipDataset, name_hash

NUM_VIDEOS = 24
sample_frames = functools.partial(sample_training_clip, sampling="segments")
transform = functools.partial(augment_for_pretraining, size=32)


def write_shards(folder, num_shards, broken=()):
    """24 videos in shards of equal size; those in `broken` are text files."""
    contents = [
        b"no video" if number in broken else write_video(folder / "v.mp4", 6, colour=9 * number).read_bytes()
        for number in range(NUM_VIDEOS)
    ]
    for shard in range(num_shards):
        files = []
        for number in range(shard, NUM_VIDEOS, num_shards):
            files += [(f"{number:02}.mp4", contents[number]), (f"{number:02}.cls", str(number).encode())]
        write_tar(folder / f"s-{shard}.tar", files)
    return load_video_records(f"{folder}/s-{{0..{num_shards - 1}}}.tar")


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("shards"), 4)


def clips_of(records, batch_size=2, samples_per_epoch=NUM_VIDEOS, **kwargs):
    return StreamedClipDataset(
        records, 2, sample_frames, transform, samples_per_epoch=samples_per_epoch, batch_size=batch_size, **kwargs
    )


def load(dataset, num_workers=0, **kwargs):
    return DataLoader(dataset, dataset.batch_size, num_workers=num_workers, collate_fn=collate_clips, **kwargs)


def by_label(batches):
    """label → (clip, mask seed, hash)"""
    found = {}
    for batch in batches:
        for number, label in enumerate(batch["labels"].tolist()):
            assert label not in found, "a video was read twice"
            found[label] = (
                batch["pixel_values_videos"][number].numpy().tobytes(),
                int(batch["sample_seeds"][number]),
                int(batch["video_index"][number]),
            )
    return found


@pytest.mark.parametrize(
    ("num_processes", "num_workers"), [(1, 0), (1, 2), (1, 6), (2, 0), (2, 2), (4, 0), (3, 0), (3, 2)]
)
def test_no_overlap_and_the_same_clips(records, num_processes, num_workers):
    """Also if three processes share four shards, and with more workers than shards."""
    expected = by_label(load(clips_of(records)))
    assert len(expected) == NUM_VIDEOS
    batches = []
    for rank in range(num_processes):
        dataset = clips_of(records, process_index=rank, num_processes=num_processes)
        loader = load(dataset, num_workers)
        part = list(loader)
        assert len(part) == len(loader) == NUM_VIDEOS // 2 // num_processes
        assert all(len(batch["labels"]) == 2 for batch in part)
        batches += part
    assert by_label(batches) == expected


def test_epochs_differ_and_repeat(records):
    dataset = clips_of(records)
    first = list(load(dataset))
    dataset.set_epoch(1)
    second = list(load(dataset))
    order = [batch["labels"].tolist() for batch in first]
    assert order != [batch["labels"].tolist() for batch in second]
    assert order != [[2 * n, 2 * n + 1] for n in range(12)]
    clips, others = by_label(first), by_label(second)
    assert all(clips[label][:2] != others[label][:2] for label in clips)
    dataset.set_epoch(0)
    assert [batch["labels"].tolist() for batch in load(dataset)] == order


def test_persistent_workers_see_the_epoch(records):
    dataset, fresh = clips_of(records), clips_of(records)
    loader = load(dataset, 2, persistent_workers=True)
    for epoch in (0, 1, 5):
        dataset.set_epoch(epoch)
        fresh.set_epoch(epoch)
        assert [b["sample_seeds"].tolist() for b in loader] == [b["sample_seeds"].tolist() for b in load(fresh, 2)]


def test_shards_are_read_again_with_other_clips(records):
    samples = list(clips_of(records, samples_per_epoch=2 * NUM_VIDEOS, shuffle_buffer=1))
    assert len(samples) == 2 * NUM_VIDEOS
    first, second = samples[:NUM_VIDEOS], samples[NUM_VIDEOS:]
    assert {sample["labels"] for sample in first} == {sample["labels"] for sample in second} == set(range(NUM_VIDEOS))
    assert len({sample["sample_seed"] for sample in samples}) == 2 * NUM_VIDEOS


def test_broken_videos_are_skipped_and_reported(tmp_path):
    records = write_shards(tmp_path, 2, broken=(3, 4, 5, 20))
    batches = list(load(clips_of(records, samples_per_epoch=40)))
    broken = {name.rsplit("/", 1)[-1]: reason for batch in batches for name, reason in batch["broken"]}
    assert broken == dict.fromkeys(("03.mp4", "04.mp4", "05.mp4", "20.mp4"), "not_a_video")
    assert {3, 4, 5, 20}.isdisjoint(label for batch in batches for label in batch["labels"].tolist())


def test_broken_at_the_end_of_a_pass(tmp_path):
    records = write_shards(tmp_path, 1, broken=(NUM_VIDEOS - 1,))
    *_, last = clips_of(records, shuffle_buffer=1)  # the first video of the second pass
    assert last["labels"] == 0 and [reason for _, reason in last["broken"]] == ["not_a_video"]


@pytest.mark.parametrize("num_workers", [0, 2, 3])
def test_a_number_of_batches_that_is_not_a_multiple_of_the_workers(records, num_workers):
    loader = load(clips_of(records, samples_per_epoch=23), num_workers)
    assert [len(batch["labels"]) for batch in loader] == [2] * 11 and len(loader) == 11


@pytest.mark.parametrize("broken", [range(NUM_VIDEOS), range(1, NUM_VIDEOS, 2)])
def test_a_reader_without_a_readable_video(tmp_path, broken):
    records = write_shards(tmp_path, 2, broken)
    with pytest.raises(ValueError, match=r"None of \d+ videos in a row can be read.*not_a_video"):
        for _ in load(clips_of(records), 2):
            pass


def test_views(records):
    (batch,) = load(clips_of(records, 24, num_views_per_video=2))
    assert batch["labels"].tolist()[::2] == batch["labels"].tolist()[1::2]
    assert len(set(batch["sample_seeds"].tolist())) == 48


def test_too_few_samples(records):
    with pytest.raises(ValueError, match="less than one batch of 8 for each of 2 processes"):
        clips_of(records, 8, samples_per_epoch=15, num_processes=2)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_under_accelerate(records, num_workers):
    """The loader of the class's docstring: device placement, epochs, resuming within an epoch."""
    Accelerator(cpu=True)
    options = {"device": torch.device("cpu"), "batch_size": 2, "collate_fn": collate_clips, "num_workers": num_workers}
    complete = DataLoaderShard(clips_of(records), **options)
    assert len(complete) == 12
    complete.set_epoch(3)
    expected = [batch["sample_seeds"].tolist() for batch in complete]
    resumed = skip_first_batches(DataLoaderShard(clips_of(records), **options), 5)
    resumed.set_epoch(3)
    assert [batch["sample_seeds"].tolist() for batch in resumed] == expected[5:]


def test_hashes():
    assert name_hash({"path": "a.mp4", "bytes": b"x"}) == name_hash("a.mp4") != name_hash("b.mp4")
    assert name_hash(b"x") == name_hash({"path": None, "bytes": b"x"}) != name_hash(b"y")
    assert name_hash("a.mp4", 1) != name_hash("a.mp4") and 0 <= name_hash("a.mp4") < 2**32

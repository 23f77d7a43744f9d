"""Alternating images and videos: one kind per batch, all of both in an epoch, equal for all workers and processes."""

import functools

import pytest
import torch
from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader, skip_first_batches
from datasets import Dataset
from PIL import Image
from torch.utils.data import DataLoader
from video_files import write_tar, write_video

from processing_umt.augmentation_umt import augment_for_video_text
from processing_umt.frame_sampling_umt import sample_training_clip
from umt_training.data.alternating_clips import (
    AlternatingClips,
    AlternatingSampler,
    AlternatingStreams,
    shuffled_parts,
)
from umt_training.data.captioned_records import load_captioned_records
from umt_training.data.video_dataset import VideoClipDataset, collate_clips
from umt_training.data.video_stream import StreamedClipDataset

NUM_IMAGES, NUM_VIDEOS, BATCH = 11, 7, 2
sample_frames = functools.partial(sample_training_clip, sampling="middle")
transform = functools.partial(augment_for_video_text, size=16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    for number in range(NUM_IMAGES):
        Image.new("RGB", (20, 20), (20 * number, 0, 0)).save(folder / f"{number:02}.png")
    for number in range(NUM_VIDEOS):
        write_video(folder / f"{number:02}.mp4", 6, colour=30 * number)
    for name, suffix, number in (("images", "png", NUM_IMAGES), ("videos", "mp4", NUM_VIDEOS)):
        for shard in range(2):
            files = []
            for index in range(shard, number, 2):
                files.append((f"{index:02}.{suffix}", (folder / f"{index:02}.{suffix}").read_bytes()))
                files.append((f"{index:02}.txt", f"{name} {index}".encode()))
            write_tar(folder / f"{name}-{shard}.tar", files)
    return folder


def clips_of(folder, seed=4):
    parts = []
    for frames, suffix, number in ((1, "png", NUM_IMAGES), (2, "mp4", NUM_VIDEOS)):
        paths = [f"{folder}/{index:02}.{suffix}" for index in range(number)]
        table = Dataset.from_dict({"video": paths, "caption": [f"{suffix} {index}" for index in range(number)]})
        records = load_captioned_records([table])
        parts.append(VideoClipDataset(records, frames, sample_frames, transform, seed=seed, images=frames == 1))
    return AlternatingClips(parts)


def load(dataset, batch=BATCH, num_workers=0, processes=1, process=0):
    """The loader of one of several processes, as accelerate creates it from a plain one."""
    sampler = AlternatingSampler(dataset, batch * processes)
    loader = DataLoader(dataset, batch, sampler=sampler, num_workers=num_workers, collate_fn=collate_clips)
    Accelerator()
    return prepare_data_loader(loader, num_processes=processes, process_index=process, put_on_device=False)


def captions(batches):
    return [caption for batch in batches for caption in batch["caption"]]


def kinds(batches):
    return [batch["pixel_values_videos"].shape[1] for batch in batches]


def test_an_epoch_visits_the_full_batches_of_both_alternately(folder):
    dataset = clips_of(folder)
    loader = load(dataset)
    epochs = []
    for epoch in range(3):
        loader.set_epoch(epoch)
        epochs.append(list(loader))
    for batches in epochs:
        assert sorted(kinds(batches)) == [1] * 5 + [2] * 3  # 11 images and 7 videos, two per batch
        for batch in batches:  # one kind per batch
            assert len({caption.split()[0] for caption in batch["caption"]}) == 1
        assert len(set(captions(batches))) == 16
        indices = [int(index) for batch in batches for index in batch["video_index"]]
        assert all(
            caption == (f"png {index}" if index < NUM_IMAGES else f"mp4 {index - NUM_IMAGES}")
            for caption, index in zip(captions(batches), indices, strict=True)
        )
    assert kinds(epochs[0]) != kinds(epochs[1]) or kinds(epochs[1]) != kinds(epochs[2])
    assert captions(epochs[0]) != captions(epochs[1])


def test_the_order_of_parts_is_a_function_of_seed_and_epoch():
    order = shuffled_parts([50, 30], seed=1, epoch=2)
    assert order.tolist() == shuffled_parts([50, 30], seed=1, epoch=2).tolist()
    assert (order == 0).sum() == 50 and (order == 1).sum() == 30
    assert order.tolist() != shuffled_parts([50, 30], seed=1, epoch=3).tolist()
    assert order.tolist() != shuffled_parts([50, 30], seed=2, epoch=2).tolist()
    assert 0 < order[:40].mean() < 1  # shuffled


@pytest.mark.parametrize("num_workers", [0, 2])
def test_processes_are_in_step_and_read_the_clips_of_a_single_process(folder, num_workers):
    """Two processes with batches of one clip read at each step the two clips of a single process."""
    alone = list(load(clips_of(folder)))
    both = [list(load(clips_of(folder), 1, num_workers, 2, process)) for process in range(2)]
    assert kinds(both[0]) == kinds(both[1]) == kinds(alone)
    for batch, first, second in zip(alone, *both, strict=True):
        assert batch["caption"] == first["caption"] + second["caption"]
        for name in ("pixel_values_videos", "sample_seeds", "match_ids"):
            assert torch.equal(batch[name], torch.cat([first[name], second[name]]))


def test_a_resumed_epoch_continues_where_it_stopped(folder):
    complete = list(load(clips_of(folder)))
    rest = list(skip_first_batches(load(clips_of(folder)), 3))
    assert captions(rest) == captions(complete[3:])


def test_a_part_smaller_than_a_batch_is_an_error(folder):
    with pytest.raises(ValueError, match="7 videos, fewer than a batch of 8"):
        AlternatingSampler(clips_of(folder), 8)


def streams_of(folder, processes=1, process=0, samples=(NUM_IMAGES, NUM_VIDEOS), batch=BATCH):
    parts = []
    for frames, name, number in ((1, "images", samples[0]), (2, "videos", samples[1])):
        records = load_captioned_records([f"{folder}/{name}-{{0..1}}.tar"])
        options = {"samples_per_epoch": number, "batch_size": batch, "images": frames == 1}
        processes_of = {"process_index": process, "num_processes": processes}
        parts.append(StreamedClipDataset(records, frames, sample_frames, transform, **options, **processes_of))
    return AlternatingStreams(parts)


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_streams_alternate_in_the_same_order(folder, num_workers):
    dataset = streams_of(folder)
    dataset.set_epoch(1)
    batches = list(DataLoader(dataset, BATCH, num_workers=num_workers, collate_fn=collate_clips))
    assert kinds(batches) == [part + 1 for part in shuffled_parts([5, 3], 0, 1)]
    assert len(dataset) == 16 == len(captions(batches))
    if num_workers < 2:  # with two, a worker may start its shard again before the other has finished
        assert len(set(captions(batches))) == 16


def test_more_workers_than_shards_are_rejected(folder):
    dataset = streams_of(folder)
    with pytest.raises(ValueError, match=r"3 workers, but one of the two has 2 shards.*to at most 2"):
        list(DataLoader(dataset, BATCH, num_workers=3, collate_fn=collate_clips))


def test_processes_of_streams_are_in_step(folder):
    both = [
        list(DataLoader(streams_of(folder, 2, process, batch=1), 1, collate_fn=collate_clips)) for process in range(2)
    ]
    assert kinds(both[0]) == kinds(both[1]) == [part + 1 for part in shuffled_parts([5, 3], 0, 0)]
    assert not set(captions(both[0])) & set(captions(both[1]))
    with pytest.raises(ValueError, match=r"the batch sizes \[1, 2\]"):
        AlternatingStreams([streams_of(folder, batch=size).parts[0] for size in (1, 2)])

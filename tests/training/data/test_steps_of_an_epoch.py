"""An epoch has the same optimiser steps, however their clips are split over processes and accumulation."""

import pytest
import torch
from accelerate.data_loader import prepare_data_loader
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_pretraining import clip_options
from torch.utils.data import BatchSampler, DataLoader
from video_files import write_tar, write_video

from umt_training.data.alternating_clips import AlternatingClips, AlternatingSampler, AlternatingStreams
from umt_training.data.video_dataset import EpochSampler, VideoClipDataset, collate_clips
from umt_training.data.video_records import load_video_records
from umt_training.data.video_stream import StreamedClipDataset

splits = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))  # processes, batch, accumulation


def clips_of(number: int, seed: int = 0) -> VideoClipDataset:
    return VideoClipDataset([{"video": f"{index}.mp4"} for index in range(number)], **clip_options(), seed=seed)


def steps_of(sampler, split: tuple[int, int, int]) -> list[list[tuple[int, int]]]:
    """The keys of each optimiser step, from the loaders of all processes."""
    processes, batch, accumulation = split
    parts = []
    for process in range(processes):
        loader = DataLoader(list(range(100)), batch_sampler=BatchSampler(sampler, batch, drop_last=False))
        shard = prepare_data_loader(loader, torch.device("cpu"), processes, process, put_on_device=False).batch_sampler
        parts.append(list(shard))
    micro_batches = list(zip(*parts, strict=True))
    return [
        [key for step in micro_batches[start : start + accumulation] for part in step for key in part]
        for start in range(0, len(micro_batches), accumulation)
    ]


@settings(max_examples=40, deadline=None)
@given(number=st.integers(1, 70), split=splits)
def test_clips_of_a_step_do_not_depend_on_the_split(number, split):
    size = split[0] * split[1] * split[2]
    if number < size:
        with pytest.raises(ValueError, match=f"fewer than a batch of {size} over all processes and accumulated batch"):
            EpochSampler(clips_of(number), size)
        return
    sampler = EpochSampler(clips_of(number), size)
    expected = list(sampler)
    steps = steps_of(sampler, split)
    assert len(steps) == number // size
    assert [sorted(step) for step in steps] == [
        sorted(expected[start : start + size]) for start in range(0, len(expected), size)
    ]


@settings(max_examples=20, deadline=None)
@given(numbers=st.tuples(st.integers(12, 40), st.integers(12, 40)), split=st.permutations([1, 2, 3]))
def test_a_step_has_clips_of_one_part_only(numbers, split):
    sampler = AlternatingSampler(AlternatingClips([clips_of(n, seed) for seed, n in enumerate(numbers)]), 6)
    steps = steps_of(sampler, tuple(split))
    assert len(steps) == sum(number // 6 for number in numbers)
    assert all(len({index >= numbers[0] for _, index in step}) == 1 for step in steps)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    for shard in range(2):
        video = write_video(folder / "v.mp4", 6, colour=90 * shard).read_bytes()
        write_tar(folder / f"s-{shard}.tar", [(f"{shard}-{n}.mp4", video) for n in range(4)])
    return f"{folder}/s-{{0..1}}.tar"


def stream(shards, samples_per_epoch, processes, batch, accumulation, **options):
    return StreamedClipDataset(
        load_video_records(shards),
        samples_per_epoch=samples_per_epoch,
        num_processes=processes,
        batch_size=batch,
        gradient_accumulation_steps=accumulation,
        **clip_options() | options,
    )


@pytest.mark.parametrize("split", [(1, 4, 1), (2, 2, 1), (1, 2, 2), (1, 1, 4), (2, 1, 2)])
def test_a_stream_has_complete_steps(split, shards):
    dataset = stream(shards, 11, *split)
    assert dataset.num_steps == 2 and len(dataset) == 8 // split[0]
    with pytest.raises(ValueError, match="samples_per_epoch is 3, less than one batch of"):
        stream(shards, 3, *split)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_step_of_alternating_streams_is_of_one_part(num_workers, shards):
    parts = [stream(shards, 5, 1, 1, 2, num_frames=1), stream(shards, 6, 1, 1, 2)]
    batches = list(DataLoader(AlternatingStreams(parts), 1, num_workers=num_workers, collate_fn=collate_clips))
    frames = [batch["pixel_values_videos"].shape[1] for batch in batches]
    assert len(frames) == 10 and frames[::2] == frames[1::2] and sorted(frames) == [1] * 4 + [2] * 6


def test_alternating_streams_accumulate_alike(shards):
    with pytest.raises(ValueError, match=r"accumulate \[1, 2\] batches"):
        AlternatingStreams([stream(shards, 8, 1, 1, accumulation) for accumulation in (1, 2)])

"""Streams whose shards hold different numbers of readable videos: what is read again is counted."""

import pytest
from tiny_pretraining import clip_options, make_trainer
from torch.utils.data import DataLoader
from video_files import write_tar, write_video

from umt_training.data.repeated_videos import RepeatedVideos, Repetitions
from umt_training.data.video_dataset import collate_clips
from umt_training.data.video_records import load_video_records
from umt_training.data.video_stream import StreamedClipDataset

NUM_VIDEOS = 8


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """A shard of seven readable videos, and one of which one video of eight is readable."""
    folder = tmp_path_factory.mktemp("shards")
    contents = [write_video(folder / "v.mp4", 6, colour=30 * n).read_bytes() for n in range(NUM_VIDEOS)]
    write_tar(folder / "s-0.tar", [(f"{n}.mp4", contents[n]) for n in range(NUM_VIDEOS - 1)])
    write_tar(folder / "s-1.tar", [(f"{n}.mp4", contents[n] if n == 7 else b"no video") for n in range(NUM_VIDEOS)])
    return f"{folder}/s-{{0..1}}.tar"


def stream(shards, process: int, processes: int = 2, samples_per_epoch: int = NUM_VIDEOS, batch: int = 2):
    return StreamedClipDataset(
        load_video_records(shards),
        samples_per_epoch=samples_per_epoch,
        batch_size=batch,
        process_index=process,
        num_processes=processes,
        **clip_options(),
    )


def repetitions(dataset, num_workers: int = 0) -> Repetitions:
    counts = RepeatedVideos()
    for batch in DataLoader(dataset, dataset.batch_size, num_workers=num_workers, collate_fn=collate_clips):
        counts.add(batch["read_passes"])
    return counts.end_epoch()


def test_a_process_with_too_few_videos_reads_them_again(shards):
    assert repetitions(stream(shards, process=0)) == (4, 0, 1)
    assert repetitions(stream(shards, process=1)) == (4, 3, 4)


def test_a_worker_with_too_few_videos_reads_them_again(shards):
    dataset = stream(shards, process=0, processes=1)
    assert repetitions(dataset) == (8, 0, 1)
    assert repetitions(dataset, num_workers=2) == (8, 3, 4)


def test_an_epoch_longer_than_the_stream_reads_it_again(shards):
    assert repetitions(stream(shards, 0, processes=1, samples_per_epoch=20)) == (20, 12, 3)


def test_counts_start_again_with_an_epoch():
    counts = RepeatedVideos()
    counts.add([0, 2])
    assert counts.end_epoch() == (2, 1, 3) and counts.end_epoch() == (0, 0, 1)


@pytest.mark.parametrize("process", [0, 1])
def test_a_run_reports_videos_that_it_read_again(process, shards, tmp_path, capsys):
    dataset = stream(shards, process)
    trainer = make_trainer(
        None, tmp_path, dataset=dataset, per_device_train_batch_size=2, num_train_epochs=2, max_broken_share=0.9
    )
    trainer.train()
    printed = capsys.readouterr().out
    for epoch in (1, 2):
        line = (
            f"epoch {epoch}: 3 of 4 clips are of videos that had been read before in this epoch, up to 4 times in all"
        )
        assert (line in printed) == (process == 1)


def test_views_of_a_video_count_once(shards):
    dataset = StreamedClipDataset(
        load_video_records(shards),
        samples_per_epoch=10,
        batch_size=2,
        process_index=1,
        num_processes=2,
        num_views_per_video=3,
        **clip_options(),
    )
    assert repetitions(dataset) == (4, 3, 4)

"""A run resumes at the position of its checkpoint in the data, or not at all."""

import json
import shutil
from pathlib import Path

import pytest
from finetuning_tools import losses, tiny_clips, tiny_trainer
from tiny_pretraining import clip_options, make_trainer
from video_files import write_tar, write_video

from umt_training.data.video_dataset import VideoClipDataset
from umt_training.data.video_records import load_video_records
from umt_training.data.video_stream import StreamedClipDataset

SAVED = {"save_strategy": "steps", "save_steps": 3, "num_train_epochs": 3}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run of three epochs of two steps, with a checkpoint after the third step."""
    folder = tmp_path_factory.mktemp("trained")
    tiny_trainer(folder, clips=tiny_clips(8), **SAVED).train()
    return folder


@pytest.mark.parametrize(("number", "epoch"), [(4, "3.00"), (16, "0.75"), (24, "0.50")])
def test_data_of_another_length_are_refused(number, epoch, trained, tmp_path):
    trainer = tiny_trainer(tmp_path, clips=tiny_clips(number), **SAVED)
    message = rf"after 3 steps in epoch 1\.50, but .* an epoch has {number // 4} steps, and these steps are {epoch} ep"
    with pytest.raises(ValueError, match=message):
        trainer.train(resume_from_checkpoint=str(trained / "checkpoint-3"))
    assert len(losses(trainer)) == 3  # of the checkpoint; no step is taken


@pytest.mark.parametrize(("number", "refused"), [(8, False), (11, False), (12, True)])
def test_clips_are_checked_exactly(number, refused, tmp_path):
    """After one step, two and three steps in an epoch differ by less than one step."""
    for index in range(12):
        write_video(tmp_path / f"{index:02}.mp4", 6, colour=20 * index)

    def clips(number):
        return VideoClipDataset([{"video": str(tmp_path / f"{n:02}.mp4")} for n in range(number)], **clip_options())

    options = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2}
    make_trainer(None, tmp_path / "run", dataset=clips(8), **options).train()
    trainer = make_trainer(None, tmp_path / "run", dataset=clips(number), **options)
    checkpoint = str(tmp_path / "run" / "checkpoint-1")
    if refused:
        with pytest.raises(
            ValueError, match=r"after 1 steps in epoch 0\.50, but .* 3 steps, and these steps are 0\.33"
        ):
            trainer.train(resume_from_checkpoint=checkpoint)
    else:
        trainer.train(resume_from_checkpoint=checkpoint)
        assert trainer.state.global_step == 2


@pytest.mark.parametrize("batch", [4, 2, 1])
def test_the_same_position_is_taken_with_any_accumulation(batch, trained, tmp_path):
    options = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": 4 // batch}
    trainer = tiny_trainer(tmp_path, clips=tiny_clips(8), **SAVED, **options)
    trainer.train(resume_from_checkpoint=str(trained / "checkpoint-3"))
    assert trainer.state.global_step == trainer.state.max_steps == 6


def test_a_checkpoint_without_an_entry_resumes_and_saves(trained, tmp_path):
    """Of an earlier version."""
    shutil.copytree(trained / "checkpoint-3", tmp_path / "checkpoint-3")
    path = tmp_path / "checkpoint-3" / "trainer_state.json"
    state = json.loads(path.read_text())
    del state["stateful_callbacks"]["DataPosition"]
    path.write_text(json.dumps(state))
    trainer = tiny_trainer(tmp_path, clips=tiny_clips(8), **SAVED)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    saved = json.loads((tmp_path / "checkpoint-6" / "trainer_state.json").read_text())
    assert saved["stateful_callbacks"]["DataPosition"]["attributes"] == {"num_readers": None}


@pytest.mark.parametrize("step", [2, 3])
def test_another_number_of_readers_of_a_stream_is_noted_within_an_epoch(step, tmp_path, capsys, monkeypatch):
    """Between two epochs it makes no difference."""
    monkeypatch.setattr("umt_training.trainers.base_trainer.cores_per_process", lambda: 2)
    for shard in range(2):
        video = write_video(tmp_path / "v.mp4", 6, colour=90 * shard).read_bytes()
        write_tar(tmp_path / f"s-{shard}.tar", [(f"{shard}-{n}.mp4", video) for n in range(4)])

    def trainer(workers):
        records = load_video_records(f"{tmp_path}/s-{{0..1}}.tar")
        dataset = StreamedClipDataset(records, samples_per_epoch=8, batch_size=4, **clip_options())
        options = {"save_strategy": "steps", "save_steps": step, "max_steps": 4, "dataloader_num_workers": workers}
        return make_trainer(None, tmp_path / "run", dataset=dataset, **options)

    trainer(0).train()
    for workers in (0, 1, 2):
        capsys.readouterr()
        trainer(workers).train(resume_from_checkpoint=str(tmp_path / "run" / f"checkpoint-{step}"))
        note = "the stream was read by 1 readers (processes x workers) and is by 2 now"
        assert (note in capsys.readouterr().out) == (workers == 2 and step == 3)

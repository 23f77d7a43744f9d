"""The trainer of action detection: its loss on processes and accumulated batches, resuming, evaluation."""

import json

import numpy as np
import pytest
import tiny_action_training
import torch
from finetuning_tools import changed, losses, state_of
from tiny_action_training import (
    GLOBAL_BATCH,
    evaluation_set,
    key_frame_clips,
    save_key_frames,
    save_tiny_detector,
    tiny_detector,
    tiny_scores,
    tiny_trainer,
)
from warm_python import launch

from umt_training import UMTActionDetectionArguments, UMTActionDetectionTrainer
from umt_training.data.key_frame_dataset import collate_key_frames


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return save_key_frames(tmp_path_factory.mktemp("videos"))


def assert_same_weights(model, expected):
    for name, tensor in expected.items():
        torch.testing.assert_close(model[name], tensor, rtol=1e-4, atol=2e-5)


def test_the_loss_is_the_mean_over_key_frames_of_the_models(videos, tmp_path):
    model = tiny_detector()
    trainer = tiny_trainer(tmp_path, videos, model)
    clips = key_frame_clips(videos, model)
    batch = collate_key_frames([clips[0, index] for index in range(3)])
    assert batch["box_mask"].sum(1).tolist() == [1, 2, 2]
    names = ("pixel_values_videos", "boxes", "box_mask", "labels")
    with torch.no_grad():
        expected = model(**{name: batch[name] for name in names}).loss
        loss, outputs = trainer.compute_loss(model, batch, return_outputs=True)
    assert loss == pytest.approx(expected.item() / 3, rel=1e-6)
    assert outputs.logits.shape == (3, 2, 3)


@pytest.mark.parametrize("accumulated", [2, 4])
def test_accumulated_batches_train_as_one_batch(accumulated, videos, tmp_path):
    """Key frames have one to three persons, so that a mean over boxes or a sum over steps would differ."""
    whole, parts = (
        tiny_trainer(tmp_path, videos),
        tiny_trainer(
            tmp_path,
            videos,
            per_device_train_batch_size=GLOBAL_BATCH // accumulated,
            gradient_accumulation_steps=accumulated,
        ),
    )
    whole.train()
    parts.train()
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-5) and len(losses(whole)) == 3
    assert_same_weights(state_of(parts.model), state_of(whole.model))
    assert changed(state_of(tiny_detector()), state_of(whole.model))


def test_two_processes_train_and_detect_as_one(videos, tmp_path):
    model = save_tiny_detector(tmp_path / "model")
    done = launch(tiny_action_training.__file__, str(videos), str(model), str(tmp_path))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    alone = tiny_trainer(tmp_path / "alone", videos)
    alone.train()
    scores = tiny_scores(tiny_detector(), evaluation_set(videos))
    for rank in range(2):
        result = json.loads((tmp_path / f"result-{rank}.json").read_text())
        assert result["map50"] == pytest.approx(scores.result.map50, rel=1e-6)
        if rank == 0:
            assert result["losses"] == pytest.approx(losses(alone), rel=1e-5)
        assert_same_weights(torch.load(tmp_path / f"weights-{rank}.pt", weights_only=True), state_of(alone.model))
        detections = np.load(tmp_path / f"detections-{rank}.npz")
        np.testing.assert_allclose(detections["boxes"], scores.detections.boxes, rtol=0, atol=0)
        np.testing.assert_allclose(detections["scores"], scores.detections.scores, rtol=0, atol=1.1e-5)


def test_training_is_deterministic_and_resumes_in_mid_epoch(videos, tmp_path):
    runs = [tiny_trainer(tmp_path / name, videos, save_strategy="steps", save_steps=2) for name in ("a", "b")]
    for trainer in runs:
        trainer.train()
    assert losses(runs[0]) == losses(runs[1])
    resumed = tiny_trainer(tmp_path / "c", videos)
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-2"))
    assert losses(resumed) == losses(runs[0])
    assert not changed(state_of(runs[0].model), state_of(resumed.model))


def test_an_epoch_samples_other_crops_of_the_same_frames(videos):
    clips = key_frame_clips(videos, tiny_detector())
    again, later = clips[0, 3], clips[1, 3]
    assert torch.equal(clips[0, 3]["pixel_values_videos"], again["pixel_values_videos"])
    assert not torch.equal(again["boxes"], later["boxes"]) and torch.equal(again["labels"], later["labels"])


def test_broken_videos_are_replaced_and_counted(tmp_path, capsys):
    videos = save_key_frames(tmp_path / "videos")
    (videos / "2.mp4").write_bytes(b"no video")
    trainer = tiny_trainer(tmp_path / "out", videos, max_broken_share=0.5)
    trainer.train()
    assert "epoch 1: 2 attempts to read a video failed and were replaced (not_a_video 2)" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"2\.mp4"):
        tiny_trainer(tmp_path / "strict", videos, max_broken_share=0.01).train()


def test_a_batch_without_boxes_is_trained(videos, tmp_path):
    model = tiny_detector()
    clips = key_frame_clips(videos, model)
    samples = [clips[0, index] for index in range(4)]
    empty = [
        sample | {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, 3), "broken": [], "video_index": index}
        for index, sample in enumerate(samples)
    ]
    trainer = tiny_trainer(tmp_path, videos, model, train_dataset=empty)
    trainer.train()
    assert losses(trainer) == [0.0] and trainer.guard.num_skipped == 0
    assert all(tensor.isfinite().all() for tensor in trainer.model.state_dict().values())


def test_evaluation_is_that_of_the_command(videos, tmp_path):
    data, model = evaluation_set(videos), tiny_detector()
    trainer = tiny_trainer(tmp_path, videos, model, eval_dataset=data)
    metrics = trainer.evaluate()
    assert metrics["eval_map50"] == pytest.approx(tiny_scores(tiny_detector(), data).result.map50)
    assert trainer.state.log_history[-1]["eval_map50"] == metrics["eval_map50"]
    assert trainer.evaluate(metric_key_prefix="test").keys() - {"epoch"} == {"test_map50"}
    assert len(data) == 12 and trainer.describe_data().startswith("data: 12 clips, 12 for evaluation")


def test_defaults_are_common_to_the_published_recipes(tmp_path):
    args = UMTActionDetectionArguments(output_dir=str(tmp_path))
    assert (args.base_learning_rate, args.base_min_learning_rate, args.base_warmup_learning_rate) == (2.5e-4, 1e-6, 0)
    assert (args.weight_decay, args.max_grad_norm, args.label_smoothing_factor) == (0.05, 0.0, 0.0)
    with pytest.raises(ValueError, match="only classification smooths"):
        UMTActionDetectionArguments(output_dir=str(tmp_path), label_smoothing_factor=0.1)
    with pytest.raises(ValueError, match="`checkpoint_blocks` is 9, but the model has 3 blocks"):
        UMTActionDetectionTrainer(
            model=tiny_detector(),
            args=UMTActionDetectionArguments(output_dir=str(tmp_path), checkpoint_blocks=9, report_to="none"),
            processing_class=None,
        )

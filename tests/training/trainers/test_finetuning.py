"""The fine-tuning trainer: loss, mixing, schedule, checkpointed blocks, best checkpoint; and the plain Trainer."""

import os
import signal
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from finetuning_tools import (
    QUIET,
    SIZES,
    changed,
    losses,
    random_clip,
    save_clips_of_classes,
    state_of,
    tiny_classifier,
    tiny_clips,
    tiny_trainer,
)
from recorded import load_recorded
from torch import nn
from torch.nn import functional as F
from transformers import (
    AutoModelForVideoClassification,
    EvalPrediction,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from modeling_umt import UMTConfig, UMTForVideoClassification
from processing_umt.augmentation_umt import augment_for_finetuning
from processing_umt.frame_sampling_umt import sample_training_clip
from processing_umt.mixup_umt import Mix, cutmix_box, draw_mix, mix_batch
from umt_training.data.broken_videos import TooManyBrokenVideosError
from umt_training.data.video_dataset import VideoClipDataset, collate_clips
from umt_training.data.video_records import load_video_records
from umt_training.trainers import finetuning
from umt_training.trainers.activation_checkpointing import checkpoint_first_blocks
from umt_training.trainers.finetuning import UMTFineTuningArguments, accuracy


class Fixed(nn.Module):
    """Returns fixed logits and keeps its input clips."""

    def __init__(self, logits: torch.Tensor):
        super().__init__()
        self.logits = logits

    def forward(self, pixel_values_videos):
        self.seen = pixel_values_videos
        return SimpleNamespace(logits=self.logits)


# --- the loss -------------------------------------------------------------------------------------------------------


def test_the_loss_of_mixed_clips_equals_the_official_loss(tmp_path, monkeypatch):
    description, tensors = load_recorded("mixup")
    mixes = {mix["key"]: mix for mix in description["mixes"]}
    trainer = tiny_trainer(tmp_path, model=tiny_classifier(7), label_smoothing_factor=0.1, mixup_alpha=0.8)
    clips = tensors["input/video"].transpose(1, 2)  # recorded channels-first
    inputs = {"pixel_values_videos": clips, "labels": tensors["input/target"]}
    for key in ("batch0", "batch1", "batch2", "batch3"):
        recorded = mixes[key]
        mix = Mix(recorded["lam"])
        if recorded["use_cutmix"]:
            mix = cutmix_box(16, 20, recorded["lam"], recorded["box_centre_y"], recorded["box_centre_x"])
        monkeypatch.setattr(finetuning, "draw_mix", lambda *args, mix=mix: mix)
        model = Fixed(tensors["input/logits"]).train()
        loss = trainer.compute_loss(model, inputs)
        torch.testing.assert_close(model.seen.transpose(1, 2), tensors[f"expected/{key}_video"], rtol=0, atol=1e-6)
        log_softmax = tensors["input/logits"].log_softmax(-1)
        expected = -(tensors[f"expected/{key}_target"] * log_softmax).sum(-1).mean()
        assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
        if key == "batch1":
            assert loss.item() == pytest.approx(tensors["expected/loss_soft_target"].item(), abs=1e-6)


def test_the_loss_of_smooth_targets_equals_the_official_loss(tmp_path):
    _, tensors = load_recorded("mixup")
    trainer = tiny_trainer(tmp_path, model=tiny_classifier(7), label_smoothing_factor=0.1)
    inputs = {"pixel_values_videos": tensors["input/video"].transpose(1, 2), "labels": tensors["input/target"]}
    model = Fixed(tensors["input/logits"]).train()
    loss = trainer.compute_loss(model, inputs)
    assert loss.item() == pytest.approx(tensors["expected/loss_label_smoothing_0.1"].item(), abs=1e-6)
    # evaluation neither mixes nor smooths
    loss = trainer.compute_loss(model.eval(), inputs)
    assert loss.item() == pytest.approx(F.cross_entropy(tensors["input/logits"], tensors["input/target"]).item())
    assert torch.equal(model.seen, inputs["pixel_values_videos"])


def test_training_mixes_clips_without_passing_soft_labels_to_the_model(tmp_path):
    """A model would treat soft labels as a multi-label problem, and train with another loss."""
    trainer = tiny_trainer(tmp_path, mixup_alpha=0.8, cutmix_alpha=1.0, label_smoothing_factor=0.1, max_steps=2)
    model, batch = trainer.model, collate_clips(tiny_clips(4))
    clips, labels = batch["pixel_values_videos"], batch["labels"]
    loss = trainer.compute_loss(model.train(), batch)
    mix = draw_mix(trainer.batch_generator(), 32, 32, 0.8, 1.0)
    mixed, targets = mix_batch(clips, labels, 3, mix, 0.1)
    assert not torch.equal(mixed, clips)
    expected = -(targets * model(mixed).logits.log_softmax(-1)).sum(-1).mean()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    trainer.train()
    assert model.config.problem_type is None and all(np.isfinite(losses(trainer)))


def test_every_micro_batch_of_every_process_has_its_own_random_generator(tmp_path):
    seen = []
    for rank in (0, 1):
        trainer = tiny_trainer(tmp_path, gradient_accumulation_steps=2)
        trainer.args.__class__ = type("Two", (UMTFineTuningArguments,), {"world_size": 2, "process_index": rank})
        for step in range(3):
            trainer.state.global_step = step
            for micro_batch in range(2):
                trainer.guard.micro_batches = [None] * micro_batch
                seen.append(trainer.batch_generator().random())
                assert trainer.batch_generator().random() == seen[-1]
    assert len(set(seen)) == 12


def test_uint8_clips_are_normalised(tmp_path):
    trainer = tiny_trainer(tmp_path)
    model = Fixed(torch.zeros(2, 3)).train()
    clips = torch.randint(0, 256, (2, 2, 3, 32, 32), dtype=torch.uint8)
    trainer.compute_loss(model, {"pixel_values_videos": clips, "labels": torch.tensor([0, 1])})
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = (clips / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    torch.testing.assert_close(model.seen, expected, rtol=0, atol=1e-6)


# --- steps ----------------------------------------------------------------------------------------------------------


def test_accumulation_equals_one_large_batch(tmp_path):
    large = tiny_trainer(tmp_path / "large", max_steps=3)
    halves = tiny_trainer(
        tmp_path / "halves", max_steps=3, per_device_train_batch_size=2, gradient_accumulation_steps=2
    )
    for trainer in (large, halves):
        trainer.train()
    assert losses(halves) == pytest.approx(losses(large), abs=1e-5)
    for name, tensor in large.model.state_dict().items():
        torch.testing.assert_close(halves.model.state_dict()[name], tensor, rtol=0, atol=1e-4)


def test_learning_rates_follow_from_the_effective_batch(tmp_path):
    clips = save_clips_of_classes(tmp_path / "clips")
    records = load_video_records(clips)
    dataset = VideoClipDataset(
        records, 2, partial(sample_training_clip, sampling="sparse"), partial(augment_for_finetuning, size=32),
        num_views_per_video=2,
    )  # fmt: skip
    rates = []
    options = {
        "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "views_per_video": 2,
        "num_train_epochs": 4, "warmup_epochs": 1, "layer_decay": 0.5, "model": tiny_classifier(2),
        "base_learning_rate": 0.32, "base_min_learning_rate": 0.032, "base_warmup_learning_rate": 0.064,
    }  # fmt: skip

    class Rates(TrainerCallback):
        def on_step_begin(self, args, state, control, optimizer=None, **kwargs):
            rates.append([group["lr"] for group in optimizer.param_groups])

    trainer = tiny_trainer(tmp_path, clips=dataset, callbacks=[Rates()], **options)
    assert trainer.args.effective_batch_size == 8 and trainer.args.learning_rate == pytest.approx(0.01)
    trainer.train()
    assert len(rates) == 8  # 8 videos, 4 a step, 4 epochs
    peak, low, start = 0.01, 0.001, 0.002
    cosine = [low + 0.5 * (peak - low) * (1 + np.cos(np.pi * step / 6)) for step in range(6)]
    assert [max(step) for step in rates] == pytest.approx([start, peak, *cosine], rel=1e-9)
    for step in rates:
        assert sorted({round(rate / max(step), 9) for rate in step}) == [0.5**depth for depth in (4, 3, 2, 1, 0)]


def test_bf16_stays_finite(tmp_path):
    trainer = tiny_trainer(
        tmp_path, bf16=True, max_steps=6, mixup_alpha=0.8, cutmix_alpha=1.0, checkpoint_blocks=1, ema_decay=0.9,
        eval_dataset=tiny_clips(6, seed=1), eval_strategy="steps", eval_steps=3,
    )  # fmt: skip
    dtypes = set()
    trainer.model.umt.layers[1].mlp.fc1.register_forward_hook(lambda *args: dtypes.add(args[2].dtype))
    trainer.train()
    assert dtypes == {torch.bfloat16} and trainer.guard.num_skipped == 0
    assert len(losses(trainer)) == 6 and all(np.isfinite(losses(trainer)))
    for tensor in trainer.model.state_dict().values():
        assert tensor.dtype == torch.float32 and tensor.isfinite().all()


def forwards_and_gradients(model: nn.Module) -> tuple[list[int], dict[str, torch.Tensor]]:
    """Number of forward passes of each block in a forward and backward pass, and the gradients."""
    counts = [0] * 3
    for number, layer in enumerate(model.umt.layers):
        layer.norm1.register_forward_hook(lambda *_, n=number: counts.__setitem__(n, counts[n] + 1))
    torch.manual_seed(3)
    model.train()(random_clip(4), labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    return counts, {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("num_blocks", [0, 1, 2, 3])
def test_the_first_blocks_are_recomputed_and_gradients_do_not_change(num_blocks, recwarn):
    expected_counts, expected = forwards_and_gradients(tiny_classifier(drop_path_rate=0.5))
    model = tiny_classifier(drop_path_rate=0.5)
    checkpoint_first_blocks(model, num_blocks)
    counts, gradients = forwards_and_gradients(model)
    assert expected_counts == [1, 1, 1] and counts == [2] * num_blocks + [1] * (3 - num_blocks)
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=0, atol=1e-6)
    assert not recwarn.list


def test_checkpointed_blocks_are_counted_from_the_first_and_must_exist(tmp_path):
    trainer = tiny_trainer(tmp_path, checkpoint_blocks=2)
    assert [layer.gradient_checkpointing for layer in trainer.model.umt.layers] == [True, True, False]
    with pytest.raises(ValueError, match="`checkpoint_blocks` is 4, but the model has 3 blocks"):
        tiny_trainer(tmp_path, checkpoint_blocks=4)


# --- choosing the best checkpoint -----------------------------------------------------------------------------------


def top1_of_steps(monkeypatch, values: list[float]) -> None:
    """Make evaluations report these values, in order."""
    remaining = iter(values)
    monkeypatch.setattr(finetuning, "accuracy", lambda prediction: {"top1": next(remaining), "top5": 100.0})


CHOOSE = {
    "eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1,
    "load_best_model_at_end": True, "metric_for_best_model": "top1",
}  # fmt: skip


def test_the_checkpoint_with_the_highest_top1_is_kept(tmp_path, monkeypatch):
    top1_of_steps(monkeypatch, [10.0, 40.0, 30.0, 20.0])
    weights = []

    class Record(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            weights.append(state_of(model))

    trainer = tiny_trainer(
        tmp_path, callbacks=[Record()], eval_dataset=tiny_clips(6), max_steps=4, save_total_limit=1, **CHOOSE
    )
    trainer.train()
    assert trainer.state.best_global_step == 2 and trainer.state.best_metric == 40.0
    assert not changed(weights[1], state_of(trainer.model))
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]


def test_early_stopping(tmp_path, monkeypatch):
    top1_of_steps(monkeypatch, [10.0, 40.0, 30.0, 20.0, 90.0, 90.0])
    trainer = tiny_trainer(tmp_path, eval_dataset=tiny_clips(6), max_steps=6, early_stopping_patience=2, **CHOOSE)
    trainer.train()
    assert trainer.state.global_step == 4 and trainer.state.best_global_step == 2
    with pytest.raises(ValueError, match="`early_stopping_patience` needs `load_best_model_at_end`"):
        tiny_trainer(tmp_path, early_stopping_patience=2)


def test_early_stopping_counts_on_in_a_resumed_run(tmp_path, monkeypatch):
    class Interrupt(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            if state.global_step == 3:
                raise KeyboardInterrupt

    options = dict(eval_dataset=tiny_clips(6), max_steps=6, early_stopping_patience=2, **CHOOSE)
    top1_of_steps(monkeypatch, [10.0, 40.0, 30.0])
    with pytest.raises(KeyboardInterrupt):
        tiny_trainer(tmp_path, callbacks=[Interrupt()], **options).train()
    top1_of_steps(monkeypatch, [20.0, 90.0, 90.0])
    trainer = tiny_trainer(tmp_path, **options)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 4 and trainer.state.best_global_step == 2


def test_accuracy_of_single_views(tmp_path):
    scores = np.eye(8)[[0, 1, 2, 3]] + np.linspace(0.5, 0, 8)  # predicts 0 to 3; other classes are ranked by index
    labels = np.array([0, 1, 4, 7])
    assert accuracy(EvalPrediction(scores, labels)) == {"top1": 50.0, "top5": 75.0}
    with pytest.raises(ValueError, match="Scores of 4 videos are not finite"):
        accuracy(EvalPrediction(np.full((4, 8), np.nan), labels))
    trainer = tiny_trainer(tmp_path, eval_dataset=tiny_clips(7, seed=2), per_device_eval_batch_size=4)
    measured = trainer.evaluate()
    batch = collate_clips(tiny_clips(7, seed=2))
    with torch.no_grad():
        outputs = trainer.model.eval()(batch["pixel_values_videos"], labels=batch["labels"])
    hits = (outputs.logits.argmax(-1) == batch["labels"]).float().mean().item()
    assert measured["eval_top1"] == pytest.approx(100 * hits)
    assert "eval_top5" not in measured  # 100 % for any model of three classes
    assert measured["eval_loss"] == pytest.approx(outputs.loss.item(), abs=1e-5)


def test_evaluation_reports_broken_videos(tmp_path, capfd):
    folder = save_clips_of_classes(tmp_path / "clips", number=2)
    (folder / "run" / "1.mp4").write_bytes(b"not a video file" * 100)
    dataset = VideoClipDataset(
        load_video_records(folder), 2, partial(sample_training_clip, sampling="sparse"),
        partial(augment_for_finetuning, size=32),
    )  # fmt: skip
    trainer = tiny_trainer(tmp_path, model=tiny_classifier(2), eval_dataset=dataset)
    capfd.readouterr()
    assert np.isfinite(trainer.evaluate()["eval_loss"])
    reports = [line for line in capfd.readouterr().out.splitlines() if line.startswith("evaluation: ")]
    assert len(reports) == 1 and str(folder / "run" / "1.mp4") in reports[0]
    assert reports[0].endswith("; replaced by another video")


def test_the_fraction_of_broken_videos_counts_videos_not_views(tmp_path):
    """Three of eight are broken, which exceeds the limit; it would not if every view counted as a video."""
    folder = save_clips_of_classes(tmp_path / "clips", number=4)
    for name in ("0", "1", "2"):
        (folder / "run" / f"{name}.mp4").write_bytes(b"")
    dataset = VideoClipDataset(
        load_video_records(folder), 2, partial(sample_training_clip, sampling="sparse"),
        partial(augment_for_finetuning, size=32), num_views_per_video=3,
    )  # fmt: skip
    options = {"views_per_video": 3, "per_device_train_batch_size": 2, "max_steps": 4}
    trainer = tiny_trainer(tmp_path, model=tiny_classifier(2), clips=dataset, max_broken_share=0.2, **options)
    with pytest.raises(TooManyBrokenVideosError, match=r"of 1[1-9] attempts to read a video failed"):
        trainer.train()


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"views_per_video": 0}, "`views_per_video` must be at least 1, but is 0"),
        ({"label_smoothing_factor": 1.0}, r"`label_smoothing_factor` must be in \[0, 1\), but is 1.0"),
        ({"mixup_alpha": -0.1}, "`mixup_alpha` must be at least 0, but is -0.1"),
        ({"ema_decay": 1.0}, "`ema_decay` must be between 0 and 1"),
    ],
)
def test_invalid_arguments_are_errors(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        tiny_trainer(tmp_path, **options)


def test_an_average_of_sharded_parameters_is_an_error(tmp_path, sharded_trainers):
    with pytest.raises(ValueError, match="`ema_decay` averages entire parameters, which FSDP shards"):
        tiny_trainer(tmp_path, ema_decay=0.9)


def test_views_of_data_and_arguments_must_be_equal(tmp_path):
    records = load_video_records(save_clips_of_classes(tmp_path / "clips"))
    dataset = VideoClipDataset(
        records, 2, partial(sample_training_clip, sampling="sparse"), partial(augment_for_finetuning, size=32)
    )
    with pytest.raises(ValueError, match="have 1 views of each video, but `views_per_video` is 2"):
        tiny_trainer(tmp_path, clips=dataset, views_per_video=2)


# --- the plain Trainer ----------------------------------------------------------------------------------------------


def plain_trainer(folder, **options) -> Trainer:
    args = TrainingArguments(
        output_dir=str(folder), use_cpu=True, max_steps=3, learning_rate=0.01, lr_scheduler_type="constant",
        **{**QUIET, "logging_steps": 1, **options},
    )  # fmt: skip
    return Trainer(model=tiny_classifier(), args=args, train_dataset=tiny_clips())


def test_plain_trainer_accumulates_and_saves_a_loadable_model(tmp_path):
    large = plain_trainer(tmp_path / "large", per_device_train_batch_size=4)
    halves = plain_trainer(
        tmp_path / "halves", per_device_train_batch_size=2, gradient_accumulation_steps=2, save_strategy="steps",
        save_steps=3,
    )  # fmt: skip
    for trainer in (large, halves):
        trainer.train()
    assert losses(halves) == pytest.approx(losses(large), abs=1e-4)
    assert losses(large)[-1] < losses(large)[0]
    assert large.model.config.problem_type == "single_label_classification"  # from integer labels
    folder = tmp_path / "halves" / "checkpoint-3"
    assert {"model.safetensors", "modeling_umt.py", "configuration_umt.py"} <= {p.name for p in folder.iterdir()}
    loaded = AutoModelForVideoClassification.from_pretrained(folder)
    assert not changed(state_of(halves.model), state_of(loaded))
    with torch.no_grad():
        clip = random_clip()
        assert torch.equal(loaded.eval()(clip).logits, halves.model.eval()(clip).logits)


def test_plain_trainer_trains_on_a_video_clip_dataset(tmp_path):
    records = load_video_records(save_clips_of_classes(tmp_path / "clips", number=2))
    dataset = VideoClipDataset(
        records, 2, partial(sample_training_clip, sampling="sparse"), partial(augment_for_finetuning, size=32),
        num_views_per_video=2,
    )  # fmt: skip
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, max_steps=2, **QUIET)
    model = UMTForVideoClassification(UMTConfig(**SIZES, num_labels=2))
    trainer = Trainer(model=model, args=args, train_dataset=dataset, data_collator=collate_clips)
    trainer.train()
    assert len(losses(trainer)) == 2 and all(np.isfinite(losses(trainer)))


class KilledWorker(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_dies_is_a_clear_error(tmp_path):
    trainer = tiny_trainer(tmp_path, dataloader_num_workers=1)
    trainer.train_dataset = KilledWorker()
    with pytest.raises(OSError, match=r"A worker process of the data loader died at step 0, .*dataloader_num_workers"):
        trainer.train()


def test_what_is_saved_contains_no_token_and_no_pickled_arguments(tmp_path):
    trainer = tiny_trainer(tmp_path, hub_token="hf_secret", save_strategy="steps", save_steps=1, num_train_epochs=1)
    trainer.train()
    trainer.save_model()
    saved = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"model.safetensors", "optimizer.pt", "trainer_state.json"} <= {path.name for path in saved}
    for path in saved:
        assert path.name != "training_args.bin" and b"hf_secret" not in path.read_bytes()

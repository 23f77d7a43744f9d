"""The stage-1 trainer: the recorded step, masks, optimiser, log lines, checkpoints, non-finite losses."""

import copy
import dataclasses
import math
from pathlib import Path

import pytest
import torch
from recorded import load_recorded
from recorded_models import fold_layer_scale, student_config, sub_state, teacher_config
from safetensors.torch import load_file
from tiny_pretraining import (
    GLOBAL_BATCH,
    PoisonedClips,
    clip_options,
    losses_of,
    make_student,
    make_teacher,
    make_trainer,
    some_clips,
    write_videos,
)
from transformers import AutoModel, AutoModelForPreTraining, AutoVideoProcessor, TrainerCallback

from modeling_umt import UMTForPreTraining, convert_umt_checkpoint
from modeling_umt.convert_umt_checkpoints import official_state_dict
from modeling_umt.token_selection_umt import tokens_with_most_motion
from processing_umt import UMTVideoProcessor
from umt_training import UMTPreTrainingArguments, UMTPreTrainingTrainer
from umt_training.data.video_dataset import VideoClipDataset
from umt_training.data.video_records import load_video_records
from umt_training.trainers.nonfinite_guard import NonFiniteLossError

CHECKPOINTING = "activation_checkpointing"
if CHECKPOINTING not in {field.name for field in dataclasses.fields(UMTPreTrainingArguments)}:
    CHECKPOINTING = "gradient_checkpointing"  # its name in older versions of Transformers


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return write_videos(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="module")
def records(videos):
    return load_video_records(str(videos))


def batch_of(number: int) -> dict[str, torch.Tensor]:
    return {"pixel_values_videos": some_clips(number), "sample_seeds": torch.arange(number) * 1_000_003}


def gradients(model) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


# --- the objective --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["stage1_loss_l2", "stage1_loss_mse", "stage1_loss_smooth_l1"])
def test_recorded_step_of_the_official_loop(name, tmp_path):
    """From the clip to the gradients: teacher, its resize, the recorded token selection, targets, student, loss."""
    recorded, tensors = load_recorded(name)
    ours = student_config(recorded["student"], alignment_loss=recorded["clip_loss_type"])
    theirs = teacher_config(recorded["teacher"])
    states = {part: sub_state(tensors, f"state/{part}.") for part in ("student", "teacher")}
    clips = tensors["input/video"].transpose(1, 2)
    order = tensors["input/importance"].long().unflatten(0, (len(clips), -1))  # (B, T, S) most important first

    def recorded_selection(cls_attention, mask_ratio, sample_seeds):
        expected = tensors["expected/teacher_attention"].view_as(cls_attention)
        torch.testing.assert_close(cls_attention, expected, rtol=0, atol=1e-5)
        tokens_per_frame = cls_attention.shape[-1]
        visible = order[..., : tokens_per_frame - int(tokens_per_frame * mask_ratio)].sort(dim=-1).values
        return (visible + torch.arange(visible.shape[1])[:, None] * tokens_per_frame).flatten(1)

    trainer = UMTPreTrainingTrainer(
        model=convert_umt_checkpoint(fold_layer_scale(states["student"]), ours),
        teacher=convert_umt_checkpoint(states["teacher"], theirs),
        args=UMTPreTrainingArguments(output_dir=str(tmp_path), mask_ratio=recorded["mask_ratio"], use_cpu=True),
        token_selection=recorded_selection,
    )
    seeds = torch.zeros(len(clips), dtype=torch.int64)
    inputs = {"pixel_values_videos": clips, "sample_seeds": seeds}
    loss, outputs = trainer.compute_loss(trainer.model.train(), inputs, return_outputs=True)
    features = outputs.student_features.transpose(0, 1)
    torch.testing.assert_close(features, tensors["expected/student_output"], rtol=0, atol=1e-5)
    visible, targets = trainer.compute_targets(clips, seeds, trainer.args.mask_ratio)
    torch.testing.assert_close(targets.transpose(0, 1), tensors["expected/teacher_targets"], rtol=0, atol=1e-5)
    hidden = torch.ones(tensors["expected/mask"].shape, dtype=torch.bool).scatter(1, visible, False)
    assert torch.equal(hidden, tensors["expected/mask"].bool())

    loss = recorded["clip_loss_ratio"] * loss  # 1 in every recipe
    assert loss.item() == pytest.approx(recorded["loss"], abs=1e-5)
    loss.backward()
    for parameter in trainer.model.parameters():
        parameter.data = parameter.grad
    ours = official_state_dict(trainer.model)
    folded = {
        f"{key.rsplit('.', 1)[0]}.{scaled}."
        for key in states["student"]
        for gamma, scaled in (("gamma_1", "attn.proj"), ("gamma_2", "mlp.fc2"))
        if key.endswith(gamma)
    }
    compared = {key: gradient for key, gradient in ours.items() if not key.startswith(tuple(folded))}
    known = {key for key, norm in recorded["grad_norms"].items() if norm is not None and "gamma_" not in key}
    assert compared.keys() == {key for key in known if not key.startswith(tuple(folded))}
    assert len(compared) > 40
    for key, gradient in compared.items():
        assert gradient.norm().item() == pytest.approx(recorded["grad_norms"][key], rel=1e-4), key


def test_hidden_pixels_do_not_affect_the_student(tmp_path):
    trainer = make_trainer(None, tmp_path)
    inputs = batch_of(3)
    clips = trainer.pixel_values(inputs["pixel_values_videos"]).requires_grad_()
    visible, targets = trainer.compute_targets(clips, inputs["sample_seeds"], trainer.args.mask_ratio)
    outputs = trainer.model(clips, visible_indices=visible, target_features=targets)
    outputs.loss.backward()

    hidden = torch.ones(3, 2 * 4 * 4, dtype=torch.bool).scatter(1, visible, False).view(3, 2, 1, 4, 4)
    hidden = hidden.repeat_interleave(16, dim=3).repeat_interleave(16, dim=4).expand_as(clips)
    assert hidden.float().mean() == 0.75
    assert not clips.grad[hidden].any() and (clips.grad[~hidden] != 0).float().mean() > 0.99
    with torch.no_grad():
        changed = torch.where(hidden, torch.randn_like(clips) * 100, clips)
        again = trainer.model(changed, visible_indices=visible, target_features=targets)
        shifted = trainer.model(clips + 1, visible_indices=visible, target_features=targets)
    assert torch.equal(again.loss, outputs.loss)
    assert torch.equal(again.student_features, outputs.student_features)
    assert not torch.equal(shifted.loss, outputs.loss)


@pytest.mark.parametrize("mask_type", ["attention", "tube", "random"])
def test_several_masks_in_one_teacher_pass_equal_separate_passes(mask_type, tmp_path):
    inputs, num_masks = batch_of(3), 3
    together = make_trainer(None, tmp_path, mask_type=mask_type, num_masks_per_clip=num_masks)
    loss = together.compute_loss(together.model, inputs)
    loss.backward()

    alone = make_trainer(None, tmp_path, mask_type=mask_type)
    losses = []
    for mask in range(num_masks):
        shifted = inputs | {"sample_seeds": inputs["sample_seeds"] + mask}
        losses.append(alone.compute_loss(alone.model, shifted) / num_masks)
        losses[-1].backward()
    assert loss.item() == pytest.approx(sum(losses).item(), rel=1e-6)
    expected = gradients(alone.model)
    for name, gradient in gradients(together.model).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-6)

    # the masks of a clip are adjacent, and their features come from the same pass
    clips = together.pixel_values(inputs["pixel_values_videos"])
    visible, targets = together.compute_targets(clips, inputs["sample_seeds"], 0.75, num_masks=3)
    assert visible.shape == (9, 8) and targets.shape == (9, 2, 8, 16)
    features = together.teacher(clips).features  # (3, K, 32, F)
    for row in range(9):
        torch.testing.assert_close(targets[row], features[row // 3][:, visible[row]], rtol=1e-5, atol=1e-6)
    assert together.args.effective_batch_size == 3 * alone.args.effective_batch_size
    assert together.args.learning_rate == 3 * alone.args.learning_rate


@pytest.mark.parametrize(
    ("mask_type", "ratio", "visible"),
    [("attention", 0.8, 8), ("tube", 0.8, 8), ("random", 0.8, 7), ("attention", 0.75, 8), ("random", 0.5, 16)],
)
def test_masks_differ_between_clips_epochs_and_masks(mask_type, ratio, visible, records, tmp_path):
    """The number of hidden tokens is rounded down: per frame of 16 tokens, or over both frames for random masks."""
    dataset = VideoClipDataset(records, **clip_options())
    trainer = make_trainer(None, tmp_path, mask_type=mask_type, mask_ratio=ratio, num_masks_per_clip=2)
    seeds = torch.tensor([dataset[epoch, index]["sample_seed"] for epoch in range(2) for index in range(4)])
    clips = trainer.pixel_values(some_clips(1)).expand(8, -1, -1, -1, -1)
    masks, _ = trainer.compute_targets(clips, seeds, ratio, num_masks=2)
    assert masks.shape == (16, visible)
    assert len({tuple(mask) for mask in masks.tolist()}) == 16
    assert torch.equal(masks, trainer.compute_targets(clips, seeds, ratio, num_masks=2)[0])
    assert (masks.diff(dim=1) > 0).all()


@pytest.mark.parametrize(("ratio", "num_masks", "visible"), [(0.8, 1, 7), (0.8, 4, 7), (0.75, 2, 8)])
def test_motion_masks_show_the_tokens_that_change_most_for_the_student(ratio, num_masks, visible, tmp_path):
    """The count is that of random masks; several masks of a clip show different tokens, split by the clip's seed."""
    trainer = make_trainer(
        None, tmp_path, make_student(num_frames=4), mask_type="motion", mask_ratio=ratio, num_masks_per_clip=num_masks
    )
    clips = torch.randn(3, 4, 3, 64, 64)
    clips[:, 2:] = clips[:, 1:2]  # the last two frames repeat the second
    visible *= 2
    seeds = torch.tensor([5, 6, 7])
    masks, targets = trainer.compute_targets(clips, seeds, ratio, num_masks)
    assert masks.shape == (3 * num_masks, visible - (ratio == 0.8)) and (masks.diff(dim=1) > 0).all()
    importance = trainer.model.umt.motion_importance(clips)
    shown = masks.unflatten(0, (3, num_masks)).flatten(1).sort(dim=1).values
    assert torch.equal(shown, tokens_with_most_motion(importance, shown.shape[1]))
    assert shown.max() < 2 * 16 or shown.shape[1] > 32
    again, _ = trainer.compute_targets(clips, seeds + 1, ratio, num_masks)
    assert torch.equal(again, masks) == (num_masks == 1)
    # the features are those of the visible tokens, and the choice follows the student's weights
    features = trainer.teacher(clips).features
    for row, mask in enumerate(masks):
        torch.testing.assert_close(targets[row], features[row // num_masks][:, mask], rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        trainer.model.umt.embeddings.patch_embeddings.weight[:, : 3 * 128] = 0  # blind to a half of every patch
    assert not torch.equal(trainer.model.umt.motion_importance(clips), importance)


@pytest.mark.parametrize("arguments", [{}, {"torch_compile": True, "torch_compile_backend": "eager"}, {"bf16": True}])
def test_a_run_with_motion_masks(arguments, videos, tmp_path):
    trainer = make_trainer(videos, tmp_path, mask_type="motion", num_masks_per_clip=2, num_train_epochs=2, **arguments)
    trainer.train()
    losses = losses_of(trainer)
    assert len(losses) == 8 and losses[-1] < losses[0] and (tmp_path / "pictures" / "masks.png").exists()


def test_motion_masks_under_sharding_are_an_error(tmp_path, sharded_trainers):
    with pytest.raises(ValueError, match=r"'motion' reads the student's patch embedding .*FSDP does not support"):
        make_trainer(None, tmp_path, mask_type="motion")


@pytest.mark.parametrize(
    ("student", "arguments", "message"),
    [
        ({"num_frames": 1}, {}, "compares time steps, but 1 in 1 groups leaves 1"),
        ({}, {"num_masks_per_clip": 5}, "5 motion masks of a clip show 8 tokens each, all different, but it has 32"),
    ],
)
def test_motion_masks_that_are_not_possible_are_errors_before_a_clip_is_read(student, arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        make_trainer(None, tmp_path, make_student(**student), mask_type="motion", **arguments)


# --- a run ----------------------------------------------------------------------------------------------------------


class CheckTeacherIsFrozen(TrainerCallback):
    def __init__(self, teacher):
        self.teacher, self.weights = teacher, copy.deepcopy(teacher.state_dict())

    def on_step_end(self, args, state, control, optimizer=None, **kwargs):
        assert not self.teacher.training
        trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        for name, parameter in self.teacher.named_parameters():
            assert not parameter.requires_grad and parameter.grad is None and id(parameter) not in trained
            assert torch.equal(parameter, self.weights[name])


def test_a_run_with_its_log_checkpoints_and_saved_model(videos, tmp_path, capsys):
    teacher = make_teacher().train()
    trainer = make_trainer(
        videos, tmp_path, teacher=teacher, num_train_epochs=2, warmup_epochs=1, save_strategy="epoch"
    )
    trainer.processing_class = UMTVideoProcessor.for_config(trainer.model.config)
    trainer.add_callback(CheckTeacherIsFrozen(teacher))
    trainer.train()
    printed = capsys.readouterr()

    num_trained = sum(parameter.numel() for parameter in trainer.model.parameters())
    peak = 0.05 * GLOBAL_BATCH / 256
    for line in (
        f"data: {len(trainer.train_dataset)} clips; 0 workers\n",
        "settings: batch 1 processes x 4 clips x 1 accumulated x 1 views = 4, ",
        f"learning rate 0.05 x batch / 256 = {peak:.4g}, 8 steps of which 4 warm-up, ",
        f"{num_trained:,} trained parameters, adamw_torch_fused with weight decay 0.05, float32 on cpu\n",
        "step 8/8, epoch 2.00: loss ",
    ):
        assert line in printed.out, printed.out
    assert "warning" not in printed.err.lower(), printed.err
    optimizer = trainer.optimizer.optimizer
    assert type(optimizer) is torch.optim.AdamW
    assert {(group["betas"], group["eps"]) for group in optimizer.param_groups} == {((0.9, 0.95), 1e-8)}

    lines = [line for line in trainer.state.log_history if "loss" in line]
    assert len(lines) == 8
    keys = {"loss", "learning_rate", "clips_per_second", "data_seconds", "teacher_seconds", "student_seconds"}
    for line in lines:
        assert keys <= line.keys() and all(math.isfinite(line[key]) for key in keys)
        assert min(line[key] for key in keys - {"learning_rate"}) > 0
        spent = line["data_seconds"] + line["teacher_seconds"] + line["student_seconds"]
        assert spent <= 1.01 * GLOBAL_BATCH / line["clips_per_second"]
    minimum = 1e-5 * GLOBAL_BATCH / 256
    cosine = [minimum + (peak - minimum) * (1 + math.cos(math.pi * step / 4)) / 2 for step in range(4)]
    assert [line["learning_rate"] for line in lines] == pytest.approx([0, peak / 3, 2 * peak / 3, peak, *cosine])
    assert lines[-1]["loss"] < 0.75 * lines[0]["loss"]

    assert not any("teacher" in line for line in (tmp_path / "checkpoint-8" / "config.json").read_text().splitlines())
    for folder in (tmp_path / "checkpoint-4", tmp_path / "checkpoint-8"):
        assert load_file(folder / "model.safetensors").keys() == trainer.model.state_dict().keys()
        moments = torch.load(folder / "optimizer.pt", weights_only=True)["state"]
        assert len(moments) == len(list(trainer.model.parameters()))
    model, report = AutoModelForPreTraining.from_pretrained(folder, output_loading_info=True)
    assert type(model) is UMTForPreTraining and not any(report.values()), report
    inputs = trainer.pixel_values(some_clips(2))
    with torch.no_grad():
        torch.testing.assert_close(
            model(inputs).student_features, trainer.model.eval()(inputs).student_features, rtol=0, atol=1e-6
        )
    encoder, report = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and encoder.config.hidden_size == 32
    processor = AutoVideoProcessor.from_pretrained(folder)
    clip = processor(str(videos / "video_00.mp4"), return_tensors="pt")["pixel_values_videos"]
    assert clip.shape == (1, 2, 3, 64, 64) and encoder(clip).last_hidden_state.shape == (1, 32, 32)


@pytest.fixture(scope="module")
def plain_losses(videos, tmp_path_factory):
    trainer = make_trainer(videos, tmp_path_factory.mktemp("plain"))
    trainer.train()
    return losses_of(trainer)


@pytest.mark.parametrize(
    "arguments",
    [
        {CHECKPOINTING: True},
        {"torch_compile": True, "torch_compile_backend": "eager"},
        {"torch_compile": True, "torch_compile_backend": "aot_eager"},
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
        {"dataloader_num_workers": 2},
    ],
    ids=["checkpointing", "compile-eager", "compile-aot", "accumulation", "workers"],
)
def test_training_options_do_not_change_the_losses(arguments, plain_losses, videos, tmp_path):
    trainer = make_trainer(videos, tmp_path, **arguments)
    trainer.train()
    assert losses_of(trainer) == pytest.approx(plain_losses, rel=1e-5)
    if CHECKPOINTING in arguments:
        assert trainer.model.umt.layers[0].gradient_checkpointing
    trainer.save_model()
    assert not load_file(tmp_path / "model.safetensors").keys() ^ make_student().state_dict().keys()


def test_labels_in_the_data_change_nothing(plain_losses, records, tmp_path):
    """Trainer would count them and omit the division by the number of accumulated micro-batches."""
    labelled = [{"video": record["video"], "label": index % 3} for index, record in enumerate(records)]
    trainer = make_trainer(
        None,
        tmp_path,
        dataset=VideoClipDataset(labelled, **clip_options()),
        per_device_train_batch_size=1,
        gradient_accumulation_steps=4,
    )
    trainer.train()
    assert losses_of(trainer) == pytest.approx(plain_losses, rel=1e-5)


def test_bf16_stays_finite_and_close(plain_losses, videos, tmp_path):
    trainer = make_trainer(videos, tmp_path, bf16=True)
    trainer.train()
    assert trainer.teacher.dtype == torch.bfloat16
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}
    losses = losses_of(trainer)
    assert losses == pytest.approx(plain_losses, rel=0.05) and losses != plain_losses


def test_evaluation(videos, records, tmp_path):
    held_out = VideoClipDataset(records, **clip_options())
    trainer = make_trainer(
        videos,
        tmp_path,
        eval_dataset=held_out,
        eval_strategy="steps",
        eval_steps=1,
        per_device_eval_batch_size=3,
    )
    before = trainer.evaluate()["eval_loss"]
    assert before == trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < 0.9 * before
    assert len([line for line in trainer.state.log_history if "eval_loss" in line]) >= 4
    # the teacher's time in evaluation, of four times the clips, is not part of a training step
    assert all(line["student_seconds"] > 0 for line in trainer.state.log_history if "student_seconds" in line)

    # the mean over clips of the loss in evaluation mode
    expected = 0.0
    for index in range(len(held_out)):
        sample = held_out[0, index]
        inputs = {
            "pixel_values_videos": sample["pixel_values_videos"][None],
            "sample_seeds": torch.tensor([sample["sample_seed"]]),
            "video_index": torch.tensor([index]),
        }
        with torch.no_grad():
            expected += trainer.compute_loss(trainer.model.eval(), inputs).item() / len(held_out)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-5)


# --- non-finite losses ----------------------------------------------------------------------------------------------


class KeepStates(TrainerCallback):
    """Keeps weights and optimiser state after every optimiser step."""

    def __init__(self):
        self.states = []

    def on_step_end(self, args, state, control, model=None, optimizer=None, **kwargs):
        self.states.append(copy.deepcopy((model.state_dict(), optimizer.state_dict()["state"])))


def assert_bit_equal(one, other):
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        keys = one.keys() if isinstance(one, dict) else range(len(one))
        assert len(one) == len(other)
        for key in keys:
            assert_bit_equal(one[key], other[key])


@pytest.mark.parametrize("accumulated", [1, 2])
@pytest.mark.parametrize("clipped", [0.0, 0.1])
def test_a_step_with_a_non_finite_loss_is_skipped(accumulated, clipped, records, tmp_path):
    dataset = PoisonedClips(records, **clip_options())
    trainer = make_trainer(
        None,
        tmp_path,
        dataset=dataset,
        per_device_train_batch_size=GLOBAL_BATCH // accumulated,
        gradient_accumulation_steps=accumulated,
        max_grad_norm=clipped,
    )
    keep = KeepStates()
    trainer.add_callback(keep)
    trainer.train()
    bad = trainer.seen.index(PoisonedClips.poisoned[0]) // GLOBAL_BATCH
    assert bad > 0
    for step in range(1, 4):
        if step == bad:
            assert_bit_equal(keep.states[step], keep.states[step - 1])
        else:
            assert not torch.equal(*(keep.states[i][0]["umt.norm.bias"] for i in (step - 1, step)))

    lines = [line for line in trainer.state.log_history if "learning_rate" in line]
    assert [line.get("skipped_steps", 0) for line in lines] == [int(step >= bad) for step in range(4)]
    # a log line has the mean of the finite losses: that of the other micro-batch, or none
    assert ("loss" in lines[bad]) == (accumulated == 2)
    assert all(math.isfinite(line["loss"]) and line["loss"] > 0.5 for line in lines if "loss" in line)
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused"])
@pytest.mark.parametrize("clipped", [0.0, 0.1])
def test_a_step_with_a_non_finite_gradient_is_skipped(clipped, optim, records, tmp_path):
    """All losses are finite."""
    dataset = VideoClipDataset(records, **clip_options())
    trainer = make_trainer(None, tmp_path, dataset=dataset, max_grad_norm=clipped, optim=optim)
    trainer.model.umt.norm.bias.register_hook(
        lambda gradient: gradient * (float("nan") if trainer.state.global_step == 2 else 1)
    )
    keep = KeepStates()
    trainer.add_callback(keep)
    trainer.train()
    assert_bit_equal(keep.states[2], keep.states[1])
    assert trainer.guard.num_skipped == 1 and len(losses_of(trainer)) == 4 and all(losses_of(trainer))
    assert not torch.equal(*(keep.states[i][0]["umt.norm.bias"] for i in (2, 3)))
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())


def test_the_logged_loss_is_the_mean_of_the_finite_losses(records, tmp_path):
    every_step = make_trainer(None, tmp_path, dataset=PoisonedClips(records, **clip_options()))
    once = make_trainer(None, tmp_path, dataset=PoisonedClips(records, **clip_options()), logging_steps=4)
    every_step.train(), once.train()
    finite = [loss for loss in losses_of(every_step) if loss is not None]
    assert len(finite) == 3 and losses_of(once) == pytest.approx([sum(finite) / 3], rel=1e-5)


def test_too_many_non_finite_steps_stop_the_run_and_save_the_batch(records, tmp_path):
    class MorePoison(PoisonedClips):
        poisoned = range(0, 16, 3)

    dataset = MorePoison(records, **clip_options())
    trainer = make_trainer(None, tmp_path, dataset=dataset, max_nonfinite_steps=1)
    with pytest.raises(NonFiniteLossError, match=r"2 optimiser steps .* 1 are allowed .* saved in .*safetensors"):
        trainer.train()
    assert trainer.guard.num_skipped == 2
    (path,) = Path(tmp_path).glob("nonfinite-step*-process0.safetensors")
    saved = load_file(path)
    assert saved.keys() == {"0.pixel_values_videos", "0.sample_seeds", "0.video_index"}
    assert saved["0.video_index"].tolist() == trainer.seen[-GLOBAL_BATCH:]
    # the saved batch reproduces the loss
    inputs = {name.removeprefix("0."): tensor for name, tensor in saved.items()}
    assert trainer.compute_loss(trainer.model, inputs).isnan()
    good = ~inputs["pixel_values_videos"].isnan().flatten(1).any(dim=1)
    assert good.any()
    assert trainer.compute_loss(trainer.model, {name: tensor[good] for name, tensor in inputs.items()}).isfinite()


def test_a_run_in_which_every_step_was_skipped_is_an_error(records, tmp_path):
    class OnlyPoison(PoisonedClips):
        poisoned = range(16)

    trainer = make_trainer(None, tmp_path, dataset=OnlyPoison(records, **clip_options()))
    with pytest.raises(NonFiniteLossError, match=r"All 4 optimiser steps .* no model is saved"):
        trainer.train()


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mask_type": "stripes"}, "`mask_type` must be one of attention, clip_attention, tube, random, motion, but"),
        ({"num_masks_per_clip": 0}, "`num_masks_per_clip` must be at least 1, but is 0"),
        ({"learning_rate": 3e-4}, "`learning_rate` 0.0003 was given.*`base_learning_rate`"),
        ({"learning_rate": 5e-5}, "`learning_rate` 5e-05 was given"),  # the default of Transformers
        ({"lr_scheduler_type": "constant"}, "`lr_scheduler_type` 'constant' was given"),
        ({"lr_scheduler_type": "linear"}, "`lr_scheduler_type` 'linear' was given"),  # likewise
        ({"lr_scheduler_kwargs": {"num_cycles": 2}}, "`lr_scheduler_kwargs` .* the recipes' cosine"),
        ({"label_smoothing_factor": 0.1}, "`label_smoothing_factor` 0.1 was given, but only classification"),
        ({"report_to": "wandb"}, "`report_to` names wandb, which is not installed"),
        ({"auto_find_batch_size": True}, "`auto_find_batch_size` True was given"),
        ({"remove_unused_columns": True}, "`remove_unused_columns` True was given"),
    ],
)
def test_invalid_arguments_are_errors(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        UMTPreTrainingArguments(output_dir=str(tmp_path), **arguments)


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        ({}, {"num_aligned_layers": 1}, "returns 1 layers, but the student aligns 2"),
        ({}, {"projection_dim": 24}, "have 24 channels, but the student's `target_dim` is 16"),
        ({}, {"target_norm": "none"}, "'l2' for the student and 'none' for the teacher"),
        ({}, {"image_size": 70}, r"5 x 5 tokens, but the student's grid .* is \(2, 4, 4\)"),
        ({"tubelet_size": 2}, {}, "`tubelet_size` 2"),
    ],
)
def test_a_teacher_that_does_not_fit_is_an_error(student, teacher, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        make_trainer(None, tmp_path, student=make_student(**student), teacher=make_teacher(**teacher))


def test_a_batch_larger_than_the_data_is_an_error(videos, tmp_path):
    with pytest.raises(ValueError, match="16 videos"):
        make_trainer(videos, tmp_path, per_device_train_batch_size=17).train()


def test_the_defaults_are_those_of_the_published_recipe(tmp_path):
    args = UMTPreTrainingArguments(output_dir=str(tmp_path))
    assert (args.mask_type, args.mask_ratio, args.num_masks_per_clip) == ("attention", 0.8, 1)
    assert (args.base_learning_rate, args.base_min_learning_rate, args.weight_decay) == (1.5e-4, 1e-5, 0.05)
    assert (args.adam_beta1, args.adam_beta2, args.adam_epsilon, args.max_grad_norm) == (0.9, 0.95, 1e-8, 0)
    assert (args.num_train_epochs, args.warmup_epochs) == (201, 40)

"""The trainer of masked modelling: the recorded step, masks, teachers, log lines, options that change nothing."""

import pytest
import torch
from recorded import load_recorded
from recorded_models import encoder_sizes, masked_student_config, sub_state
from tiny_masked_modeling import (
    PIXELS,
    clip_options,
    make_pixel_trainer,
    make_student,
    make_teachers,
    make_trainer,
    parts_of,
    save_transformers_teachers,
    some_batch,
)
from tiny_pretraining import losses_of, write_videos
from tiny_pretraining import make_student as make_stage1_student
from transformers import AutoModelForPreTraining, AutoVideoProcessor, VideoMAEModel, ViTMAEModel

from modeling_umt import (
    UMTConfig,
    UMTForMaskedModeling,
    UMTImageTeacherConfig,
    convert_umt_checkpoint,
)
from processing_umt import UMTVideoProcessor
from umt_training import UMTMaskedModelingArguments, UMTMaskedModelingTrainer
from umt_training.data.video_dataset import VideoClipDataset
from umt_training.data.video_records import load_video_records
from umt_training.trainers.masked_modeling_teachers import load_masked_modeling_teacher


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return write_videos(tmp_path_factory.mktemp("videos"))


# --- the objective --------------------------------------------------------------------------------------------------


def recorded_teachers(description: dict, tensors: dict) -> dict[str, torch.nn.Module]:
    image, video = description["image_teacher"], description["video_teacher"]
    image_config = UMTImageTeacherConfig(**encoder_sizes(image))
    video_config = UMTConfig(
        **encoder_sizes(video),
        num_frames=16,
        tubelet_size=2,
        final_norm="none",
        position_grid=None,
    )
    return {
        "image": convert_umt_checkpoint(sub_state(tensors, "state/image_teacher."), image_config),
        "video": convert_umt_checkpoint(sub_state(tensors, "state/video_teacher."), video_config),
    }


@pytest.mark.parametrize("name", ["mvd_loss", "mvd_loss_two_sizes"])
def test_the_recorded_step_of_the_official_loop(name, tmp_path):
    """From the clips to the loss and its parts: both teachers, the recorded mask, targets and student."""
    description, tensors = load_recorded(name)
    run = description["runs"][0]
    mask = tensors["input/mask"].bool()
    visible = (~mask).nonzero()[:, 1].view(len(mask), -1)
    trainer = UMTMaskedModelingTrainer(
        model=convert_umt_checkpoint(
            sub_state(tensors, "state/student."), masked_student_config(description["student"])
        ),
        teachers=recorded_teachers(description, tensors),
        args=UMTMaskedModelingArguments(output_dir=str(tmp_path), use_cpu=True),
        token_selection=lambda attention, mask_ratio, sample_seeds: visible,
    )
    inputs = {
        "pixel_values_videos": tensors["input/video"].transpose(1, 2),
        "sample_seeds": torch.zeros(len(mask), dtype=torch.int64),
    }
    if "input/teacher_video_u8" in tensors:  # in the encoding of the student's clip
        clips = (tensors["input/teacher_video_u8"].float() / 64 - 2).transpose(1, 2)
        inputs["teacher_pixel_values_videos"] = clips.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)
    _, target_indices = trainer.select_tokens(inputs["pixel_values_videos"], inputs["sample_seeds"])
    targets = trainer.compute_targets(inputs["pixel_values_videos"], inputs, target_indices)
    for target, ending in (("image", "img"), ("video", "vid")):
        torch.testing.assert_close(targets[target], tensors[f"expected/targets_{ending}"], rtol=0, atol=1e-5)
    loss, outputs = trainer.compute_loss(trainer.model.train(), inputs, return_outputs=True)
    assert loss.item() == pytest.approx(run["loss"], abs=1e-5)
    assert outputs.losses["image"].item() == pytest.approx(run["loss_img_feat"], abs=1e-5)
    assert outputs.losses["video"].item() == pytest.approx(run["loss_vid_feat"], abs=1e-5)


def test_the_numbers_of_hidden_tokens_are_the_recorded_ones(tmp_path):
    rows = load_recorded("mvd_masks")[0]["rows"]
    assert len(rows) == 9
    for row in rows:
        frames, height, width = row["grid"]
        clips = torch.zeros(2, 2 * frames, 3, 16 * height, 16 * width)
        for mask_type in ("tube", "random"):
            trainer = make_trainer(None, tmp_path, mask_type=mask_type, mask_ratio=row["ratio"])
            visible, targets = trainer.select_tokens(clips, torch.tensor([5, 6]))
            assert visible.shape == (2, row[f"{mask_type}_visible"])
            assert targets.shape == (2, row[f"{mask_type}_masked"])
            for clip in range(2):  # every token once
                assert sorted([*visible[clip].tolist(), *targets[clip].tolist()]) == list(
                    range(frames * height * width)
                )
            assert not torch.equal(visible[0], visible[1])
            places = visible.unflatten(1, (frames, -1)) % (height * width) if mask_type == "tube" else None
            assert places is None or (places == places[:, :1]).all()


def test_a_mask_is_a_function_of_its_clip_seed(tmp_path):
    trainer, batch = make_trainer(None, tmp_path), some_batch(4)
    clips, seeds = trainer.pixel_values(batch["pixel_values_videos"]), batch["sample_seeds"]
    together, _ = trainer.select_tokens(clips, seeds)
    alone = [trainer.select_tokens(clips[i : i + 1], seeds[i : i + 1])[0] for i in range(4)]
    assert torch.equal(together, torch.cat(alone)) and len({tuple(mask) for mask in together.tolist()}) == 4


@pytest.mark.parametrize("make", [make_trainer, make_pixel_trainer])
def test_hidden_pixels_do_not_affect_the_predictions(make, tmp_path):
    trainer, batch = make(None, tmp_path), some_batch(2)
    clips = trainer.pixel_values(batch["pixel_values_videos"])
    visible, targets = trainer.select_tokens(clips, batch["sample_seeds"])
    hidden = torch.ones(2, 2 * 4 * 4, dtype=torch.bool).scatter(1, visible, False).view(2, 2, 1, 4, 4)
    hidden = hidden.repeat_interleave(2, dim=1).repeat_interleave(16, dim=3).repeat_interleave(16, dim=4)
    changed = torch.where(hidden, torch.randn_like(clips), clips)
    with torch.no_grad():
        first, again, shifted = (
            trainer.model(inputs, visible_indices=visible, target_indices=targets).predictions
            for inputs in (clips, changed, clips + 1)
        )
    for name, prediction in first.items():
        assert torch.equal(again[name], prediction) and not torch.equal(shifted[name], prediction)


# --- teachers -------------------------------------------------------------------------------------------------------


def test_teachers_of_transformers_give_their_own_hidden_states(tmp_path):
    """Every second frame for MAE, whose tokens are shuffled without a mask; the raw output of the last block."""
    names = save_transformers_teachers(tmp_path)
    teachers = {name: load_masked_modeling_teacher(path, make_student().config) for name, path in names.items()}
    trainer = make_trainer(None, tmp_path, teachers=teachers)
    batch = some_batch(2)
    clips = trainer.pixel_values(batch["pixel_values_videos"])
    _, targets = trainer.select_tokens(clips, batch["sample_seeds"])
    features = trainer.compute_targets(clips, batch, targets)

    image, video = ViTMAEModel.from_pretrained(names["image"]), VideoMAEModel.from_pretrained(names["video"])
    frames = clips[:, ::2].flatten(0, 1)
    in_order = torch.arange(16.0).expand(len(frames), -1)  # the noise by which ViTMAE shuffles its tokens
    with torch.no_grad():
        expected = {
            "image": image(frames, noise=in_order, output_hidden_states=True)
            .hidden_states[-1][:, 1:]
            .reshape(2, 32, -1),
            "video": video(clips, output_hidden_states=True).hidden_states[-1],
        }
    for name, tokens in expected.items():
        for clip in range(2):
            torch.testing.assert_close(features[name][clip], tokens[clip][targets[clip]], rtol=0, atol=1e-5)


def test_a_video_teacher_without_tubelets_encodes_every_second_frame(tmp_path):
    teachers = make_teachers(video={"tubelet_size": 1, "num_frames": 2})
    trainer = make_trainer(None, tmp_path, teachers=teachers)
    batch = some_batch(2)
    clips = trainer.pixel_values(batch["pixel_values_videos"])
    everything = torch.arange(32).expand(2, -1)
    features = trainer.compute_targets(clips, batch, everything)
    assert torch.equal(features["video"], teachers["video"](clips[:, ::2]).last_hidden_state)


def test_a_teacher_of_another_size_gets_its_own_clip(videos, tmp_path):
    teachers = make_teachers(image={"patch_size": 14, "image_size": 56})
    trainer = make_trainer(None, tmp_path, teachers=teachers)
    dataset = VideoClipDataset(load_video_records(str(videos)), **clip_options(teacher_size=56))
    batch = trainer.data_collator([dataset[0, 0], dataset[0, 1]])
    assert batch["teacher_pixel_values_videos"].shape == (2, 4, 3, 56, 56)
    everything = torch.arange(32).expand(2, -1)
    clips, others = (trainer.pixel_values(batch[f"{prefix}pixel_values_videos"]) for prefix in ("", "teacher_"))
    features = trainer.compute_targets(clips, batch, everything)
    assert torch.equal(features["image"], teachers["image"](others[:, ::2]).last_hidden_state)
    assert torch.equal(features["video"], teachers["video"](clips).last_hidden_state)
    for given, reason in ((None, "there are none"), (others[..., :28], "they have 56 x 28")):
        without = {"teacher_pixel_values_videos": given}
        with pytest.raises(ValueError, match=rf"The image teacher takes frames of 56 x 56 pixels.*{reason}"):
            trainer.compute_targets(clips, without, everything)


@pytest.mark.parametrize(
    ("teachers", "message"),
    [
        (lambda: {}, "features image, video, but teachers are given for none"),
        (lambda: {"image": make_teachers()["image"]}, "image, video, but teachers are given for image;"),
        (lambda: make_teachers() | {"pixels": make_teachers()["image"]}, "given for image, pixels, video"),
        (
            lambda: make_teachers(image={"hidden_size": 32}),
            "image teacher has features of dimension 32.*has 24.*to 32",
        ),
        (lambda: make_teachers(image={"image_size": 80}), r"\(2, 5, 5\).*\(2, 4, 4\).*fits with `image_size` 64"),
        (lambda: make_teachers(video={"num_frames": 8}), r"\(4, 4, 4\) .* `image_size` 64 and `num_frames` 4"),
        (lambda: make_teachers(video={"tubelet_size": 4}), "`tubelet_size` of 4, which does not divide .* 2"),
        (
            lambda: make_teachers({"patch_size": 14, "image_size": 56}, {"patch_size": 8, "image_size": 32}),
            r"several sizes \(image 56 x 56, video 32 x 32 pixels\)",
        ),
    ],
)
def test_teachers_that_do_not_fit_are_errors(teachers, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        make_trainer(None, tmp_path, teachers=teachers())


def test_a_student_without_targets_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"no `masked_targets`.*UMTForMaskedModeling"):
        make_trainer(None, tmp_path, student=make_stage1_student(), teachers={})


def test_pixels_need_neither_teachers_nor_arguments(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer = UMTMaskedModelingTrainer(make_student(**PIXELS))
    assert trainer.teachers == {} and trainer.args.mask_ratio == 0.9
    assert trainer.compute_loss(trainer.model, some_batch(1)).isfinite()


def test_a_teacher_that_returns_a_class_token_is_an_error(tmp_path):
    class WithClassToken(torch.nn.Module):
        def __init__(self, teacher):
            super().__init__()
            self.teacher, self.config = teacher, teacher.config

        def forward(self, clips):
            outputs = self.teacher(clips)
            outputs.last_hidden_state = torch.nn.functional.pad(outputs.last_hidden_state, (0, 0, 1, 0))
            return outputs

    teachers = make_teachers()
    trainer = make_trainer(None, tmp_path, teachers=teachers | {"image": WithClassToken(teachers["image"])})
    with pytest.raises(ValueError, match="image teacher returns 33 tokens for a clip, but the student's has 32"):
        trainer.compute_loss(trainer.model, some_batch(1))


# --- a run ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [make_trainer, make_pixel_trainer])
def test_a_run_with_its_log_checkpoint_and_saved_model(make, videos, tmp_path, capsys):
    trainer = make(videos, tmp_path, num_train_epochs=2, save_strategy="epoch")
    trainer.processing_class = UMTVideoProcessor.for_config(trainer.model.config)
    before = {name: teacher.state_dict() for name, teacher in trainer.teachers.items()}
    before = {name: {key: tensor.clone() for key, tensor in state.items()} for name, state in before.items()}
    trainer.train()

    losses, parts = losses_of(trainer), parts_of(trainer)
    targets = list(trainer.model.config.masked_targets)
    assert len(losses) == len(parts) == 8
    assert losses[-1] < 0.9 * losses[0] or not trainer.teachers  # pixels take more steps
    for loss, part in zip(losses, parts, strict=True):
        assert list(part) == [f"loss_{name}" for name in targets]
        assert loss == pytest.approx(sum(part.values()), rel=1e-4)
    printed = capsys.readouterr()
    assert f", loss_{targets[0]} " in printed.out and "warning" not in printed.err.lower()
    assert ("teacher 0" in printed.out) == bool(trainer.teachers)

    trained = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    for name, teacher in trainer.teachers.items():
        assert not teacher.training
        assert all(torch.equal(tensor, before[name][key]) for key, tensor in teacher.state_dict().items())
        assert not any(p.requires_grad or p.grad is not None or id(p) in trained for p in teacher.parameters())
    folder = tmp_path / "checkpoint-8"
    model, report = AutoModelForPreTraining.from_pretrained(folder, output_loading_info=True)
    assert type(model) is UMTForMaskedModeling and not any(report.values()), report
    assert model.state_dict().keys() == trainer.model.state_dict().keys()
    assert not any("teacher" in key for key in model.state_dict())
    processor = AutoVideoProcessor.from_pretrained(folder)
    clip = processor(str(videos / "video_00.mp4"), return_tensors="pt")["pixel_values_videos"]
    assert clip.shape == (1, 4, 3, 64, 64)


@pytest.fixture(scope="module")
def plain_runs(videos, tmp_path_factory):
    """The losses of a run with features, and of one with pixels."""
    runs = {}
    for make in (make_trainer, make_pixel_trainer):
        trainer = make(videos, tmp_path_factory.mktemp("plain"))
        trainer.train()
        runs[make] = losses_of(trainer)
    return runs


@pytest.mark.parametrize("make", [make_trainer, make_pixel_trainer])
@pytest.mark.parametrize(
    "arguments",
    [
        {"activation_checkpointing": True},
        {"torch_compile": True, "torch_compile_backend": "eager"},
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
    ],
    ids=["checkpointing", "compile", "accumulation"],
)
def test_training_options_do_not_change_the_losses(arguments, make, plain_runs, videos, tmp_path):
    trainer = make(videos, tmp_path, **arguments)
    trainer.train()
    assert losses_of(trainer) == pytest.approx(plain_runs[make], rel=1e-5)
    if "activation_checkpointing" in arguments:
        decoder = next(iter(trainer.model.decoders.values()))
        assert trainer.model.umt.layers[0].gradient_checkpointing and decoder.layers[0].gradient_checkpointing
    if "torch_compile" in arguments:
        assert all(type(t.layers[0]).__name__ == "OptimizedModule" for t in trainer.teachers.values())
    trainer.save_model()
    saved = AutoModelForPreTraining.from_pretrained(tmp_path).state_dict()
    assert saved.keys() == make_student(**trainer.model.config.to_diff_dict()).state_dict().keys()


@pytest.mark.parametrize("make", [make_trainer, make_pixel_trainer])
def test_bf16_stays_finite_and_close(make, plain_runs, videos, tmp_path):
    trainer = make(videos, tmp_path, bf16=True)
    for teacher in trainer.teachers.values():
        assert {parameter.dtype for parameter in teacher.parameters()} == {torch.bfloat16}
    trainer.train()
    assert losses_of(trainer) == pytest.approx(plain_runs[make], rel=0.02)
    assert all(parameter.dtype == torch.float32 for parameter in trainer.model.parameters())


@pytest.mark.parametrize("make", [make_trainer, make_pixel_trainer])
def test_a_resumed_run_continues_with_the_same_losses(make, plain_runs, videos, tmp_path):
    trainer = make(videos, tmp_path, save_strategy="steps", save_steps=2)
    trainer.train()
    resumed = make(videos, tmp_path, save_strategy="steps", save_steps=2)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert losses_of(resumed)[:2] == losses_of(trainer)[:2]
    assert losses_of(resumed) == losses_of(trainer) == plain_runs[make]
    assert parts_of(resumed) == parts_of(trainer)


def test_evaluation_reports_the_loss_of_held_out_clips(videos, tmp_path):
    held_out = VideoClipDataset(load_video_records(str(videos)), seed=7, **clip_options())
    trainer = make_trainer(videos, tmp_path, eval_dataset=held_out, eval_strategy="steps", eval_steps=2)
    trainer.train()
    evaluations = [line["eval_loss"] for line in trainer.state.log_history if "eval_loss" in line]
    assert len(evaluations) == 2 and all(0 < loss < 5 for loss in evaluations)
    # the parts in a log line are those of training steps
    assert all(
        loss == pytest.approx(sum(part.values()), rel=1e-4)
        for loss, part in zip(losses_of(trainer), parts_of(trainer), strict=True)
    )


# --- arguments ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mask_type": "attention"}, "`mask_type` must be one of tube, random, motion, but is 'attention'"),
        ({"mask_type": "motion"}, "'motion' requires a `keep_ratio`; EVEREST keeps 0.3"),
        ({"mask_type": "motion", "keep_ratio": 1.5}, r"`keep_ratio` must be in \(0, 1\], but is 1.5"),
        ({"keep_ratio": 0.3}, "`keep_ratio` 0.3 was given, but only `mask_type` 'motion' uses it"),
        ({"frame_pool_ratio": 1.5}, "`frame_pool_ratio` 1.5 was given, but only `mask_type` 'motion'"),
        ({"mask_type": "motion", "keep_ratio": 0.3, "frame_pool_ratio": 0.5}, "`frame_pool_ratio` must be at least 1"),
        ({"mask_ratio": 0}, "`mask_ratio` must be between 0 and 1, but is 0"),
        ({"mask_ratio": 90}, "`mask_ratio` must be between 0 and 1, but is 90; for 90 % give 0.9"),
    ],
)
def test_invalid_arguments_are_errors(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        UMTMaskedModelingArguments(output_dir=str(tmp_path), **arguments)


def test_the_defaults_are_those_of_the_published_runs(tmp_path):
    args = UMTMaskedModelingArguments(output_dir=str(tmp_path))
    assert (args.mask_type, args.mask_ratio, args.weight_decay) == ("tube", 0.9, 0.05)
    assert (args.base_learning_rate, args.base_min_learning_rate) == (1.5e-4, 1e-4)
    assert (args.adam_beta1, args.adam_beta2, args.adam_epsilon, args.max_grad_norm) == (0.9, 0.95, 1e-8, 0)
    assert (args.num_train_epochs, args.warmup_epochs) == (401, 40)

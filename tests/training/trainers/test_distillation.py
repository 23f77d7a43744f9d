"""Distillation of an InternVideo2 student: the recorded step, teachers of both families, masks, and the command."""

import json

import pytest
import torch
from recorded import load_recorded
from recorded_models import internvideo2_config, sub_state
from tiny_pretraining import write_videos

from modeling_umt import (
    InternVideo2Config,
    InternVideo2ForPreTraining,
    InternVideo2ForVideoClassification,
    InternVideo2Model,
    UMTConfig,
    UMTForVideoClassification,
    UMTModel,
    convert_umt_checkpoint,
)
from modeling_umt.convert_umt_checkpoints import official_state_dict
from modeling_umt.official_internvideo2_umt import internvideo2_pretraining_key_map
from umt_training.cli import main
from umt_training.runs.recipes import read_recipe, recipe_values
from umt_training.runs.task_classes import task_classes
from umt_training.trainers.distillation import UMTDistillationArguments, UMTDistillationTrainer
from umt_training.trainers.video_teacher import VideoTeacher, load_video_encoder

SIZES = {
    "image_size": 64, "patch_size": 16, "num_frames": 2, "hidden_size": 32, "num_hidden_layers": 3,
    "num_attention_heads": 2, "intermediate_size": 64, "num_pooling_heads": 2, "pooled_size": 24,
}  # fmt: skip
STUDENT = SIZES | {"hidden_size": 16, "num_aligned_layers": 2, "target_dim": 32, "final_target_dim": 24}
UMT = {
    "image_size": 64, "num_frames": 2, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2,
    "intermediate_size": 64,
}  # fmt: skip


def make_teacher(student: InternVideo2Config, family: str = "internvideo2") -> VideoTeacher:
    torch.manual_seed(2)
    encoder = (
        InternVideo2Model(InternVideo2Config(**SIZES)) if family == "internvideo2" else UMTModel(UMTConfig(**UMT))
    )
    return VideoTeacher(encoder.eval(), student)


def make_trainer(folder, student, teacher, **arguments) -> UMTDistillationTrainer:
    args = UMTDistillationArguments(
        output_dir=str(folder), use_cpu=True, report_to="none", disable_tqdm=True, **arguments
    )
    return UMTDistillationTrainer(model=student, teacher=teacher, args=args)


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


def test_a_step_gives_the_recorded_targets_loss_and_gradients():
    description, tensors = load_recorded("internvideo2_distill_loss")
    student_fields, teacher_fields = description["student"], description["teacher"]
    student = convert_umt_checkpoint(sub_state(tensors, "state/student."), internvideo2_config(student_fields))
    encoder = convert_umt_checkpoint(sub_state(tensors, "state/teacher."), internvideo2_config(teacher_fields))
    assert type(encoder) is InternVideo2Model
    teacher = VideoTeacher(encoder, student.config, teacher_fields["clip_return_interval"])
    assert (teacher.layers, student.aligned_layers) == (description["teacher_layers"], description["student_layers"])
    clip = tensors["input/video"].transpose(1, 2)
    with torch.no_grad():
        targets = teacher(clip)
    close(targets.features, tensors["expected/teacher_features"].transpose(0, 1))
    close(targets.final, tensors["expected/teacher_final"])
    close(targets.cls_attention.flatten(1), tensors["expected/teacher_attention"])

    mask = tensors["input/mask"]
    visible = (~mask).nonzero()[:, 1].view(len(mask), -1)
    features = targets.features[torch.arange(len(mask))[:, None], :, visible].transpose(1, 2)
    outputs = student(clip, bool_masked_pos=mask[:, 1:], target_features=features, target_final=targets.final)
    assert outputs.loss.item() == pytest.approx(description["loss"], abs=1e-5)
    for part, given in (
        ("middle", {"target_features": features}),
        ("final", {"target_final": targets.final}),
    ):
        loss = student(clip, bool_masked_pos=mask[:, 1:], **given).loss
        assert loss.item() == pytest.approx(description[f"loss_{part}"], abs=1e-5)
    outputs.loss.backward()
    parameters, key_map = dict(student.named_parameters()), internvideo2_pretraining_key_map(student.config)
    assert key_map.keys() == description["grad_norms"].keys()
    for name, norm in description["grad_norms"].items():
        if name not in description["gradient_zero_but_for_rounding"]:
            gradient = torch.cat([parameters[key].grad.flatten() for key in key_map[name]]).norm().item()
            assert gradient == pytest.approx(norm, rel=1e-4), name


@pytest.mark.parametrize("num_masks", [1, 2])
def test_the_targets_of_a_mask_are_those_of_its_visible_tokens(tmp_path, num_masks):
    student = InternVideo2ForPreTraining(InternVideo2Config(**STUDENT))
    trainer = make_trainer(tmp_path, student, make_teacher(student.config), num_masks_per_clip=num_masks)
    clips, seeds = torch.randn(3, 2, 3, 64, 64), torch.tensor([5, 6, 7])
    visible, features, final = trainer.compute_targets(clips, seeds, 0.8, num_masks)
    assert visible.shape == (3 * num_masks, 32 - int(0.8 * 32))
    with torch.no_grad():
        complete = trainer.teacher(clips)
    for i in range(3 * num_masks):
        clip = i // num_masks
        assert torch.equal(features[i, :, 0], complete.features[clip, :, 0])  # the class token
        assert torch.equal(features[i, :, 1:], complete.features[clip][:, 1 + visible[i]])
        assert torch.equal(final[i], complete.final[clip])
    frames = (visible // 16).sum(1)  # the number of tokens of the second frame
    assert len(set(frames.tolist())) > 1  # all frames compete


def test_a_umt_teacher_of_another_patch_size_encodes_the_students_grid(tmp_path):
    fields = STUDENT | {"image_size": 56, "patch_size": 14, "final_target_dim": 32}
    student = InternVideo2ForPreTraining(InternVideo2Config(**fields))
    teacher = make_teacher(student.config, "umt")
    clips = torch.randn(2, 2, 3, 56, 56)
    with torch.no_grad():
        targets = teacher(clips)
    assert targets.features.shape == (2, 2, 1 + 32, 32) and targets.final.shape == (2, 32)
    norms = targets.features.norm(dim=-1)
    torch.testing.assert_close(norms, torch.ones_like(norms))
    with pytest.raises(ValueError, match=r"`mask_type` 'clip_attention' selects by .* `tube`, `random` or `motion`"):
        make_trainer(tmp_path, student, teacher)
    trainer = make_trainer(tmp_path, student, teacher, mask_type="tube")
    visible, *_ = trainer.compute_targets(clips, torch.tensor([1, 2]), 0.75)
    assert torch.equal(visible[:, :4] + 16, visible[:, 4:])


@pytest.mark.parametrize("family", ["internvideo2", "umt"])
def test_masks_by_motion_show_the_tokens_that_the_student_finds_to_change_most(tmp_path, family):
    fields = STUDENT | {"final_target_dim": {"internvideo2": 24, "umt": 32}[family]}
    student = InternVideo2ForPreTraining(InternVideo2Config(**fields))
    teacher = make_teacher(student.config, family)
    trainer = make_trainer(tmp_path, student, teacher, mask_type="motion", mask_ratio=0.75)
    clips = torch.randn(2, 2, 3, 64, 64)
    visible, features, _ = trainer.compute_targets(clips, torch.tensor([1, 2]), 0.75)
    importance = student.internvideo2.motion_importance(clips).flatten(1)
    assert torch.equal(visible, importance.argsort(dim=1, descending=True, stable=True)[:, :8].sort().values)
    assert features.shape == (2, 2, 1 + 8, 32)
    with pytest.raises(ValueError, match="masks"):
        make_trainer(tmp_path, student, teacher, mask_type="motion", mask_ratio=0.75, num_masks_per_clip=9)


@pytest.mark.parametrize("family", ["internvideo2", "umt"])
def test_a_teacher_that_drops_tokens_encodes_all_tokens(family):
    student = InternVideo2Config(**STUDENT | {"final_target_dim": {"internvideo2": 24, "umt": 32}[family]})
    torch.manual_seed(2)
    encoders = {"internvideo2": lambda **fields: InternVideo2Model(InternVideo2Config(**SIZES, **fields))}
    encoders["umt"] = lambda **fields: UMTModel(UMTConfig(**UMT, **fields))
    encoder = encoders[family](motion_drop_ratio=0.4).eval()
    with torch.no_grad():
        targets = VideoTeacher(encoder, student)(torch.randn(1, 2, 3, 64, 64))
    assert targets.features.shape == (1, 2, 1 + 32, 32)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"target_dim": 8}, "`target_dim` is 8, but the teacher's has 32 channels"),
        ({"final_target_dim": 8}, "`final_target_dim` is 8, but the teacher's has 24 channels"),
        ({"tubelet_size": 2}, "A token of the student covers 2 frames and one of the teacher 1"),
        ({"num_second_layers": 1}, "Students of a second teacher can't be distilled"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        make_teacher(InternVideo2Config(**STUDENT | fields))


def test_the_encoder_of_any_video_model_or_official_file_teaches(tmp_path):
    torch.manual_seed(4)
    models = {
        "internvideo2": InternVideo2ForVideoClassification(InternVideo2Config(**SIZES)),
        "umt": UMTForVideoClassification(UMTConfig(**UMT)),
    }
    for name, model in models.items():
        model.save_pretrained(tmp_path / name)
        encoder = load_video_encoder(str(tmp_path / name))
        assert type(encoder) is type(model.base_model)
        assert all(torch.equal(t, model.base_model.state_dict()[k]) for k, t in encoder.state_dict().items())
    torch.save(official_state_dict(models["internvideo2"]), tmp_path / "file.bin")
    with pytest.raises(ValueError, match="hidden size 32 was never published"):  # no size of a published model
        load_video_encoder(str(tmp_path / "file.bin"))
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(ValueError, match="is a clip; an InternVideo2 student's teacher is a video encoder"):
        load_video_encoder(str(tmp_path / "clip"))


def test_the_command_distils_a_student_that_fine_tuning_starts_from(tmp_path, capsys):
    torch.manual_seed(3)
    InternVideo2ForVideoClassification(InternVideo2Config(**SIZES)).save_pretrained(tmp_path / "teacher")
    (tmp_path / "videos").mkdir()
    videos = write_videos(tmp_path / "videos", 8)
    fields = {key: value for key, value in STUDENT.items() if "target" not in key}
    quick = {"num_train_epochs": 2, "warmup_epochs": 0, "per_device_train_batch_size": 4, "report_to": "none"}
    quick |= {"dataloader_num_workers": 0, "disable_tqdm": "true", "bf16": "false", "logging_steps": 1}
    command = ["pretrain", "--config", "internvideo2_s14_distillation", "--data", str(videos)]
    command += ["--teacher", str(tmp_path / "teacher"), "--model", json.dumps(fields)]
    command += ["--teacher-layer-interval", "1.67", "--output-dir", str(tmp_path / "student")]
    for key, value in quick.items():
        command += [f"--{key.replace('_', '-')}", str(value)]
    assert main(command) == 0
    student = InternVideo2ForPreTraining.from_pretrained(tmp_path / "student")
    assert (student.config.target_dim, student.config.final_target_dim) == (32, 24)
    assert (tmp_path / "student" / "pictures" / "masks.png").exists()
    card = (tmp_path / "student" / "README.md").read_text()
    assert "InternVideo2 video model that encodes clips" in card
    assert card.index("arxiv.org/abs/2403.15377") < card.index("arxiv.org/abs/2303.16058")
    assert main(["pretrain", "--config", "internvideo2_s14_distillation", "--data", str(videos)]) == 1
    assert "No `teacher` given" in capsys.readouterr().err
    assert main([*command, "--model", json.dumps(fields | {"motion_drop_ratio": 0.4})]) == 1
    assert "`model` sets `motion_drop_ratio`, which has no effect in pre-training" in capsys.readouterr().err


PUBLISHED = [("s", 29_169_792, 128), ("b", 102_252_288, 128), ("l", 327_183_872, 64)]


@pytest.mark.parametrize(("size", "parameters", "batch"), PUBLISHED)
def test_published_recipes_have_the_published_values(size, parameters, batch):
    name = f"internvideo2_{size}14_distillation"
    values = recipe_values(read_recipe(name), [], *task_classes("distillation"))
    with torch.device("meta"):
        student = InternVideo2ForPreTraining(InternVideo2Config(**values["model"]))
    assert student.num_parameters() == parameters
    published = {
        "teacher_layer_interval": 3.34, "num_train_epochs": 101, "warmup_epochs": 20, "base_learning_rate": 1e-3,
        "weight_decay": 0.05, "adam_beta1": 0.9, "adam_beta2": 0.98, "adam_epsilon": 1e-6, "max_grad_norm": 5.0,
        "per_device_train_batch_size": batch, "mask_type": "clip_attention", "mask_ratio": 0.8,
    }  # fmt: skip
    assert {key: values[key] for key in published} == published
    assert values["model"]["drop_path_rate"] == 0.05

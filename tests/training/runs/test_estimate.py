"""Cost of a stage-1 run: published sizes, FLOPs compared with arithmetic and with a real step."""

import re
from functools import partial

import pytest
import torch
from recorded import load_recorded
from tiny_pretraining import STUDENT, TEACHER, make_student, make_teacher
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    Dinov2Config,
    Dinov2Model,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    Siglip2VisionConfig,
    Siglip2VisionModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from modeling_umt import (
    InternVideo2Config,
    InternVideo2ForPreTraining,
    InternVideo2Model,
    UMTConfig,
    UMTForPreTraining,
    UMTModel,
    UMTTeacherConfig,
    UMTTeacherModel,
)
from modeling_umt.token_selection_umt import attention_token_selection
from umt_training.cli import main
from umt_training.runs import distillation_run, pretraining_run, video_text_run
from umt_training.runs.estimate import Cost, describe_cost, estimate_distillation, estimate_pretraining
from umt_training.runs.estimate_video_text import PairCost, estimate_pair
from umt_training.runs.recipes import RECIPES_FOLDER, read_recipe, recipe_names
from umt_training.runs.tasks import estimate
from umt_training.trainers.teachers import PUBLISHED_TEACHERS
from umt_training.trainers.video_teacher import VideoTeacher


def cost_of(student: dict, teacher: dict, mask_ratio: float) -> Cost:
    seeds = torch.zeros(1, dtype=torch.int64, device="meta")
    select = partial(attention_token_selection, mask_ratio=mask_ratio, sample_seeds=seeds)
    with torch.device("meta"):
        return estimate_pretraining(
            UMTForPreTraining(UMTConfig(**student)), UMTTeacherModel(UMTTeacherConfig(**teacher)), select
        )


def blocks(num_tokens: int, width: int, mlp: int) -> int:
    """FLOPs of a transformer block: four projections, the MLP, and two products of attention."""
    return 2 * num_tokens * (4 * width**2 + 2 * width * mlp) + 4 * num_tokens**2 * width


def test_arithmetic_of_the_tiny_models():
    cost = cost_of(STUDENT, TEACHER, mask_ratio=0.75)
    visible, tokens, width, mlp = 8, 32, 32, 64
    assert cost.visible_tokens == visible
    student = 2 * visible * 3 * 16**2 * width + 3 * blocks(visible, width, mlp) + 2 * 2 * visible * width * 16
    assert cost.student_flops == student
    # two frames, each with a class token; the last block's output projection and MLP process visible tokens only
    teacher = 2 * tokens * 3 * 14**2 * width + 2 * 3 * blocks(17, width, mlp) + 2 * 2 * visible * width * 16
    teacher -= 2 * (2 * 17 - visible) * (width**2 + 2 * width * mlp)
    # the row of attention that selects tokens: query of the class token, its products with the existing keys
    teacher += 2 * (2 * width**2 + 2 * 17 * width)
    assert cost.teacher_flops == teacher
    # backward is twice the forward, without the gradient of the pixels, which is not computed
    assert cost.student_training_flops == 3 * student - 2 * visible * 3 * 16**2 * width
    assert cost.training_flops(num_masks=3) == teacher + 3 * cost.student_training_flops


def test_flops_of_a_real_step():
    cost = cost_of(STUDENT, TEACHER, mask_ratio=0.75)
    student, teacher = make_student(), make_teacher()
    student.set_attn_implementation("eager"), teacher.set_attn_implementation("eager")
    clip = torch.randn(1, 2, 3, 64, 64)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        targets = teacher(clip, token_selector=partial(attention_token_selection, mask_ratio=0.75))
    assert cost.teacher_flops == pytest.approx(counter.get_total_flops(), rel=0.02)
    with FlopCounterMode(display=False) as counter:
        student(clip, visible_indices=targets.visible_indices, target_features=targets.features).loss.backward()
    assert cost.student_training_flops == pytest.approx(counter.get_total_flops(), rel=0.02)
    assert cost.student_parameters == sum(parameter.numel() for parameter in student.parameters())
    assert cost.teacher_parameters == sum(parameter.numel() for parameter in teacher.parameters())


@pytest.mark.parametrize(
    ("recipe", "student", "teacher", "flops"),
    [
        ("umt_l16_k710_stage1", 307_806_720, 303_904_768, ("0.9636", "0.2069")),
        ("umt_b16_k710_stage1", 88_005_888, 86_192_640, ("0.2692", "0.06002")),
    ],
)
def test_published_recipes(recipe, student, teacher, flops, monkeypatch, capsys, tmp_path):
    """Parameters are those of the official models; no weights are loaded and no run starts."""

    def refuse(*args, **kwargs):
        raise AssertionError("an estimate does not load or train")

    for name in ("load_training_clips", "UMTPreTrainingTrainer", "run_to_end"):
        monkeypatch.setattr(pretraining_run, name, refuse)
    monkeypatch.chdir(tmp_path)
    assert main(["pretrain", "--config", recipe, "--estimate"]) == 0
    printed = capsys.readouterr().out
    assert f"student {student:,} parameters, teacher {teacher:,}\n" in printed
    official = load_recorded("full_size_keys")[0]["models"]
    assert {student, teacher} <= {model["parameters"] for model in official.values()}
    assert f"teacher {flops[0]} TFLOP, student {flops[1]} TFLOP on 320 visible tokens" in printed
    assert "658,000 clips x 201 epochs" in printed and "hours on 32 A100" in printed
    assert "assuming 40%" in printed and "GiB of activations" in printed
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def counted_pairs() -> dict[str, PairCost]:
    """The costs of pairs of video and text that have been counted."""
    return {}


@pytest.mark.parametrize("recipe", [name for name in recipe_names() if "_stage" in name or "_distillation" in name])
def test_the_head_of_a_recipe_states_the_estimate_of_the_command(recipe, counted_pairs, monkeypatch):
    """Recipes with the same models and masks have the same cost of a pair, which is counted once."""

    def count_once(model, teacher, select, *sizes):
        key = f"{model.config.to_json_string()} {teacher.config.to_json_string()} {select.func} {sizes} "
        key += str(select.keywords["mask_ratio"])
        if key not in counted_pairs:
            counted_pairs[key] = estimate_pair(model, teacher, select, *sizes)
        return counted_pairs[key]

    monkeypatch.setattr(video_text_run, "estimate_pair", count_once)
    head = (RECIPES_FOLDER / f"{recipe}.yaml").read_text(encoding="utf-8").replace("\n#  ", "")
    stated = re.search(r"`--estimate` gives ([\d.]+ hours on \d+ A100), with", head)[1]
    assert stated in estimate(recipe)
    assert "counts matrix products only" in head
    assert ("the authors report " in head) == ("The reported time is longer because" in head)


def test_estimates_of_published_recipes_download_no_teacher():
    for recipe in ("umt_l16_k710_stage1", "umt_b16_k710_stage1"):
        assert read_recipe(recipe)["teacher"] in PUBLISHED_TEACHERS


@pytest.fixture
def recipe(tmp_path):
    """Path of a tiny recipe without a teacher."""
    path = tmp_path / "tiny.yaml"
    lines = ["task: stage1", f"model: {STUDENT}", "mask_ratio: 0.75", "teacher_image_size: 56"]
    path.write_text("\n".join([*lines, "per_device_train_batch_size: 2\n"]))
    return str(path)


def test_motion_masks_embed_all_patches_of_the_clip_once_more():
    """Whatever the number of masks; the count of visible tokens is that of random masks."""
    flops = {}
    for mask_type in ("random", "motion"):
        text = estimate("umt_b16_k710_stage1", ["--mask_type", mask_type, "--num_masks_per_clip", "2"])
        teacher, visible = re.search(r"teacher ([\d.]+) TFLOP, .* on (\d+) visible tokens", text).groups()
        flops[mask_type] = float(teacher)
        assert visible == "314"
    embedding = 2 * 1568 * (3 * 16**2) * 768 / 1e12
    assert flops["motion"] - flops["random"] == pytest.approx(embedding, abs=1e-4)


def test_overrides_count(recipe, tmp_path):
    make_teacher().save_pretrained(tmp_path / "teacher")
    given = ["--teacher", str(tmp_path / "teacher"), "--output_dir", str(tmp_path / "out")]
    plain = estimate(recipe, given)
    assert "on 8 visible tokens" in plain and "for 2 clips" in plain
    other = estimate(recipe, [*given, "--mask_type", "random", "--mask_ratio", "0.5", "--num_masks_per_clip", "3"])
    assert "on 16 visible tokens" in other and "with 3 masks per forward pass of the teacher" in other
    wider = estimate(recipe, [*given, "--model", '{"intermediate_size": 128}'])
    more = 3 * (2 * 32 * 64 + 64)
    assert f"student {make_student().num_parameters() + more:,} parameters" in wider
    assert not (tmp_path / "out").exists()


def test_other_teachers_are_loaded(recipe, tmp_path):
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "patch_size": 14}
    clip = CLIPVisionConfig(intermediate_size=64, projection_dim=16, image_size=56, **sizes)
    CLIPVisionModelWithProjection(clip).save_pretrained(tmp_path / "clip")
    others = {
        "dinov2": Dinov2Model(Dinov2Config(image_size=56, mlp_ratio=2, **sizes)),
        "dinov3": DINOv3ViTModel(DINOv3ViTConfig(intermediate_size=64, **sizes)),
        "siglip": SiglipVisionModel(SiglipVisionConfig(image_size=56, intermediate_size=64, **sizes)),
        "siglip2": Siglip2VisionModel(Siglip2VisionConfig(num_patches=16, intermediate_size=64, **sizes)),
    }
    for name, model in others.items():
        model.save_pretrained(tmp_path / name)
    counts = {}
    for name, fields in (("clip", "{}"), *((name, '{"target_dim": 32}') for name in others)):
        text = estimate(recipe, ["--teacher", str(tmp_path / name), "--model", fields])
        counts[name] = int(text.splitlines()[0].rpartition(" ")[2].replace(",", ""))
    assert counts["clip"] == make_teacher().num_parameters()
    assert {name: counts[name] for name in others} == {name: m.num_parameters() for name, m in others.items()}
    with pytest.raises(ValueError, match="16 channels, but the student's `target_dim` is 24; set it to 16"):
        estimate(recipe, ["--teacher", str(tmp_path / "clip"), "--model", '{"target_dim": 24}'])


def test_hours_and_memory():
    cost = Cost(
        student_parameters=10**9,
        teacher_parameters=10**9,
        visible_tokens=320,
        teacher_flops=4 * 10**12,
        student_flops=10**12,
        student_training_flops=3 * 10**12,
        state_bytes=18 * 2**30,
        activation_bytes=2**30,
    )
    assert cost.training_flops(num_masks=2) == 10 * 10**12
    # 3600 clips of 10 TFLOP at 0.4 x 100 TFLOP/s on 2 devices
    assert cost.hours(3600, 2, 2, 100e12) == pytest.approx(10 / 80)
    text = describe_cost(cost, num_clips=1000, num_epochs=2, num_masks=2, batch=4, num_devices=8)
    assert "about 18.0 GiB of state and 8.0 GiB of activations" in text
    assert "1,000 clips x 2 epochs" in text and "on 8 A100" in text and "on 8 H100 / H200" in text


# --- distillation ----------------------------------------------------------------------------------------------------

# 2 frames of 4 x 4 tokens
ENCODER = {
    "image_size": 64, "patch_size": 16, "num_frames": 2, "hidden_size": 32, "num_hidden_layers": 3,
    "num_attention_heads": 2, "intermediate_size": 64, "num_pooling_heads": 2, "pooled_size": 24,
}  # fmt: skip
DISTILLED = ENCODER | {"hidden_size": 16, "num_aligned_layers": 2, "target_dim": 32, "final_target_dim": 24}


def pooling(num_tokens: int, width: int, pooled: int) -> int:
    """FLOPs of attention pooling: a query of one token, keys and values of all, two products, the output."""
    return 2 * width**2 + 2 * 2 * num_tokens * width**2 + 2 * 2 * num_tokens * width + 2 * width * pooled


@pytest.mark.parametrize("visible", [8, 16])
def test_arithmetic_of_a_distillation(visible):
    with torch.device("meta"):
        student = InternVideo2ForPreTraining(InternVideo2Config(**DISTILLED))
        teacher = VideoTeacher(InternVideo2Model(InternVideo2Config(**ENCODER)), student.config)
    cost = estimate_distillation(student, teacher, lambda attention: torch.arange(visible, device="meta")[None])
    patch, width, mlp, target, pooled = 3 * 16**2, 16, 64, 32, 24
    embedding, tokens = 2 * visible * patch * width, 1 + visible
    decoders = 2 * 2 * tokens * (width**2 + width * target) + 2 * (pooled**2 + pooled * 24)
    forward = embedding + 3 * blocks(tokens, width, mlp) + pooling(tokens, width, pooled) + decoders
    assert (cost.visible_tokens, cost.student_flops) == (visible, forward)
    # backward is twice the forward, without the gradient of the pixels, which is not computed
    assert cost.student_training_flops == 3 * forward - embedding
    # the teacher encodes all tokens
    assert cost.teacher_flops == 2 * 32 * patch * 32 + 3 * blocks(33, 32, mlp) + pooling(33, 32, pooled)
    parameters = [sum(parameter.numel() for parameter in model.parameters()) for model in (student, teacher)]
    assert (cost.student_parameters, cost.teacher_parameters) == tuple(parameters)
    assert cost.state_bytes == 18 * parameters[0] + 2 * parameters[1]
    assert cost.activation_bytes == 34 * tokens * width * 3


@pytest.mark.parametrize(
    ("recipe", "student"),
    [
        ("internvideo2_s14_distillation", 29_169_792),
        ("internvideo2_b14_distillation", 102_252_288),
        ("internvideo2_l14_distillation", 327_183_872),
    ],
)
def test_published_distillations_are_estimated_with_internvideo2_1b(recipe, student, monkeypatch, capsys, tmp_path):
    def refuse(*args, **kwargs):
        raise AssertionError("an estimate does not load or train")

    for name in ("load_video_encoder", "load_training_clips", "UMTDistillationTrainer", "run_to_end"):
        monkeypatch.setattr(distillation_run, name, refuse)
    monkeypatch.chdir(tmp_path)
    assert main(["pretrain", "--config", recipe, "--estimate"]) == 0
    printed = capsys.readouterr().out
    official = load_recorded("internvideo2_full_size_keys")[0]["models"]
    assert f"student {student:,} parameters, teacher 1,019,266,816\n" in printed
    assert student in {model["parameters"] for model in official.values()}
    assert "on 410 visible tokens" in printed and "1,100,000 clips x 101 epochs" in printed
    assert "hours on 32 A100" in printed and not list(tmp_path.iterdir())


def test_teacher_and_options_of_a_distillation_count(tmp_path):
    torch.manual_seed(0)
    InternVideo2Model(InternVideo2Config(**ENCODER)).save_pretrained(tmp_path / "teacher")
    umt = UMTModel(
        UMTConfig(
            image_size=64, num_frames=2, hidden_size=32, num_hidden_layers=3, num_attention_heads=2,
            intermediate_size=64,
        )
    )  # fmt: skip
    umt.save_pretrained(tmp_path / "umt")
    recipe = {"task": "distillation", "model": {k: v for k, v in DISTILLED.items() if "target" not in k}}
    recipe |= {"mask_ratio": 0.75, "per_device_train_batch_size": 2, "num_devices": 3, "samples_per_epoch": 70}
    plain = estimate(recipe, ["--teacher", str(tmp_path / "teacher")])
    assert "on 8 visible tokens" in plain and "for 2 clips" in plain and "70 clips" in plain and "3 A100" in plain
    other = estimate(recipe, ["--teacher", str(tmp_path / "umt"), "--mask_type", "tube", "--num_masks_per_clip", "2"])
    assert f"teacher {umt.num_parameters():,}\n" in other and "with 2 masks per forward pass" in other
    motion = estimate(recipe, ["--teacher", str(tmp_path / "umt"), "--mask_type", "motion"])
    flops = [float(re.search(r"teacher ([\d.e-]+) TFLOP", text)[1]) * 1e12 for text in (other, motion)]
    assert flops[1] - flops[0] == pytest.approx(2 * 32 * 3 * 16**2 * 16, rel=0.02)  # the student embeds all patches
    with pytest.raises(ValueError, match="'clip_attention' selects by the attention of the teacher's pooling"):
        estimate(recipe, ["--teacher", str(tmp_path / "umt")])
    with pytest.raises(ValueError, match="`target_dim` is 8, but the teacher's has 32 channels"):
        estimate(recipe, ["--teacher", str(tmp_path / "teacher"), "--model", '{"target_dim": 8}'])

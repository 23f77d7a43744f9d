"""Every classification recipe compared with the published scripts: learning rates, schedules, sizes, views."""

import functools
import re
import shlex
from pathlib import Path

import pytest

from modeling_umt import UMTConfig
from modeling_umt.labels_umt import load_labels
from umt_training.runs.finetuning_run import FineTuningRun
from umt_training.runs.recipes import RECIPES_FOLDER, parse_recipe, read_recipe, recipe_names
from umt_training.trainers.finetuning import UMTFineTuningArguments
from umt_training.trainers.optimization import scaled_learning_rate

NUM_PROCESSES = 16
COLUMNS = (
    "name", "init", "classes", "frames", "size", "batch", "views", "effective", "epochs", "warmup", "rate", "minimum",
    "drop_path", "layer_decay", "weight_decay", "blocks", "clips", "crops", "top1",
)  # fmt: skip
# fmt: off
PUBLISHED = [
    ("b16_k710_f8", "b16_ptk710_f8_res224",
     710, 8, 224, 16, 2, 512, 35, 2, 4e-4, 2e-6, 0.1, 0.75, 0.05, 0, 4, 3, 81.9),
    ("l16_k710_f8", "l16_ptk710_f8_res224",
     710, 8, 224, 16, 2, 512, 20, 2, 2e-4, 2e-6, 0.2, 0.85, 0.05, 12, 4, 3, 86.0),
    *(
        row for classes, b8, l8, l16 in ((400, 87.4, 90.3, 90.6), (600, 87.8, 90.4, 90.5), (700, 78.5, 83.2, 83.6))
        for row in (
            (f"b16_k{classes}_f8", "b16_ptk710_ftk710_f8_res224",
             classes, 8, 224, 16, 2, 512, 5, 1, 4e-5, 2e-6, 0.1, 0.75, 0.05, 0, 4, 3, b8),
            (f"l16_k{classes}_f8", "l16_ptk710_ftk710_f8_res224",
             classes, 8, 224, 16, 2, 512, 5, 1, 2e-5, 2e-6, 0.2, 0.85, 0.05, 12, 4, 3, l8),
            (f"l16_k{classes}_f16", "l16_ptk710_ftk710_f8_res224",
             classes, 16, 224, 8, 2, 256, 5, 1, 1e-5, 1e-6, 0.2, 0.85, 0.05, 16, 4, 1, l16),
        )
    ),
    ("b16_mitv1_f8", "b16_ptk710_ftk710_ftk400_f8_res224",
     339, 8, 224, 32, 1, 512, 40, 5, 2e-4, 2e-6, 0.1, 0.75, 0.05, 0, 4, 3, 44.6),
    ("b16_mitv1_f8_384", "b16_ptk710_ftk710_ftk400_ftmitv1_f8_res224",
     339, 8, 384, 16, 1, 256, 4, 1, 1e-5, 1e-6, 0.1, 0.75, 0.1, 8, 4, 3, 45.5),
    ("l16_mitv1_f8", "l16_ptk710_ftk710_ftk400_f8_res224",
     339, 8, 224, 32, 1, 512, 20, 5, 2e-4, 2e-6, 0.2, 0.85, 0.05, 12, 4, 3, 48.0),
    ("l16_mitv1_f8_384", "l16_ptk710_ftk710_ftk400_ftmitv1_f8_res224",
     339, 8, 384, 8, 1, 128, 4, 1, 5e-6, 5e-7, 0.2, 0.85, 0.1, 18, 6, 3, 48.7),
    ("b16_ssv2_f8", "b16_ptk710_f8_res224",
     174, 8, 224, 16, 2, 512, 30, 5, 4e-4, 2e-6, 0.1, 0.75, 0.05, 0, 2, 3, 70.8),
    ("l16_ssv2_f8", "l16_ptk710_f8_res224",
     174, 8, 224, 16, 2, 512, 14, 4, 8e-4, 2e-6, 0.2, 0.85, 0.05, 12, 2, 3, 74.7),
]
# fmt: on
PUBLISHED = {row[0]: dict(zip(COLUMNS, row, strict=True)) for row in PUBLISHED}


@functools.cache
def parse(name: str, *overrides: str) -> tuple[FineTuningRun, UMTFineTuningArguments]:
    overrides = ["--output_dir", "unused", *overrides]
    return parse_recipe(read_recipe(name), overrides, FineTuningRun, UMTFineTuningArguments)


def test_there_is_a_recipe_for_every_published_run():
    """Those of the other families are compared in `tests/training/runs/`: `test_masked_modeling_finetuning_recipes.py`
    (MVD, EVEREST) and `test_internvideo2_recipes.py`."""
    classification = {name for name in recipe_names() if read_recipe(name)["task"] == "classification"}
    of_umt = {name for name in classification if not name.startswith(("mvd_", "everest_", "internvideo2_"))}
    assert of_umt == {f"umt_{name}" for name in PUBLISHED} | {"small_data"}
    assert len(PUBLISHED) == 17


@pytest.mark.parametrize("name", PUBLISHED)
def test_values(name):
    published = PUBLISHED[name]
    run, args = parse(f"umt_{name}")
    assert run.init_from == f"OpenGVLab/UMT:single_modality/{published['init']}.pth"
    assert run.preset == "full" and len(load_labels(run.labels)) == published["classes"]

    assert args.per_device_train_batch_size == published["batch"] and args.views_per_video == published["views"]
    assert args.gradient_accumulation_steps == 1 and args.world_size == 1
    effective = NUM_PROCESSES * args.effective_batch_size
    assert effective == published["effective"]
    assert scaled_learning_rate(args.base_learning_rate, effective) == pytest.approx(published["rate"], rel=1e-12)
    for base in (args.base_min_learning_rate, args.base_warmup_learning_rate):
        assert scaled_learning_rate(base, effective) == pytest.approx(published["minimum"], rel=1e-12)
    assert (args.num_train_epochs, args.warmup_epochs) == (published["epochs"], published["warmup"])
    assert (args.layer_decay, args.weight_decay) == (published["layer_decay"], published["weight_decay"])
    assert args.checkpoint_blocks == published["blocks"]

    config = UMTConfig(**run.model)
    assert (config.num_frames, config.image_size) == (published["frames"], published["size"])
    assert config.drop_path_rate == published["drop_path"]
    assert (run.sampling, run.flip) == (("segments", False) if "ssv2" in name else ("sparse", True))


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_all_scripts_share(name):
    run, args = parse(f"umt_{name}")
    assert (args.mixup_alpha, args.cutmix_alpha, args.label_smoothing_factor) == (0.8, 1.0, 0.1)
    assert (args.adam_beta1, args.adam_beta2, args.adam_epsilon) == (0.9, 0.999, 1e-8)
    assert args.optim.value.startswith("adamw_torch") and args.max_grad_norm == 0
    assert args.ema_decay is None and args.seed == 0 and args.bf16
    assert args.load_best_model_at_end and args.metric_for_best_model == "top1" and args.greater_is_better
    assert (run.train_split, run.eval_split) == ("train", "val")


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_begins_with_result_hardware_and_commands(name):
    published = PUBLISHED[name]
    text = (RECIPES_FOLDER / f"umt_{name}.yaml").read_text()
    comment = " ".join(line.strip("# \\") for line in text.splitlines() if line.startswith("#"))
    assert f"{published['top1']} % top-1 ({published['frames']} frames x 3 crops x 4 clips" in comment
    assert "16 GPUs" in comment and f"{published['effective']} here" in comment
    assert f"umt) finetune --config umt_{name} " in comment
    evaluation = re.search(r"umt\) evaluate .*? --clips (\d) --crops (\d)(.*?) Departures", comment)
    assert (int(evaluation[1]), int(evaluation[2])) == (published["clips"], published["crops"])
    assert ("--sampling segments" in evaluation[3]) == ("ssv2" in name)
    if (published["clips"], published["crops"]) != (4, 3):
        assert "the zoo prints 4" in comment.lower()


def test_commands_of_the_documentation():
    text = (Path(__file__).parents[3] / "docs" / "finetuning.md").read_text().replace("\\\n", " ")
    commands = [shlex.split(line)[2:] for line in re.findall(r"^umt finetune .*", text, re.MULTILINE)]
    assert commands
    for options in commands:
        run, args = parse("small_data", *options)
        assert run.data and run.init_from and args.output_dir == "my-model"
    for name in re.findall(r"`(?:umt finetune --config )?((?:umt|mvd|everest)_\w+)`", text):
        assert name in recipe_names()
    for option in re.findall(r"^\| (`.*?`) \|", text.partition("## Options")[2].partition("##")[0], re.MULTILINE):
        for field in re.findall(r"`(\w+)`", option):
            assert field in UMTFineTuningArguments.__dataclass_fields__


def test_small_data():
    run, args = parse("small_data", "--data", "clips", "--preset", "lora")
    assert (run.data, run.preset, run.eval_share) == ("clips", "lora", 0.2)
    assert args.effective_batch_size == 16
    assert scaled_learning_rate(args.base_learning_rate, 16) == pytest.approx(6.25e-5)

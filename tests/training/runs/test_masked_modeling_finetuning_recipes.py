"""The classification recipes of MVD and EVEREST compared with the published values."""

import re

import pytest

from modeling_umt import UMTConfig
from modeling_umt.labels_umt import load_labels
from umt_training.runs.finetuning_run import FineTuningRun
from umt_training.runs.recipes import RECIPES_FOLDER, parse_recipe, read_recipe, recipe_names
from umt_training.trainers.finetuning import UMTFineTuningArguments
from umt_training.trainers.optimization import scaled_learning_rate

# fmt: off
# Of a run: GPUs, videos per GPU, accumulation, learning rates for 256 videos (peak, minimum), epochs, layer decay,
# drop path, dropout before the head, blocks with activation checkpointing, clips of the test; then top-1 and top-5 of
# each student, in percent.
MVD = {
    "mvd_s16_k400": (16, 12, 2, 5e-4, 1e-6, 150, 0.75, 0.1, 0.0, 0, 5, {
        "mvd_s16_from_b16": (80.6, 94.7), "mvd_s16_from_l16": (81.0, 94.8)}),
    "mvd_s16_ssv2": (32, 12, 1, 1e-3, 1e-6, 40, 0.7, 0.1, 0.0, 0, 2, {
        "mvd_s16_from_b16": (70.7, 92.6), "mvd_s16_from_l16": (70.9, 92.8)}),
    "mvd_b16_k400": (32, 6, 2, 5e-4, 1e-6, 75, 0.75, 0.1, 0.0, 0, 5, {
        "mvd_b16_from_b16": (82.7, 95.4), "mvd_b16_from_l16": (83.4, 95.8)}),
    "mvd_b16_ssv2": (16, 24, 1, 5e-4, 1e-6, 30, 0.75, 0.1, 0.0, 12, 2, {
        "mvd_b16_from_b16": (72.5, 93.6), "mvd_b16_from_l16": (73.7, 94.0)}),
    "mvd_l16_k400": (32, 2, 8, 1e-3, 1e-6, 50, 0.75, 0.3, 0.5, 0, 5, {"mvd_l16_from_l16": (86.0, 96.9)}),
    "mvd_l16_ssv2": (16, 16, 1, 5e-4, 1e-6, 30, 0.75, 0.3, 0.5, 24, 2, {"mvd_l16_from_l16": (76.1, 95.4)}),
    "mvd_l16_800_k400": (32, 16, 1, 1e-3, 1e-6, 50, 0.75, 0.3, 0.5, 24, 5, {"mvd_l16_from_l16_800": (86.4, 97.0)}),
    "mvd_l16_800_ssv2": (16, 16, 1, 5e-4, 1e-6, 30, 0.75, 0.3, 0.5, 24, 2, {"mvd_l16_from_l16_800": (76.7, 95.5)}),
    "mvd_h16_800_k400": (32, 8, 1, 1e-3, 1e-6, 50, 0.75, 0.3, 0.5, 32, 5, {"mvd_h16_from_h16_800": (87.3, 97.4)}),
    "mvd_h16_800_ssv2": (16, 8, 1, 5e-4, 1e-5, 30, 0.75, 0.3, 0.5, 32, 2, {"mvd_h16_from_h16_800": (77.3, 95.7)}),
}
# The effective learning rates that the facts on the scripts state, peak and minimum.
MVD_RATES = {
    "mvd_s16_k400": (7.5e-4, 1.5e-6), "mvd_s16_ssv2": (1.5e-3, 1.5e-6), "mvd_b16_k400": (7.5e-4, 1.5e-6),
    "mvd_b16_ssv2": (7.5e-4, 1.5e-6), "mvd_l16_k400": (2e-3, 2e-6), "mvd_l16_ssv2": (5e-4, 1e-6),
    "mvd_l16_800_k400": (2e-3, 2e-6), "mvd_l16_800_ssv2": (5e-4, 1e-6), "mvd_h16_800_k400": (1e-3, 1e-6),
    "mvd_h16_800_ssv2": (2.5e-4, 5e-6),
}
# fmt: on


def parse(name: str) -> tuple[FineTuningRun, UMTFineTuningArguments]:
    return parse_recipe(read_recipe(name), ["--output_dir", "unused"], FineTuningRun, UMTFineTuningArguments)


def head(name: str) -> str:
    """The comment at the head of a recipe in one line."""
    lines = (RECIPES_FOLDER / f"{name}.yaml").read_text().splitlines()
    return " ".join(line.strip("# \\") for line in lines if line.startswith("#"))


def test_there_is_a_recipe_for_every_run():
    assert {name for name in recipe_names() if re.match(r"mvd_.*_(k400|ssv2)$", name)} == set(MVD)
    assert MVD_RATES.keys() == MVD.keys() and len(MVD) == 10
    classification = {name for name in recipe_names() if read_recipe(name)["task"] == "classification"}
    assert {name for name in classification if name.startswith("everest_")} == set(EVEREST)


@pytest.mark.parametrize("name", MVD)
def test_the_effective_learning_rate_of_mvd_does_not_count_the_views(name):
    gpus, videos, accumulation, base, base_minimum, *_ = MVD[name]
    _, args = parse(name)
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (videos, accumulation)
    assert args.views_per_video == 2 and args.world_size == 1
    effective = gpus * args.effective_batch_size
    assert effective == 2 * gpus * videos * accumulation
    rates = [scaled_learning_rate(rate, effective) for rate in (args.base_learning_rate, args.base_min_learning_rate)]
    official = [scaled_learning_rate(rate, gpus * videos * accumulation) for rate in (base, base_minimum)]
    assert rates == pytest.approx(official, rel=1e-12) and rates == pytest.approx(MVD_RATES[name], rel=1e-12)
    assert args.base_warmup_learning_rate == 0


@pytest.mark.parametrize("name", MVD)
def test_values_of_mvd(name):
    *_, epochs, layer_decay, drop_path, dropout, blocks, _, _ = MVD[name]
    run, args = parse(name)
    assert (args.num_train_epochs, args.warmup_epochs) == (epochs, 5)
    assert (args.layer_decay, args.weight_decay, args.checkpoint_blocks) == (layer_decay, 0.05, blocks)
    assert (args.mixup_alpha, args.cutmix_alpha, args.label_smoothing_factor) == (0.8, 1.0, 0.1)
    assert (args.adam_beta1, args.adam_beta2, args.adam_epsilon, args.max_grad_norm) == (0.9, 0.999, 1e-8, 0)
    assert args.ema_decay is None and args.bf16 and not args.load_best_model_at_end
    config = UMTConfig(**run.model)
    assert (config.drop_path_rate, config.classifier_dropout) == (drop_path, dropout)
    is_ssv2 = name.endswith("_ssv2")
    assert run.labels == ("ssv2" if is_ssv2 else "k400") and len(load_labels(run.labels)) == (174 if is_ssv2 else 400)
    sampling = ("uniform", None, None, False) if is_ssv2 else ("dense", "strided", 4, True)
    assert (run.sampling, run.eval_sampling, run.frame_stride, run.flip) == sampling
    assert (run.preset, run.init_from, run.train_split, run.eval_split) == ("full", None, "train", "val")


@pytest.mark.parametrize("name", MVD)
def test_a_recipe_of_mvd_begins_with_results_hardware_commands_and_departures(name):
    gpus, videos, accumulation, base, base_minimum, *_, clips, results = MVD[name]
    comment = head(name)
    for student, (top1, top5) in results.items():
        assert re.search(rf"{top1} %( top-1)? and {top5} %( top-5)? from {student}\b", comment)
    assert f"16 frames x 3 crops x {clips} clips" in comment
    assert f"Hardware: {gpus} GPUs" in comment and f"--num_processes {gpus} " in comment
    assert f"--num_machines {gpus // 8} " in comment and f"{2 * gpus * videos * accumulation} here" in comment
    start = next(iter(results))  # a row of the registry, or the folder of a pre-training run
    start = start.replace("_", "-") if start.endswith("_800") else start
    assert f"umt) finetune --config {name} --init-from {start} " in comment
    assert f"--clips {clips} --crops 3 Departures: " in comment
    official = re.search(
        r"half of the official ones, (\S+) and (\S+); the effective rates are equal: (\S+) and (\S+)\. ", comment
    )
    assert [float(rate) for rate in official.groups()] == pytest.approx([base, base_minimum, *MVD_RATES[name]])


# Of a run of EVEREST: blocks, batch, learning rate for 256 videos, epochs, fraction of kept tokens, rule and stride of
# training, clips of the test, top-1 in percent.
# fmt: off
EVEREST = {
    "everest_s16_k400": (12, 384, 5e-4, 75, 0.6, ("dense", 4), 2, 75.9),
    "everest_b16_k400": (12, 384, 1e-3, 35, 0.6, ("dense", 4), 2, 79.2),
    "everest_l16_k400": (24, 128, 2e-3, 35, 0.6, ("dense", 4), 2, 82.1),
    "everest_b16_ssv2": (12, 48, 5e-4, 50, 0.8, ("segments", None), 2, 64.6),
    "everest_b16_ucf101": (12, 128, 1e-3, 100, 0.6, ("dense", 4), 5, 93.4),
    "everest_b16_hmdb51": (12, 128, 1e-3, 50, 0.6, ("dense", 2), 10, 68.1),
    "everest_b16_oscc": (12, 32, 1e-4, 30, 1.0, ("dense", 10), 2, 76.2),
}
# fmt: on


@pytest.mark.parametrize("name", EVEREST)
def test_the_effective_learning_rate_of_everest(name):
    _, batch, base, *_ = EVEREST[name]
    _, args = parse(name)
    gpus = int(re.search(r"Command: \D+(\d+) \$\(which umt\) finetune", head(name))[1])
    assert (args.views_per_video, args.gradient_accumulation_steps, args.world_size) == (1, 1, 1)
    effective = gpus * args.effective_batch_size
    assert effective == batch
    assert scaled_learning_rate(args.base_learning_rate, effective) == pytest.approx(base * batch / 256, rel=1e-12)
    assert scaled_learning_rate(args.base_min_learning_rate, effective) == pytest.approx(1e-6 * batch / 256, rel=1e-12)
    assert args.base_warmup_learning_rate == 0


@pytest.mark.parametrize("name", EVEREST)
def test_values_of_everest(name):
    blocks, _, _, epochs, kept, (sampling, stride), *_ = EVEREST[name]
    run, args = parse(name)
    assert (args.num_train_epochs, args.warmup_epochs) == (epochs, 5)
    assert (args.layer_decay, args.weight_decay, args.checkpoint_blocks) == (0.75, 0.05, blocks)
    assert (args.mixup_alpha, args.cutmix_alpha, args.label_smoothing_factor) == (0, 0, 0.1)
    assert (args.adam_beta1, args.adam_beta2, args.adam_epsilon, args.max_grad_norm) == (0.9, 0.999, 1e-8, 0)
    assert args.ema_decay is None and args.bf16 and not args.load_best_model_at_end
    config = UMTConfig(**run.model)
    assert (config.drop_path_rate, config.classifier_dropout) == (0.1, 0)
    assert run.motion_drop_ratio == pytest.approx(1 - kept)
    data = name.rpartition("_")[2]
    assert (run.sampling, run.frame_stride, run.flip) == (sampling, stride, data != "ssv2")
    assert run.eval_sampling == (None if data == "ssv2" else "strided")
    assert run.labels == (data if data in ("k400", "ssv2") else None)
    assert (run.preset, run.init_from, run.train_split, run.eval_split) == ("full", None, "train", "val")


@pytest.mark.parametrize("name", EVEREST)
def test_a_recipe_of_everest_begins_with_results_hardware_commands_and_departures(name):
    _, batch, *_, clips, top1 = EVEREST[name]
    comment = head(name)
    assert re.search(rf"Expected: {top1} % top-1 \(16 frames x 3 crops x {clips} clips; .*?the paper", comment)
    assert "Hardware: " in comment and f"effective batch size, {batch} here" in comment
    assert f"umt) finetune --config {name} --init-from {name.replace('_', '-')}-pretraining " in comment
    assert f"--clips {clips} --crops 3 Departures: " in comment

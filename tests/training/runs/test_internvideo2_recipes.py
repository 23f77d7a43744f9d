"""The fine-tuning recipes of InternVideo2 compared with the published values."""

import re

import pytest

from modeling_umt import InternVideo2Config
from modeling_umt.labels_umt import load_labels
from umt_training.cards.checkpoint_registry import checkpoint_row, row_names
from umt_training.runs.finetuning_run import FineTuningRun
from umt_training.runs.recipes import RECIPES_FOLDER, parse_recipe, read_recipe, recipe_names
from umt_training.trainers.finetuning import UMTFineTuningArguments
from umt_training.trainers.optimization import scaled_learning_rate

# fmt: off
# Of a run: frames, GPUs, videos per GPU, views, epochs, warm-up epochs, learning rates for 256 clips (peak, minimum),
# layer decay, drop path, row of the registry that it starts from, clips of the test, published top-1 in percent.
RUNS = {
    "s14_k710_f8": (8, 8, 32, 2, 35, 5, 2e-4, 1e-6, 0.75, 0.1, "s14", 4, 79.6),
    "b14_k710_f8": (8, 16, 16, 2, 20, 4, 2e-4, 1e-6, 0.75, 0.1, "b14", 4, 83.5),
    "l14_k710_f8": (8, 16, 16, 2, 14, 2, 2e-4, 1e-6, 0.75, 0.1, "l14", 4, 86.2),
    "s14_ssv2_f8": (8, 8, 32, 2, 30, 5, 5e-4, 1e-6, 0.75, 0.1, "s14", 4, 71.6),
    "b14_ssv2_f8": (8, 16, 16, 2, 10, 2, 2e-4, 1e-6, 0.85, 0.2, "b14", 2, 73.5),
    "1b_k710_f8": (8, 32, 8, 2, 9, 2, 5e-5, 1e-6, 0.9, 0.3, "1b", 4, 87.6),
    "1b_mitv1_f8": (8, 32, 8, 1, 15, 5, 5e-5, 1e-6, 0.9, 0.3, "1b_k400", 4, 50.8),
    "1b_ssv1_f8": (8, 32, 8, 2, 9, 3, 1e-4, 1e-6, 0.915, 0.3, "1b", 4, 68.5),
    "1b_ssv2_f8": (8, 32, 8, 2, 8, 3, 1e-4, 1e-6, 0.915, 0.3, "1b", 2, 77.1),
    "6b_k710_f8": (8, 64, 4, 2, 6, 1, 2.5e-5, 0.0, 0.915, 0.35, None, 4, 88.1),
}
KINETICS = {
    "k400": {"s14": 85.4, "b14": 88.4, "l14": 90.4, "1b": (91.3, 91.6), "6b": (91.9, 92.1)},
    "k600": {"s14": 86.0, "b14": 88.9, "l14": 90.6, "1b": (91.4, 91.6), "6b": (91.7, 91.9)},
    "k700": {"s14": 75.7, "b14": 80.5, "l14": 83.5, "1b": (85.0, 85.4), "6b": (85.7, 85.9)},
}
# fmt: on
for _data, _published in KINETICS.items():
    for _size in ("s14", "b14", "l14"):
        _start = f"{_size}_k710"
        RUNS[f"{_size}_{_data}_f8"] = (8, 32, 32, 2, 5, 1, 2e-5, 1e-6, 0.75, 0.1, _start, 4, _published[_size])
    for _frames, _videos, _top1s in ((8, 4, 0), (16, 2, 1)):
        _1b, _6b = _published["1b"][_top1s], _published["6b"][_top1s]
        RUNS[f"1b_{_data}_f{_frames}"] = (_frames, 32, 8, 2, 3, 0, 1e-5, 1e-6, 0.9, 0.3, "1b_k710", 4, _1b)
        RUNS[f"6b_{_data}_f{_frames}"] = (_frames, 64, _videos, 2, 1, 0, 1e-5, 1e-6, 0.915, 0.35, None, 4, _6b)
# The effective learning rates of runs of each kind, by hand.
RATES = {
    "s14_k710_f8": 4e-4, "l14_k400_f8": 1.6e-4, "s14_ssv2_f8": 1e-3, "b14_ssv2_f8": 4e-4, "1b_k710_f8": 1e-4,
    "1b_k600_f16": 2e-5, "1b_mitv1_f8": 5e-5, "1b_ssv1_f8": 2e-4, "6b_k710_f8": 5e-5, "6b_k700_f8": 2e-5,
    "6b_k700_f16": 1e-5,
}  # fmt: skip


def parse(name: str) -> tuple[FineTuningRun, UMTFineTuningArguments]:
    recipe = read_recipe(f"internvideo2_{name}")
    return parse_recipe(recipe, ["--output_dir", "unused"], FineTuningRun, UMTFineTuningArguments)


def head(name: str) -> str:
    """The comment at the head of a recipe in one line."""
    lines = (RECIPES_FOLDER / f"internvideo2_{name}.yaml").read_text().splitlines()
    return " ".join(line.strip("# \\") for line in lines if line.startswith("#"))


def test_there_is_a_recipe_for_every_run():
    classification = {name for name in recipe_names() if read_recipe(name)["task"] == "classification"}
    of_internvideo2 = {name for name in classification if name.startswith("internvideo2_")}
    assert of_internvideo2 == {f"internvideo2_{name}" for name in RUNS} and len(RUNS) == 31


@pytest.mark.parametrize("name", RUNS)
def test_the_effective_learning_rate_counts_processes_videos_and_views(name):
    _, gpus, videos, views, _, _, base, minimum, *_ = RUNS[name]
    _, args = parse(name)
    assert (args.per_device_train_batch_size, args.views_per_video) == (videos, views)
    assert args.gradient_accumulation_steps == 1 and args.world_size == 1
    effective = gpus * args.effective_batch_size
    assert effective == gpus * videos * views
    for rate, published in (
        (args.base_learning_rate, base),
        (args.base_min_learning_rate, minimum),
        (args.base_warmup_learning_rate, 1e-6),
    ):
        expected = published * gpus * videos * views / 256
        assert scaled_learning_rate(rate, effective) == pytest.approx(expected, rel=1e-12)
    if name in RATES:
        assert scaled_learning_rate(args.base_learning_rate, effective) == pytest.approx(RATES[name], rel=1e-12)


@pytest.mark.parametrize("name", RUNS)
def test_values(name):
    frames, _, _, _, epochs, warmup, _, _, layer_decay, drop_path, start, _, _ = RUNS[name]
    run, args = parse(name)
    assert (args.num_train_epochs, args.warmup_epochs) == (epochs, warmup)
    assert (args.layer_decay, args.weight_decay) == (layer_decay, 0.05)
    assert (args.mixup_alpha, args.cutmix_alpha, args.label_smoothing_factor) == (0.8, 1.0, 0.1)
    assert (args.adam_beta1, args.adam_beta2, args.adam_epsilon, args.max_grad_norm) == (0.9, 0.999, 1e-8, 0)
    assert args.ema_decay is None and args.bf16 and args.metric_for_best_model == "top1"
    config = InternVideo2Config(**run.model)
    assert (config.num_frames, config.image_size, config.drop_path_rate) == (frames, 224, drop_path)
    data = name.split("_")[1]
    is_something = data.startswith("ssv")
    assert (run.sampling, run.flip) == (("segments", False) if is_something else ("sparse", True))
    classes = {"k710": 710, "k400": 400, "k600": 600, "k700": 700, "mitv1": 339, "ssv2": 174}
    assert run.labels == (data if data in classes else None)
    assert run.labels is None or len(load_labels(run.labels)) == classes[data]
    row = checkpoint_row(f"internvideo2_{start}") if start else None
    is_known = row is not None and row.official_file is not None  # the names of some files are not known
    assert run.init_from == (f"{row.source['hub']}:{row.official_file}" if is_known else None)
    assert (run.preset, run.train_split, run.eval_split) == ("full", "train", "val")


@pytest.mark.parametrize("name", RUNS)
def test_a_recipe_begins_with_result_hardware_commands_and_departures(name):
    frames, gpus, videos, views, *_, clips, top1 = RUNS[name]
    comment, (run, _) = head(name), parse(name)
    assert f"Expected: {top1} % top-1 ({frames} frames x 3 crops x 4 clips in the authors' model zoo" in comment
    assert f"Hardware: {gpus} GPUs" in comment and f"--num_processes {gpus} " in comment
    assert f"effective batch size, {gpus * videos * views} here" in comment
    assert (f"--num_machines {gpus // 8} " in comment) == (gpus > 8)
    data, folder = name.split("_")[1], f"internvideo2_{name}".replace("_", "-")
    command = re.search(rf"umt\) finetune --config internvideo2_{name} (.*?--output-dir \S+)", comment)[1].split()
    start = command[command.index("--init-from") + 1] if "--init-from" in command else None
    assert (start is None) == (run.init_from is not None)
    size = name.split("_")[0]
    assert start in (None, f"internvideo2-{size}.pth" if data == "k710" else f"internvideo2-{size}-k710-f8")
    assert command[-6:] == ["--data", data, "--data-root", "videos", "--output-dir", folder]
    sampling = " --sampling segments" if data.startswith("ssv") else ""
    assert f"evaluate --model {folder} --data {data}/test.csv --root videos --clips {clips} --crops 3{sampling} " in (
        comment.replace(" \\ ", " ")
    )
    assert "Departures: bf16" in comment and ("The zoo prints 4 clips" in comment) == (clips != 4)
    assert ("in place of the result" in comment) == (name in ("l14_k710_f8", "b14_ssv2_f8", "1b_k600_f8"))


def test_the_results_are_those_of_the_registry_and_its_rows_name_the_recipes():
    rows = {row.name: row for row in map(checkpoint_row, row_names()) if row.kind == "internvideo2_classification"}
    for name, row in rows.items():
        recipe = name.removeprefix("internvideo2_") + ("" if name.endswith("_f16") else "_f8")
        assert row.recipe == (f"internvideo2_{recipe}" if recipe in RUNS else None)
        if recipe in RUNS:
            assert (row.frames, row.top1) == (RUNS[recipe][0], RUNS[recipe][-1])
    assert [name for name, row in rows.items() if row.recipe is None] == ["internvideo2_l14_ssv2"]

"""The help of `umt pretrain` and `umt finetune`: options by group, recipes, examples; and the arguments of both."""

import argparse
import re
import textwrap
from collections.abc import Mapping
from typing import Any

from ..runs.recipes import RECIPES_FOLDER, read_recipe, recipe_names
from ..runs.task_classes import TASKS, Option, find_task, task_options

GROUPS = {
    "data": (
        "data", "eval_data", "data_root", "train_split", "eval_split", "eval_share", "labels", "label_map",
        "excluded", "eval_excluded", "start", "frame_stride", "sampling_fps", "streaming",
        "samples_per_epoch", "video_data", "image_data", "video_root", "image_root", "positives", "videos_per_epoch",
        "images_per_epoch", "eval_root", "answers", "paragraph", "several_videos", "trim_seconds", "sampling",
        "eval_sampling", "flip",
        "frame_pool_ratio", "views_per_video", "num_frames", "max_text_length", "max_broken_share",
    ),
    "model": (
        "init_from", "teacher", "teacher_image_size", "teacher_layer_interval", "teachers", "text", "preset",
        "lora_rank", "merge_lora", "model", "vision", "motion_drop_ratio", "mask_type", "mask_ratio", "keep_ratio",
        "image_mask_ratio", "num_masks_per_clip", "license",
    ),
    "optimisation": (
        "num_train_epochs", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps",
        "base_learning_rate", "base_min_learning_rate", "base_warmup_learning_rate", "learning_rate",
        "learning_rate_floor", "warmup_epochs", "warmup_steps", "layer_decay", "weight_decay", "adam_beta1",
        "adam_beta2", "max_grad_norm", "label_smoothing_factor", "mixup_alpha", "cutmix_alpha", "ema_decay",
        "contrastive_gradients", "max_nonfinite_steps", "seed",
    ),
    "evaluation and saving": (
        "output_dir", "eval_strategy", "per_device_eval_batch_size", "scored", "num_reranked", "metric_for_best_model",
        "load_best_model_at_end", "early_stopping_patience", "save_strategy", "save_steps", "save_total_limit",
        "resume_from_checkpoint", "logging_steps", "report_to", "run_name", "push_to_hub", "hub_model_id",
        "hub_private_repo",
    ),
    "hardware": (
        "bf16", "fp16", "use_cpu", "dataloader_num_workers", "torch_compile", "checkpoint_blocks", "checkpoint_text",
        "checkpoint_video", "num_devices",
    ),
}  # fmt: skip
# the learning rate of a task is either scaled by the batch or absolute; arguments of the other kind are refused
BATCH_SCALED = {"base_learning_rate", "base_min_learning_rate", "base_warmup_learning_rate", "label_smoothing_factor"}
ABSOLUTE = {"learning_rate"}
EXAMPLES = {
    "pretrain": """\
  umt pretrain --config umt_b16_k710_stage1 --estimate
  umt pretrain --config umt_b16_k710_stage1 --data videos/ --output-dir stage1
  umt pretrain --config mvd_b16_from_b16 --data videos/ --output-dir mvd
  umt pretrain --config umt_b16_5m_stage2 --init-from stage1 --video-data captions.json --video-root videos/
  umt pretrain --config umt_b16_k710_stage1 --mask-ratio 0.9 --print-config > my_recipe.yaml""",
    "finetune": """\
  umt finetune --data clips/ --init-from umt-l16-k710 --output-dir my-model
  umt finetune --data clips/ --init-from umt-l16-k710 --preset lora --output-dir my-model
  umt finetune --config small_detection --data clips/ --init-from umt-l16-k710 --output-dir my-model
  umt finetune --config umt_b16_msrvtt_retrieval --data train.json --data-root videos/ --output-dir my-model
  umt finetune --config small_data --num-train-epochs 10 --print-config > my_recipe.yaml""",
}


def add_run_arguments(parser: argparse.ArgumentParser, default_recipe: str | None) -> None:
    """The arguments of a command that runs a recipe; everything else on its command line overrides a key."""
    parser.add_argument("-h", "--help", action="store_true", help="show this help and exit")
    parser.add_argument(
        "--config", metavar="RECIPE", default=default_recipe, help="name of a recipe, or path of a YAML file"
    )
    parser.add_argument(
        "--print-config",
        action="store_true",
        help="print the recipe with all overrides as YAML, which --config reads, and exit",
    )


def require_recipe(command: str, name: str | None) -> str:
    """The name of the recipe; without one, a ValueError that lists the recipes of the command."""
    if name is None:
        known = [recipe for recipes in command_recipes(command).values() for recipe in recipes]
        raise ValueError(f"No recipe given; add --config with one of {', '.join(known)}, or the path of a YAML file.")
    return name


def command_recipes(command: str) -> dict[str, dict[str, str]]:
    """Task → name → the first line of each recipe of the package that a command runs."""
    found: dict[str, dict[str, str]] = {task: {} for task, (owner, *_) in TASKS.items() if owner == command}
    for name in recipe_names():
        text = (RECIPES_FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
        task = re.search(r"^task: (\w+)", text, re.MULTILINE)[1]
        if task in found:
            found[task][name] = text.partition("\n")[0].lstrip("# ")
    return found


def run_help(command: str, parser: argparse.ArgumentParser, recipe_name: str | None) -> str:
    """The help of a command for the task of a recipe, by default its first task.

    Raises:
        ValueError: the recipe does not exist, or the command does not run its task.
    """
    recipes = command_recipes(command)
    recipe = {} if recipe_name is None else read_recipe(recipe_name)
    task = next(iter(recipes)) if recipe_name is None else find_task(command, recipe)
    shown = argparse.ArgumentParser(
        prog=parser.prog,
        usage=f"{parser.prog} --config RECIPE [--KEY VALUE ...]",
        description=describe_task(parser.description, task, recipe_name, list(recipes)),
        epilog=epilog(command, recipes),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    for action in parser._actions:
        shown._add_action(action)
    add_options(shown, task_options(task), recipe)
    return shown.format_help()


def describe_task(description: str, task: str, recipe_name: str | None, tasks: list[str]) -> str:
    subject = f"of the task {task}" + (f", with the values of {recipe_name}" if recipe_name else "")
    others = ", ".join(name for name in tasks if name != task)
    text = (
        f"{description[0].upper()}{description[1:]}. --key value overrides any key of the recipe; - and _ are the "
        f"same in a key. Below are the options {subject}; for {others}, give a --config of that task. Every other "
        "field of transformers.TrainingArguments is an option too. On a CPU a run is in float32 unless --bf16 true is "
        "given."
    )
    return textwrap.fill(text, 110)


def add_options(parser: argparse.ArgumentParser, options: Mapping[str, Option], recipe: Mapping[str, Any]) -> None:
    """The options of a task in groups, each with its value in the recipe, or its default."""
    without_effect = BATCH_SCALED if "learning_rate_floor" in options else ABSOLUTE
    for title, names in GROUPS.items():
        group = parser.add_argument_group(title)
        for name in names:
            if name not in options or name in without_effect:
                continue
            option, source = options[name], "default" if recipe.get(name) is None else "recipe"
            value = option.default if source == "default" else recipe[name]
            shown = "" if value in (None, "", [], {}) else f" ({source}: {as_yaml(value)})"
            text = f"{option.help.rstrip('.')}{shown}".replace("%", "%%").replace("`", "")
            group.add_argument(f"--{name.replace('_', '-')}", metavar="VALUE", help=text)


def as_yaml(value: Any) -> str:
    """A value as a command line takes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def epilog(command: str, recipes: Mapping[str, Mapping[str, str]]) -> str:
    lines = []
    for task, names in recipes.items():
        lines.append(f"recipes of the task {task}:")
        lines += [f"  {name:<32} {textwrap.shorten(title, 84, placeholder=' ...')}" for name, title in names.items()]
        lines.append("")
    return "\n".join([*lines, "examples:", EXAMPLES[command]])

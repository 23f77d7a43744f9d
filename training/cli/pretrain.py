"""`umt pretrain`: stage 1 or stage 2, by the `task` of a recipe. `--key value` overrides any key of the recipe."""

import argparse

HELP = "pre-train on unlabelled videos (stage 1) or on captioned videos and images (stage 2)"
TAKES_OVERRIDES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        required=True,
        help="recipe: umt_{b16,l16}_k710_stage1, umt_{b16,l16}_{5m,17m,25m}_stage2, or the path of a YAML file",
    )
    parser.add_argument("--estimate", action="store_true", help="print the cost of the run without training")
    parser.epilog = (
        "--key value overrides any key of the recipe, e.g. --data videos/ --output_dir run1 "
        "--per_device_train_batch_size 8. Keys are the fields of PreTrainingRun (umt_training.runs.pretraining_run), "
        "in stage 2 VideoTextRun (umt_training.runs.video_text_run), and of transformers.TrainingArguments. On a CPU "
        "a run is in float32 unless --bf16 true is given."
    )


def run(args: argparse.Namespace) -> int:
    from ..runs.tasks import estimate, pretrain

    if args.estimate:
        print(estimate(args.config, args.overrides))
    else:
        pretrain(args.config, args.overrides)
    return 0

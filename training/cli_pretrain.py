"""`umt pretrain`: stage 1 from a recipe. Any key of the recipe can be overridden as `--key value`."""

import argparse

HELP = "pre-train a UMT encoder on unlabelled videos (stage 1)"
TAKES_OVERRIDES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", required=True, help="a recipe: umt_b16_k710_stage1, umt_l16_k710_stage1 or a YAML file of yours"
    )
    parser.add_argument("--estimate", action="store_true", help="print what the run would cost, and train nothing")
    parser.epilog = (
        "Any key of the recipe can be overridden as --key value, e.g. --data videos/ --output_dir run1 "
        "--per_device_train_batch_size 8. Keys are the fields of PreTrainingRun (training/pretraining_run.py) and of "
        "transformers.TrainingArguments. On a CPU the arithmetic is float32 unless --bf16 true insists."
    )


def run(args: argparse.Namespace) -> int:
    from .pretraining_run import estimate_run, pretrain

    if args.estimate:
        print(estimate_run(args.config, args.overrides))
    else:
        pretrain(args.config, args.overrides)
    return 0

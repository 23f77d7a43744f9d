"""`umt finetune`: action recognition from a recipe. Any key of the recipe can be overridden as `--key value`."""

import argparse

HELP = "fine-tune a UMT encoder to classify videos"
TAKES_OVERRIDES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", default="small_data", help="a recipe: small_data, umt_l16_k400_f8, ... or a YAML file of yours"
    )
    parser.epilog = (
        "Any key of the recipe can be overridden as --key value, e.g. --data clips/ --init_from umt-l16-k710 "
        "--preset lora --output_dir run1. Keys are the fields of FineTuningRun (training/finetuning_run.py) and of "
        "transformers.TrainingArguments."
    )


def run(args: argparse.Namespace) -> int:
    from .finetuning_run import finetune

    finetune(args.config, args.overrides)
    return 0

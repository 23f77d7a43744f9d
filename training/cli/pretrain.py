"""`umt pretrain`: both stages, from a recipe. Any key of the recipe can be overridden as `--key value`.

A recipe that names a text encoder, by the key `text`, is of stage 2.
"""

import argparse

HELP = "pre-train on unlabelled videos (stage 1) or on captioned videos and images (stage 2)"
TAKES_OVERRIDES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        required=True,
        help="a recipe: umt_{b16,l16}_k710_stage1, umt_{b16,l16}_{5m,17m,25m}_stage2, or a YAML file of yours",
    )
    parser.add_argument("--estimate", action="store_true", help="print what the run would cost, and train nothing")
    parser.epilog = (
        "Any key of the recipe can be overridden as --key value, e.g. --data videos/ --output_dir run1 "
        "--per_device_train_batch_size 8. Keys are the fields of PreTrainingRun (training/runs/pretraining_run.py), "
        "or in stage 2 of VideoTextRun (training/runs/video_text_run.py), and of transformers.TrainingArguments. On a "
        "CPU the arithmetic is float32 unless --bf16 true insists."
    )


def run(args: argparse.Namespace) -> int:
    from ..runs.recipes import read_recipe

    if "text" in read_recipe(args.config):
        from ..runs.video_text_run import estimate_run
        from ..runs.video_text_run import pretrain_video_text as pretrain
    else:
        from ..runs.pretraining_run import estimate_run, pretrain

    if args.estimate:
        print(estimate_run(args.config, args.overrides))
    else:
        pretrain(args.config, args.overrides)
    return 0

"""`umt finetune`: classification, retrieval or question answering, by the `task` of a recipe. `--key value` overrides
any key of the recipe."""

import argparse

HELP = "fine-tune a UMT model for classification, text-video retrieval or question answering"
TAKES_OVERRIDES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        default="small_data",
        help="recipe: small_data, umt_l16_k400_f8, umt_l16_msrvtt_retrieval, ... or the path of a YAML file",
    )
    parser.epilog = (
        "--key value overrides any key of the recipe, e.g. --data clips/ --init_from umt-l16-k710 --preset lora "
        "--output_dir run1. Keys are the fields of FineTuningRun (umt_training.runs.finetuning_run), for retrieval "
        "RetrievalRun (umt_training.runs.retrieval_run), for question answering QuestionAnsweringRun "
        "(umt_training.runs.question_answering_run), and of transformers.TrainingArguments. On a CPU a run is in "
        "float32 unless --bf16 true is given."
    )


def run(args: argparse.Namespace) -> int:
    from ..runs.tasks import finetune

    finetune(args.config, args.overrides)
    return 0

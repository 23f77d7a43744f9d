"""`umt finetune`: action recognition or retrieval from a recipe. Any key of it can be overridden as `--key value`.

The recipe's key `task` says which; without one it is action recognition.
"""

import argparse
import importlib

HELP = "fine-tune a UMT model to classify videos, to find them by texts, or to answer questions about them"
TAKES_OVERRIDES = True

# of a task: the module and its function of a recipe and overrides
RUNS = {
    "classification": ("finetuning_run", "finetune"),
    "retrieval": ("retrieval_run", "finetune_retrieval"),
    "question_answering": ("question_answering_run", "finetune_question_answering"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        default="small_data",
        help="a recipe: small_data, umt_l16_k400_f8, umt_l16_msrvtt_retrieval, ... or a YAML file of yours",
    )
    parser.epilog = (
        "Any key of the recipe can be overridden as --key value, e.g. --data clips/ --init_from umt-l16-k710 "
        "--preset lora --output_dir run1. Keys are the fields of FineTuningRun (training/runs/finetuning_run.py), for "
        "retrieval of RetrievalRun (training/runs/retrieval_run.py), for question answering of QuestionAnsweringRun "
        "(training/runs/question_answering_run.py), and of transformers.TrainingArguments."
    )


def run(args: argparse.Namespace) -> int:
    from ..runs.recipes import read_recipe

    task = read_recipe(args.config).get("task", "classification")
    if task not in RUNS:
        raise ValueError(f"The recipe {args.config} is of the task {task!r}; this command knows {', '.join(RUNS)}.")
    module, function = RUNS[task]
    getattr(importlib.import_module(f"..runs.{module}", __package__), function)(args.config, args.overrides)
    return 0

"""`umt finetune`: classification, action detection, retrieval or question answering, by the `task` of a recipe.
`--key value` overrides any key of the recipe."""

import argparse

from .arguments import require_all_processes
from .run_help import add_run_arguments, run_help

HELP = "fine-tune a UMT model for classification, action detection, text-video retrieval or question answering"
TAKES_OVERRIDES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_arguments(parser, default_recipe="small_data")
    parser.set_defaults(parser=parser)


def run(args: argparse.Namespace) -> int:
    if args.help:
        print(run_help("finetune", args.parser, args.config), end="")
        return 0

    from ..runs.tasks import finetune, resolved_recipe

    if args.print_config:
        print(resolved_recipe("finetune", args.config, args.overrides), end="")
    else:
        require_all_processes()
        finetune(args.config, args.overrides)
    return 0

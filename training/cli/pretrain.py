"""`umt pretrain`: stage 1, stage 2, masked modelling or distillation, by the `task` of a recipe.

`--key value` overrides a key.
"""

import argparse

from .arguments import require_all_processes
from .run_help import add_run_arguments, require_recipe, run_help

HELP = (
    "pre-train on unlabelled videos (stage 1, masked modelling, distillation), or on captioned videos and images "
    "(stage 2)"
)
TAKES_OVERRIDES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_arguments(parser, default_recipe=None)
    parser.add_argument("--estimate", action="store_true", help="print the cost of the run without training")
    parser.set_defaults(parser=parser)


def run(args: argparse.Namespace) -> int:
    if args.help:
        print(run_help("pretrain", args.parser, args.config), end="")
        return 0
    recipe = require_recipe("pretrain", args.config)

    from ..runs.tasks import estimate, pretrain, resolved_recipe

    if args.print_config:
        print(resolved_recipe("pretrain", recipe, args.overrides), end="")
    elif args.estimate:
        print(estimate(recipe, args.overrides))
    else:
        require_all_processes()
        pretrain(recipe, args.overrides)
    return 0

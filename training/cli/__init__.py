"""The command `umt`: one sub-command per module of this folder.

Slow imports such as torch happen only when a command runs, so that `umt --help` is fast. A command module defines
`HELP` (one line), `add_arguments(parser)` and `run(args) -> exit code`; with `TAKES_OVERRIDES` it also receives
arguments that it did not declare, as the list `args.overrides`.
"""

import argparse
import importlib
import sys

COMMANDS = (
    "classify", "embed", "search", "ask", "convert", "check-videos", "show-mask", "pretrain", "finetune", "evaluate",
    "card", "publish", "demo",
)  # fmt: skip


class DefaultsHelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults other than None and False."""

    def _get_help_string(self, action: argparse.Action) -> str:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def main(argv: list[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own) and return its exit code.

    User errors, such as a wrong file or value, are reported in one line on stderr with exit code 1. An unknown
    argument ends with argparse's exit code 2, an interruption with 130.
    """
    parser = argparse.ArgumentParser(
        prog="umt",
        description="Unmasked Teacher (UMT) video models: classify, search, ask, convert, train, evaluate, publish.",
    )
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        command = importlib.import_module(f".{name.replace('-', '_')}", __package__)
        subparser = subparsers.add_parser(
            name, help=command.HELP, description=command.HELP, formatter_class=DefaultsHelpFormatter
        )
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run, takes_overrides=getattr(command, "TAKES_OVERRIDES", False))

    args, args.overrides = parser.parse_known_args(argv)
    if args.overrides and not args.takes_overrides:
        parser.error(f"unrecognized arguments: {' '.join(args.overrides)}")
    try:
        return args.run(args)
    except KeyboardInterrupt:
        print("umt: interrupted", file=sys.stderr)
        return 130
    except (OSError, ValueError) as error:
        print(f"umt {args.command}: {error}", file=sys.stderr)
        return 1

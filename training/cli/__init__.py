"""The command `umt`: one sub-command per module of this folder.

Slow imports such as torch happen only when a command runs, so that `umt --help` is fast. A command module defines
`HELP` (one line), `add_arguments(parser)` and `run(args) -> exit code`. With `TAKES_OVERRIDES` it also receives
arguments that it did not declare, as the list `args.overrides`. An optional `shares_work(args)` states whether
processes of a launcher share the work.
"""

import argparse
import importlib
import importlib.metadata
import os
import platform
import sys
from typing import NoReturn

from ..processes import launched_processes
from ..suggestions import did_you_mean
from ..terminal import printable
from .process_errors import print_error

COMMANDS = (
    "classify", "embed", "search", "ask", "detect", "convert", "check-videos", "show-mask", "pretrain", "finetune",
    "evaluate", "card", "publish", "demo", "app",
)  # fmt: skip
SHARED_BY_PROCESSES = ("pretrain", "finetune", "evaluate", "detect", "search")  # whatever their arguments
VERSIONS = ("torch", "transformers", "av")


class DefaultsHelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults other than None and False."""

    def _get_help_string(self, action: argparse.Action) -> str:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """A parser that reports an error in one line, with a suggestion, and that does not abbreviate options."""

    def __init__(self, **kwargs):
        super().__init__(**{"formatter_class": DefaultsHelpFormatter, "allow_abbrev": False, **kwargs})

    def _check_value(self, action: argparse.Action, value: object) -> None:
        if action.choices is not None and value not in action.choices:
            choices = ", ".join(map(str, action.choices))
            advice = did_you_mean(str(value), map(str, action.choices))
            raise argparse.ArgumentError(action, f"{value!r} is not one of {choices}{advice}")

    def error(self, message: str) -> NoReturn:
        print_error(f"{self.prog}: {message}; see {self.prog} --help")
        self.exit(2)


def main(argv: list[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own) and return its exit code.

    User errors, such as a wrong file or value, are reported in one line on stderr with exit code 1; `errors` states
    which exceptions they are, and all others show their traceback. Under a launcher, an error that all processes have
    is reported once. A command line that can't be parsed ends with
    argparse's exit code 2, an interruption with 130.
    """
    parser = Parser(
        prog="umt",
        description="Unmasked Teacher (UMT) video models: classify, search, ask, detect, convert, train, evaluate, "
        "publish.",
    )
    parser.add_argument(
        "--version", action="store_true", help="print the versions of this package and of its main ones"
    )
    parser.add_argument(
        "--max-download", type=float, metavar="GIB", help="largest video that is downloaded from a URL (default: 4)"
    )
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands = {}
    for name in COMMANDS:
        command = importlib.import_module(f".{name.replace('-', '_')}", __package__)
        takes_overrides = getattr(command, "TAKES_OVERRIDES", False)  # its help depends on the recipe
        commands[name] = subparsers.add_parser(
            name, help=command.HELP, description=command.HELP, add_help=not takes_overrides
        )
        command.add_arguments(commands[name])
        commands[name].set_defaults(run=command.run, takes_overrides=takes_overrides)
        shares_work = getattr(command, "shares_work", lambda args: args.command in SHARED_BY_PROCESSES)
        commands[name].set_defaults(shares_work=shares_work)

    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files that are not UTF-8
    argv = check_names(sys.argv[1:] if argv is None else argv, parser, commands)
    args, args.overrides = parser.parse_known_args(argv)
    if args.version:
        print(versions())
        return 0
    if args.command is None:
        parser.error(f"a command is required: {', '.join(COMMANDS)}")
    if args.overrides and not args.takes_overrides:
        commands[args.command].error(f"unrecognized arguments: {' '.join(args.overrides)}")
    if args.max_download is not None:
        set_max_download(args.max_download, parser)
    try:
        if not args.shares_work(args):
            refuse_several_processes()
        return args.run(args)
    except KeyboardInterrupt:
        print_error("umt: interrupted")
        return 130
    except BrokenPipeError:  # such as `umt classify … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        from .errors import user_message

        message = user_message(error)
        if message is None:
            raise
        print_error(f"umt {args.command}: {printable(message)}")
        return 1


def refuse_several_processes() -> None:
    """Raise a ValueError if a launcher started several processes, each of which would do all of the work."""
    if launched_processes() > 1:
        raise ValueError(
            f"this command runs in one process, but a launcher started {launched_processes()}, which would all do the "
            f"same; start it without a launcher. {', '.join(SHARED_BY_PROCESSES)} share their work, and so do "
            "classify and embed with a folder as --output."
        )


def set_max_download(gib: float, parser: Parser) -> None:
    """Set the largest size of a download, for this process and those that it forks."""
    if not 0 < gib < 1 << 30:
        parser.error(f"--max-download is {gib:g}; expected a number of GiB above 0")
    from processing_umt import video_download_umt

    video_download_umt.MAX_DOWNLOAD_BYTES = round(gib * (1 << 30))


def check_names(argv: list[str], parser: Parser, commands: dict[str, Parser]) -> list[str]:
    """The command line with `-` for every `_` in the names of declared options.

    Unknown commands and options are errors here, before argparse reports what is missing because of them.
    """
    if not argv or argv[0].startswith("-"):
        return argv
    command = commands.get(argv[0].replace("_", "-"))
    if command is None:
        parser.error(f"the command {argv[0]!r} does not exist{did_you_mean(argv[0], COMMANDS) or unknown_command()}")
    known = command._option_string_actions
    checked = [argv[0].replace("_", "-")]
    for position, word in enumerate(argv[1:], 1):
        if word == "--":
            return checked + argv[position:]
        name, separator, value = word.partition("=")
        if name.startswith("--") and " " not in name:
            spelled = name.replace("_", "-")
            if spelled in known:
                word = spelled + separator + value
            elif not command.get_default("takes_overrides"):
                command.error(f"the option {name} does not exist{did_you_mean(spelled, known)}")
        checked.append(word)
    return checked


def unknown_command() -> str:
    return f"; commands are {', '.join(COMMANDS)}"


def versions() -> str:
    """Versions of this package, Python and the packages that determine results, in one line."""
    found = [f"python {platform.python_version()}"]
    for package in ("unmasked-teacher", *VERSIONS):
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:  # a checkout that is not installed
            found.append(f"{package} (not installed)")
    return ", ".join([found[1], *found[2:], found[0]])

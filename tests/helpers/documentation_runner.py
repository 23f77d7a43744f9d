"""Runs the code blocks of a page of the documentation from top to bottom, in a folder with tiny files of the names in
it. Commands run in this process: the start of an interpreter takes longer than most of them."""

import argparse
import io
import json
import re
import runpy
import shlex
import shutil
import sys
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack, redirect_stderr, redirect_stdout, suppress
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import yaml
from markdown_code import fenced_blocks, shell_commands

from umt_training.cli import COMMANDS, main
from umt_training.runs.recipes import read_recipe
from umt_training.runs.tasks import resolved_recipe

TRAININGS = ("pretrain", "finetune")
PRETRAININGS = ("stage1", "stage2", "masked_modeling", "distillation")
OUTPUT_DIR = re.compile(r"output[-_]dir[ \":,=]+([\w./-]+)")
# what makes the run of a recipe tiny
FEW_STEPS = {
    "num_train_epochs": 1, "warmup_epochs": 0, "per_device_train_batch_size": 2, "per_device_eval_batch_size": 2,
    "gradient_accumulation_steps": 1, "dataloader_num_workers": 0, "report_to": "none", "disable_tqdm": True,
}  # fmt: skip
SIZES = {"hidden_size": 32, "num_hidden_layers": 6, "num_attention_heads": 2, "intermediate_size": 64}
DECODER = {"decoder_hidden_size": 16, "decoder_num_attention_heads": 2, "decoder_num_hidden_layers": 1}
TEACHERS = {"image": "facebook/vit-mae-base", "video": "MCG-NJU/videomae-base"}  # in the Hub's cache, 32 wide


def tiny_options(command: str, arguments: list[str]) -> list[str]:
    """Options that make a documented command small: few steps, and tiny sizes where a model starts from scratch."""
    if command not in TRAININGS:
        is_classified = command == "evaluate" and not {"--task", "--clips"} & set(arguments)
        one_view = ["--clips", "1", "--crops", "1"] if is_classified else []
        accepts_workers = command in ("evaluate", "classify", "embed", "search")
        return [*one_view, *(["--num-workers", "0"] if accepts_workers else [])]
    if {"--estimate", "--print-config", "--help"} & set(arguments):
        return []
    recipe = read_recipe(option(arguments, "--config") or "small_data")
    few_views = {"views_per_video": 1} if "views_per_video" in recipe else {}
    held_out = {"eval_share": 0.5} if recipe["task"] == "classification" and "eval_share" in recipe else {}
    fields = FEW_STEPS | few_views | held_out | tiny_model(recipe)
    words = ((f"--{name.replace('_', '-')}", value) for name, value in fields.items())
    return [word for name, value in words for word in (name, value if isinstance(value, str) else json.dumps(value))]


def tiny_model(recipe: Mapping) -> dict:
    task = recipe["task"]
    if "checkpoint_blocks" in recipe:
        return {"checkpoint_blocks": 1}
    if task == "masked_modeling":
        targets = recipe["model"]["masked_targets"]
        if "pixels" in targets:
            return {"model": SIZES | DECODER}
        return {"model": SIZES | DECODER | {"masked_targets": dict.fromkeys(targets, 32)}, "teachers": TEACHERS}
    if task == "distillation":
        sizes = SIZES | {"num_hidden_layers": 2, "num_aligned_layers": 2, "num_pooling_heads": 16}
        return {"model": sizes, "teacher_layer_interval": 1}
    if task == "stage2":
        return {"vision": SIZES}
    if task == "stage1":
        return {"model": SIZES}
    return {}


def option(arguments: list[str], name: str) -> str | None:
    return arguments[arguments.index(name) + 1] if name in arguments else None


class Parsed(Exception):
    """The arguments of a script were parsed."""


def parse_script(words: list[str]) -> None:
    """Starts `python FILE` or `python -m MODULE` in this process and stops it when its arguments are parsed; without
    arguments, checks that the script exists."""

    def parse_and_stop(parser, *args, **kwargs):
        parse_args(parser, *args, **kwargs)
        raise Parsed

    parse_args = ArgumentParser.parse_args
    is_module = words[1] == "-m"
    if len(words) == (3 if is_module else 2):  # there is nothing to parse, and some scripts take no arguments
        assert find_spec(words[2]) if is_module else Path(words[1]).is_file(), shlex.join(words)
        return
    run, name, arguments = (
        (runpy.run_module, words[2], words[3:]) if is_module else (runpy.run_path, words[1], words[2:])
    )
    path = sys.path if is_module else [str(Path(name).parent), *sys.path]
    with (
        mock.patch.object(ArgumentParser, "parse_args", parse_and_stop),
        mock.patch.object(sys, "argv", [name, *arguments]),
        mock.patch.object(sys, "path", path),
    ):
        try:
            run(name, run_name="__main__")
        except Parsed:
            return
    raise AssertionError(f"{shlex.join(words)} did not parse arguments")


def parse_umt(arguments: list[str]) -> None:
    """Parses the arguments of a `umt` command, and the overrides of a training with its recipe."""

    def check_recipe(args: argparse.Namespace) -> int:
        if args.command in TRAININGS:
            resolved_recipe(args.command, args.config or "small_data", args.overrides)
        return 0

    with ExitStack() as patches:
        for name in COMMANDS:
            patches.enter_context(mock.patch(f"umt_training.cli.{name.replace('-', '_')}.run", check_recipe))
        assert main(arguments) == 0, f"umt {shlex.join(arguments)}"


def parse_command(words: list[str], repository: Path) -> None:
    """Parses the arguments of `umt` or of a script, which documents name by its path in the repository."""
    if words[0] == "umt":
        parse_umt(words[1:])
    else:
        script = str(repository / words[1]) if words[1].endswith(".py") else words[1]
        parse_script([words[0], script, *words[2:]])


def check_mention(words: list[str], repository: Path) -> None:
    """A command in a text is complete, or names a command and options that exist."""
    try:
        with redirect_stderr(io.StringIO()):
            parse_command(words, repository)
    except (SystemExit, AssertionError):
        assert words[0] == "umt" and words[1] in COMMANDS, shlex.join(words)
        recipe = option(words, "--config")
        help_text = io.StringIO()
        with redirect_stdout(help_text), suppress(SystemExit):
            main([words[1], *(["--config", recipe] if recipe else []), "--help"])
        known = set(re.findall(r"--[\w-]+", help_text.getvalue().replace("_", "-")))
        given = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert given <= known, f"{shlex.join(words)}: {', '.join(sorted(given - known))} does not exist"


def umt_arguments(words: list[str]) -> list[str] | None:
    """The arguments of `umt` in a command, also behind a launcher, whose processes are this one; None for others."""
    for name in ("umt_training.cli", "umt"):
        if name in words:
            return words[words.index(name) + 1 :]
    return None


def remove_output_folders(code: str) -> None:
    """Removes the folders of the runs in a block: a page shows several ways to a result of the same name."""
    for name in OUTPUT_DIR.findall(code):
        shutil.rmtree(name, ignore_errors=True)


class PageRunner:
    """Runs the blocks of a page in the working directory, with one name space for its Python code.

    Commands and blocks of Python code are listed by patterns of `fnmatch`.

    Args:
        repository: Folder of the repository, whose scripts are parsed.
        not_run: Patterns of what is not run.
        parsed: Patterns of commands of which only the arguments are parsed.
        smaller: Code → the code that runs in its place.
        before: Code that a block contains → function of this runner that is called before this block.
    """

    def __init__(
        self,
        repository: Path,
        not_run: Collection[str] = (),
        parsed: Collection[str] = (),
        smaller: Mapping[str, str] | None = None,
        before: Mapping[str, Callable[["PageRunner"], None]] | None = None,
    ):
        self.repository, self.not_run, self.parsed = repository, not_run, parsed
        self.smaller, self.before = smaller or {}, before or {}
        self.scope: dict = {"__name__": "documentation"}
        self.recipe: dict = {}
        self.done: Counter[tuple[str, str]] = Counter()

    def treatments(self, page: Path) -> Counter[tuple[str, str]]:
        """Numbers of pieces of code of a page by language and by what `run` does with them."""
        pieces = []
        for language, text, _ in fenced_blocks(page):
            code = [" ".join(words) for words in shell_commands(text)] if language == "bash" else [text]
            pieces += [(language, self.treatment(piece)) for piece in code]
        return Counter(pieces)

    def treatment(self, code: str) -> str:
        if any(fnmatchcase(code, pattern) for pattern in self.not_run):
            return "not run"
        return "parsed" if any(fnmatchcase(code, pattern) for pattern in self.parsed) else "run"

    def run(self, page: Path) -> None:
        """Runs all blocks; `done` has the numbers of `treatments` afterwards."""
        run_block = {
            "python": self.run_python, "bash": self.run_shell, "yaml": self.run_yaml, "json": self.run_json,
            "bibtex": lambda text, place: None, "text": lambda text, place: None,
        }  # fmt: skip
        for block in fenced_blocks(page):
            place = f"{page}, line {block.line}"
            assert block.language in run_block, f"{place}: code in {block.language or 'no language'}"
            for part, prepare in self.before.items():
                if part in block.text:
                    prepare(self)
            run_block[block.language](block.text, place)
            if block.language != "bash":
                self.done[block.language, self.treatment(block.text)] += 1

    def run_json(self, text: str, place: str) -> None:
        json.loads(self.with_smaller(text))

    def run_yaml(self, text: str, place: str) -> None:
        """A recipe, or keys that are added to the recipe before; all of them must be keys of its task."""
        keys = yaml.safe_load(text)
        self.recipe = keys if "task" in keys else self.recipe | keys
        path = Path("my_recipe.yaml")
        path.write_text(json.dumps(self.recipe), encoding="utf-8")
        command = "pretrain" if self.recipe["task"] in PRETRAININGS else "finetune"
        resolved_recipe(command, str(path), [])

    def run_python(self, text: str, place: str) -> None:
        code = self.with_smaller(text)
        remove_output_folders(code)
        program = compile(code, f"<{place}>", "exec")
        if self.treatment(text) == "run":
            exec(program, self.scope)

    def run_shell(self, text: str, place: str) -> None:
        remove_output_folders(text)
        for words in shell_commands(text):
            command = " ".join(words)
            treatment = self.treatment(command)
            if treatment == "parsed":
                parse_command(words, self.repository)
            elif treatment == "run":
                arguments = umt_arguments(shlex.split(self.with_smaller(shlex.join(words))))
                assert arguments, f"{place}: {command} is neither a umt command nor listed as not run"
                self.run_umt(arguments, place)
            self.done["bash", treatment] += 1

    def run_umt(self, arguments: list[str], place: str) -> None:
        command = arguments[0]
        if command == "convert" and "--to-official" not in arguments:
            shutil.rmtree(arguments[2], ignore_errors=True)  # which other pages use
        arguments = [*arguments, *tiny_options(command, arguments)]
        assert main(arguments) == 0, f"{place}: umt {shlex.join(arguments)}"

    def with_smaller(self, text: str) -> str:
        for code, replacement in self.smaller.items():
            text = text.replace(code, replacement)
        return text

"""The tasks of recipes: the command and the run of each, and the dataclasses whose fields are the recipe's keys.

The help of `umt pretrain` and `umt finetune` lists these fields with their defaults. Importing the dataclasses imports
torch and Transformers, which takes seconds, so that their source files are parsed instead.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..suggestions import did_you_mean

PACKAGE = Path(__file__).parents[1]

# task → its command, the module of this folder that runs it, and the function there
TASKS = {
    "stage1": ("pretrain", "pretraining_run", "pretrain_stage1"),
    "stage2": ("pretrain", "video_text_run", "pretrain_stage2"),
    "masked_modeling": ("pretrain", "masked_modeling_run", "pretrain_masked_modeling"),
    "distillation": ("pretrain", "distillation_run", "pretrain_distillation"),
    "classification": ("finetune", "finetuning_run", "finetune_classification"),
    "detection": ("finetune", "detection_run", "finetune_detection"),
    "retrieval": ("finetune", "retrieval_run", "finetune_retrieval"),
    "question_answering": ("finetune", "question_answering_run", "finetune_question_answering"),
}

# task → module and class of the run's keys, and of the training arguments
TASK_CLASSES = {
    "stage1": ("runs.pretraining_run.PreTrainingRun", "trainers.pretraining.UMTPreTrainingArguments"),
    "stage2": ("runs.video_text_run.VideoTextRun", "trainers.video_text.UMTVideoTextArguments"),
    "masked_modeling": (
        "runs.masked_modeling_run.MaskedModelingRun",
        "trainers.masked_modeling.UMTMaskedModelingArguments",
    ),
    "distillation": ("runs.distillation_run.DistillationRun", "trainers.distillation.UMTDistillationArguments"),
    "classification": ("runs.finetuning_run.FineTuningRun", "trainers.finetuning.UMTFineTuningArguments"),
    "detection": ("runs.detection_run.DetectionRun", "trainers.detection.UMTActionDetectionArguments"),
    "retrieval": ("runs.retrieval_run.RetrievalRun", "trainers.video_text.UMTVideoTextArguments"),
    "question_answering": (
        "runs.question_answering_run.QuestionAnsweringRun",
        "trainers.question_answering.UMTQuestionAnsweringArguments",
    ),
}


@dataclass(frozen=True)
class Option:
    """A key of a recipe.

    Args:
        name: The name of the field.
        default: The default; None if it is None or computed.
        help: The field's documentation.
    """

    name: str
    default: Any
    help: str


def find_task(command: str, recipe: Mapping[str, Any]) -> str:
    """The task of a recipe.

    Raises:
        ValueError: the recipe has no `task`, or one that the command does not train.
    """
    task = recipe.get("task")
    known = [name for name, (owner, *_) in TASKS.items() if owner == command]
    if task is None:
        raise ValueError(f"The recipe has no `task`; add one to it: `task: {'`, or `task: '.join(known)}`.")
    if task not in known:
        owner, *_ = TASKS.get(str(task), (None,))
        advice = f"train it with `umt {owner}`" if owner else f"`umt {command}` trains {', '.join(known)}"
        suggestion = did_you_mean(str(task), known) or "."
        raise ValueError(
            f"The `task` of the recipe is {task!r}, which `umt {command}` does not train; {advice}{suggestion}"
        )
    return task


def task_classes(task: str) -> tuple[type, type]:
    """The dataclasses of the run's keys and of the training arguments."""
    modules = (path.rpartition(".") for path in TASK_CLASSES[task])
    run, arguments = (getattr(import_module(f"..{module}", __package__), name) for module, _, name in modules)
    return run, arguments


def task_options(task: str) -> dict[str, Option]:
    """The keys of a task's recipes, those of the run first; a sub-class replaces defaults of its base class."""
    options = {}
    for path in TASK_CLASSES[task]:
        module, _, name = path.rpartition(".")
        options |= class_options(PACKAGE / f"{module.replace('.', '/')}.py", name)
    return options


def class_options(file: Path, name: str) -> dict[str, Option]:
    """The fields of a dataclass and of its base classes that are in this package or are `TrainingArguments`."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    [definition] = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    options: dict[str, Option] = {}
    for base in definition.bases:
        if (base_file := imported_from(tree, file, ast.unparse(base))) is not None:
            options |= class_options(base_file, ast.unparse(base))
    documented = documented_arguments(ast.get_docstring(definition) or "")
    for field in fields(definition):
        known = options.get(field.target.id)
        text = documented.get(field.target.id) or metadata_help(field) or (known.help if known else "")
        options[field.target.id] = Option(field.target.id, default_of(field), text)
    return options


def imported_from(tree: ast.Module, file: Path, name: str) -> Path | None:
    """The file of a class that a module of this package imports; None for other modules."""
    if name == "TrainingArguments":
        return Path(find_spec("transformers").submodule_search_locations[0], "training_args.py")
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.level and name in [alias.name for alias in node.names]:
            return file.parents[node.level - 1] / f"{node.module.replace('.', '/')}.py"
    return None


def fields(definition: ast.ClassDef) -> Iterator[ast.AnnAssign]:
    """The fields that `__init__` takes."""
    for node in definition.body:
        if not isinstance(node, ast.AnnAssign) or ast.unparse(node.annotation).startswith("ClassVar"):
            continue
        if "init" not in keywords(node):
            yield node


def keywords(field: ast.AnnAssign) -> dict[str, ast.expr]:
    """The arguments of `field(...)`; empty for a plain default."""
    call = field.value
    is_field = isinstance(call, ast.Call) and ast.unparse(call.func) == "field"
    return {keyword.arg: keyword.value for keyword in call.keywords} if is_field else {}


def default_of(field: ast.AnnAssign) -> Any:
    value = keywords(field).get("default", field.value)
    return ast.literal_eval(value) if isinstance(value, (ast.Constant, ast.UnaryOp)) else None


def metadata_help(field: ast.AnnAssign) -> str:
    """The first sentence of `metadata["help"]`."""
    metadata = keywords(field).get("metadata")
    if not isinstance(metadata, ast.Dict):
        return ""
    texts = {ast.unparse(key): value for key, value in zip(metadata.keys, metadata.values, strict=True)}
    text = texts.get("'help'")
    return re.split(r"(?<=\.)\s", ast.literal_eval(text))[0] if isinstance(text, ast.Constant) else ""


def documented_arguments(docstring: str) -> dict[str, str]:
    """Name to text of the section `Args:` of a docstring; `first, second: text` documents both."""
    _, _, section = docstring.partition("Args:\n")
    documented: dict[str, str] = {}
    names: list[str] = []
    for line in section.splitlines():
        entry = re.match(r"    (\w[\w, ]*): (.*)", line)
        if entry:
            names = entry[1].split(", ")
        elif not line.startswith("     "):
            break
        for name in names:
            documented[name] = f"{documented.get(name, '')} {entry[2] if entry else line.strip()}".strip()
    return documented

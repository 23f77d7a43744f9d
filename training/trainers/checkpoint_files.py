"""Checksums of the files of a checkpoint, by which a damaged, partial or foreign checkpoint is recognised.

They are written after all other files but the state file, which Trainer writes last, so that a checkpoint with a state
file is complete. BLAKE2 reads about a gigabyte per second: a few seconds for a checkpoint of UMT-L/16 with its
optimiser.
"""

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers import TrainerState
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import SAFE_WEIGHTS_NAME

from ..atomic_files import atomic_write

FILE_NAME = "checksums.json"
# the names of Trainer, FSDP and DeepSpeed start with these
STATES_OF_OPTIMIZERS = ("optimizer", "global_step")


def write_checksums(folder: Path) -> None:
    """Write `checksums.json` with size and digest of all files of a checkpoint but the state file."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    sums = {name: checksum(path) for name, path in names.items() if name not in (FILE_NAME, TRAINER_STATE_NAME)}
    with atomic_write(folder / FILE_NAME) as temporary:
        temporary.write_text(json.dumps(sums, indent=1), encoding="utf-8")


def checksum(path: Path) -> str:
    """Size in bytes and digest of a file."""
    with path.open("rb") as file:
        return f"{path.stat().st_size} {hashlib.file_digest(file, 'blake2b').hexdigest()[:32]}"


def checkpoint_problem(folder: Path, model: nn.Module | None = None) -> str | None:
    """Why training can't resume from a checkpoint; None if it can.

    Args:
        folder: The checkpoint.
        model: The model to train; its weights are not compared if they are those of an adapter.
    """
    for name in (TRAINER_STATE_NAME, FILE_NAME):
        if not (folder / name).is_file():
            return f"{name} is missing"
        if read_mapping(folder / name) is None:
            return f"{name} is damaged"
    try:
        step = TrainerState.load_from_json(str(folder / TRAINER_STATE_NAME)).global_step
    except TypeError as error:  # fields that this version of Transformers does not have, or lacks
        return f"{TRAINER_STATE_NAME} is of another version of Transformers ({error})"
    if folder.name.startswith(PREFIX_CHECKPOINT_DIR) and folder.name != f"{PREFIX_CHECKPOINT_DIR}-{step}":
        return f"{TRAINER_STATE_NAME} is of step {step}"
    sums = read_mapping(folder / FILE_NAME)
    for name, expected in sums.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if checksum(folder / name) != expected:
            return f"{name} is damaged"
    if not any(name.startswith(STATES_OF_OPTIMIZERS) for name in sums):
        return "it contains the model without the state of the optimiser (`save_only_model`)"
    for name in {OPTIMIZER_NAME, SCHEDULER_NAME} & sums.keys():
        try:  # reads the structure without the values
            torch.load(folder / name, map_location="meta", mmap=True, weights_only=True)
        except (pickle.UnpicklingError, RuntimeError):
            return f"{name} is not a file that PyTorch loads without executing code"
    shapes = None if model is None else {name: tensor.shape for name, tensor in model.state_dict().items()}
    for name in sums:
        if name.endswith(".safetensors"):
            with safe_open(folder / name, framework="pt") as weights:
                for key in weights.keys():  # noqa: SIM118, not a mapping
                    tensor = weights.get_tensor(key)
                    if not tensor.isfinite().all():
                        return f"{key} in {name} is not finite"
                    if name == SAFE_WEIGHTS_NAME and shapes is not None and shapes.get(key) != tensor.shape:
                        return f"it is a checkpoint of another model, with {key} of the shape {tuple(tensor.shape)}"
    return None


def read_mapping(path: Path) -> dict[str, Any] | None:
    """The content of a JSON file; None if it is not a complete object: a process may have been killed while it wrote
    the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    return content if isinstance(content, dict) else None

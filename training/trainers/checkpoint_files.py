"""Checksums of the files of a checkpoint, by which a damaged, partial or foreign checkpoint is recognised.

They are written after all other files but the state file, which Trainer writes last, so that a checkpoint with a state
file is complete. BLAKE2 reads about a gigabyte per second: a few seconds for a checkpoint of UMT-L/16 with its
optimiser.
"""

import hashlib
import json
from pathlib import Path

from safetensors import safe_open
from torch import nn
from transformers.trainer import TRAINER_STATE_NAME
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
        if not is_json(folder / name):
            return f"{name} is damaged"
    sums = json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))
    for name, expected in sums.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if checksum(folder / name) != expected:
            return f"{name} is damaged"
    if not any(name.startswith(STATES_OF_OPTIMIZERS) for name in sums):
        return "it contains the model without the state of the optimiser (`save_only_model`)"
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


def is_json(path: Path) -> bool:
    """Whether a file is complete JSON: Trainer may have been killed while it wrote the file."""
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True

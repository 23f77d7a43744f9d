"""Safe reading of official `.pth` files.

PyTorch's weights-only unpickler reads them, so a pickle that contains code is refused.
"""

import argparse
import os
import pickle
import re
import zipfile
from collections.abc import Mapping

import torch
from huggingface_hub import hf_hub_download


class UnsupportedCheckpointError(ValueError):
    """The file is not a UMT checkpoint, or one of a kind that this package has no model for."""


def read_official_state_dict(checkpoint: str | os.PathLike | Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state dict of an official checkpoint, unwrapped from `model` or `module`.

    Args:
        checkpoint: Path of a `.pth` file, `repo_id:filename` of one on the Hub, or a loaded mapping, which is not
            changed.

    Raises:
        UnsupportedCheckpointError: (a ValueError) if the file does not contain a state dict.
        ValueError: if the file can't be read without running code.
        FileNotFoundError: if the file does not exist.
    """
    if not isinstance(checkpoint, Mapping):
        checkpoint = read_weights_only(os.fspath(checkpoint))
    for wrapper in ("model", "module"):
        if isinstance(checkpoint, Mapping) and isinstance(checkpoint.get(wrapper), Mapping):
            checkpoint = checkpoint[wrapper]
            break
    if not isinstance(checkpoint, Mapping) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in checkpoint.items()
    ):
        raise UnsupportedCheckpointError(
            "The file does not contain a state dict: a mapping from names to tensors was expected."
        )
    return dict(checkpoint)


def read_weights_only(path: str) -> object:
    """Unpickle a file of tensors, plain containers and at most an `argparse.Namespace`; errors as above."""
    hub_file = re.fullmatch(r"([\w.-]+/[\w.-]+):(.+)", path)
    if hub_file and not os.path.exists(path):
        path = hf_hub_download(repo_id=hub_file[1], filename=hub_file[2])
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"The checkpoint {path!r} does not exist; give the path of a `.pth` file, or `repo_id:filename` of one on "
            "the Hub."
        )
    try:
        # training files contain their command line as a Namespace, which contains no code
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except PermissionError:
        raise
    except Exception as error:  # a damaged file can raise anything: IndexError, KeyError, OSError, ...
        foreign = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if foreign:
            raise ValueError(
                f"{path!r} was refused: it would call {foreign[1]}. A checkpoint may contain tensors, plain "
                "containers and an argparse.Namespace, but no code."
            ) from error
        reason = re.split(r"\.\s|\n", str(error))[0] or type(error).__name__  # the rest recommends unsafe loading
        raise ValueError(
            f"{path!r} was refused: PyTorch's weights-only unpickler, which runs no code, can't read it ({reason}). "
            "Is it truncated, or a file of another kind?"
        ) from error

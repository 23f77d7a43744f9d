"""Paths of recorded fixtures and real clips."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

REPOSITORY = Path(__file__).resolve().parents[2]
FIXTURES = REPOSITORY / "tests" / "fixtures"
SHARED = REPOSITORY.parent / "shared"


def find_shared(folder: str, name: str) -> Path:
    """`tests/fixtures/<name>` if it exists, else `../shared/<folder>/<name>`, else skip the test."""
    for path in (FIXTURES / name, SHARED / folder / name):
        if path.exists():
            return path
    pytest.skip(f"{name} is neither in tests/fixtures nor in ../shared/{folder}")


def load_recorded(name: str) -> tuple[dict, dict[str, torch.Tensor]]:
    """The JSON and the tensors (empty if there are none) of a fixture recorded from the official code."""
    description = json.loads(find_shared("fixtures", f"{name}.json").read_text())
    tensors_path = find_shared("fixtures", f"{name}.json").with_suffix(".safetensors")
    tensors = load_file(tensors_path) if tensors_path.exists() else {}
    if "input/video_u8" in tensors:
        # stored as uint8 at half height and width: u / 64 - 2, every pixel repeated 2 x 2
        clip = tensors.pop("input/video_u8").float() / 64 - 2
        tensors["input/video"] = clip.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)
    return description, tensors

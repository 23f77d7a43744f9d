"""Shared test helpers: where recorded numbers and real clips are found, and an offline Hub for every test."""

import json
import os
from pathlib import Path

import own_warnings

own_warnings.install()  # before any import that may keep `warnings.warn`

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# tiny tensors gain nothing from more threads, and two test processes share two cores
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

REPOSITORY = Path(__file__).resolve().parents[1]
FIXTURES = Path(__file__).resolve().parent / "fixtures"
SHARED = REPOSITORY.parent / "shared"


def _find(folder: str, name: str) -> Path:
    """`tests/fixtures/<name>` if the repository carries it, else `../shared/<folder>/<name>`, else skip."""
    for path in (FIXTURES / name, SHARED / folder / name):
        if path.exists():
            return path
    pytest.skip(f"{name} is neither in tests/fixtures nor in ../shared/{folder}")


def load_recorded(name: str) -> tuple[dict, dict[str, torch.Tensor]]:
    """The JSON and the tensors (empty if there are none) of a fixture recorded from the official code."""
    description = json.loads(_find("fixtures", f"{name}.json").read_text())
    tensors_path = _find("fixtures", f"{name}.json").with_suffix(".safetensors")
    tensors = load_file(tensors_path) if tensors_path.exists() else {}
    if "input/video_u8" in tensors:
        # stored as uint8 at half height and width: u / 64 - 2, every pixel repeated 2x2
        clip = tensors.pop("input/video_u8").float() / 64 - 2
        tensors["input/video"] = clip.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)
    return description, tensors


@pytest.fixture
def recorded():
    """Function `name -> (description, tensors)`; see `load_recorded`."""
    return load_recorded


@pytest.fixture
def shared_video():
    """Function `file name -> path` of a real clip in ../shared/videos."""
    return lambda name: _find("videos", name)


@pytest.fixture
def sharded_trainers(monkeypatch):
    """Trainers that take themselves to run under FSDP."""
    from training.video_trainer import UMTTrainer

    made = UMTTrainer.__init__

    def make_sharded(self, *args, **kwargs):
        made(self, *args, **kwargs)
        self.is_fsdp_enabled = True

    monkeypatch.setattr(UMTTrainer, "__init__", make_sharded)

"""Fixtures of all tests; they run offline, and a deprecated call of this repository is an error."""

import os

import own_warnings

own_warnings.install()  # before any import that may keep `warnings.warn`

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# tiny tensors gain nothing from more threads, and two test processes share two cores
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest  # noqa: E402
from recorded import find_shared, load_recorded  # noqa: E402


@pytest.fixture
def recorded():
    """Function `name -> (description, tensors)`; see `load_recorded`."""
    return load_recorded


@pytest.fixture
def shared_video():
    """Function `file name -> path` of a real clip in ../shared/videos."""
    return lambda name: find_shared("videos", name)


@pytest.fixture
def sharded_trainers(monkeypatch):
    """Trainers that take themselves to run under FSDP."""
    from umt_training.trainers.base_trainer import UMTTrainer

    made = UMTTrainer.__init__

    def make_sharded(self, *args, **kwargs):
        made(self, *args, **kwargs)
        self.is_fsdp_enabled = True

    monkeypatch.setattr(UMTTrainer, "__init__", make_sharded)

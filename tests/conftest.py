"""Fixtures of all tests. Tests run offline, and a deprecated call of this repository is an error."""

import gc
import logging
import os

import own_warnings

own_warnings.install()  # before any import that may store a reference to `warnings.warn`

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# more threads do not help with tiny tensors, and two test processes run on two cores
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest  # noqa: E402
from recorded import find_shared, load_recorded  # noqa: E402


def pytest_collection_finish():
    """Exempts what is imported, about half a million objects, from the garbage collections, many of which trainers and
    compilers ask for: they would take a quarter of the time of all tests."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def same_verbosity():
    """What a test changes of Transformers' logger is undone: without its records, a deprecated call is not found."""
    logger = logging.getLogger("transformers")
    level, disabled = logger.level, logger.disabled
    yield
    logger.setLevel(level)
    logger.disabled = disabled


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
    """Makes trainers assume that they run under FSDP."""
    from umt_training.trainers.base_trainer import UMTTrainer

    init = UMTTrainer.__init__

    def init_sharded(self, *args, **kwargs):
        init(self, *args, **kwargs)
        self.is_fsdp_enabled = True

    monkeypatch.setattr(UMTTrainer, "__init__", init_sharded)

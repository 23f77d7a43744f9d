"""The folder `training/` is imported as `umt_training`, also beside somebody else's package `training`."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from recorded import REPOSITORY
from warm_python import libraries

COMMANDS = {
    "umt": [str(Path(sys.executable).with_name("umt")), "--help"],
    "python -m": [sys.executable, "-m", "umt_training.cli", "evaluate", "--help"],
    "accelerate launch -m": [
        *(sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "--num_machines", "1"),
        *("--mixed_precision", "no", "--dynamo_backend", "no", "-m", "umt_training.cli", "evaluate", "--help"),
    ],
}


ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
ENVIRONMENTS = [ENVIRONMENT, ENVIRONMENT | {"PYTHONPATH": "."}]


@pytest.fixture
def folder(tmp_path) -> Path:
    """A working directory with a package `training`."""
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "__init__.py").write_text("raise ImportError('this is somebody else')\n")
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_beside_a_package_training_is_ours(command, folder):
    for environment in ENVIRONMENTS:
        result = subprocess.run(
            COMMANDS[command], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr


def test_an_import_beside_a_package_training_is_ours(folder):
    for environment in ENVIRONMENTS:
        code = "from umt_training import UMTPreTrainingTrainer"
        result = libraries.run(["-c", code], cwd=folder, env=environment)
        assert result.returncode == 0, result.stderr


def test_nothing_imports_the_folder_by_its_own_name():
    code = re.compile(r"^\s*(from training[ .]|import training\b)|-m training\b", re.MULTILINE)
    files = [path for suffix in ("py", "md", "yaml", "toml") for path in REPOSITORY.rglob(f"*.{suffix}")]
    files = [path for path in files if not {".venv", "build", ".git"} & set(path.relative_to(REPOSITORY).parts)]
    assert len(files) > 200
    assert [str(path) for path in files if path != Path(__file__) and code.search(path.read_text("utf-8"))] == []

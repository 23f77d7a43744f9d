"""The folder `training/` is imported as `umt_training`, also beside somebody else's package `training`."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from recorded import REPOSITORY

COMMANDS = {
    "umt": [str(Path(sys.executable).with_name("umt")), "--help"],
    "python -m": [sys.executable, "-m", "umt_training.cli", "evaluate", "--help"],
    "accelerate launch -m": [
        *(sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "--num_machines", "1"),
        *("--mixed_precision", "no", "--dynamo_backend", "no", "-m", "umt_training.cli", "evaluate", "--help"),
    ],
    "import": [sys.executable, "-c", "from umt_training import UMTPreTrainingTrainer"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_package_training_in_the_working_directory_is_not_ours(command, tmp_path):
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "__init__.py").write_text("raise ImportError('this is somebody else')\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for variables in ({}, {"PYTHONPATH": "."}):
        result = subprocess.run(
            COMMANDS[command], cwd=tmp_path, env=environment | variables, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr


def test_nothing_imports_the_folder_by_its_own_name():
    code = re.compile(r"^\s*(from training[ .]|import training\b)|-m training\b", re.MULTILINE)
    files = [path for suffix in ("py", "md", "yaml", "toml") for path in REPOSITORY.rglob(f"*.{suffix}")]
    files = [path for path in files if not {".venv", "build", ".git"} & set(path.relative_to(REPOSITORY).parts)]
    assert len(files) > 200
    assert [str(path) for path in files if path != Path(__file__) and code.search(path.read_text("utf-8"))] == []

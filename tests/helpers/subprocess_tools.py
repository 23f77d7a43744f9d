"""Runs Python code in a process of its own, with or without the packages of this repository.

Missing files of remote code are only detected if `modeling_umt` cannot be imported, and the test environment usually
has it installed (editable or not). Therefore the child process hides the three packages from every import finder.
"""

import json
import os
import re
import subprocess
import textwrap
from pathlib import Path

from recorded import REPOSITORY
from warm_python import libraries

PACKAGES = ("modeling_umt", "processing_umt", "umt_training")

# Output that a clean run must not contain: deprecated calls of ours, records of our own loggers, warnings raised in
# our files, errors in the log, tracebacks, and Transformers' report of missing and unexpected weights. Other warnings
# of dependencies are ignored.
COMPLAINT = re.compile(
    r"^\[OURS\]|^\[WARNING\] (modeling_umt|processing_umt|umt_training|transformers_modules)\b"
    r"|(/(modeling_umt|processing_umt|training)/|_umt\.py).*Warning:"
    r"|^\[(ERROR|CRITICAL)\]|Error:|^Traceback|LOAD REPORT"
)

# Runs before the code. Libraries print a log record of level WARNING as its bare message, which looks like any other
# output; such records are printed again with a prefix.
PRELUDE = """
import importlib.util, logging, runpy, sys

class Hiding:
    # Wraps a finder and hides some packages; importlib.metadata reads its other attributes.
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in hidden else self.finder.find_spec(name, path, target)

script, root, hidden = SETTINGS
sys.path[:] = [entry for entry in sys.path if entry != root]
if hidden:
    sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
    for name in hidden:
        assert importlib.util.find_spec(name) is None, name
else:
    sys.path.insert(0, root)

make_record = logging.getLogRecordFactory()
def prefixed(*args, **kwargs):
    record = make_record(*args, **kwargs)
    if record.levelno >= logging.WARNING:
        message = record.getMessage().replace(chr(10), " ")
        print(f"[{record.levelname}] {record.name}: {message}", file=sys.stderr, flush=True)
    return record
logging.setLogRecordFactory(prefixed)
runpy.run_path(script, run_name="__main__")
"""


def run_clean(
    code: str, *, cwd: Path, env: dict[str, str] | None = None, allow_umt: bool = False, timeout: float = 180
) -> subprocess.CompletedProcess:
    """Runs `code` (dedented) as `python -I` does, in `cwd`, and returns its output as text. `warm_python` has imported
    torch before, but nothing that uses the Hub.

    `modeling_umt`, `processing_umt` and `umt_training` cannot be imported, or with `allow_umt=True` are those of this
    checkout. The child process inherits only PATH, temporary folder, locale and CUDA settings of the environment; it
    is offline with empty caches under `cwd`, unless `env` differs (`LoopbackHub.env()`). Records of level WARNING or
    above appear in `stderr` as lines `[WARNING] logger: message`; see `complaints`. A non-zero exit code is returned
    and raises no error.
    """
    cwd = Path(cwd)
    script = cwd / "clean_run.py"
    script.write_text(textwrap.dedent(code))
    kept = ("PATH", "TMPDIR", "LANG", "LC_ALL", "SYSTEMROOT", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    environment |= {
        "HOME": str(cwd),
        "HF_HOME": str(cwd / ".huggingface"),
        "HF_MODULES_CACHE": str(cwd / ".huggingface_modules"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    settings = [str(script), str(REPOSITORY), [] if allow_umt else PACKAGES]
    prelude = PRELUDE.replace("SETTINGS", json.dumps(settings))
    return libraries.run(["-c", prelude], timeout, cwd=cwd, env=environment | (env or {}), isolated=True)


def complaints(stderr: str) -> list[str]:
    """The lines of a run's stderr that match `COMPLAINT`."""
    return [line for line in re.split(r"[\r\n]+", stderr) if COMPLAINT.search(line)]

"""Python code run in a fresh interpreter, with or without the packages of this repository.

What remote code needs is only visible where `modeling_umt` cannot be imported, and the test environment usually has it
installed (editable or not). So the child hides the three packages from every finder, rather than trusting its path.
"""

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("modeling_umt", "processing_umt", "umt_training")

# What a clean run must not say: deprecated calls of ours, records of our own loggers, warnings raised in our files,
# anything logged as an error, tracebacks, and Transformers' list of weights that a file lacks or has in excess. Other
# warnings of dependencies are not ours to mend.
COMPLAINT = re.compile(
    r"^\[OURS\]|^\[WARNING\] (modeling_umt|processing_umt|umt_training|transformers_modules)\b"
    r"|(/(modeling_umt|processing_umt|training)/|_umt\.py).*Warning:"
    r"|^\[(ERROR|CRITICAL)\]|Error:|^Traceback|LOAD REPORT"
)

# Run before the code. Libraries print a log record of level WARNING as its bare message, so that nothing in the text
# tells it from a progress line: such records are written out once more, marked.
PRELUDE = """
import importlib.util, logging, runpy, sys

own_warnings = runpy.run_path(OWN_WARNINGS)
own_warnings["install"](lambda report: print(f"[OURS] {report}", file=sys.stderr, flush=True))

class Hiding:
    # A finder as it was, except that it does not know some packages; importlib.metadata asks for its other attributes.
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
def marking(*args, **kwargs):
    record = make_record(*args, **kwargs)
    if record.levelno >= logging.WARNING:
        message = record.getMessage().replace(chr(10), " ")
        print(f"[{record.levelname}] {record.name}: {message}", file=sys.stderr, flush=True)
    return record
logging.setLogRecordFactory(marking)
runpy.run_path(script, run_name="__main__")
"""


def run_clean(
    code: str, *, cwd: Path, env: dict[str, str] | None = None, allow_umt: bool = False, timeout: float = 180
) -> subprocess.CompletedProcess:
    """Run `code` (dedented) by an isolated interpreter (`python -I`) in `cwd` and return what it printed, as text.

    `modeling_umt`, `processing_umt` and `umt_training` cannot be imported, or with `allow_umt=True` are those of this
    checkout. The child gets nothing of this process's environment but PATH, temporary folder, locale and CUDA
    settings; it is offline with empty caches under `cwd`, unless `env` says otherwise (`LoopbackHub.env()`). Records
    logged as WARNING or worse appear in `stderr` as lines `[WARNING] logger: message`; see `complaints`. A failing
    exit is returned, not raised.
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
    own_warnings = Path(__file__).with_name("own_warnings.py")
    prelude = PRELUDE.replace("SETTINGS", json.dumps(settings)).replace("OWN_WARNINGS", repr(str(own_warnings)))
    return subprocess.run(
        [sys.executable, "-I", "-c", prelude],
        cwd=cwd,
        env=environment | (env or {}),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def complaints(stderr: str) -> list[str]:
    """The lines of a run's stderr that match `COMPLAINT`."""
    return [line for line in re.split(r"[\r\n]+", stderr) if COMPLAINT.search(line)]

"""Which exceptions are errors that a user can fix, and their message in one line; all others are bugs.

A check raises its error by a `raise` statement. So an error is a user's if such a statement of this package raised it,
or of a library that checks what it is given: names, files, options. The same exception out of an operation, such as a
tuple of the wrong length or a tensor of the wrong shape, is a bug, and its traceback is needed. Errors of the system
(OSError: files, network, a full disk) and of damaged files are always a user's.
"""

import dis
import errno
import re
from types import TracebackType

from ..data.batching import is_dead_worker

CHECKING_PACKAGES = {
    "modeling_umt", "processing_umt", "umt_training", "transformers_modules", "transformers", "huggingface_hub",
    "datasets", "accelerate", "peft",
}  # fmt: skip
NETWORK_PACKAGES = {"httpx", "httpcore", "aiohttp"}  # all of whose exceptions are of the network or a server
FULL_DISK = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
# by name, because importing their packages takes seconds
DAMAGED_FILE = {"JSONDecodeError", "UnicodeDecodeError", "ArrowInvalid", "DatasetGenerationError", "SafetensorError"}
_FULL = re.compile(r"no space left|file too large|quota exceeded", re.IGNORECASE)
_PYTORCH_WRITER = re.compile(r"PytorchStreamWriter|inline_container")  # it reports a failed write as a RuntimeError


def user_message(error: Exception) -> str | None:
    """The message of an error that a user can fix, in one line; None for a bug."""
    kind, text = type(error), " ".join(str(error).split())
    package = kind.__module__.partition(".")[0]
    if getattr(error, "errno", None) in FULL_DISK or (kind.__name__ == "SafetensorError" and _FULL.search(text)):
        return f"{text}; free some space, or write to another disk."
    if isinstance(error, RuntimeError) and _PYTORCH_WRITER.search(text):
        return f"A file of weights could not be written, for example because the disk is full. ({text})"
    if kind.__name__ == "OutOfMemoryError":
        return f"{text.partition('. ')[0]}. Use a smaller batch, fewer frames or a data type of 16 bits."
    if is_dead_worker(error):
        return (
            "A process that reads data died, usually because the memory was exhausted: give the command again with "
            f"fewer workers. ({text})"
        )
    if package in CHECKING_PACKAGES | NETWORK_PACKAGES and text.startswith("Caught ") and "Original Traceback" in text:
        # an error of this package in a data loading worker; PyTorch puts the worker's traceback into its message
        return str(error).strip().splitlines()[-1].partition(": ")[2]
    is_checked = isinstance(error, (ValueError, ImportError, RuntimeError)) and _raised_by_check(error.__traceback__)
    if is_checked or isinstance(error, OSError) or kind.__name__ in DAMAGED_FILE or package in NETWORK_PACKAGES:
        return text or kind.__name__
    return None


def _raised_by_check(traceback: TracebackType | None) -> bool:
    """Whether the innermost frame is at a `raise` statement of a package that checks what it is given."""
    if traceback is None:
        return False
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    frame = traceback.tb_frame
    is_raise = frame.f_code.co_code[traceback.tb_lasti] == dis.opmap["RAISE_VARARGS"]
    return is_raise and frame.f_globals.get("__name__", "").partition(".")[0] in CHECKING_PACKAGES

"""Detects deprecated calls made by the code of this repository.

Only deprecated functions and arguments used by our own code can be fixed here; warnings about calls inside
dependencies are ignored. `install` raises an error for such a call, or reports it, for any stack level and for Python
warnings as well as log records. Standard library only: `warm_server` runs this file before any other import.
"""

import logging
import os
import sys
import warnings
from collections.abc import Callable
from types import FrameType

REPOSITORY = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
FOLDERS = ("modeling_umt", "processing_umt", "training", "benchmarks", "examples", "tests")
OURS = tuple(os.path.join(REPOSITORY, folder, "") for folder in FOLDERS)
DEPRECATIONS = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)


class DeprecatedCallError(AssertionError):
    """Code of this repository calls a deprecated function or uses a deprecated argument."""


def is_ours(file: str) -> bool:
    """Whether a source file belongs to this repository or is its code loaded from a model repository."""
    return file.startswith(OURS) or f"{os.sep}transformers_modules{os.sep}" in file


def calling_line(frame: FrameType | None) -> str | None:
    """`file:line` of the call that caused the code of `frame` to emit a warning, or None if the call is not ours.

    Helpers in the file of the emitting code, and generated code such as the `__init__` of a dataclass, are skipped.
    """
    emitter = frame.f_code.co_filename if frame else ""
    if is_ours(emitter):
        return None
    while frame is not None and (frame.f_code.co_filename == emitter or frame.f_code.co_filename.startswith("<")):
        frame = frame.f_back
    if frame is None or not is_ours(frame.f_code.co_filename):
        return None
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def logging_frame(frame: FrameType | None) -> FrameType | None:
    """The frame that called a logger, from the frame that called the record factory.

    A package (Ray) may have wrapped the factory; its frames come before those of the logging modules of Python and of
    Transformers.
    """
    for is_logging in (False, True):
        while frame is not None and ("logging" in frame.f_code.co_filename) is is_logging:
            frame = frame.f_back
    return frame


def raise_error(report: str) -> None:
    raise DeprecatedCallError(report)


def install(report: Callable[[str], None] = raise_error) -> None:
    """From now on, calls `report` with one line for every deprecated call of ours; other warnings are unchanged."""
    emit_warning, make_record = warnings.warn, logging.getLogRecordFactory()

    def warn(message, category=None, stacklevel=1, source=None, **options):
        kind = type(message) if isinstance(message, Warning) else category or UserWarning
        line = calling_line(sys._getframe(1)) if issubclass(kind, DEPRECATIONS) else None
        if line:
            report(f"{line}: deprecated call: {message}")
        emit_warning(message, category, stacklevel + 1, source, **options)

    def record_factory(*arguments, **options):
        record = make_record(*arguments, **options)
        if "deprecated" in str(record.msg):
            line = calling_line(logging_frame(sys._getframe(1)))
            if line:
                report(f"{line}: deprecated call: {record.getMessage()}")
        return record

    warnings.warn = warn
    logging.setLogRecordFactory(record_factory)

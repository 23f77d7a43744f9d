"""Atomic file writes: write to a temporary file, then rename it."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def named_errors(path: str | os.PathLike) -> Iterator[None]:
    """Name the file or folder in an OSError of the block, which that of a failed write (a full disk) does not have."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


@contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `path`, which replaces `path` at the end of the block; creates the folder.

    After an exception in the block, `path` is unchanged and the temporary file is deleted. Its name is random and it
    is created as a new file, so that a link that someone put into the folder is not followed.

    Raises:
        OSError: with the name of the file; see `named_errors`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
    with named_errors(path):
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        try:
            yield temporary
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

"""Atomic file writes: write to a temporary file, then rename it."""

import errno
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


def require_writable(path: str | os.PathLike) -> None:
    """Check, before a long computation, that `atomic_write` can write a file.

    Raises:
        OSError: `path` is a folder, or the nearest existing folder above it is a file or not writable.
    """
    path = Path(path).absolute()
    folder = next(parent for parent in path.parents if parent.exists())
    code = 0
    if path.is_dir():
        code = errno.EISDIR
    elif not folder.is_dir():
        code = errno.ENOTDIR
    elif not os.access(folder, os.W_OK | os.X_OK):
        code = errno.EACCES
    if code:
        raise OSError(code, os.strerror(code), str(path))

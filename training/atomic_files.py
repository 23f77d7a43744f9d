"""Files that appear whole or not at all, so that a reader never meets half of one. Not of the paper."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """A name beside `path` to write a file to, which becomes `path` at the end of the block; the folder is made.

    After an error in the block `path` is what it was, and what was written is left under the other name.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    yield temporary
    os.replace(temporary, path)

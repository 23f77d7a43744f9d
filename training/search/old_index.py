"""Refuses the indices of earlier versions, which had no database."""

import os
import shlex
from pathlib import Path
from typing import Any

from ..data.strict_json import read_json
from ..terminal import printable

_FIELDS = {"format", "videos", "model", "parts"}  # of its index.json


def refuse_old_index(uri: str) -> None:
    """Raises a ValueError if a folder is an index of an earlier version, with the command that builds it again."""
    stored = _read(Path(uri) / "index.json")
    if stored is None:
        return
    videos, model = stored["videos"], stored["model"]
    name = model.get("name") if isinstance(model, dict) else None
    words = [
        os.path.normpath(os.path.join(uri, videos)) if isinstance(videos, str) else "VIDEOS",
        "--model",
        name if isinstance(name, str) else "MODEL",
        *(() if os.path.basename(uri) == ".umt-index" else ("--index", uri)),
    ]
    raise ValueError(
        f"{uri} is an index of an earlier version, without a database. Delete it, and build it again: "
        f"rm -r {shlex.quote(uri)} && umt search TEXT {printable(shlex.join(words))}"
    )


def _read(file: Path) -> dict[str, Any] | None:
    try:
        stored = read_json(file)
    except (OSError, ValueError):
        return None
    return stored if isinstance(stored, dict) and stored.keys() >= _FIELDS else None

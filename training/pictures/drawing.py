"""What the pictures of runs have in common: their colours, and how they become files. Not of the paper."""

import os
from pathlib import Path

from PIL import Image

from ..atomic_files import atomic_write

INK, FAINT, PAPER = (40, 40, 40), (120, 120, 120), (255, 255, 255)


def save_picture(picture: Image.Image, path: str | os.PathLike) -> Path:
    """Writes a PNG, its folder too; the file appears when it is complete."""
    with atomic_write(path) as temporary:
        picture.save(temporary, "PNG", optimize=True)
    return Path(path)

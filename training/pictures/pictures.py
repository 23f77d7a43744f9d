"""What the pictures of runs have in common: their colours, and how they become files. Not of the paper."""

import os
from pathlib import Path

from PIL import Image

from ..whole_files import written_whole

INK, FAINT, PAPER = (40, 40, 40), (120, 120, 120), (255, 255, 255)


def save_picture(picture: Image.Image, path: str | os.PathLike) -> Path:
    """Writes a PNG, its folder too; the file appears when it is complete."""
    with written_whole(path) as temporary:
        picture.save(temporary, "PNG", optimize=True)
    return Path(path)

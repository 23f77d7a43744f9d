"""Colours and saving, shared by the pictures of runs."""

import os
from pathlib import Path

from PIL import Image

from ..atomic_files import atomic_write

INK, FAINT, PAPER = (40, 40, 40), (120, 120, 120), (255, 255, 255)


def save_picture(picture: Image.Image, path: str | os.PathLike) -> Path:
    """Save a picture as PNG, atomically; creates its folder."""
    with atomic_write(path) as temporary:
        picture.save(temporary, "PNG", optimize=True)
    return Path(path)

"""Colours and saving, shared by the pictures of runs."""

import os
from collections.abc import Mapping
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..atomic_files import atomic_write

INK, FAINT, PAPER = (40, 40, 40), (120, 120, 120), (255, 255, 255)


def save_picture(picture: Image.Image, path: str | os.PathLike, facts: Mapping[str, str] | None = None) -> Path:
    """Save a picture as PNG, atomically; creates its folder. `facts` are texts in the file that are not shown."""
    texts = PngInfo()
    for name, text in (facts or {}).items():
        texts.add_text(name, text)
    with atomic_write(path) as temporary:
        picture.save(temporary, "PNG", optimize=True, pnginfo=texts)
    return Path(path)

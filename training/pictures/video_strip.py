"""Frames of a video side by side, as a JPEG file."""

import os

import numpy as np
from PIL import Image

from ..atomic_files import atomic_write

STRIP_FRAMES = 4
STRIP_HEIGHT, STRIP_GAP = 160, 4  # pixels


def frame_strip(frames: np.ndarray) -> Image.Image:
    """Frames, uint8 `(frames, height, width, 3)`, side by side in one picture."""
    height, width = frames.shape[1:3]
    size = (max(1, round(width * STRIP_HEIGHT / height)), STRIP_HEIGHT)
    step = size[0] + STRIP_GAP
    strip = Image.new("RGB", (step * len(frames) - STRIP_GAP, STRIP_HEIGHT), "white")
    for position, frame in enumerate(frames):
        strip.paste(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC), (position * step, 0))
    return strip


def save_strip(frames: np.ndarray, path: str | os.PathLike) -> None:
    """Save the strip of frames, uint8 `(frames, height, width, 3)`, as JPEG, atomically; creates its folder."""
    with atomic_write(path) as temporary:
        frame_strip(frames).save(temporary, "JPEG", quality=85)

"""Small videos of noise."""

from pathlib import Path

import av
import numpy as np


def write_noise(path: Path, seed: int, num_frames: int, height: int, width: int, square: int = 1) -> Path:
    """A video of random squares with sides of `square` pixels; creates its folder."""
    shape = (num_frames, height // square, width // square, 3)
    pictures = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for picture in pictures.repeat(square, axis=1).repeat(square, axis=2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path

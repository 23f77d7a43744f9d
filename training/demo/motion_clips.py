"""Generated clips whose classes differ only in motion, which a single frame does not show.

One object drifts over a background on a torus: it leaves on one side and enters on the other. Its class is one of
eight compass directions; shape, colours, orientation, size, speed and initial position are sampled independently of
it. The initial position is uniform, so the position in every frame is uniform for every direction. A model that sees
one frame, or one frame repeated, is therefore at chance level; from unordered frames it can learn the axis of the
motion, but not the direction along it. Real videos are a poor test of video learning at toy scale, because a still
frame identifies most of their actions.

Captions describe a frame and the position of the object in words for its column and row. An image-text teacher
trained on them encodes positions, which the student needs to find motion in the teacher's features.

No list of clips is stored: clip i of a seed is a function of (seed, i) and its class is i modulo 8. The first n clips
are therefore balanced to within one clip per class, and splits are different seeds.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch.utils.data import Dataset

from processing_umt.augmentation_umt import as_clip, sample_generator

from ..data.video_dataset import mask_seed

SIZE = 32  # side of a frame in pixels
NUM_FRAMES = 8
SPEEDS = (3.0, 5.0)  # pixels per frame
RADII = (5.0, 7.0)  # pixels

DIRECTIONS = ("north", "north_east", "east", "south_east", "south", "south_west", "west", "north_west")
COLOURS = {"red": (220, 50, 40), "green": (50, 180, 70), "blue": (50, 90, 220), "yellow": (230, 200, 50)}
PATTERNS = ("plain", "striped")
COLUMNS = ("leftmost", "left", "right", "rightmost")
ROWS = ("top", "upper", "lower", "bottom")
SECOND_TONE = 0.55  # brightness of an object's second half
STRIPE_TONE = 0.75  # brightness of every other stripe
STRIPE_WIDTH = 4  # pixels; SIZE is a multiple of two stripes, so the pattern has no seam on the torus


# --- shapes: signed distance in pixels, negative inside, at offsets (x, y) from the centre ---------------------------


def circle(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    return np.hypot(x, y) - radius


def square(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    return np.maximum(abs(x), abs(y)) - 0.9 * radius


def triangle(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    return np.maximum(y, 3**0.5 / 2 * abs(x) - y / 2) - 0.7 * radius


def cross(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    long, short = np.maximum(abs(x), abs(y)), np.minimum(abs(x), abs(y))
    return np.maximum(long - 1.15 * radius, short - 0.4 * radius)


SHAPES = {"circle": circle, "square": square, "triangle": triangle, "cross": cross}


@dataclass(frozen=True)
class MotionClip:
    """Parameters of a clip; `draw_motion_clip` samples them.

    Args:
        direction: One of `DIRECTIONS`, north being up.
        shape, colour: Keys of `SHAPES` and `COLOURS`.
        background, pattern: Another key of `COLOURS`, and one of `PATTERNS`.
        x, y: Centre of the object in the first frame, in pixels from the left and from the top.
        speed: Pixels per frame.
        radius: Radius of the circle in pixels; other shapes are scaled to a similar size.
        angle: Orientation of the object, in radians.
        stripe_axis: Axis along which stripes alternate, y (0) or x (1).
        stripe_phase: Offset of the stripes in pixels.
    """

    direction: str
    shape: str
    colour: str
    background: str
    pattern: str
    x: float
    y: float
    speed: float
    radius: float
    angle: float
    stripe_axis: int
    stripe_phase: int

    @property
    def label(self) -> int:
        """Index of the direction in `DIRECTIONS`."""
        return DIRECTIONS.index(self.direction)

    @cached_property
    def positions(self) -> np.ndarray:
        """(x, y) of the object's centre in every frame, `(NUM_FRAMES, 2)`, in pixels in [0, `SIZE`)."""
        heading = self.label * np.pi / 4  # clockwise from north
        step = self.speed * np.array([np.sin(heading), -np.cos(heading)])
        return (np.array([self.x, self.y]) + np.arange(NUM_FRAMES)[:, None] * step) % SIZE

    def caption(self, frame: int) -> str:
        """Caption of the frame with index `frame`: seven words, nothing about the motion."""
        column, row = (self.positions[frame] * 4 // SIZE).astype(int) % 4  # rounding can put a centre at `SIZE`
        return (
            f"{self.colour} {self.shape}, {self.pattern} {self.background} background, {COLUMNS[column]}, {ROWS[row]}"
        )

    def frames(self) -> np.ndarray:
        """The rendered clip, uint8 `(NUM_FRAMES, SIZE, SIZE, 3)`, with antialiased edges."""
        centres = np.arange(SIZE) + 0.5
        x, y = ((centres - self.positions[:, axis, None] + SIZE / 2) % SIZE - SIZE / 2 for axis in (0, 1))
        x, y = x[:, None, :], y[:, :, None]  # offsets from the object, on the torus: (T, 1, W) and (T, H, 1)
        cosine, sine = np.cos(self.angle), np.sin(self.angle)
        x, y = cosine * x + sine * y, cosine * y - sine * x  # in the object's own axes, (T, H, W) each
        inside = np.clip(0.5 - SHAPES[self.shape](x, y, self.radius), 0, 1)[..., None]
        second_half = np.clip(0.5 + x, 0, 1)[..., None]
        tone = 1 - (1 - SECOND_TONE) * second_half
        clip = self.still_background() * (1 - inside) + np.array(COLOURS[self.colour]) * tone * inside
        return np.rint(clip).astype(np.uint8)

    def still_background(self) -> np.ndarray:
        """The static background, float `(SIZE, SIZE, 3)`."""
        stripe = (np.arange(SIZE) + self.stripe_phase) // STRIPE_WIDTH % 2
        tone = np.where((self.pattern == "striped") & (stripe == 1), STRIPE_TONE, 1.0)
        tone = np.expand_dims(tone, axis=1 - self.stripe_axis) * np.ones((SIZE, SIZE))
        return tone[..., None] * np.array(COLOURS[self.background])


def draw_motion_clip(seed: int, index: int) -> MotionClip:
    """Clip `index` of a seed; its class is `index` modulo 8.

    Raises:
        ValueError: if `seed` or `index` is not in 0 to 2^32 - 1.
    """
    generator = sample_generator(seed, 0, index)
    colour, background = generator.permutation(list(COLOURS))[:2].tolist()
    return MotionClip(
        direction=DIRECTIONS[index % len(DIRECTIONS)],
        shape=list(SHAPES)[generator.integers(len(SHAPES))],
        colour=colour,
        background=background,
        pattern=PATTERNS[generator.integers(len(PATTERNS))],
        x=generator.uniform(0, SIZE),
        y=generator.uniform(0, SIZE),
        speed=generator.uniform(*SPEEDS),
        radius=generator.uniform(*RADII),
        angle=generator.uniform(0, 2 * np.pi),
        stripe_axis=int(generator.integers(2)),
        stripe_phase=int(generator.integers(2 * STRIPE_WIDTH)),
    )


def render_motion_clips(seed: int, num_clips: int) -> tuple[np.ndarray, np.ndarray]:
    """Render the first `num_clips` clips of a seed in memory.

    Returns:
        The frames, uint8 `(num_clips, NUM_FRAMES, SIZE, SIZE, 3)`, and the labels, int64 `(num_clips,)`. The captions
        of clip i are those of `draw_motion_clip(seed, i)`.
    """
    frames = np.empty((num_clips, NUM_FRAMES, SIZE, SIZE, 3), np.uint8)
    for index in range(num_clips):
        frames[index] = draw_motion_clip(seed, index).frames()
    return frames, np.arange(num_clips) % len(DIRECTIONS)


def write_motion_clips(folder: str | os.PathLike, num_clips: int, seed: int) -> list[Path]:
    """Write the first `num_clips` clips of a seed as video files, one sub-folder per class.

    Args:
        folder: Created if missing. Files are `<folder>/<direction>/<seed>-<index>.mp4`, so several seeds can share a
            folder; existing files are overwritten.
        num_clips: Number of clips; a multiple of 8 is balanced over the classes.
        seed: Seed of the clips, a different one for every split.

    Returns:
        The paths, in the order of the clips.
    """
    return [write_motion_clip(folder, seed, index) for index in range(num_clips)]


def write_motion_clip(folder: str | os.PathLike, seed: int, index: int) -> Path:
    """Write clip `index` of a seed as [`write_motion_clips`] does, and return its path."""
    clip = draw_motion_clip(seed, index)
    path = Path(folder) / clip.direction / f"{seed}-{index:05d}.mp4"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, clip.frames())
    return path


def write_video(path: Path, frames: np.ndarray, fps: int = 8) -> None:
    """Write frames, uint8 `(T, height, width, 3)`, to an MP4 file that decodes to exactly these frames.

    The codec is lossless H.264 in RGB. On frames this small the usual 4:2:0 chroma subsampling causes errors of up to
    184 of 255 grey levels at edges, and the files are hardly smaller (3.6 instead of 4.6 kB).
    """
    partial = path.with_suffix(".part.mp4")
    with av.open(str(partial), "w") as container:
        stream = container.add_stream("libx264rgb", rate=fps, options={"qp": "0"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "rgb24"
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    os.replace(partial, path)


def roll_and_jitter(frames: np.ndarray, generator: np.random.Generator, jitter: float = 0.0) -> torch.Tensor:
    """Augmentation that preserves the class: a random roll on the torus and a random gain of each colour channel.

    A transform for `VideoClipDataset` or `MotionClipDataset`. Flips and crops are left out: a flip turns east into
    west.

    Args:
        frames: uint8 `(T, height, width, 3)`.
        generator: The random generator; all frames share the same roll and gains.
        jitter: Largest relative change of a colour channel; 0 for the roll alone.

    Returns:
        uint8 `(T, 3, height, width)`.
    """
    clip = as_clip(frames)
    shifts = [int(generator.integers(side)) for side in clip.shape[-2:]]
    clip = clip.roll(shifts, dims=(-2, -1))
    if jitter > 0:
        gains = torch.from_numpy(generator.uniform(1 - jitter, 1 + jitter, (3, 1, 1)).astype(np.float32))
        clip = (clip * gains).round().clamp(0, 255).to(torch.uint8)
    return clip


def untouched(frames: np.ndarray, generator: np.random.Generator) -> torch.Tensor:
    """The transform of evaluation, without randomness: uint8 `(T, 3, height, width)`."""
    return as_clip(frames)


class MotionClipDataset(Dataset):
    """Clips in memory as samples of the UMT trainers; all randomness is a function of (seed, epoch, index).

    Args:
        frames: uint8 `(clips, T, height, width, 3)`, as `render_motion_clips` returns them.
        labels: int64 `(clips,)`, or None for pre-training.
        transform: `transform(frames, generator)` of one clip → uint8 `(T, 3, height, width)`.
        seed: Seed of the augmentation and the masks.
    """

    def __init__(
        self,
        frames: np.ndarray,
        labels: np.ndarray | None = None,
        transform: Callable[[np.ndarray, np.random.Generator], torch.Tensor] = untouched,
        seed: int = 0,
    ):
        self.frames, self.labels, self.transform, self.seed = frames, labels, transform, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Start an epoch; called by the trainers' data loaders, whose workers must not be persistent."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> dict[str, Any]:
        generator = sample_generator(self.seed, self.epoch, index)
        sample = {
            "pixel_values_videos": self.transform(self.frames[index], generator),
            "sample_seed": mask_seed(self.seed, self.epoch, index),
        }
        return sample if self.labels is None else sample | {"labels": int(self.labels[index])}

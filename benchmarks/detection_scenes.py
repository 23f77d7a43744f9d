"""Generated scenes of several figures that move differently: annotated data for action detection.

The figures have the shapes, colours, sizes and speeds of the demo's (`umt_training.demo.motion_clips`), and the action
of each is its direction, which a single frame does not show. They move in straight lines through the positions that
they have in the key frame, where they are apart from each other; before and after it they may overlap or leave the
frame. A scene is a function of (seed, index).
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from processing_umt.augmentation_umt import sample_generator
from umt_training.demo.motion_clips import COLOURS, DIRECTIONS, NUM_FRAMES, RADII, SHAPES, SPEEDS, write_video

SIDE = 45  # side of a frame in pixels; training crops are 7/8 of it
KEY_FRAME = NUM_FRAMES // 2  # index of the key frame
FPS = 8
_MARGIN = 8  # pixels between the border and a figure's centre in the key frame
_APART = 15  # pixels, least distance of two centres in the key frame along one of the axes


@dataclass(frozen=True)
class Figure:
    """A moving figure.

    Args:
        direction: index in `DIRECTIONS`.
        shape, colour: keys of `SHAPES` and `COLOURS`.
        centre: position (x, y) in the key frame, in pixels.
        speed: pixels per frame.
        radius: size in pixels.
        angle: orientation in radians.
    """

    direction: int
    shape: str
    colour: str
    centre: tuple[float, float]
    speed: float
    radius: float
    angle: float

    def coverage(self) -> np.ndarray:
        """Fraction of each pixel that the figure covers, `(NUM_FRAMES, SIDE, SIDE)`."""
        heading = self.direction * np.pi / 4  # clockwise from north
        step = self.speed * np.array([np.sin(heading), -np.cos(heading)])
        positions = np.array(self.centre) + (np.arange(NUM_FRAMES) - KEY_FRAME)[:, None] * step
        x, y = (np.arange(SIDE) + 0.5 - positions[:, axis, None] for axis in (0, 1))
        x, y = x[:, None, :], y[:, :, None]
        cosine, sine = np.cos(self.angle), np.sin(self.angle)
        x, y = cosine * x + sine * y, cosine * y - sine * x  # in the figure's own axes
        return np.clip(0.5 - SHAPES[self.shape](x, y, self.radius), 0, 1)

    @property
    def box(self) -> list[int]:
        """`[x, y, width, height]` of its pixels in the key frame."""
        rows, columns = np.nonzero(self.coverage()[KEY_FRAME] > 0.5)
        x, y = int(columns.min()), int(rows.min())
        return [x, y, int(columns.max()) + 1 - x, int(rows.max()) + 1 - y]


@dataclass(frozen=True)
class Scene:
    """Figures on a plain background, a key of `COLOURS`."""

    background: str
    figures: tuple[Figure, ...]

    def frames(self) -> np.ndarray:
        """uint8 `(NUM_FRAMES, SIDE, SIDE, 3)`."""
        frames = np.full((NUM_FRAMES, SIDE, SIDE, 3), 0.5 * np.array(COLOURS[self.background]))
        for figure in self.figures:
            covered = figure.coverage()[..., None]
            frames = frames * (1 - covered) + np.array(COLOURS[figure.colour]) * covered
        return np.rint(frames).astype(np.uint8)


def draw_scene(seed: int, index: int, num_figures: int) -> Scene:
    """Scene `index` of a seed."""
    generator = sample_generator(seed, 0, index)
    centres: list[np.ndarray] = []
    while len(centres) < num_figures:
        centre = generator.uniform(_MARGIN, SIDE - _MARGIN, 2)
        if all(abs(centre - other).max() >= _APART for other in centres):
            centres.append(centre)
        elif generator.random() < 0.02:
            centres.clear()  # the rest of the frame may be too small for another figure
    background, *colours = generator.permutation(list(COLOURS)).tolist()
    figures = tuple(
        Figure(
            direction=int(generator.integers(len(DIRECTIONS))),
            shape=list(SHAPES)[generator.integers(len(SHAPES))],
            colour=colours[number % len(colours)],
            centre=tuple(centre.tolist()),
            speed=generator.uniform(*SPEEDS),
            radius=generator.uniform(*RADII),
            angle=generator.uniform(0, 2 * np.pi),
        )
        for number, centre in enumerate(centres)
    )
    return Scene(background, figures)


def render_single_figures(seed: int, num_clips: int) -> tuple[np.ndarray, np.ndarray]:
    """Clips of one figure each, uint8 `(num_clips, NUM_FRAMES, SIDE, SIDE, 3)`, and their directions."""
    scenes = [draw_scene(seed, index, 1) for index in range(num_clips)]
    labels = np.array([scene.figures[0].direction for scene in scenes], dtype=np.int64)
    return np.stack([scene.frames() for scene in scenes]), labels


def write_scenes(folder: Path, seed: int, num_scenes: int, num_figures: int) -> Path:
    """Writes scenes as videos with their `metadata.jsonl`; returns the folder."""
    folder.mkdir(parents=True)
    rows = []
    for index in range(num_scenes):
        scene = draw_scene(seed, index, num_figures)
        name = f"{index:04d}.mp4"
        write_video(folder / name, scene.frames(), fps=FPS)
        objects = {
            "bbox": [figure.box for figure in scene.figures],
            "categories": [[DIRECTIONS[figure.direction]] for figure in scene.figures],
        }
        rows.append({"file_name": name, "time": KEY_FRAME / FPS, "objects": objects})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder

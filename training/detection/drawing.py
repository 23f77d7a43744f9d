"""Persons on a frame: a box in the colour of the track, and the best actions beside it."""

import functools
import math
from collections.abc import Iterable, Sequence

from PIL import Image, ImageDraw, ImageFont

from .detections import Person

LABELS_SHOWN = 3  # of a person
_LABEL_CHARACTERS = 32
COLOURS = (
    (230, 75, 60), (60, 130, 220), (50, 165, 85), (240, 160, 30), (150, 90, 200), (20, 165, 175), (225, 90, 160),
    (140, 110, 60), (95, 110, 125), (150, 185, 40),
)  # fmt: skip
_SMALLEST_TEXT = 10  # pixels

_Box = tuple[int, int, int, int]  # first column and row, last column and row


def draw_persons(picture: Image.Image, persons: Iterable[Person], scale: float = 1.0) -> None:
    """Draws boxes and labels on a picture, an RGB image.

    Args:
        picture: the frame, or the frame enlarged by `scale`.
        persons: with boxes in pixels of the frame. The labels are those of at most three actions.
        scale: size of the picture relative to the frame.
    """
    draw = ImageDraw.Draw(picture)
    size = max(_SMALLEST_TEXT, round(min(picture.size) / 24))
    font = _font(size)
    line = max(2, round(min(picture.size) / 150))
    persons = list(persons)
    boxes = [_pixels(person, scale, picture.size) for person in persons]
    for person, box in zip(persons, boxes, strict=True):
        draw.rectangle(box, outline=_colour(person), width=line)
    labels: list[_Box] = []
    for person, box in zip(persons, boxes, strict=True):  # above the boxes of the others
        labels.append(_draw_label(draw, picture.size, box, label_lines(person), _colour(person), font, labels))


def label_lines(person: Person) -> list[str]:
    """Number of the track and the best actions with their scores, one per line."""
    actions = [f"{_shortened(action.label)} {action.score:.2f}" for action in person.actions[:LABELS_SHOWN]]
    return [f"#{person.track}  {actions[0]}" if actions else f"#{person.track}", *actions[1:]]


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)  # takes as long as the drawing


def _shortened(label: str) -> str:
    return label if len(label) <= _LABEL_CHARACTERS else f"{label[: _LABEL_CHARACTERS - 1]}…"


def _colour(person: Person) -> tuple[int, int, int]:
    return COLOURS[person.track % len(COLOURS)]


def _pixels(person: Person, scale: float, size: tuple[int, int]) -> _Box:
    """A person's box within a picture of `size` (width, height)."""
    left, top, right, bottom = (round(scale * corner) for corner in person.box)
    columns = sorted(min(max(x, 0), size[0] - 1) for x in (left, right - 1))
    rows = sorted(min(max(y, 0), size[1] - 1) for y in (top, bottom - 1))
    return columns[0], rows[0], columns[1], rows[1]


def _draw_label(
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    box: _Box,
    lines: list[str],
    colour: tuple[int, int, int],
    font: ImageFont.FreeTypeFont,
    others: Sequence[_Box],
) -> _Box:
    """Draws lines of text within the picture: above a box, inside it, below it or below another label, the first of
    these that is free of other labels. Returns where."""
    text = "\n".join(lines)
    margin = max(1, round(font.size / 6))
    left, top, right, bottom = draw.multiline_textbbox((0, 0), text, font=font, spacing=margin)
    width, height = math.ceil(right - left) + 2 * margin, math.ceil(bottom - top) + 2 * margin
    x = max(0, min(box[0], size[0] - width))
    rows = [box[1] - height, box[1], box[3] + 1, *(other[3] + 1 for other in others)]
    rows = [y for y in rows if 0 <= y <= size[1] - height] or [0]
    places = [(x, y, x + width - 1, y + height - 1) for y in rows]
    place = next((place for place in places if not any(_intersect(place, other) for other in others)), places[0])
    draw.rectangle(place, fill=colour)
    draw.multiline_text((x + margin - left, place[1] + margin - top), text, fill="white", font=font, spacing=margin)
    return place


def _intersect(first: _Box, second: _Box) -> bool:
    return first[0] <= second[2] and second[0] <= first[2] and first[1] <= second[3] and second[1] <= first[3]

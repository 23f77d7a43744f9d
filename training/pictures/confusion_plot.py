"""A picture of a confusion matrix, drawn with Pillow to avoid a dependency on a plotting library.

Unusual: colour encodes the cube root of a cell's fraction of its row. With hundreds of classes, confusions are a few
percent each in cells of two pixels, and would be invisible on a linear scale.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .drawing import INK, PAPER

_COLOURS = np.array([(255, 255, 255), (158, 202, 225), (49, 130, 189), (8, 38, 84)])  # evenly spaced, from 0 to 1
_EMPTY = (232, 232, 232)  # rows of classes without videos
_MAX_NAMES = 50  # with more classes, only some class indices are written
_MAX_NAME_LENGTH = 44  # characters
_GAP = 12  # pixels
_EXPONENT = 1 / 3


def draw_confusion_matrix(confusion_matrix: np.ndarray, names: Sequence[str], title: str) -> Image.Image:
    """Draw a confusion matrix, with true classes in rows and predicted classes in columns.

    Cells show their counts if these fit (up to about 30 classes); the sides show class names for up to 50 classes.

    Args:
        confusion_matrix: int `(classes, classes)`.
        names: Names of the classes.
        title: Title of the picture.
    """
    num_classes = len(confusion_matrix)
    cell = int(np.clip(900 // num_classes, 2, 48))
    side = cell * num_classes
    font, title_font = ImageFont.load_default(12), ImageFont.load_default(16)
    labels = _side_labels(names, font)
    margin = max(label.width for label in labels.values()) + 2 * _GAP
    left, top = margin + 24, margin + 64  # with space for the titles of the picture and of the axes
    bar = 16
    width = max(left + side + _GAP + bar + 56, left + int(title_font.getlength(title)) + _GAP)
    height = top + max(side, 120) + 2 * _GAP
    picture = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(picture)

    totals = confusion_matrix.sum(axis=1, keepdims=True)
    fractions = confusion_matrix / np.maximum(totals, 1)
    colours = np.where(totals[..., None] > 0, _colour(fractions), np.uint8(_EMPTY)).astype(np.uint8)
    matrix = Image.fromarray(colours).resize((side, side), Image.Resampling.NEAREST)
    picture.paste(matrix, (left, top))
    draw.rectangle((left - 1, top - 1, left + side, top + side), outline=INK)
    if cell >= 28:
        for row, column in zip(*np.nonzero(confusion_matrix), strict=True):
            centre = (left + column * cell + cell / 2, top + row * cell + cell / 2)
            ink = PAPER if fractions[row, column] > 0.15 else INK
            draw.text(centre, str(confusion_matrix[row, column]), fill=ink, font=font, anchor="mm")

    draw.text((left, _GAP), title, fill=INK, font=title_font)
    for index, label in labels.items():
        middle = index * cell + cell // 2
        picture.paste(label, (left - _GAP // 2 - label.width, top + middle - label.height // 2))
        upright = label.rotate(90, expand=True)
        picture.paste(upright, (left + middle - upright.width // 2, top - _GAP // 2 - upright.height))
    draw.text((left + side / 2, 48), "predicted class", fill=INK, font=font, anchor="mm")
    axis = _text("true class", font).rotate(90, expand=True)
    picture.paste(axis, (_GAP, top + side // 2 - axis.height // 2))
    _draw_scale(picture, (left + side + _GAP, top), bar, max(side, 120), font)
    return picture


def _side_labels(names: Sequence[str], font: ImageFont.FreeTypeFont) -> dict[int, Image.Image]:
    """Class index → label of its row and column: the class name, or the index at round numbers only."""
    if len(names) <= _MAX_NAMES:
        short = [name if len(name) <= _MAX_NAME_LENGTH else name[: _MAX_NAME_LENGTH - 1] + "…" for name in names]
        return {index: _text(name, font) for index, name in enumerate(short)}
    step = next(step for step in (10, 20, 50, 100, 200, 500, 1000, len(names)) if len(names) / step <= 20)
    return {index: _text(str(index), font) for index in range(0, len(names), step)}


def _text(text: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    label = Image.new("RGB", (int(font.getlength(text)) + 2, 15), PAPER)
    ImageDraw.Draw(label).text((1, 12), text, fill=INK, font=font, anchor="ls")
    return label


def _colour(fractions: np.ndarray) -> np.ndarray:
    """Colours of fractions from 0 to 1, `(...)`, as uint8 `(..., 3)`."""
    values, stops = fractions**_EXPONENT, np.linspace(0, 1, len(_COLOURS))
    return np.stack([np.interp(values, stops, channel) for channel in _COLOURS.T], axis=-1).round().astype(np.uint8)


def _draw_scale(
    picture: Image.Image, corner: tuple[int, int], width: int, height: int, font: ImageFont.FreeTypeFont
) -> None:
    """Draw a bar of the colours, from 100 % at the top to 0 % at the bottom."""
    left, top = corner
    colours = _colour(np.linspace(1, 0, height) ** (1 / _EXPONENT))[:, None].repeat(width, axis=1)
    picture.paste(Image.fromarray(colours), corner)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((left - 1, top - 1, left + width, top + height), outline=INK)
    for percent in (0, 1, 5, 25, 50, 100):
        y = top + height * (1 - (percent / 100) ** _EXPONENT)
        draw.line((left + width, y, left + width + 4, y), fill=INK)
        draw.text((left + width + 7, y), f"{percent} %", fill=INK, font=font, anchor="lm")

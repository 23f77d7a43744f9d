"""Rows of small images, one column for each frame of a clip, with a title and a foot."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .drawing import FAINT, INK, PAPER

FRAMES_IN_A_ROW = 8
FRAME_HEIGHT = 120  # smaller frames are enlarged to about this height in pixels, by an integer factor
_GAP, _MARGIN = 4, 12  # pixels between frames, and around the picture


def draw_frame_strip(
    rows: Sequence[tuple[str, Sequence[np.ndarray]]],
    columns: Sequence[str],
    title: str | None,
    foot: str,
    foot_indent: int = 0,
) -> tuple[Image.Image, tuple[int, int]]:
    """Draw rows of images; more than eight columns continue below.

    Args:
        rows: The label of each row, and its images, uint8 (height, width, 3), one for each column.
        columns: The labels of the columns.
        title: Title of the picture, or None.
        foot: Text below the images.
        foot_indent: Pixels left of the foot that the caller draws on.

    Returns:
        The picture, and (left, top) of the foot with its indent.
    """
    height, width = rows[0][1][0].shape[:2]
    factor = max(1, round(FRAME_HEIGHT / height))
    height, width = factor * height, factor * width
    font, title_font = ImageFont.load_default(13), ImageFont.load_default(16)
    left = _MARGIN + max(int(font.getlength(label)) for label, _ in rows) + _MARGIN
    bands = math.ceil(len(columns) / FRAMES_IN_A_ROW)
    band = 18 + len(rows) * (height + _GAP) + _MARGIN  # with the labels of the columns above it
    top = _MARGIN + (26 if title else 0)
    right = left + min(len(columns), FRAMES_IN_A_ROW) * (width + _GAP) - _GAP
    foot_width = _MARGIN + int(font.getlength(foot)) + foot_indent
    title_width = _MARGIN + int(title_font.getlength(title or ""))
    size = (max(right, foot_width, title_width) + _MARGIN, top + bands * band + 20 + _MARGIN)
    picture = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(picture)
    if title:
        draw.text((_MARGIN, _MARGIN), title, fill=INK, font=title_font)
    for column, label in enumerate(columns):
        x = left + column % FRAMES_IN_A_ROW * (width + _GAP)
        y = top + column // FRAMES_IN_A_ROW * band
        draw.text((x + width / 2, y + 8), label, fill=FAINT, font=font, anchor="mm")
        for row, (_, images) in enumerate(rows):
            corner = (x, y + 18 + row * (height + _GAP))
            picture.paste(Image.fromarray(images[column]).resize((width, height), Image.Resampling.NEAREST), corner)
    for index in range(bands):
        for row, (label, _) in enumerate(rows):
            y = top + index * band + 18 + row * (height + _GAP) + height / 2
            draw.text((left - _MARGIN, y), label, fill=INK, font=font, anchor="rm")
    corner = (_MARGIN, top + bands * band)
    draw.text((corner[0] + foot_indent, corner[1] + 6), foot, fill=INK, font=font, anchor="lm")
    return picture, corner

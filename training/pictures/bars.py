"""Horizontal bars of percentages, such as the accuracy of each class, drawn with Pillow to avoid a dependency."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from .drawing import FAINT, INK, PAPER

MOST_BARS = 50  # of more values the first and the last are drawn
_MAX_NAME_LENGTH = 44  # characters
_BAR_WIDTH, _ROW_HEIGHT, _GAP = 480, 20, 12  # pixels
_COLOUR, _TRACK = (49, 130, 189), (238, 238, 238)


def draw_bars(
    names: Sequence[str], percentages: Sequence[float | None], title: str, lowest_first: bool = True
) -> Image.Image:
    """Draw a bar for each percentage.

    Of more than 50 values the first 25 and the last 25 are drawn, with the number of the others between them.

    Args:
        names: Name of each value.
        percentages: Values from 0 to 100; those that are None are not drawn.
        title: Title of the picture.
        lowest_first: Sort the values, or keep their order.

    Raises:
        ValueError: if all values are None.
    """
    values = [(value, name) for name, value in zip(names, percentages, strict=True) if value is not None]
    if lowest_first:
        values.sort(key=lambda pair: pair[0])
    if not values:
        raise ValueError(f"None of the {len(names)} values of {title!r} is known.")
    rows: list[tuple[float, str] | None] = list(values)
    num_hidden = max(0, len(values) - MOST_BARS)
    if num_hidden:
        rows = [*values[: MOST_BARS // 2], None, *values[-MOST_BARS // 2 :]]
    font, title_font = ImageFont.load_default(13), ImageFont.load_default(16)
    labels = [_shortened(row[1]) if row else f"… {num_hidden} others" for row in rows]
    left = 2 * _GAP + max(int(font.getlength(label)) for label in labels)
    width = max(left + _BAR_WIDTH + 64, int(title_font.getlength(title)) + 2 * _GAP)
    top = 3 * _GAP + 8
    picture = Image.new("RGB", (width, top + len(rows) * _ROW_HEIGHT + _GAP), PAPER)
    draw = ImageDraw.Draw(picture)
    draw.text((_GAP, _GAP), title, fill=INK, font=title_font)
    for index, (row, label) in enumerate(zip(rows, labels, strict=True)):
        y = top + index * _ROW_HEIGHT
        middle = y + _ROW_HEIGHT / 2
        draw.text((left - _GAP, middle), label, fill=INK if row else FAINT, font=font, anchor="rm")
        if row is not None:
            value = row[0]
            draw.rectangle((left, y + 4, left + _BAR_WIDTH, y + _ROW_HEIGHT - 4), fill=_TRACK)
            if value > 0:
                draw.rectangle((left, y + 4, left + _BAR_WIDTH * value / 100, y + _ROW_HEIGHT - 4), fill=_COLOUR)
            draw.text((left + _BAR_WIDTH + 8, middle), f"{value:.1f} %", fill=INK, font=font, anchor="lm")
    return picture


def _shortened(name: str) -> str:
    return name if len(name) <= _MAX_NAME_LENGTH else name[: _MAX_NAME_LENGTH - 1] + "…"

"""Curves of training runs as one picture: loss, accuracy and learning rate against steps, several runs in comparison.

Not of the paper. Drawn with Pillow, as the confusion matrix is, from a trainer's `state.log_history`. Unusual: a panel
is there only if some run logged what it shows, and its axis begins at zero, so that the eye compares heights rightly.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from .drawing import FAINT, INK, PAPER


@dataclass(frozen=True)
class Panel:
    """One pair of axes: its title, the key of a log line that is drawn as a line, and one that is drawn as dots."""

    title: str
    line: str | None = None
    dots: str | None = None


PANELS = (
    Panel("loss", "loss", "eval_loss"),
    Panel("top-1 accuracy, %", dots="eval_top1"),
    Panel("learning rate", "learning_rate"),
)
# Okabe and Ito's colours, which the colour-blind tell apart too
COLOURS = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233), INK)
_GRID = (228, 228, 228)
_LEFT, _RIGHT, _TOP, _BOTTOM = 72, 24, 30, 30  # pixels around a panel's axes
_WIDTH, _HEIGHT = 720, 220  # of a panel's axes
_FINE = 3  # lines are drawn so much larger and then made smaller, which smooths their edges
_NUM_TICKS = 5  # about

Points = list[tuple[float, float]]


def draw_curves(runs: Mapping[str, Sequence[Mapping[str, Any]]], title: str | None = None) -> Image.Image:
    """A picture of one or several runs: a panel each for loss, accuracy and learning rate, as far as they were logged.

    Training values are lines, evaluations are dots joined by a thin line. Values that are no finite number are left
    out.

    Args:
        runs: name → `trainer.state.log_history`, in the order of colours; of more than seven runs colours repeat.
        title: written above.

    Raises:
        ValueError: no run has a value to draw.
    """
    panels = []
    for panel in PANELS:
        lines = [points(history, panel.line) for history in runs.values()]
        dots = [points(history, panel.dots) for history in runs.values()]
        if any(lines) or any(dots):
            panels.append((panel, lines, dots))
    if not panels:
        raise ValueError(f"There is nothing to draw: no run of {', '.join(runs) or 'none'} has logged a loss.")
    last_step = max(step for _, lines, dots in panels for series in lines + dots for step, _ in series)

    font, title_font = ImageFont.load_default(13), ImageFont.load_default(16)
    legend = _legend_places(runs, font) if len(runs) > 1 else []
    head = 12 + (26 if title else 0) + (20 * (legend[-1][1] + 1) if legend else 0)
    panel_height = _TOP + _HEIGHT + _BOTTOM
    picture = Image.new("RGB", (_LEFT + _WIDTH + _RIGHT, head + len(panels) * panel_height + 20), PAPER)
    draw = ImageDraw.Draw(picture)
    if title:
        draw.text((12, 12), title, fill=INK, font=title_font)
    for (x, row, name), colour in zip(legend, _colours(len(legend)), strict=True):
        y = head - 20 * (legend[-1][1] + 1 - row) + 10
        draw.rectangle((x, y - 2, x + 18, y + 1), fill=colour)
        draw.text((x + 24, y), name, fill=INK, font=font, anchor="lm")
    for number, (panel, lines, dots) in enumerate(panels):
        corner = (_LEFT, head + number * panel_height + _TOP)
        _draw_panel(picture, corner, panel, lines, dots, last_step, font)
    draw.text((_LEFT + _WIDTH / 2, picture.height - 14), "step", fill=INK, font=font, anchor="mm")
    return picture


def points(log_history: Sequence[Mapping[str, Any]], key: str | None) -> Points:
    """(step, value) of the log lines that have `key` with a finite number."""
    pairs = [(line["step"], line[key]) for line in log_history if key in line]
    return [(step, value) for step, value in pairs if value is not None and math.isfinite(value)]


def ticks(most: float) -> list[float]:
    """About five round numbers, evenly spaced from 0, of which the last is not below `most`."""
    if most <= 0:
        return [0.0, 1.0]
    power = 10.0 ** math.floor(math.log10(most / _NUM_TICKS))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power * _NUM_TICKS >= most * (1 - 1e-9))
    return [number * step for number in range(math.ceil(most / step - 1e-9) + 1)]


def tick_label(value: float) -> str:
    """A tick in few characters: `0.02`, `1.5e-4`, `20k`."""
    if value >= 10_000:
        return f"{value / 1000:g}k"
    if 0 < value < 0.001:
        digits, exponent = f"{value:.2e}".split("e")
        return f"{float(digits):g}e{int(exponent)}"
    return f"{value:.4g}"


def _colours(number: int) -> list[tuple[int, int, int]]:
    return [COLOURS[place % len(COLOURS)] for place in range(number)]


def _legend_places(runs: Mapping[str, Any], font: ImageFont.FreeTypeFont) -> list[tuple[int, int, str]]:
    """(x, row, name) of every run's name, as many in a row as there is room for."""
    places, x, row = [], _LEFT, 0
    for name in runs:
        width = 24 + int(font.getlength(name)) + 20
        if x > _LEFT and x + width > _LEFT + _WIDTH + _RIGHT:
            x, row = _LEFT, row + 1
        places.append((x, row, name))
        x += width
    return places


def _draw_panel(
    picture: Image.Image,
    corner: tuple[int, int],
    panel: Panel,
    lines: list[Points],
    dots: list[Points],
    last_step: float,
    font: ImageFont.FreeTypeFont,
) -> None:
    """Axes with their ticks, and the series of every run, into the rectangle whose top left is `corner`."""
    left, top = corner
    draw = ImageDraw.Draw(picture)
    y_ticks = ticks(max(value for series in lines + dots for _, value in series))
    x_ticks = [step for step in ticks(last_step) if step <= last_step]

    def place(step: float, value: float) -> tuple[float, float]:
        """Pixels from the axes' top left corner."""
        return step / max(last_step, 1) * (_WIDTH - 1), (1 - value / y_ticks[-1]) * (_HEIGHT - 1)

    # the ends of dots and thick lines may stand over the axes
    fine = Image.new("RGB", ((_WIDTH + 8) * _FINE, (_HEIGHT + 8) * _FINE), PAPER)
    plot = ImageDraw.Draw(fine)

    def fine_place(step: float, value: float) -> tuple[float, float]:
        x, y = place(step, value)
        return (x + 4.5) * _FINE, (y + 4.5) * _FINE

    for value in y_ticks:
        plot.line((fine_place(0, value), fine_place(last_step, value)), fill=_GRID, width=_FINE)
    for step in x_ticks:
        plot.line((fine_place(step, 0), fine_place(step, y_ticks[-1])), fill=_GRID, width=_FINE)
    for series, evaluations, colour in zip(lines, dots, _colours(len(lines)), strict=True):
        _draw_line(plot, [fine_place(*point) for point in series], colour, 2 * _FINE)
        places = [fine_place(*point) for point in evaluations]
        _draw_line(plot, places, colour, _FINE)
        for x, y in places:
            plot.ellipse((x - 3 * _FINE, y - 3 * _FINE, x + 3 * _FINE, y + 3 * _FINE), fill=colour)
    picture.paste(fine.resize((_WIDTH + 8, _HEIGHT + 8), Image.Resampling.BOX), (left - 4, top - 4))

    draw.line((left, top, left, top + _HEIGHT, left + _WIDTH, top + _HEIGHT), fill=FAINT)
    both = panel.line and any(lines) and any(dots)
    draw.text(
        (left, top - 16), panel.title + (" (dots: evaluation)" if both else ""), fill=INK, font=font, anchor="lm"
    )
    for value in y_ticks:
        draw.text((left - 8, top + place(0, value)[1]), tick_label(value), fill=INK, font=font, anchor="rm")
    for step in x_ticks:
        draw.text((left + place(step, 0)[0], top + _HEIGHT + 12), tick_label(step), fill=INK, font=font, anchor="mm")


def _draw_line(plot: ImageDraw.ImageDraw, places: list[tuple[float, float]], colour: tuple, width: int) -> None:
    """A line through the places, if there are any; a single one is a point."""
    if len(places) == 1:
        (x, y) = places[0]
        plot.ellipse((x - width, y - width, x + width, y + width), fill=colour)
    elif places:
        plot.line(places, fill=colour, width=width, joint="curve")

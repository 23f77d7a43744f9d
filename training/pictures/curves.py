"""Curves of training runs: loss, accuracy and learning rate over steps, of one or several runs.

Drawn with Pillow from a trainer's `state.log_history`. A panel is drawn only if a run has logged its values. All axes
start at zero.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from .drawing import FAINT, INK, PAPER


@dataclass(frozen=True)
class Panel:
    """A plot: its title, the log key that is drawn as a line, and the log key that is drawn as dots."""

    title: str
    line: str | None = None
    dots: str | None = None


PANELS = (
    Panel("loss", "loss", "eval_loss"),
    Panel("top-1 accuracy, %", dots="eval_top1"),
    Panel("frame mAP at IoU 0.5, %", dots="eval_map50"),
    Panel("learning rate", "learning_rate"),
)
# Okabe and Ito's palette, distinguishable with colour vision deficiency
COLOURS = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233), INK)
_GRID = (228, 228, 228)
_LEFT, _RIGHT, _TOP, _BOTTOM = 72, 24, 30, 30  # margins around a panel's axes, in pixels
_WIDTH, _HEIGHT = 720, 220  # size of a panel's axes, in pixels
_SCALE = 3  # lines are drawn enlarged by this factor and then reduced, to smooth their edges
_NUM_TICKS = 5  # approximately

Points = list[tuple[float, float]]


def draw_curves(
    runs: Mapping[str, Sequence[Mapping[str, Any]]], title: str | None = None, axis: str = "step"
) -> Image.Image:
    """Draw the curves of one or several runs: a panel each for loss, accuracy and learning rate, if logged.

    Training values are lines, evaluation results are dots connected by a thin line. Non-finite values are left out.

    Args:
        runs: Name → `trainer.state.log_history`. Colours repeat after seven runs.
        title (*optional*): Title of the picture.
        axis: Name of the horizontal axis, whose values are logged as `step`.

    Raises:
        ValueError: if no run has a value to draw.
    """
    panels = []
    for panel in PANELS:
        lines = [points(history, panel.line) for history in runs.values()]
        dots = [points(history, panel.dots) for history in runs.values()]
        if any(lines) or any(dots):
            panels.append((panel, lines, dots))
    if not panels:
        raise ValueError(f"No values to draw in the logs of {', '.join(runs) or 'no run'}.")
    last_step = max(step for _, lines, dots in panels for series in lines + dots for step, _ in series)

    font, title_font = ImageFont.load_default(13), ImageFont.load_default(16)
    legend = _legend_positions(runs, font) if len(runs) > 1 else []
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
    for index, (panel, lines, dots) in enumerate(panels):
        corner = (_LEFT, head + index * panel_height + _TOP)
        _draw_panel(picture, corner, panel, lines, dots, last_step, font)
    draw.text((_LEFT + _WIDTH / 2, picture.height - 14), axis, fill=INK, font=font, anchor="mm")
    return picture


def points(log_history: Sequence[Mapping[str, Any]], key: str | None) -> Points:
    """(step, value) of the log lines with a finite value of `key`."""
    pairs = [(line["step"], line[key]) for line in log_history if key in line]
    return [(step, value) for step, value in pairs if value is not None and math.isfinite(value)]


def ticks(maximum: float) -> list[float]:
    """About five round values, evenly spaced from 0, the last of which is at least `maximum`."""
    if maximum <= 0:
        return [0.0, 1.0]
    power = 10.0 ** math.floor(math.log10(maximum / _NUM_TICKS))
    factors = (1, 2, 2.5, 5, 10)
    step = next(factor * power for factor in factors if factor * power * _NUM_TICKS >= maximum * (1 - 1e-9))
    return [index * step for index in range(math.ceil(maximum / step - 1e-9) + 1)]


def tick_label(value: float) -> str:
    """A short label of a tick: `0.02`, `1.5e-4`, `20k`."""
    if value >= 10_000:
        return f"{value / 1000:g}k"
    if 0 < value < 0.001:
        digits, exponent = f"{value:.2e}".split("e")
        return f"{float(digits):g}e{int(exponent)}"
    return f"{value:.4g}"


def _colours(number: int) -> list[tuple[int, int, int]]:
    return [COLOURS[index % len(COLOURS)] for index in range(number)]


def _legend_positions(runs: Mapping[str, Any], font: ImageFont.FreeTypeFont) -> list[tuple[int, int, str]]:
    """(x, row, name) of every run, with as many names in a row as fit."""
    positions, x, row = [], _LEFT, 0
    for name in runs:
        width = 24 + int(font.getlength(name)) + 20
        if x > _LEFT and x + width > _LEFT + _WIDTH + _RIGHT:
            x, row = _LEFT, row + 1
        positions.append((x, row, name))
        x += width
    return positions


def _draw_panel(
    picture: Image.Image,
    corner: tuple[int, int],
    panel: Panel,
    lines: list[Points],
    dots: list[Points],
    last_step: float,
    font: ImageFont.FreeTypeFont,
) -> None:
    """Draw the axes with their ticks and the series of every run; `corner` is the top left corner of the axes."""
    left, top = corner
    draw = ImageDraw.Draw(picture)
    y_ticks = ticks(max(value for series in lines + dots for _, value in series))
    x_ticks = [step for step in ticks(last_step) if step <= last_step]

    def position(step: float, value: float) -> tuple[float, float]:
        """Pixels from the top left corner of the axes."""
        return step / max(last_step, 1) * (_WIDTH - 1), (1 - value / y_ticks[-1]) * (_HEIGHT - 1)

    # 4 pixels of margin for dots and thick lines that extend over the axes
    enlarged = Image.new("RGB", ((_WIDTH + 8) * _SCALE, (_HEIGHT + 8) * _SCALE), PAPER)
    plot = ImageDraw.Draw(enlarged)

    def enlarged_position(step: float, value: float) -> tuple[float, float]:
        x, y = position(step, value)
        return (x + 4.5) * _SCALE, (y + 4.5) * _SCALE

    for value in y_ticks:
        plot.line((enlarged_position(0, value), enlarged_position(last_step, value)), fill=_GRID, width=_SCALE)
    for step in x_ticks:
        plot.line((enlarged_position(step, 0), enlarged_position(step, y_ticks[-1])), fill=_GRID, width=_SCALE)
    for series, evaluations, colour in zip(lines, dots, _colours(len(lines)), strict=True):
        _draw_line(plot, [enlarged_position(*point) for point in series], colour, 2 * _SCALE)
        positions = [enlarged_position(*point) for point in evaluations]
        _draw_line(plot, positions, colour, _SCALE)
        for x, y in positions:
            plot.ellipse((x - 3 * _SCALE, y - 3 * _SCALE, x + 3 * _SCALE, y + 3 * _SCALE), fill=colour)
    picture.paste(enlarged.resize((_WIDTH + 8, _HEIGHT + 8), Image.Resampling.BOX), (left - 4, top - 4))

    draw.line((left, top, left, top + _HEIGHT, left + _WIDTH, top + _HEIGHT), fill=FAINT)
    both = panel.line and any(lines) and any(dots)
    draw.text(
        (left, top - 16), panel.title + (" (dots: evaluation)" if both else ""), fill=INK, font=font, anchor="lm"
    )
    for value in y_ticks:
        draw.text((left - 8, top + position(0, value)[1]), tick_label(value), fill=INK, font=font, anchor="rm")
    for step in x_ticks:
        x = left + position(step, 0)[0]
        draw.text((x, top + _HEIGHT + 12), tick_label(step), fill=INK, font=font, anchor="mm")


def _draw_line(plot: ImageDraw.ImageDraw, positions: Points, colour: tuple[int, int, int], width: int) -> None:
    """Draw a line through the positions, or a dot at a single position."""
    if len(positions) == 1:
        (x, y) = positions[0]
        plot.ellipse((x - width, y - width, x + width, y + width), fill=colour)
    elif positions:
        plot.line(positions, fill=colour, width=width, joint="curve")

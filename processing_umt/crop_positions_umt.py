"""Crop sizes and positions of the official test views and of the stage-1 multi-scale crop: integer arithmetic without
pixels (UMT, arXiv 2303.16058; the rules are those of the official code).

Sizes and positions are (height, width) and (top, left) throughout; the official crop lists are (width, height).

Unusual: the validation crop rounds half to even while the single test crop truncates, so the two differ by a pixel for
odd margins; multi-scale crops within two pixels of the target size snap to it; four of their thirteen positions are
quarter points. Left out: the fixed three-position crop on unresized frames (no published recipe uses it).
"""

import numpy as np
from transformers.image_utils import SizeDict


def resized_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """(height, width) after resizing the shorter side to `short_side`; the longer side is rounded down."""
    _check_positive(height=height, width=width, short_side=short_side)
    if height <= width:
        return short_side, int(short_side * width / height)
    return int(short_side * height / width), short_side


def center_crop(height: int, width: int, size: int) -> tuple[int, int]:
    """(top, left) of the centred square crop of validation: half the margin, rounded half to even.

    Raises ValueError if the frame is smaller than `size`."""
    _check_fits(height, width, size)
    return round((height - size) / 2), round((width - size) / 2)


def test_crops(height: int, width: int, size: int, num_crops: int) -> list[tuple[int, int]]:
    """(top, left) of `num_crops` square crops of `size`, spaced evenly along the longer side (the height if both are
    equal).

    A single crop is centred, rounded down. The frame's shorter side should be `size` already (`resized_size`); on a
    longer one the crops are placed at its start, as in the official code. Raises ValueError if the frame is smaller
    than `size` or `num_crops` is below 1.
    """
    _check_fits(height, width, size)
    if num_crops < 1:
        raise ValueError(f"num_crops is {num_crops}; expected at least 1.")
    margin = max(height, width) - size
    starts = [int(margin / 2)] if num_crops == 1 else [int(c * margin / (num_crops - 1)) for c in range(num_crops)]
    return [(start, 0) if height >= width else (0, start) for start in starts]


test_crops.__test__ = False  # pytest would otherwise collect it wherever it is imported


def target_size(height: int, width: int, size: SizeDict) -> tuple[int, int]:
    """(height, width) of the resized frame."""
    keys = set(dict(size))
    if keys == {"shortest_edge"}:
        return resized_size(height, width, size.shortest_edge)
    if keys == {"height", "width"}:
        return size.height, size.width
    raise ValueError(f"size is {dict(size)}; expected the key 'shortest_edge', or 'height' and 'width'.")


def view_corners(
    frame_size: tuple[int, int], crop_size: tuple[int, int], num_crops: int, num_views: int
) -> list[tuple[int, int]]:
    """(top, left) of the crops of a frame; all sizes are (height, width).

    A single view is the official validation view, whose margin is rounded half to even; several views are the official
    test views, whose margin is rounded down, also with a single crop. Test crops are centred along the shorter side,
    which the official code does not define: its crops are as large as that side.
    """
    height, width = frame_size
    crop_height, crop_width = crop_size
    if crop_height > height or crop_width > width:
        raise ValueError(
            f"A crop of {crop_height}x{crop_width} does not fit frames of {height}x{width}; resize them first "
            "(do_resize, size) or use a smaller crop (crop_size)."
        )
    centre = (center_crop(height, height, crop_height)[0], center_crop(width, width, crop_width)[0])
    if num_views == 1:
        return [centre]
    if crop_height != crop_width:
        raise ValueError(f"Several views need a square crop_size; {crop_height}x{crop_width} was given.")
    corners = test_crops(height, width, crop_height, num_crops)
    return [(top, centre[1]) if height >= width else (centre[0], left) for top, left in corners]


def multi_scale_crop_sizes(
    height: int, width: int, size: int = 224, scales: tuple[float, ...] = (1, 0.875, 0.75, 0.66)
) -> list[tuple[int, int]]:
    """The candidate sizes (height, width) of the stage-1 crop.

    Sides are `int(shorter side * scale)`; a side less than 3 pixels from `size` is replaced by it. The result is every
    pair of sides whose scales are at most one step apart (10 pairs for 4 scales).
    """
    _check_positive(height=height, width=width, size=size)
    sides = [int(min(height, width) * scale) for scale in scales]
    # a frame of 222 or 223 pixels keeps its size: the official crop would extend beyond it
    sides = [size if abs(side - size) < 3 and size <= min(height, width) else side for side in sides]
    return [(h, w) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= 1]


def multi_scale_crop_positions(height: int, width: int, crop_height: int, crop_width: int) -> list[tuple[int, int]]:
    """The 13 candidate positions (top, left) of a stage-1 crop, on a grid of quarters of the margin: corners, centre,
    edge midpoints, quarter points. Positions coincide where a margin is small."""
    row, column = (height - crop_height) // 4, (width - crop_width) // 4
    corners = [(0, 0), (0, 4), (4, 0), (4, 4)]
    cross = [(2, 2), (2, 0), (2, 4), (4, 2), (0, 2)]
    quarters = [(1, 1), (1, 3), (3, 1), (3, 3)]
    return [(i * row, j * column) for i, j in corners + cross + quarters]


def random_multi_scale_crop(
    height: int, width: int, generator: np.random.Generator, size: int = 224
) -> tuple[int, int, int, int]:
    """(top, left, height, width) of the stage-1 training crop: a size and then a position, each sampled uniformly. The
    same crop is used for all frames of a clip and resized to `size` x `size`."""
    sizes = multi_scale_crop_sizes(height, width, size)
    crop_height, crop_width = sizes[generator.integers(len(sizes))]
    positions = multi_scale_crop_positions(height, width, crop_height, crop_width)
    top, left = positions[generator.integers(len(positions))]
    return top, left, crop_height, crop_width


def _check_positive(**sizes: int) -> None:
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name} is {value}; expected at least 1 pixel.")


def _check_fits(height: int, width: int, size: int) -> None:
    _check_positive(size=size)
    if height < size or width < size:
        raise ValueError(
            f"A {size}x{size} crop does not fit a frame of {height}x{width}; resize its shorter side to {size} first."
        )
